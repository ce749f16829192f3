"""Personal data at rest: AES-256-GCM bound to where it stands, and a keyed hash to find it again.

A sealed value is a version byte, the key's id (4 bytes), a random nonce (12) and the ciphertext with its tag. The
context ("table.column:row") is authenticated but not stored, so a value moved to another row or column does not open.
Values sealed under an older key open while its secret is listed, and are sealed anew when they are next written.
"""

from __future__ import annotations

import hmac
import os
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from onsale.auth.keys import Keyring

_VERSION = 1
_HEAD_BYTES = 5
_NONCE_BYTES = 12


class SealBroken(Exception):
    """The sealed value was changed, moved, or sealed under a secret that is no longer listed."""


class Sealer:
    """Seals and opens small values. Random nonces are safe for some 2^32 values a key: rotate long before that."""

    def __init__(self, keyring: Keyring) -> None:
        keys = keyring.derive("seal")
        self._current_id = bytes.fromhex(keys[0].kid)
        self._ciphers = {bytes.fromhex(key.kid): AESGCM(key.secret) for key in keys}

    def seal(self, plain: bytes, context: str) -> bytes:
        """Encrypt for one place."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._current_id].encrypt(nonce, plain, context.encode())
        return bytes([_VERSION]) + self._current_id + nonce + sealed

    def open(self, sealed: bytes, context: str) -> bytes:
        """The plain bytes, if they were sealed for this place. SealBroken otherwise."""
        cipher = self._ciphers.get(sealed[1:_HEAD_BYTES])
        if cipher is None or sealed[0] != _VERSION:
            raise SealBroken
        nonce, body = sealed[_HEAD_BYTES : _HEAD_BYTES + _NONCE_BYTES], sealed[_HEAD_BYTES + _NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, body, context.encode())
        except (InvalidTag, ValueError) as error:
            raise SealBroken from error


class BlindIndex:
    """Finds a sealed value by a keyed hash of its normal form, which tells nothing without the key."""

    def __init__(self, keyring: Keyring, purpose: str) -> None:
        self._keys = keyring.derive(f"index {purpose}")

    def of(self, text: str) -> bytes:
        """What to store: the hash under the current key (16 bytes)."""
        return self.candidates(text)[0]

    def candidates(self, text: str) -> list[bytes]:
        """What to look for: the hash under each key that may have written it, current first."""
        return [blake2b(text.encode(), key=key.secret, digest_size=16).digest() for key in self._keys]

    def matches(self, stored: bytes, text: str) -> bool:
        """Whether a stored hash is of this text, in constant time."""
        return any(hmac.compare_digest(stored, candidate) for candidate in self.candidates(text))
