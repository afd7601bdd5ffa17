"""Format preservation: NIST's cipher in each cell's form, and nothing of a form too small."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.anonymize.ff1 import FF1
from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.anonymize.treatments import ColumnContext
from fedsim.anonymize.treatments.format_preserving import FormatPreserving
from fedsim.crypto import key_of
from fedsim.errors import ConfigError, DataError

CTX = ColumnContext("id", PseudonymKeys(key_of("tests alone have this key")))


def form(text, alphabet):
    if alphabet != "letters":
        text = re.sub("[0-9]", "0", text)
    if alphabet != "digits":
        text = re.sub("[a-z]", "a", re.sub("[A-Z]", "A", text))
    return text


def test_digits_are_ff1_of_radix_ten(ctx, keys):
    cipher = FF1(keys.key("format-preserving", "id"), 10)
    made = cipher.encrypt(np.array([[1, 2, 3, 4, 5, 6]]), b"id|000000")
    wanted = "".join(map(str, made[0]))
    found = FormatPreserving().apply(pd.Series(["AB-123-456", "123456"]), ctx)
    assert found.tolist() == [f"AB-{wanted[:3]}-{wanted[3:]}", wanted]


@pytest.mark.parametrize("alphabet", ["digits", "letters", "alphanumeric"])
def test_forms_stay_and_values_come_back(ctx, alphabet):
    cells = pd.Series(
        ["Ab-123456/cdEF", None, "qwertz QWERTZ 0000000", "Ab-123456/cdEF", "ABCDE-9876543210" * 4]
    )
    part = FormatPreserving(alphabet)
    found = part.apply(cells, ctx)
    assert part.restore(found, ctx).equals(cells.astype("str"))
    assert found[0] == found[3]
    assert found.isna().tolist() == cells.isna().tolist()
    for before, after in zip(cells.dropna(), found.dropna(), strict=True):
        assert form(before, alphabet) == form(after, alphabet)
        assert before != after


@settings(max_examples=30)
@given(st.lists(st.from_regex(r"[A-Za-z0-9 \-é_]{0,30}[0-9]{6}", fullmatch=True), max_size=6))
def test_any_digits_come_back(cells):
    column = pd.Series(cells, dtype="str")
    found = FormatPreserving().apply(column, CTX)
    assert FormatPreserving().restore(found, CTX).tolist() == cells
    assert [form(text, "digits") for text in found] == [form(text, "digits") for text in cells]


@settings(max_examples=30)
@given(
    st.lists(st.from_regex(r"[A-Za-z0-9\-]{0,25}[0-9]{3}[a-z]{2}[A-Z]", fullmatch=True), max_size=6)
)
def test_any_letters_and_digits_come_back_and_stay_apart(cells):
    column, part = pd.Series(cells, dtype="str"), FormatPreserving("alphanumeric")
    found = part.apply(column, CTX)
    assert part.restore(found, CTX).tolist() == cells
    assert found.nunique() == column.nunique()
    assert [form(text, "alphanumeric") for text in found] == [
        form(text, "alphanumeric") for text in cells
    ]


def test_mixed_forms_reach_all_of_their_domain_evenly(ctx):
    """Walking must not favour numbers: first digits and letters of 20,000 plates are uniform."""
    cells = pd.Series([f"{chr(65 + i % 26)}{i:05d}" for i in range(20_000)])
    found = FormatPreserving("alphanumeric").apply(cells, ctx)
    assert found.nunique() == len(cells)
    for position, kinds in ((0, 26), (1, 10), (5, 10)):
        counts = found.str[position].value_counts()
        chi = float(((counts - 20_000 / kinds) ** 2).sum() / (20_000 / kinds))
        assert len(counts) == kinds
        assert chi < kinds - 1 + 5 * (2 * (kinds - 1)) ** 0.5


def test_columns_and_keys_are_apart(keys, others):
    cell, part = pd.Series(["123456789"]), FormatPreserving()
    contexts = [ColumnContext("a", keys), ColumnContext("b", keys), ColumnContext("a", others)]
    assert len({part.apply(cell, each)[0] for each in contexts}) == 3
    shared = FormatPreserving(domain="x")
    assert shared.apply(cell, contexts[0])[0] == shared.apply(cell, contexts[1])[0]


def test_numbers_become_text_and_may_begin_with_zero(ctx):
    cells = pd.Series(range(1_000_000, 1_000_400))
    found = FormatPreserving().apply(cells, ctx)
    assert found.str.fullmatch("[0-9]{7}").all()
    assert found.str.startswith("0").any()
    assert FormatPreserving().restore(found, ctx).astype(int).tolist() == cells.tolist()


@pytest.mark.parametrize(
    ("alphabet", "cell", "message"),
    [
        ("digits", "12345", "one of 100,000"),
        ("digits", "", "one of 1:"),
        ("digits", "AB-CD", "one of 1:"),
        ("letters", "ABcd 123456", "one of 456,976"),
        ("alphanumeric", "AB-123", "one of 676,000"),
        ("digits", "12345\u0666789", "not of ASCII"),
        ("letters", "José Gonzales", "not of ASCII"),
        ("alphanumeric", "日本 1234567", "not of ASCII"),
    ],
    ids=["five digits", "empty", "none", "letters", "plate", "arabic digit", "accent", "kanji"],
)
def test_values_of_few_are_refused(ctx, alphabet, cell, message):
    cells = pd.Series(["AbCdEfGh-123456789", cell], index=["x", "y"])
    with pytest.raises(DataError, match=f"column 'id', row 'y': .*{message}") as info:
        FormatPreserving(alphabet).apply(cells, ctx)
    assert not cell or cell not in str(info.value)


def test_a_key_is_needed():
    with pytest.raises(ConfigError, match="a secret key"):
        FormatPreserving().apply(pd.Series(["123456"]), ColumnContext("id"))
