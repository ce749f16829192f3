"""Deleting an account: nothing is left that tells who it was, orders stay.

One transaction ends the sessions, erases what is kept of the person in this room, destroys the data key, and asks the
other rooms to forget what they keep. What they cannot forget yet (where a parcel goes) they forget when they can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import asyncpg

from onsale.auth.errors import NotFound
from onsale.auth.revocations import Revocations
from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "deletion.sql")
session_queries = load_queries("onsale.auth", "sessions.sql")


class Forgets(Protocol):
    """A room that keeps something of a person beside their orders."""

    async def forget(self, connection: asyncpg.Connection, account: str) -> None:
        """Erase it, in the transaction that deletes the account."""


class Deletion:
    """`rooms` are all that keep something of a person."""

    def __init__(self, pool: asyncpg.Pool, revocations: Revocations, rooms: Sequence[Forgets]) -> None:
        self._pool = pool
        self._revocations = revocations
        self._rooms = rooms

    async def delete(self, account: str) -> None:
        """Delete an account. NotFound when it was deleted before."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchval(queries.account_delete, account) is None:
                raise NotFound
            ended = await connection.fetch(session_queries.sessions_revoke_all, account, "deleted")
            for erase in (
                queries.addresses_drop,
                queries.sessions_anonymise,
                queries.resets_drop,
                queries.letters_drop,
            ):
                await connection.execute(erase, account)
            for room in self._rooms:
                await room.forget(connection, account)
        for row in ended:
            self._revocations.add(row["id"], row["until_ms"])
