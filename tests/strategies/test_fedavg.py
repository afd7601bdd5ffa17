import numpy as np
import pytest
import torch
from flwr.serverapp import strategy as flower
from torch import nn

from fedsim import losses
from fedsim.clients.sgd import Sgd
from fedsim.core import ClientContext, RoundContext, Sum, Task
from fedsim.models import get_vector, set_vector
from fedsim.optimizers.gd import Gd
from fedsim.strategies.fedavg import FedAvg
from fedsim.strategies.fedavgm import FedAvgM


def test_fedavg_is_flowers(rounds, model, server, flower_server):
    models, _ = server(FedAvg(), rounds, model)
    expected = flower_server(flower.FedAvg(fraction_train=0.0), rounds, model)
    np.testing.assert_allclose(models, expected, rtol=0, atol=1e-12)


def test_fedavg_is_the_weighted_mean_of_the_clients_models(rounds, model, server):
    (after,), _ = server(FedAvg(), rounds[:1], model)
    clients = [model.numpy() + update.vector.double().numpy() for update in rounds[0]]
    expected = np.average(clients, axis=0, weights=[update.weight for update in rounds[0]])
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-12)


def test_the_server_rate_scales_the_move(rounds, model, server):
    (whole,), _ = server(FedAvg(), rounds[:1], model)
    (half,), _ = server(FedAvg(lr=0.5), rounds[:1], model)
    np.testing.assert_allclose(half, (whole + model.numpy()) / 2, atol=1e-15)


@pytest.mark.parametrize(("lr", "momentum"), [(1.0, 0.9), (0.3, 0.5), (0.7, 0.0)])
def test_fedavgm_is_flowers(rounds, model, server, flower_server, lr, momentum):
    # Without deviation: Flower moves against a pseudo-gradient old - new, we along the update.
    reference = flower.FedAvgM(
        fraction_train=0.0, server_learning_rate=lr, server_momentum=momentum
    )
    models, _ = server(FedAvgM(lr, momentum), rounds, model)
    np.testing.assert_allclose(models, flower_server(reference, rounds, model), rtol=0, atol=1e-12)


def test_fedavgm_is_the_papers_recursion(rounds, model, server):
    # Hsu et al. 2019, section 4.3: v <- beta v + dw, w <- w - v, with dw = w - mean of w_k.
    w, v, expected = model.numpy(), np.zeros(len(model)), []
    for updates in rounds:
        weights = [update.weight for update in updates]
        dw = -np.average([u.vector.double().numpy() for u in updates], axis=0, weights=weights)
        v = 0.9 * v + dw
        w = w - v
        expected.append(w)
    models, _ = server(FedAvgM(momentum=0.9), rounds, model)
    np.testing.assert_allclose(models, expected, rtol=0, atol=1e-12)


def test_fedavgm_without_momentum_is_fedavg(rounds, model, server):
    plain, _ = server(FedAvg(lr=0.7), rounds, model)
    models, _ = server(FedAvgM(lr=0.7, momentum=0.0), rounds, model)
    np.testing.assert_array_equal(models, plain)


def test_one_client_with_the_whole_data_and_one_step_is_centralized_descent():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator)
    y = torch.randint(3, (30,), generator=generator)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    central = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    set_vector(central, get_vector(module))
    optimizer = torch.optim.SGD(central.parameters(), lr=0.5)
    state = FedAvg().init(get_vector(module).double())
    for number in range(1, 26):
        sent = state["model"].float()
        set_vector(module, sent)
        task = Task(module, sent, x, y, losses.LOSSES["cross_entropy"], Gd(lr=0.5))
        update, _ = Sgd().train(task, {}, ClientContext(0, number, 0))
        state = FedAvg().step(
            state,
            Sum(update.weight * update.vector.double(), update.weight, 1),
            RoundContext(0, number, 1),
        )
        optimizer.zero_grad()
        nn.functional.cross_entropy(central(x), y).backward()
        optimizer.step()
    torch.testing.assert_close(state["model"].float(), get_vector(central), rtol=0, atol=2e-6)
