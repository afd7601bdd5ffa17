"""IP addresses of version 4 and 6 (RFC 4291, 2.2), judged by the standard library's reader."""

import ipaddress
import re
from collections.abc import Iterable, Iterator

from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find"]

KINDS = ("ip",)
LEAST_DIGITS = 0
WORDS: frozenset[str] = frozenset()

_V4 = re.compile(r"[0-9](?<![\w.][0-9])[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])")
_V6 = re.compile(r"[0-9A-Fa-f:](?<![\w:.][0-9A-Fa-f:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){1,8}"
                 r"(?:\.[0-9]{1,3}){0,3}(?![\w:])")  # fmt: skip
_VERSION = re.compile(r"(?:\bv|version|release|firmware|build|section|chapter)[ .:]{0,3}\Z", re.I)


def find(page: Page) -> Iterable[Span]:
    """Find addresses; four numbers after "version" are none."""
    found: list[Span] = []
    if page.digits >= 4 and page.text.count(".") >= 3:
        found += _version_4(page.text)
    if page.text.count(":") >= 2:
        found += _version_6(page.text)
    return found


def _version_4(text: str) -> Iterator[Span]:
    for match in _V4.finditer(text):
        start, stop = match.span()
        if _is_address(match.group()) and not _VERSION.search(text[max(0, start - 12) : start]):
            yield Span(start, stop, "ip", 0.95)


def _version_6(text: str) -> Iterator[Span]:
    for match in _V6.finditer(text):
        word = match.group()
        groups = [group for group in word.split(":") if group]
        is_long = len(groups) > 2 or any(character.isdigit() for character in word)
        if groups and is_long and word.count(":") >= 2 and _is_address(word):
            yield Span(match.start(), match.end(), "ip", 0.95)


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:  # leading zeros among others, which programs read in two ways: RFC 6943
        return bool(re.fullmatch(r"(?:0*(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.|\Z)){4}", word))
    return True
