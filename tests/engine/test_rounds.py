"""Rounds as a whole: what is recorded is what happened."""

import math

import pytest
import torch

import fedsim
from fedsim.errors import ConfigError, DataError
from fedsim.store import RunStore


def test_one_client_full_batch_one_step_is_centralized_gradient_descent(tiny, tmp_path):
    """The oracle is plain torch on the same data."""
    from fedsim import models
    from fedsim.data import tensors
    from fedsim.federation import Places, build

    config = tiny(
        partition={"name": "iid", "clients": 1},
        model={"name": "linear"},
        local={"name": "sgd", "steps": 1},
        optimizer={"name": "gd", "lr": 0.3},
        strategy={"name": "fedavg"},
        rounds={"count": 4, "cohort": 1},
        evaluation={"federated_every": 0},
    )
    result = fedsim.run(config, runs=tmp_path)
    federation = build(fedsim.api.configuration.load(config), Places())
    x, y = tensors(federation.clients.train(0), federation.clients.meta)
    module = federation.module
    models.set_vector(module, federation.initial)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = [entry["metrics"]["train/loss"] for entry in result.history]
    assert found == pytest.approx(losses, abs=1e-5)
    from safetensors.torch import load_file

    saved = load_file(result.folder / "model.safetensors")
    for name, parameter in module.named_parameters():
        assert saved[name] == pytest.approx(parameter.detach(), abs=1e-5)


def test_training_metrics_are_weighted_means_of_the_clients(tiny, tmp_path):
    result = fedsim.run(tiny(), runs=tmp_path)
    store = RunStore(tmp_path)
    for entry in result.history:
        rows = store.clients(result.run_id, round=entry["round"], phase="train")
        assert len(rows) == entry["cohort"] == 6
        weight = sum(row["weight"] for row in rows)
        mean = sum(row["weight"] * row["metrics"]["loss"] for row in rows) / weight
        assert entry["metrics"]["train/loss"] == pytest.approx(mean, rel=1e-12)
        assert entry["bytes_up"] >= 6 * 4 * result.stored.facts["dimension"]


def test_the_spread_over_clients(tiny, tmp_path):
    result = fedsim.run(tiny(evaluation={"federated_every": 1}), runs=tmp_path)
    rows = RunStore(tmp_path).clients(result.run_id, round=5, phase="evaluate")
    values = [row["metrics"]["federated/accuracy"] for row in rows]
    metrics = result.metrics
    assert metrics["federated/accuracy/worst_decile"] == pytest.approx(min(values))
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    assert metrics["federated/accuracy/variance"] == pytest.approx(variance)
    weights = [row["weight"] for row in rows]
    overall = sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
    assert metrics["federated/accuracy"] == pytest.approx(overall)


def test_evaluations_happen_when_they_are_due(tiny, tmp_path):
    config = tiny(evaluation={"central_every": 2, "federated_every": 3})
    history = fedsim.run(config, runs=tmp_path).history
    assert [e["round"] for e in history if "test/accuracy" in e["metrics"]] == [2, 4, 5]
    assert [e["round"] for e in history if "federated/accuracy" in e["metrics"]] == [3, 5]


def test_cohorts_are_drawn_anew_and_evenly(tiny, tmp_path):
    config = tiny(rounds={"count": 12, "cohort": 3}, model={"name": "linear"})
    result = fedsim.run(config, runs=tmp_path)
    store, seen = RunStore(tmp_path), []
    for number in range(1, 13):
        clients = [r["client"] for r in store.clients(result.run_id, round=number, phase="train")]
        assert clients == sorted(set(clients))
        assert len(clients) == 3
        seen.append(tuple(clients))
    assert len(set(seen)) > 6
    assert {client for cohort in seen for client in cohort} == set(range(9))


@pytest.mark.slow
def test_baselines_bound_the_federation(tiny, tmp_path):
    """On label-skewed data: all data together learn best, each client alone worst."""
    config = tiny(
        model={"name": "linear"},
        local={"name": "sgd", "epochs": 2},
        strategy={"name": "fedavg"},
        rounds={"count": 8, "cohort": None},
        partition={"name": "pathological", "clients": 9, "classes_per_client": 2},
    )
    config["rounds"].pop("cohort")
    accuracy = {}
    for mode in ("pooled", "federated", "local-only"):
        result = fedsim.run({**config, "mode": mode}, runs=tmp_path / mode)
        accuracy[mode] = result.metrics["test/accuracy"]
        assert result.stored.partition["clients"] == 9
    assert accuracy["pooled"] >= accuracy["federated"] - 0.02
    assert accuracy["federated"] > accuracy["local-only"] + 0.2
    alone = fedsim.run({**config, "mode": "local-only"}, runs=tmp_path / "again")
    # Two classes are easy: on its own kind of examples everybody alone does well.
    assert alone.metrics["federated/accuracy"] > 0.9


def test_a_schedule_changes_the_rate_over_rounds(tiny, tmp_path):
    """With gamma tiny, nothing moves after the first round."""
    config = tiny(schedule={"name": "step", "every": 1, "gamma": 1e-9}, strategy={"name": "fedavg"})
    history = fedsim.run(config, runs=tmp_path).history
    losses = [entry["metrics"]["test/loss"] for entry in history]
    assert losses[1] == pytest.approx(losses[4], abs=1e-4)


def test_flowers_strategies_in_a_run(tiny, tmp_path):
    plain = fedsim.run(tiny(strategy={"name": "fedavg"}), runs=tmp_path / "a")
    flower = fedsim.run(
        tiny(strategy={"name": "flower", "strategy": "FedAvg"}), runs=tmp_path / "b"
    )
    assert flower.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], abs=1e-4)
    median = fedsim.run(
        tiny(strategy={"name": "flower", "strategy": "FedMedian"}), runs=tmp_path / "c"
    )
    assert median.status == "finished"


def test_what_cannot_work_is_refused_before_a_run_exists(tiny, tmp_path):
    for config, error, reason in (
        (tiny(rounds={"cohort": 10}), ConfigError, "rounds.cohort"),
        (tiny(loss="mse"), ConfigError, "loss"),
        (tiny(rounds={"max_abs_update": 1e15}), ConfigError, "max_abs_update"),
        (tiny(partition={"name": "iid", "clients": 5000}), (ConfigError, DataError), "clients"),
        (tiny(partition={"name": "natural"}), ConfigError, "natural"),
        (tiny(model={"name": "lstm"}), ConfigError, r"inputs of shape \(1, 8, 8\)"),
        (tiny(data={"name": "breast_cancer"}, model={"name": "cnn"}), ConfigError, "model.name"),
    ):
        with pytest.raises(error, match=reason):
            fedsim.run(config, runs=tmp_path, data_dir=tmp_path / "none")
    assert RunStore(tmp_path).all() == []


@pytest.mark.slow
def test_a_million_clients_cost_what_the_cohort_costs(tmp_path):
    import tracemalloc

    overrides = [
        "engine.grid=inprocess",
        "rounds.count=2",
        "rounds.cohort=5",
        "evaluation.central_every=0",
    ]
    tracemalloc.start()
    result = fedsim.run("synthetic-million", overrides, runs=tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.stored.partition["clients"] == 1_000_000
    assert peak < 200 * 2**20
    assert math.isfinite(result.metrics["train/loss"])


def test_batch_norm_counters_do_not_leak_between_clients(tiny, tmp_path, monkeypatch):
    """A cumulative batch norm depends on its counter: every client starts from the same one."""
    (tmp_path / "normed.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    norm = nn.BatchNorm1d(16, momentum=None)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), norm, nn.Linear(16, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    config = tiny(model={"name": "normed:build"}, strategy={"name": "fedavg"})
    one = fedsim.run(config, runs=tmp_path / "one")
    # Another order of clients per process: blocks of one, and a resume in the middle.
    seen = []

    def stop(event):
        seen.append(event)
        if type(event).__name__ == "RoundDone" and event.record.round == 2:
            raise KeyError

    with pytest.raises(KeyError):
        fedsim.run(config, runs=tmp_path / "two", listener=stop)
    fedsim.federation.from_text.cache_clear()
    assert fedsim.resume("last", runs=tmp_path / "two").model_sha256 == one.model_sha256
