"""Keeps each sale's keys true to its settings and no larger than need be. Ticked each second; any number may run.

A changed schedule is in force for reserving once a tick has put it beside the stock; what ended over a day ago and is
recorded is dropped, so that a long sale does not fill Redis.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.sales import Sale, SaleBook
from onsale.checkout.errors import ShopRecovering
from onsale.checkout.inventory import Inventory, ShopTerms
from onsale.lua.keys import ShopKeys

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CareTick:
    """Sales whose terms changed in this tick, and whether one has more to forget."""

    terms_changed: int
    more: bool


class Caretaker:
    """Puts terms in force and forgets, for every sale in the book."""

    def __init__(self, inventory: Inventory, book: SaleBook) -> None:
        self._inventory = inventory
        self._book = book

    async def tick(self) -> CareTick:
        """One round over all sales; one that is being recovered, or whose Redis is away, waits for the next."""
        ticks = [await self._care(sale) for sale in self._book.all()]
        return CareTick(
            terms_changed=sum(tick.terms_changed for tick in ticks),
            more=any(tick.more for tick in ticks),
        )

    async def _care(self, sale: Sale) -> CareTick:
        keys = ShopKeys(sale.id, sale.shop_epoch)
        try:
            has_changed = await self._inventory.set_terms(keys, ShopTerms.of(sale))
            return CareTick(terms_changed=int(has_changed), more=await self._inventory.forget(keys))
        except (ShopRecovering, StoreUnavailable) as error:
            log.warning("care.postponed", sale=sale.id, why=type(error).__name__)
            return CareTick(terms_changed=0, more=False)
