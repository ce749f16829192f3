"""What is left of a session is forgotten, and nothing of one that may still matter."""

from __future__ import annotations

import time

import asyncpg
import pytest

from onsale.auth.accounts import Account
from onsale.auth.errors import RefreshInvalid
from onsale.auth.janitor import Janitor, JanitorTick
from onsale.auth.sessions import Grant, Sessions

# Columns of a session, each some days ago.
OVER = [
    {"expires_at": 2, "access_until": 2},
    {"revoked_at": 2, "access_until": 2},
]
LIVING = [
    {},
    {"access_until": 2},
    {"expires_at": 2},
    {"revoked_at": 0, "access_until": 0},
    {"revoked_at": 2},
]


async def signed_in(sessions: Sessions, mina: Account, database: asyncpg.Pool, ago: dict[str, int]) -> Grant:
    now_ms = time.time_ns() // 1_000_000
    grant = await sessions.sign_in(mina, device="phone", address="203.0.113.9", now_ms=now_ms)
    for column, days in ago.items():
        await database.execute(
            f"UPDATE sessions SET {column} = now() - make_interval(days => $2) WHERE id = $1", grant.session, days
        )
        await database.execute("UPDATE sessions SET revoked_for = 'signed_out' WHERE revoked_at IS NOT NULL")
    return grant


@pytest.fixture(autouse=True)
async def ends_without_a_word(database: asyncpg.Pool) -> None:
    """Columns are set one by one."""
    await database.execute("ALTER TABLE sessions DROP CONSTRAINT revoked_says_why")


async def test_sessions_that_are_over_are_forgotten(sessions: Sessions, mina: Account, database: asyncpg.Pool) -> None:
    """Ended or run out for a day, and the last access token with them; a token of one is as good as any nonsense."""
    kept = [(await signed_in(sessions, mina, database, ago)).session for ago in LIVING]
    over = [await signed_in(sessions, mina, database, ago) for ago in OVER]

    tick = await Janitor(database).tick()

    assert JanitorTick(len(OVER), more=False) == tick
    assert kept == [row["id"] for row in await database.fetch("SELECT id FROM sessions ORDER BY id")]
    with pytest.raises(RefreshInvalid):
        await sessions.refresh(over[0].refresh_token, address="", now_ms=0)


async def test_many_are_forgotten_in_batches(sessions: Sessions, mina: Account, database: asyncpg.Pool) -> None:
    """No tick holds the table for long, and each says whether there is more."""
    for _ in range(3):
        await signed_in(sessions, mina, database, OVER[0])
    janitor = Janitor(database, forget_max=2)

    assert [JanitorTick(2, more=True), JanitorTick(1, more=False)] == [await janitor.tick() for _ in range(2)]
