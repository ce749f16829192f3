"""Holds past their expiry go back to the pool. Ticked each half second, units of a lapsed order are free within 2 s of
`expires_at`. Any number of reapers may run: the script that lapses a hold is the one that owns it.
"""

from __future__ import annotations

from dataclasses import dataclass

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.sales import SaleBook
from onsale.checkout.errors import ShopRecovering
from onsale.checkout.inventory import Inventory, LapseTick
from onsale.lua.keys import ShopKeys

# 200 holds take Redis about 3 ms; between two batches everybody else gets a turn.
BATCH_MAX = 200
# 100,000 holds that expire in one instant are free within the 2 s; beyond that the next tick goes on.
ROUNDS_MAX = 500


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
        """Lapse what is due, a batch of each sale in turn, so that no sale waits for another's storm. A sale that
        cannot be asked waits for the next tick."""
        due = [ShopKeys(sale.id, sale.shop_epoch) for sale in self._book.sellers()]
        expired, postponed = 0, list[str]()
        for _ in range(ROUNDS_MAX):
            round_ = {keys: await self._lapse(keys) for keys in due}
            expired += sum(lapsed.expired for lapsed in round_.values() if lapsed)
            postponed += [keys.sale for keys, lapsed in round_.items() if lapsed is None]
            due = [keys for keys, lapsed in round_.items() if lapsed and lapsed.more]
            if not due:
                break
        return ReapTick(expired=expired, more=bool(due), postponed=tuple(postponed))

    async def _lapse(self, keys: ShopKeys) -> LapseTick | None:
        try:
            return await self._inventory.lapse(keys, BATCH_MAX)
        except (ShopRecovering, StoreUnavailable):
            return None
