"""Ages in context. Those above 89 are a kind of their own: 45 CFR 164.514(b)(2)(i)(C)."""

import re
from collections.abc import Iterable, Iterator

from fedsim.anonymize.text.keywords import Endings, ends_with
from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find"]

KINDS = ("age", "age-over-89")
LEAST_DIGITS = 1

_NUMBER = re.compile(
    r"[0-9](?<![\w.,$€£/+-][0-9])[0-9]{0,2}(?![\w%]|[.,:/][0-9])|"
    r"[0-9](?<![\w.,$€£/-][0-9])[0-9]{0,2}(?=y/?o\b|yrs?\b)"
)
_AFTER = re.compile(
    r"[ -]?(?:years?|yrs?\.?)(?:[ -]old\b|[ -]of[ -]age\b)|[ -]?y[./]?o\b\.?|"
    r"[ -]year[ -]old|[ -]?(?:jahre alt|jährige\w*|ans\b|años|anni)\b"
)
_BEFORE = Endings((
    "age", "aged", "age of", "age is", "age was", "turn", "turns", "turned", "turning", "alter",
    "âge", "edad",
))  # fmt: skip
WORDS = frozenset((
    "age", "aged", "turn", "turns", "turned", "turning", "alter", "âge", "edad", "year",
    "years", "yr", "yrs", "y", "yo", "o", "jahre", "jährige", "jähriger", "jährigen", "ans",
    "años", "anni",
))  # fmt: skip


def find(page: Page) -> Iterable[Span]:
    """Find numbers of up to three digits beside a word that says that they are an age."""
    return () if page.words.isdisjoint(WORDS) else _numbers(page)


def _numbers(page: Page) -> Iterator[Span]:
    for match in _NUMBER.finditer(page.text):
        start, stop = match.span()
        if int(match.group()) > 125:
            continue
        if _AFTER.match(page.lower, stop) or ends_with(
            page.lower[max(0, start - 22) : start].rstrip(" :="), _BEFORE
        ):
            kind = "age-over-89" if int(match.group()) > 89 else "age"
            yield Span(start, stop, kind, 0.8)
