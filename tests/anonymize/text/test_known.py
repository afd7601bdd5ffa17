"""Values of the record's own identifiers are found however they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.text.detect import Finder, find
from fedsim.anonymize.text.known import KIND, KnownValues

NOTHING = Finder(["email"])  # so that only what is known is found


def known(text: str, *values: str) -> list[str]:
    spans = NOTHING(text, KnownValues.of(values))
    return [text[span.start : span.stop] for span in spans]


@pytest.mark.parametrize(
    ("value", "text", "found"),
    [
        ("Anna Marie Jensen", "Seen: anna marie JENSEN today", "anna marie JENSEN"),
        ("Anna Marie Jensen", "Jensen, Anna-Marie: seen", "Jensen, Anna-Marie"),
        ("Anna Marie Jensen", "Seen A. M. Jensen today", "A. M. Jensen"),
        ("Anna Marie Jensen", "Ms Jensen came", "Jensen"),
        ("Anna Marie Jensen", "her name, annamarie, is", "annamarie"),
        ("JENSEN, ANNA", "Anna Jensen's son", "Anna Jensen"),
        ("Jürgen Müller", "Herr Mueller, Juergen", "Mueller, Juergen"),
        ("Jürgen Müller", "Jurgen MULLER", "Jurgen MULLER"),
        ("Ottová", "pani Ottova ma", "Ottova"),
        ("Jose\u0301 Garci\u0301a", "José García came", "José García"),
        ("Siobhan O'Brien", "Mrs OBrien", "OBrien"),
        ("Will Young", "Then Will came", "Will"),
        ("Du Cane", "said Du Cane.", "Du Cane"),
        ("+46 (0)8 928 571 38", "call 08-92857138 now", "08-92857138"),
        ("0490 75 40 81", "call +32 490/754081 now", "+32 490/754081"),
        ("536904399", "her 536-90-4399 is", "536-90-4399"),
        ("12 Baker Street", "at 12, baker st. now", "12, baker st"),
        ("5049 Harjukuja 54", "in Harjukuja 54, there", "Harjukuja 54"),
        ("ann@example.org", "to Ann@Example.org.", "Ann@Example.org"),
    ],
)
def test_a_value_is_found_in_another_spelling(value, text, found):
    assert found in known(text, value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Will Young", "he will come when the young wake"),
        ("Grace May", "a grace period in may"),
        ("Jan de Vries", "le pont de la mer"),
        ("12345", "123456 and 012345"),
        ("5 Main Street", "5 of them in the street"),
        ("A. B", "a b c"),
    ],
)
def test_ordinary_words_are_left(value, text):
    assert known(text, value) == []


def test_the_kind_is_the_column():
    values = KnownValues.of_columns({"name": ["Zorblax Quux"], "phone": ["0490754081"]})
    text = "Quux: 0490 75 40 81"
    spans = NOTHING(text, values)
    assert [(s.kind, text[s.start : s.stop]) for s in spans] == [
        ("name", "Quux"),
        ("phone", "0490 75 40 81"),
    ]
    assert [s.kind for s in find("by Quux", known=["Quux"])] == [KIND]


def test_nothing_known_is_nothing():
    assert not KnownValues.of([])
    assert not KnownValues.of(["", " ", "-"])
    assert NOTHING("any text", KnownValues.of([])) == []


@given(st.text(max_size=40), st.text(max_size=100))
def test_any_value_in_any_text_gives_spans_inside(value, text):
    at = 0
    for span in NOTHING(text, KnownValues.of([value])):
        assert at <= span.start < span.stop <= len(text)
        at = span.stop


LETTERS = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyzäöüéñ"), min_size=5, max_size=9)


@given(st.lists(LETTERS, min_size=2, max_size=3, unique=True), st.randoms(use_true_random=False))
def test_a_long_name_is_found_in_any_order_and_case(words, random):
    value = " ".join(words)
    random.shuffle(words)
    written = ", ".join(random.choice((w.upper(), w.title(), w)) for w in words)
    text = f"1 {written} 1"
    covered = sum(span.stop - span.start for span in NOTHING(text, KnownValues.of([value])))
    assert covered >= len(written)
