"""Keeps each sale's keys true to its settings and no larger than need be. Ticked each second; any number may run.

A changed schedule is in force for reserving once a tick has put it beside the stock; what ended over a day ago and is
recorded is dropped, so that a long sale does not fill Redis.
"""

from __future__ import annotations

from dataclasses import dataclass

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.sales import Sale, SaleBook
from onsale.checkout.errors import ShopRecovering
from onsale.checkout.inventory import Inventory, ShopTerms
from onsale.lua.keys import ShopKeys


@dataclass(frozen=True, slots=True)
class CareTick:
    """Sales whose terms changed in this tick, whether one has more to forget, and the sales that could not be asked
    (being recovered, or their Redis is away)."""

    terms_changed: int
    more: bool
    postponed: tuple[str, ...] = ()


class Caretaker:
    """Puts terms in force and forgets, for every sale in the book."""

    def __init__(self, inventory: Inventory, book: SaleBook) -> None:
        self._inventory = inventory
        self._book = book

    async def tick(self) -> CareTick:
        """One round over all sales. One that cannot be asked waits for the next and keeps no other waiting."""
        ticks = [await self._care(sale) for sale in self._book.sellers()]
        return CareTick(
            terms_changed=sum(tick.terms_changed for tick in ticks),
            more=any(tick.more for tick in ticks),
            postponed=tuple(sale for tick in ticks for sale in tick.postponed),
        )

    async def _care(self, sale: Sale) -> CareTick:
        keys = ShopKeys(sale.id, sale.shop_epoch)
        try:
            has_changed = await self._inventory.set_terms(keys, ShopTerms.of(sale))
            return CareTick(terms_changed=int(has_changed), more=await self._inventory.forget(keys))
        except (ShopRecovering, StoreUnavailable):
            return CareTick(terms_changed=0, more=False, postponed=(sale.id,))
