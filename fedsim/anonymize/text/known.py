"""Find the values of a record's own identifiers in its free text.

No gazetteer knows every name, but the table does: whoever wrote the note about a patient wrote the
name that stands in the record's name column. Values are found in any case, without or with accents,
in any order of their words ("Jensen, Anna Marie"), with initials ("A. M. Jensen"), in part ("Ms
Jensen"), and numbers with any spaces and punctuation, and without their country code.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from fedsim.anonymize.text.span import Page, Span
from fedsim.anonymize.text.words import PARTICLES, TITLES, ordinary_names, stop_words, unaccented

__all__ = ["KIND", "KnownValues"]

#: the kind of what is found where the values have no kind of their own
KIND = "known"

_TOKEN = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f])*")
_GAP = re.compile(r"[\s.,;:'\u2019\"()/_+-]{0,4}")
_EXPANDED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae"})
#: words of addresses that are written in short or in full
_SHORT = {
    "street": "st", "str": "st", "straße": "st", "strasse": "st", "avenue": "ave", "av": "ave",
    "road": "rd", "drive": "dr", "lane": "ln", "boulevard": "blvd", "court": "ct", "place": "pl",
    "square": "sq", "apartment": "apt", "suite": "ste", "saint": "st", "highway": "hwy",
}  # fmt: skip
_LEAST_DIGITS = 5  # of a number that is looked for through its separators
_TAIL = 8  # digits at its end by which a number is known without its country or area code


@dataclass(frozen=True, slots=True)
class KnownValues:
    """Identifiers to look for; made by `of` or `of_columns`, false where there are none.

    `words`: folded words -> their kind. `sure`: those that say enough by themselves. `initials`:
    first letters of the words of names. `numbers`: letters and digits only -> kind. `literals`:
    values found as they are, in any case.
    """

    words: Mapping[str, str]
    sure: frozenset[str]
    initials: frozenset[str]
    numbers: Mapping[str, str]
    literals: Mapping[str, str]
    pairs: frozenset[tuple[str, str]]

    def __bool__(self) -> bool:
        """Say whether there is anything to look for."""
        return bool(self.words or self.numbers or self.literals)

    @classmethod
    def of(cls, values: Iterable[str], kind: str = KIND) -> "KnownValues":
        """Take values of any identifiers."""
        return cls.of_columns({kind: values})

    @classmethod
    def of_columns(cls, columns: Mapping[str, Iterable[str]]) -> "KnownValues":
        """Take the values of each column; what is found has the column's name as its kind."""
        words: dict[str, str] = {}
        numbers: dict[str, str] = {}
        literals: dict[str, str] = {}
        initials: set[str] = set()
        pairs: set[tuple[str, str]] = set()
        for kind, values in columns.items():
            for value in values:
                if "@" in value or "://" in value:
                    literals[value.strip().lower()] = kind
                    continue
                tokens = [token for variant in _variants(value) for token in [_tokens(variant)]]
                for run in tokens:
                    words |= dict.fromkeys(run, kind)
                    pairs |= {pair for a, b in pairwise(run) for pair in ((a, b), (b, a))}
                    words |= dict.fromkeys(
                        (a + b for a, b in pairwise(run) if _is_name(a + b)), kind
                    )
                    if all(map(_is_name, run)):
                        initials |= {token[0] for token in run}
                compact = "".join(tokens[0])
                if sum(map(str.isdigit, compact)) >= _LEAST_DIGITS:
                    numbers[compact] = kind
        sure = frozenset(word for word in words if _is_sure(word))
        return cls(words, sure, frozenset(initials), numbers, literals, frozenset(pairs))

    def find(self, page: Page) -> Iterator[Span]:
        """Find the values on a page."""
        for literal, kind in self.literals.items():
            at = page.lower.find(literal) if literal else -1
            while at >= 0:
                yield Span(at, at + len(literal), kind, 1.0)
                at = page.lower.find(literal, at + len(literal))
        if self.numbers and page.digits:
            yield from self._numbers(page)
        if self.words:
            yield from self._words(page)

    def _words(self, page: Page) -> Iterator[Span]:
        """Find runs of the values' words; a run needs one that says enough, or two in order."""
        has_capitals = page.text != page.lower
        run: list[tuple[str, int, int]] = []
        for match in _TOKEN.finditer(page.text):
            word = _folded(match.group())
            is_known = word in self.words or (len(word) == 1 and word in self.initials)
            joins = run and _GAP.fullmatch(page.text, run[-1][2], match.start())
            if run and not (is_known and joins):
                yield from self._accepted(run, page, has_capitals)
                run = []
            if is_known:
                run.append((word, *match.span()))
        if run:
            yield from self._accepted(run, page, has_capitals)

    def _accepted(
        self, run: list[tuple[str, int, int]], page: Page, has_capitals: bool
    ) -> Iterator[Span]:
        while run and run[0][0] in PARTICLES and page.text[run[0][1]].islower():
            run = run[1:]
        while run and run[-1][0] in PARTICLES and page.text[run[-1][1]].islower():
            run = run[:-1]
        if not run:
            return
        words = [word for word, _, _ in run]
        is_sure = any(word in self.sure for word in words)
        is_pair = any(pair in self.pairs and len("".join(pair)) > 2 for pair in pairwise(words))
        is_name = any(  # "Will" in the middle of a text is a name, "will" is not
            has_capitals and len(word) > 1 and word.isalpha() and page.text[start].isupper()
            for word, start, _ in run
        )
        if is_sure or is_pair or is_name:
            kind = next((self.words[word] for word in words if word in self.words), KIND)
            start, stop = run[0][1], run[-1][2]
            if len(words[-1]) == 1 and page.text[stop : stop + 1] == ".":
                stop += 1  # the dot of an initial
            yield Span(start, stop, kind, 1.0)

    def _numbers(self, page: Page) -> Iterator[Span]:
        """Find numbers through any separators, over the letters and digits of the page alone."""
        places = [place for place, character in enumerate(page.lower) if character.isalnum()]
        compact = "".join([page.lower[place] for place in places])
        if not compact.isascii():
            compact = "".join(c if len(unaccented(c)) != 1 else unaccented(c) for c in compact)
        for number, kind in self.numbers.items():
            for form in _forms(number):
                at = compact.find(form)
                while at >= 0:
                    start, stop = places[at], places[at + len(form) - 1] + 1
                    if _is_whole(page.text, start, stop, is_tail=form != number):
                        yield Span(_leftmost(page.text, start), stop, kind, 1.0)
                    at = compact.find(form, at + 1)


def _forms(number: str) -> list[str]:
    """Return a number, and the end of it that remains without country and area codes."""
    if number.isdigit() and len(number) > _TAIL:
        return [number, number[-_TAIL:]]
    return [number]


def _is_whole(text: str, start: int, stop: int, *, is_tail: bool) -> bool:
    """Say whether a number does not go on behind, nor, where it is not only an end, before."""
    if text[stop : stop + 1].isalnum() or "\n\n" in text[start:stop]:
        return False
    return is_tail or not (start and text[start - 1].isalnum())


def _leftmost(text: str, start: int) -> int:
    """Take in what stands before the end of a number: digits, brackets, a plus."""
    least = max(0, start - 12)
    while start > least and (text[start - 1].isdigit() or _goes_on(text, start)):
        start -= 1
    if start and text[start - 1] in "+(":
        start -= 1
    return start


def _goes_on(text: str, start: int) -> bool:
    """Say whether one separator stands between digits here, or a bracket that is open."""
    return (
        start > 1
        and text[start - 1] in ".-/() "
        and (text[start - 2].isdigit() or text[start - 2] in "()+")
    )


def _variants(value: str) -> list[str]:
    """Return a value, and as it is written without umlauts; Mueller for Müller."""
    expanded = value.lower().translate(_EXPANDED)
    return [value] if expanded == value.lower() else [value, expanded]


def _tokens(value: str) -> list[str]:
    return [_folded(match.group()) for match in _TOKEN.finditer(value)]


def _folded(word: str) -> str:
    word = unaccented(word).lower()
    return _SHORT.get(word, word)


def _is_name(word: str) -> bool:
    return word.isalpha() and word not in PARTICLES and word not in TITLES


def _is_sure(word: str) -> bool:
    """Say whether a word of a value is hardly anything else, alone and in lower case."""
    if any(map(str.isdigit, word)):
        return len(word) >= _LEAST_DIGITS
    is_common = (
        word in stop_words() or word in ordinary_names() or word in PARTICLES or word in TITLES
    )
    return len(word) >= 3 and not is_common and word not in _SHORT.values()
