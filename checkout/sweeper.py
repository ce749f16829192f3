"""Gives units back that an item has no right to any more: refused, removed, judged again, or left over when its sale is
over. Ticked each second; any number may run, one sweep of an item is on its way at a time.

What is held or claimed stays until it is free, and is swept by a later tick.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.errors import SaleUnknown
from onsale.catalog.moves import Astray, Mover, Moves
from onsale.checkout.errors import ShopRecovering
from onsale.checkout.inventory import Inventory


@dataclass(frozen=True, slots=True)
class SweepTick:
    """Units that were asked for, and the sales that could not be asked."""

    units: int
    postponed: tuple[str, ...] = ()


class StockSweeper:
    """Finds such items in Postgres, and what is free of them in Redis."""

    def __init__(self, moves: Moves, inventory: Inventory, mover: Mover) -> None:
        self._moves = moves
        self._inventory = inventory
        self._mover = mover

    async def tick(self) -> SweepTick:
        """One round over all sales."""
        return await self._sweep(await self._moves.astray())

    async def sweep(self, sale: str) -> None:
        """The items of one sale."""
        await self._sweep(await self._moves.astray(sale))

    async def _sweep(self, astray: Sequence[Astray]) -> SweepTick:
        by_sale: dict[str, list[Astray]] = defaultdict(list)
        for item in astray:
            by_sale[item.sale].append(item)
        swept, postponed = 0, list[str]()
        for sale, items in by_sale.items():
            try:
                free = await self._inventory.free(sale, [item.product for item in items])
            except (ShopRecovering, StoreUnavailable, SaleUnknown):
                postponed.append(sale)
                continue
            for item in items:
                swept += await self._take(item, free.get(item.product, 0))
        return SweepTick(swept, tuple(postponed))

    async def _take(self, item: Astray, units: int) -> int:
        if units == 0:
            return 0
        move = await self._moves.sweep(item, units)
        if not move:
            return 0
        await self._mover.settle(move)
        return units
