"""What checkout has left to finish, as Postgres knows it. Taking a piece of work is a compare-and-set of its lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from onsale.checkout.inventory import Claiming
from onsale.lua.keys import ShopKeys
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "completer.sql")


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """An attempt whose claim is open and whose lease is ours now. `instrument` is sealed; None = erased."""

    attempt: str
    order: str
    provider: str
    method: str
    key: str
    instrument: bytes | None
    age_ms: int


@dataclass(frozen=True, slots=True)
class OpenRefund:
    """Money to be given back; `refund` is the provider's key. Its lease is ours now."""

    refund: str
    attempt: str
    order: str
    # What the payment was of; `amount` of it is due.
    charged: int
    amount: int
    currency: str
    provider: str
    method: str


@dataclass(frozen=True, slots=True)
class OpenRefusal:
    """A claim that the record refused and whose units are still claimed in Redis."""

    order: str
    event_id: str
    epoch: int
    sale: str
    reason: str


class Backlog:
    """Any number of workers may take from it at once; each piece goes to one of them."""

    def __init__(self, pool: asyncpg.Pool, driver: str) -> None:
        self._pool = pool
        self._driver = driver

    async def attempts(self, drive_ms: int, count: int) -> list[OpenAttempt]:
        """Take at most `count` attempts for `drive_ms`."""
        rows = await self._pool.fetch(SQL.attempts_take, self._driver, drive_ms, count)
        return [OpenAttempt(**row) for row in rows]

    async def wait(self, attempt: str, wait_ms: int) -> None:
        """Leave an attempt of ours alone for a while."""
        await self._pool.execute(SQL.attempts_wait, attempt, self._driver, wait_ms)

    async def refunds(self, drive_ms: int, count: int) -> list[OpenRefund]:
        """Take at most `count` refunds for `drive_ms`."""
        return [OpenRefund(**row) for row in await self._pool.fetch(SQL.refunds_take, drive_ms, count)]

    async def refusals(self, grace_ms: int, count: int) -> list[OpenRefusal]:
        """At most `count` refusals older than `grace_ms`; putting their units back is idempotent and needs no lease."""
        return [OpenRefusal(**row) for row in await self._pool.fetch(SQL.refusals_open, grace_ms, count)]

    async def strays(self, keys: ShopKeys, claiming: Sequence[Claiming]) -> list[Claiming]:
        """Those of these orders whose claim was read by the record and is not in it."""
        columns = zip(*((claim.order, claim.attempt, claim.event_id) for claim in claiming), strict=True)
        rows = await self._pool.fetch(SQL.strays_of, keys.sale, keys.epoch, *(list(column) for column in columns))
        found = {row["attempt"] for row in rows}
        return [claim for claim in claiming if claim.attempt in found]

    async def end_stray(self, order: str) -> None:
        """Write down that the order ended without a claim."""
        await self._pool.execute(SQL.stray_end, order)
