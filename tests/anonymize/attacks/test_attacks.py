"""Attacks on released tables, by what an attacker can read: labels, and who is in which box."""

import numpy as np
import pytest

from fedsim.anonymize.protection import Protection
from fedsim.errors import ConfigError


def boxes(out, schema):
    """Every class of a table: its rows, and which leaves each of its labels covers.

    Labels are read as the hierarchies write them: a group's name, a range, or a list in braces.
    """
    quasi = list(schema.having("quasi"))
    trees = {name: schema.columns[name].tree() for name in quasi}
    covers = {name: {} for name in quasi}
    for name, tree in trees.items():
        for groups, names in zip(tree.levels, tree.labels, strict=True):
            for group, label in enumerate(names):
                covers[name].setdefault(label, groups == group)
        for label in set(out[name]) - set(covers[name]):
            covers[name][label] = _covered(label, tree)
    return [
        (rows, [covers[name][label] for name, label in zip(quasi, labels, strict=True)])
        for labels, rows in out.groupby(quasi, sort=False).groups.items()
    ]


def _covered(label, tree):
    leaf = {name: i for i, name in enumerate(tree.labels[0])}
    found = np.zeros(tree.leaves, dtype=bool)
    inner = label[1:-1].split(", ") if label.startswith("{") else [label]
    for part in inner:
        if part in leaf:
            found[leaf[part]] = True
        else:
            low, high = part.split("-")
            found[leaf[low] : leaf[high] + 1] = True
    return found


def codes(raw, schema):
    quasi = schema.having("quasi")
    return np.stack([schema.columns[name].hierarchy.codes(raw[name]) for name in quasi], axis=1)


def matches(box, people):
    """Which people, by all their quasi-identifiers, fit a box."""
    fits = np.ones(len(people), dtype=bool)
    for column, covered in enumerate(box):
        fits &= covered[people[:, column]]
    return fits


@pytest.mark.parametrize("how", ["nodes", "sets", "full-domain"])
def test_linkage_finds_nobody_with_more_than_one_chance_in_k(adult, release, how):
    """A prosecutor has a target's eight quasi-identifiers, reads which boxes they fit, and takes
    one row of the smallest box for the target's. The thread says whether it is.
    """
    raw, schema = adult
    k = 10
    out = release(how=how, protection=Protection(k=k), max_suppression=0.05)
    targets = np.random.default_rng(7).choice(len(raw), 3_000, replace=False)
    people = codes(raw, schema)[targets]
    best = np.full(len(targets), np.iinfo(np.int64).max)
    chance = np.zeros(len(targets))
    number = {thread: i for i, thread in enumerate(raw["thread"][targets])}
    for rows, box in boxes(out, schema):
        fits = matches(box, people)
        smaller = fits & (len(rows) < best)
        best[smaller] = len(rows)
        chance[smaller] = 0
        inside = {number[t] for t in out["thread"][rows] if t in number}
        for i in inside:
            assert fits[i]  # a row is in a box that its own values fit
            if smaller[i]:
                chance[i] = 1 / len(rows)
    fitting = best < np.iinfo(np.int64).max
    assert fitting.mean() > 0.9
    assert best[fitting].min() >= k
    assert chance.max() <= 1 / k
    assert 0 < chance.mean() <= 1 / k


def test_linkage_finds_people_in_the_raw_table(adult):
    """What the same attacker does with the names taken off and nothing else."""
    raw, schema = adult
    _, sizes = np.unique(codes(raw, schema), axis=0, return_counts=True)
    assert (sizes == 1).sum() / len(raw) > 0.4


def homogeneous(out, schema):
    """The share of rows whose class says what their sensitive value is."""
    values = out.groupby(list(schema.having("quasi")))["salary-class"].agg(["nunique", "size"])
    return values.loc[values["nunique"] == 1, "size"].sum() / len(out)


def test_homogeneity_betrays_at_k_alone_and_not_with_l(adult, release):
    _, schema = adult
    assert homogeneous(release(protection=Protection(k=10)), schema) > 0.2
    two = release(protection=Protection(10, "distinct", 2))
    assert homogeneous(two, schema) == 0


def intersected(one, two):
    """Sizes of what two classes of two cuts have in common: where a target must be."""
    both = one.merge(two, on="thread", suffixes=("_1", "_2"))
    names = [name for name in both if name.endswith(("_1", "_2")) and "salary" not in name]
    return both.groupby(names).size()


def test_two_cuts_of_the_same_rows_undo_each_other_and_are_refused(adult, release, tmp_path):
    _, schema = adult
    k, rows = 10, slice(0, 8_000)
    pins = tmp_path / "pins"
    one = release(rows, pins=pins, protection=Protection(k=k), how="nodes")
    with pytest.raises(ConfigError, match="let out before"):
        release(rows, pins=pins, protection=Protection(k=k), how="full-domain")
    # were it not refused: whoever has both tables knows two boxes of a target
    two = release(rows, pins=tmp_path / "none", protection=Protection(k=k), how="full-domain")
    quasi = list(schema.having("quasi"))
    assert one.groupby(quasi).size().min() >= k
    assert two.groupby(quasi).size().min() >= k
    common = intersected(one, two)
    assert common.min() == 1
    assert (common[common < k]).sum() / len(one) > 0.1
