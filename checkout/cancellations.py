"""Cancelling a sale whole: everybody gets everything back, whatever the sale's refund policy says.

The sale is closed first, so that its figures stand still; the sum is shown; whoever names that sum may cancel. From
then on nobody pays for anything of it any more, and a worker ends one order after the other, each in a transaction of
its own that writes the refund with its key before any provider is called. So it does not matter where a worker dies or
how many run: what is left to do is what the orders say. Some may be recorded after it was done (Postgres was away when
they were bought), so a sale that is done is looked at again, ever more rarely, for good. What was shipped is its
buyers', who may send it back; whoever was let in with an entry has had what was paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import asyncpg
import structlog

from onsale.auth.errors import IdempotencyKeyReused, StoreUnavailable
from onsale.catalog.errors import SaleUnknown
from onsale.checkout.aftersale import AfterSale
from onsale.checkout.errors import FiguresChanged, SaleCancelled, SaleNotClosed
from onsale.checkout.orders import AWAY
from onsale.checkout.refunds import SALE_CANCELLED
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "cancellations.sql")
log = structlog.get_logger()

# So many orders of one sale a second at most, however many workers there are: each is a call of the provider soon.
ORDERS_A_SECOND = 25
TAKEN_FOR_MS = 1_000
SALES_MAX = 10


class CancellationState(StrEnum):
    """How far the cancellation of a sale has come."""

    NONE = "none"  # nobody has cancelled it
    RUNNING = "running"  # orders are being cancelled
    DONE = "done"  # all that could be cancelled is; -> running where an order is recorded later


@dataclass(frozen=True, slots=True)
class Part:
    """Some orders of a sale, and what was paid for them: minor units by currency."""

    orders: int
    amounts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A sale as its cancellation finds it. `open`: to be cancelled; `waiting`: not bought yet, they end by themselves;
    `kept`: shipped, or somebody was let in with it; `cancelled`: done; `refunded`: minor units by currency that have
    come back."""

    sale: str
    state: CancellationState
    is_closed: bool
    asked_at: datetime | None
    open: Part
    waiting: Part
    kept: Part
    cancelled: Part
    refunded: dict[str, int]


@dataclass(frozen=True, slots=True)
class CancelTick:
    """Orders cancelled in this tick, and sales that are done."""

    cancelled: int
    done: int


class SaleRegister(Protocol):
    """Where what operators do to a sale is written down."""

    async def cancel(self, sale: str, *, actor: str, key: str, digest: str, reason: str | None = None) -> bool:
        """Note that a closed sale is cancelled for good; False where it was already."""
        ...


class SaleCancellations:
    """Every method raises SaleUnknown, and StoreUnavailable when Postgres is away."""

    def __init__(self, pool: asyncpg.Pool, register: SaleRegister) -> None:
        self._pool = pool
        self._register = register

    async def of(self, sale: str) -> Cancellation:
        """What a cancellation would do, does or has done."""
        try:
            standing = await self._pool.fetchrow(SQL.sale_standing, sale)
            if standing is None:
                raise SaleUnknown
            rows = await self._pool.fetch(SQL.orders_by_part, sale, SALE_CANCELLED)
            refunded = await self._pool.fetch(SQL.refunded, sale, SALE_CANCELLED)
        except AWAY as error:
            raise StoreUnavailable from error
        return Cancellation(
            sale=sale,
            state=_state(standing),
            is_closed=standing["is_closed"],
            asked_at=standing["cancelled_at"],
            refunded={row["currency"]: row["amount"] for row in refunded},
            open=_part(rows, "open"),
            waiting=_part(rows, "waiting"),
            kept=_part(rows, "kept"),
            cancelled=_part(rows, "cancelled"),
        )

    async def start(
        self, sale: str, seen: dict[str, int], *, actor: str, key: str, digest: str, reason: str | None = None
    ) -> bool:
        """Cancel a closed sale in which so much (`seen`, minor units by currency) is to be given back; answers whether
        it is a replay. Raises SaleNotClosed, FiguresChanged (the sum is another by now), SaleCancelled (by another
        key), IdempotencyKeyReused."""
        found = await self.of(sale)
        if found.state is not CancellationState.NONE:
            return await self._replayed(sale, key, digest)
        if not found.is_closed:
            raise SaleNotClosed
        if {currency: amount for currency, amount in seen.items() if amount} != found.open.amounts:
            raise FiguresChanged
        if await self._register.cancel(sale, actor=actor, key=key, digest=digest, reason=reason):
            return False
        return await self._replayed(sale, key, digest)

    async def _replayed(self, sale: str, key: str, digest: str) -> bool:
        try:
            standing = await self._pool.fetchrow(SQL.sale_standing, sale)
        except AWAY as error:
            raise StoreUnavailable from error
        if standing["cancel_key"] != key:
            raise SaleCancelled
        if standing["cancel_digest"] != digest:
            raise IdempotencyKeyReused
        return True


class SaleCanceller:
    """Cancels the orders of cancelled sales. Ticked each quarter of a second; any number of workers may run."""

    def __init__(self, pool: asyncpg.Pool, after_sale: AfterSale) -> None:
        self._pool = pool
        self._after_sale = after_sale

    async def tick(self) -> CancelTick:
        """The next orders of each sale that is due. Raises what Postgres raises; then the rest follows later."""
        cancelled = done = 0
        for row in await self._pool.fetch(SQL.sales_take, TAKEN_FOR_MS, SALES_MAX):
            orders = await self._pool.fetch(SQL.orders_to_cancel, row["id"], ORDERS_A_SECOND)
            for order in orders:
                cancelled += await self._after_sale.cancel_in_full(order["id"], SALE_CANCELLED)
            is_done = not orders and await self._pool.fetchval(SQL.sale_finish, row["id"]) is not None
            if is_done and not row["was_done"]:
                done += 1
                log.info("sale.cancelled", sale=row["id"])
            elif row["was_done"] and not is_done:
                await self._pool.execute(SQL.sale_resume, row["id"])
        return CancelTick(cancelled, done)


def _state(standing: asyncpg.Record) -> CancellationState:
    if standing["cancelled_at"] is None:
        return CancellationState.NONE
    return CancellationState.RUNNING if standing["cancel_done_at"] is None else CancellationState.DONE


def _part(rows: Sequence[asyncpg.Record], part: str) -> Part:
    some = [row for row in rows if row["part"] == part]
    return Part(sum(row["orders"] for row in some), {row["currency"]: row["amount"] for row in some if row["amount"]})
