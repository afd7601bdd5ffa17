"""The only door to the `cryptography` package.

Nothing here is our own cryptography: callers get primitives under names that say what for. What is
wrong with a key, a point, a signature or a ciphertext is a `CryptoError`, and nothing is returned.

Private keys are 32-byte seeds wherever they are kept or shared: a seed is secret, of one size in
every profile, and fits one element of the field of `fedsim.secagg.shamir`.
"""

import hashlib
import os
from dataclasses import dataclass
from typing import Literal, Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = [
    "KEY_BYTES",
    "NONCE_BYTES",
    "SIGNATURE_BYTES",
    "TAG_BYTES",
    "Agreement",
    "CryptoError",
    "CtrStream",
    "KeyStream",
    "Profile",
    "Suite",
    "ctr_stream",
    "derive",
    "encrypt_blocks",
    "key_of",
    "open_sealed",
    "random_key",
    "seal",
    "suite",
    "unwrap_key",
    "wrap_key",
]

KEY_BYTES = 32
NONCE_BYTES = 12  # of AES-GCM
TAG_BYTES = 16  # what sealing adds to a plaintext
SIGNATURE_BYTES = 64  # in both profiles
Profile = Literal["standard", "fips"]

_SEGMENT_BYTES = 2**36  # of one nonce: a quarter of what the cipher's 32-bit counter can reach
_ZEROS = memoryview(bytes(2**17))
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class CryptoError(ValueError):
    """A key, point, signature or ciphertext that is refused; says nothing about secrets."""


def random_key() -> bytes:
    """Return a key from the operating system: 32 secret bytes."""
    return os.urandom(KEY_BYTES)


def key_of(text: str) -> bytes:
    """Return the key that a text stands for (SHA-256): as secret as the text is."""
    return hashlib.sha256(text.encode()).digest()


def derive(secret: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """Derive a key by HKDF-SHA256 (RFC 5869) without salt; `info` says what for, and for whom.

    Raise `CryptoError` for a length that is not 1 to 255 x 32 bytes, the most that the RFC gives.
    """
    if not 1 <= length <= 255 * 32:
        raise CryptoError(f"length = {length}: HKDF gives 1 to {255 * 32} bytes")
    return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(secret)


def seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Encrypt and authenticate by AES-256-GCM (NIST SP 800-38D); authenticate `aad` as well.

    A nonce used twice under one key gives both plaintexts and the authentication key away.
    """
    _need("key", key, KEY_BYTES)
    _need("nonce", nonce, NONCE_BYTES)
    return AESGCM(key).encrypt(nonce, plaintext, aad)


def open_sealed(key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    """Undo `seal`; raise `CryptoError` where key, nonce, `aad` or a bit is not what it was."""
    _need("key", key, KEY_BYTES)
    _need("nonce", nonce, NONCE_BYTES)
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except (InvalidTag, ValueError) as error:
        raise CryptoError("sealed bytes were changed, or are of another key or purpose") from error


def wrap_key(kek: bytes, key: bytes) -> bytes:
    """Encrypt a key under a key-encryption key by AES-256 key wrap (RFC 3394): 8 bytes longer."""
    _need("key-encryption key", kek, KEY_BYTES)
    try:
        return keywrap.aes_key_wrap(kek, key)
    except ValueError as error:
        raise CryptoError(
            f"a key of {len(key)} bytes: key wrap takes multiples of 8 bytes, at least 16"
        ) from error


def unwrap_key(kek: bytes, wrapped: bytes) -> bytes:
    """Undo `wrap_key`; raise `CryptoError` where the key-encryption key or a bit is another."""
    _need("key-encryption key", kek, KEY_BYTES)
    try:
        return keywrap.aes_key_unwrap(kek, wrapped)
    except (keywrap.InvalidUnwrap, ValueError) as error:
        raise CryptoError("the wrapped key was changed, or is of another key") from error


def encrypt_blocks(key: bytes, blocks: bytes | memoryview) -> bytes:
    """Apply AES to every 16 bytes by themselves: the pseudorandom function inside of FF1.

    No way to encrypt anything: equal blocks come out equal (ECB). It is what other modes are built
    from, `fedsim.anonymize.ff1` (NIST SP 800-38G) for many rows at a time. Raise `CryptoError` for
    a key that is not of AES, or for a part of a block.

    >>> encrypt_blocks(bytes(16), bytes(16)).hex()
    '66e94bd4ef8a2c3b884cfa59ca342b2e'
    """
    if len(key) not in (16, 24, 32):
        raise CryptoError(f"key has {len(key)} bytes: AES takes 16, 24 or 32")
    if len(blocks) % 16:
        raise CryptoError(f"{len(blocks)} bytes are no whole blocks of 16")
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return cipher.update(blocks) + cipher.finalize()


class Agreement(Protocol):
    """The private half of a Diffie-Hellman exchange, ready for many peers."""

    @property
    def public(self) -> bytes:
        """What peers need."""

    def agree(self, peer_public: bytes) -> bytes:
        """Return the raw secret shared with a peer: input of `derive`, not yet a key.

        Raise `CryptoError` for what is no public key or leads to a secret that anybody knows.
        """


class Suite(Protocol):
    """The public-key algorithms of a profile. Equal seeds give equal keys."""

    @property
    def name(self) -> Profile:
        """The profile's name."""

    @property
    def agreement_public_bytes(self) -> int:
        """The size of a public key for agreement."""

    @property
    def signing_public_bytes(self) -> int:
        """The size of a public key for signatures."""

    def agreement(self, seed: bytes) -> Agreement:
        """Return the private half of an exchange."""

    def agreement_public(self, seed: bytes) -> bytes:
        """Return a seed's public key for agreement."""

    def agree(self, seed: bytes, peer_public: bytes) -> bytes:
        """Return the raw secret shared with one peer; see `Agreement.agree`."""

    def signing_public(self, seed: bytes) -> bytes:
        """Return a seed's public key for signatures."""

    def sign(self, seed: bytes, message: bytes) -> bytes:
        """Sign a message; the same message gets the same signature."""

    def verify(self, public: bytes, signature: bytes, message: bytes) -> None:
        """Raise `CryptoError` unless the key's owner signed exactly this message."""


@dataclass(frozen=True, slots=True)
class _X25519:
    """One side of X25519 (RFC 7748)."""

    key: X25519PrivateKey

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def agree(self, peer_public: bytes) -> bytes:
        _need("X25519 public key", peer_public, 32)
        try:  # the library refuses an all-zero secret: RFC 7748 section 6.1
            return self.key.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            raise CryptoError("X25519 public key is a point of low order") from error


@dataclass(frozen=True, slots=True)
class _Standard:
    """X25519 (RFC 7748) and Ed25519 (RFC 8032)."""

    name: Profile = "standard"
    agreement_public_bytes: int = 32
    signing_public_bytes: int = 32

    def agreement(self, seed: bytes) -> _X25519:
        _need("seed", seed, KEY_BYTES)
        return _X25519(X25519PrivateKey.from_private_bytes(seed))

    def agreement_public(self, seed: bytes) -> bytes:
        return self.agreement(seed).public

    def agree(self, seed: bytes, peer_public: bytes) -> bytes:
        return self.agreement(seed).agree(peer_public)

    def signing_public(self, seed: bytes) -> bytes:
        return self._signing(seed).public_key().public_bytes_raw()

    def sign(self, seed: bytes, message: bytes) -> bytes:
        return self._signing(seed).sign(message)

    def verify(self, public: bytes, signature: bytes, message: bytes) -> None:
        _need("Ed25519 public key", public, 32)
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except InvalidSignature as error:
            raise CryptoError("Ed25519 signature does not fit the message and the key") from error

    def _signing(self, seed: bytes) -> Ed25519PrivateKey:
        _need("seed", seed, KEY_BYTES)
        return Ed25519PrivateKey.from_private_bytes(seed)


@dataclass(frozen=True, slots=True)
class _P256:
    """One side of ECDH on P-256 (NIST SP 800-56A revision 3)."""

    key: ec.EllipticCurvePrivateKey

    @property
    def public(self) -> bytes:
        return _point_bytes(self.key)

    def agree(self, peer_public: bytes) -> bytes:
        return self.key.exchange(ec.ECDH(), _point(peer_public))


@dataclass(frozen=True, slots=True)
class _Fips:
    """ECDH on P-256 (SP 800-56A) and ECDSA on P-256 with SHA-256 (FIPS 186-5).

    Approved algorithms only. Whether the module that runs them is a validated one depends on the
    OpenSSL that the `cryptography` package was built against: its binary wheels bring one that is
    not.

    Public keys are uncompressed points: 33 bytes more than compressed ones, and parsed in a third
    of the time. Signatures are r and s of 32 bytes each, deterministic as in RFC 6979, so that no
    weak random number can give the key away.
    """

    name: Profile = "fips"
    agreement_public_bytes: int = 65
    signing_public_bytes: int = 65

    def agreement(self, seed: bytes) -> _P256:
        return _P256(_p256_key(seed, b"fedsim/p256/v1|agreement"))

    def agreement_public(self, seed: bytes) -> bytes:
        return self.agreement(seed).public

    def agree(self, seed: bytes, peer_public: bytes) -> bytes:
        return self.agreement(seed).agree(peer_public)

    def signing_public(self, seed: bytes) -> bytes:
        return _point_bytes(_p256_key(seed, b"fedsim/p256/v1|signing"))

    def sign(self, seed: bytes, message: bytes) -> bytes:
        key = _p256_key(seed, b"fedsim/p256/v1|signing")
        r, s = utils.decode_dss_signature(key.sign(message, _ecdsa()))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def verify(self, public: bytes, signature: bytes, message: bytes) -> None:
        _need("ECDSA signature", signature, SIGNATURE_BYTES)
        numbers = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        try:
            _point(public).verify(utils.encode_dss_signature(*numbers), message, _ecdsa())
        except InvalidSignature as error:
            raise CryptoError("ECDSA signature does not fit the message and the key") from error


def _ecdsa() -> ec.ECDSA:
    return ec.ECDSA(hashes.SHA256(), deterministic_signing=True)


def _p256_key(seed: bytes, info: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the private key of a seed: 128 extra bits, then reduced (FIPS 186-5, A.2.1)."""
    _need("seed", seed, KEY_BYTES)
    number = int.from_bytes(derive(seed, info, 48), "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP256R1())


def _point_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _point(public: bytes) -> ec.EllipticCurvePublicKey:
    """Read an uncompressed point that is on the curve (SP 800-56A, 5.6.2.3.3)."""
    _need("P-256 public key", public, 65)
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    except ValueError as error:
        raise CryptoError("P-256 public key is not an uncompressed point of the curve") from error


_SUITES: dict[str, Suite] = {"standard": _Standard(), "fips": _Fips()}


def suite(name: Profile) -> Suite:
    """Return the public-key algorithms of a profile.

    >>> alice, bob = bytes([1] * 32), bytes([2] * 32)
    >>> keys = suite("standard")
    >>> keys.agree(alice, keys.agreement_public(bob)) == keys.agree(
    ...     bob, keys.agreement_public(alice)
    ... )
    True
    """
    if name not in _SUITES:
        raise CryptoError(f"profile = {name!r}: one of {', '.join(_SUITES)}")
    return _SUITES[name]


def _need(what: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise CryptoError(f"{what} has {len(value)} bytes: {size} are needed")


class CtrStream:
    """The keystream of AES-256 in counter mode (NIST SP 800-38A), counter from zero.

    Starting at zero is safe because a key is used for one stream only; whoever derives keys sees to
    that. Faster than `KeyStream` where the processor has AES instructions.

    >>> CtrStream(bytes(32)).read(4).hex()
    'dc95c078'
    """

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        """Raise `CryptoError` for a key that is not 32 bytes."""
        _need("key", key, KEY_BYTES)
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        target = bytearray(count)
        self.read_into(memoryview(target))
        return bytes(target)

    def read_into(self, target: memoryview) -> None:
        """Overwrite memory, contiguous bytes, with the next bytes of the stream."""
        for start in range(0, len(target), len(_ZEROS)):
            piece = target[start : start + len(_ZEROS)]
            self._cipher.update_into(_ZEROS[: len(piece)], piece)


def ctr_stream(key: bytes) -> CtrStream:
    """Return the keystream of AES-256-CTR under a key that is used for nothing else."""
    return CtrStream(key)


class KeyStream:
    """The bytes of ChaCha20 (RFC 8439) under a key: without the key, nothing tells them from coins.

    `lane` selects one of 2^32 streams of the same key, each without an end in practice (2^100
    bytes).

    >>> KeyStream(bytes(32)).read(4).hex()
    '76b8e0ad'
    """

    __slots__ = ("_cipher", "_key", "_lane", "_left", "_segment")

    def __init__(self, key: bytes, lane: int = 0) -> None:
        """Raise `ValueError` for a key that is not 32 bytes, `OverflowError` for a wrong lane."""
        self._key, self._lane = key, lane.to_bytes(4, "little")
        self._segment = -1
        self._cipher = self._next_segment()

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        target = bytearray(count)
        self.read_into(memoryview(target))
        return bytes(target)

    def read_into(self, target: memoryview) -> None:
        """Overwrite memory, contiguous bytes, with the next bytes of the stream."""
        start = 0
        while start < len(target):
            if not self._left:
                self._cipher = self._next_segment()
            count = min(len(target) - start, self._left, len(_ZEROS))
            self._cipher.update_into(_ZEROS[:count], target[start : start + count])
            self._left -= count
            start += count

    def _next_segment(self) -> CipherContext:
        self._segment += 1
        self._left = _SEGMENT_BYTES
        nonce = bytes(4) + self._lane + self._segment.to_bytes(8, "little")  # counter, then nonce
        return Cipher(algorithms.ChaCha20(self._key, nonce), mode=None).encryptor()
