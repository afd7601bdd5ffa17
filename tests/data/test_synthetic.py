"""Synthetic clients: as FedProx makes them, any number, each only when asked for."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from fedsim import rng
from fedsim.data import ClientData, Together, open_clients, summarize
from fedsim.data.synthetic import Synthetic
from fedsim.errors import DataError


def population(holdout: float = 0.1, seed: int = 0, **options: Any) -> ClientData:
    return open_clients(Synthetic(**options), None, seed=seed, holdout=holdout)


def test_a_million_clients_open_at_once() -> None:
    tracemalloc.start()
    clients = population(clients=1_000_000, size_skew=1.0)
    sizes = clients.sizes()
    last = clients.train(999_999)
    clients.test()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sizes) == 1_000_000
    assert len(last.y) == sizes[-1]
    assert peak < 200e6


def test_equal_sizes_take_no_memory_and_nobody_can_change_them() -> None:
    clients = population(clients=1_000_000, examples=30)
    tracemalloc.start()
    sizes = clients.sizes()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000
    assert sizes.dtype == np.int64
    assert (sizes == 27).all()
    for own in (sizes, population(size_skew=1.0).sizes()):
        with pytest.raises(ValueError, match="read-only"):
            own[0] = 1


@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_skewed_sizes_by_their_formula(holdout: float) -> None:
    clients = population(clients=1000, examples=30, size_skew=1.5, holdout=holdout, seed=3)
    normal = rng.stream(3, "synthetic/sizes").standard_normal(1000)
    whole = np.maximum(2, np.round(30 * np.exp(1.5 * normal))).astype(np.int64)
    held = np.minimum((whole * holdout).astype(np.int64), whole - 1)
    assert np.array_equal(clients.sizes(), whole - held)


def test_inputs_have_the_covariance_of_the_paper() -> None:
    """Li et al., MLSys 2020, appendix C.1: Sigma_jj = j^-1.2, and mean 0 without input skew."""
    x = population(clients=2, examples=40_000, features=10, holdout=0.0).train(0).x
    assert np.allclose(x.var(axis=0), np.arange(1, 11) ** -1.2, rtol=0.05)
    assert np.abs(x.mean(axis=0)).max() < 0.03
    assert np.abs(np.corrcoef(x.T) - np.eye(10)).max() < 0.03


def test_input_skew_moves_the_means_of_clients() -> None:
    """v_k ~ N(B_k, 1), B_k ~ N(0, beta): over clients a coordinate's mean has variance 1 + beta."""
    clients = population(clients=3000, examples=200, features=4, input_skew=2.0, holdout=0.0)
    means = np.array([clients.train(i).x.mean(axis=0) for i in range(3000)])
    noise = np.arange(1, 5) ** -1.2 / 200
    assert np.allclose(means.var(axis=0) - noise, 3.0, rtol=0.12)


def test_without_skew_one_linear_model_fits_all_clients() -> None:
    clients = population(clients=50, examples=200, features=10, classes=3)
    first = [clients.train(i) for i in range(50)]
    x, y = np.concatenate([s.x for s in first]), np.concatenate([s.y for s in first])
    weights = np.linalg.lstsq(x, np.eye(3)[y], rcond=None)[0]
    test = clients.test()
    assert ((test.x @ weights).argmax(axis=1) == test.y).mean() > 0.85
    skewed = population(clients=50, examples=200, features=10, classes=3, model_skew=1.0)
    other = skewed.test()
    assert ((other.x @ weights).argmax(axis=1) == other.y).mean() < 0.85


@pytest.mark.parametrize("size_skew", [0.0, 1.0])
def test_held_out_and_training_examples_are_one_shard(size_skew: float) -> None:
    with_held = population(clients=20, examples=30, size_skew=size_skew, holdout=0.3)
    without = population(clients=20, examples=30, size_skew=size_skew, holdout=0.0)
    for client in range(20):
        train, held = with_held.train(client), with_held.held_out(client)
        whole = without.train(client)
        assert np.array_equal(np.concatenate([train.x, held.x]), whole.x)
        assert len(held.y) == int(0.3 * len(whole.y))
        assert len(train.y) == with_held.sizes()[client] >= 1
        assert len(without.held_out(client).y) == 0


def test_data_depend_on_seed_and_client_alone() -> None:
    a, b, c = population(), population(), population(seed=1)
    assert np.array_equal(a.train(7).x, b.train(7).x)
    assert not np.array_equal(a.train(7).x, c.train(7).x)
    assert not np.array_equal(a.train(7).x, a.train(8).x)
    more = population(clients=100_000)
    assert np.array_equal(a.train(7).x, more.train(7).x)
    assert a.meta.sha256 == b.meta.sha256 != c.meta.sha256
    assert a.meta.sha256 != more.meta.sha256


def test_the_test_set_is_of_strangers() -> None:
    clients = population(clients=10, examples=20, test_examples=45)
    test = clients.test()
    assert len(test.y) == 45
    own = np.concatenate([clients.train(i).x for i in range(10)])
    assert not (test.x[:, None, 0] == own[None, :, 0]).any()


def test_size_skew_is_log_normal() -> None:
    sizes = population(clients=200_000, examples=1000, size_skew=0.5, holdout=0.0).sizes()
    assert np.log(sizes).mean() == pytest.approx(np.log(1000), abs=0.01)
    assert np.log(sizes).std() == pytest.approx(0.5, abs=0.01)


def test_pooled_puts_all_clients_together_where_memory_can_hold_them() -> None:
    part = Synthetic(clients=30, examples=10)
    whole = open_clients(part, None, seed=0, holdout=0.0)
    pooled = Together(whole)
    assert pooled.clients == 31
    everything = np.concatenate([whole.train(i).x for i in range(30)])
    assert np.array_equal(pooled.train(30).x, everything)
    huge = Together(population(clients=1_000_000, examples=1000, holdout=0.0))
    with pytest.raises(DataError, match=r"mode = 'pooled'.*1000000 clients"):
        huge.train(1_000_000)


def test_the_summary_does_not_make_everybodys_data() -> None:
    summary = summarize(population(clients=1_000_000))
    assert summary["clients"] == 1_000_000
    assert summary["measured_clients"] == len(summary["table"]) == 100
