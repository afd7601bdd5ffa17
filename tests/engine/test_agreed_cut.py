"""A run whose clients agree on a cut: what is kept of it, and resuming under another."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fedsim
from fedsim import agreement
from fedsim.errors import BudgetExceededError, ConfigError, Interrupted, RunFailedError
from fedsim.events import RoundDone
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Release
from fedsim.privacy.ledger import Ledger
from fedsim.store import RunStore


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "age": rng.integers(20, 80, 300),
            "land": rng.choice(list("abcd"), 300),
            "site": rng.integers(0, 4, 300),
        }
    )
    frame["ill"] = np.where(frame["age"] + rng.normal(0, 9, 300) > 50, "yes", "no")
    path = tmp_path_factory.mktemp("table") / "people.csv"
    frame.to_csv(path, index=False)
    return path


def experiment(table: Path) -> dict[str, object]:
    ages = {"name": "intervals", "min": 20, "max": 80, "widths": [5, 10, 20]}
    lands = {"name": "categories", "values": list("abcd")}
    answers = {"name": "categories", "values": ["no", "yes"]}
    columns = {
        "age": {"role": "quasi", "hierarchy": ages},
        "land": {"role": "quasi", "hierarchy": lands},
        "ill": {"role": "sensitive", "hierarchy": answers},
    }
    return {
        "name": "people",
        "data": {"name": "table", "path": str(table), "target": "ill", "test": 0.25},
        "partition": {"name": "natural", "by": "site"},
        "anonymization": {
            "name": "sets",
            "columns": columns,
            "k": 5,
            "cut": "shared",
            "compare_raw": False,
        },
        "secure_sum": {"name": "secagg"},
        "model": {"name": "linear"},
        "rounds": {"count": 3},
        "evaluation": {"federated_every": 0},
        "engine": {"grid": "inprocess", "tier": "resident"},
    }


def stop(event: object) -> None:
    if isinstance(event, RoundDone):
        raise KeyboardInterrupt


@pytest.mark.reports
def test_a_run_keeps_its_cut_and_goes_on_under_no_other(table: Path, tmp_path: Path) -> None:
    whole = fedsim.run(experiment(table), runs=tmp_path / "whole")
    with pytest.raises(Interrupted):
        fedsim.run(experiment(table), runs=tmp_path, listener=stop)
    store = RunStore(tmp_path)
    kept = store.folder(store.get("people").id) / agreement.CUT_FILE
    cut = agreement.load(kept.parent)
    facts = whole.stored.facts["anonymization"]
    assert cut.facts() == facts["agreed"]
    assert facts["agreed"]["secure_sum"] == "secagg"
    assert "tree" in json.loads(kept.read_text())
    assert facts["cut"] == "shared"
    assert "tree" not in facts
    text = kept.read_text()
    kept.write_text(text.replace('"sha256":"', '"sha256":"0'))
    with pytest.raises(RunFailedError, match="changed"):
        fedsim.resume("people", runs=tmp_path)
    kept.unlink()
    with pytest.raises(RunFailedError, match="no agreed cut"):
        fedsim.resume("people", runs=tmp_path)
    kept.write_text(text)
    resumed = fedsim.resume("people", runs=tmp_path)
    assert resumed.model_sha256 == whole.model_sha256
    assert cut.cut.fingerprint()[:16] in resumed.report.read_text()


def with_noise(table: Path, **more: object) -> dict[str, object]:
    noise = {"counts_noise_multiplier": 2.0, "counts_delta": 1e-4}
    plain = experiment(table)
    return plain | {"anonymization": {**plain["anonymization"], **noise, **more}}


@pytest.mark.reports
def test_noise_on_the_cut_is_in_the_ledger_once_and_the_cut_is_frozen(
    table: Path, tmp_path: Path
) -> None:
    """Who comes later gets the cut there is: another one would be a second release."""
    with pytest.raises(Interrupted):
        fedsim.run(with_noise(table), runs=tmp_path, listener=stop)
    (path,) = (tmp_path / "ledger").glob("*.example.jsonl")
    releases = [spend.release for entry in Ledger(path).entries() for spend in entry.spends]
    store = RunStore(tmp_path)
    facts = store.get("people").facts["anonymization"]["agreed"]
    assert releases == [Release("gaussian", 2.0)] * facts["sums"]
    assert facts["epsilon"] == epsilon(releases, 1e-4, "zero-out")
    kept = agreement.load(store.folder(store.get("people").id))
    # A resumed run whose cache is gone, as a machine that joins, agrees on nothing anew.
    (tmp_path / "cache").rename(tmp_path / "gone")
    resumed = fedsim.resume("people", runs=tmp_path)
    assert resumed.stored.status == "finished"
    assert len(Ledger(path).entries()) == facts["sums"]
    same = resumed.stored.facts["anonymization"]["agreed"]["sha256"]
    assert same == kept.cut.fingerprint()
    assert f"{facts['epsilon']:.2f}"[:3] in resumed.report.read_text()


def test_a_second_run_trains_by_the_cut_there_is(table: Path, tmp_path: Path) -> None:
    one, two = (fedsim.run(with_noise(table), runs=tmp_path) for _ in range(2))
    assert one.model_sha256 == two.model_sha256
    (path,) = (tmp_path / "ledger").glob("*.example.jsonl")
    assert len(Ledger(path).entries()) == one.stored.facts["anonymization"]["agreed"]["sums"]


def test_a_budget_that_the_sums_would_pass_ends_it_before_training(
    table: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetExceededError) as refused:
        fedsim.run(with_noise(table, counts_epsilon=0.6), runs=tmp_path)
    assert refused.value.exit_code == 4
    assert RunStore(tmp_path).all() == []


def test_a_plan_spends_nothing(table: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fedsim.plan(with_noise(table))["clients"] == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"cut": "local"}, "counts_noise_multiplier"),
        ({"counts_delta": None}, "counts_delta"),
        ({"counts_noise_multiplier": None}, "counts_noise_multiplier"),
        ({"diversity": "distinct"}, "counts_noise_multiplier"),
        ({"k_over": "client"}, "counts_noise_multiplier"),
    ],
    ids=["local", "no-delta", "no-noise", "values", "each-client"],
)
def test_noise_that_promises_nothing_is_refused(
    table: Path, tmp_path: Path, more: dict[str, object], path: str
) -> None:
    content = with_noise(table, **more)
    table_of = content["anonymization"]
    content["anonymization"] = {k: v for k, v in table_of.items() if v is not None}
    with pytest.raises(ConfigError) as caught:
        fedsim.run(content, runs=tmp_path)
    assert f"anonymization.{path}" in [problem.path for problem in caught.value.problems]
