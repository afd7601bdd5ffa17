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
    parameter = torch.tensor([START], dtype=torch.float64)
    gradient = torch.tensor([GRADIENT], dtype=torch.float64)
    state = part.start([parameter])
    for _ in range(steps):
        part.step([parameter], [gradient], state, factor)
    return float(parameter)


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
    x = torch.tensor([3.0, -2.0])
    state = part.start([x])
    for _ in range(2000):
        error = x - torch.tensor([1.0, 0.5])
        part.step([x], [2 * error], state)
    # RMSprop ends in a cycle as wide as its rate, AdamW is pulled towards zero.
    assert float((error**2).sum()) < 0.01


# (ours, the same in torch.optim)
TORCH = [
    (Gd(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    (Sgd(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    (Sgd(lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    (
        Sgd(lr=0.1, momentum=0.8, dampening=0.3),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, dampening=0.3),
    ),
    (
        Sgd(lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    (
        Adagrad(lr=0.1, initial_accumulator=0.2),
        lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.2),
    ),
    (Rmsprop(lr=0.1), lambda p: torch.optim.RMSprop(p, lr=0.1)),
    (
        Rmsprop(lr=0.1, alpha=0.9, momentum=0.5),
        lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9, momentum=0.5),
    ),
    (Adam(lr=0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
    (AdamW(lr=0.1, weight_decay=0.3), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3)),
]


@pytest.mark.parametrize(("part", "make"), TORCH, ids=[repr(part) for part, _ in TORCH])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_torch(part, make, dtype):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=dtype) for shape in [(3, 2), (4,)]]
    theirs = [nn.Parameter(tensor.clone()) for tensor in start]
    ours, optimizer = [tensor.clone() for tensor in start], make(theirs)
    state = part.start(ours)
    for _ in range(20):
        gradients = [torch.randn(p.shape, generator=generator, dtype=dtype) for p in ours]
        kept = [gradient.clone() for gradient in gradients]
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        part.step(ours, gradients, state)
        assert all(torch.equal(a, b) for a, b in zip(gradients, kept, strict=True))
    for own, their in zip(ours, theirs, strict=True):
        tolerance = 1e-6 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(own, their.detach(), rtol=tolerance, atol=tolerance)


LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize(("part", "make"), TORCH, ids=[repr(part) for part, _ in TORCH])
@pytest.mark.parametrize("own", LAYOUTS)
@pytest.mark.parametrize("of_gradient", LAYOUTS)
def test_steps_do_not_depend_on_how_numbers_lie_in_memory(part, make, own, of_gradient):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 4, 3, 3, generator=generator)
    theirs, ours = nn.Parameter(start.clone()), start.to(memory_format=own)
    optimizer, state = make([theirs]), part.start([ours])
    for _ in range(3):
        gradient = torch.randn(start.shape, generator=generator)
        theirs.grad = gradient.clone()
        optimizer.step()
        part.step([ours], [gradient.to(memory_format=of_gradient)], state)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-6)
    assert ours.is_contiguous(memory_format=own)


@pytest.mark.parametrize("part", [part for part, _ in TORCH], ids=repr)
def test_many_clients_step_as_each_alone(part):
    # Clients that begin at different times: the second one takes its first step three later.
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, 2), (4,)]
    both = [torch.randn(2, *shape, generator=generator) for shape in shapes]
    alone = [[p[i].clone() for p in both] for i in range(2)]
    states = [part.start(own) for own in alone]
    for _ in range(3):
        part.step(alone[0], [torch.ones_like(p) for p in alone[0]], states[0])
    stacked = part.start(both, lead=1)
    for name, tensors in stacked.items():
        for index, tensor in enumerate(tensors):
            tensor.copy_(torch.stack([state[name][index] for state in states]))
    for i, own in enumerate(alone):
        for index, tensor in enumerate(own):
            both[index][i] = tensor
    for _ in range(5):
        gradients = [torch.randn(p.shape, generator=generator) for p in both]
        part.step(both, gradients, stacked, 0.5)
        for i, own in enumerate(alone):
            part.step(own, [gradient[i] for gradient in gradients], states[i], 0.5)
    for i, own in enumerate(alone):
        for index, tensor in enumerate(own):
            torch.testing.assert_close(both[index][i], tensor, rtol=0, atol=1e-6)


def test_only_gd_takes_the_whole_shard():
    full = [n for n in registry.names("optimizers") if registry.load("optimizers", n).full_batch]
    assert full == ["gd"]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_needs_undamped_momentum(options):
    with pytest.raises(ConfigError, match=r"optimizer.nesterov = True: .*optimizer.momentum"):
        Sgd(nesterov=True, **options)
