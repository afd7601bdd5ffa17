"""DP-FTRL by banded matrix factorization: each round's noise takes back part of the noise before.

What training needs are weighted sums of the clipped sums x of all rounds so far, A x, with a lower
triangular workload A. The mechanism releases C x + z, z independent normals, for a lower triangular
C with few bands; times A C^-1 that is A x + A C^-1 z. So round t adds row t of C^-1 z, which has a
smaller A C^-1 z than independent noise has. No sampling is assumed and none amplifies; who takes
part again does so `min_separation` rounds later at the earliest (`separation.py`).

Choquette-Choo et al., "(Amplified) Banded Matrix Factorization", NeurIPS 2023 (arXiv 2306.08153):
with no more bands than `min_separation` the columns that one user takes part in are orthogonal, so
the sensitivity is known exactly. McKenna, "Scaling up the Banded Matrix Factorization Mechanism",
ICLR 2025 (arXiv 2405.15913): Toeplitz C for many rounds. Gaussian noise holds for inputs that
depend on earlier releases, as gradients do: Denisov et al., NeurIPS 2022, Theorem 2.1.

Whoever sees what is kept between rounds can take the noise off: it is as secret as a key. A round
that is released twice, with fresh noise, is not what is accounted here. To release integers, round
x + noise: that looks at nothing but the mechanism's output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.events import Release
from fedsim.privacy.separation import most_participations

__all__ = [
    "Banded",
    "Correlation",
    "Error",
    "independent",
    "optimal",
    "release",
    "square_root",
    "squared_errors",
    "sums",
    "toeplitz",
    "workload",
]

#: Of which squared error C is optimal: the mean over all rounds, or the last round's alone, which
#: for a workload of sums is the largest.
Error = Literal["mean", "last"]

_Vector = NDArray[np.float64]


class Correlation(Protocol):
    """A lower triangular C, and the noise C^-1 z round by round (`Banded`, `blt.Buffered`)."""

    @property
    def rounds(self) -> int:
        """Return the number of rounds."""
        ...

    def dense(self) -> Tensor:
        """Return C as float64 [rounds, rounds]."""
        ...

    def sensitivity(self, participations: int, min_separation: int) -> float:
        """Return the L2 sensitivity of C x, where each user's part of x_t has norm 1 at most.

        Over all patterns of at most so many participations, `min_separation` rounds apart or more;
        neighbours differ in one user, all of whose contributions are zero in one of them.
        """
        ...

    def row_sensitivity(self, participations: int, min_separation: int) -> float:
        """Return the L2 sensitivity of a single row of C x, the largest; see `sensitivity`."""
        ...

    def begin(self, like: Tensor) -> dict[str, Any]:
        """Return the state before round 1: tensors `like` the model, and numbers."""
        ...

    def correlate(self, state: dict[str, Any], fresh: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Return the noise of the next round, row t of C^-1 z, and the state after it.

        `fresh` [model] is z_t, independent normals. Nothing is changed in place. Raises
        `ValueError` after the last round.
        """
        ...


@dataclass(frozen=True, slots=True)
class Banded:
    """Lower triangular C with few bands: `table[t, j]` is C[t, t - j], 0 for j > t; float64.

    Raises `ValueError` for another table, or a diagonal that is not positive.
    """

    table: Tensor

    def __post_init__(self) -> None:
        """Check the table."""
        if self.table.dim() != 2 or not 1 <= self.table.shape[1] <= self.table.shape[0]:
            raise ValueError(f"a table [rounds, bands], not {tuple(self.table.shape)}")
        if self.table.triu(1).any():
            raise ValueError("there are numbers for rounds before the first")
        if not bool((self.table[:, 0] > 0).all()):
            raise ValueError("the diagonal is not positive")

    @property
    def rounds(self) -> int:
        """Return the number of rounds."""
        return self.table.shape[0]

    @property
    def bands(self) -> int:
        """Return the number of bands, the diagonal included."""
        return self.table.shape[1]

    def dense(self) -> Tensor:
        """Return C as float64 [rounds, rounds]."""
        whole = self.table.new_zeros(self.rounds, self.rounds)
        for j in range(self.bands):
            whole.diagonal(-j).copy_(self.table[j:, j])
        return whole

    def sensitivity(self, participations: int, min_separation: int) -> float:
        """Return the L2 sensitivity of C x, exactly: no two participations share a row of C.

        Raises `ValueError` where C has more bands than `min_separation`.
        """
        self._must_separate(min_separation)
        squares = _column_norms(self.table).square()
        best = torch.zeros(self.rounds, dtype=torch.float64)
        for _ in range(min(participations, most_participations(self.rounds, min_separation))):
            earlier = torch.zeros_like(best)
            earlier[min_separation:] = best[: max(0, self.rounds - min_separation)]
            best = (squares + earlier).cummax(dim=0).values
        return float(best[-1].sqrt())

    def row_sensitivity(self, participations: int, min_separation: int) -> float:
        """Return the L2 sensitivity of a row of C x: of its rounds a user is in one at most.

        Raises what `sensitivity` raises.
        """
        self._must_separate(min_separation)
        return float(self.table.abs().max())

    def _must_separate(self, min_separation: int) -> None:
        if self.bands > min_separation:
            raise ValueError(
                f"{self.bands} bands but a least separation of {min_separation} rounds: "
                f"use at most {min_separation} bands"
            )

    def begin(self, like: Tensor) -> dict[str, Any]:
        """Return the state before round 1: `bands` - 1 tensors `like` the model, and a number."""
        past = {f"past{slot}": torch.zeros_like(like) for slot in range(self.bands - 1)}
        return {"step": 0, **past}

    def correlate(self, state: dict[str, Any], fresh: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Return the next round's noise and the state after it; see `Correlation`."""
        step, slots = int(state["step"]), self.bands - 1
        if step >= self.rounds:
            raise ValueError(f"the factorization is for {self.rounds} rounds")
        row = self.table[step].tolist()
        noise = fresh.clone()
        for j in range(1, min(slots, step) + 1):
            noise.sub_(state[f"past{(step - j) % slots}"], alpha=row[j])
        noise.div_(row[0])
        kept = {f"past{step % slots}": noise} if slots else {}
        return noise, {**state, **kept, "step": step + 1}


def sums(rounds: int, momentum: float = 0.0) -> Tensor:
    """Return how much a round counts at each later time, itself included: [rounds], float64.

    The first column of the workload of SGD, with heavy-ball momentum in [0, 1).

    >>> sums(3).tolist(), sums(3, momentum=0.5).tolist()
    ([1.0, 1.0, 1.0], [1.0, 1.5, 1.75])
    """
    return (momentum ** torch.arange(rounds, dtype=torch.float64)).cumsum(dim=0)


def workload(rounds: int, momentum: float = 0.0, lr_factors: Tensor | None = None) -> Tensor:
    """Return A [rounds, rounds]: row t is what of each round is in the model after round t.

    `lr_factors` [rounds] of the server's learning rate, such as a cooldown's; all 1 where None.

    >>> workload(3, lr_factors=torch.tensor([1.0, 1.0, 0.5])).tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.5]]
    """
    place = torch.arange(rounds)
    lag = place[:, None] - place[None, :]
    velocity = torch.where(lag >= 0, momentum ** lag.clamp(min=0).double(), 0.0)
    if lr_factors is not None:
        velocity = velocity * lr_factors.double()[:, None]
    return velocity.cumsum(dim=0)


def independent(rounds: int) -> Banded:
    """Return C = 1: independent noise in every round, as without factorization."""
    return Banded(torch.ones(rounds, 1, dtype=torch.float64))


def square_root(rounds: int, bands: int) -> Banded:
    """Return the first bands of the square root of the prefix sums, columns normalized.

    Coefficients binom(2j, j) / 4^j: Fichtenberger, Henzinger and Upadhyay, ICML 2023.
    """
    return _from_column(_square_root(bands), rounds)


def toeplitz(column: Tensor, bands: int, *, error: Error = "mean") -> Banded:
    """Return the Toeplitz C with the least error for a workload of sums (see `sums`).

    It takes seconds for 10,000 rounds. Its columns near the end, which have fewer bands, are then
    normalized too, which lowers the error further at the same sensitivity.
    """
    place, rounds = np.arange(len(column)), len(column)
    weights = (rounds - place) / rounds if error == "mean" else np.ones(rounds)
    start = _square_root(bands)[1:]
    found = _least(lambda free: _toeplitz_loss(free, column.numpy(), weights), start)
    return _from_column(np.concatenate([[1.0], found]), rounds)


def optimal(whole: Tensor, bands: int) -> Banded:
    """Return the banded C with the least mean error for a workload [rounds, rounds].

    A second for 150 rounds; time grows with the cube of the rounds, so that for more than about 500
    `toeplitz` is for you: its error is a few percent larger.
    """
    rounds = len(whole)
    start = torch.from_numpy(_square_root(bands)).expand(rounds, -1).tril()
    free = torch.ones(rounds, bands).tril().bool()
    free[:, 0] = False

    def loss(values: _Vector) -> tuple[float, _Vector]:
        own = torch.from_numpy(values).requires_grad_()
        total = _dense_loss(start.masked_scatter(free, own), whole)
        (slope,) = torch.autograd.grad(total, own)
        return float(total.detach()), slope.numpy()

    found = _least(loss, start[free].numpy())
    return _normalized(start.masked_scatter(free, torch.from_numpy(found)))


def squared_errors(correlation: Correlation, whole: Tensor) -> Tensor:
    """Return of each round the variance of a coordinate of A C^-1 z, for z of variance 1.

    Times (noise multiplier x sensitivity x clipping norm)^2 it is the variance of what noise does
    to a coordinate of the model by then, at learning rate 1. `whole`: see `workload`.
    """
    found = torch.linalg.solve_triangular(correlation.dense(), whole, upper=False, left=False)
    return torch.sum(found.square(), dim=1)


def release(standard_deviation: float, sensitivity: float) -> Release:
    """Return what all rounds together are accounted as: one Gaussian release.

    `standard_deviation`: of a coordinate of z, in clipping norms.
    """
    return Release("matrix", standard_deviation / sensitivity, count=1)


def _square_root(bands: int) -> _Vector:
    place = np.arange(1, bands)
    return np.concatenate([[1.0], np.cumprod((2 * place - 1) / (2 * place))])


def _from_column(column: _Vector, rounds: int) -> Banded:
    """Return the Toeplitz matrix with a first column, its columns normalized."""
    return _normalized(torch.from_numpy(column).expand(rounds, -1).tril())


def _normalized(table: Tensor) -> Banded:
    """Return a matrix with columns divided by their norms."""
    return Banded(_divided(table, _column_norms(table)))


def _column_norms(table: Tensor) -> Tensor:
    """Return the norms of the columns: [rounds]."""
    columns = [torch.roll(table[:, j], -j) for j in range(table.shape[1])]
    return torch.stack(columns).square().sum(dim=0).sqrt()


def _divided(table: Tensor, norms: Tensor) -> Tensor:
    """Return a table with column s of the matrix divided by `norms[s]`."""
    parts = [table[:, j] / torch.roll(norms, j) for j in range(table.shape[1])]
    return torch.stack(parts, dim=1)


def _dense_loss(table: Tensor, whole: Tensor) -> Tensor:
    """Return the logarithm of the mean squared error once columns are normalized."""
    scaled = whole * _column_norms(table)
    unscaled = torch.stack([torch.diag_embed(table[j:, j], -j) for j in range(table.shape[1])])
    found = torch.linalg.solve_triangular(unscaled.sum(dim=0), scaled, upper=False, left=False)
    return torch.sum(found.square()).log()


def _toeplitz_loss(free: _Vector, column: _Vector, weights: _Vector) -> tuple[float, _Vector]:
    """Return log(error x squared sensitivity) of coefficients (1, *free), and its gradient.

    With power series, A C^-1 has coefficients e = a / c, and d e / d c_j = - x^j e / c.
    """
    from scipy.signal import lfilter

    series = np.concatenate([[1.0], free])
    errors = lfilter([1.0], series, column)
    again = lfilter([1.0], series, errors)
    total, norm = float(weights @ errors**2), float(series @ series)
    lags = range(1, len(series))
    slope = [-2 * (weights[j:] * errors[j:]) @ again[: len(again) - j] for j in lags]
    return float(np.log(total * norm)), np.array(slope) / total + 2 * free / norm


def _least(loss: Callable[[_Vector], tuple[float, _Vector]], start: _Vector) -> _Vector:
    """Return where a loss, which comes with its gradient, is least."""
    from scipy.optimize import minimize

    if not len(start):
        return start
    options = {"maxiter": 2000, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-9}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x, dtype=np.float64)
