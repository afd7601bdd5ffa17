"""What a word may be in a name, looked up once, as flags."""

from functools import cache, lru_cache

from fedsim.anonymize.text.states import STATES
from fedsim.anonymize.text.words import (
    PARTICLES,
    TITLES,
    family_names,
    given_names,
    ordinary_names,
    stop_words,
    unaccented,
    words_of,
)

__all__ = [
    "ENDS",
    "FAMILY",
    "GIVEN",
    "KNOWN_PLACES",
    "ORDINARY",
    "PARTICLE",
    "PLACE",
    "STOPS",
    "TITLE",
    "role",
    "roles",
]

GIVEN, FAMILY, ORDINARY, STOPS, TITLE, PLACE, ENDS, PARTICLE = (1 << bit for bit in range(8))

#: countries, states and cities in lower case
KNOWN_PLACES = words_of("countries") | words_of("cities") | {name.lower() for name in STATES}


@cache
def roles() -> dict[str, int]:
    """Return the flags of every word that has any: `STOPS` for what is no part of a name.

    `ORDINARY` is also a name that is a place, `PLACE` the first word of one, `ENDS` a word that
    ends the name of an organization, `PARTICLE` one inside the name of a person.
    """
    found: dict[str, int] = {}
    places = {name.split(" ")[0] for name in KNOWN_PLACES}
    lists = (
        (GIVEN, given_names()), (FAMILY, family_names()), (ORDINARY, ordinary_names()),
        (ORDINARY, KNOWN_PLACES),
        (STOPS, stop_words()), (TITLE, TITLES), (PLACE, places), (ENDS, words_of("ends")),
        (PARTICLE, PARTICLES),
    )  # fmt: skip
    for flag, words in lists:
        for word in words:
            found[word] = found.get(word, 0) | flag
    return found


@lru_cache(maxsize=2**16)
def role(word: str) -> int:
    """Return the flags of a word in lower case; of a double name, those that all its parts have."""
    flags = roles().get(word)
    if flags is not None:
        return flags
    if not word.isascii():
        flags = roles().get(unaccented(word), 0)
    if not flags and "-" in word:
        flags = ~0
        for part in word.split("-"):
            flags &= roles().get(part, 0)
        flags &= GIVEN | FAMILY
    return flags or 0
