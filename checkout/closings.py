"""Writes down the turns that ended while their passes are still good, so that a shop that lost its Redis goes on
refusing them. Ticked each second; any number may run.

Turns that bought need no row (their orders tell), nor do those that ran out: their passes have run out as well. What
happened in the last second before a loss is not known; its buyers are still held by their limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.sales import SaleBook
from onsale.checkout.errors import ShopRecovering
from onsale.checkout.inventory import Inventory
from onsale.lua.keys import ShopKeys
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "closings.sql")

BEGINNING = "0-0"
CLOSINGS_MAX = 1_000
WORTH_KEEPING = frozenset({"left", "revoked"})


@dataclass(frozen=True, slots=True)
class ClosingsTick:
    """Turns written down, whether a sale has more, and the sales that could not be asked."""

    kept: int
    more: bool = False
    postponed: tuple[str, ...] = ()


class ClosingsKeeper:
    """Reads each sale's closings from where it was. A new process reads the last hour again, which changes nothing."""

    def __init__(self, pool: asyncpg.Pool, inventory: Inventory, book: SaleBook) -> None:
        self._pool = pool
        self._inventory = inventory
        self._book = book
        self._cursors: dict[ShopKeys, str] = {}

    async def tick(self) -> ClosingsTick:
        """One batch of each sale. Raises what Postgres raises; then the same batch is read again."""
        present = [ShopKeys(sale.id, sale.shop_epoch) for sale in self._book.sellers() if sale.shop_epoch > 0]
        self._cursors = {keys: self._cursors.get(keys, BEGINNING) for keys in present}
        ticks = [await self._keep(keys) for keys in present]
        return ClosingsTick(
            kept=sum(tick.kept for tick in ticks),
            more=any(tick.more for tick in ticks),
            postponed=tuple(sale for tick in ticks for sale in tick.postponed),
        )

    async def _keep(self, keys: ShopKeys) -> ClosingsTick:
        try:
            closings = await self._inventory.closings(keys.sale, self._cursors[keys], CLOSINGS_MAX)
        except (ShopRecovering, StoreUnavailable):
            return ClosingsTick(0, postponed=(keys.sale,))
        found = [closing for closing in closings if closing.why in WORTH_KEEPING]
        kept = 0
        if found:
            columns = [closing.turn for closing in found], [closing.why for closing in found]
            kept = len(await self._pool.fetch(SQL.closings_keep, keys.sale, *columns))
        if closings:
            self._cursors[keys] = closings[-1].event_id
        return ClosingsTick(kept, more=len(closings) == CLOSINGS_MAX)
