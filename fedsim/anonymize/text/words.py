"""Words that rules about names go by: capital letters, particles, titles and the gazetteer."""

import unicodedata
from functools import cache
from importlib.resources import files

__all__ = [
    "MAX_WORD",
    "PARTICLES",
    "TITLES",
    "UPPER",
    "family_names",
    "given_names",
    "ordinary_names",
    "stop_words",
    "unaccented",
    "words_of",
]

#: every upper-case letter of Latin, Greek, Cyrillic and Armenian script, for character classes
UPPER = "".join(chr(c) for c in (*range(0x41, 0x560), *range(0x1E00, 0x2000)) if chr(c).isupper())
MAX_WORD = 40

#: words in lower case inside names
PARTICLES = frozenset(
    ("de", "la", "le", "du", "des", "del", "della", "di", "da", "do", "dos", "das", "van", "von",
     "der", "den", "ter", "ten", "zu", "zum", "af", "av", "al", "el", "bin", "ibn", "bint", "y",
     "e")
)  # fmt: skip
TITLES = frozenset(
    ("mr", "mrs", "ms", "miss", "mx", "dr", "prof", "professor", "sir", "madam", "madame", "mme",
     "mlle", "monsieur", "herr", "frau", "fräulein", "señor", "señora", "sr", "sra", "dott", "ing",
     "dipl", "rev", "reverend", "fr", "father", "sister", "captain", "capt", "col", "colonel",
     "sgt", "sergeant", "lt", "lieutenant", "maj", "gen", "judge", "senator", "president", "nurse",
     "doctor", "lady", "lord", "dame", "hon", "mgr", "don", "doña", "signor", "signora", "dhr",
     "mevr", "mw", "pan", "pani")
)  # fmt: skip


@cache
def given_names() -> frozenset[str]:
    """Return given names in lower case, with and without their accents."""
    return _names("given")


@cache
def family_names() -> frozenset[str]:
    """Return family names in lower case, with and without their accents."""
    return _names("family")


@cache
def ordinary_names() -> frozenset[str]:
    """Return those names that are ordinary words or places, in lower case."""
    return _names("ordinary")


@cache
def stop_words() -> frozenset[str]:
    """Return words that are no part of a name, in lower case."""
    return words_of("stop")


@cache
def words_of(name: str) -> frozenset[str]:
    """Return the entries of a file of the gazetteer, in lower case."""
    text = files(__package__).joinpath("gazetteer", f"{name}.txt").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return frozenset(line.lower() for line in lines if line and not line.startswith("#"))


def _names(name: str) -> frozenset[str]:
    names = words_of(name)
    return names | {unaccented(word) for word in names}


def unaccented(word: str) -> str:
    """Return a word without accents, and with two letters where one stands for two.

    >>> unaccented("Jørgensen"), unaccented("Ottová")
    ('Jorgensen', 'Ottova')
    """
    if word.isascii():
        return word
    parts = unicodedata.normalize("NFKD", word.translate(_LETTERS))
    return "".join(part for part in parts if not unicodedata.combining(part))


_LETTERS = str.maketrans(
    {"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ß": "ss", "æ": "ae", "Æ": "Ae",
     "œ": "oe", "Œ": "Oe", "þ": "th", "Þ": "Th", "ð": "d", "Ð": "D", "\u0131": "i",
     "ħ": "h", "Ħ": "H"}
)  # fmt: skip
