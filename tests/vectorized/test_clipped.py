"""DP-SGD of a block gives what Opacus and DP-SGD of each client alone give."""

import warnings
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim import losses, models, registry
from fedsim.clients.dp_sgd import noise_of
from fedsim.clients.fedprox import FedProx
from fedsim.core import Clipping, Recipe
from fedsim.data import Meta
from fedsim.models import get_vector, set_vector
from fedsim.models.cnn import Cnn
from fedsim.models.mlp import Mlp
from fedsim.models.transformer import Transformer
from fedsim.optimizers.rmsprop import Rmsprop
from fedsim.optimizers.sgd import Sgd
from fedsim.privacy.example import replace_lstm
from fedsim.privacy.sampling import poisson_batch
from fedsim.training import client_keys
from fedsim.vectorized import clipped
from fedsim.vectorized.clipped import StackedClipper, fit_clipped
from fedsim.vectorized.stacked import unsuitable

RECIPE = Recipe(epochs=2, batch_size=4, clipping=Clipping(0.8, 0.6))
RECIPES = [
    replace(RECIPE, steps=5, batch_size=3),
    replace(RECIPE, epochs=3, batch_size=0),
    replace(RECIPE, epochs=1, batch_size=1),
    replace(RECIPE, clipping=Clipping(0.3, 0.0)),
    replace(RECIPE, clipping=Clipping(1e6, 0.0)),
    replace(RECIPE, clipping=Clipping(0.8, 0.6, "chacha20")),
    replace(RECIPE, batch_size=0, clipping=Clipping(0.8, 0.6, "chacha20")),
    replace(FedProx(mu=0.9, epochs=3, batch_size=3).recipe, clipping=RECIPE.clipping),
    replace(FedProx(mu=0.9, steps=9, batch_size=1).recipe, clipping=Clipping(0.8, 0.6, "chacha20")),
]
OPTIMIZERS = [registry.load("optimizers", name)(lr=0.05) for name in registry.names("optimizers")]
OPTIMIZERS += [
    Sgd(lr=0.1, momentum=0.9, dampening=0.3),
    Sgd(lr=0.1, momentum=0.9, nesterov=True),
    Rmsprop(lr=0.01, momentum=0.5),
]


def meta(kind="classification", shape=(6,), outputs=4, vocabulary=0):
    return Meta("made", kind, shape, outputs, "", vocabulary)


MODELS = {
    "linear": meta("regression", (5,), 1),
    "mlp": meta("binary", (5,), 1),
    "cnn": meta(shape=(3, 8, 8)),
    "lenet": meta(shape=(28, 28)),
    "lstm": meta(shape=(7, 2), outputs=3),
    "transformer": meta(shape=(7,), outputs=9, vocabulary=9),
}


@dataclass(frozen=True)
class Own:
    """A model around a module."""

    module: type[nn.Module]

    def build(self, about):
        return self.module()


class Scaling(nn.Module):
    """A layer that neither Opacus nor we have a rule for."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 5))

    def forward(self, x):
        return torch.tanh(x * self.scale) + self.scale


class Scaled(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 5), Scaling(), nn.Linear(5, 4))


def opacus(made, module, i):
    """One client with Opacus 1.6's hooks and DPOptimizer, the same batches and the same noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

    set_vector(module, made.task.model)
    (size, ctx), start = (made.sizes[i], made.contexts[i]), sum(made.sizes[:i])
    x, y = (part[start : start + size] for part in (made.task.x, made.task.y))
    expected, clipping = min(RECIPE.batch_size, size), RECIPE.clipping
    keys, stream = torch.from_numpy(client_keys([ctx])), noise_of(ctx)
    lr = made.task.optimizer.lr * ctx.lr_factor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = GradSampleModule(module)
        inner = torch.optim.SGD(wrapped.parameters(), lr=lr, momentum=0.9)
        norm = clipping.clipping_norm
        options = {"max_grad_norm": norm, "expected_batch_size": expected}
        optimizer = DPOptimizer(inner, noise_multiplier=0.0, **options)
        for step in range(RECIPE.epochs * -(-size // expected)):
            batch = poisson_batch(keys, size, expected / size, step)
            optimizer.zero_grad()
            if len(batch):
                nn.functional.cross_entropy(wrapped(x[batch]), y[batch]).backward()
                optimizer.pre_step()
            scale = clipping.noise_multiplier * norm / expected
            noise = [torch.zeros_like(p) for p in wrapped.parameters()]
            stream.add(noise, scale)
            for p, own in zip(wrapped.parameters(), noise, strict=True):
                p.grad = own if p.grad is None else p.grad + own
            inner.step()
    return get_vector(module) - made.task.model


@pytest.mark.parametrize(
    ("model", "about"),
    [(Mlp(hidden=(5,)), meta()), (Cnn(), meta(shape=(3, 8, 8))), (Own(Scaled), meta())],
    ids=["mlp", "cnn", "no rule"],
)
def test_it_is_opacus_with_the_same_batches_and_noise(model, about, clients):
    made = clients(model, about, optimizer=Sgd(lr=0.1, momentum=0.9))
    has_rules = StackedClipper(made.task.module, made.task.loss)._layers is not None
    assert has_rules == (model != Own(Scaled))
    vectors, _, _ = made.together(fit_clipped, RECIPE)
    for i in range(len(made.sizes)):
        module = model.build(about)
        torch.testing.assert_close(vectors[i], opacus(made, module, i), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", registry.names("models"))
def test_every_model(name, clients, same):
    made = clients(registry.load("models", name)(), MODELS[name])
    if unsuitable(made.task.module):
        assert name == "lstm"  # torch has no stacked LSTM; such a run keeps the tier below
        return
    same(made.together(fit_clipped, RECIPE), made.alone(RECIPE))


def test_an_lstm_of_dense_layers(clients, same):
    about = MODELS["lstm"]
    made = clients(registry.load("models", "lstm")(hidden=9), about)
    module = models.build(registry.load("models", "lstm")(hidden=9), about, 3, replace_lstm)
    made.task = replace(made.task, module=module)
    assert not unsuitable(made.task.module)
    recipe = replace(RECIPE, clipping=Clipping(0.2, 0.6, "chacha20"))
    same(made.together(fit_clipped, recipe), made.alone(recipe))


@pytest.mark.parametrize("part", OPTIMIZERS, ids=repr)
def test_every_optimizer(part, clients, same):
    made = clients(Mlp(hidden=(5,)), meta(), optimizer=part)
    same(made.together(fit_clipped, RECIPE), made.alone(RECIPE))


@pytest.mark.parametrize("part", OPTIMIZERS, ids=repr)
def test_every_optimizer_on_convolutions(part, clients, same):
    # In float64: where a gradient is all rounding, adaptive optimizers divide noise by noise.
    made = clients(Cnn(), meta(shape=(8, 8)), optimizer=replace(part, lr=part.lr / 5))
    made.task.module.double()
    made.task = replace(made.task, x=made.task.x.double())
    same(made.together(fit_clipped, RECIPE), made.alone(RECIPE))


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_every_loss(loss, clients, same):
    kind = losses.KINDS[loss]
    about = meta(kind, outputs=4 if kind == "classification" else 1)
    made = clients(Mlp(hidden=(5,)), about, loss=loss)
    same(made.together(fit_clipped, RECIPE), made.alone(RECIPE))


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
@pytest.mark.parametrize("model", [Mlp(hidden=(5,)), Transformer(size=8)], ids=["mlp", "formed"])
def test_every_recipe(model, recipe, clients, same):
    made = clients(model, meta(shape=(6, 2)), optimizer=Sgd(lr=0.1, momentum=0.5))
    same(made.together(fit_clipped, recipe), made.alone(recipe))


@pytest.mark.parametrize(
    "model",
    [Mlp(hidden=(12,), dropout=0.4), Cnn(dropout=0.3), Transformer(size=8, dropout=0.3)],
    ids=["mlp", "cnn", "transformer"],
)
def test_dropout_draws_the_same_masks(model, clients, same):
    shapes = {"Mlp": (6,), "Cnn": (8, 8), "Transformer": (7, 2)}
    made = clients(model, meta(shape=shapes[type(model).__name__]))
    recipe = replace(RECIPE, clipping=Clipping(0.8, 0.0))
    same(made.together(fit_clipped, recipe), made.alone(recipe))
    other = replace(made, contexts=[replace(ctx, round=3) for ctx in made.contexts])
    changed = other.together(fit_clipped, recipe)[0]
    assert not torch.equal(changed, made.together(fit_clipped, recipe)[0])


@pytest.mark.parametrize("penalties", [{"l2": 0.1}, {"l1": 0.05}, {"l1": 0.02, "l2": 0.1}], ids=str)
def test_penalties(penalties, clients, same):
    made = clients(Mlp(hidden=(5,)), meta(), **penalties)
    same(made.together(fit_clipped, RECIPE), made.alone(RECIPE))


@pytest.mark.parametrize("part", [Sgd(lr=0.1, momentum=0.9), OPTIMIZERS[1]], ids=["sgd", "adam"])
def test_a_kept_optimizer_goes_on_in_the_next_round(part, clients, same):
    recipe = replace(RECIPE, keep_optimizer=True)
    made = clients(Mlp(hidden=(5,)), meta(), optimizer=part)
    _, _, memos = made.alone(recipe)
    del memos[2]  # a client that was not asked before
    after = replace(made, contexts=[replace(ctx, round=3) for ctx in made.contexts])
    same(after.together(fit_clipped, recipe, memos), after.alone(recipe, memos))


class Sequences(nn.Module):
    """Embeddings, a layer used twice, a frozen one, one nobody uses, work in place."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(9, 6, padding_idx=2), nn.LayerNorm(6)
        self.frozen, self.shared = nn.Linear(6, 6), nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.conv, self.unused = nn.Conv1d(6, 5, 3), nn.Linear(2, 2)
        self.channels, self.head = nn.GroupNorm(1, 5), nn.Linear(5, 4)

    def forward(self, x):
        h = self.norm(self.frozen(self.embed(x)))
        h = torch.tanh(self.shared(h + torch.relu_(self.shared(h).mul_(2.0))))
        return self.head(self.channels(self.conv(h.transpose(1, 2))).amax(dim=2))


class Tied(nn.Module):
    """Two layers with one weight, and a single number: their gradients have to be formed."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)) * self.scale)


@pytest.mark.parametrize(
    ("module", "about"), [(Sequences, meta(shape=(5,), vocabulary=9)), (Tied, meta())]
)
def test_modules_of_ones_own(module, about, clients, same):
    made = clients(Own(module), about)
    assert (StackedClipper(made.task.module, made.task.loss)._layers is None) == (module is Tied)
    same(made.together(fit_clipped, RECIPE), made.alone(RECIPE))


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 15), min_size=1, max_size=9).map(tuple),
    batch=st.integers(0, 6),
    steps=st.one_of(st.none(), st.integers(1, 9)),
)
def test_any_sizes(clients, same, sizes, batch, steps):
    made = clients(Mlp(hidden=(3,)), meta(), sizes=sizes)
    recipe = replace(RECIPE, steps=steps, epochs=2, batch_size=batch)
    same(made.together(fit_clipped, recipe), made.alone(recipe))


def test_steps_in_which_nobody_has_a_batch(clients, same):
    made = clients(Mlp(hidden=(3,)), meta(), sizes=(15, 15))
    recipe = replace(RECIPE, steps=1, batch_size=1)
    empty = 0
    for number in range(40):
        made.contexts = [replace(ctx, round=number) for ctx in made.contexts]
        (group,) = made.groups(fit_clipped, recipe)
        same(made.together(fit_clipped, recipe), made.alone(recipe))
        metrics = group.metrics([15.0, 15.0])
        assert ["loss" in own for own in metrics] == (group.seen > 0).tolist()
        empty += not group.seen.any()
    assert empty


@pytest.mark.parametrize("model", [Mlp(hidden=(5,)), Transformer(size=8)], ids=["mlp", "formed"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_counts_as_zero_and_spoils_nobody_else(model, bad, clients):
    # Of the first client two examples, one of which also pads its batches; of the last one all.
    made = clients(model, meta(shape=(6, 2)), sizes=(9, 9, 9))
    made.task.x[0] = made.task.x[4] = bad
    made.task.x[18:] = bad
    alone, expected, _ = made.alone(RECIPE)
    vectors, seen, _ = made.together(fit_clipped, RECIPE)
    assert alone.isfinite().all()
    torch.testing.assert_close(vectors, alone, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(seen.double(), expected.double(), equal_nan=True)
    assert seen.isfinite().tolist() == [False, True, False]


@pytest.mark.parametrize("model", [Mlp(hidden=(5,)), Cnn(), Transformer(size=8)])
def test_where_gradients_would_not_fit_fewer_clients_go_together(model, clients, monkeypatch):
    made = clients(model, meta(shape=(8, 8)), sizes=(9, 9, 9, 9))
    whole, _, _ = made.together(fit_clipped, RECIPE)
    monkeypatch.setattr(clipped, "_MOST_FORMED", 2 * made.task.model.numel() * 7)
    calls = []
    original = StackedClipper.__call__

    def counted(self, stacked, batches, norm):
        calls.append(len(batches.mask))
        return original(self, stacked, batches, norm)

    monkeypatch.setattr(StackedClipper, "__call__", counted)
    parts, _, _ = made.together(fit_clipped, RECIPE)
    assert max(calls) < 4
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
