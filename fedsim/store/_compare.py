"""What differs between two runs: configuration, code, data, machine, results."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from fedsim.store._runs import StoredRun

__all__ = ["compare"]


def compare(a: StoredRun, b: StoredRun) -> dict[str, Any]:
    """Return, by topic, each key that differs with both values; `results` has all, with b - a.

    Keys are dotted (`optimizer.lr`). Both runs come from `RunStore.get`: `results` has the best
    value of every evaluated metric too (`best.test/accuracy`) and its round (`best_round...`).
    """
    return {
        "runs": [a.id, b.id],
        "configuration": _different(_flat(a.config), _flat(b.config)),
        "code": _different(_flat(_code(a)), _flat(_code(b))),
        "data": _different(_flat(_data(a)), _flat(_data(b))),
        "machine": _different(_flat(_machine(a)), _flat(_machine(b))),
        "results": _results(a, b),
    }


def _code(run: StoredRun) -> dict[str, Any]:
    return {key: run.environment.get(key) for key in ("versions", "git", "code", "python")}


def _data(run: StoredRun) -> dict[str, Any]:
    """Return what says whether two runs trained on the same examples, dealt out the same way."""
    keys = ("clients", "examples", "label_divergence", "effective_clients")
    partition = {key: run.partition.get(key) for key in keys}
    sizes = run.partition.get("sizes") or {}
    partition["sizes"] = {key: sizes.get(key) for key in ("min", "median", "max")}
    canonical = json.dumps(run.partition, sort_keys=True).encode()
    partition["summary_sha256"] = hashlib.sha256(canonical).hexdigest()[:16]
    facts = {key: run.facts.get(key) for key in ("data_sha256", "data_source")}
    return {**facts, "partition": partition}


def _machine(run: StoredRun) -> dict[str, Any]:
    facts = {key: run.facts.get(key) for key in ("grid", "workers", "device")}
    keys = ("platform", "processor", "cpus", "memory_bytes", "gpus")
    return facts | {key: run.environment.get(key) for key in keys}


def _results(a: StoredRun, b: StoredRun) -> dict[str, Any]:
    values = [_flat({**run.summary, **_best(run), "status": run.status}) for run in (a, b)]
    rows: dict[str, Any] = {}
    for key in sorted(values[0].keys() | values[1].keys()):
        first, second = values[0].get(key), values[1].get(key)
        row = {"a": first, "b": second}
        if _is_number(first) and _is_number(second):
            row["difference"] = second - first
        rows[key] = row
    return rows


def _best(run: StoredRun) -> dict[str, dict[str, Any]]:
    """Return the best value of each evaluated metric, and the first round that reached it."""
    from fedsim.metrics import METRICS

    best: dict[str, float] = {}
    rounds: dict[str, int] = {}
    for entry in run.rounds:
        for key, value in entry["metrics"].items():
            group, _, name = key.partition("/")
            if group not in ("test", "federated") or "/" in name or value is None:
                continue
            sign = 1 if name in METRICS and METRICS[name].larger_is_better else -1
            if key not in best or sign * value > sign * best[key]:
                best[key], rounds[key] = value, entry["round"]
    return {"best": best, "best_round": rounds}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
