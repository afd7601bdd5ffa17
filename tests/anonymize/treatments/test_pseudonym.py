"""Pseudonyms: equal where they must be, chance where they must not."""

import base64
import datetime
import decimal
import hmac
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.anonymize.treatments import ColumnContext
from fedsim.anonymize.treatments.pseudonym import Pseudonym
from fedsim.errors import ConfigError, DataError
from fedsim.fields import read_table

MANY = 100_000


def column(*cells, dtype=object):
    return pd.Series(list(cells), dtype=dtype)


@pytest.mark.parametrize("bits", [128, 160, 256])
def test_a_pseudonym_is_the_hmac_of_the_text(ctx, keys, bits):
    key = keys.key("pseudonym", "id")
    code = hmac.digest(key, "Zoë 007".encode(), "sha256")[: bits // 8]
    found = Pseudonym(bits=bits, prefix="P-").apply(column("Zoë 007"), ctx)
    assert found[0] == "P-" + code.hex()
    found = Pseudonym(bits=bits, encoding="base32").apply(column("Zoë 007"), ctx)
    assert found[0] == base64.b32encode(code).decode().rstrip("=")


def test_two_clients_with_one_key_file_agree(keys):
    """Whatever types their readers chose, and in whatever order and pieces the rows come."""
    here = pd.Series(["17", "4", "17", "250"])
    there = pd.Series([250, 4, None, 17])  # float64, for the missing one
    a = Pseudonym().apply(here, ColumnContext("id", PseudonymKeys(keys.secret)))
    b = Pseudonym().apply(there, ColumnContext("id", PseudonymKeys(keys.secret)))
    assert a[0] == a[2] == b[3]
    assert (a[1], a[3]) == (b[1], b[0])
    pieces = [Pseudonym().apply(here[i : i + 1], ColumnContext("id", keys)) for i in range(4)]
    assert pd.concat(pieces).equals(a)


def bits_of(pseudonyms):
    content = bytes.fromhex("".join(pseudonyms))
    return np.unpackbits(np.frombuffer(content, dtype=np.uint8)).reshape(len(pseudonyms), -1)


@pytest.mark.parametrize("what", ["another key", "another column"])
def test_without_the_same_key_there_is_only_chance(keys, others, what):
    """Over 10^5 values: bits agree as coins do, nothing collides (chance: 6 x 10^-29)."""
    values = pd.Series([f"{i:09d}" for i in range(MANY)])
    a = Pseudonym().apply(values, ColumnContext("id", keys))
    elsewhere = ColumnContext("id", others) if what == "another key" else ColumnContext("nr", keys)
    b = Pseudonym().apply(values, elsewhere)
    assert len(set(a) | set(b)) == 2 * MANY
    agree = bits_of(a) == bits_of(b)
    sigma = 0.5 / math.sqrt(agree.size)
    assert abs(agree.mean() - 0.5) < 3 * sigma
    # Rows, too: nobody's pseudonyms are nearer to each other than 128 coins are. Five sigma: these
    # two keys are at 3.7, where 25 pairs of random keys had a mean of 0.2 and a deviation of 0.8.
    per_row = agree.sum(axis=1)
    assert abs(per_row.var() / 32 - 1) < 5 * math.sqrt(2 / MANY)
    # And cut to 24 bits, pairs that collide: Poisson with mean n^2 / 2^24.
    short_a, short_b = (np.sort([int(x[:6], 16) for x in each]) for each in (a, b))
    pairs = np.searchsorted(short_b, short_a, "right") - np.searchsorted(short_b, short_a)
    mean = MANY**2 / 2**24
    assert abs(pairs.sum() - mean) < 3 * math.sqrt(mean)


def test_columns_share_pseudonyms_only_when_told(keys):
    one, two = ColumnContext("patient", keys), ColumnContext("mother", keys)
    cell = column("17")
    assert Pseudonym().apply(cell, one)[0] != Pseudonym().apply(cell, two)[0]
    shared = Pseudonym(domain="people")
    assert shared.apply(cell, one)[0] == shared.apply(cell, two)[0]


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ((7, 7.0, "7", np.int8(7), np.float32(7), decimal.Decimal("7.00")), "7"),
        ((0, 0.0, -0.0, "0", decimal.Decimal("-0.0")), "0"),
        ((0.1, np.float32(0.1), "0.1", decimal.Decimal("0.10")), "0.1"),
        ((True, np.True_, "True"), "True"),
        (("\u00e9", "e\u0301"), "\u00e9"),
        ((datetime.date(2024, 2, 29), pd.Timestamp("2024-02-29"), "2024-02-29"), "2024-02-29"),
        ((datetime.datetime(2024, 2, 29, 13, 5), "2024-02-29T13:05:00"), "2024-02-29T13:05:00"),
    ],
    ids=["seven", "zero", "a tenth", "true", "accent", "day", "time"],
)  # fmt: skip
def test_what_is_the_same_value(ctx, cells, text):
    found = Pseudonym().apply(column(*cells), ctx)
    assert set(found) == {Pseudonym().apply(column(text), ctx)[0]}
    for cell in cells:  # and by itself, in a column of its own type
        assert Pseudonym().apply(pd.Series([cell]), ctx)[0] == found[0]


def test_what_is_another_value(ctx):
    cells = column(1, True, "1.0", "01", " 1", "1 ", "I", "i", 1.5, -1, "")
    assert Pseudonym().apply(cells, ctx).nunique() == len(cells)


def test_accents_in_a_text_column_are_composed(ctx):
    found = Pseudonym().apply(pd.Series(["e\u0301", "x", "\u00e9", None, "x"]), ctx)
    assert found[0] == found[2]
    assert found[1] == found[4]
    assert found.isna().tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("policy", ["deterministic", "randomized"])
@pytest.mark.parametrize(
    "cells",
    [
        pd.Series([None, "a", np.nan, pd.NA, pd.NaT], dtype=object),
        pd.Series([pd.NA, 3], dtype="Int64"),
        pd.Series([pd.NaT, pd.Timestamp("2024-01-01")]),
        pd.Series(["a", None, "b", "a"], dtype="category"),
        pd.Series([3, None, 4], dtype="category"),
        pd.Series([True, None], dtype="boolean"),
        pd.Series([], dtype=object),
        pd.Series([None, None], dtype=object),
        pd.Series([], dtype="str"),
        pd.Series(["same"] * 5),
    ],
    ids=["objects", "integers", "dates", "categories", "numbers", "booleans", "empty",
         "all missing", "no text", "constant"],
)  # fmt: skip
def test_missing_cells_stay_missing(ctx, policy, cells):
    cells.index = [f"r{i}" for i in range(len(cells))][::-1]
    found = Pseudonym(policy=policy).apply(cells, ctx)
    assert found.isna().tolist() == cells.isna().tolist()
    assert found.index.equals(cells.index)
    assert all(len(text) == 32 for text in found.dropna())


def test_randomized_pseudonyms_link_nothing(ctx):
    cells = pd.Series(["a"] * 1000)
    first = Pseudonym(policy="randomized").apply(cells, ColumnContext("id"))  # needs no key
    again = Pseudonym(policy="randomized").apply(cells, ctx)
    assert len(set(first) | set(again)) == 2000


@given(st.lists(st.one_of(st.none(), st.text(), st.integers(), st.booleans()), max_size=20))
def test_equal_pseudonyms_are_equal_texts(cells):
    import unicodedata

    ctx = ColumnContext("id", PseudonymKeys(bytes.fromhex("9f3c" * 3) + bytes(range(7, 33))))
    found = Pseudonym().apply(pd.Series(cells, dtype=object), ctx).tolist()
    texts = [c if c is None else unicodedata.normalize("NFC", str(c)) for c in cells]
    for i in range(len(cells)):
        for j in range(i):
            if texts[i] is not None and texts[j] is not None:
                assert (found[i] == found[j]) == (texts[i] == texts[j])


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (pd.Series([1.0, 2.0**53]), "read this column as text"),
        (pd.Series([1.0, np.inf]), "finite"),
        (pd.Series([["a"], "b"]), "type list"),
        (pd.Series(["b", b"secret"], dtype=object), "type bytes"),
        (pd.Series([decimal.Decimal("NaN"), decimal.Decimal("Infinity")]), "type Decimal"),
    ],
    ids=["digits lost", "infinite", "list", "bytes", "no number"],
)
def test_cells_that_are_no_identifiers(ctx, cells, message):
    with pytest.raises(DataError, match=f"column 'id'.*{message}") as info:
        Pseudonym().apply(cells, ctx)
    assert "secret" not in str(info.value)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"bits": 64}, "bits"),
        ({"bits": 129}, "bits"),
        ({"bits": 264}, "bits"),
        ({"encoding": "base64"}, "encoding"),
        ({"policy": "salted"}, "policy"),
        ({"salt": "x"}, "salt"),
        ({"key": "x"}, "key"),
    ],
    ids=lambda value: str(value),
)
def test_settings_that_would_weaken_it_are_refused(settings, path):
    problems = []
    read_table("treatment", Pseudonym, settings, problems)
    assert [problem.path for problem in problems] == [f"treatment.{path}"]


def test_a_hash_without_a_key_is_refused():
    with pytest.raises(ConfigError, match="a secret key: without one, or with only a salt"):
        Pseudonym().apply(column("1"), ColumnContext("ssn"))
