"""Sweeps: an experiment over a grid of settings and seeds, run side by side, and compared."""

from fedsim.sweep._cells import Cell, Sweep, plan_sweep, read_sweep, sweep_folder
from fedsim.sweep._compare import compare_sweep
from fedsim.sweep._running import Outcome, run_sweep

__all__ = [
    "Cell",
    "Outcome",
    "Sweep",
    "compare_sweep",
    "plan_sweep",
    "read_sweep",
    "run_sweep",
    "sweep_folder",
]
