"""Example-level privacy on one client: batches, noise, Opacus, LSTMs, and what is accounted."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fedsim import losses
from fedsim.clients._local import train_locally
from fedsim.clients._private import Private
from fedsim.clients.fedprox import FedProx
from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.core import ClientContext, Clipping, Recipe, Task
from fedsim.data import Meta
from fedsim.dropout import Dropout
from fedsim.models import build, get_vector, layout, named, set_vector
from fedsim.models.lstm import Lstm
from fedsim.optimizers.sgd import Sgd
from fedsim.privacy import accounting, example
from fedsim.privacy.clipping import Clipper
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.ledger import Entry, Ledger, grouped
from fedsim.privacy.margin import bound
from fedsim.privacy.noise import Stream

SIZE = 40
CTX = ClientContext(seed=3, round=2, client=7)
CLIPPING = Clipping(1.5, 0.8, "chacha20")
CROSS_ENTROPY = losses.LOSSES["cross_entropy"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 5))


def task_of(module, *, size=SIZE, optimizer=None, **options):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 1, 8, 8, generator=generator)
    y = torch.randint(5, (size,), generator=generator)
    chosen = optimizer or Sgd(lr=0.1)
    return Task(module, get_vector(module), x, y, CROSS_ENTROPY, chosen, **options)


def opacus(made, recipe, *, momentum=0.0, pull=0.0, l2=0.0):
    """Train with Opacus 1.6's hooks and optimizer on our batches, and add our noise by hand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

    module, draws, noise = network(), example.stream_of(CTX), example.stream_of(CTX)
    expected, steps = example.steps_of(SIZE, recipe)
    scale = CLIPPING.noise_multiplier * CLIPPING.clipping_norm
    anchors = [p.detach().clone() for p in module.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = GradSampleModule(module)
        inner = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=momentum)
        options = {"max_grad_norm": bound(1.5), "expected_batch_size": expected}
        optimizer = DPOptimizer(inner, noise_multiplier=0.0, **options)
        for _ in range(steps):
            chosen = example.batch(draws, SIZE, expected)
            optimizer.zero_grad()
            if len(chosen):
                output = wrapped(made.x[chosen])
                nn.functional.cross_entropy(output, made.y[chosen]).backward()
                optimizer.pre_step()
            for p, anchor in zip(wrapped.parameters(), anchors, strict=True):
                own = noise.normals(p.numel(), scale / expected).float().view_as(p)
                gradient = own if p.grad is None else p.grad + own
                p.grad = gradient + pull * (p.detach() - anchor) + l2 * p.detach()
            inner.step()
    return get_vector(module) - made.model


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (LocalSgd(epochs=2, batch_size=10), {}),
        (LocalSgd(steps=25, batch_size=1), {}),  # some batches are empty
        (LocalSgd(epochs=2, batch_size=10), {"momentum": 0.9}),
        (FedProx(mu=0.7, epochs=3, batch_size=10), {"pull": 0.7}),
        (FedProx(mu=0.7, epochs=3, batch_size=10), {"pull": 0.7, "l2": 0.2, "momentum": 0.5}),
        (LocalSgd(epochs=2, batch_size=0), {}),
    ],
    ids=repr,
)
def test_it_is_opacus_with_the_same_batches_and_noise(algorithm, options):
    made = task_of(
        network(),
        optimizer=Sgd(lr=0.1, momentum=options.get("momentum", 0.0)),
        l2=options.get("l2", 0.0),
    )
    part = Private(algorithm, CLIPPING.clipping_norm, CLIPPING.noise_multiplier)
    update, _ = part.train(made, {}, CTX)
    expected = opacus(made, algorithm.recipe, **options)
    torch.testing.assert_close(update.vector, expected, rtol=1e-5, atol=1e-6)


def test_penalties_and_pulls_are_not_clipped_and_come_after_the_noise():
    # One step: what they add is what it would be without any clipping, whatever gradients are.
    recipe = Recipe(steps=1, batch_size=10, clipping=replace(CLIPPING, clipping_norm=1e-3))

    def vector(**options):
        return train_locally(task_of(network(), **options), {}, CTX, recipe)[0].vector

    model = get_vector(network())
    torch.testing.assert_close(vector(l2=3.0) - vector(), -0.1 * 3.0 * model, rtol=0, atol=1e-7)


def test_a_recipe_needs_its_noise():
    with pytest.raises(ValueError, match="not been found"):
        _ = Private(LocalSgd(), 1.0, None).recipe
    assert Private(LocalSgd(epochs=3), 1.0, 2.0).recipe.clipping == Clipping(1.0, 2.0, "chacha20")


def test_the_noise_has_the_stated_size():
    # Gradients are clipped to next to nothing: one step is lr times the noise over the batch size.
    recipe = Recipe(steps=1, batch_size=10, clipping=Clipping(1e-6, 2e6, "chacha20"))
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 500))
    update, _ = train_locally(task_of(module, optimizer=Sgd(lr=1.0)), {}, CTX, recipe)
    noise = update.vector.double().numpy() * 10 / 2.0
    assert stats.kstest(noise, "norm").pvalue > 0.01
    assert noise.std() == pytest.approx(1.0, rel=0.01)


def test_batches_are_poisson_samples():
    rate, size, draws = 0.3, 50, 4000
    stream, members = Stream.seeded(5, "test"), np.zeros((4000, 50))
    for own in members:
        own[example.batch(stream, size, 15).numpy()] = 1
    sizes = members.sum(axis=1).astype(int)
    counts = np.bincount(sizes, minlength=size + 1)[5:26]
    chances = stats.binom.pmf(np.arange(5, 26), size, rate)
    assert stats.chisquare(counts, chances / chances.sum() * counts.sum()).pvalue > 0.001
    together = (members.T @ members)[np.triu_indices(size, k=1)] / draws
    assert together.mean() == pytest.approx(rate**2, abs=0.002)
    assert example.batch(stream, 7, 7).tolist() == list(range(7))


def test_noise_and_batches_follow_from_the_seed_round_and_client():
    recipe = Recipe(steps=3, batch_size=10, clipping=CLIPPING)

    def vector(ctx):
        return train_locally(task_of(network()), {}, ctx, recipe)[0].vector

    others = [replace(CTX, seed=2**255), replace(CTX, round=3), replace(CTX, client=8)]
    assert torch.equal(vector(CTX), vector(CTX))
    assert all(not torch.equal(vector(CTX), vector(other)) for other in others)


def test_the_last_bits_of_a_step_tell_nothing():
    # What is released is a multiple of one power of two, whatever the clipped sum was.
    options = {"clipping_norm": 1.0, "noise_multiplier": 1.0, "expected": 1, "examples": 9}
    for value in (0.0, 0.1, 1 / 3):
        stream = Stream.seeded(1, "test")
        (noisy,) = example.noisy_mean(
            [torch.full((1000,), value, dtype=torch.float64)], stream=stream, **options
        )
        steps = noisy * 2.0**36
        assert torch.equal(steps, steps.round())


def test_releases_of_clients():
    recipe = Recipe(batch_size=32)
    assert example.release(400, recipe, 1.0) == Release(
        "gaussian", 1.0, Sampling("poisson", 0.08), 13
    )
    assert example.release(32, recipe, 1.0) == Release("gaussian", 1.0, Sampling(), 1)
    assert example.release(9, replace(recipe, batch_size=0, epochs=4), 1.0).count == 4
    assert example.release(9, replace(recipe, batch_size=3), 1.0, full_batch=True).count == 1
    assert example.release(90, replace(recipe, steps=7), 2.0).count == 7


def test_a_hundred_rounds_through_the_ledger_are_one_account(tmp_path):
    """Opacus's example builds an accountant per round and reports 3.05; the truth is 23.17.

    Batches of 32, noise 1, 100 rounds of an epoch, delta 1e-5. Of 400 examples, in 13 batches,
    Opacus's loader takes each with probability 1/13; ours does so of 416.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import RDPAccountant
    recipe, clients = Recipe(batch_size=32), range(100)
    release = example.release(416, recipe, 1.0)
    path = tmp_path / "ledger.jsonl"
    for number in range(1, 101):
        spends = grouped(dict.fromkeys(clients, release))
        entry = Entry("run", number, "example", "made", "2026-01-01T00:00:00Z", "zero-out", spends)
        Ledger(path).admit(entry)  # a new process each time, as far as the ledger knows
    ((history, count),) = Ledger(path).spent().histories()
    assert count == 100
    assert history == (replace(release, count=1300),)
    once = accounting.epsilon([replace(release, count=1300)], 1e-5, "zero-out")
    assert accounting.epsilon(history, 1e-5, "zero-out") == pytest.approx(once, abs=1e-9)
    assert once == pytest.approx(21.48, abs=0.01)

    other, rounds = RDPAccountant(), RDPAccountant()
    other.history = [(1.0, 1 / 13, sum(own.count for own in history))]
    for _ in range(1300):
        rounds.step(noise_multiplier=1.0, sample_rate=1 / 13)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = other.get_epsilon(1e-5)
        assert found == pytest.approx(rounds.get_epsilon(1e-5), abs=1e-9)
    assert found == pytest.approx(23.17, abs=0.01)


SEQUENCES = Meta("made", "classification", (6,), 11, "", 11)


def sequences(count=5):
    generator = torch.Generator().manual_seed(4)
    draw = [torch.randint(11, (count, 6), generator=generator) for _ in range(2)]
    return draw[0], draw[1]


def test_a_replaced_lstm_computes_the_same_and_keeps_the_layout():
    plain = build(Lstm(hidden=7), SEQUENCES, 3)
    module = build(Lstm(hidden=7), SEQUENCES, 3, example.replace_lstm)
    x, _ = sequences()
    before, vector, names = plain(x), get_vector(plain), layout(plain)
    assert not any(isinstance(child, nn.LSTM) for child in module.modules())
    torch.testing.assert_close(module(x), before, rtol=1e-6, atol=1e-6)
    assert torch.equal(get_vector(module), vector)
    assert layout(module) == names
    set_vector(module, 2 * vector)
    set_vector(plain, 2 * vector)
    torch.testing.assert_close(module(x), plain(x), rtol=1e-6, atol=1e-6)
    again = Lstm(hidden=7).build(SEQUENCES)
    again.load_state_dict(named(module, vector))  # a saved model fits the plain one
    torch.testing.assert_close(again(x), before)


@pytest.mark.parametrize(
    "options",
    [{"bias": False}, {"bidirectional": True, "num_layers": 2}, {"num_layers": 3}],
    ids=str,
)
def test_every_kind_of_lstm(options):
    torch.manual_seed(0)
    layer = nn.LSTM(4, 3, **options)
    x = torch.randn(5, 2, 4)
    made = example.replace_lstm(layer)
    assert [n for n, _ in made.named_parameters()] == [n for n, _ in layer.named_parameters()]
    for one, other in zip(made(x)[1], layer(x)[1], strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(made(x)[0], layer(x)[0])


def test_an_lstm_keeps_what_is_frozen_and_draws_dropout_from_our_streams():
    layer = nn.LSTM(4, 3, 2, dropout=0.5)
    layer.weight_ih_l1.requires_grad_(False)
    made = example.replace_lstm(nn.Sequential(layer))
    assert [p.requires_grad for p in made.parameters()] == [
        p.requires_grad for p in layer.parameters()
    ]
    assert any(isinstance(child, Dropout) for child in made.modules())
    with pytest.raises(ValueError, match="projections"):
        example.replace_lstm(nn.LSTM(4, 3, proj_size=2))


def test_gradients_of_an_lstm_are_those_of_examples_one_by_one():
    torch.manual_seed(0)
    module = Lstm(hidden=7, layers=2).build(SEQUENCES)
    x, y = sequences()
    norms, total = [], 0.0
    for i in range(len(x)):
        loss = nn.functional.cross_entropy(module(x[i : i + 1]).flatten(0, 1), y[i])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        flat = torch.cat([g.flatten() for g in gradients])
        norms.append(flat.norm())
        total = total + flat * min(1.0, 0.1 / float(flat.norm()))
    clip = Clipper(example.replace_lstm(module), CROSS_ENTROPY)
    assert not clip.forms_gradients
    found = clip(x, y, 0.1)
    torch.testing.assert_close(found.norms, torch.stack(norms), rtol=1e-5, atol=1e-6)
    flat = torch.cat([own.flatten() for own in found.sums])
    torch.testing.assert_close(flat, total, rtol=1e-5, atol=1e-6)
