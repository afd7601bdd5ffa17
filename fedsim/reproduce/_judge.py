"""Whether what came out agrees with what was published, and in what sense."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.reproduce._run import Measured
from fedsim.reproduce._table import Row, Table
from fedsim.sweep._statistics import estimate

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A line of the report. `status`: "PASS", "FAIL", "shown" (nothing is claimed), "not run"."""

    what: str
    published: str
    ours: str
    band: str
    status: str


def judge(table: Table, measured: Sequence[Measured], *, is_full: bool) -> list[Verdict]:
    """Hold every row to its band and every order to what came out."""
    rows = [_row(table, found, is_full=is_full) for found in measured]
    means = {m.row.name: sum(m.values) / len(m.values) for m in measured if m.values}
    for order in table.orders:
        what = f"{order.better} better than {order.worse}"
        if not means.keys() >= {order.better, order.worse}:
            rows.append(Verdict(what, "yes", "-", f"by {order.by:g}", "not run"))
            continue
        sign = -1 if table.is_lower_better else 1
        gain = sign * (means[order.better] - means[order.worse])
        if math.isnan(gain):  # neither ever got there
            gain = -math.inf
        status = "PASS" if gain > 0 and gain >= order.by else "FAIL"
        rows.append(Verdict(what, "yes", f"{gain:+.4g}", f"by {order.by:g}", status))
    return rows


def _row(table: Table, found: Measured, *, is_full: bool) -> Verdict:
    row = found.row
    published = _published(row)
    if not found.values:
        return Verdict(row.name, published, found.error, "-", "not run")
    known = estimate(found.values)
    deviation = "" if math.isnan(known.deviation) else f" ± {known.deviation:.3g}"
    ours = f"{known.mean:.4g}{deviation} (n={known.count})"
    version = table.version(is_full=is_full)
    wanted, band, whose = row.published, version.band, ""
    if row.frozen is not None and version is table.short:
        wanted, band, whose = row.frozen, row.band, "own "
    if wanted is None or band is None:
        return Verdict(row.name, published, ours, "-", "shown")
    status = "PASS" if abs(known.mean - wanted) <= band else "FAIL"
    return Verdict(row.name, published, ours, f"{whose}{wanted:.4g} ± {band:.3g}", status)


def _published(row: Row) -> str:
    if row.published is None:
        return "-"
    return f"{row.published:.4g}" + (f" ± {row.deviation:.3g}" if row.deviation else "")
