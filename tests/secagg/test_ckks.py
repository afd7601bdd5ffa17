"""Sums under CKKS are exact to the last integer, and nothing opens to anything else."""

import builtins
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import SetupError
from fedsim.secagg import ckks
from fedsim.secagg.ckks import CkksError, EncryptedSum

SLOTS = 4096


@pytest.fixture(scope="module")
def content():
    return ckks.new_key()


@pytest.fixture(scope="module")
def key(content):
    return ckks.open_key(content)


def summed(key, vectors, bits):
    total = EncryptedSum(len(vectors[0]))
    for vector in vectors:
        total.add(ckks.encrypt(key, vector, bits))
    return total.write()


def edges(bits):
    """Numbers modulo 2^bits at the ends of the range, around zero, and any."""
    half, top = 2 ** (bits - 1), 2**bits - 1
    return st.sampled_from([0, 1, top, half, half - 1, half + 1]) | st.integers(0, top)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from([8, 20, 32]), st.integers(1, 4))
def test_sums_are_those_of_integers(key, data, bits, clients):
    length = data.draw(st.sampled_from([1, 7, SLOTS, SLOTS + 1]))
    few = st.lists(edges(bits), min_size=1, max_size=9)
    vectors = [np.resize(np.array(data.draw(few), dtype=np.uint32), length) for _ in range(clients)]
    expected = sum(v.astype(object) for v in vectors) % 2**bits
    found = ckks.decrypt(key, summed(key, vectors, bits), length, bits)
    assert found.dtype == np.uint32
    assert np.array_equal(found, expected.astype(np.uint32))


@pytest.mark.parametrize("pattern", ["lowest", "highest", "alternating", "random"])
def test_the_largest_cohort_of_the_largest_numbers_is_exact(key, pattern):
    """4096 clients of 32 bits: the sum of one ciphertext doubled twelve times."""
    half = 2**31
    random = np.random.default_rng(1).integers(0, 2**32, SLOTS, dtype=np.uint32)
    vector = {
        "lowest": np.full(SLOTS, half, dtype=np.uint32),
        "highest": np.full(SLOTS, half - 1, dtype=np.uint32),
        "alternating": np.resize(np.array([half, half - 1], dtype=np.uint32), SLOTS),
        "random": random,
    }[pattern]
    sent = ckks.encrypt(key, vector, 32)
    for _ in range(int(math.log2(ckks.MOST_CLIENTS))):
        total = EncryptedSum(SLOTS)
        total.add(sent)
        total.add(sent)
        sent = total.write()
    expected = vector.astype(np.uint64) * np.uint64(ckks.MOST_CLIENTS) % np.uint64(2**32)
    assert np.array_equal(ckks.decrypt(key, sent, SLOTS, 32), expected.astype(np.uint32))


def test_errors_stay_far_below_a_half_as_proved(key, monkeypatch):
    """The same sum opens where hardly a doubt is allowed: the error is below 2^-7."""
    monkeypatch.setattr(ckks, "_DOUBT", 2.0**-7)
    rng = np.random.default_rng(2)
    vectors = [rng.integers(0, 2**32, SLOTS, dtype=np.uint32) for _ in range(2)]
    found = ckks.decrypt(key, summed(key, vectors, 32), SLOTS, 32)
    assert np.array_equal(found, vectors[0] + vectors[1])


def test_what_is_opened_is_integers_and_nothing_of_the_error(key):
    """Two ciphertexts of one vector differ; what they open to does not (Li, Micciancio 2021)."""
    vector = np.arange(50, dtype=np.uint32)
    one, other = (ckks.encrypt(key, vector, 32) for _ in range(2))
    assert not np.array_equal(one, other)
    opened = [ckks.decrypt(key, sent, 50, 32) for sent in (one, other)]
    assert opened[0].tobytes() == opened[1].tobytes() == vector.tobytes()


def test_ciphertexts_look_alike_whatever_they_hold(key):
    sizes = {
        ckks.encrypt(key, np.full(5, value, dtype=np.uint32), 32).nbytes // 1000
        for value in (0, 1, 2**31, 2**32 - 1)
    }
    assert max(sizes) - min(sizes) <= 1
    assert ckks.size_bytes(5) == pytest.approx(1000 * max(sizes), rel=0.01)


@pytest.mark.parametrize("length", [3, SLOTS])
def test_another_key_opens_nothing(key, length):
    other = ckks.open_key(ckks.new_key())
    assert other.fingerprint != key.fingerprint
    sent = ckks.encrypt(key, np.arange(length, dtype=np.uint32), 32)
    with pytest.raises(CkksError, match="another key"):
        ckks.decrypt(other, sent, length, 32)


def test_a_sum_under_two_keys_opens_under_neither(content, key):
    other = ckks.open_key(ckks.new_key())
    vector = np.arange(9, dtype=np.uint32)
    total = EncryptedSum(9)
    total.add(ckks.encrypt(key, vector, 32))
    total.add(ckks.encrypt(other, vector, 32))
    for each in (key, other):
        with pytest.raises(CkksError, match="another key"):
            ckks.decrypt(each, total.write(), 9, 32)


def resealed(body):
    """Frame changed ciphertexts anew, as somebody would who knows how."""
    import hashlib

    return np.frombuffer(hashlib.sha256(body).digest() + body, dtype=np.uint8)


def test_a_damaged_ciphertext_is_refused_and_leaves_the_sum_as_it_was(key):
    vector = np.arange(SLOTS + 5, dtype=np.uint32)
    sent = ckks.encrypt(key, vector, 32)
    total = EncryptedSum(len(vector))
    total.add(sent)
    body = sent[32:].tobytes()
    size = int.from_bytes(body[:4], "big")
    bad = {
        "digest": np.concatenate([sent[:-1], sent[-1:] ^ 1]),
        "short": sent[:-10],
        "nothing": sent[:0],
        "one piece": resealed(body[: 4 + size]),
        "a piece too many": resealed(body + body[: 4 + size]),
        "a size beyond": resealed(b"\xff\xff\xff\xff" + body[4:]),
        "no size": resealed(bytes(4) + body),
        "garbage": resealed((5).to_bytes(4, "big") + b"hello" + body[4 + size :]),
    }
    for name, ciphertexts in bad.items():
        with pytest.raises(CkksError):
            total.add(ciphertexts)
        assert total.clients == 1, name
    assert np.array_equal(ckks.decrypt(key, total.write(), len(vector), 32), vector)


def test_a_ciphertext_that_takes_another_away_is_refused(key):
    """The negative of one that is in the sum: what is left would be no ciphertext."""
    vector = np.arange(9, dtype=np.uint32)
    sent = ckks.encrypt(key, vector, 32)
    (part,) = ckks._read(ckks._no_key(), sent, 9)
    total = EncryptedSum(9)
    total.add(sent)
    with pytest.raises(CkksError, match="cannot be added"):
        total.add(ckks._framed([(-part).serialize()]))
    assert np.array_equal(ckks.decrypt(key, total.write(), 9, 32), vector)


def test_a_ciphertext_of_another_scale_is_refused(key, content, monkeypatch):
    monkeypatch.setattr(ckks, "_SCALE", 2.0**30)
    other = ckks.open_key(ckks.new_key())
    sent = ckks.encrypt(other, np.arange(3, dtype=np.uint32), 32)
    monkeypatch.undo()
    with pytest.raises(CkksError, match="another form"):
        EncryptedSum(3).add(sent)


def test_a_key_is_its_file_and_nothing_else(content, key):
    assert ckks.open_key(content).fingerprint == key.fingerprint
    public = ckks._no_key().serialize(
        save_public_key=False, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    for wrong in (b"", b"no key", content[:1000], public):
        with pytest.raises(CkksError, match="no CKKS key"):
            ckks.open_key(wrong)


def test_who_adds_up_has_no_key(key):
    vector = ckks.encrypt(key, np.arange(3, dtype=np.uint32), 32)
    (part,) = ckks._read(ckks._no_key(), vector, 3)
    with pytest.raises(ValueError, match="secret_key"):
        part.decrypt()


def test_without_tenseal_there_is_a_command_to_install_it(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "tenseal":
            raise ImportError("No module named 'tenseal'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SetupError, match=r"pip install 'fedsim\[ckks\]'") as error:
        ckks.require()
    assert error.value.exit_code == 3
