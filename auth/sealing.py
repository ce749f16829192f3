"""Personal data at rest: AES-256-GCM bound to where it stands, and a keyed hash to find it again.

A sealed value is a version byte, the key's id (4 bytes), a random nonce (12) and the ciphertext with its tag. The
context ("table.column:row") is authenticated but not stored, so a value moved to another row or column does not open.
Values sealed under an older key open while its secret is listed, and are sealed anew when they are next written or by
`onsale keys rotate`.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from onsale.auth.keys import Keyring

# Under one of our secrets; under an account's own key (`auth/datakeys.py`).
GENERAL_VERSION, PERSONAL_VERSION = b"\x01", b"\x02"
_HEAD_BYTES = 5
_NONCE_BYTES = 12


class SealBroken(Exception):
    """The sealed value was changed, moved, or sealed under a secret that is no longer listed."""


class Sealer:
    """Seals and opens small values. Random nonces are safe for some 2^32 values a key: rotate long before that."""

    def __init__(self, keyring: Keyring) -> None:
        keys = keyring.derive("seal")
        self.key_id = bytes.fromhex(keys[0].kid)
        self._keys = {bytes.fromhex(key.kid): key.secret for key in keys}

    def seal(self, plain: bytes, context: str) -> bytes:
        """Encrypt for one place."""
        return seal_value(GENERAL_VERSION, self.key_id, self._keys[self.key_id], plain, context)

    def open(self, sealed: bytes, context: str) -> bytes:
        """The plain bytes, if they were sealed for this place. SealBroken otherwise."""
        if sealed[:1] != GENERAL_VERSION:
            raise SealBroken
        return open_value(self._keys, sealed, context)

    def is_current(self, sealed: bytes) -> bool:
        """Whether a value is sealed under the newest secret."""
        return key_id_of(sealed) == self.key_id

    def renewed(self, sealed: bytes, context: str) -> bytes:
        """The same value under the newest secret. SealBroken when it does not open."""
        return self.seal(self.open(sealed, context), context)


def seal_value(version: bytes, key_id: bytes, key: bytes, plain: bytes, context: str) -> bytes:
    """A sealed value under this key."""
    nonce = os.urandom(_NONCE_BYTES)
    return version + key_id + nonce + AESGCM(key).encrypt(nonce, plain, context.encode())


def open_value(keys: Mapping[bytes, bytes], sealed: bytes, context: str) -> bytes:
    """The plain bytes of a sealed value, by the key of its id. SealBroken when there is none, or it does not fit."""
    key = keys.get(key_id_of(sealed))
    if key is None:
        raise SealBroken
    nonce, body = sealed[_HEAD_BYTES : _HEAD_BYTES + _NONCE_BYTES], sealed[_HEAD_BYTES + _NONCE_BYTES :]
    try:
        return AESGCM(key).decrypt(nonce, body, context.encode())
    except (InvalidTag, ValueError) as error:
        raise SealBroken from error


def key_id_of(sealed: bytes) -> bytes:
    """Which key a value is sealed under."""
    return sealed[1:_HEAD_BYTES]


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
