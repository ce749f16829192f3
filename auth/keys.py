"""Keys and their rotation. Every key we use is derived (HKDF-SHA256) from one of the configured secrets and a purpose,
so that no two uses share a key. The first secret makes, all of them verify.

A secret that signed tickets must stay listed until the last sale of its time has ended: dropping it loses places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# 16 random bytes cannot be guessed; anything shorter was typed by a person.
SECRET_BYTES_MIN = 16


@dataclass(frozen=True, slots=True)
class Key:
    """`kid` (8 hex digits) names the key in tokens and sealed values; it is derived too, and tells nothing of it."""

    kid: str
    secret: bytes = field(repr=False)


class Keyring:
    """Configured secrets, current first. ValueError when there is none, or one is too short or doubled."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets:
            raise ValueError("at least one secret key is needed")
        if any(len(secret) < SECRET_BYTES_MIN for secret in secrets):
            raise ValueError(f"a secret key needs at least {SECRET_BYTES_MIN} bytes")
        if len(set(secrets)) != len(secrets):
            raise ValueError("a secret key is listed twice")
        self._secrets = tuple(secrets)
        self.derive = lru_cache(maxsize=64)(self._derive)

    def _derive(self, purpose: str) -> tuple[Key, ...]:
        """One key a secret for this purpose, current first."""
        return tuple(_key(secret, purpose) for secret in self._secrets)


def _key(secret: bytes, purpose: str) -> Key:
    return Key(
        kid=_hkdf(secret, f"onsale kid {purpose}", 4).hex(),
        secret=_hkdf(secret, f"onsale key {purpose}", 32),
    )


def _hkdf(secret: bytes, info: str, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info.encode()).derive(secret)
