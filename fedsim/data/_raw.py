"""The raw rows of a table's clients: dealt out exactly as the examples that models see."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data._clients import PooledClients, deal, with_client_column
from fedsim.data._declared import declared_of
from fedsim.data._types import RawTable, Tabular
from fedsim.errors import ConfigError, Problem

__all__ = ["RawClients", "open_raw"]


@dataclass(frozen=True, slots=True)
class RawClients:
    """A table whose rows are dealt out: `dealt` says to whom, by the places of its examples."""

    table: RawTable
    dealt: PooledClients

    def rows(self, client: int) -> NDArray[np.int64]:
        """Return the places of one client's training rows, in `table.train`."""
        return self.dealt.train_part.shard(client)

    def train(self, client: int) -> Any:
        """Return one client's training rows, a pandas frame."""
        return self.table.train.iloc[self.rows(client)].reset_index(drop=True)


def open_raw(
    data: Any, partition: Any, *, seed: int, holdout: float, data_dir: Path | None = None
) -> RawClients:
    """Return the raw rows of an experiment's clients; nothing of them is kept anywhere.

    The same rows are dealt to the same clients as by `open_clients`, which raises the same.
    """
    if not isinstance(data, Tabular):
        name = type(data).__name__.lower()
        raise ConfigError([Problem("data.name", name, "a data set that is a table")])
    data = with_client_column(data, partition)
    if (declared := declared_of(data)) is not None:
        from fedsim.data._declared_raw import raw_pooled  # which is built on this

        return raw_pooled(data, declared)
    table = data.frames(data_dir)
    return RawClients(table, deal(table.dataset, partition, seed=seed, holdout=holdout))
