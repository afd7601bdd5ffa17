"""Names of people, places and organizations, from one reading of the capitalised words."""

from collections.abc import Iterator

from fedsim.anonymize.text.geography import PLACE_CUES, places_in
from fedsim.anonymize.text.organizations import ORGANIZATION_CUES, organization_in
from fedsim.anonymize.text.people import PERSON_CUES, alone, ends_in_title, people_in
from fedsim.anonymize.text.roles import ENDS, KNOWN_PLACES, PLACE, STOPS, TITLE
from fedsim.anonymize.text.runs import Run, Word, runs
from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find"]

KINDS = ("person", "place", "organization")
LEAST_DIGITS = 0
WORDS: frozenset[str] = frozenset()

# What joins a word with a person before it, and with one behind it, by how long it is.
_BEFORE = ((2, ", "), (3, " & "), (4, " or "), (5, " and "), (6, ", and "))
_BEHIND = ((2, ", "), (5, " and "), (6, ", and "))
_CUE_LENGTH = 28
_PERSON, _PLACE, _ORGANIZATION = 1, 2, 4
_CUES = ((_PERSON, PERSON_CUES), (_PLACE, PLACE_CUES), (_ORGANIZATION, ORGANIZATION_CUES))
# last word of a cue -> what it may be a cue of
_LAST_WORDS = {
    word: sum(kind for kind, cues in _CUES if any(cue.split()[-1] == word for cue in cues))
    for word in {cue.split()[-1] for _, cues in _CUES for cue in cues}
}
_DOTTED = tuple(word for word in _LAST_WORDS if word.endswith("."))
_SOME = STOPS | TITLE | ENDS | PLACE
_REPEATED = 0.5  # a name at least this sure is looked for in the rest of the text


def find(page: Page) -> list[Span]:
    """Find names in each run, then the same names where they stood without any context."""
    left: list[Run] = []
    all_spans: list[Span] = []
    is_strict = page.text == page.lower
    for run, flags in runs(page.text, page.lower):
        spans = _named(run, flags, page, is_strict)
        if spans:
            all_spans += spans
        else:
            left.append(run)
    if left and all_spans and not is_strict:
        all_spans += _again(left, all_spans, page)
    return all_spans


def _named(run: Run, flags: int, page: Page, is_strict: bool) -> list[Span]:
    """Name the pieces of one run: an organization is the whole, a known place beats a person."""
    before, cues = ("", 0) if is_strict else _cue_before(page.lower, run[0].start)
    if len(run) == 1:
        if not before:
            return [] if is_strict else _lone(run[0])
        if flags & _SOME == STOPS:
            return []
    if not is_strict and (flags & ENDS or cues & _ORGANIZATION):
        pieces = organization_in(run, before if cues & _ORGANIZATION else "")
        if pieces:
            return _spans(run, pieces, "organization")
    named = before if cues & _PERSON else ""
    is_titled = before[-1:] == "." and ends_in_title(before)
    people = people_in(run, flags, page.lower, named, is_titled=is_titled, is_strict=is_strict)
    places = places_in(run, flags, page, before if cues & _PLACE else "")
    if not places:
        return _spans(run, people, "person")
    if people and max(score for *_, score in people) >= 0.5:
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


def _cue_before(lower: str, start: int) -> tuple[str, int]:
    """Return what stands before a run, without white space, and what it may be a cue of.

    Nothing, where it can be neither a cue nor a title with its dot.
    """
    before = lower[max(0, start - _CUE_LENGTH) : start].rstrip() if start else ""
    if not before:
        return "", 0
    if before[-1] == ".":
        return before, _PERSON if before.endswith(_DOTTED) else 0
    words = (before.rstrip(":,") if before[-1] in ":," else before).rsplit(None, 1)
    cues = _LAST_WORDS.get(words[-1], 0) if words else 0
    return (before, cues) if cues else ("", 0)


def _again(left: list[Run], spans: list[Span], page: Page) -> Iterator[Span]:
    """Find single names again, and unknown ones in a list beside a person: "Anna, Xyzk and Tom"."""
    people = [span for span in spans if span.kind == "person"]
    found = {
        word
        for span in people
        if span.score >= _REPEATED
        for word in page.lower[span.start : span.stop].split()
    }
    if not found:
        return
    ends = {place for span in people for place in (span.start, span.stop)}
    for run in left:
        for word in run:
            if word.lower in found and len(word.lower) > 2 and not word.role & STOPS:
                yield Span(word.start, word.stop, "person", 0.5)
    for run in [*left, *reversed(left)]:  # forwards and backwards along a list
        if len(run) == 1 and not run[0].role & STOPS and _is_listed(run[0], ends, page.text):
            ends |= {run[0].start, run[0].stop}
            yield Span(run[0].start, run[0].stop, "person", 0.4)


def _is_listed(word: Word, ends: set[int], text: str) -> bool:
    """Say whether a comma or "and" joins a word with a person before or behind it."""
    for size, join in _BEFORE:
        if word.start - size in ends and text.startswith(join, word.start - size):
            return True
    for size, join in _BEHIND:
        if word.stop + size in ends and text.startswith(join, word.stop):
            return True
    return False
