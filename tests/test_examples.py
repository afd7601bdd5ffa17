"""The examples whose data a script makes run, and agree."""

import importlib.util
from pathlib import Path

import pytest

import fedsim

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
def test_the_same_visits_give_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("make_visits", EXAMPLES / "make_visits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(tmp_path / "visits")
    monkeypatch.chdir(tmp_path)
    found = {}
    for name in ("parquet", "sql", "documents"):
        settings = ["engine.grid=inprocess", "rounds.count=3"]
        experiment = str(EXAMPLES / f"visits-{name}.toml")
        result = fedsim.run(experiment, settings, runs=tmp_path / name)
        found[name] = (result.metrics["test/loss"], result.metrics["test/accuracy"])
        assert result.metrics["test/loss"] < 1
    assert found["parquet"] == found["sql"]  # documents have other names of fields: another order
