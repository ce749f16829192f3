"""Cancelling and sending back: what the record says of a sold order changes here, in one transaction each.

    lock order -> items     in the order in which the flusher locks them
    key                     a request made before answers what it answered
    state, claim            compare-and-set: against the delivery clock, another device, another worker
    units, ledger, limit    with the moves that the Restocker carries to Redis, once per id
    refund                  with the key that the Completer asks the provider with

Nothing foreign is called: whoever finishes it starts from these rows. An order that the record does not have yet cannot
be cancelled, only given up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import asyncpg
import msgspec

from onsale.auth.errors import IdempotencyKeyReused, StoreUnavailable
from onsale.catalog.sales import RefundPolicy
from onsale.checkout.errors import OrderStateConflict, OrderUnknown
from onsale.checkout.orders import AWAY
from onsale.checkout.refunds import RefundLine, refund_amount
from onsale.checkout.states import OrderState
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "aftersale.sql")

CANCELLABLE = (OrderState.CONFIRMED, OrderState.PREPARING)
# A day after delivery, which is two days after the confirmation.
RETURN_UNTIL_MS = 3 * 86_400_000

_policy = msgspec.json.Decoder(RefundPolicy).decode


class KnownOrders(Protocol):
    """Whether an order that the record does not have is this buyer's. Raises OrderUnknown."""

    async def order(self, buyer: str, order: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks for what under which Idempotency-Key; `digest` is the parsed body's."""

    buyer: str
    order: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a buyer may ask for now, and how much of the price that gives back."""

    verb: Literal["cancel", "return"]
    amount: int
    currency: str


class AfterSale:
    """Every method raises StoreUnavailable when Postgres is away or too slow; then repeating it finds out."""

    def __init__(self, pool: asyncpg.Pool, known: KnownOrders | None = None) -> None:
        self._pool = pool
        self._known = known

    async def cancel(self, asking: Asking) -> bool:
        """Cancel an order that has not been shipped: refunded by the sale's policy, restocked. Answers whether it is a
        replay. Raises OrderUnknown, OrderStateConflict, IdempotencyKeyReused."""
        return await self._ask("cancel", asking)

    async def request_return(self, asking: Asking) -> bool:
        """Ask to send a delivered order back, until a day after its delivery. Answers whether it is a replay. Raises
        OrderUnknown, OrderStateConflict, IdempotencyKeyReused."""
        return await self._ask("return", asking)

    async def outlook(self, buyer: str, order: str) -> Outlook | None:
        """What this buyer could ask for now, as the record has the order; None: nothing of this kind."""
        try:
            row = await self._pool.fetchrow(SQL.order_outlook, order, buyer, RETURN_UNTIL_MS)
        except AWAY as error:
            raise StoreUnavailable from error
        if row is None:
            return None
        may_return = row["state"] == OrderState.DELIVERED and not row["is_late"] and not row["is_visit"]
        if row["state"] not in CANCELLABLE and not may_return:
            return None
        lines = [RefundLine(amount, day) for amount, day in zip(row["amounts"], row["days"], strict=True)]
        return Outlook("return" if may_return else "cancel", _given_back(row, lines), row["currency"])

    async def cancel_in_full(self, order: str, reason: str) -> bool:
        """Cancel an order because its sale is cancelled: everything is given back. False where it is too late (shipped,
        an entry of it redeemed), or was done."""
        async with self._transaction() as conn:
            row = await self._lock(conn, order)
            if row is None or await conn.fetchval(SQL.is_redeemed, order):
                return False
            return await self._end(conn, row, OrderState.CANCELLED, reason, is_in_full=True)

    async def finish_return(self, order: str) -> bool:
        """What was sent back has come: refunded, restocked. False where that was done."""
        async with self._transaction() as conn:
            row = await self._lock(conn, order)
            return row is not None and await self._end(conn, row, OrderState.RETURNED, "returned")

    async def _ask(self, verb: str, asking: Asking) -> bool:
        async with self._transaction() as conn:
            row = await self._lock(conn, asking.order)
            if row is not None and row["buyer"] != asking.buyer:
                raise OrderUnknown
            known = await conn.fetchrow(SQL.request_find, asking.order, verb, asking.buyer, asking.key)
            if known is None and row is not None:
                is_done = await (self._cancel(conn, row) if verb == "cancel" else self._return(conn, row))
                await self._keep(conn, verb, asking, is_refused=not is_done)
        if known is not None:
            return _replayed(known, asking)
        if row is None:
            await self._refuse_unrecorded(verb, asking)
        elif not is_done:
            raise OrderStateConflict
        return False

    async def _cancel(self, conn: asyncpg.Connection, row: Mapping[str, Any]) -> bool:
        if await conn.fetchval(SQL.is_redeemed, row["id"]):
            return False
        return await self._end(conn, row, OrderState.CANCELLED, "cancelled_by_buyer")

    async def _return(self, conn: asyncpg.Connection, row: Mapping[str, Any]) -> bool:
        # Who has an entry for a day has been there, or not; there is nothing to send back.
        if row["is_late"] or row["is_visit"] or await conn.fetchval(SQL.is_redeemed, row["id"]):
            return False
        return await conn.fetchval(SQL.return_ask, row["id"]) is not None

    async def _end(
        self, conn: asyncpg.Connection, row: Mapping[str, Any], to: OrderState, reason: str, *, is_in_full: bool = False
    ) -> bool:
        order, sale = row["id"], row["sale"]
        states = [state for state in OrderState if state.may_become(to)]
        items = await conn.fetch(SQL.items_lock, order, sale)
        if await conn.fetchval(SQL.order_end, order, to, reason, states) is None:
            return False
        lines = [RefundLine(item["amount"], item["visit_on"]) for item in items]
        amount = sum(line.amount for line in lines) if is_in_full else _given_back(row, lines)
        await conn.execute(SQL.units_return, order, sale, row["buyer"], reason)
        await conn.execute(SQL.refund_write, order, amount, reason)
        return True

    async def _refuse_unrecorded(self, verb: str, asking: Asking) -> None:
        if self._known is None:
            raise OrderUnknown
        await self._known.order(asking.buyer, asking.order)
        async with self._transaction() as conn:
            await self._keep(conn, verb, asking, is_refused=True)
        raise OrderStateConflict

    async def _lock(self, conn: asyncpg.Connection, order: str) -> Mapping[str, Any] | None:
        row: Mapping[str, Any] | None = await conn.fetchrow(SQL.order_lock, order, RETURN_UNTIL_MS)
        return row

    async def _keep(self, conn: asyncpg.Connection, verb: str, asking: Asking, *, is_refused: bool) -> None:
        await conn.execute(SQL.request_write, asking.order, verb, asking.buyer, asking.key, asking.digest, is_refused)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with self._pool.acquire() as conn, conn.transaction():
                await conn.execute(SQL.guards)
                yield conn
        except (*AWAY, asyncpg.LockNotAvailableError) as error:
            raise StoreUnavailable from error


def _given_back(row: Mapping[str, Any], lines: Sequence[RefundLine]) -> int:
    policy = _policy(row["refunding"]) if row["refunding"] else RefundPolicy()
    return refund_amount(policy, lines, purchased_on=row["purchased_on"], cancelled_on=row["cancelled_on"])


def _replayed(known: Mapping[str, Any], asking: Asking) -> bool:
    if known["digest"] != asking.digest:
        raise IdempotencyKeyReused
    if known["refused"]:
        refusal = OrderStateConflict()
        refusal.is_replay = True
        raise refusal
    return True
