"""A cut grown from sums: the central one, cut by cut, and what it promises to every client."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedsim.anonymize import mondrian, shared
from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.intervals import Intervals
from fedsim.anonymize.hierarchies.taxonomy import Taxonomy
from fedsim.anonymize.protection import Protection, allows, targets
from fedsim.anonymize.table import Encoded, Sensitive
from fedsim.errors import ConfigError, DataError

AGE = Intervals(min=0, max=19, widths=(5, 10)).build()
TOWN = Taxonomy(
    paths=tuple((f"t{i}", f"district {i // 3}", f"county {i // 6}", "*") for i in range(12))
).build()
SEX = Categories(values=("f", "m")).build()
ILLS = Categories(values=("a", "b", "c"))
PROTECTIONS = {
    "k": Protection(k=3),
    "distinct": Protection(k=3, diversity="distinct", l=2),
    "t": Protection(k=2, t=0.4),
}


def table(codes, ills):
    tree = ILLS.build()
    sensitive = Sensitive("ill", np.asarray(ills, np.int32), ("a", "b", "c"), "equal", tree)
    codes = np.asarray(codes, np.int32).reshape(-1, 3)
    return Encoded(("age", "town", "sex"), (AGE, TOWN, SEX), codes, (sensitive,))


def rows_of(encoded, rows):
    """Some rows of a table."""
    own = tuple(replace(one, codes=one.codes[rows]) for one in encoded.sensitive)
    return replace(encoded, codes=encoded.codes[rows], sensitive=own)


@st.composite
def tables(draw, least=8, most=150):
    """A table of lumpy rows, where all rows together have what the protections ask for."""
    rows = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([1, 2, 4]))
    codes = np.stack([rng.integers(0, max(1, n // spread), rows) for n in (20, 12, 2)], axis=1)
    ills = np.concatenate([[0, 1, 2], rng.choice(3, rows - 3, p=[0.6, 0.3, 0.1])])
    return table(codes, ills)


@st.composite
def dealt(draw, clients=(1, 6)):
    """(table, tables of clients): rows dealt at random, so that some clients may have none."""
    whole = draw(tables())
    number = draw(st.integers(*clients))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    owner = rng.integers(0, number, whole.rows)
    return whole, [rows_of(whole, np.flatnonzero(owner == i)) for i in range(number)]


few = settings(deadline=None, max_examples=30)
hows = st.sampled_from(["sets", "nodes"])
protections = st.sampled_from(sorted(PROTECTIONS)).map(PROTECTIONS.get)


def agreed(parts, protection, **settings):
    """Grow a cut from sums alone."""
    cut = shared.start(parts[0], "schema", protection, **settings)
    while cut.open:
        cut = shared.grow(cut, sum(shared.counts(cut, part) for part in parts), parts[0])
    return cut


def inside(recoding, encoded):
    """Say of every row that is not suppressed whether its values are among the released ones."""
    kept = np.flatnonzero(recoding.class_of >= 0)
    return all(
        values.contain(recoding.index[recoding.class_of[kept], j], encoded.codes[kept, j]).all()
        for j, values in enumerate(recoding.values)
    )


def is_fine(recoding, encoded, protection, of):
    """Recount: whether every class has what the protection asks for."""
    sizes = np.array([(recoding.class_of == c).sum() for c in range(recoding.classes)])
    (ills,) = encoded.sensitive
    values = np.array(
        [
            np.bincount(ills.codes[recoding.class_of == c], minlength=3)
            for c in range(recoding.classes)
        ]
    ).reshape(-1, 3)
    return bool(allows(protection, sizes, [values] if protection.is_about_values else [], of).all())


@given(dealt(), protections, hows)
@few
def test_sums_of_clients_cut_as_all_rows_in_one_place_do(split, protection, how):
    whole, parts = split
    of = targets(whole.sensitive) if protection.is_about_values else ()
    assume(allows_one(whole, protection, of))
    cut = agreed(parts, protection, how=how)
    class_of, classes = mondrian.grow(whole, protection, of, how)
    mine, _, _ = shared.descend(cut, whole.codes)
    assert (cut.classes, mine.tolist()) == (classes, class_of.tolist())


def allows_one(whole, protection, of):
    values = np.bincount(whole.sensitive[0].codes, minlength=3)[None]
    given_values = [values] if protection.is_about_values else []
    return bool(allows(protection, np.array([whole.rows]), given_values, of)[0])


@given(dealt(), protections, hows)
@few
def test_classes_hold_over_the_federation_and_rows_are_inside_them(split, protection, how):
    whole, parts = split
    of = targets(whole.sensitive) if protection.is_about_values else ()
    cut = agreed(parts, protection, how=how)
    recoding = shared.assign(cut, whole)
    assert is_fine(recoding, whole, protection, of)
    assert inside(recoding, whole)
    mine, _, _ = shared.descend(cut, whole.codes)
    assert set(np.flatnonzero(recoding.class_of < 0)) == set(
        np.flatnonzero(np.isin(mine, cut.refused))
    )
    for part in parts:
        assert inside(shared.assign(cut, part), part)


@given(dealt(), hows)
@few
def test_a_sum_below_k_never_becomes_a_part(split, how):
    """Recounted at every level: a group has k rows or none; the rest of a tree is set aside."""
    whole, parts = split
    cut = shared.start(whole, "schema", Protection(k=4), how=how)
    while cut.open:
        _, _, at = shared.descend(cut, whole.codes)
        sizes = np.bincount(at, minlength=cut.open)
        assert cut.tree > 0 or sizes.min() >= 4
        cut = shared.grow(cut, sum(shared.counts(cut, part) for part in parts), whole)


@given(dealt(clients=(2, 5)), protections, hows)
@few
def test_a_client_that_merges_upward_has_the_protection_by_itself(split, protection, how):
    whole, parts = split
    cut = agreed(parts, protection, how=how)
    of = shared._targets(cut, whole)
    for part in parts:
        fitting = (shared.assign(cut, part).class_of >= 0).sum()
        try:
            recoding = shared.merged(cut, part)
        except DataError:  # not even as one class
            kept = rows_of(part, np.flatnonzero(shared.assign(cut, part).class_of >= 0))
            assert not allows_one(kept, protection, of)
            continue
        assert is_fine(recoding, part, protection, of)
        assert inside(recoding, part)
        assert (recoding.class_of >= 0).sum() == fitting


@given(dealt(clients=(2, 5)), hows)
@few
def test_k_over_every_client_leaves_each_class_with_none_or_k_of_each(split, how):
    _, parts = split
    assume(all(part.rows == 0 or part.rows >= 3 for part in parts))
    cut = agreed(parts, Protection(k=3), how=how, k_over="client")
    for part in parts:
        recoding = shared.assign(cut, part)
        assert recoding.sizes.min(initial=3) >= 3
        assert inside(recoding, part)
        assert (recoding.class_of >= 0).all()


@given(tables(), tables(), hows)
@few
def test_a_late_client_gets_the_frozen_cut(whole, late, how):
    cut = agreed([whole], Protection(k=3), how=how)
    before = cut.fingerprint()
    recoding = shared.assign(cut, late)
    assert inside(recoding, late)
    assert cut.fingerprint() == before
    again = shared.assign(cut, whole)
    known = {tuple(row) for row in whole.codes.tolist()}
    for row, own in zip(late.codes.tolist(), recoding.class_of, strict=True):
        assert own >= 0 or tuple(row) not in known or (again.class_of < 0).any()


@given(dealt(), protections, hows)
@few
def test_a_cut_survives_json_and_equal_cuts_have_equal_bytes(split, protection, how):
    _, parts = split
    cut = agreed(parts, protection, how=how)
    read = shared.cut_from_dict(json.loads(cut.encode()))
    assert read.encode() == cut.encode() == agreed(parts[::-1], protection, how=how).encode()
    assert (shared.assign(read, parts[0]).class_of == shared.assign(cut, parts[0]).class_of).all()


@given(tables(), protections, hows, st.data())
@few
def test_one_record_moves_the_sums_by_the_sensitivity_that_is_stated(whole, protection, how, data):
    gone = data.draw(st.integers(0, whole.rows - 1))
    others = rows_of(whole, np.delete(np.arange(whole.rows), gone))
    cut = shared.start(whole, "schema", protection, how=how)
    while cut.open:
        sums = shared.counts(cut, whole)
        moved = np.linalg.norm(sums - shared.counts(cut, others))
        _, rows, _ = shared.descend(cut, whole.codes)
        counted = gone in rows or (protection.is_about_values and not cut.references)
        assert moved == pytest.approx(shared.sensitivity(cut, whole) if counted else 0)
        cut = shared.grow(cut, sums, whole)


@given(dealt(), protections, hows, st.sampled_from(["federation", "client"]))
@few
def test_vectors_are_as_long_for_everybody(split, protection, how, k_over):
    whole, parts = split
    nobody = rows_of(whole, np.zeros(0, dtype=int))
    cut = shared.start(whole, "schema", protection, how=how, k_over=k_over)
    while cut.open:
        vectors = [shared.counts(cut, part) for part in (*parts, nobody)]
        assert {len(vector) for vector in vectors} == {shared.length(cut, whole)}
        assert not vectors[-1].any()
        cut = shared.grow(cut, sum(vectors), whole)


@pytest.mark.parametrize("seed", range(5))
def test_k_holds_under_noise(seed):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, n, 3000) for n in (20, 12, 2)], axis=1)
    whole = table(codes, rng.integers(0, 3, 3000))
    cut = shared.start(whole, "schema", Protection(k=5), noise_multiplier=1.0)
    assert cut.deviation == pytest.approx(3**0.5)
    while cut.open:
        sums = shared.counts(cut, whole)
        noise = np.rint(rng.normal(0, cut.deviation, len(sums))).astype(int)
        cut = shared.grow(cut, sums + noise, whole)
    recoding = shared.assign(cut, whole)
    assert recoding.classes > 2
    assert recoding.sizes.min() >= 5
    assert recoding.suppressed == 0


def test_what_a_shared_cut_cannot_promise_is_refused():
    whole = table([[1, 1, 1]] * 9, [0, 1, 2] * 3)
    with pytest.raises(ConfigError, match="k_map"):
        shared.start(whole, "schema", Protection(k=2, k_map=3))
    bare = replace(whole, sensitive=(replace(whole.sensitive[0], tree=None),))
    with pytest.raises(ConfigError, match=r"columns\.ill\.hierarchy"):
        shared.start(bare, "schema", PROTECTIONS["distinct"])
    assert shared.start(bare, "schema", PROTECTIONS["k"]).open == 1  # k alone needs none
    with pytest.raises(ConfigError, match="sensitive"):
        shared.start(replace(whole, sensitive=()), "schema", PROTECTIONS["t"])
    with pytest.raises(ConfigError, match="counts_noise_multiplier"):
        shared.start(whole, "schema", PROTECTIONS["t"], noise_multiplier=1.0)


def test_too_few_rows_and_sums_of_nothing_are_errors():
    few = table([[1, 1, 1]] * 2, [0, 1])
    cut = shared.start(few, "schema", Protection(k=3))
    with pytest.raises(DataError, match="k = 3"):
        shared.grow(cut, shared.counts(cut, few), few)
    with pytest.raises(DataError, match="no sums"):
        shared.grow(cut, np.zeros(3, np.int64), few)
    enough = table([[1, 1, 1]] * 5, [0] * 5)
    wrong = shared.counts(cut, enough)
    wrong[1] += 1
    with pytest.raises(DataError, match="counted wrongly"):
        shared.grow(cut, wrong, enough)
    with pytest.raises(DataError, match="columns"):
        shared.counts(cut, replace(enough, names=("age", "town", "gender")))
    with pytest.raises(ValueError, match="not finished"):
        shared.assign(cut, enough)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"how": "boxes"},
        {"protection": {"k": 1}},
        {"leaves": [20, 12]},
        {"covers": []},
        {"levels": [{"tree": 0}]},
        {"names": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_no_cut_is_refused(change):
    rng = np.random.default_rng(0)
    whole = table(np.stack([rng.integers(0, n, 60) for n in (20, 12, 2)], axis=1), [0] * 60)
    plain = json.loads(agreed([whole], Protection(k=3)).encode())
    with pytest.raises(DataError, match="no shared cut"):
        shared.cut_from_dict(plain | change)


def test_a_level_that_leads_nowhere_is_refused():
    rng = np.random.default_rng(0)
    whole = table(np.stack([rng.integers(0, n, 60) for n in (20, 12, 2)], axis=1), [0] * 60)
    for key, value in (("to", 99), ("quasi", 7), ("group", 3)):
        plain = json.loads(agreed([whole], Protection(k=3)).encode())
        plain["levels"][0][key][0] = value
        with pytest.raises(DataError, match="no shared cut"):
            shared.cut_from_dict(plain)
