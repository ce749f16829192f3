"""Forgets sessions that are over: their rows hold where a person was, and grow with every sign-in.

A session is kept for a day after its end, by when no token of it is good anywhere and its reuse ends nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "sessions.sql")

# The table is read whole for it.
JANITOR_INTERVAL_MS = 600_000
# Rows a tick: some milliseconds of Postgres.
FORGET_MAX = 1_000


@dataclass(frozen=True, slots=True)
class JanitorTick:
    """How many sessions were forgotten. `more`: others wait for it."""

    forgotten: int
    more: bool


class Janitor:
    """`tick()` now and then, in any number of processes."""

    def __init__(self, pool: asyncpg.Pool, *, forget_max: int = FORGET_MAX) -> None:
        self._pool = pool
        self._forget_max = forget_max

    async def tick(self) -> JanitorTick:
        """Forget a batch."""
        forgotten = len(await self._pool.fetch(queries.sessions_forget, self._forget_max))
        return JanitorTick(forgotten, more=forgotten == self._forget_max)
