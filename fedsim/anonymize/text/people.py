"""Names of people: a gazetteer, the endings of family names, and what stands around a name.

No list holds most names of the world, so what is found outside of the gazetteer depends on context:
a title, "my name is", a second name beside one that is known, or the same name found elsewhere in
the text.
"""

import re

from fedsim.anonymize.text.keywords import Endings, ends_with, phrases
from fedsim.anonymize.text.roles import FAMILY, GIVEN, KNOWN_PLACES, ORDINARY, STOPS, TITLE
from fedsim.anonymize.text.runs import Run, Word
from fedsim.anonymize.text.words import TITLES

__all__ = ["PERSON_CUES", "alone", "ends_in_title", "people_in"]

#: what stands before the name of a person
PERSON_CUES = phrases(
    """
    name is | name's | names are | name was | first name | last name | full name | maiden name |
    middle name | surname | named | name | called | signed | regards | sincerely | cheers | dear
    | hello | hi | hey | thanks | directed by | written by | sung by | user | attn | attention |
    contact | author | producer | singer | actor | actress | brother | sister | husband | wife |
    partner | friend | daughter | son | mother | father | uncle | aunt | cousin | colleague |
    boyfriend | girlfriend | fiancé | fiancée | neighbor | neighbour | née | geb. | nachname |
    vorname | nom | nombre | apellido | i am | i'm | this is | it's under | it is under |
    accountholder | cardholder | customer | founders | client | patient | manager | boss | nurse
    | surgeon | therapist | witness | defendant | plaintiff | correct it to | ask for | speak to
    | speak with | met with | along with
    """
)
_BY_CUE = Endings(PERSON_CUES)
_VERB = re.compile(
    r" (?:said|says|explained|explains|told|tells|replied|asked|asks|wrote|writes|"
    r"lives|lived|listed|thinks|was born|"
    r"died|married|works|worked|called|complained|complains|reports|denies|"
    r"had given|sang|spent|played)\b"
)
# Endings that family names have and few other words: Slavic, Scandinavian, Finnish, Hungarian,
# Armenian, Georgian, Greek, Turkish, Italian, Spanish, German, English.
_ENDINGS = Endings((
    "ov", "ova", "ová", "ev", "eva", "yev", "yeva", "in", "ina", "ich", "ić", "ič", "vich", "sky",
    "ski", "ska", "ská", "cki", "cka", "czyk", "wicz", "iak", "czak", "enko", "chuk", "yuk",
    "sson", "sen", "dóttir", "dottir", "nen", "kvist", "qvist", "ström", "gren", "berg", "strand",
    "lund", "stad", "szky", "ssy", "fy", "ényi", "ian", "yan", "shvili", "dze", "poulos", "poulou",
    "akis", "idis", "iadis", "oğlu", "oglu", "elli", "etti", "ucci", "acci", "oni", "ini", "ano",
    "ez", "mann", "stein", "bauer", "meyer", "maier", "hofer", "feld", "wald", "hardt", "son",
    "ton", "ley", "worth", "ford", "wood", "well", "shaw", "field", "man",
))  # fmt: skip
# The commonest of them end too many other words to count by themselves.
_SURE_ENDINGS = Endings((
    "ova", "ová", "yev", "yeva", "ovič", "ović", "evič", "ević", "vich", "ovsky", "owski", "owska",
    "ewski", "ská", "cki", "czyk", "wicz", "enko", "chuk", "sson", "dóttir", "dottir", "konen",
    "ainen", "kvist", "qvist", "ström", "opoulos", "poulou", "iadis", "shvili", "oğlu", "kowski",
    "gaard", "czak", "ffy",
))  # fmt: skip
_LEAST = 6  # letters of a word that an ending makes a name


def people_in(
    run: Run, flags: int, lower: str, before: str, *, is_titled: bool, is_strict: bool
) -> list[tuple[int, int, float]]:
    """Return the pieces of a run, `run[first:last]`, that name people, with a score each.

    `flags`: all that words of the run have. `before`: what stands before the run, without white
    space, where it may be a cue; `is_titled`: a title does. `is_strict`: the text has no capitals,
    so that a word's being here says nothing.
    """
    pieces: list[tuple[int, int, float]] = []
    first = 0
    if not flags & (STOPS | TITLE):
        return _piece(run, 0, len(run), lower, before, is_titled, is_strict)
    while first < len(run):
        titled = False
        while first < len(run) and run[first].role & TITLE and _is_title(run, first, is_strict):
            titled, first = True, first + 1
        last = first
        while last < len(run) and not run[last].role & (STOPS | TITLE if last > first else STOPS):
            last += 1
        if last > first:
            cue = run[first - 1].lower if first else before
            titled = titled or (first == 0 and is_titled)
            pieces += _piece(run, first, last, lower, cue, titled, is_strict)
        first = max(last, first + 1)
    return pieces


def _piece(
    run: Run, first: int, last: int, lower: str, cue: str, is_titled: bool, is_strict: bool
) -> list[tuple[int, int, float]]:
    """Score words of a run that are no stop words; where they are no name, look inside."""
    words = run[first:last]
    score = _score(words, is_strict=is_strict)
    if is_titled:
        score = max(score, 0.85)
    elif not is_strict and score < 0.6:
        score = max(score, _context(words, lower, cue, score))
    return [(first, last, score)] if score else _inner(run, first, last, is_strict)


def _is_title(run: Run, at: int, is_strict: bool) -> bool:
    """Say whether a title is one: it stands before a name; in lower case, "father" is none."""
    is_short = run[at].lower in ("mr", "mrs", "ms", "dr", "prof")
    return is_short or (at + 1 < len(run) and not is_strict)


def ends_in_title(before: str) -> bool:
    """Say whether a title with its dot stands before, which ends the run that it is in."""
    return before[-1:] == "." and before[:-1].replace("\n", " ").rsplit(" ", 1)[-1] in TITLES


def _score(words: Run, *, is_strict: bool) -> float:
    """Score a run of words that are no stop words by gazetteer and endings alone."""
    head, tail = words[0], words[-1]
    if len(words) == 1:
        return 0.0 if is_strict else alone(head)
    is_given, is_family = bool(head.role & GIVEN), bool(tail.role & FAMILY)
    if is_given and not head.role & ORDINARY:
        if is_strict:
            return 0.7 if is_family and not tail.role & ORDINARY and len(words) <= 3 else 0.0
        return 0.8 if is_family else 0.7
    if is_strict or len(words) > 5:
        return 0.0
    return _by_family(words, is_given=is_given, is_family=is_family)


def _by_family(words: Run, *, is_given: bool, is_family: bool) -> float:
    """Score words whose first is no given name, or a doubtful one, by the others."""
    head, tail = words[0].lower, words[-1].lower
    if is_family and (is_given or len(head) == 1):
        return 0.7
    if is_family and not words[-1].role & ORDINARY:
        return 0.0 if head in KNOWN_PLACES else 0.6
    if _ENDINGS.of(tail) and (is_given or (len(head) > 2 and _SURE_ENDINGS.of(tail))):
        return 0.6
    for word in words:
        is_initial = word.stop - word.start == 1 and word is not words[0] and word is not words[-1]
        if is_initial or word.role & (GIVEN | ORDINARY) == GIVEN:
            return 0.55
    return 0.0


def alone(word: Word) -> float:
    """Score a word by itself."""
    if word.role & ORDINARY or word.stop - word.start < 3:
        return 0.0
    if word.role & (GIVEN | FAMILY):
        return 0.5
    is_like_one = len(word.lower) >= _LEAST and _SURE_ENDINGS.of(word.lower)
    return 0.45 if is_like_one else 0.0


def _context(words: Run, lower: str, before: str, score: float) -> float:
    """Score words by what stands before and after them."""
    if len(words) > 4:
        return 0.0
    if before and ends_with(before[:-1] if before[-1] in ":," else before, _BY_CUE):
        found = 0.6
    elif (len(words) in (2, 3) or score) and _VERB.match(lower, words[-1].stop):
        found = 0.5
    else:
        return 0.0
    return found if KNOWN_PLACES.isdisjoint([word.lower for word in words]) else 0.0


def _inner(run: Run, first: int, last: int, is_strict: bool) -> list[tuple[int, int, float]]:
    """Where the whole is no name, look for one that begins inside: "Producer Anna Kos"."""
    for start in range(first + 1, last):
        if run[start].role & (GIVEN | ORDINARY) == GIVEN:
            score = _score(run[start:last], is_strict=is_strict)
            if score:
                return [(start, last, min(score, 0.6))]
    return []
