"""What a masked vector gives away: nothing that these tests, which break Flower's masks, can find.

The vector is all zeros and all masks but some are known to the server, so what it sees is the sum
of the others. Flower 1.41 makes masks with the Mersenne Twister, whose bits obey a linear
recurrence of length 19937 over GF(2) (Matsumoto and Nishimura, TOMACS 8, 1998); the low bit of a
sum is the exclusive or of low bits and obeys it too, whatever the cohort.
"""

from typing import NamedTuple

import numpy as np
import pytest
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.secagg.masks import WIDTHS, add_masks, pack

SEEN = 42_000  # more than twice Flower's recurrence: enough to find it
NEXT = 1_000


class Recurrence(NamedTuple):
    """The shortest linear recurrence of some bits, as an integer of coefficients, and its state."""

    length: int
    coefficients: int
    state: int

    def predict(self, bits):
        """Return the share of further bits that the recurrence foretells, one after the other."""
        state, right = self.state, 0
        for bit in bits.tolist():
            right += ((state << 1) & self.coefficients).bit_count() & 1 == bit
            state = state << 1 | bit
        return right / len(bits)


def recurrence(bits):
    """Massey, "Shift-register synthesis and BCH decoding" (IEEE IT 15, 1969), on long integers."""
    found = before = 1
    length, since, state = 0, 1, 0
    for count, bit in enumerate(bits.tolist()):
        state = state << 1 | bit
        if (state & found).bit_count() & 1:
            changed = found ^ before << since
            if 2 * length <= count:
                length, before, since = count + 1 - length, found, 0
            found = changed
        since += 1
    return Recurrence(length, found, state)


def ours(count, size=SEEN + NEXT):
    """What the server sees of zeros under `count` masks that it does not know."""
    vector = np.zeros(size, np.uint32)
    add_masks(vector, [(bytes([7 + i] * 32), 1 if i % 2 else -1) for i in range(count)])
    return vector


def flowers(count, size=SEEN + NEXT):
    """The same of Flower's masks, modulo 2^32 as it has them by default."""
    masks = [pseudo_rand_gen(bytes([7 + i] * 32), 2**32, [(size,)])[0] for i in range(count)]
    signs = [1 if i % 2 else -1 for i in range(count)]
    return (sum(m * s for m, s in zip(masks, signs, strict=True)) % 2**32).astype(np.uint32)


def byte_chance(packed):
    """The p-value of all bytes being equally frequent."""
    return stats.chisquare(np.bincount(packed, minlength=256)).pvalue


@given(st.integers(1, 40), st.data())
def test_the_recurrence_of_a_register_is_found(length, data):
    """Of a shift register with known taps: no longer, and then it foretells every bit."""
    taps = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    bits = data.draw(st.lists(st.integers(0, 1), min_size=length, max_size=length))
    for _ in range(200):
        bits.append(sum(b for b, tap in zip(bits[-length:], taps, strict=True) if tap) % 2)
    found = recurrence(np.array(bits[: 2 * length]))
    assert found.length <= length
    assert found.predict(np.array(bits[2 * length :])) == 1


@pytest.mark.parametrize(
    ("bits", "length"),
    [([0, 0, 0, 0], 0), ([0, 0, 0, 1], 4), ([1, 1, 1, 1], 1), ([1, 0, 1, 0], 2)],
    ids=str,
)
def test_short_sequences_have_the_length_that_they_have(bits, length):
    assert recurrence(np.array(bits)).length == length


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("plane", [0, 19, 31])
def test_no_bit_obeys_a_recurrence(count, plane):
    """Of coins, the length is half of what was seen, and the next bit a coin (Rueppel 1986)."""
    bits = ours(count) >> np.uint32(plane) & np.uint32(1)
    found = recurrence(bits[:SEEN])
    assert abs(found.length - SEEN / 2) <= 20
    assert 0.45 <= found.predict(bits[SEEN:]) <= 0.55


@pytest.mark.parametrize("count", [1, 3])
def test_flowers_low_bits_do(count):
    bits = flowers(count) & np.uint32(1)
    found = recurrence(bits[:SEEN])
    assert found.length == 19937
    assert found.predict(bits[SEEN:]) == 1


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("count", [1, 3])
def test_bytes_on_the_wire_are_even(count, bits):
    assert byte_chance(pack(ours(count, 300_000), bits)) > 1e-3


@pytest.mark.parametrize("lag", [1, 4, 2**14])
def test_words_tell_nothing_about_later_ones(lag):
    """Differences between words, and between the pieces that a mask is made in, are even too."""
    vector = ours(1, 300_000)
    assert byte_chance((vector[lag:] - vector[:-lag]).view(np.uint8)) > 1e-3


def test_masks_of_different_keys_have_nothing_in_common():
    """One bit of the key changes half of the mask's bits."""
    masks = np.zeros((2, 100_000), np.uint32)
    for row, key in zip(masks, (bytes(32), bytes(31) + b"\1"), strict=True):
        add_masks(row, [(key, 1)])
    changed = int(np.bitwise_count(masks[0] ^ masks[1]).sum())
    assert stats.binomtest(changed, 3_200_000).pvalue > 1e-3


def test_the_frequency_test_sees_what_is_uneven():
    """A mask that is one number for the whole vector, as OpenFL's, and a range short of one."""
    assert byte_chance(np.full(300_000, 2_463_534_242, np.uint32).view(np.uint8)) < 1e-9
    short = np.random.default_rng(0).integers(0, 255, 300_000).astype(np.uint8)
    assert byte_chance(short) < 1e-9
