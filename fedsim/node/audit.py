"""The node's own log of what it was asked, and what it let out: appended to, never rewritten.

A hash chain (`fedsim.chain`). Every request is in it before anything is done for it, and again with
what was sent when it is answered. No value of the data is in it.
"""

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from fedsim.chain import Chain, Kind, Link

__all__ = ["AuditLog", "Decision", "Record"]

Decision = Literal["allowed", "refused", "answered", "failed"]

_KIND = Kind(
    format="fedsim audit log 1",
    name="audit log",
    if_broken="What this node let out is not known any more: restore the file from a backup, and "
    "find out who changed it",
    if_closed="without it the node answers nothing",
    mode=0o600,
)


@dataclass(frozen=True, slots=True)
class Record:
    """A request and what became of it.

    `experiment`: the hash of the text that was signed. `order`: the hash of what the server told
    the node to work on, the model included, to compare with other nodes. `rows`: how many were
    trained on or tested with; `sent_bytes`: of the answer.
    """

    time: str
    run: str
    experiment: str
    approver: str
    kind: str
    round: int | None
    decision: Decision
    reason: str = ""
    order: str = ""
    rows: int = 0
    sent_bytes: int = 0

    def __post_init__(self) -> None:
        """Check what nobody could have written."""
        if self.decision not in get_args(Decision):
            raise ValueError(f"decision {self.decision!r}, not one of {get_args(Decision)}")


class AuditLog:
    """The log in a file. Any number of processes may share it.

    Every method raises `LedgerError` where the file is not what was written into it, and
    `SetupError` where it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is read or made yet."""
        self._chain = Chain(path, _KIND, _record)

    def add(self, record: Record) -> None:
        """Append a record; when it returns, the record is on the disk."""
        body = json.dumps(asdict(record), sort_keys=True, separators=(",", ":")).encode()
        self._chain.append(lambda: (record, body))

    def links(self) -> tuple[Link[Record], ...]:
        """Read and verify the whole file; return its records with their numbers and hashes."""
        return self._chain.links()


def now_text() -> str:
    """Return the time as it is written here: UTC, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _record(body: bytes) -> Record:
    plain = json.loads(body)
    known = {field.name for field in fields(Record)}
    if unknown := plain.keys() - known:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    return Record(**plain)
