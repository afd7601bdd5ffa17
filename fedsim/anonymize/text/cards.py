"""Payment cards: ISO/IEC 7812 check digit, and the lengths that each issuer's ranges have."""

import re
from collections.abc import Iterator

from fedsim.anonymize.text.checksums import luhn
from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find", "is_card"]

KINDS = ("card",)
LEAST_DIGITS = 12
WORDS = frozenset(
    ("card", "cards", "cc", "visa", "mastercard", "amex", "maestro", "karte", "carte", "tarjeta")
)

# first number, last number, lengths: the issuer identification ranges that the networks publish
_RANGES = (
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),  # Mastercard
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),
    ("300", "305", (14, 16, 19)),  # Diners Club
    ("3095", "3095", (14, 16, 19)),
    ("36", "36", (14, 15, 16, 17, 18, 19)),
    ("38", "39", (14, 16, 17, 18, 19)),
    ("3528", "3589", (16, 17, 18, 19)),  # JCB
    ("1800", "1800", (15,)),  # JCB, old
    ("2131", "2131", (15,)),
    ("6011", "6011", (16, 17, 18, 19)),  # Discover
    ("644", "659", (16, 17, 18, 19)),
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
    ("81", "81", (16, 17, 18, 19)),
    ("2200", "2204", (16, 17, 18, 19)),  # Mir
    ("9792", "9792", (16,)),  # Troy
    ("50", "50", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    ("56", "69", (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro, RuPay
)
_NUMBER = re.compile(
    r"[0-9](?<![\w.][0-9])"
    r"(?:[0-9]{11,18}|[0-9]{3}(?:[ -][0-9]{4}){3}(?:[ -][0-9]{1,3})?"
    r"|[0-9]{3}[ -][0-9]{6}[ -][0-9]{4,5}|[0-9]{7}[ -][0-9]{8})"
    r"(?!\w|[.,][0-9])"
)


def is_card(digits: str) -> bool:
    """Say whether digits can be a card's: an issuer's range and length, and the check digit.

    >>> is_card("4242424242424242"), is_card("4242424242424241")
    (True, False)
    """
    return luhn(digits) and any(
        len(digits) in lengths and first <= digits[: len(first)] <= last
        for first, last, lengths in _RANGES
    )


def find(page: Page) -> Iterator[Span]:
    """Find cards written in one piece or in the groups that are printed on them."""
    for first, last in page.numbers:
        match = _NUMBER.search(page.text, first) if last - first >= 12 else None
        while match and match.start() < last:
            start, stop = match.span()
            digits = match.group().replace(" ", "").replace("-", "")
            if is_card(digits) or (luhn(digits) and _is_named(page, start)):
                yield Span(start, stop, "card", 0.97)
            else:
                stop = start + 1  # "in 2021 4242 ...": the number may begin at the next group
            match = _NUMBER.search(page.text, stop)


def _is_named(page: Page, start: int) -> bool:
    """Say whether "card" stands before: then ranges that are not on the list count as well."""
    return not page.words.isdisjoint(WORDS) and bool(
        _NAMED.search(page.lower[max(0, start - 40) : start])
    )


_NAMED = re.compile(rf"\b(?:{'|'.join(sorted(WORDS))})\b")
