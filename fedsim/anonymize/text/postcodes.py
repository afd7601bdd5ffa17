"""Postal codes: those with a form of their own (United Kingdom, Canada), others in context."""

import re
from collections.abc import Iterable, Iterator

from fedsim.anonymize.text.keywords import Labels
from fedsim.anonymize.text.span import Page, Span
from fedsim.anonymize.text.states import STATE_CODES

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find"]

KINDS = ("postcode",)
LEAST_DIGITS = 1

# Royal Mail's forms A9, A99, AA9, AA99, A9A, AA9A and the inward code; no C, I, K, M, O, V there.
_BRITISH = re.compile(
    r"[A-PR-UWYZ](?<!\w.)[A-HK-Y]?[0-9][0-9A-HJKMNPR-Y]? [0-9][ABD-HJLNP-UW-Z]{2}(?!\w)"
)
# Canada Post: no D, F, I, O, Q, U; no W, Z in front.
_CANADIAN = re.compile(
    r"[ABCEGHJ-NPRSTVXY](?<!\w.)[0-9][ABCEGHJ-NPRSTV-Z] ?[0-9][ABCEGHJ-NPRSTV-Z][0-9](?!\w)"
)
_LETTER_DIGIT = re.compile(r"[0-9](?<=[A-Z][0-9])")
_FIVE = re.compile(r" [0-9]{5}")
_AMERICAN = re.compile(r"[A-Z](?<!\w.)[A-Z],? {1,2}[0-9]{5}(?:-[0-9]{4})?(?![\w-]|[.,][0-9])")
_LABELS = Labels((
    "zip", "zipcode", "postal code", "postcode", "post code", "postleitzahl", "plz",
    "code postal", "codigo postal", "código postal", "postnummer", "pincode",
))  # fmt: skip
WORDS = _LABELS.heads
_LABELLED = re.compile(
    r"(?:[ -]?code)?(?:s|/postal code)?(?: (?:is|was|of|now))?[ \t]?[:=#]?\s{0,2}"
    r"((?:[A-Za-z]{1,2}-)?[0-9A-Za-z]{0,2}[0-9][0-9A-Za-z]{0,4}(?:[ -]"
    r"(?=[A-Z0-9]*[0-9]|[A-Z]{2}\b)[0-9A-Z]{2,4})?)(?![\w-])"
)


def find(page: Page) -> Iterable[Span]:
    """Find codes by form, after the code of a state, or after a word such as ZIP."""
    found: list[Span] = []
    if _LETTER_DIGIT.search(page.text):
        for pattern in (_BRITISH, _CANADIAN):
            found += [Span(*m.span(), "postcode", 0.7) for m in pattern.finditer(page.text)]
    if page.digits >= 5 and _FIVE.search(page.text):
        found += _american(page.text)
    if not page.words.isdisjoint(WORDS):
        found += _labelled(page)
    return found


def _american(text: str) -> Iterator[Span]:
    for match in _AMERICAN.finditer(text):
        if match.group()[:2] in STATE_CODES:
            start = match.end() - len(match.group()[2:].lstrip(", "))
            yield Span(start, match.end(), "postcode", 0.7)


def _labelled(page: Page) -> Iterator[Span]:
    for _, stop in _LABELS.on(page):
        labelled = _LABELLED.match(page.text, stop)
        if labelled and sum(map(str.isdigit, labelled.group(1))) >= 2:
            yield Span(labelled.start(1), labelled.end(1), "postcode", 0.8)
