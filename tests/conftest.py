"""Fixtures shared by all tests."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# No example has a deadline: how fast a machine is, and what else it does, is not what tests tell.
# `make test` draws the same examples every time, so that it fails for what was changed and not by
# chance; `make test-slow` draws others (`--hypothesis-profile=others`).
settings.register_profile("fedsim", deadline=None, derandomize=True)
settings.register_profile("others", deadline=None)
settings.load_profile("fedsim")

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# Ray has a folder of these tests' own: a cluster that another program, or a test that was killed,
# left named in the common one is what a Ray that is started without an address would wait for.
_RAY = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
os.environ["RAY_TMPDIR"] = _RAY

# Where what is tested is what a run computes, its report is not drawn (a test or a module that
# reads one is marked `reports`): it takes more than half of the time of a small run.
_REPORT, _WITHOUT = "FEDSIM__STORAGE__REPORT", ("contracts", "engine", "strategies", "transforms")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say in the environment whether runs of a test draw their reports."""
    place = item.path.parts[:-1]
    if not item.get_closest_marker("reports") and any(name in place for name in _WITHOUT):
        os.environ[_REPORT] = "false"
    else:
        os.environ.pop(_REPORT, None)


def pytest_unconfigure() -> None:
    """Leave nothing of Ray behind."""
    shutil.rmtree(_RAY, ignore_errors=True)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is missing."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("FEDSIM_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets not found in {folder}; set FEDSIM_DATA")
    return folder
