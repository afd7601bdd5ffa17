import ast
import inspect
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from fedsim.privacy import _alias, discrete_table
from fedsim.privacy import skellam as module
from fedsim.privacy.discrete import discrete_gaussian
from fedsim.privacy.discrete_table import discrete_gaussian_from_table
from fedsim.privacy.noise import Stream
from fedsim.privacy.skellam import quantized, skellam

VARIANCES = [Fraction(1, 16), Fraction(1), Fraction(7, 2), Fraction(100), Fraction(50_000)]


def seeded(purpose):
    return Stream.seeded(5, purpose)


def p_value(drawn, variance):
    """Chi-square against scipy's pmf, cells of fewer than 10 expected put into the outermost."""
    reach = int(12 * float(variance) ** 0.5) + 12
    cells = np.arange(-reach, reach + 1)
    expected = stats.skellam.pmf(cells, float(variance) / 2, float(variance) / 2) * len(drawn)
    assert abs(drawn).max() <= reach
    observed = np.bincount(drawn + reach, minlength=len(cells))
    common = expected >= 10
    if not common.all():
        observed = np.append(observed[common], observed[~common].sum())
        expected = np.append(expected[common], expected[~common].sum())
    if expected[-1] < 5:
        observed = np.append(observed[:-2], observed[-2:].sum())
        expected = np.append(expected[:-2], expected[-2:].sum())
    return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


@pytest.mark.parametrize("variance", VARIANCES)
def test_numbers_follow_the_law(variance):
    drawn = skellam(variance, 300_000, seeded("law")).numpy()
    assert p_value(drawn, variance) > 1e-3
    assert drawn.var() == pytest.approx(float(variance), rel=0.02)
    assert abs(drawn.mean()) < 4 * (float(variance) / len(drawn)) ** 0.5


def test_the_noise_of_many_clients_is_skellam_of_the_summed_variance():
    """A million sums of ten clients' noise: variance within 1 %, chi-square against the pmf."""
    own = Fraction(17, 4)
    total = sum(skellam(own, 1_000_000, seeded(f"client {i}")) for i in range(10)).numpy()
    assert total.var() == pytest.approx(42.5, rel=0.01)
    assert p_value(total, 10 * own) > 1e-3


@pytest.mark.parametrize("variance", VARIANCES)
def test_weights_are_the_probabilities(variance):
    """scipy's pmf is exact to some 12 digits; ours are multiples of 2^-126 and add up to 1."""
    weights = module._weights(variance)
    assert sum(weights) == 2**126
    half = float(variance) / 2
    k = np.arange(len(weights))
    expected = stats.skellam.pmf(k, half, half) * np.where(k == 0, 1, 2)
    found = np.array([weight / 2**126 for weight in weights])
    seen = expected > 1e-25
    np.testing.assert_allclose(found[seen], expected[seen], rtol=1e-9)
    assert weights[-1] < 2**16  # nothing that could be seen is cut off


def test_weights_obey_the_recurrence_of_bessel_functions_to_thirty_digits():
    """DLMF 10.29.1 holds for P(k - 1), P(k), P(k + 1); floating-point numbers have 16 digits."""
    variance = Fraction(81, 2)
    weights = module._weights(variance)
    p = [Fraction(w, 2**126) / (1 if k == 0 else 2) for k, w in enumerate(weights)]
    for k in range(1, 20):
        error = p[k - 1] - p[k + 1] - 2 * k / variance * p[k]
        assert abs(error) < Fraction(1, 10**33)


@pytest.mark.parametrize("variance", [Fraction(1, 16), Fraction(3), Fraction(1000)])
def test_the_table_is_the_law_exactly(variance):
    """Summed over buckets, thresholds and their complements give the weights back."""
    table = module._table(variance)
    full = 2 ** (126 - table.bits)
    found = [0] * 2**table.bits
    for i in range(2**table.bits):
        threshold = (int(table.high[i]) << 63) + int(table.low[i])
        assert 0 <= threshold <= full
        found[i] += threshold
        found[int(table.other[i])] += full - threshold
    weights = module._weights(variance)
    assert found == weights + [0] * (len(found) - len(weights))


class Given:
    """Words that are given beforehand, where chance would take 2^45 draws."""

    def __init__(self, *words):
        self.left = list(words)

    def words(self, count):
        taken, self.left = self.left[:count], self.left[count:]
        return torch.tensor(taken, dtype=torch.int64)


@pytest.mark.parametrize("sign", [0, 2**63])
def test_equal_upper_bits_are_decided_by_lower_ones(sign):
    table = module._table(Fraction(3))
    bucket = next(i for i in range(2**table.bits) if table.other[i] != i and table.low[i] > 0)
    word = (bucket << (63 - table.bits)) + int(table.high[bucket]) - sign
    threshold = int(table.low[bucket])
    for low, expected in ((threshold - 1, bucket), (threshold, int(table.other[bucket]))):
        target = np.empty(1, np.int64)
        _alias._fill(table, target, Given(word, low))
        assert target.tolist() == [-expected if sign else expected]


def test_how_a_draw_is_cut_does_not_matter_within_a_piece():
    whole = skellam(Fraction(9), 1000, seeded("cut"))
    stream = seeded("cut")
    assert torch.equal(whole, torch.cat([skellam(Fraction(9), n, stream) for n in (1, 99, 900)]))
    assert not torch.equal(whole, skellam(Fraction(9), 1000, seeded("other")))


def test_what_is_refused():
    for wrong in (0, -1, Fraction(1, 3), 2**30 + 1, Fraction(1, 2**21)):
        with pytest.raises(ValueError, match="variance"):
            skellam(wrong, 1, seeded("wrong"))
    assert skellam(1, 0, seeded("none")).tolist() == []


def test_quantized_variances_are_never_less():
    for variance in (1e-9, 0.1, 1.0, 1234.567, 2.0**29 + 0.3):
        assert 0 <= quantized(variance) - Fraction(variance) < Fraction(1, 2**20)


def test_floating_point_numbers_only_say_where_the_tail_begins():
    """No float is in what draws, nor in weights, but for `_start`, and twos of `_exponent`."""
    names = {"float64", "double", "exp", "log", "sqrt", "normals", "uniform"}
    for source, skipped in ((module, {"_start", "_exponent"}), (_alias, set())):
        for node in ast.parse(inspect.getsource(source)).body:
            if isinstance(node, ast.FunctionDef) and node.name not in skipped:
                inner = list(ast.walk(node))
                assert not names & {n.attr for n in inner if isinstance(n, ast.Attribute)}
                constants = [n.value for n in inner if isinstance(n, ast.Constant)]
                assert not [value for value in constants if isinstance(value, float)]


# The discrete Gaussian from a table

SIGMAS = [Fraction(1, 4), Fraction(1, 2), Fraction(3, 2), Fraction(40, 3), Fraction(500)]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_its_weights_are_the_probabilities(sigma):
    weights = discrete_table._weights(sigma)
    assert sum(weights) == 2**126
    k = np.arange(len(weights))
    expected = np.exp(-(k**2) / (2 * float(sigma) ** 2)) * np.where(k == 0, 1, 2)
    expected /= expected.sum()
    found = np.array([weight / 2**126 for weight in weights])
    seen = expected > 1e-27
    np.testing.assert_allclose(found[seen], expected[seen], rtol=1e-9)
    assert weights[-1] < 2**16 or sigma < 1


def test_its_ratios_are_right_to_thirty_digits():
    """P(1)^4 = P(2) P(0)^3, since the logarithm is a square."""
    p = [
        Fraction(w, 2**126) / (1 if k == 0 else 2)
        for k, w in enumerate(discrete_table._weights(Fraction(3)))
    ]
    assert abs(p[1] ** 4 / (p[2] * p[0] ** 3) - 1) < Fraction(1, 10**34)
    assert abs(p[2] ** 9 / (p[3] ** 4 * p[0] ** 5) - 1) < Fraction(1, 10**34)


@pytest.mark.parametrize("sigma", SIGMAS[1:])
def test_its_numbers_follow_the_law(sigma):
    """Against a sample of the exact sampler: two ways to one law."""
    count = 100_000
    drawn = discrete_gaussian_from_table(sigma, count, seeded("table")).numpy()
    exact = discrete_gaussian(sigma, count, seeded("exact")).numpy()
    cells = np.unique(np.concatenate([drawn, exact]))
    width = max(1, int(2 * sigma) // 20)
    groups = cells // width
    table = np.array(
        [
            [np.isin(sample, cells[groups == g]).sum() for g in np.unique(groups)]
            for sample in (drawn, exact)
        ]
    )
    common = table.sum(axis=0) >= 20
    assert stats.chi2_contingency(table[:, common]).pvalue > 1e-3
    assert drawn.var() == pytest.approx(exact.var(), rel=0.03)


def test_sigmas_that_have_no_table():
    for wrong in (0, Fraction(1, 5), 2**15 + 1):
        with pytest.raises(ValueError, match="sigma"):
            discrete_gaussian_from_table(wrong, 1, seeded("wrong"))
