"""The rooms that every process needs, built from its stores. What one room needs of its neighbour is bound here."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from onsale.auth.errors import StoreUnavailable
from onsale.auth.identifiers import new_id
from onsale.auth.keys import Keyring
from onsale.auth.outbox import Outbox
from onsale.auth.recipients import Recipients
from onsale.auth.sealing import Sealer
from onsale.catalog.sales import SaleBook
from onsale.checkout.inventory import Inventory
from onsale.checkout.orders import Orders
from onsale.checkout.providers import Guarded, ProviderClient, ProviderWatch
from onsale.checkout.providers.portone import PortoneProvider
from onsale.checkout.providers.sandbox import SandboxProvider
from onsale.checkout.providers.stripe import StripeProvider
from onsale.checkout.providers.toss import TossProvider
from onsale.checkout.record.watermark import RecordFeed
from onsale.checkout.webhooks import Inbox
from onsale.lua.keys import LineKeys, ShopKeys
from onsale.queue.errors import LineRecovering
from onsale.queue.holders import Holders
from onsale.queue.line import Line
from onsale.queue.numbering import Numbering
from onsale.server.config import Settings
from onsale.server.loop import Loops
from onsale.server.stores import Stores

# A new epoch, a changed setting or an operator's opening is known to every process within this.
BOOK_INTERVAL_MS = 500
WATCH_INTERVAL_MS = 1_000


@dataclass(frozen=True, slots=True)
class Rooms:
    """One of each; `driver` names this process in the record."""

    stores: Stores
    keyring: Keyring
    sealer: Sealer
    outbox: Outbox
    recipients: Recipients
    book: SaleBook
    inventory: Inventory
    line: Line
    orders: Orders
    record: RecordFeed
    providers: Mapping[str, Guarded]
    inbox: Inbox
    watch: ProviderWatch
    driver: str


@asynccontextmanager
async def open_rooms(settings: Settings, stores: Stores) -> AsyncIterator[Rooms]:
    """The rooms for as long as the block lasts; the book has been read once."""
    keyring = Keyring(settings.secret_keys)
    book = SaleBook(stores.pool)
    await book.refresh()
    async with AsyncExitStack() as closing:
        inventory = Inventory(stores.shop, lambda sale: ShopKeys(sale, book.seller(sale).shop_epoch))
        closing.push_async_callback(inventory.close)
        line = Line(stores.line, Numbering(stores.pool), Holders(stores.pool), inventory, book)
        closing.push_async_callback(line.close)
        record = RecordFeed(stores.shop, stores.pool)
        closing.push_async_callback(record.close)
        providers = _providers(settings, closing)
        sealer = Sealer(keyring)
        yield Rooms(
            stores=stores,
            keyring=keyring,
            sealer=sealer,
            outbox=Outbox(sealer),
            recipients=Recipients(stores.pool, keyring),
            book=book,
            inventory=inventory,
            line=line,
            orders=Orders(stores.pool),
            record=record,
            providers=providers,
            inbox=Inbox(stores.pool, providers),
            watch=ProviderWatch(tuple(providers.values()), line, book),
            driver=f"{os.getpid()}-{new_id()}",
        )


class LinePassTimes:
    """What checkout asks of passes, answered by the line."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def until_ms(self, sale: str, turn: str) -> int:
        """0 where the line does not know of the turn, or cannot be asked."""
        keys = LineKeys(sale, self._rooms.book.get(sale).line_epoch)
        with suppress(LineRecovering, StoreUnavailable):
            return await self._rooms.line.pass_until(keys, turn) or 0
        return 0


def add_shared_loops(rooms: Rooms, loops: Loops) -> None:
    """What every process that buys or sells keeps going."""
    loops.add("book", rooms.book.refresh, BOOK_INTERVAL_MS)
    loops.add("record", rooms.record.tick, 0)
    loops.add("provider_watch", rooms.watch.tick, WATCH_INTERVAL_MS)


def _providers(settings: Settings, closing: AsyncExitStack) -> dict[str, Guarded]:
    """Those that the environment names; nobody else is offered."""
    clients: list[ProviderClient] = []
    if settings.sandbox is not None:
        clients.append(SandboxProvider(settings.sandbox))
    if settings.portone is not None:
        clients.append(PortoneProvider(settings.portone))
    if settings.toss is not None:
        clients.append(TossProvider(settings.toss))
    if settings.stripe is not None:
        clients.append(StripeProvider(settings.stripe))
    for client in clients:
        closing.push_async_callback(client.close)
    return {client.name: Guarded(client) for client in clients}
