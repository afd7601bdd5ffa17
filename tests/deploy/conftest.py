"""Flower's commands, apart from any other Flower on this machine."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[2] / "deploy" / "flower_app"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def free_port():
    """Call it for a port that nobody listens on."""
    return _free_port


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
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(_free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(_free_port()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    yield app, environment
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("FLWR_HOME") == environment["FLWR_HOME"]:
            process.kill()


@pytest.fixture
def flwr_run(flower):
    """Call it with a run config and a number of nodes: `flwr run` on Flower's own simulation.

    Flower gives the SuperLink that it starts 15 s to be there; on a busy machine that is too short.
    """
    app, environment = flower

    def run(run_config, nodes):
        federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
        command = [Path(sys.executable).parent / "flwr", "run", app, "--stream",
                   "--run-config", run_config, "--federation-config", federation]  # fmt: skip
        for _ in range(10):
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=900, check=False
            )
            if "Failed to start local SuperLink" not in done.stdout + done.stderr:
                break
        return done.stdout[-4000:] + done.stderr[-4000:]

    return run
