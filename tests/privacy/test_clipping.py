"""Clipped sums against one backward pass per example, and against Opacus."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim import counter, dropout, losses, models, registry
from fedsim.data import Meta
from fedsim.models.cnn import Cnn
from fedsim.models.mlp import Mlp
from fedsim.privacy.clipping import Clipper, factors, mixes_examples
from fedsim.privacy.example import replace_lstm

CROSS_ENTROPY = losses.LOSSES["cross_entropy"]


def brute_force(module, loss, x, y, clipping_norm):
    """One backward pass per example."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    sums, norms = [torch.zeros_like(p, dtype=torch.float64) for p in parameters], []
    for i in range(len(x)):
        own = loss(module(x[i : i + 1]), y[i : i + 1])
        found = torch.autograd.grad(own, parameters, materialize_grads=True, allow_unused=True)
        norm = torch.stack([g.double().square().sum() for g in found]).sum().sqrt()
        factor = min(1.0, clipping_norm / max(float(norm), 1e-300))
        for total, g in zip(sums, found, strict=True):
            total += factor * g.double()
        norms.append(float(norm))
    return sums, torch.tensor(norms, dtype=torch.float64)


def check(module, loss, x, y, *, forms=False, quantile=0.5):
    """Compare, with a clipping norm in the middle of the norms: some are clipped, some are not."""
    norms = brute_force(module, loss, x, y, 1.0)[1]
    bound = float(norms.quantile(quantile)) * 1.01 + 1e-9
    expected, norms = brute_force(module, loss, x, y, bound)
    clipper = Clipper(module, loss)
    assert clipper.forms_gradients == forms
    for _ in range(2):  # what it learns from the first batch changes nothing
        found = clipper(x, y, bound)
        torch.testing.assert_close(found.norms.double(), norms, rtol=1e-5, atol=1e-7)
        for ours, exact in zip(found.sums, expected, strict=True):
            scale = max(1.0, float(exact.abs().max()))
            torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-5 * scale)
    each = torch.stack([loss(module(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(found.losses, each.detach(), rtol=1e-5, atol=1e-6)


def meta(kind="classification", shape=(8, 8), outputs=4, vocabulary=0):
    return Meta("made", kind, shape, outputs, "", vocabulary)


BUILT_IN = {
    "linear": (meta(), False),
    "mlp": (meta("regression", (5,), 1), False),
    "cnn": (meta(shape=(3, 32, 32)), False),
    "lenet": (meta(shape=(28, 28)), False),
    "lstm": (meta(shape=(7,), outputs=9, vocabulary=9), True),
    "transformer": (meta(shape=(7,), outputs=9, vocabulary=9), True),
}


@pytest.mark.parametrize("name", registry.names("models"))
def test_every_built_in_model(name):
    about, forms = BUILT_IN[name]
    module = models.build(registry.load("models", name)(), about, 0).train()
    generator = torch.Generator().manual_seed(0)
    if about.vocabulary:
        x = torch.randint(9, (6, 7), generator=generator)
        y = torch.randint(9, (6, 7), generator=generator)
    else:
        x = torch.randn(6, *about.input_shape, generator=generator)
        y = torch.randint(4, (6,), generator=generator)
    if about.kind == "regression":
        y = y.float()
    check(module, losses.LOSSES[losses.default(about.kind)], x, y, forms=forms)


def flat_loss(output, target, reduction="mean"):
    """A loss of any output: weighted by the target, far from zero."""
    each = (output.flatten(1).square() * (1 + target.unsqueeze(1))).sum(dim=1)
    return each.mean() if reduction == "mean" else each


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 5),
    groups=st.integers(1, 3),
    ins=st.integers(1, 3),
    outs=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.sampled_from([0, 1, "same", "circular"]),
    bias=st.booleans(),
    two=st.booleans(),
)
def test_convolutions(batch, groups, ins, outs, kernel, stride, dilation, padding, bias, two):
    torch.manual_seed(batch)
    stride = 1 if padding == "same" else stride
    options = {"stride": stride, "dilation": dilation, "groups": groups, "bias": bias}
    if padding == "circular":
        options |= {"padding": 1, "padding_mode": "circular"}
    else:
        options["padding"] = padding
    kind, size = (nn.Conv2d, kernel) if two else (nn.Conv1d, kernel[0])
    module = kind(ins * groups, outs * groups, size, **options)
    shape = (batch, ins * groups, 7, 6) if two else (batch, ins * groups, 9)
    check(module, flat_loss, torch.randn(shape), torch.rand(batch))


def test_convolutions_in_three_dimensions_and_with_few_positions():
    torch.manual_seed(0)
    check(nn.Conv3d(2, 3, 2, padding=1), flat_loss, torch.randn(3, 2, 4, 3, 5), torch.rand(3))
    check(nn.Conv2d(8, 9, 3, padding=1), flat_loss, torch.randn(3, 8, 3, 3), torch.rand(3))
    check(nn.Conv1d(8, 9, 3, stride=2), flat_loss, torch.randn(3, 8, 7), torch.rand(3))


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 5),
    between=st.lists(st.integers(1, 4), max_size=2).map(tuple),
    wide=st.integers(1, 9),
    high=st.integers(1, 9),
    bias=st.booleans(),
)
def test_linear_on_any_number_of_positions(batch, between, wide, high, bias):
    torch.manual_seed(batch)
    module = nn.Linear(wide, high, bias=bias)
    check(module, flat_loss, torch.randn(batch, *between, wide), torch.rand(batch))


@settings(max_examples=20, deadline=None)
@given(
    tokens=st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=5),
    padding=st.one_of(st.none(), st.integers(0, 5)),
)
def test_embeddings_with_repeated_and_padding_tokens(tokens, padding):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(6, 3, padding_idx=padding), nn.Linear(3, 2))
    check(module, flat_loss, torch.tensor(tokens), torch.rand(len(tokens)))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LayerNorm(5), (4, 5)),
        (nn.LayerNorm((3, 5)), (4, 2, 3, 5)),
        (nn.LayerNorm(5, bias=False), (4, 7, 5)),
        (nn.GroupNorm(2, 6), (4, 6, 3, 3)),
        (nn.GroupNorm(3, 6), (4, 6)),
        (nn.RMSNorm(5), (4, 7, 5)),
    ],
    ids=repr,
)
def test_norm_layers(layer, shape):
    torch.manual_seed(0)
    for p in layer.parameters():
        nn.init.normal_(p)
    check(layer, flat_loss, torch.randn(shape), torch.rand(4))


class Shared(nn.Module):
    """A layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Bare(nn.Module):
    """Parameters outside any layer, one of them a single number."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Linear(5, 2)
        self.factor = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.head(x) * self.scale * self.factor


class Unused(nn.Module):
    """A layer that this input does not reach, and a frozen one."""

    def __init__(self):
        super().__init__()
        self.frozen, self.head, self.other = nn.Linear(5, 5), nn.Linear(5, 2), nn.Linear(5, 2)
        self.frozen.requires_grad_(False)
        self.head.bias.requires_grad_(False)

    def forward(self, x):
        return self.head(self.frozen(x))


class InPlace(nn.Module):
    """Changes what its layers put out."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.second(torch.relu_(self.first(x).mul_(2.0)))


@pytest.mark.parametrize(
    ("module", "forms"),
    [(Shared, False), (Tied, True), (Bare, True), (Unused, False), (InPlace, False)],
)
def test_modules_of_ones_own(module, forms):
    torch.manual_seed(0)
    check(module(), flat_loss, torch.randn(6, 5), torch.rand(6), forms=forms)


@pytest.mark.parametrize("quantile", [0.0, 1.0])
def test_all_clipped_and_none_clipped(quantile):
    torch.manual_seed(0)
    check(nn.Linear(5, 3), flat_loss, torch.randn(6, 5), torch.rand(6), quantile=quantile)


def test_an_empty_batch_is_a_sum_of_zeros():
    found = Clipper(nn.Linear(5, 3), CROSS_ENTROPY)(
        torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), 1.0
    )
    assert [g.shape for g in found.sums] == [(3, 5), (3,)]
    assert all(not g.any() for g in found.sums)
    assert len(found.norms) == len(found.losses) == 0


@pytest.mark.parametrize("module", [Mlp(hidden=(6,)), Cnn()], ids=["mlp", "cnn"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_example_that_is_not_finite_counts_as_zero(module, bad):
    built = models.build(module, meta(), 0)
    x, y = torch.randn(5, 8, 8), torch.tensor([0, 1, 2, 3, 0])
    x[2] = bad
    clipper, good = Clipper(built, CROSS_ENTROPY), [0, 1, 3, 4]
    found, without = clipper(x, y, 0.5), clipper(x[good], y[good], 0.5)
    assert not found.norms[2].isfinite()
    for one, other in zip(found.sums, without.sums, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    only = clipper(x[2:3], y[2:3], 0.5)
    assert all(not g.any() for g in only.sums)


def test_one_that_is_not_finite_where_gradients_are_formed():
    module, x = Bare(), torch.randn(4, 5)
    x[1] = float("nan")
    found = Clipper(module, flat_loss)(x, torch.rand(4), 0.5)
    assert all(g.isfinite().all() for g in found.sums)


def test_batch_norm_is_refused():
    module = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    assert "group norm" in mixes_examples(module)
    with pytest.raises(ValueError, match="group norm"):
        Clipper(module, CROSS_ENTROPY)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9), st.floats(1e-3, 1e3))
def test_no_factor_lets_more_than_the_norm_through(norms, bound):
    found = factors(torch.tensor(norms), bound)
    assert (found <= 1).all()
    assert (found * torch.tensor(norms) <= bound * (1 + 1e-5)).all()
    assert factors(torch.tensor([0.0, float("nan"), float("inf")]), bound).tolist() == [1, 0, 0]


def test_dropout_differs_between_examples_and_repeats_with_the_stream():
    torch.manual_seed(0)
    for module in (
        nn.Sequential(dropout.Dropout(0.5), nn.Linear(40, 2)),
        nn.Sequential(dropout.Dropout(0.5), Bare40()),
    ):
        clipper = Clipper(module.train(), flat_loss)
        x, y = torch.ones(3, 40), torch.zeros(3)
        keys = torch.from_numpy(counter.client_keys(0, "x", 1, [4]))[0]

        def sums(step, clipper=clipper, x=x, y=y, keys=keys):
            with dropout.keyed(keys, step):
                return clipper(x, y, 1e9)

        assert torch.equal(sums(0).norms, sums(0).norms)
        assert not torch.equal(sums(0).norms, sums(1).norms)
        assert len(set(sums(0).norms.tolist())) == 3


class Bare40(nn.Module):
    """A parameter outside any layer, on 40 inputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.1, 1, 40))

    def forward(self, x):
        return (x * self.weight).sum(dim=1, keepdim=True)


class Scaled(nn.Module):
    """A layer that neither side has a rule for."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 9))

    def forward(self, x):
        return torch.tanh(x * self.scale) + self.scale


class LastOf(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


OPACUS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)), (6,)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(),
            nn.Linear(36, 4),
        ),
        (1, 8, 8),
    ),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Flatten(), nn.Linear(20, 4)),
        (4, 3),
    ),
    "recurrent": (lambda: replace_lstm(LastOf()), (5, 3)),
}  # fmt: skip
#: What we form the gradients of, for want of a rule.
FORMED = {
    "own layer": (lambda: nn.Sequential(nn.Linear(6, 9), Scaled(), nn.Linear(9, 4)), (6,)),
    "instance norm": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 3), nn.InstanceNorm1d(3, affine=True), nn.Flatten(), nn.Linear(18, 4)
        ),
        (2, 8),
    ),
    "tied": (lambda: nn.Sequential(Tied(), nn.Linear(5, 4)), (5,)),
}


@pytest.mark.parametrize("name", [*OPACUS, *FORMED])
def test_sums_are_those_of_opacus(name):
    """Opacus 1.6's hooks and its DPOptimizer with the same batch and no noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

    build, shape = (OPACUS | FORMED)[name]
    torch.manual_seed(1)
    module = build()
    x, y = torch.randn(12, *shape), torch.arange(12) % 4
    norms = Clipper(module, CROSS_ENTROPY)(x, y, 1.0).norms
    bound = float(np.median(norms))
    clipper = Clipper(module, CROSS_ENTROPY)
    assert clipper.forms_gradients == (name in FORMED)
    ours = clipper(x, y, bound)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = GradSampleModule(module)
        inner = torch.optim.SGD(wrapped.parameters(), lr=1.0)
        optimizer = DPOptimizer(
            inner, noise_multiplier=0.0, max_grad_norm=bound, expected_batch_size=1
        )
        nn.functional.cross_entropy(wrapped(x), y).backward()
        optimizer.pre_step()
    theirs = [p.grad for p in wrapped.parameters()]
    for one, other in zip(ours.sums, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_dense_layers_form_no_gradient_of_an_example(monkeypatch):
    """Nor do convolutions whose positions are few; those of many positions do (Bu et al., 3.2)."""

    def formed(*arguments):
        raise AssertionError("a gradient was formed")

    monkeypatch.setattr("fedsim.privacy.clipping._formed", formed)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 4))
    few = nn.Sequential(nn.Conv2d(1, 64, 3, stride=3), nn.Conv2d(64, 64, 2), nn.Flatten())
    for module in (dense, nn.Sequential(*few[1:], nn.LazyLinear(4))):
        x = torch.randn(6, *((1, 8, 8) if module is dense else (64, 3, 3)))
        module(x)
        check(module, CROSS_ENTROPY, x, torch.randint(4, (6,)))
    many = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(4))
    many(torch.randn(6, 1, 8, 8))
    with pytest.raises(AssertionError, match="a gradient was formed"):
        Clipper(many, CROSS_ENTROPY)(torch.randn(6, 1, 8, 8), torch.randint(4, (6,)), 1.0)
