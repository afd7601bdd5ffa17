"""One pass over all rows: who the clients are, where their rows lie, how to encode them.

Nothing here depends on the order in which rows come: sums are exact (`_moments.py`), categories are
sets, and which rows are the test part is read off the rows' fingerprints. So a data set has the
same clients with the same examples in whatever files it is kept, in whatever order.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data._cache import Kept, Rows
from fedsim.data._encoding import FILLED, Encoding, Feature
from fedsim.data._moments import LARGEST, Moments, moments
from fedsim.data._rows import (
    Block,
    describe,
    fingerprints,
    is_empty,
    is_empty_cell,
    is_number,
    is_text,
    join,
    length,
    take,
    text_of,
)
from fedsim.data._table import MOST_CATEGORIES, too_many_categories
from fedsim.data._types import Kind
from fedsim.errors import ConfigError, DataError, Problem
from fedsim.registry import suggest

__all__ = ["Survey", "Wanted", "is_test", "only_usable", "survey", "wanted_by"]

_FEW_CLASSES = 20  # whole numbers of a target that are taken for classes, as in `table`
_AT_ONCE = 8_192  # rows at least, where there are so many
_FEWEST = 5  # rows that can be split at all


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an experiment asks of a data set that is kept somewhere; see the parts' own fields.

    `where`: the data set's name in messages.
    """

    where: str
    target: str
    client: str | None
    features: tuple[str, ...]
    shape: tuple[int, ...]
    task: Literal["auto", "classification", "binary", "regression"]
    test: float
    test_rows: int
    missing: Literal["refuse", "drop", "mean"]

    def columns(self, there: Iterable[str]) -> tuple[str, ...]:
        """Return the columns to read of those that are there: features, target and client.

        Without a choice, features are in the order of their names, which no file changes.

        Raises `ConfigError` for one that is not there.
        """
        known = list(there)
        asked = {"data.target": (self.target,), "data.features": self.features}
        if self.client is not None:
            asked["partition.by"] = (self.client,)
        problems = [
            Problem(key, name, f"a column: {', '.join(known)}", suggest(name, known))
            for key, names in asked.items()
            for name in names
            if name not in known
        ]
        if self.target in self.features:
            problems.append(Problem("data.features", self.target, "features: it is the target"))
        if problems:
            raise ConfigError(problems)
        others = (name for name in known if name not in (self.target, self.client))
        features = self.features or tuple(sorted(others))
        if not features:
            raise DataError(f"{self.where} has no column to learn from beside {self.target!r}")
        besides = [self.target] + ([self.client] if self.client else [])
        return tuple(dict.fromkeys([*features, *besides]))


def wanted_by(part: Any, where: str) -> Wanted:
    """Return what a part asks for: its fields of the same names."""
    names = [own.name for own in fields(Wanted) if own.name != "where"]
    return Wanted(where, *(getattr(part, name) for name in names))


@dataclass(frozen=True, slots=True)
class Survey:
    """What the pass found.

    Of client i: its `names`, `counts` of rows, `tests` of them, `sums` of their fingerprints, by
    which rows that changed are noticed, and where they lie: in `places` from `offsets[i]` on, rows
    (file, first, end). `test`: rows for the server, a sample of all clients' test rows.
    """

    encoding: Encoding
    names: tuple[str, ...]
    counts: NDArray[np.int64]
    tests: NDArray[np.int64]
    sums: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    places: NDArray[np.int64]
    test: Block
    sha256: str

    def save(self, kept: Kept, more: Mapping[str, NDArray[Any]]) -> None:
        """Write it into the cache, with what its source wants to have kept."""
        arrays = {name: getattr(self, name) for name in _ARRAYS} | dict(more)
        texts = {name: c.tolist() for name, c in self.test.items() if c.dtype == object}
        arrays |= {f"test_{i}": c for i, c in enumerate(self.test.values()) if c.dtype != object}
        facts = {
            "encoding": asdict(self.encoding),
            "names": self.names,
            "sha256": self.sha256,
            "test": list(self.test),
            "test_texts": texts,
            "extras": list(more),
        }
        kept.write({name: Rows.of(array) for name, array in arrays.items()}, facts, self.sha256)

    @classmethod
    def load(cls, kept: Kept) -> "Survey":
        """Read it from the cache."""
        facts = kept.facts()
        texts = facts["test_texts"]
        test = {
            name: np.array(texts[name], dtype=object) if name in texts else kept.array(f"test_{i}")
            for i, name in enumerate(facts["test"])
        }
        return cls(
            encoding=Encoding.from_dict(facts["encoding"]),
            names=tuple(facts["names"]),
            test=test,
            sha256=facts["sha256"],
            **{name: kept.array(name) for name in _ARRAYS},
        )


_ARRAYS = ("counts", "tests", "sums", "offsets", "places")


@dataclass(frozen=True, slots=True)
class _Column:
    """What rows had in one column; two parts of the rows add up.

    `empty` cells; `values`: the texts, or the different numbers as long as they are few.
    """

    kind: str = "nothing"
    empty: int = 0
    moments: Moments = field(default_factory=Moments)
    values: frozenset[str] = frozenset()
    is_whole: bool = True
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Clients:
    """By client name: rows, test rows, sum of fingerprints; and where the rows lie."""

    numbers: dict[str, int] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    tests: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    places: list[NDArray[np.int64]] = field(default_factory=list)


def survey(blocks: Iterable[tuple[Block, NDArray[np.int64]]], wanted: Wanted) -> Survey:
    """Look at all rows once; `blocks` come with each row's place (file, first, end), or none.

    Raises `ConfigError` or `DataError` for what cannot be trained on.
    """
    clients = _Clients()
    trained: dict[str, _Column] = {}
    targets = _Column()
    refused: dict[str, int] = {}
    samples: list[Block] = []
    for given, given_places in _gathered(blocks):
        block, places = only_usable(given, wanted, refused, given_places)
        if refused or not length(block):
            continue
        prints = fingerprints(block)
        tested = is_test(prints, wanted)
        _count(clients, block, prints, tested, places, wanted)
        targets = _plus(targets, _target_facts(block[wanted.target]), wanted.target)
        train = take(block, ~tested)
        for name in block:
            if name != wanted.client:
                own = _facts(train[name], name, as_classes=name == wanted.target)
                trained[name] = _plus(trained.get(name, _Column()), own, name)
        samples = _sample([*samples, take(block, tested)], wanted)
    if refused:
        raise _holes(refused, wanted)
    if not clients.counts or sum(clients.counts) < _FEWEST:
        found = sum(clients.counts)
        raise DataError(f"{wanted.where} has {found} usable rows, at least {_FEWEST} are needed")
    encoding = _encoding(trained, targets, wanted)
    return _finished(clients, encoding, samples, wanted)


def _gathered(
    blocks: Iterable[tuple[Block, NDArray[np.int64]]],
) -> Iterator[tuple[Block, NDArray[np.int64]]]:
    """Join small blocks: a thousand files of few rows each cost more calls than rows."""
    waiting: list[tuple[Block, NDArray[np.int64]]] = []
    rows = 0
    for block, places in blocks:
        waiting.append((block, places))
        rows += length(block)
        if rows >= _AT_ONCE:
            yield join([one for one, _ in waiting]), np.concatenate([own for _, own in waiting])
            waiting, rows = [], 0
    if waiting:
        yield join([one for one, _ in waiting]), np.concatenate([own for _, own in waiting])


def is_test(prints: NDArray[np.uint64], wanted: Wanted) -> NDArray[np.bool_]:
    """Say of every row if it is in the test part: the lowest fingerprints are."""
    return prints < np.uint64(min(int(wanted.test * 2.0**64), 2**64 - 1))


def only_usable(
    block: Block,
    wanted: Wanted,
    refused: dict[str, int] | None = None,
    places: NDArray[np.int64] | None = None,
) -> tuple[Block, NDArray[np.int64]]:
    """Return the rows that `missing` lets in, and their places; the others count in `refused`.

    Raises `DataError` for numbers that are infinite.
    """
    places = np.zeros((length(block), 0), np.int64) if places is None else places
    for name, column in block.items():
        if is_number(column) and (np.abs(column) > LARGEST).any():
            raise DataError(f"{wanted.where} has infinite or too large numbers in: {name}")
    holes = {name: is_empty_cell(column) for name, column in block.items()}
    if wanted.missing == "drop":
        whole = ~np.logical_or.reduce(list(holes.values()))
        return (block, places) if whole.all() else (take(block, whole), places[whole])
    never = (wanted.target, wanted.client)
    for name, empty in holes.items():
        if (wanted.missing == "refuse" or name in never) and empty.any() and refused is not None:
            refused[name] = refused.get(name, 0) + int(empty.sum())
    return block, places


def _holes(refused: Mapping[str, int], wanted: Wanted) -> DataError:
    told = ", ".join(f"{name} ({count} rows)" for name, count in refused.items())
    return DataError(
        f"{wanted.where} has empty cells in: {told}. Set data.missing=drop to leave those rows "
        "out, or data.missing=mean to fill features with the column's mean (text: 'missing')"
    )


def _count(
    clients: _Clients,
    block: Block,
    prints: NDArray[np.uint64],
    tested: NDArray[np.bool_],
    places: NDArray[np.int64],
    wanted: Wanted,
) -> None:
    """Add a block's rows to its clients'."""
    names = text_of(block[wanted.client]) if wanted.client else [""] * len(prints)
    owners = np.empty(len(prints), np.int64)
    for row, name in enumerate(names):
        number = clients.numbers.setdefault(name, len(clients.numbers))
        if number == len(clients.counts):
            for tally in (clients.counts, clients.tests, clients.sums):
                tally.append(0)
        owners[row] = number
    different, place = np.unique(owners, return_inverse=True)
    counts, tests = np.bincount(place), np.bincount(place, tested)
    sums = np.zeros(len(different), np.uint64)
    np.add.at(sums, place, prints)
    for i, number in enumerate(different.tolist()):
        clients.counts[number] += int(counts[i])
        clients.tests[number] += int(tests[i])
        clients.sums[number] = (clients.sums[number] + int(sums[i])) % 2**64
    if places.shape[1]:
        clients.places.append(_merged(np.column_stack([owners, places])))


def _merged(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join places (client, file, first, end) that touch or lie on each other."""
    order = np.lexsort((places[:, 3], places[:, 2], places[:, 1], places[:, 0]))
    rows = places[order]
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (rows[1:, :2] != rows[:-1, :2]).any(axis=1) | (rows[1:, 2] > rows[:-1, 3])
    starts = np.flatnonzero(is_new)
    ends = np.maximum.reduceat(rows[:, 3], starts)
    return np.column_stack([rows[starts, :3], ends])


def _facts(column: NDArray[Any], name: str, *, as_classes: bool) -> _Column:
    """Return what there is to know of one block's column."""
    empty = is_empty_cell(column)
    if is_empty(column):
        return _Column(empty=len(column))
    if is_number(column):
        return _Column("numbers", int(empty.sum()), moments(column[~empty]))
    if is_text(column):
        values = frozenset(set(column[~empty].tolist()))
        if len(values) > MOST_CATEGORIES and not as_classes:
            raise too_many_categories(name)
        return _Column("text", int(empty.sum()), values=values)
    if column.dtype == np.uint8:
        pixels = column.reshape(-1).astype(np.float64) / 255.0
        return _Column("images", 0, moments(pixels), shape=column.shape[1:])
    if not np.isfinite(column).all():
        raise DataError(f"column {name!r} has arrays with NaN or infinity")
    return _Column("arrays", shape=column.shape[1:])


def _target_facts(column: NDArray[Any]) -> _Column:
    """Return the classes that a block's target could have."""
    if not is_number(column):
        if column.ndim > 1:
            raise DataError(f"the target holds {describe(column)}: numbers or text are needed")
        return _Column("text", values=frozenset(set(column.tolist())))
    different = np.unique(column)
    is_whole = bool((different == np.round(different)).all())
    few = different[: MOST_CATEGORIES + 1]
    return _Column("numbers", values=frozenset(text_of(few).tolist()), is_whole=is_whole)


def _plus(one: _Column, other: _Column, name: str) -> _Column:
    if "nothing" in (one.kind, other.kind):
        known, rest = (other, one) if one.kind == "nothing" else (one, other)
        if rest.empty and known.kind in ("images", "arrays"):
            raise DataError(f"column {name!r} has empty cells among its {known.kind}")
        return replace(known, empty=known.empty + rest.empty)
    if (one.kind, one.shape) != (other.kind, other.shape):
        words = [f"{c.kind} {c.shape or ''}".strip() for c in (one, other)]
        raise DataError(f"column {name!r} holds both {' and '.join(sorted(words))}")
    values = one.values | other.values
    if len(values) > 2 * MOST_CATEGORIES and one.kind == "numbers":
        values = frozenset(sorted(values)[: MOST_CATEGORIES + 1])
    return _Column(
        one.kind,
        one.empty + other.empty,
        one.moments + other.moments,
        values,
        one.is_whole and other.is_whole,
        one.shape,
    )


def _encoding(trained: Mapping[str, _Column], targets: _Column, wanted: Wanted) -> Encoding:
    """Return how to encode rows, from what the training part had."""
    names = [name for name in trained if name != wanted.target]
    features = tuple(_feature(name, trained[name]) for name in names)
    kind = _kind(targets, wanted)
    own = trained[wanted.target].moments
    if kind == "regression":
        if targets.kind != "numbers":
            accepted = f"'classification': {wanted.target!r} does not hold numbers"
            raise ConfigError([Problem("data.task", wanted.task, accepted)])
        encoding = Encoding(features, wanted.target, kind, (), own.mean, own.deviation)
    else:
        encoding = Encoding(features, wanted.target, kind, _classes(targets, kind, wanted))
    if not wanted.shape:
        return encoding
    single = encoding.single
    if single is None or np.prod(wanted.shape) != np.prod(single.shape):
        found = single.shape if single else f"{len(features)} columns"
        accepted = f"as many numbers as the one feature of arrays has; there is {found}"
        raise ConfigError([Problem("data.shape", list(wanted.shape), accepted)])
    return replace(encoding, shape=wanted.shape)


def _feature(name: str, found: _Column) -> Feature:
    if found.kind == "images":
        return Feature(name, "images", found.moments.mean, found.moments.deviation, (), found.shape)
    if found.kind == "arrays":
        return Feature(name, "arrays", shape=found.shape)
    if found.kind == "text":
        values = found.values | ({FILLED} if found.empty else frozenset())
        if len(values) > MOST_CATEGORIES:
            raise too_many_categories(name)
        return Feature(name, "text", values=tuple(sorted(values)))
    # As in `table`: filled with the mean first, so empty cells count as rows that do not vary.
    present = found.moments.count / max(found.moments.count + found.empty, 1)
    return Feature(name, "numbers", found.moments.mean, found.moments.deviation * sqrt(present))


def _kind(targets: _Column, wanted: Wanted) -> Kind:
    if wanted.task != "auto":
        return wanted.task
    is_few = targets.is_whole and len(targets.values) <= _FEW_CLASSES
    if targets.kind == "numbers" and not is_few:
        return "regression"
    return "binary" if len(targets.values) == 2 else "classification"


def _classes(targets: _Column, kind: Kind, wanted: Wanted) -> tuple[str, ...]:
    count = len(targets.values)
    if count < 2:
        only = next(iter(targets.values))
        raise DataError(f"{wanted.where}: the target {wanted.target!r} is {only!r} in every row")
    if kind == "binary" and count != 2:
        accepted = f"'classification': {wanted.target!r} has {count} different values"
        raise ConfigError([Problem("data.task", wanted.task, accepted)])
    if count > MOST_CATEGORIES:
        accepted = f"'regression': {wanted.target!r} has more than {MOST_CATEGORIES} values"
        raise ConfigError([Problem("data.task", wanted.task, accepted)])
    return tuple(sorted(targets.values, key=sort_key))


def _sample(parts: list[Block], wanted: Wanted) -> list[Block]:
    """Keep the test rows with the lowest fingerprints, at most `test_rows` and some to spare."""
    parts = [part for part in parts if length(part)]
    most = 2 * wanted.test_rows  # to spare: clients that had nothing but test rows keep theirs
    if sum(map(length, parts)) <= 2 * most:
        return parts
    whole = join(parts)
    return [take(whole, np.argsort(fingerprints(whole), kind="stable")[:most])]


def _finished(found: _Clients, encoding: Encoding, samples: list[Block], wanted: Wanted) -> Survey:
    """Put clients in the order of their names, and the server's test set together."""
    names = sorted(found.numbers)
    order = np.array([found.numbers[name] for name in names], dtype=np.int64)
    counts, tests = (np.array(given, np.int64)[order] for given in (found.counts, found.tests))
    sums = np.array(found.sums, np.uint64)[order]
    # A client of test rows alone would have nothing to train on: all of its rows train.
    alone = tests == counts
    tests = np.where(alone, 0, tests)
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    offsets, places = _located(found.places, rank)
    return Survey(
        encoding,
        tuple(names),
        counts,
        tests,
        sums,
        offsets,
        places,
        _test_rows(
            samples, {n for n, is_alone in zip(names, alone, strict=True) if is_alone}, wanted
        ),
        _sha256(encoding, names, counts, sums),
    )


def _located(
    parts: list[NDArray[np.int64]], rank: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if not parts:
        return np.zeros(len(rank) + 1, np.int64), np.zeros((0, 3), np.int64)
    places = np.concatenate(parts)
    places[:, 0] = rank[places[:, 0]]
    places = _merged(places)
    sizes = np.bincount(places[:, 0], minlength=len(rank))
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), places[:, 1:].copy()


def _test_rows(samples: list[Block], alone: set[str], wanted: Wanted) -> Block:
    """Return the server's test rows, in the order of their fingerprints."""
    if not samples:
        raise DataError(
            f"{wanted.where}: none of its rows fell to the test part: it has too few; raise "
            f"data.test = {wanted.test}"
        )
    whole = join(samples)
    prints = fingerprints(whole)
    order = np.argsort(prints, kind="stable")
    if wanted.client and alone:
        owners = text_of(whole[wanted.client])[order]
        order = order[np.array([owner not in alone for owner in owners], dtype=bool)]
    if not len(order):
        raise DataError(f"{wanted.where}: no client has both training and test rows")
    return take(whole, order[: wanted.test_rows])


def _sha256(
    encoding: Encoding,
    names: list[str],
    counts: NDArray[np.int64],
    sums: NDArray[np.uint64],
) -> str:
    """Hash what the data set holds: columns, classes, and every client's rows by fingerprint."""
    columns = [(feature.name, feature.kind, feature.shape) for feature in encoding.features]
    digest = hashlib.sha256(json.dumps([columns, encoding.target, encoding.classes]).encode())
    for one in zip(names, counts.tolist(), sums.tolist(), strict=True):
        digest.update(json.dumps(one).encode())
    return digest.hexdigest()


def sort_key(text: str) -> tuple[float, str]:
    """Sort classes as numbers where they are numbers."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
