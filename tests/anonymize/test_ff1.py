"""FF1 against NIST's samples, a row-by-row version written from the standard, and its inverse."""

import itertools
import math

import numpy as np
import pytest
from Crypto.Cipher import AES
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.anonymize.ff1 import FF1
from fedsim.crypto import CryptoError, encrypt_blocks

LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
LONG = "2b7e151628aed2a6abf7158809cf4f3cef4359d8d580aa4f7f036d6f04fc6a94"
DIGITS, MIXED = "0123456789", "0123456789abcdefghi"
NONE, TEN, ELEVEN = "", "39383736353433323130", "3737373770717273373737"
# NIST, "Block cipher modes of operation: FF1 samples" (SP 800-38G): samples 1 to 9.
SAMPLES = [
    (16, NONE, DIGITS, "2433477484"),
    (16, TEN, DIGITS, "6124200773"),
    (16, ELEVEN, MIXED, "a9tv40mll9kdu509eum"),
    (24, NONE, DIGITS, "2830668132"),
    (24, TEN, DIGITS, "2496655549"),
    (24, ELEVEN, MIXED, "xbj3kv35jrawxv32ysr"),
    (32, NONE, DIGITS, "6657667009"),
    (32, TEN, DIGITS, "1001623463"),
    (32, ELEVEN, MIXED, "xs8a0azh2avyalyzuwd"),
]


@pytest.mark.parametrize(
    ("size", "tweak", "plain", "encrypted"), SAMPLES, ids=[f"sample{i}" for i in range(1, 10)]
)
def test_the_samples_of_nist(size, tweak, plain, encrypted):
    cipher = FF1(bytes.fromhex(LONG)[:size], 10 if plain == DIGITS else 36)
    row = np.array([[LETTERS.index(letter) for letter in plain]])
    made = cipher.encrypt(row, bytes.fromhex(tweak))
    assert "".join(LETTERS[i] for i in made[0]) == encrypted
    assert cipher.decrypt(made, bytes.fromhex(tweak)).tolist() == row.tolist()


def by_the_standard(key, radix, x, tweak):
    """SP 800-38G, algorithm 7, step by step, on integers, with another library's AES."""
    n, t = len(x), len(tweak)
    u, v = n // 2, n - n // 2
    a, b_half = x[:u], x[u:]
    b = math.ceil(math.ceil(v * math.log2(radix)) / 8)
    d = 4 * math.ceil(b / 4) + 4
    p = bytes([1, 2, 1]) + radix.to_bytes(3, "big") + bytes([10, u % 256])
    p += n.to_bytes(4, "big") + t.to_bytes(4, "big")

    def number(string):
        return sum(numeral * radix**i for i, numeral in enumerate(reversed(string)))

    for i in range(10):
        q = tweak + bytes((-t - b - 1) % 16) + bytes([i]) + number(b_half).to_bytes(b, "big")
        r = AES.new(key, AES.MODE_CBC, bytes(16)).encrypt(p + q)[-16:]
        s = r
        for j in range(1, math.ceil(d / 16)):
            block = bytes(c ^ e for c, e in zip(r, j.to_bytes(16, "big"), strict=True))
            s += AES.new(key, AES.MODE_ECB).encrypt(block)
        m = u if i % 2 == 0 else v
        c = (number(a) + int.from_bytes(s[:d], "big")) % radix**m
        string = [c // radix**k % radix for k in reversed(range(m))]
        a, b_half = b_half, string
    return a + b_half


@settings(max_examples=150)
@given(st.data())
def test_rows_are_those_of_the_standard_and_come_back(data):
    radix = data.draw(st.sampled_from([2, 3, 10, 26, 36, 62, 255, 256, 65536]), "radix")
    least = max(2, math.ceil(6 / math.log10(radix)))
    length = data.draw(st.integers(least, least + 45), "length")
    numeral = st.integers(0, radix - 1)
    rows = data.draw(
        st.lists(st.lists(numeral, min_size=length, max_size=length), min_size=1, max_size=4)
    )
    key = data.draw(
        st.sampled_from([16, 24, 32]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
    )
    tweak = data.draw(st.binary(max_size=40), "tweak")
    cipher = FF1(key, radix)
    made = cipher.encrypt(np.array(rows), tweak)
    assert made.tolist() == [by_the_standard(key, radix, row, tweak) for row in rows]
    assert cipher.decrypt(made, tweak).tolist() == rows


def test_all_of_a_domain_is_permuted():
    every = np.array(list(itertools.product(range(10), repeat=6)))
    made = FF1(bytes(16), 10).encrypt(every, b"") @ 10 ** np.arange(6)[::-1]
    assert np.array_equal(np.sort(made), np.arange(10**6))


@pytest.mark.parametrize(
    ("radix", "rows", "message"),
    [
        (10, [[1, 2, 3, 4, 5]], "1,000,000 different"),
        (26, [[1, 2, 3, 4]], "1,000,000 different"),
        (65536, [[1]], "at least 2"),
        (10, [[1, 2, 3, 4, 5, 10]], "not 0 to 9"),
        (10, [[1, 2, 3, 4, 5, -1]], "not 0 to 9"),
        (1, [[0] * 40], "radix 1 is not"),
        (65537, [[0] * 40], "radix 65537 is not"),
    ],
    ids=[
        "five digits",
        "four letters",
        "one numeral",
        "ten",
        "negative",
        "radix 1",
        "radix 2^16+1",
    ],
)
def test_what_ff1_refuses(radix, rows, message):
    with pytest.raises(ValueError, match=message):
        FF1(bytes(16), radix).encrypt(np.array(rows), b"")


def test_no_rows():
    assert FF1(bytes(16), 10).encrypt(np.empty((0, 9), dtype=np.int64), b"").shape == (0, 9)


def test_keys_stay_out_of_messages():
    assert "key" not in repr(FF1(b"secret secret 16", 10))


@given(st.sampled_from([16, 24, 32]), st.binary(max_size=100))
def test_blocks_are_those_of_another_library(size, content):
    key, blocks = bytes(range(size)), content[: len(content) // 16 * 16]
    assert encrypt_blocks(key, blocks) == AES.new(key, AES.MODE_ECB).encrypt(blocks)


@pytest.mark.parametrize(("key", "blocks"), [(bytes(8), bytes(16)), (bytes(16), bytes(17))])
def test_blocks_that_are_none(key, blocks):
    with pytest.raises(CryptoError):
        encrypt_blocks(key, blocks)
