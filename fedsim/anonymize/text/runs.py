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
_PARTICLE = "|".join(sorted(PARTICLES))
# Between words of a name: a space, particles, the dot of an initial; a genitive ends the name.
_JOINT = rf"(?:(?<=\b[{UPPER}])\.)?(?<!'s) (?:(?:{_PARTICLE}) ){{0,3}}"
_MORE = 11  # words of a run after the first
_SOME = STOPS | TITLE | ENDS | PLACE


def _patterns(first: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what finds words that begin with one of some letters, and what finds runs of them."""
    head, more = rf"{first}(?<![\w'].){_REST}", rf"{first}{_REST}"
    return re.compile(head), re.compile(rf"{head}(?:{_JOINT}{more}){{0,{_MORE}}}")


_CAPITALISED = _patterns(f"[{UPPER}]")
_ANY = _patterns(r"[^\W\d_]")


def runs(text: str, lower: str) -> Iterator[Run]:
    """Return the runs of a text, but for single words that are no part of a name.

    Of a text without capitals, every word counts as capitalised.
    """
    known = roles()
    word_form, run_form = _ANY if text == lower else _CAPITALISED
    for match in run_form.finditer(text):
        start, stop = match.span()
        piece = lower[start:stop]
        if " " in piece:
            run = [_word(lower, *word.span()) for word in word_form.finditer(text, start, stop)]
            if stop - start > MAX_WORD:
                run = [word for word in run if word.stop - word.start <= MAX_WORD]
            if run:
                yield run
            continue
        flags = known.get(piece)
        if flags is None:
            if stop - start <= MAX_WORD:
                yield [_word(lower, start, stop)]
        elif flags & _SOME != STOPS:
            yield [Word(start, stop, piece, flags)]


def _word(lower: str, start: int, stop: int) -> Word:
    if lower.endswith("'s", start, stop) and stop - start > 2:
        stop -= 2
    word = lower[start:stop]
    return Word(start, stop, word, role(word))
