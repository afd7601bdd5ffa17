"""IBANs: ISO 13616, the length of each country, and the check digits of ISO/IEC 7064 MOD 97-10."""

import re
from collections.abc import Iterator

from fedsim.anonymize.text.checksums import iso7064_mod97
from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "LENGTHS", "WORDS", "find", "is_iban"]

KINDS = ("iban",)
LEAST_DIGITS = 8
WORDS: frozenset[str] = frozenset()

_TABLE = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28
EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26
IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28
NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25
SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
#: country -> characters of its IBANs, of the registry that SWIFT keeps for ISO 13616
LENGTHS = {entry[:2]: int(entry[2:]) for entry in _TABLE.split()}

# The first of two digits behind two letters that begin a word: texts have more letters than digits.
_DIGITS = re.compile(
    r"[0-9](?:(?<=[A-Za-z]{2}[0-9])(?<!\w[A-Za-z]{2}[0-9])|"
    r"(?<=[A-Za-z]{2}[ -][0-9])(?<!\w[A-Za-z]{2}[ -][0-9]))[ -]?[0-9]"
)


def is_iban(text: str) -> bool:
    """Say whether 'text', without spaces, is an IBAN of its country's length.

    >>> is_iban("GB82WEST12345698765432"), is_iban("GB82WEST12345698765433")
    (True, False)
    """
    if not text.isascii() or not text.isalnum() or len(text) != LENGTHS.get(text[:2].upper()):
        return False
    return text[2:4].isdigit() and iso7064_mod97(text[4:] + text[:4])


def find(page: Page) -> Iterator[Span]:
    """Find IBANs written without separators, or with single spaces or hyphens anywhere."""
    text = page.text
    for match in _DIGITS.finditer(text):
        start = match.start() - (3 if text[match.start() - 1] in " -" else 2)
        length = LENGTHS.get(text[start : start + 2].upper())
        if length is None:
            continue
        stop = _end(text, start, length)
        word = text[start:stop].replace(" ", "").replace("-", "")
        if stop and is_iban(word):
            yield Span(start, stop, "iban", 0.99)


def _end(text: str, start: int, length: int) -> int:
    """Return where `length` letters and digits end, or 0 where they are not all there."""
    at, count = start, 0
    while at < len(text) and count < length:
        if text[at] in " -" and text[at - 1] not in " -":
            at += 1
            continue
        if not text[at].isalnum():
            return 0
        at, count = at + 1, count + 1
    is_whole = count == length and not text[at : at + 1].isalnum()
    return at if is_whole else 0
