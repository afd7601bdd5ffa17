"""The sealed log: lines come back in order, and only the end of it can be missing."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import SealingError, SetupError
from fedsim.sealing import Label, StorageKeys, open_log, read_log, rewrap_file
from fedsim.sealing._envelope import SLOT_BYTES
from fedsim.sealing._log import _HEAD_BYTES

KEYS = StorageKeys.of(bytes(range(32)))
LABEL = Label("log", {"run": "a"})


def written(path: Path, *segments: list[str]) -> bytes:
    for lines in segments:
        log = open_log(path, LABEL, KEYS)
        for line in lines:
            log.append(line)
        log.close()
    return path.read_bytes()


def parts_of(content: bytes, lines: list[list[str]]) -> list[bytes]:
    """Cut a log into heads and records, by the sizes that the format gives them."""
    found, file = [], io.BytesIO(content)
    for segment in lines:
        found.append(file.read(_HEAD_BYTES))
        found += [file.read(1 + 20 + len(line.encode()) + 16) for line in ["", *segment]]
    assert file.read() == b""
    return found


@settings(max_examples=30, deadline=None)
@given(segments=st.lists(st.lists(st.text(max_size=50), max_size=4), max_size=4))
def test_lines_come_back(
    segments: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "run.log.sealed"
    path.touch()
    written(path, *segments)
    found = read_log(path, LABEL, KEYS)
    expected = "".join(line for lines in segments for line in lines)
    assert found.text == expected.encode("utf-8", "replace").decode()
    assert (found.torn_bytes, found.dropped_bytes) == (0, 0)


def test_nothing_of_a_line_is_in_the_file(tmp_path: Path) -> None:
    content = written(tmp_path / "log", ["client 7 lost: patient 4711\n"])
    assert b"patient" not in content
    assert b"client" not in content


def test_a_line_is_there_at_once(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log", LABEL, KEYS)
    log.append("first\n")
    assert read_log(tmp_path / "log", LABEL, KEYS).text == "first\n"
    log.close()


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    content = written(path, ["one\n"], ["two\n"])
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises((SealingError, SetupError)):
            read_log(path, LABEL, KEYS)


LINES = [["one\n", "two\n", "three\n"], ["four\n", "five\n"], ["six\n"]]


@pytest.mark.parametrize("gone", range(11))
def test_no_part_before_the_end_can_be_cut_out(gone: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    parts = parts_of(written(path, *LINES), LINES)
    path.write_bytes(b"".join(parts[:gone] + parts[gone + 1 :]))
    with pytest.raises(SealingError):
        read_log(path, LABEL, KEYS)


def test_parts_cannot_be_moved_or_repeated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    parts = parts_of(written(path, *LINES), LINES)
    for i in range(len(parts) - 1):
        for order in (
            [*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]],
            [*parts[: i + 1], *parts[i:]],
        ):
            path.write_bytes(b"".join(order))
            with pytest.raises(SealingError):
                read_log(path, LABEL, KEYS)


def test_whole_segments_cannot_be_cut_out_or_moved(tmp_path: Path) -> None:
    path = tmp_path / "log"
    parts = parts_of(written(path, *LINES), LINES)
    one, two, three = b"".join(parts[:5]), b"".join(parts[5:9]), b"".join(parts[9:])
    path.write_bytes(one + two)
    assert read_log(path, LABEL, KEYS).text == "one\ntwo\nthree\nfour\nfive\n"  # the end is gone
    for content in (one + three, two + three, two, two + one + three, one + two + two):
        path.write_bytes(content)
        with pytest.raises(SealingError, match="missing or were moved"):
            read_log(path, LABEL, KEYS)


def test_what_a_crash_tore_off_is_said_and_the_log_goes_on(tmp_path: Path) -> None:
    """At every byte at which a write may have ended."""
    path = tmp_path / "log"
    lines = [["one\n", "two\n"], ["three\n"]]
    content = written(path, *lines)
    parts = parts_of(content, lines)
    # A segment is written with its first record, and every line by itself.
    ends = [0, len(b"".join(parts[:2]))]
    ends += [ends[1] + len(parts[2]), ends[1] + len(parts[2] + parts[3])]
    ends += [ends[3] + len(b"".join(parts[4:6])), len(content)]
    texts = ["", "", "one\n", "one\ntwo\n", "one\ntwo\n", "one\ntwo\nthree\n"]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        whole = max(end for end in ends if end <= size)
        found = read_log(path, LABEL, KEYS)
        assert (found.text, found.torn_bytes) == (texts[ends.index(whole)], size - whole)
        if size % 29 == 0 or size - whole < 3:
            log = open_log(path, LABEL, KEYS)
            log.append("again\n")
            log.close()
            again = read_log(path, LABEL, KEYS)
            assert (again.text, again.torn_bytes) == (found.text + "again\n", 0)
            assert again.dropped_bytes == size - whole


def test_zeros_after_a_loss_of_power_are_torn_off_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    content = written(path, ["one\n"])
    path.write_bytes(content + bytes(4096))
    found = read_log(path, LABEL, KEYS)
    assert (found.text, found.torn_bytes) == ("one\n", 4096)


def test_a_changed_log_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "log"
    content = bytearray(written(path, ["one\n", "two\n"]))
    content[_HEAD_BYTES + 50] ^= 1
    path.write_bytes(content)
    with pytest.raises(SealingError, match="changed or moved"):
        open_log(path, LABEL, KEYS)
    assert path.read_bytes() == content


def test_a_log_of_another_run_or_key(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written(path, ["one\n"])
    with pytest.raises(SealingError, match="run = 'a', not 'b'"):
        read_log(path, Label("log", {"run": "b"}), KEYS)
    with pytest.raises(SetupError, match="not among the keys"):
        read_log(path, LABEL, StorageKeys.of(bytes(32)))
    path.write_bytes(b"2026-01-01T00:00:00Z running from round 1\n")
    with pytest.raises(SealingError, match="not a sealed log"):
        read_log(path, LABEL, KEYS)


def test_segments_have_keys_of_their_own(tmp_path: Path) -> None:
    """So that a nonce cannot repeat, whatever was torn off: no two wrapped keys are the same."""
    path = tmp_path / "log"
    parts = parts_of(written(path, *LINES), LINES)
    heads = [part for part in parts if part[:1] == b"H"]
    assert len({head[-40:] for head in heads}) == len(heads) == 3


def test_rotation_changes_key_slots_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    before = parts_of(written(path, *LINES), LINES)
    both = StorageKeys.of(*KEYS.keys.values(), bytes(32))
    assert rewrap_file(path, both)
    after = parts_of(path.read_bytes(), LINES)
    for old, new in zip(before, after, strict=True):
        if old[:1] == b"H":
            assert old[:-SLOT_BYTES] == new[:-SLOT_BYTES]
            assert old[-SLOT_BYTES:] != new[-SLOT_BYTES:]
        else:
            assert old == new
    alone = StorageKeys.of(bytes(32))
    assert read_log(path, LABEL, alone).text == "one\ntwo\nthree\nfour\nfive\nsix\n"
    log = open_log(path, LABEL, alone)
    log.append("seven\n")
    log.close()
    assert read_log(path, LABEL, alone).text.endswith("six\nseven\n")
    assert not rewrap_file(path, both)
