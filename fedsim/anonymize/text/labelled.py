"""Numbers that only their label tells: records, accounts, licences, devices, vehicles.

A label ("MRN", "driver's licence", "account no.") and a value behind it that has a digit. Vehicle
identification numbers and MAC addresses are known by their form as well.
"""

import re
from collections.abc import Iterable, Iterator

from fedsim.anonymize.text.keywords import Labels
from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find", "is_vin"]

_LABELS: dict[str, tuple[str, ...]] = {
    "medical-record": (
        "mrn", "medical record", "medical records", "med rec", "medical rec", "patient id",
        "patient number", "patient no", "patient identifier", "chart number", "chart no",
        "hospital number", "hospital no", "case number", "encounter", "accession", "specimen",
        "patienten-id", "patientennummer", "fallnummer",
    ),
    "health-plan": (
        "health plan", "member id", "member number", "member no", "policy", "insurance id",
        "insurance number", "insurance no", "subscriber", "beneficiary", "medicare",
        "medicaid", "group number", "hicn", "mbi", "versichertennummer",
    ),
    "account": (
        "account", "acct", "a/c", "bank account", "routing", "aba", "sort code", "swift",
        "bic", "customer", "customer id", "invoice", "kontonummer", "konto",
    ),
    "licence": (
        "driver's license", "driver's licence", "drivers license", "drivers licence",
        "driver license", "driver licence", "driving license", "driving licence", "license",
        "licence", "dl", "certificate", "passport", "visa number", "npi", "dea", "permit",
        "führerschein", "personalausweis", "reisepass", "identity card", "id card",
    ),
    "device": (
        "device", "serial", "imei", "imsi", "iccid", "udi", "device identifier", "s/n", "lot",
        "model no",
    ),
    "vehicle": (
        "vin", "vehicle identification", "chassis",
    ),
    "plate": (
        "license plate", "licence plate", "number plate", "plate", "registration", "reg",
        "registered as", "kennzeichen", "nummernschild", "tag number",
    ),
    "code": (
        "username", "user name", "user id", "userid", "employee id", "employee number",
        "student id", "badge", "reference", "ref", "ticket", "confirmation", "tracking",
        "order number", "order no", "password", "pin", "token", "study id", "subject id",
        "participant id",
    ),
}  # fmt: skip
_KIND_OF = {label: kind for kind, labels in _LABELS.items() for label in labels}
_ALL = Labels(_KIND_OF)
#: what labels tell; `code` is any other unique number
KINDS = tuple(_LABELS)
LEAST_DIGITS = 1
WORDS = _ALL.heads

_JOIN = (
    r"(?:'s)?(?:[ -]?(?:identification|identifier|record|card|plan|license|licence))?"
    r"(?:[ -]?(?:numbers?|nos?\b\.?|num\b|nr\b\.?|nummer|id\b|code|key|#))?"
    r"(?: (?:is|was|are|of|for|ending in|ends in)\b)?(?:[ \t]?[:=#№])?[ \t]{0,3}\n?[ \t]{0,3}"
)
_VALUE = re.compile(
    _JOIN + r"(#?(?=[A-Za-z./-]{0,12}[0-9])[A-Za-z0-9][A-Za-z0-9./-]{2,38}[A-Za-z0-9])(?![\w])"
)
_PLATE = re.compile(
    _JOIN + r"((?=[A-Z0-9 -]{0,5}[0-9])(?:[A-ZÄÖÜ0-9]{1,7})(?:[ -][A-ZÄÖÜ0-9]{1,6}){0,2})(?![\w])"
)
_SAYS = re.compile(r"number|\bno\b|\bnr\b|num\b|\bid\b|code|key|[:=#№]|identifi|nummer| is | was ")
# Labels that are ordinary words: a number right behind them is theirs only after ":" or "number".
_PLAIN = frozenset((
    "policy", "customer", "account", "invoice", "license", "licence", "certificate",
    "permit", "device", "serial", "lot", "dl", "encounter", "specimen", "medicare",
    "medicaid", "registration", "reg", "plate", "reference", "ref", "ticket",
    "confirmation", "tracking", "pin", "token", "konto", "swift", "bic", "aba", "routing",
    "visa", "dea", "badge", "subscriber", "beneficiary", "passport", "accession", "chassis",
))  # fmt: skip
_VIN = re.compile(r"[0-9A-HJ-NPR-Z](?<!\w.)[0-9A-HJ-NPR-Z]{16}(?!\w)")
_MAC = re.compile(
    r"[0-9A-Fa-f](?<![\w:-].)[0-9A-Fa-f]([:-])[0-9A-Fa-f]{2}(?:\1[0-9A-Fa-f]{2}){4}(?![\w:-])"
)
# 49 CFR 565.15: values of letters, and weights of the seventeen places.
_VIN_VALUES = dict(
    zip(
        "0123456789ABCDEFGHJKLMNPRSTUVWXYZ",
        map(int, "012345678912345678123457923456789"),
        strict=True,
    )
)
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def is_vin(text: str) -> bool:
    """Say whether seventeen characters have the check digit of 49 CFR 565.15 at the ninth place.

    >>> is_vin("1M8GDM9AXKP042788"), is_vin("1M8GDM9AXKP042789")
    (True, False)
    """
    total = sum(_VIN_VALUES[c] * w for c, w in zip(text, _VIN_WEIGHTS, strict=True))
    return "0123456789X"[total % 11] == text[8]


def find(page: Page) -> Iterable[Span]:
    """Find labelled numbers, vehicle identification numbers and MAC addresses."""
    found: list[Span] = []
    if not page.words.isdisjoint(WORDS):
        found += _behind_labels(page)
    if page.digits >= 4 and page.longest >= 17:
        found += _vehicles(page.text)
    if page.text.count(":") >= 5 or page.text.count("-") >= 5:
        found += [Span(*match.span(), "device", 0.9) for match in _MAC.finditer(page.text)]
    return found


def _behind_labels(page: Page) -> Iterator[Span]:
    for start, stop in _ALL.on(page):
        kind = _KIND_OF[page.lower[start:stop]]
        match = (_PLATE if kind == "plate" else _VALUE).match(page.text, stop)
        if match and _is_labelled(page.lower, start, stop, match):
            yield Span(match.start(1), match.end(1), kind, 0.9)


def _vehicles(text: str) -> Iterator[Span]:
    for match in _VIN.finditer(text):
        word = match.group()
        if not word.isdigit() and not word.isalpha() and is_vin(word):
            yield Span(match.start(), match.end(), "vehicle", 0.9)


def _is_labelled(lower: str, start: int, stop: int, match: re.Match[str]) -> bool:
    """Say whether the value belongs to the label, not only follows it in the sentence."""
    join = lower[stop : match.start(1)]
    if lower[start:stop] in _PLAIN and not _SAYS.search(join):
        return False
    return bool(join) and sum(map(str.isdigit, match.group(1))) >= 2
