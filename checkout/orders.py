"""Orders as the record has them. The flusher writes these rows; here they are read, and what is no event of a stream is
written: refunds and settled refusals.

Every method raises StoreUnavailable when Postgres is away or too slow.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from onsale.auth.errors import StoreUnavailable
from onsale.checkout.record.events import ItemDoc, OrderDoc
from onsale.checkout.states import OrderState
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "orders.sql")

# Indexed look-ups; one that takes longer waits for a store that is in trouble, and its caller has its own deadline.
QUERY_TIMEOUT_S = 3.0
# Postgres refuses or does not answer; any other error is a fault of ours.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)


class PaymentRow(msgspec.Struct, frozen=True):
    """One try to pay; `key` and `digest` are of the confirmation that made it."""

    payment: str
    provider: str
    method: str
    state: str
    reason: str | None
    retryable: bool
    key: str
    digest: str
    created_at_ms: int
    currency: str
    # What goes back of it, or has gone; None = nothing does.
    refund: int | None = None


@dataclass(frozen=True, slots=True)
class OrderRow:
    """One order. `claim` is none, open, sold, released or refused; `address` is sealed."""

    order: str
    sale: str | None
    buyer: str
    turn: str
    lane: str
    epoch: int
    state: OrderState
    claim: str
    reason: str | None
    rev: int
    amount: int
    currency: str
    address: bytes | None
    idempotency_key: str
    body_digest: str
    expires_at_ms: int
    items: tuple[ItemDoc, ...]
    payments: tuple[PaymentRow, ...]
    revision: int

    def payment_state(self, attempt: str) -> str | None:
        """The state of one try to pay; None when the record does not have it."""
        return next((payment.state for payment in self.payments if payment.payment == attempt), None)

    def doc(self, limit_per_buyer: int) -> OrderDoc:
        """The order's document as it was reserved, made again from its rows."""
        return OrderDoc(
            order=self.order,
            sale=self.sale,
            buyer=self.buyer,
            turn=self.turn,
            lane=self.lane,
            items=self.items,
            amount=self.amount,
            currency=self.currency,
            idempotency_key=self.idempotency_key,
            body_digest=self.body_digest,
            limit_per_buyer=limit_per_buyer,
            address=None if self.address is None else b64encode(self.address).decode(),
            revision=self.revision,
        )


@dataclass(frozen=True, slots=True)
class OpenedRefund:
    """Money to be given back; `refund` is the provider's key. Not due while its payment holds an open claim: the money
    may yet buy something, and the claim of a refunded payment would never end."""

    refund: str
    amount: int
    currency: str
    is_due: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Which orders to list: `after` is the last id of the page before, times are Unix milliseconds."""

    limit: int
    after: str | None = None
    state: str | None = None
    sale: str | None = None
    buyer: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


_ITEMS = msgspec.json.Decoder(tuple[ItemDoc, ...])
_PAYMENTS = msgspec.json.Decoder(tuple[PaymentRow, ...])


class Orders:
    """Postgres port of checkout."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def get(self, order: str) -> OrderRow | None:
        """The order, or None while the record does not have it."""
        rows = await self._fetch(SQL.order_get, order)
        return order_row(rows[0]) if rows else None

    async def by_key(self, sale: str, buyer: str, key: str) -> OrderRow | None:
        """The order that was reserved under that key, or None while the record does not have it."""
        rows = await self._fetch(SQL.order_by_key, buyer, sale, key)
        return order_row(rows[0]) if rows else None

    async def of_buyer(self, buyer: str, page: Page) -> list[OrderRow]:
        """One page of a buyer's orders, newest first, and one more where there are more."""
        return await self._page(SQL.orders_of_buyer, buyer, page, page.sale)

    async def of_sale(self, sale: str, page: Page) -> list[OrderRow]:
        """One page of a sale's orders, newest first, and one more where there are more."""
        return await self._page(SQL.orders_of_sale, sale, page, page.buyer)

    async def open_refund(self, payment: str, amount: int, currency: str, reason: str) -> OpenedRefund:
        """Write down that a payment is to be given back. One that the record does not know cannot be written down."""
        rows = await self._fetch(SQL.refund_open, payment, amount, currency, reason)
        if not rows:
            return OpenedRefund(f"{payment}-refund", amount, currency, is_due=True)
        [row] = rows
        return OpenedRefund(f"{payment}-refund", row["amount"], row["currency"], is_due=not row["is_claimed"])

    async def close_refund(self, refund: str) -> bool:
        """The money is back; False when that was known."""
        return bool(await self._fetch(SQL.refund_close, refund))

    async def settle_refusal(self, order: str, event_id: str) -> None:
        """The units of a refused claim are where they belong."""
        await self._fetch(SQL.refusal_settle, order, event_id)

    async def _page(self, query: str, owner: str, page: Page, other: str | None) -> list[OrderRow]:
        bounds = (page.after, page.state, other, _moment(page.from_ms), _moment(page.to_ms), page.limit + 1)
        return [order_row(row) for row in await self._fetch(query, owner, *bounds)]

    async def _fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        return await fetch(self._pool, query, *args)


async def fetch(pool: asyncpg.Pool, query: str, *args: Any) -> list[asyncpg.Record]:
    """Rows, within the time that one look-up may take. Raises StoreUnavailable when Postgres is away or too slow."""
    try:
        async with asyncio.timeout(QUERY_TIMEOUT_S):
            rows: list[asyncpg.Record] = await pool.fetch(query, *args)
    except AWAY as error:
        raise StoreUnavailable from error
    return rows


def order_row(row: Mapping[str, Any]) -> OrderRow:
    """A row of `order_details` as an order."""
    return OrderRow(
        order=row["order"],
        sale=row["sale"],
        buyer=row["buyer"],
        turn=row["turn"],
        lane=row["lane"],
        epoch=row["epoch"],
        state=OrderState(row["state"]),
        claim=row["claim"],
        reason=row["reason"],
        rev=row["rev"],
        amount=row["amount"],
        currency=row["currency"],
        address=row["address"],
        idempotency_key=row["idempotency_key"],
        body_digest=row["body_digest"],
        expires_at_ms=row["expires_at_ms"],
        items=_ITEMS.decode(row["items"]),
        payments=_PAYMENTS.decode(row["payments"]),
        revision=row["revision"],
    )


def _moment(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
