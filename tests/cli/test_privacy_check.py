"""`fedsim privacy check`: what it looks at, what it prints, and how it ends."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from fedsim import api, config
from fedsim.cli._app import main
from fedsim.errors import ConfigError
from fedsim.federation import build
from fedsim.privacy import central, example
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.ledger import Entry, Ledger, Spend, ledger_path
from fedsim.store import RunStore

USER = {
    "data": {"name": "digits"},
    "partition": {"name": "iid", "clients": 200},
    "privacy": {"unit": "user", "noise_multiplier": 5.0, "delta": 1e-5},
    "rounds": {"count": 4, "cohort": 20},
}
EXAMPLE = {
    "data": {"name": "digits"},
    "partition": {"name": "iid", "clients": 5},
    "privacy": {"unit": "example", "noise_multiplier": 3.0},
    "rounds": {"count": 2},
}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_RUNS", str(tmp_path / "runs"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "privacy"))
    return RunStore()


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command line as `main` does; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["fedsim", "privacy", "check", *arguments])
        with pytest.raises(SystemExit) as info:
            main()
        output = capsys.readouterr()
        return info.value.code or 0, output.out, output.err

    return call


def found(experiment, *overrides):
    return {finding.name: finding for finding in api.check_privacy(experiment, overrides)}


def test_it_passes_with_exit_code_0(cli):
    settings = "privacy.unit=user", "privacy.noise_multiplier=30", "rounds.cohort=5"
    code, out, _ = cli("digits", *settings)
    assert code == 0
    assert "0 failed" in out
    for pitfall in ("denominators", "sensitivity", "sampler", "drop-outs", "restarts"):
        assert f"pass  {pitfall}" in out


def test_it_fails_with_exit_code_2_and_says_why_as_json(cli):
    code, out, _ = cli(
        "digits",
        "privacy.unit=user",
        "privacy.noise_multiplier=30",
        "privacy.noise=seeded",
        "--json",
    )
    assert code == 2
    said = json.loads(out)
    assert (said["status"], said["exit_code"]) == ("failed", 2)
    (failed,) = (f for f in said["findings"] if f["status"] == "fail")
    assert failed["name"] == "random numbers"
    assert "not private" in failed["found"]
    assert failed["fix"] == "privacy.noise=secret, the default"


def test_no_unit_fails(cli):
    code, out, _ = cli("digits")
    assert code == 2
    assert "privacy.unit=user" in out


def test_an_illegal_setting_is_an_error_as_everywhere(cli):
    code, _, err = cli("digits", "privacy.unit=user", "privacy.epsilon=-1")
    assert code == 2
    assert "privacy.epsilon" in err


def test_all_pitfalls_are_looked_at():
    """The twelve of jax_privacy and ours."""
    names = {
        "denominators",
        "sensitivity",
        "sampler",
        "public constants",
        "adjacency",
        "empty cohorts and batches",
        "non-finite input",
        "gradient accumulation",
        "training metrics",
        "random numbers",
        "floating point",
        "number format",
        "client weights",
        "drop-outs",
        "restarts",
        "budget of the data set",
        "concurrent runs",
        "preprocessing",
        "epsilon",
        "delta",
        "unit",
    }
    user = found(USER)
    assert names <= user.keys()
    assert [f.name for f in user.values() if f.status == "fail"] == []
    examples = found(EXAMPLE)
    assert names <= examples.keys()
    assert {"examples are kept apart", "batch norm", "gradients compared"} <= examples.keys()
    assert [f.name for f in examples.values() if f.status == "fail"] == []


@pytest.mark.parametrize(
    ("override", "name", "said", "fix"),
    [
        ("privacy.noise_multiplier=0.3", "epsilon", "hardly a formal promise", "more noise"),
        ("privacy.delta=0.004", "delta", "above members^-1.1", "unset privacy.delta"),
        ("privacy.sampling=fixed", "sampler", "at twice the sensitivity", "truncated"),
        ("privacy.sampling=cyclic", "sampler", "nothing is gained", "truncated"),
        ("rounds.cohort=", "sampler", "everybody", "rounds.cohort"),
        ("rounds.min_results=3", "drop-outs", "fewer than 3", "min_results=1"),
        ("evaluation.federated_every=1", "client metrics", "without noise", "federated_every=0"),
        ("evaluation.central_every=1", "test metrics", "does not cover", "central_every=0"),
        (
            "data.name=breast_cancer",
            "preprocessing",
            "learned from clients' examples",
            "public constants",
        ),
        ("model.name=user_models:good", "initial model", "your own code", "public weights"),
        ("model.name=user_models:batch_norm", "model", "a variance below zero", "GroupNorm"),
    ],
)
def test_what_is_to_be_noted(override, name, said, fix):
    finding = found(USER, override)[name]
    assert finding.status == "note"
    assert said in finding.found
    assert fix in finding.fix


def test_correlated_noise_is_for_clients_in_turn():
    plain = USER | {"privacy": USER["privacy"] | {"mechanism": "matrix", "sampling": "cyclic"}}
    seen = found(plain)
    assert [f.name for f in seen.values() if f.status == "fail"] == []
    assert seen["sampler"].status == "pass"
    assert "10 rounds or more between two of one" in seen["sampler"].found


def test_metrics_that_are_off_are_not_noted():
    names = found(USER, "evaluation.federated_every=0", "evaluation.central_every=0").keys()
    assert "training metrics" in names
    assert not names & {"client metrics", "test metrics"}


@pytest.mark.parametrize("unit", ["user", "example", "local"])
def test_every_unit_is_said_with_its_sensitivity(unit):
    plain = {"user": USER, "example": EXAMPLE, "local": USER}[unit]
    seen = found(plain, f"privacy.unit={unit}")
    assert seen["unit"].found.startswith(f"{unit}: hides")
    assert seen["sensitivity"].status == "pass"
    assert seen["adjacency"].found.startswith("replace-one" if unit == "local" else "zero-out")


def test_a_huge_update_moves_the_sum_by_the_clipping_norm_at_most():
    seen = found(USER, "privacy.clipping_norm=0.25", "privacy.weight_cap=10")
    assert "moves the sum by 0.2497" in seen["sensitivity"].found
    assert "examples up to 10" in seen["client weights"].found


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", ["batch_norm", "mean_over_the_batch", "projected_lstm", "double"])
def test_a_broken_model_fails_with_its_fix(cli, name):
    overrides = [f"model.name=user_models:{name}", "partition.clients=5", "privacy.unit=example"]
    code, out, _ = cli("digits", "privacy.noise_multiplier=3", *overrides, "--json")
    assert code == 2
    failed = [f for f in json.loads(out)["findings"] if f["status"] == "fail"]
    assert failed
    assert all(f["fix"] for f in failed)


def test_an_lstm_is_replaced_and_said_so():
    seen = found(EXAMPLE, "model.name=user_models:lstm")
    assert "replaced by Opacus's DPLSTM" in seen["recurrent layers"].found
    assert seen["gradients compared"].status == "pass"


def test_a_budget_that_no_noise_keeps_fails():
    plain = USER | {"privacy": {"unit": "user", "epsilon": 3.0, "delta": 0.9}}
    finding = found(plain)["settings"]
    assert finding.status == "fail"
    assert "privacy.delta" in finding.found


def spend(store, runs, noise_multiplier=5.0):
    """Have runs on the same data in the ledger."""
    meta = build(config.load(USER, (), {})).clients.meta
    ledger = Ledger(ledger_path(store.root, meta.name, meta.sha256, "user"))
    release = Release("gaussian", noise_multiplier, Sampling("poisson", 0.1))
    for name in runs:
        time = "2026-01-01T00:00:00Z"
        ledger.admit(Entry(name, 1, "user", meta.name, time, "zero-out", (Spend(release),)))
    return meta


def test_runs_before_this_one_count(store):
    spend(store, ["first", "second"])
    finding = found(USER)["budget of the data set"]
    assert finding.status == "note"
    assert "2 runs have spent" in finding.found


def test_a_budget_that_others_have_spent_fails(store):
    spend(store, ["first"], noise_multiplier=0.5)
    finding = found(USER, "privacy.epsilon=1")["budget of the data set"]
    assert finding.status == "fail"
    assert "above the cap of 1" in finding.found


def test_runs_without_privacy_on_the_same_data_are_tuning(store):
    meta = spend(store, ["first"])
    facts = {"data_sha256": meta.sha256}
    store.create("tried", {"privacy": {"unit": "none"}}, {}, {}, facts)
    seen = found(USER)
    assert "1 runs without privacy" in seen["tuning runs"].found
    assert "going on now" in seen["concurrent runs"].found


@pytest.mark.parametrize(("kind", "said"), [("nfs4", "locks may not hold"), ("tmpfs", "in memory")])
def test_where_the_ledger_is(monkeypatch, kind, said):
    monkeypatch.setattr("fedsim.privacy_check._file_system", lambda path: kind)
    finding = found(USER)["restarts"]
    assert finding.status == "note"
    assert said in finding.found
    assert "--runs" in finding.fix


def test_a_sampler_that_is_not_the_one_accounted_is_found(monkeypatch):
    def everybody(*_, **__):
        return np.arange(200)

    monkeypatch.setattr(central, "draw", everybody)
    assert found(USER)["sampler"].status == "fail"
    assert found(USER, "privacy.sampling=cyclic")["sampler"].status == "fail"
    monkeypatch.setattr(example, "batch", everybody)
    assert found(EXAMPLE)["sampler"].status == "fail"


def test_nothing_is_trained_or_spent(store):
    before = sorted(path.name for path in store.root.iterdir() if path.name != "cache")
    assert all(asdict(finding) for finding in found(USER).values())
    assert sorted(path.name for path in store.root.iterdir() if path.name != "cache") == before
    assert store.all() == []


def test_a_model_that_fits_nothing_is_an_error():
    with pytest.raises(ConfigError, match="a model for inputs"):
        api.check_privacy(
            USER, ["model.name=torch.nn:Linear", "model.args={in_features=3,out_features=2}"]
        )
