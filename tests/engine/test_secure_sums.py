"""Runs whose server sees only sums: with masks, and without, they come to the same bits."""

import copy
import json
import re
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import fedsim
from fedsim import config as configuration
from fedsim import secure_rounds
from fedsim.clients._secure_sum import SECRET, simulated_directory
from fedsim.engine.blocks import Population
from fedsim.engine.checkpoint import load_checkpoint
from fedsim.engine.inprocess import InProcessGrid
from fedsim.engine.launch import OURS
from fedsim.errors import ConfigError, SecAggAborted
from fedsim.events import RoundDone
from fedsim.federation import Places, from_text, to_text
from fedsim.rounds import number_format, run_rounds, start_state
from fedsim.secure_messages import KINDS
from fedsim.store import RunStore

NAMES = ["ideal", "secagg", "secagg+"]
LENIENT = {"threshold": 0.51}


def secure(tiny, name, /, **sections):
    """The tiny experiment under a secure sum, nine clients in each of two rounds."""
    own = {"name": name, **LENIENT, **sections.pop("secure_sum", {})}
    sections = {
        "evaluation": {"federated_every": 0},
        "strategy": {"name": "fedavg"},
        **sections,
        "rounds": {"count": 2, "cohort": 9, **sections.get("rounds", {})},
    }
    return tiny(**sections) | {"secure_sum": own}


def rounds_of(content, on_reply=lambda reply: None):
    """Run an experiment's rounds and nothing around them; return records and the last model."""
    config = configuration.load(content)
    told = {"experiment": to_text(config, Places()), "tier": config.engine.tier}
    told |= {"at-once": config.engine.block_size or 0, SECRET: "07" * 32}
    federation = from_text(told["experiment"])
    clients = federation.population
    grid = InProcessGrid(OURS.open(told), Population(clients, told), size=config.engine.block_size)
    grid.on_reply = on_reply
    directory = simulated_directory(told, config)
    state = start_state(federation)
    found = list(run_rounds(grid, grid.population.nodes, federation, state, directory=directory))
    assert grid.incidents == []
    return [record for record, _ in found], found[-1][1].strategy["model"]


def hashes(result):
    return [entry["model_sha256"] for entry in result.history]


def digests(records):
    return [record.model_sha256 for record in records]


def close(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_secure_sum_comes_to_the_plain_model_but_for_steps(tiny):
    plain, model = rounds_of(secure(tiny, "plain"))
    ideal, rounded = rounds_of(secure(tiny, "ideal"))
    assert digests(plain) != digests(ideal)  # rounded differently
    close(rounded, model)
    for one, other in zip(plain, ideal, strict=True):
        assert other.metrics["train/loss"] == pytest.approx(one.metrics["train/loss"], abs=1e-4)


@pytest.mark.parametrize(
    "sections",
    [
        {"rounds": {"dropout": 0.2}},
        {"strategy": {"name": "fedadam", "lr": 0.05}, "secure_sum": {"bits": 20}},
        {"local": {"name": "fedprox", "mu": 0.1, "epochs": 1, "batch_size": 16}},
        {"transform": {"name": "clip", "clipping_norm": 0.5}, "secure_sum": {"max_abs": 0.5}},
        {"secure_sum": {"profile": "fips"}},
    ],
    ids=["dropouts", "fedadam", "fedprox", "clip", "fips"],
)
def test_masks_change_no_bit(sections, tiny):
    found = [rounds_of(secure(tiny, name, **copy.deepcopy(sections)))[0] for name in NAMES]
    for entry in zip(*found, strict=True):
        assert len({record.model_sha256 for record in entry}) == 1
        assert entry[0].metrics == entry[1].metrics == entry[2].metrics
        assert len({record.lost for record in entry}) == 1


def test_dropouts_are_lost_before_the_sum_or_counted(tiny):
    """The same clients with and without masks, and in a plain sum."""
    rows = []
    for name in ("plain", "ideal", "secagg"):
        config = secure(tiny, name, rounds={"dropout": 0.3, "count": 4})
        records, _ = rounds_of(config)
        rows.append([(r.round, c.client, c.lost) for r in records for c in r.clients])
    assert rows[0] == rows[1] == rows[2]
    reasons = {lost for _, _, lost in rows[0] if lost}
    assert reasons
    assert all(re.fullmatch(r"dropped out .* (keys|shares|masked)", lost) for lost in reasons)


@pytest.mark.parametrize("tier", ["messages", "resident", "vectorized"])
def test_every_tier_masks_what_it_trained(tier, tiny):
    sections = {"engine": {"tier": tier, "block_size": 4}, "model": {"name": "mlp", "hidden": [8]}}
    found = {
        name: rounds_of(secure(tiny, name, **copy.deepcopy(sections)))
        for name in ("plain", "ideal", "secagg")
    }
    assert digests(found["ideal"][0]) == digests(found["secagg"][0])
    close(found["ideal"][1], found["plain"][1])


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("name", [pytest.param("ideal", marks=pytest.mark.slow), "secagg"])
def test_ray_comes_to_the_bits_of_in_process(name, workers, tiny, cluster, tmp_path):
    config = secure(tiny, name, rounds={"dropout": 0.2})
    here, _ = rounds_of(config)
    config["engine"] = {"grid": "ray", "workers": workers, "tier": "resident"}
    there = fedsim.run(config, runs=tmp_path)
    assert hashes(there) == digests(here)
    assert there.history[-1]["metrics"] == here[-1].metrics


def test_a_stopped_run_is_resumed_bit_by_bit(tiny, tmp_path):
    config = secure(tiny, "secagg", rounds={"count": 4, "dropout": 0.2})
    config["local"] = {"name": "sgd", "epochs": 1, "batch_size": 16, "keep_optimizer": True}
    whole = fedsim.run(config, runs=tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(event):
        if isinstance(event, RoundDone) and event.record.round == 2:
            raise StopError

    with pytest.raises(StopError):
        fedsim.run(config, runs=tmp_path / "cut", listener=stop)
    assert hashes(fedsim.resume("last", runs=tmp_path / "cut")) == hashes(whole)


@pytest.mark.parametrize("name", ["ideal", "secagg"])
def test_too_few_clients_end_the_run_with_the_model_as_it_was(name, tiny, tmp_path):
    rounds = {"count": 30, "dropout": 0.25}
    with pytest.raises(SecAggAborted) as aborted:
        fedsim.run(secure(tiny, name, rounds=rounds, secure_sum={"threshold": 0.7}), runs=tmp_path)
    error = aborted.value
    assert error.exit_code == 1
    assert error.survivors < error.threshold
    stored = RunStore(tmp_path).get("last")
    assert stored.status == "failed"
    checkpoint = load_checkpoint(stored.folder / "checkpoint.safetensors")
    done = [entry["round"] for entry in stored.rounds]
    assert checkpoint.round == max(done) == len(done) > 0
    assert stored.summary["model_sha256"] == stored.rounds[-1]["model_sha256"]
    with pytest.raises(SecAggAborted):  # the same clients drop out again
        fedsim.resume("last", runs=tmp_path)


def test_where_a_sum_is_given_up_does_not_depend_on_masks(tiny):
    ended = []
    for name in NAMES:
        rounds = {"count": 30, "dropout": 0.25}
        config = secure(tiny, name, rounds=rounds, secure_sum={"threshold": 0.7})
        with pytest.raises(SecAggAborted) as aborted:
            rounds_of(config)
        lost = [(record.client, record.lost) for record in aborted.value.records]
        ended.append((aborted.value.survivors, aborted.value.threshold, lost))
    assert ended[0] == ended[1] == ended[2]
    assert ended[0][2]


@pytest.mark.parametrize("fault", ["raise", "nan", "huge", "shape"])
def test_a_client_that_fails_is_lost_and_tells_no_number(fault, tiny, plugin):
    local = {"name": "faulty", "fault": fault, "clients": [3]}
    found = [rounds_of(secure(tiny, name, local=dict(local)))[0] for name in ("ideal", "secagg")]
    assert digests(found[0]) == digests(found[1])
    for records in found:
        lost = [(r.round, c.client, c) for r in records for c in r.clients if c.lost]
        assert [(number, client) for number, client, _ in lost] == [(1, 3), (2, 3)]
        for _, _, client in lost:
            assert "stays with the client" in client.lost
            assert "a defect in the user's own code" not in client.traceback
            assert "1e+09" not in client.traceback


def test_an_algorithm_says_which_metrics_are_summed_and_keeps_its_memory(tiny, plugin):
    """All nine clients train in every round: each has counted as far as the round's number."""
    found = [
        rounds_of(secure(tiny, name, local={"name": "counting"}, rounds={"count": 3}))[0]
        for name in ("plain", "ideal", "secagg")
    ]
    for records in found:
        assert [record.metrics["train/count"] for record in records] == [1, 2, 3]
    assert digests(found[1]) == digests(found[2])


def reported(tiny):
    """What clients of round 1 report where everything is seen: their losses and weights."""
    (record,), _ = rounds_of(secure(tiny, "plain", rounds={"count": 1}))
    assert len(record.clients) == 9
    return [c.metrics["loss"] for c in record.clients], [c.weight for c in record.clients]


def spellings(value):
    """How a loss might be written: the first digits, and the bytes of either width and order."""
    yield repr(value)[:10].encode()
    yield from (struct.pack(code, value) for code in ("<d", ">d", "<f", ">f"))


def test_no_number_of_a_client_is_in_what_masked_clients_send(tiny):
    losses, weights = reported(tiny)
    sent = []
    rounds_of(
        secure(tiny, "secagg", rounds={"count": 1}),
        on_reply=lambda reply: sent.append((reply.metadata.message_type, reply.content)),
    )
    kinds = Counter(kind for kind, _ in sent)
    assert set(kinds.values()) == {9}
    assert list(kinds) == list(KINDS.values())
    for kind, content in sent:
        masked = {"masked"} if kind == "train.sa_masked" else set()
        assert set(content) == {"secure-sum"} | masked
        assert set(content["secure-sum"]) == {"message"}
        parts = [content["secure-sum"]["message"]]
        if masked:
            assert set(content["masked"]) == {"vector"}
            parts.append(content["masked"]["vector"].data)
        for value in losses + weights:
            for spelling in list(spellings(value))[:3]:  # eight bytes: none comes by chance
                assert not any(spelling in part for part in parts)


def test_ideal_clients_send_sums_without_rows(tiny):
    sent = []
    rounds_of(secure(tiny, "ideal", rounds={"count": 1}), on_reply=sent.append)
    for reply in sent:
        assert set(reply.content) == {"ring", "ring-config"}
        assert set(reply.content["ring-config"]) == {"clients"}
        assert set(reply.content["ring"]) == {"vector"}


@pytest.mark.reports
@pytest.mark.parametrize("name", ["ideal", "secagg"])
def test_no_number_of_a_client_is_in_anything_that_is_kept(name, tiny, tmp_path):
    losses, _ = reported(tiny)
    config = secure(tiny, "plain", rounds={"count": 1})
    fedsim.run(config, runs=tmp_path / "plain")
    seen = (tmp_path / "plain" / "fedsim.db").read_bytes()
    assert all(any(s in seen for s in spellings(loss)) for loss in losses)  # else a vain search
    config = secure(tiny, name, rounds={"count": 1})
    result = fedsim.run(config, runs=tmp_path / "runs")
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"fedsim.db", "report.html", "report.json", "run.log"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert not [loss for loss in losses if any(s in content for s in spellings(loss))], path
    rows = RunStore(tmp_path / "runs").clients(result.run_id)
    kept = {(row["weight"], str(row["metrics"]), row["real_seconds"]) for row in rows}
    assert (len(rows), kept) == (9, {(0.0, "{}", 0.0)})
    assert len({row["bytes_up"] for row in rows}) == 1


def test_the_secret_of_simulated_identities_is_stored_nowhere(tiny, tmp_path, monkeypatch):
    from fedsim import api

    secret = bytes(range(32))
    monkeypatch.setattr(api, "random_key", lambda: secret)
    fedsim.run(secure(tiny, "secagg"), runs=tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert secret not in content
            assert secret.hex().encode() not in content


PRIVATE = {
    "user": {"unit": "user", "noise_multiplier": 0.5, "delta": 1e-3, "clipping_norm": 0.5},
    "adaptive": {
        "unit": "user",
        "noise_multiplier": 0.5,
        "delta": 1e-3,
        "clipping_norm": 0.5,
        "clipping": "adaptive",
        "bit_noise": 2.0,
    },
    "example": {"unit": "example", "noise_multiplier": 1.0, "delta": 1e-4},
    "local": {"unit": "local", "noise_multiplier": 2.0, "delta": 1e-3, "clipping_norm": 0.5},
}


@pytest.mark.parametrize("unit", PRIVATE)
def test_private_rounds_come_to_the_same_bits_where_noise_is_seeded(unit, tiny):
    sections = {"privacy": {**PRIVATE[unit], "noise": "seeded"}}
    sections["model"] = {"name": "mlp", "hidden": [8]}
    found = {
        name: rounds_of(secure(tiny, name, **copy.deepcopy(sections)))
        for name in ("plain", "ideal", "secagg")
    }
    assert digests(found["ideal"][0]) == digests(found["secagg"][0])
    if unit == "example":  # the noise is the client's own: the same in all three
        close(found["ideal"][1], found["plain"][1])


def test_the_privacy_report_says_that_clients_are_trusted_to_clip(tiny, tmp_path):
    from fedsim.report import privacy as report

    privacy = {**PRIVATE["user"], "noise": "seeded", "sampling": "fixed"}
    config = secure(tiny, "secagg", privacy=privacy, rounds={"count": 1})
    result = fedsim.run(config, runs=tmp_path)
    text = report.as_json(report.build(report.gather(RunStore(tmp_path), result.run_id)))
    assert "Clients: to clip; under masks nobody else can check that." in text
    assert "secure aggregation alone gives no epsilon" in text


def test_low_rank_and_evaluation_by_clients_are_refused(tiny, tmp_path):
    for sections, path in (
        ({"engine": {"tier": "low-rank"}}, "engine.tier"),
        ({"evaluation": {"federated_every": 2}}, "evaluation.federated_every"),
        ({"secure_sum": {"min_cohort": 10}}, "rounds.cohort"),
    ):
        with pytest.raises(ConfigError) as refused:
            fedsim.run(secure(tiny, "secagg", **sections), runs=tmp_path)
        assert path in [problem.path for problem in refused.value.problems]
    assert RunStore(tmp_path).all() == []


def test_a_sparse_graph_comes_to_the_bits_of_ideal(tiny):
    """Sixty clients and more: each masks with some of the others only."""
    found = {}
    for name in ("ideal", "secagg+"):
        config = secure(tiny, name, model={"name": "linear"}, rounds={"count": 1, "cohort": 64})
        config["rounds"]["dropout"] = 0.1
        config["partition"] = {"name": "iid", "clients": 64}
        config["secure_sum"] |= {"adversaries": 0.05, "semi_malicious": False}
        found[name], _ = rounds_of(config)
    assert digests(found["ideal"]) == digests(found["secagg+"])
    federation = from_text(to_text(configuration.load(config), Places()))
    told = secure_rounds.facts(federation, number_format(federation))
    assert told["graph"] == "sparse"
    assert told["neighbours"] < 40


@pytest.mark.slow
def test_kill_9_and_resume_under_masks(tiny, tmp_path):
    config = secure(tiny, "secagg", rounds={"count": 6, "dropout": 0.1})
    script = Path(__file__).parent / "kill_points.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "4", json.dumps(config)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ended = [outcome for outcome in found["outcomes"] if "sha" in outcome]
    assert {outcome["sha"] for outcome in ended} == {found["sha"]}
    assert any("metrics" in outcome for outcome in ended)  # resumed, not begun anew


@pytest.mark.slow
def test_fashion_mnist_with_dropouts_ends_with_the_model_of_ideal(data_dir, tmp_path):
    settings = [
        "partition.clients=20",
        "rounds.count=3",
        "rounds.cohort=20",
        "rounds.dropout=0.2",
        "local.epochs=1",
        "model={name='mlp', hidden=[32]}",
        "secure_sum.threshold=0.51",
        "engine.grid=inprocess",
    ]
    found = [
        fedsim.run(
            "fashion-mnist",
            [*settings, f"secure_sum.name={name}"],
            runs=tmp_path / name,
            data_dir=data_dir,
        )
        for name in ("ideal", "secagg+")
    ]
    assert hashes(found[0]) == hashes(found[1])
    assert found[0].metrics["test/accuracy"] > 0.5
