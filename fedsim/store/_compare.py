"""What differs between two runs: configuration, code, data, machine, results."""

from collections.abc import Mapping
from typing import Any

from fedsim.store._runs import StoredRun

__all__ = ["compare"]


def compare(a: StoredRun, b: StoredRun) -> dict[str, Any]:
    """Return, by topic, each key that differs with both values; `results` has all, with b - a."""
    return {
        "runs": [a.id, b.id],
        "configuration": _different(_flat(a.config), _flat(b.config)),
        "code": _different(_flat(_code(a)), _flat(_code(b))),
        "data": _different(_flat(_data(a)), _flat(_data(b))),
        "machine": _different(_flat(_machine(a)), _flat(_machine(b))),
        "results": _results(a, b),
    }


def _code(run: StoredRun) -> dict[str, Any]:
    return {key: run.environment.get(key, {}) for key in ("versions", "git", "code", "python")}


def _data(run: StoredRun) -> dict[str, Any]:
    keys = ("clients", "examples", "heterogeneity")
    partition = {f"partition.{key}": run.partition.get(key) for key in keys}
    return {"data_sha256": run.facts.get("data_sha256"), **partition}


def _machine(run: StoredRun) -> dict[str, Any]:
    facts = {key: run.facts.get(key) for key in ("grid", "workers", "device")}
    keys = ("platform", "processor", "cpus", "memory_bytes", "gpus")
    return facts | {key: run.environment.get(key) for key in keys}


def _results(a: StoredRun, b: StoredRun) -> dict[str, Any]:
    values = [_flat(run.summary | {"status": run.status}) for run in (a, b)]
    rows: dict[str, Any] = {}
    for key in sorted(values[0].keys() | values[1].keys()):
        first, second = values[0].get(key), values[1].get(key)
        row = {"a": first, "b": second}
        if isinstance(first, (int, float)) and isinstance(second, (int, float)):
            row["difference"] = second - first
        rows[key] = row
    return rows


def _different(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        key: {"a": a.get(key), "b": b.get(key)}
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat
