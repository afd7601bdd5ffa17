import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import registry
from fedsim.schedules.constant import Constant
from fedsim.schedules.cosine import Cosine
from fedsim.schedules.exponential import Exponential
from fedsim.schedules.inverse_sqrt import InverseSqrt
from fedsim.schedules.step import Step
from fedsim.schedules.warmup import Warmup

ROUNDS = 30


def torch_factors(make):
    """What torch's own scheduler multiplies a rate of 1 by, step after step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(ROUNDS):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("part", "make"),
    [
        (Step(every=7, gamma=0.3), lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.3)),
        (Exponential(gamma=0.9), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
        (
            Cosine(least=0.1),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, ROUNDS - 1, 0.1),
        ),
        (Constant(), lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda _: 1.0)),
    ],
)
def test_factors_are_torchs(part, make):
    ours = [part.factor(round, ROUNDS) for round in range(1, ROUNDS + 1)]
    assert ours == pytest.approx(torch_factors(make), rel=1e-9, abs=1e-12)


def test_warmup_rises_in_equal_steps_to_one():
    factors = [Warmup(over=4).factor(round, 10) for round in range(1, 7)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1]


def test_cosine_after_a_warmup_begins_at_its_height():
    factors = [Cosine(warmup=3).factor(round, 8) for round in range(1, 9)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1]
    assert factors[-1] == pytest.approx(0, abs=1e-15)


def test_inverse_sqrt_is_its_formula():
    assert [InverseSqrt().factor(r, 100) for r in (1, 4, 100)] == [1, 0.5, 0.1]


@settings(deadline=None)
@given(st.sampled_from(registry.names("schedules")), st.integers(1, 500), st.data())
def test_every_factor_is_a_fraction(name, rounds, data):
    round = data.draw(st.integers(1, rounds))
    factor = registry.load("schedules", name)().factor(round, rounds)
    assert math.isfinite(factor)
    assert 0 <= factor <= 1


@pytest.mark.parametrize("name", registry.names("schedules"))
def test_a_single_round_trains(name):
    assert registry.load("schedules", name)().factor(1, 1) > 0
