"""Replace personal data in a text: by its kind, by a keyed tag, or by a surrogate."""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import Literal

from fedsim.anonymize.text.span import Span
from fedsim.anonymize.text.words import unaccented

__all__ = ["Replacement", "Style", "code", "keyed_tags", "normal", "redact", "tag"]

#: what stands in place of a value of a kind
Replacement = Callable[[str, str], str]
Style = Literal["tag", "keyed-tag", "surrogate"]

_TAG_DIGITS = 12  # 48 bits: two of a million values share a tag with a probability of 0.2 %


def redact(text: str, spans: Iterable[Span], replacement: Replacement) -> str:
    """Return a text with each span replaced; spans are in order and do not overlap.

    >>> redact("Mail ann@example.org!", [Span(5, 20, "email", 0.9)], tag)
    'Mail [EMAIL]!'
    """
    pieces, at = [], 0
    for span in spans:
        pieces += [text[at : span.start], replacement(text[span.start : span.stop], span.kind)]
        at = span.stop
    return "".join([*pieces, text[at:]])


def tag(value: str, kind: str) -> str:
    """Return a kind in brackets.

    >>> tag("ann@example.org", "email")
    '[EMAIL]'
    """
    return f"[{kind.upper()}]"


def keyed_tags(key: bytes) -> Replacement:
    """Return tags that are equal for equal values under a key, and tell nothing without it.

    HMAC-SHA-256 of kind and value, written in the same form: case, accents, spaces and punctuation
    do not count. Texts with such tags are pseudonymized, not anonymous: whoever has the key can
    check a guess.

    >>> keyed_tags(bytes(32))("Ann", "person") == keyed_tags(bytes(32))("ANN", "person")
    True
    """

    def keyed(value: str, kind: str) -> str:
        return f"[{kind.upper()}-{code(key, value, kind)[: _TAG_DIGITS // 2].hex()}]"

    return keyed


def code(key: bytes, value: str, kind: str) -> bytes:
    """Return 32 pseudorandom bytes of a value; kind and value cannot be taken for each other."""
    label = kind.encode()
    message = len(label).to_bytes(4, "big") + label + normal(value).encode("utf-8", "surrogatepass")
    return hmac.new(key, message, hashlib.sha256).digest()


def normal(value: str) -> str:
    """Return a value as it is compared: letters and digits only, in lower case, no accents.

    >>> normal("+1 (579) 888-3058") == normal("1-579-888-3058"), normal("Ottová")
    (True, 'ottova')
    """
    folded = unaccented(value).lower()
    return "".join(filter(str.isalnum, folded)) or folded
