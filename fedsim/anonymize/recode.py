"""From rows to a recoding that a protection allows: the way in."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize._released import recoding_of
from fedsim.anonymize.full_domain import full_domain
from fedsim.anonymize.merging import merge
from fedsim.anonymize.models import k_map, l_diversity
from fedsim.anonymize.mondrian import grow
from fedsim.anonymize.protection import Protection, Target, allowed, histogram, targets
from fedsim.anonymize.recoding import Recoding
from fedsim.anonymize.table import Encoded
from fedsim.errors import ConfigError, DataError, Problem

__all__ = ["Recode", "recode"]

Recode = Literal["sets", "nodes", "full-domain"]


def recode(
    encoded: Encoded,
    protection: Protection,
    how: Recode = "nodes",
    *,
    max_suppression: float = 0.0,
    population: Encoded | None = None,
    references: Sequence[NDArray[np.number]] | None = None,
) -> Recoding:
    """Return a recoding all of whose classes the protection allows.

    "nodes": classes of their own values, each a group of the hierarchy; "sets": sets of leaves, and
    ranges of numbers; "full-domain": every row at the same levels, the best there are.
    `max_suppression`: share of rows that may be left out; "nodes" and "sets" leave out none unless
    the protection cannot be reached with all. `references`: of each sensitive column, where
    `t_reference` is "given". `population`: whom `k_map` is about.

    Raises `DataError` for fewer than k rows and for a protection that even one class of all rows
    does not have, `ConfigError` for one that these columns cannot have.
    """
    _check(encoded, protection, max_suppression, population, references)
    given = references if protection.t_reference == "given" else None
    of = targets(encoded.sensitive, given) if protection.is_about_values else ()
    most = int(max_suppression * encoded.rows + 1e-9)
    _require_reachable(encoded, protection, of, most)
    people = None if population is None or protection.k_map is None else population.codes
    if how == "full-domain":
        return full_domain(encoded, protection, of, most, people)
    return _local(encoded, protection, of, how, most, people)


def _local(
    encoded: Encoded,
    protection: Protection,
    of: Sequence[Target],
    how: Literal["sets", "nodes"],
    most: int,
    people: NDArray[np.integer] | None,
) -> Recoding:
    can_merge = bool(_allowed(encoded, np.zeros(encoded.rows, dtype=np.int64), protection, of)[0])
    # Halves of what is not allowed are not both allowed; but children of it may be.
    class_of, _ = grow(encoded, protection, of, how if can_merge else "nodes")
    while True:
        found = recoding_of(encoded, class_of, how)
        lacks = ~_allowed(encoded, found.class_of, protection, of)
        if people is not None and protection.k_map is not None:
            lacks |= ~k_map.allows(k_map.fitting(found, people), protection.k_map)
        if not lacks.any():
            return found
        if can_merge and found.classes > 1:
            class_of = _joined(encoded, found, lacks, protection, of)
            continue
        class_of = np.where(lacks[found.class_of] | (found.class_of < 0), -1, found.class_of)
        left_out = int((class_of < 0).sum())
        if left_out > most or left_out == encoded.rows:
            raise DataError(
                f"{left_out} of {encoded.rows} rows would have to be left out, and {most} may: "
                "ask for less (k_map, t, delta, l), or raise max_suppression"
            )


def _allowed(
    encoded: Encoded, class_of: NDArray[np.integer], protection: Protection, of: Sequence[Target]
) -> NDArray[np.bool_]:
    classes = int(class_of.max(initial=-1)) + 1
    return allowed(protection, class_of, classes, encoded.sensitive, of)


def _joined(
    encoded: Encoded,
    found: Recoding,
    lacks: NDArray[np.bool_],
    protection: Protection,
    of: Sequence[Target],
) -> NDArray[np.int64]:
    """Return the class of each row when those that lack something have joined others."""
    at = found.class_of
    low = np.empty((found.classes, len(encoded.trees)), dtype=np.int64)
    high = np.empty_like(low)
    order = np.argsort(at, kind="stable")
    first = np.searchsorted(at[order], np.arange(found.classes))
    for column in range(len(encoded.trees)):
        leaves = encoded.codes[order, column]
        low[:, column] = np.minimum.reduceat(leaves, first)
        high[:, column] = np.maximum.reduceat(leaves, first)
    counts = [histogram(at, each, found.classes) for each in encoded.sensitive] if of else []
    joins = merge(low, high, [found.sizes, *counts], lacks, encoded.trees, protection, of)
    return np.where(at >= 0, joins[at], -1)


def _check(
    encoded: Encoded,
    protection: Protection,
    max_suppression: float,
    population: Encoded | None,
    references: Sequence[NDArray[np.number]] | None,
) -> None:
    """Refuse what no recoding can be, before any work."""
    problems = [
        *_problems_of_values(encoded, protection),
        *_problems_of_inputs(encoded, protection, population, references),
    ]
    if not 0 <= max_suppression < 1:
        problems.append(Problem("max_suppression", max_suppression, "a share >= 0 and < 1"))
    if problems:
        raise ConfigError(problems)
    if encoded.rows < protection.k:
        raise DataError(
            f"{encoded.rows} rows, fewer than k = {protection.k}: nothing of them can be released; "
            "lower k, or leave this table out"
        )


def _problems_of_values(encoded: Encoded, protection: Protection) -> list[Problem]:
    problems = []
    if protection.is_about_values and not encoded.sensitive:
        accepted = "a schema with a sensitive column: l, t and delta are about its values"
        problems.append(Problem("columns", list(encoded.names), accepted))
    if protection.diversity == "none":
        return problems
    for column in encoded.sensitive:
        there = len(np.unique(column.codes))
        most = l_diversity.most(there, protection.diversity, protection.c)
        if protection.l > most:
            accepted = f"at most {most:g}: column {column.name!r} has {there} different values"
            problems.append(Problem("l", protection.l, accepted))
    return problems


def _problems_of_inputs(
    encoded: Encoded,
    protection: Protection,
    population: Encoded | None,
    references: Sequence[NDArray[np.number]] | None,
) -> list[Problem]:
    problems = []
    if protection.t_reference == "given" and references is None:
        accepted = '"table", or references with a distribution for each sensitive column'
        problems.append(Problem("t_reference", "given", accepted))
    if references is not None and len(references) != len(encoded.sensitive):
        accepted = f"one for each of {len(encoded.sensitive)} sensitive columns"
        problems.append(Problem("references", len(references), accepted))
    if protection.k_map is not None and population is None:
        accepted = "unset, or a population table beside it"
        problems.append(Problem("k_map", protection.k_map, accepted))
    if population is not None and population.names != encoded.names:
        accepted = f"the table's quasi-identifiers: {', '.join(encoded.names)}"
        problems.append(Problem("population", list(population.names), accepted))
    return problems


def _require_reachable(
    encoded: Encoded, protection: Protection, of: Sequence[Target], most: int
) -> None:
    """Refuse a protection that one class of all rows does not have, if none may be left out."""
    everybody = np.zeros(encoded.rows, dtype=np.int64)
    if most == 0 and not _allowed(encoded, everybody, protection, of)[0]:
        raise DataError(
            "not even one class of all rows has what is asked for "
            f"({_said(protection)}): ask for less, or let rows be left out (max_suppression)"
        )


def _said(protection: Protection) -> str:
    words = [f"k = {protection.k}"]
    if protection.diversity != "none":
        words.append(f"{protection.diversity} l = {protection.l:g}")
    if protection.t is not None:
        words.append(f"t = {protection.t:g} from the {protection.t_reference} distribution")
    if protection.delta is not None:
        words.append(f"delta = {protection.delta:g}")
    return ", ".join(words)
