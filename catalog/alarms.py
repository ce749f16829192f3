"""Letters before a sale starts: who wants one, and writing them in time.

A letter is put into the outbox in the transaction that notes for which start it was: it is written once, however many
workers run and whatever dies. A sale that is moved to another start is told of anew; one that is closed, or is not
approved any more, is not told of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import asyncpg

from onsale.auth.outbox import Outbox, ToAccount
from onsale.catalog.errors import AlarmTooLate, SaleUnknown
from onsale.migrations.sql import load_queries
from onsale.web.formats import moment

SQL = load_queries("onsale.catalog", "alarms.sql")

# How long before a start its letters are written, and how long before that one may still ask for one.
TOLD_AHEAD_MIN = 60
ASKED_AHEAD_MIN = TOLD_AHEAD_MIN + 10
TOLD_AHEAD_MS = TOLD_AHEAD_MIN * 60_000
BATCH_MAX = 200
FORGET_MAX = 2_000


class AlarmState(StrEnum):
    """What is to be expected of an alarm."""

    WAITING = "waiting"  # a letter, an hour before the start
    SENT = "sent"  # it was written
    OVER = "over"  # nothing: the sale started, or will not


@dataclass(frozen=True, slots=True)
class Alarm:
    """One account's wish to be told of one sale; `no` orders them."""

    account: str
    sale: str
    no: int
    title: str
    made_at_ms: int
    starts_at_ms: int
    told_at_ms: int | None
    state: AlarmState


@dataclass(frozen=True, slots=True)
class AlarmTick:
    """Letters written, and whether more wait."""

    written: int
    more: bool = False


class Alarms:
    """The alarms' Postgres port."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def put(self, account: str, sale: str) -> tuple[Alarm, bool]:
        """Have a letter sent before a sale starts: the alarm, and whether it is new. SaleUnknown, AlarmTooLate."""
        no = await self._pool.fetchval(SQL.alarm_put, account, sale, ASKED_AHEAD_MIN)
        found = await self.of(account, sale)
        if found is None or (no is None and found.state is AlarmState.OVER):
            raise AlarmTooLate if await self._pool.fetchval(SQL.is_visible, sale) else SaleUnknown
        return found, no is not None

    async def of(self, account: str, sale: str) -> Alarm | None:
        """An account's alarm for a sale."""
        row = await self._pool.fetchrow(SQL.alarm_of, account, sale)
        return None if row is None else _alarm(row)

    async def remove(self, account: str, sale: str) -> None:
        """Again is the same."""
        await self._pool.execute(SQL.alarm_delete, account, sale)

    async def page(self, account: str, before: int | None, limit: int) -> list[Alarm]:
        """Newest first."""
        return [_alarm(row) for row in await self._pool.fetch(SQL.alarms_page, account, before, limit)]

    async def forget(self, connection: asyncpg.Connection, account: str) -> None:
        """What a deleted account asked for, in the transaction that deletes it."""
        await connection.execute(SQL.alarms_forget_account, account)


class AlarmWriter:
    """Writes letters an hour ahead. Ticked each second; any number of workers may run."""

    def __init__(self, pool: asyncpg.Pool, outbox: Outbox) -> None:
        self._pool = pool
        self._outbox = outbox

    async def tick(self) -> AlarmTick:
        """One batch. Raises what Postgres raises; then none of it was written."""
        async with self._pool.acquire() as conn, conn.transaction():
            rows = await conn.fetch(SQL.alarms_due, TOLD_AHEAD_MIN, BATCH_MAX)
            for row in rows:
                await self._write(conn, row)
            told = [[row[name] for row in rows] for name in ("account", "sale", "opens_at")]
            await conn.execute(SQL.alarms_told, *told)
        return AlarmTick(len(rows), more=len(rows) == BATCH_MAX)

    async def forget(self) -> int:
        """Alarms of sales long over; how many."""
        status: str = await self._pool.execute(SQL.alarms_forget, FORGET_MAX)
        return int(status.split()[-1])

    async def _write(self, conn: asyncpg.Connection, row: Mapping[str, Any]) -> None:
        await self._outbox.put(
            conn,
            kind="sale_starts",
            to=ToAccount(row["account"]),
            params={"sale": row["sale"], "title": row["title"], "at": moment(row["starts_at"].isoformat())},
            once_key=f"sale_starts:{row['account']}:{row['sale']}:{row['opens_at'].isoformat()}",
            # Told after the start it would be a lie.
            expires_after_s=row["left_s"],
        )


def _alarm(row: Mapping[str, Any]) -> Alarm:
    return Alarm(**{**dict(row), "state": AlarmState(row["state"])})
