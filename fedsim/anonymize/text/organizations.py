"""Organizations: the words that end their names, firms named after people, and "I work for"."""

from fedsim.anonymize.text.keywords import Endings, ends_with, phrases
from fedsim.anonymize.text.roles import ENDS, STOPS
from fedsim.anonymize.text.runs import Run

__all__ = ["ORGANIZATION_CUES", "organization_in"]

#: what stands before the name of an organization
ORGANIZATION_CUES = phrases(
    """
    work for | works for | worked for | working for | work at | works at | worked at |
    working at | employed by | employed at | employer | company | organization | organisation |
    hired by | employee of | ceo of | founder of
    """
)
_BY_CUE = Endings(ORGANIZATION_CUES)


def organization_in(run: Run, before: str) -> list[tuple[int, int, float]]:
    """Return the piece of a run that names an organization: up to a word such as Inc or Hospital.

    `before`: what stands before the run, without white space.
    """
    for last in range(len(run), 1, -1):
        if run[last - 1].role & ENDS:
            first = 0
            while first < last - 1 and run[first].role & (STOPS | ENDS) == STOPS:
                first += 1
            return [(first, last, 0.65)] if last - first > 1 else []
    if before and ends_with(before, _BY_CUE):
        return [(0, len(run), 0.5)]
    return []
