"""Six digits in a letter show that an address is somebody's own. Five minutes, five tries, once.

Every try writes one row, for an address with a code and for one that nobody has: both answers take as long, and the
budget of tries holds across processes. A code is kept as a keyed hash, since a million of them is nothing to search.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import blake2b

import asyncpg

from onsale.auth.accounts import email_index, normal_email
from onsale.auth.errors import CodeInvalid
from onsale.auth.keys import Key, Keyring
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "verifications.sql")

CODE_TTL_S = 300
TRIES_MAX = 5


class Verifications:
    """The Postgres port of codes."""

    def __init__(self, pool: asyncpg.Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._index = email_index(keyring)
        self._keys = keyring.derive("verification code")

    async def issue(self, connection: asyncpg.Connection, email_hash: bytes) -> str:
        """A new code for the address with this hash, in the caller's transaction."""
        code = f"{secrets.randbelow(10**6):06d}"
        await connection.execute(queries.code_issue, email_hash, _digest(self._keys[0], email_hash, code), CODE_TTL_S)
        return code

    async def verify(self, email: str, code: str) -> None:
        """The address is verified from now on. CodeInvalid for whatever is not the right code in time."""
        hashes = self._index.candidates(normal_email(email))
        # Committed by itself: a wrong try counts, whatever happens next.
        stored = await self._pool.fetchval(queries.code_try, hashes[0], TRIES_MAX, CODE_TTL_S)
        is_right = [hmac.compare_digest(stored or b"", _digest(key, hashes[0], code)) for key in self._keys]
        if not any(is_right):
            raise CodeInvalid
        async with self._pool.acquire() as connection, connection.transaction():
            used = await connection.fetchval(queries.code_use, hashes[0], stored)
            if used is None or await connection.fetchval(queries.account_verify, hashes) is None:
                raise CodeInvalid


def _digest(key: Key, email_hash: bytes, code: str) -> bytes:
    return blake2b(email_hash + code.encode(), key=key.secret, digest_size=32).digest()
