"""Per-FedAvg's meta-gradient, held to a differentiation of the whole by autograd."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fedsim import losses
from fedsim.clients._steps import apart
from fedsim.clients.per_fedavg import PerFedAvg
from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.core import ClientContext, Task
from fedsim.models import get_vector, named, set_vector
from fedsim.optimizers.gd import Gd
from fedsim.optimizers.sgd import Sgd

ALPHA, BETA = 0.3, 0.5


def task_of(module):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(16, 3, generator=generator)
    y = torch.randint(2, (16,), generator=generator)
    return Task(module, get_vector(module), x, y, losses.LOSSES["cross_entropy"], Gd(lr=BETA))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def after_own_step(task, w):
    """f(w - alpha grad f(w)), with the graph of the inner gradient kept: equation 3."""

    def f(vector):
        output = functional_call(task.module, named(task.module, vector), (task.x,))
        return task.loss(output, task.y)

    (inner,) = torch.autograd.grad(f(w), w, create_graph=True)
    return f(w - ALPHA * inner), f, inner


@pytest.mark.parametrize(("variant", "tolerance"), [("exact", 1e-6), ("hf", 2e-4)])
def test_the_update_is_the_gradient_of_the_loss_after_the_clients_own_step(
    module, variant, tolerance
):
    task = task_of(module)
    w = task.model.clone().requires_grad_(True)
    whole, _, _ = after_own_step(task, w)
    (meta,) = torch.autograd.grad(whole, w)
    part = PerFedAvg(alpha=ALPHA, variant=variant)
    update, memo = part.train(task, {}, ClientContext(0, 1, 0))
    torch.testing.assert_close(update.vector, -BETA * meta, rtol=0, atol=tolerance)
    assert memo == {}


def test_first_order_leaves_the_hessian_out(module):
    task = task_of(module)
    w = task.model.clone().requires_grad_(True)
    whole, f, inner = after_own_step(task, w)
    moved = (w - ALPHA * inner).detach().requires_grad_(True)
    (first_order,) = torch.autograd.grad(f(moved), moved)
    (meta,) = torch.autograd.grad(whole, w)
    update, _ = PerFedAvg(alpha=ALPHA, variant="fo").train(task, {}, ClientContext(0, 1, 0))
    torch.testing.assert_close(update.vector, -BETA * first_order, rtol=0, atol=1e-6)
    assert (first_order - meta).abs().max() > 1e-3  # so that the two are told apart


def test_without_an_own_step_it_is_local_training(module):
    task = replace(task_of(module), optimizer=Sgd(lr=0.1))
    plain, _ = LocalSgd(batch_size=4).train(task, {}, ClientContext(0, 1, 0))
    # The gradient is that of the second batches, which come from a stream of their own.
    set_vector(module, task.model)
    given = apart(ClientContext(0, 1, 0), "outer")
    other, _ = LocalSgd(batch_size=4).train(task, {}, given)
    set_vector(module, task.model)
    part = PerFedAvg(alpha=0.0, batch_size=4)
    update, _ = part.train(task, {}, ClientContext(0, 1, 0))
    assert not torch.equal(plain.vector, other.vector)
    torch.testing.assert_close(update.vector, other.vector, rtol=0, atol=1e-6)


def test_a_client_uses_the_model_after_a_step_of_rate_alpha(module):
    task = task_of(module)
    w = task.model.clone().requires_grad_(True)
    _, _, inner = after_own_step(task, w)
    part = PerFedAvg(alpha=ALPHA, batch_size=0)
    used = get_vector(part.adapted(task, {}, ClientContext(0, 1, 0, lr_factor=0.1)))
    torch.testing.assert_close(used, (w - ALPHA * inner).detach(), rtol=0, atol=1e-6)
