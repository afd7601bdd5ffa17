import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, Ridge
from torch import nn

from fedsim import losses, registry
from fedsim.core import ClientContext, Recipe, Task
from fedsim.models import get_vector
from fedsim.optimizers.gd import Gd
from fedsim.optimizers.rmsprop import Rmsprop
from fedsim.optimizers.sgd import Sgd
from fedsim.training import batches, fit, restore_optimizer, save_optimizer, trainable

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = (X @ np.array([2.0, -1.0, 0.0, 0.0, 0.5]) + 0.1 * RNG.normal(size=60)).astype(np.float32)


CTX = ClientContext(0, 1, 0)


def task_of(module, optimizer=None, **options):
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    return Task(
        module=module,
        model=get_vector(module),
        x=x,
        y=y,
        loss=losses.LOSSES["mse"],
        optimizer=optimizer or Gd(lr=0.1),
        **options,
    )


def linear():
    module = nn.Linear(5, 1, bias=False)
    nn.init.zeros_(module.weight)
    return module


def descend(task, steps):
    return fit(task, Recipe(steps=steps), {}, CTX)


def test_one_full_batch_step_is_the_closed_form():
    module = linear()
    loss = descend(task_of(module), 1)
    gradient = -2 / 60 * X.T.astype(np.float64) @ Y
    np.testing.assert_allclose(module.weight.detach().numpy()[0], -0.1 * gradient, rtol=1e-5)
    assert loss == pytest.approx(np.mean(Y.astype(np.float64) ** 2), rel=1e-6)  # before the step


def test_full_batch_descent_finds_least_squares():
    module = linear()
    descend(task_of(module), 600)
    expected, *_ = np.linalg.lstsq(X.astype(np.float64), Y.astype(np.float64))
    np.testing.assert_allclose(module.weight.detach().numpy()[0], expected, atol=1e-5)


def test_l2_finds_scikit_learns_ridge():
    # mse + l2/2 |w|^2 here; |y - Xw|^2 + alpha |w|^2 there: alpha = n l2 / 2.
    module = linear()
    descend(task_of(module, l2=0.3), 600)
    expected = Ridge(alpha=60 * 0.3 / 2, fit_intercept=False).fit(X, Y).coef_
    np.testing.assert_allclose(module.weight.detach().numpy()[0], expected, atol=1e-5)


def test_l1_finds_scikit_learns_lasso_with_its_exact_zeros():
    # mse + l1 |w|_1 here; |y - Xw|^2 / 2n + alpha |w|_1 there: alpha = l1 / 2.
    module = linear()
    descend(task_of(module, l1=0.8), 600)
    expected = Lasso(alpha=0.4, fit_intercept=False, tol=1e-10).fit(X.astype(np.float64), Y).coef_
    weight = module.weight.detach().numpy()[0]
    np.testing.assert_allclose(weight, expected, atol=1e-5)
    assert (weight == 0).tolist() == (expected == 0).tolist()
    assert (weight == 0).sum() >= 2


def test_penalties_leave_frozen_parameters_alone():
    module = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 1))
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    descend(task_of(module, l1=0.5, l2=0.5), 3)
    assert torch.equal(module[0].weight, before)


def test_the_loss_is_the_mean_over_examples_seen():
    module = linear()
    module.weight.requires_grad_(True)
    still = Sgd(lr=1e-30)
    loss = fit(task_of(module, still), Recipe(epochs=2, batch_size=7), {}, CTX)
    assert loss == pytest.approx(np.mean(Y.astype(np.float64) ** 2), rel=1e-6)


def test_an_extra_gradient_is_added_before_the_step():
    module = linear()

    def pull(gradients, parameters, anchors):
        assert torch.equal(anchors[0], torch.zeros(1, 5))
        return [gradient + 1.0 for gradient in gradients]

    fit(task_of(module), Recipe(steps=1, adjust=pull), {}, CTX)
    plain = linear()
    descend(task_of(plain), 1)
    torch.testing.assert_close(module.weight, plain.weight - 0.1)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 60), st.integers(1, 3))
def test_every_epoch_visits_every_example_once(examples, batch_size, epochs):
    seen = list(batches(examples, Recipe(epochs, batch_size=batch_size), CTX))
    size = batch_size or examples
    per_epoch = -(-examples // size)
    assert len(seen) == epochs * per_epoch
    for epoch in range(epochs):
        part = torch.cat(seen[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert sorted(part.tolist()) == list(range(examples))
    assert all(len(batch) <= size for batch in seen)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(0, 25), st.integers(1, 30))
def test_steps_give_exactly_so_many_batches_and_reshuffle(examples, batch_size, steps):
    recipe = Recipe(steps=steps, batch_size=batch_size)
    seen, again = list(batches(examples, recipe, CTX)), list(batches(examples, recipe, CTX))
    assert len(seen) == steps
    assert all(torch.equal(a, b) for a, b in zip(seen, again, strict=True))
    counts = torch.cat(seen).bincount(minlength=examples)
    assert counts.max() - counts.min() <= 1  # a pass ends before the next begins


@pytest.mark.parametrize(
    "other", [(1, 1, 0), (0, 2, 0), (0, 1, 1)], ids=["seed", "round", "client"]
)
def test_another_stream_gives_another_order(other):
    recipe = Recipe(epochs=2, batch_size=0)
    first, second = batches(50, recipe, CTX)
    (third, _) = batches(50, recipe, ClientContext(*other))
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_full_batch_optimizer_takes_all_examples_at_once():
    (batch,) = batches(7, Recipe(batch_size=2), CTX, full_batch=True)
    assert sorted(batch.tolist()) == list(range(7))


PARTS = [registry.load("optimizers", name)(lr=0.01) for name in registry.names("optimizers")]
PARTS += [Sgd(lr=0.01, momentum=0.9), Rmsprop(lr=0.01, momentum=0.9)]


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_an_optimizer_restored_goes_on_as_if_never_stopped(part):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    recipe = Recipe(steps=4, batch_size=20)
    state, task = part.start(trainable(module)), task_of(module, part)
    fit(task, recipe, state, CTX)
    other = copy.deepcopy(module)
    memo = save_optimizer(state)
    assert all(isinstance(tensor, torch.Tensor) for tensor in memo.values())

    fit(task, recipe, state, ClientContext(0, 2, 0))
    resumed = part.start(trainable(other))
    restore_optimizer(resumed, {**memo, "model": torch.zeros(3)})  # other memories are ignored
    before = {key: tensor.clone() for key, tensor in memo.items()}
    fit(task_of(other, part), recipe, resumed, ClientContext(0, 2, 0))
    assert torch.equal(get_vector(other), get_vector(module))
    assert all(torch.equal(memo[key], before[key]) for key in memo)  # the memo stays as it was


def test_an_optimizer_without_state_leaves_nothing_behind():
    assert save_optimizer(Gd().start(trainable(linear()))) == {}


def test_a_parameter_that_is_not_used_stays_where_it_is():
    module = linear()
    module.unused = nn.Parameter(torch.ones(2))
    descend(task_of(module), 3)
    assert torch.equal(module.unused, torch.ones(2))
