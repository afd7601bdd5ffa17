"""Noise on each number: with an epsilon for the ledger, or called unprotected.

With `epsilon`, this is local differential privacy of one cell (Kasiviswanathan et al., "What can we
learn privately?", FOCS 2008): numbers are clamped to bounds that the schema declares, so one record
replaced by any other moves a number by `high` - `low` at most, and the noise fits that. Laplace:
Dwork et al., TCC 2006; Gaussian: Balle and Wang, ICML 2018. It comes from the operating system,
with the arithmetic of `fedsim.privacy.noise`, which no last bit betrays.

Every call draws anew, and is a release of its own: the mean of two releases has less noise.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Gt, Lt

from fedsim.anonymize.treatments._context import ColumnContext
from fedsim.anonymize.treatments._numbers import number_column, numbers
from fedsim.errors import ConfigError, Problem
from fedsim.privacy.events import Adjacency, Release

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Noise"]


@dataclass(frozen=True, slots=True)
class Noise:
    """Clamp to [`low`, `high`] and add noise: of an `epsilon`, or of a `scale` that claims nothing.

    `delta`: for Gaussian noise with an epsilon. `scale`: of Laplace noise, or the standard
    deviation. `outside`: results beyond the bounds are kept, which leaves means right, or take the
    nearest bound.
    """

    low: float
    high: float
    mechanism: Literal["laplace", "gaussian"] = "laplace"
    epsilon: Annotated[float, Gt(0)] | None = None
    delta: Annotated[float, Gt(0), Lt(1)] | None = None
    scale: Annotated[float, Gt(0)] | None = None
    outside: Literal["keep", "nearest"] = "keep"

    is_streaming: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("sensitive", "insensitive")
    adjacency: ClassVar[Adjacency] = "replace-one"

    def __post_init__(self) -> None:
        """Check that the bounds are some, and that noise is set in one way."""
        problems = []
        if not 0 < self.high - self.low < math.inf:
            accepted = f"a number > low, {self.low:g}, and a difference that is finite"
            problems.append(Problem("high", self.high, accepted))
        if (self.epsilon is None) == (self.scale is None):
            accepted = "a number > 0, or else scale (unprotected noise); one of both, not both"
            problems.append(Problem("epsilon", self.epsilon, accepted))
        needs_delta = self.epsilon is not None and self.mechanism == "gaussian"
        if needs_delta != (self.delta is not None):
            accepted = "a number > 0 and < 1 with Gaussian noise and an epsilon, else unset"
            problems.append(Problem("delta", self.delta, accepted))
        # What doubles can add to numbers of this size: see fedsim.privacy.noise.
        if not problems and not (self.high - self.low) * 2.0**-40 < self.spread < math.inf:
            name = "scale" if self.epsilon is None else "epsilon"
            accepted = "noise that is finite, and not lost in the last digits of the bounds"
            problems.append(Problem(name, getattr(self, name), accepted))
        if problems:
            raise ConfigError(problems)

    @property
    def title(self) -> str:
        """What a report calls it."""
        if self.epsilon is None:
            return "unprotected noise"
        delta = "" if self.delta is None else f", delta {self.delta:g}"
        return f"{self.mechanism} noise, epsilon {self.epsilon:g}{delta} for each record"

    @property
    def spread(self) -> float:
        """The scale of the Laplace noise, or the standard deviation of the Gaussian."""
        return self.scale or self._multiplier() * 2 * self._reach

    def releases(self, rows: int, *, per_subject: int = 1) -> tuple[Release, ...]:
        """Return what a column of `rows` spends, for the ledger; nothing if it claims nothing.

        Records are noised one by one, so each spends this once (unit "local", adjacency
        "replace-one"). `per_subject`: how many rows one person has at most, who spends it as often.
        """
        if self.epsilon is None or not rows:
            return ()
        return (Release(self.mechanism, self._multiplier(), count=per_subject),)

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return noisy numbers.

        Raises `DataError` for cells that are none, missing ones included where there is an epsilon:
        that a cell is missing would be told as it is.
        """
        import torch

        from fedsim.privacy.noise import Stream, add_gaussian, add_laplace

        found = numbers(column, ctx)
        there = ~np.isnan(found)
        if self.epsilon is not None and not there.all():
            row = column.index[int((~there).argmax())]
            raise ctx.refused("noise with an epsilon cannot hide a missing cell", row)
        centre = self.low + self._reach
        add = add_laplace if self.mechanism == "laplace" else add_gaussian
        inside = np.clip(found[there], self.low, self.high) - centre  # the sum below is bounded too
        noisy = add(torch.from_numpy(inside), self.spread, Stream.secret(), bound=self._reach)
        found[there] = noisy.numpy() + centre
        if self.outside == "nearest":
            found = np.clip(found, self.low, self.high)
        return number_column(found, column, is_whole=False)

    @property
    def _reach(self) -> float:
        """Half of what a number may move by."""
        return (self.high - self.low) / 2

    def _multiplier(self) -> float:
        """Return scale, or standard deviation, / sensitivity."""
        assert self.epsilon is not None
        if self.mechanism == "laplace":
            return 1 / self.epsilon
        from fedsim.privacy.mechanisms.gaussian import analytic_noise_multiplier

        assert self.delta is not None
        return analytic_noise_multiplier(self.epsilon, self.delta)
