"""Killed at any moment and resumed: the bytes of an uninterrupted run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import fedsim
from fedsim.errors import RunFailedError, SetupError, UnknownRunError
from fedsim.events import ClientsDone, RoundDone
from fedsim.store import RunStore

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("points", "states"), [("6", 2), pytest.param("12", 3, marks=pytest.mark.slow)]
)
def test_kill_9_at_random_points_and_resume(points, states, tiny, tmp_path):
    config = tiny(rounds={"count": 8}, local={"name": "sgd", "epochs": 2, "keep_optimizer": True})
    done = subprocess.run(
        [sys.executable, str(HERE / "kill_points.py"), str(tmp_path), points, json.dumps(config)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ended = [outcome for outcome in found["outcomes"] if "sha" in outcome]
    resumed = [outcome for outcome in ended if "metrics" in outcome]
    assert {outcome["sha"] for outcome in ended} == {found["sha"]}
    assert all(outcome["metrics"] == found["metrics"] for outcome in resumed)
    # The test is worth something only if kills hit different moments of the run.
    assert len({outcome["state"] for outcome in resumed}) >= states, found["outcomes"]


@pytest.mark.slow
def test_kill_9_of_a_run_on_ray_and_resume(tiny, tmp_path):
    config = tmp_path / "tiny.toml"
    import tomli_w

    content = tiny(rounds={"count": 60}, engine={"grid": "ray", "workers": 2})
    config.write_text(tomli_w.dumps(content))
    expected = fedsim.run(config, ["engine.grid=inprocess"], runs=tmp_path / "whole").model_sha256
    command = [sys.executable, "-m", "fedsim", "run", str(config), "--runs", str(tmp_path / "runs")]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in run.stderr:
        if (found := re.match(r"round (\d+)/", line)) and int(found[1]) >= 2:
            break
    children = psutil.Process(run.pid).children(recursive=True)
    assert children
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stderr.close()
    assert RunStore(tmp_path / "runs").get("last").status == "running"
    resume = [
        sys.executable,
        "-m",
        "fedsim",
        "resume",
        "last",
        "--runs",
        str(tmp_path / "runs"),
        "--json",
    ]
    done = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["model_sha256"] == expected
    _, alive = psutil.wait_procs(children, timeout=120)  # Ray's agents look every so often
    assert [process.name() for process in alive] == [], "processes of the killed run live on"


def test_kill_9_of_a_worker_in_the_middle_of_a_round(tiny, cluster, tmp_path):
    whole = fedsim.run(tiny(), runs=tmp_path / "whole")
    killed = []

    def kill_one(event):
        # Some of the round's clients have answered, others are being trained at this moment.
        if (
            isinstance(event, ClientsDone)
            and event.round in (2, 4)
            and 0 < event.done < event.asked
            and len(killed) < event.round / 2
        ):
            found = [
                p for p in psutil.process_iter(["name"]) if "::Actor" in (p.info["name"] or "")
            ]
            killed.append(found[len(killed) % len(found)])
            killed[-1].kill()

    config = tiny(engine={"grid": "ray", "workers": 2})
    result = fedsim.run(config, runs=tmp_path / "ray", listener=kill_one)
    assert len(killed) == 2
    assert result.model_sha256 == whole.model_sha256
    assert [e["metrics"] for e in result.history] == [e["metrics"] for e in whole.history]
    assert [e["lost"] for e in result.history] == [0] * 5
    assert "worker" in (result.folder / "run.log").read_text()


def test_client_memory_survives_a_resume(tiny, plugin, tmp_path):
    config = tiny(local={"name": "counting"}, strategy={"name": "fedavg"}, rounds={"count": 6})
    whole = fedsim.run(config, runs=tmp_path / "whole")
    assert max(e["metrics"]["train/count"] for e in whole.history) > 3

    class StopError(Exception):
        pass

    def stop(event):
        if isinstance(event, RoundDone) and event.record.round == 3:
            raise StopError

    with pytest.raises(StopError):
        fedsim.run(config, runs=tmp_path / "cut", listener=stop)
    resumed = fedsim.resume("last", runs=tmp_path / "cut")
    assert resumed.model_sha256 == whole.model_sha256
    assert [e["metrics"] for e in resumed.history] == [e["metrics"] for e in whole.history]


def test_a_full_disk_loses_nothing(tiny, tmp_path):
    """The disk refuses growth in the middle: a clear error, and a resume as if nothing was."""
    whole = fedsim.run(tiny(), runs=tmp_path / "whole")
    code = """
import json, resource, sys, fedsim
from fedsim.errors import FedsimError
from fedsim.events import ClientsDone, RoundDone
def fill(event):
    if isinstance(event, RoundDone) and event.record.round == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    fedsim.run(json.loads(sys.argv[1]), runs=sys.argv[2], listener=fill)
except FedsimError as error:
    print(type(error).__name__, error.exit_code, error)
"""
    arguments = [sys.executable, "-c", code, json.dumps(tiny()), str(tmp_path / "full")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("SetupError 3"), done.stdout + done.stderr
    resumed = fedsim.resume("last", runs=tmp_path / "full")
    assert resumed.model_sha256 == whole.model_sha256


def test_a_place_that_cannot_be_written_is_found_before_training(tiny):
    seen = []
    with pytest.raises(SetupError, match="/proc/nowhere"):
        fedsim.run(tiny(), runs="/proc/nowhere", listener=seen.append)
    assert seen == []


def test_a_finished_run_cannot_be_resumed(tiny, tmp_path):
    fedsim.run(tiny(rounds={"count": 1}), runs=tmp_path)
    with pytest.raises(RunFailedError, match="finished"):
        fedsim.resume("last", runs=tmp_path)


def test_an_unknown_run_is_named(tmp_path):
    with pytest.raises(UnknownRunError, match="no run 'nobody'"):
        fedsim.resume("nobody", runs=tmp_path)


def test_two_processes_cannot_resume_the_same_run(tiny, tmp_path):
    import fcntl

    store = RunStore(tmp_path)
    fedsim.run(tiny(rounds={"count": 2}), runs=tmp_path)
    stored = store.get("last")
    store.set_status(stored.id, "running")
    with (stored.folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunFailedError, match="another process"):
            fedsim.resume(stored.id, runs=tmp_path)


def test_changed_data_are_noticed(tmp_path, tiny):
    table = tmp_path / "patients.csv"
    rows = ["age,ill"] + [f"{20 + i % 50},{i % 2}" for i in range(200)]
    table.write_text("\n".join(rows))
    config = tiny(
        data={"name": "table", "path": str(table), "target": "ill"},
        partition={"name": "iid", "clients": 9},
        rounds={"count": 3},
    )

    def stop(event):
        if isinstance(event, RoundDone):
            raise KeyError

    with pytest.raises(KeyError):
        fedsim.run(config, runs=tmp_path / "runs", listener=stop)
    time.sleep(0.01)
    table.write_text("\n".join(rows).replace("20,0", "99,0", 1))
    with pytest.raises(RunFailedError, match=r"data of run .* have changed"):
        fedsim.resume("last", runs=tmp_path / "runs")
