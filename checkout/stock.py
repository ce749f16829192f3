"""Units free of a product, for everyone who asks: one call to Redis a second and sale, however many ask."""

from __future__ import annotations

import asyncio
import time

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.errors import ProductUnknown
from onsale.catalog.sales import SaleBook
from onsale.checkout.errors import ShopRecovering
from onsale.checkout.inventory import Inventory

AGE_MAX_S = 1.0


class StockBoard:
    """Figures of every sale, at most a second old. Many who ask at once share one reading."""

    def __init__(self, book: SaleBook, inventory: Inventory) -> None:
        self._book = book
        self._inventory = inventory
        self._free: dict[str, int | None] = {}
        self._fresh_until_s = 0.0
        self._reading: asyncio.Task[None] | None = None

    async def free(self, product: str) -> int:
        """Units of the product that can be reserved now, in all its sales. Raises ProductUnknown, and ShopRecovering
        while a sale of it cannot be read."""
        if time.monotonic() >= self._fresh_until_s:
            await self._refresh()
        try:
            free = self._free[product]
        except KeyError:
            raise ProductUnknown from None
        if free is None:
            raise ShopRecovering
        return free

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
