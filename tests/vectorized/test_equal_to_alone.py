"""Training at once gives what training one by one gives, to 1e-6."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim import losses, registry
from fedsim.clients.fedprox import FedProx
from fedsim.core import Recipe
from fedsim.data import Meta
from fedsim.models import set_vector
from fedsim.models.cnn import Cnn
from fedsim.models.mlp import Mlp
from fedsim.models.transformer import Transformer
from fedsim.optimizers.gd import Gd
from fedsim.optimizers.rmsprop import Rmsprop
from fedsim.optimizers.sgd import Sgd
from fedsim.vectorized.clipped import fit_clipped
from fedsim.vectorized.dense import fit_factored, fit_products, layers_of
from fedsim.vectorized.stacked import fit_stacked, unsuitable


def meta(kind="classification", shape=(6,), outputs=4, vocabulary=0):
    return Meta("made", kind, shape, outputs, "", vocabulary)


DATA = {
    "linear": [meta(), meta("binary", (5,), 1), meta("regression", (5,), 1), meta(shape=(3, 4))],
    "mlp": [meta(), meta("binary", (5,), 1), meta("regression", (5,), 1), meta(shape=(3, 4))],
    "cnn": [meta(shape=(8, 8)), meta(shape=(3, 32, 32))],
    "lenet": [meta(shape=(28, 28))],
    "lstm": [meta(shape=(7,), outputs=9, vocabulary=9), meta(shape=(7, 2), outputs=3)],
    "transformer": [
        meta(shape=(7,), outputs=9, vocabulary=9),
        meta(shape=(7,), outputs=3, vocabulary=9),
        meta(shape=(7, 2), outputs=3),
    ],
}
PAIRS = [(name, about) for name in registry.names("models") for about in DATA[name]]
IDS = [f"{name}-{about.kind}-{len(about.input_shape)}d-{about.outputs}" for name, about in PAIRS]
DENSE = (fit_stacked, fit_products, fit_factored)

OPTIMIZERS = [registry.load("optimizers", name)(lr=0.05) for name in registry.names("optimizers")]
OPTIMIZERS += [
    Sgd(lr=0.1, momentum=0.9),
    Sgd(lr=0.1, momentum=0.9, nesterov=True),
    Rmsprop(lr=0.01, momentum=0.5),
]
TWO_EPOCHS = Recipe(epochs=2, batch_size=4)
RECIPES = [
    TWO_EPOCHS,
    Recipe(steps=7, batch_size=3),
    Recipe(epochs=3, batch_size=0),
    Recipe(epochs=1, batch_size=1),
    replace(TWO_EPOCHS, keep_optimizer=True),
    FedProx(mu=0.3, epochs=2, batch_size=4).recipe,
]


@pytest.mark.parametrize(("name", "about"), PAIRS, ids=IDS)
def test_every_model(name, about, clients, same):
    made = clients(registry.load("models", name)(), about)
    if unsuitable(made.task.module):
        assert name == "lstm"  # torch has no stacked LSTM; such a run keeps the tier below
        return
    fits = DENSE if layers_of(made.task.module) else (fit_stacked,)
    for fit in fits:
        same(made.together(fit, TWO_EPOCHS), made.alone(TWO_EPOCHS))


@pytest.mark.parametrize("part", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("fit", DENSE)
def test_every_optimizer(fit, part, clients, same):
    if fit is fit_factored and not part.is_linear:
        pytest.skip("low rank serves optimizers that are linear in the gradients")
    made = clients(Mlp(hidden=(5,)), meta(), optimizer=part)
    same(made.together(fit, TWO_EPOCHS), made.alone(TWO_EPOCHS))


@pytest.mark.parametrize("part", OPTIMIZERS, ids=repr)
def test_every_optimizer_on_convolutions(part, clients, same):
    # In float64: where a gradient is all rounding, adaptive optimizers divide noise by noise.
    made = clients(Cnn(), meta(shape=(8, 8)), optimizer=replace(part, lr=part.lr / 5))
    made.task.module.double()
    made.task = replace(made.task, x=made.task.x.double())
    same(made.together(fit_stacked, TWO_EPOCHS), made.alone(TWO_EPOCHS))


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("fit", DENSE)
def test_every_loss(fit, loss, clients, same):
    kind = losses.KINDS[loss]
    about = meta(kind, outputs=4 if kind == "classification" else 1)
    made = clients(Mlp(hidden=(5,)), about, loss=loss)
    same(made.together(fit, TWO_EPOCHS), made.alone(TWO_EPOCHS))


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
@pytest.mark.parametrize("part", [Sgd(lr=0.1, momentum=0.5), Gd(lr=0.1)], ids=["sgd", "gd"])
@pytest.mark.parametrize("fit", [fit_stacked, fit_products])
def test_every_recipe(fit, part, recipe, clients, same):
    made = clients(Mlp(hidden=(5,)), meta(), optimizer=part)
    same(made.together(fit, recipe), made.alone(recipe))


def each_by(algorithm, made):
    """Return what each client comes to with an algorithm's own training."""
    vectors, start = [], 0
    for size, context in zip(made.sizes, made.contexts, strict=True):
        own = slice(start, start + size)
        task = replace(made.task, x=made.task.x[own], y=made.task.y[own])
        set_vector(task.module, task.model)
        vectors.append(algorithm.train(task, {}, context)[0].vector)
        start += size
    return torch.stack(vectors)


@pytest.mark.parametrize("name", registry.names("clients"))
def test_every_local_algorithm_that_declares_its_steps(name, clients):
    algorithm = registry.load("clients", name)()
    if algorithm.recipe is None:
        pytest.skip("it trains each client by itself")
    made = clients(Mlp(hidden=(5,)), meta())
    alone = each_by(algorithm, made)
    for fit in (fit_clipped,) if algorithm.recipe.clipping else (fit_stacked, fit_products):
        vectors, _, _ = made.together(fit, algorithm.recipe)
        torch.testing.assert_close(vectors, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [Mlp(hidden=(12,), dropout=0.4), Cnn(), Transformer(dropout=0.3)],
    ids=["mlp", "cnn", "transformer"],
)
def test_dropout_draws_the_same_masks(model, clients, same):
    shapes = {"Mlp": (6,), "Cnn": (8, 8), "Transformer": (7, 2)}
    made = clients(model, meta(shape=shapes[type(model).__name__]))
    same(made.together(fit_stacked, TWO_EPOCHS), made.alone(TWO_EPOCHS))
    other = replace(made, contexts=[replace(ctx, round=3) for ctx in made.contexts])
    changed = other.together(fit_stacked, TWO_EPOCHS)[0]
    assert not torch.equal(changed, made.together(fit_stacked, TWO_EPOCHS)[0])


@pytest.mark.parametrize("fit", DENSE)
def test_dropout_in_dense_chains(fit, clients, same):
    made = clients(Mlp(hidden=(12,), dropout=0.4), meta())
    same(made.together(fit, TWO_EPOCHS), made.alone(TWO_EPOCHS))


@pytest.mark.parametrize("penalties", [{"l2": 0.1}, {"l1": 0.05}, {"l1": 0.02, "l2": 0.1}], ids=str)
@pytest.mark.parametrize("fit", [fit_stacked, fit_products])
def test_penalties(fit, penalties, clients, same):
    made = clients(Mlp(hidden=(5,)), meta(), **penalties)
    same(made.together(fit, TWO_EPOCHS), made.alone(TWO_EPOCHS))


@pytest.mark.parametrize(
    ("fit", "part"),
    [(fit_stacked, Sgd(lr=0.1, momentum=0.9)), (fit_products, OPTIMIZERS[1])],
    ids=["sgd", "adam"],
)
def test_a_kept_optimizer_goes_on_in_the_next_round(fit, part, clients, same):
    recipe = replace(TWO_EPOCHS, keep_optimizer=True)
    made = clients(Mlp(hidden=(5,)), meta(), optimizer=part)
    _, _, memos = made.alone(recipe)
    del memos[2]  # a client that was not asked before
    after = replace(made, contexts=[replace(ctx, round=3) for ctx in made.contexts])
    same(after.together(fit, recipe, memos), after.alone(recipe, memos))


@dataclass(frozen=True)
class Mixed:
    """Shared weights, a frozen layer, a parameter nobody uses, functional layers."""

    def build(self, about):
        return _Mixed()


class _Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.shared = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        h = torch.tanh(self.shared(self.frozen(x)))
        return self.head(h + self.shared(h))


def test_a_module_of_ones_own(clients, same):
    made = clients(Mixed(), meta())
    same(made.together(fit_stacked, TWO_EPOCHS), made.alone(TWO_EPOCHS))


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 15), min_size=1, max_size=9).map(tuple),
    batch=st.integers(0, 6),
    steps=st.one_of(st.none(), st.integers(1, 9)),
    fit=st.sampled_from(DENSE),
)
def test_any_sizes(clients, same, sizes, batch, steps, fit):
    made = clients(Mlp(hidden=(3,)), meta(), sizes=sizes)
    recipe = Recipe(steps=steps, epochs=2, batch_size=batch)
    same(made.together(fit, recipe), made.alone(recipe))


def test_a_client_is_the_same_whoever_is_trained_beside_it(clients):
    made = clients(Mlp(hidden=(5,), dropout=0.2), meta())
    whole, losses_, _ = made.together(fit_stacked, TWO_EPOCHS)
    first = replace(made, sizes=made.sizes[:2], contexts=made.contexts[:2])
    count = sum(first.sizes)
    first.task = replace(made.task, x=made.task.x[:count], y=made.task.y[:count])
    part, seen, _ = first.together(fit_stacked, TWO_EPOCHS)
    torch.testing.assert_close(part, whole[:2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(seen, losses_[:2], rtol=1e-6, atol=1e-6)


def test_one_diverging_client_spoils_nobody_else(clients):
    made = clients(Mlp(hidden=(5,)), meta())
    made.task.x[: made.sizes[0]] = float("nan")
    (vectors, _, _), (alone, _, _) = made.together(fit_products, TWO_EPOCHS), made.alone(TWO_EPOCHS)
    assert vectors[0].isnan().any()
    torch.testing.assert_close(vectors[1:], alone[1:], rtol=1e-6, atol=1e-6)


LSTM = "torch has no stacked LSTM"


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), "batch norm"),
        (nn.LSTM(3, 2), LSTM),
        (nn.Sequential(nn.Linear(3, 2), nn.GroupNorm(1, 2)), ""),
    ],
    ids=["batch norm", "lstm", "group norm"],
)
def test_what_cannot_be_stacked_is_known_beforehand(module, reason):
    assert reason in unsuitable(module)
    assert bool(unsuitable(module)) == bool(reason)
