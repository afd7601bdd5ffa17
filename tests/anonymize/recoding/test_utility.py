"""Measures of loss against their definitions, row by row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.protection import Protection
from fedsim.anonymize.recode import recode
from fedsim.anonymize.utility import closeness, losses

from .tables import TREES, boxes, table, tables


@given(encoded=tables(least=5), how=st.sampled_from(["sets", "nodes", "full-domain"]))
def test_losses_are_what_their_definitions_say(encoded, how):
    recoding = recode(encoded, Protection(k=3), how, max_suppression=0.2)
    found, box = losses(encoded, recoding, 3), boxes(recoding)
    members = recoding.class_of.tolist()
    ncp = [
        [
            1.0 if which < 0 else (len(box[which][column]) - 1) / (tree.leaves - 1)
            for which in members
        ]
        for column, tree in enumerate(TREES)
    ]
    assert found["gcp"] == pytest.approx(sum(map(sum, ncp)) / encoded.rows / len(TREES))
    for name, column in zip(encoded.names, ncp, strict=True):
        assert found["ncp"][name] == pytest.approx(sum(column) / encoded.rows)
    indistinct = [encoded.rows if m < 0 else members.count(m) for m in members]
    assert found["discernibility"] == sum(indistinct)
    kept = [m for m in members if m >= 0]
    assert found["c_avg"] == pytest.approx(len(kept) / len(set(kept)) / 3)
    assert found["classes"] == len(set(kept))
    assert found["suppressed"] == members.count(-1)


def test_closeness_says_against_what_where_rows_are_suppressed():
    # Two classes of four, of values 2:2 and 3:1, and two suppressed rows of value 1.
    rows = [(1, 0, 0, n % 2) for n in range(4)] + [(2, 0, 0, int(n == 0)) for n in range(4)]
    encoded = table([*rows, (9, 4, 1, 1), (9, 4, 1, 1)], values=2)
    recoding = recode(encoded, Protection(k=4), "full-domain", max_suppression=0.2)
    assert recoding.suppressed == 2
    assert recoding.classes == 2
    # The table has 5:5, the kept rows 5:3, a class of the suppressed 0:2.
    assert closeness(encoded, recoding)["s"] == pytest.approx(
        {"declared": 0.25, "kept": 0.125, "suppressed_as_class": 0.5}
    )
    given = closeness(encoded, recoding, [np.array([1, 0])])["s"]
    assert given == pytest.approx({"declared": 0.5, "kept": 0.125, "suppressed_as_class": 0.5})
