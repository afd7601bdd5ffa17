"""Blocks as they come: examples in the order of the first pass, images still bytes."""

from dataclasses import replace

import pytest
import torch

from fedsim.core import Recipe
from fedsim.data import Meta, numbers
from fedsim.models import set_vector
from fedsim.models.cnn import Cnn
from fedsim.models.mlp import Mlp
from fedsim.optimizers.sgd import Sgd
from fedsim.vectorized import dense
from fedsim.vectorized.block import train_block
from fedsim.vectorized.dense import fit_factored, fit_products
from fedsim.vectorized.schedule import first_pass, plan_steps
from fedsim.vectorized.stacked import fit_stacked

EQUAL, UNEQUAL = (8, 8, 8), (9, 4, 12, 1, 7)
RECIPES = {
    "one pass": Recipe(batch_size=4),
    "two passes": Recipe(batch_size=4, epochs=2),
    "ragged": Recipe(batch_size=3),
    "steps": Recipe(batch_size=4, steps=5),
    "all at once": Recipe(batch_size=0, epochs=2),
}
PIXELS = (1 / (255 * 0.25), -0.5 / 0.25)


def meta(shape):
    return Meta("random", "classification", shape, 3, "0" * 64)


def ordered(made, fit, recipe, task):
    """Train from examples in their first order: (vectors, losses), and the groups."""
    set_vector(task.module, task.model)
    firsts, orders = 0, first_pass(made.sizes, made.contexts)
    rows = []
    for size, order in zip(made.sizes, orders, strict=True):
        rows.append(firsts + torch.from_numpy(order[:size]))
        firsts += size
    at = torch.cat(rows)
    own = replace(task, x=task.x[at], y=task.y[at])
    memos = [{} for _ in made.sizes]
    groups = list(train_block(fit, own, recipe, made.sizes, memos, made.contexts, is_ordered=True))
    vectors, seen = {}, {}
    for group in groups:
        vectors |= dict(zip(group.members, group.change.vectors(), strict=True))
        seen |= dict(zip(group.members, group.losses, strict=True))
    places = range(len(made.sizes))
    return (
        torch.stack([vectors[i] for i in places]),
        torch.stack([seen[i] for i in places]),
    ), groups


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("fit", [fit_factored, fit_products, fit_stacked])
def test_the_order_is_that_of_each_client_alone(fit, sizes, recipe, clients, same):
    made = clients(Mlp(hidden=(5,)), meta((30,)), sizes=sizes)
    found, _ = ordered(made, fit, recipe, made.task)
    alone = made.alone(recipe)
    same((*found, {}), (alone[0], alone[1], {}))


def test_momentum_and_convolutions_too(clients, same):
    made = clients(Mlp(hidden=(5,)), meta((30,)), sizes=EQUAL, optimizer=Sgd(lr=0.1, momentum=0.5))
    for recipe in RECIPES.values():
        alone = made.alone(recipe)
        same((*ordered(made, fit_factored, recipe, made.task)[0], {}), (alone[0], alone[1], {}))
    made = clients(Cnn(), meta((1, 8, 8)), sizes=EQUAL)
    alone = made.alone(RECIPES["one pass"])
    found, _ = ordered(made, fit_stacked, RECIPES["one pass"], made.task)
    same((*found, {}), (alone[0], alone[1], {}))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL, (30, 30)], ids=["equal", "unequal", "many"])
def test_bytes_are_the_numbers_they_stand_for(sizes, recipe, clients, same, monkeypatch):
    """In pieces of a client or two; and where the first layer has too many examples for factors."""
    monkeypatch.setattr(dense, "_PIECE", 500)
    made = clients(Mlp(hidden=(5,)), meta((30,)), sizes=sizes)
    stream = torch.Generator().manual_seed(4)
    raw = torch.randint(256, (sum(sizes), 30), dtype=torch.uint8, generator=stream)
    made.task = replace(made.task, x=numbers(raw, PIXELS))
    alone = made.alone(recipe)
    stored = replace(made.task, x=raw, pixels=PIXELS)
    found, groups = ordered(made, fit_factored, recipe, stored)
    same((*found, {}), (alone[0], alone[1], {}))
    for group in groups:
        vectors = alone[0][group.members]
        norms = torch.linalg.vector_norm(vectors, dim=1)
        torch.testing.assert_close(group.change.norms(), norms, rtol=1e-5, atol=1e-6)
        assert (group.change.largest() >= vectors.abs().amax(dim=1) * (1 - 1e-6)).all()
        weights = torch.arange(len(group.members)).float()
        total = (weights.double().unsqueeze(1) * vectors.double()).sum(dim=0)
        torch.testing.assert_close(group.change.weighted_sum(weights), total, rtol=1e-5, atol=1e-5)


def test_batches_of_a_first_pass_are_slices(clients):
    made = clients(Mlp(hidden=(5,)), meta((30,)), sizes=EQUAL)
    plan = plan_steps(
        EQUAL, Recipe(batch_size=4, epochs=2), made.contexts, torch.device("cpu"),
        full_batch=False, is_ordered=True,
    )  # fmt: skip
    assert [step.start for step in plan.steps] == [0, 4, None, None]
    x = torch.arange(24.0).view(24, 1)
    places = torch.arange(24).view(3, 8)
    batch = plan.steps[1].of(x, places)
    assert batch[..., 0].tolist() == [[4, 5, 6, 7], [12, 13, 14, 15], [20, 21, 22, 23]]
    assert batch.data_ptr() == x[4:].data_ptr()  # nothing was copied
    third = plan.steps[2]
    rows = x[places[:, :].gather(1, third.index)]
    assert torch.equal(third.of(x, places), rows)
    assert torch.equal(third.take(x.view(3, 8, 1)), rows)
