"""Example-level privacy through whole runs: strategies, tiers, grids, the ledger, the budget."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

import fedsim
from fedsim import config as configuration
from fedsim import spending
from fedsim.api import plan
from fedsim.cli._app import main
from fedsim.clients._private import Private
from fedsim.engine.checkpoint import load_checkpoint
from fedsim.errors import BudgetExceededError, ConfigError
from fedsim.federation import build
from fedsim.privacy import accounting, example
from fedsim.privacy.ledger import Ledger
from fedsim.run_files import RunFiles
from fedsim.store import RunStore

SETTINGS = {
    "name": "private",
    "data": {"name": "digits"},
    "partition": {"name": "dirichlet", "clients": 6, "alpha": 1.0},
    "model": {"name": "mlp", "hidden": [8], "dropout": 0.2},
    "local": {"name": "sgd", "batch_size": 32},
    "rounds": {"count": 2},
    "evaluation": {"federated_every": 0},
    "engine": {"grid": "inprocess", "tier": "resident"},
    "privacy": {"unit": "example", "noise_multiplier": 1.5, "noise": "seeded"},
}


def private(**sections):
    """Return the experiment with some values of its sections replaced; a new part replaces all."""
    return SETTINGS | {
        name: own if "name" in own else SETTINGS.get(name, {}) | own
        for name, own in sections.items()
    }


def ledger(folder):
    (path,) = (folder / "ledger").glob("*.jsonl")
    return Ledger(path)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return fedsim.run(private(), runs=folder), folder


def test_every_client_has_its_own_account(reference):
    result, folder = reference
    sizes = build(configuration.load(private())).clients.sizes()
    assert len(set(sizes.tolist())) > 1
    entries = ledger(folder).entries()
    assert [(e.run, e.round, e.unit, e.adjacency) for e in entries] == [
        (result.run_id, number, "example", "zero-out") for number in (1, 2)
    ]
    recipe = configuration.load(private()).local.recipe
    for entry in entries:
        spent = {client: s.release for s in entry.spends for client in s.clients}
        assert spent == {c: example.release(int(n), recipe, 1.5) for c, n in enumerate(sizes)}
    (both,) = [s.release for s in entries[0].plan if 0 in s.clients]
    assert both.count == 2 * example.release(int(sizes[0]), recipe, 1.5).count

    said = result.stored.summary["privacy"]
    each = [
        accounting.epsilon(h, said["delta"], "zero-out")
        for h, _ in ledger(folder).spent().histories()
    ]
    assert said["epsilon"] == pytest.approx(max(each), abs=1e-9)
    assert said["delta"] == pytest.approx(float(sizes.sum()) ** -1.1)
    assert (said["unit"], said["cap"], said["noise"]) == ("example", None, "seeded")
    assert "seeded: not private" in result.stored.facts["notice"]


def test_seeded_runs_repeat_on_any_path_and_secret_ones_do_not(reference, tmp_path):
    first, _ = reference
    whole = fedsim.run(private(engine={"tier": "messages"}), runs=tmp_path)
    assert whole.model_sha256 == first.model_sha256
    blocks = fedsim.run(private(engine={"tier": "vectorized", "block_size": 4}), runs=tmp_path)
    for name in ("train/loss", "test/loss"):
        assert blocks.metrics[name] == pytest.approx(first.metrics[name], rel=1e-5)
    secret = private(privacy={"noise": "secret"})
    hashes = [fedsim.run(secret, runs=tmp_path).model_sha256]
    secret["engine"] = {"grid": "inprocess", "tier": "messages"}
    hashes += [fedsim.run(secret, runs=tmp_path).model_sha256 for _ in range(2)]
    assert len({*hashes, first.model_sha256}) == 4


def test_batches_in_pieces_come_to_the_same_model(tmp_path):
    model = {"name": "mlp", "hidden": [8]}  # without dropout, whose masks are drawn piece by piece
    whole = fedsim.run(private(model=model), runs=tmp_path)
    own = private(model=model, privacy={"examples_at_once": 7}, engine={"tier": "auto"})
    pieces = fedsim.run(own, runs=tmp_path)
    assert pieces.stored.facts["execution"]["tier"] == "resident"
    assert pieces.metrics["test/loss"] == pytest.approx(whole.metrics["test/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("engine", "tier"), [("opacus", "auto"), ("opacus-ghost", "messages")], ids=str
)
def test_opacus_comes_to_the_same_model_and_ledger(engine, tier, tmp_path):
    short = {"rounds": {"count": 1}, "local": {"name": "sgd", "batch_size": 32, "steps": 5}}
    pieces = {"examples_at_once": 16}
    ours = fedsim.run(private(**short, privacy=pieces), runs=tmp_path / "ours")
    own = private(**short, privacy=pieces | {"engine": engine}, engine={"tier": tier})
    theirs = fedsim.run(own, runs=tmp_path / "theirs")
    used = theirs.stored.facts["execution"]
    assert used["tier"] == ("resident" if tier == "auto" else tier)
    assert "Opacus clips one client after another" in used["reason"]
    models = [load_file(r.folder / "model.safetensors") for r in (ours, theirs)]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-5, atol=1e-5)
    spent = [[e.spends for e in ledger(tmp_path / name).entries()] for name in ("ours", "theirs")]
    assert spent[0] == spent[1]


def test_opacus_trains_one_client_after_another(tmp_path):
    config = private(privacy={"engine": "opacus"}, engine={"tier": "vectorized"})
    with pytest.raises(ConfigError, match=r"engine\.tier.*\n?.*messages, resident.*engine=fedsim"):
        fedsim.run(config, runs=tmp_path)


def test_ray_gives_the_bytes_of_in_process(reference, cluster, tmp_path):
    config = private(engine={"grid": "ray", "workers": 2})
    assert fedsim.run(config, runs=tmp_path).model_sha256 == reference[0].model_sha256


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "local", "tier"),
    [
        ({"name": "fedavg"}, {"name": "fedprox", "mu": 0.5, "batch_size": 32}, "resident"),
        ({"name": "fedadam", "lr": 0.02}, {"name": "fedprox", "mu": 0.5}, "vectorized"),
        ({"name": "fedyogi", "lr": 0.02}, {"name": "sgd", "batch_size": 0}, "vectorized"),
        ({"name": "fedadagrad", "lr": 0.02}, {"name": "sgd", "keep_optimizer": True}, "resident"),
    ],
    ids=lambda part: part["name"] if isinstance(part, dict) else part,
)
def test_strategies_and_local_algorithms(strategy, local, tier, tmp_path):
    config = private(
        strategy=strategy,
        local=local,
        engine={"tier": tier},
        optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.5},
        regularization={"l1": 1e-5, "l2": 1e-4},
        transform={"name": "clip", "clipping_norm": 1.0},
        model={"name": "linear"},
    )
    result = fedsim.run(config, runs=tmp_path)
    assert result.status == "finished"
    assert ledger(tmp_path).verify().number == 2
    if "keep_optimizer" in local:
        checkpoint = load_checkpoint(result.folder / "checkpoint.safetensors")
        kept = RunFiles(result.folder, result.run_id).memos(checkpoint)
        assert set(kept) == set(range(1, 7))


def test_batches_that_chance_leaves_empty_are_steps_of_noise(tmp_path):
    config = private(
        partition={"name": "iid", "clients": 40},
        local={"batch_size": 1, "steps": 2},
        model={"name": "linear"},
        rounds={"count": 1},
    )
    (entry,) = fedsim.run(config, runs=tmp_path).history
    assert entry["lost"] == 0
    # About one client in seven has seen nothing, and says so by having no loss.
    rows = RunStore(tmp_path).clients(entry["run_id"], round=1, phase="train")
    assert 0 < sum("loss" not in row["metrics"] for row in rows) < 20
    assert len(rows) == 40


@pytest.mark.slow
def test_the_least_noise_keeps_all_clients_within_the_budget(tmp_path):
    config = private(privacy={"noise_multiplier": None, "epsilon": 2.0}, rounds={"count": 3})
    del config["privacy"]["noise_multiplier"]
    result = fedsim.run(config, runs=tmp_path)
    said = result.stored.summary["privacy"]
    assert 1.97 < said["epsilon"] <= 2.0
    assert [entry["cohort"] for entry in result.history] == [6, 6, 6]
    assert said["noise_multiplier"] == result.stored.config["privacy"]["noise_multiplier"]
    assert plan(config)["clients"] == 6  # trains a client: the noise is found there too


def test_clients_leave_when_their_own_budget_is_out(tmp_path):
    config = private(
        rounds={"count": 40},
        privacy={"noise_multiplier": 2.0, "epsilon": 2.0, "delta": 1e-4},
        model={"name": "linear"},
    )
    with pytest.raises(BudgetExceededError, match="no client has trained in it"):
        fedsim.run(config, runs=tmp_path)
    stored = RunStore(tmp_path).all()[0]
    cohorts = [entry["cohort"] for entry in RunStore(tmp_path).get(stored.id).rounds]
    assert cohorts[0] == 6
    assert cohorts == sorted(cohorts, reverse=True)
    assert 0 < cohorts[-1] < 6
    entries = ledger(tmp_path).entries()
    assert [sum(len(s.clients) for s in e.spends) for e in entries] == cohorts
    for history, _ in ledger(tmp_path).spent().histories():
        assert accounting.epsilon(history, 1e-4, "zero-out") <= 2.0


def own_model(folder, monkeypatch, source):
    """Put a module `unfit` with a function `build` where a run finds it."""
    (folder / "unfit.py").write_text(f"from torch import nn\n\n{source}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "unfit", raising=False)
    return {"name": "unfit:build"}


@pytest.mark.slow
def test_an_lstm_trains_in_both_tiers_to_the_same(tmp_path, monkeypatch):
    source = """
class build(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x):
        return self.out(self.lstm(x[:, 0])[0][:, -1])
"""
    config = private(
        model=own_model(tmp_path, monkeypatch, source),
        local={"steps": 2},
        rounds={"count": 1, "cohort": 3},
    )
    results = []
    for tier in ("resident", "vectorized"):
        config["engine"] = {"grid": "inprocess", "tier": tier}
        results.append(fedsim.run(config, runs=tmp_path / "runs"))
    losses = [result.metrics["test/loss"] for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    saved = load_file(results[0].folder / "model.safetensors")
    assert {"lstm.weight_ih_l0", "lstm.bias_hh_l0", "out.weight"} < saved.keys()


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"local": {"name": "dp-sgd"}}, "Set local.name=sgd"),
        ({"privacy": {"weight_cap": 3.0}}, "unit 'user' alone"),
        ({"privacy": {"sampling": "fixed"}}, "unit 'user' alone"),
        ({"privacy": {"clipping": "adaptive"}}, "unit 'user' alone"),
        ({"privacy": {"delta": 0.01}}, "examples of the largest client"),
        ({"mode": "pooled"}, "baselines have no private form"),
    ],
    ids=str,
)
def test_what_it_refuses(sections, says, tmp_path):
    config = private(**{k: v for k, v in sections.items() if isinstance(v, dict)})
    config |= {k: v for k, v in sections.items() if isinstance(v, str)}
    with pytest.raises(ConfigError, match=says):
        fedsim.run(config, runs=tmp_path)
    assert not list(tmp_path.glob("ledger/*"))


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ("nn.Flatten(), nn.BatchNorm1d(64)", "group norm does not"),
        ("nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten()", "buffer 0.running_var"),
    ],
)
def test_models_it_refuses(layers, says, tmp_path, monkeypatch):
    source = f"def build():\n    return nn.Sequential({layers}, nn.Linear(64, 10))"
    config = private(model=own_model(tmp_path, monkeypatch, source))
    with pytest.raises(ConfigError, match=says):
        fedsim.run(config, runs=tmp_path / "runs")


def test_federations_and_their_seeds():
    federation = build(configuration.load(private()))
    assert isinstance(federation.config.local, Private)
    assert federation.client_seed() == 0
    secret = build(configuration.load(private(privacy={"noise": "secret"})))
    assert secret.client_seed() != secret.client_seed()
    with pytest.raises(ValueError, match="not been found"):
        _ = secret.with_privacy(fedsim.config.schema.Privacy("example")).config.local.recipe
    assert spending.settled(federation).config.privacy.delta < 1e-3


@pytest.mark.reports
def test_the_command_ends_with_its_epsilon(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEDSIM_RUNS", str(tmp_path / "runs"))
    (tmp_path / "x.toml").write_text(configuration.dump_toml(configuration.load(private())))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["fedsim", "run", str(tmp_path / "x.toml"), *arguments])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    lines = call("rounds.count=1", "privacy.epsilon=9").splitlines()
    (line,) = [line for line in lines if line.startswith("privacy:")]
    assert "unit example (zero-out), epsilon" in line
    assert "(cap 9.0000)" in line
    assert "by 1 run on this data set" in line
    assert any(line.startswith("seeded: not private") for line in lines)
    assert lines[-1].endswith("report.html")
    found = json.loads(call("rounds.count=1", "--json"))
    assert found["privacy"]["unit"] == "example"
    assert found["privacy"]["runs"] == 2
    assert found["privacy"]["epsilon"] > 0
    assert "not private" in found["notice"]


def test_the_private_digits_end_with_their_epsilon(tmp_path):
    changes = ["rounds.count=1", "privacy.noise_multiplier=1.9", "engine.grid=inprocess"]
    result = fedsim.run("digits-private", changes, runs=tmp_path)
    said = result.stored.summary["privacy"]
    assert (said["unit"], said["cap"], said["noise"]) == ("user", 8.0, "secret")
    assert 0 < said["epsilon"] < 8
    assert not result.stored.facts["notice"]
