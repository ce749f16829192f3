"""Products: what there is to buy, whoever sells it. What one costs at this moment is `catalog/offers.py`'s to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from onsale.auth.errors import Flaw, InvalidRequest
from onsale.auth.identity import Identity
from onsale.catalog import moves
from onsale.catalog.errors import ProductExists, ProductInSale, ProductUnknown
from onsale.catalog.moves import Mover
from onsale.catalog.sales import SHOP
from onsale.catalog.states import ProductKind, ProductState
from onsale.catalog.vendors import Vendors
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.catalog", "products.sql")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """One product; amounts in minor units, times Unix milliseconds (0 = none). `units_left` is the record's, of what is
    sold outside sales; `is_ordinary`: there were such units once. What it is stays as it was made."""

    product: str
    no: int
    vendor: str | None
    title: str
    about: str
    image: str | None
    amount: int
    currency: str
    available_from_ms: int = 0
    available_until_ms: int = 0
    is_discontinued: bool = False
    is_deleted: bool = False
    created_at_ms: int = 0
    units_left: int = 0
    is_ordinary: bool = False
    kind: ProductKind = ProductKind.GOODS
    # The day that an entry is for; None: any day.
    visit_on: date | None = None

    def state(self, *, is_on_sale: bool) -> ProductState:
        """What people are told of it."""
        if self.is_discontinued:
            return ProductState.DISCONTINUED
        if is_on_sale:
            return ProductState.ON_SALE
        return ProductState.AVAILABLE if self.units_left > 0 else ProductState.OUT_OF_STOCK


@dataclass(frozen=True, slots=True)
class Asked:
    """Which products to list; `on_sale` are those that an open sale has now, `after` the number that ended a page."""

    limit: int
    after: int | None = None
    state: ProductState | None = None
    vendor: str | None = None
    price_min: int | None = None
    price_max: int | None = None
    on_sale: Sequence[str] = ()


class Products:
    """Products in Postgres. A change is its vendor's or an operator's to make."""

    def __init__(self, pool: asyncpg.Pool, vendors: Vendors, mover: Mover) -> None:
        self._pool = pool
        self._vendors = vendors
        self._mover = mover

    async def create(self, new: Product, units: int) -> Product:
        """Write a product down with its first units. Raises ProductExists."""
        opening = moves.move_id("opening", new.product)
        async with self._pool.acquire() as conn, conn.transaction():
            if await conn.fetchval(SQL.product_new, *_fields(new), new.kind, new.visit_on) is None:
                raise ProductExists
            await conn.execute(moves.SQL.item_ensure, new.product)
            await moves.come(conn, opening, SHOP, new.product, units, "opening")
        await self._mover.settle(opening)
        return await self.get(new.product)

    async def get(self, product: str) -> Product:
        """Raises ProductUnknown, for a deleted one too."""
        row = await self._pool.fetchrow(SQL.product_get, product)
        if row is None:
            raise ProductUnknown
        return product_of(row)

    async def page(self, asked: Asked) -> list[Product]:
        """Newest first."""
        rows = await self._pool.fetch(
            SQL.products_page,
            asked.after,
            asked.limit,
            asked.state,
            asked.vendor,
            asked.price_min,
            asked.price_max,
            asked.on_sale,
        )
        return [product_of(row) for row in rows]

    async def edit(self, product: str, who: Identity, changes: Mapping[str, Any]) -> Product:
        """Change fields of a product by their names. Raises ProductUnknown, Forbidden, InvalidRequest."""
        async with self._pool.acquire() as conn, conn.transaction():
            await self._require_edits(conn, product, who)
            changed = msgspec.structs.replace(product_of(await conn.fetchrow(SQL.product_get, product)), **changes)
            # One end may have been given now and the other long ago.
            if 0 < changed.available_until_ms <= changed.available_from_ms:
                end = "until" if "available_until_ms" in changes else "from"
                flaw = Flaw(f"#/available_{end}", "out_of_range", "available_until must be after available_from")
                raise InvalidRequest(flaw)
            id_, _, *fields = _fields(changed)
            await conn.execute(SQL.product_update, id_, *fields, changed.is_discontinued)
        return await self.get(product)

    async def delete(self, product: str, who: Identity) -> None:
        """Take a product out of the catalogue for good. Raises ProductUnknown, Forbidden, ProductInSale."""
        async with self._pool.acquire() as conn, conn.transaction():
            await self._require_edits(conn, product, who)
            if await conn.fetchval(SQL.product_in_sale, product):
                raise ProductInSale
            await conn.execute(SQL.product_delete, product)

    async def require_edits(self, product: str, who: Identity) -> None:
        """Whether someone may change a product. Raises ProductUnknown, Forbidden."""
        await self._vendors.require_edits(who, (await self.get(product)).vendor)

    async def _require_edits(self, conn: asyncpg.Connection, product: str, who: Identity) -> None:
        row = await conn.fetchrow(SQL.product_lock, product)
        if row is None:
            raise ProductUnknown
        await self._vendors.require_edits(who, row["vendor"])


def _fields(product: Product) -> tuple[Any, ...]:
    return (
        product.product,
        product.vendor,
        product.title,
        product.about,
        product.image,
        product.amount,
        product.currency,
        _moment(product.available_from_ms),
        _moment(product.available_until_ms),
    )


def product_of(row: Mapping[str, Any]) -> Product:
    """A row of `product_details`."""
    return Product(**{**dict(row), "kind": ProductKind(row["kind"])})


def _moment(at_ms: int) -> datetime | None:
    return EPOCH + timedelta(milliseconds=at_ms) if at_ms else None
