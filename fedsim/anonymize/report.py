"""What is reported of an anonymized table, as data. No count of fewer than k people is in it.

The schema of this content is fedsim/report/anonymization.schema.json; how it looks as a page is
`fedsim.report.anonymization`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from fedsim import registry
from fedsim.anonymize.hipaa import checklist
from fedsim.anonymize.pins import Pin
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.risk import Risks
from fedsim.anonymize.schema import Column, Schema
from fedsim.anonymize.spending import claims
from fedsim.anonymize.treating import is_dropped
from fedsim.anonymize.verify import Recount

__all__ = ["FORMULA", "LIMITS", "SCHEMA_VERSION", "content", "shown"]

SCHEMA_VERSION = 1
FORMULA = (
    "GCP: mean over all cells of (leaves covered - 1) / (leaves - 1); suppressed cells count 1"
)

#: What the result is not, in the report of every table.
LIMITS = (
    "It is not anonymous by law because of this report. Pseudonymized data are personal data "
    "(GDPR, article 4(5) and recital 26), and whether k-anonymous data still are depends on all "
    "means reasonably likely to be used to single somebody out.",
    "It is not differential privacy: no epsilon bounds what is learned from it, but from a column "
    "whose noise states one.",
    "It does not compose: another table of the same people, from here or from somebody else, can "
    "undo it. What was let out here before is refused; what others let out is not known.",
    "It does not protect from what an attacker knows beside the quasi-identifiers: that a person "
    "does not have a disease, or a sensitive value itself.",
    "It protects rows and not people who have several.",
)


def content(
    *,
    schema: Schema,
    settings: Mapping[str, Any],
    protection: Protection,
    pin: Pin,
    recount: Recount,
    rows: int,
    suppressed: int,
    sensitive: Sequence[Mapping[str, Any]],
    losses: Mapping[str, Any],
    risks: Risks,
    k_map: int | None,
) -> dict[str, Any]:
    """Return the report of a table.

    `settings`: the recoding, how many rows it may suppress and what becomes of them. `sensitive`:
    what of the models each column reached, `t` with and without suppressed rows.
    """
    ncp = losses["ncp"]
    return {
        "schema_version": SCHEMA_VERSION,
        "created": pin.created,
        "method": dict(settings) | asdict(protection),
        "rows": rows,
        "suppressed": {
            "rows": shown(suppressed, protection.k),
            "share": None if shown(suppressed, protection.k) is None else suppressed / rows,
        },
        "reached": {
            "k": recount.k,
            "classes": recount.classes,
            "k_map": k_map,
            "sensitive": [dict(column) for column in sensitive],
        },
        "risks": risks.to_dict(),
        "utility": {
            "formula": FORMULA,
            "gcp": float(losses["gcp"]),
            "ncp": {name: float(value) for name, value in ncp.items()},
            "discernibility": _discernibility(losses, suppressed, protection.k),
            "c_avg": losses["c_avg"],
        },
        "columns": [_column(schema, name) for name in schema.columns],
        "noise": claims(schema),
        "leftovers": [asdict(leftover) for leftover in recount.leftovers],
        "formulas": list(recount.formulas),
        "hipaa": [asdict(entry) | {"columns": list(entry.columns)} for entry in checklist(schema)],
        "limits": list(LIMITS),
        "pin": {
            "schema": pin.schema,
            "cut": pin.cut,
            "rows": pin.rows,
            "released": pin.released,
            "reason": pin.reason,
            "again": list(pin.again),
        },
    }


def shown(count: int, k: int) -> int | None:
    """Return a number of people as it may be shown: None where it is from 1 to k - 1.

    >>> shown(0, 5), shown(3, 5), shown(12, 5)
    (0, None, 12)
    """
    return None if 0 < count < k else count


def _discernibility(losses: Mapping[str, Any], suppressed: int, k: int) -> int | None:
    """Return it unless it would tell a small number of suppressed rows."""
    return None if shown(suppressed, k) is None else int(losses["discernibility"])


def _column(schema: Schema, name: str) -> dict[str, Any]:
    column = schema.columns[name]
    return {
        "name": name,
        "role": column.role,
        "became": _became(schema, name, column),
        "missing": column.missing,
        "distance": column.distance if column.role == "sensitive" else None,
    }


def _named(treatment: Any) -> str:
    """Return a treatment's name, and its settings that are not the usual ones."""
    settings = [
        f"{field.name} {getattr(treatment, field.name)}"
        for field in fields(treatment)
        if getattr(treatment, field.name) != field.default
        and isinstance(getattr(treatment, field.name), (str, int, float))
    ]
    name = registry.name_of("treatments", treatment)
    return f"{name} ({', '.join(settings)})" if settings else name


def _became(schema: Schema, name: str, column: Column) -> str:
    if is_dropped(schema, name):
        return "removed"
    steps = []
    if column.treatment is not None:
        steps.append(getattr(column.treatment, "title", None) or _named(column.treatment))
    if column.role == "quasi":
        hierarchy = registry.name_of("hierarchies", column.hierarchy)
        steps.append(f"generalized ({hierarchy})")
    return ", then ".join(steps) or "as it was"
