"""The allow-list: only what the authority signed, and never an older one."""

import base64
import json
import stat
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim import keys
from fedsim.crypto import suite
from fedsim.errors import ConfigError, IdentityError, SetupError
from fedsim.keys._identities import parse_identities


def authority(folder):
    return (folder.authority / "ca.crt").read_bytes()


def load(folder, **more):
    return keys.load_identities(folder.identities, authority(folder), **more)


def test_a_node_is_on_the_list_with_the_key_that_it_has(folder, now):
    for name in ("a", "b", "c"):
        keys.add(folder, name, now=now, days=30)
    listed = load(folder)
    assert [(node.id, node.name) for node in listed.nodes] == [(0, "a"), (1, "b"), (2, "c")]
    assert listed.version == 4
    for node in listed.nodes:
        secret = keys.read_identity(folder.node(node.name) / "identity.key")
        assert secret.profile == listed.profile
        signature = suite(listed.profile).sign(secret.seed, b"advert")
        suite(listed.profile).verify(listed.directory(node.id), signature, b"advert")
    assert listed.directory(3) is None


def test_a_revoked_node_is_not_on_the_list(folder, now):
    for name in ("a", "b"):
        keys.add(folder, name, now=now, days=30)
    gone = keys.revoke(folder, "a", now=now)
    listed = load(folder)
    assert (gone.id, listed.directory(0)) == (0, None)
    assert listed.find("a") is None
    assert listed.revoked == (gone,)
    assert listed.version == 4
    assert not folder.node("a").exists()
    # Its number is not given to another one, not even by request.
    assert keys.add(folder, "a", now=now, days=30).id == 2
    with pytest.raises(ConfigError, match="that no node has had; the next free one is 3"):
        keys.add(folder, "d", id=0, now=now, days=30)
    assert keys.add(folder, "d", id=7, now=now, days=30).id == 7
    assert keys.add(folder, "e", now=now, days=30).id == 8


def test_a_rotated_node_keeps_its_number_and_gets_another_key(folder, now):
    before = keys.add(folder, "a", now=now, days=30)
    after = keys.rotate_node(folder, "a", now=now, days=30)
    assert after.id == before.id
    for field in ("identity", "certificate", "login"):
        assert getattr(after, field) != getattr(before, field)
    assert load(folder).nodes == (after,)


@pytest.mark.parametrize(
    "name", ["A", "a_b", "-a", "a-", "", "a" * 64, "a.b", "../a", "ca", "storage"]
)
def test_names_that_are_not_possible(folder, now, name):
    with pytest.raises(ConfigError, match="NODE"):
        keys.add(folder, name, now=now, days=30)
    assert load(folder).nodes == ()


def test_names_that_are_taken_or_unknown(folder, now):
    keys.add(folder, "a", now=now, days=30)
    with pytest.raises(ConfigError, match="fedsim keys rotate a"):
        keys.add(folder, "a", now=now, days=30)
    for change in (lambda: keys.revoke(folder, "b", now=now),
                   lambda: keys.rotate_node(folder, "b", now=now, days=1)):  # fmt: skip
        with pytest.raises(ConfigError, match="a node on the list: a"):
            change()
    assert load(folder).version == 2


def changes(file):
    """Every single thing in a list that somebody might want to change."""
    other = base64.b64encode(bytes(len(base64.b64decode(file["list"]["nodes"][0]["identity"]))))
    yield ["list", "version"], 9
    yield ["list", "profile"], {"standard": "fips", "fips": "standard"}[file["list"]["profile"]]
    yield ["list", "next_id"], 0
    yield ["list", "issued"], "2099-01-01T00:00:00Z"
    yield ["list", "nodes"], []
    yield ["list", "nodes"], file["list"]["nodes"][::-1]
    yield ["list", "nodes", 0, "identity"], other.decode()
    yield ["list", "nodes", 0, "identity"], file["list"]["nodes"][1]["identity"]
    yield ["list", "nodes", 0, "id"], 5
    yield ["list", "nodes", 0, "name"], "x"
    yield ["list", "nodes", 0, "certificate"], "00"
    yield ["list", "nodes", 0, "login"], "00"
    yield ["list", "revoked"], [{"id": 0, "name": "a", "since": ""}]
    yield ["list", "more"], 1
    yield ["signature"], base64.b64encode(bytes(70)).decode()
    yield ["signature"], ""


def test_a_changed_list_is_refused(folder, now, tmp_path):
    for name in ("a", "b"):
        keys.add(folder, name, now=now, days=30)
    content = folder.identities.read_text()
    for path, value in changes(json.loads(content)):
        file = json.loads(content)
        target = file
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value
        (tmp_path / "list").write_text(json.dumps(file))
        with pytest.raises(IdentityError, match="not signed by this authority") as caught:
            keys.load_identities(tmp_path / "list", authority(folder))
        assert caught.value.exit_code == 5
    # How the file is laid out is nobody's business.
    (tmp_path / "list").write_text(json.dumps(json.loads(content)))
    assert keys.load_identities(tmp_path / "list", authority(folder)) == load(folder)


def test_a_list_of_another_authority_is_refused(folder, now, tmp_path):
    other = keys.init(tmp_path / "o", profile="standard", now=now, days=9, authority_days=99)
    with pytest.raises(IdentityError, match="not signed by this authority"):
        keys.load_identities(other.identities, authority(folder))


def test_a_changed_list_is_not_signed_again(folder, now):
    keys.add(folder, "a", now=now, days=30)
    file = json.loads(folder.identities.read_text())
    file["list"]["nodes"][0]["id"] = 5
    folder.identities.write_text(json.dumps(file))
    for change in (lambda: keys.add(folder, "b", now=now, days=30),
                   lambda: keys.revoke(folder, "a", now=now),
                   lambda: keys.rotate_node(folder, "a", now=now, days=30)):  # fmt: skip
        with pytest.raises(IdentityError):
            change()


@given(st.binary(max_size=100) | st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(["list", "signature", "nodes", "version"]), inner, max_size=3),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_garbage_is_an_error_of_ours(content):
    with pytest.raises(IdentityError):
        parse_identities(content, b"no certificate", "it")


def test_older_lists_are_refused(folder, now, tmp_path):
    keys.add(folder, "a", now=now, days=30)
    old = folder.identities.read_bytes()
    keys.revoke(folder, "a", now=now)
    assert load(folder, seen=3).version == 3
    folder.identities.write_bytes(old)
    assert load(folder, seen=2).version == 2
    with pytest.raises(IdentityError, match="version 2, but version 3 has been seen"):
        load(folder, seen=3)


def test_what_was_seen_is_remembered(folder, now, tmp_path):
    memory, ca = tmp_path / "seen", authority(folder)
    keys.add(folder, "a", now=now, days=30)
    old = folder.identities.read_bytes()
    for _ in range(2):
        assert keys.load_latest(folder.identities, ca, memory).version == 2
    keys.revoke(folder, "a", now=now)
    new = folder.identities.read_bytes()
    assert keys.load_latest(folder.identities, ca, memory).version == 3
    folder.identities.write_bytes(old)
    with pytest.raises(IdentityError, match="version 2, but version 3"):
        keys.load_latest(folder.identities, ca, memory)
    # An authority that signs another list of the version it has given out already.
    keys.add(folder, "b", now=now, days=30)
    assert load(folder).version == 3
    with pytest.raises(IdentityError, match="two lists with one number"):
        keys.load_latest(folder.identities, ca, memory)
    folder.identities.write_bytes(new)
    assert keys.load_latest(folder.identities, ca, memory).version == 3
    memory.write_text("three")
    with pytest.raises(IdentityError, match="does not say which version"):
        keys.load_latest(folder.identities, ca, memory)


def test_a_private_identity_that_others_can_read_or_that_is_none(folder, now):
    keys.add(folder, "a", now=now, days=30)
    path = folder.node("a") / "identity.key"
    assert "seed" not in repr(keys.read_identity(path))
    path.chmod(0o644)
    with pytest.raises(SetupError, match="permissions 0644"):
        keys.read_identity(path)
    for text in (
        "",
        "x y z",
        "fedsim-identity-v1 standard AAAA",
        "fedsim-identity-v1 none " + "A" * 43 + "=",
    ):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(SetupError, match="not a private identity"):
            keys.read_identity(path)


def test_nobody_else_can_read_anything(folder, now):
    keys.add(folder, "a", now=now, days=30)
    keys.rotate_node(folder, "a", now=now, days=30)
    keys.rotate_server(folder, now=now, days=30)
    keys.new_storage_key(folder)
    for path in (folder.root, *folder.root.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_is_never_made_over(folder, now):
    before = (folder.authority / "ca.key").read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        keys.init(folder.root, profile="standard", now=now, days=9, authority_days=99)
    assert (folder.authority / "ca.key").read_bytes() == before


def test_a_folder_that_is_none_says_how_to_make_one(tmp_path, now):
    for place in (keys.KeyFolder(tmp_path), keys.KeyFolder(tmp_path / "gone")):
        with pytest.raises(SetupError, match="fedsim keys init --folder"):
            keys.add(place, "a", now=now, days=9)
        with pytest.raises(SetupError, match="fedsim keys init --folder"):
            keys.contents(place, now)


def test_making_a_folder_that_broke_off_can_be_begun_again(folder, now):
    (folder.authority / "ca.key").unlink()
    storage = folder.storage.read_bytes()
    again = keys.init(folder.root, profile="standard", now=now, days=9, authority_days=99)
    assert load(again).nodes == ()
    assert folder.storage.read_bytes() == storage  # something may be sealed with it


def test_storage_keys_are_added_and_forgotten(folder):
    first = keys.new_storage_key(folder)
    second = keys.new_storage_key(folder)
    assert list(second.keys)[:2] == list(first.keys)
    assert second.current == list(second.keys)[2]
    only = keys.only_newest_storage_key(folder)
    assert dict(only.keys) == {second.current: second.keys[second.current]}


def test_what_is_shown(folder, now):
    keys.add(folder, "a", now=now, days=20)
    keys.add(folder, "b", now=now, days=90)
    keys.revoke(folder, "b", now=now)
    found = keys.contents(folder, now)
    rows = {(row["kind"], row["name"]): row for row in found["keys"]}
    assert rows["node", "a"]["status"] == "ends in 20 days"
    assert rows["identity", "a"]["status"] == "client 0"
    assert rows["identity", "b"]["status"] == "client 1, revoked"
    assert ("node", "b") not in rows
    late = keys.contents(folder, now + timedelta(days=400))
    assert {row["status"] for row in late["keys"] if row["kind"] == "node"} == {"expired"}
    shown = json.dumps(found)
    for path in folder.root.rglob("*.key"):
        for line in path.read_text().splitlines():
            assert line.split()[-1] not in shown or line.startswith("-----")


def test_two_nodes_of_one_name_are_no_list(folder, now):
    keys.add(folder, "a", now=now, days=20)
    listed = load(folder)
    from fedsim.keys._identities import signed

    doubled = replace(listed, nodes=listed.nodes * 2)
    key = (folder.authority / "ca.key").read_bytes()
    with pytest.raises(IdentityError, match="two nodes have one id"):
        parse_identities(signed(doubled, key), authority(folder), "it")
    odd = replace(listed, nodes=(replace(listed.nodes[0], identity=b"short"),))
    with pytest.raises(IdentityError, match="identity of 5 bytes"):
        parse_identities(signed(odd, key), authority(folder), "it")
    with pytest.raises(IdentityError, match="is not a number"):
        parse_identities(signed(replace(listed, version=-1), key), authority(folder), "it")
