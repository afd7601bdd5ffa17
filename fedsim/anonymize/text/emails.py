"""E-mail addresses: the forms of RFC 5321 that are in use, letters of any script."""

import re
from collections.abc import Iterable, Iterator

from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find"]

KINDS = ("email",)
LEAST_DIGITS = 0
WORDS: frozenset[str] = frozenset()

_LOCAL = 64  # octets: RFC 5321, 4.5.3.1.1
_LEFT = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+\Z")
_DOMAIN = re.compile(r"(?:[\w-]{1,63}\.){1,8}[^\W\d_](?:[\w-]{0,61}\w)")
_LITERAL = re.compile(r"\[(?:IPv6:)?[0-9A-Fa-f:.]{3,45}\]")
_PREFIX = "mailto:"


def find(page: Page) -> Iterable[Span]:
    """Find addresses around each @, which bounds the work by the number of them."""
    at = page.text.find("@")
    return _around(page.text, at) if at >= 0 else ()


def _around(text: str, at: int) -> Iterator[Span]:
    while at >= 0:
        right = _DOMAIN.match(text, at + 1) or _LITERAL.match(text, at + 1)
        left = _LEFT.search(text[max(0, at - _LOCAL) : at])
        if right and left:
            start = at - len(left.group())
            while start < at and text[start] in ".'`/|{=":  # quotes and list marks around it
                start += 1
            if start < at:
                yield Span(start, right.end(), "email", 0.99)
        at = text.find("@", at + 1)
