"""Real SuperNodes with files of their own, behind a SuperLink with TLS and node authentication."""

import tomllib
from datetime import UTC, datetime

import pytest
import tomli_w

from fedsim.errors import FedsimError
from fedsim.node.account import ledger_of
from fedsim.node.audit import AuditLog
from fedsim.node.experiment import experiment_text


@pytest.fixture
def bundle(hospitals, tmp_path):
    """Folders as `fedsim deploy init` makes them, each with a hospital's file and policy."""
    from fedsim.deploy.bundle import Plan, init
    from fedsim.deploy.processes import free_ports

    port, *ports = free_ports(4)
    names = tuple(folder.name for folder in hospitals.folders)
    made = init(tmp_path / "made", Plan(names, "127.0.0.1", port, days=2), now=datetime.now(UTC))
    hospitals.policy(secure_aggregation=True, minimum_cohort=3, units=["local"], evaluation=False)
    for own, name in zip(ports, names, strict=True):
        folder, theirs = made.node(name), hospitals.root / name
        content = tomllib.loads((folder / "node.toml").read_text())
        content["node"]["port"] = own
        content["data"] = {"path": str(theirs / "patients.csv")}
        (folder / "node.toml").write_text(tomli_w.dumps(content))
        (folder / "policy.toml").write_text((theirs / "policy.toml").read_text())
    return made


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of Flower's own
def test_nodes_run_what_their_policies_allow_on_files_of_their_own(hospitals, bundle):
    from fedsim.deploy.local import federation
    from fedsim.deploy.submit import approved, submit

    private = {"unit": "local", "noise_multiplier": 5.0, "delta": 1e-6}
    allowed = hospitals.config(
        secure_sum={"name": "secagg"}, privacy=private, rounds={"count": 1, "timeout_s": 120.0}
    )
    refused = hospitals.config(secure_sum={"name": "secagg"}, rounds={"count": 1})
    with federation(bundle, lambda event: None) as running, running.connected() as control:
        text = experiment_text(allowed)
        done = submit(control, bundle.operator, approved(bundle.operator, text), lambda event: None)
        assert done.status == "finished"
        text = experiment_text(refused)
        with pytest.raises(FedsimError):
            submit(control, bundle.operator, approved(bundle.operator, text), lambda event: None)
    for folder in sorted((bundle.root / "nodes").iterdir()):
        log = [link.entry for link in AuditLog(folder / "audit.jsonl").links()]
        first = [record for record in log if record.experiment == log[0].experiment]
        assert [r.decision for r in first] == ["allowed", "answered"] * (len(first) // 2)
        assert any("privacy.unit = 'none'" in r.reason for r in log if r.decision == "refused")
        assert len(ledger_of(folder / "ledger", "local").entries()) == 1
