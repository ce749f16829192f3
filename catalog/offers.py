"""What ordinary products cost at this very moment, and whether they are sold: asked of Postgres at each order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from onsale.catalog.errors import ProductUnavailable, ProductUnknown
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.catalog", "offers.sql")


@dataclass(frozen=True, slots=True)
class Offer:
    """One product as it is sold now; amounts in minor units. `is_available`: it may be ordered at this moment."""

    product: str
    vendor: str | None
    title: str
    currency: str
    amount: int
    list_amount: int
    is_available: bool
    # The event that makes it cheaper now, and by how many percent.
    discount: str | None = None
    discount_title: str | None = None
    percent: int = 0


class Offers:
    """The port of whoever sells ordinary products."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def now(self, products: Sequence[str]) -> Mapping[str, Offer]:
        """Those of these products that exist, by their ids."""
        return {row["product"]: Offer(**row) for row in await self._pool.fetch(SQL.offers_now, products)}

    async def for_order(self, products: Sequence[str]) -> Mapping[str, Offer]:
        """All of these products, each sold now. Raises ProductUnknown, ProductUnavailable."""
        offers = await self.now(products)
        if any(product not in offers for product in products):
            raise ProductUnknown
        if not all(offer.is_available for offer in offers.values()):
            raise ProductUnavailable
        return offers
