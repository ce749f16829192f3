"""Changing a password, knowing the present one or holding a letter. Every device is signed out, and its owner is told.

The change, the end of all sessions and the letter are one transaction. A sign-in with the old password that is under
way either is ended by it or finds that the password is no longer right (`session_insert`).
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from onsale.auth.accounts import context
from onsale.auth.datakeys import DataKeys
from onsale.auth.errors import CurrentPasswordWrong, Flaw, InvalidRequest, NotFound, ResetInvalid
from onsale.auth.identifiers import new_id
from onsale.auth.keys import Keyring
from onsale.auth.outbox import Outbox, ToAccount
from onsale.auth.passwordpolicy import normal_password, require_good
from onsale.auth.passwords import PasswordHasher
from onsale.auth.resets import token_hash
from onsale.auth.revocations import Revocations
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "credentials.sql")
session_queries = load_queries("onsale.auth", "sessions.sql")


class Credentials:
    """The Postgres port of passwords."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        keyring: Keyring,
        passwords: PasswordHasher,
        revocations: Revocations,
        outbox: Outbox,
    ) -> None:
        self._pool = pool
        self._data_keys = DataKeys(keyring)
        self._passwords = passwords
        self._revocations = revocations
        self._outbox = outbox

    async def change(self, account: str, current: str, new: str) -> None:
        """Another password for whoever knows the present one. CurrentPasswordWrong; InvalidRequest for a bad one."""
        row = await self._pool.fetchrow(queries.password_of, account)
        if row is None:
            raise NotFound
        require_good(new, "#/new", *self._named(account, row))
        if normal_password(current) == normal_password(new):
            raise InvalidRequest(Flaw("#/new", "password_same", "The new password is the present one."))
        if not await self._passwords.verify(row["password_hash"], normal_password(current)):
            raise CurrentPasswordWrong
        hashed = await self._passwords.hash(normal_password(new))
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval(queries.password_change, account, row["password_hash"], hashed):
                raise CurrentPasswordWrong
            ended = await self._changed(connection, account)
        self._note(ended)

    async def reset(self, token: str, new: str) -> None:
        """Another password for whoever holds a letter's token. ResetInvalid; InvalidRequest for a bad password, which
        leaves the token good."""
        require_good(new, "#/new")
        # Before a hash is spent on it: who makes tokens up costs us one look.
        if not await self._pool.fetchval(queries.reset_find, token_hash(token)):
            raise ResetInvalid
        hashed = await self._passwords.hash(normal_password(new))
        async with self._pool.acquire() as connection, connection.transaction():
            account = await connection.fetchval(queries.reset_use, token_hash(token))
            if account is None or not await connection.fetchval(queries.password_set, account, hashed):
                raise ResetInvalid
            ended = await self._changed(connection, account)
        self._note(ended)

    async def _changed(self, connection: asyncpg.Connection, account: str) -> Sequence[asyncpg.Record]:
        """What follows from a change; the sessions it ended."""
        await connection.execute(queries.resets_drop, account)
        await self._outbox.put(
            connection,
            kind="password_changed",
            to=ToAccount(account),
            params={},
            once_key=f"password_changed:{new_id()}",
        )
        ended: Sequence[asyncpg.Record] = await connection.fetch(
            session_queries.sessions_revoke_all, account, "password"
        )
        return ended

    def _note(self, ended: Sequence[asyncpg.Record]) -> None:
        """Out here at once, elsewhere within a second. Not before it is committed."""
        for row in ended:
            self._revocations.add(row["id"], row["until_ms"])

    def _named(self, account: str, row: asyncpg.Record) -> list[str]:
        sealer = self._data_keys.of(account, row["data_key"])
        return [
            sealer.open(row[column], context(column, account)).decode()
            for column in ("email", "name")
            if row[column] is not None
        ]
