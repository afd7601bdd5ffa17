"""`fedsim node`: would it be allowed, what was asked, what clients have in common."""

import json

import numpy as np
import pandas as pd
import pytest

from fedsim import crypto
from fedsim.cli import main
from fedsim.node.approval import Approver, approvers_text
from fedsim.node.audit import AuditLog, Record
from fedsim.node.policy import policy_from_text, template

EXPERIMENT = """
[data]
path = "wards.csv"
target = "ill"
declared = "common.json"

[partition]
by = "hospital"

[model]
name = "linear"

[privacy]
unit = "local"
noise_multiplier = 4.0
delta = 1e-6

[secure_sum]
name = "secagg"
min_cohort = 5

[evaluation]
federated_every = 0
central_every = 0
"""


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["fedsim", "node", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def node(tmp_path):
    count = 60
    pd.DataFrame(
        {
            "hospital": np.repeat(["a", "b", "c"], count // 3),
            "age": np.arange(count) % 37 + 20,
            "ill": np.where(np.arange(count) % 3, "no", "yes"),
        }
    ).to_csv(tmp_path / "wards.csv", index=False)
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "policy.toml").write_text(template())
    (folder / "node.toml").write_text('[data]\npath = "../wards.csv"\n')
    public = crypto.suite("standard").signing_public(bytes(32))
    (folder / "approvers.toml").write_text(approvers_text({"anna": Approver("anna", public)}))
    return folder


def test_declare_then_check_then_allow(cli, node, tmp_path):
    plain = ["experiment.toml", "data.declared="]
    code, out, _ = cli("declare", *plain, "--output", "common.json", "--with-rows")
    assert code == 0
    assert "3 clients" in out
    declared = json.loads((tmp_path / "common.json").read_text())
    assert declared["clients"] == ["a", "b", "c"]
    assert declared["rows"] == [16, 16, 16]
    assert json.loads(cli("declare", *plain)[1])["classes"] == ["no", "yes"]
    code, out, _ = cli("check", node, "experiment.toml")
    assert code == 2
    assert "columns age, ill are asked for" in out
    policy = template().replace("columns = []", 'columns = ["age", "ill"]')
    (node / "policy.toml").write_text(policy)
    code, out, _ = cli("check", node, "experiment.toml")
    assert code == 0, out
    assert "allowed   once it is signed" in out
    assert "approvers anna" in out
    code, out, _ = cli("check", node, "experiment.toml", "privacy.noise=seeded", "--json")
    found = json.loads(out)
    assert (code, found["status"], len(found["reasons"])) == (2, "refused", 1)
    assert found["columns"] == ["age", "ill"]


def test_a_node_without_a_policy_refuses_everything(cli, node, tmp_path):
    cli("declare", "experiment.toml", "data.declared=", "--output", "common.json")
    (node / "policy.toml").write_text("minimum_cohort = 3")
    code, _, err = cli("check", node, "experiment.toml")
    assert code == 2
    assert "policy.secure_aggregation = None" in err
    (node / "policy.toml").unlink()
    assert "without one all is refused" in cli("check", node, "experiment.toml")[2]
    assert cli("check", tmp_path / "nowhere", "experiment.toml")[0] == 3


def test_the_audit_log_is_verified_and_shown(cli, node):
    log = AuditLog(node / "audit.jsonl")
    for number in range(1, 4):
        log.add(
            Record("2026-11-27T00:00:00Z", "7", "ab" * 32, "anna", "train", number, "answered",
                   rows=16, sent_bytes=1000)
        )  # fmt: skip
    code, out, _ = cli("audit", node, "--last", "2")
    assert code == 0
    assert "3, verified" in out
    assert "3,000 bytes" in out
    found = json.loads(cli("audit", node, "--json", "--last", "1")[1])
    assert found["records"][0]["round"] == 3
    assert found["last_hash"] == found["records"][0]["hash"]
    path = node / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1000", b"9000", 1))
    code, _, err = cli("audit", node)
    assert code == 1
    assert "line 1: breaks the hash chain" in err


def test_an_empty_log_and_the_template(cli, node):
    assert "0, verified" in cli("audit", node)[1]
    assert policy_from_text(cli("policy")[1]) == policy_from_text(template())


def test_what_cannot_be_declared_is_refused(cli, node):
    assert cli("declare", "digits")[0] == 2
    arguments = ["experiment.toml", "data.declared=", "partition.by=ward"]
    code, _, err = cli("declare", *arguments)
    assert code == 2
    assert "partition.by" in err
