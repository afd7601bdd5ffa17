"""Recounts beside published numbers, linear programs and the models that recodings go by."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from fedsim.anonymize.files import open_table
from fedsim.anonymize.models import delta_disclosure, l_diversity, t_closeness
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.schema import schema_from_dict
from fedsim.anonymize.verify import recount, undeclared, unmet
from fedsim.errors import ConfigError

ZIP = {"role": "quasi", "hierarchy": {"name": "categories", "values": ["a"]}}
DISEASES = [  # Li, Li and Venkatasubramanian 2007, figure 1
    ("flu", "respiratory infection", "respiratory", "*"),
    ("pneumonia", "respiratory infection", "respiratory", "*"),
    ("bronchitis", "respiratory infection", "respiratory", "*"),
    ("pulmonary edema", "vascular lung", "respiratory", "*"),
    ("pulmonary embolism", "vascular lung", "respiratory", "*"),
    ("gastric ulcer", "stomach", "digestive", "*"),
    ("stomach cancer", "stomach", "digestive", "*"),
    ("gastritis", "stomach", "digestive", "*"),
    ("colitis", "colon", "digestive", "*"),
    ("colon cancer", "colon", "digestive", "*"),
]


def counted(folder, rows, sensitive, c=3.0):
    path = folder / "out.csv"
    pd.DataFrame(rows, columns=["zip", "value"]).to_csv(path, index=False)
    schema = schema_from_dict(
        {"columns": {"zip": ZIP, "value": {"role": "sensitive", **sensitive}}}
    )
    return recount(open_table(path), schema, c=c)


def test_the_salaries_of_the_paper_on_t_closeness(tmp_path):
    """Table 3 of Li et al.: D[P1, Q] = 0.375, D[P2, Q] = 0.167 (section 4.3)."""
    classes = {"476**": [3, 4, 5], "4790*": [6, 11, 8], "476**b": [7, 9, 10]}
    rows = [(z, f"{v}000") for z, values in classes.items() for v in values]
    found = counted(tmp_path, rows, {"distance": "ordered"})
    assert (found.k, found.classes, found.rows) == (3, 3, 9)
    assert found.sensitive[0].t == pytest.approx(0.375)
    assert found.sensitive[0].distinct == 3
    assert found.sensitive[0].entropy == pytest.approx(3)
    assert found.sensitive[0].delta is None  # no class has all nine salaries


def transport(p, q, distances):
    """The earth mover's distance by its definition: a linear program."""
    n = len(p)
    rows, columns = np.zeros((n, n * n)), np.zeros((n, n * n))
    for i, j in itertools.product(range(n), range(n)):
        rows[i, i * n + j] = columns[j, i * n + j] = 1
    found = linprog(distances.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.append(p, q))
    return found.fun


def tree_distances():
    n = len(DISEASES)
    found = np.zeros((n, n))
    for i, j in itertools.product(range(n), range(n)):
        if i != j:
            found[i, j] = next(h for h in range(4) if DISEASES[i][h] == DISEASES[j][h]) / 3
    return found


TABLES = st.lists(
    st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=4
)  # classes of diseases


@settings(max_examples=30)
@given(TABLES)
def test_distances_are_those_of_a_linear_program(tmp_path_factory, classes):
    folder = tmp_path_factory.mktemp("t")
    rows = [(f"z{i}", DISEASES[v][0]) for i, values in enumerate(classes) for v in values]
    counts = np.array([np.bincount(values, minlength=10) for values in classes])
    q = counts.sum(axis=0) / counts.sum()
    tree = {"name": "taxonomy", "paths": [list(path) for path in DISEASES]}
    for distance, ground in (
        ("equal", 1.0 - np.eye(10)),
        ("hierarchical", tree_distances()),
        ("ordered", np.abs(np.subtract.outer(np.arange(10), np.arange(10))) / 9),
    ):
        most = max(transport(row / row.sum(), q, ground) for row in counts)
        if distance == "ordered":
            numbers = {"name": "intervals", "min": 0, "max": 9}
            rows = [(f"z{i}", v) for i, values in enumerate(classes) for v in values]
            found = counted(folder, rows, {"distance": distance, "hierarchy": numbers})
        else:
            found = counted(folder, rows, {"distance": distance, "hierarchy": tree})
        assert found.sensitive[0].t == pytest.approx(most, abs=1e-7)


def recursive(counts, c):
    """The largest l with r1 < c (r_l + ... + r_m), by the definition."""
    r = sorted((n for n in counts if n), reverse=True)
    return max((n for n in range(1, len(r) + 1) if r[0] < c * sum(r[n - 1 :])), default=0)


@settings(max_examples=50)
@given(TABLES, st.sampled_from([0.5, 1.0, 3.0]))
def test_diversity_and_disclosure_by_their_definitions(tmp_path_factory, classes, c):
    rows = [(f"z{i}", f"v{v}") for i, values in enumerate(classes) for v in values]
    found = counted(tmp_path_factory.mktemp("l"), rows, {}, c)
    (column,) = found.sensitive
    counts = np.array([np.bincount(values, minlength=10) for values in classes])
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert found.k == min(map(len, classes))
    assert column.distinct == min(len(set(values)) for values in classes)
    entropies = [-sum(p * math.log(p) for p in row if p) for row in shares]
    assert column.entropy == pytest.approx(math.exp(min(entropies)))
    assert column.recursive == min(recursive(row, c) for row in counts)
    # and what the recoding goes by comes to the same
    assert column.entropy == pytest.approx(l_diversity.diversities(counts, "entropy").min())
    assert column.recursive == l_diversity.diversities(counts, "recursive", c).min()
    assert column.t == pytest.approx(t_closeness.reached(counts, counts.sum(axis=0)))
    delta = delta_disclosure.reached(counts, counts.sum(axis=0))
    assert (np.inf if column.delta is None else column.delta) == pytest.approx(delta)


@pytest.mark.parametrize(
    ("protection", "reason"),
    [
        (Protection(k=3), "k = 2, declared 3"),
        (Protection(2, "distinct", 2), "value: distinct l = 1, declared 2"),
        (Protection(2, "entropy", 1.5), "value: entropy l = 1, declared 1.5"),
        (Protection(2, "recursive", 2), "value: recursive l = 1, declared 2"),
        (Protection(2, t=0.4), "value: t = 0.5, declared 0.4"),
        (Protection(2, delta=9.0), "value: delta = inf, declared 9"),
    ],
    ids=["k", "distinct", "entropy", "recursive", "t", "delta"],
)
def test_what_is_not_reached_is_said(tmp_path, protection, reason):
    rows = [("z1", "x"), ("z1", "x"), ("z2", "y"), ("z2", "y")]
    assert unmet(counted(tmp_path, rows, {}), protection) == [reason]
    assert unmet(counted(tmp_path, rows, {}), Protection(2, "distinct", 1, t=0.5)) == []


def test_rows_of_stars_are_suppressed_unless_there_are_no_others(tmp_path):
    rows = [("z1", "x"), ("z1", "y"), ("*", ""), ("*", "x"), ("*", "y")]
    found = counted(tmp_path, rows, {})
    assert (found.rows, found.suppressed, found.classes, found.k) == (5, 1, 2, 2)
    alone = counted(tmp_path, [("*", ""), ("*", "")], {})
    assert (alone.suppressed, alone.classes, alone.k) == (0, 1, 2)


def test_identifiers_that_are_left_are_named(tmp_path):
    rows = [("z1", "call 212-555-0143"), ("z1", "ann@example.org"), ("z1", "=SUM(A1)")]
    found = counted(tmp_path, rows, {})
    assert {(one.column, one.kind) for one in found.leftovers} == {
        ("value", "phone"),
        ("value", "email"),
    }
    assert found.leftovers[0].share == pytest.approx(1 / 3, abs=1e-3)
    assert found.formulas == ("value",)


def test_columns_that_should_not_be_there(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("zip,name,extra\na,Ann,1\n")
    schema = schema_from_dict({"columns": {"zip": ZIP, "name": {"role": "direct"}}})
    assert undeclared(open_table(path), schema) == [
        "column 'name' is direct and should be removed",
        "column 'extra' is not in the schema",
    ]
    path.write_text("name\nAnn\n")
    with pytest.raises(ConfigError, match=r"columns\.zip"):
        recount(open_table(path), schema)


def test_a_table_without_rows(tmp_path):
    found = counted(tmp_path, [], {})
    assert (found.rows, found.classes, found.k, found.sensitive) == (0, 0, 0, ())
    assert unmet(found, Protection(k=2)) == ["k = 0, declared 2"]
