"""What detectors read and what they answer: a page of text and the spans found on it."""

import re
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Page", "Span", "page_of"]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text, `text[start:stop]`, and what it is.

    `score`: how much its form alone says, 0 to 1. A checksum that holds is near 1, a bare name on
    a list is near 0.5; it decides between spans of equal length and is no probability.
    """

    start: int
    stop: int
    kind: str
    score: float


class Page(NamedTuple):
    """A text as detectors read it, every character at the place it has in the original.

    `text` has digits, dashes and spaces of all scripts as their ASCII ones, `lower` is the same in
    lower case. What lets detectors skip a text they have nothing to do in: `digits` counts the
    digits, `words` are the words in lower case, `numbers` are the places of what has six digits and
    more, through the separators that numbers are written with.
    """

    text: str
    lower: str
    digits: int
    words: frozenset[str]
    numbers: tuple[tuple[int, int], ...]


def page_of(text: str) -> Page:
    r"""Prepare a text for the detectors.

    >>> page_of("\uff14\uff12\u00a0\u2013 Ab").lower
    '42 - ab'
    """
    if not text.isascii() and _UNUSUAL.search(text):
        text = text.translate(_PLAIN)
    lower = _lower(text)
    digits = sum(map(text.count, "0123456789")) if _DIGIT.search(text) else 0
    numbers = tuple(match.span() for match in _LONG.finditer(text)) if digits > 5 else ()
    return Page(text, lower, digits, _words(lower), numbers)


def _words(lower: str) -> frozenset[str]:
    if lower.isascii():  # three times as fast, and most texts
        return frozenset(lower.translate(_SPACED).split())
    return frozenset(_WORD.findall(lower))


def _lower(text: str) -> str:
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)  # a dotted capital I


def _plain() -> dict[int, str]:
    """One character for one, so that offsets stay: full-width forms, digits, dashes, spaces."""
    plain = {0xFF01 + i: chr(0x21 + i) for i in range(94)}
    for zero in (
        0x660,
        0x6F0,
        0x966,
        0x9E6,
        0xE50,
        0xFF10,
    ):  # Arabic, Persian, Hindi, Bengali, Thai
        plain |= {zero + i: str(i) for i in range(10)}
    plain |= dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63], "-")
    plain |= dict.fromkeys([0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " ")
    plain |= dict.fromkeys([0x2018, 0x2019, 0x2BC], "'")
    return plain


_PLAIN = _plain()
_SPACED = {code: " " for code in range(128) if not chr(code).isalpha()}
_UNUSUAL = re.compile(f"[{re.escape(''.join(map(chr, _PLAIN)))}]")
_DIGIT = re.compile(r"[0-9]")
_WORD = re.compile(r"[^\W\d_]+")
_LONG = re.compile(r"[0-9](?:[ ()./+-]{0,3}[0-9]){5,}")
