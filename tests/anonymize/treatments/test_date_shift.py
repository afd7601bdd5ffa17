"""Date shifts: one for each subject, none of zero, each as likely, and nothing else changes."""

import collections
import datetime
import hmac
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.anonymize.pseudonym_keys import PseudonymKeys
from fedsim.anonymize.treatments import ColumnContext
from fedsim.anonymize.treatments.date_shift import DateShift
from fedsim.crypto import key_of
from fedsim.errors import ConfigError, DataError

KEYS = PseudonymKeys(key_of("tests alone have this key"))
DAYS = st.dates(datetime.date(1890, 1, 1), datetime.date(2150, 1, 1))


def around(subjects, name="seen", keys=KEYS):
    return ColumnContext(name, keys, pd.Series(subjects))


def test_a_shift_is_the_hmac_of_the_subject():
    drawn = int.from_bytes(hmac.digest(KEYS.key("date-shift", ""), b"17", "sha256")[:16], "big")
    days = [*range(-30, 0), *range(1, 31)][drawn % 60]
    found = DateShift(days=30).apply(pd.Series(["2024-02-29"]), around(["17"]))
    wanted = datetime.date(2024, 2, 29) + datetime.timedelta(days=days)
    assert found[0] == wanted.isoformat()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), DAYS, DAYS), max_size=12), st.integers(1, 400))
def test_intervals_of_a_subject_stay(rows, days):
    subjects = [row[0] for row in rows]
    made = []
    for i, name in ((1, "born"), (2, "seen")):
        column = pd.Series([row[i].isoformat() for row in rows], dtype="str")
        found = DateShift(days=days).apply(column, around(subjects, name))
        made.append([datetime.date.fromisoformat(text) for text in found])
    moved = {}
    for (subject, *before), *after in zip(rows, *made, strict=True):
        for old, new in zip(before, after, strict=True):
            assert moved.setdefault(subject, (new - old).days) == (new - old).days
    assert all(1 <= abs(shift) <= days for shift in moved.values())


def test_each_shift_is_as_likely():
    subjects = [str(i) for i in range(60_000)]
    column = pd.Series(pd.to_datetime(["2024-01-01"] * len(subjects)))
    found = DateShift(days=7).apply(column, around(subjects))
    counts = collections.Counter((found - column).dt.days)
    assert set(counts) == {*range(-7, 0), *range(1, 8)}
    mean = len(subjects) / 14
    chi = sum((count - mean) ** 2 / mean for count in counts.values())
    assert chi < 13 + 5 * math.sqrt(26)


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("%Y-%m-%d", "2024-02-29"),
        ("%d.%m.%Y", "29.02.2024"),
        ("%m/%d/%y", "02/29/24"),
        ("%Y%m%d %H:%M", "20240229 23:59"),
        ("%Y-%m-%dT%H:%M:%S", "2024-02-29T05:06:07"),
        ("%d %b %Y", "29 Feb 2024"),
    ],
    ids=["iso", "german", "american", "compact", "time", "month name"],
)
def test_formats_and_times_of_day_are_kept(format, text):
    found = DateShift(format=format).apply(pd.Series([text, None]), around(["a", "a"]))
    plain = DateShift().apply(pd.Series(["2024-02-29"]), around(["a"]))
    read = datetime.datetime.strptime(found[0], format)
    before = datetime.datetime.strptime(text, format)
    assert (read - before).days == (
        datetime.date.fromisoformat(plain[0]) - datetime.date(2024, 2, 29)
    ).days
    assert read.time() == before.time()
    assert pd.isna(found[1])


def test_dates_of_every_type_move_alike():
    text = pd.Series(["2024-02-29", None, "1950-12-31"])
    ctx = around(["a", None, 3.0])
    wanted = DateShift().apply(text, ctx)
    times = DateShift().apply(pd.to_datetime(text), ctx)
    assert times.dt.strftime("%Y-%m-%d").equals(wanted)
    zoned = DateShift().apply(pd.to_datetime(text).dt.tz_localize("UTC"), ctx)
    assert zoned.dt.strftime("%Y-%m-%d").equals(wanted)
    dates = DateShift().apply(pd.to_datetime(text).dt.date.astype(object), ctx)
    assert [None if pd.isna(d) else d.isoformat() for d in dates] == [wanted[0], None, wanted[2]]
    for dtype in (object, "category"):
        assert DateShift().apply(text.astype(dtype), ctx).equals(wanted)
    numbers = pd.Series([20240229, None, 19501231])
    assert DateShift(format="%Y%m%d").apply(numbers, ctx).equals(wanted.str.replace("-", ""))


def test_subjects_are_the_same_whatever_their_type_and_column():
    column = pd.Series(["2024-02-29"])
    found = {DateShift().apply(column, around([who], name))[0]
             for who in (17, 17.0, "17") for name in ("born", "seen")}  # fmt: skip
    assert len(found) == 1
    other = PseudonymKeys(key_of("another key of tests"))
    assert DateShift().apply(column, around(["17"], keys=other))[0] not in found


@pytest.mark.parametrize(
    ("cells", "subjects", "message"),
    [
        (["2024-02-30"], ["a"], "a date of the format %Y-%m-%d"),
        (["2024-02-28", "yesterday"], ["a", "b"], "row 1: a date"),
        (["2024-02-28", "2024-02-28"], ["a", None], "row 1: a row with a date needs a subject"),
        ([20240228], ["a"], "a date of the format"),
        ([True], ["a"], "a date of the format"),
        (["9999-12-31"] * 20, list("abcdefghijklmnopqrst"), "years 1 to 9999"),
        (["0001-01-01"] * 20, list("abcdefghijklmnopqrst"), "years 1 to 9999"),
    ],
    ids=["no such day", "word", "no subject", "number", "truth", "end of time", "beginning"],
)
def test_dates_that_are_none(cells, subjects, message):
    with pytest.raises(DataError, match=message):
        DateShift().apply(pd.Series(cells), around(subjects))


def test_key_and_subject_are_needed():
    cells = pd.Series(["2024-02-29"])
    with pytest.raises(ConfigError, match="a secret key"):
        DateShift().apply(cells, ColumnContext("seen", None, cells))
    with pytest.raises(ConfigError, match="a subject"):
        DateShift().apply(cells, ColumnContext("seen", KEYS))


@pytest.mark.parametrize("format", ["%Y-%m", "%H:%M", "", "%d.%m.", "%Y-%m-%d %Q", "%j"])
def test_formats_without_a_date_are_refused(format):
    with pytest.raises(ConfigError, match="year, month and day"):
        DateShift(format=format)


def test_no_rows():
    for dtype in ("str", object, "datetime64[s]"):
        empty = pd.Series([], dtype=dtype)
        found = DateShift().apply(empty, around([]))
        assert len(found) == 0
