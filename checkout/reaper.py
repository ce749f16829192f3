"""Holds past their expiry go back to the pool. Ticked each half second, units of a lapsed order are free within 2 s of
`expires_at`. Any number of reapers may run: the script that lapses a hold is the one that owns it.
"""

from __future__ import annotations

from dataclasses import dataclass

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.sales import SaleBook
from onsale.checkout.errors import ShopRecovering
from onsale.checkout.inventory import Inventory
from onsale.lua.keys import ShopKeys

# 200 holds take Redis about 3 ms; between two batches everybody else gets a turn.
BATCH_MAX = 200
# A storm of 100,000 expiries takes several ticks, and no sale waits behind another's for longer than this many batches.
BATCHES_MAX = 50


@dataclass(frozen=True, slots=True)
class ReapTick:
    """Holds that expired in this tick, over all sales, whether a sale has more past their expiry, and the sales that
    could not be asked (being recovered, or their Redis is away)."""

    expired: int
    more: bool
    postponed: tuple[str, ...] = ()


class Reaper:
    """Lapses holds of every sale in the book."""

    def __init__(self, inventory: Inventory, book: SaleBook) -> None:
        self._inventory = inventory
        self._book = book

    async def tick(self) -> ReapTick:
        """Lapse what is due in each sale. One that cannot be asked waits for the next tick, no other for it."""
        ticks = [await self._reap(ShopKeys(sale.id, sale.shop_epoch)) for sale in self._book.all()]
        return ReapTick(
            expired=sum(tick.expired for tick in ticks),
            more=any(tick.more for tick in ticks),
            postponed=tuple(sale for tick in ticks for sale in tick.postponed),
        )

    async def _reap(self, keys: ShopKeys) -> ReapTick:
        expired = 0
        for _ in range(BATCHES_MAX):
            try:
                lapsed = await self._inventory.lapse(keys, BATCH_MAX)
            except (ShopRecovering, StoreUnavailable):
                return ReapTick(expired=expired, more=False, postponed=(keys.sale,))
            expired += lapsed.expired
            if not lapsed.more:
                return ReapTick(expired=expired, more=False)
        return ReapTick(expired=expired, more=True)
