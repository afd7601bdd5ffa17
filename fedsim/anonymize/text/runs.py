"""Runs of capitalised words: what names of people, places and organizations are looked for in."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from fedsim.anonymize.text.roles import ENDS, PARTICLE, PLACE, STOPS, TITLE, role, roles
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
_new = tuple.__new__  # a named tuple's own takes twice as long


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


def runs(text: str, lower: str) -> Iterator[tuple[Run, int]]:
    """Return the runs of a text, and all flags that words of each have.

    Without those that have no word of a name. Of a text without capitals, every word counts as
    capitalised.
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
            run = _split(piece, start, "" if is_strict else text)
            if len(piece) > MAX_WORD:
                run = [word for word in run if word.stop - word.start <= MAX_WORD]
            flags, is_any = 0, len(run) == 1
            for *_, role_ in run:
                flags |= role_
                is_any = is_any or role_ & _SOME != STOPS
            if is_any:
                yield run, flags
            continue
        own = known.get(piece)
        if own is None:
            if stop - start <= MAX_WORD:
                word = _word(piece, start)
                yield [word], word.role
        elif own & _SOME != STOPS:
            yield [_new(Word, (start, stop, piece, own))], own


def _split(piece: str, at: int, text: str) -> Run:
    """Return the words of a run that begins at `at` of a text; particles in lower case are none."""
    known, run = roles(), []
    for word in piece.split(" "):
        stop = at + len(word)
        flags = known.get(word) if word.isalpha() else None
        if flags is None:
            run.append(_word(word.rstrip("."), at))  # the dot of an initial
        elif not (flags & PARTICLE and text.startswith(word, at)):
            run.append(_new(Word, (at, stop, word, flags)))
        at = stop + 1
    return run


def _word(word: str, start: int) -> Word:
    if len(word) > 2 and word.endswith("'s"):
        word = word[:-2]
    return _new(Word, (start, start + len(word), word, role(word)))
