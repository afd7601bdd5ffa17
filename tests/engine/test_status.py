"""What a look at a cluster shows: of runs that say what they do, and of nodes that cannot serve."""

import json
import os
import subprocess
import sys
from socket import create_server

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.engine.actor import WorkerSettings
from fedsim.engine.blocks import Population, WorkerCode
from fedsim.engine.cluster import look
from fedsim.engine.nodes import Nodes
from fedsim.engine.ray import RayGrid, RayWorkers
from fedsim.engine.status import Bulletin
from fedsim.errors import ConfigError, RunFailedError, SetupError


def app(message, context):
    client = int(context.node_config["partition-id"])
    return Message(RecordDict({"reply": ConfigRecord({"client": client})}), reply_to=message)


def shown(address):
    """What another process is shown: the command's JSON and its table."""
    command = [sys.executable, "-m", "fedsim", "cluster", "status", "--ray-address", address]
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_another_process_sees_what_a_run_does_until_it_ends(cluster):
    pool = RayWorkers(WorkerCode(app), Population(6, {}), 1, run="20261127-digits")
    grid = RayGrid(pool, size=2)
    replies = grid.broadcast(RecordDict(), [1, 2, 3, 4, 5, 6], "train", ttl=None, group_id="1")
    assert sorted(reply.content["reply"]["client"] for reply in replies) == list(range(6))
    address = cluster.get_runtime_context().gcs_address
    pool._bulletin._said = 0.0
    pool._say()
    found = shown(address)
    (run,) = found["runs"]
    (node,) = found["nodes"]
    assert (run["run"], run["pid"]) == ("20261127-digits", os.getpid())
    assert (run["clients_done"], run["waiting"]) == (6, 0)
    assert run["workers"] == {node["id"]: {"idle": 1}}
    assert node["runs"] == {"20261127-digits": {"idle": 1}}
    assert (node["cpus"], node["cpus_used"], node["gpus"]) == (4, 1, 0)
    assert node["store_bytes"] > 0
    pool.close()
    assert look(address).runs == []


def test_no_cluster_is_an_error_that_says_so():
    with create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(SetupError, match=f"no Ray cluster to join at {address} ") as caught:
        look(address)
    assert caught.value.exit_code == 3
    with pytest.raises(ConfigError, match=r"--ray-address = 'head'"):
        look("head")


class Cluster:
    """Ray, as far as it tells of nodes."""

    def __init__(self, *nodes):
        self.all = list(nodes)

    def nodes(self):
        return self.all


def node(id, cpus=4.0, alive=True):
    names = {"NodeName": id, "NodeManagerHostname": "host", "NodeManagerAddress": "10.0.0.1"}
    return {"NodeID": id * 4, "Alive": alive, "Resources": {"CPU": cpus}, **names}


def test_a_node_is_left_alone_after_the_second_worker_that_cannot_run_clients_there():
    ray = Cluster(node("a"), node("b"), node("head", cpus=0.0), node("gone", alive=False))
    nodes = Nodes(ray, WorkerSettings())
    assert nodes.report("aaaa", "no data") == ""
    assert nodes.options() == {}
    assert nodes.report("aaaa", "no data") == "node a (10.0.0.1) cannot run clients: no data"
    assert nodes.report("aaaa", "no data") == ""  # told once
    assert nodes.options() == {"label_selector": {"ray.io/node-id": "!in(aaaa)"}}
    nodes.require()
    for _ in range(2):
        nodes.report("bbbb", "no torch")
    assert nodes.options() == {"label_selector": {"ray.io/node-id": "!in(aaaa,bbbb)"}}
    with pytest.raises(
        RunFailedError,
        match=r"no node can run clients: node a \(10\.0\.0\.1\): no data; node b .*: no torch",
    ):
        nodes.require()  # a head without cores and a node that is gone are no help
    ray.all.append(node("c"))
    nodes.require()
    assert [nodes.is_alive(id) for id in ("aaaa", "gone" * 4, "nobody")] == [True, False, False]


def test_the_speed_is_that_of_the_last_seconds_in_which_clients_were_asked():
    bulletin = Bulletin(None, "run")
    for now, done in [(100.0, 0), (101.0, 30), (102.0, 50)]:
        bulletin.done = done
        bulletin._mark(now)
    assert bulletin._speed() == 25
    bulletin._mark(150.0)  # the server computed meanwhile
    assert bulletin._speed() is None
    bulletin.done = 60
    bulletin._mark(152.0)
    assert bulletin._speed() == 5
    for second in range(153, 180):
        bulletin.done += 7
        bulletin._mark(float(second))
    assert bulletin._speed() == 7


class Losing:
    """Ray, as it is when nodes die with results that nobody had fetched."""

    def __init__(self, ray, times):
        self._ray, self.left = ray, times

    def __getattr__(self, name):
        return getattr(self._ray, name)

    def get(self, call):
        value = self._ray.get(call)
        if self.left and isinstance(value, tuple):
            self.left -= 1
            raise self._ray.exceptions.ObjectLostError("00ff", None, "")
        return value


@pytest.mark.slow
def test_no_client_is_blamed_for_results_that_were_lost_with_their_node(cluster):
    pool = RayWorkers(WorkerCode(app), Population(1, {}), 1)
    pool._ray = Losing(cluster, times=3)  # where clients are to blame, two are too many
    grid = RayGrid(pool)
    (reply,) = grid.broadcast(RecordDict(), [1], "train", ttl=None, group_id="1")
    assert reply.content["reply"]["client"] == 0
    assert len(grid.incidents) == 3
    assert all(text.startswith("worker cannot be reached: ") for text in grid.incidents)
    pool.close()
