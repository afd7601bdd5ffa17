"""The audit log: nothing in it can be changed, left out, put in or cut off unnoticed."""

import pytest

from fedsim.errors import LedgerError, SetupError
from fedsim.node.audit import AuditLog, Record


def record(number, decision="allowed"):
    return Record("2026-11-27T00:00:00Z", "7", "ab" * 32, "anna", "train", number, decision)


@pytest.fixture
def log(tmp_path):
    made = AuditLog(tmp_path / "audit.jsonl")
    for number in range(1, 5):
        made.add(record(number))
    return made


def test_what_was_written_is_read_by_others(log, tmp_path):
    found = AuditLog(tmp_path / "audit.jsonl").links()
    assert [link.entry for link in found] == [record(number) for number in range(1, 5)]
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o077 == 0


def changed(lines):
    yield "a letter", [lines[0].replace(b"anna", b"hans"), *lines[1:]], 1
    yield "a line less", [lines[0], *lines[2:]], 2
    yield "a line twice", [lines[0], *lines], 2
    yield "two lines swapped", [lines[1], lines[0], *lines[2:]], 1
    yield "the end cut off", lines[:-1], 4
    yield "all cut off", [], 1


@pytest.mark.parametrize("case", range(6))
def test_any_tampering_is_found_and_nothing_more_is_answered(case, log, tmp_path):
    path = tmp_path / "audit.jsonl"
    _, lines, number = list(changed(path.read_bytes().splitlines(keepends=True)))[case]
    path.write_bytes(b"".join(lines))
    for use in (AuditLog(path).links, lambda: AuditLog(path).add(record(9))):
        with pytest.raises(LedgerError, match=rf"audit\.jsonl, line {number}: .*let out"):
            use()


def test_a_line_without_its_end_is_set_aside(log, tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes() + b'{"entry":{"ti')
    AuditLog(path).add(record(5))
    assert [link.entry.round for link in AuditLog(path).links()] == [1, 2, 3, 4, 5]


def test_a_log_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="the node answers nothing"):
        AuditLog(tmp_path / "file" / "audit.jsonl").add(record(1))


def test_no_decision_can_be_invented():
    with pytest.raises(ValueError, match="maybe"):
        record(1, "maybe")
