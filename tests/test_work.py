"""Work of local training: operations against formulas, examples against what training draws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsim.clients.dp_sgd import DpSgd
from fedsim.clients.fednova import FedNova
from fedsim.clients.sgd import Sgd
from fedsim.core import ClientContext
from fedsim.training import batches
from fedsim.work import examples_computed, flops_per_example


class Recurrent(nn.Module):
    """An embedding of 8, an LSTM of 16, one output."""

    def __init__(self):
        super().__init__()
        self.words, self.cells, self.out = (
            nn.Embedding(20, 8),
            nn.LSTM(8, 16, batch_first=True),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        return self.out(self.cells(self.words(x))[0][:, -1])


def dense():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))


def convolution():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))


@pytest.mark.parametrize(
    ("module", "blank", "flops"),
    [
        # A product forward, and two backward: of the first layer one, for nobody needs its inputs'.
        (dense(), torch.zeros(2, 64), 2 * (64 * 32 * 2 + 32 * 10 * 3)),
        (convolution(), torch.zeros(2, 1, 8, 8), 2 * (36 * 9 * 4 * 2 + 144 * 10 * 3)),
        # Four gates, five tokens; nobody needs the gradient of the first hidden state.
        (
            Recurrent(),
            torch.zeros(2, 5, dtype=torch.int64),
            2 * (5 * 3 * (8 * 64 + 16 * 64) - 16 * 64 + 3 * 16 * 3),
        ),
        (nn.Embedding(5, 3), torch.zeros(2, 1, dtype=torch.int64), 6 * 15),
    ],
    ids=["dense", "convolution", "recurrent", "without products"],
)
def test_operations_are_those_of_the_layers_formulas(module, blank, flops):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert flops_per_example(module.eval(), blank) == flops
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module.training
    assert all(parameter.grad is None for parameter in module.parameters())


@given(
    st.integers(1, 60),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(1, 9)),
    st.integers(0, 20),
)
def test_examples_are_those_of_the_batches_that_training_draws(size, epochs, steps, width):
    local = Sgd(epochs=epochs, steps=steps, batch_size=width)
    drawn = batches(size, local.recipe, ClientContext(0, 1, 0))
    assert examples_computed(local, size) == sum(len(batch) for batch in drawn)


def test_algorithms_without_a_recipe_are_counted_by_their_fields():
    assert examples_computed(FedNova(epochs=3, batch_size=8), 20) == 60
    assert examples_computed(DpSgd(epochs=2), 20) == 40

    class Twice(Sgd):
        def work(self, examples):
            return 2 * examples

    assert examples_computed(Twice(epochs=3), 10) == 60
