"""Nodes with files of their own agree on the cut that all their rows in one place would have."""

from datetime import UTC, datetime

import pytest

from fedsim import keys
from fedsim.cut_rounds import joined
from fedsim.engine.agreeing import opened
from fedsim.federation import Places
from fedsim.node.audit import AuditLog
from fedsim.rounds import run_rounds, start_state

SCHEMA = {
    "age": {
        "role": "quasi",
        "hierarchy": {"name": "intervals", "min": 0, "max": 99, "widths": [10, 50]},
    },
    "sex": {"role": "quasi", "hierarchy": {"name": "categories", "values": ["f", "m"]}},
    "pressure": {"role": "insensitive"},
    "ill": {"role": "sensitive"},
}
MASKED, IDEAL = {"name": "secagg"}, {"name": "ideal"}


@pytest.fixture
def directory(hospitals, tmp_path):
    """Identities in the nodes' folders, which their policies now ask for; the server's list."""
    now = datetime.now(UTC).replace(microsecond=0)
    made = keys.init(tmp_path / "keys", profile="standard", now=now, days=90, authority_days=900)
    for own in hospitals.folders:
        keys.add(made, own.name, now=now, days=30)
    for own in hospitals.folders:
        (own / "identity.key").write_bytes((made.node(own.name) / "identity.key").read_bytes())
        (own / "identity.key").chmod(0o600)
        (own / "identities.json").write_bytes(made.identities.read_bytes())
        (own / "ca.crt").write_bytes((made.authority / "ca.crt").read_bytes())
    hospitals.policy(secure_aggregation=True, minimum_cohort=3)
    return made.load_identities().directory


def experiment(hospitals, secure, **settings):
    settings = {
        "name": "sets",
        "columns": SCHEMA,
        "k": 20,
        "cut": "shared",
        "compare_raw": False,
        **settings,
    }
    return hospitals.config(anonymization=settings, secure_sum=secure, rounds={"count": 1})


def run(hospitals, directory, config):
    """A server without rows, before and in round 1; what it knows in the end, and the rounds."""
    grid, server = hospitals.grid(config), hospitals.server(config)
    nodes = grid.population.nodes
    carrier, server = joined(grid, nodes, server, directory)
    start = start_state(server)
    records = [r for r, _ in run_rounds(carrier, nodes, server, start, directory=directory)]
    return server, records


def test_nodes_agree_on_the_cut_of_the_pooled_table(hospitals, directory):
    server, records = run(hospitals, directory, experiment(hospitals, MASKED))
    here = opened(experiment(hospitals, IDEAL), Places())
    told, expected = server.anonymization["agreed"], here.anonymization["agreed"]
    assert told["sha256"] == expected["sha256"]
    assert (told["classes"], told["late"]) == (expected["classes"], [])
    assert told["classes"] > 1
    assert "reached" not in server.anonymization
    assert [record.lost for record in records] == [0]
    log = AuditLog(hospitals.folders[1] / "audit.jsonl").links()
    kinds = [link.entry.kind for link in log]
    assert kinds.count("query.cut_masked") == 2 * told["sums"]
    assert kinds.count("query.cut_frozen") == kinds.count("train.sa_masked") == 2
    pins = [list((folder / "pins").glob("*.json")) for folder in hospitals.folders]
    assert [len(own) for own in pins] == [1, 1, 1]


def test_a_node_refuses_a_second_cut_of_its_rows_in_a_later_run(hospitals, directory):
    first, _ = run(hospitals, directory, experiment(hospitals, MASKED))
    again, records = run(hospitals, directory, experiment(hospitals, MASKED))
    assert again.anonymization["agreed"]["sha256"] == first.anonymization["agreed"]["sha256"]
    assert [record.lost for record in records] == [0]
    with pytest.raises(Exception, match="under another cut"):
        run(hospitals, directory, experiment(hospitals, MASKED, k=30))
