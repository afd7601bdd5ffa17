"""AFL against the projection's definition and a minimax problem with a known answer."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsim import losses, registry
from fedsim.core import ClientContext, RoundContext, Task, Update
from fedsim.models import set_vector
from fedsim.optimizers.gd import Gd
from fedsim.strategies.afl import CLIENT_UNIT, Afl, on_simplex


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8))
def test_the_projection_meets_the_conditions_of_the_nearest_point(values):
    # Karush, Kuhn, Tucker: p = max(v - theta, 0) for one theta, and p sums to 1.
    v = torch.tensor(values, dtype=torch.float64)
    p = on_simplex(v)
    assert abs(float(p.sum()) - 1) < 1e-9
    assert (p >= 0).all()
    theta = (v - p)[p > 0]
    assert float(theta.max() - theta.min()) < 1e-9
    assert (v[p == 0] <= theta.max() + 1e-9).all()


def update_of(client, vector, loss):
    lanes = {"client": torch.tensor([client / CLIENT_UNIT]), "loss": torch.tensor([loss])}
    return Update(torch.tensor(vector), 1.0, {}, lanes)


def test_a_step_is_the_papers():
    part, state = Afl(lr=0.5, lambda_lr=0.1), {"model": torch.zeros(2, dtype=torch.float64)}
    updates = [update_of(0, [1.0, 0.0], 2.0), update_of(2, [0.0, 1.0], 4.0)]
    context = RoundContext(0, 1, 2, 4, [0, 2])
    state = part.step(state, updates, context)
    np.testing.assert_allclose(state["model"], [0.25, 0.25])
    np.testing.assert_allclose(state["lambda"], [0.3, 0.1, 0.5, 0.1], atol=1e-12)
    state = part.step(state, updates[::-1], context)
    np.testing.assert_allclose(state["model"], [0.25 + 0.5 * 3 / 8, 0.25 + 0.5 * 5 / 8])
    np.testing.assert_allclose(state["lambda"], [0.3, 0.0, 0.7, 0.0], atol=1e-12)


def test_who_names_another_is_taken_for_who_it_is():
    part, state = Afl(), {"model": torch.zeros(1, dtype=torch.float64)}
    liars = [update_of(3, [0.0], 1.0), update_of(3, [0.0], 0.0)]
    state = part.step(state, liars, RoundContext(0, 1, 2, 4, [0, 1]))
    assert state["lambda"].argmax() == 0


def test_both_halves_find_the_least_largest_loss():
    # Two clients, losses (w - 0)^2 + 0 and (w - 1)^2 + noise: the mean's optimum leaves the second
    # worse off; the minimax point makes both losses equal.
    module, kind = nn.Linear(1, 1, bias=False), registry.load("clients", "afl")
    x = torch.ones(2, 1)
    targets = [torch.zeros(2, 1), torch.tensor([[0.5], [1.5]])]  # the second has variance 1/4
    part, state = Afl(lambda_lr=0.1), {"model": torch.zeros(1, dtype=torch.float64)}
    trail = []
    for number in range(1, 401):
        updates = []
        for client, y in enumerate(targets):
            model = state["model"].float()
            set_vector(module, model)
            task = Task(module, model, x, y, losses.LOSSES["mse"], Gd(lr=0.1))
            update, _ = kind(steps=1).train(task, {}, ClientContext(0, number, client))
            updates.append(update)
        state = part.step(state, updates, RoundContext(0, number, 2, 2, [0, 1]))
        trail.append(float(state["model"]))
    # w^2 = (w - 1)^2 + 1/4 at w = 5/8; the average iterate is what the theorem is about.
    assert abs(np.mean(trail[100:]) - 0.625) < 0.02
