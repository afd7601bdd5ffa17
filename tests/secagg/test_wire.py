import hashlib
from dataclasses import dataclass
from typing import Annotated

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.secagg import wire

ADVERT = wire.Advert(3, b"c" * 32, b"s" * 32, b"n" * 32, b"h" * 32, b"g" * 64)
MESSAGES = [
    wire.AskKeys(b"parameters"),
    wire.AskShares((ADVERT, ADVERT._replace(client=4))),
    wire.AskMasked((wire.Row(0, bytes(94)), wire.Row(2**64 - 1, bytes(94)))),
    wire.AskConfirm((0, 7, 2**64 - 1)),
    wire.AskUnmask((wire.Row(1, bytes(64)),)),
    wire.Keys(ADVERT),
    wire.Shares((wire.Row(1, bytes(94)),)),
    wire.Masked(),
    wire.Confirmed(bytes(64)),
    wire.Unmasked((wire.Row(1, bytes(33)),), ()),
    wire.Aborted("policy"),
]
KINDS = [type(message) for message in MESSAGES]
names = [kind.__name__ for kind in KINDS]


@pytest.mark.parametrize("message", MESSAGES, ids=names)
def test_a_message_is_read_as_it_was_written(message):
    written = wire.encode(message)
    assert wire.decode(written, *KINDS) == message
    assert wire.encode(wire.decode(written, type(message))) == written
    assert msgpack.unpackb(written)["kind"] == type(message).__name__


@pytest.mark.parametrize("message", MESSAGES, ids=names)
def test_a_message_of_another_kind_is_refused(message):
    others = [kind for kind in KINDS if kind is not type(message)]
    with pytest.raises(wire.WireError, match="kind: not one of"):
        wire.decode(wire.encode(message), *others)


@pytest.mark.parametrize("message", MESSAGES, ids=names)
def test_every_field_is_needed_and_no_other(message):
    content = msgpack.unpackb(wire.encode(message))
    for field in content.keys() - {"kind"}:
        less = {name: value for name, value in content.items() if name != field}
        with pytest.raises(wire.WireError, match="fields are missing or unknown"):
            wire.decode(msgpack.packb(less), type(message))
        with pytest.raises(wire.WireError, match=field):
            wire.decode(msgpack.packb(content | {field: None}), type(message))
    with pytest.raises(wire.WireError, match="fields are missing or unknown"):
        wire.decode(msgpack.packb(content | {"weight": 1}), type(message))


@pytest.mark.parametrize("message", MESSAGES, ids=names)
def test_cut_or_continued_bytes_are_refused(message):
    written = wire.encode(message)
    for end in range(len(written)):
        with pytest.raises(wire.WireError):
            wire.decode(written[:end], *KINDS)
    with pytest.raises(wire.WireError):
        wire.decode(written + b"\x00", *KINDS)


def ask_shares(*rows):
    return msgpack.packb({"kind": "AskShares", "adverts": [list(row) for row in rows]})


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (msgpack.packb([1]), "not a map"),
        (msgpack.packb({"kind": ["AskShares"]}), "kind"),
        (msgpack.packb({1: 2}), "not msgpack"),
        (msgpack.packb({"kind": "AskShares", "adverts": msgpack.Timestamp(1)}), "adverts"),
        (b"\xdd\xff\xff\xff\xff", "not msgpack"),
        (b"\x91" * 2000, "not msgpack"),
        (ask_shares(ADVERT, ADVERT), "not strictly increasing"),
        (ask_shares(ADVERT._replace(client=4), ADVERT), "not strictly increasing"),
        (ask_shares(ADVERT[:5]), "a row is not a list of 6"),
        (ask_shares((*ADVERT, 0)), "a row is not a list of 6"),
        (ask_shares(ADVERT._replace(client=True)), "not an integer"),
        (ask_shares(ADVERT._replace(client=-1)), "not an integer"),
        (ask_shares(ADVERT._replace(client=1.0)), "not an integer"),
        (ask_shares(ADVERT._replace(nonce=b"n" * 31)), "not 32 to 32 bytes"),
        (ask_shares(ADVERT._replace(nonce="n" * 32)), "not 32 to 32 bytes"),
        (ask_shares(ADVERT._replace(agreement=b"")), "not 1 to 256 bytes"),
        (msgpack.packb({"kind": "AskConfirm", "survivors": bytes(9)}), "ids of 8 bytes"),
        (msgpack.packb({"kind": "AskConfirm", "survivors": bytes(16)}), "increasing"),
        (msgpack.packb({"kind": "AskConfirm", "survivors": [1, 2]}), "ids of 8 bytes"),
    ],
    ids=str,
)
def test_what_is_refused(message, why):
    with pytest.raises(wire.WireError, match=why):
        wire.decode(message, wire.AskShares, wire.AskConfirm)


@pytest.mark.parametrize("message", [None, "text", 5, bytearray(b"\x80")], ids=str)
def test_only_bytes_are_messages(message):
    with pytest.raises(wire.WireError, match="message"):
        wire.decode(message, *KINDS)


@given(st.binary(max_size=300))
def test_noise_is_refused_by_name(noise):
    with pytest.raises(wire.WireError):
        wire.decode(noise, *KINDS)


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_ids_are_packed_in_eight_bytes_each(ids):
    packed = wire.pack_ids(ids)
    assert packed == b"".join(client.to_bytes(8, "big") for client in ids)
    assert list(wire.unpack_ids(packed)) == ids


def test_a_reason_too_long_is_cut():
    assert len(wire.aborted("x" * 10_000).reason) == 400
    with pytest.raises(wire.WireError, match="reason"):
        wire.decode(wire.encode(wire.Aborted("x" * 401)), wire.Aborted)


def test_a_digest_is_that_of_the_parts_after_their_lengths():
    parts = (b"", b"abc", bytes(300))
    whole = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert wire.digest(*parts) == hashlib.sha256(whole).digest()


@given(st.lists(st.binary(max_size=9), max_size=4), st.lists(st.binary(max_size=9), max_size=4))
def test_different_lists_have_different_digests(one, two):
    assert (wire.digest(*one) == wire.digest(*two)) == (one == two)


@dataclass(frozen=True)
class Fields:
    is_on: Annotated[bool, wire.boolean]
    share: Annotated[float, wire.number]
    name: Annotated[str, wire.text(3)]
    blobs: Annotated[tuple[bytes, ...], wire.blobs(1, 2, 2)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("is_on", 1),
        ("share", 1),
        ("share", float("nan")),
        ("share", float("inf")),
        ("name", "four"),
        ("name", b"abc"),
        ("blobs", [b"a", b"b", b"c"]),
        ("blobs", [b""]),
        ("blobs", b"ab"),
    ],
)
def test_fields_are_of_their_type_and_size(field, value):
    good = Fields(is_on=True, share=0.5, name="abc", blobs=(b"a", b"bc"))
    content = msgpack.unpackb(wire.encode(good))
    assert wire.decode(msgpack.packb(content), Fields) == good
    with pytest.raises(wire.WireError, match=f"^{field}: "):
        wire.decode(msgpack.packb(content | {field: value}), Fields)
