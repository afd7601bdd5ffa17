"""Pathological label skew: every client has examples of so many classes and no others.

Li et al., "Federated learning on non-IID data silos: an experimental study", ICDE 2022, "#C=k":
client i has class i mod K and further random ones; a class is divided evenly among those who have
it. flwr-datasets' `PathologicalPartitioner` with "first-deterministic" is the same rule, but loops
over clients x classes in Python and leaves out classes that nobody drew; here every class is given
to somebody, so that no example is lost. Measured (1,000,000 examples, 100,000 clients, 2 cores;
`benchmarks/partition.py`): 0.5 s here; there 11 to 23 s and 1 to 3 ms per client to read it.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from fedsim.data._types import Partition
from fedsim.data.partition._deal import class_ids, deal, require_enough
from fedsim.errors import ConfigError, Problem

__all__ = ["Pathological"]

_ROWS = 10_000  # clients drawn at a time, to bound memory with many classes


@dataclass(frozen=True, slots=True)
class Pathological:
    """Label skew by number of classes: `classes_per_client` = 1 is the hardest."""

    clients: Annotated[int, Ge(1)] = 20
    classes_per_client: Annotated[int, Ge(1)] = 2

    def assign(
        self,
        y: NDArray[np.generic],
        group: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> Partition:
        """Deal out the examples.

        Raises `ConfigError` where not every class can be given out, or a class has fewer examples
        than clients that should have some.
        """
        classes = class_ids(y, "pathological")
        counts = np.bincount(classes)
        self._require_cover(len(counts))
        require_enough(self.clients, len(y), self.classes_per_client, "classes_per_client")
        held = _cover(self._draw(len(counts), rng), len(counts), rng)
        holders = np.bincount(held.ravel(), minlength=len(counts))
        self._require_examples(counts, holders)
        # All (client, class) pairs, class by class: each class's examples are cut evenly.
        pairs = np.argsort(held.ravel(), kind="stable")
        owners = pairs // self.classes_per_client
        kinds = held.ravel()[pairs]
        rank = np.arange(len(pairs)) - np.repeat(np.cumsum(holders) - holders, holders)
        pieces = counts[kinds] // holders[kinds] + (rank < counts[kinds] % holders[kinds])
        order = rng.permutation(len(y))
        order = order[np.argsort(classes[order], kind="stable")]
        owner = np.empty(len(y), dtype=np.int64)
        owner[order] = np.repeat(owners, pieces)
        return deal(owner, self.clients, rng)

    def _draw(self, classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the classes of every client [clients, classes_per_client], all different."""
        held = np.empty((self.clients, self.classes_per_client), dtype=np.int64)
        for start in range(0, self.clients, _ROWS):
            rows = np.arange(start, min(start + _ROWS, self.clients))
            keys = rng.random((len(rows), classes))
            keys[np.arange(len(rows)), rows % classes] = -1.0  # comes first
            held[rows] = np.argsort(keys, axis=1)[:, : self.classes_per_client]
        return held

    def _require_cover(self, classes: int) -> None:
        if self.classes_per_client > classes:
            accepted = f"at most {classes}, the number of classes"
            problem = Problem("partition.classes_per_client", self.classes_per_client, accepted)
            raise ConfigError([problem])
        if self.clients * self.classes_per_client < classes:
            accepted = (
                f"{self.clients} clients x {self.classes_per_client} classes cannot hold all "
                f"{classes} classes"
            )
            hint = "Raise partition.clients or partition.classes_per_client."
            raise ConfigError([Problem("partition.clients", self.clients, accepted, hint)])

    def _require_examples(self, counts: NDArray[np.int64], holders: NDArray[np.int64]) -> None:
        short = np.flatnonzero(counts < holders)
        if len(short):
            accepted = (
                f"class {short[0]} has {counts[short[0]]} examples for {holders[short[0]]} clients"
            )
            hint = "Lower partition.clients or partition.classes_per_client."
            raise ConfigError([Problem("partition.clients", self.clients, accepted, hint)])


def _cover(held: NDArray[np.int64], classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Give every class that nobody has to a client in place of one that another client has too.

    Only needed with fewer clients than classes. Then first columns are all different, so a class
    held twice is in a later column somewhere.
    """
    held = held.copy()
    for absent in np.setdiff1d(np.arange(classes), held):
        holders = np.bincount(held.ravel(), minlength=classes)
        rows, columns = np.nonzero(holders[held[:, 1:]] > 1)
        pick = rng.integers(len(rows))
        held[rows[pick], columns[pick] + 1] = absent
    return held
