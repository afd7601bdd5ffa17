"""The user's code on nodes that do not have it."""

import importlib
import sys

import pytest

from fedsim.engine import shipping
from fedsim.engine.actor import WorkerSettings, _compare, _enter, public_versions
from fedsim.errors import SetupError


def write(folder, text="WIDTH = 3\n"):
    (folder / "nets" / "deep").mkdir(parents=True)
    (folder / "nets" / "__init__.py").write_text("")
    (folder / "nets" / "deep" / "model.py").write_text(text)
    (folder / "notes.txt").write_text("not code")
    return folder


def test_a_folder_that_is_the_same_on_the_node_is_used_there(tmp_path):
    folder = write(tmp_path / "project")
    (packed,) = shipping.pack([str(folder), str(tmp_path / "missing")])
    assert [name for name, _ in packed.files] == ["nets/__init__.py", "nets/deep/model.py"]
    assert shipping.arrive([packed], tmp_path / "session") == {str(folder): str(folder)}
    assert not (tmp_path / "session").exists()


@pytest.mark.parametrize("state", ["missing", "other"])
def test_a_node_without_the_code_or_with_another_state_of_it_gets_a_copy(state, tmp_path):
    folder = write(tmp_path / "project")
    packed = shipping.pack([str(folder)])
    folder.rename(tmp_path / "elsewhere")
    if state == "other":
        write(folder, "WIDTH = 4\n")
    where = shipping.arrive(packed, tmp_path / "session")[str(folder)]
    copy = tmp_path / "session" / f"code-{packed[0].sha256}"
    assert where == str(copy)
    assert (copy / "nets" / "deep" / "model.py").read_text() == "WIDTH = 3\n"
    assert not (copy / "notes.txt").exists()
    assert shipping.arrive(packed, tmp_path / "session")[str(folder)] == where  # written once
    assert [path.name for path in (tmp_path / "session").iterdir()] == [copy.name]


def test_a_worker_imports_what_was_sent(tmp_path, monkeypatch):
    folder = write(tmp_path / "project")
    packed = shipping.pack([str(folder)])
    folder.rename(tmp_path / "elsewhere")
    monkeypatch.setattr("fedsim.engine.actor._session_folder", lambda: tmp_path / "session")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    _enter(WorkerSettings(code=(str(folder),), folder=str(folder), shipped=packed))
    try:
        assert importlib.import_module("nets.deep.model").WIDTH == 3
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "nets"]:
            del sys.modules[name]


def test_a_node_with_other_versions_is_told_from_one_with_the_same():
    _compare(public_versions())
    wanted = [
        (name, "0.0.1" if name == "torch" else version) for name, version in public_versions()
    ]
    found = dict(public_versions())["torch"]
    with pytest.raises(SetupError, match=rf"has torch {found}, where the run has .*torch 0\.0\.1"):
        _compare(wanted)
