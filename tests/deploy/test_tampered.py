"""What was changed, replayed or sent by another than it says, at the layer that refuses it.

Nodes are played here by Flower's own connection, on a real SuperLink with TLS and logins: what a
thief of a connection, or another node, could send. Experiments that were changed after they were
approved are in `tests/node/test_hostile.py`, messages of secure sums in `tests/secagg`, lists of
identities in `tests/keys`.
"""

import json
import threading
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from fedsim.deploy import local
from fedsim.deploy.bundle import Plan, init
from fedsim.deploy.processes import free_ports
from fedsim.deploy.submit import approved, prepared, send
from fedsim.errors import FedsimError
from fedsim.node.approval import RefusedError, approver_of, read_approvers

SETTINGS = ["model.name=linear", "evaluation.federated_every=0", "rounds.count=1"]


class Login:
    """A node's login as Flower makes it, with what somebody could change of it."""

    def __init__(self, keys, *, signed=None, said=None, public=None):
        self.keys, self.signed, self.said, self.public = keys, signed, said, public

    def intercept(self, context, call_next):
        from flwr.common.constant import TIMESTAMP_HEADER
        from flwr.supercore.constant import (
            FLEET_HTTP_PUBLIC_KEY_HEADER,
            FLEET_HTTP_SIGNATURE_HEADER,
        )
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

        signed = (self.signed or datetime.now(UTC)).isoformat()
        said = (self.said or self.signed or datetime.now(UTC)).isoformat()
        if self.said is None and self.signed is None:
            said = signed
        key = public_key_to_bytes((self.public or self.keys)[1])
        context.request.headers.update(
            {
                FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(key).decode(),
                TIMESTAMP_HEADER: said,
                FLEET_HTTP_SIGNATURE_HEADER: b64encode(
                    sign_message(self.keys[0], signed.encode())
                ).decode(),
            }
        )
        return call_next(context)


class Place:
    """A SuperLink with two nodes on its list, whose keys are here."""

    def __init__(self, running):
        from flwr.proto.control_pb2 import RegisterNodeRequest
        from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

        self.running, self.certificate = running, running.certificate.read_bytes()
        self.opened = []
        self.keys = [generate_key_pairs() for _ in range(3)]  # the last one is on no list
        with running.connected() as control:
            for number, (_, public) in enumerate(self.keys[:2]):
                request = RegisterNodeRequest(
                    public_key=public_key_to_bytes(public), name=f"played-{number}"
                )
                control.client.RegisterNode(request)

    def client(self, login):
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
        from flwr.supernode.fleet_http_client import FleetHttpClient

        version = RuntimeVersionHttpInterceptor(component_name="flower-supernode")
        made = FleetHttpClient.from_server_address(
            self.running.address, False, self.certificate, interceptors=[login, version]
        )
        self.opened.append(made)
        return made

    def activate(self, login, keys=None):
        from flwr.proto.fleet_pb2 import ActivateNodeRequest
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        public = public_key_to_bytes((keys or login.keys)[1])
        return self.client(login).ActivateNode(
            ActivateNodeRequest(public_key=public, heartbeat_interval=30.0)
        )


@pytest.fixture
def place(tmp_path):
    port = free_ports(1)[0]
    plan = Plan(("a", "b"), address="127.0.0.1", port=port, days=2)
    bundle = init(tmp_path / "federation", plan, now=datetime.now(UTC))
    (bundle.root / "nodes").rename(tmp_path / "nodes")
    (bundle.root / "nodes").mkdir()
    with local.federation(bundle, lambda event: None) as running:
        made = Place(running)
        yield made
        for client in made.opened:
            client.close()


def refuses(call, *arguments, status=401):
    with pytest.raises(httpx.HTTPStatusError) as refused:
        call(*arguments)
    found = refused.value.response
    assert found.status_code == status, found.text


def logins_are_checked(place):
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest

    now, keys, other = datetime.now(UTC), *place.keys[:2]
    number = place.activate(Login(keys)).node_id
    refuses(place.activate, Login(keys, signed=now, said=now + timedelta(seconds=1)))
    refuses(place.activate, Login(keys, signed=now - timedelta(minutes=11)))  # replayed
    refuses(place.activate, Login(keys, signed=now + timedelta(minutes=11)))
    refuses(place.activate, Login(keys, public=other), other)  # its key, another's signature
    refuses(place.activate, Login(keys), other)  # a login of one's own for another's place
    refuses(place.activate, Login(place.keys[2]), status=412)  # on no list
    as_other = place.client(Login(other))
    refuses(as_other.DeactivateNode, DeactivateNodeRequest(node_id=number))
    place.client(Login(keys)).DeactivateNode(DeactivateNodeRequest(node_id=number))


def received(calls):
    """Wait for a message; return its head, its objects' tree and itself."""
    from flwr.app import Message
    from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree

    deadline = time.monotonic() + 240
    while (found := calls[1]()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    head, tree = found
    run = head.metadata.run_id
    message = pull_and_inflate_object_from_tree(
        tree, lambda n: calls[5](run, n), lambda n: calls[7](run, n), return_type=Message
    )
    message.metadata.__dict__["_message_id"] = tree.object_id
    return message


def reply_to(message, client):
    from flwr.app import ConfigRecord, Message, RecordDict

    content = RecordDict({"client": ConfigRecord({"partition-id": client})})
    reply = Message(content, reply_to=message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply


def messages_are_checked(place):
    """A reply whose bytes are not what it was announced with; a reply to another's message."""
    from contextlib import ExitStack

    from flwr.proto.message_pb2 import PushObjectRequest
    from flwr.proto.node_pb2 import Node
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
    )
    from flwr.supernode.fleet_http_connection import http_request_response

    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                http_request_response(place.running.address, False, place.certificate, keys)
            )
            for keys in place.keys[:2]
        ]
        first, _ = received(nodes[0]), received(nodes[1])
        run = first.metadata.run_id
        other = reply_to(first, 0)
        other.metadata.__dict__["_src_node_id"] = nodes[1][0]
        other.metadata.__dict__["_message_id"] = other.object_id
        taken, _ = nodes[1][2](other, get_object_tree(other), 0.1)
        assert list(taken) == []  # asked was node 0, this is node 1
        reply = reply_to(first, 0)
        wanted, session = nodes[0][2](reply, get_object_tree(reply), 0.1)
        objects = get_all_nested_objects(reply)
        assert wanted
        client = place.client(Login(place.keys[0]))
        for name in wanted:
            content = objects[name].deflate()
            changed = content[:-1] + bytes([content[-1] ^ 1])
            for sent, is_taken in ((changed, False), (content, True)):
                request = PushObjectRequest(
                    node=Node(node_id=nodes[0][0]),
                    run_id=run,
                    session_id=session,
                    object_id=name,
                    object_content=sent,
                )
                assert client.PushObject(request).stored == is_taken


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Flower's own
def test_a_superlink_refuses_changed_and_replayed_logins_and_messages(place):
    logins_are_checked(place)
    operator = place.running.bundle.operator
    text = prepared("digits", SETTINGS, 2)

    def submitted():
        with place.running.connected() as control:
            send(control, approved(operator, text))

    thread = threading.Thread(target=submitted, daemon=True)
    thread.start()
    messages_are_checked(place)
    thread.join(60)
    with place.running.connected() as control:
        control.stop(control.runs()[-1].id)


def test_a_bundle_that_was_changed_on_its_way_runs_nothing(tmp_path):
    """Each file that somebody could change in a folder that is carried, and who notices."""
    from fedsim.deploy.bundle import read_approval
    from fedsim.deploy.settings import read_node
    from fedsim.errors import ConfigError, IdentityError, SetupError
    from fedsim.files import read_secret
    from fedsim.keys import load_identities
    from fedsim.node.approval import sign
    from fedsim.node.policy import read_policy

    plan, now = Plan(("a", "b"), address="127.0.0.1", days=2), datetime.now(UTC)
    made, other = (init(tmp_path / name, plan, now=now) for name in ("made", "other"))
    node = made.node("a")
    authority, text = (node / "ca.crt").read_bytes(), '{"config": {}}'
    listed = json.loads((node / "identities.json").read_text())
    assert load_identities(node / "identities.json", authority).find("a")
    (node / "identities.json").write_bytes((other.node("a") / "identities.json").read_bytes())
    with pytest.raises(IdentityError):  # of another federation
        load_identities(node / "identities.json", authority)
    swapped = json.dumps(listed).replace('"a"', '"x"', 1)
    (node / "identities.json").write_text(swapped)
    with pytest.raises(IdentityError):
        load_identities(node / "identities.json", authority)
    approvers = read_approvers(node / "approvers.toml")
    signature = sign(read_approval(other.operator), text)  # an operator with another key
    with pytest.raises(RefusedError, match="none of this node's approvers"):
        approver_of(text, signature, approvers, now)
    (node / "approvers.toml").write_text((node / "approvers.toml").read_text()[:-12])
    with pytest.raises(ConfigError):
        read_approvers(node / "approvers.toml")
    (node / "policy.toml").write_text("minimum_cohrt = 1\n")
    with pytest.raises(ConfigError):
        read_policy(node / "policy.toml")
    (node / "node.toml").write_text("[node]\nname = 'a'\n")
    with pytest.raises(ConfigError):
        read_node(node)
    (node / "supernode.key").chmod(0o644)
    with pytest.raises(SetupError, match="0644"):
        read_secret(node / "supernode.key")


def test_what_was_submitted_cannot_be_gone_on_with_once_it_was_changed(tmp_path):
    """The operator's copy and the server's must be the same text, and nodes check the signature."""
    from fedsim.deploy.server_app import _resumed
    from fedsim.federation import Places
    from fedsim.store import RunStore

    store = RunStore(str(tmp_path / "runs"))
    run = store.create("digits", {}, {}, {}, {})
    path = store.folder(run) / "submitted.json"
    path.write_text(json.dumps({"experiment-text": "one", "experiment-signature": "s"}))
    with pytest.raises(FedsimError, match="another experiment than the one that was submitted"):
        _resumed(store, run, "another", Places(), lambda event: None)
