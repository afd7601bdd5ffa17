"""Domains with many leaves: memory grows with rows and leaves, not with their product."""

import tracemalloc

import numpy as np
import pytest

from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.prefix import Prefix
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.recode import recode
from fedsim.anonymize.table import Encoded, Sensitive

ROWS = 20_000


@pytest.mark.parametrize(
    ("how", "values", "megabytes"),
    [
        ("sets", 50, 150),
        ("nodes", 50, 150),
        ("full-domain", 50, 100),
        # Leaves by sensitive values: 20,000 by 1,000 are 160 MB, and are counted together.
        pytest.param("sets", 1000, 500, marks=pytest.mark.slow),
        pytest.param("nodes", 1000, 600, marks=pytest.mark.slow),
        ("full-domain", 1000, 300),
    ],
)
def test_many_leaves_and_many_categories_fit_in_little_memory(how, values, megabytes):
    rng = np.random.default_rng(0)
    trees = (
        Prefix(length=5).build(),
        Categories(values=tuple(f"v{n}" for n in range(10_000))).build(),
    )
    codes = np.stack([rng.integers(0, tree.leaves, ROWS) for tree in trees], axis=1)
    sensitive = Sensitive(
        "s", rng.integers(0, values, ROWS).astype(np.int32), tuple(map(str, range(values)))
    )
    encoded = Encoded(("zip", "job"), trees, codes.astype(np.int32), (sensitive,))
    protection = Protection(k=5, diversity="distinct", l=3)
    tracemalloc.start()
    try:
        recoding = recode(encoded, protection, how)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert recoding.sizes.min() >= 5
    assert recoding.classes > 1
    assert peak < megabytes * 1e6  # classes by leaves alone would be 400 MB and more
