"""Files that are only ever appended to, and in which no line can be changed unnoticed.

JSON lines, each with the SHA-256 of the hash before it and of its own entry, so that no line can be
changed, moved or left out. A second file, `.head`, has the number of lines and the last hash: from
a chain alone nobody could tell that its end was cut off. Who can write both files can still forge
them; whoever keeps a hash elsewhere can compare.

A process that dies while it writes leaves a line without its end. That line was never acknowledged:
it is set aside in a file of its own. A line that is whole counts.
"""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from fedsim.errors import LedgerError, SetupError
from fedsim.files import sync_folder

__all__ = ["Chain", "Kind", "Link", "broken"]

T = TypeVar("T")

_BEFORE, _BETWEEN, _AFTER = b'{"entry":', b',"hash":"', b'"}'
_HASH = re.compile(rb"[0-9a-f]{64}")
_END = len(_BETWEEN) + 64 + len(_AFTER)  # bytes of a line behind its entry
_WAIT_S = 60
_HEAD = re.compile(rb"(\d{12}) ([0-9a-f]{64})\n")


@dataclass(frozen=True, slots=True)
class Kind:
    """What is kept in a chain, for messages; `format` is what the first line's hash follows.

    `if_broken`: what to do about a line that is not what was written. `if_closed`: about a file
    that cannot be read or written. `mode`: the permissions of new files.
    """

    format: str
    name: str
    if_broken: str
    if_closed: str
    mode: int = 0o644

    @property
    def genesis(self) -> str:
        """Return the hash before the first line. Another format gets another word."""
        return hashlib.sha256(self.format.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Link(Generic[T]):
    """An entry in a chain: `number`, from 1, is its line, `hash` its link."""

    number: int
    hash: str
    entry: T


@dataclass(frozen=True, slots=True)
class _Place:
    """Up to where a file was read: bytes, lines, last hash; `is_open`: without a newline there."""

    offset: int
    number: int
    hash: str
    is_open: bool = False


class Chain(Generic[T]):
    """The chain in a file; made by the first entry. Any number of processes may share it.

    `read` makes an entry of its JSON; `take` is told of every entry, in order, once; `forget` that
    they are told anew, because the file is another one. Every method raises `LedgerError` where the
    file is not what was written into it, and `SetupError` where it cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        kind: Kind,
        read: Callable[[bytes], T],
        take: Callable[[T], None] = lambda entry: None,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        """Name the file; nothing is read or made yet."""
        self.path, self.kind = path, kind
        self._head_path = path.with_suffix(".head")
        self._entry, self._take, self._forget = read, take, forget
        self._start = _Place(0, 0, kind.genesis)
        self._place, self._inode = self._start, -1

    def links(self) -> tuple[Link[T], ...]:
        """Read and verify the whole file; return its entries with their numbers and hashes."""
        with self._reading() as descriptor:
            if descriptor is None:
                self._check_head((), self._start, self._head())
                return ()
            return self._read(descriptor, self._start)[0]

    def confirm(self, found: Sequence[Link[T]], known: Iterable[tuple[int, str]]) -> None:
        """Raise `LedgerError` unless what was read has the entries of `known`: (number, hash)."""
        for number, hash in known:
            if number > len(found):
                raise broken(self.path, self.kind, number, "is missing: a run knows of it")
            if found[number - 1].hash != hash:
                raise broken(self.path, self.kind, number, "is not the one that a run knows")

    def follow(self) -> None:
        """Tell `take` of every entry that is new since the last time."""
        with self._reading() as descriptor:
            if descriptor is None:
                self._check_head((), self._start, self._head())
            else:
                self._catch_up(descriptor)

    def append(self, decide: Callable[[], tuple[T, bytes]]) -> Link[T]:
        """Append what `decide` returns, an entry and its JSON, once `take` knows of all others.

        Nobody else appends in between. When it returns, the entry is on the disk; where `decide`
        raises, nothing was written.
        """
        with self._writing() as descriptor:
            tail = self._catch_up(descriptor)
            entry, body = decide()
            if tail:
                self._set_aside(descriptor, tail)
            return self._append(descriptor, entry, body)

    def torn(self) -> tuple[Path, ...]:
        """Return the files in which unfinished lines were set aside."""
        return tuple(sorted(self.path.parent.glob(f"{self.path.name}.torn-*")))

    def _catch_up(self, descriptor: int) -> bytes:
        """Read what is new since the last time; return an unfinished line at the end."""
        inode = os.fstat(descriptor).st_ino
        if inode != self._inode:
            self._forget()
            self._place, self._inode = self._start, -1
        elif self._place.number:
            mark = self._place.hash.encode() + _AFTER + (b"" if self._place.is_open else b"\n")
            if os.pread(descriptor, len(mark), self._place.offset - len(mark)) != mark:
                raise self._broken(self._place.number, "has changed since it was read")
        links, place, tail = self._read(descriptor, self._place)
        for link in links:
            self._take(link.entry)
        self._place, self._inode = place, inode
        return tail

    def _read(self, descriptor: int, start: _Place) -> tuple[tuple[Link[T], ...], _Place, bytes]:
        """Read and verify from a place on; return entries, the new place and an unfinished line."""
        head = self._head()
        content = _rest(descriptor, start.offset)
        if start.is_open and content:
            if content[:1] != b"\n":
                raise self._broken(start.number, "goes on after its end")
            content, start = content[1:], _Place(start.offset + 1, start.number, start.hash)
        links, place, tail = self._parsed(content, start)
        if head is None and place.number:
            raise LedgerError(
                f"{self._head_path} is missing: without it nobody can tell whether lines at the "
                f"end of {self.path} are missing too (it has {place.number})"
            )
        self._check_head(links, place, head)
        return links, place, tail

    def _parsed(self, content: bytes, start: _Place) -> tuple[tuple[Link[T], ...], _Place, bytes]:
        """Split lines, follow the chain; return links, the place after them, an unfinished line."""
        if not content:
            return (), start, b""
        *lines, tail = content.split(b"\n")
        links: list[Link[T]] = []
        offset, number, hash = start.offset, start.number, start.hash
        for line in lines:
            number += 1
            found = _linked(line, hash)
            if found is None:
                raise self._broken(
                    number,
                    "breaks the hash chain: it was changed, or lines were left out, put in or "
                    "moved",
                )
            hash = found
            links.append(Link(number, hash, self._value(line, number)))
            offset += len(line) + 1
        last = _linked(tail, hash)
        if last is None:
            return tuple(links), _Place(offset, number, hash), tail
        links.append(Link(number + 1, last, self._value(tail, number + 1)))
        place = _Place(offset + len(tail), number + 1, last, is_open=True)
        return tuple(links), place, b""

    def _value(self, line: bytes, number: int) -> T:
        try:
            return self._entry(line[len(_BEFORE) : -_END])
        except (ValueError, TypeError, KeyError) as error:
            raise LedgerError(
                f"{self.path}, line {number}: is not an entry that this fedsim knows ({error}): "
                "use the fedsim that wrote it"
            ) from error

    def _check_head(
        self, links: Sequence[Link[T]], place: _Place, head: tuple[int, str] | None
    ) -> None:
        """Compare with the head, which is never ahead of the file: it is written after it."""
        if head is None:
            return
        number, hash = head
        if number > place.number:
            raise self._broken(place.number + 1, f"is missing: there were {number} lines")
        known = {place.number: place.hash} | {link.number: link.hash for link in links}
        if known.get(number, hash) != hash:
            raise self._broken(number, f"is not the one that {self._head_path.name} knows")

    def _append(self, descriptor: int, entry: T, body: bytes) -> Link[T]:
        """Write a line and wait until the disk has it; take it back if that fails."""
        start = self._place
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
        self._take(entry)
        self._write_head(number, hash)
        return Link(number, hash, entry)

    def _set_aside(self, descriptor: int, tail: bytes) -> None:
        """Keep an unfinished line in a file of its own, and end the chain before it."""
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
        descriptor = os.open(self._head_path, os.O_WRONLY | os.O_CREAT, self.kind.mode)
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
            descriptor = os.open(self.path, flags, self.kind.mode)
            try:
                _lock(descriptor, fcntl.LOCK_EX)
                if not os.fstat(descriptor).st_size and self._head() is None:
                    self._write_head(0, self.kind.genesis)
                    for changed in (folder, folder.parent) if is_new else (folder,):
                        sync_folder(changed)
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
                f"cannot {what} the {self.kind.name} {self.path}: {error.strerror or error}; "
                f"{self.kind.if_closed}"
            ) from error

    def _broken(self, number: int, what: str) -> LedgerError:
        return broken(self.path, self.kind, number, what)


def broken(path: Path, kind: Kind, number: int, what: str) -> LedgerError:
    """Return what is raised about a line."""
    return LedgerError(f"{path}, line {number}: {what}. {kind.if_broken}")


def _linked(line: bytes, before: str) -> str | None:
    """Return the hash of a whole line that follows the hash `before`, None for any other."""
    body, hash = line[len(_BEFORE) : -_END], line[-_END + len(_BETWEEN) : -len(_AFTER)]
    is_whole = line == b"".join((_BEFORE, body, _BETWEEN, hash, _AFTER)) and _HASH.fullmatch(hash)
    return hash.decode() if is_whole and _link(before, body) == hash.decode() else None


def _link(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + body).hexdigest()


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
