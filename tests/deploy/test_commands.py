"""The commands of operators, each a process in a directory of its own, from nothing but bundles.

As if on four machines: every folder is carried to a place of its own, what is left of the rest is
deleted, and no process is told anything that its own machine would not know.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

import fedsim
from fedsim.deploy.processes import free_ports
from fedsim.node.audit import AuditLog
from fedsim.node.policy import trial

FEDSIM = (sys.executable, "-m", "fedsim")
NODES = ("aarau", "basel")
SETTINGS = [
    "partition.clients=2", "model.name=mlp", "evaluation.federated_every=0",
    "strategy.name=scaffold", "local.name=scaffold", "rounds.timeout_s=240",
]  # fmt: skip
ROUNDS = 12


class Machine:
    """A directory that stands for a machine, and what runs there."""

    def __init__(self, root, name):
        self.root = root / name
        self.root.mkdir(parents=True)
        self.running = []

    def environment(self):
        own = {key: value for key, value in os.environ.items() if not key.startswith("FEDSIM")}
        return {**own, "HOME": str(self.root), "TMPDIR": str(self.root), "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip

    def take(self, folder):
        shutil.move(folder, self.root / folder.name)
        return folder.name

    def run(self, *words, code=0):
        done = subprocess.run(
            [*FEDSIM, *map(str, words)], cwd=self.root, env=self.environment(),
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout

    def start(self, name, *words):
        with (self.root / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [*FEDSIM, *map(str, words)], cwd=self.root, env=self.environment(),
                stdout=log, stderr=log,
            )  # fmt: skip
        self.running.append(process)
        return process

    def says(self, name):
        return (self.root / f"{name}.log").read_text()

    def stop(self):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        return [process.wait(60) for process in self.running]


def wait(is_so, process, seconds=400.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.3)


@pytest.fixture
def machines(tmp_path):
    """Server, nodes and operator, each with what was carried to it, and nothing beside."""
    made = {name: Machine(tmp_path, name) for name in ("server", *NODES, "operator")}
    office = Machine(tmp_path, "office")
    office.run("deploy", "init", "all", "--nodes", ",".join(NODES), "--address", "127.0.0.1",
               "--port", free_ports(1)[0])  # fmt: skip
    made["server"].take(office.root / "all" / "server")
    made["operator"].take(office.root / "all" / "operator")
    for name in NODES:
        made[name].take(office.root / "all" / "nodes" / name)
        (made[name].root / name / "policy.toml").write_text(trial())
    shutil.rmtree(office.root)
    try:
        yield made
    finally:
        for machine in made.values():
            for process in machine.running:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.wait(60)


def status(operator):
    return json.loads(operator.run("deploy", "status", "--to", "operator", "--json"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_federation_by_its_commands_alone(machines, tmp_path):
    server, operator = machines["server"], machines["operator"]
    running = server.start("server", "deploy", "server", "server")
    wait(lambda: "the server is ready" in server.says("server"), running)
    for name in NODES:
        machines[name].start("node", "deploy", "node", name)
    wait(lambda: [n["status"] for n in status(operator)["nodes"]] == ["online"] * 2, running)

    submitted = operator.start(
        "submit", "deploy", "submit", "digits", *SETTINGS, f"rounds.count={ROUNDS}",
        "--to", "operator",
    )  # fmt: skip
    wait(lambda: "round 2/" in operator.says("submit"), submitted)
    assert "is stopped" in operator.run("deploy", "stop", "--to", "operator")
    assert submitted.wait(120) == 1, operator.says("submit")
    assert status(operator)["runs"][-1]["outcome"] == "stopped"
    told = [line for line in operator.says("submit").splitlines() if line.startswith("run ")]
    run = told[0].split()[1].rstrip(":")
    assert "fedsim-event" in operator.run("deploy", "logs", "--to", "operator")

    machines["aarau"].stop()  # started again, it goes on with what it remembers
    machines["aarau"].start("node", "deploy", "node", "aarau")
    said = operator.run("deploy", "submit", "--resume", run, "--to", "operator", "--json")
    result = json.loads(said.splitlines()[-1])
    assert result["status"] == "finished"
    own = ["engine.grid=inprocess", "engine.tier=resident", f"rounds.count={ROUNDS}"]
    here = fedsim.run("digits", [*SETTINGS, *own], runs=tmp_path / "simulated")
    assert result["model_sha256"] == here.model_sha256

    listed = json.loads(server.run("runs", "list", "--runs", "server/runs", "--json"))
    assert [entry["status"] for entry in listed["runs"]] == ["finished"]
    for name in NODES:
        log = AuditLog(machines[name].root / name / "audit.jsonl").links()
        assert len([1 for link in log if link.entry.decision == "answered"]) >= ROUNDS
        assert {link.entry.approver for link in log} == {"operator"}
    operator.run("deploy", "submit", "digits", "--to", "nowhere", code=3)

    assert [code for name in (*NODES, "server") for code in machines[name].stop()] == [130] * 4
    left = [p for p in psutil.process_iter(["environ"]) if str(tmp_path) in str(p.info["environ"])]
    assert [p for p in left if p.pid != os.getpid()] == []
