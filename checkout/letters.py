"""Letters about orders: bought, and money that is back. Ticked each second; any number of workers may run.

A notice that asks for a letter is locked, the letter is put into the outbox and the notice asks no more, in one
transaction: it is written once, whatever dies, and its key says the same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from onsale.auth.outbox import Outbox, ToAccount
from onsale.migrations.sql import load_queries
from onsale.web.formats import money_text

SQL = load_queries("onsale.checkout", "notices.sql")

BATCH_MAX = 100
KEPT_DAYS = 30
FORGET_MAX = 2_000

_items = msgspec.json.Decoder(list[tuple[str, int]]).decode


@dataclass(frozen=True, slots=True)
class LetterTick:
    """Letters written, and whether more wait."""

    written: int
    more: bool = False


class LetterWriter:
    """Writes what notices ask for."""

    def __init__(self, pool: asyncpg.Pool, outbox: Outbox) -> None:
        self._pool = pool
        self._outbox = outbox

    async def tick(self) -> LetterTick:
        """One batch. Raises what Postgres raises; then none of it was written."""
        async with self._pool.acquire() as conn, conn.transaction():
            rows = await conn.fetch(SQL.letters_due, BATCH_MAX)
            for row in rows:
                await self._write(conn, row)
        return LetterTick(len(rows), more=len(rows) == BATCH_MAX)

    async def _write(self, conn: asyncpg.Connection, row: Mapping[str, Any]) -> None:
        order = await conn.fetchrow(SQL.order_told, row["order"])
        # An order is bought once; of its payments each may come back.
        cause = row["order"] if row["amount"] is None else f"{row['order']}:{row['xid']}-{row['id']}"
        told = order if row["amount"] is None else row
        params = {
            "order": row["order"],
            "money": money_text(told["amount"], told["currency"]),
            "items": [{"title": title, "quantity": quantity} for title, quantity in _items(order["items"] or "[]")],
        }
        to = ToAccount(row["account"])
        await self._outbox.put(conn, kind=row["letter"], to=to, params=params, once_key=f"{row['letter']}:{cause}")
        await conn.execute(SQL.letter_written, row["account"], row["xid"], row["id"])


class NoticeJanitor:
    """Forgets notices that are a month old."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def tick(self) -> int:
        """A batch of the oldest; how many were forgotten."""
        return len(await self._pool.fetch(SQL.notices_forget, KEPT_DAYS, FORGET_MAX))
