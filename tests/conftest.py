"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No example has a deadline: how fast a machine is, and what else it does, is not what tests tell.
settings.register_profile("fedsim", deadline=None)
settings.load_profile("fedsim")

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is missing."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("FEDSIM_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets not found in {folder}; set FEDSIM_DATA")
    return folder
