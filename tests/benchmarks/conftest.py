"""Benchmarks are scripts, not a package: tests import their files by name."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a benchmark's file, and leave nothing of it behind."""
    for name in [name for name in sys.modules if (BENCHMARKS / f"{name}.py").exists()]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(BENCHMARKS / "simulation")
    return importlib.import_module
