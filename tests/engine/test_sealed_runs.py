"""Runs with `storage.encrypt`: the same results, resumable, and nothing readable on the disk."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load, load_file

import fedsim
from fedsim.data import open_clients
from fedsim.data.digits import Digits
from fedsim.data.partition.dirichlet import Dirichlet
from fedsim.engine.checkpoint import load_checkpoint
from fedsim.errors import RunFailedError, SealingError, SetupError
from fedsim.events import RoundDone
from fedsim.messages import memo_of
from fedsim.run_files import RunFiles, files_of
from fedsim.sealing import StorageKeys, rewrap_file, sealed_files, storage_keys
from fedsim.store import RunStore

KEY = "5a" * 32


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("FEDSIM_STORAGE_KEY", KEY)
    monkeypatch.delenv("FEDSIM_STORAGE_KEY_FILE", raising=False)


def sealed(tiny, **tables):
    return tiny(storage={"encrypt": True}, **tables)


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pieces(array) -> list[bytes]:
    """Cut an array's bytes into pieces that do not occur by chance."""
    content = np.ascontiguousarray(array).tobytes()
    found = [content[i : i + 16] for i in range(0, len(content) - 16, 16)]
    return [piece for piece in found if len(set(piece)) > 6]


def test_a_sealed_run_comes_to_the_same_and_leaves_nothing_readable(tiny, tmp_path, key):
    memos = {"name": "sgd", "keep_optimizer": True}
    tables = {"local": memos, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}
    plain = fedsim.run(tiny(**tables), runs=tmp_path / "plain")
    result = fedsim.run(sealed(tiny, **tables), runs=tmp_path / "sealed")
    assert result.model_sha256 == plain.model_sha256

    checkpoint = load_checkpoint(plain.folder / "checkpoint.safetensors")
    searched = {"model": pieces(load_file(plain.folder / "model.safetensors").popitem()[1])}
    searched["state"] = pieces(checkpoint.state["model"].numpy())
    searched["memos"] = [
        piece
        for record in RunFiles(plain.folder, plain.run_id).memos(checkpoint).values()
        for tensor in memo_of(record).values()
        for piece in pieces(tensor.numpy())
    ]
    clients = open_clients(Digits(), Dirichlet(10), seed=0, holdout=0.1)
    searched["examples"] = [piece for row in clients.test().x for piece in pieces(row)]
    searched["log"] = [b"running from round", b"finished\n"]
    texts = {name: b"\0".join(files_under(folder).values()) for name, folder in
             (("plain", tmp_path / "plain"), ("sealed", tmp_path / "sealed"))}  # fmt: skip
    for what, found in searched.items():
        assert len(found) >= 2, what
        assert any(piece in texts["plain"] for piece in found), what  # the search works
        assert not any(piece in texts["sealed"] for piece in found), what
    names = files_under(tmp_path / "sealed")
    assert not [n for n in names if n.endswith((".safetensors", ".npy", ".log", ".tmp"))]

    files = files_of(result.folder, result.run_id, result.stored.config)
    own, other = load(files.model()), load_file(plain.folder / "model.safetensors")
    assert own.keys() == other.keys()
    assert all(bool((own[name] == other[name]).all()) for name in own)
    assert files.log().text.splitlines()[-1].endswith(" finished")


def test_a_sealed_run_is_resumed(tiny, tmp_path, key):
    whole = fedsim.run(tiny(rounds={"count": 5}), runs=tmp_path / "whole")

    class Stop(Exception):  # noqa: N818 - stands for a crash
        pass

    def stop(event):
        if isinstance(event, RoundDone) and event.record.round == 2:
            raise Stop

    with pytest.raises(Stop):
        fedsim.run(sealed(tiny, rounds={"count": 5}), runs=tmp_path / "cut", listener=stop)
    result = fedsim.resume("last", runs=tmp_path / "cut")
    assert result.model_sha256 == whole.model_sha256
    text = files_of(result.folder, result.run_id, result.stored.config).log().text
    assert "resumed after round" in text
    assert text.count("running from round") == 2


@pytest.mark.slow
def test_a_sealed_run_on_ray(tiny, tmp_path, key, no_ray):
    plain = fedsim.run(tiny(), runs=tmp_path / "plain")
    tables = {"engine": {"grid": "ray", "workers": 2}}
    result = fedsim.run(sealed(tiny, **tables), runs=tmp_path / "sealed")
    assert result.model_sha256 == plain.model_sha256


@pytest.mark.parametrize("text", ["", "no key"])
def test_without_a_key_nothing_starts(tiny, tmp_path, monkeypatch, text):
    monkeypatch.delenv("FEDSIM_STORAGE_KEY_FILE", raising=False)
    monkeypatch.setenv("FEDSIM_STORAGE_KEY", text)
    with pytest.raises(SetupError, match="FEDSIM_STORAGE_KEY") as caught:
        fedsim.run(sealed(tiny), runs=tmp_path / "runs")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "runs").exists()


def interrupted(tiny, tmp_path):
    """Return a run that is not finished, and its files."""

    def stop(event):
        if isinstance(event, RoundDone):
            raise KeyboardInterrupt

    with pytest.raises(fedsim.errors.Interrupted):
        fedsim.run(sealed(tiny, rounds={"count": 4}), runs=tmp_path, listener=stop)
    stored = RunStore(tmp_path).get("last")
    return stored, files_of(stored.folder, stored.id, stored.config)


def test_another_key_does_not_resume(tiny, tmp_path, key, monkeypatch):
    interrupted(tiny, tmp_path)
    monkeypatch.setenv("FEDSIM_STORAGE_KEY", "00" * 32)
    with pytest.raises(SetupError, match="not among the keys"):
        fedsim.resume("last", runs=tmp_path)


def test_a_rotated_key_resumes(tiny, tmp_path, key, monkeypatch):
    interrupted(tiny, tmp_path)
    monkeypatch.setenv("FEDSIM_STORAGE_KEY", f"{KEY} {'00' * 32}")
    keys = storage_keys()
    assert [rewrap_file(path, keys) for path in sealed_files(tmp_path)]
    monkeypatch.setenv("FEDSIM_STORAGE_KEY", "00" * 32)
    whole = fedsim.run(tiny(rounds={"count": 4}), runs=tmp_path / "whole")
    assert fedsim.resume("last", runs=tmp_path).model_sha256 == whole.model_sha256


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "run.log"])
def test_changed_files_do_not_resume(name, tiny, tmp_path, key):
    stored, files = interrupted(tiny, tmp_path)
    path = files.path(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SealingError, match=f"{path.name}.*changed"):
        fedsim.resume(stored.id, runs=tmp_path)


@pytest.mark.slow
def test_files_of_another_run_or_kind_are_not_taken(tiny, tmp_path, key):
    first, own = interrupted(tiny, tmp_path)
    second, others = interrupted(tiny, tmp_path)
    before = others.path("checkpoint.safetensors").read_bytes()
    others.path("checkpoint.safetensors").write_bytes(
        own.path("checkpoint.safetensors").read_bytes()
    )
    with pytest.raises(SealingError, match=f"run = '{first.id}', not '{second.id}'"):
        fedsim.resume(second.id, runs=tmp_path)
    others.path("checkpoint.safetensors").write_bytes(others.path("model.safetensors").read_bytes())
    with pytest.raises(SealingError, match="sealed as 'model', not as 'checkpoint'"):
        fedsim.resume(second.id, runs=tmp_path)
    others.path("checkpoint.safetensors").write_bytes(before)
    assert fedsim.resume(second.id, runs=tmp_path).status == "finished"


def test_a_readable_checkpoint_is_not_taken_for_a_sealed_one(tiny, tmp_path, key):
    stored, files = interrupted(tiny, tmp_path)
    done = files.load_checkpoint()
    files.path("checkpoint.safetensors").unlink()
    RunFiles(stored.folder, stored.id).save_checkpoint(done, "")
    assert files.load_checkpoint() is None
    RunFiles(stored.folder, stored.id).path("checkpoint.safetensors").replace(
        files.path("checkpoint.safetensors")
    )
    with pytest.raises(SealingError, match="not a sealed file"):
        files.load_checkpoint()


def test_a_sealed_file_that_holds_no_checkpoint_says_so(tmp_path):
    keys = StorageKeys.of(os.urandom(32))
    files = RunFiles(tmp_path, "a", keys)
    files._seal("checkpoint.safetensors", b"\x10\0\0\0\0\0\0\0no checkpoint", {})
    with pytest.raises(RunFailedError, match="cannot be read as a checkpoint"):
        files.load_checkpoint()
    with pytest.raises(SetupError, match="cannot read"):
        files.model()
    with pytest.raises(SetupError, match="cannot read"):
        files.log()


def test_a_line_that_a_crash_tore_off_is_said_in_the_log(tmp_path):
    files = RunFiles(tmp_path, "a", StorageKeys.of(os.urandom(32)))
    writer = files.writer()
    for line in ("first\n", "second\n"):
        writer.append(line)
    writer.close()
    path = files.path("run.log")
    path.write_bytes(path.read_bytes()[:-3])
    said = "(41 bytes of a line that a crash cut short are left out here)\n"  # 1 + 20 + 7 + 16 - 3
    assert files.log().torn_bytes == 41
    writer.append("third\n")
    writer.append("fourth\n")
    writer.close()
    assert files.log().text == f"first\n{said}third\nfourth\n"
    assert (files.log().torn_bytes, files.log().dropped_bytes) == (0, 41)
