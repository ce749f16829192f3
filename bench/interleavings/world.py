"""One simulated system: two Redis-like and one Postgres-like model, a provider, and the real code of web processes,
flushers and workers between them, each of which can be killed, stopped and started anew.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bench.interleavings.loop import EPOCH_NS, PROCESS, Process, SeededLoop
from bench.interleavings.network import Network, Weather
from bench.interleavings.postgres_model import Pool, PostgresModel, Row, Transaction
from bench.interleavings.provider_model import ProviderClient, ProviderModel
from bench.interleavings.redis_client import RedisClient, RedisServer
from bench.interleavings.redis_model import RedisModel
from bench.interleavings.statements import HANDLERS, TABLES, checks, uniques
from onsale.auth.keys import Keyring
from onsale.auth.passes import Passes
from onsale.auth.sealing import Sealer
from onsale.catalog.moves import Moves
from onsale.catalog.sales import Policy, SaleBook
from onsale.checkout.backlog import Backlog
from onsale.checkout.completer import Completer, CompleterPolicy, CompleteTick
from onsale.checkout.driving import DrivePolicy
from onsale.checkout.flow import CheckoutFlow, FlowPolicy
from onsale.checkout.inventory import Inventory
from onsale.checkout.mover import MoveTick, StockMover
from onsale.checkout.orders import Orders
from onsale.checkout.reads import Reads
from onsale.checkout.reaper import Reaper, ReapTick
from onsale.checkout.record.flusher import Flusher, FlushTick, Lane
from onsale.checkout.record.rebuild import Rebuilder, RebuildTick
from onsale.checkout.record.watermark import RecordFeed
from onsale.checkout.webhooks import Inbox
from onsale.lua.keys import LineKeys, ShopKeys
from onsale.lua.line import LineScripts, Settings
from onsale.queue.admitter import Admitter, AdmitterTick
from onsale.queue.holders import Holders
from onsale.queue.line import Line
from onsale.queue.numbering import Numbering

SALE, PRODUCTS, PRICE = "drop", ("hat", "jacket"), 1_000
KEYRING = Keyring([b"a secret for simulations, long enough"])
NEVER_MS = 4_000_000_000_000
PASS_TTL_MS, TURN_TTL_MS, ABSENT_AFTER_MS = 6_000, 3_000, 40_000
PLACES_FIRST = 3
# Times are short, so that what they bound is met within a run.
DRIVE = DrivePolicy(drive_ms=3_000, call_ms=1_200, patience_ms=1_500)
COMPLETING = CompleterPolicy(
    drive_ms=4_000,
    call_ms=2_500,
    patience_ms=1_000,
    wait_ms=500,
    give_up_ms=20_000,
    refusal_grace_ms=500,
    stray_ms=8_000,
)


@dataclass(frozen=True)
class Plan:
    """What a run is made of; drawn from the seed."""

    buyers: int
    stock: int
    # Units that the shop's Redis believes it has beyond the record's.
    over: int
    limit: int
    hold_ttl_s: int
    webs: int
    flushers: int
    workers: int
    weather: Weather
    faults: tuple[tuple[float, str], ...]
    lasts_s: float
    moves: int
    # Whether people stand in line for their passes, and how fast they are let in.
    line: bool
    rate_centi: int
    active_max: int

    @property
    def loses_data(self) -> bool:
        return any(fault.startswith("lose") for _, fault in self.faults)


@dataclass
class Running:
    """A process with what it runs."""

    process: Process
    kind: str
    pool: Pool
    parts: dict[str, Any] = field(default_factory=dict)


class World:
    """Everything of one run. `note` keeps the trace."""

    # Planted bugs replace these.
    lane: type[Lane] = Lane
    transaction: type[Transaction] = Transaction
    flow: type[CheckoutFlow] = CheckoutFlow

    def __init__(self, loop: SeededLoop, rng: random.Random, plan: Plan) -> None:
        self.loop = loop
        self.rng = rng
        self.plan = plan
        self.trace: list[str] = []
        self.network = Network(loop, rng)
        self.shop = RedisServer(self.network, RedisModel(self.redis_ms, self._run_id()))
        self.line = RedisServer(self.network, RedisModel(self.redis_ms, self._run_id()))
        self.postgres = PostgresModel(loop, rng, self.postgres_ms, (*TABLES, "advisory"), HANDLERS)
        self.postgres.transaction = self.transaction
        self.postgres.checks, self.postgres.uniques = checks(), uniques()
        self.provider = ProviderModel(rng)
        self.passes = Passes(KEYRING, "http://simulation")
        self.running: dict[str, Running] = {}
        self.redis_skew_ms = rng.randint(-500, 500)
        self.postgres_skew_ms = rng.randint(-500, 500)
        self.on_failure: Callable[[str, BaseException], None] = lambda name, error: None
        self.starts = 0
        # Once everything else is over, those who finish it look less often: holds of a rebuilt shop last a minute.
        self.pace = 1
        self._make_sale()

    def note(self, who: str, what: str) -> None:
        self.trace.append(f"{self.loop.time():9.4f}  {who:<12} {what}")

    def redis_ms(self) -> int:
        return EPOCH_NS // 1_000_000 + int(self.loop.time() * 1000) + self.redis_skew_ms

    def postgres_ms(self) -> int:
        return EPOCH_NS // 1_000_000 + int(self.loop.time() * 1000) + self.postgres_skew_ms

    @property
    def sale(self) -> Row:
        row = self.postgres.row("sales", SALE)
        assert row is not None
        return row

    @property
    def keys(self) -> ShopKeys:
        return ShopKeys(SALE, self.sale["shop_epoch"])

    @property
    def line_keys(self) -> LineKeys:
        return LineKeys(SALE, 1)

    async def open_line(self) -> None:
        """The line of a new sale, with so few places reserved that more are asked for in each run."""
        client: Any = RedisClient(self.line)
        settings = Settings(
            opens_at_ms=0, closes_at_ms=NEVER_MS, draining=0, message="", policy_version=1, mode="manual",
            rate_centi=self.plan.rate_centi, active_max=self.plan.active_max, pass_ttl_ms=PASS_TTL_MS,
            turn_ttl_ms=TURN_TTL_MS, absent_after_ms=ABSENT_AFTER_MS, holders=(),
        )  # fmt: skip
        run_id = self.line.model.run_id
        await LineScripts(client).register(
            self.line_keys, settings, is_again=False, run_id=run_id, tail=0, ceiling=PLACES_FIRST
        )

    # processes

    def start(self, kind: str, name: str) -> Running:
        """A process that has just been started, with nothing in its memory."""
        self.starts += 1
        process = Process(f"{name}.{self.starts}", skew_ms=self.rng.randint(-300, 300))
        running = Running(process, kind, Pool(self.network, self.postgres))
        self.running[name] = running
        kinds = {"web": self._web, "flusher": self._flusher, "worker": self._worker, "admitter": self._admitter}
        make = kinds[kind]
        self.spawn(process, make(running))
        self.note(process.name, "started")
        return running

    def spawn(self, process: Process, work: Any) -> asyncio.Task[Any]:
        """Have a process do something."""
        token = PROCESS.set(process)
        try:
            return self.loop.create_task(work)
        finally:
            PROCESS.reset(token)

    def kill(self, name: str) -> None:
        """SIGKILL, at whatever step it is."""
        running = self.running[name]
        self.note(running.process.name, "killed")
        self.loop.kill(running.process)
        running.pool.abandon()

    async def _web(self, running: Running) -> None:
        book, inventory, feed = await self._common(running)
        provider = ProviderClient(self.network, self.provider)
        pool: Any = running.pool
        ports: Any = _NoPorts()
        client: Any = RedisClient(self.line)
        line = Line(client, Numbering(pool), Holders(pool), inventory, book)
        times: Any = _PassTimes(line, self.line_keys) if self.plan.line else ports
        orders = Orders(pool)
        running.parts["flow"] = self.flow(
            book=book, inventory=inventory, feed=feed, orders=orders, providers={"sandbox": provider},
            sealer=Sealer(KEYRING), passes=self.passes, offers=ports, carts=ports, pass_times=times,
            driver=running.process.name, policy=FlowPolicy(confirm_patience_ms=2_500, drive=DRIVE),
        )  # fmt: skip
        running.parts["line"] = line
        running.parts["reads"] = Reads(book, inventory, orders, Sealer(KEYRING))

    async def _flusher(self, running: Running) -> None:
        _, inventory, _ = await self._common(running, hears=False)
        pool: Any = running.pool
        shop: Any = RedisClient(self.shop)
        line: Any = RedisClient(self.line)
        flusher = Flusher(pool, shop, line, inventory)
        running.parts["flusher"] = flusher
        for lane in flusher.lanes if self.plan.line else flusher.lanes[:2]:
            lane.__class__ = self.lane
            self._loop(running, f"flush {lane.stream}", lambda lane=lane: lane.tick(400 * self.pace), 0.0)

    async def _worker(self, running: Running) -> None:
        book, inventory, feed = await self._common(running)
        provider = ProviderClient(self.network, self.provider)
        pool: Any = running.pool
        shop: Any = RedisClient(self.shop)
        completer = Completer(
            backlog=Backlog(pool, running.process.name), book=book, inventory=inventory, feed=feed,
            orders=Orders(pool), providers={"sandbox": provider}, sealer=Sealer(KEYRING),
            inbox=Inbox(pool, {"sandbox": provider}), policy=COMPLETING,
        )  # fmt: skip
        running.parts["completer"] = completer
        self._loop(running, "rebuild", Rebuilder(pool, shop, inventory, book).tick, 0.5)
        self._loop(running, "complete", completer.tick, 0.7)
        self._loop(running, "reap", Reaper(inventory, book).tick, 0.5)
        if self.plan.moves:
            self._loop(running, "move", StockMover(Moves(pool), inventory).tick, 0.5)

    async def _admitter(self, running: Running) -> None:
        book, inventory, _ = await self._common(running, hears=False)
        client: Any = RedisClient(self.line)
        admitter = Admitter(client, book, inventory)
        self._loop(running, "admit", admitter.tick, 0.3)

    async def _common(self, running: Running, *, hears: bool = True) -> tuple[SaleBook, Inventory, RecordFeed]:
        pool: Any = running.pool
        shop: Any = RedisClient(self.shop)
        book = SaleBook(pool)
        while not book.all():
            try:
                await book.refresh()
            except Exception as error:
                self.note(running.process.name, f"waits for Postgres: {error!r}")
                await asyncio.sleep(0.1)
        inventory = Inventory(shop, lambda sale: ShopKeys(sale, book.seller(sale).shop_epoch))
        feed = RecordFeed(shop, pool)
        self._loop(running, "book", book.refresh, 2.0)
        if hears:
            self._loop(running, "feed", lambda: feed.tick(400 * self.pace), 0.0)
        return book, inventory, feed

    def _loop(self, running: Running, name: str, tick: Callable[[], Awaitable[Any]], every_s: float) -> None:
        async def forever() -> None:
            while True:
                try:
                    found = await tick()
                except Exception as error:
                    self.note(running.process.name, f"{name} failed: {type(error).__name__} {str(error)[:60]}")
                    self.on_failure(name, error)
                    await asyncio.sleep(0.1 + every_s)
                    continue
                if isinstance(found, AdmitterTick):
                    found = found if any(sale.admitted or sale.freed or sale.untold for sale in found.sales) else None
                if name != "feed" and found is not None and found != QUIET.get(type(found)):
                    self.note(running.process.name, f"{name}: {found}")
                await asyncio.sleep(
                    0 if getattr(found, "more", False) else every_s * self.pace * (0.5 + self.rng.random())
                )

        self.spawn(running.process, forever())

    def _policy(self) -> Policy:
        return Policy(
            rate_centi=self.plan.rate_centi, active_max=self.plan.active_max, pass_ttl_s=PASS_TTL_MS // 1000,
            turn_ttl_s=TURN_TTL_MS // 1000, absent_after_s=ABSENT_AFTER_MS // 1000,
        )  # fmt: skip

    def _run_id(self) -> str:
        return f"{self.rng.getrandbits(160):040x}"

    def _make_sale(self) -> None:
        plan, now = self.plan, self.postgres_ms()
        tx = self.postgres.transaction(self.postgres)
        sale = {
            "id": SALE, "no": 7, "title": "Drop", "opens_at_ms": 0, "planned_at_ms": 0, "vendor": None,
            "is_approved": True, "closes_at_ms": NEVER_MS, "draining": False, "closed": False,
            "limit_per_buyer": plan.limit, "hold_ttl_s": plan.hold_ttl_s, "guests": False, "opening": "fifo",
            "message": None, "policy": msgspec.json.encode(self._policy()).decode(), "policy_version": 1,
            "paused_by": [], "revert_at_ms": 0, "revert_to": None, "revert_paused": None, "refunding": None,
            "line_epoch": 1, "shop_epoch": 0, "place_ceiling": PLACES_FIRST, "line_run": self.line.model.run_id,
        }  # fmt: skip
        tx.writes["sales", (SALE,)] = sale
        for product in PRODUCTS:
            tx.writes["sale_items", (SALE, product)] = {
                "sale": SALE, "product": product, "title": product.title(), "amount": PRICE, "list_amount": PRICE,
                "currency": "KRW", "stock": plan.stock, "claimed": 0, "sold": 0,
            }  # fmt: skip
            tx.writes["stock_moves", (f"open-{product}",)] = {
                "id": f"open-{product}", "sale": SALE, "product": product, "quantity": plan.stock, "why": "opening",
                "state": "counted", "target": None, "applied_epoch": None, "order_id": None, "created_at": now,
            }  # fmt: skip
        tx.end(commits=True)


# Ticks that did nothing are left out of the trace.
QUIET = {
    type(tick): tick
    for tick in (FlushTick(), RebuildTick(), CompleteTick(), ReapTick(0, False), MoveTick(0, 0, 0, False))
}


class _PassTimes:
    """The line's word on passes, as the server binds it."""

    def __init__(self, line: Line, keys: LineKeys) -> None:
        self._line = line
        self._keys = keys

    async def until_ms(self, sale: str, turn: str) -> int:
        return await self._line.pass_until(self._keys, turn) or 0


class _NoPorts:
    """Ordinary products, carts and the line: none of it is asked for in these runs."""

    async def until_ms(self, sale: str, turn: str) -> int:
        return 0
