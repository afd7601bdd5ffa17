"""Ray that starts ahead of what a run imports: what it reads, and what comes of a wrong guess."""

import json
import os
import subprocess
import sys
import time

import pytest

from fedsim import ahead, environment

TOML = "[engine]\nworkers = 3\ndevice = 'cpu'\n"


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("FEDSIM__", "RAY_ADDRESS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ahead, "cpu_limit", lambda: 7)


def wanted(experiment, *overrides):
    return ahead._wanted(ahead._engine(experiment, overrides))


def test_it_reads_what_the_configuration_will_say(tmp_path, monkeypatch):
    file = tmp_path / "mine.toml"
    file.write_text(TOML)
    assert wanted("digits") == (7, None)
    assert wanted(file) == wanted(str(file)) == (3, 0)
    assert wanted(file, "engine.workers=2", "engine.device=auto") == (2, None)
    assert wanted({"engine": {"workers": 5}}) == (5, None)
    monkeypatch.setenv("FEDSIM__ENGINE__WORKERS", "4")
    assert wanted(file) == (4, 0)
    assert wanted(file, 'engine.grid="inprocess"') == (0, 0)


@pytest.mark.parametrize("address", ["auto", "head:6379", "ray://head:10001"])
def test_a_run_that_joins_a_cluster_wants_none_of_its_own(address, monkeypatch):
    assert wanted({"engine": {"ray_address": "local"}}) == (7, None)
    assert wanted({"engine": {"ray_address": address}}) == (0, 0)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert wanted("digits") == (0, 0)
    assert wanted("digits", "engine.ray_address=local") == (7, None)


RUN = """
import json, sys
sys.path.insert(0, {folder!r})
import fedsim
from fedsim.engine import own_ray

starts, real = [], own_ray._start

def counted(*arguments, **options):
    starts.append(arguments)
    return real(*arguments, **options)

own_ray._start = counted
{wrong}
error, rounds = "", 0
try:
    rounds = len(fedsim.run("digits", {overrides!r}, runs={folder!r}).history)
except Exception as found:
    error = type(found).__name__
import ray
print(json.dumps([error, rounds, starts, ray.is_initialized()]))
"""
FAST = ["rounds.count=1", "partition.clients=8", "storage.report=false", "engine.workers=2"]


def in_a_fresh_process(folder, overrides, wrong=""):
    code = RUN.format(folder=str(folder), overrides=overrides, wrong=wrong)
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=True
    )
    return json.loads(made.stdout.splitlines()[-1]), made.stderr


def test_a_run_takes_the_ray_that_started_ahead_and_leaves_none(tmp_path):
    (error, rounds, starts, is_left), _ = in_a_fresh_process(tmp_path, FAST)
    assert (error, rounds, is_left) == ("", 1, False)
    assert starts[0] == [2, None]  # first of all, before torch could say how many GPUs there are


@pytest.mark.slow
def test_a_ray_of_the_wrong_size_is_replaced(tmp_path):
    wrong = "from fedsim import ahead; ahead._wanted = lambda engine: (1, None)"
    (error, rounds, starts, is_left), _ = in_a_fresh_process(tmp_path, FAST, wrong)
    assert (error, rounds, is_left) == ("", 1, False)
    assert starts[0] == [1, None]


@pytest.mark.slow
def test_an_error_does_not_wait_for_ray_and_ray_does_not_outlive_the_process(tmp_path):
    before = set(processes())
    found, stderr = in_a_fresh_process(tmp_path, [*FAST, "rounds.count=none"])
    assert found[:2] == ["ConfigError", 0]
    assert "Traceback" not in stderr
    assert not set(processes()) - before


@pytest.mark.slow
def test_the_command_says_what_is_wrong_and_leaves_no_ray(tmp_path):
    before = set(processes())
    command = [sys.executable, "-m", "fedsim", "run", "digits", "rounds.count=none"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert made.returncode == 2
    assert "rounds.count" in made.stderr
    deadline = time.monotonic() + 20
    while set(processes()) - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not set(processes()) - before


def processes():
    """List what of Ray runs here."""
    import psutil

    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in ("raylet", "gcs_server"):
            found.append(process.pid)
    return found


def test_nothing_starts_ahead_where_torch_is_there_already(monkeypatch):
    import torch  # noqa: F401 - as in any notebook

    monkeypatch.setattr(ahead.own_ray, "behind", lambda *_, **__: pytest.fail("started"))
    with ahead.ray_ahead("digits", ()):
        pass


def test_the_collector_is_as_it_was():
    import gc

    before = gc.get_freeze_count()
    with environment.without_collector():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before  # or it would go through all of that at once
    with environment.settled():
        pass
    assert gc.get_freeze_count() == 0


def test_the_command_starts_ray_before_it_imports_torch(tmp_path):
    code = """
import sys
from fedsim.engine import own_ray
own_ray.behind = lambda *_, **__: sys.exit(3 if "torch" in sys.modules else 4)
sys.argv = ["fedsim", "run", "digits", "rounds.count=1"]
from fedsim.cli import main
main()
"""
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, cwd=tmp_path
    )
    assert made.returncode == 4, made.stderr
