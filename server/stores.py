"""The stores of a process: the line's Redis, the shop's Redis, Postgres. Opened once, closed last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from redis.asyncio import Redis

from onsale.lua import connect
from onsale.server.config import Settings

# A query that takes longer than this stands in everybody's way; the record's own bounds are tighter.
QUERY_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 3.0
POOL_MAX = 12


@dataclass(frozen=True, slots=True)
class Stores:
    """Clients of the three stores. `line` and `shop` may be one server, but are always two clients."""

    line: Redis
    shop: Redis
    pool: asyncpg.Pool


@asynccontextmanager
async def open_stores(settings: Settings, *, pool_max: int = POOL_MAX) -> AsyncIterator[Stores]:
    """Clients for as long as the block lasts. Nothing is connected yet: a store that is away does not keep us from
    starting, it is waited for by the check that follows."""
    line, shop = connect(settings.line_redis_url), connect(settings.shop_redis_url)
    pool = await asyncpg.create_pool(
        settings.database_url,
        min_size=0,
        max_size=pool_max,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=QUERY_TIMEOUT_S,
        # Behind PgBouncer the next statement may meet another server, which has prepared nothing.
        statement_cache_size=0 if settings.pgbouncer else 100,
        server_settings={} if settings.pgbouncer else {"application_name": "onsale"},
        reset=_leave_as_it_is,
    )
    try:
        yield Stores(line, shop, pool)
    finally:
        await pool.close()
        await line.aclose()
        await shop.aclose()


async def _leave_as_it_is(_: asyncpg.Connection) -> None:
    """Between borrowers of a connection. An open transaction was rolled back already, and no statement of ours leaves
    anything else behind (settings and advisory locks are all of a transaction): clearing up nothing would be a round
    trip more for every borrower."""
