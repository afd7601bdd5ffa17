"""The report's words: what units, adjacencies and statuses mean, and numbers that are bounds."""

import math

from fedsim.privacy.events import Adjacency, Unit

__all__ = [
    "ADJACENCIES",
    "NOT_ACCOUNTED",
    "NOT_MEASURED",
    "NOT_RECORDED",
    "NOT_SHOWN",
    "NOT_STATED",
    "SEEDED",
    "UNITS",
    "bound",
    "neighbours",
    "percent",
    "plain",
]

NOT_ACCOUNTED = "not accounted"
NOT_MEASURED = "not measured"
NOT_RECORDED = "not recorded"
NOT_SHOWN = "not shown"
NOT_STATED = "not stated: for the curator to fill in"

#: What is said first of a run whose noise can be repeated.
SEEDED = "seeded: not private"

UNITS: dict[Unit, str] = {
    "user": "all the data of one client",
    "example": "one example (one record) of one client",
    "local": "all the data of one client, even from the server: each client adds its own noise",
}

ADJACENCIES: dict[Adjacency, str] = {
    "zero-out": "the same data sets, but for one {member} that contributes zero",
    "replace-one": "the same data sets, but for one {member} replaced by any other",
    "add-remove": "the same data sets, but for one {member} more or less",
}


def neighbours(unit: Unit, adjacency: Adjacency) -> str:
    """Say which data sets cannot be told apart.

    >>> neighbours("user", "zero-out")
    'the same data sets, but for one client that contributes zero'
    """
    return ADJACENCIES[adjacency].format(member="example" if unit == "example" else "client")


def bound(value: float | str, digits: int = 4) -> str:
    """Write an upper bound, rounded up.

    >>> bound(14.91231), bound(0.0), bound(math.inf), bound(2.0), bound("infinity")
    ('14.92', '0', 'infinity', '2', 'infinity')
    """
    if isinstance(value, str) or math.isinf(value):
        return "infinity"
    if value <= 0:
        return "0"
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return f"{math.ceil(value * scale * (1 - 1e-12)) / scale:.{digits}g}"


def percent(rate: float) -> str:
    """Write an upper bound on a rate as a percentage, rounded up.

    >>> percent(0.04084), percent(1.0), percent(0.01)
    ('4.1 %', '100 %', '1 %')
    """
    return f"{math.ceil(rate * 1000 * (1 - 1e-12)) / 10:g} %"


def plain(value: float) -> float | str:
    """Return a number as strict JSON has it.

    >>> plain(1.5), plain(math.inf)
    (1.5, 'infinity')
    """
    return "infinity" if math.isinf(value) else float(value)
