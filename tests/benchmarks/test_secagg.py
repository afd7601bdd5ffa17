"""The benchmark of secure sums: its sums are checked, its bars bite, Flower's parts are counted."""

import pytest
from flwr.common.secure_aggregation.crypto.shamir import create_shares


@pytest.fixture
def module(bench):
    return bench("secagg")


@pytest.mark.parametrize("bits", [20, 32])
def test_a_session_is_run_and_its_sum_compared(module, bits):
    cost = module.run(module.Case(9, 0.2, bits=bits), 1000)
    assert cost.threshold == 7
    assert cost.client_s > 0
    assert cost.server_s > 0
    overhead = 1000 * cost.bytes_each - 1000 * bits / 8
    assert 8 * 94 < overhead < 4000


def test_ckks_stands_beside_masks(module):
    text = module.with_ckks(module.Case(9, 0.0), 5000)
    assert [line.split(" | ")[4] for line in text.splitlines() if line.startswith("| 9 ")] == [
        "fedsim, masks",
        "CKKS, composed",
        "plain, float32",
    ]
    cost = module.encrypted(module.Case(10, 0.0), 4096)
    assert 40 < cost.bytes_each < 60
    assert cost.server_s > 0


def test_a_wrong_sum_stops_the_benchmark(module, monkeypatch):
    monkeypatch.setattr(module.Cohort, "vector", lambda self, client: self.sum + 1)
    with pytest.raises(RuntimeError, match="not the sum of the survivors"):
        module.run(module.Case(9, 0.0), 10)


def test_bars_are_of_the_case_and_bite(module):
    case = module.Case(100, 0.1, server_s=1.5)
    ours, theirs = module.Cost(0.2, 1.4, 4.07), module.Cost(2.2, 41.0, 8.0)
    found = list(module.bars(case, ours, theirs))
    assert [bar.holds for bar in found] == [True, True, True, True, False]
    assert found[-1].cells[-3:] == ["29.29 x", "at least 30 x", "FAIL"]
    assert found[1].cells[-3:] == ["1.4 s", "at most 1.5 s", "PASS"]
    slow = list(module.bars(case, module.Cost(0.3, 1.6, 4.09), None))
    assert [bar.holds for bar in slow] == [False, False, False]


def test_shares_of_flower_have_the_pieces_that_are_counted(module):
    """A key and a seed, as its client shares them."""
    key, _ = module.key_pair()
    sizes = [len(create_shares(secret, 2, 3)[0]) for secret in (module.SEED, key)]
    assert tuple(sizes) == module.share_sizes(key)


def test_flowers_seconds_are_put_together(module, monkeypatch):
    """With every part at a second: three clients, one of them lost."""
    monkeypatch.setattr(module, "least", lambda task, times=3: 1.0)
    pieces = module.pieces(module.key_pair()[0])
    cost = module.flower(module.Case(3, 0.34), 10, 2)
    assert cost.client_s == 2 + (pieces + 3) + 2 * 2 + 2 * 3 + 1 + 1
    assert cost.server_s == 2 + 2 * (3 + 1) + (pieces + 2 * 2) + 1


def test_every_case_has_its_targets(module):
    assert [(c.clients, c.lost, c.client_s, c.server_s) for c in module.CASES if c.bits == 32] == [
        (100, 0.0, 0.25, 0.5),
        (100, 0.1, 0.25, 1.5),
        (100, 0.3, 0.25, 3.5),
        (1000, 0.1, 0.3, 15.0),
    ]
    ratios = {c.bits: c.bytes_ratio for c in module.CASES if c.clients == 100}
    assert ratios == {32: 1.02, 24: 0.78, 20: 0.66}
