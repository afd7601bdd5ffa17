"""Find personal data in free text by rules: no model, nothing to download, linear in the text.

Each family of identifiers is a file with `KINDS`; `find(page)`; `LEAST_DIGITS`, below which a page
has nothing for it to find; and `WORDS`, which it asks a page for. Where a form has a check digit
it is verified; where it has none, a word beside it must say what it is. Names are found by a
gazetteer and by context: a name that is on no list and stands without context is not found, which
is what `fedsim.anonymize.text.known` is for.
"""

import bisect
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

from fedsim.anonymize.text import (
    addresses,
    ages,
    cards,
    dates,
    emails,
    iban,
    ip_addresses,
    labelled,
    names,
    national_ids,
    phones,
    postcodes,
    titles,
    urls,
)
from fedsim.anonymize.text.known import KnownValues
from fedsim.anonymize.text.span import Page, Span, page_of
from fedsim.errors import ConfigError, Problem
from fedsim.registry import suggest

__all__ = ["KINDS", "Finder", "check_kinds", "find", "resolve"]

_FAMILIES = (
    emails, urls, ip_addresses, iban, cards, national_ids, phones, dates, ages, labelled,
    addresses, postcodes, titles, names,
)  # fmt: skip
_BLOCK = 256  # texts that are read at a time
#: every kind that rules can find
KINDS: tuple[str, ...] = tuple(kind for family in _FAMILIES for kind in family.KINDS)


class Finder:
    """`find` for many texts: kinds are checked, and detectors chosen, once."""

    def __init__(self, kinds: Collection[str] | None = None) -> None:
        """Raise `ConfigError` for a kind that does not exist; None: all kinds."""
        self.kinds = frozenset(KINDS if kinds is None else check_kinds(kinds))
        self._all = self.kinds.issuperset(KINDS)
        families = [each for each in _FAMILIES if not self.kinds.isdisjoint(each.KINDS)]
        self._finds = [(family.LEAST_DIGITS, family.find) for family in families]
        self._asked = frozenset[str]().union(*(family.WORDS for family in families))

    def __call__(self, text: str, known: KnownValues | None = None) -> list[Span]:
        """Return the spans of a text in order; none overlaps another."""
        shown, offsets = _without_hidden(text)
        page = page_of(shown, self._asked)
        spans = [s for least, find in self._finds if page.digits >= least for s in find(page)]
        return self._settled(spans, page, known, offsets)

    def find_all(
        self, texts: Iterable[str], known: Iterable[KnownValues | None] | None = None
    ) -> Iterator[list[Span]]:
        """Yield the spans of each text, as a call for each would, in less time.

        `known`: for each text, values that are found as well.
        """
        pairs = (
            ((text, None) for text in texts) if known is None else zip(texts, known, strict=True)
        )
        while block := list(islice(pairs, _BLOCK)):
            yield from self._read([text for text, _ in block], [values for _, values in block])

    def _read(self, texts: list[str], known: list[KnownValues | None]) -> list[list[Span]]:
        """Let each family read all texts in turn, so that its forms stay at hand."""
        shown = [_without_hidden(text) for text in texts]
        read = [(page_of(text, self._asked), list[Span]()) for text, _ in shown]
        for least, find in self._finds:
            for page, spans in (
                [each for each in read if each[0].digits >= least] if least else read
            ):
                spans += find(page)
        return [
            self._settled(spans, page, values, offsets)
            for (page, spans), values, (_, offsets) in zip(read, known, shown, strict=True)
        ]

    def _settled(
        self, spans: list[Span], page: Page, known: KnownValues | None, offsets: list[int]
    ) -> list[Span]:
        """Leave the kinds that are asked for, add what is known, and resolve overlaps."""
        if spans and not self._all:
            spans = [span for span in spans if span.kind in self.kinds]
        if known:
            spans += known.find(page)
        if len(spans) > 1:
            spans = resolve(spans)
        if offsets:
            spans = [
                Span(offsets[s.start], offsets[s.stop - 1] + 1, s.kind, s.score) for s in spans
            ]
        return spans


def find(
    text: str, *, kinds: Collection[str] | None = None, known: Iterable[str] = ()
) -> list[Span]:
    """Return the personal data in a text, in order and without overlaps.

    `kinds`: which kinds to look for, by default all of `KINDS`. `known`: values of the record's own
    identifiers, which are found in any spelling, see `fedsim.anonymize.text.known`. Raise
    `ConfigError` for a kind that does not exist.

    >>> [(s.kind, s.start, s.stop) for s in find("Mail ann@example.org by 2024-05-01")]
    [('email', 5, 20), ('date', 24, 34)]
    """
    return Finder(kinds)(text, KnownValues.of(known))


def check_kinds(kinds: Iterable[str], path: str = "kinds") -> tuple[str, ...]:
    """Return kinds as they are; raise `ConfigError` for those that do not exist."""
    kinds = tuple(kinds)
    problems = [
        Problem(path, kind, f"one of {', '.join(KINDS)}", suggest(kind, KINDS))
        for kind in kinds
        if kind not in KINDS
    ]
    if problems:
        raise ConfigError(problems)
    return kinds


def resolve(spans: Sequence[Span]) -> list[Span]:
    """Leave no overlaps: the longest span stays, of equally long ones the one with more score.

    >>> resolve([Span(0, 4, "year", 0.5), Span(0, 10, "date", 0.8), Span(12, 14, "age", 0.8)])
    [Span(start=0, stop=10, kind='date', score=0.8), Span(start=12, stop=14, kind='age', score=0.8)]
    """
    ordered = sorted(spans)
    if not any(one.stop > two.start for one, two in pairwise(ordered)):
        return ordered
    starts: list[int] = []
    kept: list[Span] = []
    for span in sorted(ordered, key=_by_rank):
        at = bisect.bisect_right(starts, span.start)
        is_free = (at == 0 or kept[at - 1].stop <= span.start) and (
            at == len(kept) or span.stop <= starts[at]
        )
        if is_free:
            starts.insert(at, span.start)
            kept.insert(at, span)
    return kept


def _by_rank(span: Span) -> tuple[Any, ...]:
    return (span.start - span.stop, -span.score, span.start, span.kind)


# Characters without width or meaning that can stand inside a number or a name without being seen:
# soft hyphen, zero-width space and joiners, direction marks, word joiner, byte order mark.
_HIDDEN = (
    "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060"
    "\u2066\u2067\u2068\u2069\ufeff"
)
_ANY_HIDDEN = re.compile(f"[{_HIDDEN}]")
_DROP = dict.fromkeys(map(ord, _HIDDEN))


def _without_hidden(text: str) -> tuple[str, list[int]]:
    """Return a text without hidden characters and, where there are any, its characters' places."""
    if text.isascii() or not _ANY_HIDDEN.search(text):
        return text, []
    shown = text.translate(_DROP)
    return shown, [place for place, character in enumerate(text) if ord(character) not in _DROP]
