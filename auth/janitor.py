"""Forgets what is over: sessions (their rows hold where a person was), codes and links that ran out, and
budgets of tries that are whole again.

A session is kept for a day after its end, by when no token of it is good anywhere and its reuse ends nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from onsale.migrations.sql import load_queries

BATCHES = (
    load_queries("onsale.auth", "sessions.sql").sessions_forget,
    load_queries("onsale.auth", "verifications.sql").codes_forget,
    load_queries("onsale.auth", "credentials.sql").resets_forget,
    load_queries("onsale.auth", "tries.sql").tries_forget,
)

# The table is read whole for it.
JANITOR_INTERVAL_MS = 600_000
# Rows a tick: some milliseconds of Postgres.
FORGET_MAX = 1_000


@dataclass(frozen=True, slots=True)
class JanitorTick:
    """How many rows were forgotten. `more`: others wait for it."""

    forgotten: int
    more: bool


class Janitor:
    """`tick()` now and then, in any number of processes."""

    def __init__(self, pool: asyncpg.Pool, *, forget_max: int = FORGET_MAX) -> None:
        self._pool = pool
        self._forget_max = forget_max

    async def tick(self) -> JanitorTick:
        """Forget a batch of each."""
        forgotten = [len(await self._pool.fetch(batch, self._forget_max)) for batch in BATCHES]
        return JanitorTick(sum(forgotten), more=self._forget_max in forgotten)
