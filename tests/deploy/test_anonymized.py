"""Anonymized records under plain `flwr run`: the same clients, the same bytes."""

import json

import pytest

import fedsim
from fedsim import config as configuration

EXPERIMENT = """
[data]
path = "people.csv"
target = "ill"

[partition]
name = "iid"
clients = 3

[anonymization]
name = "nodes"
schema = "people.toml"
compare_raw = false

[model]
name = "linear"

[rounds]
count = 2

[evaluation]
federated_every = 1
"""
SCHEMA = """
confirmed = true
columns.age.role = "quasi"
columns.age.hierarchy = { name = "intervals", min = 0, max = 99, widths = [10] }
columns.sex = { role = "quasi", hierarchy = { name = "categories", values = ["f", "m"] } }
columns.ill = { role = "sensitive" }
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_flwr_run_trains_on_the_same_released_records(flwr_run, tmp_path):
    lines = [f"{i * 37 % 90},{'fm'[i % 2]},{'ny'[i * 37 % 90 > 50]}" for i in range(120)]
    (tmp_path / "people.csv").write_text("\n".join(["age,sex,ill", *lines]) + "\n")
    (tmp_path / "people.toml").write_text(SCHEMA)
    (tmp_path / "people-experiment.toml").write_text(EXPERIMENT)
    output = tmp_path / "rounds.jsonl"
    run_config = f'experiment="{tmp_path / "people-experiment.toml"}" output="{output}"'
    run_config += f' runs="{tmp_path / "deployed"}"'
    said = flwr_run(run_config, 3)
    assert output.exists(), said
    rounds = [json.loads(line) for line in output.read_text().splitlines()]
    here = fedsim.run(
        configuration.load(tmp_path / "people-experiment.toml", [], {}),
        ["engine.grid=inprocess", "engine.tier=resident"],
        runs=tmp_path / "runs",
    )
    assert here.stored.facts["anonymization"]["reached"]["k"] >= 5
    assert [entry["model_sha256"] for entry in rounds] == [
        entry["model_sha256"] for entry in here.history
    ]
    assert [entry["metrics"] for entry in rounds] == [entry["metrics"] for entry in here.history]
