"""The processes, one function each, as the Procfile names them. Each runs until SIGTERM or SIGINT and drains.

Draining is bounded by `drain_s`: what has begun is finished, what is left behind is found by another process, because
nothing that matters is kept in memory alone.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from onsale.auth.janitor import JANITOR_INTERVAL_MS, Janitor
from onsale.auth.letters import Letters
from onsale.auth.mailer import FORGET_INTERVAL_MS, MAILER_INTERVAL_MS, Mailer, OutboxJanitor
from onsale.auth.post import Post
from onsale.auth.registrar import REGISTRAR_INTERVAL_MS, Registrar
from onsale.catalog.alarms import AlarmWriter
from onsale.catalog.lists import Carts
from onsale.catalog.moves import Moves
from onsale.catalog.products import Products
from onsale.catalog.proposals import Proposals
from onsale.catalog.recommendations import Recommender
from onsale.catalog.rules import ProposalRules
from onsale.catalog.search import Search
from onsale.catalog.vendors import Vendors
from onsale.checkout.aftersale import AfterSale
from onsale.checkout.backlog import Backlog
from onsale.checkout.cancellations import SaleCanceller
from onsale.checkout.caretaker import Caretaker
from onsale.checkout.closings import ClosingsKeeper
from onsale.checkout.completer import Completer
from onsale.checkout.delivery import Delivery
from onsale.checkout.forgetting import FORGETTING_INTERVAL_MS, AddressForgetting
from onsale.checkout.letters import LetterWriter, NoticeJanitor
from onsale.checkout.mover import StockMover
from onsale.checkout.providers.chaos import Chaos
from onsale.checkout.providers.credentials import Credentials
from onsale.checkout.providers.hooks import Hooks
from onsale.checkout.providers.sandbox_server import create_sandbox
from onsale.checkout.reaper import Reaper
from onsale.checkout.record.flusher import Flusher
from onsale.checkout.record.lag import RecordLag
from onsale.checkout.record.rebuild import Rebuilder
from onsale.checkout.record.recorder import CrashHook
from onsale.checkout.record.watch import RecordWatch
from onsale.checkout.restocker import Restocker
from onsale.checkout.settling import Shop
from onsale.checkout.sweeper import StockSweeper
from onsale.lua.line import LineScripts
from onsale.queue.admitter import Admitter
from onsale.queue.gone import GoneKeeper
from onsale.queue.keeper import Keeper
from onsale.server import app as web_app
from onsale.server import readers
from onsale.server.catcher import Letterbox, catching
from onsale.server.config import Settings
from onsale.server.health import require_fit_stores
from onsale.server.log import configure_log
from onsale.server.loop import Loops
from onsale.server.metrics import SNAPSHOT_INTERVAL_MS, Metrics, Snapshots, tick_observer
from onsale.server.pages import documents
from onsale.server.rooms import BOOK_INTERVAL_MS, Rooms, add_shared_loops, open_rooms
from onsale.server.stores import open_stores

log = structlog.get_logger()

ADMIT_INTERVAL_MS = 50
FLUSH_WAIT_MS = 50
REAP_INTERVAL_MS = 500
KEEP_INTERVAL_MS = 500
COMPLETE_INTERVAL_MS = 250
SECOND_MS = 1_000
MINUTE_MS = 60_000
NOTICES_FORGET_INTERVAL_MS = 60_000
# However much is bought of a product, it is counted anew twice a minute.
RECOMMEND_INTERVAL_MS = 30_000
# How many connections the kernel holds for us while the loop is busy: a crowd arrives within one instant.
BACKLOG = 4096


async def run_web(settings: Settings) -> None:
    """Answer requests and streams. Any number of these share one port."""
    configure_log(settings.log, process="web")
    stop = _on_signals()
    app = web_app.create_app(settings)
    runner = web_app.make_runner(app)
    await runner.setup()
    try:
        async with web_app.server_loops(app, runner).running(drain_s=1.0):
            await web.SockSite(runner, _listening(settings.host, settings.port), backlog=BACKLOG).start()
            log.info("process.started", address=str(runner.addresses))
            await stop.wait()
        log.info("process.stopping")
    finally:
        # Stops accepting, tells streams to come back, lets requests finish, closes rooms and stores.
        await runner.cleanup()
        app[documents.SNAPSHOTS].forget()
        log.info("process.stopped")


async def run_admitter(settings: Settings) -> None:
    """Let people in at the set rate. Any number run, none leads."""
    async with _process(settings, "admitter") as process:
        admitter_loops(process.rooms, process.loops)


def admitter_loops(rooms: Rooms, loops: Loops) -> None:
    """What an admitter keeps going."""
    loops.add("book", rooms.book.refresh, BOOK_INTERVAL_MS)
    loops.add("admitter", Admitter(rooms.stores.line, rooms.book, rooms.inventory).tick, ADMIT_INTERVAL_MS)


async def run_flusher(settings: Settings, hook: CrashHook | None = None) -> None:
    """Write what happened into Postgres. Any number run, each stream has one writer. Raises HookRefused for a `hook`
    outside tests."""
    async with _process(settings, "flusher") as process:
        flusher_loops(process.rooms, process.loops, hook)


def flusher_loops(rooms: Rooms, loops: Loops, hook: CrashHook | None = None) -> None:
    """One loop a kind of stream: a backlog of holdings never stands in front of money."""
    flusher = Flusher(rooms.stores.pool, rooms.stores.shop, rooms.stores.line, rooms.inventory, hook)
    for name, lane in (("money", flusher.money), ("holdings", flusher.holdings), ("admissions", flusher.admissions)):
        loops.add(f"flusher_{name}", _waiting(lane.tick), 0)


async def run_worker(settings: Settings) -> None:
    """Everything that is nobody's request: lapse, complete, deliver, restock, load, rebuild, forget."""
    async with _process(settings, "worker") as process:
        add_shared_loops(process.rooms, process.loops)
        worker_loops(process.rooms, process.loops)
        mail_loops(settings, process.rooms, process.loops)


def worker_loops(rooms: Rooms, loops: Loops) -> None:
    """The janitors, each with work of its own; any number of each may run."""
    stores = rooms.stores
    loops.add("keeper", Keeper(stores.line, stores.pool, rooms.book).tick, KEEP_INTERVAL_MS)
    loops.add("gone", GoneKeeper(LineScripts(stores.line), stores.pool, rooms.book).tick, SECOND_MS)
    loops.add("rebuilder", Rebuilder(stores.pool, stores.shop, rooms.inventory, rooms.book).tick, KEEP_INTERVAL_MS)
    loops.add("completer", _completer(rooms).tick, COMPLETE_INTERVAL_MS)
    loops.add("letters", LetterWriter(stores.pool, rooms.outbox).tick, SECOND_MS)
    loops.add("notice_janitor", NoticeJanitor(stores.pool).tick, NOTICES_FORGET_INTERVAL_MS)
    restocker = Restocker(stores.pool, rooms.inventory, Shop(rooms.book))
    loops.add("restocker", restocker.tick, COMPLETE_INTERVAL_MS)
    loops.add("sale_canceller", SaleCanceller(stores.pool, AfterSale(stores.pool)).tick, COMPLETE_INTERVAL_MS)
    loops.add("delivery", Delivery(stores.pool, AfterSale(stores.pool)).tick, SECOND_MS)
    loops.add("reaper", Reaper(rooms.inventory, rooms.book).tick, REAP_INTERVAL_MS)
    _add_stock_loops(rooms, loops)
    _add_catalogue_loops(rooms, loops)
    loops.add("caretaker", Caretaker(rooms.inventory, rooms.book).tick, SECOND_MS)
    loops.add("janitor", Janitor(stores.pool).tick, JANITOR_INTERVAL_MS)
    loops.add("inbox_janitor", rooms.inbox.forget, JANITOR_INTERVAL_MS)
    lag = RecordLag(stores.shop, rooms.book)
    loops.add("record_watch", RecordWatch(lag.tick, rooms.line, rooms.book).tick, SECOND_MS)
    loops.add("forgetting", AddressForgetting(stores.pool).tick, FORGETTING_INTERVAL_MS)
    loops.add("closings", ClosingsKeeper(stores.pool, rooms.inventory, rooms.book).tick, SECOND_MS)


def mail_loops(settings: Settings, rooms: Rooms, loops: Loops) -> None:
    """Letters are written and go out, and those long gone are forgotten. Without a mail server they wait."""
    registrar = Registrar(rooms.stores.pool, rooms.keyring, rooms.outbox)
    loops.add("registrar", registrar.tick, REGISTRAR_INTERVAL_MS)
    if settings.smtp_url is None:
        log.warning("mail.waits", setting="SMTP_URL", detail="no mail server is set: letters wait")
    else:
        letters = Letters(settings.mail_from, settings.public_url)
        mailer = Mailer(rooms.stores.pool, rooms.sealer, Post(settings.smtp_url), letters, rooms.recipients.of)
        loops.add("mailer", mailer.tick, MAILER_INTERVAL_MS)
    loops.add("outbox_janitor", OutboxJanitor(rooms.stores.pool).tick, FORGET_INTERVAL_MS)


def _add_catalogue_loops(rooms: Rooms, loops: Loops) -> None:
    pool = rooms.stores.pool
    products = Products(pool, Vendors(pool), StockMover(Moves(pool), rooms.inventory))
    loops.add("search", Search(pool).tick, SECOND_MS)
    loops.add("recommender", Recommender(pool).tick, RECOMMEND_INTERVAL_MS)
    loops.add("carts", Carts(pool, products).tick, MINUTE_MS)
    alarms = AlarmWriter(pool, rooms.outbox)
    loops.add("alarms", alarms.tick, SECOND_MS)
    loops.add("alarm_janitor", alarms.forget, MINUTE_MS)


def _add_stock_loops(rooms: Rooms, loops: Loops) -> None:
    pool, moves = rooms.stores.pool, Moves(rooms.stores.pool)
    mover = StockMover(moves, rooms.inventory)
    sweeper = StockSweeper(moves, rooms.inventory, mover)
    loops.add("stock_mover", mover.tick, KEEP_INTERVAL_MS)
    loops.add("stock_sweeper", sweeper.tick, SECOND_MS)
    loops.add("proposals", Proposals(pool, Vendors(pool), mover, sweeper, ProposalRules()).tick, SECOND_MS)


def _completer(rooms: Rooms) -> Completer:
    return Completer(
        backlog=Backlog(rooms.stores.pool, rooms.driver),
        book=rooms.book,
        inventory=rooms.inventory,
        feed=rooms.record,
        orders=rooms.orders,
        providers=rooms.providers,
        sealer=rooms.sealer,
        inbox=rooms.inbox,
    )


async def run_sandbox(settings: Settings) -> None:
    """The sandbox provider, a server of its own."""
    configure_log(settings.log, process="sandbox")
    stop = _on_signals()
    sandbox = settings.sandbox or Credentials("http://127.0.0.1:0")
    url = urlsplit(sandbox.url)
    hooks = None
    if sandbox.webhook_secrets:
        hooks = Hooks(f"{settings.own_url}/v1/provider-events/sandbox", sandbox.webhook_secrets[0])
    chaos = None if settings.sandbox_chaos is None else Chaos(settings.sandbox_chaos)
    runner = web.AppRunner(create_sandbox(settings.data_dir / "sandbox", hooks, chaos), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, url.hostname, url.port, backlog=BACKLOG).start()
        log.info("process.started", address=str(runner.addresses))
        await stop.wait()
    finally:
        await runner.cleanup()


async def run_catcher(settings: Settings) -> None:
    """The mail server for trying. Without addresses of its own it takes any free ports, and says which."""
    configure_log(settings.log, process="catcher")
    stop = _on_signals()
    letterbox = Letterbox(settings.data_dir / "mail")
    smtp_url, page_url = settings.smtp_url or "smtp://127.0.0.1:0", settings.catcher_url or "http://127.0.0.1:0"
    async with catching(letterbox, smtp_url, page_url) as addresses:
        log.info("process.started", address=" ".join(addresses))
        await stop.wait()


@dataclass(frozen=True, slots=True)
class Process:
    """What a process without a port is given."""

    rooms: Rooms
    loops: Loops


@asynccontextmanager
async def _process(settings: Settings, name: str) -> AsyncIterator[Process]:
    """Stores, rooms and loops; the block starts its loops, then this waits for the signal and drains."""
    configure_log(settings.log, process=name)
    stop = _on_signals()
    metrics = Metrics(documents.version())
    snapshots = Snapshots(metrics.registry, settings.data_dir / "metrics", name)
    async with AsyncExitStack() as closing:
        stores = await closing.enter_async_context(open_stores(settings))
        await require_fit_stores(stores)
        rooms = await closing.enter_async_context(open_rooms(settings, stores))
        loops = Loops(tick_observer(metrics, readers.of(metrics)), metrics.on_failure)
        loops.add("snapshot", snapshots.tick, SNAPSHOT_INTERVAL_MS)
        closing.callback(snapshots.forget)
        yield Process(rooms, loops)
        async with loops.running(settings.drain_s):
            log.info("process.started")
            await stop.wait()
            log.info("process.stopping")
    log.info("process.stopped")


def _waiting(tick: Callable[..., Any]) -> Callable[[], Any]:
    """A lane's tick that waits for events a moment: at rest it costs a blocked read, in a burst nothing."""
    return lambda: tick(FLUSH_WAIT_MS)


def _on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    return stop


def _listening(host: str, port: int) -> socket.socket:
    """A socket on the shared port: the kernel spreads connections over all processes that listen there."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(address)
    return listening
