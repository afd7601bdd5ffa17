"""Engines side by side: see `benchmarks/simulation/run.py`."""
