"""The best levels against every combination of them."""

from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.anonymize.hierarchies.prefix import Prefix
from fedsim.anonymize.models import t_closeness
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.recode import recode
from fedsim.anonymize.table import Encoded, Sensitive
from fedsim.anonymize.utility import losses
from fedsim.errors import ConfigError, DataError

from .tables import TREES, tables


def best_by_trying_all(encoded, protection, most):
    """Return the least GCP of all combinations of levels, by the definition."""
    values = encoded.sensitive[0].codes
    table = np.bincount(values, minlength=3)
    found = [np.inf]
    for levels in product(*(range(tree.height + 1) for tree in encoded.trees)):
        classes = defaultdict(list)
        for row, leaves in enumerate(encoded.codes):
            groups = [t.levels[j][n] for t, j, n in zip(TREES, levels, leaves, strict=True)]
            classes[tuple(map(int, groups))].append(row)
        lost, left_out = 0.0, 0
        for groups, rows in classes.items():
            counts = np.bincount(values[rows], minlength=3)[None]
            far = t_closeness.distances(counts, table)[0]
            if len(rows) < protection.k or (protection.t and far > protection.t + 1e-12):
                left_out += len(rows)
                continue
            for tree, level, group in zip(TREES, levels, groups, strict=True):
                covered = int((tree.levels[level] == group).sum())
                lost += len(rows) * (covered - 1) / (tree.leaves - 1)
        if left_out <= most and left_out < encoded.rows:
            found.append((lost + left_out * len(TREES)) / encoded.rows / len(TREES))
    return min(found)


@settings(max_examples=30)
@given(
    encoded=tables(least=6, most=25),
    k=st.integers(2, 5),
    t=st.sampled_from([None, 0.2, 0.4]),
    share=st.sampled_from([0.0, 0.1, 0.3]),
)
def test_no_combination_of_levels_loses_less(encoded, k, t, share):
    protection = Protection(k=k, t=t)
    recoding = recode(encoded, protection, "full-domain", max_suppression=share)
    most = int(share * encoded.rows + 1e-9)
    want = best_by_trying_all(encoded, protection, most)
    assert losses(encoded, recoding)["gcp"] == pytest.approx(want, abs=1e-9)


def test_too_many_combinations_of_levels_are_refused():
    trees = tuple(Prefix(length=9, values=("123456789", "987654321")).build() for _ in range(7))
    encoded = Encoded(tuple("abcdefg"), trees, np.zeros((4, 7), dtype=np.int32))
    with pytest.raises(ConfigError, match="10,000,000"):
        recode(encoded, Protection(k=2), "full-domain")


def test_levels_that_leave_out_too_much_are_not_taken():
    cells = np.array([[1, 0, 0]] * 4 + [[2, 0, 0]], dtype=np.int32)
    sensitive = Sensitive("s", np.array([0, 0, 0, 0, 1], dtype=np.int32), ("u", "v"))
    encoded = Encoded(("x", "y", "z"), TREES, cells, (sensitive,))
    protection = Protection(k=2, t=0.05, t_reference="given")
    with pytest.raises(DataError, match="no levels leave out at most 1 of 5"):
        recode(
            encoded,
            protection,
            "full-domain",
            max_suppression=0.2,
            references=[np.array([1, 1])],
        )
