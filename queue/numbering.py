"""Numbering never goes back: no place above `place_ceiling` is given, and the ceiling is in Postgres before it is used.

Whatever Redis forgets, numbering goes on at the ceiling; the numbers between are never given, which harms nobody.
"""

from __future__ import annotations

import asyncpg

from onsale.migrations.sql import load_queries

# 100,000: half of it, what is at least left, is some seconds of the hardest join storm, or minutes of Postgres being
# away; a restart skips what is left of it.
PLACES_A_BLOCK = 100_000

QUERIES = load_queries("onsale.queue", "numbering.sql")


class Numbering:
    """Blocks of places, taken from Postgres ahead of need."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def raise_above(self, sale: str, epoch: int, run_id: str, ceiling: int) -> int:
        """A ceiling above `ceiling`, raised by this call or by another at the same moment. Answers `ceiling` itself
        when the line is of a newer epoch or on another server by now: then nothing may be given any more here."""
        raised = await self._pool.fetchval(QUERIES.place_ceiling_raise, sale, epoch, run_id, ceiling, PLACES_A_BLOCK)
        if raised is None:
            raised = await self._pool.fetchval(QUERIES.place_ceiling, sale, epoch, run_id)
        return max(ceiling, raised or 0)
