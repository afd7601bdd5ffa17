"""Places: countries, states and large cities by name, others by the words before them."""

from fedsim.anonymize.text.keywords import Endings, ends_with, phrases
from fedsim.anonymize.text.roles import KNOWN_PLACES, PLACE
from fedsim.anonymize.text.runs import Run
from fedsim.anonymize.text.span import Page
from fedsim.anonymize.text.states import STATE_CODES

__all__ = ["PLACE_CUES", "is_known_place", "places_in"]

_LONGEST = 4  # words
_CUES = phrases(
    """
    live in | lives in | living in | lived in | born in | raised in | grew up in | moved to |
    moved from | moved here from | moved back to | traveling to | travelling to | traveled to |
    travelled to | travel to | flew to | flew from | fly to | flying to | flight to | coming to
    | going to | went to | driving to | trip to | visit to | visiting | visited |
    originally from | come from | comes from | reside in | resides in | residing in | based in |
    located in | city of | town of | village of | home city | home town | hometown | i'm in |
    i am in | am in | stay in | staying in | stayed in | arrive in | arrived in | wohnt in |
    wohnhaft in | habite à | vive en
    """
)
_LABELS = ("where", "city", "town", "place of birth", "birthplace", "country", "state", "location")
PLACE_CUES = (*_CUES, *_LABELS)
_BY_CUE, _BY_LABEL = Endings(_CUES), Endings(_LABELS)


def is_known_place(name: str) -> bool:
    """Say whether a name, in lower case, is a country, a state or a large city.

    >>> is_known_place("vienna"), is_known_place("smith")
    (True, False)
    """
    return name in KNOWN_PLACES


def places_in(run: Run, flags: int, page: Page, before: str) -> list[tuple[int, int, float]]:
    """Return the pieces of a run, `run[first:last]`, that name places, with a score each.

    `flags`: all that words of the run have. `before`: what stands before the run, without white
    space, where it may be a cue.
    """
    text, lower = page.text, page.lower
    pieces = _known_in(run, lower) if flags & PLACE else []
    if pieces or text == lower or len(run) > _LONGEST:
        return pieces
    if before and (
        ends_with(before, _BY_CUE) or (before[-1] == ":" and ends_with(before[:-1], _BY_LABEL))
    ):
        return [(0, len(run), 0.45)]
    last = run[-1]
    if len(run) > 1 and last.stop - last.start == 2 and text[last.start : last.stop] in STATE_CODES:
        return [(0, len(run), 0.4)]
    return []


def _known_in(run: Run, lower: str) -> list[tuple[int, int, float]]:
    pieces, first = [], 0
    while first < len(run):
        size = _known_words(run, first, lower) if run[first].role & PLACE else 0
        if size:
            pieces.append((first, first + size, 0.6))
        first += size or 1
    return pieces


def _known_words(run: Run, first: int, lower: str) -> int:
    """Return how many words from `first` on are a known place."""
    for last in range(min(len(run), first + _LONGEST), first, -1):
        if lower[run[first].start : run[last - 1].stop] in KNOWN_PLACES:
            return last - first
    return 0
