"""FLTrust against the paper's equations, and the rows that the server trains on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fedsim
from fedsim import config as configuration
from fedsim.core import RoundContext, Update
from fedsim.errors import ConfigError, RunFailedError
from fedsim.federation import Places, build
from fedsim.root import must_have_rows
from fedsim.strategies._robust import inner_rule
from fedsim.strategies.fltrust import FlTrust, trusted_mean


@given(st.integers(0, 500), st.integers(1, 9))
def test_it_is_the_papers_mean(seed, clients):
    rng = np.random.default_rng(seed)
    g, g0 = rng.normal(size=(clients, 6)), rng.normal(size=6)
    trust = [max(0.0, x @ g0 / np.linalg.norm(x) / np.linalg.norm(g0)) for x in g]
    scaled = [np.linalg.norm(g0) / np.linalg.norm(x) * x for x in g]
    expected = sum(t * x for t, x in zip(trust, scaled, strict=True)) / (sum(trust) or 1.0)
    found = trusted_mean(torch.from_numpy(g), torch.from_numpy(g0))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.norm() <= np.linalg.norm(g0) * (1 + 1e-9)


def test_a_majority_of_liars_is_borne_and_zeros_are_no_trouble():
    root = torch.ones(5)
    updates = [Update(torch.full((5,), 0.9), 1.0)] * 2 + [Update(torch.full((5,), -1e6), 1.0)] * 9
    state = FlTrust().init(torch.zeros(5, dtype=torch.float64))
    moved = FlTrust().step(state, updates, RoundContext(0, 1, 11, root=root))["model"]
    torch.testing.assert_close(moved, torch.ones(5, dtype=torch.float64))
    zeros = [Update(torch.zeros(5), 1.0)] * 3
    for told in (root, torch.zeros(5)):
        still = FlTrust().step(state, zeros, RoundContext(0, 1, 3, root=told))["model"]
        assert torch.equal(still, state["model"])
    with pytest.raises(RunFailedError, match="server's own"):
        FlTrust().step(state, updates, RoundContext(0, 1, 11))
    with pytest.raises(ConfigError, match="robust rule"):
        inner_rule("fltrust", {})


def federation_of(*overrides):
    content = ["strategy.name=fltrust", "partition.clients=6", *overrides]
    return build(configuration.load("digits", content), Places())


def rows_of(*parts):
    pairs = [pair for part in parts for pair in zip(part.x, part.y, strict=True)]
    return sorted(row.tobytes() + bytes([label]) for row, label in pairs)


def test_rows_of_the_server_are_no_client_s():
    plain = build(configuration.load("digits", ["partition.clients=6"]), Places())
    with_root = federation_of("strategy.root_rows=40")
    before = [len(plain.clients.train(c).y) for c in range(6)]
    after = [len(with_root.clients.train(c).y) for c in range(6)]
    assert sum(before) - sum(after) == len(with_root.root.y) == 40
    assert list(with_root.clients.sizes()) == after
    assert min(after) >= 1
    theirs = [with_root.clients.train(client) for client in range(6)]
    everything = [plain.clients.train(client) for client in range(6)]
    assert rows_of(with_root.root, *theirs) == rows_of(*everything)
    again = federation_of("strategy.root_rows=40")
    assert np.array_equal(again.root.x, with_root.root.x)


def test_or_rows_of_its_own_on_which_nothing_is_tested():
    plain = build(configuration.load("digits", ["partition.clients=6"]), Places())
    with_root = federation_of("strategy.root_rows=30", "strategy.root=test")
    assert len(with_root.root.y) == 30
    assert len(with_root.clients.test().y) == len(plain.clients.test().y) - 30
    assert list(with_root.clients.sizes()) == list(plain.clients.sizes())


def test_more_rows_than_there_are_and_rows_of_real_clients_are_refused():
    with pytest.raises(ConfigError, match=r"strategy\.root_rows.*at most"):
        federation_of("strategy.root_rows=5000")
    with pytest.raises(ConfigError, match=r"strategy\.root.*no row of theirs"):
        must_have_rows(FlTrust(), has_own=True)
    must_have_rows(FlTrust(root="test"), has_own=True)
    with pytest.raises(ConfigError, match=r"strategy\.name.*has none"):
        must_have_rows(FlTrust(root="test"), has_own=False)


@pytest.mark.slow
def test_it_learns_where_most_clients_lie(tmp_path):
    overrides = ["partition.name=iid", "partition.clients=10", "rounds.count=8"]
    overrides += ["model.name=linear", "evaluation.federated_every=0", "engine.grid=inprocess"]
    overrides += ["attack.name=sign-flip", "attack.fraction=0.6", "attack.scale=3.0"]
    trusting = fedsim.run("digits", [*overrides, "strategy.name=fltrust"], runs=tmp_path / "a")
    plain = fedsim.run("digits", overrides, runs=tmp_path / "b")
    assert trusting.metrics["test/accuracy"] > 0.75
    assert plain.metrics["test/accuracy"] < 0.3
