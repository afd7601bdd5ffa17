"""What was measured as a table and as the comparisons that are required, in Markdown."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import page

__all__ = ["TARGETS", "Engine", "Target", "comparisons", "ratios", "table"]

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
        median = _median(own, "median")
        rows.append(
            [
                engine.workload,
                engine.label,
                str(len(own)),
                f"{median:.3f}",
                f"{cohorts[engine.workload] / median:.0f}",
                _each(ratios(records, engine.name, f"{engine.workload} {engine.floor}")),
                _middle(ratios(records, engine.name, f"{engine.workload} {PFL}")),
                _middle(ratios(records, engine.name, f"{engine.workload} {FLOWER}")),
                f"{_median(own, 'start_up'):.1f}",
                f"{_median(own, 'memory'):.0f}",
                _chosen(own),
            ]
        )
    return "\n".join(page.table(head, rows))


def comparisons(records: Sequence[Record], targets: Sequence[Target] = TARGETS) -> str:
    """Return each required ratio with its target and whether it is met."""
    rows = []
    for target in targets:
        each = ratios(records, target.over, target.under)
        sign, verdict = ("≥" if target.is_least else "≤"), "not measured"
        if each:
            middle = statistics.median(each)
            met = middle >= target.bound if target.is_least else middle <= target.bound
            verdict = "PASS" if met else "FAIL"
        what = f"{target.over} / {target.under.partition(' ')[2]}"
        rows.append([what, _each(each), f"{sign} {target.bound:g}", verdict])
    return "\n".join(page.table(["s/round of", "ratio (each cycle)", "target", ""], rows))


def _median(records: Sequence[Record], name: str) -> float:
    return statistics.median(record[name] for record in records)


def _middle(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g}" if values else "-"


def _each(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{_middle(values)} ({' '.join(f'{value:.3g}' for value in values)})"


def _chosen(records: Sequence[Record]) -> str:
    """Say which tier and block size a run of ours took, all of them where it varied."""
    found = {
        f"{record['tier']}, {record['block_size'] or 'one by one'}"
        for record in records
        if "tier" in record
    }
    return "; ".join(sorted(found)) or "-"
