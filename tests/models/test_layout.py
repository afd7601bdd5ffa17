import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from fedsim import models, registry
from fedsim.clients.sgd import Sgd
from fedsim.core import ClientContext, Task
from fedsim.losses import LOSSES


class Viewing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.dense = nn.Conv2d(2, 4, 3), nn.Linear(4 * 36, 2)

    def forward(self, x):
        return self.dense(self.conv(x).view(len(x), -1))


def flattening():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )


def is_channels_last(module):
    weights = [p for p in module.parameters() if p.dim() == 4]
    return [w.is_contiguous(memory_format=torch.channels_last) for w in weights] == [True]


def test_a_network_that_can_is_stored_channels_last_and_computes_the_same():
    torch.manual_seed(0)
    module, x, y = flattening(), torch.randn(3, 2, 8, 8), torch.tensor([0, 1, 1])
    before = models.get_vector(module)
    plain = torch.autograd.grad(functional.cross_entropy(module(x), y), [*module.parameters()])
    models.arrange(module, torch.zeros(2, 2, 8, 8))
    assert is_channels_last(module)
    assert torch.equal(models.get_vector(module), before)
    arranged = torch.autograd.grad(functional.cross_entropy(module(x), y), [*module.parameters()])
    for one, other in zip(plain, arranged, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_change_of_such_a_network_is_that_of_its_numbers():
    module = flattening()
    models.arrange(module, torch.zeros(2, 2, 8, 8))
    start = models.get_vector(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    expected = models.get_vector(module) - start
    assert torch.equal(models.get_change(module, start), expected)


def test_gradients_come_to_pooling_channels_last():
    module, seen = flattening(), []
    models.arrange(module, torch.zeros(2, 2, 8, 8))
    module[2].register_forward_hook(lambda _, x, y: y.register_hook(seen.append) and None)
    module(torch.randn(3, 2, 8, 8)).sum().backward()
    (into,) = seen
    assert into.is_contiguous(memory_format=torch.channels_last)
    assert not into.is_contiguous()


def test_an_arranged_network_can_be_stacked_still():
    module, x = flattening(), torch.randn(5, 3, 2, 8, 8)
    models.arrange(module, torch.zeros(2, 2, 8, 8))
    own = {name: p.detach() for name, p in module.named_parameters()}

    def loss(weights, x):
        return functional_call(module, weights, (x,)).square().sum()

    at_once = vmap(grad(loss), in_dims=(None, 0))(own, x)
    for i, part in enumerate(x):
        alone = torch.autograd.grad(module(part).square().sum(), [*module.parameters()])
        for one, other in zip(at_once.values(), alone, strict=True):
            torch.testing.assert_close(one[i], other, rtol=1e-4, atol=1e-5)


def test_a_network_that_views_its_feature_maps_stays_as_it_was():
    module = Viewing()
    with torch.no_grad():
        module.conv.weight.copy_(torch.randn(4, 2, 3, 3))
    strides = module.conv.weight.stride()
    models.arrange(module, torch.zeros(2, 2, 8, 8))
    assert module.conv.weight.stride() == strides
    module(torch.zeros(2, 2, 8, 8))  # still runs


@pytest.mark.parametrize("name", registry.names("optimizers"))
def test_such_a_network_is_trained_as_any_other(name):
    torch.manual_seed(0)
    part = registry.load("optimizers", name)
    # Rounding must not become whole steps.
    optimizer = part(lr=0.01) if part.is_linear else part(lr=0.01, eps=0.01)
    x, y, updates = torch.randn(8, 2, 8, 8), torch.randint(2, (8,)), []
    plain = flattening()
    for module in (plain, copy.deepcopy(plain)):
        if module is not plain:
            models.arrange(module, x[:2])
            assert is_channels_last(module)
        start = models.get_vector(module)
        task = Task(module, start, x, y, LOSSES["cross_entropy"], optimizer)
        update, _ = Sgd(epochs=3, batch_size=4).train(task, {}, ClientContext(0, 1, 0))
        updates.append(update.vector)
    torch.testing.assert_close(updates[1], updates[0], rtol=0, atol=1e-6)
    assert float(updates[0].abs().max()) > 0.01
