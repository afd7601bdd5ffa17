"""Local privacy through whole runs: every update is randomized by its client, and accounted."""

import pytest
import torch

import fedsim
from fedsim import exact
from fedsim.config import load
from fedsim.core import ClientContext, Update
from fedsim.engine.checkpoint import load_checkpoint
from fedsim.errors import BudgetExceededError, ConfigError
from fedsim.federation import build
from fedsim.privacy import local
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.ledger import Ledger
from fedsim.rounds import number_format

SETTINGS = [
    "name=private",
    "partition={name='iid', clients=200}",
    "model={name='linear'}",
    "rounds.count=3",
    "rounds.cohort=20",
    "evaluation.federated_every=0",
    "engine.grid=inprocess",
    "engine.tier=resident",
    "privacy.unit=local",
    "privacy.clipping_norm=0.1",
    "privacy.noise=seeded",
]
NOISES = {"gaussian": 0.4, "laplace": 0.2, "privunit": 0.2}


def run(folder, *overrides):
    return fedsim.run("digits", [*SETTINGS, *overrides], runs=folder)


def entries(folder):
    (path,) = (folder / "ledger").glob("*.jsonl")
    return Ledger(path).entries()


@pytest.mark.parametrize(("mechanism", "noise"), NOISES.items())
def test_each_client_spends_what_its_mechanism_does(mechanism, noise, tmp_path):
    run(tmp_path, f"privacy.mechanism={mechanism}", f"privacy.noise_multiplier={noise}")
    found = entries(tmp_path)
    assert [entry.adjacency for entry in found] == ["replace-one"] * 3
    for entry in found:
        (spend,) = entry.spends
        assert spend.release == local.release(mechanism, noise)
        assert len(spend.clients) == 20


@pytest.mark.parametrize("mechanism", NOISES)
def test_all_tiers_randomize_alike(mechanism, tmp_path):
    models = []
    tiers = ("messages", "resident", "vectorized", "low-rank")
    for tier in tiers if mechanism == "gaussian" else ("resident", "vectorized"):
        own = [f"engine.tier={tier}", "engine.block_size=7", f"privacy.mechanism={mechanism}"]
        result = run(tmp_path / tier, *own, "privacy.noise_multiplier=0.2")
        models.append(load_checkpoint(result.folder / "checkpoint.safetensors").state["model"])
    for model in models[1:]:
        torch.testing.assert_close(model, models[0], rtol=0, atol=1e-5)


def test_noise_is_found_with_which_a_client_of_all_rounds_keeps_its_budget(tmp_path):
    run(tmp_path, "privacy.epsilon=20", "privacy.delta=1e-4", "rounds.cohort=200")
    spent = [spend.release for entry in entries(tmp_path) for spend in entry.spends]
    assert 19.9 < epsilon(spent, 1e-4, "replace-one") <= 20


def test_clients_that_have_spent_their_budget_are_not_asked_again(tmp_path):
    """Two updates of epsilon 5 fit, three do not: nobody can be in more than two rounds."""
    fixed = ["privacy.mechanism=privunit", "privacy.noise_multiplier=0.2", "privacy.epsilon=11"]
    everyone = ["partition.clients=20", "rounds.count=5", "privacy.delta=1e-6"]
    with pytest.raises(BudgetExceededError):
        run(tmp_path, *fixed, *everyone)
    assert [len(spend.clients) for e in entries(tmp_path) for spend in e.spends] == [20, 20]


@pytest.mark.parametrize("mechanism", NOISES)
def test_what_is_sent_does_not_depend_on_weight_or_on_what_is_not_finite(mechanism):
    overrides = [*SETTINGS, f"privacy.mechanism={mechanism}", "privacy.noise_multiplier=0.3"]
    federation = build(load("digits", overrides))
    form, size = number_format(federation), federation.initial.numel()
    sent = []
    for vector in (torch.zeros(size), torch.full((size,), torch.nan), torch.full((size,), 1e30)):
        ctx = ClientContext(0, 1, 3)
        update = federation.encode(Update(vector, weight=48.0), form, ctx)
        assert update.weight == 1.0
        exact.check(update, form)
        sent.append(update.vector)
    assert torch.equal(sent[0], sent[1])
    assert not torch.equal(sent[0], sent[2])


def test_secret_noise_is_new_in_every_block(tmp_path):
    models = {run(tmp_path / str(i), "privacy.noise=secret", "privacy.noise_multiplier=0.4")
              .model_sha256 for i in range(2)}  # fmt: skip
    assert len(models) == 2


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("privacy.sampling=fixed", "privacy.sampling"),
        ("privacy.weight_cap=10", "privacy.weight_cap"),
        ("privacy.clipping=adaptive", "privacy.clipping"),
        ("privacy.examples_at_once=5", "privacy.examples_at_once"),
        ("transform.name=topk", "transform.name"),
        ("local.name=dp-sgd", "local.name"),
        ("mode=pooled", "mode"),
    ],
)
def test_what_does_not_go_with_it_is_refused(override, path):
    with pytest.raises(ConfigError) as refused:
        load("digits", [*SETTINGS, "privacy.noise_multiplier=1", override])
    assert [problem.path for problem in refused.value.problems] == [path]


def test_mechanisms_are_of_unit_local_alone():
    with pytest.raises(ConfigError, match="mechanism"):
        load("digits", ["privacy.unit=user", "privacy.epsilon=3", "privacy.mechanism=laplace"])
