"""Sessions: one sign-in on one device, kept alive by refresh tokens that are used once.

Refreshing puts the next token in the place of the one presented. Only the good one, and for five seconds the one before
it (a client whose answer was lost, two tabs at once), are answered; both with the same successor, which is derived from
its parent under our key and so need not be kept anywhere. Any older token of ours means that two parties hold the same
session: it is ended for both. Tokens are kept as digests, and carry a MAC, so that nonsense costs no store.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Literal

import asyncpg

from onsale.auth.access import ACCESS_TTL_S, AccessTokens
from onsale.auth.accounts import Account
from onsale.auth.errors import AlreadySignedIn, InvalidCredentials, RefreshInvalid, SessionUnknown
from onsale.auth.identifiers import from_text, is_id, new_id, to_text
from onsale.auth.keys import Key, Keyring
from onsale.auth.revocations import Revocations
from onsale.auth.roles import Role
from onsale.auth.sealing import Sealer
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "sessions.sql")

# A device that is not used for a week signs in again; any does after 180.
REFRESH_TTL_S = 7 * 24 * 3600
SESSION_TTL_S = 180 * 24 * 3600
# Long enough for a lost answer and a second tab, too short for a thief to come after.
GRACE_S = 5
_KIND = "ort"  # onsale refresh token
_SECRET_BYTES = 20
_MAC_BYTES = 10
_TOKEN_LENGTH_MAX = 128

Reason = Literal["signed_out", "password", "deleted"]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a sign-in or a refresh gives. Times are seconds from now."""

    session: str
    access_token: str = field(repr=False)
    expires_in_s: int
    refresh_token: str = field(repr=False)
    refresh_expires_in_s: int


@dataclass(frozen=True, slots=True)
class SessionView:
    """What its owner may read of a session."""

    session: str
    device: str
    address: str
    created_at: datetime
    used_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _RefreshToken:
    text: str = field(repr=False)
    session: str
    secret: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        return blake2b(self.text.encode(), digest_size=32).digest()


class Sessions:
    """The sessions' Postgres port."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        keyring: Keyring,
        access: AccessTokens,
        revocations: Revocations,
        *,
        is_single: bool = False,
    ) -> None:
        self._pool = pool
        # Whether an account may be signed in on one device only.
        self._is_single = is_single
        self._keys = keyring.derive("refresh")
        self._sealer = Sealer(keyring)
        self._access = access
        self._revocations = revocations

    async def sign_in(self, account: Account, *, device: str, address: str, now_ms: int) -> Grant:
        """A new session. `device` and `address` are kept sealed, for its owner to recognise it by.

        InvalidCredentials when the password was changed since it was found right; AlreadySignedIn where accounts may
        have one session only, and this one has.
        """
        session = new_id()
        refresh = self._token(self._keys[0], session, os.urandom(_SECRET_BYTES))
        async with self._pool.acquire() as connection, connection.transaction():
            if self._is_single:
                await connection.fetchval(queries.sessions_lock, account.id)
                if await connection.fetchval(queries.sessions_living, account.id):
                    raise AlreadySignedIn
            made = await connection.fetchval(
                queries.session_insert,
                session,
                account.id,
                self._sealed("device", session, device) if device else None,
                self._sealed("address", session, address),
                refresh.digest,
                REFRESH_TTL_S,
                ACCESS_TTL_S,
                account.password_hash,
            )
        if made is None:
            raise InvalidCredentials
        return self._grant(account, refresh, REFRESH_TTL_S, now_ms)

    async def refresh(self, token: str, *, address: str, now_ms: int) -> Grant:
        """New tokens for the good one. RefreshInvalid otherwise; a used-up one ends its session."""
        presented = self._read(token)
        successors = [self._successor(key, presented) for key in self._keys]
        row = await self._pool.fetchrow(
            queries.session_rotate,
            presented.session,
            presented.digest,
            successors[0].digest,
            ACCESS_TTL_S,
            REFRESH_TTL_S,
            SESSION_TTL_S,
            self._sealed("address", presented.session, address),
        )
        if row is not None:
            return self._grant(_account(row), successors[0], row["expires_in_s"], now_ms)
        row = await self._pool.fetchrow(
            queries.session_grace, presented.session, presented.digest, GRACE_S, ACCESS_TTL_S
        )
        # Under another key when the keys were rotated within the grace.
        successor = next((each for each in successors if row and each.digest == row["refresh_hash"]), None)
        if row is not None and successor is not None:
            return self._grant(_account(row), successor, row["expires_in_s"], now_ms)
        await self._revoke(queries.session_revoke_family, presented.session)
        raise RefreshInvalid

    async def sign_out(self, account: str, session: str) -> None:
        """End one session of an account, known here at once and elsewhere within a second. SessionUnknown: not its."""
        if not is_id(session) or not await self._revoke(queries.session_revoke, session, account, "signed_out"):
            raise SessionUnknown

    async def sign_out_everywhere(self, account: str, reason: Reason = "signed_out") -> int:
        """End every session of an account; answers how many."""
        return await self._revoke(queries.sessions_revoke_all, account, reason)

    async def page(self, account: str, *, before: str | None, limit: int) -> Sequence[SessionView]:
        """Living sessions, newest first, older than the cursor `before`."""
        rows = await self._pool.fetch(queries.sessions_page, account, before, limit)
        return [
            SessionView(
                session=row["id"],
                device=self._unsealed(row, "device"),
                address=self._unsealed(row, "address"),
                created_at=row["created_at"],
                used_at=row["used_at"],
                expires_at=row["expires_at"],
            )
            for row in rows
        ]

    async def _revoke(self, query: str, *arguments: str) -> int:
        rows = await self._pool.fetch(query, *arguments)
        for row in rows:
            self._revocations.add(row["id"], row["until_ms"])
        return len(rows)

    def _grant(self, account: Account, refresh: _RefreshToken, refresh_expires_in_s: int, now_ms: int) -> Grant:
        return Grant(
            session=refresh.session,
            access_token=self._access.mint(
                account=account.id,
                role=account.role,
                session=refresh.session,
                is_verified=account.is_verified,
                now_ms=now_ms,
            ),
            expires_in_s=ACCESS_TTL_S,
            refresh_token=refresh.text,
            refresh_expires_in_s=refresh_expires_in_s,
        )

    def _read(self, token: str) -> _RefreshToken:
        parts = token.split(".")
        if len(token) > _TOKEN_LENGTH_MAX or not token.isascii() or len(parts) != 4 or parts[0] != _KIND:
            raise RefreshInvalid
        _, session, secret_text, mac_text = parts
        try:
            secret, mac = from_text(secret_text, _SECRET_BYTES), from_text(mac_text, _MAC_BYTES)
        except ValueError as error:
            raise RefreshInvalid from error
        if not any(hmac.compare_digest(mac, _mac(key, session, secret)) for key in self._keys):
            raise RefreshInvalid
        return _RefreshToken(token, session, secret)

    def _token(self, key: Key, session: str, secret: bytes) -> _RefreshToken:
        text = f"{_KIND}.{session}.{to_text(secret)}.{to_text(_mac(key, session, secret))}"
        return _RefreshToken(text, session, secret)

    def _successor(self, key: Key, parent: _RefreshToken) -> _RefreshToken:
        secret = blake2b(parent.text.encode(), key=key.secret, digest_size=_SECRET_BYTES, person=b"successor").digest()
        return self._token(key, parent.session, secret)

    def _sealed(self, column: str, session: str, text: str) -> bytes:
        return self._sealer.seal(text.encode(), f"sessions.{column}:{session}")

    def _unsealed(self, row: asyncpg.Record, column: str) -> str:
        sealed = row[column]
        return "" if sealed is None else self._sealer.open(sealed, f"sessions.{column}:{row['id']}").decode()


def _account(row: asyncpg.Record) -> Account:
    return Account(row["account"], Role(row["role"]), row["is_verified"])


def _mac(key: Key, session: str, secret: bytes) -> bytes:
    return blake2b(session.encode() + secret, key=key.secret, digest_size=_MAC_BYTES, person=b"refresh").digest()
