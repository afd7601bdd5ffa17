"""The secret that pseudonyms are made with, and the keys derived from it.

Clients agree on pseudonyms if, and only if, somebody gave them the same key file on purpose. Every
purpose and every column has a key of its own, by HKDF (RFC 5869) with length-prefixed labels, so
that the pseudonyms of two columns cannot be compared.

There is no way without a key, and none with a salt alone: identifiers are few and can be listed,
so whoever can compute the pseudonym of a guess reverses all of them by trying (ENISA,
"Pseudonymisation techniques and best practices", 2019, on brute force and dictionary search). A
salt that is kept as secret as a key is a key.
"""

import base64
import binascii
import os
import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from fedsim.crypto import KEY_BYTES, derive, random_key
from fedsim.errors import Problem, SetupError
from fedsim.files import from_home, read_secret

__all__ = ["FILE_VARIABLE", "PseudonymKeys", "new_key_file", "no_key", "pseudonym_keys"]

#: The environment variable that names the key file.
FILE_VARIABLE = "FEDSIM_PSEUDONYM_KEY_FILE"

_MAKE = f"Make one: fedsim keys pseudonym FILE, then set {FILE_VARIABLE}=FILE"
_WHY = (
    "a secret key: without one, or with only a salt, whoever guesses an identifier can check the "
    "guess, and all nine-digit numbers are tried in an hour"
)
_ACCEPTED = "32 random bytes as 64 hexadecimal digits or as 44 characters of base64"
_LEAST_DISTINCT = 12  # bytes of 32: random ones have fewer with a probability of 10^-25
_PUBLISHED = {
    bytes.fromhex(text)
    for text in (
        # NIST SP 800-38A, F.1.5, and the samples of SP 800-38G
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "2b7e151628aed2a6abf7158809cf4f3cef4359d8d580aa4f7f036d6f04fc6a94",
    )
}


@dataclass(frozen=True, slots=True)
class PseudonymKeys:
    """The keys that come from one secret of 32 bytes.

    Raises `SetupError` for a secret of another size, and for one that is no random number: zeros, a
    repeated or counted-up pattern, text, a key that a standard publishes.

    >>> PseudonymKeys(bytes(range(32)))
    Traceback (most recent call last):
    fedsim.errors.SetupError: pseudonym key: its bytes count up or down, it is not random
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Check the secret."""
        if reason := _weakness(self.secret):
            raise SetupError(f"pseudonym key: {reason}")

    @classmethod
    def read(cls, path: Path) -> "PseudonymKeys":
        """Read a file that only its owner can read; raise `SetupError` for anything else."""
        try:
            lines = read_secret(path).decode("ascii").splitlines()
        except UnicodeDecodeError:
            raise SetupError(f"{path} is no pseudonym key, which is {_ACCEPTED}") from None
        words = [word for line in lines for word in line.partition("#")[0].split()]
        if len(words) != 1:
            raise SetupError(f"{path} holds {len(words)} keys: one is needed, {_ACCEPTED}")
        try:
            return cls(_decoded(words[0]))
        except SetupError as error:
            raise SetupError(f"{path}: {error}") from None

    @property
    def fingerprint(self) -> str:
        """The public name of the secret: tells nothing about it, is equal for equal secrets."""
        return derive(self.secret, _info("fingerprint"), 16).hex()

    def key(self, purpose: str, domain: str) -> bytes:
        """Return the key of a purpose and of a domain: a column, unless several share one."""
        return derive(self.secret, _info("key", purpose, domain))


def pseudonym_keys(
    path: Path | None = None, environ: Mapping[str, str] | None = None
) -> PseudonymKeys:
    """Return the keys of a file: `path`, or the one that `FEDSIM_PSEUDONYM_KEY_FILE` names.

    Raises `SetupError` (exit code 3) where there is none.
    """
    given = os.environ if environ is None else environ
    name = given.get(FILE_VARIABLE, "")
    if path is None and not name:
        raise SetupError(f"pseudonyms need {_WHY}. {_MAKE}")
    return PseudonymKeys.read(from_home(name) if path is None else path)


def new_key_file() -> bytes:
    """Return the content of a file with a new random key."""
    return b"# fedsim pseudonym key\n" + base64.b64encode(random_key()) + b"\n"


def no_key(path: str, purpose: str) -> Problem:
    """Return what is wrong with a treatment that has no key."""
    return Problem(path, purpose, _WHY, f"{_MAKE}.")


def _info(*parts: str) -> bytes:
    """Return a label that no other parts have: each with its length before it."""
    encoded = (unicodedata.normalize("NFC", part).encode() for part in parts)
    return b"fedsim/pseudonyms/v1|" + b"".join(len(e).to_bytes(4, "big") + e for e in encoded)


def _decoded(word: str) -> bytes:
    if re.fullmatch(r"[0-9a-fA-F]{64}", word):
        return bytes.fromhex(word)
    try:
        return base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        raise SetupError(f"pseudonym key: it is not {_ACCEPTED}") from None


def _weakness(secret: bytes) -> str:
    """Say why a secret is none, or nothing. A random one is refused once in 10^13 times."""
    if len(secret) != KEY_BYTES:
        return f"it has {len(secret)} bytes, not {KEY_BYTES}"
    if len({(b - a) % 256 for a, b in pairwise(secret)}) == 1:
        return "its bytes count up or down, it is not random"
    if len(set(secret)) < _LEAST_DISTINCT or secret[:16] == secret[16:]:
        return "its bytes repeat themselves, it is not random"
    if all(byte in string.printable.encode() for byte in secret):
        return "it is text, not random bytes"
    return "it is published as an example, everybody has it" if secret in _PUBLISHED else ""
