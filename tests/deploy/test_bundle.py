"""Folders for operators: complete, private, and no secret where it has no business."""

import stat
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedsim import keys
from fedsim.certificates import describe, login_fingerprint, must_be_issued_by
from fedsim.crypto import suite
from fedsim.deploy import app
from fedsim.deploy.bundle import Plan, init, read_approval
from fedsim.deploy.node import must_know
from fedsim.deploy.processes import Processes
from fedsim.deploy.server import must_hold, start_server
from fedsim.deploy.settings import read_node, read_operator, read_server
from fedsim.errors import ConfigError, IdentityError, SetupError
from fedsim.keys import load_identities, read_identity
from fedsim.node.approval import approver_of, read_approvers, sign
from fedsim.node.policy import read_policy

NOW = datetime.now(UTC).replace(microsecond=0)
NAMES = ("hospital-a", "hospital-b", "hospital-c")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    plan = Plan(NAMES, address="fl.example.org", port=9443, days=30)
    return init(tmp_path_factory.mktemp("bundle") / "federation", plan, now=NOW)


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def secrets(bundle):
    """Content of every private key, by the folder it was found in."""
    found = {}
    for path in files(bundle.root):
        content = path.read_bytes()
        is_private = b"PRIVATE KEY" in content or path.name in (
            "identity.key", "approval.key", "storage.key"
        )  # fmt: skip
        if is_private:
            found.setdefault(content, []).append(path.relative_to(bundle.root))
    return found


def test_everything_is_for_its_owner_alone(bundle):
    for path in [bundle.root, *bundle.root.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_each_secret_is_in_one_folder(bundle):
    owners = {"server": set(), "operator": set()} | {name: set() for name in NAMES}
    for content, places in secrets(bundle).items():
        assert len(places) == 1, places
        parts = places[0].parts
        owners[parts[1] if parts[0] == "nodes" else parts[0]].add(places[0].name)
        assert content
    assert owners.pop("server") == {"server.key", "storage.key"}
    assert owners.pop("operator") == {"approval.key", "ca.key"}
    assert all(own == {"identity.key", "supernode.key"} for own in owners.values())


def test_the_authority_signed_what_is_trusted(bundle):
    authority = (bundle.server / "ca.crt").read_bytes()
    certificate = (bundle.server / "server.crt").read_bytes()
    must_be_issued_by(certificate, authority)
    assert set(describe(certificate).names) >= {"fl.example.org", "localhost", "127.0.0.1"}
    for name in NAMES:
        folder = bundle.node(name)
        assert (folder / "ca.crt").read_bytes() == authority
        listed = load_identities(folder / "identities.json", authority)
        assert [node.name for node in listed.nodes] == list(NAMES)
        entry = listed.find(name)
        assert entry.identity == read_identity(folder / "identity.key").public
        public = (bundle.server / "logins" / f"{name}.pub").read_bytes()
        assert entry.login == login_fingerprint(public)


def test_settings_say_who_is_who(bundle):
    assert read_operator(bundle.operator).address == "fl.example.org:9443"
    server = read_server(bundle.server)
    assert (server.listen, server.port) == ("0.0.0.0", 9443)
    assert server.runs == str(bundle.server / "runs")
    for number, name in enumerate(NAMES):
        node = read_node(bundle.node(name))
        assert (node.name, node.number, node.clients) == (name, number, 3)
        assert node.address == "fl.example.org:9443"


def test_nodes_take_what_the_operators_key_signed(bundle):
    seed, text = read_approval(bundle.operator), '{"config": {}}'
    approvers = read_approvers(bundle.node("hospital-b") / "approvers.toml")
    assert approver_of(text, sign(seed, text), approvers, NOW).name == "operator"
    assert approvers["operator"].key == suite("standard").signing_public(seed)
    assert approvers["operator"].not_after == NOW + timedelta(days=30)


def test_the_policy_to_begin_with_lets_no_column_out(bundle):
    policy = read_policy(bundle.node("hospital-a") / "policy.toml")
    assert policy.secure_aggregation
    assert policy.columns == ()


def test_keys_are_renewed_where_the_authority_is(bundle, tmp_path):
    """What was moved to nodes is not needed to give them new keys."""
    node = keys.rotate_node(bundle.keys, "hospital-a", now=NOW, days=30)
    assert (bundle.keys.node("hospital-a") / "supernode.key").exists()
    assert node.id == 0
    keys.rotate_server(bundle.keys, now=NOW, days=30)


@pytest.mark.parametrize(
    ("names", "field"),
    [((), "--nodes"), (("a", "a"), "--nodes"), (("A b",), "--nodes"), (("server",), "--nodes")],
)
def test_names_that_are_none_are_refused_before_anything_is_made(names, field, tmp_path):
    with pytest.raises(ConfigError) as refused:
        init(tmp_path / "new", Plan(names), now=NOW)
    assert refused.value.problems[0].path == field
    assert not (tmp_path / "new").exists()


def test_a_folder_in_use_is_never_written_to(tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ConfigError, match="never overwritten"):
        init(tmp_path, Plan(("a",)), now=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_an_approval_key_that_others_can_read_is_not_used(bundle, tmp_path):
    path = tmp_path / "approval.key"
    path.write_bytes((bundle.operator / "approval.key").read_bytes())
    path.chmod(0o644)
    with pytest.raises(SetupError, match="chmod 600"):
        read_approval(tmp_path)


def test_an_expired_certificate_starts_no_server(tmp_path):
    made = init(tmp_path / "old", Plan(("a",), days=1), now=NOW - timedelta(days=3))
    with pytest.raises(IdentityError, match=r"server\.crt holds from .* not today"):
        start_server(made.server, Processes(tmp_path), warm=tmp_path / "none")
    must_hold(made.server / "ca.crt", "nothing")


def test_settings_with_a_mistake_are_refused_by_name(bundle, tmp_path):
    (tmp_path / "node.toml").write_text('[node]\nname = "a"\nnumbr = 0\nclients = 1\n')
    with pytest.raises(ConfigError) as refused:
        read_node(tmp_path)
    paths = {problem.path for problem in refused.value.problems}
    assert paths == {"node.numbr", "node.number", "node.address"}
    with pytest.raises(ConfigError, match="fedsim deploy init"):
        read_server(tmp_path)


def test_a_server_that_is_not_there_is_waited_for_and_a_foreign_one_is_not(
    bundle, tmp_path, free_port
):
    import ssl
    import threading

    other = init(tmp_path / "other", Plan(("a",)), now=NOW)
    port = free_port()
    must_know(f"127.0.0.1:{port}", bundle.server / "ca.crt")  # nobody listens
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other.server / "server.crt", other.server / "server.key")
    import socket

    with socket.create_server(("127.0.0.1", port)) as listener:

        def serve():
            for _ in range(2):
                plain, _ = listener.accept()
                try:
                    context.wrap_socket(plain, server_side=True).close()
                except (ssl.SSLError, OSError):
                    plain.close()

        thread = threading.Thread(target=serve)
        thread.start()
        must_know(f"127.0.0.1:{port}", other.server / "ca.crt")
        with pytest.raises(IdentityError, match="not the server of this federation"):
            must_know(f"127.0.0.1:{port}", bundle.server / "ca.crt")
        thread.join()


def test_the_app_that_is_submitted_is_the_one_of_the_repository(tmp_path):
    folder = Path(__file__).resolve().parents[2] / "deploy" / "flower_app"
    written = app.write_app(tmp_path)
    for name in app.FILES:
        assert (written / name).read_text() == (folder / name).read_text(), name
    content = tomllib.loads(app.FILES["pyproject.toml"])
    known = content["tool"]["flwr"]["app"]["config"]
    assert {"experiment-text", "experiment-signature", "resume"} <= known.keys()
