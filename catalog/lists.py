"""What people wish for, and what they mean to buy. A wish has no quantity; an item of a cart lives for three days after
it was last touched. What either costs is asked for when it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import asyncpg

from onsale.catalog.errors import CartFull, ProductUnavailable, WishExists
from onsale.catalog.products import Product, Products, product_of
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.catalog", "lists.sql")

# As many as one order may hold: a cart can be ordered whole.
CART_MAX: Final = 50


class StockFigures(Protocol):
    """Units that can be bought now."""

    async def known(self, products: Sequence[str]) -> Mapping[str, int | None]:
        """By product; None where that cannot be said now. At most a second old."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """One product somebody wishes for; `no` orders them."""

    no: int
    product: Product


@dataclass(frozen=True, slots=True)
class CartItem:
    """So many units of a product, until `ends_at_ms` unless they are touched again."""

    product: str
    quantity: int
    ends_at_ms: int


class Wishes:
    """Wish lists in Postgres."""

    def __init__(self, pool: asyncpg.Pool, products: Products) -> None:
        self._pool = pool
        self._products = products

    async def add(self, account: str, product: str) -> None:
        """Raises ProductUnknown, WishExists."""
        if await self._pool.fetchval(SQL.wish_insert, account, product) is None:
            await self._products.get(product)
            raise WishExists

    async def has(self, account: str, product: str) -> bool:
        """Whether somebody wishes for a product."""
        return await self._pool.fetchval(SQL.wish_of, account, product) is not None

    async def remove(self, account: str, product: str) -> None:
        """Again is the same."""
        await self._pool.execute(SQL.wish_delete, account, product)

    async def page(self, account: str, after: int | None, limit: int) -> list[Wish]:
        """Newest first."""
        return [_wish(row) for row in await self._pool.fetch(SQL.wishes_page, account, after, limit)]


class Carts:
    """Carts in Postgres."""

    def __init__(self, pool: asyncpg.Pool, products: Products) -> None:
        self._pool = pool
        self._products = products

    async def items(self, account: str) -> list[CartItem]:
        """What the cart holds now, in the order in which it was filled."""
        return [CartItem(**row) for row in await self._pool.fetch(SQL.cart_of, account)]

    async def held(self, accounts: Sequence[str]) -> dict[str, dict[str, int]]:
        """Units by product of each of these accounts' carts; who has an empty one is left out."""
        held: dict[str, dict[str, int]] = {}
        for row in await self._pool.fetch(SQL.carts_held, accounts):
            held.setdefault(row["account"], {})[row["product"]] = row["quantity"]
        return held

    async def put(self, account: str, product: str, quantity: int) -> None:
        """So many units of a product that is sold by itself. Raises ProductUnknown, ProductUnavailable, CartFull."""
        if not (await self._products.get(product)).is_ordinary:
            raise ProductUnavailable
        async with self._pool.acquire() as conn, conn.transaction():
            await conn.execute(SQL.cart_lock, account)
            if await conn.fetchval(SQL.cart_put, account, product, quantity, CART_MAX) is None:
                raise CartFull

    async def remove(self, account: str, product: str | None = None) -> None:
        """One product, or all of them; again is the same."""
        await self._pool.execute(SQL.cart_delete, account, product)

    async def take(self, account: str, order: str, ordered: Mapping[str, int]) -> None:
        """What was ordered is in the cart no more, unless its order ends unbought; of what was changed meanwhile, the
        change stays."""
        await self._pool.execute(SQL.cart_take, account, list(ordered), list(ordered.values()), order)

    async def tick(self) -> int:
        """Forget what nobody touched for three days; how many items."""
        status: str = await self._pool.execute(SQL.carts_forget)
        return int(status.split()[-1])


def _wish(row: Mapping[str, Any]) -> Wish:
    fields = dict(row)
    return Wish(fields.pop("wish"), product_of(fields))
