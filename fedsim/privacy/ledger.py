"""The ledger: what was spent on a data set is on the disk before it is released.

One file per data set and unit of privacy, shared by all runs: JSON lines, only ever appended to,
each with the SHA-256 of the hash before it and of its own entry, so that no line can be changed,
moved or left out unnoticed. A second file, `.head`, has the number of lines and the last hash: from
a chain alone nobody could tell that its end was cut off. Who can write both files can still forge
them; the run store and the reports hold hashes to compare with.

A process that dies while it writes leaves a line without its end. That line was never acknowledged,
so nothing was released for it: it is set aside in a file of its own. A line that is whole counts,
whether or not its release took place.
"""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fedsim.errors import LedgerError, SetupError
from fedsim.privacy._entries import Entry, Spend, canonical, entry_from_dict, grouped, to_dict
from fedsim.privacy.budget import Budget, Spent
from fedsim.privacy.events import Unit

__all__ = [
    "Entry",
    "Ledger",
    "Receipt",
    "Spend",
    "entry_from_dict",
    "grouped",
    "ledger_path",
    "ledger_paths",
    "to_dict",
]

#: What the first line's hash follows. Another format gets another word.
_GENESIS = hashlib.sha256(b"fedsim privacy ledger 1").hexdigest()
_BEFORE, _BETWEEN, _AFTER = b'{"entry":', b',"hash":"', b'"}'
_HASH = re.compile(rb"[0-9a-f]{64}")
_END = len(_BETWEEN) + 64 + len(_AFTER)  # bytes of a line behind its entry
_WAIT_S = 60
_HEAD = re.compile(rb"(\d{12}) ([0-9a-f]{64})\n")


@dataclass(frozen=True, slots=True)
class Receipt:
    """An entry in the ledger: `number`, from 1, is its line, `hash` its link in the chain."""

    number: int
    hash: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class _Place:
    """Up to where a file was read: bytes, lines, last hash; `is_open`: without a newline there."""

    offset: int = 0
    number: int = 0
    hash: str = _GENESIS
    is_open: bool = False


def ledger_path(root: Path, dataset: str, sha256: str, unit: Unit) -> Path:
    """Return where the ledger of a data set is, by its name and the hash of its contents.

    `root`: the run store's folder. The same examples under another name, or prepared another way,
    are another data set: nobody can tell that they are of the same people.

    >>> ledger_path(Path("runs"), "heart disease", 64 * "a", "user").as_posix()
    'runs/ledger/heart-disease.aaaaaaaaaaaaaaaa.user.jsonl'
    """
    return root / "ledger" / f"{_safe(dataset)}.{sha256[:16]}.{unit}.jsonl"


def ledger_paths(
    root: Path, *, dataset: str | None = None, sha256: str | None = None, unit: Unit | None = None
) -> list[Path]:
    """Return the ledgers there are, by name; of one data set, contents or unit where given."""
    name = _safe(dataset) if dataset else "*"
    sha = sha256[:16] if sha256 else "*"
    return sorted((root / "ledger").glob(f"{name}.{sha}.{unit or '*'}.jsonl"))


def _safe(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)


class Ledger:
    """The ledger in a file; made by the first entry. Any number of processes may share it.

    Every method raises `LedgerError` where the file is not what was written into it, and
    `SetupError` where it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is read or made yet."""
        self.path = path
        self._head_path = path.with_suffix(".head")
        self._spent, self._place, self._inode = Spent(), _Place(), -1
        self._prepared: set[Budget] = set()

    def admit(self, entry: Entry, budget: Budget | None = None) -> Receipt:
        """Write an entry down if the budget allows it: all of it, or nothing.

        Call it before a round: when it returns, the entry is on the disk. What others have spent
        in the meantime counts. Raises `BudgetExceededError`; nothing was written then.
        """

        def all_of_it(spent: Spent) -> Entry:
            if budget:
                spent.check(entry, budget)
            return entry

        self._prepare(entry, budget)
        return self._admit(entry, all_of_it)

    def admit_those_left(self, entry: Entry, budget: Budget) -> Receipt:
        """Write an entry down without the clients whose own budget it would pass.

        Only the clients in the receipt's entry may take part. Raises `BudgetExceededError` when
        nobody is left.
        """
        self._prepare(entry, budget)
        return self._admit(entry, lambda spent: spent.those_left(entry, budget))

    def entries(self) -> tuple[Entry, ...]:
        """Read and verify the whole file; return its entries, oldest first."""
        return tuple(receipt.entry for receipt in self.receipts())

    def receipts(self) -> tuple[Receipt, ...]:
        """Read and verify the whole file; return its entries with their numbers and hashes."""
        with self._reading() as descriptor:
            if descriptor is None:
                self._check_head((), _Place(), self._head())
                return ()
            return self._read(descriptor, _Place())[0]

    def verify(self, known: Iterable[tuple[int, str]] = ()) -> Receipt | None:
        """Verify the whole file, and that it has the entries of `known`: (number, hash).

        Returns the last entry, None where there is none.
        """
        found = self.receipts()
        self.confirm(found, known)
        return found[-1] if found else None

    def confirm(self, found: Sequence[Receipt], known: Iterable[tuple[int, str]]) -> None:
        """Raise `LedgerError` unless what was read has the entries of `known`: (number, hash)."""
        for number, hash in known:
            if number > len(found):
                raise _broken(self.path, number, "is missing: a run knows of it")
            if found[number - 1].hash != hash:
                raise _broken(self.path, number, "is not the one that a run knows")

    def spent(self) -> Spent:
        """Return what has been spent so far, by this and all other processes."""
        with self._reading() as descriptor:
            if descriptor is None:
                self._check_head((), _Place(), self._head())
            else:
                self._catch_up(descriptor)
        return self._spent

    def torn(self) -> tuple[Path, ...]:
        """Return the files in which unfinished lines were set aside."""
        return tuple(sorted(self.path.parent.glob(f"{self.path.name}.torn-*")))

    def _prepare(self, entry: Entry, budget: Budget | None) -> None:
        """Compute what takes long before the lock is taken, so that nobody waits for it."""
        if budget and budget not in self._prepared:
            self.spent().prepare(entry, budget)
            self._prepared.add(budget)

    def _admit(self, entry: Entry, decide: Callable[[Spent], Entry]) -> Receipt:
        with self._writing() as descriptor:
            tail = self._catch_up(descriptor)
            self._must_belong(entry)
            kept = decide(self._spent)
            if tail:
                self._set_aside(descriptor, tail)
            return self._append(descriptor, kept)

    def _must_belong(self, entry: Entry) -> None:
        first = self._spent.opening
        for key in ("dataset", "unit", "adjacency"):
            if first and getattr(first, key) != getattr(entry, key):
                raise LedgerError(
                    f"{self.path} is about {key} {getattr(first, key)!r}; run {entry.run} has "
                    f"{getattr(entry, key)!r}, and the two do not add up to one epsilon. "
                    f"Set it to {getattr(first, key)!r}, or choose another store with --runs"
                )

    def _catch_up(self, descriptor: int) -> bytes:
        """Read what is new since the last time; return an unfinished line at the end."""
        inode = os.fstat(descriptor).st_ino
        if inode != self._inode:
            self._forget()
        elif self._place.number:
            mark = self._place.hash.encode() + _AFTER + (b"" if self._place.is_open else b"\n")
            if os.pread(descriptor, len(mark), self._place.offset - len(mark)) != mark:
                raise _broken(self.path, self._place.number, "has changed since it was read")
        receipts, place, tail = self._read(descriptor, self._place)
        for receipt in receipts:
            self._spent.add(receipt.entry)
        self._place, self._inode = place, inode
        return tail

    def _read(self, descriptor: int, start: _Place) -> tuple[tuple[Receipt, ...], _Place, bytes]:
        """Read and verify from a place on; return entries, the new place and an unfinished line."""
        head = self._head()
        content = _rest(descriptor, start.offset)
        if start.is_open and content:
            if content[:1] != b"\n":
                raise _broken(self.path, start.number, "goes on after its end")
            content, start = content[1:], _Place(start.offset + 1, start.number, start.hash)
        receipts, place, tail = _parsed(content, start, self.path)
        if head is None and place.number:
            raise LedgerError(
                f"{self._head_path} is missing: without it nobody can tell whether lines at the "
                f"end of {self.path} are missing too (it has {place.number})"
            )
        self._check_head(receipts, place, head)
        return receipts, place, tail

    def _check_head(
        self, receipts: tuple[Receipt, ...], place: _Place, head: tuple[int, str] | None
    ) -> None:
        """Compare with the head, which is never ahead of the file: it is written after it."""
        if head is None:
            return
        number, hash = head
        if number > place.number:
            raise _broken(self.path, place.number + 1, f"is missing: there were {number} lines")
        known = {place.number: place.hash} | {r.number: r.hash for r in receipts}
        if known.get(number, hash) != hash:
            raise _broken(self.path, number, f"is not the one that {self._head_path.name} knows")

    def _append(self, descriptor: int, entry: Entry) -> Receipt:
        """Write a line and wait until the disk has it; take it back if that fails."""
        body, start = canonical(entry), self._place
        hash = _link(start.hash, body)
        line = b"".join((_BEFORE, body, _BETWEEN, hash.encode(), _AFTER, b"\n"))
        try:
            _write(descriptor, b"\n" + line if start.is_open else line)
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, start.offset)
                os.fsync(descriptor)
            raise
        number = start.number + 1
        self._place = _Place(start.offset + start.is_open + len(line), number, hash)
        self._spent.add(entry)
        self._write_head(number, hash)
        return Receipt(number, hash, entry)

    def _set_aside(self, descriptor: int, tail: bytes) -> None:
        """Keep an unfinished line in a file of its own, and end the ledger before it."""
        offset = self._place.offset
        taken = len(list(self.path.parent.glob(f"{self.path.name}.torn-{offset}-*")))
        aside = self.path.with_name(f"{self.path.name}.torn-{offset}-{taken + 1}")
        with aside.open("xb") as file:
            file.write(tail)
            file.flush()
            os.fsync(file.fileno())
        os.ftruncate(descriptor, offset)
        os.fsync(descriptor)

    def _head(self) -> tuple[int, str] | None:
        """Return (lines, last hash) as last acknowledged."""
        try:
            content = self._head_path.read_bytes()
        except FileNotFoundError:
            return None
        found = _HEAD.fullmatch(content)
        if found is None:
            raise LedgerError(f"{self._head_path}, line 1: is not a count and a hash")
        return int(found[1]), found[2].decode()

    def _write_head(self, number: int, hash: str) -> None:
        """Overwrite the head in place: one small block, which needs no room and does not tear.

        It is not waited for: after a power cut it may be old, which says less but nothing wrong.
        """
        descriptor = os.open(self._head_path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, f"{number:012d} {hash}\n".encode(), 0)
            if not number:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """Open and lock the file to write; make it, its head and its folder if there are none."""
        with self._explained("write to"):
            folder = self.path.parent
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            descriptor = os.open(self.path, flags, 0o644)
            try:
                _lock(descriptor, fcntl.LOCK_EX)
                if not os.fstat(descriptor).st_size and self._head() is None:
                    self._write_head(0, _GENESIS)
                    for changed in (folder, folder.parent) if is_new else (folder,):
                        _sync_folder(changed)
                yield descriptor
            finally:
                os.close(descriptor)  # which unlocks it

    @contextmanager
    def _reading(self) -> Iterator[int | None]:
        """Open and lock the file to read; None where there is none."""
        with self._explained("read"):
            try:
                descriptor = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                yield None
                return
            try:
                _lock(descriptor, fcntl.LOCK_SH)
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SetupError(
                f"cannot {what} the privacy ledger {self.path}: {error.strerror or error}; without "
                "it nothing is released. Make it writable, free some space, or choose another "
                "store with --runs or FEDSIM_RUNS"
            ) from error

    def _forget(self) -> None:
        self._spent, self._place, self._inode = Spent(), _Place(), -1


def _parsed(content: bytes, start: _Place, path: Path) -> tuple[tuple[Receipt, ...], _Place, bytes]:
    """Split lines, follow the chain; return entries, the place after them, an unfinished line."""
    if not content:
        return (), start, b""
    *lines, tail = content.split(b"\n")
    receipts: list[Receipt] = []
    offset, number, hash = start.offset, start.number, start.hash
    for line in lines:
        number += 1
        found = _linked(line, hash)
        if found is None:
            raise _broken(
                path,
                number,
                "breaks the hash chain: it was changed, or lines were left out, put in or moved",
            )
        hash = found
        receipts.append(Receipt(number, hash, _entry(line, number, path)))
        offset += len(line) + 1
    last = _linked(tail, hash)
    if last is None:
        return tuple(receipts), _Place(offset, number, hash), tail
    receipts.append(Receipt(number + 1, last, _entry(tail, number + 1, path)))
    return tuple(receipts), _Place(offset + len(tail), number + 1, last, is_open=True), b""


def _linked(line: bytes, before: str) -> str | None:
    """Return the hash of a whole line that follows the hash `before`, None for any other."""
    body, hash = line[len(_BEFORE) : -_END], line[-_END + len(_BETWEEN) : -len(_AFTER)]
    is_whole = line == b"".join((_BEFORE, body, _BETWEEN, hash, _AFTER)) and _HASH.fullmatch(hash)
    return hash.decode() if is_whole and _link(before, body) == hash.decode() else None


def _entry(line: bytes, number: int, path: Path) -> Entry:
    try:
        return entry_from_dict(json.loads(line[len(_BEFORE) : -_END]))
    except (ValueError, TypeError, KeyError) as error:
        raise LedgerError(
            f"{path}, line {number}: is not an entry that this fedsim knows ({error}): use the "
            "fedsim that wrote it"
        ) from error


def _link(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + body).hexdigest()


def _broken(path: Path, number: int, what: str) -> LedgerError:
    return LedgerError(
        f"{path}, line {number}: {what}. What was spent is not known any more: restore the file "
        "from a backup, or count its data as spent"
    )


def _lock(descriptor: int, kind: int) -> None:
    """Wait for others, who need milliseconds; a process that is stopped may keep the lock."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                reason = f"another process has held its lock for {_WAIT_S} s"
                raise OSError(error.errno, reason) from error
            time.sleep(0.002)


def _rest(descriptor: int, offset: int) -> bytes:
    parts = []
    while part := os.pread(descriptor, 1 << 24, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
