"""Correlated noise with a few buffers through whole runs."""

import pytest
import torch

import fedsim
from fedsim import user_level
from fedsim.config import load
from fedsim.engine.checkpoint import load_checkpoint
from fedsim.errors import ConfigError, Interrupted
from fedsim.events import ClientsDone
from fedsim.privacy import matrix
from fedsim.privacy.ledger import Ledger

SETTINGS = [
    "name=buffered",
    "partition={name='iid', clients=30}",
    "model={name='linear'}",
    "rounds={count=6, cohort=10}",
    "evaluation.federated_every=0",
    "engine={grid='inprocess', tier='resident'}",
    "privacy={unit='user', mechanism='blt', sampling='cyclic', noise='seeded'}",
    "privacy.noise_multiplier=0.5",
]  # fmt: skip


def entries(folder):
    (path,) = (folder / "ledger").glob("*.jsonl")
    return Ledger(path).entries()


@pytest.mark.slow
def test_it_is_one_release_goes_on_where_it_was_and_a_round_made_again_is_paid_for(tmp_path):
    def listen(event):
        if isinstance(event, ClientsDone) and event.round > 2:
            raise KeyboardInterrupt

    whole = fedsim.run("digits", SETTINGS, runs=tmp_path / "whole")
    told = whole.stored.facts["privacy"]
    assert (told["mechanism"], told["buffers"], told["min_separation"]) == ("blt", 2, 3)
    with pytest.raises(Interrupted):
        fedsim.run("digits", SETTINGS, runs=tmp_path / "parts", listener=listen)
    (run,) = {entry.run for entry in entries(tmp_path / "parts")}
    resumed = fedsim.resume(run, runs=tmp_path / "parts")
    assert resumed.model_sha256 == whole.model_sha256
    found = entries(tmp_path / "parts")
    assert [e.round for e in found] == [1, 2, 3, 3, 4, 5, 6]
    assert [s.release.mechanism for s in found[0].spends] == ["matrix"]
    (again,) = [s.release for e in found[1:] for s in e.spends]
    # A client may be in the row twice, its own round and the one three before: 1 and c_3.
    column = user_level._correlation(load("digits", SETTINGS), 30).dense()[:, 0]
    std = 0.5 * told["sensitivity"]
    assert again.noise_multiplier == pytest.approx(std / float(1 + column[3]))
    kept = load_checkpoint(whole.folder / "checkpoint.safetensors").state
    buffers = [key for key in kept if key.startswith("privacy/noise/buffer")]
    assert len(buffers) == 2
    assert all(isinstance(kept[key], torch.Tensor) for key in buffers)


def test_its_noise_is_near_that_of_the_best_bands():
    config = [*SETTINGS, "rounds={count=60, cohort=3}"]
    last = []
    for own in ("blt", "matrix"):
        factorized = user_level._correlation(
            load("digits", [*config, f"privacy.mechanism={own}"]), 30
        )
        errors = matrix.squared_errors(factorized, matrix.workload(60))
        last.append(float(errors.mean().sqrt()) * factorized.sensitivity(6, 10))
    assert 1 <= last[0] / last[1] < 1.1


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("privacy.sampling=truncated", "privacy.sampling"),
        ("privacy.bands=2", "privacy.bands"),
        ("privacy.clipping=adaptive", "privacy.clipping"),
        ("privacy.buffers=0", "privacy.buffers"),
    ],
)
def test_what_does_not_go_with_it_is_refused(override, path):
    with pytest.raises(ConfigError) as refused:
        load("digits", [*SETTINGS, override])
    assert [problem.path for problem in refused.value.problems] == [path]
