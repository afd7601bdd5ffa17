"""Approved experiments: by whom, over which text, at what time."""

from datetime import UTC, datetime, timedelta

import pytest

from fedsim import crypto
from fedsim.errors import ConfigError
from fedsim.node.approval import (
    Approver,
    RefusedError,
    approver_of,
    approvers_text,
    read_approvers,
    sign,
)

NOW = datetime(2026, 11, 27, tzinfo=UTC)
# RFC 8032, section 7.1, test 1: the public key of this seed.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def listed(path, **times):
    path.write_text(approvers_text({"anna": Approver("anna", PUBLIC, **times)}))
    return read_approvers(path)


def test_the_key_and_the_signature_are_those_of_rfc_8032(tmp_path):
    assert crypto.suite("standard").signing_public(SEED) == PUBLIC
    assert approver_of("x", sign(SEED, "x"), listed(tmp_path / "a.toml"), NOW).name == "anna"


@pytest.mark.parametrize(
    ("text", "signature", "match"),
    [
        ("an experiment", "", "not signed"),
        ("", sign(SEED, ""), "not signed"),
        ("an experiment", "%%", "not base64"),
        ("an experiment", sign(bytes(32), "an experiment"), "none of this node's approvers"),
        ("an Experiment", sign(SEED, "an experiment"), "its text was changed"),
        ("an experiment", sign(SEED, "an experiment")[:-4], "none of this node's approvers"),
    ],
)
def test_what_nobody_approved_is_refused(text, signature, match, tmp_path):
    with pytest.raises(RefusedError, match=match):
        approver_of(text, signature, listed(tmp_path / "a.toml"), NOW)


def test_a_key_counts_from_its_first_moment_until_before_its_last(tmp_path):
    hour = timedelta(hours=1)
    approvers = listed(tmp_path / "a.toml", not_before=NOW, not_after=NOW + hour)
    for time, counts in ((NOW - hour, False), (NOW, True), (NOW + hour, False)):
        if counts:
            assert approver_of("x", sign(SEED, "x"), approvers, time).key == PUBLIC
        else:
            with pytest.raises(RefusedError, match="from 2026-11-27 00:00 UTC until 2026-11-27 01"):
                approver_of("x", sign(SEED, "x"), approvers, time)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "a table"),
        ("approvers = 3", "a table"),
        ("[approver.anna]", "Did you mean 'approvers'"),
        ("[approvers.anna]\nkey = 'AAAA'", "32 bytes in base64"),
        ("[approvers.anna]", "32 bytes in base64"),
        ("[approvers.anna]\nkey = 3", "32 bytes in base64"),
        (f"[approvers.anna]\nkey = '{'A' * 43}='\nuntil = 3", "no such key"),
        (f"[approvers.anna]\nkey = '{'A' * 43}='\nnot_after = 2026-01-01", "with its zone"),
        (f"[approvers.anna]\nkey = '{'A' * 43}='\nnot_after = 2026-01-01T00:00:00", "zone"),
        ("[approvers.anna", "valid TOML"),
    ],
)
def test_a_list_that_is_none_is_refused(text, match, tmp_path):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_approvers(tmp_path / "a.toml")


def test_no_list_is_none(tmp_path):
    with pytest.raises(ConfigError, match="without one all is refused"):
        read_approvers(tmp_path / "a.toml")
