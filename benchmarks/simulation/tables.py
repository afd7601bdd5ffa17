"""What was measured as a table and as the comparisons that are required, in Markdown."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import page

__all__ = [
    "TARGETS",
    "Engine",
    "Target",
    "chosen",
    "comparisons",
    "each",
    "median",
    "middle",
    "ratios",
    "table",
]

#: One measurement: "name" of the engine, "cycle" it belongs to, and what `measuring.watch` returns.
Record = Mapping[str, Any]

PFL, FLOWER, ON_FEDSIM = "pfl-research", "Flower app on Flower", "Flower app on fedsim"


@dataclass(frozen=True, slots=True)
class Engine:
    """One row of the table: what is run, on which workload, against which floor."""

    workload: str
    label: str
    command: tuple[str, ...]
    rounds: int
    floor: str = "floor"
    processes: int = 2  # of pfl-research
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return what no other row is called."""
        return f"{self.workload} {self.label}"


@dataclass(frozen=True, slots=True)
class Target:
    """A required ratio of two engines' seconds per round: at most, or at least, so much."""

    over: str
    under: str
    bound: float
    is_least: bool = False


TARGETS = (
    Target("W1 fedsim, auto", "W1 floor", 1.05),
    Target("W1 fedsim, auto", f"W1 {PFL}", 1.05),
    Target(f"W1 {FLOWER}", f"W1 {ON_FEDSIM}", 1.8, is_least=True),
    Target("W2 fedsim, low-rank", "W2 floor", 0.15),
    Target(f"W2 {PFL}", "W2 fedsim, low-rank", 10, is_least=True),
    Target(f"W2 {FLOWER}", "W2 fedsim, low-rank", 200, is_least=True),
    Target("W2 fedsim, vectorized, Adam", "W2 floor, Adam", 0.6),
    Target(f"W2 {FLOWER}", f"W2 {ON_FEDSIM}", 15, is_least=True),
    # No tier that is taken is slower than the one below it, but for how much the machine varies.
    Target("W1 fedsim, resident", "W1 fedsim, messages", 1.05),
    Target("W1 fedsim, auto", "W1 fedsim, resident", 1.05),
    Target("W2 fedsim, resident", "W2 fedsim, messages", 1.05),
    Target("W2 fedsim, vectorized", "W2 fedsim, resident", 1.05),
    Target("W2 fedsim, low-rank", "W2 fedsim, vectorized", 1.05),
)


def ratios(records: Iterable[Record], over: str, under: str) -> list[float]:
    """Return seconds per round of one engine over another's, for every cycle that has both."""
    found: dict[str, dict[str, float]] = {}
    for record in records:
        found.setdefault(record["name"], {})[record["cycle"]] = record["median"]
    first, second = found.get(over, {}), found.get(under, {})
    return [seconds / second[cycle] for cycle, seconds in first.items() if cycle in second]


def table(engines: Sequence[Engine], records: Sequence[Record], cohorts: Mapping[str, int]) -> str:
    """Return the table: medians of all cycles, ratios cycle by cycle."""
    head = ["workload", "engine", "cycles", "s/round", "clients/s", "x floor (each cycle)", "x pfl",
            "x Flower", "start-up s", "peak MB", "chosen"]  # fmt: skip
    rows = []
    for engine in engines:
        own = [record for record in records if record["name"] == engine.name]
        if not own:
            continue
        seconds = median(own, "median")
        rows.append(
            [
                engine.workload,
                engine.label,
                str(len(own)),
                f"{seconds:.3f}",
                f"{cohorts[engine.workload] / seconds:.0f}",
                each(ratios(records, engine.name, f"{engine.workload} {engine.floor}")),
                middle(ratios(records, engine.name, f"{engine.workload} {PFL}")),
                middle(ratios(records, engine.name, f"{engine.workload} {FLOWER}")),
                f"{median(own, 'start_up'):.1f}",
                f"{median(own, 'memory'):.0f}",
                chosen(own),
            ]
        )
    return "\n".join(page.table(head, rows))


def comparisons(records: Sequence[Record], targets: Sequence[Target] = TARGETS) -> str:
    """Return each required ratio with its target and whether it is met."""
    rows = []
    for target in targets:
        found = ratios(records, target.over, target.under)
        sign, verdict = ("≥" if target.is_least else "≤"), "not measured"
        if found:
            ratio = statistics.median(found)
            met = ratio >= target.bound if target.is_least else ratio <= target.bound
            verdict = "PASS" if met else "FAIL"
        what = f"{target.over} / {target.under.partition(' ')[2]}"
        rows.append([what, each(found), f"{sign} {target.bound:g}", verdict])
    return "\n".join(page.table(["s/round of", "ratio (each cycle)", "target", ""], rows))


def median(records: Sequence[Record], name: str) -> float:
    """Return the median of a figure."""
    return statistics.median(record[name] for record in records)


def middle(values: Sequence[float]) -> str:
    """Write the median of values, if there are any."""
    return f"{statistics.median(values):.3g}" if values else "-"


def each(values: Sequence[float]) -> str:
    """Write the median of values, if there are any, and all of them."""
    if not values:
        return "-"
    return f"{middle(values)} ({' '.join(f'{value:.3g}' for value in values)})"


def chosen(records: Sequence[Record]) -> str:
    """Say which tier and block size a run of ours took, all of them where it varied."""
    found = {
        f"{record['tier']}, {record['block_size'] or 'one by one'}"
        for record in records
        if "tier" in record
    }
    return "; ".join(sorted(found)) or "-"
