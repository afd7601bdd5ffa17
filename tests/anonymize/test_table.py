"""Tables as codes: cells outside the domain are named by row, never by value."""

import numpy as np
import pandas as pd
import pytest

from fedsim.anonymize.schema import schema_from_dict
from fedsim.anonymize.table import encode
from fedsim.errors import ConfigError, DataError

AGE = {"role": "quasi", "hierarchy": {"name": "intervals", "min": 20, "max": 60, "widths": [10]}}
SCHEMA = schema_from_dict({"columns": {"age": AGE, "illness": {"role": "sensitive"}}})


def frame(**columns):
    return pd.DataFrame({"age": [20, 40, 60], "illness": ["flu", "cold", "flu"]} | columns)


def test_cells_become_leaves_and_places():
    encoded = encode(frame(), SCHEMA)
    assert encoded.codes.tolist() == [[0], [20], [40]]
    assert encoded.sensitive[0].values == ("cold", "flu")
    assert encoded.sensitive[0].codes.tolist() == [1, 0, 1]
    numbers = encode(frame(illness=[10, 9, 10]), SCHEMA).sensitive[0]
    assert numbers.values == ("9", "10")  # in their order as numbers
    assert numbers.codes.tolist() == [1, 0, 1]


def test_cells_outside_the_domain_are_named_by_row_and_not_by_value():
    with pytest.raises(DataError, match="'age': 2 cells are") as caught:
        encode(frame(age=[20, 6173, "secret"]), SCHEMA)
    assert "row 2, 3" in str(caught.value)
    assert "6173" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_empty_cells_are_refused_or_a_value_of_their_own():
    ages = [20, np.nan, 60]
    with pytest.raises(DataError, match=r"1 cell is \(row 2\) empty"):
        encode(frame(age=ages), SCHEMA)
    own = schema_from_dict(
        {"columns": {"age": AGE | {"missing": "own"}, "illness": {"role": "sensitive"}}}
    )
    encoded = encode(frame(age=ages), own)
    assert encoded.codes.tolist() == [[0], [41], [40]]
    assert encoded.trees[0].labels[0][41] == "missing"


def test_columns_that_nobody_declared_are_not_let_out():
    with pytest.raises(ConfigError, match=r"columns\.ward"):
        encode(frame(ward=[1, 2, 3]), SCHEMA)
    with pytest.raises(ConfigError, match="Did you mean 'agee'"):
        encode(frame().rename(columns={"age": "agee"}), SCHEMA)
    twice = frame()
    twice.columns = ["age", "age"]
    with pytest.raises(ConfigError, match="there once"):
        encode(twice, SCHEMA)


def test_a_schema_without_quasi_identifiers_is_refused():
    schema = schema_from_dict(
        {"columns": {"age": {"role": "insensitive"}, "illness": {"role": "sensitive"}}}
    )
    with pytest.raises(ConfigError, match="nothing to generalize"):
        encode(frame(), schema)


def test_ordered_distance_needs_an_order():
    columns = {"age": AGE, "illness": {"role": "sensitive", "distance": "ordered"}}
    with pytest.raises(ConfigError, match="numbers without empty cells"):
        encode(frame(), schema_from_dict({"columns": columns}))
