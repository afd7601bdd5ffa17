"""Storage keys: the key-encryption keys that data keys are wrapped with, several at a time.

A key's id is derived from the key, so no file can call a key by another's name. New files are
sealed with the last key; the others only open what was sealed before. That is all rotation needs.
"""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedsim.crypto import KEY_BYTES, derive, random_key
from fedsim.errors import SetupError
from fedsim.files import from_home, read_secret

__all__ = ["ID_BYTES", "StorageKeys", "key_id", "new_key_line", "storage_keys"]

ID_BYTES = 8
KEY_VARIABLE, FILE_VARIABLE = "FEDSIM_STORAGE_KEY", "FEDSIM_STORAGE_KEY_FILE"

_ACCEPTED = "32 random bytes as 64 hexadecimal digits or as 44 characters of base64"
_HEX = re.compile(r"[0-9a-fA-F]{64}")


def key_id(key: bytes) -> str:
    """Return the public name of a key: 16 hexadecimal digits that tell nothing about it."""
    return derive(key, b"fedsim/storage/v1|id", ID_BYTES).hex()


@dataclass(frozen=True, slots=True)
class StorageKeys:
    """Keys to seal and open files with, oldest first; the last one seals.

    >>> keys = StorageKeys.parse("11" * 32)
    >>> keys.current == key_id(bytes([0x11] * 32))
    True
    """

    keys: Mapping[str, bytes] = field(repr=False)
    current: str

    @classmethod
    def of(cls, *keys: bytes) -> "StorageKeys":
        """Return a set of different keys, at least one; the last one seals."""
        found = {key_id(key): key for key in keys}
        return cls(found, key_id(keys[-1]))

    @classmethod
    def parse(cls, text: str, source: str = "storage keys") -> "StorageKeys":
        """Read keys from text: separated by spaces, commas or lines; `#` begins a comment.

        Raise `SetupError` that says which word is no key, never the word itself.
        """
        words = re.sub(r"#.*", "", text).replace(",", " ").split()
        found = []
        for number, word in enumerate(words, start=1):
            key = _decoded(word)
            if key is None:
                raise SetupError(f"{source}: key {number} of {len(words)} is not {_ACCEPTED}")
            found.append(key)
        if not found:
            raise SetupError(f"{source}: there is no key; a key is {_ACCEPTED}")
        if len(set(found)) < len(found):
            raise SetupError(f"{source}: a key is given twice")
        return cls.of(*found)

    @classmethod
    def read(cls, path: Path) -> "StorageKeys":
        """Read keys from a file that only its owner can read; raise `SetupError` otherwise."""
        try:
            text = read_secret(path).decode("ascii")
        except UnicodeDecodeError:
            raise SetupError(f"{path} is not a file of keys: a key is {_ACCEPTED}") from None
        return cls.parse(text, str(path))

    def key(self, name: str, path: object) -> bytes:
        """Return the key of an id; raise `SetupError` where it is not among these."""
        if name not in self.keys:
            raise SetupError(
                f"{path} is sealed with storage key {name}, which is not among the keys given "
                f"({', '.join(self.keys)}). Add it to {FILE_VARIABLE} or {KEY_VARIABLE}"
            )
        return self.keys[name]


def storage_keys(environ: Mapping[str, str] | None = None) -> StorageKeys:
    """Return the keys that the environment gives.

    `FEDSIM_STORAGE_KEY_FILE` names a file, `FEDSIM_STORAGE_KEY` holds the keys themselves. Raise
    `SetupError` (exit code 3) where neither or both are set, or where they hold no keys.
    """
    given = os.environ if environ is None else environ
    text, file = given.get(KEY_VARIABLE, ""), given.get(FILE_VARIABLE, "")
    if text and file:
        raise SetupError(f"{KEY_VARIABLE} and {FILE_VARIABLE} are both set: set one of them")
    if file:
        return StorageKeys.read(from_home(file))
    if text:
        return StorageKeys.parse(text, KEY_VARIABLE)
    raise SetupError(
        "sealed storage (storage.encrypt = true) needs a key: set "
        f"{FILE_VARIABLE} to a file of keys (`fedsim keys init` makes keys/storage.key), or "
        f"{KEY_VARIABLE} to a key"
    )


def new_key_line() -> str:
    """Return a new random key as a line of a file of keys."""
    return base64.b64encode(random_key()).decode() + "\n"


def _decoded(word: str) -> bytes | None:
    if _HEX.fullmatch(word):
        return bytes.fromhex(word)
    try:
        standard = word.replace("-", "+").replace("_", "/")
        key = base64.b64decode(standard + "=" * (-len(word) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None
