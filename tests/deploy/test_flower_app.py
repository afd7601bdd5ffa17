"""The thin Flower app under plain `flwr run`, on Flower's own simulation engine."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import fedsim

APP = Path(__file__).resolve().parents[2] / "deploy" / "flower_app"
FLWR = Path(sys.executable).parent / "flwr"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def flower(tmp_path):
    """Flower's state and ports apart from anybody else's; what it starts is ended."""
    import psutil

    app = shutil.copytree(APP, tmp_path / "app")  # flwr writes beside it
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{FLWR.parent}{os.pathsep}{os.environ['PATH']}",
    }
    yield app, environment
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("FLWR_HOME") == environment["FLWR_HOME"]:
            process.kill()


def test_flwr_run_gives_the_model_of_fedsim_run(flower, tmp_path):
    app, environment = flower
    output = tmp_path / "rounds.jsonl"
    overrides = "rounds.count=2 partition.clients=4 evaluation.federated_every=1 model.name=mlp"
    run_config = f'overrides="{overrides}" output="{output}"'
    done = subprocess.run(
        [str(FLWR), "run", str(app), "--stream", "--run-config", run_config,
         "--federation-config", "num-supernodes=4 client-resources-num-cpus=1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )  # fmt: skip
    assert output.exists(), done.stdout[-4000:] + done.stderr[-4000:]
    rounds = [json.loads(line) for line in output.read_text().splitlines()]
    here = fedsim.run(
        "digits",
        [*overrides.split(), "engine.grid=inprocess", "engine.tier=resident"],
        runs=tmp_path / "runs",
    )
    assert [entry["model_sha256"] for entry in rounds] == [
        entry["model_sha256"] for entry in here.history
    ]
    assert [entry["metrics"] for entry in rounds] == [entry["metrics"] for entry in here.history]
    assert [entry["lost"] for entry in rounds] == [0, 0]
