"""Noise: of the law and the scale that its epsilon needs, and charged for what it claims."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedsim.anonymize.treatments import ColumnContext
from fedsim.anonymize.treatments.noise import Noise
from fedsim.errors import ConfigError, DataError
from fedsim.privacy.accounting import account

CTX = ColumnContext("pay")
MANY = 40_000
LAPLACE = Noise(10, 30, epsilon=0.5)
GAUSSIAN = Noise(10, 30, "gaussian", epsilon=0.5, delta=1e-6)
UNPROTECTED = Noise(10, 30, scale=4)


def fits(sample, law):
    """Kolmogorov and Smirnov: noise is random, so refuse right noise once in 10^7 runs only."""
    return stats.kstest(sample, law.cdf).pvalue > 1e-7


@pytest.mark.parametrize(
    ("part", "law"),
    [
        (LAPLACE, stats.laplace(scale=20 / 0.5)),
        (UNPROTECTED, stats.laplace(scale=4)),
        (Noise(10, 30, "gaussian", scale=4), stats.norm(scale=4)),
    ],
    ids=["laplace", "scale", "normal"],
)
def test_noise_has_its_law_around_clamped_numbers(part, law):
    for given, clamped in ((12.5, 12.5), (-1e9, 10), (31, 30)):
        noisy = part.apply(pd.Series([given] * MANY), CTX)
        assert fits(noisy - clamped, law)
        assert not fits(noisy - clamped - 0.1 * law.std(), law)


def test_gaussian_noise_is_what_epsilon_and_delta_need():
    """Balle and Wang, ICML 2018, theorem 8, written out with scipy."""
    s = GAUSSIAN.spread / 20
    norm = stats.norm.cdf
    need = norm(1 / (2 * s) - 0.5 * s) - math.exp(0.5) * norm(-1 / (2 * s) - 0.5 * s)
    assert need == pytest.approx(1e-6, rel=1e-6)
    noisy = GAUSSIAN.apply(pd.Series([25.0] * MANY), CTX)
    assert fits(noisy - 25, stats.norm(scale=GAUSSIAN.spread))


@pytest.mark.parametrize(
    ("part", "delta"), [(LAPLACE, 0.0), (GAUSSIAN, 1e-6)], ids=["laplace", "gaussian"]
)
def test_the_ledger_is_charged_what_is_claimed(part, delta):
    """Once for each record, however many there are; as often as a person has rows."""
    releases = part.releases(1000)
    assert releases == part.releases(1)
    assert part.adjacency == "replace-one"
    found = account(releases, part.adjacency)
    assert found.epsilon(delta) == pytest.approx(0.5, rel=2e-3)
    thrice = account(part.releases(1000, per_subject=3), part.adjacency)
    assert thrice.epsilon(1e-6) > 1.7 * found.epsilon(1e-6)
    assert part.releases(0) == ()
    assert "epsilon 0.5" in part.title


def test_laplace_outputs_are_as_likely_as_epsilon_says():
    """Of the two records that are furthest apart, no outcome tells by more than e^epsilon."""
    part = Noise(0, 1, epsilon=1)
    low, high = (part.apply(pd.Series([x] * 200_000), CTX) for x in (-5.0, 5.0))
    edges = np.linspace(-2, 3, 11)
    counts = [np.histogram(noisy, edges)[0] for noisy in (low, high)]
    ratio = np.log(counts[1] / counts[0])
    error = 6 * np.sqrt(1 / counts[0] + 1 / counts[1])
    assert (np.abs(ratio) <= 1 + error).all()
    assert ratio[-1] > 0.9  # the bound is reached: no more noise than is needed
    assert ratio[0] < -0.9


def test_what_claims_nothing_is_called_that():
    assert UNPROTECTED.title == "unprotected noise"
    assert UNPROTECTED.releases(1000) == ()
    noisy = UNPROTECTED.apply(pd.Series([11.0, None, 29]), CTX)
    assert noisy.isna().tolist() == [False, True, False]


@pytest.mark.parametrize("part", [LAPLACE, UNPROTECTED], ids=["epsilon", "scale"])
def test_noise_is_never_the_same_twice(part):
    cells = pd.Series([20.0] * 1000)
    seeded = ColumnContext("pay", seed=1)
    first, again = part.apply(cells, seeded), part.apply(cells, seeded)
    assert len(set(first) | set(again)) > 1990


def test_results_may_take_the_nearest_bound():
    noisy = Noise(10, 30, epsilon=0.1, outside="nearest").apply(pd.Series([20.0] * 1000), CTX)
    assert noisy.between(10, 30).all()
    assert {10.0, 30.0} <= set(noisy)


def test_all_results_are_on_one_grid():
    """Which doubles come out must not tell the number: all are the centre + multiples of 2^-j."""
    part = Noise(-1, 1, epsilon=1)
    step = 2.0 ** (math.frexp(part.spread)[1] - 37)
    for number in (0.1, 1 / 3, -0.7):
        steps = part.apply(pd.Series([number] * 1000), CTX) / step
        assert (steps == steps.round()).all()


def test_a_missing_cell_cannot_be_hidden():
    cells = pd.Series([11.0, None], index=["a", "b"])
    with pytest.raises(DataError, match=r"row 'b'.*missing"):
        LAPLACE.apply(cells, CTX)


@pytest.mark.parametrize("part", [LAPLACE, GAUSSIAN, UNPROTECTED], ids=["l", "g", "u"])
def test_columns_of_all_kinds(part):
    assert part.apply(pd.Series([], dtype=float), CTX).tolist() == []
    text = part.apply(pd.Series(["12", "13.5"], index=[5, 9], name="pay"), CTX)
    assert text.index.tolist() == [5, 9]
    assert text.name == "pay"
    for cells in (["x"], [True], [np.inf]):
        with pytest.raises(DataError, match="column 'pay'"):
            part.apply(pd.Series(cells), CTX)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"low": 1, "high": 1, "epsilon": 1}, "high"),
        ({"low": 2, "high": 1, "epsilon": 1}, "high"),
        ({"low": -1e308, "high": 1e308, "epsilon": 1}, "high"),
        ({"low": 0, "high": 1}, "epsilon"),
        ({"low": 0, "high": 1, "epsilon": 1, "scale": 1}, "epsilon"),
        ({"low": 0, "high": 1, "epsilon": 1, "delta": 1e-5}, "delta"),
        ({"low": 0, "high": 1, "epsilon": 1, "mechanism": "gaussian"}, "delta"),
        ({"low": 0, "high": 1, "scale": 1, "mechanism": "gaussian", "delta": 1e-5}, "delta"),
        ({"low": 0, "high": 1, "epsilon": 1e-320}, "epsilon"),
        ({"low": 0, "high": 1, "epsilon": 1e13}, "epsilon"),
        ({"low": 0, "high": 1, "scale": 1e-13}, "scale"),
    ],
    ids=["no width", "crossed", "too wide", "neither", "both", "laplace delta", "no delta",
         "delta alone", "too much", "too little", "too fine"],
)  # fmt: skip
def test_settings_that_contradict_each_other(settings, path):
    with pytest.raises(ConfigError) as info:
        Noise(**settings)
    assert [problem.path for problem in info.value.problems] == [path]
