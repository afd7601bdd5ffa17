"""Stacked training on another device than the CPU, as far as a machine without one can show.

On torch's "meta" device tensors have a shape and no numbers: an operation that mixes devices raises
there, and so does everything that would have the host wait for a number.
"""

import copy

import pytest
import torch
from torch import nn

from fedsim import losses
from fedsim.clients.dp_sgd import DpSgd
from fedsim.core import ClientContext, Recipe, Task
from fedsim.dropout import replace_dropout
from fedsim.models import get_vector
from fedsim.optimizers.adam import Adam
from fedsim.optimizers.sgd import Sgd
from fedsim.vectorized.block import train_block
from fedsim.vectorized.change import take_rows
from fedsim.vectorized.clipped import fit_clipped
from fedsim.vectorized.dense import fit_factored, fit_products
from fedsim.vectorized.stacked import fit_stacked

CHAIN = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
CONVOLUTION = nn.Sequential(
    nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2), nn.Flatten(), nn.Linear(36, 3)
)


@pytest.mark.parametrize("recipe", [Recipe(batch_size=4, epochs=2), Recipe(batch_size=0)])
@pytest.mark.parametrize("optimizer", [Sgd(), Sgd(momentum=0.9), Adam()])
@pytest.mark.parametrize("sizes", [(6, 6, 6), (9, 4, 7, 1)])
@pytest.mark.parametrize(
    ("fit", "module"),
    [
        (fit_stacked, CONVOLUTION),
        (fit_products, CHAIN),
        (fit_factored, CHAIN),
        (fit_clipped, CONVOLUTION),
        (fit_clipped, CHAIN),
    ],
)
def test_nothing_waits_for_the_device_or_mixes_it_with_the_cpu(
    fit, module, sizes, optimizer, recipe, monkeypatch
):
    if fit is fit_clipped:
        # Once a step it asks whether all norms are finite: cheaper than to act as if some were not.
        monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: True)
        recipe = DpSgd(1.0, 1.0, batch_size=4, steps=2).recipe
    module = replace_dropout(copy.deepcopy(module)).to("meta")
    x = torch.empty(sum(sizes), 1, 8, 8, device="meta")
    y = torch.empty(sum(sizes), dtype=torch.int64, device="meta")
    task = Task(module, get_vector(module), x, y, losses.LOSSES["cross_entropy"], optimizer)
    contexts = [ClientContext(0, 1, i) for i in range(len(sizes))]
    groups = list(train_block(fit, task, recipe, sizes, [{} for _ in sizes], contexts))
    assert sorted(i for group in groups for i in group.members) == list(range(len(sizes)))
    for group in groups:
        found = group.losses, group.change.largest(), group.change.norms()
        assert {tensor.device.type for tensor in found} == {"meta"}


def test_rows_in_order_are_a_view_on_a_cpu_alone():
    places = torch.arange(6).view(2, 3)
    x = torch.randn(6, 4)
    assert take_rows(x, places).data_ptr() == x.data_ptr()
    assert torch.equal(take_rows(x, places.flip(0)), x[places.flip(0)])
    assert take_rows(x.to("meta"), places.to("meta")).shape == (2, 3, 4)
