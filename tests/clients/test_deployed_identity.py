"""Who a deployed client is under a secure sum: its own key, its own list, its own policy."""

from datetime import UTC, datetime

import numpy as np
import pytest

from fedsim import config as configuration
from fedsim import crypto, keys
from fedsim.clients._quiet import LostClientError
from fedsim.clients._secure_sum import SECRET, deployed, server_directory
from fedsim.secagg.parameters import Parameters
from fedsim.secagg.server import ServerSession

NOW = datetime.now(UTC).replace(microsecond=0)
CONFIG = configuration.load(
    "digits", ["secure_sum.name=secagg", "evaluation.federated_every=0", "rounds.cohort=4"]
)


@pytest.fixture(params=["standard", "fips"])
def folder(request, tmp_path):
    made = keys.init(tmp_path / "keys", profile=request.param, now=NOW, days=90, authority_days=900)
    for name in "abcd":
        keys.add(made, name, now=NOW, days=30)
    return made


def node(folder, name, **more):
    own = {"identity-key": folder.node(name) / "identity.key", "identities": folder.identities}
    return {key: str(path) for key, path in own.items()} | more


def server(folder):
    files = {"identities": str(folder.identities), "authority": str(folder.authority / "ca.crt")}
    return server_directory(files, CONFIG)


def parameters(folder, **more):
    return Parameters(
        **{
            "run": "run",
            "round": 1,
            "length": 2,
            "bits": 32,
            "graph": "full",
            "threshold": 2 / 3,
            "adversaries": 0.0,
            "dropouts": 0.0,
            "semi_malicious": True,
            "min_cohort": 3,
            "profile": folder.load_identities().profile,
            "nonce": crypto.random_key(),
            **more,
        }
    )


def play(folder, clients, asked):
    """Run a session of nodes with files; return it, ended or as far as it came."""
    session = ServerSession.begin(asked, range(4), server(folder))
    states = dict.fromkeys(clients, b"")
    while session.phase != "done":
        replies = []
        for i, message in session.messages.items():
            vector = np.full(2, 10**i, np.uint32) if session.phase == "masked" else None
            states[i], reply = clients[i].step(states[i], message, vector, now=0.0)
            replies.append((i, reply.message, reply.vector))
        session = session.step(replies)
    return session


def test_nodes_with_keys_of_their_own_come_to_a_sum(folder):
    clients = {i: deployed(node(folder, name), CONFIG, i) for i, name in enumerate("abcd")}
    assert play(folder, clients, parameters(folder)).total.tolist() == [1111, 1111]


def test_what_a_node_accepts_is_its_own(folder):
    clients = {i: deployed(node(folder, name), CONFIG, i) for i, name in enumerate("abcd")}
    clients[2] = deployed(node(folder, "c", **{"min-cohort": 5, "max-sessions": 7}), CONFIG, 2)
    assert (clients[2].policy.min_cohort, clients[2].policy.max_sessions) == (5, 7)
    session = play(folder, clients, parameters(folder))
    assert "min_cohort = 3: at least 5 here" in session.lost[2]
    assert session.total.tolist() == [1011, 1011]


def test_who_was_revoked_is_in_no_session(folder):
    old = deployed(node(folder, "d"), CONFIG, 3)
    keys.revoke(folder, "d", now=NOW)
    clients = {i: deployed(node(folder, name), CONFIG, i) for i, name in enumerate("abc")}
    session = play(folder, clients | {3: old}, parameters(folder))
    assert session.lost[3] == "keys: not in the directory"
    assert session.survivors == (0, 1, 2)


def test_a_key_of_another_node_is_refused(folder):
    clients = {i: deployed(node(folder, name), CONFIG, i) for i, name in enumerate("abca")}
    assert "not the one in its directory" in play(folder, clients, parameters(folder)).lost[3]


def test_an_older_list_and_a_changed_one_are_refused(folder, tmp_path):
    old = tmp_path / "old.json"
    old.write_bytes(folder.identities.read_bytes())
    keys.revoke(folder, "d", now=NOW)
    deployed(node(folder, "a"), CONFIG, 0)  # remembers the version
    with pytest.raises(LostClientError, match="has been seen already"):
        deployed(node(folder, "a", identities=str(old)), CONFIG, 0)
    changed = tmp_path / "changed.json"
    changed.write_bytes(folder.identities.read_bytes().replace(b'"id": 1', b'"id": 9'))
    with pytest.raises(LostClientError, match="not signed by this authority"):
        deployed(node(folder, "a", identities=str(changed)), CONFIG, 0)


def test_what_is_missing_is_said(folder, tmp_path):
    with pytest.raises(LostClientError, match="does not name identity-key and identities"):
        deployed({}, CONFIG, 0)
    with pytest.raises(LostClientError, match="nowhere"):
        deployed(node(folder, "a", **{"identity-key": str(tmp_path / "nowhere")}), CONFIG, 0)
    with pytest.raises(LostClientError, match="min_cohort"):
        deployed(node(folder, "a", **{"min-cohort": 1}), CONFIG, 0)


def test_a_server_without_a_list_knows_simulated_clients_or_nobody():
    assert server_directory({}, CONFIG)(0) is None
    assert server_directory({"identities": "", SECRET: "07" * 32}, CONFIG)(0) is not None
