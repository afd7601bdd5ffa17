"""Keyed pseudonyms: HMAC-SHA-256 of a cell under the key of its column.

ENISA, "Pseudonymisation techniques and best practices", 2019: message authentication codes as the
robust choice, and the policies. Truncated to at least 128 bits (NIST SP 800-107 revision 1, section
5.3, on truncated HMAC): among 10^9 identifiers, two have the same pseudonym with a
probability of 2 x 10^-21.

Pseudonymized records are still personal data (GDPR, article 4(5) and recital 26).
"""

import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le, MultipleOf

from fedsim.anonymize.treatments._context import ColumnContext
from fedsim.anonymize.treatments._texts import distinct, text_column

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Pseudonym"]

_ALPHABET = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Pseudonym:
    """Replace each value by `prefix` and `bits` pseudorandom bits, written as `encoding` says.

    `policy`: "deterministic" gives equal values of a column equal pseudonyms, on every client that
    has the same key file; "randomized" draws a new one from the operating system for every cell, so
    that nothing can be linked, not even by who has the key (ENISA's fully randomized policy).
    `domain`: columns that name the same one share pseudonyms, as a key and the columns that refer
    to it must; by default a column shares them with the columns of its own name.
    """

    policy: Literal["deterministic", "randomized"] = "deterministic"
    bits: Annotated[int, Ge(128), Le(256), MultipleOf(8)] = 128
    encoding: Literal["hex", "base32"] = "hex"
    prefix: str = ""
    domain: str | None = None

    is_streaming: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("direct", "insensitive")

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return the pseudonyms: text. Raises `ConfigError` without a key, `DataError`."""
        size = self.bits // 8
        if self.policy == "randomized":
            missing = column.isna().to_numpy(dtype=bool)
            drawn = [secrets.token_bytes(size) for _ in missing]
            codes = np.where(missing, -1, np.arange(len(drawn)))
            return text_column(codes, self._written(drawn), column)
        key = ctx.key("pseudonym", self.domain if self.domain is not None else ctx.name)
        codes, texts = distinct(column, ctx)
        return text_column(codes, self._written(_codes(key, texts, size)), column)

    def _written(self, contents: list[bytes]) -> list[str]:
        written = map(bytes.hex, contents) if self.encoding == "hex" else _base32(contents)
        return [self.prefix + text for text in written]


def _codes(key: bytes, texts: list[str], size: int) -> list[bytes]:
    """Return HMAC-SHA-256 of each text, cut to `size` bytes."""
    ready = hmac.new(key, digestmod="sha256")  # with the key in it: RFC 2104, section 4
    found = []
    for text in texts:
        code = ready.copy()
        # What no UTF-8 has can still come out of a file: it is a value like another.
        code.update(text.encode("utf-8", "surrogatepass"))
        found.append(code.digest()[:size])
    return found


def _base32(contents: list[bytes]) -> list[str]:
    """Write bytes, of each as many, in base 32 (RFC 4648) without padding, all at once."""
    if not contents:
        return []
    rows = np.frombuffer(b"".join(contents), dtype=np.uint8).reshape(len(contents), -1)
    bits = np.unpackbits(rows, axis=1)
    bits = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 5))).reshape(len(rows), -1, 5)
    letters = _ALPHABET[bits @ np.array([16, 8, 4, 2, 1], dtype=np.uint8)]
    text, width = letters.tobytes().decode(), letters.shape[1]
    return [text[start : start + width] for start in range(0, len(text), width)]
