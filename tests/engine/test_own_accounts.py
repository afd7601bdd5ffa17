"""Accounts of single clients through whole runs: tiers, grids, crashes, the ledger, the report."""

import json
from importlib import resources

import jsonschema
import numpy as np
import pytest

import fedsim
from fedsim import spending
from fedsim.config import load
from fedsim.engine.blocks import Population
from fedsim.engine.launch import open_grid
from fedsim.errors import BudgetExceededError, ConfigError, Interrupted
from fedsim.events import ClientsDone
from fedsim.federation import Places, build, to_text
from fedsim.privacy.accounts import Accounts
from fedsim.privacy.individual import WHOLE
from fedsim.privacy.ledger import Ledger
from fedsim.report import privacy
from fedsim.rounds import run_rounds, start_state
from fedsim.store import RunStore, spending_of_run
from fedsim.store import spending as spending_of

SETTINGS = [
    "name=own",
    "partition={name='dirichlet', clients=12, alpha=0.5}",
    "model={name='linear'}",
    "rounds.count=4",
    "evaluation.federated_every=0",
    "engine.grid=inprocess",
    "engine.tier=resident",
    "privacy.unit=user",
    "privacy.client_epsilon=3",
    "privacy.delta=1e-3",
    "privacy.noise_multiplier=2",
    "privacy.clipping_norm=1.5",
    "privacy.noise=seeded",
]


def run(folder, *overrides, listener=None):
    return fedsim.run("digits", [*SETTINGS, *overrides], runs=folder, listener=listener)


def accounts_of(result, folder):
    federation = spending.settled(build(load(result.stored.config)))
    ledger = spending.open_ledger(folder, federation)
    found = spending.accounts(ledger, result.run_id, federation)
    assert isinstance(found, Accounts)
    return found


def rounds_of(config, federation, *admit, charge):
    """Run rounds without a store."""
    told = {"experiment": to_text(config, Places()), "tier": "resident", "at-once": 0}
    population = Population(federation.population, told)
    with open_grid(config.engine, population) as opened:
        start = start_state(federation)
        yield from run_rounds(
            opened.grid, population.nodes, federation, start, *admit, charge=charge
        )


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return run(folder), folder


def test_all_rounds_are_in_the_ledger_as_one_release_that_depends_on_nobody(reference):
    result, folder = reference
    (path,) = (folder / "ledger").glob("*.jsonl")
    found = Ledger(path).entries()
    assert [[(s.release.mechanism, s.clients) for s in e.spends] for e in found] == [
        [("filtered", None)], [], [], []
    ]  # fmt: skip
    assert found[0].plan == found[0].spends
    assert result.stored.summary["privacy"]["epsilon"] == pytest.approx(3, rel=1e-6)
    fewest = accounts_of(*reference).filter.most // WHOLE
    assert result.stored.facts["privacy"]["fewest_rounds"] == fewest


@pytest.mark.slow
def test_all_tiers_charge_alike(tmp_path):
    small = ["partition={name='iid', clients=150}", "model={name='mlp', hidden=[8]}"]
    spent = []
    for tier in ("resident", "messages", "vectorized", "low-rank"):
        own = [f"engine.tier={tier}", "engine.block_size=40", "rounds.count=1"]
        result = run(tmp_path / tier, *small, *own)
        spent.append(np.sqrt(accounts_of(result, tmp_path / tier).spent))
    assert len(set(spent[0].tolist())) > 3
    for other in spent[1:]:
        np.testing.assert_allclose(other, spent[0], atol=1)  # one may be next to where it rounds


@pytest.mark.slow
def test_workers_of_ray_charge_alike(reference, tmp_path):
    result = run(tmp_path, "engine.grid=ray", "engine.workers=2")
    assert result.model_sha256 == reference[0].model_sha256
    assert (accounts_of(result, tmp_path).spent == accounts_of(*reference).spent).all()


@pytest.mark.slow
def test_norms_are_those_of_what_is_in_the_sum(tmp_path):
    """One client, whose update is the sum: its norm is what it is charged for."""
    config = load("digits", [*SETTINGS, "partition={name='iid', clients=2}", "rounds.cohort=1",
                             "privacy.sampling=fixed", "rounds.count=3", "privacy.delta=0.1",
                             "privacy.noise_multiplier=1.5", "privacy.weight_cap=2000",
                             "privacy.clipping_norm=0.01"])  # fmt: skip
    charged = []

    def charge(number, norms):
        charged.append(norms)

    federation = spending.settled(build(config))
    list(rounds_of(config, federation, charge=charge))
    for norms in charged:
        ((client, norm),) = norms.items()
        weight = len(federation.clients.train(client).y) / 2000
        assert norm == pytest.approx(0.01 * weight, rel=2e-3)  # it was clipped, and weighed


def test_whoever_has_spent_its_budget_is_not_asked_and_the_run_goes_on(tmp_path):
    """Everybody's update is clipped, so two whole updates fit and a third does not."""
    result = run(tmp_path, "privacy.clipping_norm=0.01", "privacy.noise_multiplier=1.5")
    own = accounts_of(result, tmp_path)
    assert own.filter.most // WHOLE == 2
    assert own.spent.tolist() == [2 * WHOLE] * 12
    asked = [row["cohort"] for row in result.history]
    assert asked == [12, 12, 0, 0]  # then there are steps of noise


@pytest.mark.slow
def test_a_run_that_is_resumed_comes_to_the_same_accounts(reference, tmp_path):
    def listen(event):
        if isinstance(event, ClientsDone) and event.round > 2:
            raise KeyboardInterrupt  # after training, before anything of it is released

    with pytest.raises(Interrupted):
        run(tmp_path, listener=listen)
    (stored,) = RunStore(tmp_path).all()
    resumed = fedsim.resume(stored.id, runs=tmp_path)
    assert resumed.model_sha256 == reference[0].model_sha256
    assert (accounts_of(resumed, tmp_path).spent == accounts_of(*reference).spent).all()


def test_who_dies_between_charge_and_release_has_charged(tmp_path):
    class DiedError(Exception):
        pass

    config = load("digits", SETTINGS)
    federation = spending.settled(build(config))
    ledger = spending.open_ledger(tmp_path, federation)
    spent = spending.Spending(ledger, "died", federation)

    def charge(number, norms):
        spent.charge(number, norms)
        raise DiedError

    for _ in range(2):
        with pytest.raises(DiedError):
            next(rounds_of(config, federation, spent, charge=charge))
    found = spending.accounts(ledger, "died", federation)
    assert found is not None
    twice = [sum(1 for s in e.spends for _ in s.clients) for e in found._ledger.entries()]
    assert twice == [12, 12]  # the round took place never, and was paid for twice


def test_report_and_ledger_show_accounts_coarsely_and_nobody_who_was_left_out(reference):
    result, folder = reference
    content = privacy.build(privacy.gather(RunStore(folder), result.run_id))
    content = json.loads(privacy.as_json(content))
    schema = json.loads((resources.files("fedsim") / "report/privacy.schema.json").read_text())
    jsonschema.validate(content, schema)
    assert content["clients"]["quarters_of"] == 3
    assert set(content["clients"]["coarse"]) == {"least", "median", "most"}
    assert content["sampling"]["cohorts"] == content["sampling"]["answered"] == "not shown"
    assert "Clients' own accounts" in [item["what"] for item in content["unprotected"]]
    (found,) = spending_of_run(RunStore(folder), result.run_id)
    assert found["runs"][0]["by_client"]["budget"] == 3
    assert len(spending_of(RunStore(folder))) == 1  # the accounts are no ledger of a data set


@pytest.mark.slow
def test_two_runs_share_the_budget_of_the_data_set(reference, tmp_path):
    run(tmp_path, "privacy.epsilon=3", "rounds.count=1")
    with pytest.raises(BudgetExceededError):
        run(tmp_path, "privacy.epsilon=3", "rounds.count=1")


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (["privacy.noise_multiplier=0.1"], "privacy.noise_multiplier"),
        (["privacy.mechanism=matrix", "privacy.sampling=cyclic"], "privacy.mechanism"),
        (["privacy.clipping=adaptive"], "privacy.clipping"),
        (["secure_sum.name=ideal"], "secure_sum.name"),
        (["rounds.min_results=2"], "rounds.min_results"),
        (["privacy.epsilon=2"], "privacy.epsilon"),
        (["privacy.unit=example"], "privacy.client_epsilon"),
    ],
)
def test_what_does_not_go_with_it_is_refused(overrides, path):
    with pytest.raises(ConfigError) as refused:
        spending.settled(build(load("digits", [*SETTINGS, *overrides])))
    assert [problem.path for problem in refused.value.problems] == [path]
