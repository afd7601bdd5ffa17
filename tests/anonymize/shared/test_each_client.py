"""What every client has by itself where k, l and t hold over each client, recounted by definition.

Definitions are written out anew here, over rows, with nothing of `fedsim.anonymize.models`:
distinct values, exp of the entropy, recursive (c, l) of Machanavajjhala et al. 2007, total
variation (the earth mover's distance where all values are alike) of Li et al. 2007.
"""

import math
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedsim.anonymize import shared
from fedsim.anonymize.hierarchies.categories import Categories
from fedsim.anonymize.hierarchies.intervals import Intervals
from fedsim.anonymize.protection import Protection
from fedsim.anonymize.table import Encoded, Sensitive
from fedsim.errors import DataError

AGE = Intervals(min=0, max=7, widths=(2, 4)).build()
TOWN = Categories(values=("u", "v", "w")).build()
ILLS = Categories(values=("a", "b", "c")).build()
PROTECTIONS = {
    "k": Protection(k=3),
    "distinct": Protection(k=2, diversity="distinct", l=2),
    "entropy": Protection(k=2, diversity="entropy", l=1.6),
    "recursive": Protection(k=2, diversity="recursive", l=2, c=3.0),
    "t": Protection(k=2, t=0.35),
    "l and t": Protection(k=3, diversity="distinct", l=2, t=0.45),
}
few = settings(deadline=None, max_examples=20)
hows = st.sampled_from(["sets", "nodes"])
kinds = st.sampled_from(sorted(PROTECTIONS)).map(PROTECTIONS.get)


def table(rows):
    """A table of (age, town, ill)."""
    found = np.array(rows, dtype=np.int32).reshape(-1, 3)
    ill = Sensitive("ill", found[:, 2], ("a", "b", "c"), "equal", ILLS)
    return Encoded(("age", "town"), (AGE, TOWN), found[:, :2], (ill,))


@st.composite
def clients(draw):
    """Rows of two to four clients, few and lumpy, dealt with or without regard to what they are."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    number, skew = draw(st.integers(2, 4)), draw(st.sampled_from([0.0, 0.5, 0.9]))
    shares = np.array([0.5, 0.3, 0.2])
    own = []
    for client in range(number):
        rows = draw(st.integers(0, 25))
        mine = (1 - skew) * shares + skew * np.eye(3)[client % 3] * 0.6 + skew * 0.4 * shares
        ills = rng.choice(3, rows, p=mine / mine.sum())
        own.append(np.stack([rng.integers(0, 8, rows), rng.integers(0, 3, rows), ills], axis=1))
    return own


def is_protected(ills, everybody, asked):
    """Say of the sensitive values of one class whether it has what is asked, by definition."""
    counts = sorted(Counter(ills).values(), reverse=True)
    size, found = len(ills), True
    if size < asked.k:
        return False
    if asked.diversity == "distinct":
        found &= len(counts) >= asked.l
    if asked.diversity == "entropy":
        found &= math.exp(-sum(n / size * math.log(n / size) for n in counts)) >= asked.l - 1e-9
    if asked.diversity == "recursive":
        l_ = math.ceil(asked.l)
        found &= len(counts) >= l_ and counts[0] < asked.c * sum(counts[l_ - 1 :])
    if asked.t is not None:
        total, here = Counter(everybody), Counter(ills)
        far = sum(abs(here[v] / size - total[v] / len(everybody)) for v in "abc") / 2
        found &= far <= asked.t + 1e-9
    return found


def classes_of(recoding, rows):
    """The sensitive values of each class that a client has; all its rows have to be in one."""
    found = defaultdict(list)
    for number, row in zip(recoding.class_of.tolist(), rows, strict=True):
        found[number].append("abc"[row[2]])
    assert -1 not in found
    return list(found.values())


def agreed(parts, asked, **settings):
    """Grow a cut from sums alone."""
    cut = shared.start(parts[0], "schema", asked, **settings)
    while cut.open:
        cut = shared.grow(cut, sum(shared.counts(cut, part) for part in parts), parts[0])
    return cut


def is_let_out(cut, part):
    """Say whether a client suppresses none of its rows: each of its classes has what is asked."""
    return bool((shared.kept_by(cut, part, is_late=False).class_of >= 0).all())


def letters(own):
    """The sensitive values of all clients' rows."""
    return ["abc"[row[2]] for rows in own for row in rows]


@given(clients(), kinds, hows)
@few
def test_each_client_has_it_by_itself_or_is_said_to_lack_it(own, asked, how):
    everybody = letters(own)
    assume(is_protected(everybody, everybody, asked))
    parts = [table(rows) for rows in own]
    cut = agreed(parts, asked, how=how, k_over="client")
    for rows, part in zip(own, parts, strict=True):
        fine = [
            is_protected(ills, everybody, asked)
            for ills in classes_of(shared.assign(cut, part), rows)
        ]
        as_one = not len(rows) or is_protected(letters([rows]), everybody, asked)
        assert all(fine) == as_one == is_let_out(cut, part)


@given(clients(), kinds, hows)
@few
def test_the_union_has_it_as_well(own, asked, how):
    everybody = letters(own)
    assume(is_protected(everybody, everybody, asked))
    parts = [table(rows) for rows in own]
    cut = agreed(parts, asked, how=how, k_over="client")
    found = defaultdict(list)
    for rows, part in zip(own, parts, strict=True):
        numbers = shared.descend(cut, part.codes)[0]
        for number, row in zip(numbers.tolist(), rows, strict=True):
            found[number].append("abc"[row[2]])
    assert all(is_protected(ills, everybody, asked) for ills in found.values())


@given(clients(), kinds)
@few
def test_no_cut_was_left_out_that_no_client_is_against(own, asked):
    """Every class, cut anywhere in two by any column, leaves some client or all with too little."""
    everybody = letters(own)
    assume(is_protected(everybody, everybody, asked))
    parts = [table(rows) for rows in own]
    assume(all(not len(rows) or is_protected(letters([rows]), everybody, asked) for rows in own))
    cut = agreed(parts, asked, how="sets", k_over="client")
    numbers = [shared.descend(cut, part.codes)[0] for part in parts]
    for one in range(cut.classes):
        inside = [rows[own_numbers == one] for rows, own_numbers in zip(own, numbers, strict=True)]
        for column in (0, 1):
            for leaf in np.unique(np.concatenate(inside)[:, column])[:-1]:
                sides = [
                    [rows[(rows[:, column] <= leaf) == is_left] for rows in inside]
                    for is_left in (True, False)
                ]
                assert not all(
                    is_protected(letters([rows]), everybody, asked)
                    for side in sides
                    for rows in (*side, np.concatenate(side))
                    if len(rows)
                )


def test_a_client_with_one_sensitive_value_is_said_to_lack_l():
    rng = np.random.default_rng(0)
    mixed = np.stack([rng.integers(0, 8, 60), rng.integers(0, 3, 60), rng.integers(0, 3, 60)], 1)
    same = mixed.copy()
    same[:, 2] = 0
    parts = [table(mixed), table(same)]
    cut = agreed(parts, PROTECTIONS["distinct"], k_over="client")
    assert [is_let_out(cut, part) for part in parts] == [True, False]
    over_all = agreed(parts, PROTECTIONS["distinct"])
    assert over_all.classes > cut.classes == 1  # it vetoes every cut, and has no diversity for that
    with pytest.raises(DataError, match="columns"):
        is_let_out(cut, replace(parts[0], names=("age", "city")))


def test_clients_that_cannot_have_it_have_no_class():
    rng = np.random.default_rng(0)
    rows = [
        np.stack([rng.integers(0, 8, 40), rng.integers(0, 3, 40), np.full(40, c)], 1)
        for c in (0, 1, 2)
    ]
    parts = [table(own) for own in rows]
    cut = agreed(parts, PROTECTIONS["distinct"], k_over="client")
    assert [shared.kept_by(cut, part, is_late=False).classes for part in parts] == [0, 0, 0]
    assert agreed(parts, PROTECTIONS["distinct"]).classes > 1
