"""What only real processes show: signals, terminals, pipes, clean streams."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

import fedsim
from fedsim.store import RunStore

COMMAND = [sys.executable, "-m", "fedsim"]
LONG = [
    "engine.grid=inprocess",
    "rounds.count=200",
    "partition.clients=6",
    "model.name=linear",
    "engine.tier=resident",
]


def start(tmp_path, *arguments, **more):
    environment = {**os.environ, "FEDSIM_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *arguments], env=environment, cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def wait_for_round(process, number):
    for line in process.stderr:
        found = re.match(r"round (\d+)/", line)
        if found and int(found[1]) >= number:
            return
    pytest.fail("the run ended before that round")


def test_ctrl_c_once_finishes_the_round_and_resume_completes(tmp_path):
    overrides = [*LONG, "rounds.count=24"]
    expected = fedsim.run("digits", overrides, runs=tmp_path / "whole").model_sha256
    process = start(tmp_path, "run", *overrides, "--json")
    wait_for_round(process, 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "fedsim resume" in err
    assert json.loads(out.splitlines()[-1])["exit_code"] == 130
    stored = RunStore(tmp_path / "runs").get("last")
    assert stored.status == "interrupted"
    assert 0 < len(stored.rounds) < 24
    resumed = start(tmp_path, "resume", "last", "--json")
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert json.loads(out)["model_sha256"] == expected


@pytest.mark.slow
def test_an_end_that_is_asked_for_while_ray_runs_waits_for_the_round(tmp_path):
    """Ray takes SIGTERM for itself when it starts."""
    process = start(tmp_path, "run", *LONG, "engine.grid=ray", "engine.workers=1")
    wait_for_round(process, 1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "finishing the round" in err
    assert RunStore(tmp_path / "runs").get("last").status == "interrupted"


def test_ctrl_c_twice_stops_at_once_and_can_be_resumed(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\nfrom torch import nn\n"
        "class Slow(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n        time.sleep(0.2)\n"
        "        return self.layer(x.flatten(1))\n"
        "def build():\n    return Slow()\n"
    )
    config = ["model.name=slow:build", "rounds.count=9", "engine.grid=inprocess", "local.epochs=8"]
    process = start(tmp_path, "run", *config)
    for line in process.stderr:
        if line.startswith("starting"):
            break
    time.sleep(4)  # in the middle of the first round, which takes minutes
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None, "the first Ctrl-C lets the round finish"
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert time.monotonic() - asked < 15
    assert RunStore(tmp_path / "runs").get("last").status == "interrupted"


@pytest.mark.slow
def test_a_terminal_gets_a_bar_with_an_eta(tmp_path):
    main, other = pty.openpty()
    environment = {
        **os.environ,
        "FEDSIM_RUNS": str(tmp_path),
        "TERM": "xterm",
        "COLUMNS": "160",
        "OMP_NUM_THREADS": "1",
    }
    overrides = [*LONG, "rounds.count=40"]
    process = subprocess.Popen(
        [*COMMAND, "run", *overrides],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=other,
        text=True,
    )
    os.close(other)
    seen = b""
    while process.poll() is None or select.select([main], [], [], 0)[0]:
        if select.select([main], [], [], 0.2)[0]:
            try:
                seen += os.read(main, 65536)
            except OSError:
                break
    out = process.stdout.read()
    process.stdout.close()
    process.wait(timeout=30)
    os.close(main)
    screen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode(errors="replace"))
    assert process.returncode == 0, screen
    assert "━" in screen
    assert re.search(r"round \d+/40", screen)
    assert re.search(r"ETA \d", screen)
    assert "clients/s" in screen
    assert "test/accuracy" in screen
    assert out.splitlines()[-1].endswith("report.html")


def test_a_closed_pipe_is_quiet(tmp_path):
    process = start(tmp_path, "explain", "fedadam")
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) in (0, 1)
    assert "Traceback" not in err


@pytest.mark.slow
def test_an_unexpected_exception_keeps_its_traceback(tmp_path):
    (tmp_path / "boom.py").write_text("def build():\n    raise KeyError('a defect of the user')\n")
    process = start(tmp_path, "run", "model.name=boom:build", "engine.grid=inprocess", "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode in (1, 2)
    assert "a defect of the user" in err
    assert json.loads(out.splitlines()[-1])["status"] == "error"
