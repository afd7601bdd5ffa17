"""HIPAA's Safe Harbor as a checklist: which of the eighteen identifiers a schema takes care of.

45 CFR 164.514(b)(2)(i)(A) to (R). The list is by the names of columns and what the schema does with
them; whether a column holds what its name says, a person has to know. The rule's second half, that
nobody has actual knowledge that what is left could identify somebody, no program can check.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedsim import registry
from fedsim.anonymize.headers import kind_of
from fedsim.anonymize.schema import Column, Schema
from fedsim.anonymize.treating import is_dropped

__all__ = ["Entry", "checklist"]

Status = Literal["covered", "open", "no column", "not looked for"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One of the eighteen: its letter in the rule, what it is, and how the schema deals with it."""

    letter: str
    identifier: str
    status: Status
    columns: tuple[str, ...]
    why: str


# Letter, what it is, the kinds of columns that hold it.
_IDENTIFIERS = (
    ("A", "names", ("name",)),
    ("B", "places smaller than a state", ("street", "zip", "place")),
    ("C", "dates but the year, ages over 89", ("birth", "date", "age")),
    ("D", "telephone numbers", ("phone",)),
    ("E", "fax numbers", ("fax",)),
    ("F", "e-mail addresses", ("email",)),
    ("G", "social security numbers", ("national id",)),
    ("H", "medical record numbers", ("record",)),
    ("I", "health plan beneficiary numbers", ("plan",)),
    ("J", "account numbers", ("account",)),
    ("K", "certificate and licence numbers", ("licence",)),
    ("L", "vehicle identifiers and plates", ("vehicle",)),
    ("M", "device identifiers", ("device",)),
    ("N", "web addresses", ("url",)),
    ("O", "internet addresses", ("ip",)),
    ("P", "biometric identifiers", ("biometric",)),
    ("Q", "full-face photographs", ("photo",)),
)
_LARGE = ("state", "country", "region", "bundesland", "pays", "pais", "paese", "land")


def checklist(schema: Schema) -> tuple[Entry, ...]:
    """Return the eighteen entries."""
    found = []
    for letter, identifier, kinds in _IDENTIFIERS:
        columns = tuple(
            name for name in schema.columns if (kind := kind_of(name)) and kind.name in kinds
        )
        columns = tuple(name for name in columns if not _is_large_place(name))
        still_open = [reason for name in columns if (reason := _open(schema, name))]
        status: Status = "open" if still_open else "covered" if columns else "no column"
        if letter in "PQ" and not columns:
            status = "not looked for"
        found.append(Entry(letter, identifier, status, columns, "; ".join(still_open)))
    return (*found, _other(schema))


def _other(schema: Schema) -> Entry:
    """(R): any other unique code. Direct identifiers that have no letter of their own, and text."""
    named = {
        column for _, _, kinds in _IDENTIFIERS for column in schema.columns if _is(column, kinds)
    }
    rest = tuple(name for name in schema.having("direct") if name not in named)
    still_open = [reason for name in rest if (reason := _open(schema, name))]
    still_open += [
        f"{name}: pseudonyms are derived from what they stand for; 164.514(c) allows only codes "
        "that are not"
        for name in schema.columns
        if _treatment(schema.columns[name]) in ("pseudonym", "format-preserving")
    ]
    status: Status = "open" if still_open else "covered" if rest else "no column"
    return Entry(
        "R", "any other unique number, characteristic or code", status, rest, "; ".join(still_open)
    )


def _is(name: str, kinds: tuple[str, ...]) -> bool:
    kind = kind_of(name)
    return kind is not None and kind.name in kinds


def _is_large_place(name: str) -> bool:
    """Say whether a column names places that are no smaller than a state."""
    words = name.lower().replace("_", " ").replace("-", " ").split()
    return any(word in _LARGE for word in words)


def _open(schema: Schema, name: str) -> str:
    """Say why a column is not covered, or nothing."""
    column, kind = schema.columns[name], kind_of(name)
    if is_dropped(schema, name):
        return ""
    if column.role == "direct":
        return ""
    check = _CHECKS.get(kind.name if kind else "")
    why = check(column) if check else "is let out"
    return f"{name}: {why}" if why else ""


def _date(column: Column) -> str:
    if (
        column.hierarchy is not None
        and registry.name_of("hierarchies", column.hierarchy) == "dates"
    ):
        fine = column.hierarchy.leaf not in ("year", "decade")
        return "may be finer than a year: leaf = 'year'" if fine else ""
    is_shifted = _treatment(column) == "date-shift"
    return (
        "shifted dates are still dates: only the year may be kept" if is_shifted else "is let out"
    )


def _age(column: Column) -> str:
    most = getattr(column.hierarchy, "max", None)
    top = getattr(column.treatment, "top", None)
    limits = [limit for limit in (most, top) if isinstance(limit, (int, float))]
    is_capped = bool(limits) and min(limits) <= 90
    return "" if is_capped else "ages over 89 are not one class: max = 90, outside = 'nearest'"


def _zip(column: Column) -> str:
    return "" if _treatment(column) == "zip3" else "may have more than three digits: zip3"


def _treatment(column: Column) -> str:
    if column.treatment is None:
        return ""
    return registry.name_of("treatments", column.treatment)


_CHECKS: dict[str, Callable[[Column], str]] = {
    "birth": _date,
    "date": _date,
    "age": _age,
    "zip": _zip,
}
