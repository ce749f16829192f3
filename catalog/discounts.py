"""Discount events. Whether one is on is decided at the moment of ordering, by `catalog/offers.sql`; here they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from onsale.auth.errors import Flaw, Forbidden, InvalidRequest
from onsale.auth.identifiers import new_id
from onsale.auth.identity import Identity
from onsale.auth.roles import OPERATORS
from onsale.catalog.errors import DiscountUnknown, ProductUnknown
from onsale.catalog.vendors import Vendors
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.catalog", "discounts.sql")


class DiscountItem(msgspec.Struct, frozen=True):
    """So many percent off one product."""

    product: str
    percent: int


@dataclass(frozen=True, slots=True)
class Discount:
    """One event; moments are on the shop's clock, `is_on` as it was read."""

    id: str
    vendor: str | None
    title: str
    starts_at_ms: int
    ends_at_ms: int
    is_on: bool
    items: tuple[DiscountItem, ...]


@dataclass(frozen=True, slots=True)
class DiscountPlan:
    """What of an event shall be so; None = as it is."""

    title: str | None = None
    starts_at_ms: int | None = None
    ends_at_ms: int | None = None
    items: tuple[DiscountItem, ...] | None = None


ITEMS = msgspec.json.Decoder(tuple[DiscountItem, ...])


class Discounts:
    """Events in Postgres. A vendor's are about its own products."""

    def __init__(self, pool: asyncpg.Pool, vendors: Vendors) -> None:
        self._pool = pool
        self._vendors = vendors

    async def create(self, who: Identity, title: str, starts_at_ms: int, ends_at_ms: int, items: Items) -> Discount:
        """Raises VendorMissing, ProductUnknown, Forbidden, InvalidRequest."""
        vendor = None if who.role in OPERATORS else (await self._vendors.of(who.account)).id
        discount = new_id()
        _require_window(starts_at_ms, ends_at_ms)
        async with self._pool.acquire() as conn, conn.transaction():
            await conn.execute(SQL.discount_insert, discount, vendor, title, starts_at_ms, ends_at_ms)
            await self._put_items(conn, discount, vendor, items)
        return await self.get(discount)

    async def get(self, discount: str) -> Discount:
        """Raises DiscountUnknown."""
        row = await self._pool.fetchrow(SQL.discounts_page, None, 1, discount)
        if row is None:
            raise DiscountUnknown
        return _discount(row)

    async def page(self, after: str | None, limit: int) -> list[Discount]:
        """Newest first."""
        return [_discount(row) for row in await self._pool.fetch(SQL.discounts_page, after, limit, None)]

    async def edit(self, discount: str, who: Identity, plan: DiscountPlan) -> Discount:
        """Change what is given. Raises DiscountUnknown, Forbidden, ProductUnknown, InvalidRequest."""
        async with self._pool.acquire() as conn, conn.transaction():
            row = await self._locked(conn, discount, who)
            starts_at_ms = row["starts_at_ms"] if plan.starts_at_ms is None else plan.starts_at_ms
            ends_at_ms = row["ends_at_ms"] if plan.ends_at_ms is None else plan.ends_at_ms
            _require_window(starts_at_ms, ends_at_ms)
            await conn.execute(SQL.discount_update, discount, plan.title or row["title"], starts_at_ms, ends_at_ms)
            if plan.items is not None:
                await conn.execute(SQL.discount_items_delete, discount)
                await self._put_items(conn, discount, row["vendor"], plan.items)
        return await self.get(discount)

    async def delete(self, discount: str, who: Identity) -> None:
        """End an event for good. Raises DiscountUnknown, Forbidden."""
        async with self._pool.acquire() as conn, conn.transaction():
            await self._locked(conn, discount, who)
            await conn.execute(SQL.discount_delete, discount)

    async def _locked(self, conn: asyncpg.Connection, discount: str, who: Identity) -> Mapping[str, Any]:
        row: Mapping[str, Any] | None = await conn.fetchrow(SQL.discount_lock, discount)
        if row is None:
            raise DiscountUnknown
        await self._vendors.require_edits(who, row["vendor"])
        return row

    async def _put_items(self, conn: asyncpg.Connection, discount: str, vendor: str | None, items: Items) -> None:
        products = [item.product for item in items]
        if len(set(products)) < len(products):
            raise InvalidRequest(Flaw("#/items", "duplicate", "A product is named twice."))
        owners = {row["id"]: row["vendor"] for row in await conn.fetch(SQL.products_owned, products)}
        if any(product not in owners for product in products):
            raise ProductUnknown
        if vendor is not None and any(owner != vendor for owner in owners.values()):
            raise Forbidden
        await conn.execute(SQL.discount_items_insert, discount, products, [item.percent for item in items])


Items = Sequence[DiscountItem]


def _require_window(starts_at_ms: int, ends_at_ms: int) -> None:
    if ends_at_ms <= starts_at_ms:
        raise InvalidRequest(Flaw("#/ends_at", "out_of_range", "must be after starts_at"))


def _discount(row: Mapping[str, Any]) -> Discount:
    return Discount(**{**row, "items": ITEMS.decode(row["items"])})
