"""Domains of a hundred thousand leaves in a cut that is shared: counted by groups, or refused."""

import numpy as np
import pytest

from fedsim.anonymize import shared
from fedsim.anonymize._coarse import MOST_LEAVES, MOST_NUMBERS, coarse
from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.intervals import Intervals
from fedsim.anonymize.hierarchies.prefix import Prefix
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.schema import Column
from fedsim.anonymize.table import Encoded, Sensitive
from fedsim.errors import ConfigError

ZIP = Column("quasi", Prefix(length=5), missing="own").tree()  # 100,000 codes, and empty cells
WAGE = Intervals(min=0, max=49_999, widths=(10, 100, 1000)).build()
SEX = Categories(values=("f", "m")).build()
JOB = Categories(values=tuple(f"j{i}" for i in range(20_000))).build()  # no level but the root


def table(rows=400, seed=0, names=("zip", "wage", "sex"), trees=(ZIP, WAGE, SEX)):
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, tree.leaves, rows) // 7 * 7 % tree.leaves for tree in trees]
    codes[0][:3] = trees[0].leaves - 1
    ills = Sensitive("ill", rng.integers(0, 2, rows).astype(np.int32), ("a", "b"), tree=SEX)
    return Encoded(names, trees, np.stack(codes, axis=1).astype(np.int32), (ills,))


@pytest.mark.parametrize("how", ["sets", "nodes"])
@pytest.mark.parametrize("k_over", ["federation", "client"])
def test_clients_agree_on_groups_and_release_whole_ones(how, k_over):
    parts = [table(seed=seed) for seed in range(3)]
    cut, longest = shared.start(parts[0], "schema", Protection(k=10), how=how, k_over=k_over), 0
    while cut.open:
        sums = sum(shared.counts(cut, part) for part in parts)
        longest = max(longest, len(sums))
        cut = shared.grow(cut, sums, parts[0])
    assert cut.leaves == (10_001, 5000, 2)
    assert longest <= sum(len(part.codes) for part in parts) * 3 * 20
    assert cut.classes > 1
    assert len(cut.encode()) < 2e6
    for part in parts:
        for by in (shared.assign, shared.merged):
            recoding = by(cut, part)
            kept = np.flatnonzero(recoding.class_of >= 0)
            assert len(kept) == part.rows
            for j, (values, tree) in enumerate(zip(recoding.values, part.trees, strict=True)):
                which = recoding.index[recoding.class_of[kept], j]
                assert values.contain(which, part.codes[kept, j]).all()
                assert values.high.max() <= tree.leaves
                ends = set(tree.starts[1 if tree.leaves > MOST_LEAVES else 0].tolist())
                assert ends.issuperset(values.low.tolist() + values.high.tolist())


def test_a_table_of_groups_is_cut_as_one_whose_leaves_they_are():
    rng = np.random.default_rng(1)
    fine = Intervals(min=0, max=49_999, widths=(10, 100, 1000)).build()
    plain = Intervals(min=0, max=49_999, step=10, widths=(100, 1000)).build()
    wages, sexes = rng.integers(0, 50_000, 300), rng.integers(0, 2, 300)
    one = Encoded(("wage", "sex"), (fine, SEX), np.stack([wages, sexes], 1).astype(np.int32))
    two = Encoded(("wage", "sex"), (plain, SEX), np.stack([wages // 10, sexes], 1).astype(np.int32))
    cuts = [shared.central(shared.start(t, "s", Protection(k=5)), t) for t in (one, two)]
    assert cuts[0].fingerprint() == cuts[1].fingerprint()
    tens = coarse(one)
    assert (tens.codes == two.codes).all()
    assert tens.trees[0].positions == pytest.approx(plain.positions - 0.5)  # of 0 to 9
    assert [len(names) for names in tens.trees[0].labels] == [5000, 500, 50, 1]


def test_noise_on_the_sums_of_a_large_domain_keeps_k():
    whole = table(rows=30_000, trees=(ZIP, SEX), names=("zip", "sex"))
    cut = shared.start(whole, "schema", Protection(k=5), noise_multiplier=0.3)
    rng = np.random.default_rng(0)
    while cut.open:
        sums = shared.counts(cut, whole)
        assert len(sums) <= 10_003 * cut.open
        cut = shared.grow(cut, sums + np.rint(rng.normal(0, cut.deviation, len(sums))), whole)
    recoding = shared.assign(cut, whole)
    assert recoding.sizes.min() >= 5
    assert recoding.suppressed == 0


def test_a_large_domain_without_levels_is_refused_by_name():
    whole = table(names=("job", "sex"), trees=(JOB, SEX))
    with pytest.raises(ConfigError, match=r"columns\.job\.hierarchy.*20,000 leaves.*16,384") as no:
        shared.start(whole, "schema", Protection(k=3))
    assert "cut=local" in no.value.problems[0].hint


def test_too_many_leaves_by_sensitive_values_are_refused_by_name():
    values = tuple(map(str, range(MOST_NUMBERS // 10_000 + 2)))
    tree = Categories(values=values).build()
    bare = table(trees=(ZIP, SEX), names=("zip", "sex"))
    ills = Sensitive("ill", bare.sensitive[0].codes, values, tree=tree)
    whole = Encoded(bare.names, bare.trees, bare.codes, (ills,))
    asked = Protection(k=3, diversity="distinct", l=2)
    with pytest.raises(ConfigError, match=r"columns\.zip\.hierarchy.*10,001 groups.*840 sens"):
        shared.start(whole, "schema", asked)
    assert shared.start(whole, "schema", Protection(k=3)).open == 1  # k alone counts no values
