"""RMSprop and Lion on the server, held to torch's optimizer and to the paper's lines."""

import numpy as np
import torch

from fedsim.core import RoundContext, Sum
from fedsim.strategies.fedlion import FedLion
from fedsim.strategies.fedrmsprop import FedRMSprop


def moves(seed, count=12, size=6):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.normal(size=size)) for _ in range(count)]


def after(part, updates):
    state = part.init(torch.zeros(len(updates[0]), dtype=torch.float64))
    for number, update in enumerate(updates, start=1):
        total = Sum(3.0 * update, 3.0, 2)
        state = part.step(state, total, RoundContext(0, number, 2))
    return state["model"]


def test_rmsprop_is_torchs_once_v_starts_at_tau_squared():
    part = FedRMSprop(lr=0.05, beta2=0.9, tau=1e-2)
    parameter = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer = torch.optim.RMSprop([parameter], lr=0.05, alpha=0.9, eps=1e-2)
    for number, update in enumerate(moves(0)):
        parameter.grad = -update
        if number == 0:
            optimizer.step()  # makes the state; what it did is undone
            with torch.no_grad():
                parameter.zero_()
            optimizer.state[parameter]["square_avg"].fill_(1e-4)
        optimizer.step()
    torch.testing.assert_close(after(part, moves(0)), parameter.detach(), rtol=0, atol=1e-12)


def test_lion_takes_the_papers_steps():
    part = FedLion(lr=0.02, beta1=0.8, beta2=0.95)
    model, m = np.zeros(6), np.zeros(6)
    for update in moves(1):
        g = -update.numpy()
        model = model - 0.02 * np.sign(0.8 * m + 0.2 * g)
        m = 0.95 * m + 0.05 * g
    np.testing.assert_allclose(after(part, moves(1)), model, rtol=0, atol=1e-12)
