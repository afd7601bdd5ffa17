"""Tables whose clients share nothing but what was declared: each encodes its rows by itself.

In a simulation means, deviations, categories, classes and the size of the largest client could be
read off all rows together. Between organisations nobody has all rows. `data.declared` says in
public what has to be the same everywhere; a pooled table with it is then encoded, split and dealt
out exactly as each of its clients does alone with a file of its own.

What is declared is public. Numbers that were computed from rows say something about these rows, and
no epsilon covers that: take them from the literature or from ranges that are known, or publish them
on purpose.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from fedsim.data._contents import SPLIT_SEED, content_sha256
from fedsim.data._types import Dataset, Examples, Kind, Meta
from fedsim.errors import ConfigError, DataError, MissingDataError, Problem
from fedsim.fields import read_table

__all__ = [
    "Categories",
    "Declared",
    "Elsewhere",
    "Number",
    "OwnRows",
    "dealt_own",
    "declared_of",
    "filled",
    "meta_of",
    "open_own",
    "pooled",
    "read_columns",
    "split_own",
    "targets",
]

_PATH = "data.declared"
_FEWEST = 5  # rows of a client that can be split at all
_READERS = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Number:
    """A column of numbers: (x - `mean`) / `std` is what a model sees."""

    mean: float
    std: Annotated[float, Gt(0)]


@dataclass(frozen=True, slots=True)
class Categories:
    """A column of texts, one-hot; a text that is none of `values` is all zeros."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Declared:
    """What all clients of a table have in common.

    `clients`: their names, client 0 first: what the client column of a pooled table holds.
    `most_rows`: no client trains on more; it bounds what a client counts for. `task` and `classes`:
    of the target, or `mean` and `std` where it is a number. `rows`: how many each client trains on,
    exactly, where that is public; who accounts for examples on a server needs it. `columns`: the
    features, of nothing else is anything read.
    """

    clients: tuple[str, ...]
    most_rows: Annotated[int, Ge(1)]
    task: Kind
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: Annotated[float, Gt(0)] = 1.0
    rows: tuple[int, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise `ConfigError` for what does not fit together."""
        problems = []
        if not self.clients or len(set(self.clients)) < len(self.clients):
            accepted = "names of clients, each once"
            problems.append(Problem(f"{_PATH}.clients", list(self.clients), accepted))
        least = {"classification": 2, "binary": 2, "regression": 0}[self.task]
        most = least if self.task != "classification" else len(self.classes)
        if not least <= len(set(self.classes)) == len(self.classes) <= most:
            accepted = "two different names" if least else "unset: the target is a number"
            accepted = "names of classes, each once" if self.task == "classification" else accepted
            problems.append(Problem(f"{_PATH}.classes", list(self.classes), accepted))
        if self.rows and len(self.rows) != len(self.clients):
            accepted = f"{len(self.clients)} numbers, one for each client"
            problems.append(Problem(f"{_PATH}.rows", list(self.rows), accepted))
        if self.rows and max(self.rows) > self.most_rows:
            accepted = f"at least {max(self.rows)}, which {_PATH}.rows has"
            problems.append(Problem(f"{_PATH}.most_rows", self.most_rows, accepted))
        if problems:
            raise ConfigError(problems)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the features in the order in which a model sees them."""
        return tuple(sorted(self.columns))

    @property
    def width(self) -> int:
        """Return how many numbers a model sees."""
        columns = self.columns.values()
        return sum(1 if isinstance(own, Number) else len(own.values) for own in columns)


@dataclass(frozen=True, slots=True)
class OwnRows:
    """A file with the rows of one client alone, or, for `client` -1, with what a server tests on.

    "" is no file. `most_rows`: the first ones in the file; None takes all.
    """

    path: str = ""
    client: int = -1
    most_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The clients of a federation as one of its machines sees them: at most one has its rows here.

    `own`: (training, held-out) by client. `most`: of others, what is declared stands for how many
    rows they have.
    """

    meta: Meta
    declared: Declared
    own: Mapping[int, tuple[Examples, Examples]]
    tested: Examples

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return len(self.declared.clients)

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of training examples of each client, of others as declared."""
        declared, count = self.declared, len(self.declared.clients)
        sizes = np.array(declared.rows or [declared.most_rows] * count, dtype=np.int64)
        for client, (train, _) in self.own.items():
            sizes[client] = len(train.y)
        return sizes

    def train(self, client: int) -> Examples:
        """Return the training examples of the client whose rows are here.

        Raises `DataError` for any other.
        """
        return self._of(client)[0]

    def held_out(self, client: int) -> Examples:
        """Return the examples that this client is evaluated on. Raises `DataError` for others."""
        return self._of(client)[1]

    def test(self) -> Examples:
        """Return the server's test set; nothing on a client."""
        return self.tested

    def _of(self, client: int) -> tuple[Examples, Examples]:
        if client not in self.own:
            raise DataError(f"client {client} keeps its rows to itself: they are not here")
        return self.own[client]


def declared_of(data: Any) -> Declared | None:
    """Return what a data set declares, None where that is nothing.

    Raises `ConfigError` with everything that is wrong with it.
    """
    content = dict(getattr(data, "declared", None) or {})
    if not content:
        return None
    problems: list[Problem] = []
    columns = content.pop("columns", {})
    if not isinstance(columns, Mapping):
        problems.append(Problem(f"{_PATH}.columns", columns, "a table of columns"))
        columns = {}
    found = read_table(_PATH, Declared, content, problems)
    read = {str(name): _column(str(name), own, problems) for name, own in columns.items()}
    if data.target in read:
        accepted = "features: the target is none"
        problems.append(Problem(f"{_PATH}.columns", data.target, accepted))
    if problems:
        raise ConfigError(problems)
    declared: Declared = replace(found, columns=read)
    return declared


def pooled(data: Any, declared: Declared, client: str) -> Dataset:
    """Return a pooled table as its clients would each encode and split their own rows.

    `client`: the column with their names. Training and test parts have one client after the other,
    with the client's number as its group. Raises `ConfigError`, `DataError` or `MissingDataError`.
    """
    frame = _read(data.path, declared, data.target, [client])
    trains, tests = [], []
    owner = frame[client].to_numpy()
    if strange := sorted({str(name) for name in owner} - set(declared.clients)):
        raise DataError(
            f"{data.path}: column {client!r} names clients that {_PATH}.clients has not: "
            f"{', '.join(strange[:5])}"
        )
    for number, name in enumerate(declared.clients):
        train, test = _own(frame[owner == name], data, declared, f"client {name!r}")
        trains.append(replace(train, group=np.full(len(train.y), number, np.int64)))
        tests.append(replace(test, group=np.full(len(test.y), number, np.int64)))
    parts = _joined(trains), _joined(tests)
    return Dataset(meta_of(data, declared, content_sha256(*parts)), *parts)


def open_own(data: Any, declared: Declared, own: OwnRows) -> Elsewhere:
    """Return the clients as the machine with one client's file, or the server's, sees them.

    Raises what `pooled` raises, and `ConfigError` for a client that there is not.
    """
    nothing = Examples(np.zeros((0, declared.width), np.float32), targets([], declared, ""))
    if own.client >= len(declared.clients):
        accepted = f"less than {len(declared.clients)}, the number of {_PATH}.clients"
        raise ConfigError([Problem("partition-id", own.client, accepted)])
    if not own.path:
        text = json.dumps(dict(data.declared), sort_keys=True)
        meta = meta_of(data, declared, hashlib.sha256(text.encode()).hexdigest())
        return Elsewhere(meta, declared, {}, nothing)
    frame = _read(own.path, declared, data.target, [], own.most_rows)
    if own.client < 0:
        tested = _encoded(frame, data.target, declared, own.path)
        return Elsewhere(meta_of(data, declared, content_sha256(tested)), declared, {}, tested)
    parts = _own(frame, data, declared, own.path)
    if declared.rows and declared.rows[own.client] != len(parts[0].y):
        accepted = f"{len(parts[0].y)} for client {own.client}, as in its file"
        raise ConfigError([Problem(f"{_PATH}.rows", declared.rows[own.client], accepted)])
    meta = meta_of(data, declared, content_sha256(*parts))
    return Elsewhere(meta, declared, {own.client: parts}, nothing)


def _column(name: str, content: Any, problems: list[Problem]) -> Number | Categories | None:
    kind = Categories if isinstance(content, Mapping) and "values" in content else Number
    found: Number | Categories | None = read_table(
        f"{_PATH}.columns.{name}", kind, content, problems
    )
    return found


def meta_of(data: Any, declared: Declared, sha256: str) -> Meta:
    """Describe a table by what it declares."""
    is_classes = declared.task == "classification"
    return Meta(
        name=Path(data.path).stem or "table",
        kind=declared.task,
        input_shape=(declared.width,),
        outputs=len(declared.classes) if is_classes else 1,
        sha256=sha256,
        class_names=declared.classes,
        group_names=declared.clients,
        source=Path(data.path).name,
        most_examples=declared.most_rows,
    )


def _own(frame: Any, data: Any, declared: Declared, where: str) -> tuple[Examples, Examples]:
    """Return one client's rows as (training, held-out) parts: of nobody else's is anything known.

    Raises `DataError` for too few rows, and for more than are declared.
    """
    columns = declared.columns.items()
    means = {name: own.mean for name, own in columns if isinstance(own, Number)}
    frame = filled(frame, data, where, means)
    whole = _encoded(frame, data.target, declared, where)
    train, test = dealt_own(whole.y, data, declared, where)
    return Examples(whole.x[train], whole.y[train]), Examples(whole.x[test], whole.y[test])


def dealt_own(
    y: NDArray[np.generic], data: Any, declared: Declared, where: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of one client's training and held-out rows.

    Raises `DataError` for too few rows, and for more than are declared.
    """
    if len(y) < _FEWEST:
        raise DataError(f"{where} has {len(y)} usable rows, at least {_FEWEST} are needed")
    train, test = split_own(y, data, declared.task)
    if len(train) > declared.most_rows:
        raise DataError(
            f"{where} has {len(train)} training rows, {_PATH}.most_rows is {declared.most_rows}"
        )
    return train, test


def split_own(
    y: NDArray[np.generic], data: Any, task: Kind
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split one client's rows as `data.test` says, each class in its proportion, ascending.

    Systematic sampling: of the rows in random order, sorted by class, every so manieth is held out.
    Without scikit-learn, whose import is most of what a message costs a node.
    """
    held = min(max(1, math.ceil(len(y) * data.test)), len(y) - 1)
    order = np.random.Generator(np.random.Philox(SPLIT_SEED)).permutation(len(y))
    if task != "regression":
        order = order[np.argsort(y[order], kind="stable")]
    places = ((np.arange(held) + 0.5) * len(y) / held).astype(np.int64)
    test = order[places]
    return np.sort(np.delete(order, places)), np.sort(test)


def _encoded(frame: Any, target: str, declared: Declared, where: str) -> Examples:
    blocks: list[NDArray[np.float32]] = [np.zeros((len(frame), 0), np.float32)]
    for name in declared.names:
        column = declared.columns[name]
        if isinstance(column, Number):
            values = frame[name].to_numpy(dtype=np.float64)[:, None]
            if not np.isfinite(values).all():
                raise DataError(f"{where} has empty cells or infinite numbers in: {name}")
            blocks.append(((values - column.mean) / column.std).astype(np.float32))
        else:
            text = frame[name].to_numpy().astype(str)
            hot = text[:, None] == np.array(column.values)[None, :]
            blocks.append(hot.astype(np.float32))
    return Examples(np.concatenate(blocks, axis=1), targets(frame[target], declared, where))


def targets(column: Any, declared: Declared, where: str) -> NDArray[np.generic]:
    """Return a target as classes by number, or as numbers. Raises `DataError` for other classes."""
    if declared.task == "regression":
        values = np.asarray(column, dtype=np.float64)
        return ((values - declared.mean) / declared.std).astype(np.float32)
    index = {name: i for i, name in enumerate(declared.classes)}
    found = np.array([index.get(str(value), -1) for value in column], dtype=np.int64)
    if (found < 0).any():
        raise DataError(
            f"{where}: {int((found < 0).sum())} rows have a target that {_PATH}.classes has not"
        )
    return found


def _read(
    path: str,
    declared: Declared,
    target: str,
    more: Sequence[str],
    most_rows: int | None = None,
) -> Any:
    """Return the declared columns of a file, the target and `more`; of nothing else a cell."""
    numbers = {n for n, own in declared.columns.items() if isinstance(own, Number)}
    numbers |= {target} if declared.task == "regression" else set()
    wanted = [*declared.names, target, *more]
    kinds = {name: np.float64 if name in numbers else str for name in wanted}
    return read_columns(path, kinds, most_rows)


def read_columns(path: str, kinds: Mapping[str, Any] | None, most_rows: int | None = None) -> Any:
    """Return columns of a file as the types that are wanted, as they are for None.

    Cells of texts stay as they are written: what a column's other cells are, in one file or in
    another, must not change them.
    """
    file = Path(path)
    if file.suffix.lower() not in _READERS:
        accepted = f"a file that ends in {', '.join(_READERS)}"
        raise ConfigError([Problem("data.path", path, accepted)])
    if not file.is_file():
        raise MissingDataError(f"data.path = {path!r}: there is no such file")
    try:
        return _parsed(file, kinds, most_rows)
    except (ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise MissingDataError(f"{path}: there is no such file") from error
        raise DataError(f"{path} cannot be read: {error}") from error


def _parsed(file: Path, kinds: Mapping[str, Any] | None, most_rows: int | None) -> Any:
    import pandas as pd

    if file.suffix.lower() == ".parquet":
        names = _names_of_parquet(file)
        _require_all(kinds or (), names)
        frame = pd.read_parquet(file, columns=list(kinds) if kinds else None)
        frame = frame if most_rows is None else frame.iloc[:most_rows]
        return frame if kinds is None else _as_kinds(frame, kinds)
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    _require_all(kinds or (), pd.read_csv(file, sep=separator, nrows=0).columns)
    how: dict[str, Any] = {}
    if kinds is not None:
        wanted = {name: kind for name, kind in kinds.items() if kind is not None}
        how = {"usecols": list(kinds), "dtype": wanted}
    return pd.read_csv(file, sep=separator, nrows=most_rows, **how)


def _names_of_parquet(file: Path) -> list[str]:
    import pyarrow.parquet

    names: list[str] = pyarrow.parquet.read_schema(file).names
    return names


def _as_kinds(frame: Any, kinds: Mapping[str, Any]) -> Any:
    made = {
        name: frame[name].astype(np.float64)
        if kind is np.float64
        else frame[name].where(frame[name].isna(), frame[name].astype(str))
        for name, kind in kinds.items()
        if kind is not None
    }
    return frame.assign(**made)


def _require_all(columns: Any, names: Any) -> None:
    """Refuse a file without one of the columns; what else it has is not told."""
    for name in columns:
        if name not in names:
            raise ConfigError([Problem("data", name, "a column of the file")])


def filled(frame: Any, data: Any, where: str, means: Mapping[str, float]) -> Any:
    """Deal with empty cells as `data.missing` says; `means`: of the columns of numbers.

    Raises `DataError` for empty cells that are left.
    """
    if data.missing == "drop":
        return frame.dropna()
    holes = frame.isna().sum().to_dict()
    if data.missing == "mean":
        holes = {data.target: holes[data.target]}
    if any(holes.values()):
        told = ", ".join(f"{name} ({count} rows)" for name, count in holes.items() if count)
        raise DataError(f"{where} has empty cells in: {told}. Set data.missing=drop or mean")
    return frame.fillna({name: means.get(name, "missing") for name in frame.columns})


def _joined(parts: Sequence[Examples]) -> Examples:
    x, y = (np.concatenate([getattr(part, name) for part in parts]) for name in "xy")
    return Examples(x, y, np.concatenate([part.group for part in parts if part.group is not None]))
