"""Who shares secrets and masks with whom: the full graph, or a sparse one with proven bounds.

Bell et al., "Secure single-server aggregation with (poly)logarithmic overhead" (CCS 2020): in a
random Harary graph of logarithmic degree, the masks of the honest survivors hide everything but
their sum, except with probability 2^-sigma, and every mask can be taken off, except with
probability 2^-eta. Degree and threshold are the least that the paper's conditions allow, with the
exact hypergeometric tails and the bound on disconnection of Google's `fcp` library
(`secagg/server/graph_parameter_finder.cc`), whose published parameters this module reproduces.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedsim.crypto import CtrStream, ctr_stream

__all__ = ["FULL_BELOW", "MOST_CLIENTS", "Shape", "neighbours", "plan"]

FULL_BELOW = 60  # clients: the sparse graph saves nothing there
MOST_CLIENTS = 1_000_000
_ROUNDING = 1e-14  # 0.29 * 100 is 28.999999999999996 and means 29


@dataclass(frozen=True, slots=True)
class Shape:
    """The number of neighbours that each client has, and how many shares give a secret."""

    degree: int
    threshold: int


@lru_cache(maxsize=64)
def plan(
    n: int,
    *,
    adversaries: float,
    dropouts: float,
    semi_malicious: bool,
    sigma: float = 40,
    eta: float = 20,
) -> Shape:
    """Return the cheapest graph that is safe for `n` clients, and works for them.

    `adversaries` and `dropouts` are the largest fractions of clients that collude with the server
    and that are lost; `semi_malicious`: the server may also lie about who was lost, after the keys
    were exchanged. The graph is unsafe with probability 2^-sigma at most, and fails with 2^-eta.

    A sparse graph's threshold counts shares held by neighbours. The full graph, below `FULL_BELOW`
    clients and wherever no sparse one will do, leaves nothing to chance; its threshold counts all
    n shares, the owner's too, and is a majority also against an honest server.

    Raise `ValueError` for fractions that no graph can serve.

    >>> plan(1000, adversaries=0.1, dropouts=0.1, semi_malicious=False)
    Shape(degree=48, threshold=27)
    """
    _check(n, adversaries, dropouts)
    bad, lost = (math.floor((rate + _ROUNDING) * n) for rate in (adversaries, dropouts))
    if n >= FULL_BELOW:
        odds = _Odds.of(n, bad, lost)
        # 2^-(sigma + 1) for each of two ways to be unsafe: disconnected, or enough shares collude.
        unsafe, failing = 2.0 ** -(sigma + 1), 2.0**-eta / n
        for degree in range(2, n - 1, 2):
            if odds.disconnected(degree) >= unsafe:
                continue
            least = odds.adversaries_at_most(degree, unsafe / n)
            if semi_malicious:  # 2 x threshold > degree + adversaries: no two sets of neighbours
                least = math.ceil((least + degree - 1.25) / 2)
            if least < odds.survivors_at_least(degree, failing):
                return Shape(degree, max(least + 1, 2))
    return _full(n, bad, lost, semi_malicious)


def _full(n: int, bad: int, lost: int, semi_malicious: bool) -> Shape:
    """Bonawitz et al. 2017, theorems 6.3 to 6.5: t > colluding, or 2t > n + colluding."""
    survivors = n - lost
    threshold = (n + bad) // 2 + 1 if semi_malicious else max(bad + 1, min(n // 2 + 1, survivors))
    if threshold > survivors:
        raise ValueError(
            f"of {n} clients {bad} may be adversaries and {lost} lost: {survivors} survivors are "
            f"fewer than the {threshold} shares that a secret needs"
        )
    return Shape(n - 1, threshold)


def _check(n: int, adversaries: float, dropouts: float) -> None:
    if not 2 <= n <= MOST_CLIENTS:
        raise ValueError(f"n = {n}: 2 to {MOST_CLIENTS} clients")
    for name, rate in (("adversaries", adversaries), ("dropouts", dropouts)):
        if not 0 <= rate < 1:
            raise ValueError(f"{name} = {rate}: a fraction, 0 <= {name} < 1")
    if adversaries + dropouts >= 1:
        raise ValueError(
            f"adversaries = {adversaries} and dropouts = {dropouts}: less than 1 together, or no "
            "honest client is left"
        )


@dataclass(frozen=True, slots=True)
class _Odds:
    """Chances in a random graph where `bad` clients are adversaries and `lost` are lost."""

    n: int
    bad: int
    lost: int
    factorials: NDArray[np.float64]  # their logarithms

    @classmethod
    def of(cls, n: int, bad: int, lost: int) -> "_Odds":
        factorials = np.fromiter(map(math.lgamma, range(1, n + 2)), np.float64, count=n + 1)
        return cls(n, bad, lost, factorials)

    def disconnected(self, degree: int) -> float:
        """Bound the chance that those removed cut the honest survivors in two.

        Two runs of degree / 2 successive places in the ring must be removed: a union bound over
        the pairs of runs.
        """
        removed, log = self.bad + self.lost, self.factorials
        if degree > removed:
            return 0.0
        pairs = self.n * (self.n - degree - 1) / 2
        chance = log[removed] + log[self.n - degree] - log[self.n] - log[removed - degree]
        return pairs * math.exp(chance)

    def adversaries_at_most(self, degree: int, chance: float) -> int:
        """Return the least x so that P(adversaries among the neighbours > x) < chance."""
        honest = self._below(self.n - self.bad, degree)
        return degree - int(np.count_nonzero(honest < chance))

    def survivors_at_least(self, degree: int, chance: float) -> int:
        """Return the largest x so that P(survivors among the neighbours < x) < chance."""
        return int(np.count_nonzero(self._below(self.n - self.lost, degree) < chance))

    def _below(self, marked: int, drawn: int) -> NDArray[np.float64]:
        """Return P(X <= x), x = 0 ... drawn - 1, X the marked among those drawn of all."""
        x = np.arange(max(0, drawn - (self.n - marked)), min(marked, drawn) + 1)
        log = self.factorials
        chances = np.zeros(drawn + 1)
        chances[x] = np.exp(
            (log[marked] - log[x] - log[marked - x])
            + (log[self.n - marked] - log[drawn - x] - log[self.n - marked - drawn + x])
            - (log[self.n] - log[drawn] - log[self.n - drawn])
        )
        return np.cumsum(chances)[:drawn]


def neighbours(seed: bytes, n: int, degree: int) -> list[list[int]]:
    """Return the neighbours of 0 ... n - 1 in the graph of a seed, each list in order.

    A Harary graph (clients in a ring, each joined to the degree / 2 next on either side) whose ring
    is in random order; all, where `degree` is n - 1. Whoever knows the seed makes the same graph.
    Raise `ValueError` for a degree that is odd or out of range.
    """
    if degree == n - 1:
        return [[*range(i), *range(i + 1, n)] for i in range(n)]
    if degree % 2 or not 0 < degree < n:
        raise ValueError(f"degree = {degree}: even and below {n - 1}, or {n - 1} for all")
    ring = np.array(_shuffled(n, _words(ctr_stream(seed))), np.int32)
    steps = np.delete(np.arange(-(degree // 2), degree // 2 + 1), degree // 2)
    around = np.sort(ring[(np.arange(n)[:, None] + steps) % n], axis=1)
    found = np.empty_like(around)
    found[ring] = around
    rows: list[list[int]] = found.tolist()
    return rows


def _shuffled(n: int, words: Iterator[int]) -> list[int]:
    """Return 0 ... n - 1 in an order drawn evenly (Fisher and Yates; Durstenfeld, CACM 7, 1964)."""
    order = list(range(n))
    for last in range(n - 1, 0, -1):
        other = _even(last + 1, words)
        order[last], order[other] = order[other], order[last]
    return order


def _even(bound: int, words: Iterator[int]) -> int:
    """Return an even draw of 0 ... bound - 1: words of the last, incomplete run are passed over."""
    complete = 2**32 - 2**32 % bound
    return next(word for word in words if word < complete) % bound


def _words(stream: CtrStream) -> Iterator[int]:
    while True:
        yield from np.frombuffer(stream.read(4096), "<u4").tolist()
