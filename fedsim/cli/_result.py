"""Print how a run ended: a summary table and the report's path last, or one JSON object."""

from typing import Any

from fedsim.cli._output import print_json, print_table
from fedsim.report.section import bytes_text, number, seconds_text

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
                "report": str(result.report),
                "notice": result.stored.facts.get("notice", ""),
            }
        )
        return
    rows = [
        [name, number(value), number(result.metrics.get(f"{name}/worst_decile"))]
        for name, value in sorted(result.metrics.items())
        if name.count("/") == 1
    ]
    print_table(["metric", "last value", "worst tenth of clients"], rows)
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
    if notice := result.stored.facts.get("notice"):
        print(notice)
    print(result.report)
