"""CKKS: the vectors of a secure sum encrypted under one key that every client has.

Cheon, Kim, Kim and Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers", ASIACRYPT
2017, by TenSEAL (Microsoft SEAL), which is optional: `pip install fedsim[ckks]`. Who adds up has no
key at all. **Any client's key opens every update**: see `TRUST`, and docs/threat-model.md.

What is encrypted is the integer vector of `fedsim.secagg.lanes`, and what is opened is rounded to
integers, so the sum is the one that masks come to, bit by bit. Rounding is also what makes it safe
to release: the error of an exact decryption depends on the key, which raw decryptions give away (Li
and Micciancio, "On the Security of Homomorphic Encryption on Approximate Numbers", EUROCRYPT 2021).
Integers that are certain whatever the error was tell nothing of it.

Why rounding is certain. N = 8192 coefficients, numbers in N/2 slots, scale D = 2^35, a modulus q
of two 40-bit primes. Numbers are centred, |x| <= 2^(bits - 1), and S is the sum over the clients of
each one's largest |x|: S <= 2^32 for every ring of `fedsim.exact.ring_form`, which leaves room for
a whole cohort. For n <= 4096 clients:

- *No wrap.* Coefficients of the sum are at most D S and a little noise. Even if every number of
  every client were -2^31, that is 2^35 2^12 2^31 = 2^78, where q / 2 is about 2^79.
- *Encryption.* A ciphertext under the secret key has one Gaussian error of standard deviation 3.2
  for each coefficient (Cheon et al. 2017, section 3.4, without the terms of a public key). In a
  slot of the sum: 3.2 sqrt(N n) / D < 2^-20 standard deviations, of which six are below 2^-18.
- *Encoding* rounds each of N coefficients to an integer: at most n (N / 2) / D = 2^-11 in a slot.
- *Double precision.* A transform of N = 2^13 points errs by at most 13 * 6.7 * 2^-53 of the
  vector's Euclidean norm (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, theorem
  24.2); with conversions by 90 * 2^-53, and so by at most sqrt(N) 90 * 2^-53 < 2^-40 of the largest
  number in any slot: when encoding and when decoding, together below 2^-39 S <= 2^-7.

In all less than 0.009, where 1/2 would be a mistake. All of it is worst case: measured, the error
of numbers of 32 bits is 10^-6. `decrypt` does not rest on it either: where a number is not within
1/4 of an integer (another key, a damaged ciphertext, noise of clients so large that S is out of
bounds) it opens nothing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import SetupError
from fedsim.secagg.lanes import modulo

__all__ = [
    "INSTALL",
    "MOST_CLIENTS",
    "TRUST",
    "CkksError",
    "EncryptedSum",
    "Key",
    "decrypt",
    "encrypt",
    "new_key",
    "open_key",
    "require",
    "size_bytes",
]

#: Who must be trusted for what, wherever this secure sum is named.
TRUST = "honest-but-curious server, no client colludes: a client's key opens every update"
INSTALL = "pip install 'fedsim[ckks]'"
#: The largest cohort, for which the error is proved to be small.
MOST_CLIENTS = 4096

_DEGREE, _SLOTS = 8192, 4096
_PRIMES = (40, 40, 40)  # the last is SEAL's own; with 218 bits, security is of 128 bits still
_LEVELS = 2  # primes of a ciphertext
_SCALE = 2.0**35
_MOST = float(MOST_CLIENTS * 2**31)  # of a number of a sum
_DOUBT = 0.25  # a number further from an integer than this is none
_PIECE_BYTES = 197_600  # of a ciphertext: two polynomials, as SEAL compresses them
_MOST_PIECE_BYTES = 300_000
_DIGEST_BYTES, _SIZE_BYTES = 32, 4


class CkksError(ValueError):
    """A key, or a ciphertext, that is not what it should be."""


@dataclass(frozen=True, slots=True)
class Key:
    """The key that all clients have. `fingerprint` names it and tells nothing about it."""

    context: Any
    fingerprint: bytes


def require() -> None:
    """Raise `SetupError` where TenSEAL is not installed."""
    _tenseal()


def new_key() -> bytes:
    """Make a key for all clients of a federation, as the content of a secret file."""
    found: bytes = _new_context().serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    return found


def open_key(content: bytes) -> Key:
    """Return the key of a file's content; raises `CkksError` for anything else."""
    try:
        context = _tenseal().context_from(content, n_threads=1)
        is_private = context.is_private()
    except (ValueError, RuntimeError) as error:
        raise CkksError(f"no CKKS key: {error}") from None
    if not is_private or context.global_scale != _SCALE:
        raise CkksError("no CKKS key: it has no secret part, or another scale")
    return Key(context, hashlib.sha256(b"fedsim/ckks/v1|key|" + content).digest()[:16])


def size_bytes(length: int) -> int:
    """Return about how many bytes the ciphertexts of a vector have: within one percent."""
    return _DIGEST_BYTES + _pieces(length) * (_SIZE_BYTES + _PIECE_BYTES)


def encrypt(key: Key, vector: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Encrypt numbers modulo 2^bits, as those nearest to zero."""
    tenseal, signed = _tenseal(), _centred(vector, bits)
    padded = np.zeros(_pieces(len(vector)) * _SLOTS)
    padded[: len(vector)] = signed
    pieces = (
        tenseal.ckks_vector(key.context, part.tolist()).serialize()
        for part in padded.reshape(-1, _SLOTS)
    )
    return _framed(list(pieces))


class EncryptedSum:
    """The sum of vectors of `length` numbers that nobody without a key can read."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.clients = 0
        self._total: list[Any] = []

    def add(self, ciphertexts: NDArray[np.uint8]) -> None:
        """Add what `encrypt` gave, all of it or nothing.

        Raises `CkksError` for what is damaged or of another form. Damage is what this finds, not
        forgery: whoever sends chooses what it encrypts.
        """
        parts = _read(_no_key(), ciphertexts, self.length)
        try:
            added = [a + b for a, b in zip(self._total, parts, strict=True)] if self.clients else []
        except (ValueError, RuntimeError) as error:
            raise CkksError(f"a ciphertext that cannot be added: {error}") from None
        self._total = added or parts
        self.clients += 1

    def write(self) -> NDArray[np.uint8]:
        """Return the ciphertexts of the sum."""
        return _framed([part.serialize() for part in self._total])


def decrypt(key: Key, ciphertexts: NDArray[np.uint8], length: int, bits: int) -> NDArray[np.uint32]:
    """Return the `length` integers modulo 2^bits that a sum of ciphertexts holds.

    Raises `CkksError` where it holds none: then it is of another key, or of no such numbers.
    """
    found = np.concatenate(
        [np.array(part.decrypt()) for part in _read(key.context, ciphertexts, length)]
    )
    whole = np.rint(found)
    is_sound = bool(np.all(np.abs(found) <= _MOST) and np.all(np.abs(found - whole) <= _DOUBT))
    if not is_sound or whole[length:].any():
        raise CkksError("the sum opens to no whole numbers: another key, or damage on the way")
    return modulo(whole[:length].astype(np.int64).astype(np.uint32), bits)


def _tenseal() -> Any:
    try:
        import tenseal
    except ImportError as error:
        raise SetupError(
            f"secure_sum.name = 'ckks' needs TenSEAL, which is not installed ({error}): {INSTALL}"
        ) from None
    return tenseal


def _new_context() -> Any:
    tenseal = _tenseal()
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        _DEGREE,
        coeff_mod_bit_sizes=list(_PRIMES),
        # Every client has the secret key: under it ciphertexts have less noise.
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    context.global_scale = _SCALE
    return context


@lru_cache(maxsize=1)
def _no_key() -> Any:
    """Return what adds ciphertexts, and has no key to open any."""
    parameters = _new_context().serialize(
        save_public_key=False, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
    )
    return _tenseal().context_from(parameters, n_threads=1)


def _pieces(length: int) -> int:
    return -(-length // _SLOTS)


def _centred(vector: NDArray[np.uint32], bits: int) -> NDArray[np.int64]:
    """Return numbers modulo 2^bits as those nearest to zero."""
    wide = modulo(vector.copy(), bits).astype(np.int64)
    wide[wide >= 2 ** (bits - 1)] -= 2**bits
    return wide


def _framed(pieces: Sequence[bytes]) -> NDArray[np.uint8]:
    """Write pieces one after another, each with its size before it, and a digest of them all."""
    body = b"".join(len(piece).to_bytes(_SIZE_BYTES, "big") + piece for piece in pieces)
    return np.frombuffer(hashlib.sha256(body).digest() + body, dtype=np.uint8)


def _read(context: Any, ciphertexts: NDArray[np.uint8], length: int) -> list[Any]:
    """Return the ciphertexts of a vector; raises `CkksError` for anything that is not one."""
    content = ciphertexts.tobytes()
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise CkksError("ciphertexts that are damaged: their digest is another")
    pieces = list(_split(body))
    if len(pieces) != _pieces(length):
        raise CkksError(f"{len(pieces)} ciphertexts where {_pieces(length)} were expected")
    return [_piece(context, piece) for piece in pieces]


def _split(body: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(body):
        size = int.from_bytes(body[start : start + _SIZE_BYTES], "big")
        start += _SIZE_BYTES
        if not 0 < size <= min(_MOST_PIECE_BYTES, len(body) - start):
            raise CkksError(f"a ciphertext of {size} bytes, where {len(body) - start} are left")
        yield body[start : start + size]
        start += size


def _piece(context: Any, content: bytes) -> Any:
    """Read a ciphertext, of this context's parameters, scale and form."""
    try:
        found = _tenseal().ckks_vector_from(context, content)
        (inner,) = found.ciphertext()
        form = (found.size(), inner.size(), inner.coeff_modulus_size(), inner.scale)
    except (ValueError, RuntimeError) as error:
        raise CkksError(f"no ciphertext: {error}") from None
    if form != (_SLOTS, 2, _LEVELS, _SCALE):
        raise CkksError(f"a ciphertext of another form: {form}")
    return found
