"""What every treatment keeps to, whichever it is."""

import dataclasses
import typing

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import registry
from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.anonymize.schema import Role
from fedsim.anonymize.treatments import ColumnContext
from fedsim.anonymize.treatments.date_shift import DateShift
from fedsim.anonymize.treatments.format_preserving import FormatPreserving
from fedsim.anonymize.treatments.keep import Keep
from fedsim.anonymize.treatments.microaggregation import Microaggregation
from fedsim.anonymize.treatments.noise import Noise
from fedsim.anonymize.treatments.pseudonym import Pseudonym
from fedsim.anonymize.treatments.remove import Remove
from fedsim.anonymize.treatments.rounding import Rounding
from fedsim.anonymize.treatments.top_bottom import TopBottom
from fedsim.anonymize.treatments.zip3 import Zip3
from fedsim.crypto import key_of
from fedsim.fields import read_table

KEYS = PseudonymKeys(key_of("tests alone have this key"))
NUMBERS = st.integers(-1000, 1000)
#: a part with settings, and cells that it takes
EXAMPLES = [
    (Keep(), st.text()),
    (Remove(), st.text()),
    (Pseudonym(), st.text()),
    (Pseudonym("randomized", 256, "base32", "P"), st.text()),
    (FormatPreserving(), st.from_regex("[0-9]{6,9}", fullmatch=True)),
    (FormatPreserving("alphanumeric"), st.from_regex("[A-Z]{3}-?[0-9]{3,5}x?", fullmatch=True)),
    (DateShift(), st.dates().filter(lambda day: 1 < day.year < 9998).map(str)),
    (Rounding(2.5), NUMBERS),
    (TopBottom(top=90), NUMBERS),
    (Microaggregation(2), NUMBERS),
    (Noise(0, 9, scale=1), NUMBERS),
    (Zip3(), st.from_regex("[0-9]{5}", fullmatch=True)),
]
IDS = [f"{registry.name_of('treatments', part)}-{i}" for i, (part, _) in enumerate(EXAMPLES)]


def draws_anew(part):
    return isinstance(part, Noise) or part == EXAMPLES[3][0]


def test_every_treatment_says_what_it_is_for():
    for name in registry.names("treatments"):
        kind = registry.load("treatments", name)
        assert isinstance(kind.is_streaming, bool), name
        assert set(kind.roles) <= set(typing.get_args(Role)), name
        assert kind.roles, name
        assert kind.__dataclass_params__.frozen, name
    # Nobody's name stays as it is.
    assert "direct" not in Keep.roles
    assert "direct" in Pseudonym.roles


@pytest.mark.parametrize("part", [part for part, _ in EXAMPLES], ids=IDS)
def test_settings_come_back_from_a_table(part):
    plain = {k: v for k, v in dataclasses.asdict(part).items() if v is not None}
    problems = []
    assert read_table("treatment", type(part), plain, problems) == part
    assert problems == []


@pytest.mark.parametrize(("part", "cells"), EXAMPLES, ids=IDS)
@settings(max_examples=25)
@given(data=st.data())
def test_columns_keep_their_shape(part, cells, data):
    content = data.draw(st.lists(st.one_of(st.none(), cells), max_size=8))
    if isinstance(part, Microaggregation):
        content += data.draw(st.lists(cells, min_size=2, max_size=2))
    column = pd.Series(content, dtype=object, name="x")
    column.index = data.draw(st.permutations([f"r{i}" for i in range(len(content))]))
    subject = pd.Series(["s"] * len(content), index=column.index)
    before = column.copy()
    found = part.apply(column, ColumnContext("x", KEYS, subject))
    assert column.equals(before)
    assert found is not column
    assert found.index.equals(column.index)
    assert found.name == "x"
    if not isinstance(part, Remove):
        assert found.isna().tolist() == column.isna().tolist()
    if not draws_anew(part):
        again = part.apply(column, ColumnContext("x", KEYS, subject))
        assert again.equals(found)
    if part.is_streaming and not draws_anew(part):
        at = data.draw(st.integers(0, len(column)))
        for piece in (slice(0, at), slice(at, None)):
            ctx = ColumnContext("x", KEYS, subject.iloc[piece])
            own = part.apply(column.iloc[piece], ctx)
            assert own.dropna().tolist() == found.iloc[piece].dropna().tolist()


def test_a_removed_column_holds_nothing_even_if_it_is_written():
    found = Remove().apply(pd.Series(["Ada", "Bob"], index=[3, 4]), ColumnContext("name"))
    assert Remove.is_dropped
    assert found.isna().all()
    assert found.index.tolist() == [3, 4]


def test_kept_columns_are_copies():
    column = pd.Series([1, 2])
    found = Keep().apply(column, ColumnContext("x"))
    found[0] = 9
    assert column.tolist() == [1, 2]
