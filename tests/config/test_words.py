"""What is accepted, in words: for every kind of annotation and constraint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import annotated_types as at
import pytest

from fedsim.errors import Problem
from fedsim.fields import accepted, fits, read_table


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "an integer"),
        (bool, "true or false"),
        (Any, "anything"),
        (Annotated[int, at.Ge(1)] | None, "an integer >= 1, or unset"),
        (Annotated[float, at.Interval(gt=0, le=1)], "a number > 0 and <= 1"),
        (Annotated[int, at.MultipleOf(8)], "an integer that is a multiple of 8"),
        (Annotated[str, at.MinLen(1)], "text of length >= 1"),
        (Annotated[str, at.Len(2, 3)], "text of length >= 2 and of length <= 3"),
        (Annotated[str, at.MaxLen(3)], "text of length <= 3"),
        (tuple[Annotated[int, at.Gt(0)], ...], "a list, each an integer > 0"),
        (list[str], "a list, each text"),
        (dict[str, float], "a table"),
        (Mapping[str, Any], "a table"),
        (Literal["a", "b"], "one of a, b"),
        (int | str, "an integer or text"),
    ],
)
def test_words(annotation, words):
    assert accepted(annotation) == words


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (Annotated[float, at.Interval(gt=0, le=1)], 1, 0),
        (Annotated[int, at.MultipleOf(8)], 16, 12),
        (Annotated[str, at.Len(2, 3)], "ab", "a"),
        (tuple[Annotated[int, at.Gt(0)], ...], [1, 2], [1, 0]),
        (Literal["a", "b"], "a", "c"),
        (bool, True, 1),
    ],
)
def test_words_are_what_is_checked(annotation, good, bad):
    assert fits(annotation, good)
    assert not fits(annotation, bad)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A part as somebody else might write it."""

    clip_norm: Annotated[float, at.Gt(0)]
    limit: int = 3

    def __post_init__(self):
        if self.limit > 5:
            raise ValueError("limit must not exceed 5")


def test_parts_of_others_may_have_no_default_and_raise_what_they_like():
    found: list[Problem] = []
    assert read_table("chain", Foreign, {}, found, lambda path: f"from {path}") is None
    (problem,) = found
    assert problem.path == "chain.clip_norm"
    assert problem.accepted == "a number > 0; it has no default"
    found.clear()
    assert (
        read_table("chain", Foreign, {"clip_norm": 1, "limit": 9}, found, lambda path: "") is None
    )
    assert found[0].accepted == "limit must not exceed 5"
    assert read_table("chain", Foreign, {"clip_norm": 1}, [], lambda path: "") == Foreign(1.0)
