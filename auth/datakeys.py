"""A key for each account's personal data, so that deleting the account can destroy it.

The data key is random and kept sealed beside the account. Values under it are written like those of `auth/sealing.py`
(version 2, the key's own id, nonce, ciphertext), bound to where they stand. Accounts made before there were data keys
have none: their values are under the general key, and are moved when the keys are rotated.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from onsale.auth.keys import Keyring
from onsale.auth.sealing import PERSONAL_VERSION, Sealer, open_value, seal_value

_KEY_BYTES = 32


class PersonalSealer:
    """Seals and opens what belongs to one account."""

    def __init__(self, general: Sealer, key: bytes | None) -> None:
        self._general = general
        self._key = key

    def seal(self, plain: bytes, context: str) -> bytes:
        """Encrypt for one place."""
        if self._key is None:
            return self._general.seal(plain, context)
        return seal_value(PERSONAL_VERSION, _key_id(self._key), self._key, plain, context)

    def open(self, sealed: bytes, context: str) -> bytes:
        """The plain bytes, if they were sealed for this place. SealBroken otherwise, and when the key is destroyed."""
        if sealed[:1] != PERSONAL_VERSION:
            return self._general.open(sealed, context)
        return open_value({} if self._key is None else {_key_id(self._key): self._key}, sealed, context)


class DataKeys:
    """Makes and opens data keys."""

    def __init__(self, keyring: Keyring) -> None:
        self._general = Sealer(keyring)

    def make(self, account: str) -> tuple[bytes, PersonalSealer]:
        """A new key, sealed for its account, and what seals under it."""
        key = os.urandom(_KEY_BYTES)
        return self._general.seal(key, _context(account)), PersonalSealer(self._general, key)

    def of(self, account: str, data_key: bytes | None) -> PersonalSealer:
        """What seals and opens for an account, by its sealed key; None: it has none."""
        return PersonalSealer(self._general, None if data_key is None else self._open(account, data_key))

    def is_current(self, data_key: bytes | None) -> bool:
        """Whether a data key is sealed under the newest secret."""
        return data_key is not None and self._general.is_current(data_key)

    def renewed(self, account: str, data_key: bytes) -> bytes:
        """The same data key, sealed under the newest secret."""
        return self._general.seal(self._open(account, data_key), _context(account))

    def _open(self, account: str, data_key: bytes) -> bytes:
        return self._general.open(data_key, _context(account))


def _key_id(key: bytes) -> bytes:
    return blake2b(key, digest_size=4, person=b"onsale data key").digest()


def _context(account: str) -> str:
    return f"accounts.data_key:{account}"
