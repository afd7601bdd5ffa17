"""National identity numbers, each by its form and by the check digit or rule its state defines.

Where form and check digit leave too many other numbers in (nine digits whose sum is divisible by
eleven), a word beside the number has to name it.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fedsim.anonymize.text.checksums import (
    ean,
    is_date,
    iso7064_mod11_10,
    luhn,
    verhoeff,
    weighted,
)
from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find", "is_valid"]


@dataclass(frozen=True, slots=True)
class _Identity:
    """`form` is searched for, `is_valid` judges the number without its separators.

    `named`: words of which one must stand before a number that has the form `bare`; without `named`
    the form is enough. `least`: the fewest digits of a run in it, 0 where they do not stand
    together.
    """

    kind: str
    least: int
    form: re.Pattern[str]
    is_valid: Callable[[str], bool]
    named: re.Pattern[str] | None = None
    bare: re.Pattern[str] | None = None


def is_valid(kind: str, number: str) -> bool:
    """Say whether a number is valid as a kind of identity number.

    >>> is_valid("br-cpf", "111.444.777-35"), is_valid("br-cpf", "111.444.777-34")
    (True, False)
    """
    bare = _bare(number)
    return any(entry.kind == kind and entry.is_valid(bare) for entry in _IDENTITIES)


def find(page: Page) -> Iterable[Span]:
    """Find identity numbers of all states known here."""
    text, found = page.text, list[Span]()
    if page.digits >= 7 and page.longest >= 16:
        for entry in _SCATTERED:
            found += _found(entry, page, 0, len(text))
    done = 0
    for first, last in page.numbers:
        start, stop = max(done, first - 8), min(len(text), last + 14)  # letters around it
        if _ANY.search(text, start, stop):
            digits = sum(map(str.isdigit, text[first:last]))
            for entry in _TOGETHER:
                if digits >= entry.least and entry.form.search(text, start, stop):
                    found += _found(entry, page, start, stop)
        done = last
    return found


def _found(entry: _Identity, page: Page, first: int, last: int) -> Iterator[Span]:
    for match in entry.form.finditer(page.text, first, last):
        word = match.group()
        if entry.is_valid(_bare(word)):
            before = page.lower[max(0, match.start() - 50) : match.start()]
            if entry.named is None or entry.named.search(before):
                yield Span(match.start(), match.end(), entry.kind, 0.95)
            elif entry.bare is not None and not entry.bare.fullmatch(word):
                yield Span(match.start(), match.end(), entry.kind, 0.9)


_SEPARATORS = str.maketrans("", "", " .-/+")


def _bare(number: str) -> str:
    return number.translate(_SEPARATORS).upper()


def _us_ssn(number: str) -> bool:
    """Areas 000, 666 and 900 to 999, group 00 and serial 0000 are never given out.

    Social Security Administration, POMS RM 10201.035; 078-05-1120 and 219-09-9999 were printed in
    advertisements and are nobody's.
    """
    return (
        len(number) == 9
        and number.isdigit()
        and number[:3] not in ("000", "666")
        and number[0] != "9"
        and number[3:5] != "00"
        and number[5:] != "0000"
        and number not in ("078051120", "219099999")
    )


def _us_itin(number: str) -> bool:
    """Check the group of an individual taxpayer (Internal Revenue Service, publication 1915)."""
    group = int(number[3:5])
    return number[0] == "9" and (50 <= group <= 65 or 70 <= group <= 88 or group in _ITIN_LATE)


_ITIN_LATE = (90, 91, 92, 94, 95, 96, 97, 98, 99)


def _uk_nino(number: str) -> bool:
    """HM Revenue & Customs, NIM39110: letters not used, and prefixes never given out."""
    prefix = number[:2]
    return (
        prefix[0] not in "DFIQUV"
        and prefix[1] not in "DFIOQUV"
        and prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    )


def _uk_nhs(number: str) -> bool:
    """NHS Data Dictionary, NHS NUMBER: modulus 11."""
    check = 11 - weighted(number, (10, 9, 8, 7, 6, 5, 4, 3, 2)) % 11
    return check % 11 == int(number[9]) and check != 10 and len(set(number)) > 1


def _de_tax_id(number: str) -> bool:
    """Federal Central Tax Office, IdNr: of the first ten digits one occurs two or three times."""
    counts = sorted(number[:10].count(digit) for digit in set(number[:10]))
    is_formed = counts[:-1] == [1] * (len(counts) - 1) and counts[-1] in (2, 3)
    return number[0] != "0" and is_formed and iso7064_mod11_10(number)


def _fr_nir(number: str) -> bool:
    """INSEE: the key is 97 less the number modulo 97; Corsica's 2A and 2B count as 19 and 18."""
    body = number[:13].replace("2A", "19").replace("2B", "18")
    return body.isdigit() and int(number[13:]) == 97 - int(body) % 97


def _es_dni(number: str) -> bool:
    """Ministry of the Interior: the letter is the number modulo 23."""
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number[:8]) % 23] == number[8]


def _es_nie(number: str) -> bool:
    """Check the letter as for a citizen, with X, Y and Z in front as 0, 1 and 2."""
    return _es_dni(f"{'XYZ'.index(number[0])}{number[1:]}")


# Decree of the Italian Ministry of Finance, 12 March 1974: values of characters at odd places.
_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21,
         2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)  # fmt: skip


def _it_codice_fiscale(number: str) -> bool:
    """Check the sixteenth: the sum of the others' values modulo 26, as a letter."""
    odd = sum(_ODD[character] for character in number[0:15:2])
    even = sum(int(c) if c.isdigit() else ord(c) - 65 for c in number[1:15:2])
    return chr(65 + (odd + even) % 26) == number[15]


def _nl_bsn(number: str) -> bool:
    """Apply the eleven-test, in which the last digit counts minus one."""
    number = number.zfill(9)
    return weighted(number, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0 and int(number) > 9999999


def _pl_pesel(number: str) -> bool:
    """Act on population records, 2010: month plus 80, 0, 20, 40, 60 for the centuries from 1800."""
    century, month = divmod(int(number[2:4]), 20)
    year = (1900, 2000, 2100, 2200, 1800)[century] + int(number[:2])
    check = weighted(number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3))
    return is_date(year, month, int(number[4:6])) and (-check) % 10 == int(number[10])


def _be_rrn(number: str) -> bool:
    """Royal decree of 3 April 1984: 97 less the rest of nine digits, with a 2 before from 2000."""
    check, month, day = int(number[9:]), int(number[2:4]) % 20, int(number[4:6])
    is_born = month <= 12 and day <= 31
    return is_born and check in (97 - int(f"{born}{number[:9]}") % 97 for born in ("", "2"))


def _se_personnummer(number: str) -> bool:
    """Swedish Tax Agency, SKV 704: Luhn over ten digits; coordination numbers add 60 to the day."""
    short = number[-10:]
    day = int(short[4:6]) % 60
    return is_date(2000 + int(short[:2]), int(short[2:4]), day) and luhn(short)


def _br_cpf(number: str) -> bool:
    """Receita Federal: two digits modulo 11; eleven equal digits are not given out."""
    if len(set(number)) == 1:
        return False
    first = weighted(number, tuple(range(10, 1, -1))) * 10 % 11 % 10
    second = weighted(number, tuple(range(11, 1, -1))) * 10 % 11 % 10
    return number[9:] == f"{first}{second}"


def _in_aadhaar(number: str) -> bool:
    """UIDAI: twelve digits by Verhoeff, never beginning with 0 or 1, never a palindrome."""
    return number[0] not in "01" and number != number[::-1] and verhoeff(number)


def _cn_resident_id(number: str) -> bool:
    """GB 11643-1999: birth date, and a check character by ISO/IEC 7064 MOD 11-2."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    year, month, day = int(number[6:10]), int(number[10:12]), int(number[12:14])
    check = "10X98765432"[weighted(number, weights) % 11]
    return 1850 <= year < 2100 and is_date(year, month, day) and check == number[17]


def _form(first: str, rest: str) -> re.Pattern[str]:
    """Compile a form; the first character class stands alone, so that the search is fast."""
    return re.compile(rf"{first}(?<![\w]{first})(?<!\d[.,-]{first})(?:{rest})(?!\w|[.,-]\d)")


def _any_of(forms: Iterable[re.Pattern[str]]) -> re.Pattern[str]:
    """Compile what finds something wherever one of some forms does; separators may differ."""
    loose = "|".join(form.pattern.replace(r"\1", "[ ./-]?") for form in forms)
    return re.compile(rf"(?<!\w)(?=[0-9A-Za-z])(?:{loose})")


def _words(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words})\b")


_NUMERAL = "[0-9LMNPQRSTUVlmnpqrstuv]"  # letters stand for digits where two people's would be equal
_LETTERS_FORM = (
    rf"[A-Za-z]{{5}}{_NUMERAL}{{2}}[A-EHLMPR-Ta-ehlmpr-t]{_NUMERAL}{{2}}"
    rf"[A-Za-z]{_NUMERAL}{{3}}[A-Za-z]"
)

_IDENTITIES = (
    _Identity("us-ssn", 9, _form("[0-9]", r"[0-9]{2}([- ]?)[0-9]{2}\1[0-9]{4}"), _us_ssn,
              _words("ssn|ss#|social security|social sec"), re.compile(r"\d{9}")),
    _Identity("us-itin", 9, _form("[9]", r"[0-9]{2}-[0-9]{2}-[0-9]{4}"), _us_itin),
    _Identity("uk-nino", 6, _form("[A-Za-z]", r"[A-Za-z] ?(?:[0-9]{2} ?){3}[A-Da-d]"), _uk_nino),
    _Identity("uk-nhs", 10, _form("[0-9]", r"[0-9]{2}([- ]?)[0-9]{3}\1[0-9]{4}"), _uk_nhs,
              _words("nhs|chi")),
    _Identity("de-tax-id", 11, _form("[1-9]",
    r"[0-9]([ /]?)[0-9]{3}\1[0-9]{3}\1[0-9]{3}"), _de_tax_id,
              _words("steuer\\S*|tax|tin|idnr|identifikationsnummer"), re.compile(r"\d{11}")),
    _Identity("fr-nir", 6, _form("[1-478]", r"([ .]?)[0-9]{2}\1[0-9]{2}\1(?:[0-9]{2}|2[ABab])\1"
              r"[0-9]{3}\1[0-9]{3}[ .-]?[0-9]{2}"), _fr_nir),
    _Identity("es-dni", 8, _form("[0-9]", r"[0-9]{7}[ -]?[A-Za-z]"), _es_dni),
    _Identity("es-nie", 7, _form("[XYZxyz]", r"[ -]?[0-9]{7}[ -]?[A-Za-z]"), _es_nie),
    _Identity("it-codice-fiscale", 0, _form("[A-Za-z]", _LETTERS_FORM), _it_codice_fiscale),
    _Identity("nl-bsn", 8, _form("[0-9]", r"[0-9]{3}([. ]?)[0-9]{2}\1[0-9]{3}|[0-9]{7}"), _nl_bsn,
              _words("bsn|burgerservicenummer|sofi\\S*|sofinummer|citizen service number")),
    _Identity("pl-pesel", 11, _form("[0-9]", r"[0-9]{10}"), _pl_pesel),
    _Identity("be-rrn", 11, _form("[0-9]",
    r"[0-9]\.?[0-9]{2}\.?[0-9]{2}[ -]?[0-9]{3}[. ]?[0-9]{2}"), _be_rrn),
    _Identity("ch-ahv", 13, _form("[7]", r"56([. ]?)[0-9]{4}\1[0-9]{4}\1[0-9]{2}"), ean),
    _Identity("se-personnummer", 10, _form("[0-9]", r"[0-9]{5}(?:[0-9]{2})?[-+]?[0-9]{4}"),
              _se_personnummer,
              _words("personnummer|personnr|pnr|samordningsnummer|swedish personal"),
              re.compile(r"\d+")),
    _Identity("br-cpf", 11, _form("[0-9]", r"[0-9]{2}\.?[0-9]{3}\.?[0-9]{3}[-/]?[0-9]{2}"),
              _br_cpf,
              _words("cpf|cadastro"), re.compile(r"\d{11}")),
    _Identity("in-aadhaar", 12, _form("[2-9]", r"[0-9]{3}([ -]?)[0-9]{4}\1[0-9]{4}"), _in_aadhaar,
              _words("aadhaar|aadhar|uidai|uid"), re.compile(r"\d{12}")),
    _Identity("cn-resident-id", 17, _form("[1-8]", r"[0-9]{16}[0-9Xx]"), _cn_resident_id),
)  # fmt: skip

_SCATTERED = tuple(entry for entry in _IDENTITIES if not entry.least)
_TOGETHER = tuple(entry for entry in _IDENTITIES if entry.least)
_ANY = _any_of(entry.form for entry in _TOGETHER)  # most other numbers are told by one search
#: the identity numbers that are known here
KINDS = tuple(entry.kind for entry in _IDENTITIES)
LEAST_DIGITS = 6
WORDS: frozenset[str] = frozenset()
