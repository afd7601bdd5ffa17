"""A federation over a bad network: a slow and lossy wire, and half a minute without one.

Every host is a network namespace, so what the server and a node say to each other has to cross the
wire; they are the commands of operators.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fedsim
from fedsim.node.policy import trial

FEDSIM = (sys.executable, "-m", "fedsim")
SETTINGS = (
    "rounds.count=2", "partition.clients=2", "model.name=mlp", "evaluation.federated_every=0",
    "rounds.timeout_s=1500",
)  # fmt: skip
NEAR, FAR = 0, 1


@pytest.fixture(scope="module")
def wires():
    """`benchmarks/wire.py`, on a machine that can have one."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "wire.py"
    spec = importlib.util.spec_from_file_location("wire", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if missing := module.why_not():
        pytest.skip(missing)
    return module


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The model of the same experiment here, where no message can be lost."""
    own = ["engine.grid=inprocess", "engine.tier=resident"]
    runs = tmp_path_factory.mktemp("runs")
    return fedsim.run("digits", [*SETTINGS, *own], runs=runs).history[-1]["model_sha256"]


class Federation:
    """Server and one node on the near host, the other node on the far one."""

    def __init__(self, folder, wire, address):
        self.folder, self.wire, self.running = folder, wire, []
        self.root = folder / "federation"
        done = subprocess.run(
            [*FEDSIM, "deploy", "init", self.root, "--nodes", "near,far", "--address", address],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for name in ("near", "far"):
            (self.root / "nodes" / name / "policy.toml").write_text(trial())
        self.start(NEAR, "server", self.root / "server")
        # A node that is not on the server's list yet is turned away, and ends.
        self.wait(lambda: "server is ready" in (folder / "server.log").read_text(), 600)
        self.start(NEAR, "node", self.root / "nodes" / "near")
        self.start(FAR, "node", self.root / "nodes" / "far")

    def start(self, host, kind, folder):
        with (self.folder / f"{folder.name}.log").open("w") as log:
            command = self.wire.on(host, *FEDSIM, "deploy", kind, folder)
            self.running.append(subprocess.Popen(command, stdout=log, stderr=log))

    def wait(self, is_so, seconds):
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def wait_for_nodes(self):
        """Until both are online."""

        def online():
            done = subprocess.run(
                self.wire.on(NEAR, *FEDSIM, "deploy", "status", "--to", self.root / "operator",
                             "--json"),
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
            return [n["status"] for n in found.get("nodes", ())] == ["online", "online"]

        self.wait(online, 600)

    def submit(self):
        command = self.wire.on(
            NEAR, *FEDSIM, "deploy", "submit", "digits", *SETTINGS,
            "--to", self.root / "operator", "--json",
        )  # fmt: skip
        with (self.folder / "submit.err").open("w") as errors:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)

    def asked_to_train(self, name):
        """Whether a node's audit log has a message to train in it."""
        audit = self.root / "nodes" / name / "audit.jsonl"
        return audit.exists() and '"train' in audit.read_text()

    def logs(self):
        found = [*self.folder.glob("*.log"), self.folder / "submit.err"]
        return "\n".join(f"{p.name}:\n{p.read_text()[-2500:]}" for p in found if p.exists())

    def stop(self):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def federation(wires, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with wires.Wire() as wire:
        made = Federation(tmp_path, wire, wires.ADDRESSES[NEAR])
        try:
            made.wait_for_nodes()
            yield made
        finally:
            made.stop()


def ends_like(running, federation, simulated):
    said, _ = running.communicate(timeout=2400)
    assert running.returncode == 0, said + federation.logs()
    result = json.loads(said.splitlines()[-1])
    assert result["model_sha256"] == simulated
    assert federation.wire.dropped > 0
    return result


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_slow_and_lossy_wire_loses_nothing(federation, simulated):
    """300 ms there and back, and one packet in twenty lost each way."""
    federation.wire.delay, federation.wire.loss = 0.15, 0.05
    ends_like(federation.submit(), federation, simulated)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_half_a_minute_without_a_wire_in_the_middle_of_a_round_loses_nothing(federation, simulated):
    running = federation.submit()
    federation.wait(lambda: federation.asked_to_train("far"), 1200)
    federation.wire.is_cut = True
    time.sleep(30)
    federation.wire.is_cut = False
    ends_like(running, federation, simulated)
