"""The secret of pseudonyms: its file, what is refused, and that its keys are apart."""

import base64

import pytest
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.pseudonym_keys import PseudonymKeys, new_key_file, pseudonym_keys
from fedsim.anonymize.treatments import ColumnContext
from fedsim.crypto import key_of, random_key
from fedsim.errors import ConfigError, SetupError
from fedsim.files import write_secret

SECRET = key_of("a secret of tests")
KEYS = PseudonymKeys(SECRET)
LABELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def test_a_new_file_is_read(tmp_path):
    path, other = tmp_path / "a.key", tmp_path / "b.key"
    write_secret(path, new_key_file())
    write_secret(other, new_key_file())
    found = pseudonym_keys(path, {})
    assert pseudonym_keys(None, {"FEDSIM_PSEUDONYM_KEY_FILE": str(path)}) == found
    assert pseudonym_keys(path, {"FEDSIM_PSEUDONYM_KEY_FILE": str(other)}) == found
    assert pseudonym_keys(other, {}).fingerprint != found.fingerprint
    assert found.secret.hex() not in repr(found)


@pytest.mark.parametrize(
    "content",
    [
        SECRET.hex(),
        SECRET.hex().upper(),
        base64.b64encode(SECRET).decode(),
        f"# why\n{SECRET.hex()} # x",
    ],
    ids=["hex", "upper case", "base64", "comments"],
)  # fmt: skip
def test_keys_are_written_as_digits_or_base64(tmp_path, content):
    write_secret(tmp_path / "k", content.encode())
    assert PseudonymKeys.read(tmp_path / "k").secret == SECRET


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 keys"),
        (b"# nothing\n", "0 keys"),
        (f"{SECRET.hex()} {SECRET.hex()}".encode(), "2 keys"),
        (b"hunter2", "it is not 32 random bytes"),
        (base64.b64encode(SECRET[:16]), "16 bytes, not 32"),
        (base64.b64encode(SECRET * 2), "64 bytes, not 32"),
        (bytes(32).hex().encode(), "count up or down"),
        (b"ab" * 32, "count up or down"),
        (bytes(range(32)).hex().encode(), "count up or down"),
        (bytes(range(255, 223, -1)).hex().encode(), "count up or down"),
        ((SECRET[:16] * 2).hex().encode(), "repeat"),
        (b"00ff17" * 21 + b"0", "it is not 32 random bytes"),
        (bytes([0, 255, 23, 4] * 8).hex().encode(), "repeat"),
        (b"correct horse battery staple 12!".hex().encode(), "it is text"),
        (
            b"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "published as an example",
        ),
        ("schlüssel".encode(), "is no pseudonym key"),
    ],
    ids=["empty", "comment", "two", "password", "short", "long", "zeros", "one byte", "counting",
         "counting down", "halves", "odd digits", "period", "text", "nist", "not ascii"],
)  # fmt: skip
def test_what_is_no_secret_is_refused(tmp_path, content, message):
    write_secret(tmp_path / "k", content)
    with pytest.raises(SetupError, match=message) as info:
        PseudonymKeys.read(tmp_path / "k")
    assert str(tmp_path / "k") in str(info.value)
    assert content.decode("latin-1").strip() == "" or content.decode("latin-1") not in str(
        info.value
    )


def test_random_keys_are_none_of_those():
    for _ in range(2000):
        PseudonymKeys(random_key())


def test_a_file_that_others_can_read_is_refused(tmp_path):
    (tmp_path / "k").write_bytes(new_key_file())
    (tmp_path / "k").chmod(0o644)
    with pytest.raises(SetupError, match="chmod 600"):
        pseudonym_keys(tmp_path / "k", {})
    with pytest.raises(SetupError, match="cannot read"):
        pseudonym_keys(tmp_path / "none", {})


def test_there_is_no_way_without_a_key():
    with pytest.raises(SetupError, match="nine-digit numbers are tried"):
        pseudonym_keys(None, {})
    with pytest.raises(ConfigError, match="only a salt") as info:
        ColumnContext("ssn").key("pseudonym", "ssn")
    assert info.value.problems[0].path == "columns.ssn.treatment"


def test_keys_are_those_of_hkdf():
    """Against another library's HKDF (RFC 5869), with the label written out."""
    label = b"fedsim/pseudonyms/v1|\x00\x00\x00\x03key\x00\x00\x00\x01p\x00\x00\x00\x02\xc3\xa9"
    wanted = HKDF(SECRET, 32, b"", SHA256, 1, label)
    assert KEYS.key("p", "\u00e9") == wanted
    assert KEYS.key("p", "e\u0301") == wanted  # the same name, decomposed


@given(LABELS, LABELS, LABELS, LABELS)
def test_every_purpose_and_domain_has_its_key(a, b, c, d):
    import unicodedata

    same = [unicodedata.normalize("NFC", x) for x in (a, b)] == [
        unicodedata.normalize("NFC", x) for x in (c, d)
    ]
    assert (KEYS.key(a, b) == KEYS.key(c, d)) == same
    assert KEYS.key(a + b, "") != KEYS.key(a, b) or not b
