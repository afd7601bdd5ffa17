"""Clients that keep a part of the model, or a model, of their own; corrections written out."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsim import losses
from fedsim.clients.ditto import Ditto
from fedsim.clients.fedbn import FedBN
from fedsim.clients.fednova import FedNova, path_length
from fedsim.clients.fedper import FedPer
from fedsim.clients.scaffold import Scaffold
from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.core import ClientContext, Task
from fedsim.errors import ConfigError
from fedsim.models import get_vector, layout, set_vector
from fedsim.optimizers.adam import Adam
from fedsim.optimizers.sgd import Sgd


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def task_of(module, model, optimizer=None, **extras):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(12, 3, generator=generator)
    y = torch.randint(2, (12,), generator=generator)
    set_vector(module, model)
    optimizer = optimizer or Sgd(lr=0.1)
    return Task(module, model, x, y, losses.LOSSES["cross_entropy"], optimizer, extras=extras)


def places(module, prefixes):
    found = [
        torch.full((torch.Size(shape).numel(),), name.rpartition(".")[0] in prefixes)
        for name, shape in layout(module)
    ]
    return torch.cat(found)


@pytest.mark.parametrize(
    ("part", "own"), [(FedBN(), {"1"}), (FedPer(), {"3"}), (FedPer(layers=2), {"1", "3"})]
)
def test_what_is_kept_is_never_sent_and_is_trained_on(part, own):
    module = network()
    model, kept = get_vector(module), places(module, own)
    plain, _ = LocalSgd().train(task_of(module, model), {}, ClientContext(0, 1, 0))
    update, memo = part.train(task_of(module, model), {}, ClientContext(0, 1, 0))
    assert torch.equal(update.vector[~kept], plain.vector[~kept])
    assert (update.vector[kept] == 0).all()
    assert torch.equal(part.personal({}, model), model)
    moved = model + 1.0  # the server's model has moved on, the client's part has not
    personal = part.personal(memo, moved)
    assert torch.equal(personal[~kept], moved[~kept])
    torch.testing.assert_close(personal[kept], (model + plain.vector)[kept])
    again, _ = part.train(task_of(module, moved), memo, ClientContext(0, 2, 0))
    expected, _ = LocalSgd().train(task_of(module, personal), {}, ClientContext(0, 2, 0))
    assert torch.equal(again.vector[~kept], expected.vector[~kept])


def test_a_model_without_batch_norm_has_nothing_for_fedbn():
    assert "no batch normalization" in FedBN().refuses(nn.Linear(2, 2))
    assert FedBN().refuses(network()) == ""


def test_ditto_sends_plain_training_and_pulls_its_own_model_to_the_global_one():
    module, lam, lr = nn.Linear(3, 2), 0.7, 0.1
    start = get_vector(module)
    part, rng = Ditto(pull=lam, batch_size=0), np.random.default_rng(0)
    memo, own = {}, start.clone()
    for number in range(1, 4):
        model = start + torch.from_numpy(rng.normal(size=start.shape)).float()
        task = task_of(module, model)
        plain, _ = LocalSgd(batch_size=0).train(task, {}, ClientContext(0, number, 0))
        own = model.clone() if number == 1 else own  # it begins where the global model is
        set_vector(module, own)
        loss = nn.functional.cross_entropy(module(task.x), task.y)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, module.parameters())])
        own = own - lr * (gradient + lam * (own - model))
        update, memo = part.train(task_of(module, model), memo, ClientContext(0, number, 0))
        assert torch.equal(update.vector, plain.vector)
        torch.testing.assert_close(part.personal(memo, model), own, rtol=0, atol=1e-6)


def test_scaffold_takes_the_papers_steps():
    module, lr = nn.Linear(3, 2), 0.1
    model = get_vector(module)
    control, memo = torch.linspace(-1, 1, len(model)), {}
    own = torch.zeros_like(model)
    for number in range(1, 4):
        y = model.clone()
        task = task_of(module, model, Sgd(lr=lr), control=control)
        for _ in range(2):
            set_vector(module, y)
            loss = nn.functional.cross_entropy(module(task.x), task.y)
            parts = torch.autograd.grad(loss, module.parameters())
            y = y - lr * (torch.cat([part.flatten() for part in parts]) - own + control)
        change = -control + (model - y) / (2 * lr)
        set_vector(module, model)
        part = Scaffold(epochs=2, batch_size=0)
        update, memo = part.train(task, memo, ClientContext(0, number, 0))
        torch.testing.assert_close(update.vector, y - model, rtol=0, atol=1e-6)
        torch.testing.assert_close(update.lanes["control"], change, rtol=0, atol=1e-5)
        own = own + change
        torch.testing.assert_close(memo["control"], own, rtol=0, atol=1e-5)


def test_scaffold_and_fednova_refuse_optimizers_whose_path_is_not_known():
    module = nn.Linear(3, 2)
    for part in (Scaffold(), FedNova()):
        with pytest.raises(ConfigError, match=r"optimizer\.name"):
            part.train(task_of(module, get_vector(module), Adam()), {}, ClientContext(0, 1, 0))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_length_of_a_path_is_the_papers(steps):
    rho, pull = 0.9, 0.05
    with_momentum = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    assert path_length(steps) == steps
    assert path_length(steps, rho) == pytest.approx(with_momentum)
    assert path_length(steps, pull=pull) == pytest.approx((1 - (1 - pull) ** steps) / pull)


def test_fednova_sends_the_update_over_its_length():
    module = nn.Linear(3, 2)
    model, optimizer = get_vector(module), Sgd(lr=0.1, momentum=0.5)
    context = ClientContext(0, 1, 0)
    plain, _ = LocalSgd(steps=4).train(task_of(module, model, optimizer), {}, context)
    update, _ = FedNova(steps=4).train(task_of(module, model, optimizer), {}, context)
    length = path_length(4, 0.5)
    torch.testing.assert_close(update.vector * length, plain.vector)
    assert float(update.lanes["length"]) * 2**20 == pytest.approx(12 * length)
