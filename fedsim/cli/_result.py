"""Print how a run ended: a summary table and the report's path last, or one JSON object."""

from collections.abc import Mapping
from typing import Any

from fedsim.cli._output import print_json, print_table
from fedsim.report.section import bytes_text, number, seconds_text
from fedsim.report.sections.anonymization import line as anonymization_line
from fedsim.report.sections.simulated_time import joules_text

__all__ = ["print_result"]


def print_result(result: Any, *, as_json: bool) -> None:
    """Print a `fedsim.api.Result`."""
    summary = result.stored.summary
    if as_json:
        print_json(
            {
                "status": result.status,
                "exit_code": 0,
                "run": result.run_id,
                "metrics": dict(result.metrics),
                "rounds": summary["rounds"],
                "lost": summary["lost"],
                "bytes_down": summary["bytes_down"],
                "bytes_up": summary["bytes_up"],
                "real_seconds": summary["real_seconds"],
                "model_sha256": result.model_sha256,
                "folder": str(result.folder),
                "report": str(result.report or ""),
                "notice": result.stored.facts.get("notice", ""),
                "privacy": summary.get("privacy"),
                "anonymization": result.stored.facts.get("anonymization") or None,
                "raw": summary.get("raw"),
            }
        )
        return
    raw = summary.get("raw") or {}
    rows = [
        [
            name,
            number(value),
            number(result.metrics.get(f"{name}/worst_decile")),
            *([number(raw["metrics"].get(name))] if raw else []),
        ]
        for name, value in sorted(result.metrics.items())
        if name.count("/") == 1 and not name.startswith("simulated/")
    ]
    head = ["metric", "last value", "worst tenth of clients", *(["raw records"] if raw else [])]
    print_table(head, rows)
    print_table(
        ["rounds", "real time", "sent down", "sent up", "lost", "model sha256"],
        [
            [
                summary["rounds"],
                seconds_text(summary["real_seconds"]),
                bytes_text(summary["bytes_down"]),
                bytes_text(summary["bytes_up"]),
                summary["lost"],
                result.model_sha256[:16],
            ]
        ],
    )
    if (seconds := result.metrics.get("simulated/seconds")) is not None:
        joules = joules_text(result.metrics["simulated/joules"])
        print(f"by the virtual clock: {seconds_text(seconds)}, {joules} on clients (simulated)")
    if found := result.stored.facts.get("anonymization"):
        print(anonymization_line(found))
    if privacy := summary.get("privacy"):
        print(_privacy(privacy))
    if notice := result.stored.facts.get("notice"):
        print(notice)
    print(result.report or result.folder)


def _privacy(spent: Mapping[str, Any]) -> str:
    """Return the line about privacy: of the client that spent most, by all runs on the data set."""
    cap = "no cap" if spent["cap"] is None else f"cap {number(spent['cap'])}"
    runs = f"by {spent['runs']} run{'s' if spent['runs'] > 1 else ''} on this data set"
    return (
        f"privacy: unit {spent['unit']} ({spent['adjacency']}), epsilon {number(spent['epsilon'])} "
        f"at delta {number(spent['delta'])} ({cap}), noise multiplier "
        f"{number(spent['noise_multiplier'])}; spent {runs}"
    )
