"""Blocks that need half a gigabyte for each client, on a Ray that has room for less than three.

Ray's memory monitor kills workers as it does on a machine that is short of memory. A process of
its own, because it starts a Ray of its own. Prints who answered, and what went wrong.
"""

import json
import os
import time

import psutil
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.metadata import Metadata

EACH, CLIENTS = 2**29, 4


def answer(content, own, metadata, clients, states, run_config, limit):
    """Hold memory for a while."""
    held = bytearray(EACH * len(clients))
    held[::4096] = b"1" * len(held[::4096])  # else the system only promises it
    time.sleep(2)
    replies = []
    for place, client in enumerate(clients):
        instruction = Message(content=RecordDict(), metadata=Metadata(**metadata(place)))
        told = RecordDict({"reply": ConfigRecord({"client": client, "block": len(clients)})})
        replies.append(Message(told, reply_to=instruction))
    return replies, {}


def alone(message, context):
    """No client has to be asked by itself."""
    raise AssertionError


def settled():
    """Return the memory there is, once others that end have given theirs back."""
    before = psutil.virtual_memory()
    for _ in range(30):
        time.sleep(1)
        now = psutil.virtual_memory()
        if abs(now.available - before.available) < 2**26:
            break
        before = now
    return now


def main() -> None:
    """Ask four clients as one block."""
    memory = settled()
    rays = 3 * 2**27  # its processes take half a gigabyte
    most = memory.total - memory.available + rays + 3 * EACH
    threshold = str(most / memory.total)
    os.environ.update(RAY_memory_usage_threshold=threshold, RAY_memory_monitor_refresh_ms="100")

    from fedsim.engine.blocks import Population, WorkerCode
    from fedsim.engine.own_ray import started
    from fedsim.engine.ray import RayGrid, RayWorkers

    with started(1):
        code = WorkerCode("hungry_blocks:alone", block="hungry_blocks:answer")
        pool = RayWorkers(code, Population(CLIENTS, {}), 1)
        grid = RayGrid(pool, size=CLIENTS)
        nodes = list(grid.get_node_ids())
        replies = grid.broadcast(RecordDict(), nodes, "train", ttl=None, group_id="1")
        told = sorted(
            (record["client"], record["block"])
            for record in (reply.content["reply"] for reply in replies)
        )
        pool.close()
        print(json.dumps({"told": told, "incidents": grid.incidents}))


if __name__ == "__main__":
    main()
