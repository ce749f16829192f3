"""The web application: every room built once, bound together, and taken down in the opposite order.

`create_app` builds nothing that needs a loop or a store; that happens when the runner starts it. The order of starting
is the order of `_open`: stores, rooms, what a web process adds, loops. Ending, streams are told to come back elsewhere,
then requests finish, then attempts to pay that this process drives, then loops, then stores.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

from aiohttp import web

from onsale.auth import middleware as auth
from onsale.auth.access import AccessTokens
from onsale.auth.accounts import Accounts
from onsale.auth.addressbook import AddressBook
from onsale.auth.credentials import Credentials
from onsale.auth.deletion import Deletion
from onsale.auth.middleware import Cookies
from onsale.auth.passes import Passes
from onsale.auth.passwords import PasswordHasher
from onsale.auth.requests import BODY_BYTES_MAX, TRUSTED_PROXIES
from onsale.auth.revocations import REVOCATIONS_INTERVAL_MS, Revocations
from onsale.auth.sessions import Sessions
from onsale.auth.signups import SignUps
from onsale.auth.streamkeys import StreamKeys
from onsale.auth.throttle import ACCOUNT_BUDGET, LETTER_ACCOUNT_BUDGET, LETTER_ADDRESS_BUDGET, TryThrottle
from onsale.auth.tickets import Tickets
from onsale.auth.tries import Tries
from onsale.auth.verifications import Verifications
from onsale.catalog import alarm_handlers as alarms
from onsale.catalog import handlers as catalog
from onsale.catalog import list_handlers as lists
from onsale.catalog import product_handlers as products
from onsale.catalog import proposal_handlers as proposals
from onsale.catalog.alarms import Alarms
from onsale.catalog.discounts import Discounts
from onsale.catalog.lists import Carts, Wishes
from onsale.catalog.moves import Moves, ShopStock
from onsale.catalog.offers import Offers
from onsale.catalog.products import Products
from onsale.catalog.proposals import Proposals
from onsale.catalog.recommendations import Recommendations
from onsale.catalog.rules import ProposalRules
from onsale.catalog.search import Search
from onsale.catalog.vendors import Vendors
from onsale.checkout import cancellation_handlers as cancellations
from onsale.checkout import entry_handlers
from onsale.checkout import handlers as checkout
from onsale.checkout import notice_handlers as notices
from onsale.checkout.aftersale import AfterSale
from onsale.checkout.cancellations import SaleCancellations
from onsale.checkout.entries import Entries
from onsale.checkout.flow import CheckoutFlow
from onsale.checkout.forgetting import AddressForgetting
from onsale.checkout.mover import StockMover
from onsale.checkout.notices import NoticeBook, NoticeHub
from onsale.checkout.reads import Reads
from onsale.checkout.record.lag import RecordLag
from onsale.checkout.stock import StockBoard
from onsale.checkout.sweeper import StockSweeper
from onsale.lua import Script
from onsale.queue import handlers as line
from onsale.queue.control import Control
from onsale.queue.feed import Feed
from onsale.queue.history import History
from onsale.queue.live import Live
from onsale.queue.presence import Presence
from onsale.queue.shown import ShownWaits
from onsale.queue.stream import StreamLimits, Streams
from onsale.queue.teller import Teller
from onsale.server import readers
from onsale.server.config import Settings
from onsale.server.connections import SWEEP_INTERVAL_MS, Runner, Sweeper
from onsale.server.edge import SUM_INTERVAL_MS, Edge, Summary, hot_table
from onsale.server.health import KeySigns, Readiness, require_fit_stores
from onsale.server.loop import Loops
from onsale.server.metrics import SNAPSHOT_INTERVAL_MS, Metrics, Snapshots, tick_observer
from onsale.server.middleware import Handler, Stamp, manners, request_id
from onsale.server.openapi import document
from onsale.server.pages import documents
from onsale.server.pages.assets import add_assets
from onsale.server.problems import problem_response
from onsale.server.readers import LoopLag, WebGauges
from onsale.server.rooms import LinePassTimes, Rooms, add_shared_loops, open_rooms
from onsale.server.route import add_routes
from onsale.server.routes import ROUTES
from onsale.server.stores import open_stores
from onsale.web import static_folder

# Streams are served in slots of 50 ms; news of a turn is asked for in between.
STREAM_INTERVAL_MS = 50
TELL_INTERVAL_MS = 20
# An order's state is told within a second: this, a query, and a moment for the record.
NOTICE_INTERVAL_MS = 300
SECOND_MS = 1_000
MINUTE_MS = 60_000

SETTINGS = web.AppKey("settings", Settings)
METRICS = web.AppKey("metrics", Metrics)
ROOMS = web.AppKey("rooms", Rooms)
STAMP = web.AppKey("stamp", Stamp)


def create_app(settings: Settings) -> web.Application:
    """The application of one web process. It opens its rooms when its runner starts it."""
    metrics = Metrics(documents.version())
    app = web.Application(
        middlewares=[manners(metrics.traffic, settings.trusted_proxies)], client_max_size=BODY_BYTES_MAX
    )
    app[SETTINGS] = settings
    app[METRICS] = metrics
    app[TRUSTED_PROXIES] = settings.trusted_proxies
    app[documents.DOCUMENT] = document(ROUTES, version=documents.version(), public_url=settings.public_url)
    app[documents.SNAPSHOTS] = Snapshots(metrics.registry, settings.data_dir / "metrics", "web")
    add_routes(app, ROUTES)
    add_assets(app, static_folder())
    app[STAMP] = Stamp(frozenset(route.path for route in ROUTES if route.is_public), is_https=settings.is_https)
    app.on_response_prepare.append(app[STAMP].on_prepare)
    app.cleanup_ctx.append(_open)
    return app


def make_runner(app: web.Application) -> Runner:
    """Runs the application: hot routes at their edge, connections with their deadlines."""
    settings, metrics = app[SETTINGS], app[METRICS]
    hot_paths: Mapping[tuple[str, str], Handler] = {
        (route.method, route.path): route.handler for route in ROUTES if route.is_hot
    }

    def front(otherwise: Handler) -> Edge:
        table = hot_table(app, hot_paths, metrics.traffic, app[STAMP])
        return Edge(app, table, otherwise, settings.trusted_proxies)

    def refuse(request: web.BaseRequest, error: BaseException) -> web.Response:
        found = request_id(request, settings.trusted_proxies)
        response = problem_response(error, language="en", request_id=found)
        response.headers["X-Request-Id"] = found
        return response

    return Runner(app, front=front, refuse=refuse, drain_s=settings.drain_s)


def server_loops(app: web.Application, runner: Runner) -> Loops:
    """What a running server does beside answering: close late connections, sum up hot requests, leave its figures."""
    metrics = app[METRICS]
    loops = Loops(tick_observer(metrics, readers.of(metrics)), metrics.on_failure)
    hot = [metrics.traffic.of(route.method, route.path) for route in ROUTES if route.is_hot]
    if runner.server is not None:
        loops.add("sweep", Sweeper(runner.server, asyncio.get_running_loop().time).tick, SWEEP_INTERVAL_MS)
    loops.add("loop_lag", LoopLag(metrics).tick, 0)
    loops.add("summary", Summary(metrics.traffic, hot).tick, SUM_INTERVAL_MS)
    loops.add("snapshot", app[documents.SNAPSHOTS].tick, SNAPSHOT_INTERVAL_MS)
    return loops


async def _open(app: web.Application) -> AsyncIterator[None]:
    """Everything that needs a loop or a store, for as long as the application runs."""
    settings, metrics = app[SETTINGS], app[METRICS]
    async with AsyncExitStack() as closing:
        stores = await closing.enter_async_context(open_stores(settings))
        await require_fit_stores(stores)
        rooms = await closing.enter_async_context(open_rooms(settings, stores))
        app[ROOMS] = rooms
        key_signs = KeySigns(stores.pool, rooms.keyring)
        await key_signs.require()
        loops = Loops(tick_observer(metrics, readers.of(metrics)), metrics.on_failure)
        revocations = _open_auth(app, rooms, loops, closing)
        _open_line(app, rooms, revocations, loops, closing)
        _open_catalogue(app, rooms)
        flow = _open_checkout(app, rooms)
        _open_notices(app, rooms, revocations, loops)
        add_shared_loops(rooms, loops)
        loops.add("key_signs", key_signs.tick, MINUTE_MS)
        # Known before the first request: who was signed out, the newest documents, how far our clock is off.
        await revocations.tick(time.time_ns() // 1_000_000)
        await app[line.FEED].refresh()
        # Attempts to pay end while the record is still listened to; loops end before what they work with.
        await closing.enter_async_context(loops.running(settings.drain_s))
        closing.push_async_callback(flow.close)
        yield


def _open_auth(app: web.Application, rooms: Rooms, loops: Loops, closing: AsyncExitStack) -> Revocations:
    settings, pool, keyring = app[SETTINGS], rooms.stores.pool, rooms.keyring
    hasher = PasswordHasher()
    closing.push_async_callback(hasher.close)
    revocations = Revocations(pool)
    access = AccessTokens(keyring, settings.public_url, revocations)
    app[auth.ACCESS] = access
    app[auth.ACCOUNTS] = Accounts(pool, keyring, hasher)
    app[auth.ADDRESS_BOOK] = AddressBook(pool, keyring)
    app[auth.CODE_TRIES] = TryThrottle(Tries(pool, "code", ACCOUNT_BUDGET), settings.unlimited_from)
    app[auth.COOKIES] = Cookies(settings.public_url, settings.insecure_cookies)
    app[auth.PASSES] = Passes(keyring, settings.public_url)
    app[auth.PASSWORDS] = hasher
    app[auth.CREDENTIALS] = Credentials(pool, keyring, hasher, revocations, rooms.outbox)
    app[auth.DELETION] = Deletion(pool, revocations, [AddressForgetting(pool), Alarms(pool)])
    app[auth.LETTER_ASKS] = TryThrottle(
        Tries(pool, "letter", LETTER_ACCOUNT_BUDGET), settings.unlimited_from, LETTER_ADDRESS_BUDGET
    )
    app[auth.SESSIONS] = Sessions(pool, keyring, access, revocations, is_single=not settings.multi_login)
    app[auth.SIGN_INS] = TryThrottle(Tries(pool, "sign_in", ACCOUNT_BUDGET), settings.unlimited_from)
    app[auth.SIGN_UPS] = SignUps(pool, keyring, hasher)
    app[auth.STREAM_KEYS] = StreamKeys(
        keyring,
        revocations,
        Script(rooms.stores.line, "stream_key_open"),
        Script(rooms.stores.line, "stream_key_end"),
    )
    app[auth.TICKETS] = Tickets(keyring)
    app[auth.VERIFICATIONS] = Verifications(pool, keyring)
    loops.add("revocations", lambda: revocations.tick(time.time_ns() // 1_000_000), REVOCATIONS_INTERVAL_MS)
    return revocations


def _open_line(
    app: web.Application, rooms: Rooms, revocations: Revocations, loops: Loops, closing: AsyncExitStack
) -> None:
    feed = Feed(rooms.stores.line, rooms.book)
    closing.push_async_callback(feed.close)
    presence = Presence(rooms.line, feed)
    teller = Teller(rooms.line, feed, presence, app[auth.TICKETS], app[auth.PASSES])
    streams = Streams(teller, feed, presence, StreamLimits(), revoked=revocations)
    app.on_shutdown.append(lambda _: streams.close())
    app[line.CONTROL] = Control(rooms.stores.line, rooms.stores.pool, rooms.book, rooms.inventory)
    app[line.FEED] = feed
    app[line.LINE] = rooms.line
    app[line.SHOP] = rooms.inventory
    app[line.STREAMS] = streams
    app[line.TELLER] = teller
    app[line.UNLIMITED_FROM] = app[SETTINGS].unlimited_from
    app[documents.READINESS] = Readiness(rooms.stores, lambda: _document_ages_ms(feed), loops.failing)
    lag = RecordLag(rooms.stores.shop, rooms.book)
    gauges = WebGauges(app[METRICS], feed, streams, rooms.providers, app[documents.READINESS])
    loops.add("feed", feed.tick, 0)
    loops.add("documents", feed.refresh, SECOND_MS)
    loops.add("presence", presence.tick, SECOND_MS)
    shown = ShownWaits(feed)
    loops.add("shown_waits", shown.tick, SECOND_MS)
    loops.add("history", History(feed, shown, rooms.stores.pool).tick, SECOND_MS)
    loops.add("streams", streams.tick, STREAM_INTERVAL_MS)
    loops.add("record_lag", lag.tick, SECOND_MS)
    loops.add("live", Live(feed, streams, rooms.inventory, lag.of).tick, SECOND_MS)
    loops.add("gauges", gauges.tick, SECOND_MS)
    loops.add("tell", streams.tell, TELL_INTERVAL_MS)


def _document_ages_ms(feed: Feed) -> dict[str, int | None]:
    """The age of the newest document of every line that still moves."""
    now_ms = feed.now_ms()
    lines = [line for line in feed.lines() if line.keys.epoch > 0 and not line.is_closed]
    return {line.sale.id: now_ms - line.frame.as_of_ms if line.frame else None for line in lines}


def _open_catalogue(app: web.Application, rooms: Rooms) -> None:
    pool = rooms.stores.pool
    mover = StockMover(Moves(pool), rooms.inventory)
    vendors = Vendors(pool)
    app[catalog.BOOK] = rooms.book
    app[products.VENDORS] = vendors
    app[products.PRODUCTS] = Products(pool, vendors, mover)
    app[alarms.ALARMS] = Alarms(pool)
    app[lists.WISHES] = Wishes(pool, app[products.PRODUCTS])
    app[lists.CARTS] = Carts(pool, app[products.PRODUCTS])
    app[products.SEARCH] = Search(pool)
    app[products.OFFERS] = Offers(pool)
    app[products.RECOMMENDATIONS] = Recommendations(pool)
    app[products.DISCOUNTS] = Discounts(pool, vendors)
    app[products.SHOP_STOCK] = ShopStock(pool, mover)
    rules = ProposalRules(hours=app[SETTINGS].sale_hours)
    sweeper = StockSweeper(Moves(pool), rooms.inventory, mover)
    app[proposals.RULES] = rules
    app[proposals.PROPOSALS] = Proposals(pool, vendors, mover, sweeper, rules)


def _open_notices(app: web.Application, rooms: Rooms, revocations: Revocations, loops: Loops) -> None:
    book = NoticeBook(rooms.stores.pool)
    hub = NoticeHub(book, revoked=revocations)
    app[notices.BOOK] = book
    app[notices.HUB] = hub
    loops.add("notices", hub.tick, NOTICE_INTERVAL_MS)
    loops.add("cart_stock", lambda: hub.warn(app[lists.CARTS].held, app[checkout.STOCK].known), SECOND_MS)

    async def close(_: web.Application) -> None:
        hub.close()

    app.on_shutdown.append(close)


def _open_checkout(app: web.Application, rooms: Rooms) -> CheckoutFlow:
    flow = CheckoutFlow(
        book=rooms.book,
        inventory=rooms.inventory,
        feed=rooms.record,
        orders=rooms.orders,
        providers=rooms.providers,
        sealer=rooms.sealer,
        passes=app[auth.PASSES],
        offers=app[products.OFFERS],
        carts=app[lists.CARTS],
        pass_times=LinePassTimes(rooms),
        driver=rooms.driver,
    )
    reads = Reads(rooms.book, rooms.inventory, rooms.orders, rooms.sealer)
    app[checkout.AFTER_SALE] = AfterSale(rooms.stores.pool, reads)
    app[cancellations.CANCELLATIONS] = SaleCancellations(rooms.stores.pool, app[line.CONTROL])
    app[entry_handlers.ENTRIES] = Entries(rooms.stores.pool, rooms.sealer)
    app[checkout.FLOW] = flow
    app[checkout.INBOX] = rooms.inbox
    app[checkout.READS] = reads
    app[checkout.STOCK] = StockBoard(rooms.book, rooms.inventory)
    app[lists.FIGURES] = app[checkout.STOCK]
    return flow
