"""Parameters against published ones and exact tails; graphs against graph theory and counting."""

import math
from fractions import Fraction
from itertools import permutations

import networkx
import numpy as np
import pytest
from Crypto.Cipher import AES
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.secagg import graph
from fedsim.secagg.graph import Shape, neighbours, plan

FCP = [  # n, adversaries, dropouts, degree and threshold against an honest and a lying server:
    # fcp/secagg/server/graph_parameter_finder_test.cc of google-parfait/federated-compute
    (100, 0.45, 0.45, (92, 46), None),
    (1000, 0.45, 0.45, (822, 417), None),
    (100, 0.33, 0.33, (68, 34), None),
    (1000, 0.33, 0.33, (286, 150), None),
    (10000, 0.33, 0.33, (422, 221), None),
    (100000, 0.33, 0.33, (480, 251), None),
    (100, 0.3, 0.3, None, (92, 62)),
    (1000, 0.3, 0.3, None, (872, 584)),
    (100, 0.05, 0.33, (28, 6), (72, 39)),
    (1000, 0.05, 0.33, (72, 24), (398, 223)),
    (10000, 0.05, 0.33, (86, 29), (746, 420)),
    (100000, 0.05, 0.33, (96, 32), (882, 496)),
    (100, 0.33, 0.05, (34, 29), (42, 37)),
    (1000, 0.33, 0.05, (78, 60), (132, 109)),
    (10000, 0.33, 0.05, (92, 70), (178, 146)),
    (100000, 0.33, 0.05, (102, 77), (196, 160)),
    (100, 0.05, 0.05, (12, 6), (16, 11)),
    (1000, 0.05, 0.05, (30, 17), (52, 37)),
    (10000, 0.05, 0.05, (34, 20), (62, 44)),
    (1000000, 0.05, 0.05, (38, 22), (74, 52)),
    (100, 0.33, 0.0, (26, 25), (26, 26)),
    (1000, 0.33, 0.0, (38, 36), (38, 37)),
    (10000, 0.33, 0.0, (42, 40), (42, 41)),
    (100, 0.0, 0.33, (26, 2), (68, 35)),
    (1000, 0.0, 0.33, (38, 2), (228, 115)),
    (10000, 0.0, 0.33, (42, 2), (326, 164)),
    (100, 0.0, 0.0, (2, 2), (2, 2)),
    (10000, 0.0, 0.0, (2, 2), (2, 2)),
    # computed beforehand from the same formulas, by other code
    (100, 0.1, 0.1, (22, 11), (32, 22)),
    (1000, 0.1, 0.1, (48, 27), (96, 67)),
    (1000, 0.2, 0.1, (68, 44), (140, 104)),
    (10000, 0.1, 0.1, (54, 31), (122, 85)),
]
ROWS = [
    (n, adversaries, dropouts, lying, expected)
    for n, adversaries, dropouts, *both in FCP
    for lying, expected in zip((False, True), both, strict=True)
    if expected
]


@pytest.mark.parametrize(("n", "adversaries", "dropouts", "lying", "expected"), ROWS, ids=str)
def test_published_parameters(n, adversaries, dropouts, lying, expected):
    found = plan(n, adversaries=adversaries, dropouts=dropouts, semi_malicious=lying)
    assert (found.degree, found.threshold) == expected


def exactly_below(total, marked, drawn, x):
    """P(hypergeometric <= x) as a fraction."""
    ways = sum(math.comb(marked, i) * math.comb(total - marked, drawn - i) for i in range(x + 1))
    return Fraction(ways, math.comb(total, drawn))


@given(st.integers(2, 60), st.data())
def test_tails_are_exact_ones(n, data):
    """Also that quantiles are the ones defined, on either side, by comparing fractions."""
    bad = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n))
    degree = data.draw(st.integers(1, n))
    odds = graph._Odds.of(n, bad, lost)
    for marked in (n - bad, n - lost):
        exact = [float(exactly_below(n, marked, degree, x)) for x in range(degree)]
        np.testing.assert_allclose(odds._below(marked, degree), exact, rtol=1e-10)
    chance = data.draw(st.sampled_from([0.3711, 0.0517, 1.7e-3, 1.9e-6, 1.3e-12]))
    most = odds.adversaries_at_most(degree, chance)
    more = [1 - exactly_below(n, bad, degree, x) for x in (most - 1, most)]
    assert more[1] < chance
    assert most == 0 or more[0] >= chance
    least = odds.survivors_at_least(degree, chance)
    fewer = [exactly_below(n, n - lost, degree, x) for x in (least - 1, least)]
    assert least == 0 or fewer[0] < chance
    assert least == degree or fewer[1] >= chance


def rates(n, degree, threshold, lying, trials):
    """How often random graphs are unsafe or fail, when as many collude and are lost as may."""
    rng = np.random.default_rng(11)
    count = n // 5
    unsafe = failing = 0
    for _ in range(trials):
        around = np.array(neighbours(rng.bytes(32), n, degree))
        order = rng.permutation(n)
        bad, lost = np.zeros((2, n), bool)
        bad[order[:count]] = True
        lost[order[count : 2 * count]] = True
        shares = bad[around].sum(axis=1)
        opened = 2 * threshold <= degree + shares if lying else shares >= threshold
        unsafe += bool(opened.any()) or not connected(around, ~bad & ~lost)
        failing += bool(((~lost)[around].sum(axis=1) < threshold).any())
    return unsafe / trials, failing / trials


def connected(around, kept):
    seen = np.zeros(len(around), bool)
    seen[np.flatnonzero(kept)[0]] = True
    while True:
        reached = np.zeros_like(seen)
        reached[around[seen]] = True
        grown = seen | (reached & kept)
        if (grown == seen).all():
            return bool((seen == kept).all())
        seen = grown


@pytest.mark.parametrize("lying", [False, True], ids=("honest", "lying"))
def test_random_graphs_fail_no_more_often_than_planned(lying):
    """At sigma = eta = 4, where failures can be counted; and that they are there to be counted."""
    n, trials = 200, 400
    shape = plan(n, adversaries=0.2, dropouts=0.2, semi_malicious=lying, sigma=4, eta=4)
    unsafe, failing = rates(n, shape.degree, shape.threshold, lying, trials)
    slack = 3 * math.sqrt(1 / 16 * 15 / 16 / trials)
    assert unsafe <= 1 / 16 + slack
    assert failing <= 1 / 16 + slack
    fewer = rates(n, shape.degree // 4 * 2, shape.threshold // 2, lying, 50)
    assert max(fewer) > 0.5


@given(
    st.integers(2, 300),
    st.floats(0, 0.4),
    st.floats(0, 0.25),
    st.booleans(),
)
def test_what_is_planned_is_consistent(n, adversaries, dropouts, lying):
    """Safe against the adversaries, reachable by the survivors, or refused with the numbers."""
    bad, lost = (math.floor(rate * n + 1e-9) for rate in (adversaries, dropouts))
    try:
        shape = plan(n, adversaries=adversaries, dropouts=dropouts, semi_malicious=lying)
    except ValueError:
        assert lying
        assert n - lost < (n + bad) // 2 + 1
        return
    if shape.degree == n - 1:
        assert shape.threshold <= n - lost
        assert 2 * shape.threshold > n + bad if lying else shape.threshold > bad
    else:
        assert n >= graph.FULL_BELOW
        assert shape.degree % 2 == 0
        assert 2 <= shape.threshold <= shape.degree < n - 1


def test_small_cohorts_are_full_graphs():
    assert plan(59, adversaries=0.1, dropouts=0.1, semi_malicious=False) == Shape(58, 30)
    assert plan(59, adversaries=0.1, dropouts=0.1, semi_malicious=True) == Shape(58, 33)
    assert plan(60, adversaries=0.1, dropouts=0.1, semi_malicious=False).degree < 59


def test_a_large_fraction_means_the_full_graph():
    """Of 60, with 2 liars and 28 lost, no sparse neighbourhood is sure to do; the full one is."""
    assert plan(60, adversaries=0.04, dropouts=0.47, semi_malicious=True) == Shape(59, 32)


def test_impossible_fractions_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"70 survivors are fewer than the 73 shares"):
        plan(100, adversaries=0.45, dropouts=0.3, semi_malicious=True)
    assert plan(100, adversaries=0.45, dropouts=0.3, semi_malicious=False).threshold <= 70


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n": 1}, "n = 1: 2 to 1000000"),
        ({"n": 10**6 + 1}, "n = 1000001"),
        ({"adversaries": 1.0}, "adversaries = 1.0: a fraction"),
        ({"dropouts": -0.1}, "dropouts = -0.1: a fraction"),
        ({"dropouts": float("nan")}, "dropouts = nan"),
        ({"adversaries": 0.5, "dropouts": 0.5}, "less than 1 together"),
    ],
    ids=str,
)
def test_other_values_are_refused(changes, match):
    values = {"n": 10, "adversaries": 0.1, "dropouts": 0.1, "semi_malicious": False} | changes
    with pytest.raises(ValueError, match=match):
        plan(values.pop("n"), **values)


@given(st.integers(3, 80), st.data())
def test_graphs_are_regular_and_symmetric(n, data):
    degree = data.draw(st.sampled_from([*range(2, n - 1, 2), n - 1]))
    seed = data.draw(st.binary(min_size=32, max_size=32))
    found = neighbours(seed, n, degree)
    assert len(found) == n
    for i, around in enumerate(found):
        assert around == sorted(set(around))
        assert len(around) == degree
        assert i not in around
        assert all(i in found[j] for j in around)
    assert found == neighbours(seed, n, degree)


@pytest.mark.parametrize("degree", [2, 4, 8, 12])
def test_graphs_are_as_connected_as_a_degree_allows(degree):
    """Harary, "The maximum connectivity of a graph" (PNAS 48, 1962)."""
    found = networkx.Graph()
    for i, around in enumerate(neighbours(bytes(32), 25, degree)):
        found.add_edges_from((i, j) for j in around)
    assert networkx.node_connectivity(found) == degree


def ring_by_hand(seed, n):
    """Fisher and Yates on the words of AES-256-CTR, with another library."""
    stream = AES.new(seed, AES.MODE_CTR, nonce=b"", initial_value=bytes(16)).encrypt(bytes(8 * n))
    words = [int.from_bytes(stream[i : i + 4], "little") for i in range(0, len(stream), 4)]
    ring = list(range(n))
    for last in range(n - 1, 0, -1):
        bound = last + 1
        while (word := words.pop(0)) >= 2**32 // bound * bound:
            pass
        ring[last], ring[word % bound] = ring[word % bound], ring[last]
    return ring


def test_the_graph_is_that_of_the_keystream():
    """So that every client, of any version, makes the same."""
    seed, n = bytes(range(32)), 500
    ring = ring_by_hand(seed, n)
    found = neighbours(seed, n, 6)
    for place, client in enumerate(ring):
        around = sorted(ring[(place + step) % n] for step in (-3, -2, -1, 1, 2, 3))
        assert found[client] == around


def test_orders_are_even():
    """All 24 orders of four, over 4800 seeds."""
    counts = dict.fromkeys(permutations(range(4)), 0)
    for seed in range(4800):
        words = graph._words(graph.ctr_stream(seed.to_bytes(32, "big")))
        counts[tuple(graph._shuffled(4, words))] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_words_of_an_incomplete_run_are_passed_over():
    assert graph._even(3, iter([2**32 - 1, 5])) == 2
    assert graph._even(3, iter([2**32 - 2])) == 2
    assert graph._even(2**31 + 1, iter([2**31 + 1, 2**31])) == 2**31


def test_ten_thousand_clients():
    found = neighbours(bytes(32), 10_000, 122)
    assert {len(around) for around in found} == {122}
    assert found[7][0] in range(10_000)


@pytest.mark.parametrize("degree", [0, 3, -2, 10, 11, 12])
def test_other_degrees_are_refused(degree):
    if degree == 10:
        assert neighbours(bytes(32), 11, 10)[0] == list(range(1, 11))
        return
    with pytest.raises(ValueError, match=f"degree = {degree}: even and below 10"):
        neighbours(bytes(32), 11, degree)
