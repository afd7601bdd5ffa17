"""Dense layers kept as factors, the first and deeper ones, come to what clients come to alone.

Which layers are factored follows from sizes, so every case says which it means: a network that is
too small would be trained with whole weights, and the comparison would be one of `fit_products`.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import losses, registry
from fedsim.core import Recipe
from fedsim.data import Meta
from fedsim.models.mlp import Mlp
from fedsim.optimizers.gd import Gd
from fedsim.optimizers.sgd import Sgd
from fedsim.vectorized.dense import _Factored, fit_factored

SIZES = (4, 3, 2, 1)
DEEP = Mlp(hidden=(60, 60))
BATCHES = Recipe(epochs=2, batch_size=2)
LINEAR = [
    part
    for name in registry.names("optimizers")
    if (part := registry.load("optimizers", name)(lr=0.05)).is_linear
]
LINEAR += [Sgd(lr=0.1, momentum=0.9), Sgd(lr=0.1, momentum=0.9, nesterov=True)]


def meta(outputs, kind="classification"):
    return Meta("made", kind, (100,), outputs, "", 0)


def assert_low_rank(made, recipe, same, *, factored=(True, True, False)):
    """Compare with training alone: weights, losses, norms, bounds and the sum of updates."""
    groups = made.groups(fit_factored, recipe)
    for group in groups:
        forms = [isinstance(layer, _Factored) for layer in group.change.layers]
        assert forms[: len(factored)] == list(factored)
    alone = made.alone(recipe)
    same(made.together(fit_factored, recipe), alone)
    for group in groups:
        own = alone[0][list(group.members)]
        torch.testing.assert_close(group.change.norms(), own.norm(dim=1), rtol=1e-5, atol=1e-6)
        assert bool((group.change.largest() >= own.abs().amax(dim=1) - 1e-6).all())
        weights = torch.arange(1.0, len(own) + 1)
        total = (own.double() * weights.double()[:, None]).sum(dim=0)
        torch.testing.assert_close(group.change.weighted_sum(weights), total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", LINEAR, ids=repr)
def test_every_optimizer_that_is_linear_in_gradients(part, clients, same):
    made = clients(DEEP, meta(20), optimizer=part, sizes=SIZES)
    # Fewer steps need fewer columns: with one for each pass, the last layer is factored at times.
    factored = (True, True) if isinstance(part, Gd) else (True, True, False)
    assert_low_rank(made, BATCHES, same, factored=factored)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_every_loss(loss, clients, same):
    kind = losses.KINDS[loss]
    made = clients(DEEP, meta(20 if kind == "classification" else 1, kind), loss=loss, sizes=SIZES)
    assert_low_rank(made, BATCHES, same)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_last_layer_of_many_outputs(momentum, clients, same):
    made = clients(DEEP, meta(300), optimizer=Sgd(lr=0.1, momentum=momentum), sizes=(2, 2, 2))
    assert_low_rank(made, Recipe(epochs=1, batch_size=2), same, factored=(True, True, True))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_dropout(momentum, clients, same):
    model = Mlp(hidden=(60, 60), dropout=0.4)
    made = clients(model, meta(20), optimizer=Sgd(lr=0.1, momentum=momentum), sizes=SIZES)
    assert_low_rank(made, BATCHES, same)


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6).map(tuple),
    batch=st.integers(0, 4),
    steps=st.integers(1, 4),
    momentum=st.sampled_from([0.0, 0.5]),
)
def test_any_sizes(clients, same, sizes, batch, steps, momentum):
    # No kink as ReLU's: rounding sends what comes within 1e-8 of one to either side, and of so many
    # units in so many examples one does.
    model = replace(DEEP, activation="tanh")
    made = clients(model, meta(20), optimizer=Sgd(lr=0.1, momentum=momentum), sizes=sizes)
    recipe = Recipe(steps=steps, batch_size=batch)
    for group in made.groups(fit_factored, recipe):
        assert isinstance(group.change.layers[0], _Factored)
    same(made.together(fit_factored, recipe), made.alone(recipe))
