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
_WORD = re.compile(rf"[{UPPER}](?<![\w'].)[^\W\d_{_MARKS}]*(?:[{_MARKS}'-]?[^\W\d_]+)*[{_MARKS}]?")
_ANY_WORD = re.compile(rf"[^\W\d_](?<![\w'].)[^\W\d_]*(?:[{_MARKS}'-]?[^\W\d_]+)*[{_MARKS}]?")
_MOST = 12  # words of a run
_SOME = STOPS | TITLE | ENDS | PLACE


def runs(text: str, lower: str) -> Iterator[Run]:
    """Return the runs of a text, but for single words that are no part of a name.

    Of a text without capitals, every word counts as capitalised.
    """
    pattern = _ANY_WORD if text == lower else _WORD
    run: Run = []
    known = roles()
    for match in pattern.finditer(text):
        start, stop = match.span()
        word = lower[start:stop]
        if word.endswith("'s") and stop - start > 2:
            stop, word = stop - 2, word[:-2]
        if run and not (len(run) < _MOST and _is_joined(text, run[-1], start)):
            if len(run) > 1 or run[0].role & _SOME != STOPS:
                yield run
            run = []
        if stop - start <= MAX_WORD:
            run.append(Word(start, stop, word, known[word] if word in known else role(word)))
    if run and (len(run) > 1 or run[0].role & _SOME != STOPS):
        yield run


def _is_joined(text: str, last: Word, start: int) -> bool:
    gap = start - last.stop
    if gap == 1:
        return text[last.stop] == " "
    if gap == 2:
        return text[last.stop : start] == ". " and last.stop - last.start == 1
    return gap < 12 and text[last.stop] == " " and _is_particle(text[last.stop : start])


def _is_particle(between: str) -> bool:
    return between[-1] == " " and all(word in PARTICLES for word in between.split())
