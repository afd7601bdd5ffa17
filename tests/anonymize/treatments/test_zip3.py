"""ZIP codes: three digits, or none where few live."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.treatments import ColumnContext
from fedsim.anonymize.treatments.zip3 import CENSUS_2000, Zip3
from fedsim.errors import ConfigError, DataError

CTX = ColumnContext("zip")


def test_the_list_of_the_guidance():
    """Office for Civil Rights, 2012, question 3.1: "The 17 restricted ZIP codes are: ..."."""
    listed = "036, 059, 063, 102, 203, 556, 692, 790, 821, 823, 830, 831, 878, 879, 884, 890, 893"
    assert ", ".join(CENSUS_2000) == listed


@given(st.integers(0, 99999))
def test_three_digits_or_none(number):
    code = f"{number:05d}"
    wanted = "000" if code[:3] in CENSUS_2000 else code[:3]
    for cells in ([code], [f"{code}-1234"], [f"{code}1234"], [number], [float(number)]):
        assert Zip3().apply(pd.Series(cells), CTX).tolist() == [wanted]


def test_missing_numbers_and_other_lists():
    found = Zip3().apply(pd.Series([94110, None, 3601, 941101234]), CTX)
    assert found.tolist()[::2] == ["941", "000"]
    assert found[3] == "941"
    assert found.isna().tolist() == [False, True, False, False]
    assert Zip3(("941",)).apply(pd.Series(["94110", "03601"]), CTX).tolist() == ["000", "036"]
    assert Zip3().apply(pd.Series([], dtype="str"), CTX).tolist() == []


@pytest.mark.parametrize(
    "cell",
    ["3601", "941", "9411o", "", "94110-", "94110-12", "SW1A 1AA", "\u0661\u0662\u0663\u0664\u0665",
     -3601, 3601.5, 10**9],
    ids=["lost zero", "three", "letter", "empty", "hyphen", "short", "london", "arabic",
         "negative", "fraction", "ten digits"],
)  # fmt: skip
def test_what_is_no_zip_code(cell):
    with pytest.raises(DataError, match="column 'zip', row 7: a ZIP code") as info:
        Zip3().apply(pd.Series([cell], index=[7]), CTX)
    assert not cell or str(cell) not in str(info.value)


@pytest.mark.parametrize("area", ["36", "0361", "abc", "\u0660\u0663\u0666"])
def test_areas_have_three_digits(area):
    with pytest.raises(ConfigError, match="restricted"):
        Zip3((area,))
