"""Which clients take part in a round, and which drop out of it: plain functions of their draws."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fedsim import rng

__all__ = ["BEFORE_THE_SUM", "PHASES", "Phase", "dropouts", "dropped_out", "uniform"]

Phase = Literal["keys", "shares", "masked", "confirm", "unmask"]
#: The phases of a secure sum.
PHASES: tuple[Phase, ...] = get_args(Phase)
#: Who is lost in one of these is not in the sum; who is lost later has sent its update.
BEFORE_THE_SUM = PHASES[:3]


def uniform(population: int, cohort: int | None, stream: np.random.Generator) -> NDArray[np.int64]:
    """Draw `cohort` distinct clients uniformly; all of them for None. Sorted, int64.

    >>> import numpy as np
    >>> len(uniform(1_000_000, 3, np.random.default_rng(0)))
    3
    """
    if cohort is None or cohort >= population:
        return np.arange(population, dtype=np.int64)
    drawn = stream.choice(population, size=cohort, replace=False, shuffle=False)
    return np.sort(drawn.astype(np.int64))


def dropouts(
    clients: Sequence[int], share: float, *, seed: int, round: int, purpose: str = "dropouts"
) -> dict[int, Phase]:
    """Draw who of a cohort drops out, and in which phase: each client by a stream of its own.

    >>> dropouts([3, 4], 0.0, seed=1, round=1)
    {}
    """
    lost: dict[int, Phase] = {}
    for client in clients if share else ():
        stream = rng.stream(seed, purpose, round=round, client=client)
        if stream.random() < share:
            lost[client] = PHASES[stream.integers(len(PHASES))]
    return lost


def dropped_out(phase: str) -> str:
    """Say why a client that `dropouts` drew does not count."""
    return f"dropped out (simulated) in phase {phase}"
