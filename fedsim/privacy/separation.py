"""Clients in turn: who takes part again does so many rounds later, whatever chance does.

What banded matrix factorization rests on (`matrix.py`; Choquette-Choo et al., NeurIPS 2023, call it
b-min-separation). The population stands in a random order, which is the same in every round, and
each round takes the next `cohort` of it, from the beginning again where it ends. A client at
position p that takes part in rounds s < t has (t - s) cohort = m population + d with m >= 1 and
|d| < cohort, so t - s > population / cohort - 1: at least floor(population / cohort) rounds pass.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Participation", "cyclic", "most_participations", "participation"]


@dataclass(frozen=True, slots=True)
class Participation:
    """What cohorts were like: the fewest rounds between two of one client, the most of one client.

    `separation` is None where nobody took part twice.
    """

    separation: int | None
    most: int


def cyclic(
    population: int, cohort: int, min_separation: int, round: int, stream: np.random.Generator
) -> NDArray[np.int64]:
    """Return the clients of a round, counted from 0: sorted, `cohort` of them.

    `stream` decides the order of the population and must be made anew from the same seed in every
    round. Raises `ValueError` where clients would come again before `min_separation` rounds.

    >>> rounds = [cyclic(4, 2, 2, t, np.random.default_rng(0)).tolist() for t in range(4)]
    >>> sorted(rounds[0] + rounds[1]), rounds[0] == rounds[2]
    ([0, 1, 2, 3], True)
    """
    if cohort * min_separation > population:
        raise ValueError(
            f"{population} clients in cohorts of {cohort} come again after "
            f"{population // cohort} rounds, not {min_separation}: "
            f"use cohorts of at most {population // min_separation}"
        )
    order = stream.permutation(population)
    first = round * cohort % population
    return np.sort(order[(first + np.arange(cohort)) % population]).astype(np.int64)


def most_participations(rounds: int, min_separation: int) -> int:
    """Return in how many rounds one client can take part at most.

    >>> most_participations(150, 10), most_participations(151, 10)
    (15, 16)
    """
    return -(-rounds // min_separation)


def participation(cohorts: Iterable[Sequence[int]]) -> Participation:
    """Read from the cohorts of a run, round by round, how they were apart: what its log must show.

    >>> participation([[0, 1], [2, 3], [], [1, 2]])
    Participation(separation=2, most=2)
    """
    latest: dict[int, int] = {}
    often: dict[int, int] = {}
    separation: int | None = None
    for round, cohort in enumerate(cohorts):
        for client in map(int, cohort):
            if client in latest:
                gap = round - latest[client]
                separation = gap if separation is None else min(separation, gap)
            latest[client] = round
            often[client] = often.get(client, 0) + 1
    return Participation(separation, max(often.values(), default=0))
