"""Clusters of several nodes: some join in the middle of a round, some die, some cannot serve."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

import fedsim
from fedsim.engine.blocks import Population, WorkerCode
from fedsim.engine.own_ray import started
from fedsim.engine.ray import RayGrid, RayWorkers

HERE = Path(__file__).parent


def printed(script, *arguments, **env):
    """Run a script of this folder; return the JSON it prints last."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | env, check=False, timeout=1500
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def waiting_app(folder):
    """Return an app whose clients wait, wherever they run first, for one in another process."""

    def app(message, context):
        (Path(folder) / str(os.getpid())).touch()
        while len(list(Path(folder).iterdir())) < 2:
            time.sleep(0.02)
        client = int(context.node_config["partition-id"])
        return Message(RecordDict({"reply": ConfigRecord({"client": client})}), reply_to=message)

    return app


def test_a_pool_grows_in_the_middle_of_a_round(cluster, tmp_path, monkeypatch):
    """The first client does not end before a worker that was not there has another one."""
    monkeypatch.setattr("fedsim.engine.ray._LOOK_S", 0.0)
    code = WorkerCode(waiting_app(str(tmp_path)))
    pool = RayWorkers(code, Population(6, {}), 1, room=lambda: 2)
    grid = RayGrid(pool, size=1)
    replies = grid.broadcast(RecordDict(), list(range(1, 7)), "train", ttl=None, group_id="1")
    assert sorted(reply.content["reply"]["client"] for reply in replies) == list(range(6))
    assert len(pool) == 2
    assert grid.incidents == []
    pool.close()


@pytest.mark.slow  # a Ray of its own
def test_workers_have_one_thread_and_normal_niceness(no_ray, monkeypatch):
    def app(message, context):
        import os

        import torch

        told = ConfigRecord({"threads": torch.get_num_threads(), "niceness": os.nice(0)})
        return Message(RecordDict({"reply": told}), reply_to=message)

    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # what workers would have
    with started(2):
        pool = RayWorkers(WorkerCode(app), Population(2, {}), 2)
        grid = RayGrid(pool, size=1)
        replies = grid.broadcast(RecordDict(), [1, 2], "train", ttl=None, group_id="1")
        told = [dict(reply.content["reply"]) for reply in replies]
        pool.close()
    assert told == [{"threads": 1, "niceness": os.nice(0)}] * 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_that_joins_is_used_and_one_that_dies_costs_no_more_than_it_had(
    tiny, plugin, tmp_path
):
    """The raylet of the second node is killed (kill -9) while it trains clients of round 3."""
    local = {"name": "placed", "folder": str(tmp_path), "wait_round": 2, "kill_round": 3}
    rounds = {"count": 4, "cohort": 9}
    config = tiny(local=local, rounds=rounds, engine={"grid": "ray", "block_size": 1})
    found = printed("changing_cluster.py", tmp_path, json.dumps(config), PYTHONPATH=str(plugin))
    here = fedsim.run(tiny(rounds=rounds), runs=tmp_path / "alone")
    assert found["sha"] == here.model_sha256
    assert found["lost"] == [0, 0, 0, 0]
    at = {
        number: [(client, node) for round, client, node in found["log"] if round == number]
        for number in "1234"
    }
    assert {node for _, node in at["1"]} == {found["first"]}
    assert len({node for _, node in at["2"]}) == 2
    # All that is done again is what the worker of the dead node had begun.
    assert [len(at[number]) for number in "1234"] == [9, 9, 10, 9]
    assert {node for _, node in at["4"]} == {found["first"]}
    assert found["incidents"]
    assert all("second" in text for text in found["incidents"])
    (run,) = found["seen"]["runs"]
    assert run["run"] == found["run"]
    names = {node["id"]: node["name"].split()[0] for node in found["seen"]["nodes"]}
    assert sorted(names.values()) == ["first", "second"]
    workers = {names[id]: states for id, states in run["workers"].items()}
    assert workers["second"] == {"busy": 1}
    assert sum(workers["first"].values()) == 1
    assert [(n["cpus"], n["cpus_used"]) for n in found["seen"]["nodes"]] == [(1, 1), (1, 1)]
    assert found["after"]["runs"] == []  # it took back what it said


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nodes_of_two_sizes_give_the_local_bytes_and_the_model_crosses_to_each_once(tiny, tmp_path):
    config = tiny(engine={"grid": "ray"})
    found = printed("nodes_of_two_sizes.py", tmp_path, json.dumps(config))
    assert found["workers"] == 4
    assert found["sha"] == fedsim.run(tiny(), runs=tmp_path / "alone").model_sha256
    assert found["seen"] == ["big", "first"]
    model = 4 * 2_000_000
    for took in found["took"]:  # each round, however many workers and clients a node has
        assert took.keys() == {"first", "big"}
        assert all(model < size < 1.01 * model for size in took.values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_without_the_data_is_named_and_the_others_do_its_work(tiny, plugin, tmp_path):
    hidden = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(hidden, capture_output=True).returncode:
        pytest.skip("no mount namespaces here: every node of this machine has the same files")
    (tmp_path / "data").mkdir()
    table = tmp_path / "data" / "people.csv"
    rows = (f"{i % 7},{i % 11},{'yes' if i % 3 else 'no'}\n" for i in range(400))
    table.write_text("a,b,ill\n" + "".join(rows))
    own = {
        "data": {"name": "table", "path": str(table), "target": "ill"},
        "rounds": {"count": 2, "cohort": 4},
    }
    local = {"name": "placed", "folder": str(tmp_path), "wait_round": 1}
    config = tiny(local=local, engine={"grid": "ray", "workers": 2}, **own)
    found = printed("node_without_data.py", tmp_path, json.dumps(config), PYTHONPATH=str(plugin))
    (incident,) = found["incidents"]
    assert re.match(r"node bare \([\d.]+\) cannot run clients: .*/data/people\.csv", incident)
    assert found["sha"] == fedsim.run(tiny(**own), runs=tmp_path / "alone").model_sha256


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_through_ray_client_gives_the_local_bytes(tiny, tmp_path):
    config = tiny(engine={"grid": "ray"})
    found = printed("behind_ray_client.py", tmp_path, json.dumps(config))
    assert found["sha"] == fedsim.run(tiny(), runs=tmp_path / "alone").model_sha256
    assert (found["incidents"], found["nodes"], found["runs"]) == ([], ["first"], 0)
