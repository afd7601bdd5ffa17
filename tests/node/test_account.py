"""The node's ledger: what rounds cost here, against closed forms; and processes that are killed."""

import math
import os
import signal
from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import norm

from fedsim.errors import BudgetExceededError
from fedsim.messages import Train
from fedsim.node import guard
from fedsim.node.account import Account, ledger_of, spent
from fedsim.node.approval import RefusedError
from fedsim.node.audit import AuditLog
from fedsim.node.experiment import experiment_text
from fedsim.node.policy import Policy, policy_from_text, trial
from fedsim.privacy.events import Sampling
from fedsim.rounds import number_format

TIME = "2026-11-27T00:00:00Z"


def gaussian_delta(epsilon, mu):
    """Balle and Wang, ICML 2018, theorem 8: of a Gaussian of standard deviation 1/mu."""
    return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)


def policy(**changes) -> Policy:
    found = policy_from_text(trial())
    return replace(found, trust_sampling=False, maximum_delta=1e-5, **changes)


@pytest.fixture
def account(hospitals, tmp_path):
    def make(own=None, experiment="ab" * 32, **sections):
        if "data" in sections:
            sections["data"] = {"declared": {**hospitals.declared, **sections["data"]}}
        federation = hospitals.server(hospitals.config(**sections))
        return Account(tmp_path / "ledger", own or policy(), federation, 1, experiment)

    return make


def charged(account, rounds, before=None):
    counted = Counter(before or {})
    for number in rounds:
        account.charge(number, counted, TIME)
        counted[number] += 1
    unit = account.federation.config.privacy.unit
    return ledger_of(account.folder, unit).entries()


def test_noise_of_all_clients_is_counted_as_if_everybody_knew_who_took_part(account):
    user = {"unit": "user", "noise_multiplier": 2.0, "delta": 1e-5, "sampling": "poisson"}
    made = account(privacy=user, rounds={"count": 9, "cohort": 2})
    entries = charged(made, range(1, 5))
    assert {spend.release.sampling for entry in entries for spend in entry.spends} == {Sampling()}
    found = spent(made.folder, 1e-5)["user"]
    assert gaussian_delta(found, math.sqrt(4) / 2.0) == pytest.approx(1e-5, rel=1e-3)


def test_with_trust_in_the_draw_all_rounds_are_paid_for_at_first(account):
    user = {"unit": "user", "noise_multiplier": 2.0, "delta": 1e-5, "sampling": "poisson"}
    sections = {"privacy": user, "rounds": {"count": 9, "cohort": 2}}
    trusting = replace(policy(), trust_sampling=True)
    made = account(trusting, **sections)
    (first,) = charged(made, [3])
    assert (first.spends[0].release.count, first.spends[0].release.sampling.rate) == (9, 2 / 3)
    assert charged(made, [5, 7], {3: 1}) == (first,)  # paid for
    *_, again = charged(made, [5], {3: 1, 5: 1, 7: 1})
    assert again.spends[0].release.sampling == Sampling()  # noise of a draw that nobody accounted


def test_a_node_pays_for_its_own_noise_exactly(account):
    example = {"unit": "example", "noise_multiplier": 1.5, "delta": 1e-5}
    made = account(privacy=example, data={"rows": [32, 20, 24]})
    entries = charged(made, [1, 2])
    release = entries[0].spends[0].release
    # 25 rows, of which 20 are trained on, in batches of 8: rate 0.4, 3 steps.
    assert release.sampling == Sampling("poisson", 8 / 20)
    assert release.count == 3
    assert entries[0].plan[0].release.count == 2 * release.count
    assert entries[1].plan == ()


def test_rounds_of_correlated_noise_are_paid_once_and_must_be_apart(account):
    matrix = {
        "unit": "user", "mechanism": "matrix", "noise_multiplier": 4.0, "delta": 1e-5,
        "sampling": "cyclic",
    }  # fmt: skip
    made = account(privacy=matrix, rounds={"count": 6, "cohort": 1})
    assert [e.spends[0].release.mechanism for e in charged(made, [1, 4])] == ["matrix"]
    with pytest.raises(RefusedError, match="nearer than 3 rounds to round 1"):
        charged(made, [3], {1: 1})
    *_, again = charged(made, [4], {1: 1, 4: 1})
    assert again.spends[0].release.mechanism == "gaussian"


def test_experiments_with_other_names_and_noise_add_up_to_one_epsilon(account):
    most = replace(policy(), maximum_epsilon=3.0)
    own = {"unit": "local", "delta": 1e-5}
    charged(account(most, "aa" * 32, privacy={**own, "noise_multiplier": 3.0}), [1, 2])
    second = account(most, "bb" * 32, privacy={**own, "noise_multiplier": 2.0})
    with pytest.raises(BudgetExceededError, match="by all that it ever released"):
        charged(second, range(1, 50))
    found = spent(second.folder, 1e-5)["local"]
    rounds = len(ledger_of(second.folder, "local").entries()) - 2
    mu = math.sqrt(2 / 3.0**2 + rounds / 2.0**2)  # Gaussians compose: Dong et al. 2022
    assert gaussian_delta(found, mu) == pytest.approx(1e-5, rel=1e-2)
    assert found <= 3.0


def test_units_take_from_one_budget(account):
    """What one unit has spent is not there for another, and the other way round."""
    most = replace(policy(), maximum_epsilon=3.0)
    local = {"unit": "local", "delta": 1e-5, "noise_multiplier": 4.0}
    user = {"unit": "user", "delta": 1e-5, "noise_multiplier": 2.0, "sampling": "poisson"}
    charged(account(most, "aa" * 32, privacy=local), [1])
    second = account(most, "bb" * 32, privacy=user, rounds={"count": 1, "cohort": 2})
    third = account(most, "cc" * 32, privacy=user, rounds={"count": 1, "cohort": 2})
    charged(second, [1])
    found = spent(second.folder, 1e-5)
    assert set(found) == {"local", "user"}
    assert gaussian_delta(found["local"], 1 / 4.0) == pytest.approx(1e-5, rel=1e-2)
    assert gaussian_delta(found["user"], 1 / 2.0) == pytest.approx(1e-5, rel=1e-2)
    assert sum(found.values()) <= 3.0
    with pytest.raises(BudgetExceededError, match=r"beyond its maximum_epsilon = 3 .*'local'"):
        charged(third, [1])
    # Alone, two rounds in unit "user" would fit: Balle and Wang, theorem 8, in closed form.
    assert gaussian_delta(3.0, math.sqrt(2) / 2.0) <= 1e-5


def test_without_privacy_nothing_is_charged(account, tmp_path):
    account().charge(1, {}, TIME)
    assert not (tmp_path / "ledger").exists()


def killed_before_it_says_so(folder, request):
    """Ask in a process of its own that dies once everything is paid for, before it is allowed."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        AuditLog.add = lambda self, record: os.kill(os.getpid(), signal.SIGKILL)
        guard.admit(folder, request, {})
        os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


def test_a_node_that_is_killed_has_spent_what_it_may_have_released(hospitals):
    """Between the ledger and the answer: counted, and counted again when it is asked again."""
    config = hospitals.config(privacy={"unit": "local", "noise_multiplier": 9.0, "delta": 1e-6})
    server, text = hospitals.server(config), experiment_text(config)
    order = Train(server.initial, 1, 1.0, number_format(server))
    request = guard.Request("train", "1", text, hospitals.sign(text), 1, 3, order)
    folder = hospitals.folders[1]
    for times in (1, 2):
        assert killed_before_it_says_so(folder, request) == signal.SIGKILL
        assert len(ledger_of(folder / "ledger", "local").entries()) == times
    guard.answered(guard.admit(folder, request, {}), 1)
    assert len(ledger_of(folder / "ledger", "local").entries()) == 3
    with pytest.raises(RefusedError, match="answered 3 times already"):  # those that died count
        guard.admit(folder, request, {})
