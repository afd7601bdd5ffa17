"""Synthetic clients without end: every client's data are made only where they are used."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from fedsim import rng
from fedsim.data._types import Examples, Meta

__all__ = ["Synthetic"]


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Synthetic(`model_skew`, `input_skew`) of FedProx, for any number of clients.

    Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, appendix C.1: client
    k labels by its own softmax model W_k ~ N(u_k, 1), u_k ~ N(0, alpha), and its inputs have mean
    v_k ~ N(B_k, 1), B_k ~ N(0, beta), covariance diag(j^-1.2). alpha is `model_skew`, beta is
    `input_skew`. Additions of ours: all clients' models share a part W_0 ~ N(0, 1), so that with
    both skews 0 the clients agree and there is one model to find. Shard sizes are log-normal
    around `examples` with deviation `size_skew` (0: all equal).
    """

    clients: Annotated[int, Ge(1)] = 100
    examples: Annotated[int, Ge(2)] = 20
    features: Annotated[int, Ge(1)] = 60
    classes: Annotated[int, Ge(2)] = 10
    model_skew: Annotated[float, Ge(0)] = 0.0
    input_skew: Annotated[float, Ge(0)] = 0.0
    size_skew: Annotated[float, Ge(0)] = 0.0
    test_examples: Annotated[int, Gt(0)] = 2000

    files: ClassVar = ()
    facts: ClassVar = {"task": "classification", "examples": "any", "licence": "made up"}

    def open(self, seed: int, holdout: float) -> "SyntheticClients":
        """Return the population; no client's data are made yet."""
        return SyntheticClients(self, seed, holdout)


@dataclass(frozen=True, slots=True)
class SyntheticClients:
    """The clients of `Synthetic`, each made from (seed, client) alone."""

    part: Synthetic
    seed: int
    holdout: float

    @property
    def clients(self) -> int:
        """Return the population."""
        return self.part.clients

    @property
    def meta(self) -> Meta:
        """Describe the data; their hash is that of what determines them."""
        text = f"{self.part}/{self.seed}"
        return Meta(
            name="synthetic",
            kind="classification",
            input_shape=(self.part.features,),
            outputs=self.part.classes,
            sha256=f"{rng.derive(self.seed, 'synthetic/' + text):064x}",
            class_names=tuple(str(i) for i in range(self.part.classes)),
            source="made by fedsim",
            licence="",
        )

    def sizes(self) -> NDArray[np.int64]:
        """Return every client's number of training examples; computed once, not to be changed."""
        return _sizes(self)

    def train(self, client: int) -> Examples:
        """Make one client's training examples."""
        total = int(_totals(self.part, self.seed)[client])
        made = self._make(client, total)
        keep = total - int(self._held(np.array([total]))[0])
        return Examples(made.x[:keep], made.y[:keep])

    def held_out(self, client: int) -> Examples:
        """Make one client's held-out examples."""
        total = int(_totals(self.part, self.seed)[client])
        made = self._make(client, total)
        keep = total - int(self._held(np.array([total]))[0])
        return Examples(made.x[keep:], made.y[keep:])

    def test(self) -> Examples:
        """Make the server's test set: a few examples of each of many clients never trained on."""
        each = 20
        strangers = range(-(-self.part.test_examples // each))
        parts = [self._make(self.part.clients + i, each) for i in strangers]
        x, y = np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts])
        return Examples(x[: self.part.test_examples], y[: self.part.test_examples])

    def _held(self, total: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.minimum((total * self.holdout).astype(np.int64), total - 1)

    def _make(self, client: int, count: int) -> Examples:
        part = self.part
        weights, bias = _shared_model(part, self.seed)
        own = rng.stream(self.seed, "synthetic/client", client=client)
        if part.model_skew:
            u = own.normal(0, np.sqrt(part.model_skew))
            weights = weights + own.normal(u, 1, weights.shape)
            bias = bias + own.normal(u, 1, bias.shape)
        mean = np.zeros(part.features)
        if part.input_skew:
            mean = own.normal(own.normal(0, np.sqrt(part.input_skew)), 1, part.features)
        scale = np.arange(1, part.features + 1) ** -0.6  # the root of the covariance j^-1.2
        x = mean + scale * own.standard_normal((count, part.features))
        y = (x @ weights + bias).argmax(axis=1)
        return Examples(x.astype(np.float32), y.astype(np.int64))


@lru_cache(maxsize=4)
def _totals(part: Synthetic, seed: int) -> NDArray[np.int64]:
    """Return every client's number of examples, held-out ones included: read-only.

    Where all are equal it is one number in memory, whatever the population.
    """
    if not part.size_skew:
        return np.broadcast_to(np.int64(part.examples), part.clients)
    sizes = rng.stream(seed, "synthetic/sizes").standard_normal(part.clients)
    sizes *= part.size_skew  # in place: a million clients are 8 MB each time
    np.exp(sizes, out=sizes)
    sizes *= part.examples
    np.round(sizes, out=sizes)
    totals = np.maximum(2, sizes, out=sizes).astype(np.int64)
    totals.flags.writeable = False
    return totals


@lru_cache(maxsize=4)
def _sizes(clients: SyntheticClients) -> NDArray[np.int64]:
    totals = _totals(clients.part, clients.seed)
    if not clients.part.size_skew:
        one = totals[:1]
        return np.broadcast_to(one - clients._held(one), totals.shape)
    sizes: NDArray[np.int64] = totals - clients._held(totals)
    sizes.flags.writeable = False
    return sizes


@lru_cache(maxsize=4)
def _shared_model(part: Synthetic, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shared = rng.stream(seed, "synthetic/shared")
    weights = shared.standard_normal((part.features, part.classes))
    return weights, shared.standard_normal(part.classes)
