"""Federated mutual learning and models of a client's own kind: steps written out."""

import pytest
import torch
from torch import nn

from fedsim import losses, registry
from fedsim.clients.fml import Fml
from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.core import ClientContext, Task
from fedsim.data import Meta
from fedsim.errors import ConfigError
from fedsim.models import get_vector, set_vector
from fedsim.optimizers.gd import Gd

LR = 0.3
META = Meta("made", "classification", (3,), 2, "")


def task_of(module, model):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(12, 3, generator=generator)
    y = torch.randint(2, (12,), generator=generator)
    set_vector(module, model)
    return Task(module, model, x, y, losses.LOSSES["cross_entropy"], Gd(lr=LR), meta=META)


def divergence(p, q):
    """KL(p || q) of two tables of logits, by its definition, the mean over rows."""
    p, q = p.softmax(1), q.softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean()


def step(module, loss):
    grads = torch.autograd.grad(loss, list(module.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(module.parameters(), grads, strict=True):
            parameter.sub_(LR * gradient)


@pytest.mark.parametrize("models", [(), ("linear",)])
def test_both_models_learn_from_labels_and_from_each_other(models):
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    model, part = get_vector(module), Fml(alpha=0.3, beta=0.8, epochs=3, models=models)
    own = nn.Linear(3, 2)
    _, kept = Fml(alpha=1.0, beta=1.0, models=models).train(
        task_of(module, model), {}, ClientContext(0, 1, 0)
    )
    start = kept["model"]  # somewhere else than the shared model
    set_vector(own, start)
    task = task_of(module, model)
    update, memo = part.train(task, {"model": start}, ClientContext(0, 2, 0))
    set_vector(module, model)
    for _ in range(3):
        shared_said, own_said = module(task.x), own(task.x)
        shared_loss = 0.8 * task.loss(shared_said, task.y) + 0.2 * divergence(
            own_said.detach(), shared_said
        )
        own_loss = 0.3 * task.loss(own_said, task.y) + 0.7 * divergence(
            shared_said.detach(), own_said
        )
        step(module, shared_loss)
        step(own, own_loss)
    torch.testing.assert_close(update.vector, get_vector(module) - model, rtol=0, atol=1e-5)
    torch.testing.assert_close(memo["model"], get_vector(own), rtol=0, atol=1e-5)
    used = part.adapted(task_of(module, model), memo, ClientContext(0, 2, 0))
    torch.testing.assert_close(get_vector(used), get_vector(own), rtol=0, atol=1e-5)


def test_with_beta_1_what_is_sent_is_local_training():
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    model = get_vector(module)
    plain, _ = LocalSgd().train(task_of(module, model), {}, ClientContext(0, 1, 0))
    update, _ = Fml(beta=1.0).train(task_of(module, model), {}, ClientContext(0, 1, 0))
    torch.testing.assert_close(update.vector, plain.vector)


@pytest.mark.parametrize("kind", ["fml", "fedmd"])
def test_clients_have_the_models_in_turn_with_their_settings(kind):
    part = registry.load("clients", kind)(models=("linear", "mlp"), args={"mlp": {"hidden": [5]}})
    module = nn.Linear(3, 2)
    sizes = []
    for client in range(3):
        task, ctx = task_of(module, get_vector(module)), ClientContext(0, 1, client)
        update, memo = part.train(task, {}, ctx)
        assert update.vector.shape == task.model.shape
        used = part.adapted(task, memo, ctx)
        torch.testing.assert_close(get_vector(used), memo["model"])
        sizes.append(len(memo["model"]))
    assert sizes == [8, 3 * 5 + 5 + 5 * 2 + 2, 8]


@pytest.mark.parametrize("kind", ["fml", "fedmd"])
def test_models_that_there_are_not_are_refused_by_name(kind):
    made = registry.load("clients", kind)
    with pytest.raises(ConfigError, match=r"local\.models.*'mpl'.*Did you mean 'mlp'"):
        made(models=("mpl",))
    with pytest.raises(ConfigError, match=r"local\.args\.mlp\.hiden"):
        made(models=("mlp",), args={"mlp": {"hiden": [3]}})
    with pytest.raises(ConfigError, match=r"local\.args.*cnn"):
        made(models=("mlp",), args={"cnn": {}})
