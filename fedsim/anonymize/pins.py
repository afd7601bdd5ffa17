"""Which rows have been let out, and cut how: a second, different cut of them is refused.

Two k-anonymous tables of the same people, put side by side, need not be k-anonymous: a person is in
one class of each, and the two may have one person in common (the intersection attack; Ganta,
Kasiviswanathan and Smith, "Composition attacks and auxiliary information in data privacy", KDD
2008). A pin is kept beside the data of each release: what it was, and the rows that were in it.

Rows are kept as keyed hashes of 8 bytes, in files that only their owner can read, with the key
beside them in a file of its own: whoever gets the pins alone cannot test guesses. Two different
rows have the same hash once in 2^64 pairs.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.protection import Protection
from fedsim.anonymize.recoding import Recoding
from fedsim.crypto import random_key
from fedsim.errors import ConfigError, DataError, Problem, SetupError
from fedsim.files import make_private_folder, read_secret, write_secret

__all__ = ["FOLDER", "Pin", "Pins", "cut_hash", "open_pins", "protection_of", "row_set_hash"]

FOLDER = ".fedsim-pins"  # beside the input
_KEY = "key"


@dataclass(frozen=True, slots=True)
class Pin:
    """One release: the schema, the protection, the cut and the set of rows, as hashes.

    `released`: SHA-256 of the file. `reason`: why rows were let out although they had been before.
    """

    schema: str
    protection: dict[str, Any]
    cut: str
    rows: str
    created: str = ""
    released: str = ""
    reason: str = ""
    again: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """Return what tells this cut of these rows from all others, or from itself, done again."""
        what = [self.schema, self.protection, self.cut, self.rows]
        if self.reason:
            what += [self.reason, self.created]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Pins:
    """The pins of a folder, and the key that rows are hashed with."""

    folder: Path
    key: bytes = field(repr=False)

    def check(self, pin: Pin, people: NDArray[np.uint64], *, reason: str = "") -> Pin:
        """Return the pin to record: with its reason, where rows were let out before.

        Raises `ConfigError` where some of the rows were let out under another cut and no reason is
        given to do it again.
        """
        overlaps = self.having(people)
        if pin.name in [earlier.name for earlier in overlaps] and not reason:
            return pin
        if overlaps and not reason:
            raise ConfigError([_refused(self.folder, overlaps)])
        if not overlaps:
            return pin
        return replace(pin, reason=reason, again=tuple(earlier.name for earlier in overlaps))

    def having(self, people: NDArray[np.uint64]) -> list[Pin]:
        """Return the releases that had some of these rows in them, oldest first."""
        own = np.unique(people)
        return [
            earlier
            for earlier in self.all()
            if np.isin(own, self._people(earlier), assume_unique=True).any()
        ]

    def record(self, pin: Pin, people: NDArray[np.uint64]) -> bool:
        """Keep a pin, and say whether it is a new one. The first makes the folder and its key.

        Raises `DataError` where the same cut gave another file before: where a treatment draws at
        random, and two draws of it, averaged, hide less.
        """
        for earlier in self.all():
            if earlier.name == pin.name:
                if earlier.released != pin.released:
                    raise DataError(_other_bytes(earlier))
                return False
        self._keep_key()
        write_secret(self.folder / f"{pin.name}.rows", np.unique(people).astype("<u8").tobytes())
        text = json.dumps(asdict(pin), indent=1, sort_keys=True)
        write_secret(self.folder / f"{pin.name}.json", text.encode() + b"\n")
        return True

    def all(self) -> list[Pin]:
        """Return every pin, oldest first. Raises `SetupError` for a file that is none."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                plain = json.loads(read_secret(path))
                found.append(Pin(**{**plain, "again": tuple(plain["again"])}))
            except (ValueError, TypeError, KeyError) as error:
                raise SetupError(f"{path} is no pin of a release ({error}): restore it") from error
        return sorted(found, key=lambda pin: (pin.created, pin.name))

    def _keep_key(self) -> None:
        make_private_folder(self.folder)
        path = self.folder / _KEY
        if not path.exists():
            write_secret(path, self.key)
        elif read_secret(path) != self.key:
            raise SetupError(f"{path} was made by another release meanwhile: run again")

    def _people(self, pin: Pin) -> NDArray[np.uint64]:
        content = read_secret(self.folder / f"{pin.name}.rows")
        if len(content) % 8:
            raise SetupError(f"{self.folder / pin.name}.rows is cut off: restore it")
        return np.frombuffer(content, dtype="<u8").astype(np.uint64)


def open_pins(folder: Path) -> Pins:
    """Open a folder of pins; where there is none, with a key that the first release keeps.

    Nothing is made here: what is refused leaves nothing behind. Raises `SetupError`.
    """
    path = folder / _KEY
    if path.exists():
        return Pins(folder, read_secret(path))
    if any(folder.glob("*.rows")):
        raise SetupError(f"{path} is missing: without it, pins cannot be compared. Restore it")
    _require_room(folder)
    return Pins(folder, random_key())


def _require_room(folder: Path) -> None:
    """Raise `SetupError`, before any work, where the folder could not be made."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise SetupError(f"cannot make the folder {folder}: {there} is no folder to write into")


def row_set_hash(people: NDArray[np.uint64]) -> str:
    """Return a hash of rows in any order, repeated ones counted."""
    return hashlib.sha256(np.sort(people).astype("<u8").tobytes()).hexdigest()


def cut_hash(
    recoding: Recoding, labels: Sequence[Sequence[str]], hashes: NDArray[np.uint64]
) -> str:
    """Return a hash of which row is generalized to what, whatever the order of rows and classes."""
    named = [[names[i] for names, i in zip(labels, index, strict=True)] for index in recoding.index]
    order = sorted(range(len(named)), key=named.__getitem__)
    rank = np.empty(len(named) + 1, dtype=np.int64)
    rank[order] = np.arange(len(named))
    rank[-1] = -1
    by_row = rank[recoding.class_of]
    rows = np.lexsort((by_row, hashes))
    digest = hashlib.sha256(json.dumps([named[i] for i in order]).encode())
    digest.update(hashes[rows].astype("<u8").tobytes())
    digest.update(by_row[rows].astype("<i8").tobytes())
    return digest.hexdigest()


def protection_of(protection: Protection, how: str, max_suppression: float) -> dict[str, Any]:
    """Return what a pin says of the protection."""
    return asdict(protection) | {"recoding": how, "max_suppression": max_suppression}


def _refused(folder: Path, overlaps: Sequence[Pin]) -> Problem:
    latest = overlaps[-1]
    when = f" on {latest.created}" if latest.created else ""
    what = f"recoding {latest.protection.get('recoding')}, k = {latest.protection.get('k')}"
    return Problem(
        "FILE",
        f"rows let out before{when} ({what})",
        "rows that were not let out under another cut: the two, side by side, narrow people down",
        f"Use the file released then (SHA-256 {latest.released[:16]}...), or say why it has to be: "
        f"--again REASON. Pins are in {folder}.",
    )


def _other_bytes(earlier: Pin) -> str:
    return (
        "the same release gave another file before (a treatment draws at random, or goes by the "
        "order of the rows): two draws side "
        f"by side hide less. Use the file of then, SHA-256 {earlier.released}"
    )
