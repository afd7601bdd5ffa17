"""Runs share a machine: a cluster that is joined, GPUs that are listed, memory that is limited."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import create_server

import pytest
import tomli_w

import fedsim
from fedsim import api, environment
from fedsim import config as configuration
from fedsim.config.schema import Engine
from fedsim.engine import cluster as clusters
from fedsim.engine import own_ray
from fedsim.engine.blocks import Population, WorkerCode
from fedsim.engine.launch import OURS
from fedsim.engine.ray import RayGrid, RayWorkers, WorkerSettings
from fedsim.errors import ConfigError, RunFailedError
from fedsim.federation import Places, from_text, to_text
from fedsim.rounds import run_rounds, start_state
from fedsim.store import RunStore

HERE = Path(__file__).parent


def printed(script, *arguments, **env):
    """Run a script of this folder; return the JSON it prints last."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | env, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_two_runs_that_ask_for_more_than_there_is_share_a_cluster_and_both_finish(tiny, tmp_path):
    """One asks for two workers, the other for as many as the cluster has cores: two."""
    engines = [{"grid": "ray", "workers": 2}, {"grid": "ray"}]
    configs = [tiny(rounds={"count": 10}, engine=engine) for engine in engines]
    found = printed("shared_cluster.py", tmp_path, json.dumps(configs))
    alone = fedsim.run(tiny(rounds={"count": 10}), runs=tmp_path / "alone")
    assert [run["sha"] for run in found["runs"]] == [alone.model_sha256] * 2
    assert [run["workers"] for run in found["runs"]] == [2, 2]
    assert [run["incidents"] for run in found["runs"]] == [[], []]
    assert 1 <= found["most"] <= found["cores"] == 2  # a run may end before its second is up


@pytest.mark.slow
def test_the_runs_of_a_sweep_share_a_cluster(tiny, cluster, tmp_path):
    experiment = tmp_path / "tiny.toml"
    experiment.write_text(tomli_w.dumps(tiny(engine={"workers": 1})))
    address = cluster.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "fedsim", "sweep", str(experiment), "seed=1,2", "--jobs=2",
               "--json", f"--ray-address={address}", f"--runs={tmp_path / 'runs'}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    store = RunStore(tmp_path / "runs")
    runs = [store.get(cell["run"]) for cell in json.loads(done.stdout)["cells"]]
    assert [run.facts["grid"] for run in runs] == ["ray", "ray"]
    for seed, run in enumerate(runs, 1):
        alone = fedsim.run(tiny(seed=seed), runs=tmp_path / "alone")
        assert run.rounds[-1]["model_sha256"] == alone.model_sha256


def pool_of(tiny, count, **settings):
    text = to_text(configuration.load(tiny()), Places())
    population = Population(9, {"experiment": text, "tier": "resident"})
    workers = RayWorkers(OURS, population, count, settings=WorkerSettings(**settings))
    return from_text(text), RayGrid(workers, size=2), workers


@pytest.mark.slow
def test_a_run_does_not_wait_for_a_worker_that_can_never_start(tiny, cluster, tmp_path):
    cores = int(cluster.cluster_resources()["CPU"])
    federation, grid, workers = pool_of(tiny, 2, cpus=cores // 2 + 1)  # there is room for one
    state = start_state(federation)
    last = list(run_rounds(grid, grid.get_node_ids(), federation, state))[-1][0]
    assert [worker.up is None for worker in workers._workers] in ([True, False], [False, True])
    workers.close()
    assert last.model_sha256 == fedsim.run(tiny(), runs=tmp_path).model_sha256
    assert grid.incidents == []


def test_workers_that_cannot_start_end_the_run_with_the_reason(cluster):
    from flwr.app import RecordDict

    pool = RayWorkers(WorkerCode("no_such_module:app"), Population(2, {}), 1)
    grid = RayGrid(pool)
    reason = r"no node can run clients: node .*: ModuleNotFoundError: No module named 'no_such_mod"
    with pytest.raises(RunFailedError, match=reason):
        list(grid.broadcast(RecordDict(), [1, 2], "train", ttl=None, group_id="1"))
    pool.close()


def test_a_cluster_that_does_not_answer_is_an_error_before_any_work(tmp_path):
    with create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, "-m", "fedsim", "run", "digits", "--runs", str(tmp_path / "runs")]
    env = os.environ | {"RAY_ADDRESS": address}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 3, done.stderr
    assert f"no Ray cluster to join at {address} (" in done.stderr
    assert "ray start --head" in done.stderr
    assert not (tmp_path / "runs").exists()


class Seen:
    def __init__(self, name, ppid):
        self.info = {"name": name, "ppid": ppid}


def test_a_run_of_its_own_ray_says_when_another_has_the_same_cores(tiny, monkeypatch):
    def said(seen, **engine):
        monkeypatch.setattr(own_ray.psutil, "process_iter", lambda attrs: seen)
        events = []
        with clusters.joined(configuration.load(tiny(engine=engine)).engine) as resources:
            api._tell_notice(resources, events.append)
        return [event.text for event in events]

    monkeypatch.setattr(clusters, "is_own", lambda: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    another, own = Seen("raylet", 1), Seen("raylet", os.getpid())
    (text,) = said([Seen("python", 1), own, another], grid="ray")
    assert text.startswith("another Ray runs on this machine and knows nothing of this run")
    assert "RAY_ADDRESS=auto" in text
    assert said([Seen("python", 1), own], grid="ray") == []
    assert said([another], grid="inprocess") == []


def test_a_process_of_another_ray_is_seen(tmp_path):
    (tmp_path / "raylet").symlink_to(shutil.which("sleep"))
    command = f"{tmp_path / 'raylet'} 60 >/dev/null 2>&1 & echo $!"  # who started it has ended
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    try:
        assert own_ray.others() >= 1
    finally:
        os.kill(int(done.stdout), signal.SIGTERM)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_server_that_is_no_ray_is_found_out_soon(scheme, monkeypatch):
    """Ray itself would try for minutes."""
    monkeypatch.setattr(clusters, "_ANSWER_S", 0.2)
    with create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            clusters._ask(f"{scheme}127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("setting", "variable", "joined"),
    [
        (None, None, ""),
        (None, "", ""),
        (None, "local", ""),
        (None, "a:1", "a:1"),
        ("local", "a:1", ""),
        ("b:2", "a:1", "b:2"),
        ("b:2", "local", "b:2"),
        ("auto", "a:1", "a:1"),  # as for ray.init
        ("auto", None, "auto"),
    ],
)
def test_which_cluster_a_run_joins(setting, variable, joined, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert clusters._address(Engine(ray_address=setting)) == joined
    assert clusters._address(Engine(ray_address=setting, grid="inprocess")) == ""


@pytest.mark.parametrize("address", ["auto", "local", "host:6379", "[::1]:6379", "ray://h.x:10001"])
def test_addresses(address):
    config = configuration.load("digits", [f"engine.ray_address={address}"], {})
    assert config.engine.ray_address == address


@pytest.mark.parametrize("address", ["host", "http://host:1", "host:port", "ray://host"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match=r"HOST:PORT or ray://HOST:PORT"):
        configuration.load("digits", [f"engine.ray_address={address}"], {})


def test_a_run_may_go_on_where_another_cluster_is(monkeypatch):
    """The cluster it began on is part of its configuration, but not of its result."""
    config = configuration.load("digits", ["engine.ray_address=gone:6379"], {})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert clusters._address(api._joining(config, None).engine) == "gone:6379"
    for variable, joined in (("here:6379", "here:6379"), ("local", "")):
        monkeypatch.setenv("RAY_ADDRESS", variable)
        assert clusters._address(api._joining(config, None).engine) == joined
        assert clusters._address(api._joining(config, "other:1").engine) == "other:1"
        assert clusters._address(api._joining(config, "local").engine) == ""
    with pytest.raises(ConfigError, match=r"engine\.ray_address = 'elsewhere'"):
        api._joining(config, "elsewhere")


@pytest.mark.slow
def test_workers_see_the_gpus_they_were_given_out_of_those_listed():
    """Torch sees two of the three listed, as where the last cannot be used: Ray gets no more."""
    found = printed("gpu_shares.py", 2, 2, CUDA_VISIBLE_DEVICES="3,5,7")
    assert found == {"gpus": 2, "workers": [["3", "3"], ["5", "5"]]}


@pytest.mark.slow
def test_workers_share_one_gpu():
    found = printed("gpu_shares.py", 1, 4, CUDA_VISIBLE_DEVICES="3")
    assert found == {"gpus": 1, "workers": [["3", "3"]] * 4}


def test_the_object_store_respects_the_memory_of_the_cgroup(monkeypatch):
    monkeypatch.setattr(environment, "memory_limit_bytes", lambda: sys.maxsize)
    assert own_ray._store_bytes() is None  # then Ray looks at the machine
    monkeypatch.setattr(environment, "memory_limit_bytes", lambda: 2**30)
    for rest, size in ((2**30, 0.3 * 2**30), (0, 100 * 2**20), (2**40, 10**10)):
        monkeypatch.setattr(environment, "memory_available_bytes", lambda rest=rest: rest)
        assert own_ray._store_bytes() == int(size)
