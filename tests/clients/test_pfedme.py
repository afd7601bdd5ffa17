"""pFedMe on quadratics, where the proximal point has a closed form."""

import torch

from fedsim.clients.pfedme import PFedMe
from fedsim.core import ClientContext
from fedsim.models import set_vector
from fedsim.optimizers.gd import Gd

LAM, ETA = 2.0, 0.2


def proximal_point(task, w):
    """argmin |x theta - y|^2 / n + lambda/2 |theta - w|^2, by its normal equations."""
    x, y = task.x.double(), task.y.double()
    curvature = 2 * x.T @ x / len(x)
    right = 2 * x.T @ y / len(x) + LAM * w.double()
    return torch.linalg.solve(curvature + LAM * torch.eye(len(w)), right)


def test_the_own_model_is_the_proximal_point_and_the_shared_one_moves_along_the_envelope(task, ctx):
    part = PFedMe(pull=LAM, lr=ETA, inner_steps=60, steps=1, batch_size=0)
    given = task(optimizer=Gd(lr=0.1))
    w = given.model.clone()
    update, memo = part.train(given, {}, ctx())
    theta = proximal_point(given, w)
    torch.testing.assert_close(part.personal(memo, w).double(), theta, rtol=0, atol=1e-5)
    # Equation 4: the gradient of the envelope is lambda (w - theta).
    step = -ETA * LAM * (w.double() - theta)
    torch.testing.assert_close(update.vector.double(), step, rtol=0, atol=1e-5)


def test_every_local_round_begins_at_the_proximal_point_of_where_the_last_one_ended(task, ctx):
    part = PFedMe(pull=LAM, lr=ETA, inner_steps=60, steps=3, batch_size=0)
    given = task(optimizer=Gd(lr=0.1))
    w = given.model.double()
    for _ in range(3):
        theta = proximal_point(given, w)
        w = w - ETA * LAM * (w - theta)
    update, memo = part.train(given, {}, ctx())
    torch.testing.assert_close(memo["model"].double(), theta, rtol=0, atol=1e-5)
    torch.testing.assert_close(given.model + update.vector, w.float(), rtol=0, atol=1e-5)


def test_rounds_end_where_the_sum_of_all_envelopes_is_least(task):
    # Two clients; the optimum w* solves sum_i lambda (w - theta_i(w)) = 0: linear in w.
    part = PFedMe(pull=LAM, lr=0.45, inner_steps=40, steps=1, batch_size=0)
    tasks = [task(optimizer=Gd(lr=0.1)) for _ in range(2)]
    object.__setattr__(tasks[1], "y", tasks[1].y + tasks[1].x @ torch.tensor([2.0, 0.0, -1.0]))
    eye = torch.eye(3).double()
    offsets = [proximal_point(each, torch.zeros(3)) for each in tasks]
    maps = [
        torch.stack([proximal_point(each, e) - offset for e in eye], dim=1)
        for each, offset in zip(tasks, offsets, strict=True)
    ]
    optimum = torch.linalg.solve(2 * eye - sum(maps), sum(offsets))
    w = torch.zeros(3)
    for number in range(1, 40):
        moves = []
        for client, given in enumerate(tasks):
            set_vector(given.module, w)
            object.__setattr__(given, "model", w)
            moves.append(part.train(given, {}, ClientContext(0, number, client))[0].vector)
        w = w + sum(moves) / 2
    torch.testing.assert_close(w.double(), optimum, rtol=0, atol=1e-4)
