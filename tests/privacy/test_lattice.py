"""Accounting of discrete noise against the formulas as they were published in code.

The oracle below follows google-research/federated, `distributed_dp/accounting_utils.py` (Apache
2.0), written anew from its formulas in real units and plain loops; ours works in integer steps.
"""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from fedsim.privacy import _lattice
from fedsim.privacy._entries import Entry, Spend, canonical, entry_from_dict
from fedsim.privacy._parts import MOST_PARTS, binned, part_of
from fedsim.privacy._renyi import ORDERS
from fedsim.privacy.accounting import Renyi, account, epsilon, group_epsilon, mu
from fedsim.privacy.budget import Budget, Spent
from fedsim.privacy.events import DISCRETE, Lattice, Release, Sampling
from fedsim.privacy.plan import calibrate_noise

BETA = math.exp(-0.5)
ALL = Sampling()
WHOLE = [int(order) for order in ORDERS if order % 1 == 0]


# The oracle


def rounded_norms(l2, scale, dim):
    """Norms in real units of what is rounded on a grid of 1 / scale."""
    x = l2 * scale
    first = x + math.sqrt(dim)
    second = math.sqrt(
        x**2 + 0.25 * dim + math.sqrt(2 * math.log(1 / BETA)) * (x + 0.5 * math.sqrt(dim))
    )
    rounded = min(first, second)
    return rounded / scale, rounded * min(math.sqrt(dim), rounded) / scale


def skellam_rdp(order, scale, stddev, l2, dim):
    l2, l1 = rounded_norms(l2, scale, dim)
    variance = stddev**2
    rdp = order / (2 * variance) * l2**2
    one = ((2 * order - 1) * scale * l2**2 + 6 * l1) / (4 * scale**3 * variance**2)
    return rdp + min(one, 3 * l1 / (2 * scale * variance))


def ddgauss_rdp(order, scale, local_stddev, clients, l2, dim):
    l2, l1 = rounded_norms(l2, scale, dim)
    tau = sum(
        10 * math.exp(-2 * (math.pi * local_stddev * scale) ** 2 * (k / (k + 1)))
        for k in range(1, clients)
    )
    whole = math.sqrt(clients) * local_stddev
    l2, l1 = l2 / whole, l1 / whole
    return min(
        order / 2 * l2**2 + tau * dim,
        order / 2 * (l2**2 + 2 * l1 * tau + tau**2 * dim),
        order / 2 * (l2 + math.sqrt(dim) * tau) ** 2,
    )


def subsampled(order, q, rdp, factor=3):
    """Zhu and Wang, theorem 5, term by term."""
    log_terms = [math.log((1 - q) ** (order - 1) * (order * q - q + 1))]
    for k in range(2, order + 1):
        log_comb = (
            special.gammaln(order + 1) - special.gammaln(k + 1) - special.gammaln(order - k + 1)
        )
        own = (k - 1) * rdp(k) + log_comb + (order - k) * math.log(1 - q) + k * math.log(q)
        log_terms.append(own + (math.log(factor) if k > 2 else 0))
    return float(special.logsumexp(log_terms)) / (order - 1)


def to_epsilon(curve, delta):
    """Canonne, Kamath and Steinke 2020, proposition 12, over the orders of a curve."""
    return max(
        0.0,
        min(
            rdp + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
            for order, rdp in curve.items()
            if math.isfinite(rdp)
        ),
    )


def release(mechanism, z, scale, dim, clients, sampling=ALL, count=1):
    return Release(mechanism, z, sampling, count, lattice=Lattice(scale, dim, clients))


def rdp_of(mechanism, order, z, scale, dim, clients):
    """The oracle's for a clipping norm of 1."""
    if mechanism == "skellam":
        return skellam_rdp(order, scale, z, 1.0, dim)
    return ddgauss_rdp(order, scale, z / math.sqrt(clients), clients, 1.0, dim)


GRID = list(itertools.product((0.5, 1.0, 4.0), (10.0, 300.0, 1e5), (16, 2**14, 2**20), (3, 100)))


@pytest.mark.parametrize("mechanism", DISCRETE)
@pytest.mark.parametrize("count", [1, 200])
def test_epsilon_is_the_published_one(mechanism, count):
    """54 points: everybody takes part."""
    seen = 0
    for z, scale, dim, clients in GRID:
        # The bound of discrete Gaussians holds at orders in between, too.
        orders = WHOLE if mechanism == "skellam" else ORDERS
        curve = {a: count * rdp_of(mechanism, a, z, scale, dim, clients) for a in orders}
        spent = Renyi("zero-out").compose(release(mechanism, z, scale, dim, clients, count=count))
        assert spent.epsilon(1e-6) == pytest.approx(to_epsilon(curve, 1e-6), rel=1e-9, abs=1e-9)
        found = [spent.curve[ORDERS.index(a)] for a in orders]
        np.testing.assert_allclose(found, list(curve.values()), rtol=1e-9)
        seen += 1
    assert seen >= 50


@pytest.mark.parametrize("mechanism", DISCRETE)
def test_amplified_divergences_are_the_published_ones(mechanism):
    """Theorem 5 with its factor 3, at 72 points; without it, which we use, nowhere more."""
    few = np.array([2.0, 3, 4, 7, 16, 32])
    for z, scale, (q, clients) in itertools.product(
        (0.8, 2.0), (50.0, 1e4, 1e6), ((0.001, 10), (0.1, 100))
    ):
        dim = 2**14
        part = part_of(release(mechanism, z, scale, dim, clients), "zero-out")
        near = _lattice.curve(part, _lattice.whole(few), 1.0)
        found = _lattice.sampled(near, few, q, factor=3.0)
        ours = _lattice.sampled(near, few, q)

        def rdp(order, own=(z, scale, dim, clients)):
            return rdp_of(mechanism, order, *own)

        expected = [subsampled(int(a), q, rdp) for a in few]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(
            ours, [subsampled(int(a), q, rdp, factor=1) for a in few], rtol=1e-6, atol=1e-12
        )
        assert (ours <= found).all()


def test_one_direction_of_a_mixture_is_at_most_a_mean_of_two_sums_of_the_other():
    """Why the factor of theorem 5 may be 1; for a likelihood ratio f, at every f.

    With u = 1 - q + q f: u^(1-a) <= l u^a + (1-l) f (1 - q + q / f)^a + c (f - 1), and the
    expectation of f - 1 is 0. l and c make both sides equal at f = 1 up to the third derivative.
    """
    import mpmath

    with mpmath.workdps(50):
        for a, q in itertools.product((2, 3, 5, 16, 64), ("0.001", "0.1", "0.5", "0.9")):
            p = mpmath.mpf(q)

            def left(f, a=a, p=p):
                return (1 - p + p * f) ** (1 - a)

            def one(f, a=a, p=p):
                return (1 - p + p * f) ** a

            def other(f, a=a, p=p):
                return f * (1 - p + p / f) ** a

            d = [[mpmath.diff(g, 1, n) for n in (1, 3)] for g in (left, one, other)]
            share = (d[0][1] - d[2][1]) / (d[1][1] - d[2][1])
            slope = d[0][0] - share * d[1][0] - (1 - share) * d[2][0]
            assert 0 <= share <= 1
            for i in range(-60, 61):
                f = mpmath.mpf(10) ** (mpmath.mpf(i) / 10)
                right = share * one(f) + (1 - share) * other(f) + slope * (f - 1)
                assert right - left(f) >= -(mpmath.mpf(10) ** -25) * right


def divergence(order, p, q):
    """The Rényi divergence of two laws on the same cells."""
    inside = (p > 0) & (q > 0)
    terms = order * np.log(p[inside]) + (1 - order) * np.log(q[inside])
    return float(special.logsumexp(terms)) / (order - 1)


def law(mechanism, variance, shift):
    """The probabilities of shifted noise, from scipy's Bessel functions or the density."""
    k = np.arange(-300, 301) - shift
    if mechanism == "skellam":
        return special.ive(abs(k), variance)
    weights = np.exp(-(k**2) / (2 * variance))
    return weights / weights.sum()


@pytest.mark.parametrize("variance", [4.0, 30.0, 400.0])
@pytest.mark.parametrize("shift", [1, 3])
def test_the_bound_holds_for_the_law_itself_and_is_close(variance, shift):
    for order in (2, 3, 6):
        bound = float(_lattice._skellam(np.array([float(order)]), shift, shift, variance)[0])
        exact = divergence(order, *(law("skellam", variance, s) for s in (shift, 0)))
        assert exact <= bound * (1 + 1e-9)
        if variance >= 30:
            assert exact > 0.75 * bound


@pytest.mark.parametrize("mechanism", DISCRETE)
@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_sampled_noise_is_bounded_by_the_exact_divergence_of_mixtures(mechanism, rate):
    """One dimension, both directions, against sums over the law: amplification is no myth."""
    p, q = law(mechanism, 36.0, 4), law(mechanism, 36.0, 0)
    mixed = (1 - rate) * q + rate * p
    orders = np.array([2.0, 3, 5, 9])
    near = np.array([max(divergence(a, p, q), divergence(a, q, p)) for a in _lattice.whole(orders)])
    bound = _lattice.sampled(near, orders, rate)
    for a, most in zip(orders, bound, strict=True):
        one, other = divergence(a, mixed, q), divergence(a, q, mixed)
        assert max(one, other) <= most * (1 + 1e-9)
        assert one > 0.99 * most  # and it cannot be less


def test_swapped_members_are_bounded_by_the_exact_divergence():
    """Somebody else is drawn where the member is not; they pull apart."""
    orders, rate = np.array([2.0, 3, 5]), 0.1
    p, q = law("skellam", 36.0, 4), law("skellam", 36.0, 0)
    far = np.array([divergence(a, p, q) for a in _lattice.whole(orders)])
    bound = _lattice.swapped(far, orders, rate)
    mixed = (1 - rate) * q + rate * p
    for a, most in zip(orders, bound, strict=True):
        assert divergence(a, mixed, q) <= most
    assert (bound < far[[0, 1, 3]]).all()


# Of what releases come to


def scale_of(bits, n, dim, z, k):
    """Section 4.4 of the DDGauss paper, in steps per clipping norm; everybody survives."""
    return math.sqrt(4.0**bits - n * k**2) / (2 * k * math.sqrt(n**2 / dim + z**2))


@pytest.mark.parametrize(
    ("n", "z", "bits", "percent"),
    [
        (100, 1, 14, 3.7), (100, 1, 16, 0.23), (100, 1, 18, 0.02), (100, 1, 20, 0.00),
        (100, 4, 16, 3.3), (100, 4, 18, 0.22), (100, 4, 20, 0.02),
        (1000, 1, 16, 0.45), (1000, 1, 18, 0.03),
    ],
)  # fmt: skip
def test_the_cost_of_bit_widths(n, z, bits, percent):
    """Epsilon above the Gaussian's at delta 1e-6, 2^20 dimensions, both by whole Rényi orders."""
    lattice = Lattice(scale_of(bits, n, 2**20, z, 4), 2**20, n)
    found = epsilon([Release("skellam", z, lattice=lattice)], 1e-6, "zero-out")
    gaussian = to_epsilon({a: a / (2 * z**2) for a in WHOLE}, 1e-6)
    assert 100 * (found / gaussian - 1) == pytest.approx(percent, abs=0.1 if percent > 1 else 0.02)


@pytest.mark.parametrize("z", [1.0, 4.0])
def test_twenty_bits_cost_less_than_three_thousandths(z):
    for n, mechanism in itertools.product((20, 100, 1000), DISCRETE):
        lattice = Lattice(scale_of(20, n, 2**20, z, 6), 2**20, n)
        found = epsilon([Release(mechanism, z, lattice=lattice)], 1e-6, "zero-out")
        plain = Renyi("zero-out").compose(Release("gaussian", z)).epsilon(1e-6)
        assert plain * (1 - 1e-9) <= found <= 1.003 * plain


def fine(mechanism="skellam", z=1.765, sampling=ALL, count=1):
    return release(mechanism, z, 1e5, 2**14, 400, sampling, count)


def test_a_bound_says_that_it_is_by_renyi_divergences():
    bound = account([fine(), Release("gaussian", 2.0)], "zero-out").bound(1e-5)
    assert bound.method == "rdp"
    assert "discrete noise" in bound.note
    assert account([fine()], "zero-out").notes == ()


SAMPLINGS = [
    Sampling("poisson", 0.1),
    Sampling("truncated", 0.1, 6000, 723),
    Sampling("fixed", 0.1, 6000, 600),
]


@pytest.mark.parametrize("mechanism", DISCRETE)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda s: s.kind)
def test_fine_lattices_cost_what_gaussians_do_by_renyi(mechanism, sampling):
    """Item 7 of the demo: 150 rounds, a tenth of 6000 clients; within 3 percent."""
    found = account([fine(mechanism, sampling=sampling, count=150)], "zero-out")
    plain = account([Release("gaussian", 1.765, sampling, 150)], "zero-out").renyi
    assert plain.epsilon(7e-5) * 0.999 <= found.epsilon(7e-5) <= 1.03 * plain.epsilon(7e-5)
    assert found.epsilon(7e-5) <= account([fine(mechanism, count=150)], "zero-out").epsilon(7e-5)


def test_neither_noise_nor_infinite_noise_is_special():
    assert epsilon([fine(z=0.0)], 1e-5, "zero-out") == math.inf
    assert epsilon([fine(z=math.inf)], 1e-5, "zero-out") == 0
    assert epsilon([fine(count=0)], 1e-5, "zero-out") == 0
    for sampling in SAMPLINGS:
        assert epsilon([fine(z=0.0, sampling=sampling)], 1e-5, "zero-out") == math.inf


def test_replaced_members_pull_twice_and_are_not_amplified():
    """A multiplier is per two clipping norms there, so it comes to nearly the same epsilon."""
    found = epsilon([fine()], 1e-5, "replace-one")
    assert found == pytest.approx(epsilon([fine()], 1e-5, "zero-out"), rel=1e-3)
    sampled = fine(sampling=Sampling("poisson", 0.1))
    assert epsilon([sampled], 1e-5, "replace-one") == found


def test_a_member_less_has_no_analysis():
    with pytest.raises(ValueError, match="noise is missing"):
        epsilon([fine()], 1e-5, "add-remove")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(DISCRETE),
    st.floats(0.3, 20),
    st.floats(20, 1e6),
    st.integers(0, 20),
    st.integers(1, 1000),
    st.sampled_from([Sampling(), *SAMPLINGS]),
)
def test_more_noise_a_finer_lattice_and_fewer_rounds_never_cost_more(
    mechanism, z, scale, log_dim, terms, sampling
):
    def spent(z=z, scale=scale, count=10):
        own = release(mechanism, z, scale, 2**log_dim, terms, sampling, count)
        return epsilon([own], 1e-5, "zero-out")

    base = spent()
    assert spent(z=1.2 * z) <= base * (1 + 1e-9)
    assert spent(scale=2 * scale) <= base * (1 + 1e-9)
    assert spent(count=5) <= base * (1 + 1e-9)
    plain = Renyi("zero-out").compose(Release("gaussian", z, sampling, 10)).epsilon(1e-5)
    assert base >= plain * (1 - 1e-9)


def test_groups_and_gaussian_privacy_have_numbers_too():
    found = account([fine(count=3)], "zero-out")
    one = found.epsilon(1e-5)
    assert one < group_epsilon(found, 2, 1e-5) < 10 * one
    assert 0 < mu(found)[0] < 10
    assert 0 <= found.delta(one) <= 1e-5 * (1 + 1e-6)


def test_noise_is_calibrated_on_a_lattice():
    def with_noise(z):
        return [fine(z=z, sampling=Sampling("poisson", 0.1), count=50)]

    noise = calibrate_noise(with_noise, 2.0, 1e-5, "zero-out")
    assert epsilon(with_noise(noise), 1e-5, "zero-out") <= 2.0
    assert epsilon(with_noise(0.995 * noise), 1e-5, "zero-out") > 2.0


def test_a_ledger_keeps_lattices():
    own = fine(sampling=SAMPLINGS[1])
    entry = Entry("run", 1, "user", "data", "2026-01-01T00:00:00Z", "zero-out", (Spend(own),))
    again = entry_from_dict(json.loads(canonical(entry)))
    assert again == entry
    assert again.spends[0].release.lattice == own.lattice


def test_a_budget_filters_lattices():
    spent, budget = Spent(), Budget(4.0, 1e-5)

    def entry(number):
        own = (Spend(fine(z=4.0)),)
        return Entry("run", number, "user", "data", "2026-01-01T00:00:00Z", "zero-out", own)

    done = 0
    for number in range(100):
        if not spent.left(entry(number), budget):
            break
        spent.check(entry(number), budget)
        spent.add(entry(number))
        done += 1
    assert 3 <= done < 100
    assert epsilon([fine(z=4.0, count=done)], 1e-5, "zero-out") <= 4.0


def test_many_lattices_are_not_binned():
    parts = {part_of(fine(z=1 + i / 100), "zero-out"): 1 for i in range(2 * MOST_PARTS)}
    assert binned(parts) == parts
    mixed = parts | {
        part_of(Release("gaussian", 1 + i / 100, Sampling("poisson", 0.1)), "zero-out"): 1
        for i in range(2 * MOST_PARTS)
    }
    few = binned(mixed)
    assert parts.items() <= few.items()
    assert len(few) <= 3 * MOST_PARTS


@pytest.mark.parametrize(
    "wrong",
    [
        {"mechanism": "skellam"},
        {"mechanism": "gaussian", "lattice": Lattice(1.0, 1, 1)},
    ],
    ids=["skellam-without", "gaussian-with"],
)
def test_lattices_belong_to_discrete_noise(wrong):
    with pytest.raises(ValueError, match="lattice"):
        Release(noise_multiplier=1.0, **wrong)


@pytest.mark.parametrize(
    "wrong", [(0.0, 1, 1), (math.inf, 1, 1), (math.nan, 1, 1), (1.0, 0, 1), (1.0, 1, 0)]
)
def test_lattices_that_are_none(wrong):
    with pytest.raises(ValueError, match="lattice"):
        Lattice(*wrong)
