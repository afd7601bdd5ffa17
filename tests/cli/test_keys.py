"""`fedsim keys` and what goes with it: what is printed, which exit codes, and sealed runs."""

import json
import sys
from pathlib import Path

import pytest

import fedsim
from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.cli._app import main
from fedsim.run_files import files_of, rewrap_all
from fedsim.sealing import StorageKeys, sealed_files
from fedsim.secagg import ckks

TINY = {
    "name": "tiny",
    "data": {"name": "digits"},
    "partition": {"name": "iid", "clients": 4},
    "model": {"name": "linear"},
    "rounds": {"count": 2},
    "engine": {"grid": "inprocess", "tier": "resident"},
    "storage": {"encrypt": True},
}


@pytest.fixture
def fedsim_(monkeypatch, capsys, tmp_path):
    """Return what runs a command in a new folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for name in ("FEDSIM_STORAGE_KEY", "FEDSIM_STORAGE_KEY_FILE", "FEDSIM_RUNS"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedsim", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        found = capsys.readouterr()
        return ended.value.code or 0, found.out, found.err

    return call


def last_json(text):
    return json.loads(text.splitlines()[-1])


@pytest.mark.parametrize("profile", ["standard", "fips"])
def test_a_folder_of_keys_from_beginning_to_end(fedsim_, profile):
    code, out, _ = fedsim_("keys", "init", "--host", "fed.example.org", "--profile", profile)
    assert code == 0
    assert "TLS of the server, for fed.example.org" in out
    assert f"FEDSIM_STORAGE_KEY_FILE={Path('keys/storage.key').absolute()}" in out
    for name in ("hospital-a", "hospital-b"):
        code, out, _ = fedsim_("keys", "add", name)
        assert code == 0
        assert f"flwr supernode register keys/nodes/{name}/supernode.pub" in out
    code, out, _ = fedsim_("keys", "rotate", "hospital-a", "--json")
    assert (code, last_json(out)["version"], last_json(out)["id"]) == (0, 4, 0)
    assert fedsim_("keys", "rotate", "server")[0] == 0
    code, out, _ = fedsim_("keys", "revoke", "hospital-b")
    assert "hospital-b (client 1) is off the list, which is now version 5" in out
    code, out, _ = fedsim_("keys", "show")
    assert code == 0
    assert "hospital-a" in out
    assert "client 1, revoked" in out
    assert f"profile: {profile}" in out
    code, out, _ = fedsim_("keys", "show", "--json")
    assert [row["kind"] for row in last_json(out)["keys"]].count("identity") == 2


def test_one_key_of_all_clients_for_ckks(fedsim_):
    code, out, _ = fedsim_("keys", "ckks", "all.key", "--json")
    assert code == 0
    found = last_json(out)
    content = Path("all.key").read_bytes()
    assert found["fingerprint"] == ckks.open_key(content).fingerprint.hex()
    assert Path("all.key").stat().st_mode & 0o777 == 0o600
    code, _, err = fedsim_("keys", "ckks", "all.key")
    assert code == 2
    assert "never overwritten" in err
    assert Path("all.key").read_bytes() == content
    _, out, _ = fedsim_("keys", "ckks", "other.key")
    assert ckks.TRUST in out


def test_a_key_for_pseudonyms(fedsim_):
    code, out, _ = fedsim_("keys", "pseudonym", "names.key", "--json")
    assert code == 0
    content = Path("names.key").read_bytes()
    keys = PseudonymKeys.read(Path("names.key"))
    assert last_json(out)["fingerprint"] == keys.fingerprint
    assert Path("names.key").stat().st_mode & 0o777 == 0o600
    code, _, err = fedsim_("keys", "pseudonym", "names.key")
    assert code == 2
    assert "never overwritten" in err
    assert Path("names.key").read_bytes() == content
    _, out, _ = fedsim_("keys", "pseudonym", "other.key")
    secret = Path("other.key").read_text().split()[-1]
    assert "FEDSIM_PSEUDONYM_KEY_FILE" in out
    assert secret not in out
    assert PseudonymKeys.read(Path("other.key")).fingerprint != keys.fingerprint


def test_nothing_printed_is_secret(fedsim_):
    outputs = [
        fedsim_("keys", *arguments)
        for arguments in (
            ["init"], ["add", "a"], ["add", "b", "--json"], ["show"], ["show", "--json"],
            ["rotate", "a"], ["rotate", "storage"], ["rotate", "server", "--json"],
            ["rotate", "storage", "--forget-old", "--json"], ["revoke", "b"],
        )
    ]  # fmt: skip
    assert [code for code, _, _ in outputs] == [0] * len(outputs)
    text = "".join(out + err for _, out, err in outputs)
    for path in Path("keys").rglob("*.key"):
        for line in path.read_text().splitlines():
            assert line.startswith("-----") or line.split()[-1] not in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["add", "a"], 3, "fedsim keys init --folder keys"),
        (["show"], 3, "fedsim keys init --folder keys"),
        (["init", "--profile", "des"], 2, "standard or fips"),
        (["init", "--host", "bücher"], 2, "neither a host name nor an IP address"),
    ],
)
def test_errors_before_there_is_a_folder(fedsim_, arguments, code, message):
    ended, _, err = fedsim_("keys", *arguments)
    assert (ended, message in err) == (code, True), err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["init"], 2, "never overwritten"),
        (["add", "Hospital A"], 2, "letters a-z, digits and hyphens"),
        (["add", "server"], 2, "are taken"),
        (["revoke", "nobody"], 2, "a node on the list"),
        (["rotate", "nobody"], 2, "a node on the list"),
    ],
)
def test_errors_say_what_is_accepted(fedsim_, arguments, code, message):
    fedsim_("keys", "init")
    ended, _, err = fedsim_("keys", *arguments)
    assert (ended, message in err) == (code, True), err


def test_a_changed_list_is_an_authentication_error(fedsim_):
    fedsim_("keys", "init")
    path = Path("keys/identities.json")
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    code, out, err = fedsim_("keys", "show", "--json")
    assert (code, last_json(out)["exit_code"]) == (5, 5)
    assert "not signed by this authority" in err


def test_a_sealed_run_with_the_key_of_the_folder(fedsim_, monkeypatch):
    import tomli_w

    Path("tiny.toml").write_text(tomli_w.dumps(TINY))
    code, _, err = fedsim_("run", "tiny.toml")
    assert code == 3
    assert "FEDSIM_STORAGE_KEY_FILE" in err
    assert not Path("runs").exists()
    fedsim_("keys", "init")
    monkeypatch.setenv("FEDSIM_STORAGE_KEY_FILE", "keys/storage.key")
    assert fedsim_("run", "tiny.toml")[0] == 0
    before = {path: path.read_bytes() for path in sealed_files(Path("runs"))}
    names = sorted(path.name for path in before)
    assert names[:1] == ["checkpoint.safetensors.sealed"]
    assert {"model.safetensors.sealed", "run.log.sealed"} <= set(names)

    code, out, _ = fedsim_("keys", "rotate", "storage", "--forget-old", "--json")
    found = last_json(out)
    assert (code, found["rewrapped"], found["keys"]) == (0, len(before), [found["key"]])
    after = {path: path.read_bytes() for path in sealed_files(Path("runs"))}
    for path, content in before.items():
        differing = sum(a != b for a, b in zip(content, after[path], strict=True))
        slots = 1 + (path.name == "run.log.sealed")  # a log has one for every time it was opened
        assert 0 < differing <= 48 * slots, path
    code, out, _ = fedsim_("runs", "unseal", "last", "open")
    assert (code, out.split()) == (0, ["open/model.safetensors", "open/run.log"])
    assert "finished" in Path("open/run.log").read_text()
    monkeypatch.setenv("FEDSIM_STORAGE_KEY_FILE", "")
    assert fedsim_("runs", "unseal", "last", "open")[0] == 3
    Path("keys/storage.key").chmod(0o644)
    monkeypatch.setenv("FEDSIM_STORAGE_KEY_FILE", "keys/storage.key")
    code, _, err = fedsim_("run", "tiny.toml")
    assert code == 3
    assert "chmod 600 keys/storage.key" in err


def test_a_run_that_is_going_on_keeps_its_key(fedsim_, monkeypatch):
    import fcntl

    fedsim_("keys", "init")
    monkeypatch.setenv("FEDSIM_STORAGE_KEY_FILE", "keys/storage.key")
    result = fedsim.run(TINY, runs="runs")
    before = result.folder.joinpath("run.log.sealed").read_bytes()
    with (result.folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, out, _ = fedsim_("keys", "rotate", "storage")
        assert code == 0
        assert f"{result.run_id} is going on" in out
        code, _, err = fedsim_("keys", "rotate", "storage", "--forget-old")
        assert code == 1
        assert "the old storage keys are kept" in err
    assert result.folder.joinpath("run.log.sealed").read_bytes() == before
    assert len(StorageKeys.read(Path("keys/storage.key")).keys) == 3
    found = rewrap_all(Path("runs").absolute(), StorageKeys.read(Path("keys/storage.key")))
    assert (found.running, found.done > 2) == ((), True)
    files = files_of(result.folder, result.run_id, result.stored.config)
    assert files.log().text.endswith("finished\n")
