"""The thin Flower app under plain `flwr run`, on Flower's own simulation engine."""

import json

import pytest

import fedsim


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_flwr_run_gives_the_model_of_fedsim_run(flwr_run, tmp_path):
    output = tmp_path / "rounds.jsonl"
    overrides = "rounds.count=2 partition.clients=4 evaluation.federated_every=1 model.name=mlp"
    runs = tmp_path / "deployed"
    run_config = f'overrides="{overrides}" output="{output}" runs="{runs}"'
    said = flwr_run(run_config, 4)
    assert output.exists(), said
    rounds = [json.loads(line) for line in output.read_text().splitlines()]
    here = fedsim.run(
        "digits",
        [*overrides.split(), "engine.grid=inprocess", "engine.tier=resident"],
        runs=tmp_path / "runs",
    )
    assert [entry["model_sha256"] for entry in rounds] == [
        entry["model_sha256"] for entry in here.history
    ]
    assert [entry["metrics"] for entry in rounds] == [entry["metrics"] for entry in here.history]
    assert [entry["lost"] for entry in rounds] == [0, 0]
    recorded = fedsim.store.RunStore(runs).get("last")
    assert recorded.status == "finished"
    assert recorded.summary["model_sha256"] == here.model_sha256
