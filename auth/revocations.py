"""Sessions that were ended while access tokens of theirs were still good.

This process knows of its own at once; of every other's by `tick`, run twice a second, so that a signed-out token is
refused everywhere within a second without asking a store per request. While Postgres is away nobody can be signed out,
and what was known stays known.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from onsale.migrations.sql import load_queries

queries = load_queries("onsale.auth", "sessions.sql")

# Half of the second within which a sign-out must be known everywhere.
REVOCATIONS_INTERVAL_MS = 500
# A transaction's time is when it began, so a row may appear later than its time; ours take milliseconds.
_OVERLAP_MS = 10_000
# Entries outlive their tokens by this much, for processes whose clocks differ.
_SKEW_MS = 60_000


@dataclass(frozen=True, slots=True)
class RevocationTick:
    """What one tick did: sessions newly known as ended, and how many are remembered."""

    added: int
    remembered: int


class Revocations:
    """`session in revocations` is one look-up. Bounded by the sessions ended within one access token's life."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._until_ms: dict[str, int] = {}
        self._asked_at: datetime | None = None

    def __contains__(self, session: object) -> bool:
        return session in self._until_ms

    def add(self, session: str, until_ms: int) -> None:
        """End a session in this process, at once. `until_ms`: none of its access tokens is good beyond."""
        self._until_ms[session] = until_ms

    async def tick(self, now_ms: int) -> RevocationTick:
        """Learn what other processes ended (the first time: all that still matters), and forget what has run out."""
        row = await self._pool.fetchrow(queries.sessions_revoked_since, self._asked_at, _OVERLAP_MS)
        known = len(self._until_ms)
        self._until_ms.update(zip(row["sessions"], row["until_ms"], strict=True))
        added = len(self._until_ms) - known
        self._asked_at = row["asked_at"]
        for session in [each for each, until_ms in self._until_ms.items() if until_ms + _SKEW_MS < now_ms]:
            del self._until_ms[session]
        return RevocationTick(added, len(self._until_ms))
