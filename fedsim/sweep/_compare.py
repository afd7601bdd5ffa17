"""A sweep as a table: for each setting the mean over seeds, its interval, the paired difference."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fedsim.errors import ConfigError, Problem
from fedsim.metrics import larger_is_better
from fedsim.registry import suggest
from fedsim.store import RunStore, StoredRun
from fedsim.sweep._cells import read_sweep
from fedsim.sweep._statistics import Estimate, estimate, paired

__all__ = ["compare_sweep"]

_SEED = "seed"


def compare_sweep(
    store: RunStore,
    name: str,
    *,
    metric: str = "",
    by: Literal["last", "best"] = "last",
    baseline: str = "",
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Compare the finished runs of a sweep.

    `metric`: such as "test/accuracy"; by default the experiment's own on the server's test set.
    `by`: its last value, or the best of all rounds. `baseline`: the setting that others are
    compared with, as it is in the table; by default the first. Raises `UnknownRunError`, and
    `ConfigError` for a metric or a baseline that is not there, or where no run has finished.
    """
    content = read_sweep(store.root, name)
    groups, missing = _runs_by_setting(store, content)
    if not groups:
        raise ConfigError(
            [
                Problem(
                    "sweep", name, "a sweep with a finished run", f"Run fedsim sweep --name {name}"
                )
            ]
        )
    metric = _metric(metric, [run for found in groups.values() for run in found.values()])
    values = {
        setting: {seed: _value(run, metric, by) for seed, run in found.items()}
        for setting, found in groups.items()
    }
    reference = baseline or next(iter(groups))
    if reference not in groups:
        hint = suggest(reference, groups)
        accepted = f"one of {', '.join(groups)}"
        raise ConfigError([Problem("--baseline", reference, accepted, hint)])
    rows = [
        _row(setting, groups[setting], values[setting], values[reference], confidence)
        for setting in groups
    ]
    return {
        "schema_version": 1,
        "sweep": name,
        "metric": metric,
        "by": by,
        "larger_is_better": larger_is_better(metric.split("/")[1]),
        "confidence": confidence,
        "baseline": reference,
        "rows": rows,
        "missing": missing,
        "curves": {setting: _curve(groups[setting], metric, confidence) for setting in groups},
    }


def _runs_by_setting(
    store: RunStore, content: Mapping[str, Any]
) -> tuple[dict[str, dict[str, StoredRun]], list[dict[str, str]]]:
    """Return the finished runs by setting and seed, and the cells that have none."""
    finished = {run.name: run for run in store.all() if run.status == "finished"}
    groups: dict[str, dict[str, StoredRun]] = {}
    missing = []
    for cell in content["cells"]:
        values = cell["values"]
        setting = ", ".join(f"{k}={v}" for k, v in values.items() if k != _SEED) or "all"
        run = finished.get(cell["run"])
        if run is None:
            missing.append(values)
        else:
            groups.setdefault(setting, {})[values.get(_SEED, "")] = store.get(run.id)
    return groups, missing


def _metric(asked: str, runs: Sequence[StoredRun]) -> str:
    """Return the metric that is compared."""
    known = sorted({name for run in runs for entry in run.rounds for name in entry["metrics"]})
    if asked:
        if asked not in known:
            raise ConfigError(
                [Problem("--metric", asked, f"one of {', '.join(known)}", suggest(asked, known))]
            )
        return asked
    own = (runs[0].facts.get("metrics") or ["loss"])[0]
    wanted = (f"test/{own}", f"federated/{own}", "train/loss")
    found: str = next(name for name in (*wanted, *known) if name in known)
    return found


def _value(run: StoredRun, metric: str, by: str) -> float:
    found = [entry["metrics"].get(metric) for entry in run.rounds]
    values = [float(value) for value in found if value is not None]
    if not values:
        return math.nan
    if by == "last":
        return values[-1]
    return max(values) if larger_is_better(metric.split("/")[1]) else min(values)


def _row(
    setting: str,
    runs: Mapping[str, StoredRun],
    values: Mapping[str, float],
    reference: Mapping[str, float],
    confidence: float,
) -> dict[str, Any]:
    found = estimate(list(values.values()), confidence)
    difference = paired(values, reference, confidence) if values != reference else None
    up = [run.summary.get("bytes_up", 0) for run in runs.values()]
    seconds = [run.summary.get("real_seconds", 0.0) for run in runs.values()]
    return {
        "setting": setting,
        **_plain(found),
        "difference": _plain(difference) if difference else None,
        "is_clear": bool(difference and difference.is_clear),
        "bytes_up": sum(up) / len(up),
        "real_seconds": sum(seconds) / len(seconds),
        "values": {seed: _finite(value) for seed, value in values.items()},
        "runs": {seed: run.id for seed, run in runs.items()},
    }


def _curve(runs: Mapping[str, StoredRun], metric: str, confidence: float) -> list[dict[str, Any]]:
    """Return the mean over seeds of every round in which all runs were tested."""
    by_round: dict[int, list[float]] = {}
    for run in runs.values():
        for entry in run.rounds:
            value = entry["metrics"].get(metric)
            if value is not None:
                by_round.setdefault(entry["round"], []).append(float(value))
    return [
        {"round": number, **_plain(estimate(values, confidence))}
        for number, values in sorted(by_round.items())
        if len(values) == len(runs)
    ]


def _plain(found: Estimate) -> dict[str, Any]:
    return {
        "count": found.count,
        "mean": _finite(found.mean),
        "deviation": _finite(found.deviation),
        "half_width": _finite(found.half_width),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
