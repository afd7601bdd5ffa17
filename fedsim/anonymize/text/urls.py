"""Web addresses: with a scheme, beginning with www, or a bare domain under a known top level."""

import re
from collections.abc import Iterable, Iterator

from fedsim.anonymize.text.span import Page, Span

__all__ = ["KINDS", "LEAST_DIGITS", "WORDS", "find"]

KINDS = ("url",)
LEAST_DIGITS = 0
WORDS: frozenset[str] = frozenset()

_SCHEME = re.compile(r"\w+://[^\s<>\"'\u00ab\u00bb\u201c\u201d\\]{3,2048}")
_REST = re.compile(r"(?::\d{1,5})?(?:[/?#][^\s<>\"'\u00ab\u00bb\u201c\u201d\\]{0,2048})?")
_SCHEMES = ("http", "https", "ftp", "ftps", "sftp", "ssh", "ws", "wss", "git", "file", "ldap", "s3")
_HOST = re.compile(r"[\w.-]+\Z")

# Generic top levels in wide use, and country codes (ISO 3166-1) without those that are better known
# as file names, abbreviations or methods of program code: py, sh, pl, rs, md, so, in, is, it, me...
_GENERIC = "com org net edu gov mil int info biz name pro app dev io ai cloud online site xyz shop"
_COUNTRIES = (
    "ac ae ar at au az ba bd bg bh bo br by ca ch ci cl cm cn cr cu cy cz de dk dz ec ee eg es eu "
    "fi fr ge gh gr gt hk hr hu ie il iq ir jo jp ke kr kw kz lb li lk lt lu lv ma mk mt mx my ng "
    "ni nl nz pa pe ph pk pt qa ro ru sa se sg si sk sv th tn tr tw ua ug uk us uy uz ve vn za zw"
)
# Those are taken as well where www, or a known second level, says that this is a domain.
_DOUBTFUL = "in is it me no pl be to my id rs md py sh so am ag as cc tv do at al ad la so st mu"
_SURE = frozenset(f"{_GENERIC} {_COUNTRIES}".split())
_ANY = _SURE | frozenset(_DOUBTFUL.split())
_SECOND = frozenset((
    "co", "com", "org", "net", "gov", "edu", "ac", "gob", "or", "ne", "www",
))  # fmt: skip
_TOP = re.compile(r"\.([A-Za-z]{2,6})(?![\w@-])")
_TRAILING = ".,;:!?'*)]}"


def find(page: Page) -> Iterable[Span]:
    """Find addresses by their scheme, else by a dot before a top-level domain."""
    text = page.text
    if "://" in text:
        return [*_with_scheme(text), *_bare(text)]
    return _bare(text) if _TOP.search(text) else ()


def _with_scheme(text: str) -> Iterator[Span]:
    at, done = text.find("://"), 0
    while at >= 0:
        start = at
        while start > max(done, at - 5) and text[start - 1].isalnum():
            start -= 1
        match = _SCHEME.match(text, start)
        if match and text[start:at].lower() in _SCHEMES:
            done = _trimmed(text, start, match.end())
            yield Span(start, done, "url", 0.98)
        at = text.find("://", max(at + 3, done))


def _bare(text: str) -> Iterator[Span]:
    done = 0
    for match in _TOP.finditer(text):
        dot = match.start()
        if dot < done:
            continue
        left = _HOST.search(text[max(done, dot - 253) : dot])
        if left is None:
            continue
        host = left.group().lstrip(".-_")
        start = dot - len(host)
        before = text[start - 1] if start else " "
        if not host or before in "@/\\" or not _is_domain(host, match.group(1)):
            continue
        rest = _REST.match(text, match.end())
        done = _trimmed(text, start, rest.end() if rest else match.end())
        yield Span(start, done, "url", 0.8)


def _is_domain(host: str, top: str) -> bool:
    """Say whether a dotted name is a domain rather than a file, a sum or a missing space."""
    labels = host.lower().split(".")
    if not all(labels) or not (top.islower() or top.isupper()):
        return False
    if labels[0] == "www" or (len(labels) > 1 and labels[-1] in _SECOND):
        return top.lower() in _ANY
    if not any(character.isalpha() for character in labels[-1]):
        return False
    return top.lower() in _SURE and len(labels[-1]) > 1


def _trimmed(text: str, start: int, stop: int) -> int:
    """Leave out punctuation of the sentence; a closing bracket belongs to an open one."""
    while stop > start and text[stop - 1] in _TRAILING:
        if text[stop - 1] == ")" and text.count("(", start, stop) >= text.count(")", start, stop):
            break
        stop -= 1
    return stop
