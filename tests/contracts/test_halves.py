"""Methods with a half on the server and one on clients, both together, on a problem with an answer.

Clients have least-squares problems of their own. Where each takes several steps before it is
averaged, FedAvg ends somewhere else than at the optimum of all data: what these methods are for.
"""

import numpy as np
import pytest
import torch
from torch import nn

from fedsim import config as configuration
from fedsim import exact, losses, registry
from fedsim.core import ClientContext, RoundContext, Task, broadcast
from fedsim.errors import ConfigError
from fedsim.models import set_vector
from fedsim.optimizers.gd import Gd
from fedsim.strategies.fedavg import FedAvg

CLIENTS, EXAMPLES, SIZE = 6, 20, 4
FORM = exact.fixed_point(SIZE, max_abs=1024.0, max_weight=float(EXAMPLES), cohort=CLIENTS)
HALVES = [
    name
    for name in registry.names("clients")
    if getattr(registry.load("clients", name), "goes_with", ())
]


@pytest.fixture(scope="module")
def shards():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(CLIENTS):  # the clients' inputs differ, and so do what they think is right
        x = rng.normal(size=(EXAMPLES, SIZE)) * rng.uniform(0.3, 1.5, size=SIZE)
        y = x @ (np.array([0.5, -1.0, 0.2, 0.8]) + 0.5 * rng.normal(size=SIZE))
        found.append((torch.from_numpy(x).float(), torch.from_numpy(y[:, None]).float()))
    return found


def trained(part, strategy, shards, rounds, cohort=CLIENTS, steps=5):
    module = nn.Linear(SIZE, 1, bias=False)
    state, memos = strategy.init(torch.zeros(SIZE, dtype=torch.float64)), [{} for _ in shards]
    for number in range(1, rounds + 1):
        drawn = np.random.default_rng(number).permutation(len(shards))[:cohort]
        sums = []
        for client in sorted(drawn):
            model = state["model"].float()
            set_vector(module, model)
            extras = broadcast(strategy, state)
            x, y = shards[client]
            task = Task(module, model, x, y, losses.LOSSES["mse"], Gd(lr=0.05), extras=extras)
            update, memos[client] = part.train(
                task, memos[client], ClientContext(0, number, int(client))
            )
            sums.append(exact.encode(update, FORM))
        total = exact.decode(exact.add(sums), FORM)
        state = strategy.step(state, total, RoundContext(0, number, cohort, len(shards)))
    return state["model"].numpy()


def optimum(shards):
    x, y = (torch.cat(parts).double().numpy() for parts in zip(*shards, strict=True))
    return np.linalg.lstsq(x, y[:, 0])[0]


def distance(name, shards, **options):
    part = registry.load("clients", name)(steps=5)
    strategy = registry.load("strategies", part.goes_with[0])(**options)
    model = trained(part, strategy, shards, 200)
    return float(np.linalg.norm(model - optimum(shards)))


@pytest.fixture(scope="module")
def fedavg_distance(shards):
    sgd = registry.load("clients", "sgd")(steps=5)
    return float(np.linalg.norm(trained(sgd, FedAvg(), shards, 200) - optimum(shards)))


@pytest.mark.parametrize(("name", "options"), [("scaffold", {}), ("feddyn", {"alpha": 1.0})])
def test_it_ends_at_the_optimum_where_fedavg_does_not(shards, fedavg_distance, name, options):
    assert fedavg_distance > 0.02
    assert distance(name, shards, **options) < 0.02 * fedavg_distance


def test_fednova_ends_at_the_optimum_where_clients_take_different_numbers_of_steps(shards):
    # Equal curvature, clients 0 to 2 take one step and the others nine: FedAvg leans towards these.
    eye = torch.eye(SIZE) * SIZE**0.5
    rng = np.random.default_rng(1)
    alike = [(eye, eye @ torch.from_numpy(rng.normal(size=(SIZE, 1))).float()) for _ in range(4)]
    steps = [1, 1, 9, 9]

    def ends(kind, strategy):
        module, model = nn.Linear(SIZE, 1, bias=False), strategy.init(torch.zeros(SIZE).double())
        for number in range(1, 200):
            sums = []
            for client, (x, y) in enumerate(alike):
                vector = model["model"].float()
                set_vector(module, vector)
                task = Task(module, vector, x, y, losses.LOSSES["mse"], Gd(lr=0.001))
                part = registry.load("clients", kind)(steps=steps[client])
                update, _ = part.train(task, {}, ClientContext(0, number, client))
                sums.append(exact.encode(update, FORM))
            total = exact.decode(exact.add(sums), FORM)
            model = strategy.step(model, total, RoundContext(0, number, 4, 4))
        return model["model"].numpy()

    best = np.mean([(y[:, 0] / eye[0, 0]).numpy() for _, y in alike], axis=0)
    nova = registry.load("strategies", "fednova")(lr=10.0)
    away = np.linalg.norm(ends("fednova", nova) - best)
    plain = np.linalg.norm(ends("sgd", FedAvg(lr=10.0)) - best)
    assert plain > 0.1
    assert away < 0.02 * plain


def test_q_fedavg_with_q_0_is_fedavg_with_equal_weights_and_more_q_helps_the_worst(shards):
    part = registry.load("clients", "qfedavg")(steps=5)
    kind = registry.load("strategies", "qfedavg")
    sgd = registry.load("clients", "sgd")(steps=5)
    plain = trained(sgd, FedAvg(), shards, 60)  # all shards are equally large
    np.testing.assert_allclose(trained(part, kind(q=0.0), shards, 60), plain, atol=1e-5)

    def worst(model):
        values = [(x @ torch.from_numpy(model).float()[:, None] - y).square() for x, y in shards]
        return max(float(value.mean()) for value in values)

    assert worst(trained(part, kind(q=1.0), shards, 200)) < 0.95 * worst(plain)


@pytest.mark.parametrize("name", HALVES)
def test_half_a_method_is_refused_and_so_is_one_without_noise_for_all_it_sends(name):
    strategy = registry.load("clients", name).goes_with[0]
    both = [f"strategy.name={strategy}", f"local.name={name}"]
    if "public" in configuration.experiment_of("clients", name):
        both.append("public.name=held-out")
    configuration.load("digits", both)
    for half, path in zip(both[:2], (r"local\.name", r"strategy\.name"), strict=True):
        with pytest.raises(ConfigError, match=path):
            configuration.load("digits", [half])
    with pytest.raises(ConfigError, match=r"local\.name.*noise"):
        configuration.load("digits", [*both, "privacy.unit=user", "privacy.epsilon=8"])


@pytest.mark.parametrize("name", HALVES)
def test_the_other_half_is_there_and_names_it_back(name):
    part = registry.load("clients", name)
    for other in part.goes_with:
        assert name in registry.load("strategies", other).goes_with
