"""Adult: no more is lost than other tools lose, and no less is kept for a model.

ARX 3.9's figures, measured with its own hierarchies: local recoding 0.0832 at k = 10, full-domain
0.6608 with all rows and 0.3380 with at most 5 % left out; 0.2546 at k = 10, l = 2, t = 0.3, with
10.98 % left out. anonypy 0.2.1 (sets): 0.0576 at k = 10. Times are in benchmarks/anonymize.py.
"""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from fedsim.anonymize.models import l_diversity, t_closeness
from fedsim.anonymize.protection import Protection, histogram
from fedsim.anonymize.recode import recode
from fedsim.anonymize.utility import losses

from .tables import groups_of

K = Protection(k=10)
KLT = Protection(k=10, diversity="distinct", l=2, t=0.3)


@pytest.mark.parametrize(
    ("protection", "how", "most"),
    [(K, "sets", 0.060), (K, "nodes", 0.083), (KLT, "sets", 0.16), (KLT, "nodes", 0.2546)],
    ids=["k-sets", "k-nodes", "klt-sets", "klt-nodes"],
)
def test_local_recoding_loses_less_than_others(adult, protection, how, most):
    recoding = recode(adult, protection, how)
    assert recoding.suppressed == 0
    assert recoding.sizes.min() >= 10
    assert losses(adult, recoding)["gcp"] <= most
    for column, tree in enumerate(adult.trees):
        which = recoding.index[recoding.class_of, column]
        assert recoding.values[column].contain(which, adult.codes[:, column]).all()
        if how == "nodes":
            values = recoding.values[column]
            groups = {(min(group), max(group) + 1) for group in groups_of(tree)}
            assert set(zip(values.low.tolist(), values.high.tolist(), strict=True)) <= groups
    if protection is KLT:
        counts = histogram(recoding.class_of, adult.sensitive[0], recoding.classes)
        table = np.bincount(adult.sensitive[0].codes)
        assert l_diversity.diversities(counts).min() >= 2
        assert t_closeness.reached(counts, table) <= 0.3


@pytest.mark.parametrize(("share", "most"), [(0.0, 0.66085), (0.05, 0.33805)])
def test_full_domain_is_no_worse_than_the_optimum_of_arx(adult, share, most):
    recoding = recode(adult, K, "full-domain", max_suppression=share)
    assert recoding.sizes.min() >= 10
    assert recoding.suppressed <= share * adult.rows
    assert losses(adult, recoding)["gcp"] <= most


def test_a_permuted_table_gives_the_same_classes(adult):
    order = np.random.default_rng(3).permutation(adult.rows)
    other = type(adult)(adult.names, adult.trees, adult.codes[order])
    want = recode(adult, K).class_of[order]
    np.testing.assert_array_equal(recode(other, K).class_of, want)


def features(adult, recoding):
    """Encode released rows: weight on the leaves covered; of numbers midpoint and width."""
    found = []
    for column, tree in enumerate(adult.trees):
        values, which = recoding.values[column], recoding.index[recoding.class_of, column]
        if not tree.is_ordered:
            found.append(values.mass(tree.leaves)[which])
            continue
        low, last = values.low[values.offsets[:-1]], values.high[values.offsets[1:] - 1] - 1
        found.append((np.stack([(low + last) / 2, last - low], axis=1) / (tree.leaves - 1))[which])
    return np.concatenate(found, axis=1)


def exact(adult):
    """Encode raw rows alike."""
    found = []
    for column, tree in enumerate(adult.trees):
        leaves = adult.codes[:, column]
        if tree.is_ordered:
            found.append(np.stack([leaves / (tree.leaves - 1), np.zeros(len(leaves))], axis=1))
        else:
            found.append(np.eye(tree.leaves)[leaves])
    return np.concatenate(found, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protection", "how", "least"),
    [(K, "sets", 0.874), (K, "nodes", 0.874), (KLT, "sets", 0.863), (KLT, "nodes", 0.863)],
    ids=["k-sets", "k-nodes", "klt-sets", "klt-nodes"],
)
def test_a_model_learns_as_much_as_it_does_from_others(adult, protection, how, least):
    # The bars came from one split in three: 0.003 is what splits differ by.
    recoding = recode(adult, protection, how)
    train, test, label = features(adult, recoding), exact(adult), adult.sensitive[0].codes
    found = []
    for rows, held_out in StratifiedKFold(3, shuffle=True, random_state=0).split(train, label):
        model = LogisticRegression(max_iter=2000).fit(train[rows], label[rows])
        score = model.predict_proba(test[held_out])[:, 1]
        found.append(roc_auc_score(label[held_out], score))
    assert np.mean(found) >= least - 0.003
