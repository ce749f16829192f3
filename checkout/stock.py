"""Units free of a product, for everyone who asks: one call to Redis a second and sale, however many ask.

The shop of ordinary products is too large to be read whole: of it, only what is asked for is read, in one call for all
who ask in the same tick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.errors import ProductUnknown
from onsale.catalog.sales import SHOP, SaleBook
from onsale.checkout.errors import ShopRecovering
from onsale.checkout.inventory import Inventory
from onsale.lua.batching import Batcher

AGE_MAX_S = 1.0
# What is known of ordinary products: bounded, whoever asks for which names.
ORDINARY_MAX = 10_000


class StockBoard:
    """Figures of every product, at most a second old. Many who ask at once share one reading."""

    def __init__(self, book: SaleBook, inventory: Inventory) -> None:
        self._book = book
        self._inventory = inventory
        self._free: dict[str, int | None] = {}
        self._fresh_until_s = 0.0
        self._reading: asyncio.Task[None] | None = None
        # Product -> when it is too old, and the units; None: no ordinary product.
        self._ordinary: dict[str, tuple[float, int | None]] = {}
        self._asking: Batcher[str, int | None] = Batcher(self._ordinary_free)

    async def free(self, product: str) -> int:
        """Units of the product that can be reserved now, in the shop and in all its sales. Raises ProductUnknown, and
        ShopRecovering while one of them cannot be read."""
        if time.monotonic() >= self._fresh_until_s:
            await self._refresh()
        return await self._sum(product)

    async def known(self, products: Sequence[str]) -> Mapping[str, int | None]:
        """The same of several, where nothing is refused: None for what cannot be said now."""
        units = await asyncio.gather(*(self._or_none(product) for product in products))
        return dict(zip(products, units, strict=True))

    async def _or_none(self, product: str) -> int | None:
        try:
            return await self.free(product)
        except (ProductUnknown, ShopRecovering):
            return None

    async def _sum(self, product: str) -> int:
        in_sales = self._free.get(product, 0)
        try:
            ordinary = await self._of_shop(product)
        except ShopRecovering:
            # What is on sale is told while the shop is away: too few, never too many.
            if product not in self._free:
                raise
            ordinary = 0
        if ordinary is None and product not in self._free:
            raise ProductUnknown
        if in_sales is None:
            raise ShopRecovering
        return in_sales + (ordinary or 0)

    async def _of_shop(self, product: str) -> int | None:
        fresh_until_s, units = self._ordinary.get(product, (0.0, None))
        if time.monotonic() < fresh_until_s:
            return units
        units = await self._asking.submit(product)
        if len(self._ordinary) >= ORDINARY_MAX:
            self._ordinary.clear()
        self._ordinary[product] = (time.monotonic() + AGE_MAX_S, units)
        return units

    async def _ordinary_free(self, products: Sequence[str]) -> list[int | None]:
        try:
            found = await self._inventory.free(SHOP, tuple(set(products)))
        except StoreUnavailable as away:
            raise ShopRecovering from away
        return [found.get(product) for product in products]

    async def _refresh(self) -> None:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        began_s = time.monotonic()
        sales = self._book.all()
        figures = await asyncio.gather(*(self._of(sale.id) for sale in sales))
        free: dict[str, int | None] = {}
        for sale, units in zip(sales, figures, strict=True):
            for item in sale.items:
                so_far = free.get(item.product, 0)
                free[item.product] = None if units is None or so_far is None else so_far + units.get(item.product, 0)
        self._free = free
        self._fresh_until_s = began_s + AGE_MAX_S

    async def _of(self, sale: str) -> dict[str, int] | None:
        try:
            return await self._inventory.free(sale)
        except (ShopRecovering, StoreUnavailable):
            return None
