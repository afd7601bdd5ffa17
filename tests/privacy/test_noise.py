import copy
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim import crypto, exact
from fedsim.core import Update
from fedsim.crypto import KeyStream
from fedsim.privacy import noise
from fedsim.privacy.noise import (
    LARGEST_NORMAL,
    Stream,
    add_gaussian,
    add_laplace,
    integer_gaussian,
    integer_scale,
)


def seeded(purpose, seed=4):
    return Stream.seeded(seed, purpose)


def chi_square(observed, expected):
    """The p-value of counts by cell, cells of fewer than 10 expected put together."""
    rare = expected < 10
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
    if expected[-1] < 10:
        observed, expected = observed[:-1], expected[:-1]
    return stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


# ChaCha20


def test_key_stream_is_that_of_rfc_8439():
    """Appendix A.1, test vectors 1 and 2: zero key, zero nonce, blocks 0 and 1."""
    blocks = KeyStream(bytes(32)).read(128).hex()
    assert blocks.startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert blocks[128:].startswith(
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
    )


def test_key_stream_goes_on_with_a_new_nonce_where_the_counter_ends(monkeypatch):
    whole = KeyStream(bytes(32)).read(64)
    monkeypatch.setattr(crypto, "_SEGMENT_BYTES", 64)
    stream = KeyStream(bytes(32))
    pieces = [stream.read(48) for _ in range(4)]
    assert b"".join(pieces)[:64] == whole
    assert len({b"".join(pieces)[i : i + 16] for i in range(0, 192, 16)}) == 12


def test_lanes_and_keys_give_different_streams():
    other = bytes(31) + b"\x01"
    assert (
        len({KeyStream(key, lane).read(16) for key in (bytes(32), other) for lane in (0, 1)}) == 4
    )
    assert len(crypto.random_key()) == crypto.KEY_BYTES
    with pytest.raises(ValueError, match="key"):
        KeyStream(b"short")


# Normals


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_are_normal(dtype):
    drawn = seeded("normal").normals(1_000_000, 3.0, dtype=dtype).double().numpy() / 3
    assert abs(drawn.std() - 1) < 0.01
    assert abs(drawn.mean()) < 0.004
    assert stats.kstest(drawn, "norm").pvalue > 0.01
    assert abs((drawn**4).mean() - 3) < 0.04
    halves = drawn[1024 * 31 :][: 2**15].reshape(2, -1)  # one block: cosines, then sines
    assert abs(np.corrcoef(*halves)[0, 1]) < 0.03
    assert abs(np.corrcoef(*halves**2)[0, 1]) < 0.03


def test_the_tail_is_there():
    drawn = seeded("tail").normals(10_000_000).abs_()
    for far in (3.0, 4.0, 5.0):
        expected = 2 * stats.norm.sf(far) * len(drawn)
        found = int((drawn > far).sum())
        assert stats.poisson.sf(found - 1, expected) > 0.005
        assert stats.poisson.cdf(found, expected) > 0.005


def exponentials(words, dtype=torch.float64):
    target = torch.empty(len(words), dtype=dtype)
    noise._exponentials(torch.tensor(words), target, KeyStream(bytes(32)))
    return target


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_few_bits_are_left_more_are_drawn(dtype):
    zero, largest = exponentials([0], dtype), exponentials([2**63 - 1], dtype)
    assert 63 * np.log(2) < zero <= 127 * np.log(2)
    assert largest == 0
    # In between, the same number to as many digits as the first 63 bits give.
    words = [2**30, 2**31 - 1, 2**31, 2**62]
    rough = 1e-6 if dtype == torch.float32 else 1e-9
    assert np.allclose(exponentials(words, dtype), -np.log(np.array(words) * 2.0**-63), rtol=rough)
    many = exponentials([0] * 50_000, dtype) - 63 * np.log(2)  # beyond 2^-63: exponential again
    assert stats.kstest(many.numpy(), "expon").pvalue > 0.01
    assert round(LARGEST_NORMAL, 2) == 13.27


def test_noise_does_not_depend_on_how_many_rare_words_there_are(monkeypatch):
    usual = seeded("rare").normals(2000)
    monkeypatch.setattr(noise, "_RARE", 2**61)
    monkeypatch.setattr(noise, "_RARE_FROM", 0.0)
    assert torch.allclose(seeded("rare").normals(2000), usual, atol=1e-8)


def test_laplace_noise_is_laplace():
    drawn = seeded("laplace").laplace(1_000_000, 2.0).numpy()
    assert stats.kstest(drawn, "laplace", args=(0, 2)).pvalue > 0.01
    assert drawn.var() == pytest.approx(8, rel=0.02)


# Streams


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=8))
def test_how_a_draw_is_cut_does_not_matter(counts):
    whole, pieces = seeded("cut"), seeded("cut")
    drawn, others = [torch.empty(0, dtype=torch.float64)], []
    for count in counts:
        drawn.append(pieces.normals(count))
        others.append(pieces.laplace(count % 7))
        pieces.words(3)
    assert torch.equal(torch.cat(drawn), whole.normals(sum(counts)))
    assert sum(len(other) for other in others) == sum(count % 7 for count in counts)


def test_a_seed_gives_the_same_noise_and_everything_else_another():
    names = [(1, "a", 0, 0), (2, "a", 0, 0), (1, "b", 0, 0), (1, "a", 1, 0), (1, "a", 0, 1)]
    first = [Stream.seeded(s, p, round=r, client=c).normals(4) for s, p, r, c in names]
    again = [Stream.seeded(s, p, round=r, client=c).normals(4) for s, p, r, c in names]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({tuple(drawn.tolist()) for drawn in first}) == len(names)
    assert not Stream.seeded(1, "a").is_secret


def test_secret_streams_have_nothing_in_common():
    streams = [Stream.secret() for _ in range(3)]
    assert all(stream.is_secret for stream in streams)
    assert len({tuple(stream.normals(4).tolist()) for stream in streams}) == 3
    assert len({tuple(stream.words(4).tolist()) for stream in streams}) == 3


def test_a_forked_process_draws_other_noise(monkeypatch):
    monkeypatch.setattr(noise, "random_key", lambda: bytes(32))
    parent, child = Stream.secret(), Stream.secret()
    before = parent.normals(4), child.normals(4)
    assert torch.equal(*before)
    monkeypatch.setattr(noise, "random_key", lambda: bytes(31) + b"\x01")
    mine = parent.normals(4), parent.words(4)
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    assert not torch.equal(child.normals(4), mine[0])
    assert not torch.equal(child.words(4), mine[1])
    seed = seeded("fork")
    assert torch.equal(seed.normals(4), seeded("fork").normals(4))


def test_a_stream_is_not_copied():
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="copied"):
            duplicate(Stream.secret())


def test_memory_is_filled_in_place():
    expected = [seeded("fill").normals(6, 2.0, dtype=d) for d in (torch.float64, torch.float32)]
    array, tensor = np.empty((2, 3)), torch.empty(3, 2)
    seeded("fill").fill_normals(array, 2.0)
    seeded("fill").fill_normals(tensor, 2.0)
    assert np.array_equal(array.ravel(), expected[0].numpy())
    assert torch.equal(tensor.flatten(), expected[1])
    with pytest.raises(RuntimeError):
        seeded("fill").fill_normals(torch.empty(4, 4)[:, 1:])


# Integers


def test_uniform_numbers_and_coins():
    drawn = seeded("uniform").uniform(200_000)
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > 0.01
    for probability in (0.0, 1e-3, 0.3, 1.0):
        count = int(seeded("coins").coins(100_000, probability).sum())
        assert stats.binomtest(count, 100_000, probability).pvalue > 0.01
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="probability"):
            seeded("coins").coins(1, wrong)


@pytest.mark.parametrize("below", [1, 2, 6, 64, 100])
def test_integers_are_equally_likely(below):
    drawn = seeded("integers").integers(100_000, below).numpy()
    counts = np.bincount(drawn, minlength=below)
    assert len(counts) == below
    if below > 1:
        assert stats.chisquare(counts).pvalue > 0.01


def test_integers_below_large_numbers_are_drawn_again_where_that_is_needed():
    below = 3 * 2**61  # a quarter of all 63-bit numbers is refused
    drawn = seeded("large").integers(20_000, below).numpy()
    assert drawn.min() >= 0
    assert drawn.max() < below
    assert stats.kstest(drawn / below, "uniform").pvalue > 0.01
    for wrong in (0, -1, 2**63 + 1):
        with pytest.raises(ValueError, match="below"):
            seeded("large").integers(1, wrong)


def test_every_order_is_equally_likely(monkeypatch):
    stream = seeded("permutation")
    orders = [tuple(stream.permutation(4).tolist()) for _ in range(4800)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.01
    draws = iter([torch.tensor([5, 5]), torch.tensor([9, 2])])  # a tie says nothing: drawn again
    monkeypatch.setattr(Stream, "words", lambda self, count: next(draws))
    assert stream.permutation(2).tolist() == [1, 0]


# Noise for exact sums


@pytest.mark.parametrize("scale", [0.3, 1.0, 7.5, 100.0])
def test_integer_noise_is_the_rounded_normal(scale):
    drawn = integer_gaussian(scale, 500_000, seeded("integer")).numpy()
    cells = np.arange(-int(6 * scale) - 2, int(6 * scale) + 3)
    expected = np.diff(stats.norm.cdf(np.append(cells - 0.5, cells[-1] + 0.5) / scale))
    observed = np.array([(drawn == cell).sum() for cell in cells])
    assert chi_square(observed, expected * len(drawn)) > 0.01


@pytest.mark.parametrize("exponent", [20, 36.9, 37, 45.3, 57.9])
def test_integer_noise_has_its_scale_and_all_its_low_bits(exponent):
    scale = 2.0**exponent
    drawn = integer_gaussian(scale, 200_000, seeded("wide"))
    assert drawn.double().std() == pytest.approx(scale, rel=0.01)
    assert stats.kstest(drawn.numpy() / scale, "norm").pvalue > 0.01
    low = np.bincount((drawn & 63).numpy(), minlength=64)
    assert stats.chisquare(low).pvalue > 0.01


def test_integer_noise_has_all_its_low_bits_far_out_too():
    """Where an inverse distribution function of 53 or 64 bits has begun to leave holes."""
    drawn = integer_gaussian(2.0**36.9, 4_000_000, seeded("far"))
    far = drawn[drawn.abs() > 3.5 * 2.0**36.9]
    assert len(far) > 1500
    assert stats.chisquare(np.bincount((far & 15).numpy(), minlength=16)).pvalue > 0.01


def test_integer_noise_refuses_what_does_not_fit():
    assert integer_gaussian(0.0, 3, seeded("none")).tolist() == [0, 0, 0]
    for scale in (2.0**59, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="64 bits"):
            integer_gaussian(scale, 1, seeded("none"))
    assert integer_gaussian(2.0**62 / LARGEST_NORMAL, 1000, seeded("large")).abs().max() < 2**62


def test_scale_covers_what_rounding_adds_to_the_sensitivity():
    form = exact.fixed_point(1000, max_abs=1.0, max_weight=1.0, cohort=2**45)
    assert form.fraction_bits == 17
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        vector = torch.randn(1000, generator=generator, dtype=torch.float64)
        vector *= 0.01 / vector.norm()
        whole = exact.encode(Update(vector, 1.0), form).vector
        assert whole.double().norm() <= integer_scale(1.0, 0.01, dimension=1000, fraction_bits=17)
    # 0.01 in steps is 1311; 1000 coordinates, each rounded in two vectors, add 32 at most.
    assert integer_scale(2.0, 0.01, dimension=1000, fraction_bits=17) == pytest.approx(
        2 * (0.01 * 2**17 + 1000**0.5)
    )
    # Where low digits are drawn as bits, a unit of theirs more: far below a millionth.
    wide = integer_scale(1.0, 1.0, dimension=10**6, fraction_bits=52)
    assert 2.0**52 < wide < 2.0**52 * (1 + 1e-7)


def test_a_release_is_the_sum_plus_integers():
    form = exact.fixed_point(5, max_abs=4.0, max_weight=1.0, cohort=100)
    updates = [Update(torch.full((5,), 0.01 * i), 1.0) for i in range(100)]
    total = exact.add(exact.encode(update, form) for update in updates)
    scale = integer_scale(1.0, 1.0, dimension=5, fraction_bits=form.fraction_bits)
    noise = integer_gaussian(scale, 5, seeded("release"))
    released = exact.decode(exact.PartialSum(total.vector + noise, total.weight, total.count), form)
    assert released.vector == pytest.approx([49.5] * 5, abs=6)


# Least significant bits


def low_bits_tell(release):
    """Share of outputs near zero that are no multiple of 2^-53, for inputs 0 and 1.

    1 + noise is rounded to the precision of the noise near -1, that is 2^-53, where the sum is
    near zero; 0 + noise is not (Mironov 2012, section 4.2).
    """
    shares = []
    for value in (0.0, 1.0):
        released = release(torch.full((200_000,), value, dtype=torch.float64))
        near = released[released.abs() < 0.1] * 2.0**53
        shares.append(float((near != near.round()).double().mean()))
    return shares


@pytest.mark.parametrize("law", ["normals", "laplace"])
def test_floating_point_sums_are_told_apart_by_their_last_bits(law):
    stream = seeded("floats")
    zero, one = low_bits_tell(lambda x: x + getattr(stream, law)(len(x)))
    assert zero > 0.8
    assert one == 0
    theirs = np.random.default_rng(0)
    draw = theirs.standard_normal if law == "normals" else lambda n: theirs.laplace(size=n)
    zero, one = low_bits_tell(lambda x: x + torch.from_numpy(draw(len(x))))
    assert zero > 0.8
    assert one == 0


@pytest.mark.parametrize("add", [add_gaussian, add_laplace])
def test_sums_of_integers_are_not(add):
    stream = seeded("grid")
    assert low_bits_tell(lambda x: add(x, 1.0, stream, bound=1.0)) == [0, 0]
    step = 2.0**-36  # of a scale of 1, which is below 2^1
    for value in (0.0, 1.0, 0.3):
        released = add(torch.full((100_000,), value), 1.0, stream, bound=1.0) / step
        assert torch.equal(released, released.round())
        low = np.bincount((released.to(torch.int64) & 63).numpy(), minlength=64)
        assert stats.chisquare(low).pvalue > 0.01


def test_fixed_point_releases_are_not_told_apart_either():
    stream = seeded("fixed")
    form = exact.fixed_point(200_000, max_abs=4.0, max_weight=1.0, cohort=100)

    def release(x):
        whole = exact.encode(Update(x, 1.0), form).vector
        scale = 2.0**form.fraction_bits
        return (whole + integer_gaussian(scale, len(x), stream)).double() / scale

    zero, one = low_bits_tell(release)
    assert abs(zero - one) < 0.02


@pytest.mark.parametrize(("add", "variance"), [(add_gaussian, 1.0), (add_laplace, 2.0)])
def test_noise_on_the_grid_keeps_mean_and_variance(add, variance):
    values = torch.tensor([0.7, -0.2, 3.0])  # the last is beyond the bound
    released = add(values.repeat(100_000, 1), 0.5, seeded("grid"), bound=1.0)
    assert released.dtype == torch.float64
    assert released.mean(dim=0) == pytest.approx([0.7, -0.2, 1.0], abs=0.01)
    assert released.var(dim=0) == pytest.approx([0.25 * variance] * 3, rel=0.02)


def test_noise_that_rounding_would_drown_is_refused():
    for scale in (0.0, -1.0, 1e-20, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="drowns"):
            add_gaussian(torch.zeros(1), scale, seeded("grid"), bound=1.0)
    assert add_gaussian(torch.zeros(1), 2.0**-43, seeded("grid"), bound=1.0).abs() < 2.0**-38
