"""What detectors read and what they answer: a page of text and the spans found on it."""

import re
from typing import NamedTuple

__all__ = ["Page", "Span", "page_of"]


class Span(NamedTuple):
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
    digits, `words` are those of the page's words, in lower case, that a detector asked for,
    `numbers` are the places of what has six digits and more, through the separators that numbers
    are written with, `longest` is the length of the longest piece without white space, on a page
    with four digits and more.
    """

    text: str
    lower: str
    digits: int
    words: frozenset[str]
    numbers: tuple[tuple[int, int], ...]
    longest: int


def page_of(text: str, asked: frozenset[str]) -> Page:
    r"""Prepare a text for the detectors; `asked`: the words that they go by.

    >>> page = page_of("\uff14\uff12\u00a0\u2013 Ab Cd", frozenset(["ab", "xy"]))
    >>> page.lower, page.digits, page.words
    ('42 - ab cd', 2, frozenset({'ab'}))
    """
    if not text.isascii() and _UNUSUAL.search(text):
        text = text.translate(_PLAIN)
    lower = _lower(text)
    digits = len(text.encode(errors="replace").translate(None, _NO_DIGITS))
    numbers = tuple([match.span() for match in _LONG.finditer(text)]) if digits > 5 else ()
    longest = max(map(len, text.split())) if digits > 3 else 0
    return Page(text, lower, digits, asked.intersection(_words(lower)), numbers, longest)


def _words(lower: str) -> list[str]:
    if lower.isascii():  # most texts; by bytes it takes a fifth of the time
        return lower.encode().translate(_SPACED).decode().split()
    return _WORD.findall(lower)


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
_SPACED = bytes(code if chr(code).isalpha() else 0x20 for code in range(128)) + bytes(128)
_NO_DIGITS = bytes(code for code in range(256) if code not in b"0123456789")
_UNUSUAL = re.compile(f"[{re.escape(''.join(map(chr, _PLAIN)))}]")
_WORD = re.compile(r"[^\W\d_]+")
_LONG = re.compile(r"[0-9](?:[ ()./+-]{0,3}[0-9]){5,}")
