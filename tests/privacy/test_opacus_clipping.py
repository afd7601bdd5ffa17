"""`privacy.engine`: Opacus clips, and comes to the same training as our own passes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsim import config as configuration
from fedsim import losses
from fedsim.clients._private import Private
from fedsim.clients.fedprox import FedProx
from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.core import ClientContext, Task
from fedsim.dropout import replace_dropout
from fedsim.errors import ConfigError
from fedsim.models import get_vector
from fedsim.optimizers.sgd import Sgd
from fedsim.privacy import example
from fedsim.privacy.check import check_model, refusal
from fedsim.privacy.clipping import Clipper
from fedsim.privacy.opacus_clipping import attached

ENGINES = ["opacus", "opacus-ghost"]
SIZE = 40
CTX = ClientContext(seed=3, round=2, client=7)
CROSS_ENTROPY = losses.LOSSES["cross_entropy"]


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 5))


def convolution():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.GroupNorm(2, 4), nn.Flatten(),
        nn.Linear(64, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 5),
    )  # fmt: skip


def with_dropout():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.5), nn.Linear(12, 5))
    return replace_dropout(module)


def half_frozen():
    module = dense()
    module[1].requires_grad_(False)
    return module


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.lstm(x.squeeze(1))[0][:, -1])


def recurrent():
    return example.replace_lstm(Recurrent())


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 5)

    def forward(self, x):
        tokens = (x.flatten(1) * 3).long().clamp(-5, 5) + 5
        return self.head(self.embed(tokens).tanh().mean(dim=1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.first(torch.tanh(self.first(x.flatten(1)))))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.other = nn.Linear(64, 5), nn.Linear(64, 5)

    def forward(self, x):
        return self.head(x.flatten(1))


def examples():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SIZE, 1, 8, 8, generator=generator)
    return x, torch.randint(5, (SIZE,), generator=generator)


def trained(make, engine, algorithm, *, at_once=None, **options):
    """One client's update: the change of the model, and its loss."""
    torch.manual_seed(0)
    module = make()
    optimizer = Sgd(lr=0.1, momentum=options.pop("momentum", 0.0))
    task = Task(module, get_vector(module), *examples(), CROSS_ENTROPY, optimizer, **options)
    update, _ = Private(algorithm, 1.5, 0.8, at_once, engine).train(task, {}, CTX)
    return update


def assert_same(update, wanted):
    torch.testing.assert_close(update.vector, wanted.vector, rtol=1e-5, atol=1e-5)
    assert update.metrics == pytest.approx(wanted.metrics, rel=1e-5)
    assert update.weight == wanted.weight


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (LocalSgd(epochs=2, batch_size=10), {}),
        (LocalSgd(epochs=2, batch_size=10), {"at_once": 3}),  # virtual steps
        (LocalSgd(epochs=2, batch_size=0), {"momentum": 0.9}),
        (FedProx(mu=0.7, epochs=3, batch_size=10), {"l2": 0.2, "momentum": 0.5}),
        (LocalSgd(steps=25, batch_size=1), {}),
    ],
    ids=["sgd", "in pieces", "everybody", "fedprox", "some batches empty"],
)
def test_one_clients_update_is_ours(engine, algorithm, options):
    wanted = trained(dense, "fedsim", algorithm, **dict(options))
    assert_same(trained(dense, engine, algorithm, **dict(options)), wanted)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [convolution, recurrent, Words, with_dropout, half_frozen])
def test_every_kind_of_layer(engine, make):
    algorithm = LocalSgd(epochs=1, batch_size=8)
    assert_same(trained(make, engine, algorithm), trained(make, "fedsim", algorithm))


def test_tied_layers_are_clipped_as_one():
    algorithm = LocalSgd(epochs=1, batch_size=8)
    assert_same(trained(Tied, "opacus", algorithm), trained(Tied, "fedsim", algorithm))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_batch_is_a_step_of_noise(engine):
    """Of one example in forty a batch is often empty: the update is noise alone."""
    algorithm = LocalSgd(steps=1, batch_size=1)
    empty = next(
        c for c in range(99) if not len(example.batch(example.stream_of(_ctx(c)), SIZE, 1))
    )
    torch.manual_seed(0)
    module = dense()
    task = Task(module, get_vector(module), *examples(), CROSS_ENTROPY, Sgd(lr=1.0))
    update, _ = Private(algorithm, 1.5, 0.8, None, engine).train(task, {}, _ctx(empty))
    assert "loss" not in update.metrics
    noise = example.noisy_mean(
        [torch.zeros_like(p) for p in module.parameters()],
        clipping_norm=1.5, noise_multiplier=0.8, expected=1, examples=SIZE,
        stream=example.stream_of(_ctx(empty)),
    )  # fmt: skip
    wanted = -torch.cat([n.flatten() for n in noise])
    torch.testing.assert_close(update.vector, wanted, rtol=0, atol=1e-6)
    assert float(update.vector.std()) == pytest.approx(1.2, rel=0.1)


def _ctx(client):
    return replace(CTX, client=client)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_clipped_is_bounded_and_leaves_the_module_as_it_was(engine):
    torch.manual_seed(0)
    module = convolution()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    attributes = {n: set(vars(m)) for n, m in module.named_modules()}
    x, y = examples()
    with attached(module, CROSS_ENTROPY, is_ghost=engine == "opacus-ghost") as clip:
        first, again = clip(x, y, 0.1), clip(x, y, 0.1)
        assert sum(float(s.square().sum()) for s in clip(x[:1], y[:1], 0.1).sums) <= 0.01 + 1e-7
    wanted = Clipper(module, CROSS_ENTROPY)(x, y, 0.1)
    for found in (first, again):
        for own, exact in zip(found.sums, wanted.sums, strict=True):
            torch.testing.assert_close(own, exact, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.norms, wanted.norms, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.losses, wanted.losses)
    assert {n: set(vars(m)) for n, m in module.named_modules()} == attributes
    for child in module.modules():
        assert not child._forward_hooks
        assert not child._backward_hooks
    assert all(not vars(p) and p.grad is None for p in module.parameters())
    assert all(torch.equal(before[n], value) for n, value in module.state_dict().items())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_that_is_not_finite_counts_as_zero(engine):
    torch.manual_seed(0)
    module = dense()
    x, y = examples()
    bad = x.clone()
    bad[3] = torch.inf
    with attached(module, CROSS_ENTROPY, is_ghost=engine == "opacus-ghost") as clip:
        found = clip(bad, y, 0.5)
    keep = torch.arange(SIZE) != 3
    wanted = Clipper(module, CROSS_ENTROPY)(x[keep], y[keep], 0.5)
    assert not found.norms[3].isfinite()
    for own, exact in zip(found.sums, wanted.sums, strict=True):
        torch.testing.assert_close(own, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_that_fails_leaves_nothing_behind(engine):
    module = dense()
    x, y = examples()
    with (
        pytest.raises(RuntimeError),
        attached(module, CROSS_ENTROPY, is_ghost=engine == "opacus-ghost") as clip,
    ):
        clip(x[:, :, :4], y, 0.5)
    assert all(not vars(p) for p in module.parameters())
    assert not any(hasattr(child, "activations") for child in module.modules())


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("make", "engine", "said"),
        [
            (Tied, "opacus-ghost", "tying"),
            (Unused, "opacus", "not initialized"),
            (Unused, "opacus-ghost", "does not take"),
        ],
        ids=["tied ghost", "unused", "unused ghost"],
    )
    def test_models(self, make, engine, said):
        torch.manual_seed(0)
        module, (x, y) = make(), examples()
        assert refusal(module, CROSS_ENTROPY, x[:6], y[:6]) == ""
        reason = refusal(module, CROSS_ENTROPY, x[:6], y[:6], engine)
        assert said in reason
        assert "privacy.engine=fedsim" in reason

    def test_padding_that_opacus_counts(self):
        """Opacus 1.6 has a gradient for `padding_idx`, which torch has not."""
        torch.manual_seed(0)
        module, (x, y) = Words(), examples()
        module.embed = nn.Embedding(11, 6, padding_idx=5)
        reason = refusal(module, CROSS_ENTROPY, x[:6], y[:6], "opacus")
        assert "clips other sums" in reason

    @pytest.mark.parametrize("engine", ENGINES)
    def test_not_what_is_the_same(self, engine):
        torch.manual_seed(0)
        x, y = examples()
        for make in (dense, convolution, recurrent, with_dropout):
            assert refusal(make(), CROSS_ENTROPY, x[:6], y[:6], engine) == ""
        found = check_model(dense(), CROSS_ENTROPY, x[:6], y[:6], engine)
        assert [f.status for f in found if f.name.startswith("privacy.engine")] == ["pass"]

    @pytest.mark.parametrize("unit", ["none", "user", "local"])
    def test_other_units(self, unit):
        settings = {"unit": unit, "engine": "opacus"}
        if unit != "none":
            settings["noise_multiplier"] = 1.0
        with pytest.raises(ConfigError) as caught:
            configuration.load({"privacy": settings})
        problems = {p.path: p for p in caught.value.problems}
        assert "unit 'example'" in problems["privacy.engine"].accepted
