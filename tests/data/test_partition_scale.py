"""A hundred thousand clients: dealt out correctly in bounded memory (times: benchmarks/)."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from fedsim import rng
from fedsim.data.partition.dirichlet import Dirichlet
from fedsim.data.partition.iid import Iid
from fedsim.data.partition.natural import Natural
from fedsim.data.partition.pathological import Pathological
from fedsim.data.partition.quantity import Quantity
from fedsim.data.partition.shards import Shards

CLIENTS, EXAMPLES = 100_000, 1_000_000
Y = np.random.default_rng(0).integers(0, 10, EXAMPLES)


@pytest.mark.parametrize(
    "part",
    [
        Iid(CLIENTS),
        Dirichlet(CLIENTS, 0.5, min_size=2),
        Dirichlet(CLIENTS, 0.05, min_size=1, self_balancing=True),
        Pathological(CLIENTS, 2),
        Shards(CLIENTS, 2),
        Quantity(CLIENTS, 0.5, min_size=2),
        Natural(),
    ],
    ids=lambda part: f"{type(part).__name__}-{getattr(part, 'alpha', '')}",
)
def test_a_hundred_thousand_clients(part: Any) -> None:
    group = np.arange(EXAMPLES) % CLIENTS
    tracemalloc.start()
    try:
        dealt = part.assign(Y, group, rng.stream(0, "partition"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500e6
    assert dealt.clients == CLIENTS
    assert np.diff(dealt.offsets).min() >= getattr(part, "min_size", 1)
    assert np.array_equal(np.bincount(dealt.indices, minlength=EXAMPLES), np.ones(EXAMPLES))
