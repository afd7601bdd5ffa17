"""Envelopes: what goes in comes out, and nothing comes out of what was changed."""

import hashlib
import io
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import SealingError, SetupError
from fedsim.sealing import (
    CHUNK_BYTES,
    Label,
    StorageKeys,
    open_bytes,
    read_sealed,
    rewrap_file,
    seal_bytes,
    write_sealed,
)
from fedsim.sealing._envelope import SLOT_BYTES, read_head, seal_chunks

KEYS = StorageKeys.of(bytes(range(32)))
LABEL = Label("checkpoint", {"run": "a", "round": 3})


def head_size(sealed: bytes) -> int:
    return len(read_head(io.BytesIO(sealed), "it").encode())


@pytest.mark.parametrize(
    "size",
    [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 7],
)
def test_content_of_any_length_comes_back(size: int) -> None:
    content = os.urandom(size)
    sealed = seal_bytes(content, LABEL, KEYS)
    assert open_bytes(sealed, LABEL, KEYS) == content
    chunks = max(1, -(-size // CHUNK_BYTES))
    assert len(sealed) == head_size(sealed) + size + 16 * chunks


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(0, 3))
def test_pieces_of_any_size_are_one_content(pieces: list[bytes], large: int) -> None:
    pieces = [*pieces, *[bytes(CHUNK_BYTES // 2)] * large]
    sealed = b"".join(seal_chunks(pieces, LABEL, KEYS))
    assert open_bytes(sealed, LABEL, KEYS) == b"".join(pieces)


def test_another_reading_of_the_format_agrees() -> None:
    """An independent reader, written from the description in `_envelope.py`."""
    content = os.urandom(CHUNK_BYTES + 100)
    sealed = seal_bytes(content, LABEL, KEYS)
    size = int.from_bytes(sealed[8:12], "big")
    public, rest = sealed[: 12 + size], sealed[12 + size :]
    wrapped, body = rest[8:48], rest[48:]
    cipher = AESGCM(aes_key_unwrap(KEYS.keys[KEYS.current], wrapped))
    text = public[12:].decode()
    assert rest[:8].hex() == KEYS.current
    assert '"facts":{"round":3,"run":"a"}' in text or '"facts":{"run":"a","round":3}' in text
    prefix = bytes.fromhex(text.split('"prefix":"')[1][:14])
    cut = CHUNK_BYTES + 16
    first = cipher.decrypt(prefix + bytes(4) + b"\0", body[:cut], public)
    last = cipher.decrypt(prefix + bytes([0, 0, 0, 1]) + b"\1", body[cut:], public)
    assert first + last == content


def test_no_two_envelopes_share_a_key_or_a_nonce() -> None:
    heads = [read_head(io.BytesIO(seal_bytes(b"same", LABEL, KEYS)), "it") for _ in range(50)]
    assert len({head.data_key(KEYS, "it") for head in heads}) == 50
    assert len({head.prefix for head in heads}) == 50


def test_every_changed_byte_is_noticed() -> None:
    sealed = seal_bytes(b"the weights of a model", LABEL, KEYS)
    for place in range(len(sealed)):
        for bit in (1, 128):
            changed = bytearray(sealed)
            changed[place] ^= bit
            with pytest.raises((SealingError, SetupError)):
                open_bytes(bytes(changed), LABEL, KEYS)
            # And where nothing is known of the file but its purpose:
            with pytest.raises((SealingError, SetupError)):
                open_bytes(bytes(changed), Label("checkpoint"), KEYS)


def test_every_cut_is_noticed() -> None:
    sealed = seal_bytes(b"the weights of a model", LABEL, KEYS)
    for size in range(len(sealed)):
        with pytest.raises(SealingError):
            open_bytes(sealed[:size], LABEL, KEYS)
    with pytest.raises(SealingError, match="longer or shorter"):
        open_bytes(sealed + b"\0", LABEL, KEYS)


@pytest.fixture(scope="module")
def three_chunks() -> tuple[bytes, list[bytes]]:
    sealed = seal_bytes(os.urandom(2 * CHUNK_BYTES + 5), LABEL, KEYS)
    start, size = head_size(sealed), CHUNK_BYTES + 16
    body = sealed[start:]
    return sealed[:start], [body[:size], body[size : 2 * size], body[2 * size :]]


@pytest.mark.parametrize(
    "order",
    [[1, 0, 2], [0, 1], [0, 2], [1, 2], [0, 0, 1, 2], [0, 1, 2, 2], [2], [0, 1, 1, 2], []],
    ids=str,
)
def test_chunks_cannot_be_moved_repeated_or_dropped(
    order: list[int], three_chunks: tuple[bytes, list[bytes]]
) -> None:
    head, chunks = three_chunks
    assert open_bytes(head + b"".join(chunks), LABEL, KEYS)
    with pytest.raises(SealingError, match="does not open"):
        open_bytes(head + b"".join(chunks[i] for i in order), LABEL, KEYS)


def test_chunks_of_another_file_do_not_fit(three_chunks: tuple[bytes, list[bytes]]) -> None:
    head, chunks = three_chunks
    other = seal_bytes(os.urandom(2 * CHUNK_BYTES + 5), LABEL, KEYS)
    with pytest.raises(SealingError, match="chunk 0"):
        open_bytes(other[: head_size(other)] + b"".join(chunks), LABEL, KEYS)
    public, other_public = len(head) - SLOT_BYTES, head_size(other) - SLOT_BYTES
    slot = other[other_public : other_public + SLOT_BYTES]
    with pytest.raises(SealingError, match="chunk 0"):
        open_bytes(head[:public] + slot + b"".join(chunks), LABEL, KEYS)


def test_a_file_under_another_name_does_not_open() -> None:
    sealed = seal_bytes(b"x", LABEL, KEYS)
    with pytest.raises(SealingError, match="sealed as 'checkpoint', not as 'model'"):
        open_bytes(sealed, Label("model", LABEL.facts), KEYS)
    with pytest.raises(SealingError, match=r"run = 'a', not 'b'"):
        open_bytes(sealed, Label("checkpoint", {"run": "b"}), KEYS)
    with pytest.raises(SealingError, match=r"model = None, not 'c'"):
        open_bytes(sealed, Label("checkpoint", {"model": "c"}), KEYS)
    assert open_bytes(sealed, Label("checkpoint", {"run": "a"}), KEYS) == b"x"


def test_a_forged_label_does_not_open() -> None:
    sealed = seal_bytes(b"x", LABEL, KEYS)
    forged = sealed.replace(b'"run":"a"', b'"run":"b"')
    assert forged != sealed
    with pytest.raises(SealingError, match="chunk 0"):
        open_bytes(forged, Label("checkpoint", {"run": "b"}), KEYS)


def test_another_key_does_not_open() -> None:
    sealed = seal_bytes(b"x", LABEL, KEYS)
    with pytest.raises(SetupError, match=f"sealed with storage key {KEYS.current}"):
        open_bytes(sealed, LABEL, StorageKeys.of(bytes(32)))
    impostor = StorageKeys({KEYS.current: bytes(32)}, KEYS.current)
    with pytest.raises(SealingError, match="another storage key"):
        open_bytes(sealed, LABEL, impostor)


@pytest.mark.parametrize(
    "content",
    [b"", b"fedsim", b"PK\x03\x04" + bytes(100), b"fedsim\x00\x02" + bytes(100), b"\0" * 200],
    ids=["empty", "short", "zip", "version 2", "zeros"],
)
def test_what_is_no_envelope_says_so(content: bytes) -> None:
    with pytest.raises(SealingError, match="not a sealed file of a format"):
        open_bytes(content, LABEL, KEYS)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_behind_the_magic_is_an_error_of_ours(rest: bytes) -> None:
    with pytest.raises((SealingError, SetupError)):
        open_bytes(b"fedsim\x00\x01" + rest, LABEL, KEYS)


HEADERS = [
    b"[]",
    b"{}",
    b'{"chunk":1048576,"facts":{},"format":2,"prefix":"00000000000000","purpose":"checkpoint"}',
    b'{"chunk":0,"facts":{},"format":1,"prefix":"00000000000000","purpose":"checkpoint"}',
    b'{"chunk":true,"facts":{},"format":1,"prefix":"00000000000000","purpose":"checkpoint"}',
    b'{"chunk":1,"facts":{"a":[]},"format":1,"prefix":"00000000000000","purpose":"checkpoint"}',
    b'{"chunk":1,"facts":[],"format":1,"prefix":"00000000000000","purpose":"checkpoint"}',
    b'{"chunk":1,"facts":{},"format":1,"prefix":"000000000000","purpose":"checkpoint"}',
    b'{"chunk":1,"facts":{},"format":1,"prefix":7,"purpose":"checkpoint"}',
    b'{"chunk":1,"facts":{},"format":1,"prefix":"00000000000000","purpose":7}',
    b"[" * 60000,
]


@pytest.mark.parametrize("header", HEADERS, ids=[f"header {i}" for i in range(len(HEADERS))])
def test_headers_of_other_types_are_refused(header: bytes) -> None:
    content = b"fedsim\x00\x01" + len(header).to_bytes(4, "big") + header + bytes(SLOT_BYTES + 16)
    with pytest.raises(SealingError, match="header that this fedsim does not read"):
        open_bytes(content, Label("checkpoint"), KEYS)


def test_a_label_must_fit() -> None:
    with pytest.raises(ValueError, match="says too much"):
        seal_bytes(b"", Label("x", {"long": "y" * 70000}), KEYS)


def test_rotation_changes_the_key_slot_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.sealed"
    content = os.urandom(2 * CHUNK_BYTES + 9)
    write_sealed(path, [content], LABEL, KEYS)
    before = path.read_bytes()
    both = StorageKeys.of(*KEYS.keys.values(), bytes(32))
    assert read_sealed(path, LABEL, both) == content  # not rotated yet: the old key opens it
    assert rewrap_file(path, both)
    after = path.read_bytes()
    end = head_size(before)
    start = end - SLOT_BYTES
    assert before[:start] == after[:start]
    assert before[end:] == after[end:]
    assert before[start:end] != after[start:end]
    assert not rewrap_file(path, both)  # nothing to do
    assert path.read_bytes() == after
    assert read_sealed(path, LABEL, StorageKeys.of(bytes(32))) == content
    with pytest.raises(SetupError, match="is not among the keys"):
        read_sealed(path, LABEL, KEYS)


def test_rotation_without_the_old_key_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.sealed"
    write_sealed(path, [b"x"], LABEL, KEYS)
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(SetupError, match="is not among the keys"):
        rewrap_file(path, StorageKeys.of(bytes(32)))
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.sealed"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.sealed"
    write_sealed(path, [b"old"], LABEL, KEYS)

    def pieces() -> object:
        yield bytes(2 * CHUNK_BYTES)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_sealed(path, pieces(), LABEL, KEYS)  # type: ignore[arg-type]
    assert read_sealed(path, LABEL, KEYS) == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.sealed"]
