"""Checkpoints: complete, atomic, and never half-read."""

import math
import resource
import subprocess
import sys

import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.engine.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from fedsim.errors import RunFailedError, SetupError
from fedsim.messages import memo_of, set_memo


def memo(**tensors):
    record = RecordDict()
    set_memo(record, tensors)
    return record


numbers = st.one_of(st.integers(-(2**60), 2**60), st.floats(), st.booleans(), st.text(max_size=5))
keys = st.text("abcdefgh_", min_size=1, max_size=8)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(keys, numbers, max_size=5), st.integers(0, 10**6))
def test_numbers_survive_to_the_last_bit(tmp_path_factory, values, number):
    path = tmp_path_factory.mktemp("c") / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(number, values, {}))
    read = load_checkpoint(path)
    assert read.round == number
    assert read.state.keys() == values.keys()
    for key, value in values.items():
        assert type(read.state[key]) is type(value)
        is_nan = isinstance(value, float) and math.isnan(value)
        assert math.isnan(read.state[key]) if is_nan else read.state[key] == value


def test_tensors_and_memos_survive(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    shared = torch.arange(6.0, dtype=torch.float64)
    state = {"model": shared, "v": shared[::2], "same": shared, "steps": 3}
    memos = {7: memo(momentum=torch.ones(2, 3), step=torch.tensor(4.0)), 9: RecordDict()}
    save_checkpoint(path, Checkpoint(12, state, memos))
    read = load_checkpoint(path)
    assert all(torch.equal(read.state[k], state[k]) for k in ("model", "v", "same"))
    assert read.state["model"].dtype == torch.float64
    assert sorted(read.memos) == [7, 9]
    assert torch.equal(memo_of(read.memos[7])["momentum"], torch.ones(2, 3))
    assert memo_of(read.memos[7])["step"].shape == ()


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "none") is None


def test_a_state_that_could_not_be_restored_is_refused(tmp_path):
    with pytest.raises(TypeError, match="'moments' is a list"):
        save_checkpoint(tmp_path / "c", Checkpoint(1, {"moments": [1.0]}, {}))


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(1, {"model": torch.ones(100)}, {}))
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], b"", b"not a checkpoint at all"):
        path.write_bytes(damaged)
        with pytest.raises(RunFailedError, match="cannot be read as a checkpoint"):
            load_checkpoint(path)


def test_another_version_is_refused(tmp_path):
    from safetensors.torch import save

    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(save({"state/model": torch.ones(1)}, metadata={"version": "99"}))
    with pytest.raises(RunFailedError, match="version '99'"):
        load_checkpoint(path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    code = """
import pathlib, resource, sys
from fedsim.engine.checkpoint import write_atomically
path = pathlib.Path(sys.argv[1])
write_atomically(path, b"old" * 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    write_atomically(path, b"new" * 10000)
except Exception as error:
    print(type(error).__name__, error)
"""
    path = tmp_path / "file"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("SetupError cannot write")
    assert path.read_bytes() == b"old" * 1000
    assert list(tmp_path.iterdir()) == [path]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(SetupError, match="cannot write"):
        write_atomically(tmp_path / "gone" / "file", b"x")
