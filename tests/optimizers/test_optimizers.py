import math

import pytest
import torch
from torch import nn

from fedsim import registry
from fedsim.errors import ConfigError
from fedsim.optimizers.adagrad import Adagrad
from fedsim.optimizers.adam import Adam
from fedsim.optimizers.adamw import AdamW
from fedsim.optimizers.gd import Gd
from fedsim.optimizers.rmsprop import Rmsprop
from fedsim.optimizers.sgd import Sgd

START, GRADIENT = 1.0, 3.0


def after(part, steps, factor=1.0):
    """Where one number is after steps with the same gradient; float64, so that eps shows."""
    parameter = nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = part.build([parameter], factor)
    for _ in range(steps):
        parameter.grad = torch.tensor(GRADIENT, dtype=torch.float64)
        optimizer.step()
    return float(parameter.detach())


def moved(part, steps, factor=1.0):
    return START - after(part, steps, factor)


# Closed forms for a constant gradient g, from the papers in the parts' docstrings.
CASES = [
    (Gd(lr=0.1), 2, 0.1 * 2 * 3),
    (Sgd(lr=0.1), 2, 0.1 * 2 * 3),
    (Sgd(lr=0.1, momentum=0.9), 2, 0.1 * 3 * (1 + 1.9)),
    (Sgd(lr=0.1, momentum=0.9, dampening=0.5), 2, 0.1 * 3 * (1 + 1.4)),
    (Sgd(lr=0.1, momentum=0.9, nesterov=True), 1, 0.1 * 3 * 1.9),
    (Adagrad(lr=0.1), 2, 0.1 * (1 + 1 / math.sqrt(2))),
    (Adagrad(lr=0.1, initial_accumulator=16), 1, 0.1 * 3 / 5),
    (Rmsprop(lr=0.1, alpha=0.99), 1, 0.1 / math.sqrt(0.01)),
    (Adam(lr=0.1), 2, 0.1 * 2),
    (Adam(lr=0.1, eps=3.0), 1, 0.1 * 3 / (3 + 3)),
    (AdamW(lr=0.1, weight_decay=0.5), 1, 0.1 * 0.5 * START + 0.1),
]


@pytest.mark.parametrize(("part", "steps", "expected"), CASES)
def test_steps_are_the_closed_form(part, steps, expected):
    assert moved(part, steps) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", registry.names("optimizers"))
def test_the_schedules_factor_scales_the_learning_rate(name):
    part = registry.load("optimizers", name)()
    assert moved(part, 1, factor=0.5) == pytest.approx(moved(part, 1) / 2, rel=1e-6)


@pytest.mark.parametrize("name", registry.names("optimizers"))
def test_every_optimizer_minimizes_a_quadratic(name):
    part = registry.load("optimizers", name)(lr=0.05)
    x = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = part.build([x])
    for _ in range(2000):
        optimizer.zero_grad()
        loss = ((x - torch.tensor([1.0, 0.5])) ** 2).sum()
        loss.backward()
        optimizer.step()
    # RMSprop ends in a cycle as wide as its rate, AdamW is pulled towards zero.
    assert float(loss.detach()) < 0.01


def test_only_gd_takes_the_whole_shard():
    full = [n for n in registry.names("optimizers") if registry.load("optimizers", n).full_batch]
    assert full == ["gd"]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_needs_undamped_momentum(options):
    with pytest.raises(ConfigError, match=r"optimizer.nesterov = True: .*optimizer.momentum"):
        Sgd(nesterov=True, **options)
