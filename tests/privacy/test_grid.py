"""How fine the grid of losses is: thousands of losses far below its interval add up."""

import math

import pytest

from fedsim.privacy import _grid, _losses
from fedsim.privacy._grid import TOLERANCE, excess, finer
from fedsim.privacy._losses import Discrete, compose, losses_of, width_of
from fedsim.privacy._parts import Part
from fedsim.privacy._profile import Gaussian
from fedsim.privacy.accounting import INTERVAL, account
from fedsim.privacy.events import Release, Sampling

#: Rates below a thousandth and much noise: what a loss is here is far below 1e-4.
SMALL = [
    (4.557e-4, 8.698, 4686),
    (1.587e-4, 7.902, 4957),
    (4.161e-4, 8.137, 5348),
    (2.509e-4, 8.815, 6733),
    (1e-3, 5.0, 30_000),
    (2e-5, 3.0, 100_000),
]


def spent(rate, noise, count, **options):
    sampling = Sampling("poisson", rate)
    return account([Release("gaussian", noise, sampling, count)], "zero-out", **options)


def on_a_grid(part, count, interval):
    """The profile on a grid of exactly this interval, whatever `account` would take."""
    sides = [compose([(losses_of(part, side, interval), count)]) for side in ("remove", "add")]
    return Discrete(tuple(sides), interval)


@pytest.mark.parametrize(("rate", "noise", "count"), SMALL)
def test_many_small_losses_are_a_gaussian(rate, noise, count):
    """Bu, Dong, Long and Su 2020, theorem 5: mu = q sqrt(T (e^(1/z^2) - 1)) in the limit."""
    limit = Gaussian(rate * math.sqrt(count * math.expm1(noise**-2)))
    found = spent(rate, noise, count)
    assert found.interval < INTERVAL
    for delta in (1e-3, 1e-5, 1e-8):
        exact = limit.epsilon(delta)
        assert exact - 1e-6 <= found.epsilon(delta) <= exact + TOLERANCE
        assert found.bound(delta).method == "pld"


@pytest.mark.parametrize(("rate", "noise", "count"), SMALL)
def test_what_a_coarse_grid_adds_is_foretold(rate, noise, count):
    """Against a grid that is 64 times as fine."""
    part = Part("poisson", noise, rate)
    fine, coarse = (on_a_grid(part, count, interval) for interval in (INTERVAL / 64, INTERVAL))
    added = max(coarse.epsilon(delta) - fine.epsilon(delta) for delta in (1e-3, 1e-5, 1e-8))
    assert TOLERANCE < added <= excess({part: count}, INTERVAL)
    assert finer({part: count}, INTERVAL) <= INTERVAL / 2


def test_losses_of_some_size_keep_the_usual_grid():
    for rate, noise, count in ((0.01, 1.0, 1000), (0.1, 2.0, 100), (0.0294, 1.0, 10_000)):
        found = spent(rate, noise, count)
        assert found.interval == INTERVAL
        assert found.bound(1e-5).method == "pld"


def test_a_finer_grid_never_tells_more():
    part, count = Part("poisson", 8.0, 3e-4), 5000
    found = [on_a_grid(part, count, INTERVAL / 4**i).epsilon(1e-6) for i in range(5)]
    assert found == sorted(found, reverse=True)
    assert found[3] - found[4] < TOLERANCE / 10


def test_a_grid_that_would_be_too_long_is_not_made_finer():
    """Little noise makes the range long; what is left over, Rényi divergences may beat."""
    part, count = Part("poisson", 0.42, 1e-5), 20_000
    interval = finer({part: count}, INTERVAL)
    assert excess({part: count}, interval) > TOLERANCE
    assert 2 * 2 * width_of(part) / interval > _grid._MOST_POINTS / 2


def test_without_a_finer_grid_renyi_divergences_say_less(monkeypatch):
    """What is reported is the less of the two, and says which it is."""
    rate, noise, count = SMALL[3]
    coarse = on_a_grid(Part("poisson", noise, rate), count, INTERVAL).epsilon(6.17e-6)
    monkeypatch.setattr(_grid, "_MOST_POINTS", 0)
    bound = spent(rate, noise, count, interval=INTERVAL * 0.999).bound(6.17e-6)
    assert bound.method == "rdp"
    assert "too coarse" in bound.note
    assert bound.epsilon < coarse - 0.003


def test_what_cannot_be_finer():
    silent = Part("poisson", 0.0, 0.1)
    assert math.isinf(width_of(silent))
    assert finer({silent: 1}, INTERVAL) == INTERVAL
    tiny = Part("laplace", 1e-200)
    assert math.isinf(width_of(tiny))


@pytest.mark.parametrize(
    "part",
    [
        Part("poisson", 1.0, 0.01), Part("poisson", 0.5, 1e-4), Part("gaussian", 2.0),
        Part("laplace", 3.0), Part("pure", rate=0.7),
    ],
    ids=lambda part: f"{part.kind} {part.noise:g} {part.rate:g}",
)  # fmt: skip
def test_the_range_of_losses(part):
    """It is what the distribution has, within a factor of two."""
    found = losses_of(part, "remove", 1e-3)
    length = len(found.masses) * 1e-3
    assert length / 2 <= width_of(part) <= 2 * length
    assert width_of(part) < _losses.MOST_POINTS_OF_ONE * 1e-3


def test_parts_together():
    """Twice the releases in two parts are the same as in one."""
    one, other = Part("poisson", 8.0, 3e-4), Part("poisson", 8.0, 3.0000001e-4)
    assert excess({one: 2000, other: 3000}, INTERVAL) == pytest.approx(
        excess({one: 5000}, INTERVAL), rel=1e-4
    )
    pure = Part("pure", rate=1e-5)
    assert excess({pure: 100}, INTERVAL) > 0
