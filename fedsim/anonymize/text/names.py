"""Names of people, places and organizations, from one reading of the capitalised words."""

import re
from collections.abc import Iterator

from fedsim.anonymize.text.geography import PLACE_CUES, places_in
from fedsim.anonymize.text.organizations import ORGANIZATION_CUES, organization_in
from fedsim.anonymize.text.people import PERSON_CUES, alone, people_in
from fedsim.anonymize.text.roles import ENDS, KNOWN_PLACES, PLACE, STOPS, TITLE
from fedsim.anonymize.text.runs import Run, Word, runs
from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find"]

KINDS = ("person", "place", "organization")
LEAST_DIGITS = 0
WORDS: frozenset[str] = frozenset()

_LIST = re.compile(r"(?:, | and |, and | & | or )\Z")
_CUE_LENGTH = 28
_LAST_WORDS = frozenset(cue.split()[-1] for cue in (*PERSON_CUES, *PLACE_CUES, *ORGANIZATION_CUES))
_SOME = STOPS | TITLE | ENDS | PLACE
_REPEATED = 0.5  # a name at least this sure is looked for in the rest of the text


def find(page: Page) -> Iterator[Span]:
    """Find names in each run, then the same names where they stood without any context."""
    left: list[Run] = []
    found: set[str] = set()
    ends: dict[int, float] = {}
    is_strict = page.text == page.lower
    for run in runs(page.text, page.lower):
        spans = _named(run, page, is_strict)
        if not spans:
            left.append(run)
        for span in spans:
            yield span
            if span.kind == "person":
                ends[span.stop] = ends[span.start] = span.score
                if span.score >= _REPEATED:
                    found.update(page.lower[span.start : span.stop].split())
    if found and not is_strict:
        yield from _again(left, found, ends, page)


def _named(run: Run, page: Page, is_strict: bool) -> list[Span]:
    """Name the pieces of one run: an organization is the whole, a known place beats a person."""
    before = "" if is_strict else _cue_before(page.lower, run[0].start)
    if len(run) == 1 and not before:
        return [] if is_strict else _lone(run[0])
    if not [word for word in run if word.role & _SOME != STOPS]:
        return []
    pieces = [] if is_strict else organization_in(run, before)
    if pieces:
        return _spans(run, pieces, "organization")
    people = people_in(run, page.lower, before, is_strict=is_strict)
    places = places_in(run, page.text, page.lower, before)
    if people and places and max(score for *_, score in people) >= 0.5:
        places = [piece for piece in places if piece[2] > 0.45]
    return _spans(run, people, "person") + _spans(run, places, "place")


def _spans(run: Run, pieces: list[tuple[int, int, float]], kind: str) -> list[Span]:
    return [
        Span(run[first].start, run[last - 1].stop, kind, score) for first, last, score in pieces
    ]


def _lone(word: Word) -> list[Span]:
    """Name a word that stands alone, without anything before it that says what it is."""
    if word.role & PLACE and word.lower in KNOWN_PLACES:
        return [Span(word.start, word.stop, "place", 0.6)]
    score = 0.0 if word.role & TITLE else alone(word)
    return [Span(word.start, word.stop, "person", score)] if score else []


def _cue_before(lower: str, start: int) -> str:
    """Return what stands before a run without white space, or nothing where it cannot be a cue."""
    before = lower[max(0, start - _CUE_LENGTH) : start].rstrip() if start else ""
    if not before:
        return ""
    if before[-1] == ".":
        return before
    words = (before.rstrip(":,") if before[-1] in ":," else before).rsplit(None, 1)
    return before if words and words[-1] in _LAST_WORDS else ""


def _again(left: list[Run], found: set[str], ends: dict[int, float], page: Page) -> Iterator[Span]:
    """Find single names again, and unknown ones in a list beside a person: "Anna, Xyzk and Tom"."""
    for run in left:
        for word in run:
            if word.lower in found and len(word.lower) > 2 and not word.role & STOPS:
                yield Span(word.start, word.stop, "person", 0.5)
    for run in [*left, *reversed(left)]:  # forwards and backwards along a list
        if len(run) == 1 and not run[0].role & STOPS and _is_listed(run[0], ends, page.text):
            ends[run[0].start] = ends[run[0].stop] = 0.4
            yield Span(run[0].start, run[0].stop, "person", 0.4)


def _is_listed(word: Word, ends: dict[int, float], text: str) -> bool:
    """Say whether a comma or "and" joins a word with a person before or behind it."""
    before = _LIST.search(text[max(0, word.start - 6) : word.start])
    if before and word.start - len(before.group()) in ends:
        return True
    for separator in (", and ", " and ", ", "):
        if text.startswith(separator, word.stop):
            return word.stop + len(separator) in ends
    return False
