"""The pooled baseline: the clients as they are, and one more that has everybody's examples."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.data._types import ClientData, Examples, Meta
from fedsim.errors import DataError

__all__ = ["Together"]

_MOST_BYTES = 8 << 30


@dataclass(frozen=True, slots=True)
class Together:
    """`inner`'s clients 0..n-1 and, as client n, all their training examples in one place.

    Client n trains, the others are only asked how the model does on their held-out examples: the
    baseline learns from the same examples, and is tested on the same, as the federation.
    """

    inner: ClientData

    @property
    def meta(self) -> Meta:
        """Return the data's description."""
        return self.inner.meta

    @property
    def clients(self) -> int:
        """Return the number of clients, the one with everything included."""
        return self.inner.clients + 1

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of training examples of every client."""
        sizes = self.inner.sizes()
        return np.append(sizes, sizes.sum())

    def train(self, client: int) -> Examples:
        """Return one client's training examples, or everybody's.

        Raises `DataError` where they do not fit in memory.
        """
        if client < self.inner.clients:
            return self.inner.train(client)
        count = self.inner.clients
        size_bytes = int(self.inner.sizes().sum()) * self.inner.train(0).x[0].nbytes
        if size_bytes > _MOST_BYTES:
            raise DataError(
                f"mode = 'pooled' needs all {count} clients' examples in memory, "
                f"{size_bytes >> 30} GiB: use fewer clients for this baseline"
            )
        shards = [self.inner.train(i) for i in range(count)]
        return Examples(
            np.concatenate([s.x for s in shards]), np.concatenate([s.y for s in shards])
        )

    def held_out(self, client: int) -> Examples:
        """Return the examples one client is evaluated on; none for the one with everything."""
        held = self.inner.held_out(min(client, self.inner.clients - 1))
        return held if client < self.inner.clients else Examples(held.x[:0], held.y[:0])

    def test(self) -> Examples:
        """Return the server's test set."""
        return self.inner.test()
