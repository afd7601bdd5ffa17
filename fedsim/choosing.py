"""Whom a round asks, by the experiment's selection, and what it learns of the answers.

What a selection remembers is in the server's state, and so in the checkpoint.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedsim.answers import Answers
from fedsim.config.schema import RunConfig
from fedsim.core import Memo, State, Sum
from fedsim.federation import Federation
from fedsim.selection._pool import Drawn, Learned, Pool

__all__ = ["chosen", "factors_of", "learned", "most", "needs_updates", "weighted"]

_STATE = "selection/"


def needs_updates(config: RunConfig) -> bool:
    """Say whether a selection looks at every single update, or weighs them."""
    return bool(config.selection.needs == "updates")


def most(config: RunConfig, population: int, cohort: int) -> int:
    """Return how many clients a round asks at most, of a population, for a cohort."""
    if not hasattr(config.selection, "most"):
        return cohort
    return int(config.selection.most(population, cohort))


def chosen(
    federation: Federation,
    state: State,
    number: int,
    cohort: int | None,
    online: Sequence[int] | None = None,
) -> Drawn:
    """Draw the clients of a round; `cohort` None asks all, `online`: who is there, if not all."""
    config = federation.config
    clients = np.arange(federation.population) if online is None else np.array(online)
    asked = len(clients) if cohort is None else min(cohort, len(clients))
    pool = Pool(clients.astype(np.int64), asked, federation.clients.sizes(), config.seed, number)
    drawn: Drawn = config.selection.draw(pool, _memory(state))
    return drawn


def factors_of(drawn: Drawn) -> dict[int, float] | None:
    """Return what each client's update is multiplied by; None where all count as they are."""
    if drawn.factors is None:
        return None
    pairs = zip(drawn.clients.tolist(), drawn.factors.tolist(), strict=True)
    return dict(pairs)


def learned(
    federation: Federation,
    state: State,
    answers: Answers,
    number: int,
    seconds: Mapping[int, float],
) -> State:
    """Return what to keep in the server's state of what a round told; `seconds` by the clock."""
    selection = federation.config.selection
    if not hasattr(selection, "learn"):
        return {}
    records = {c: r for c, r in sorted(answers.records.items()) if not r.lost}
    norms = [
        answers.updates[c].weight * float(torch.linalg.vector_norm(answers.updates[c].vector))
        if c in answers.updates
        else math.nan
        for c in records
    ]
    told = Learned(
        round=number,
        population=federation.population,
        clients=np.array(list(records), dtype=np.int64),
        weights=np.array([r.weight for r in records.values()], dtype=np.float64),
        losses=np.array([r.metrics.get("loss", math.nan) for r in records.values()]),
        norms=np.array(norms, dtype=np.float64),
        seconds=np.array([seconds.get(c, math.nan) for c in records], dtype=np.float64),
    )
    memory = selection.learn(_memory(state), told)
    return {_STATE + name: value for name, value in memory.items()}


def weighted(federation: Federation, answers: Answers, online: Sequence[int] | None = None) -> Sum:
    """Return the sum of updates times their factors, over the weight of all who might be asked.

    In client order, so that it is the same for any number of workers.
    """
    assert answers.factors is not None
    sizes = federation.clients.sizes()
    weight = float(sizes.sum() if online is None else sizes[np.array(online)].sum())
    terms = sorted(answers.updates.items())
    vector: Tensor = torch.zeros_like(terms[0][1].vector, dtype=torch.float64)
    for client, update in terms:
        vector += answers.factors[client] * update.weight * update.vector.double()
    return Sum(vector, weight, len(answers.updates))


def _memory(state: State) -> Memo:
    return {k.removeprefix(_STATE): v for k, v in state.items() if k.startswith(_STATE)}
