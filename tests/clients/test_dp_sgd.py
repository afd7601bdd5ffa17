"""DP-SGD against Opacus with the same batches, its sampling, its noise, and what it refuses."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import fedsim
from fedsim import counter, losses, outer, training
from fedsim.clients._local import train_locally
from fedsim.clients.dp_sgd import DpSgd, train_clipped
from fedsim.core import ClientContext, Clipping, Recipe, Task
from fedsim.errors import ConfigError
from fedsim.models import get_vector, set_vector
from fedsim.optimizers.adam import Adam
from fedsim.optimizers.sgd import Sgd
from fedsim.privacy.sampling import poisson_batch, poisson_members

SIZE = 40


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    )


def task_of(module, optimizer=None, size=SIZE):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 1, 8, 8, generator=generator)
    y = torch.randint(5, (size,), generator=generator)
    loss = losses.LOSSES["cross_entropy"]
    return Task(module, get_vector(module), x, y, loss, optimizer or Sgd(lr=0.1))


def batches_of(part, context, size=SIZE):
    keys = torch.from_numpy(training.client_keys([context]))
    steps = part.steps or part.epochs * -(-size // part.batch_size)
    return [poisson_batch(keys, size, part.batch_size / size, step) for step in range(steps)]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_noise_it_is_opacus_on_the_same_batches(momentum, ctx):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

    part = DpSgd(clipping_norm=1.5, noise_multiplier=0.0, epochs=2, batch_size=10)
    made = task_of(network(), Sgd(lr=0.1, momentum=momentum))
    update, _ = part.train(made, {}, ctx())

    module = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = GradSampleModule(module)
        optimizer = DPOptimizer(
            torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=momentum),
            noise_multiplier=0.0,
            max_grad_norm=1.5,
            expected_batch_size=10,
        )
        for batch in batches_of(part, ctx()):
            assert 0 < len(batch) < SIZE
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapped(made.x[batch]), made.y[batch]).backward()
            optimizer.step()
    expected = get_vector(module) - made.model
    torch.testing.assert_close(update.vector, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 3, 7, SIZE])
@pytest.mark.parametrize("source", ["torch", "chacha20"])
def test_a_batch_in_pieces_is_the_same_step(at_once, source, ctx):
    recipe = Recipe(epochs=2, batch_size=10, clipping=Clipping(0.5, 0.3, source))
    pieces = replace(recipe, clipping=replace(recipe.clipping, at_once=at_once))
    found = []
    for own in (recipe, pieces):
        counted = []
        module = network()
        module.register_forward_hook(lambda _, given, __, to=counted: to.append(len(given[0])))
        update, _ = train_clipped(task_of(module, Sgd(lr=0.1, momentum=0.5)), {}, ctx(), own)
        found.append((update, counted))
    (whole, batches), (parts, sizes) = found
    torch.testing.assert_close(parts.vector, whole.vector, rtol=1e-5, atol=1e-6)
    assert parts.metrics == pytest.approx(whole.metrics)
    assert sum(sizes) == sum(batches)
    assert max(sizes) <= at_once


def test_the_noise_has_the_stated_size(ctx):
    # Gradients are clipped to next to nothing: one step is lr times the noise over the batch size.
    part = DpSgd(clipping_norm=1e-6, noise_multiplier=2e6, steps=1, batch_size=10)
    update, _ = part.train(task_of(network(), Sgd(lr=1.0)), {}, ctx())
    noise = update.vector.double().numpy() * 10 / 2.0
    assert stats.kstest(noise, "norm").pvalue > 0.01
    assert noise.std() == pytest.approx(1.0, rel=0.1)


def test_noise_repeats_with_the_seed_and_differs_between_rounds_and_clients(ctx):
    part = DpSgd(steps=2, batch_size=10)

    def vector(context):
        return part.train(task_of(network()), {}, context)[0].vector

    assert torch.equal(vector(ctx(1)), vector(ctx(1)))
    assert not torch.equal(vector(ctx(1)), vector(ctx(2)))
    assert not torch.equal(vector(ctx(1)), vector(replace(ctx(1), client=5)))


def test_batches_are_poisson_samples():
    rate, size, draws = 0.3, 50, 4000
    keys = torch.from_numpy(counter.client_keys(3, "x", 1, [7]))
    members = np.zeros((draws, size))
    for step in range(draws):
        members[step, poisson_batch(keys, size, rate, step).numpy()] = 1
    sizes = members.sum(axis=1)
    counts = np.bincount(sizes.astype(int), minlength=size + 1)[5:26]
    expected = stats.binom.pmf(np.arange(5, 26), size, rate)
    assert stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 0.001
    # Pairs come together as often as chance has it: a sampler of fixed size would not.
    pairs = members.T @ members
    together = pairs[np.triu_indices(size, k=1)] / draws
    assert together.mean() == pytest.approx(rate**2, abs=0.002)
    assert poisson_batch(keys, size, 1.0, 0).tolist() == list(range(size))


def test_many_clients_draw_what_each_draws_alone():
    keys = torch.from_numpy(counter.client_keys(3, "x", 1, [7, 8, 9]))
    sizes, rates = [5, 40, 12], [1.0, 0.3, 0.5]
    for step in range(4):
        drawn = poisson_members(keys, sizes, rates, step)
        for i, (size, rate) in enumerate(zip(sizes, rates, strict=True)):
            alone = poisson_batch(keys[i : i + 1], size, rate, step)
            assert drawn[i].nonzero().flatten().tolist() == alone.tolist()


def test_empty_batches_are_steps_of_noise_alone(ctx):
    part = DpSgd(noise_multiplier=1.0, steps=30, batch_size=1)
    made = task_of(network(), size=12)
    empty = [len(batch) for batch in batches_of(part, ctx(), 12)].count(0)
    assert 0 < empty < 30
    update, _ = part.train(made, {}, ctx())
    assert update.vector.isfinite().all()


def test_nothing_seen_is_no_loss(ctx):
    part = replace(DpSgd(steps=1, batch_size=1))
    rounds = [n for n in range(1, 60) if not len(batches_of(part, ctx(n))[0])]
    update, _ = part.train(task_of(network()), {}, ctx(rounds[0]))
    assert "loss" not in update.metrics


def test_an_example_of_nan_changes_nothing_but_itself(ctx):
    part = DpSgd(noise_multiplier=0.0, epochs=1, batch_size=SIZE)
    made = task_of(network())
    made.x[3] = float("nan")
    update, _ = part.train(made, {}, ctx())
    assert update.vector.isfinite().all()


def test_a_kept_optimizer_goes_on(ctx):
    part = DpSgd(noise_multiplier=0.0, batch_size=0, epochs=2, keep_optimizer=True)
    first = task_of(network(), Adam(lr=0.01))
    update, memo = part.train(first, {}, ctx(1))
    second = task_of(network(), Adam(lr=0.01))
    set_vector(second.module, first.model + update.vector)
    second = replace(second, model=first.model + update.vector)
    later, _ = part.train(second, memo, ctx(2))
    long = task_of(network(), Adam(lr=0.01))
    whole, _ = replace(part, epochs=4).train(long, {}, ctx(1))
    torch.testing.assert_close(update.vector + later.vector, whole.vector, rtol=0, atol=1e-6)


def test_what_it_declares_is_what_it_does(ctx):
    part = DpSgd(0.7, 1.3, epochs=2, batch_size=10, keep_optimizer=True)
    direct, kept = part.train(task_of(network(), Adam()), {}, ctx())
    declared, also = train_locally(task_of(network(), Adam()), {}, ctx(), part.recipe)
    assert torch.equal(direct.vector, declared.vector)
    assert kept.keys() == also.keys() != set()


def test_in_an_experiment_it_says_that_it_is_not_private(tmp_path):
    result = fedsim.run(
        "digits",
        ["local.name=dp-sgd", "rounds.count=1", "partition.clients=4", "engine.grid=inprocess"],
        runs=tmp_path,
    )
    assert "not private" in result.stored.facts["notice"]
    assert "not private" in result.report.read_text(encoding="utf-8")
    assert result.stored.facts["execution"]["tier"] in ("resident", "vectorized")


def test_a_model_with_batch_norm_is_refused_before_anything_runs(tmp_path, monkeypatch):
    (tmp_path / "normed_batches.py").write_text(
        "from torch import nn\n"
        "def model():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = ["local.name=dp-sgd", 'model.name="normed_batches:model"', "engine.grid=inprocess"]
    with pytest.raises(ConfigError, match="group norm"):
        fedsim.run("digits", settings, runs=tmp_path / "runs")


class Wide(nn.Module):
    """Large dense layers, one of them on three positions, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(32, 3 * 400), nn.Linear(400, 200, bias=False)
        self.head, self.idle = nn.Linear(600, 4), nn.Linear(300, 300)

    def forward(self, x):
        return self.head(torch.tanh(self.two(self.one(x).view(-1, 3, 400))).flatten(1))


@pytest.mark.parametrize("spoilt", [False, True], ids=["finite", "one example is not"])
@pytest.mark.parametrize("local", [{}, {"epochs": 2}, {"batch_size": 0}], ids=str)
def test_large_dense_layers_stepped_by_products_come_to_the_same(local, spoilt, monkeypatch):
    torch.manual_seed(0)
    module, x, y = Wide(), torch.randn(20, 32), torch.randint(4, (20,))
    if spoilt:
        x[3, 0] = float("nan")
    start, ctx = get_vector(module), ClientContext(3, 1, 7, lr_factor=0.5)
    task = Task(module, start, x, y, losses.LOSSES["cross_entropy"], Sgd(lr=0.2))
    algorithm = DpSgd(0.1, 0.4, **{"batch_size": 6, **local})
    found = []
    for least in (2**16, 10**9):
        monkeypatch.setattr(outer, "_LEAST", least)
        set_vector(module, start)
        update, _ = algorithm.train(task, {}, ctx)
        found.append(update)
    assert found[0].vector.isfinite().all()
    assert found[0].vector.abs().max() > 1e-4
    torch.testing.assert_close(found[0].vector, found[1].vector, rtol=0, atol=1e-6)
    assert found[0].metrics == pytest.approx(found[1].metrics, rel=1e-5, nan_ok=True)


def test_what_layers_saw_is_kept_for_one_step(monkeypatch):
    module, x, y = Wide(), torch.randn(20, 32), torch.randint(4, (20,))
    task = Task(module, get_vector(module), x, y, losses.LOSSES["cross_entropy"], Sgd(lr=0.2))
    tapes = []

    class Kept(outer.Tape):
        def __init__(self):
            super().__init__()
            tapes.append(self)

    monkeypatch.setattr(outer, "Tape", Kept)
    DpSgd(0.1, 0.4, batch_size=6, steps=5).train(task, {}, ClientContext(3, 1, 7))
    assert 0 < max(len(tape.seen) for tape in tapes) <= 2  # its large layers, each used once
