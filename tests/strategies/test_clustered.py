"""IFCA and CFL, both halves together, on clients that come in planted clusters."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedsim import exact, losses
from fedsim.clients.cfl import Cfl as LocalCfl
from fedsim.clients.ifca import Ifca as LocalIfca
from fedsim.clients.sgd import Sgd
from fedsim.core import ClientContext, RoundContext, Task, Update, broadcast
from fedsim.models import get_vector, set_vector
from fedsim.optimizers.gd import Gd
from fedsim.strategies.cfl import Cfl, bipartition
from fedsim.strategies.ifca import Ifca

SIZE, EXAMPLES = 4, 20
OPTIMA = np.array([[2.0, -1.0, 1.0, 0.5], [-2.0, 1.5, -1.0, 0.5]])


def shards(clusters):
    """Least-squares clients, the i-th of cluster clusters[i], without noise."""
    rng = np.random.default_rng(0)
    found = []
    for cluster in clusters:
        x = rng.normal(size=(EXAMPLES, SIZE))
        y = x @ OPTIMA[cluster]
        found.append((torch.from_numpy(x).float(), torch.from_numpy(y[:, None]).float()))
    return found


class Federation:
    """Rounds of a strategy with its half on clients, as `fedsim.rounds` does them."""

    def __init__(self, strategy, part, data, lr=0.05):
        self.strategy, self.part, self.data, self.lr = strategy, part, data, lr
        self.module = nn.Linear(SIZE, 1, bias=False)
        self.state = strategy.init(torch.full((SIZE,), 0.1, dtype=torch.float64))

    def task(self, client):
        model = self.state["model"].float()
        set_vector(self.module, model)
        extras = broadcast(self.strategy, self.state)
        loss = losses.LOSSES["mse"]
        return Task(self.module, model, *self.data[client], loss, Gd(lr=self.lr), extras=extras)

    def run(self, rounds, asked=None):
        asked = list(range(len(self.data))) if asked is None else asked
        for number in range(1, rounds + 1):
            updates = [
                self.part.train(self.task(c), {}, ClientContext(0, number, c))[0] for c in asked
            ]
            told = RoundContext(0, number, len(asked), len(self.data), asked)
            if self.strategy.needs == "sum":
                form = exact.fixed_point(SIZE, max_abs=64.0, max_weight=1.0, cohort=len(asked))
                updates = exact.decode(exact.add(exact.encode(u, form) for u in updates), form)
            self.state = self.strategy.step(self.state, updates, told)

    def used(self, client):
        return get_vector(self.part.adapted(self.task(client), {}, ClientContext(0, 1, client)))


def test_ifca_recovers_planted_clusters():
    # The paper's theorem begins with models each nearer to the optimum of another cluster.
    planted = [0, 1, 1, 0]
    federation = Federation(Ifca(), LocalIfca(steps=5), shards(planted), lr=0.1)
    federation.state |= {
        "model": torch.from_numpy(0.2 * OPTIMA[1] + 0.3),
        "cluster/1": torch.from_numpy(0.2 * OPTIMA[0] - 0.3),
    }
    federation.run(25)
    for client, cluster in enumerate(planted):
        used = federation.used(client).double().numpy()
        np.testing.assert_allclose(used, OPTIMA[cluster], atol=1e-3)


def test_with_one_cluster_ifca_is_fedavg_that_counts_clients_alike():
    one = Federation(Ifca(clusters=1), LocalIfca(clusters=1, steps=5), shards([0, 1, 1]))
    plain = Federation(Unweighted(), Sgd(steps=5), shards([0, 1, 1]))
    one.run(3)
    plain.run(3)
    assert torch.allclose(one.state["model"], plain.state["model"], rtol=0, atol=1e-6)


class Unweighted:
    needs = "updates"

    def init(self, model):
        return {"model": model}

    def step(self, state, updates, ctx):
        moves = torch.stack([update.vector.double() for update in updates])
        return {"model": state["model"] + moves.mean(0)}


def test_a_model_that_nobody_chose_stays_and_models_begin_apart_alike_for_one_seed():
    strategy = Ifca(clusters=3, spread=5.0)
    model = torch.linspace(-1, 1, 50).double()
    state, again = strategy.init(model), strategy.init(model.clone())
    assert all(torch.equal(state[name], again[name]) for name in state)
    away = (state["cluster/1"] - model, state["cluster/2"] - model)
    assert 3.0 < float(away[0].std()) < 7.0
    assert not torch.equal(*away)
    federation = Federation(Ifca(spread=100.0), LocalIfca(steps=1), shards([0, 0]))
    before = federation.state["cluster/1"].clone()
    federation.run(2)
    assert torch.equal(federation.state["cluster/1"], before)


def test_cfl_splits_planted_clusters_and_both_end_at_their_optimum():
    planted = [0, 1, 1, 0, 1]
    federation = Federation(Cfl(eps1=0.1, eps2=0.3), LocalCfl(steps=5), shards(planted), lr=0.1)
    federation.run(30)
    of = federation.state["cluster_of"].tolist()
    assert sorted(set(of)) == [0, 1]
    assert [cluster == of[0] for cluster in of] == [cluster == 0 for cluster in planted]
    for client, cluster in enumerate(planted):
        np.testing.assert_allclose(federation.used(client), OPTIMA[cluster], atol=1e-3)


def test_cfl_does_not_split_clients_that_want_the_same():
    federation = Federation(Cfl(eps1=0.1, eps2=0.3), LocalCfl(steps=5), shards([0] * 4), lr=0.1)
    federation.run(20)
    assert set(federation.state["cluster_of"].tolist()) == {0}
    np.testing.assert_allclose(federation.state["model"], OPTIMA[0], atol=1e-3)


def test_cfl_waits_for_a_round_that_a_whole_cluster_answers():
    planted = [0, 1, 1, 0]
    federation = Federation(Cfl(eps1=0.1, eps2=0.3), LocalCfl(steps=5), shards(planted), lr=0.1)
    federation.run(10, asked=[0, 2])  # both kinds, but not all
    assert set(federation.state["cluster_of"].tolist()) == {0}
    federation.run(10)
    assert len(set(federation.state["cluster_of"].tolist())) == 2


def test_gamma_keeps_clients_together_that_are_too_much_alike():
    half = torch.tensor([[1.0, 0.2], [1.0, -0.2], [-1.0, 0.3], [-1.0, -0.3]])  # mean 0
    updates = [Update(vector, 1.0) for vector in half]
    told = RoundContext(0, 1, 4, 4, [0, 1, 2, 3])
    state = Cfl().init(torch.zeros(2).double())
    found = Cfl(eps1=0.1, eps2=0.9, gamma=0.9).step(state, updates, told)
    assert found["cluster_of"].tolist() == [0, 0, 1, 1]
    stays = Cfl(eps1=0.1, eps2=0.9, gamma=0.999).step(state, updates, told)
    assert stays["cluster_of"].tolist() == [0, 0, 0, 0]


@given(st.integers(2, 7), st.integers(0, 10**6))
def test_the_bipartition_is_the_best_of_all(count, seed):
    values = np.random.default_rng(seed).uniform(-1, 1, size=(count, count))
    similarity = torch.from_numpy((values + values.T) / 2)

    def across(part):
        rest = [i for i in range(count) if i not in part]
        return max(float(similarity[i, j]) for i in part for j in rest)

    others = range(1, count)
    every = [set(p) for size in range(1, count) for p in combinations(others, size)]
    leaving, largest = bipartition(similarity)
    assert 0 not in leaving
    assert across(set(leaving)) == pytest.approx(largest)
    assert largest == pytest.approx(min(across(part) for part in every))
