"""APFL: the steps of Algorithm 1 written out, and where its mixture ends."""

import pytest
import torch

from fedsim.clients.apfl import Apfl
from fedsim.optimizers.gd import Gd

LR = 0.1


def gradient(task, w):
    return 2 * task.x.double().T @ (task.x.double() @ w - task.y.double()) / len(task.y)


@pytest.mark.parametrize("alpha_lr", [0.0, 0.05])
def test_it_takes_the_papers_steps(task, ctx, alpha_lr):
    part = Apfl(alpha=0.3, alpha_lr=alpha_lr, epochs=3)
    given = task(optimizer=Gd(lr=LR))
    model, memo = given.model.clone(), {}
    v, alpha = model.double(), 0.3
    for number in range(1, 4):
        w = model.double()
        for _ in range(3):
            g = gradient(given, alpha * v + (1 - alpha) * w)
            slope = float((v - w) @ g)
            w, v = w - LR * gradient(given, w), v - LR * alpha * g
            alpha = min(1.0, max(0.0, alpha - alpha_lr * slope))
        update, memo = part.train(task(model, optimizer=Gd(lr=LR)), memo, ctx(number))
        torch.testing.assert_close(update.vector.double(), w - model.double(), rtol=0, atol=1e-5)
        torch.testing.assert_close(memo["model"].double(), v, rtol=0, atol=1e-5)
        assert float(memo["alpha"]) == pytest.approx(alpha, abs=1e-5)
        assert update.weight == 1.0
        model = model + torch.tensor([0.2, -0.1, 0.3])  # where the server has gone
        used = part.personal(memo, model).double()
        torch.testing.assert_close(
            used, alpha * v + (1 - alpha) * model.double(), rtol=0, atol=1e-5
        )
    assert alpha_lr == 0 or alpha != 0.3


def test_the_mixture_ends_at_the_clients_own_optimum_wherever_the_shared_model_is(task, ctx):
    given, memo = task(optimizer=Gd(lr=LR)), {}
    part, model = Apfl(alpha=0.7), torch.tensor([5.0, 5.0, 5.0])
    optimum = torch.linalg.lstsq(given.x.double(), given.y.double()[:, None]).solution[:, 0]
    for number in range(1, 200):  # a step each, from where the server stays
        _, memo = part.train(task(model, optimizer=Gd(lr=LR)), memo, ctx(number))
    mixture = part.personal(memo, model)
    torch.testing.assert_close(mixture.double(), optimum, rtol=0, atol=1e-3)


def test_a_client_that_has_not_trained_uses_the_global_model():
    model = torch.tensor([1.0, 2.0])
    assert torch.equal(Apfl().personal({}, model), model)
