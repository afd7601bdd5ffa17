"""Devices: what tasks take by hand, what distributions draw, when devices are there."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim import registry
from fedsim.devices import Device, Fleet, Periods, Spans, Work
from fedsim.devices._draws import read_draw
from fedsim.devices.drawn import Drawn
from fedsim.errors import ConfigError, RunFailedError

DEVICE = Device(2e9, 1e6, 5e5, compute_watts=4.0, down_watts=1.0, up_watts=2.0, waiting_watts=0.5)


def test_seconds_and_joules_are_those_of_a_calculation_by_hand():
    # 3 MB down at 1 MB/s; 200 examples of 5e7 operations at 2e9 a second; 1 MB up at 0.5 MB/s.
    spans = DEVICE.spans(Work(3e6, 200, 5e7, 1e6))
    assert spans == Spans(3.0, 5.0, 2.0)
    assert spans.total_s == 10.0
    assert DEVICE.joules(spans, waiting_s=4.0) == 3 * 1 + 5 * 4 + 2 * 2 + 4 * 0.5
    assert spans.until(1.0) == Spans(1.0, 0.0, 0.0)
    assert spans.until(9.0) == Spans(3.0, 5.0, 1.0)
    assert spans.until(math.inf) == spans


def test_a_device_whose_trace_says_how_long_an_example_takes_asks_nothing_of_the_model():
    device = Device(1.0, 1e6, 1e6, 1.0, 1.0, 1.0, example_s=0.25)
    assert device.spans(Work(0, 8, 1e15, 0)).compute_s == 2.0


@pytest.mark.parametrize(
    ("text", "median"),
    [
        ("lognormal:20,0.5", 20.0),
        ("uniform:1,3", 2.0),
        ("exponential:5", 5 * math.log(2)),
        ("pareto:1,2", math.sqrt(2)),
        ("zipf:8,3", 8.0),  # most are the fastest
        ("constant:4", 4.0),
        ("choice:1,7,9", 7.0),
    ],
)
def test_distributions_have_the_medians_of_their_formulas(text, median):
    draw = read_draw("devices.x", text)
    drawn = [draw.of(3, "x", client) for client in range(1000)]
    # The middle of 1000 draws is within four standard deviations of ranks: 63 of them.
    low, high = np.quantile(drawn, [0.437, 0.563])
    assert low <= median * (1 + 1e-6)
    assert median * (1 - 1e-6) <= high
    assert min(drawn) > 0


def test_a_number_is_a_constant_and_each_client_has_its_own_stream():
    assert read_draw("devices.x", 2.5).of(0, "x", 7) == 2.5
    draw = read_draw("devices.x", "lognormal:1,1")
    assert draw.of(1, "a", 5) == draw.of(1, "a", 5)
    others = {draw.of(2, "a", 5), draw.of(1, "b", 5), draw.of(1, "a", 6), draw.of(1, "a", 5)}
    assert len(others) == 4


@pytest.mark.parametrize(
    "text",
    [
        "lognorml:1,1",
        "uniform:3,1",
        "zipf:5,1",
        "lognormal:1",
        "constant:0",
        "choice:",
        "-1",
        "1,2",
    ],
)
def test_what_is_no_distribution_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=r"devices\.down_mbps.*lognormal:median,sigma"):
        Drawn(down_mbps=text)


def test_all_wrong_settings_are_told_at_once():
    with pytest.raises(ConfigError) as found:
        Drawn(down_mbps="x", up_mbps="y")
    assert [problem.path for problem in found.value.problems] == [
        "devices.down_mbps",
        "devices.up_mbps",
    ]
    with pytest.raises(ConfigError, match=r"devices\.offline_s"):
        Drawn(online_s=10.0)


def test_drawn_devices_are_what_their_settings_say():
    fleet = Drawn(flops_per_s=1e9, down_mbps=8, up_mbps=4, compute_watts=3.0).fleet(0)
    assert fleet.device(5) == Device(1e9, 1e6, 5e5, 3.0, 1.0, 1.5, 0.0)
    assert fleet.availability(5).online_until(1e9) == math.inf
    assert registry.load("devices", "untimed")().fleet(0) is None


def inside(periods, span, at):
    """Whether a time is in one of the periods of a trace that repeats: the definition."""
    return any(begin <= at % span < end for begin, end in periods)


@given(
    st.lists(st.integers(0, 19), min_size=2, max_size=8, unique=True).map(sorted),
    st.integers(0, 60),
    st.integers(0, 40),
)
def test_periods_of_a_trace_are_those_of_their_definition(edges, now, offset):
    """Against every second looked at by itself; edges are whole numbers, so seconds suffice."""
    periods = [(float(a), float(b)) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    trace = Periods(tuple(periods), 20.0, float(offset))
    is_there = [inside(periods, 20, at + offset) for at in range(now, now + 45)]
    until, following = trace.online_until(float(now)), trace.next_online(float(now))
    assert (until is not None) == is_there[0]
    if is_there[0]:
        assert following == now
        assert until == now + (is_there.index(False) if False in is_there else math.inf)
    else:
        assert following == now + is_there.index(True)


def test_a_device_that_is_always_there_and_one_that_never_is():
    assert Periods(((0.0, 5.0),), 5.0).online_until(7.0) == math.inf
    assert Periods((), 5.0).next_online(3.0) == math.inf
    fleet = Fleet(lambda client: DEVICE, lambda client: Periods((), 1.0))
    with pytest.raises(RunFailedError, match=r"never 1 clients online"):
        fleet.wait_for(range(3), 0.0, 1)


def test_turns_do_not_depend_on_when_anybody_asks():
    part = Drawn(online_s="exponential:50", offline_s="uniform:5,20")
    times = [0.0, 3.0, 777.7, 2000.0]
    ahead, back = part.fleet(4), part.fleet(4)
    forth = [[ahead.availability(c).online_until(t) for t in times] for c in range(30)]
    again = [[back.availability(c).online_until(t) for t in reversed(times)] for c in range(30)]
    assert forth == [row[::-1] for row in again]
    # Renewal theorem: there for 50 of 62.5 seconds on average, 80 percent.
    # Of 1000 clients, four standard deviations are five percent.
    assert len(part.fleet(0).online(range(1000), 333.0)) == pytest.approx(800, abs=50)
    moment = ahead.availability(0)
    for at in np.linspace(0, 1500, 100):
        until = moment.online_until(float(at))
        assert until is None or until > at
        assert moment.next_online(float(at)) >= at
