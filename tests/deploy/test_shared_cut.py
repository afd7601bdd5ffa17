"""SuperNodes agree on a cut: what a simulation of the same clients agrees on, and trains."""

import pytest

import fedsim
from fedsim import agreement
from fedsim.deploy.local import run_local

SETTINGS = [
    "anonymization.cut=shared",
    "anonymization.name=sets",
    "anonymization.k=200",
    "anonymization.compare_raw=false",
    "secure_sum.name=secagg",
    "secure_sum.threshold=0.51",
    "evaluation.federated_every=0",
    "rounds.count=1",
    "rounds.timeout_s=240",
]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_supernodes_agree_on_the_cut_of_a_simulation(data_dir, tmp_path):
    own = ["engine.grid=inprocess", "engine.tier=resident"]
    here = fedsim.run(
        "hospitals-anonymized", [*SETTINGS, *own], runs=tmp_path / "here", data_dir=data_dir
    )
    found = run_local(
        "hospitals-anonymized", SETTINGS, 4, runs=str(tmp_path / "there"), data_dir=str(data_dir)
    )
    told, expected = (result.stored.facts["anonymization"]["agreed"] for result in (found, here))
    assert told == expected
    assert (told["late"], told["early"]) == ([], "")
    assert told["classes"] > 1
    assert found.model_sha256 == here.model_sha256
    assert agreement.load(found.folder).cut.fingerprint() == told["sha256"]
    assert "stays on its node" in found.report.read_text()
