"""SuperNodes agree on a cut: what a simulation of the same clients agrees on, and trains."""

import numpy as np
import pandas as pd
import pytest

import fedsim
from fedsim import agreement
from fedsim.deploy.local import run_local

EXPERIMENT = """
[data]
path = "people.csv"
target = "ill"

[partition]
name = "iid"
clients = 3

[anonymization]
name = "sets"
schema = "people.toml"
k = 25
cut = "shared"
compare_raw = false

[secure_sum]
name = "secagg"
threshold = 0.51

[model]
name = "linear"

[rounds]
count = 1
timeout_s = 240

[evaluation]
federated_every = 0
"""
SCHEMA = """
confirmed = true
columns.age.role = "quasi"
columns.age.hierarchy = { name = "intervals", min = 0, max = 99, widths = [10] }
columns.sex = { role = "quasi", hierarchy = { name = "categories", values = ["f", "m"] } }
columns.ill = { role = "sensitive" }
"""


@pytest.fixture
def experiment(tmp_path):
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"age": rng.integers(0, 100, 150), "sex": rng.choice(["f", "m"], 150)})
    frame["ill"] = np.where(frame["age"] > 50, "yes", "no")
    frame.to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "people.toml").write_text(SCHEMA)
    path = tmp_path / "shared.toml"
    path.write_text(EXPERIMENT)
    return path


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_supernodes_agree_on_the_cut_of_a_simulation(experiment, tmp_path):
    found = run_local(str(experiment), [], 3, runs=str(tmp_path / "deployed"))
    own = ["engine.grid=inprocess", "engine.tier=resident"]
    here = fedsim.run(experiment, own, runs=tmp_path / "here")
    told, expected = (result.stored.facts["anonymization"]["agreed"] for result in (found, here))
    assert told == expected
    assert (told["late"], told["early"]) == ([], "")
    assert told["classes"] > 1
    assert found.model_sha256 == here.model_sha256
    assert agreement.load(found.folder).cut.fingerprint() == told["sha256"]
    assert "stays on its node" in found.report.read_text()
