"""The only door to the `cryptography` package.

Nothing here is our own cryptography: callers get primitives under names that say what for.
"""

import hashlib
import os

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms

__all__ = ["KEY_BYTES", "KeyStream", "key_of", "random_key"]

KEY_BYTES = 32
_SEGMENT_BYTES = 2**36  # of one nonce: a quarter of what the cipher's 32-bit counter can reach
_ZEROS = memoryview(bytes(2**16))


def random_key() -> bytes:
    """Return a key from the operating system: 32 secret bytes."""
    return os.urandom(KEY_BYTES)


def key_of(text: str) -> bytes:
    """Return the key that a text stands for (SHA-256): as secret as the text is."""
    return hashlib.sha256(text.encode()).digest()


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
