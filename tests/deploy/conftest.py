"""Flower's commands, apart from any other Flower on this machine."""

import os
import shutil
import socket
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
