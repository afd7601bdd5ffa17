"""Secure sums under Flower's own commands: its simulation, and a SuperLink with SuperNodes."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

import fedsim
from fedsim import keys

BIN = Path(sys.executable).parent
NOW = datetime.now(UTC).replace(microsecond=0)
SETTINGS = (
    "partition.clients=5 evaluation.federated_every=0 model.name=mlp secure_sum.threshold=0.51"
)


def ideal(tmp_path, *overrides):
    """The models of the same experiment here, without masks."""
    own = ["secure_sum.name=ideal", "engine.grid=inprocess", "engine.tier=resident", *overrides]
    found = fedsim.run("digits", [*SETTINGS.split(), *own], runs=tmp_path / "runs")
    return [entry["model_sha256"] for entry in found.history]


def models(output, log=""):
    assert output.exists(), log
    return [json.loads(line)["model_sha256"] for line in output.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["secagg", "secagg+"])
def test_flowers_own_simulation_comes_to_the_bits_of_ideal(name, flwr_run, tmp_path):
    output, dropout = tmp_path / "rounds.jsonl", "rounds.count=2 rounds.dropout=0.2"
    overrides = f"{SETTINGS} {dropout} secure_sum.name={name}"
    run_config = f'overrides="{overrides}" output="{output}" simulated-identities="{"5a" * 32}"'
    run_config += f' runs="{tmp_path / "deployed"}"'
    found = models(output, flwr_run(run_config, 5))
    assert found == ideal(tmp_path, *dropout.split())


class Federation:
    """A SuperLink with TLS and SuperNode authentication, and SuperNodes with keys of their own."""

    def __init__(self, environment, folder, free_port):
        self.environment, self.folder, self.nodes = environment, folder, []
        self.keys = keys.init(
            folder / "keys", profile="standard", now=NOW, days=90, authority_days=900
        )
        self.port, self.certificate = free_port(), self.keys.authority / "ca.crt"
        home = Path(environment["FLWR_HOME"])
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{self.certificate}"\n'
        )
        tls = self.keys.server
        self.start(
            "flower-superlink", "--host", "127.0.0.1", "--port", self.port,
            "--ssl-ca-certfile", self.certificate, "--ssl-certfile", tls / "server.crt",
            "--ssl-keyfile", tls / "server.key", "--enable-supernode-auth",
        )  # fmt: skip
        self.wait(lambda: self.flwr("supernode", "ls", "here").returncode == 0)

    def start(self, program, *arguments):
        log = (self.folder / f"{program}{len(self.nodes)}.log").open("w")
        command = [BIN / program, *map(str, arguments)]
        return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def flwr(self, *arguments, timeout=300):
        command = [BIN / "flwr", *map(str, arguments)]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip

    def wait(self, is_so, seconds=400.0):
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.5)

    def logs(self):
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))

    def add(self, name, port):
        node = keys.add(self.keys, name, now=NOW, days=30)
        own = self.keys.node(name)
        done = self.flwr("supernode", "register", own / "supernode.pub", "here", "--name", name)
        assert done.returncode == 0, done.stdout + done.stderr
        return node.id, own, port

    def join(self, number, own, port):
        config = (
            f'partition-id={number} num-partitions=5 identity-key="{own / "identity.key"}" '
            f'identities="{self.keys.identities}" min-threshold=0.51'
        )
        self.nodes.append(
            self.start(
                "flower-supernode", "--root-certificates", self.certificate, "--superlink",
                f"127.0.0.1:{self.port}", "--auth-supernode-private-key", own / "supernode.key",
                "--node-config", config, "--port", port,
            )
        )  # fmt: skip

    def run(self, app, overrides, output):
        listed = f'identities="{self.keys.identities}" authority="{self.certificate}"'
        listed += f' runs="{self.folder / "deployed"}"'
        run_config = f'overrides="{overrides}" output="{output}" {listed}'
        command = [BIN / "flwr", "run", app, "here", "--stream", "--run-config", run_config]
        log = (self.folder / "run.log").open("w")
        return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)


@pytest.fixture
def federation(flower, free_port, tmp_path):
    _, environment = flower
    made = Federation(environment, tmp_path, free_port)
    joining = [made.add(f"node-{i}", free_port()) for i in range(5)]
    for node in joining:  # the list is whole before anybody reads it
        made.join(*node)
    return made


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_supernodes_with_keys_come_to_the_bits_of_ideal(flower, federation, tmp_path):
    output = tmp_path / "rounds.jsonl"
    dropout = "rounds.count=1 rounds.dropout=0.3 rounds.timeout_s=240"
    running = federation.run(flower[0], f"{SETTINGS} {dropout} secure_sum.name=secagg", output)
    running.wait(timeout=800)
    assert models(output, federation.logs()) == ideal(tmp_path, *dropout.split())
