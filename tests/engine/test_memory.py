"""Blocks that do not fit into memory are halved, and the run goes on."""

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.app.metadata import Metadata

import fedsim
from fedsim.clients import _block
from fedsim.clients.sgd import Sgd
from fedsim.engine.blocks import Handlers, Population
from fedsim.engine.inprocess import InProcessGrid

ERRORS = {
    "python": MemoryError(),
    "cuda": torch.OutOfMemoryError("CUDA out of memory"),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."),
    "driver": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
}


class Stack:
    """Stands for what a block allocates before its memory is too little."""


def block_app(most, error, seen):
    """Answer at most so many clients at once; what earlier attempts held must be free by then."""
    held = []

    def answer(content, own, metadata, clients, states, run_config, limit):
        assert not [stack for stack in held if stack() is not None]
        allocated = Stack()
        held.append(weakref.ref(allocated))
        seen.append(len(clients))
        if len(clients) > most:
            raise type(error)(*error.args)
        replies = []
        for place, client in enumerate(clients):
            instruction = Message(content=RecordDict(), metadata=Metadata(**metadata(place)))
            number = RecordDict({"m": MetricRecord({"client": client})})
            replies.append(Message(number, reply_to=instruction))
        return replies, {}

    return answer


def per_client(message, context):
    number = {"client": context.node_config["partition-id"], "alone": 1}
    return Message(RecordDict({"m": MetricRecord(number)}), reply_to=message)


def asked(most, error, rounds=1):
    seen = []
    handlers = Handlers(per_client, block=block_app(most, error, seen))
    grid = InProcessGrid(handlers, Population(11, {}), size=11)
    content = RecordDict()
    for _ in range(rounds):
        nodes = list(grid.get_node_ids())
        replies = grid.broadcast(content, nodes, "train", ttl=None, group_id="1")
        records = [reply.content["m"] for reply in replies]
        assert sorted(record["client"] for record in records) == list(range(11))
    return seen, grid.incidents, records


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_block_is_halved_until_it_fits(error):
    seen, incidents, records = asked(3, error)
    assert seen == [11, 6, 3, 3, 3, 2]
    assert len(incidents) == 1
    assert "out of memory" in incidents[0]
    assert not any("alone" in record for record in records)


def test_what_did_not_fit_is_not_tried_again():
    seen, incidents, _ = asked(3, MemoryError(), rounds=3)
    assert seen == [11, 6, *[3, 3, 3, 2], *[3, 3, 3, 2], *[3, 3, 3, 2]]
    assert len(incidents) == 1


def test_another_error_is_not_taken_for_it():
    seen, incidents, records = asked(3, RuntimeError("shapes do not match"))
    assert seen == [11]
    assert "asked client by client" in incidents[0]
    assert all("alone" in record for record in records)


def test_one_client_that_does_not_fit_is_asked_by_itself():
    _, incidents, records = asked(0, MemoryError())
    assert incidents
    assert all("alone" in record for record in records)


class Killing:
    """Ray, as it is when its memory monitor kills the first worker that returns something."""

    def __init__(self, ray):
        self._ray, self.kills = ray, 0

    def __getattr__(self, name):
        return getattr(self._ray, name)

    def get(self, call):
        if not self.kills:
            self.kills += 1
            raise self._ray.exceptions.OutOfMemoryError(
                "Task was killed due to the node running low"
            )
        return self._ray.get(call)


def test_a_worker_killed_for_memory_is_replaced_and_its_block_halved(tiny, cluster):
    import ray

    from fedsim import config as configuration
    from fedsim.engine.launch import OURS
    from fedsim.engine.ray import RayGrid, RayWorkers
    from fedsim.federation import Places, from_text, to_text
    from fedsim.rounds import run_rounds, start_state

    text = to_text(configuration.load(tiny(rounds={"count": 1})), Places())
    population = Population(9, {"experiment": text, "tier": "resident"})
    pool = RayWorkers(OURS, population, 1)
    grid = RayGrid(pool, size=4)
    federation = from_text(text)
    (undisturbed,) = run_rounds(grid, population.nodes, federation, start_state(federation))
    pool._ray = Killing(ray)
    (record,) = run_rounds(grid, population.nodes, federation, start_state(federation))
    pool.close()
    assert pool._ray.kills == 1
    assert record[0].lost == 0
    assert "its block halved" in grid.incidents[0]
    assert record[0].model_sha256 == undisturbed[0].model_sha256


@pytest.mark.slow
def test_rays_memory_monitor_kills_a_worker_and_its_block_is_run_as_two_halves():
    """No stand-in: the worker takes more than Ray has been told that there is, and is killed."""
    script = Path(__file__).parent / "hungry_blocks.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=os.environ | {"PYTHONPATH": str(script.parent)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["told"] == [[client, 2] for client in range(4)]
    (incident,) = found["incidents"]
    assert "killed for memory, its block halved: " in incident
    assert "exceeds the memory usage threshold" in incident
    assert len(incident) < 500


def test_a_client_short_of_memory_for_a_moment_is_asked_again(tiny, tmp_path, monkeypatch):
    """Other workers on the same GPU can have what it needs; the first client of each round here."""
    whole = fedsim.run(tiny(), runs=tmp_path / "whole")
    train, failed = Sgd.train, set()

    def short(self, task, memo, context):
        if context.round not in failed:
            failed.add(context.round)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(self, task, memo, context)

    monkeypatch.setattr(Sgd, "train", short)
    result = fedsim.run(tiny(), runs=tmp_path / "short")
    assert len(failed) == 5
    assert [entry["lost"] for entry in result.history] == [0] * 5
    assert result.model_sha256 == whole.model_sha256


@pytest.mark.reports
def test_the_report_says_that_blocks_were_halved(tiny, tmp_path, monkeypatch):
    one_by_one = _block._one_by_one

    def short(block, places):
        if len(places) > 2:
            raise MemoryError
        one_by_one(block, places)

    monkeypatch.setattr(_block, "_one_by_one", short)
    result = fedsim.run(tiny(rounds={"count": 1}), runs=tmp_path)
    assert result.history[0]["lost"] == 0
    said = json.loads((result.folder / "report.json").read_text())
    (check,) = [
        row for row in said["sections"]["checks"] if row["check"] == "Workers ran undisturbed"
    ]
    assert "out of memory: block of " in json.dumps(check)
    assert "halved" in (result.folder / "run.log").read_text()
