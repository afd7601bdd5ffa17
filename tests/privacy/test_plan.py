import math
from dataclasses import replace

import pytest
from scipy import stats

from fedsim.privacy import plan as planning
from fedsim.privacy.accounting import account, epsilon
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.plan import (
    UNKNOWNS,
    Batches,
    ByClients,
    Plan,
    alternatives,
    calibrate_noise,
    outcome,
    participations,
    releases,
    solve,
)

USERS = Plan("user", 2000, 1e-5, "poisson", cohort=100, rounds=40, noise_multiplier=1.0)


def sampled(rate, noise, steps):
    return [Release("gaussian", noise, Sampling("poisson", rate), steps)]


class TestCalibration:
    def test_google(self):
        """dp-accounting's calibration tests: sensitivities 1 and 6."""
        for rate, steps, exact in ((0.01, 1, 0.67379294682), (0.001, 25, 3.20956502598 / 6)):
            found = calibrate_noise(
                lambda z, r=rate, t=steps: sampled(r, z, t), 1.0, 1e-5, "zero-out"
            )
            assert exact * (1 - 1e-4) <= found <= exact * (1 + 1e-3)

    def test_less_noise_than_renyi_divergences_ask_for(self):
        """Section 2b: 1.824 by loss distributions where Rényi divergences give 1.946."""
        found = calibrate_noise(lambda z: sampled(0.04, z, 2250), 5.0, 1e-5, "zero-out")
        assert epsilon(sampled(0.04, found, 2250), 1e-5, "zero-out") <= 5
        assert account(sampled(0.04, found, 2250), "zero-out").renyi.epsilon(1e-5) > 5.3

    @pytest.mark.parametrize(("wanted", "noise"), [(0.340669, 10), (4.377178, 1), (33.103732, 0.2)])
    def test_the_gaussian_mechanism(self, wanted, noise):
        """Balle and Wang 2018, in closed form: row 24."""
        found = calibrate_noise(lambda z: [Release("gaussian", z)], wanted, 1e-5, "replace-one")
        assert noise * (1 - 1e-5) <= found <= noise * (1 + 1e-3)

    def test_never_too_small_and_not_by_a_thousandth_too_large(self):
        def truncated(noise):
            return [Release("gaussian", noise, Sampling("truncated", 0.05, 400, 45), 20)]

        found = calibrate_noise(truncated, 2.0, 1e-5, "zero-out")
        assert epsilon(truncated(found), 1e-5, "zero-out") <= 2
        assert epsilon(truncated(found * (1 - 1e-3)), 1e-5, "zero-out") > 2

    def test_a_huge_budget_stops_somewhere(self):
        found = calibrate_noise(lambda z: [Release("gaussian", z)], 1e9, 1e-5, "zero-out")
        assert 0 < found < 2e-3

    def test_what_cannot_be(self):
        for wanted in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="epsilon"):
                calibrate_noise(lambda z: [Release("gaussian", z)], wanted, 1e-5, "zero-out")
        for delta in (0.0, 1.0, math.nan):
            with pytest.raises(ValueError, match="delta"):
                calibrate_noise(lambda z: [Release("gaussian", z)], 1.0, delta, "zero-out")
        with pytest.raises(ValueError, match="no noise gives epsilon 1 "):
            calibrate_noise(lambda _: [Release("pure", epsilon=2.0)], 1.0, 1e-5, "zero-out")


class TestSolving:
    def test_there_and_back(self):
        """What is found for one number is found again for each of the others."""
        spent = solve(USERS).epsilon
        assert spent == epsilon(releases(USERS), 1e-5, "zero-out")
        full = replace(USERS, epsilon=spent)
        assert solve(replace(full, noise_multiplier=None)).noise_multiplier == pytest.approx(
            1.0, rel=1e-3
        )
        assert solve(replace(full, rounds=None)).rounds == 40
        assert solve(replace(full, cohort=None)).cohort == 100

    def test_a_round_more_is_too_much(self):
        found = solve(replace(USERS, epsilon=1.5, rounds=None))
        assert epsilon(releases(found), 1e-5, "zero-out") <= 1.5
        more = replace(found, rounds=found.rounds + 1)
        assert epsilon(releases(more), 1e-5, "zero-out") > 1.5

    def test_everybody_may_take_part(self):
        assert solve(replace(USERS, epsilon=400.0, cohort=None)).cohort == 2000

    def test_a_budget_below_one_round(self):
        for name, text in (("rounds", "1 round"), ("cohort", "1 client a round")):
            poor = replace(USERS, noise_multiplier=0.3, epsilon=0.01, delta=1e-9, **{name: None})
            with pytest.raises(ValueError, match=text):
                solve(poor)

    def test_exactly_one_number_is_left_out(self):
        for wrong in (replace(USERS, epsilon=1.0), replace(USERS, rounds=None)):
            with pytest.raises(ValueError, match="exactly one"):
                solve(wrong)
        assert replace(USERS, epsilon=1.0, cohort=None).unknown == "cohort"
        assert set(UNKNOWNS) == {"epsilon", "noise_multiplier", "rounds", "cohort"}


class TestUnits:
    def test_users_are_drawn(self):
        (release,) = releases(replace(USERS, sampling="truncated"))
        assert release.sampling == Sampling("truncated", 0.05, 2000, 150)
        assert release.count == 40
        (cyclic,) = releases(replace(USERS, sampling="cyclic"))
        assert cyclic.sampling.kind == "all"
        assert cyclic.count == 2
        (everybody,) = releases(replace(USERS, sampling="all", cohort=2000))
        assert (everybody.sampling.kind, everybody.count) == ("all", 40)

    def test_an_example_is_in_the_batches_of_its_client(self):
        plan = Plan("example", 50, 1e-5, "all", Batches(390, 30, 13), rounds=100, cohort=50,
                    noise_multiplier=1.0)  # fmt: skip
        (release,) = releases(plan)
        assert release == Release("gaussian", 1.0, Sampling("poisson", 1 / 13), 1300)
        # Section 0.3: Flower's example, with an engine of Opacus per round, reports 3.05.
        assert solve(plan).epsilon == pytest.approx(21.48, abs=0.01)
        assert outcome(plan).noise_of_mean == 1 / 30
        (full,) = releases(replace(plan, batches=Batches(400, 400, 1)))
        assert full == Release("gaussian", 1.0, Sampling(), 100)

    def test_how_often_a_client_is_asked(self):
        plan = Plan("local", 1000, 1e-5, "poisson", rounds=200, cohort=50, noise_multiplier=50.0)
        most = participations(plan)
        assert 1000 * stats.binom.sf(most, 200, 0.05) <= 0.01
        assert 1000 * stats.binom.sf(most - 1, 200, 0.05) > 0.01
        assert participations(replace(plan, sampling="cyclic")) == 10
        assert participations(replace(plan, sampling="all", cohort=1000)) == 200
        assert participations(replace(plan, cohort=1000)) == 200

    def test_local_noise_is_per_twice_the_clipping_norm(self):
        plan = Plan("local", 100, 1e-5, "all", rounds=4, cohort=100, noise_multiplier=4.0)
        found = outcome(plan)
        assert found.spent == pytest.approx(1.993091, abs=1e-5)  # row 24: mu = sqrt(4) / 4
        assert found.noise_of_mean == pytest.approx(2 * 4.0 / 10)
        assert found.unamplified == found.spent


def test_an_outcome_says_what_it_means():
    found = outcome(replace(USERS, noise_multiplier=None, epsilon=1.0))
    assert found.found == "noise_multiplier"
    assert 0.998 < found.spent <= 1
    assert found.unamplified > 10
    assert 0.01 < found.detected < 0.01 * math.e + 1e-5
    assert found.pairs > 2 * found.spent * 0.9
    assert 0 < found.mu < 1
    assert found.participations == 40
    assert found.noise_of_mean == found.plan.noise_multiplier / 100


def test_alternatives_change_one_number():
    found = alternatives(replace(USERS, epsilon=solve(USERS).epsilon))
    assert len(found) == 12
    assert {other.changed for other in found} == {"rounds", "cohort", "noise_multiplier"}
    more = [o.epsilon for o in found if o.changed == "rounds"]
    assert more == sorted(more)
    less = [o.epsilon for o in found if o.changed == "noise_multiplier"]
    assert less == sorted(less, reverse=True)
    tiny = Plan("user", 3, 1e-2, "all", rounds=1, cohort=3, noise_multiplier=1.0, epsilon=2.0)
    assert {o.changed for o in alternatives(tiny)} == {"rounds", "noise_multiplier"}
    assert all(o.rounds >= 1 for o in alternatives(tiny))


def test_searches_stop_at_their_ends():
    assert planning._largest(lambda n: n <= 37, 0, 100) == 37
    assert planning._largest(lambda n: True, 0, 100) == 100
    assert planning._largest(lambda n: False, 0, 100) == 0
    assert planning._largest(lambda n: n <= 37, 37, 37) == 37


class TestNoiseByClients:
    FIXED = replace(
        USERS, sampling="cyclic", by_clients=ByClients("skellam", dimension=5000), rounds=20
    )

    @pytest.mark.parametrize("mechanism", ["skellam", "discrete-gaussian"])
    def test_costs_what_central_noise_does_by_renyi(self, mechanism):
        plan = replace(self.FIXED, by_clients=ByClients(mechanism, dimension=5000))
        (release,) = releases(plan)
        assert release.mechanism == mechanism
        assert release.lattice.dimension == 8192
        assert release.lattice.terms == 67 - 10
        central = account(releases(replace(plan, by_clients=None)), "zero-out").renyi.epsilon(1e-5)
        assert central * 0.999 < solve(plan).epsilon < 1.01 * central

    def test_noise_of_drawn_cohorts_is_completed(self):
        plan = replace(self.FIXED, sampling="truncated")
        (release,) = releases(plan)
        assert release.sampling.most == 150
        assert release.lattice.terms == 150 - 15
        with pytest.raises(ValueError, match="poisson"):
            releases(replace(plan, sampling="poisson"))

    @pytest.mark.parametrize("unknown", ["noise_multiplier", "rounds", "cohort"])
    def test_each_unknown_is_found(self, unknown):
        given = {"noise_multiplier": 1.2, "rounds": 10, "cohort": 100, "epsilon": 6.0}
        plan = replace(self.FIXED, **{**given, unknown: None})
        found = solve(plan)
        assert outcome(plan).spent <= 6.0
        value = getattr(found, unknown)
        less = {"noise_multiplier": value * 0.99, "rounds": value + 1, "cohort": value + 200}
        worse = replace(found, epsilon=None, **{unknown: less[unknown]})
        assert solve(worse).epsilon > 6.0

    def test_narrow_rings_cost_epsilon(self):
        few = replace(self.FIXED, by_clients=ByClients("skellam", dimension=5000, bits=12))
        assert solve(few).epsilon > 1.01 * solve(self.FIXED).epsilon
