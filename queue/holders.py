"""Who holds a line still: kept in Postgres, so that neither a loss of Redis nor the holder's own death lifts a hold."""

from __future__ import annotations

import asyncpg

from onsale.migrations.sql import load_queries

QUERIES = load_queries("onsale.queue", "holders.sql")

# What asyncpg raises while Postgres is away.
POSTGRES_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Holders:
    """Holders by name; each is added and taken out alone."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add(self, sale: str, holder: str) -> None:
        await self._pool.execute(QUERIES.holder_add, sale, holder)

    async def remove(self, sale: str, holder: str) -> None:
        await self._pool.execute(QUERIES.holder_remove, sale, holder)
