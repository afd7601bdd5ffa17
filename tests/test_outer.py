"""Dense layers stepped by products come to the weights that gradients and SGD come to."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsim import outer
from fedsim.core import ClientContext, Recipe, Task
from fedsim.losses import LOSSES
from fedsim.models import get_vector
from fedsim.optimizers.adam import Adam
from fedsim.optimizers.sgd import Sgd
from fedsim.training import fit

CTX = ClientContext(3, 1, 0, lr_factor=0.5)
RECIPE = Recipe(batch_size=4, epochs=2)


class Twice(nn.Module):
    """Uses one layer twice, its weights once more by hand, and another layer not at all."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(256, 256), nn.Linear(256, 4, bias=False)
        self.idle = nn.Linear(256, 256)

    def forward(self, x):
        h = torch.relu(self.inner(torch.relu(self.inner(x))))
        return self.head(h + 0.1 * h @ self.inner.weight)


class Tied(nn.Module):
    """Two layers with the same weights."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 4)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.two(torch.relu(self.one(x))))


class Wide(nn.Module):
    """A layer of so many inputs that it is stepped in pieces, on inputs of three dimensions."""

    def __init__(self):
        super().__init__()
        self.spread, self.wide = nn.Linear(256, 3 * 9000), nn.Linear(9000, 40)
        self.head = nn.Linear(120, 4)

    def forward(self, x):
        return self.head(torch.tanh(self.wide(self.spread(x).view(-1, 3, 9000))).flatten(1))


MODELS = {
    "wide": Wide,
    "chain": lambda: nn.Sequential(nn.Linear(256, 300), nn.Tanh(), nn.Linear(300, 4)),
    "without a bias": lambda: nn.Sequential(nn.Linear(256, 300, bias=False), nn.Linear(300, 4)),
    "twice": Twice,
    "tied": Tied,
}


def task_of(make, optimizer=None):
    torch.manual_seed(0)
    module, x, y = make(), torch.randn(10, 256), torch.randint(0, 4, (10,))
    return Task(module, get_vector(module), x, y, LOSSES["cross_entropy"], optimizer or Sgd(lr=0.2))


def by_gradients(task):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outer, "_LEAST", 10**9)
        return fit(task, RECIPE, {}, CTX)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_weights_are_those_of_gradients_and_sgd(make):
    one, other = task_of(make), task_of(make)
    assert fit(one, RECIPE, {}, CTX) == pytest.approx(by_gradients(other), abs=1e-6)
    start = task_of(make).module.state_dict()
    for name, value in one.module.state_dict().items():
        torch.testing.assert_close(value, other.module.state_dict()[name], rtol=0, atol=1e-6)
        assert torch.equal(value, start[name]) == ("idle" in name)
    assert "forward" not in vars(next(one.module.children()))


def test_what_is_more_than_sgd_is_left_to_gradients():
    task = task_of(MODELS["chain"])
    assert outer.layers_of(task, RECIPE, {}) == [task.module[0]]  # the other one is small
    assert outer.layers_of(replace(task, l2=0.1), RECIPE, {}) == []
    assert outer.layers_of(replace(task, l1=0.1), RECIPE, {}) == []
    assert outer.layers_of(replace(task, optimizer=Adam()), RECIPE, {}) == []
    assert outer.layers_of(task, RECIPE, {"momentum": []}) == []
    assert outer.layers_of(task, replace(RECIPE, adjust=lambda *parts: parts[0]), {}) == []
    assert outer.layers_of(task_of(Tied), RECIPE, {}) == []
    task.module[0].register_forward_hook(lambda *parts: None)
    assert outer.layers_of(task, RECIPE, {}) == []
    task = task_of(MODELS["chain"])
    task.module[0].weight.requires_grad_(False)
    assert outer.layers_of(task, RECIPE, {}) == []


def test_layers_are_themselves_again_where_training_fails():
    task = task_of(MODELS["chain"])
    with pytest.raises(RuntimeError):
        fit(replace(task, x=task.x[:, :10]), RECIPE, {}, CTX)
    assert "forward" not in vars(task.module[0])
