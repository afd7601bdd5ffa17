"""The numbers of the clients behind a reply, in columns: on the wire, and as rounds read them.

A reply may stand for a thousand clients: an object for each, several times on its way to the store,
would take longer than small clients take to train.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedsim.exact import InvalidUpdateError

__all__ = ["Table", "chosen", "joined", "read", "records", "row", "understood", "whole"]

# Among a table's metrics, no names that one has.
_NORM = "norm of what is in the sum"
_SENT = "bytes of what was sent"
_FIXED = 3  # columns that are no metrics


@dataclass(frozen=True, slots=True)
class Table:
    """One entry per client: who it is, what it counts for, how long it took, what it reports.

    `norms`: where privacy rests on norms, that of what each added to a sum with others; NaN
    elsewhere. `sent`: the bytes of its update as it was sent, where it is in a sum with others.
    """

    clients: Sequence[int]
    weights: Sequence[float]
    seconds: Sequence[float]
    metrics: Sequence[Mapping[str, float]]
    norms: Sequence[float]
    sent: Sequence[float]

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.clients)

    def columns(self) -> tuple[Sequence[Any], ...]:
        """Return all columns, in the order of the fields."""
        return self.clients, self.weights, self.seconds, self.metrics, self.norms, self.sent


def row(
    client: int,
    weight: float,
    seconds: float,
    metrics: Mapping[str, float],
    norm: float = math.nan,
    sent: float = math.nan,
) -> Table:
    """Return the table of one client."""
    return Table([client], [weight], [seconds], [metrics], [norm], [sent])


def joined(tables: Iterable[Table]) -> Table:
    """Return the clients of several tables as one, in that order."""
    columns = zip(*(table.columns() for table in tables), strict=True)
    return Table(*(list(chain.from_iterable(column)) for column in columns))


def chosen(table: Table, wanted: Sequence[bool]) -> Table:
    """Return the table of some of its clients."""
    if all(wanted):
        return table
    return Table(*(list(compress(column, wanted)) for column in table.columns()))


def records(table: Table) -> dict[str, ArrayRecord | ConfigRecord]:
    """Return a table as it travels: float64, a row per client; NaN for a metric it lacks."""
    names = sorted(set().union(*table.metrics))
    columns = [table.clients, table.weights, table.seconds]
    columns += [[own.get(name, math.nan) for own in table.metrics] for name in names]
    for name, column in (_NORM, table.norms), (_SENT, table.sent):
        if not all(map(math.isnan, column)):
            names.append(name)
            columns.append(column)
    values = np.array(columns, dtype=np.float64).T
    return {
        "clients": ArrayRecord({"values": Array(np.ascontiguousarray(values))}),
        "metrics": ConfigRecord({"names": names}),
    }


def read(content: RecordDict) -> Table:
    """Return what `records` wrote into a reply; at least one client.

    Raises `fedsim.exact.InvalidUpdateError` for anything else.
    """
    with understood("the table of clients"):
        names = [str(name) for name in content.config_records["metrics"]["names"]]
        values = content.array_records["clients"]["values"].numpy()
        if values.ndim != 2 or values.shape[1] != _FIXED + len(names):
            raise InvalidUpdateError("the table of clients has not a column for each metric")
        if not len(values):
            raise InvalidUpdateError("a reply of no client")
        columns = values.T.astype(np.float64)
        ids, weights, seconds = columns[:_FIXED]
        if not np.array_equal(ids, np.trunc(ids)):
            raise InvalidUpdateError(
                "the table of clients has numbers of clients that are not whole"
            )
        own = dict(zip(names, columns[_FIXED:], strict=True))
        unknown = np.full(len(values), math.nan)
        norms, sent = own.pop(_NORM, unknown).tolist(), own.pop(_SENT, unknown).tolist()
        clients = [*map(int, ids.tolist())]
        return Table(
            clients, weights.tolist(), seconds.tolist(), _metrics(own, len(ids)), norms, sent
        )


def _metrics(columns: Mapping[str, np.ndarray], clients: int) -> list[dict[str, float]]:
    """Return what each client reports; NaN is what it does not."""
    if not columns:
        return [{} for _ in range(clients)]
    values = np.stack([*columns.values()], axis=1)
    found = [dict(zip(columns, own, strict=True)) for own in values.tolist()]
    if np.isnan(values).any():
        return [{name: value for name, value in own.items() if value == value} for own in found]
    return found


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Turn whatever goes wrong while a reply is read into an invalid update: a lost client."""
    try:
        yield
    except InvalidUpdateError:
        raise
    except Exception as error:
        reason = f"{what} of the reply cannot be read: {type(error).__name__}: {error}"
        raise InvalidUpdateError(reason) from error


def whole(number: float) -> int:
    """Return the number of a client; raises `ValueError` for one that is not whole."""
    if number != int(number):
        raise ValueError(f"{number} is no client")
    return int(number)
