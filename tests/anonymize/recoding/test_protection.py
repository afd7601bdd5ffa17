"""What a protection accepts, and which classes it allows."""

import numpy as np
import pytest

from fedsim.anonymize.protection import Protection, allows, histogram, targets
from fedsim.anonymize.table import Sensitive
from fedsim.errors import ConfigError

SENSITIVE = Sensitive("disease", np.array([0, 0, 1, 2, 1, 0], dtype=np.int32), ("a", "b", "c"))


def test_every_wrong_value_is_named():
    with pytest.raises(ConfigError) as raised:
        Protection(k=1, l=0.5, c=0, t=2.0, delta=-1, k_map=0, diversity="much", t_reference="x")
    paths = {problem.path for problem in raised.value.problems}
    assert paths == {"k", "l", "c", "t", "delta", "k_map", "diversity", "t_reference"}


@pytest.mark.parametrize("wrong", [{"k": "5"}, {"k": 2.5}, {"k": True}, {"t": float("nan")}])
def test_a_number_is_a_number(wrong):
    with pytest.raises(ConfigError):
        Protection(**wrong)


def test_histograms_count_rows_by_class_and_value():
    class_of = np.array([0, 1, 1, 0, -1, 1])
    assert histogram(class_of, SENSITIVE, 2).tolist() == [[1, 0, 1], [2, 1, 0]]


def test_the_reference_is_the_table_or_what_is_given():
    (of,) = targets([SENSITIVE])
    np.testing.assert_allclose(of.reference, [3 / 6, 2 / 6, 1 / 6])
    (of,) = targets([SENSITIVE], [np.array([1, 1, 2])])
    np.testing.assert_allclose(of.reference, [0.25, 0.25, 0.5])


@pytest.mark.parametrize("given", [[1, 1], [0, 0, 0], [1, -1, 3]])
def test_a_reference_that_is_no_distribution_is_refused(given):
    with pytest.raises(ConfigError, match="disease"):
        targets([SENSITIVE], [np.array(given)])


def test_every_model_has_to_hold_for_every_sensitive_column():
    sizes = np.array([4, 4, 3])
    one = np.array([[2, 2], [4, 0], [2, 1]])
    two = np.array([[2, 2], [2, 2], [1, 2]])
    of = targets(
        [
            Sensitive(name, np.array([0, 1], dtype=np.int32), ("x", "y"))
            for name in ("first", "second")
        ]
    )
    assert allows(Protection(k=4), sizes, (), ()).tolist() == [True, True, False]
    diverse = Protection(k=3, diversity="distinct", l=2)
    assert allows(diverse, sizes, [one, two], of).tolist() == [True, False, True]
    close = Protection(k=3, t=0.1)
    assert allows(close, sizes, [one, two], of).tolist() == [True, False, False]
    assert allows(close, sizes, [two, two], of).tolist() == [True, True, False]
    hidden = Protection(k=3, delta=0.5)
    assert allows(hidden, sizes, [one, two], of).tolist() == [True, False, True]
