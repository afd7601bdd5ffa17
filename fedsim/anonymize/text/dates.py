"""Dates: numeric and ISO 8601, written out in seven languages, and bare years in context."""

import re
from collections.abc import Iterable, Iterator

from fedsim.anonymize.text.checksums import is_date
from fedsim.anonymize.text.keywords import Endings, ends_with
from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "MONTHS", "WORDS", "find"]

#: `year` is a year alone, which identifies nobody by itself and which HIPAA leaves in
KINDS = ("date", "year")
LEAST_DIGITS = 1

_TIME = (
    r"(?:(?:[T ]|,? at |, )[0-2]?[0-9]:[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?"
    r"(?: ?[AaPp]\.?[Mm]\b\.?)?(?:Z\b| ?[+-][0-2][0-9]:?[0-5][0-9])?)?"
)
_NUMERIC = re.compile(
    r"[0-9](?<![\w.,/+-][0-9])[0-9]{0,3}([-./])([0-9]{1,2})\1([0-9]{1,4})"
    + _TIME
    + r"(?![\w/-]|\.[0-9])"
)
_JOINED = re.compile(r"[0-9][-./][0-9]")
_COMPACT = re.compile(r"[12](?<!\w[12])[089][0-9]{2}[01][0-9][0-3][0-9]T[0-2][0-9][0-5][0-9]\w*")

_NAMES = """
january janvier januar januari enero janeiro gennaio jan january
february février fevrier februar februari febrero fevereiro febbraio feb févr fev
march mars märz maerz maart marzo março marco mar mrt
april avril abril aprile apr avr
may mai mei mayo maio maggio maj
june juin juni junio junho giugno jun
july juillet juli julio julho luglio jul
august août aout augustus agosto aug
september septembre septiembre setembro settembre sept sep set
october octobre oktober octubre outubro ottobre oct okt
november novembre noviembre novembro nov
december décembre decembre dezember diciembre dezembro dicembre dec dez déc
"""
#: month name in lower case -> its number
MONTHS = {
    name: number
    for number, line in enumerate(_NAMES.strip().splitlines(), 1)
    for name in line.split()
}
WORDS = frozenset(MONTHS)
_INITIALS = "jfmasondeagJFMASONDEAG"
_MONTH = re.compile(
    rf"[{_INITIALS}](?<!\w.)(?:"
    + "|".join(sorted({re.escape(name[1:]) for name in MONTHS}, key=len, reverse=True))
    + r")(?![^\W\d_])",
    re.IGNORECASE,
)
_DAY_BEFORE = re.compile(
    r"(?<![\w.,/-])(?:the )?([0-3]?[0-9])(?:st|nd|rd|th|er|\.|º|ª)?(?:[ -]+(?:of |de |di )?)\Z",
    re.IGNORECASE,
)
_DAY_AFTER = re.compile(
    r"\.?[ -]{1,2}(?:the )?([0-3]?[0-9])(?:st|nd|rd|th)?(?![\w:/]|[.,][0-9])", re.IGNORECASE
)
_YEAR_AFTER = re.compile(
    r"\.?(?:,? {0,2}(?:of |de |del |di )?|[-/' ])((?:1[6-9]|20)[0-9]{2})(?![\w-])" + _TIME
)
_SHORT_YEAR = re.compile(r"(?:-| ?['])[0-9]{2}(?![\w-])")
_YEAR = re.compile(
    r"[12](?<![\w.,/+-].)[09][0-9]{2}(?:-[12][09][0-9]{2})?(?![\w%]|[.,:/-][0-9])|"
    r"1[678][0-9]{2}(?<![\w.,/+-].{4})(?![\w%]|[.,:/-][0-9])"
)
_SAYS_YEAR = Endings((
    "in", "since", "during", "from", "of", "until", "till", "before", "after", "circa",
    "ca", "year", "born", "date", "dated", "spring", "summer", "autumn", "fall", "winter",
    "early", "late", "mid", "by", "©", "(c)", "to", "between", "and", "through",
))  # fmt: skip
_SAYS_DATE = Endings((
    "on", "since", "until", "till", "date", "dated", "seen", "admitted", "discharged",
    "born", "dob", "d.o.b", "visit", "due", "from", "through",
))  # fmt: skip
_PART = re.compile(r"(?<![\w.,/-])[0-3]?[0-9]/[0-3]?[0-9](?![\w/%]|[.,-][0-9])")


def find(page: Page) -> Iterable[Span]:
    """Find dates; a bare year is another kind than a date."""
    found: list[Span] = []
    if page.digits >= 2 and (page.digits >= 14 or _JOINED.search(page.text)):
        found += _numeric(page)
    if not page.words.isdisjoint(WORDS):
        found += _written(page)
    if page.digits >= 4:
        found += _years(page)
    return found


def _numeric(page: Page) -> Iterator[Span]:
    text = page.text
    for match in _NUMERIC.finditer(text):
        first = match.group()[: match.group().index(match.group(1))]
        if _is_numeric_date(match.group(1), first, match.group(2), match.group(3)):
            yield Span(match.start(), match.end(), "date", 0.85)
    if page.digits >= 14:
        for match in _COMPACT.finditer(text):
            yield Span(match.start(), match.end(), "date", 0.8)
    if "/" in text:
        for match in _PART.finditer(text):
            if _is_said(page.lower, match.start(), _SAYS_DATE):
                yield Span(match.start(), match.end(), "date", 0.5)


def _is_numeric_date(separator: str, first: str, middle: str, last: str) -> bool:
    """Say whether three numbers are a date in any usual order, and hardly anything else."""
    if len(first) == 4:
        return len(last) <= 2 and _is_day(first, middle, last)
    if len(first) == 3 or len(last) == 3 or len(last) == 1:
        return False
    if len(last) == 2 and separator != "/" and not len(first) == len(middle) == 2:
        return False  # 1.2.10 and 3-1-12 are versions and scores
    if len(last) == 2 and separator == ".":
        return False
    year = last if len(last) == 4 else f"20{last}"
    return _is_day(year, middle, first) or _is_day(year, first, middle)


def _is_day(year: str, month: str, day: str) -> bool:
    return 1600 <= int(year) < 2200 and is_date(int(year), int(month), int(day))


def _written(page: Page) -> Iterator[Span]:
    text = page.text
    for match in _MONTH.finditer(text):
        start, stop = match.span()
        before = _DAY_BEFORE.search(text[max(0, start - 12) : start])
        after = None if before else _DAY_AFTER.match(text, stop)
        if after and not 1 <= int(after.group(1)) <= 31:
            after = None
        if before and not 1 <= int(before.group(1)) <= 31:
            before = None
        if before:
            start -= len(before.group())
        stop = after.end() if after else stop
        year = _YEAR_AFTER.match(text, stop) or (_SHORT_YEAR.match(text, stop) if before else None)
        is_name = text[match.start()].isupper() or year is not None or before is not None
        if (before or after or year) and is_name and _is_plain(match.group(), before, year):
            yield Span(start, year.end() if year else stop, "date", 0.85)


def _is_plain(name: str, before: object, year: object) -> bool:
    """Say whether a month's name is not rather another word: "Mar 4", "set 3", "dec 2"."""
    return len(name) > 3 or name[0].isupper() or (before is not None and year is not None)


def _years(page: Page) -> list[Span]:
    return [
        Span(*match.span(), "year", 0.5)
        for match in _YEAR.finditer(page.text)
        if _is_said(page.lower, match.start(), _SAYS_YEAR)
    ]


def _is_said(lower: str, start: int, cues: Endings) -> bool:
    """Say whether a word right before tells that this is a date or a year."""
    return ends_with(lower[max(0, start - 18) : start].rstrip(" .:"), cues)
