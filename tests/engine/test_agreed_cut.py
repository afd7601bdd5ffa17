"""A run whose clients agree on a cut: what is kept of it, and resuming under another."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fedsim
from fedsim import agreement
from fedsim.errors import Interrupted, RunFailedError
from fedsim.events import RoundDone
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


def test_a_run_keeps_its_cut_and_goes_on_under_no_other(table: Path, tmp_path: Path) -> None:
    whole = fedsim.run(experiment(table), runs=tmp_path / "whole")
    with pytest.raises(Interrupted):
        fedsim.run(experiment(table), runs=tmp_path, listener=stop)
    store = RunStore(tmp_path)
    kept = store.folder(store.get("people").id) / agreement.CUT_FILE
    cut = agreement.load(kept.parent)
    facts = whole.stored.facts["anonymization"]
    assert cut is not None
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
    with pytest.raises(RunFailedError, match="not the cut"):
        fedsim.resume("people", runs=tmp_path)
    kept.write_text(text)
    resumed = fedsim.resume("people", runs=tmp_path)
    assert resumed.model_sha256 == whole.model_sha256
    assert cut.cut.fingerprint()[:16] in resumed.report.read_text()
