"""Noise that clients add themselves, through whole runs: every secure sum, the ledger, refusals."""

import json
from dataclasses import replace
from importlib import resources

import jsonschema
import pytest
import torch

import fedsim
from fedsim import api, distributed, spending
from fedsim.config import from_dict, load
from fedsim.core import ClientContext, RoundContext
from fedsim.engine.checkpoint import load_checkpoint
from fedsim.errors import ConfigError, SecAggAborted
from fedsim.exact import InvalidUpdateError, PartialSum
from fedsim.federation import build
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.ledger import Ledger
from fedsim.report import privacy as report
from fedsim.store import RunStore

SETTINGS = {
    "name": "distributed",
    "data": {"name": "digits"},
    "partition": {"name": "iid", "clients": 60},
    "model": {"name": "linear"},
    "rounds": {"count": 2, "cohort": 9},
    "evaluation": {"federated_every": 0},
    "engine": {"grid": "inprocess", "tier": "resident"},
    "secure_sum": {"name": "ideal", "bits": 16},
    "privacy": {
        "unit": "user",
        "mechanism": "skellam",
        "sampling": "fixed",
        "noise_multiplier": 0.8,
        "clipping_norm": 0.5,
        "delta": 1e-3,
        "noise": "seeded",
    },
}
SCHEMA = json.loads((resources.files("fedsim") / "report" / "privacy.schema.json").read_text())
MECHANISMS = ["skellam", "discrete-gaussian"]


def settings(**sections):
    """Return the experiment with some values of its sections replaced."""
    return SETTINGS | {name: SETTINGS.get(name, {}) | own for name, own in sections.items()}


def entries(folder):
    (path,) = (folder / "ledger").glob("*.jsonl")
    return Ledger(path).entries()


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Runs with ideal sums, by mechanism."""
    found = {}
    for name in MECHANISMS:
        folder = tmp_path_factory.mktemp(name)
        found[name] = fedsim.run(settings(privacy={"mechanism": name}), runs=folder), folder
    return found


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(
    ("secure_sum", "tier"),
    [("secagg", "messages"), ("secagg+", "resident"), ("ideal", "vectorized")],
)
def test_masks_and_tiers_change_no_bit_of_a_seeded_run(
    references, mechanism, secure_sum, tier, tmp_path
):
    found = fedsim.run(
        settings(
            privacy={"mechanism": mechanism},
            secure_sum={"name": secure_sum},
            engine={"tier": tier},
        ),
        runs=tmp_path,
    )
    if tier == "vectorized":  # which trains to other last bits
        assert found.metrics["train/loss"] == pytest.approx(
            references[mechanism][0].metrics["train/loss"], rel=1e-3
        )
    else:
        assert found.model_sha256 == references[mechanism][0].model_sha256


def test_clients_lost_are_the_same_with_and_without_masks(tmp_path):
    with_losses = {"rounds": {"dropout": 0.1, "cohort": 20}}
    found = [
        fedsim.run(settings(secure_sum={"name": name}, **with_losses), runs=tmp_path / name)
        for name in ("ideal", "secagg")
    ]
    assert found[0].model_sha256 == found[1].model_sha256
    assert found[0].history[0]["lost"] + found[0].history[1]["lost"] > 0


@pytest.mark.parametrize("sampling", ["truncated", "cyclic"])
def test_other_ways_to_draw_clients_run_too(sampling, tmp_path):
    own = settings(privacy={"sampling": sampling}, rounds={"cohort": 40, "count": 1})
    first, again = (fedsim.run(own, runs=tmp_path / name) for name in ("a", "b"))
    assert first.model_sha256 == again.model_sha256
    (entry,) = entries(tmp_path / "a")
    release = entry.spends[0].release
    facts = RunStore(tmp_path / "a").get(first.run_id).facts["privacy"]
    assert facts["is_completed"] == (sampling == "truncated")
    # Completed noise is that of the largest cohort, less the tenth who may collude.
    assert release.lattice.terms == facts["noises_counted_on"]
    assert facts["noises_counted_on"] == {"truncated": 60 - 6, "cyclic": 27 - 4}[sampling]
    assert release.sampling.kind == {"truncated": "truncated", "cyclic": "all"}[sampling]


def test_secret_noise_cannot_be_repeated(tmp_path):
    own = settings(privacy={"noise": "secret"}, rounds={"count": 1})
    found = [fedsim.run(own, runs=tmp_path / name) for name in ("a", "b")]
    assert found[0].model_sha256 != found[1].model_sha256


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_ledger_has_the_noise_that_is_counted_on(references, mechanism):
    """Seven of nine survive at least, one may collude: six noises make up the multiplier."""
    result, folder = references[mechanism]
    found = entries(folder)
    assert [entry.round for entry in found] == [1, 2]
    releases = [entry.spends[0].release for entry in found]
    assert {r.mechanism for r in releases} == {mechanism}
    assert {r.noise_multiplier for r in releases} == {0.8}
    assert {r.lattice.terms for r in releases} == {6}
    assert {r.lattice.dimension for r in releases} == {1024}
    assert releases[0].sampling.kind == "fixed"
    spent = epsilon(releases, 1e-3, "zero-out")
    assert result.stored.summary["privacy"]["epsilon"] == pytest.approx(spent)
    assert result.stored.config["secure_sum"]["min_cohort"] == 7  # clients refuse fewer


def test_too_few_survivors_open_nothing(tmp_path):
    """Calibrated to 9 of 9: the first client lost ends the run, and the model stays."""
    own = settings(
        secure_sum={"threshold": 0.95},
        rounds={"cohort": 9, "dropout": 0.5, "count": 3},
    )
    with pytest.raises(SecAggAborted) as caught:
        fedsim.run(own, runs=tmp_path)
    assert caught.value.threshold == 9
    (folder,) = [
        path
        for path in tmp_path.iterdir()
        if path.name.endswith(("0", "1", "2")) or "-distributed-" in path.name
    ]
    found = load_checkpoint(folder / "checkpoint.safetensors")
    assert found is None or found.round < 3


def test_noise_is_found_for_a_budget(tmp_path):
    own = settings(
        privacy={"noise_multiplier": None, "epsilon": 4.0, "mechanism": "skellam"},
        rounds={"count": 2},
    )
    del own["privacy"]["noise_multiplier"]
    federation = spending.settled(build(from_dict(own)))
    (plan,) = spending.plan_of(federation)
    spent = epsilon([plan.release], 1e-3, "zero-out")
    assert 3.9 < spent <= 4.0
    assert plan.release.count == 2
    assert spending.settled(federation).config == federation.config


# Legality


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"secure_sum": {"name": "plain"}}, "secure_sum.name"),
        ({"privacy": {"clipping": "adaptive"}}, "privacy.clipping"),
        ({"privacy": {"weight_cap": 5.0}}, "privacy.weight_cap"),
        ({"privacy": {"sampling": "poisson"}}, "privacy.sampling"),
        ({"secure_sum": {"max_abs": 1.0}}, "secure_sum.max_abs"),
        ({"privacy": {"unit": "local", "sampling": "truncated"}}, "privacy.mechanism"),
        ({"privacy": {"unit": "none", "noise_multiplier": None}}, "privacy.mechanism"),
    ],
)
def test_what_has_no_analysis_is_refused(sections, path):
    own = settings(**sections)
    own["privacy"] = {k: v for k, v in own["privacy"].items() if v is not None}
    if path == "privacy.mechanism" and own["privacy"]["unit"] == "none":
        own["privacy"].pop("noise_multiplier", None)
    if own["privacy"]["unit"] == "none":
        from_dict(own)  # without a unit the mechanism is not looked at
        return
    with pytest.raises(ConfigError) as caught:
        load(own)
    assert path in [problem.path for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"secure_sum": {"bits": 8}, "privacy": {"noise_multiplier": 50.0}}, "secure_sum.bits"),
        ({"secure_sum": {"adversaries": 0.49, "threshold": 0.51}, "rounds": {"cohort": 3}}, "x"),
    ],
)
def test_what_cannot_be_counted_on_is_refused(sections, path):
    federation = build(load(settings(**sections)))
    if path == "x":  # two of three survive at least, and two may collude
        path = "secure_sum.adversaries"
        config = federation.config
        secure = replace(config.secure_sum, min_cohort=2)
        federation = federation.with_secure_sum(secure)
    with pytest.raises(ConfigError) as caught:
        distributed.parts(federation.config, 60, 650)
    assert [problem.path for problem in caught.value.problems] == [path]


# The two halves by themselves


def test_what_clients_encode_the_server_decodes():
    config = from_dict(settings(privacy={"noise_multiplier": 1e-3}))
    vectors = torch.randn(9, 650, generator=torch.Generator().manual_seed(1))
    vectors *= 0.4 / vectors.norm(dim=1, keepdim=True)
    contexts = [ClientContext(3, 2, client) for client in range(9)]
    sent = distributed.encode(config, 60, vectors, contexts)
    total = PartialSum(sent.sum(dim=0), 0, 9)
    found = distributed.decode(config, 60, 650, total, RoundContext(config.seed, 2, 9))
    assert (found.weight, found.count) == (9.0, 9)
    torch.testing.assert_close(found.vector, vectors.double().sum(dim=0), atol=4e-3, rtol=0)
    with pytest.raises(InvalidUpdateError, match="finite"):
        distributed.encode(config, 60, vectors * float("nan"), contexts)
    with pytest.raises(SecAggAborted, match="no epsilon"):
        distributed.decode(
            config, 60, 650, PartialSum(sent.sum(dim=0), 0, 6), RoundContext(config.seed, 2, 9)
        )


def test_a_round_that_asked_nobody_is_noise_alone():
    config = from_dict(settings(privacy={"sampling": "truncated"}, rounds={"cohort": 40}))
    found = distributed.decode(config, 60, 650, None, RoundContext(config.seed, 1, 0))
    std = 0.8 * 0.5 * (60 / 54) ** 0.5
    assert float(found.vector.std()) == pytest.approx(std, rel=0.1)


# The report


def content_of(references, mechanism="skellam"):
    result, folder = references[mechanism]
    return report.build(report.gather(RunStore(folder), result.run_id))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_report_tells_what_it_costs_and_who_is_trusted(references, mechanism):
    content = content_of(references, mechanism)
    jsonschema.validate(content, SCHEMA)
    found = content["distributed"]
    assert (found["bits"], found["noises_counted_on"], found["least_survivors"]) == (16, 6, 7)
    assert found["survivors"] == {"least": 9, "most": 9}
    assert found["noise_std_of_one_client"] == pytest.approx(0.8 * 0.5 / 6**0.5)
    assert content["mechanism"]["noise_std_of_sum"] == pytest.approx(0.8 * 0.5)
    cost = found["inflation"]
    assert cost["epsilon"] == content["guarantee"]["run"]["epsilon"]
    assert content["guarantee"]["run"]["method"] == "rdp"
    assert 0 <= cost["percent"] < 10
    assert cost["gaussian"] < cost["gaussian_by_renyi"] <= cost["epsilon"]
    assert found["counted"]["epsilon"] < cost["epsilon"]  # eight noises, not six
    assert found["against_server"] is None  # an ideal sum hides nothing from it
    assert content["setting"]["model"] == "distributed"
    assert "without masks" in content["setting"]["trusted"]
    text = report.as_markdown(content)
    assert "secure aggregation alone gives no epsilon" in text
    assert "Noise by clients" in text
    assert "integers modulo 2^16" in text
    assert "seeded: not private" in text


def test_under_masks_the_report_states_what_holds_against_the_server(references):
    result, folder = references["skellam"]
    evidence = report.gather(RunStore(folder), result.run_id)
    config = evidence.run.config | {
        "secure_sum": evidence.run.config["secure_sum"] | {"name": "secagg"}
    }
    content = report.build(replace(evidence, run=replace(evidence.run, config=config)))
    jsonschema.validate(content, SCHEMA)
    seen = content["distributed"]["against_server"]
    own = distributed.parts(from_dict(result.stored.config), 60, 650)
    assert seen["one_round"] == epsilon([own.against_server(9)], 1e-3, "zero-out")
    assert seen["one_round"] < seen["every_round"]
    assert "at most 1 of a cohort tell" in content["setting"]["trusted"]
    assert "against the server itself" in report.as_markdown(content)


def test_the_report_states_no_epsilon_where_too_few_survived(references):
    """As no run of ours lets it be: rows that say 6 survivors where 7 were counted on."""
    result, folder = references["skellam"]
    evidence = report.gather(RunStore(folder), result.run_id)
    rows = [row | {"results": 6} for row in evidence.run.rounds]
    content = report.build(replace(evidence, run=replace(evidence.run, rounds=rows)))
    jsonschema.validate(content, SCHEMA)
    assert content["distributed"]["short_of_noise"] == [1, 2]
    assert not content["guarantee"]["holds"]
    assert content["guarantee"]["run"]["epsilon"] == "infinity"
    assert content["distributed"]["counted"] is content["distributed"]["against_server"] is None
    first = report.as_markdown(content).split("## ")[0]
    assert "None: in 2 round(s)" in first
    assert content["accounting"]["epsilons"][0]["epsilon"] == "infinity"
    assert content["budget"]["spent_by_run"] == "infinity"
    promised = f"{result.stored.summary['privacy']['epsilon']:.2f}"
    assert promised not in report.as_markdown(content)


def test_twenty_bits_unless_set():
    assert distributed.ring_bits(from_dict(settings())) == 16
    for own, bits in ((SETTINGS["privacy"], 20), ({"unit": "none"}, 32)):
        unset = settings(secure_sum={"name": "secagg"}) | {"privacy": own}
        del unset["secure_sum"]["bits"]
        assert distributed.ring_bits(from_dict(unset)) == bits


@pytest.mark.parametrize(
    ("sampling", "said"),
    [("fixed", "calibrated to 27 survivors"), ("truncated", "the noise of those missing from 60")],
)
def test_the_check_says_what_noise_rests_on(sampling, said, tmp_path):
    own = settings(privacy={"sampling": sampling}, rounds={"cohort": 40})
    found = api.check_privacy(own, runs=tmp_path)
    texts = {finding.name: finding for finding in found}
    assert said in texts["drop-outs"].found
    assert texts["secure sum"].status == "note"
    assert texts["sampler"].status in ("pass", "note")
    assert texts["sensitivity"].status == "pass"
