"""Measures of loss against their definitions, row by row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.anonymize.protection import Protection
from fedsim.anonymize.recode import recode
from fedsim.anonymize.utility import losses

from .tables import TREES, boxes, tables


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
