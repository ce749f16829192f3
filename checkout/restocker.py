"""Carries units that came back from the record to Redis: there they are free for whoever the line lets in next.

The record counts them free in the transaction that cancelled the order; here Redis is told, once per move: the script
keeps the ids of moves it made, and a rebuild, which reads the record, marks those it has counted. So it does not matter
where a worker dies, how many there are, or whether Redis was lost in between. Ticked each quarter of a second.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import asyncpg
import structlog

from onsale.auth.errors import StoreUnavailable
from onsale.checkout.errors import ShopRecovering
from onsale.checkout.inventory import Inventory, Restock
from onsale.checkout.settling import Shop
from onsale.lua.keys import ShopKeys
from onsale.migrations.sql import load_queries

SQL = load_queries("onsale.checkout", "aftersale.sql")
log = structlog.get_logger()

BATCH_MAX = 500


@dataclass(frozen=True, slots=True)
class RestockTick:
    """Moves made in this tick, whether more wait, and the sales that could not be asked."""

    restocked: int
    more: bool = False
    postponed: tuple[str, ...] = ()


class Restocker:
    """Any number may run."""

    def __init__(self, pool: asyncpg.Pool, inventory: Inventory, shop: Shop) -> None:
        self._pool = pool
        self._inventory = inventory
        self._shop = shop

    async def tick(self) -> RestockTick:
        """Make the oldest moves. A sale that cannot be asked waits for the next tick and keeps no other waiting."""
        rows = await self._pool.fetch(SQL.restocks_open, BATCH_MAX)
        moves: dict[str, list[Restock]] = defaultdict(list)
        for row in rows:
            moves[row["sale"]].append(Restock(row["move"], row["product"], row["quantity"], row["buyer"]))
        made, postponed = 0, list[str]()
        for sale, waiting in moves.items():
            try:
                made += await self._restock(sale, waiting)
            except (ShopRecovering, StoreUnavailable):
                postponed.append(sale)
        # Where nothing could be made the same moves would be met again at once.
        return RestockTick(made, more=len(rows) == BATCH_MAX and made > 0, postponed=tuple(postponed))

    async def _restock(self, sale: str, waiting: list[Restock]) -> int:
        async def restock(keys: ShopKeys) -> tuple[ShopKeys, list[str]]:
            return keys, await self._inventory.restock(keys, waiting)

        keys, made = await self._shop.ask(sale, restock)
        if len(made) < len(waiting):
            log.error("restock.refused", sale=sale, moves=[m.move for m in waiting if m.move not in made][:5])
        return len(await self._pool.fetch(SQL.restocks_close, made, keys.epoch))
