"""Rows of the server's own, for a strategy that trusts nothing else (`strategies/fltrust.py`).

In a simulation they are held out of what clients would train on, or of the server's test rows.
Between real clients the server has no row of theirs: only its own test rows can be had.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim import rng
from fedsim.data import ClientData, Examples, Meta
from fedsim.errors import ConfigError, Problem

__all__ = ["Rooted", "must_have_rows", "rooted"]


@dataclass(frozen=True)
class Rooted:
    """Clients without the rows that the server keeps: `taken` of each client, or `tested`."""

    inner: ClientData
    taken: dict[int, NDArray[np.int64]]
    tested: NDArray[np.int64]

    @property
    def meta(self) -> Meta:
        """Describe the data."""
        return self.inner.meta

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return self.inner.clients

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of training examples of every client."""
        sizes = self.inner.sizes().copy()
        for client, rows in self.taken.items():
            sizes[client] -= len(rows)
        return sizes

    def train(self, client: int) -> Examples:
        """Return one client's training examples, without those of the server."""
        shard = self.inner.train(client)
        rows = self.taken.get(client)
        return shard if rows is None else _without(shard, rows)

    def held_out(self, client: int) -> Examples:
        """Return the examples one client is evaluated on."""
        return self.inner.held_out(client)

    def test(self) -> Examples:
        """Return the server's test set, without the rows that it trains on."""
        test = self.inner.test()
        return _without(test, self.tested) if len(self.tested) else test

    @cached_property
    def root(self) -> Examples:
        """Return the rows that the server trains on."""
        if len(self.tested):
            test = self.inner.test()
            return Examples(test.x[self.tested], test.y[self.tested])
        parts = [(self.inner.train(client), rows) for client, rows in sorted(self.taken.items())]
        x, y = (np.concatenate([getattr(s, of)[rows] for s, rows in parts]) for of in "xy")
        return Examples(x, y)


def rooted(strategy: Any, clients: ClientData, seed: int) -> tuple[ClientData, Examples | None]:
    """Return the clients without the server's rows, and these; None for who wants none.

    Every client keeps a row at least. Raises `ConfigError` for more rows than there are.
    """
    if not hasattr(strategy, "root_rows"):
        return clients, None
    count, stream = strategy.root_rows, rng.stream(seed, "root rows")
    spare = clients.sizes() - 1
    most = int(spare.sum()) if strategy.root == "train" else len(clients.test().y) - 1
    if count > most:
        accepted = f"at most {most}, what can be spared of the {strategy.root} rows"
        raise ConfigError([Problem("strategy.root_rows", count, accepted)])
    nothing = np.zeros(0, dtype=np.int64)
    if strategy.root == "test":
        drawn = np.sort(stream.choice(most + 1, count, replace=False))
        found = Rooted(clients, {}, drawn)
        return found, found.root
    often = stream.multivariate_hypergeometric(spare, count, method="marginals")
    taken = {
        int(client): np.sort(stream.choice(spare[client] + 1, often[client], replace=False))
        for client in np.flatnonzero(often)
    }
    found = Rooted(clients, taken, nothing)
    return found, found.root


def must_have_rows(strategy: Any, *, has_own: bool) -> None:
    """Raise `ConfigError` for a strategy whose rows a server between real clients cannot have.

    `has_own`: the server has test rows.
    """
    if not hasattr(strategy, "root_rows"):
        return
    if strategy.root == "train":
        accepted = "'test' in a federation of real clients: the server has no row of theirs"
        raise ConfigError([Problem("strategy.root", "train", accepted, "Set strategy.root=test.")])
    if not has_own:
        accepted = "a strategy without rows of the server's own: this server has none"
        name = type(strategy).__name__.lower()
        raise ConfigError([Problem("strategy.name", name, accepted, "rfa and multi-krum do.")])


def _without(examples: Examples, rows: NDArray[np.int64]) -> Examples:
    group = examples.group
    return replace(
        examples,
        x=np.delete(examples.x, rows, axis=0),
        y=np.delete(examples.y, rows, axis=0),
        group=None if group is None else np.delete(group, rows, axis=0),
    )
