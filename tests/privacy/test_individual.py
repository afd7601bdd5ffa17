"""Accounts of single clients: exact integrals, SciPy's normal distribution, dp-accounting."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fedsim.errors import LedgerError
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.accounts import Accounts, accounts_path
from fedsim.privacy.budget import Budget
from fedsim.privacy.individual import WHOLE, IndividualFilter, cost_of, released
from fedsim.privacy.ledger import Entry

BUDGET = Budget(3.0, 1e-5)


def delta_of(mu: float | np.ndarray, epsilon: float | np.ndarray) -> np.ndarray:
    """Balle and Wang 2018, theorem 8; for negative epsilons too, and without any noise at mu 0."""
    mu = np.maximum(mu, 1e-12)
    first = norm.cdf(mu / 2 - epsilon / mu)
    return np.asarray(first - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


POLICIES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "all that is left": lambda y, left: np.full_like(y, left),
    "only if it looks good": lambda y, left: np.where(y > 0.8, left, 0.0),
    "only if it looks bad": lambda y, left: np.where(y < 0.3, left, 0.0),
    "little by little": lambda y, left: left * np.clip(y, 0, 1),
    "back and forth": lambda y, left: left * np.sin(3 * y) ** 2,
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sign", [1, -1], ids=["added", "left out"])
def test_no_adaptive_second_round_tells_more_than_the_budget(policy: str, sign: int) -> None:
    """The theorem for two rounds, integrated: mu of the second depends on what the first gave.

    In the world with the client the first answer is N(a, 1), in the one without it N(0, 1).
    """
    mu, a = 1.3, 0.7
    left = math.sqrt(mu**2 - a**2)
    y = np.linspace(-9, 10, 20001)
    second = POLICIES[policy](y, left)
    loss = sign * (a * y - a**2 / 2)
    density = norm.pdf(y, a if sign > 0 else 0.0)
    for level in (0.0, 0.5, 1.0, 2.0, 4.0):
        # E[(1 - e^(level - loss1 - loss2))+] = sum of p(y) delta_mu2(level - loss1)
        found = float(np.sum(density * delta_of(second, level - loss)) * (y[1] - y[0]))
        most = float(delta_of(mu, level))
        assert found <= most + 1e-9
        if policy == "all that is left":
            assert found == pytest.approx(most, rel=1e-6)


@given(st.floats(0.2, 8), st.floats(1.5, 20), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_nobody_ever_spends_more_than_the_budget(epsilon: float, noise: float, seed: int) -> None:
    own = IndividualFilter(Budget(epsilon, 1e-5), noise)
    mu = brentq(lambda m: float(delta_of(m, epsilon)) - 1e-5, 1e-3, 50)
    assert own.mu == pytest.approx(mu, rel=1e-6)
    assert own.mu <= mu
    generator = np.random.default_rng(seed)
    spent, squares = np.zeros(5, np.int64), np.zeros(5)
    for _ in range(60):
        may = own.may(spent)
        norms = np.minimum(generator.exponential([0.05, 0.3, 0.7, 1.0, 3.0]), 1.0)
        spent += np.where(may, own.costs(norms), 0)
        squares += np.where(may, (norms / noise) ** 2, 0.0)
    assert (np.sqrt(squares) <= mu * (1 + 1e-9)).all()
    assert (own.epsilons(spent) <= epsilon).all()


def test_what_was_spent_is_what_dp_accounting_says() -> None:
    own = IndividualFilter(BUDGET, 5.0)
    spent = own.costs([1.0, 0.5, 0.0, 0.1]) * 3
    found = own.epsilons(spent)
    assert found[2] == 0
    for cost, value in zip(spent.tolist(), found.tolist(), strict=True):
        if cost:
            noise = 5.0 / math.sqrt(cost / WHOLE)
            theirs = pld.from_gaussian_mechanism(noise, value_discretization_interval=1e-4)
            assert value == pytest.approx(theirs.get_epsilon_for_delta(1e-5), abs=2e-3)


def test_all_rounds_are_one_release_that_is_the_budget() -> None:
    found = epsilon([IndividualFilter(BUDGET, 4.0).release()], 1e-5, "zero-out")
    assert 3.0 - 1e-6 < found <= 3.0


@given(st.floats(0, 1))
def test_norms_are_rounded_up_and_come_back_from_the_file(share: float) -> None:
    own = IndividualFilter(BUDGET, 4.0)
    (cost,) = own.costs([share]).tolist()
    assert math.sqrt(cost / WHOLE) >= min(1.0, share * (1 + 2**-11))
    assert math.sqrt(cost / WHOLE) <= share + 1 / 50
    if cost:
        assert cost_of(released(cost, 4.0), 4.0) == cost


def test_what_is_no_norm_costs_as_much_as_any() -> None:
    own = IndividualFilter(BUDGET, 4.0)
    assert own.costs([math.nan, math.inf, -1.0, 1e30, 1.0]).tolist() == [WHOLE] * 5


def entry(round: int) -> Entry:
    return Entry("a", round, "user", "digits", "2026-01-01T00:00:00Z", "zero-out", ())


def accounts(folder: Path, noise: float = 1.5) -> Accounts:
    path = accounts_path(folder / "ledger" / "digits.aa.user.jsonl", "a")
    return Accounts(path, IndividualFilter(BUDGET, noise), 4)


def test_charges_are_on_the_disk_and_whoever_has_spent_all_is_left_out(tmp_path: Path) -> None:
    own, counts = accounts(tmp_path), np.zeros(4, int)
    for round in range(1, 41):
        asked = own.left([3, 2, 1, 0], round)
        counts[asked] += 1
        own.charge(entry(round), {c: [1.0, 0.5, 0.1, 0.0][c] for c in asked})
        if round == 7:  # another process goes on
            own = accounts(tmp_path)
    most = IndividualFilter(BUDGET, 1.5).most
    assert counts[0] == most // WHOLE
    assert counts[1] == (most - WHOLE) // (33**2) + 1
    assert counts[3] == 40
    assert (own.spent == accounts(tmp_path).spent).all()
    assert (own.spent <= most).all()
    folder = tmp_path / "ledger" / "accounts"
    assert folder.stat().st_mode & 0o077 == 0  # for the server alone
    assert own.coarse()["least"] == (0.0, 0.75)


def test_a_round_that_is_made_again_is_charged_again(tmp_path: Path) -> None:
    for _ in range(2):
        accounts(tmp_path).charge(entry(1), {0: 1.0, 2: 0.2})
    assert accounts(tmp_path).spent.tolist() == [2 * WHOLE, 0, 2 * 13**2, 0]


def test_accounts_that_are_gone_are_not_taken_for_empty(tmp_path: Path) -> None:
    own = accounts(tmp_path)
    own.charge(entry(1), {0: 1.0})
    for file in (tmp_path / "ledger" / "accounts").iterdir():
        file.unlink()
    with pytest.raises(LedgerError, match="no charges for round 1"):
        accounts(tmp_path).left([0], 2)
