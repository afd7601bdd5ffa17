"""The wire between two namespaces delays, loses and can be cut: what network tests rest on."""

import pytest


@pytest.fixture
def wire(bench):
    module = bench("wire")
    if missing := module.why_not():
        pytest.skip(missing)
    return module


def test_a_packet_takes_the_delay_both_ways_and_none_is_lost(wire):
    with wire.Wire(delay=0.05) as made:
        share, seconds = wire.measure(made, 20)
        assert share == 1.0
        assert seconds >= 0.1
        assert made.dropped == 0


def test_a_share_is_lost_each_way(wire):
    with wire.Wire(loss=0.3, seed=1) as made:
        share, _ = wire.measure(made, 300)
        # 0.7 squared is 0.49; five standard deviations of 300 draws are 0.144
        assert 0.49 - 0.144 < share < 0.49 + 0.144
        assert made.dropped > 0


def test_nothing_passes_a_cut(wire):
    with wire.Wire() as made:
        made.is_cut = True
        share, _ = wire.measure(made, 5)
        assert share == 0.0
        made.is_cut = False
        assert wire.measure(made, 5)[0] == 1.0
