"""FedDF's steps against its gradient by hand, and FedMD's consensus."""

import numpy as np
import pytest
import torch
from torch import nn

import fedsim
from fedsim import config as configuration
from fedsim import exact, losses
from fedsim.clients.fedmd import FedMD as LocalFedMD
from fedsim.core import ClientContext, Public, RoundContext, Task, Update, broadcast
from fedsim.data import Meta
from fedsim.errors import ConfigError
from fedsim.models import get_vector, set_vector
from fedsim.optimizers.gd import Gd
from fedsim.strategies.feddf import FedDF
from fedsim.strategies.fedmd import FedMD

META = Meta("made", "classification", (3,), 2, "")


@pytest.fixture
def public():
    torch.manual_seed(0)
    return Public(torch.randn(10, 3), nn.Linear(3, 2))


def updates_of(count, seed=1):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 8)).astype(np.float32)
    return [Update(torch.from_numpy(v), float(i + 1)) for i, v in enumerate(vectors)]


def outputs(vector, x):
    return x @ vector[:6].view(2, 3).double().T + vector[6:].double()


def test_a_step_of_feddf_is_adams_along_the_gradient_of_the_divergence(public):
    updates, lr = updates_of(3), 0.01
    part = FedDF(steps=1, batch_size=100, lr=lr)
    start = torch.linspace(-1, 1, 8).double()
    weights = torch.tensor([update.weight for update in updates]).double()
    mean = start + sum(w * u.vector.double() for w, u in zip(weights, updates, strict=True)) / 6
    x = public.x.double()
    taught = torch.stack([outputs(start + u.vector, x) for u in updates]).mean(0).softmax(1)
    # d/d logits of KL(taught || softmax(logits)) is softmax(logits) - taught.
    slope = (outputs(mean, x).softmax(1) - taught) / len(x)
    gradient = torch.cat([(slope.T @ x).flatten(), slope.sum(0)])
    expected = mean - lr * gradient / (gradient.abs() + 1e-8)  # Adam's first step
    told = RoundContext(0, 1, 3, 3, [0, 1, 2], public)
    found = part.step({"model": start}, updates, told)["model"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_feddf_comes_near_to_what_the_ensemble_says(public):
    updates = updates_of(4, seed=3)
    told = RoundContext(0, 1, 4, 4, [0, 1, 2, 3], public)
    start, x = torch.zeros(8).double(), public.x.double()
    taught = torch.stack([outputs(start + u.vector, x) for u in updates]).mean(0).softmax(1)

    def away(steps):
        model = FedDF(steps=steps, lr=0.05).step({"model": start}, updates, told)["model"]
        return float((outputs(model, x).softmax(1) - taught).abs().max())

    assert away(0) > 0.05
    assert away(300) < 0.1 * away(0)


def test_feddf_draws_batches_from_the_round_and_leaves_the_generator_alone(public):
    updates, torch_state = updates_of(3), torch.random.get_rng_state()
    part, start = FedDF(steps=3, batch_size=2), torch.zeros(8).double()

    def stepped(number):
        told = RoundContext(0, number, 3, 3, [0, 1, 2], public)
        return part.step({"model": start}, updates, told)["model"]

    assert torch.equal(stepped(1), stepped(1))
    assert not torch.equal(stepped(1), stepped(2))
    assert torch.equal(torch.random.get_rng_state(), torch_state)


def task_of(module, model, public, extras):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(12, 3, generator=generator)
    y = torch.randint(2, (12,), generator=generator)
    set_vector(module, model)
    loss = losses.LOSSES["cross_entropy"]
    return Task(module, model, x, y, loss, Gd(lr=0.3), extras=extras, public=public, meta=META)


def test_fedmd_digests_then_revisits_then_says_its_scores(public):
    module = nn.Linear(3, 2)
    model = get_vector(module)
    scores = torch.linspace(-1, 1, 20)
    part, ctx = LocalFedMD(digest_epochs=2), ClientContext(0, 2, 0)
    own = nn.Linear(3, 2)
    start = get_vector(own)
    task = task_of(module, model, public, {"scores": scores})
    update, memo = part.train(task, {"model": start}, ctx)
    for _ in range(2):  # the mean absolute error's gradient is a sign for each score
        signs = (own(public.x) - scores.view(10, 2)).sign().detach() / 20
        grads = signs.T @ public.x, signs.sum(0)
        with torch.no_grad():
            own.weight.sub_(0.3 * grads[0])
            own.bias.sub_(0.3 * grads[1])
    grads = torch.autograd.grad(task.loss(own(task.x), task.y), list(own.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(own.parameters(), grads, strict=True):
            parameter.sub_(0.3 * gradient)
    torch.testing.assert_close(memo["model"], get_vector(own), rtol=0, atol=1e-5)
    said = own(public.x).detach().flatten()
    torch.testing.assert_close(update.lanes["scores"], said, rtol=0, atol=1e-5)
    assert not update.vector.any()


def test_fedmds_consensus_is_the_mean_of_the_scores_and_reaches_the_next_round():
    strategy, model = FedMD(), torch.zeros(8).double()
    state = strategy.init(model)
    assert broadcast(strategy, state) == {}
    lanes = [torch.randn(20, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    form = exact.fixed_point(8, max_abs=64.0, max_weight=1.0, cohort=3)
    sums = [exact.encode(Update(torch.zeros(8), 1.0, {}, {"scores": lane}), form) for lane in lanes]
    state = strategy.step(state, exact.decode(exact.add(sums), form), RoundContext(0, 1, 3, 3))
    sent = broadcast(strategy, state)["scores"]
    torch.testing.assert_close(sent, torch.stack(lanes).mean(0), rtol=0, atol=1e-6)
    assert torch.equal(state["model"], model)


@pytest.mark.parametrize(
    "settings", [["strategy.name=feddf"], ["strategy.name=fedmd", "local.name=fedmd"]]
)
def test_without_public_inputs_they_are_refused(settings):
    with pytest.raises(ConfigError, match=r"public\.name.*Set public\.name=held-out"):
        configuration.load("digits", settings)
    configuration.load("digits", [*settings, "public.name=held-out"])


@pytest.mark.parametrize("settings", [["strategy.name=feddf"], ["local.name=fml"]])
def test_methods_that_compare_class_probabilities_are_refused_for_other_tasks(settings):
    more = ["data.name=diabetes", "model.name=linear", "public.name=held-out", "public.rows=20"]
    with pytest.raises(ConfigError, match=r"regression data: this one is for classification"):
        fedsim.run("digits", [*settings, *more, "engine.grid=inprocess"])
