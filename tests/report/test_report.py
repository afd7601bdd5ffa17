"""The report: complete, offline, small, safe against what it quotes, the same bytes each time."""

import dataclasses
import json
import re
from html import unescape
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

import fedsim
from fedsim import report
from fedsim.report.sections import checks
from fedsim.secagg import ckks
from fedsim.store import RunStore

SCHEMA = json.loads((resources.files("fedsim") / "report" / "schema.json").read_text())
QUICK = ["engine.grid=inprocess", "rounds.count=3", "model.name=linear", "partition.clients=6"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    overrides = [*QUICK, "evaluation.federated_every=1"]
    result = fedsim.run("digits", overrides, runs=runs)
    store = RunStore(runs)
    return store.get(result.run_id), store.clients(result.run_id, round=3, phase="evaluate")


def html(run, clients, folder: Path) -> str:
    page, data = report.write(run, clients, folder)
    jsonschema.validate(json.loads(data.read_text(), parse_constant=pytest.fail), SCHEMA)
    text = page.read_text()
    assert len(text) < 2_000_000
    check_page(text)
    return text


class Page(HTMLParser):
    """Collects what a page would load, and whether its elements close."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr", "path", "use", "rect"})

    def __init__(self):
        super().__init__()
        self.loads, self.open, self.ids = [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.loads += [found[k] for k in ("src", "href", "xlink:href", "data") if found.get(k)]
        self.ids += [found["id"]] if "id" in found else []
        assert tag not in ("script", "iframe", "object", "embed")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        found = dict(attributes)
        self.loads += [found[k] for k in ("src", "href", "xlink:href", "data") if found.get(k)]
        self.ids += [found["id"]] if "id" in found else []

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def check_page(text: str) -> None:
    page = Page()
    page.feed(text)
    assert page.open == []
    assert all(target.startswith("#") for target in page.loads), page.loads
    assert "url(http" not in text
    assert "@import" not in text
    assert len(page.ids) == len(set(page.ids)), "ids of two pictures collide"
    for picture in re.findall(r"<figure[^>]*>", text):
        assert 'aria-label="' in picture


def test_a_finished_run(finished, tmp_path):
    run, clients = finished
    text = html(run, clients, tmp_path)
    assert "Fedavg on 6 clients reached accuracy" in text
    assert text.count("<svg") >= 5
    for heading in ("Learning", "Across clients", "Partition", "Cost", "Environment"):
        assert f"<h2>{heading}" in text
    assert "no differential privacy, no secure aggregation" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_what_a_private_run_spent_is_said(finished, tmp_path):
    run, clients = finished
    spent = {"unit": "user", "epsilon": 2.5, "delta": 1e-4}
    text = html(
        dataclasses.replace(run, summary={**run.summary, "privacy": spent}), clients, tmp_path
    )
    assert "unit user, epsilon 2.5 at delta 0.0001" in text
    assert "no differential privacy" not in text


def test_the_same_run_gives_the_same_bytes(finished, tmp_path):
    run, clients = finished
    first = html(run, clients, tmp_path)
    assert html(run, clients, tmp_path) == first
    data = (tmp_path / "report.json").read_bytes()
    report.write(run, clients, tmp_path)
    assert (tmp_path / "report.json").read_bytes() == data


def test_the_json_holds_the_numbers_of_the_store(finished):
    run, clients = finished
    content = report.build(run, clients)["sections"]
    assert (
        content["headline"]["metrics"]["test/accuracy"]
        == run.rounds[-1]["metrics"]["test/accuracy"]
    )
    assert content["learning"]["test/loss"] == [
        [entry["round"], entry["metrics"]["test/loss"]] for entry in run.rounds
    ]
    assert content["cost"]["bytes_up"] == sum(entry["bytes_up"] for entry in run.rounds)
    assert len(content["spread"]["clients"]) == 6


def test_quoted_text_cannot_become_markup(finished, tmp_path):
    run, clients = finished
    evil = '<script>alert("x")</script><img src=http://evil onerror=x>'
    lost = [{**clients[0], "lost": evil, "round": 2, "phase": "train"}]
    config = {**run.config, "name": evil}
    partition = {**run.partition, "classes": [evil] * len(run.partition["classes"])}
    rounds = [{**entry, "lost": 1} for entry in run.rounds]
    hostile = dataclasses.replace(run, name=evil, config=config, partition=partition, rounds=rounds)
    text = html(hostile, [*clients, *lost], tmp_path)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<script" not in report.fragment(hostile)


def changed(run, **more):
    return dataclasses.replace(run, **more)


def statuses(run, clients=()):
    found = checks.section(run, list(clients)).data
    return {check["check"]: check["status"] for check in found}


def test_checks_tell_good_from_bad(finished):
    run, _ = finished
    good = statuses(run)
    assert good["All rounds ran"] == good["The model improved"] == "pass"
    assert good["Privacy protection"] == "warn"
    worse = [
        {**entry, "metrics": {**entry["metrics"], "test/accuracy": 0.5 - entry["round"] / 10}}
        for entry in run.rounds
    ]
    assert statuses(changed(run, rounds=worse))["The model improved"] == "fail"
    nan = [{**entry, "metrics": {**entry["metrics"], "test/loss": None}} for entry in run.rounds]
    assert statuses(changed(run, rounds=nan))["All metrics are finite"] == "fail"
    few = [{**entry, "lost": 1, "cohort": 100} for entry in run.rounds]
    assert statuses(changed(run, rounds=few))["Clients answered"] == "warn"
    many = [{**entry, "lost": 3} for entry in run.rounds]
    assert statuses(changed(run, rounds=many))["Clients answered"] == "fail"
    wide = [
        {
            **entry,
            "metrics": {
                **entry["metrics"],
                "federated/accuracy": 0.9,
                "federated/accuracy/worst_decile": 0.4,
            },
        }
        for entry in run.rounds
    ]
    assert statuses(changed(run, rounds=wide))["Clients fare alike"] == "warn"
    assert (
        statuses(changed(run, status="failed", rounds=run.rounds[:2]))["All rounds ran"] == "fail"
    )
    stopped = changed(run, status="interrupted", rounds=run.rounds[:2])
    assert statuses(stopped)["All rounds ran"] == "warn"


@pytest.mark.parametrize("rounds", [0, 1])
def test_runs_that_ended_early(finished, tmp_path, rounds):
    run, _ = finished
    cut = changed(run, status="failed", rounds=run.rounds[:rounds], summary={})
    text = html(cut, [], tmp_path)
    assert "the run is failed" in text


def test_five_hundred_rounds_and_ten_thousand_clients_stay_small(finished, tmp_path):
    run, clients = finished
    rounds = [{**run.rounds[-1], "round": i + 1} for i in range(500)]
    many = [{**clients[0], "client": i, "round": 500} for i in range(10_000)]
    text = html(changed(run, rounds=rounds), many, tmp_path)
    assert "10,000 clients" in text
    assert (tmp_path / "report.json").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    "overrides",
    [
        ["evaluation.federated_every=0"],
        ["mode=pooled"],
        ["mode=local-only", "evaluation.federated_every=1"],
        ["evaluation.central_every=0"],
        ["data.name=breast-cancer"],
    ],
    ids=" ".join,
)
def test_all_kinds_of_runs(tmp_path, overrides):
    result = fedsim.run("digits", [*QUICK, *overrides], runs=tmp_path)
    text = result.report.read_text()
    check_page(text)
    jsonschema.validate(json.loads((result.folder / "report.json").read_text()), SCHEMA)
    if overrides[0] == "mode=pooled":
        assert "pooled baseline" in text
    if overrides[0] == "mode=local-only":
        assert "each alone" in text


def test_regression(tmp_path):
    result = fedsim.run("diabetes", ["engine.grid=inprocess", "rounds.count=3"], runs=tmp_path)
    assert "reached rmse" in result.report.read_text()
    assert result.metrics["test/rmse"] < 1.0


def test_in_a_notebook(finished):
    text = report.fragment(finished[0])
    assert "<svg" in text
    assert "test/accuracy" in text


SECURE = [
    "engine.grid=inprocess",
    "engine.tier=resident",
    "rounds.count=2",
    "rounds.dropout=0.1",
    "evaluation.federated_every=0",
]


@pytest.mark.parametrize("name", ["ideal", "secagg", "secagg+", "ckks"])
def test_a_secure_sum_is_said_with_what_it_protects_and_what_not(name, tmp_path):
    settings = [f"secure_sum.name={name}", "secure_sum.adversaries=0"]
    result = fedsim.run("digits", [*SECURE, *settings], runs=tmp_path)
    content = json.loads((result.folder / "report.json").read_text())
    jsonschema.validate(content, SCHEMA)
    found = content["sections"]["secure_sum"]
    counts = [entry["results"] for entry in result.history]
    assert found["survivors"] == {"least": min(counts), "most": max(counts)}
    has_graph = name in ("secagg", "secagg+")
    assert found["graph"] == ("full" if has_graph else "none")  # twenty clients are few
    assert (found["threshold"], found["least_survivors"], found["bits"]) == (14, 14, 32)
    assert found["step"] == 2.0 ** -found["fraction_bits"]
    html = unescape((result.folder / "report.html").read_text())
    assert "Secure aggregation alone gives no epsilon" in html
    assert (ckks.TRUST in html) == (name == "ckks")
    assert ("no masks, simulated" in html) == (name == "ideal")
    assert bool(found["protects"]) == (name != "ideal")
    (check,) = [c for c in content["sections"]["checks"] if c["check"] == "Privacy protection"]
    assert check["status"] == "warn"
    assert ("simulated without masks" if name == "ideal" else "sums alone") in check["reason"]


def test_a_plain_sum_has_no_such_section(tmp_path):
    result = fedsim.run("digits", SECURE, runs=tmp_path)
    content = json.loads((result.folder / "report.json").read_text())
    assert "secure_sum" not in content["sections"]
    assert result.stored.facts["secure_sum"] == {}


@pytest.mark.parametrize("name", ["ideal", "secagg", "secagg+", "ckks"])
def test_the_plan_knows_what_a_secure_sum_costs(name, tmp_path):
    settings = [*SECURE[:3], *SECURE[4:], f"secure_sum.name={name}", "secure_sum.bits=20"]
    settings.append("secure_sum.adversaries=0")
    planned = fedsim.plan("digits", settings)
    result = fedsim.run("digits", settings, runs=tmp_path)
    for key in ("bytes_up", "bytes_down"):
        assert planned[key] == pytest.approx(result.stored.summary[key], rel=0.02)
    assert planned["secure_sum"] == result.stored.facts["secure_sum"]
