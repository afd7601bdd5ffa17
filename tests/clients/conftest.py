"""A small least-squares task on which local training has closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsim import losses
from fedsim.core import ClientContext, Task
from fedsim.models import get_vector, set_vector
from fedsim.optimizers.sgd import Sgd

EXAMPLES, FEATURES = 24, 3


def make_task(model=None, *, optimizer=None, **options):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(EXAMPLES, FEATURES))).float()
    y = x @ torch.tensor([1.0, -2.0, 3.0]) + torch.from_numpy(rng.normal(size=EXAMPLES)).float()
    module = nn.Linear(FEATURES, 1, bias=False)
    set_vector(module, torch.tensor([0.3, 0.2, 0.1]) if model is None else model)
    part = optimizer or Sgd(lr=0.05)
    return Task(
        module,
        get_vector(module),
        x,
        y,
        losses.LOSSES["mse"],
        part,
        **options,
    )


@pytest.fixture
def task():
    """`task(model, optimizer=...)` -> a fresh task."""
    return make_task


@pytest.fixture
def ctx():
    """`ctx(number)` -> client 4 in that round."""
    return lambda number=1, **options: ClientContext(9, number, 4, **options)
