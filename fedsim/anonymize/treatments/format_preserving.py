"""Pseudonyms that look like what they stand for: FF1 under the key of a column.

NIST SP 800-38G (`fedsim.anonymize.ff1`). Unlike an HMAC, whoever has the key can undo it. Digits
stay digits, capitals capitals, and small letters small letters; everything else stays where it is
and what it is. Where all of a cell's characters are of one kind, they are FF1's numerals (radix 10
or 26). Where kinds are mixed, the cell is a number below the product of their radices, which is
encrypted as a string of bits, again and again until it is below that product (cycle walking: Black
and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002), twice on average at most.
"""

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.anonymize.ff1 import FF1, LEAST_DOMAIN
from fedsim.anonymize.treatments._context import ColumnContext
from fedsim.anonymize.treatments._texts import distinct, text_column

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FormatPreserving"]

_Numerals = NDArray[np.int64]
_Walk = Callable[[FF1, _Numerals, bytes], _Numerals]

#: kind -> its first character and how many there are
_KINDS = {"0": (ord("0"), 10), "A": (ord("A"), 26), "a": (ord("a"), 26)}
_LITERAL = "."
_DIGITS = dict.fromkeys(map(ord, string.digits), "0")
_LETTERS = dict.fromkeys(map(ord, string.ascii_uppercase), "A")
_LETTERS |= dict.fromkeys(map(ord, string.ascii_lowercase), "a")


class _Forms(dict[int, str]):
    """Characters' kinds, for `str.translate`; "?" is a character of the kind but not of ASCII."""

    def __init__(self, known: dict[int, str], *foreign: Callable[[str], bool]) -> None:
        super().__init__(known)
        self._foreign = foreign

    def __missing__(self, number: int) -> str:
        letter = chr(number)
        is_foreign = not letter.isascii() and any(is_of(letter) for is_of in self._foreign)
        return "?" if is_foreign else _LITERAL


_FORMS = {
    "digits": _Forms(_DIGITS, str.isdigit),
    "letters": _Forms(_LETTERS, str.isalpha),
    "alphanumeric": _Forms(_DIGITS | _LETTERS, str.isdigit, str.isalpha),
}


@dataclass(frozen=True, slots=True)
class FormatPreserving:
    """Encrypt the characters of `alphabet` in each cell, and leave the others in place.

    "AB-123-456" becomes another value of that form. Only the characters of ASCII are encrypted: a
    cell with other digits or letters of the alphabet's kind is refused, as they would stay to be
    read; so is a cell of which there are fewer than 10^6. Numbers become text, since a first digit
    may be 0. `domain`: columns that name the same one encrypt alike; by default, columns of one
    name.
    """

    alphabet: Literal["digits", "letters", "alphanumeric"] = "digits"
    domain: str | None = None

    is_streaming: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("direct", "insensitive")

    def apply(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Return the encrypted column: text. Raises `ConfigError` without a key, `DataError`."""
        return self._mapped(column, ctx, FF1.encrypt)

    def restore(self, column: "pd.Series", ctx: ColumnContext) -> "pd.Series":
        """Undo `apply`, as text, for whoever has the key. Raises the same."""
        return self._mapped(column, ctx, FF1.decrypt)

    def _mapped(self, column: "pd.Series", ctx: ColumnContext, walk: _Walk) -> "pd.Series":
        domain = self.domain if self.domain is not None else ctx.name
        key = ctx.key("format-preserving", domain)
        codes, texts = distinct(column, ctx)
        groups: dict[str, list[int]] = {}
        forms = _FORMS[self.alphabet]
        for i, text in enumerate(texts):
            groups.setdefault(text.translate(forms), []).append(i)
        made = list(texts)
        for form, members in groups.items():
            if reason := _refusal(form, self.alphabet):
                row = column.index[int((codes == members[0]).argmax())]
                raise ctx.refused(reason, row)
            # The column is in the key; what is left to be told apart are forms of one length.
            tweak = domain.encode() + b"|" + form.replace(_LITERAL, "").encode()
            found = _encrypted([texts[i] for i in members], form, key, tweak, walk)
            for i, text in zip(members, found, strict=True):
                made[i] = text
        return text_column(codes, made, column)


def _refusal(form: str, alphabet: str) -> str:
    """Say why values of a form cannot be encrypted, or nothing."""
    if "?" in form:
        return f"there are digits or letters that are not of ASCII, with alphabet {alphabet!r}"
    kinds = form.replace(_LITERAL, "")
    count = 1
    for kind in kinds:
        count *= _KINDS[kind][1]
    if count < LEAST_DOMAIN:
        return (
            f"a value of the form {kinds!r} is one of {count:,}: format preservation with "
            f"alphabet {alphabet!r} needs {LEAST_DOMAIN:,} or more; treat it with pseudonym"
        )
    return ""


def _encrypted(texts: list[str], form: str, key: bytes, tweak: bytes, walk: _Walk) -> list[str]:
    """Encrypt texts of one form."""
    size = len(form)
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    letters = np.frombuffer(joined, dtype="<u4").reshape(len(texts), size).astype(np.int64)
    places = [i for i, kind in enumerate(form) if kind != _LITERAL]
    firsts = np.array([_KINDS[form[i]][0] for i in places])
    radices = [_KINDS[form[i]][1] for i in places]
    numerals = letters[:, places] - firsts
    if len(set(radices)) == 1:
        numerals = walk(FF1(key, radices[0]), numerals, tweak)
    else:
        numerals = _mixed(numerals, radices, key, tweak, walk)
    letters[:, places] = numerals + firsts
    text = letters.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    return [text[start : start + size] for start in range(0, len(text), size)]


def _mixed(
    numerals: _Numerals, radices: list[int], key: bytes, tweak: bytes, walk: _Walk
) -> _Numerals:
    """Encrypt numerals of different radices as one number, walking until it is in the domain."""
    count = 1
    for radix in radices:
        count *= radix
    bits = (count - 1).bit_length()
    cipher = FF1(key, 2)
    dtype: Any = np.int64 if bits < 62 else object
    numbers = np.zeros(len(numerals), dtype=dtype)
    for radix, column in zip(radices, numerals.T, strict=True):
        numbers = numbers * radix + column.astype(dtype)
    going = np.arange(len(numbers))
    while len(going):
        strings = _bits_of(numbers[going], bits)
        walked = _number_of(walk(cipher, strings, tweak), dtype)
        numbers[going] = walked
        going = going[walked >= count]
    found = np.empty_like(numerals)
    for place in reversed(range(len(radices))):
        found[:, place] = numbers % radices[place]
        numbers = numbers // radices[place]
    return found


def _bits_of(numbers: NDArray[Any], bits: int) -> _Numerals:
    found = np.empty((len(numbers), bits), dtype=np.int64)
    for place in reversed(range(bits)):
        found[:, place] = numbers % 2
        numbers = numbers // 2
    return found


def _number_of(strings: _Numerals, dtype: Any) -> NDArray[Any]:
    found = np.zeros(len(strings), dtype=dtype)
    for column in strings.T:
        found = found * 2 + column.astype(dtype)
    return found
