"""What tests of the line's edge share: one sale on a real Redis and Postgres, and one web process's share of the line.

Nothing runs by itself: a test calls the ticks it needs, so it says itself what this process has heard of.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
from aiohttp import ClientResponse, DummyCookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis

from onsale.auth.access import AccessTokens
from onsale.auth.keys import Keyring
from onsale.auth.middleware import ACCESS, COOKIES, PASSES, STREAM_KEYS, TICKETS, Cookies
from onsale.auth.passes import Passes
from onsale.auth.revocations import Revocations
from onsale.auth.roles import Role
from onsale.auth.streamkeys import StreamKeys
from onsale.auth.tickets import Tickets
from onsale.catalog.sales import NewItem, NewSale, Policy, SaleBook
from onsale.lua import Script, connect
from onsale.queue import handlers
from onsale.queue.admitter import Admitter
from onsale.queue.control import Control
from onsale.queue.feed import Feed, KnownLine
from onsale.queue.handlers import CONTROL, FEED, LINE, SHOP, STREAMS, TELLER
from onsale.queue.holders import Holders
from onsale.queue.keeper import Keeper
from onsale.queue.line import Line
from onsale.queue.live import Live
from onsale.queue.numbering import Numbering
from onsale.queue.ports import StockFigures, TurnClosing
from onsale.queue.presence import Presence
from onsale.queue.stream import StreamLimits, Streams
from onsale.queue.teller import Teller
from onsale.server.metrics import Traffic
from onsale.server.middleware import manners

SALE = "autumn"
KEYRING = Keyring([b"a secret of the line's edge tests"])
ISSUER = "http://localhost"
DAY_MS = 86_400_000


class FakeShop:
    """The shop as the line sees it: as much stock as the test says, and closings that it can be told to write."""

    def __init__(self, free: int = 10_000) -> None:
        self.free = free
        self.closed: list[tuple[str, str]] = []

    async def figures(self, sale: str) -> StockFigures:
        return StockFigures(free=self.free, held=0, claimed=0, sold=0, at_ms=time.time_ns() // 1_000_000)

    async def close_turns(self, sale: str, turns: Sequence[str], why: str) -> Sequence[int]:
        self.closed.extend((turn, why) for turn in turns if (turn, why) not in self.closed)
        return [0] * len(turns)

    async def closings(self, sale: str, after: str, count: int) -> Sequence[TurnClosing]:
        start = int(after.split("-")[0])
        return [TurnClosing(f"{n}-0", turn, why) for n, (turn, why) in enumerate(self.closed, 1) if n > start]


class Clock:
    """Monotonic milliseconds that only the test moves."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


class Edge:
    """One sale, and what one web process, one admitter and one keeper do with it."""

    def __init__(self, redis: Redis, pool: asyncpg.Pool, *, limits: StreamLimits | None = None) -> None:
        self.redis = redis
        self.pool = pool
        self.clock = Clock()
        self.shop = FakeShop()
        self.book = SaleBook(pool)
        self.line = Line(redis, Numbering(pool), Holders(pool), self.shop, self.book)
        self.keeper = Keeper(redis, pool, self.book)
        self.control = Control(redis, pool, self.book, self.shop)
        self.admitter = Admitter(redis, self.book, self.shop)
        self.feed = Feed(redis, self.book, patience_s=0.02)
        self.presence = Presence(self.line, self.feed)
        self.tickets = Tickets(KEYRING)
        self.passes = Passes(KEYRING, ISSUER)
        self.teller = Teller(self.line, self.feed, self.presence, self.tickets, self.passes)
        self.revocations = Revocations(pool)
        self.streams = Streams(
            self.teller,
            self.feed,
            self.presence,
            limits or StreamLimits(),
            revoked=self.revocations,
            clock_ms=self.clock,
        )
        self.live = Live(self.feed, self.streams, self.shop)
        self.access = AccessTokens(KEYRING, ISSUER, self.revocations)

    @property
    def known(self) -> KnownLine:
        return self.feed.line(SALE)

    def bearer(self, account: str, role: Role = Role.CUSTOMER, *, is_verified: bool = True) -> dict[str, str]:
        """An access token's header."""
        token = self.access.mint(
            account=account, role=role, session="s", is_verified=is_verified, now_ms=time.time_ns() // 1_000_000
        )
        return {"Authorization": f"Bearer {token}"}

    async def hear(self) -> None:
        """Take in every message that has been published."""
        while (await self.feed.tick()).messages:
            pass

    async def admit(self) -> int:
        """One tick of the admitter; this process hears of it."""
        admitted = (await self.admitter.tick()).admitted
        await self.hear()
        return admitted

    async def show(self) -> None:
        """Make a document now, whether or not one is due; this process hears of it."""
        await self.redis.hset(self.known.keys.meta, "is_due", 1)
        await self.admit()

    async def turn(self) -> None:
        """Write what streams have to be told, with everything known and asked."""
        await self.streams.tick()
        while (await self.streams.tell()).more:
            pass

    def app(self) -> web.Application:
        """The routes of the line on an application of their own."""
        app = web.Application(middlewares=[manners(Traffic(), ())])
        app[FEED], app[LINE], app[TELLER], app[STREAMS] = self.feed, self.line, self.teller, self.streams
        app[CONTROL], app[SHOP] = self.control, self.shop
        app[ACCESS], app[TICKETS], app[PASSES], app[COOKIES] = self.access, self.tickets, self.passes, Cookies(ISSUER)
        scripts = Script(self.redis, "stream_key_open"), Script(self.redis, "stream_key_end")
        app[STREAM_KEYS] = StreamKeys(KEYRING, self.revocations, *scripts)
        for method, path, handler in (
            ("POST", "/v1/sales/{sale}/tickets", handlers.join),
            ("GET", "/v1/sales/{sale}/tickets", handlers.list_tickets),
            ("GET", "/v1/sales/{sale}/line", handlers.show_line),
            ("GET", "/v1/sales/{sale}/line/events", handlers.stream_line),
            ("GET", "/v1/tickets/{ticket}", handlers.show),
            ("DELETE", "/v1/tickets/{ticket}", handlers.leave),
            ("GET", "/v1/tickets/{ticket}/events", handlers.stream_ticket),
            ("POST", "/v1/tickets/{ticket}/revocation", handlers.revoke),
            ("GET", "/v1/passes/verify", handlers.verify_pass),
            ("GET", "/v1/sales/{sale}/admission", handlers.show_admission),
            ("PATCH", "/v1/sales/{sale}/admission", handlers.change_admission),
            ("POST", "/v1/sales/{sale}/opening", handlers.open_sale),
            ("POST", "/v1/sales/{sale}/closing", handlers.close_sale),
            ("POST", "/v1/sales/{sale}/draining", handlers.drain_sale),
            ("PUT", "/v1/sales/{sale}/message", handlers.set_message),
            ("DELETE", "/v1/sales/{sale}/message", handlers.clear_message),
            ("GET", "/v1/sales/{sale}/live/events", handlers.stream_live),
            ("GET", "/v1/sales/{sale}/audit", handlers.list_audit),
        ):
            app.router.add_route(method, path, handler)
        return app


def sale(**changes: Any) -> NewSale:
    """A sale that is open, lets a thousand a second in, and ends tomorrow."""
    now_ms = time.time_ns() // 1_000_000
    fields: dict[str, Any] = {
        "id": SALE,
        "title": "Autumn drop",
        "opens_at_ms": now_ms - 60_000,
        "closes_at_ms": now_ms + DAY_MS,
        "limit_per_buyer": 2,
        "hold_ttl_s": 600,
        "guests": False,
        "opening": "fifo",
        "policy": Policy(rate_centi=100_000, active_max=1_000),
        "is_paused": False,
        "items": (NewItem(product="jacket", title="J", stock=100, amount=1, list_amount=1, currency="KRW"),),
    }
    return NewSale(**(fields | changes))


@asynccontextmanager
async def opened_edge(
    redis: Redis, pool: asyncpg.Pool, *, limits: StreamLimits | None = None, **changes: Any
) -> AsyncIterator[Edge]:
    """A sale, loaded into the line's Redis, and this process subscribed to its news."""
    edge = Edge(redis, pool, limits=limits)
    await edge.book.create(sale(**changes), "test")
    await edge.keeper.tick()
    await edge.feed.refresh()
    await edge.feed.tick()
    try:
        yield edge
    finally:
        await edge.streams.close()
        await edge.line.close()
        await edge.feed.close()


@asynccontextmanager
async def serving(edge: Edge) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    """An HTTP client of the edge, over a real connection."""
    client = TestClient(PlainServer(edge.app()), cookie_jar=DummyCookieJar())
    await client.start_server()
    try:
        yield client
    finally:
        await edge.streams.close()
        await client.close()


class PlainServer(TestServer):
    """Serves as ours does: a handler is not cancelled when its client goes, as test servers otherwise do."""

    async def _make_runner(self, **options: Any) -> web.AppRunner:
        return await super()._make_runner(**(options | {"handler_cancellation": False}))


class Events:
    """Reads an event stream."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response
        self.last_id = ""
        self.retry_ms = 0

    async def next(self) -> tuple[str, Any] | None:
        """The next event's name and data; None at the end of the stream. Comments are passed over."""
        name, data = "", ""
        async with asyncio.timeout(10):
            while line := (await self.response.content.readline()).decode():
                field, _, value = line.rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    data = value
                elif field == "id":
                    self.last_id = value
                elif field == "retry":
                    self.retry_ms = int(value)
                elif not field and name:
                    return name, msgspec.json.decode(data)
        return None

    async def until(self, name: str, accept: Callable[[Any], bool] = lambda _data: True) -> Any:
        """The data of the next event of this name that is accepted."""
        while (found := await self.next()) is not None:
            if found[0] == name and accept(found[1]):
                return found[1]
        raise AssertionError(f"the stream ended without {name}")


async def all_of(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """Everyone at once."""
    return list(await asyncio.gather(*calls))


async def another_redis(url: str) -> Redis:
    """Another client of the same server, whose connections the test may cut."""
    return connect(url)
