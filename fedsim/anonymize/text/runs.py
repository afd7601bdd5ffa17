"""Runs of capitalised words: what names of people, places and organizations are looked for in."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from fedsim.anonymize.text.roles import ENDS, PLACE, STOPS, TITLE, role, roles
from fedsim.anonymize.text.words import MAX_WORD, PARTICLES, UPPER

__all__ = ["Run", "Word", "runs"]


class Word(NamedTuple):
    """A capitalised word: `lower` without a genitive 's, `role` as `roles.role` gives it."""

    start: int
    stop: int
    lower: str
    role: int


#: words that follow each other with a space, a particle or an initial's dot between them
Run = list[Word]

_MARKS = "\u0300-\u036f"  # accents as characters of their own
_REST = rf"[^\W\d_{_MARKS}]*(?:[{_MARKS}'-][^\W\d_]+)*[{_MARKS}]?"
_PLAIN_REST = "[A-Za-z]*(?:['-][A-Za-z]+)*"
_PARTICLE = "|".join(sorted(PARTICLES))
# Between words of a name: a space, particles, the dot of an initial; a genitive ends the name.
_JOINT = rf"(?:(?<=\b[{UPPER}])\.)?(?<!'s) (?:(?:{_PARTICLE}) ){{0,3}}"
_MORE = 11  # words of a run after the first
_SOME = STOPS | TITLE | ENDS | PLACE


def _pattern(first: str, rest: str) -> re.Pattern[str]:
    """Return what finds runs of words that begin with some letters and go on with others."""
    more = rf"(?:{_JOINT}{first}{rest}){{0,{_MORE}}}"
    return re.compile(rf"{first}(?<![\w'].){rest}{more}")


_CAPITALISED, _ANY = _pattern(f"[{UPPER}]", _REST), _pattern(r"[^\W\d_]", _REST)
# The same for texts in ASCII, where small sets of letters are faster.
_PLAIN_CAPITALISED, _PLAIN_ANY = (
    _pattern("[A-Z]", _PLAIN_REST),
    _pattern("[A-Za-z]", _PLAIN_REST),
)


def runs(text: str, lower: str) -> Iterator[Run]:
    """Return the runs of a text, but for single words that are no part of a name.

    Of a text without capitals, every word counts as capitalised.
    """
    known = roles()
    is_strict = text == lower
    if text.isascii():
        form = _PLAIN_ANY if is_strict else _PLAIN_CAPITALISED
    else:
        form = _ANY if is_strict else _CAPITALISED
    for match in form.finditer(text):
        start, stop = match.span()
        piece = lower[start:stop]
        if " " in piece:
            run = _split(match.group(), piece, start, is_strict)
            if run:
                yield run
            continue
        flags = known.get(piece)
        if flags is None:
            if stop - start <= MAX_WORD:
                yield [_word(piece, start)]
        elif flags & _SOME != STOPS:
            yield [Word(start, stop, piece, flags)]


def _split(text: str, lower: str, at: int, is_strict: bool) -> Run:
    """Return the words of a run that begins at `at`; a particle is none beside capitals."""
    run = []
    for written, word in zip(text.split(" "), lower.split(" "), strict=True):
        if is_strict or written not in PARTICLES:
            run.append(_word(word.rstrip("."), at))  # the dot of an initial
        at += len(word) + 1
    if len(text) > MAX_WORD:
        run = [word for word in run if word.stop - word.start <= MAX_WORD]
    return run


def _word(word: str, start: int) -> Word:
    if len(word) > 2 and word.endswith("'s"):
        word = word[:-2]
    return Word(start, start + len(word), word, role(word))
