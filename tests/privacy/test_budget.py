"""The budget: what it lets through stays within the cap, and little that would is refused."""

import math
import random
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import BudgetExceededError
from fedsim.privacy import accounting
from fedsim.privacy._renyi import ORDERS, Renyi
from fedsim.privacy.budget import Budget, Spent, coarse
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.ledger import Entry, Spend

CAP = Budget(3.0, 1e-5)
GAUSSIAN = Release("gaussian", 5.0)
SAMPLED = Release("gaussian", 1.0, Sampling("poisson", 0.08))
TRUNCATED = Release("gaussian", 1.765, Sampling("truncated", 0.1, population=6000, most=660))


def entry(*spends: Spend, run: str = "run", plan: tuple[Spend, ...] = ()) -> Entry:
    return Entry(run, 1, "example", "digits", "2026-01-01", "zero-out", spends, plan)


everybody = partial(Spend, clients=None)


def fill(spent: Spent, next_: Entry, budget: Budget = CAP, most: int = 10_000) -> int:
    """Add an entry until it is refused; return how often it fitted."""
    for done in range(most):
        try:
            spent.check(next_, budget)
        except BudgetExceededError:
            return done
        spent.add(next_)
    raise AssertionError("it was never refused")


@cache
def brute_force(release: Release, budget: Budget = CAP) -> int:
    """How often a release fits by Rényi divergences at the best order, by dp-accounting."""
    event = GaussianDpEvent(release.noise_multiplier)
    if release.sampling.kind == "poisson":
        event = PoissonSampledDpEvent(release.sampling.rate, event)
    curve = RdpAccountant(list(ORDERS)).compose(event, release.count).rdp
    done = 0
    while compute_epsilon(ORDERS, (done + 1) * curve, budget.delta)[0] <= budget.epsilon:
        done += 1
    return done


# Numbers from elsewhere.


@pytest.mark.parametrize(
    "release",
    [GAUSSIAN, SAMPLED, replace(GAUSSIAN, noise_multiplier=20.0), replace(SAMPLED, count=3)],
)
def test_equal_releases_fit_as_often_as_rényi_accounting_says(release: Release) -> None:
    spent, once = Spent(), entry(everybody(release))
    assert spent.left(once, CAP) == brute_force(release) > 0
    assert fill(spent, once) == brute_force(release)
    assert spent.left(once, CAP) == 0


def test_the_conversion_is_that_of_dp_accounting() -> None:
    """Canonne et al. 2020, proposition 12, at the one order: for a Gaussian, in closed form."""
    spent, once = Spent(), entry(everybody(GAUSSIAN))
    done = fill(spent, once)
    a = max(ORDERS, key=lambda a: (3 - math.log1p(-1 / a) + math.log(1e-5 * a) / (a - 1)) / a)
    most = 3 - math.log1p(-1 / a) + math.log(1e-5 * a) / (a - 1)
    assert done == math.floor(most / (a / 50))
    with pytest.raises(BudgetExceededError, match=r"to epsilon 3\.1") as caught:
        spent.check(once, CAP)
    said = float(str(caught.value).split("epsilon ")[1].split(" ")[0])
    want = (done + 1) * a / 50 + 3 - most
    assert said == pytest.approx(want, rel=1e-3)


# A plan.


def test_a_plan_calibrated_by_pld_is_carried_out_to_its_end_and_no_further() -> None:
    """The demonstration: 6000 users, 1 in 10, 150 rounds at epsilon 3 by PLD; by Rényi, fewer."""
    release = Release("gaussian", 1.765, Sampling("poisson", 0.1))
    planned = replace(release, count=150)
    budget = Budget(accounting.epsilon([planned], 7e-5, "zero-out") + 1e-9, 7e-5)
    assert budget.epsilon == pytest.approx(3.0, abs=5e-3)
    once = entry(everybody(release), plan=(everybody(planned),))
    assert Spent().left(once, budget) == fill(Spent(), once, budget) == 150
    without = fill(Spent(), replace(once, plan=()), budget)
    assert 110 < without < 125


def test_a_plan_beyond_the_cap_leaves_the_rényi_filter() -> None:
    once = entry(everybody(SAMPLED), plan=(everybody(replace(SAMPLED, count=10_000)),))
    assert fill(Spent(), once) == fill(Spent(), replace(once, plan=())) == brute_force(SAMPLED)


def pld_only() -> tuple[Release, Budget]:
    """A plan of ten releases that PLD allows and Rényi accounting does not."""
    release = Release("gaussian", 1.0, Sampling("poisson", 0.05))
    ten = [replace(release, count=10)]
    pld, renyi = accounting.epsilon(ten, 1e-5, "zero-out"), Renyi("zero-out").compose(*ten)
    budget = Budget((pld + renyi.epsilon(1e-5)) / 2, 1e-5)
    assert pld < budget.epsilon < renyi.epsilon(1e-5)
    return release, budget


def test_a_plan_that_only_pld_allows_takes_the_whole_budget() -> None:
    """Or one could carry it out if it went well, and else do another: no theorem is for that."""
    release, budget = pld_only()
    spent, plan = Spent(), (everybody(replace(release, count=10)),)
    spent.add(entry(everybody(release), plan=plan))
    tiny = entry(everybody(Release("gaussian", 1000.0)), run="other")
    with pytest.raises(BudgetExceededError, match="with the plan of run run, which may still"):
        spent.check(tiny, budget)
    assert spent.left(entry(everybody(release), run="other"), budget) == 9
    assert Spent().left(tiny, budget) > 1000
    # Another cap, under which Rényi accounting allows the plan too: then there is room beside it.
    assert spent.left(tiny, Budget(10.0, 1e-5)) > 1000


def test_room_beside_a_plan_is_counted_as_if_the_plan_were_carried_out() -> None:
    planned = replace(GAUSSIAN, count=5)
    other = Release("gaussian", 7.0)
    spent = Spent()
    spent.add(entry(everybody(GAUSSIAN), plan=(everybody(planned),)))
    beside = spent.left(entry(everybody(other)), CAP)
    assert beside > 0
    for _ in range(beside):
        spent.add(entry(everybody(other)))
    assert fill(spent, entry(everybody(GAUSSIAN))) == 4
    with pytest.raises(BudgetExceededError):
        spent.check(entry(everybody(other)), CAP)


def test_a_plan_that_comes_later_is_not_one_that_was_fixed_in_advance() -> None:
    release, budget = pld_only()
    spent = Spent()
    spent.add(entry(everybody(Release("gaussian", 1000.0))))
    once = entry(everybody(release), plan=(everybody(replace(release, count=10)),))
    assert fill(spent, once, budget) < 10


def test_a_plan_is_each_clients_own() -> None:
    release, budget = pld_only()
    plan = (Spend(replace(release, count=10), (0,)), Spend(replace(release, count=2), (1,)))
    both = entry(Spend(release, (0, 1)), plan=plan)
    spent = Spent()
    spent.add(both)
    assert spent.left(entry(Spend(release, (0,))), budget) == 9
    alone = brute_force(release, budget)
    assert spent.left(entry(Spend(release, (1,))), budget) == alone - 1
    assert spent.left(entry(Spend(release, (2,))), budget) == alone


# Clients.


def test_clients_have_a_budget_each() -> None:
    spent, most = Spent(), brute_force(SAMPLED)
    assert fill(spent, entry(Spend(SAMPLED, (1, 3)))) == most
    assert spent.left(entry(Spend(SAMPLED, (1, 3, 5))), CAP) == 0
    assert spent.left(entry(Spend(SAMPLED, (5, 7_000))), CAP) == most
    assert spent.left(entry(everybody(SAMPLED)), CAP) == 0
    assert spent.histories() == [((replace(SAMPLED, count=most),), 2)]


def test_what_is_everybodys_is_also_of_clients_that_were_never_named() -> None:
    spent, most = Spent(), brute_force(SAMPLED)
    spent.add(entry(everybody(SAMPLED), Spend(SAMPLED, (2,))))
    assert spent.left(entry(Spend(SAMPLED, (2,))), CAP) == most - 2
    assert spent.left(entry(Spend(SAMPLED, (900_000,))), CAP) == most - 1
    assert spent.left(entry(everybody(SAMPLED)), CAP) == most - 2
    two, one = ((replace(SAMPLED, count=2),), 1), ((SAMPLED,), 1)
    assert sorted(spent.histories(), key=str) == [one, two]
    assert Spent().histories() == []


def test_who_cannot_pay_is_left_out_and_others_go_on() -> None:
    spent, most = Spent(), brute_force(SAMPLED)
    fill(spent, entry(Spend(SAMPLED, (1, 3))))
    both = entry(Spend(SAMPLED, (1, 2)), Spend(replace(SAMPLED, count=2), (3, 4)))
    left = spent.those_left(both, CAP)
    assert left.spends == (Spend(SAMPLED, (2,)), Spend(replace(SAMPLED, count=2), (4,)))
    for _ in range(most):
        spent.add(spent.those_left(both, CAP))
    with pytest.raises(BudgetExceededError, match="would take each client to epsilon"):
        spent.those_left(both, CAP)
    assert spent.those_left(entry(Spend(SAMPLED, (8,))), CAP).spends[0].clients == (8,)
    assert spent.those_left(entry(), CAP).spends == ()
    with pytest.raises(BudgetExceededError):
        spent.those_left(entry(everybody(SAMPLED)), CAP)


def test_the_message_says_who_and_how_much() -> None:
    spent = Spent()
    fill(spent, entry(Spend(SAMPLED, (17,)), run="first"))
    with pytest.raises(BudgetExceededError, match=r"client 17 to epsilon 3\.\d+ at delta 1e-05"):
        spent.check(entry(Spend(SAMPLED, (16, 17)), run="second"), CAP)
    nothing = Release("gaussian", 0.0)
    with pytest.raises(BudgetExceededError, match=r"everybody to epsilon inf.* by: nobody"):
        Spent().check(entry(everybody(nothing)), CAP)
    with pytest.raises(BudgetExceededError, match="client 0 to epsilon inf"):
        Spent().check(entry(Spend(nothing, (0, 1))), CAP)
    with pytest.raises(BudgetExceededError, match="client 0 to epsilon inf"):
        Spent().check(entry(everybody(SAMPLED), Spend(nothing, (0,))), CAP)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_bookkeeping_agrees_with_lists_kept_by_client(seed: int) -> None:
    chance = random.Random(seed)
    releases = [SAMPLED, GAUSSIAN, Release("pure", epsilon=0.1), Release("matrix", 9.0, count=40)]
    spent, lists = Spent(), {client: [] for client in range(12)}
    for _ in range(chance.randint(1, 12)):
        spends = []
        for _ in range(chance.randint(0, 3)):
            release = chance.choice(releases)
            if release.mechanism != "matrix":
                release = replace(release, count=chance.randint(0, 5))
            ids = None
            if chance.random() < 0.7:
                ids = tuple(sorted(chance.sample(range(11), chance.randint(0, 6))))
            spends.append(Spend(release, ids))
            for client in lists if ids is None else ids:
                if release.count:
                    copies = 1 if release.mechanism == "matrix" else release.count
                    one = release if release.mechanism == "matrix" else replace(release, count=1)
                    lists[client] += [one] * copies
        spent.add(entry(*spends))
    want = {tuple(sorted(map(repr, releases))) for releases in lists.values()}
    found = set()
    for history, _ in spent.histories():
        flat = [
            repr(r if r.mechanism == "matrix" else replace(r, count=1))
            for r in history
            for _ in range(1 if r.mechanism == "matrix" else r.count)
        ]
        found.add(tuple(sorted(flat)))
    assert found == want - {()}


# The cap holds whatever is asked for.


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_no_sequence_of_requests_passes_the_cap(seed: int) -> None:
    """By Rényi accounting at all orders, and by PLD, of what each client went through."""
    chance = random.Random(seed)
    budget = Budget(chance.choice([0.5, 1.0, 3.0, 8.0]), chance.choice([1e-6, 1e-5, 1e-3]))
    kinds = [
        Sampling(),
        Sampling("poisson", 0.1),
        Sampling("poisson", 0.01),
        Sampling("truncated", 0.1, population=100, most=30),
        Sampling("fixed", 0.1, population=100, most=10),
    ]
    spent = Spent()
    for _ in range(60):
        release = Release(
            "gaussian", chance.choice([0.8, 2.0, 6.0]), chance.choice(kinds), chance.randint(1, 30)
        )
        plan = (everybody(replace(release, count=40)),) if chance.random() < 0.3 else ()
        ids = None if chance.random() < 0.3 else (0, 1, 2)[: chance.randint(1, 3)]
        try:
            spent.add(spent.those_left(entry(Spend(release, ids), plan=plan), budget))
        except BudgetExceededError:
            continue
    for history, _ in spent.histories():
        renyi = Renyi("zero-out")
        for release in history:
            renyi = renyi.compose(release)
        epsilon = renyi.epsilon(budget.delta)
        if epsilon > budget.epsilon:  # a plan was accepted by PLD
            epsilon = accounting.epsilon(history, budget.delta, "zero-out")
        assert epsilon <= budget.epsilon + 1e-9


def test_truncated_samples_cost_hardly_more_than_poisson_ones() -> None:
    poisson = replace(TRUNCATED, sampling=Sampling("poisson", 0.1))
    budget = Budget(3.0, 7e-5)
    truncated = replace(TRUNCATED, sampling=replace(TRUNCATED.sampling, most=722))
    most = fill(Spent(), entry(everybody(poisson)), budget)
    assert 0.97 * most <= fill(Spent(), entry(everybody(truncated)), budget) <= most


def test_the_order_is_settled_by_the_first_entry() -> None:
    first, second = entry(everybody(SAMPLED)), entry(everybody(GAUSSIAN))
    one, other = Spent(), Spent()
    for each in (first, second):
        one.add(each)
    for each in (second, first):
        other.add(each)
    # The same was spent, but each filter looks at it at the order that it began with.
    curves = {r: Renyi("zero-out").compose(r).curve for r in (SAMPLED, GAUSSIAN)}
    orders = np.array(ORDERS)
    most = 3 - np.log1p(-1 / orders) + np.log(1e-5 * orders) / (orders - 1)
    for spent, opening in ((one, SAMPLED), (other, GAUSSIAN)):
        order = int(np.argmax(most / curves[opening]))
        rest = most[order] - sum(curve[order] for curve in curves.values())
        for release, curve in curves.items():
            assert spent.left(entry(everybody(release)), CAP) == math.floor(rest / curve[order])
    assert one.left(first, CAP) > other.left(first, CAP)


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0, 1e-5), (-1, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (1, 0), (1, 1)],
)
def test_a_cap_that_is_none_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="a budget's"):
        Budget(epsilon, delta)


def test_spends_are_shown_coarsely() -> None:
    generator = random.Random(1)
    shown = {str(coarse([2.0 + generator.random() / 100, 0.0, 2.9], CAP)) for _ in range(20)}
    assert len(shown) == 1
    assert coarse([0.0, 0.1, 2.9999], CAP) == {
        "least": (0.0, 0.75),
        "median": (0.0, 0.75),
        "most": (2.25, 3.0),
    }
    assert coarse([], CAP) == {}
