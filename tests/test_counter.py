"""Counter-based streams: fixed for ever, even, and independent of who draws beside whom."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim import counter
from fedsim.counter import bits, client_keys, permutations


def murmur(h):
    """MurmurHash3's fmix32 in unbounded integers (Appleby 2011)."""
    h &= 0xFFFFFFFF
    h = (h ^ (h >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ (h >> 16)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1), st.integers(-9, 2**40))
def test_bits_are_two_keyed_rounds_of_murmurs_finalizer(first, second, salt):
    drawn = bits(torch.tensor([first, second], dtype=torch.int32), 5, salt).tolist()
    for i, value in enumerate(drawn):
        inner = murmur(i * 0x9E3779B9 ^ murmur(first + salt * 2135587861)) + second
        assert value % 2**32 == murmur(inner)


def test_numbers_on_a_cpu_are_those_of_other_devices_whatever_the_pieces(monkeypatch):
    keys = torch.randint(-(2**31), 2**31 - 1, (3, 2, 2), dtype=torch.int32)
    index, words = torch.arange(700, dtype=torch.int32), keys.unsqueeze(-2)
    elsewhere = counter._hash(words[..., 0], words[..., 1], index, -5)
    for piece in (2**15, 1500, 700, 64):
        monkeypatch.setattr(counter, "_PIECE", piece)
        assert torch.equal(bits(keys, 700, -5), elsewhere)
    assert bits(keys, 0, 1).shape == (3, 2, 0)


def test_the_first_numbers_stay_what_they_are():
    # Another number here is another order of batches for every seed: never by accident.
    keys = client_keys(7, "training", 3, [0, 1, 2**40])
    assert keys.tolist() == [
        [311559099, 1215635595],
        [-1711576948, -1555279201],
        [1538120174, 964911034],
    ]
    assert permutations(keys[:1], np.array([8]), -1)[0].tolist() == [5, 1, 0, 2, 7, 3, 4, 6]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=6, unique=True), st.integers(-3, 3))
def test_a_client_draws_the_same_in_any_company(clients, salt):
    together = client_keys(1, "x", 2, clients)
    sizes = np.arange(1, len(clients) + 1) * 3
    orders = permutations(together, sizes, salt)
    for i, client in enumerate(clients):
        alone = client_keys(1, "x", 2, [client])
        assert np.array_equal(alone[0], together[i])
        assert np.array_equal(permutations(alone, sizes[i : i + 1], salt)[0], orders[i, : sizes[i]])
        assert sorted(orders[i, : sizes[i]].tolist()) == list(range(sizes[i]))


def test_seed_purpose_round_and_client_all_matter():
    asked = [(1, "a", 1, 1), (2, "a", 1, 1), (1, "b", 1, 1), (1, "a", 2, 1), (1, "a", 1, 2)]
    found = {tuple(client_keys(s, p, r, [c])[0].tolist()) for s, p, r, c in asked}
    assert len(found) == len(asked)


def test_orders_are_uniform():
    keys = client_keys(0, "x", 1, range(24_000))
    orders = permutations(keys, np.full(24_000, 4), -1)
    _, counts = np.unique(orders @ [64, 16, 4, 1], return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_bits_are_even_and_neighbours_do_not_hang_together():
    drawn = bits(torch.from_numpy(client_keys(0, "x", 1, range(64))), 4096, 0).numpy()
    uniform = (drawn.astype(np.float64) + 2**31) / 2**32
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-4
    for one, other in [
        (uniform[:, :-1], uniform[:, 1:]),
        (uniform[:-1], uniform[1:]),
    ]:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.01
