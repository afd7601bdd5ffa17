"""Which kinds of personal data to look for: a profile by name.

`hipaa-safe-harbor` follows the list of 45 CFR 164.514(b)(2)(i). Two of its eighteen identifiers are
no text and are not looked for, and no rule finds every name or every other unique code: the profile
helps to meet the rule and does not by itself. Safe Harbor also asks that nobody concerned knows a
way to re-identify (164.514(b)(2)(ii)), which no program can say.
"""

from dataclasses import dataclass
from typing import Literal

from fedsim.anonymize.text.detect import KINDS
from fedsim.anonymize.text.national_ids import KINDS as NATIONAL_IDS

__all__ = ["SAFE_HARBOR", "Identifier", "ProfileName", "kinds_of", "not_looked_for"]

ProfileName = Literal["pii", "hipaa-safe-harbor"]


@dataclass(frozen=True, slots=True)
class Identifier:
    """One of the identifiers of Safe Harbor: its letter, and the kinds that are looked for.

    `remark`: what of it is not looked for, or only in context.
    """

    letter: str
    name: str
    kinds: tuple[str, ...]
    remark: str = ""


#: the eighteen identifiers, by their letters in 45 CFR 164.514(b)(2)(i)
SAFE_HARBOR = (
    Identifier("A", "names", ("person",), "by gazetteer and context, and by the record's own"),
    Identifier("B", "geographic subdivisions smaller than a state",
               ("address", "postcode", "place"),
               "also the names of states and countries, which may stay"),
    Identifier("C", "dates except the year, and ages over 89", ("date", "age-over-89")),
    Identifier("D", "telephone numbers", ("phone",)),
    Identifier("E", "fax numbers", ("phone",)),
    Identifier("F", "e-mail addresses", ("email",)),
    Identifier("G", "social security numbers", ("us-ssn", "us-itin")),
    Identifier("H", "medical record numbers", ("medical-record",), "behind a label"),
    Identifier("I", "health plan beneficiary numbers", ("health-plan",), "behind a label"),
    Identifier("J", "account numbers", ("account", "iban", "card"), "others behind a label"),
    Identifier("K", "certificate and license numbers", ("licence",), "behind a label"),
    Identifier("L", "vehicle identifiers and license plates", ("vehicle", "plate"),
               "plates behind a label"),
    Identifier("M", "device identifiers and serial numbers", ("device",),
               "MAC addresses by form, others behind a label"),
    Identifier("N", "URLs", ("url",)),
    Identifier("O", "IP addresses", ("ip",)),
    Identifier("P", "biometric identifiers", (), "not looked for: they are no text"),
    Identifier("Q", "full-face photographs", (),
               "not looked for: faces in images are not recognized, only metadata is removed"),
    Identifier("R", "any other unique number, characteristic or code",
               ("code", *(kind for kind in NATIONAL_IDS if kind not in ("us-ssn", "us-itin"))),
               "identity numbers by form, others behind a label"),
)  # fmt: skip

_PROFILES: dict[str, frozenset[str]] = {
    # A year alone, and a title, are left: they say little, and texts need them.
    "pii": frozenset(KINDS) - {"year", "title"},
    "hipaa-safe-harbor": frozenset(kind for entry in SAFE_HARBOR for kind in entry.kinds),
}


def kinds_of(profile: ProfileName) -> frozenset[str]:
    """Return the kinds that a profile looks for.

    >>> "year" in kinds_of("hipaa-safe-harbor"), "date" in kinds_of("hipaa-safe-harbor")
    (False, True)
    """
    return _PROFILES[profile]


def not_looked_for() -> tuple[str, ...]:
    """Return the identifiers of Safe Harbor that nothing here looks for, for a report to name."""
    return tuple(f"({e.letter}) {e.name}: {e.remark}" for e in SAFE_HARBOR if not e.kinds)
