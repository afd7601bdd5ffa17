"""Selections against closed forms, and unbiased weights by enumeration of every draw."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedsim import registry, rng, sampling
from fedsim.config import load
from fedsim.errors import ConfigError
from fedsim.selection._pool import Learned, Pool
from fedsim.selection.cyclic import Cyclic
from fedsim.selection.importance import Importance, _hit, probabilities
from fedsim.selection.oort import Oort, utilities
from fedsim.selection.poisson import Poisson
from fedsim.selection.power_of_choice import PowerOfChoice
from fedsim.selection.uniform import Uniform

NAMES = registry.names("selection")


def pool(cohort=4, count=12, round=1, clients=None, sizes=None):
    own = np.arange(count) if clients is None else np.array(clients)
    known = np.arange(1, count + 1) if sizes is None else np.array(sizes)
    return Pool(own.astype(np.int64), cohort, known, 3, round)


def told(round, clients, losses, weights=None, seconds=None, population=12):
    nan = np.full(len(clients), np.nan)
    return Learned(
        round,
        population,
        np.array(clients, dtype=np.int64),
        np.ones(len(clients)) if weights is None else np.array(weights, dtype=float),
        np.array(losses, dtype=float),
        np.array(losses, dtype=float),
        nan if seconds is None else np.array(seconds, dtype=float),
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_cohort_is_distinct_sorted_present_and_the_same_again(name):
    part, present = registry.load("selection", name)(), [1, 3, 4, 6, 7, 10]
    memory = {}
    for number in range(1, 6):
        own = pool(3, round=number, clients=present)
        drawn = part.draw(own, memory)
        assert set(drawn.clients.tolist()) <= set(present)
        assert drawn.clients.tolist() == sorted(set(drawn.clients.tolist()))
        assert name == "poisson" or len(drawn.clients) == 3
        assert part.draw(own, memory).clients.tolist() == drawn.clients.tolist()
        if hasattr(part, "learn"):
            before = {k: v.clone() for k, v in memory.items()}
            given_ = told(number, drawn.clients, np.linspace(1, 2, len(drawn.clients)))
            after = part.learn(memory, given_)
            for key, value in before.items():
                np.testing.assert_array_equal(memory[key], value)
            memory = after
    assert part.draw(pool(12), {}).clients.tolist() == list(range(12))


def test_uniform_draws_what_it_always_drew():
    for number in range(1, 5):
        wanted = sampling.uniform(12, 4, rng.stream(3, "cohort", round=number))
        assert Uniform().draw(pool(round=number), {}).clients.tolist() == wanted.tolist()


def test_in_turn_everybody_is_asked_equally_often():
    counts = np.zeros(12)
    for number in range(1, 13):
        counts[Cyclic().draw(pool(5, round=number), {}).clients] += 1
    assert (counts == 5).all()


def test_coins_have_their_rate():
    counts, sizes = np.zeros(12), []
    for number in range(1, 2001):
        drawn = Poisson().draw(pool(4, round=number), {}).clients
        counts[drawn] += 1
        sizes.append(len(drawn))
    # Conditioned on somebody: rate / (1 - (1 - rate)^12), and five standard deviations around it.
    rate = 1 / 3 / (1 - (2 / 3) ** 12)
    assert (abs(counts / 2000 - rate) < 5 * math.sqrt(rate / 2000)).all()
    assert np.var(sizes) == pytest.approx(12 * 2 / 9, rel=0.2)
    assert Poisson().most(12, 4) == 12


def test_power_of_choice_takes_the_largest_losses_of_its_candidates():
    part = PowerOfChoice(candidates=12)
    memory = part.learn({}, told(1, range(12), [5, 1, 9, 2, 8, 3, 7, 4, 6, 0, 11, 10]))
    assert part.draw(pool(3), memory).clients.tolist() == [2, 10, 11]
    memory = part.learn(memory, told(2, [2, 10], [0.5, 0.1]))
    assert part.draw(pool(3), memory).clients.tolist() == [4, 6, 11]
    # Candidates are drawn by size, and who was never asked comes first.
    some = PowerOfChoice().learn({}, told(1, range(11), range(11)))
    assert 11 in PowerOfChoice(candidates=12).draw(pool(1), some).clients
    often = np.zeros(2)
    for number in range(1, 401):
        own = pool(1, 2, number, sizes=[1, 3])
        often[PowerOfChoice(candidates=1).draw(own, {}).clients] += 1
    assert often[1] / 400 == pytest.approx(0.75, abs=5 * math.sqrt(0.75 * 0.25 / 400))


@given(
    st.lists(st.floats(0.01, 100), min_size=2, max_size=9),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.2, 1.0]),
)
def test_chances_sum_to_the_cohort(scores, cohort, floor):
    cohort = min(cohort, len(scores))
    p = probabilities(np.array(scores), cohort, floor)
    assert p.sum() == pytest.approx(cohort)
    assert (p <= 1 + 1e-12).all()
    assert (p >= floor * cohort / len(scores) - 1e-12).all()
    order = np.argsort(scores)
    assert (np.diff(p[order]) >= -1e-12).all()


@pytest.mark.parametrize("scores", [[1, 2, 3, 4], [1, 1, 1, 20], [0.1, 5, 6, 0.2], [0, 0, 1, 1]])
def test_chances_have_the_least_variance(scores):
    # Chen et al. 2022, section 3: they minimize sum s^2 / p over p <= 1 of sum m.
    s = np.maximum(np.array(scores, dtype=float), 1e-9)
    p = probabilities(s, 2, 0.0)
    found = minimize(
        lambda q: (s**2 / q).sum(),
        np.full(4, 0.5),
        bounds=[(1e-6, 1)] * 4,
        constraints={"type": "eq", "fun": lambda q: q.sum() - 2},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert (s**2 / p).sum() <= found.fun * (1 + 1e-6)


@pytest.mark.parametrize("scores", [[1, 2, 3, 4, 5], [1, 1, 1, 30, 2], [3, 3, 3, 3, 3]])
def test_every_draw_weighed_by_its_chance_gives_the_sum(scores):
    # All starts of the systematic draw, piece by piece between the ends of places.
    values = np.array([7.0, -2.0, 3.0, 0.5, 11.0])
    p = probabilities(np.array(scores, dtype=float), 2, 0.1)
    ends = np.cumsum(p)
    cuts = np.unique(np.concatenate([[0.0, 1.0], ends - np.floor(ends)]))
    cuts = cuts[(cuts >= 0) & (cuts <= 1)]
    mean, chance = 0.0, np.zeros(5)
    for low, high in pairwise(cuts):
        drawn = _hit(p, (low + high) / 2)
        assert len(set(drawn.tolist())) == 2
        mean += (high - low) * (values[drawn] / p[drawn]).sum()
        chance[drawn] += high - low
    np.testing.assert_allclose(chance, p, atol=1e-9)
    assert mean == pytest.approx(values.sum(), abs=1e-9)


def test_importance_remembers_scores_and_the_unknown_have_the_mean():
    part = Importance(by="loss", floor=0.5)
    memory = part.learn({}, told(1, [0, 1], [1.0, 3.0], weights=[2.0, 2.0]))
    assert part._scores(pool(), memory).tolist() == [2.0, 6.0, *[4.0] * 10]
    drawn = part.draw(pool(3), memory)
    chances = probabilities(part._scores(pool(), memory), 3, 0.5)
    np.testing.assert_allclose(drawn.factors, 1 / chances[drawn.clients])
    assert Importance(by="size")._scores(pool(), {}).tolist() == list(range(1, 13))


def test_oort_s_utility_is_the_papers():
    part = Oort(clip=1.0, alpha=2.0, preferred=0.5)
    memory = part.learn({}, told(1, [0, 1, 2], [2.0, 1.0, 4.0], [10, 10, 5], [1.0, 2.0, 4.0]))
    memory = part.learn(memory, told(2, [1], [1.0], [10], [2.0]))
    value = utilities(part, memory, np.array([0, 1, 2]), 5)
    stale = [math.sqrt(0.1 * math.log(5) / last) for last in (1, 2, 1)]
    expected = [1.0 + stale[0], 0.5 + stale[1], (1.0 + stale[2]) * (2.0 / 4.0) ** 2]
    np.testing.assert_allclose(value, expected)
    still = utilities(part, memory | {"seconds": torch.full((12,), math.nan)}, np.arange(3), 5)
    assert still[2] == pytest.approx(1.0 + stale[2])


def test_oort_s_pacer_allows_slower_clients_where_there_is_less_to_learn_from_fast_ones():
    part = Oort(preferred=0.5, pacer_step=0.3, pacer_rounds=2)

    def after(*losses):
        memory = {}
        for number, loss in enumerate(losses, 1):
            memory = part.learn(memory, told(number, [0, 1], [loss, 0.0], [1, 1], [1.0, 2.0]))
        return float(memory["preferred"])

    assert after(5.0, 5.0, 4.0) == 0.5  # a window is not over
    assert after(5.0, 5.0, 4.0, 5.0) == 0.8
    assert after(4.0, 5.0, 5.0, 5.0) == 0.5
    assert after(5.0, 5.0, 4.0, 5.0, 4.0, 5.0) == 0.8  # as much as before
    assert after(5.0, 5.0, 4.0, 5.0, 4.0, 4.0) == 1.0  # not above 1


def test_oort_explores_less_and_less_and_exploits_the_best():
    part = Oort(exploration=0.5, exploration_decay=1.0, exploration_least=0.0)
    memory = part.learn({}, told(1, range(6), [1, 1, 1, 1, 100, 90]))
    part_of = part.draw(pool(4, round=2), memory).clients
    assert {4, 5} <= set(part_of.tolist())  # two of four exploit: these are far above the rest
    assert sum(client >= 6 for client in part_of) == 2
    all_known = part.learn(memory, told(2, range(6, 12), [1] * 6))
    assert {4, 5} <= set(part.draw(pool(4, round=3), all_known).clients.tolist())
    tired = Oort(exploration=0.0, exploration_least=0.0, most_times=1)
    again = part.learn(memory, told(2, [4, 5], [100, 90]))
    assert not {4, 5} & set(tired.draw(pool(4, round=3), again).clients.tolist())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["privacy.unit=user", "privacy.epsilon=8"], r"selection\.name.*privacy\.sampling"),
        (["privacy.unit=example", "privacy.epsilon=8"], r"selection\.name.*own draw"),
        (["secure_sum.name=secagg"], r"selection\.name.*nothing of single"),
        (["strategy.name=fedbuff"], r"selection\.name.*free"),
        (["rounds.cohort="], r"selection\.name.*all clients are asked"),
    ],
)
@pytest.mark.parametrize("name", ["oort", "power-of-choice", "importance"])
def test_a_selection_by_answers_is_refused_where_something_rests_on_the_draw(
    name, overrides, message
):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load("digits", ["rounds.cohort=5", f"selection.name={name}", *overrides])


def test_weighed_sums_go_with_strategies_that_add_up():
    base = ["rounds.cohort=5", "selection.name=importance"]
    with pytest.raises(ConfigError, match=r"strategy\.name"):
        load("digits", [*base, "strategy.name=coordinate-median"])
    with pytest.raises(ConfigError, match=r"strategy\.name"):
        load("digits", [*base, "strategy.name=scaffold", "local.name=scaffold"])
    with pytest.raises(ConfigError, match=r"selection\.candidates.*at least 5"):
        load("digits", [*base[:1], "selection.name=power-of-choice", "selection.candidates=3"])
    load("digits", [*base[:1], "selection.name=cyclic", "secure_sum.name=secagg",
                    "evaluation.federated_every=0"])  # fmt: skip
