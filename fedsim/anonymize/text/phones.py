"""Telephone numbers: international (ITU-T E.164), North American, and national ones.

A number with a country code, an area code in brackets or a leading 0 is known by its form. Others,
such as 467 3395, are known by a word beside them that says so: call, mobile, fax.
"""

import re
from collections.abc import Iterator

from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find"]

KINDS = ("phone",)
LEAST_DIGITS = 6

_EXTENSION = r"(?: ?(?:x|ext\.?|extension) ?[0-9]{1,6})?"
_END = r"(?!\w|[.,:/-][0-9])"

# +46 (0)8 928 571 38, 001-518-640-0854, +1 (650) 253-0000
_INTERNATIONAL = re.compile(
    r"(?:\+|00)(?<![\w.]00)(?<!\w\+)[ ]?[1-9](?:[ ./-]{0,2}(?:\(0?[0-9]{0,4}\)[ ./-]?)?[0-9]){6,13}"
    + _EXTENSION
    + r"(?!\w)"
)
# (579)888-3058, 930.167.3943, 345-899-3560x4587, 1-800-555-0100
_AMERICAN = re.compile(
    r"(?:\(|[0-9])(?<![\w.+-].)(?:(?<=\()[0-9]{3}\)[ -]?|"
    r"(?<=1)[-. ](?:\([0-9]{3}\)[ -]?|[0-9]{3}[-. ])"
    r"|(?<=[0-9])[0-9]{2}[-.])[0-9]{3}[-. ][0-9]{4}" + _EXTENSION + _END
)
# (08) 8747 6301, (37) 788-063, (71) 4233-6306
_BRACKETS = re.compile(
    r"\((?<![\w(]\()0?[0-9]{1,5}\)[ ]?[0-9]{2,4}(?:[ /-]?[0-9]{2,4}){1,3}" + _EXTENSION + _END
)
# 0490 75 40 81, 03.93.92.16.85, 0393 1144137, 0961-7596216
_TRUNK = re.compile(
    r"0(?<![\w:/+-]0)(?<![0-9][.,]0)[1-9][0-9]{0,4}(?:(?:[ ./-][0-9]{2,8}){1,5}|[0-9]{4,9})"
    + _EXTENSION
    + _END
)
# 60-56-85-91
_PAIRS = re.compile(
    r"[0-9](?<![\w:/+-].)(?<![0-9][.,].)[0-9](?:([-.])[0-9]{2})(?:\1[0-9]{2}){2,3}" + _END
)
# what else may be one where a word says so; groups of at least two digits
_GROUPS = re.compile(
    r"[0-9](?<![\w:/+-].)(?<![0-9][.,].)[0-9]{1,11}(?:[ .-][0-9]{2,7}){0,4}" + _EXTENSION + _END
)

_BEFORE = re.compile(
    r"(?:\b(?:call|calls|called|calling|phone|phones|telephone|tel|mobile|cell|cellphone|fax|desk|"
    r"dial|hotline|landline|sms|text|texts|whatsapp|signal|voicemail|messages?|answer|answering|"
    r"pager|ring me|ring us|reach (?:me|us|him|her|them)|contact|callback|handy|telefon|mobil|"
    r"t[eé]l[eé]phone|t[eé]l[eé]fono|telefoon|puhelin|rufnummer|celular|m[oó]vil|portable|"
    r"number to reach|phone number|home|work|office)\b|☎|☏|📞)[^0-9\n]{0,30}(?:\n\s*)?\Z"
)
_AFTER = re.compile(r"[ \t]?[-(,]?[ ]?(?:office|fax|mobile|home|work|cell|desk)\b")
WORDS = frozenset(re.findall(r"[^\W\d_]+", _BEFORE.pattern)) | {
    "téléphone",
    "teléfono",
    "móvil",
    "telephone",
    "telefono",
    "movil",
}


def find(page: Page) -> Iterator[Span]:
    """Find numbers of 7 to 15 digits (E.164's most), 6 where the form is plain."""
    text, said = page.text, not page.words.isdisjoint(WORDS)
    done = -1
    for first, last in page.numbers:
        first = max(first - 4, done, 0)  # a plus and a bracket before
        signs = set(text[first:last])
        for pattern, needed, least, score in _BY_FORM:
            if needed.isdisjoint(signs):
                continue
            for match in pattern.finditer(text, first, min(len(text), last + 16)):
                if match.start() < last and _is_phone(match.group(), least):
                    yield Span(match.start(), match.end(), "phone", score)
        if said:
            for match in _GROUPS.finditer(text, first, min(len(text), last + 16)):
                if match.start() < last and _is_said_to_be(page, *match.span()):
                    yield Span(match.start(), match.end(), "phone", 0.6)
        done = last


def _is_phone(word: str, least: int) -> bool:
    return least <= _count(word) <= 21 and not _is_other(word)


# Each form, characters of which a number has one, the digits it has at least, and a score.
_BY_FORM = (
    (_INTERNATIONAL, frozenset("+0"), 8, 0.85),
    (_AMERICAN, frozenset("(-. "), 10, 0.8),
    (_BRACKETS, frozenset("("), 7, 0.75),
    (_TRUNK, frozenset("0"), 9, 0.65),
    (_PAIRS, frozenset("-."), 8, 0.6),
)
_DATE = re.compile(r"\d{1,2}([./-])\d{1,2}\1\d{4}|\d{4}([./-])\d\d\2\d\d")


def _count(word: str) -> int:
    return sum(character.isdigit() for character in word)


def _is_other(word: str) -> bool:
    """Say whether a match is a date, or a decimal number that begins with 0."""
    return bool(_DATE.fullmatch(word)) or (word[0] == "0" and word.count(".") == 1)


def _is_said_to_be(page: Page, start: int, stop: int) -> bool:
    """Look for a word before, or right after, that says that this is a telephone number."""
    word = page.text[start:stop]
    if not 6 <= _count(word) <= 15:
        return False
    if _DATE.fullmatch(word) or (word.count(".") == 1 and "-" not in word and " " not in word):
        return False
    is_one_piece = word.isdigit()
    if is_one_piece and len(word) < 7:
        return False
    before = _BEFORE.search(page.lower[max(0, start - 60) : start])
    if before and not (is_one_piece and len(before.group()) > 20 and _count(word) < 9):
        return True
    return bool(_AFTER.match(page.lower, stop))
