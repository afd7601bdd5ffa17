"""User-level privacy through whole runs: grids, tiers, strategies, the ledger and its budget."""

import json

import pytest
import torch

import fedsim
from fedsim import user_level
from fedsim.config import load
from fedsim.engine.checkpoint import load_checkpoint
from fedsim.errors import BudgetExceededError, ConfigError, Interrupted
from fedsim.events import ClientsDone
from fedsim.privacy import matrix
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.separation import participation
from fedsim.store import RunStore, receipts

PRIVATE = {
    "unit": "user",
    "noise_multiplier": 0.8,
    "delta": 1e-3,
    "clipping_norm": 0.5,
    "noise": "seeded",
}
CORRELATED = {"mechanism": "matrix", "sampling": "cyclic", "noise_multiplier": 0.5}
SETTINGS = {
    "name": "private",
    "data": {"name": "digits"},
    "partition": {"name": "iid", "clients": 30},
    "model": {"name": "mlp", "hidden": [16]},
    "rounds": {"count": 3, "cohort": 10},
    "evaluation": {"federated_every": 0},
    "engine": {"grid": "inprocess", "tier": "resident"},
}


def private(**sections):
    """Return the experiment with some values of its sections replaced."""
    base = {**SETTINGS, "privacy": PRIVATE}
    return base | {name: base.get(name, {}) | own for name, own in sections.items()}


def entries(folder):
    (path,) = (folder / "ledger").glob("*.jsonl")
    return Ledger(path).entries()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return fedsim.run(private(), runs=folder), folder


def test_every_round_is_in_the_ledger_and_with_the_run(reference):
    result, folder = reference
    found = entries(folder)
    assert [(e.run, e.round, e.unit, e.adjacency) for e in found] == [
        (result.run_id, number, "user", "zero-out") for number in (1, 2, 3)
    ]
    (planned,) = found[0].plan
    assert planned.release.count == 3
    for entry in found:
        (spend,) = entry.spends
        assert spend.clients is None
        assert spend.release.noise_multiplier == 0.8
        assert spend.release.sampling.kind == "truncated"
        assert spend.release.sampling.rate == pytest.approx(1 / 3)
    assert [r.entry for r in receipts(RunStore(folder), result.run_id)] == list(found)
    assert result.stored.facts["notice"].startswith("seeded: not private")


@pytest.mark.parametrize(
    "engine",
    [{"block_size": 1}, pytest.param({"grid": "ray", "workers": 2}, marks=pytest.mark.slow)],
    ids=["one by one", "ray"],
)
def test_seeded_runs_come_to_the_same_bytes_on_any_grid(engine, reference, tmp_path):
    result = fedsim.run(private(engine=engine), runs=tmp_path)
    assert result.model_sha256 == reference[0].model_sha256


@pytest.mark.parametrize("clipping", [pytest.param("fixed", marks=pytest.mark.slow), "adaptive"])
def test_all_tiers_clip_weigh_and_count_alike(clipping, tmp_path):
    models = []
    for tier in ("messages", "resident", "vectorized", "low-rank"):
        engine = {"tier": tier, "block_size": 4}
        privacy = {"clipping": clipping, "weight_cap": 6, "noise_multiplier": 1e-4}
        config = private(engine=engine, privacy=privacy, partition={"clients": 200})
        result = fedsim.run(config, runs=tmp_path / tier)
        found = load_checkpoint(result.folder / "checkpoint.safetensors")
        models.append(found.state["model"])
        if clipping == "adaptive":
            norm = found.state["privacy/clipping_norm"]
            assert norm != 0.5
            assert norm == pytest.approx(float(norms.setdefault(clipping, norm)), rel=1e-9)
    for model in models[1:]:
        torch.testing.assert_close(model, models[0], rtol=0, atol=2e-6)


norms = {}


@pytest.mark.parametrize(
    ("strategy", "local"),
    [("fedavg", "fedprox"), ("fedadam", "sgd"), ("fedyogi", "sgd"), ("fedadagrad", "sgd")],
)
def test_it_goes_with_fedprox_and_the_fedopt_family(strategy, local, tmp_path):
    config = private(strategy={"name": strategy}, local={"name": local})
    result = fedsim.run(config, runs=tmp_path)
    assert result.status == "finished"
    assert len(entries(tmp_path)) == 3


@pytest.mark.parametrize("sampling", ["poisson", "fixed", "cyclic"])
def test_every_sampler_is_accounted_as_what_it_is(sampling, tmp_path):
    result = fedsim.run(private(privacy={"sampling": sampling}), runs=tmp_path)
    found = entries(tmp_path)
    kinds = {spend.release.sampling.kind for e in found for spend in e.spends}
    assert kinds == {"all" if sampling == "cyclic" else sampling}
    if sampling == "cyclic":  # thirty clients, ten at a time: each of them once
        asked = [spend.clients for e in found for spend in e.spends]
        assert sorted(c for clients in asked for c in clients) == list(range(30))
        assert found[0].plan[0].release.count == 1
    cohorts = [entry["cohort"] for entry in result.history]
    assert (set(cohorts) == {10}) == (sampling != "poisson")


def test_correlated_noise_is_one_release_of_clients_in_turn(tmp_path):
    settings = private(privacy=CORRELATED, rounds={"count": 7, "cohort": 10})
    result = fedsim.run(settings, runs=tmp_path)
    found = entries(tmp_path)
    assert [[s.release.mechanism for s in e.spends] for e in found] == [["matrix"]] + [[]] * 6
    assert found[0].plan == found[0].spends
    told = result.stored.facts["privacy"]
    assert (told["bands"], told["min_separation"]) == (3, 3)
    assert told["sensitivity"] == pytest.approx(3**0.5)  # three times in seven rounds, norm 1
    rows = [RunStore(tmp_path).clients(result.run_id, round=r + 1) for r in range(7)]
    cohorts = [sorted(row["client"] for row in own) for own in rows]
    assert participation(cohorts).separation == 3


@pytest.mark.slow
def test_correlated_noise_goes_on_where_it_was_and_a_repeated_round_is_paid_for(tmp_path):
    settings = private(privacy=CORRELATED, rounds={"count": 6})
    whole = fedsim.run(settings, runs=tmp_path / "whole")
    stop_after(2, settings, tmp_path / "parts")
    (run,) = {entry.run for entry in entries(tmp_path / "parts")}
    resumed = fedsim.resume(run, runs=tmp_path / "parts")
    assert resumed.model_sha256 == whole.model_sha256
    found = entries(tmp_path / "parts")
    again = [s.release for e in found[1:] for s in e.spends]
    assert [e.round for e in found] == [1, 2, 3, 3, 4, 5, 6]
    assert [r.mechanism for r in again] == ["gaussian"]
    assert again[0].noise_multiplier == pytest.approx(0.5 * 2**0.5)


def stop_after(rounds, settings, folder):
    """End a run in the middle of the round after so many, as a crash would."""

    def listen(event):
        if isinstance(event, ClientsDone) and event.round > rounds:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fedsim.run(settings, runs=folder, listener=listen)


def test_what_correlated_noise_adds_up_to_is_less_than_independent_noise():
    """The last model's noise, at the same epsilon without sampling: the reason to have it."""
    config = load(private(privacy=CORRELATED, rounds={"count": 60, "cohort": 3}))
    factorized = user_level._correlation(config, 30)
    sensitivity = factorized.sensitivity(6, 10)
    correlated = matrix.squared_errors(factorized, matrix.workload(60))[-1].sqrt() * sensitivity
    alone = matrix.squared_errors(matrix.independent(60), matrix.workload(60))[-1].sqrt()
    assert correlated < 0.6 * alone * 6**0.5


def test_secret_noise_and_cohorts_do_not_repeat(tmp_path):
    results = [
        fedsim.run(private(privacy={"noise": "secret"}), runs=tmp_path / str(i)) for i in range(2)
    ]
    assert results[0].model_sha256 != results[1].model_sha256
    assert results[0].stored.facts["notice"] == ""


def test_a_budget_ends_the_run_before_the_round_that_would_pass_it(tmp_path):
    limited = private(privacy={"epsilon": 8.0}, rounds={"count": 30})
    with pytest.raises(BudgetExceededError) as refused:
        fedsim.run(limited, runs=tmp_path)
    assert refused.value.exit_code == 4
    found = entries(tmp_path)
    stored = RunStore(tmp_path).get(found[0].run)
    assert 0 < len(found) == len(stored.rounds) < 30
    checkpoint = load_checkpoint(stored.folder / "checkpoint.safetensors")
    assert checkpoint.round == len(found)  # model and ledger are those of the last round
    with pytest.raises(BudgetExceededError):
        fedsim.resume(stored.id, runs=tmp_path)
    with pytest.raises(BudgetExceededError):  # another run on the same data shares the budget
        fedsim.run(limited | {"seed": 5}, runs=tmp_path)
    assert len(entries(tmp_path)) == len(found)


def test_noise_is_found_that_keeps_the_budget_to_the_last_round(tmp_path):
    privacy = {"epsilon": 6.0, "noise_multiplier": None}
    result = fedsim.run(private(privacy=privacy), runs=tmp_path)
    assert result.status == "finished"
    from fedsim.privacy.accounting import epsilon

    spent = [spend.release for e in entries(tmp_path) for spend in e.spends]
    assert 5.9 < epsilon(spent, 1e-3, "zero-out") <= 6.0
    assert json.loads(json.dumps(result.stored.config))["privacy"]["noise_multiplier"] > 0


def test_an_empty_cohort_is_a_step_of_noise(tmp_path):
    config = private(privacy={"sampling": "poisson"}, rounds={"count": 8, "cohort": 1})
    result = fedsim.run(config, runs=tmp_path)
    cohorts = [entry["cohort"] for entry in result.history]
    assert 0 in cohorts
    hashes = [entry["model_sha256"] for entry in result.history]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"privacy": {"noise_multiplier": None}}, "privacy.epsilon"),
        ({"privacy": {"delta": 0.5}}, "privacy.delta"),
        ({"local": {"name": "dp-sgd"}}, "local.name"),
        ({"transform": {"name": "topk"}}, "transform.name"),
        ({"privacy": {"unit": "none"}}, "privacy.noise_multiplier"),
        ({"privacy": {"clipping": "adaptive", "bit_noise": 0.1}}, "privacy.bit_noise"),
        ({"privacy": {"mechanism": "matrix"}}, "privacy.sampling"),
        ({"privacy": {**CORRELATED, "bands": 4}}, "privacy.bands"),
        ({"privacy": {"bands": 4}}, "privacy.bands"),
    ],
)
def test_what_cannot_be_private_is_refused_before_anything_starts(sections, path, tmp_path):
    with pytest.raises(ConfigError) as refused:
        fedsim.run(private(**sections), runs=tmp_path)
    assert path in [problem.path for problem in refused.value.problems]
    assert not (tmp_path / "ledger").exists()


def test_a_baseline_of_a_private_experiment_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="mode"):
        fedsim.run(private() | {"mode": "pooled"}, runs=tmp_path)
