"""Orders as the record has them. The flusher writes these rows; here they are read, and the few that are not events of a
stream are written: refunds, settled refusals, the lease of an open claim.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from onsale.auth.identifiers import new_id
from onsale.checkout.record.events import ItemDoc, OrderDoc
from onsale.checkout.states import OrderState
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "orders.sql")


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
        )


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
        row = await self._pool.fetchrow(SQL.order_get, order)
        return None if row is None else order_row(row)

    async def rev(self, order: str) -> int:
        """How many of the order's changes are recorded; 0 = none."""
        rev: int | None = await self._pool.fetchval(SQL.order_rev, order)
        return rev or 0

    async def of_buyer(self, buyer: str, page: Page) -> list[OrderRow]:
        """One page of a buyer's orders, newest first."""
        return await self._page(SQL.orders_of_buyer, buyer, page, page.sale)

    async def of_sale(self, sale: str, page: Page) -> list[OrderRow]:
        """One page of a sale's orders, newest first."""
        return await self._page(SQL.orders_of_sale, sale, page, page.buyer)

    async def open_refund(self, payment: str, amount: int, currency: str, reason: str) -> str:
        """Write down that a payment is to be given back; the refund's id, which is the provider's key."""
        refund: str = await self._pool.fetchval(SQL.refund_open, new_id(), payment, amount, currency, reason)
        return refund

    async def close_refund(self, refund: str) -> bool:
        """The money is back; False when that was known."""
        return await self._pool.fetchval(SQL.refund_close, refund) is not None

    async def settle_refusal(self, order: str) -> None:
        """The units of the order's refused claim are where they belong."""
        await self._pool.execute(SQL.refusal_settle, order)

    async def _page(self, query: str, owner: str, page: Page, other: str | None) -> list[OrderRow]:
        rows = await self._pool.fetch(
            query, owner, page.after, page.state, other, _moment(page.from_ms), _moment(page.to_ms), page.limit
        )
        return [order_row(row) for row in rows]


def order_row(row: Mapping[str, Any]) -> OrderRow:
    """A row of `orders.sql` or `completer.sql` as an order."""
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
    )


def _moment(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
