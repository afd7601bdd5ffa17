import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from scipy.stats import trim_mean

from fedsim.core import RoundContext, Update
from fedsim.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedsim.errors import ConfigError, RunFailedError
from fedsim.strategies.fedadagrad import FedAdagrad
from fedsim.strategies.fedadam import FedAdam
from fedsim.strategies.fedavg import FedAvg
from fedsim.strategies.fedavgm import FedAvgM
from fedsim.strategies.fedyogi import FedYogi
from fedsim.strategies.flower import Flower

TAU = {"tau": 1e-2}
PAIRS = [
    (Flower("FedAvg"), FedAvg()),
    (Flower("FedAvgM", {"server_learning_rate": 0.5, "server_momentum": 0.9}), FedAvgM(0.5, 0.9)),
    (Flower("FedYogi", {"eta": 0.05, **TAU}), FedYogi(0.05, **TAU)),
    (Flower("FedAdagrad", {"eta": 0.05, **TAU}), FedAdagrad(0.05, **TAU)),
]
ALL = [part for part, _ in PAIRS] + [
    Flower("FedAdam", TAU),
    Flower("FedMedian"),
    Flower("FedTrimmedAvg", {"beta": 0.2}),
    Flower("Krum", {"num_malicious_nodes": 1}),
    Flower("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 3}),
    Flower("QFedAvg", {"client_learning_rate": 0.1, "train_loss_key": "loss"}),
]


@pytest.fixture(autouse=True)
def garbage_stays(monkeypatch):
    """QFedAvg collects it for every client: half a minute, in a process as large as these are."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


@pytest.mark.parametrize(("part", "ours"), PAIRS, ids=repr)
def test_flowers_strategy_equals_ours_from_the_same_start(part, ours, rounds, model, server):
    start = ours.init(model)
    if "v" in start:  # Flower starts v at 0, see test_adaptive.py
        start["v"] = start["v"] * 0
    expected, _ = server(ours, rounds, model, start)
    models, _ = server(part, rounds, model)
    np.testing.assert_allclose(models, expected, rtol=0, atol=1e-6)  # float32 on Flower's side


def test_flowers_fedadam_equals_ours_with_its_bias_correction(rounds, model, server):
    ours = FedAdam(0.05, 0.9, 0.99, 1e-2)
    models, _ = server(Flower("FedAdam", {"eta": 0.05, **TAU}), rounds, model)
    state = ours.init(model)
    state["v"] = state["v"] * 0
    for t, updates in enumerate(rounds, start=1):
        correction = np.sqrt(1 - 0.99 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        (after,), state = server(replace(ours, lr=0.05 * correction), [updates], model, state)
        np.testing.assert_allclose(models[t - 1], after, rtol=0, atol=1e-6)


def test_the_median_is_numpys(rounds, model, server):
    (after,), _ = server(Flower("FedMedian"), rounds[:1], model)
    clients = [model.float().numpy() + update.vector.numpy() for update in rounds[0]]
    np.testing.assert_allclose(after, np.median(clients, axis=0), rtol=0, atol=1e-7)


def test_the_trimmed_mean_is_scipys(rounds, model, server):
    (after,), _ = server(Flower("FedTrimmedAvg", {"beta": 0.2}), rounds[:1], model)
    clients = [model.float().numpy() + update.vector.numpy() for update in rounds[0]]
    np.testing.assert_allclose(after, trim_mean(clients, 0.2, axis=0), rtol=0, atol=1e-6)


def test_krum_takes_one_clients_model_and_not_the_attackers(model, server):
    rng = np.random.default_rng(1)
    vectors = [torch.from_numpy(0.01 * rng.normal(size=7)).float() for _ in range(6)]
    vectors.append(torch.full((7,), 100.0))
    updates = [Update(vector, 1.0, {"loss": 1.0}) for vector in vectors]
    (after,), _ = server(Flower("Krum", {"num_malicious_nodes": 1}), [updates], model)
    clients = [(model.float() + vector).double().numpy() for vector in vectors]
    assert any(np.array_equal(after, client) for client in clients[:-1])


@pytest.mark.parametrize("part", ALL, ids=lambda part: part.strategy)
def test_a_strategy_read_back_from_a_checkpoint_goes_on_bit_by_bit(
    part, rounds, model, server, tmp_path
):
    rounds = [updates[:3] for updates in rounds[:4]]
    whole, _ = server(part, rounds, model)
    _, state = server(part, rounds[:2], model)
    for number, updates in enumerate(rounds[2:], start=3):
        save_checkpoint(tmp_path / "checkpoint", Checkpoint(number, state, {0: RecordDict()}))
        state = load_checkpoint(tmp_path / "checkpoint").state
        state = part.step(state, updates, RoundContext(0, number, len(updates)))
        np.testing.assert_array_equal(state["model"].numpy(), whole[number - 1])


@pytest.mark.parametrize("part", ALL, ids=lambda part: part.strategy)
def test_a_step_changes_neither_state_nor_updates(part, rounds, model, server):
    _, state = server(part, rounds[:1], model)
    before = {name: value.clone() for name, value in state.items()}
    vectors = [update.vector.clone() for update in rounds[1]]
    part.step(state, rounds[1], RoundContext(0, 2, 5))
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert all(torch.equal(u.vector, v) for u, v in zip(rounds[1], vectors, strict=True))


def test_flowers_own_limits_of_who_takes_part_do_not_hold_up_a_round(rounds, model, server):
    part = Flower("FedAvg", {"min_available_nodes": 1000, "min_train_nodes": 1000})
    models, _ = server(part, rounds[:1], model)
    expected, _ = server(Flower("FedAvg"), rounds[:1], model)
    np.testing.assert_array_equal(models, expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("FedAdm", {}, "Did you mean 'FedAdam'?"),
        ("FedProx", {"proximal_mu": 1.0}, "local.name = 'fedprox'"),
        ("FedXgbBagging", {}, "trees, not vectors"),
        ("DifferentialPrivacyServerSideFixedClipping", {}, "one of Bulyan"),
        ("FedAdam", {"etta": 1.0}, "unexpected keyword argument 'etta'"),
        ("QFedAvg", {}, "missing 1 required positional argument: 'client_learning_rate'"),
    ],
)
def test_what_flower_does_not_have_is_refused(name, options, message):
    with pytest.raises(ConfigError) as caught:
        Flower(name, options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Flower("Bulyan", {"num_malicious_nodes": 1}), "Bulyan gave no model in round 1"),
        (Flower("QFedAvg", {"client_learning_rate": 0.1}), "expected a float value for the key"),
    ],
)
def test_a_strategy_that_cannot_aggregate_ends_the_run(part, message, rounds, model, server):
    with pytest.raises(RunFailedError, match=message):
        server(part, rounds, model)
