"""What a model sees of generalized values: numbers by hand, and exact rows as a special case."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.encoding import MOST_GROUPS, Inputs, encoding_of
from fedsim.anonymize.hierarchies._tree import Hierarchy
from fedsim.anonymize.recoding import Recoding, distinct, of_ranges
from fedsim.anonymize.schema import schema_from_dict
from fedsim.errors import ConfigError, DataError

SCHEMA = schema_from_dict(
    {
        "columns": {
            "name": {"role": "direct"},
            "age": {
                "role": "quasi",
                "hierarchy": {"name": "intervals", "min": 20, "max": 60, "widths": [10]},
                "missing": "own",
            },
            "land": {
                "role": "quasi",
                "hierarchy": {
                    "name": "taxonomy",
                    "paths": [["a", "x", "*"], ["b", "x", "*"], ["c", "y", "*"], ["d", "y", "*"]],
                },
            },
            "ward": {
                "role": "insensitive",
                "hierarchy": {"name": "categories", "values": ["w", "v"]},
            },
            "note": {"role": "insensitive"},
            "ill": {"role": "sensitive"},
        }
    }
)
ENCODING = encoding_of(SCHEMA, "ill")


def value(inputs: Inputs, *leaves: int) -> list[float]:
    _, values = distinct([np.array(leaves)])
    return inputs.of_values(values)[0].tolist()


def test_the_inputs_have_names_and_what_is_left_out_is_said() -> None:
    assert ENCODING.names == (
        *("age", "age width", "age=missing"),
        *("land=a", "land=b", "land=c", "land=d"),
        *("ward=w", "ward=v", "suppressed"),
    )
    assert ENCODING.left_out == ("name", "note")
    assert ENCODING.exact == ("ward",)
    assert ENCODING.width == 10


def test_a_category_is_weight_one_spread_evenly() -> None:
    land = ENCODING.inputs[1]
    assert value(land, 2) == [0, 0, 1, 0]
    assert value(land, 0, 1) == [0.5, 0.5, 0, 0]
    assert value(land, 0, 2, 3) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    assert land.of_everything().tolist() == [0.25] * 4


def test_an_interval_is_its_midpoint_and_width() -> None:
    age = ENCODING.inputs[0]  # 41 leaves of 20 to 60, and one of empty cells
    assert value(age, 0) == [-1, 0, 0]
    assert value(age, 40) == [1, 0, 0]
    assert value(age, *range(10, 20)) == pytest.approx([(34.5 - 40) / 20, 9 / 40, 0])
    assert value(age, *range(41)) == pytest.approx([0, 1, 0])
    assert value(age, 41) == [0, 0, 1]
    assert value(age, *range(42)) == pytest.approx([0, 1, 1 / 42])
    assert value(age, 0, 1, 41) == pytest.approx([-0.975, 1 / 40, 1 / 3])
    assert value(age, 0, 40) == [0, 1, 0]  # a set with a hole: mean position, and as wide as all


def test_rows_of_a_recoding() -> None:
    age, ages = of_ranges(np.array([0, 10]), np.array([1, 20]))
    land, lands = distinct([np.array([0, 1]), np.array([3])])
    recoding = Recoding(
        np.array([1, -1, 0, 1], dtype=np.int32), np.stack([age, land], axis=1), (ages, lands)
    )
    found = ENCODING.of_released(recoding, {"ward": np.array([0, 1, 1, 0])})
    interval = [np.float32((34.5 - 40) / 20), np.float32(9 / 40), 0]
    anything = [0, 1, np.float32(1 / 42)]
    expected = [
        [*interval, 0, 0, 0, 1, 1, 0, 0],
        [*anything, 0.25, 0.25, 0.25, 0.25, 0, 1, 1],
        [-1, 0, 0, 0.5, 0.5, 0, 0, 0, 1, 0],
        [*interval, 0, 0, 0, 1, 1, 0, 0],
    ]
    assert found == pytest.approx(np.array(expected))
    assert found.dtype == np.float32


cells = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(20, 60)), st.sampled_from("abcd"), st.sampled_from("wv")
    ),
    min_size=1,
    max_size=30,
)


@given(cells)
def test_exact_rows_are_released_rows_of_single_leaves(rows: list[tuple[int, str, str]]) -> None:
    frame = pd.DataFrame(rows, columns=["age", "land", "ward"])
    codes = ENCODING.codes(frame, SCHEMA)
    exact = ENCODING.of_exact(codes)
    pairs = [of_ranges(codes[name], codes[name] + 1) for name in ENCODING.quasi]
    recoding = Recoding(
        np.arange(len(rows), dtype=np.int32),
        np.stack([index for index, _ in pairs], axis=1),
        tuple(values for _, values in pairs),
    )
    assert np.array_equal(ENCODING.of_released(recoding, codes), exact)
    weights = exact[:, 3:7]
    assert (weights.sum(axis=1) == 1).all()
    assert [ENCODING.names[3 + i][-1] for i in weights.argmax(axis=1)] == [r[1] for r in rows]
    assert (exact[:, 2] == frame["age"].isna()).all()
    known = frame["age"].notna().to_numpy()
    assert np.allclose(exact[known, 0] * 20 + 40, frame["age"][known].astype(float))


@given(st.sets(st.integers(0, 41), min_size=1), st.sets(st.integers(0, 3), min_size=1))
def test_values_agree_with_leaves_taken_one_by_one(ages: set[int], lands: set[int]) -> None:
    age, land = ENCODING.inputs[:2]
    leaves = land.of_codes(np.arange(4))
    assert value(land, *sorted(lands)) == pytest.approx(leaves[sorted(lands)].mean(axis=0))
    known = sorted(ages - {41})
    singles = age.of_codes(np.arange(42))
    mean = singles[known, 0].mean() if known else 0
    width = (known[-1] - known[0]) / 40 if known else 0
    found = value(age, *sorted(ages))
    assert found == pytest.approx([mean, width, (41 in ages) / len(ages)], abs=1e-6)


def test_a_large_domain_is_encoded_by_its_groups() -> None:
    column = {"role": "quasi", "hierarchy": {"name": "prefix", "length": 5}}
    schema = schema_from_dict({"columns": {"zip": column}})
    zips = encoding_of(schema, "").inputs[0]
    assert len(zips.names) == MOST_GROUPS
    assert zips.names[123] == "zip=123**"
    found = zips.of_codes(np.array([12_345, 99_999]))
    assert found.argmax(axis=1).tolist() == [123, 999]
    assert found.sum(axis=1).tolist() == [1, 1]
    _, half = of_ranges(np.array([12_350]), np.array([12_450]))
    assert zips.of_values(half)[0, [122, 123, 124, 125]].tolist() == [0, 0.5, 0.5, 0]


def test_dates_lie_on_their_own_line() -> None:
    hierarchy = {"name": "dates", "min": "2020-01-01", "max": "2020-12-31", "leaf": "month"}
    hierarchy |= {"levels": ["quarter"]}
    schema = schema_from_dict({"columns": {"born": {"role": "quasi", "hierarchy": hierarchy}}})
    (born,) = encoding_of(schema, "").inputs
    days = np.array([0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335])
    assert np.allclose(born.of_codes(np.arange(12))[:, 0], (days - 167.5) / 167.5)
    assert value(born, 0, 1, 2) == pytest.approx([(91 / 3 - 167.5) / 167.5, 60 / 335])


def test_one_leaf_is_a_constant() -> None:
    tree = Hierarchy((np.zeros(1, dtype=np.int32),), (("5",),), np.array([5.0]))
    assert Inputs("x", tree).of_codes(np.array([0, 0])).tolist() == [[0, 0], [0, 0]]


def test_a_cell_outside_of_the_domain_is_refused() -> None:
    frame = pd.DataFrame({"age": [30], "land": ["elsewhere"], "ward": ["w"]})
    with pytest.raises(DataError, match=r"column 'land': 1 cell is .* not in the schema's domain"):
        ENCODING.codes(frame, SCHEMA)
    assert ENCODING.codes(frame, SCHEMA, "age").keys() == {"age"}


def test_there_must_be_something_to_generalize() -> None:
    schema = schema_from_dict({"columns": {"ill": {"role": "sensitive"}}})
    with pytest.raises(ConfigError, match="role quasi"):
        encoding_of(schema, "ill")
