"""Attacks in whole runs: what is recorded, any tier, any number of workers, resumed."""

import json

import pytest
import torch

import fedsim
from fedsim.deploy.server_app import _fit
from fedsim.errors import ConfigError
from fedsim.federation import Places, build
from fedsim.node.experiment import experiment_text, read_experiment

SMALL = {
    "model": {"name": "linear"},
    "strategy": {"name": "fedavg"},
    "partition": {"name": "iid", "clients": 9},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "evaluation": {"central_every": 1, "federated_every": 0},
}


def attacked(tiny, name, count=2, **options):
    more = {key: options.pop(key) for key in list(options) if isinstance(options[key], dict)}
    attack = {"name": name, "clients": [1, 4, 7]} | options
    sections = {**SMALL, "rounds": {"count": count, "cohort": None}, **more}
    config = tiny(**sections, attack=attack)
    config["rounds"].pop("cohort", None)
    return config


@pytest.mark.reports
def test_a_backdoor_succeeds_and_fails_under_norm_bounding(tiny, tmp_path):
    options = {"scale": 5.0, "clients": [1]}
    open_ = fedsim.run(attacked(tiny, "backdoor", 4, **options), runs=tmp_path / "open")
    bound = {"name": "clip", "clipping_norm": 0.5}
    bounded = fedsim.run(
        attacked(tiny, "backdoor", 4, transform=bound, **options), runs=tmp_path / "bound"
    )
    assert open_.metrics["attack/success"] > 0.9
    assert bounded.metrics["attack/success"] < 0.2
    assert all("attack/success" in entry["metrics"] for entry in open_.history)
    assert bounded.metrics["test/accuracy"] > 0.8
    facts = open_.stored.facts["attack"]
    assert (facts["name"], facts["clients"], facts["target"]) == ("backdoor", [1], 0)
    told = json.loads((open_.folder / "report.json").read_text())["sections"]
    assert told["attack"]["most_in_a_round"] == 1
    assert told["attack"]["success"][-1] == [4, open_.metrics["attack/success"]]
    check = next(c for c in told["checks"] if c["check"] == "Malicious clients are borne")
    assert check["status"] == "warn"
    assert "Simulated adversaries" in (open_.folder / "report.html").read_text()


def test_success_is_counted_on_triggered_rows_of_other_classes(tiny):
    from fedsim import config as configuration
    from fedsim.evaluating import _central

    content = attacked(tiny, "backdoor", target=3)
    federation = build(configuration.load(content), Places())
    model = federation.initial
    found = _central(federation, model)["attack/success"]
    test = federation.clients.test()
    x = torch.from_numpy(test.x.copy())[test.y != 3]
    x[..., -3:, -3:] = float(test.x.max())
    federation.evaluate(model, test)  # sets the module
    with torch.no_grad():
        taken = federation.module.eval()(x).argmax(dim=1) == 3
    assert found == pytest.approx(float(taken.float().mean()))


def test_poisoned_rows_are_those_of_malicious_clients_alone(tiny):
    from fedsim import config as configuration

    clean = build(configuration.load(attacked(tiny, "sign-flip")), Places())
    federation = build(configuration.load(attacked(tiny, "label-flip")), Places())
    for client in range(9):
        before, after = clean.clients.train(client), federation.clients.train(client)
        wanted = 9 - before.y if client in (1, 4, 7) else before.y
        assert (after.y == wanted).all()
        assert (federation.clients.held_out(client).y == clean.clients.held_out(client).y).all()
    assert federation.real_clients is federation.clients.inner


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian", "mimic"])
def test_resumed_in_the_middle_it_has_the_bytes_of_a_whole_run(tiny, tmp_path, name):
    from fedsim.errors import Interrupted
    from fedsim.events import RoundDone

    config = attacked(tiny, name, 4)
    whole = fedsim.run(config, runs=tmp_path / "whole")

    def stop(event):
        if isinstance(event, RoundDone) and event.record.round == 2:
            raise KeyboardInterrupt

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        fedsim.run(config, runs=tmp_path / "parts", listener=stop)
    (run,) = [p.name for p in (tmp_path / "parts").iterdir() if (p / "config.toml").exists()]
    resumed = fedsim.resume(run, runs=tmp_path / "parts")
    assert resumed.model_sha256 == whole.model_sha256


def test_baselines_have_no_adversaries(tiny):
    from fedsim import config as configuration

    content = attacked(tiny, "sign-flip")
    for mode in ("pooled", "local-only"):
        federation = build(configuration.load({**content, "mode": mode}), Places())
        assert not federation.adversaries.clients


def test_an_attack_is_refused_where_clients_are_real(tiny):
    from fedsim import config as configuration

    config = configuration.load(attacked(tiny, "sign-flip"))
    with pytest.raises(ConfigError, match=r"attack\.name.*real clients"):
        _fit(config, is_signed=True)
    with pytest.raises(ConfigError, match=r"attack\.name.*real clients"):
        read_experiment(experiment_text(config))


def test_tiers_fall_back_with_a_reason(tiny):
    from fedsim import config as configuration
    from fedsim import tiers

    federation = build(configuration.load(attacked(tiny, "gaussian")), Places())
    legal, reason = tiers._legal(federation)
    assert legal[-1] == "resident"
    assert "each by itself" in reason
    federation = build(configuration.load(attacked(tiny, "alie")), Places())
    assert "vectorized" in tiers._legal(federation)[0]


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["messages", "resident", "vectorized"])
def test_label_flips_are_the_same_in_every_tier(tiny, tmp_path, tier):
    config = attacked(tiny, "label-flip", engine={"grid": "inprocess", "tier": tier})
    other = attacked(tiny, "label-flip")
    first, second = (fedsim.run(c, runs=tmp_path / n) for n, c in (("a", config), ("b", other)))
    assert first.metrics["test/loss"] == pytest.approx(second.metrics["test/loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian", "alie", "mimic", "backdoor"])
def test_any_number_of_workers_gives_the_same_bytes(tiny, tmp_path, cluster, name):
    found = set()
    for engine in ({"grid": "inprocess"}, {"workers": 1}, {"workers": 3}):
        own = {"grid": "ray", "tier": "resident", **engine}
        config = attacked(tiny, name, engine=own)
        found.add(fedsim.run(config, runs=tmp_path / str(engine)).model_sha256)
    assert len(found) == 1


@pytest.mark.slow
def test_a_client_s_own_attack_runs_under_masks(tiny, tmp_path):
    honest = attacked(tiny, "sign-flip", scale=3.0, secure_sum={"name": "ideal"})
    masked = attacked(tiny, "sign-flip", scale=3.0, secure_sum={"name": "secagg"})
    first, second = (fedsim.run(c, runs=tmp_path / n) for n, c in (("a", honest), ("b", masked)))
    assert first.model_sha256 == second.model_sha256
    assert first.metrics["test/accuracy"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("label-flip", {}), ("ipm", {"scale": 10.0}), ("gaussian", {"std": 1.0})]
)
@pytest.mark.reports
def test_fedavg_breaks_and_a_rule_bears_it(tiny, tmp_path, name, options):
    rule = {"name": "multi-krum", "f": 3}
    plain = fedsim.run(attacked(tiny, name, 6, **options), runs=tmp_path / "plain")
    borne = fedsim.run(attacked(tiny, name, 6, strategy=rule, **options), runs=tmp_path / "rule")
    assert borne.metrics["test/accuracy"] > plain.metrics["test/accuracy"] + 0.05
    assert borne.metrics["test/accuracy"] > 0.85
    report = json.loads((borne.folder / "report.json").read_text())["sections"]
    check = next(c for c in report["checks"] if c["check"] == "Malicious clients are borne")
    assert check["status"] == "pass"
