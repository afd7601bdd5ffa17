import ast
import inspect
from fractions import Fraction

import numpy as np
import pytest
from scipy import special, stats

from fedsim.privacy import discrete
from fedsim.privacy.discrete import discrete_gaussian, discrete_gaussian_one, zcdp
from fedsim.privacy.noise import Stream


def seeded(purpose):
    return Stream.seeded(11, purpose)


def law(variance, reach=12):
    """The cells and probabilities of the discrete Gaussian, up to `reach` sigma."""
    sigma = float(variance) ** 0.5
    cells = np.arange(-int(reach * sigma) - 3, int(reach * sigma) + 4)
    weight = np.exp(-(cells**2) / (2 * float(variance)))
    return cells, weight / weight.sum()


def fits(drawn, variance):
    """The p-value of a chi-square test, cells of fewer than 10 expected put into one."""
    cells, probability = law(variance)
    assert drawn.min() >= cells[0]
    assert drawn.max() <= cells[-1]
    observed = np.bincount(drawn - cells[0], minlength=len(cells))
    expected = probability * len(drawn)
    rare = expected < 10
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / len(drawn)
        expected *= observed.sum() / expected.sum()
    return stats.chisquare(observed, expected).pvalue


@pytest.mark.parametrize(
    "variance", [Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(49, 9)]
)
def test_one_by_one(variance):
    stream = seeded("one")
    drawn = np.array([discrete_gaussian_one(variance, stream) for _ in range(1500)])
    assert fits(drawn, variance) > 0.01


@pytest.mark.parametrize(
    "sigma", [Fraction(1, 3), Fraction(1, 2), 1, Fraction(3, 2), Fraction(7, 3), 10, 100]
)
def test_whole_arrays(sigma):
    drawn = discrete_gaussian(sigma, 100_000, seeded("many")).numpy()
    assert len(drawn) == 100_000
    assert fits(drawn, Fraction(sigma) ** 2) > 0.01


@pytest.mark.parametrize("sigma", [2**20, 2**27, Fraction(2**27 - 1, 2**3)])
def test_wide_ones(sigma):
    drawn = discrete_gaussian(sigma, 100_000, seeded("wide")).numpy()
    assert stats.kstest(drawn / float(sigma), "norm").pvalue > 0.01
    assert stats.chisquare(np.bincount(drawn & 15, minlength=16)).pvalue > 0.01


def test_numbers_too_large_for_64_bits_take_another_way_to_the_same_law(monkeypatch):
    monkeypatch.setattr(discrete, "_ROOM", 30)
    drawn = discrete_gaussian(Fraction(3, 2), 2000, seeded("room")).numpy()  # |y| up to 3 are small
    assert fits(drawn, Fraction(9, 4)) > 0.01


def test_fine_fractions_are_exact_too():
    sigma = Fraction(2**27 - 1, 2**26)
    assert fits(discrete_gaussian(sigma, 100_000, seeded("fine")).numpy(), sigma**2) > 0.01


def test_its_variance_is_below_that_of_the_normal():
    """Canonne, Kamath and Steinke, corollary 9."""
    for sigma in (Fraction(1, 2), 1, 5):
        drawn = discrete_gaussian(sigma, 50_000, seeded("variance")).double()
        assert float(drawn.var()) < float(sigma) ** 2 * 1.02


def test_what_is_refused():
    for wrong in (0, -1, 2**27 + 1, Fraction(1, 2**28)):
        with pytest.raises(ValueError, match="sigma"):
            discrete_gaussian(wrong, 1, seeded("wrong"))
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="variance"):
            discrete_gaussian_one(wrong, seeded("wrong"))
    assert discrete_gaussian(1, 0, seeded("none")).tolist() == []


def test_no_floating_point_number_is_in_its_source():
    tree = ast.parse(inspect.getsource(discrete))
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert not [value for value in constants if isinstance(value, float)]
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not named & {"float", "float64", "double", "exp", "log", "sqrt", "normals", "uniform"}


@pytest.mark.parametrize("sigma", [Fraction(1, 2), 1, 3])
def test_its_zcdp_bounds_every_renyi_divergence(sigma):
    """Definition of zCDP on the exact law, neighbours one apart."""
    cells = np.arange(-200, 201)
    log_weight = -(cells**2) / (2 * float(sigma) ** 2)
    log_p = log_weight - special.logsumexp(log_weight)
    log_q = -((cells - 1) ** 2) / (2 * float(sigma) ** 2) - special.logsumexp(log_weight)
    for order in (1.5, 2, 4, 8):
        divergence = special.logsumexp(order * log_p + (1 - order) * log_q) / (order - 1)
        bound = float(zcdp(sigma, 1)) * order
        assert 0.9 * bound < divergence <= bound * (1 + 1e-9)
