"""Masks against the cipher of another library; packing against its description, bit by bit."""

import numpy as np
import pytest
from Crypto.Cipher import AES
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedsim.crypto import CryptoError
from fedsim.secagg.masks import (
    WIDTHS,
    add_mask,
    add_masks,
    add_packed,
    pack,
    packed_bytes,
    unpack,
)

PIECE = 2**14
SIZES = (0, 1, 3, 4, 1000, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 7)
KEYS = st.binary(min_size=32, max_size=32)
VECTORS = arrays.arrays(np.uint32, st.integers(0, 40))


def words(key, size):
    """AES-256 of a counter from zero, as little-endian words."""
    blocks = b"".join(i.to_bytes(16, "big") for i in range(size // 4 + 1))
    return np.frombuffer(AES.new(key, AES.MODE_ECB).encrypt(blocks), "<u4")[:size]


def random_vector(size, seed=3):
    return np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_the_words_of_the_cipher(size):
    key, vector = bytes(range(32)), random_vector(size)
    target = vector.copy()
    add_mask(target, key, 1)
    np.testing.assert_array_equal(target, vector + words(key, size))
    add_mask(target, key, -1)
    np.testing.assert_array_equal(target, vector)


@given(VECTORS, st.lists(st.tuples(KEYS, st.sampled_from([1, -1])), max_size=5))
def test_many_masks_are_one_after_the_other(vector, masks):
    together, single, oracle = vector.copy(), vector.copy(), vector.copy()
    add_masks(together, masks)
    for key, sign in masks:
        add_mask(single, key, sign)
        oracle += words(key, vector.size) if sign == 1 else -words(key, vector.size)
    np.testing.assert_array_equal(together, single)
    np.testing.assert_array_equal(together, oracle)


def test_hundreds_of_masks():
    """As a server takes them off: more than go on together, from a generator."""
    keys = [bytes([i]) * 32 for i in range(200)]
    target = random_vector(PIECE + 5)
    oracle = target - sum(words(key, target.size) for key in keys)
    add_masks(target, ((key, -1) for key in keys))
    np.testing.assert_array_equal(target, oracle)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_come_to_the_same_vector(threads):
    masks = [(bytes([i % 251, i // 251] * 16), 1 if i % 3 else -1) for i in range(200)]
    alone, together = np.arange(1000, dtype=np.uint32), np.arange(1000, dtype=np.uint32)
    add_masks(alone, masks)
    add_masks(together, iter(masks), threads=threads)
    assert np.array_equal(alone, together)


@pytest.mark.parametrize("bits", WIDTHS)
def test_masks_of_a_cohort_cancel_in_the_low_bits(bits):
    """Three clients, each pair with a key; packed sums are the sums, modulo 2^bits."""
    size, total = 1001, np.zeros(1001, np.uint32)
    vectors = [random_vector(size, seed) for seed in range(3)]
    for i, vector in enumerate(vectors):
        masked = vector.copy()
        add_masks(masked, [(bytes([i + j] * 32), 1 if i < j else -1) for j in range(3) if j != i])
        assert not np.array_equal(pack(masked, bits), pack(vector, bits))
        add_packed(total, pack(masked, bits), bits)
    np.testing.assert_array_equal(pack(total, bits), pack(sum(vectors), bits))


@pytest.mark.parametrize(
    "target",
    [
        np.zeros(4, np.uint64),
        np.zeros(4, np.int32),
        np.zeros((2, 2), np.uint32),
        np.zeros(8, np.uint32)[::2],
        np.zeros(4, ">u4"),
    ],
    ids=("wide", "signed", "matrix", "strided", "big-endian"),
)
def test_masks_go_on_contiguous_words_only(target):
    with pytest.raises(ValueError, match="target: a contiguous vector of uint32"):
        add_mask(target, bytes(32), 1)


def test_no_short_key_reaches_the_cipher():
    """Flower folds keys to 32 bits; here nothing below 256 bits is taken."""
    for size in (0, 4, 16, 24, 31):
        target = np.zeros(4, np.uint32)
        with pytest.raises(CryptoError, match=f"key has {size} bytes: 32"):
            add_masks(target, [(bytes(32), 1), (bytes(size), 1)])
        assert not target.any()


def digit_by_digit(vector, bits):
    """The layout that `pack` describes, with Python's integers."""
    out, low = [], 0
    for width in (32, 16, 8, 4):
        if bits - low < width:
            continue
        digits = [int(x) >> low & (1 << width) - 1 for x in vector]
        low += width
        if width == 4:
            half = (len(digits) + 1) // 2
            high = [*digits[half:], 0]
            digits = [digits[i] | high[i] << 4 for i in range(half)]
        out += [digit.to_bytes(max(width // 8, 1), "little") for digit in digits]
    return b"".join(out)


@pytest.mark.parametrize("bits", WIDTHS)
@given(vector=VECTORS)
def test_packing_is_as_described_and_comes_back(bits, vector):
    packed = pack(vector, bits)
    assert packed.tobytes() == digit_by_digit(vector, bits)
    assert packed.size == packed_bytes(bits, vector.size) == -(-bits * vector.size // 8)
    low = vector & np.uint32(2**bits - 1)
    found = unpack(packed, bits, vector.size)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, low)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("size", [PIECE, 2 * PIECE - 1, 2 * PIECE + 3])
def test_packing_of_long_vectors(bits, size):
    vector = random_vector(size)
    packed = pack(vector, bits)
    assert packed.tobytes() == digit_by_digit(vector, bits)
    np.testing.assert_array_equal(unpack(packed, bits, size), vector & np.uint32(2**bits - 1))


@pytest.mark.parametrize("bits", WIDTHS)
@given(vectors=st.integers(0, 30).flatmap(lambda n: arrays.arrays(np.uint32, (2, n))))
def test_adding_packed_vectors(bits, vectors):
    total = vectors[0].copy()
    add_packed(total, pack(vectors[1], bits), bits)
    np.testing.assert_array_equal(total, vectors[0] + (vectors[1] & np.uint32(2**bits - 1)))


def test_packed_bytes_may_come_from_anywhere():
    """Read-only, at an odd address, or not contiguous."""
    vector = random_vector(101)
    for bits in WIDTHS:
        packed = pack(vector, bits)
        read_only = np.frombuffer(b"!" + packed.tobytes(), np.uint8)[1:]
        strided = np.repeat(packed, 2)[::2]
        for given_ in (read_only, strided):
            np.testing.assert_array_equal(
                unpack(given_, bits, 101), vector & np.uint32(2**bits - 1)
            )


@pytest.mark.parametrize("bits", WIDTHS)
def test_other_bytes_are_refused_and_nothing_is_added(bits):
    packed = pack(random_vector(5), bits)
    target = np.zeros(5, np.uint32)
    for wrong in (packed[:-1], np.append(packed, packed[:1]), packed.view(np.int8), packed[None]):
        with pytest.raises(ValueError, match=f"5 coordinates of {bits} bits are {packed.size}"):
            add_packed(target, wrong, bits)
    if bits % 8:
        packed[-1] |= 0x10
        with pytest.raises(ValueError, match="unused half"):
            add_packed(target, packed, bits)
    assert not target.any()


def test_other_widths_are_refused():
    for bits in (0, 4, 10, 31, 36):
        for call in (
            lambda bits=bits: packed_bytes(bits, 4),
            lambda bits=bits: pack(np.zeros(4, np.uint32), bits),
            lambda bits=bits: unpack(np.zeros(4, np.uint8), bits, 1),
        ):
            with pytest.raises(ValueError, match=f"bits = {bits}: one of 8, 12, 16"):
                call()
