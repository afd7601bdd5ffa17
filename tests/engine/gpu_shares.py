"""Open a grid where torch sees some GPUs; print what its workers see and are given.

A process of its own, because it starts a Ray of its own. CUDA_VISIBLE_DEVICES lists the GPUs.
"""

import json
import os
import sys

import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.config.schema import Engine
from fedsim.engine.blocks import Population, WorkerCode
from fedsim.engine.launch import open_grid


def app(message, context):
    import ray

    given = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
    record = ConfigRecord({"pid": os.getpid(), "seen": seen, "given": ",".join(given)})
    return Message(RecordDict({"found": record}), reply_to=message)


def main(gpus: int, workers: int) -> None:
    """Print how many GPUs Ray was given, and of each worker what it sees and was given."""
    torch.cuda.device_count = lambda: gpus
    engine = Engine(workers=workers, block_size=1, ray_address="local")
    seen = {}
    with open_grid(engine, Population(4 * workers, {}), runs=WorkerCode(app)) as opened:
        import ray

        grid = opened.grid
        while len(seen) < workers:
            asked = list(grid.get_node_ids())
            for reply in grid.broadcast(RecordDict(), asked, "train", ttl=None, group_id="1"):
                record = reply.content["found"]
                seen[record["pid"]] = (record["seen"], record["given"])
        total = ray.cluster_resources().get("GPU", 0)
    print(json.dumps({"gpus": total, "workers": sorted(seen.values())}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
