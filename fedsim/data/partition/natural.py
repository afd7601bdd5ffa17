"""Natural clients: the hospital, the speaker, the value of a column is the client."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.data._types import Partition
from fedsim.data.partition._deal import deal
from fedsim.errors import ConfigError, Problem

__all__ = ["Natural"]


@dataclass(frozen=True, slots=True)
class Natural:
    """As flwr-datasets' `NaturalIdPartitioner`: one client per natural id, in the ids' order.

    `by`: the column that names the client, for data sets that let you choose one (`table`,
    `adult`, `huggingface`); data sets with one natural client (`heart-disease`, `shakespeare`)
    need nothing.
    """

    by: str | None = None

    def assign(
        self,
        y: NDArray[np.generic],
        group: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> Partition:
        """Deal out the examples. Raises `ConfigError` for data without natural clients."""
        if group is None:
            accepted = "this data set has no natural clients"
            hint = "For a table say which column is the client: partition.by=COLUMN."
            raise ConfigError([Problem("partition.name", "natural", accepted, hint)])
        ids, owner = np.unique(group, return_inverse=True)
        return deal(np.asarray(owner, dtype=np.int64), len(ids), rng)
