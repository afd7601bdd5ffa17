"""Lost clients: how many, and why."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fedsim.report.section import Section, Table

__all__ = ["section"]

_SHOWN = 20


def section(run: Any, clients: Sequence[dict[str, Any]]) -> Section | None:
    """Group the lost clients by reason; nothing where none was lost."""
    lost = [row for row in clients if row["lost"]]
    total = sum(entry["lost"] for entry in run.rounds)
    if not lost and not total:
        return None
    reasons = Counter(row["lost"] for row in lost).most_common(_SHOWN)
    first = [
        [row["round"], row["client"], row["phase"], row["lost"]]
        for row in sorted(lost, key=lambda row: (row["round"], row["client"]))[:_SHOWN]
    ]
    return Section(
        "lost",
        "Lost clients",
        {"count": total, "reasons": [{"reason": r, "count": n} for r, n in reasons]},
        text=f"{total:,} answers did not count. Full tracebacks are in run.log beside this report.",
        tables=[
            Table("By reason", ["reason", "times"], reasons),
            Table("The first", ["round", "client", "phase", "reason"], first, is_folded=True),
        ],
    )
