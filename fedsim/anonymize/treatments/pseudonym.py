"""Keyed pseudonyms: HMAC-SHA-256 of a cell under the key of its column.

ENISA, "Pseudonymisation techniques and best practices", 2019: message authentication codes as the
robust choice, and the policies. Truncated to at least 128 bits (NIST SP 800-107 revision 1, section
5.3, on truncated HMAC): among 10^9 identifiers, two have the same pseudonym with a
probability of 2 x 10^-21.

Pseudonymized records are still personal data (GDPR, article 4(5) and recital 26).
"""

import base64
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
        if self.policy == "randomized":
            missing = column.isna().to_numpy(dtype=bool)
            drawn = [self._written(secrets.token_bytes(self.bits // 8)) for _ in missing]
            return text_column(np.where(missing, -1, np.arange(len(drawn))), drawn, column)
        key = ctx.key("pseudonym", self.domain if self.domain is not None else ctx.name)
        codes, texts = distinct(column, ctx)
        ready = hmac.new(key, digestmod="sha256")  # with the key in: RFC 2104, section 4
        return text_column(codes, [self._of(ready, text) for text in texts], column)

    def _of(self, ready: hmac.HMAC, text: str) -> str:
        code = ready.copy()
        # What no UTF-8 has can still come out of a file: it is a value like another.
        code.update(text.encode("utf-8", "surrogatepass"))
        return self._written(code.digest()[: self.bits // 8])

    def _written(self, content: bytes) -> str:
        if self.encoding == "hex":
            return self.prefix + content.hex()
        return self.prefix + base64.b32encode(content).decode().rstrip("=")
