"""Headline numbers."""

from collections.abc import Sequence
from typing import Any

from fedsim.report.section import Section, bytes_text, metric_of, number, seconds_text

__all__ = ["best_round", "section"]


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section:
    """Return the numbers one looks for first."""
    name, _ = metric_of(run)
    metrics: dict[str, Any] = {}
    for entry in run.rounds:
        metrics |= entry["metrics"]
    total = {k: sum(e[k] for e in run.rounds) for k in ("bytes_down", "bytes_up", "real_seconds")}
    best = best_round(run)
    data: dict[str, Any] = {
        "metrics": metrics,
        "best": best,
        "rounds": len(run.rounds),
        "clients": run.partition["clients"],
        "examples": run.partition["examples"],
        "parameters": run.facts["dimension"],
        **total,
    }
    shown = [(label, metrics.get(key)) for label, key in _labels(name) if key in metrics]
    tiles = [(label, number(value)) for label, value in shown[:2]]
    if best:
        tiles.append(("best round", f"{best['round']} ({number(best['value'])})"))
    tiles += [
        ("rounds", f"{len(run.rounds)} of {run.config['rounds']['count']}"),
        ("clients", f"{run.partition['clients']:,}"),
        ("parameters", f"{run.facts['dimension']:,}"),
        ("time in rounds", seconds_text(total["real_seconds"])),
        ("sent down", bytes_text(total["bytes_down"])),
        ("sent up", bytes_text(total["bytes_up"])),
    ]
    data["tiles"] = [{"label": label, "value": value} for label, value in tiles]
    return Section("headline", "In short", data)


def best_round(run: Any) -> dict[str, Any] | None:
    """Return the round with the best main metric on the server's test set."""
    name, is_up = metric_of(run)
    key = f"test/{name}"
    found = [
        (e["metrics"][key], e["round"]) for e in run.rounds if e["metrics"].get(key) is not None
    ]
    if not found:
        return None
    value, number_ = max(found, key=lambda pair: (pair[0] if is_up else -pair[0], -pair[1]))
    return {"metric": key, "value": value, "round": number_}


def _labels(name: str) -> list[tuple[str, str]]:
    return [
        (f"test {name}", f"test/{name}"),
        (f"{name} over clients", f"federated/{name}"),
        ("test loss", "test/loss"),
    ]
