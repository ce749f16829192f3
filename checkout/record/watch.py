"""Closes admission while the record is behind, and opens it again: people who are let in must be able to buy.

Reserving goes on for as long again (the script that reserves has its own bound, 10 s); confirmations answer 202
meanwhile. So a record that is away for a moment costs nobody anything, and one that is away for longer empties the shop
before it closes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from onsale.catalog.sales import SHOP, SaleBook
from onsale.checkout.ports import LinePause
from onsale.checkout.record.lag import LagTick

PAUSE_HOLDER = "record"
# Half of what reserving bears: whoever was let in just before still has time to reserve.
PAUSE_AT_MS = 5_000
# Well below, so that a record on the edge does not make the line stutter.
RESUME_AT_MS = 1_000


@dataclass(frozen=True, slots=True)
class WatchTick:
    """Sales whose line was stopped, or let go on."""

    paused: tuple[str, ...] = ()
    resumed: tuple[str, ...] = ()


class RecordWatch:
    """Ticked once a second by each worker; a pause that a dead worker left is lifted by the next."""

    def __init__(self, look: Callable[[], Awaitable[LagTick]], line: LinePause, book: SaleBook) -> None:
        self._look = look
        self._line = line
        self._book = book
        # What was paused while Postgres was away, and so stands in no book.
        self._paused: set[str] = set()

    async def tick(self) -> WatchTick:
        """Compare every sale's lag with the bounds. Raises RedisError, StoreUnavailable."""
        lag_ms = (await self._look()).lag_ms
        held = {sale.id for sale in self._book.all() if PAUSE_HOLDER in sale.paused_by} | self._paused
        late = tuple(sale for sale, ms in lag_ms.items() if ms >= PAUSE_AT_MS and sale not in held and sale != SHOP)
        well = tuple(sale for sale in held if lag_ms.get(sale, PAUSE_AT_MS) <= RESUME_AT_MS)
        for sale in late:
            await self._line.pause(sale, PAUSE_HOLDER)
            self._paused.add(sale)
        for sale in well:
            await self._line.resume(sale, PAUSE_HOLDER)
            self._paused.discard(sale)
        return WatchTick(paused=late, resumed=well)
