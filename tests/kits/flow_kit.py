"""A whole checkout on real stores: a sale in Postgres and Redis, a flusher and a feed that run, a sandbox over HTTP.

`Checkout` is one process of it; several on the same stores are several processes. `Fate` ends a process at a step: from
there on nothing that it calls is done any more.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
from aiohttp.test_utils import TestServer
from redis.asyncio import Redis

from onsale.auth.identifiers import new_id
from onsale.auth.keys import Keyring
from onsale.auth.passes import Passes
from onsale.auth.sealing import Sealer
from onsale.catalog.lists import Carts
from onsale.catalog.moves import Moves
from onsale.catalog.offers import Offers
from onsale.catalog.products import Products
from onsale.catalog.sales import NewItem, NewSale, Policy, Sale, SaleBook, create_sale
from onsale.catalog.vendors import Vendors
from onsale.checkout.backlog import Backlog
from onsale.checkout.completer import Completer, CompleterPolicy
from onsale.checkout.flow import CheckoutFlow, Confirmation, FlowPolicy
from onsale.checkout.inventory import Held, Inventory, ItemUnits, ShopSnapshot, ShopTerms
from onsale.checkout.mover import StockMover
from onsale.checkout.orders import OrderRow, Orders
from onsale.checkout.ports import Method, PaymentProvider
from onsale.checkout.providers import Guarded
from onsale.checkout.providers.sandbox import SandboxProvider
from onsale.checkout.record.flusher import Flusher
from onsale.checkout.record.watermark import RecordFeed
from onsale.checkout.schemas import ItemRequest, Money, PaymentRequest, ReserveRequest
from onsale.checkout.settling import Claim
from onsale.checkout.webhooks import Inbox
from onsale.lua.keys import ShopKeys

SALE, PRODUCT, PRICE = "drop", "jacket", 1_000
NEVER_MS = 4_000_000_000_000
KEYRING = Keyring([b"a secret for tests, long enough!"])
# Short enough for tests of silence, long enough for a loaded machine.
READ_TIMEOUT_S = 0.4
numbers = itertools.count(1)


class Fate:
    """Ends a process before or after the n-th call of a step, such as `after confirm`, and all that comes later."""

    def __init__(self, step: str = "", nth: int = 1) -> None:
        self._step = step
        self._left = nth
        self.is_dead = False

    def meet(self, moment: str) -> None:
        if moment == self._step:
            self._left -= 1
            self.is_dead = self.is_dead or self._left == 0
        if self.is_dead:
            raise asyncio.CancelledError(moment)


class Mortal:
    """Another object whose named coroutines meet their fate before and after; everything else is its own."""

    def __init__(self, other: Any, fate: Fate, *steps: str) -> None:
        self._other = other
        self._fate = fate
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._other, name)
        if name not in self._steps:
            return found

        async def step(*args: Any, **named: Any) -> Any:
            self._fate.meet(f"before {name}")
            answer = await found(*args, **named)
            self._fate.meet(f"after {name}")
            return answer

        return step


@dataclass
class Sandbox:
    """The provider as a stranger sees it."""

    server: TestServer
    session: aiohttp.ClientSession
    client: SandboxProvider

    @property
    def url(self) -> str:
        return str(self.server.make_url("")).rstrip("/")

    async def charges(self, order: str) -> list[dict[str, Any]]:
        async with self.session.get(f"{self.url}/charges", params={"order": order}) as reply:
            items: list[dict[str, Any]] = (await reply.json())["items"]
            return items


class FakePassTimes:
    """The line's word on passes: `until` by turn."""

    def __init__(self) -> None:
        self.until: dict[str, int] = {}

    async def until_ms(self, sale: str, turn: str) -> int:
        return self.until.get(turn, 0)


@dataclass
class Checkout:
    """One process: a flow, its completer, and what they stand on."""

    pool: asyncpg.Pool
    redis: Redis
    sandbox: Sandbox
    book: SaleBook
    inventory: Inventory
    feed: RecordFeed
    flusher: Flusher
    orders: Orders
    fate: Fate = field(default_factory=Fate)
    policy: FlowPolicy = field(default_factory=FlowPolicy)
    completing: CompleterPolicy = field(default_factory=lambda: CompleterPolicy(refusal_grace_ms=0, stray_ms=0))
    provider: PaymentProvider | None = None
    # None: nothing is recorded until the test says so.
    pump: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.sealer = Sealer(KEYRING)
        self.passes = Passes(KEYRING, "http://test")
        self.pass_times = FakePassTimes()
        provider = self.provider or Guarded(self.sandbox.client)
        self.guarded = provider
        providers = {"sandbox": Mortal(provider, self.fate, "charge", "find", "refund")}
        products = Products(self.pool, Vendors(self.pool), StockMover(Moves(self.pool), self.inventory))
        self.flow = CheckoutFlow(
            book=self.book,
            inventory=Mortal(self.inventory, self.fate, "pin", "confirm", "decline", "fail", "refuse"),
            feed=Mortal(self.feed, self.fate, "verdict"),
            orders=Mortal(self.orders, self.fate, "open_refund", "close_refund"),
            providers=providers,
            sealer=self.sealer,
            passes=self.passes,
            offers=Offers(self.pool),
            carts=Carts(self.pool, products),
            pass_times=self.pass_times,
            driver=f"web-{next(numbers)}",
            policy=self.policy,
        )
        self.completer = self._completer(self.inventory, self.feed, provider)

    def mortal_completer(self) -> Completer:
        """One that meets this process's fate."""
        return self._completer(
            Mortal(self.inventory, self.fate, "confirm", "decline", "fail", "refuse"),
            Mortal(self.feed, self.fate, "verdict"),
            Mortal(self.guarded, self.fate, "charge", "find", "void", "refund"),
        )

    def _completer(self, inventory: Any, feed: Any, provider: Any) -> Completer:
        return Completer(
            backlog=Backlog(self.pool, f"worker-{next(numbers)}"),
            book=self.book,
            inventory=inventory,
            feed=feed,
            orders=self.orders,
            providers={"sandbox": provider},
            sealer=self.sealer,
            inbox=Inbox(self.pool, {"sandbox": provider}),
            policy=self.completing,
        )

    def claim(self, row: OrderRow, attempt: str) -> Claim:
        """What a driver knows of an attempt."""
        return Claim(SALE, row.doc(self.sale.limit_per_buyer), attempt, "key", self.guarded)

    def another(self, **changes: Any) -> Checkout:
        """Another process on the same stores."""
        shared = {name: getattr(self, name) for name in ("pool", "redis", "sandbox", "book", "flusher", "orders")}
        shared |= {"inventory": Inventory(self.redis, self.keys_of), "feed": self.feed, "policy": self.policy}
        return Checkout(**(shared | changes))

    def keys_of(self, sale: str) -> ShopKeys:
        return ShopKeys(sale, self.book.seller(sale).shop_epoch)

    @property
    def sale(self) -> Sale:
        return self.book.get(SALE)

    @property
    def keys(self) -> ShopKeys:
        return self.keys_of(SALE)

    def pass_of(self, buyer: str, turn: str = "", *, sale: str = SALE, exp_ms: int = NEVER_MS) -> str:
        return self.passes.mint(
            sale=sale, buyer=buyer, turn=turn or f"1-{buyer}-1", lane="general", epoch=1, iat_ms=0, exp_ms=exp_ms
        )

    async def reserve(self, buyer: str, quantity: int = 1, *, key: str = "", turn: str = "", **more: Any) -> Held:
        """Hold jackets for a buyer who was admitted."""
        wanted = ReserveRequest((ItemRequest(PRODUCT, quantity),), **more)
        return await self.flow.reserve(SALE, buyer, self.pass_of(buyer, turn), wanted, key or new_id())

    async def confirm(self, buyer: str, order: str, token: str = "ok", key: str = "") -> Confirmation:
        return await self.flow.confirm(buyer, order, pay(token), key or new_id())

    async def bought(self, buyer: str, token: str = "ok") -> str:
        """An order that was reserved and confirmed."""
        held = await self.reserve(buyer)
        await self.confirm(buyer, held.order, token)
        return held.order

    async def row(self, order: str) -> OrderRow:
        row = await self.orders.get(order)
        assert row is not None
        return row

    async def units(self) -> dict[str, int]:
        """Counters of the jacket that are not zero."""
        found = await self.redis.hgetall(self.keys.stock)
        named = {name.decode().partition(":")[2]: int(units) for name, units in found.items()}
        return {name: units for name, units in named.items() if units and name != "stock"}

    async def record(self) -> None:
        """Record all that there is, and tell the feed."""
        while (await self.flusher.tick()).batches:
            pass
        await self.feed.tick(0)

    def start_record(self) -> None:
        """Record and tell as it comes, until the test ends."""
        self.pump = asyncio.create_task(self._pump())

    async def stop_record(self) -> None:
        pump, self.pump = self.pump, None
        if pump is not None:
            await pump

    async def _pump(self) -> None:
        # Asked to stop, not cancelled: a cancelled command would leave its connection in the middle of a reply.
        mine = asyncio.current_task()
        while self.pump is mine:
            for lane in self.flusher.lanes[:2]:
                await lane.tick(wait_ms=2)
            await self.feed.tick(2)

    async def expire_leases(self) -> None:
        """The time of every driver is over."""
        await self.pool.execute("UPDATE payments SET drive_until = now() - interval '1 s' WHERE state = 'pending'")

    async def age(self, order: str, by_ms: int) -> None:
        """An attempt is older than it is."""
        await self.pool.execute(
            "UPDATE payments SET created_at = created_at - make_interval(secs => $2) WHERE order_id = $1",
            order,
            by_ms / 1000,
        )


def pay(token: str = "ok") -> PaymentRequest:
    return PaymentRequest(provider="sandbox", method=Method.CARD, token=token)


def won(amount: int) -> Money:
    return Money(amount, "KRW")


@asynccontextmanager
async def checkout_on(
    pool: asyncpg.Pool,
    redis: Redis,
    line: Redis,
    sandbox: Sandbox,
    *,
    stock: int = 10,
    limit: int = 2,
    ttl_s: int = 600,
) -> AsyncIterator[Checkout]:
    """A sale of jackets, open and loaded, and one process that sells it."""
    book = SaleBook(pool)
    await create_sale(pool, _sale(stock, limit, ttl_s), "tests")
    await pool.execute("UPDATE sales SET shop_epoch = 1, line_epoch = 1")
    await pool.execute("UPDATE stock_moves SET applied_epoch = 1")
    await book.refresh()
    inventory = Inventory(redis, lambda sale: ShopKeys(sale, book.seller(sale).shop_epoch))
    for seller, items in ((book.get(SALE), (ItemUnits(PRODUCT, stock),)), (book.shop(), ())):
        await inventory.load(ShopKeys(seller.id, 1), ShopSnapshot(ShopTerms.of(seller), items))
    flusher = Flusher(pool, redis, line, inventory)
    feed = RecordFeed(redis, pool)
    checkout = Checkout(pool, redis, sandbox, book, inventory, feed, flusher, Orders(pool))
    checkout.start_record()
    try:
        yield checkout
    finally:
        await checkout.stop_record()
        await feed.close()
        await inventory.close()


def _sale(stock: int, limit: int, ttl_s: int) -> NewSale:
    return NewSale(
        id=SALE,
        title="Drop",
        opens_at_ms=None,
        closes_at_ms=NEVER_MS,
        limit_per_buyer=limit,
        hold_ttl_s=ttl_s,
        guests=False,
        opening="fifo",
        policy=Policy(rate_centi=2_000, active_max=100),
        is_paused=False,
        items=(NewItem(product=PRODUCT, title="Jacket", stock=stock, amount=PRICE, list_amount=1_200, currency="KRW"),),
    )
