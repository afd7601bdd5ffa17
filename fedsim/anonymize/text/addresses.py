"""Street and postal addresses, by the words for streets in eleven languages."""

import re
from collections.abc import Iterable, Iterator

from fedsim.anonymize.text.keywords import Endings, Labels
from fedsim.anonymize.text.span import Page, Span
from fedsim.anonymize.text.words import UPPER, stop_words

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find"]

KINDS = ("address",)
LEAST_DIGITS = 1

_NUMBER = r"[0-9]{1,5}(?:[ ]?[A-Za-z](?![\w]))?(?:[-/][0-9]{1,4}[A-Za-z]?)?"
_WORD = rf"(?:[{UPPER}][\w.'-]{{0,30}}|[0-9]{{1,3}}(?:st|nd|rd|th))"
_ENGLISH = (
    "Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Way|Court|Ct|Place|Pl|Square|Sq|"
    "Terrace|Ter|Crescent|Cres|Close|Highway|Hwy|Parkway|Pkwy|Circle|Cir|Trail|Trl|Alley|Row|Mews|"
    "Gardens|Grove|Hill|Park|Walk|Quay|Plaza|Loop|Pike|Turnpike|Route|Freeway|Expressway|Crossing|"
    "Streets|Avenues|Bypass|Causeway|Esplanade|Heights|Meadow|Mount|Path|Ridge|Run|Vale|View"
)
_TYPES_LAST = frozenset(_ENGLISH.lower().split("|"))
# 221B Baker Street, 1600 Pennsylvania Ave NW
_NUMBER_FIRST = re.compile(
    rf"[0-9](?<![\w.,/+$€£-].)[0-9]{{0,4}}[A-Za-z]?(?:-[0-9]{{1,4}})?,? "
    rf"(?:{_WORD} ){{0,2}}{_WORD} (?:{_ENGLISH})\b\.?(?: (?:NW|NE|SW|SE|[NESW])\b)?",
)
# Rue de la Paix 12, 12 rue de la Paix, Via Franscini 71, Calle Mayor, 5
_TYPES_FIRST = Labels((
    "rue", "avenue", "boulevard", "chemin", "impasse", "allée", "quai", "place", "cours",
    "route de",
    "via", "viale", "piazza", "corso", "largo", "vicolo", "strada", "calle", "avenida", "avda.",
    "av.", "carrer", "plaza", "paseo", "camino", "carretera", "c/", "ronda", "rua", "travessa",
    "praça", "estrada", "ulica", "ul.", "ulice", "aleja", "al.",
    "rruga", "bulevar", "strasse", "jalan",
))  # fmt: skip
_PARTICLE = (
    r"(?:de|du|des|del|della|delle|dei|di|da|do|dos|das|la|le|les|el|los|las|l'|d'|"
    r"al|y|e|van|von|den|der|het|san|st\.?)"
)
_AFTER_TYPE = re.compile(
    rf"\.? {{0,2}}(?:{_PARTICLE} ?){{0,3}}(?:[{UPPER}][\w.'-]*|"
    rf"[0-9]{{1,2}} [{UPPER}]\w+)(?: "
    rf"(?:{_PARTICLE} ){{0,2}}[{UPPER}][\w.'-]*){{0,4}}(?:,? "
    rf"(?:n[º°.]? ?)?{_NUMBER})?(?!\w)"
)
_NUMBER_BEFORE = re.compile(rf"(?<![\w.,/]){_NUMBER},? \Z")
# Hauptstraße 5, Søndergade 52, Puruntie 82, Erzsébet tér 19., Příčná ulice 3
_SUFFIXES = (
    "straße", "strasse", "str.", "gasse", "weg", "platz", "allee", "damm", "ufer", "gata",
    "gatan", "gaten", "gade", "gaden", "vej", "vejen", "vägen", "väg", "vegen", "vegur",
    "veien", "vei", "stien", "stræde", "straat", "laan", "plein", "dreef", "kade", "gracht",
    "steeg", "singel", "katu", "kuja", "polku", "tie", "bakken", "vangen", "vænget",
    "tanya", "út", "útca", "utca", "tér", "köz", "krt.", "ulica", "ulice", "cesta", "trg",
    "obala", "tänav", "maantee", "street",
)  # fmt: skip
_BY_SUFFIX = Endings(_SUFFIXES)
_BEHIND = re.compile(rf" (?=[0-9u])(?<=\w.|\. )(?:u\. ?)?{_NUMBER}(?![\w])\.?")
_HEAD = re.compile(
    rf"[{UPPER}0-9][\w.'-]{{0,40}}(?: (?:and|és|und|og|[{UPPER}][\w.'-]{{0,30}})){{0,2}}[ ]?\Z"
)
# Of a page in lower case.
_BOX = re.compile(
    r"(?:p\.? ?o\.? ?box|post(?:al )?box|postbox|postfach|apartado|boîte postale|b\.p\.|"
    r"(?:psc|unit|cmr) [0-9]{1,5},? box)"
    r" ?#?[0-9]{1,6}(?:\s{1,2},?(?:apo|fpo|dpo)(?: |, )a[aep] [0-9]{5})?"
)
_UNIT = re.compile(
    r"(?:a(?<![^\W_].)(?:pt|partment)|s(?<![^\W_].)(?:uite|te)|f(?<![^\W_].)(?:lat|loor)|"
    r"r(?<![^\W_].)(?:oom|m)|u(?<![^\W_].)nit)(?:\.|\b)(?: ?(?:no\.?|#))? ?"
    r"(?:[0-9]{1,5}[a-z]?|[a-z])(?!\w)"
)
_MILITARY = re.compile(r"(?<![^\W_])(?:apo|fpo|dpo),? a[aep] [0-9]{5}(?:-[0-9]{4})?")
_TRIGGERS_BOX = frozenset(("box", "postfach", "apartado", "postbox", "postale", "cmr"))
_TRIGGERS_UNIT = frozenset((
    "apt", "apartment", "suite", "ste", "flat", "unit", "room", "rm", "floor",
))  # fmt: skip
_TRIGGERS_MILITARY = frozenset(("apo", "fpo", "dpo"))
_CUES = Labels((
    "address is", "address:", "address with", "lives at", "live at", "living at", "lived at",
    "residing at", "resides at", "address", "office is at", "house is at", "located at",
    "meet you at", "return to", "home at", "drops you off at",
))  # fmt: skip
_CUED = re.compile(
    rf":?\s{{1,3}}({_NUMBER}[ ,]+[^\W_][^\n?!;\"]{{2,70}}?)(?=[?!;\"]|\.(?:\s|\Z)|\n|"
    rf"\Z| (?:and|in case|after|before|until|for|with|because|so|but) )"
)

WORDS = (
    _TYPES_LAST | _TYPES_FIRST.heads | _TRIGGERS_BOX | _TRIGGERS_UNIT | _TRIGGERS_MILITARY
    | _CUES.heads
)  # fmt: skip


def find(page: Page) -> Iterable[Span]:
    """Find streets with a number, boxes and flats; pieces that follow each other are one."""
    spans = list(_by_suffix(page))
    if not page.words.isdisjoint(WORDS):
        spans += [*_type_last(page), *_type_first(page), *_by_word(page)]
    if len(spans) > 1:
        return _joined(page.text, sorted(spans, key=lambda span: (span.start, -span.stop)))
    return spans


def _type_last(page: Page) -> Iterator[Span]:
    if page.words.isdisjoint(_TYPES_LAST):
        return
    for match in _NUMBER_FIRST.finditer(page.text):
        word = match.group().rsplit(" ", 1)[-1]  # a dot ends "Ave." or the sentence
        stop = match.end() - (word.endswith(".") and len(word) > 5)
        yield Span(match.start(), stop, "address", 0.75)


def _by_suffix(page: Page) -> Iterator[Span]:
    """Find streets by the ending of their name, with a number behind it."""
    text, lower = page.text, page.lower
    for match in _BEHIND.finditer(text):
        start = match.start()
        if _BY_SUFFIX.of(lower[max(0, start - 9) : start]):
            head = _HEAD.search(text, max(0, start - 60), start)
            if head and len(head.group()) > 2 and head.group().lower() not in stop_words():
                yield Span(head.start(), match.end(), "address", 0.7)


def _by_word(page: Page) -> Iterator[Span]:
    """Find boxes and flats by their words, and what follows "lives at"."""
    lower = page.lower
    if not page.words.isdisjoint(_TRIGGERS_BOX):
        for match in _BOX.finditer(lower):
            yield Span(match.start(), match.end(), "address", 0.8)
    if not page.words.isdisjoint(_TRIGGERS_UNIT):
        for match in _UNIT.finditer(lower):
            yield Span(match.start(), match.end(), "address", 0.6)
    if not page.words.isdisjoint(_TRIGGERS_MILITARY):
        for match in _MILITARY.finditer(lower):
            yield Span(match.start(), match.end(), "address", 0.6)
    for _, stop in _CUES.on(page):
        cued = _CUED.match(page.text, stop)
        if cued:
            yield Span(cued.start(1), cued.end(1), "address", 0.5)


def _type_first(page: Page) -> Iterator[Span]:
    """Streets whose type comes first; a number must stand behind or before them."""
    text = page.text
    for start, stop in _TYPES_FIRST.on(page):
        match = _AFTER_TYPE.match(text, stop)
        if match is None:
            continue
        before = _NUMBER_BEFORE.search(text[max(0, start - 14) : start])
        first = start - len(before.group()) if before else start
        if before or any(map(str.isdigit, match.group())):
            yield Span(first, match.end(), "address", 0.7)


def _joined(text: str, spans: list[Span]) -> Iterator[Span]:
    """Join pieces that overlap or have only a comma, a number or white space between them."""
    start = stop = -1
    score = 0.0
    for span in spans:
        if start >= 0 and (span.start <= stop or _JOINT.fullmatch(text[stop : span.start])):
            stop, score = max(stop, span.stop), max(score, span.score)
            continue
        if start >= 0:
            yield Span(start, stop, "address", score)
        start, stop, score = span.start, span.stop, span.score
    if start >= 0:
        yield Span(start, stop, "address", score)


_JOINT = re.compile(r"[\s,]{0,4}")
