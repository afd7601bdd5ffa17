"""Seeded noise: what it is made of, that it is normal, and that cuts and places change nothing."""

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim.privacy import seeded_noise
from fedsim.privacy.seeded_noise import SeededNoise


@pytest.fixture(scope="module", autouse=True)
def _many():
    """Have the transform make numbers, however few there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeded_noise, "_MANY", 0)
        yield


def drawn(seed, *sizes):
    """The numbers of some calls, one after another."""
    noise, found = SeededNoise(seed), [torch.zeros(size) for size in sizes]
    for own in found:
        noise.add([own], 1.0)
    return torch.cat(found)


def by_hand(words):
    """Box and Muller in float64: first all cosines, then all sines."""
    ours = words.astype(np.float64) / 2**32
    uniform, turns = np.split(ours, 2)
    radii = np.sqrt(-2 * np.log(uniform + 0.5 + 2.0**-24))
    return np.concatenate([radii * np.cos(2 * np.pi * turns), radii * np.sin(2 * np.pi * turns)])


def test_it_is_the_transform_of_the_bits_of_aes():
    key, count = (12345).to_bytes(32, "big"), 1000
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    words = np.frombuffer(cipher.update(bytes(4 * count)), dtype="<i4")
    np.testing.assert_allclose(drawn(12345, count).numpy(), by_hand(words), atol=2e-5)


def test_few_numbers_are_those_of_torch(monkeypatch):
    monkeypatch.setattr(seeded_noise, "_MANY", 20)
    of_torch, few = torch.Generator().manual_seed(12345), torch.zeros(19)
    SeededNoise(12345).add([few[:12].view(3, 4), few[12:]], 2.0)
    expected = [torch.empty(size).normal_(generator=of_torch) for size in ((3, 4), 7)]
    torch.testing.assert_close(few, 2 * torch.cat([own.flatten() for own in expected]))
    many = [torch.zeros(13), torch.zeros(7)]
    SeededNoise(12345).add(many, 2.0)
    torch.testing.assert_close(torch.cat(many), 2 * drawn(12345, 20))


def test_it_is_normal_and_one_number_tells_nothing_of_another():
    count = 2 * seeded_noise._PAIRS + 250_000
    found = drawn(1, count).double().numpy()
    assert stats.kstest(found, "norm").pvalue > 1e-3
    assert stats.kstest(found**2, stats.chi2(1).cdf).pvalue > 1e-3
    tails = [int((np.abs(found) > bound).sum()) for bound in (3.0, 4.0)]
    for seen, bound in zip(tails, (3.0, 4.0), strict=True):
        assert 1e-3 < stats.binom(count, 2 * stats.norm.sf(bound)).cdf(seen) < 1 - 1e-3
    half = seeded_noise._PAIRS  # a cosine and the sine of the same angle are so far apart
    for lag in (1, 2, half):
        for one in (found, found**2):
            assert abs(np.corrcoef(one[:-lag], one[lag:])[0, 1]) < 5 / np.sqrt(count - lag)


def test_streams_of_other_seeds_have_nothing_in_common():
    one, other = drawn(1, 50_000), drawn(2, 50_000)
    assert torch.equal(drawn(1, 50_000), one)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.02


@pytest.mark.parametrize("words", [(-(2**31), 0), (2**31 - 1, -(2**31)), (0, 2**31 - 1)])
def test_no_bits_make_a_number_that_is_not_finite(words, monkeypatch):
    noise = SeededNoise(0)

    class Stuck:
        def read_into(self, target):
            first, second = (np.int32(word).tobytes() for word in words)
            target[:] = first * (len(target) // 8) + second * (len(target) // 8)

    monkeypatch.setattr(noise, "_stream", Stuck())
    found = torch.zeros(64)
    noise.add([found], 1.0)
    assert found.isfinite().all()
    assert found.abs().max() < 5.78


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 9))
def test_how_numbers_are_cut_into_tensors_changes_nothing(sizes, pairs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeded_noise, "_PAIRS", pairs)
        whole, parts = torch.zeros(sum(sizes)), [torch.zeros(size) for size in sizes]
        SeededNoise(7).add([whole], 0.5)
        SeededNoise(7).add(parts, 0.5)
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("size", [1, 5, 2 * seeded_noise._PAIRS, 2 * seeded_noise._PAIRS + 1])
def test_calls_go_on_where_the_last_one_ended(size):
    both = drawn(4, size, 6)
    assert torch.equal(both[:size], drawn(4, size))
    assert not torch.isin(both[size:], both[:size]).any()
    assert both.abs().min() > 0


def test_it_scales_and_adds_to_what_is_there():
    own = torch.full((3, 5), 2.0)
    SeededNoise(9).add([own], -0.25)
    torch.testing.assert_close(own, 2.0 - 0.25 * drawn(9, 15).view(3, 5))


def test_tensors_of_other_kinds_get_the_same_numbers():
    own = [torch.zeros(6, dtype=torch.float64), torch.zeros(4, 3).t()]
    SeededNoise(9).add(own, 2.0)
    expected = 2 * drawn(9, 18)
    torch.testing.assert_close(own[0].float(), expected[:6])
    torch.testing.assert_close(own[1], expected[6:].view(3, 4))
