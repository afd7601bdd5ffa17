"""Hierarchies of each kind: what their levels are called and which cells they take."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.dates import Dates
from fedsim.anonymize.hierarchies.intervals import Intervals
from fedsim.anonymize.hierarchies.prefix import Prefix
from fedsim.anonymize.hierarchies.taxonomy import Taxonomy
from fedsim.errors import ConfigError, MissingDataError


def test_intervals_begin_at_multiples_of_their_width():
    tree = Intervals(min=17, max=44, widths=(5, 10, 20)).build()
    assert tree.labels[1] == ("15-19", "20-24", "25-29", "30-34", "35-39", "40-44")
    assert tree.labels[2] == ("10-19", "20-29", "30-39", "40-49")
    assert tree.labels[3] == ("0-19", "20-39", "40-59")
    assert tree.labels[4] == ("*",)
    assert tree.label(0, 3) == "15-19"  # the three years of it that there are
    assert tree.label(1, 5) == "18-21"
    assert tree.label(0, tree.leaves) == "*"


@given(
    st.integers(-50, 50),
    st.integers(1, 200),
    st.lists(st.integers(2, 4), min_size=0, max_size=3),
)
def test_every_number_is_in_the_interval_that_its_label_says(low, span, ratios):
    widths = tuple(float(w) for w in np.cumprod(ratios)) if ratios else ()
    part = Intervals(min=low, max=low + span, widths=widths)
    tree, numbers = part.build(), np.arange(low, low + span + 1)
    leaves = part.codes(pd.Series(numbers))
    assert leaves.tolist() == list(range(span + 1))
    for level, width in enumerate(widths, start=1):
        names = [tree.labels[level][group] for group in tree.levels[level]]
        starts = [int(width * np.floor(number / width)) for number in numbers]
        ends = [start + int(width) - 1 for start in starts]
        assert names == [f"{s}-{e}" for s, e in zip(starts, ends, strict=True)]


def test_fractions_fall_into_the_step_they_begin():
    part = Intervals(min=0.0, max=1.0, step=0.1)
    assert part.codes(pd.Series([0.0, 0.1, 0.3, 0.35, 0.7, 1.0])).tolist() == [0, 1, 3, 3, 7, 10]
    tree = part.build()
    assert tree.labels[0][3] == "0.3..0.4"
    assert tree.label(3, 5) == "0.3-0.5"


def test_numbers_outside_are_refused_or_taken_as_the_nearest():
    ages = pd.Series([16, 17, 90, 91, None, "old", 17.5])
    assert Intervals(min=17, max=90).codes(ages).tolist() == [-1, 0, 73, -1, -1, -1, -1]
    coded = Intervals(min=17, max=90, outside="nearest").codes(ages).tolist()
    assert coded == [0, 0, 73, 73, -1, -1, -1]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"min": 5, "max": 4}, "max"),
        ({"min": 0, "max": 10, "widths": (5.0, 12.0)}, "widths"),
        ({"min": 0, "max": 10, "widths": (5.0, 5.0)}, "widths"),
        ({"min": 0.5, "max": 10, "widths": (5.0,)}, "min"),
        ({"min": 0, "max": 1, "step": 1e-7}, "step"),
    ],
    ids=["empty", "not-nested", "no-coarser", "off-grid", "too-many"],
)
def test_intervals_that_are_none_are_refused(fields, path):
    with pytest.raises(ConfigError) as caught:
        Intervals(**fields)
    assert [problem.path for problem in caught.value.problems] == [path]


def test_codes_lose_their_last_characters():
    tree = Prefix(length=3).build()
    assert tree.leaves == 1000
    assert [len(names) for names in tree.labels] == [1000, 100, 10, 1]
    assert tree.label(120, 130) == "12*"
    assert tree.label(100, 200) == "1**"
    cells = pd.Series(["007", 7, 7.0, "7", "x07", None, " 123 "])
    assert Prefix(length=3).codes(cells).tolist() == [7, 7, 7, -1, -1, -1, 123]


def test_listed_codes_are_the_domain():
    part = Prefix(length=2, values=("20", "11", "10"))
    tree = part.build()
    assert tree.labels == (("10", "11", "20"), ("1*", "2*"), ("*",))
    assert part.codes(pd.Series(["20", "21", "10"])).tolist() == [2, -1, 0]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"length": 7}, "length"),
        ({"length": 2, "values": ("1",)}, "values"),
        ({"length": 1, "values": ("1", "1")}, "values"),
    ],
    ids=["too-many", "short", "twice"],
)
def test_prefixes_that_cannot_be_listed_are_refused(fields, path):
    with pytest.raises(ConfigError) as caught:
        Prefix(**fields)
    assert caught.value.problems[0].path == path


PATHS = (("India", "Asia", "*"), ("France", "Europe", "*"), ("Japan", "Asia", "*"))


def test_leaves_of_a_taxonomy_are_ordered_by_their_groups():
    part = Taxonomy(paths=PATHS)
    tree = part.build()
    assert tree.labels == (("India", "Japan", "France"), ("Asia", "Europe"), ("*",))
    assert part.codes(pd.Series(["France", "Peru", "India", None])).tolist() == [2, -1, 0, -1]
    assert tree.label(0, 2) == "Asia"
    assert tree.label(1, 3) == "{Japan, France}"


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ((("a", "x", "*"), ("b", "x", "+")), "'x' of level 1 is in '*' and in '+'"),
        ((("a", "*"), ("a", "*")), "'a' is there twice"),
        ((("a", "x"), ("b", "y")), "2 groups (x, y)"),
        ((("a", "x", "*"), ("b", "*")), "'b' has 2 levels"),
    ],
    ids=["two-parents", "twice", "no-root", "uneven"],
)
def test_what_is_no_tree_is_refused(paths, words):
    with pytest.raises(ConfigError, match=r".") as caught:
        Taxonomy(paths=paths)
    assert words in str(caught.value)


def test_a_file_is_read_once_and_kept(tmp_path):
    (tmp_path / "countries.csv").write_text("﻿India;Asia;*\nFrance;Europe;*\n", encoding="utf-8")
    read = Taxonomy(file="countries.csv").read(tmp_path)
    assert read.paths == (("India", "Asia", "*"), ("France", "Europe", "*"))
    assert read.file == ""
    with pytest.raises(MissingDataError, match="cannot read the taxonomy"):
        Taxonomy(file="towns.csv").read(tmp_path)
    (tmp_path / "latin.csv").write_bytes("Köln,*\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        Taxonomy(file="latin.csv").read(tmp_path)
    with pytest.raises(ConfigError, match="either file or paths"):
        Taxonomy()


def test_dates_are_truncated():
    part = Dates(min="1989-11-30", max="1990-02-02", levels=("month", "quarter", "year"))
    tree = part.build()
    assert tree.labels[1] == ("1989-11", "1989-12", "1990-01", "1990-02")
    assert tree.labels[2] == ("1989-Q4", "1990-Q1")
    assert tree.labels[3] == ("1989", "1990")
    cells = pd.Series(["1989-11-30", "1990-02-02", "1990-02-03", "soon", None, "1990-01-01"])
    assert part.codes(cells).tolist() == [0, 64, -1, -1, -1, 32]
    assert tree.label(0, 2) == "1989-11-30-1989-12-01"


def test_dates_before_1970_and_coarse_leaves():
    part = Dates(min="1955-06-15", max="1971-01-01", leaf="year", levels=("decade",))
    tree = part.build()
    assert tree.labels[0][0] == "1955"
    assert tree.labels[1] == ("1950s", "1960s", "1970s")
    cells = pd.Series(["15.06.1955", "31.12.1969", "1.1.1970"])
    german = Dates(
        min="1955-06-15", max="1971-01-01", leaf="year", levels=("decade",), format="%d.%m.%Y"
    )
    assert german.codes(cells).tolist() == [0, 14, 15]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"min": "1990-13-01", "max": "1991-01-01"}, "min"),
        ({"min": "1992-01-01", "max": "1991-01-01"}, "max"),
        ({"min": "1990-01-01", "max": "1991-01-01", "levels": ("year", "month")}, "levels"),
        ({"min": "1990-01-01", "max": "1991-01-01", "leaf": "month"}, "levels"),
    ],
    ids=["no-date", "backwards", "finer", "same"],
)
def test_dates_that_are_none_are_refused(fields, path):
    with pytest.raises(ConfigError) as caught:
        Dates(**fields)
    assert caught.value.problems[0].path == path


def test_categories_are_a_value_or_anything():
    tree = Categories(("low", "high")).build()
    assert tree.labels == (("low", "high"), ("*",))
    assert not tree.is_ordered
    assert Categories(("low", "high"), is_ordered=True).build().is_ordered
    assert Categories(("1", "2")).codes(pd.Series([2.0, 1.0, 3.0])).tolist() == [1, 0, -1]
    assert Categories(("only",)).build().height == 0
    with pytest.raises(ConfigError):
        Categories(("a", "a"))
    with pytest.raises(ConfigError):
        Categories(())
