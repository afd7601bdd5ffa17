"""Titles before names: they tell a person's sex, profession or nobility."""

import re
from collections.abc import Iterable, Iterator

from fedsim.anonymize.text.span import Page, Span
from fedsim.anonymize.text.words import TITLES, UPPER

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find"]

KINDS = ("title",)
LEAST_DIGITS = 0
WORDS = TITLES | {"reverend", "lieutenant", "captain"}

_TITLE = re.compile(
    rf"[MDPHFSRJCLmd](?<!\w.)(?:r|rs|s|x|iss|adam|adame|me|lle|rof|rofessor|err|rau|"
    rf"räulein|eñora?|ir|ra|ev|everend|udge|"
    rf"apt|aptain|olonel|ieutenant|ord|ady|octor)\b(?:\.|(?= [{UPPER}]))"
)


def find(page: Page) -> Iterable[Span]:
    """Find titles with a dot, or before a capitalised word."""
    return () if page.words.isdisjoint(WORDS) else _titles(page)


def _titles(page: Page) -> Iterator[Span]:
    for match in _TITLE.finditer(page.text):
        if match.group()[0].isupper() or page.text == page.lower:
            yield Span(match.start(), match.end(), "title", 0.7)
