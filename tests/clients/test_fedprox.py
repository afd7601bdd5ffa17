import numpy as np
import pytest
import torch

from fedsim.clients.fedprox import FedProx
from fedsim.clients.sgd import Sgd as LocalSgd
from fedsim.optimizers.gd import Gd
from fedsim.optimizers.sgd import Sgd


@pytest.mark.parametrize("optimizer", [Sgd(lr=0.05, momentum=0.9), Gd(lr=0.1)], ids=repr)
def test_without_mu_it_is_local_sgd_bit_by_bit(optimizer, task, ctx):
    prox, _ = FedProx(mu=0.0, epochs=3, batch_size=7).train(task(optimizer=optimizer), {}, ctx())
    sgd, _ = LocalSgd(epochs=3, batch_size=7).train(task(optimizer=optimizer), {}, ctx())
    assert torch.equal(prox.vector, sgd.vector)


@pytest.mark.parametrize("mu", [0.01, 1.0, 10.0])
def test_it_minimizes_equation_2(mu, task, ctx):
    # argmin |Xw - y|^2 / n + mu / 2 |w - w0|^2 solves (2/n X'X + mu I) w = 2/n X'y + mu w0.
    made = task(optimizer=Gd(lr=0.05))
    update, _ = FedProx(mu=mu, epochs=800).train(made, {}, ctx())
    x, y, w0 = (part.double().numpy() for part in (made.x, made.y, made.model))
    expected = np.linalg.solve(
        2 / 24 * x.T @ x + mu * np.eye(3), 2 / 24 * x.T @ y + mu * w0
    )  # fmt: skip
    np.testing.assert_allclose(w0 + update.vector.numpy(), expected, rtol=0, atol=1e-5)


def test_the_first_step_has_no_pull_and_the_second_has(task, ctx):
    def moved(mu, epochs):
        update, _ = FedProx(mu=mu, epochs=epochs).train(task(optimizer=Gd(lr=0.1)), {}, ctx())
        return update.vector

    assert torch.equal(moved(2.0, 1), moved(0.0, 1))
    expected = moved(0.0, 2) - 0.1 * 2.0 * moved(0.0, 1)
    torch.testing.assert_close(moved(2.0, 2), expected, rtol=0, atol=1e-6)


def test_a_stronger_pull_keeps_the_client_closer(task, ctx):
    norms = []
    for mu in (0.0, 0.1, 1.0, 5.0):
        update, _ = FedProx(mu=mu, epochs=20).train(task(optimizer=Gd(lr=0.05)), {}, ctx())
        norms.append(float(update.vector.norm()))
    assert norms == sorted(norms, reverse=True)


def test_the_loss_reported_is_without_the_proximal_term(task, ctx):
    made = task(optimizer=Gd(lr=0.05))
    with_mu, _ = FedProx(mu=5.0, epochs=1).train(made, {}, ctx())
    without, _ = FedProx(mu=0.0, epochs=1).train(task(optimizer=Gd(lr=0.05)), {}, ctx())
    assert with_mu.metrics["loss"] == without.metrics["loss"]
