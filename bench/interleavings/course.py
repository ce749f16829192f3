"""One run from its seed: what is drawn, what happens, how it is finished, what the judge says."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
import warnings
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog

from bench.interleavings.buyers import Crowd
from bench.interleavings.judge import Judge
from bench.interleavings.loop import SeededLoop, Stuck, simulated
from bench.interleavings.network import Weather
from bench.interleavings.plants import PLANTS, Plant
from bench.interleavings.statements import id_of
from bench.interleavings.world import PRODUCTS, SALE, Plan, World
from onsale.catalog.moves import SQL

# Whoever carries on after everything has died gets so many seconds.
ROUNDS_MAX = 200
SWEEP_EVERY = 50


@dataclass(frozen=True)
class Result:
    """What became of one seed."""

    seed: int
    broken: tuple[str, ...]
    trace: tuple[str, ...]
    counts: dict[str, int]
    steps: int


def run_seed(seed: int, plant: str = "") -> Result:
    """One run. The same seed is the same run, step by step."""
    rng = random.Random(f"onsale {seed}")
    loop = SeededLoop(rng)
    logged = structlog.get_config()
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        with simulated(loop, rng), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asyncio.set_event_loop(loop)
            return _run(seed, rng, loop, PLANTS[plant]() if plant else Plant())
    finally:
        asyncio.set_event_loop(None)
        structlog.configure(**logged)
        if seed % SWEEP_EVERY == 0:
            gc.collect()
            # What is left are modules: not to be looked through again.
            gc.freeze()
        if was_collecting:
            gc.enable()


def _run(seed: int, rng: random.Random, loop: SeededLoop, plant: Plant) -> Result:
    plan = plant.plan(draw(rng), rng)
    world = plant.world(loop, rng, plan)
    plant.prepare(world)
    judge = Judge(world)
    _listen(judge)
    crowd = Crowd(world, judge.look_at_confirmation)
    try:
        loop.run_until_complete(_course(world, crowd))
        judge.verdict(crowd.told)
    except Stuck:
        judge.blame("everything waits, and nothing will come")
    for surprise in crowd.surprises:
        judge.blame(f"an answer that no rule foresees: {surprise}")
    loop.end()
    return Result(seed, tuple(judge.broken), tuple(world.trace), counts(world, crowd), loop.steps)


def _listen(judge: Judge) -> None:
    """What the code logs goes into the trace; an error that it did not expect is a promise broken."""

    def take(_: Any, __: str, event: MutableMapping[str, Any]) -> Any:
        error = sys.exc_info()[1] if event.pop("exc_info", None) else None
        judge.hear_log(str(event.pop("event")), event, error)
        raise structlog.DropEvent

    level = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(processors=[take], wrapper_class=level, cache_logger_on_first_use=False)


def draw(rng: random.Random) -> Plan:
    """What a seed is made of."""
    lasts_s = 2.0 + rng.random() * 6.0
    kinds = ["kill web", "kill flusher", "kill worker", "stop flusher", "stop web", "stop worker", "restart postgres"]
    kinds += ["restart shop", "lose shop", "lose all", "storm"]
    faults = sorted((rng.random() * lasts_s, rng.choice(kinds)) for _ in range(rng.choice((0, 1, 1, 2, 3, 4))))
    weather = Weather(
        lost_requests=rng.choice((0.0, 0.0, 0.002, 0.02)), lost_answers=rng.choice((0.0, 0.0, 0.002, 0.02)),
        slow=rng.choice((0.0, 0.01, 0.05)), slow_s=rng.choice((0.05, 0.5, 1.5)),
    )  # fmt: skip
    line = rng.random() < 0.3
    if line:
        faults += [
            (rng.random() * lasts_s, rng.choice(("kill admitter", "stop admitter"))) for _ in range(rng.randrange(2))
        ]
    return Plan(
        buyers=rng.randint(3, 8), stock=rng.randint(1, 5), over=int(rng.random() < 0.08),
        limit=rng.choice((1, 2, 2, 4)),
        hold_ttl_s=rng.choice((2, 4, 10)), webs=rng.randint(1, 2), flushers=rng.randint(1, 2), workers=1,
        weather=weather, faults=tuple(faults), lasts_s=lasts_s, moves=rng.choice((0, 0, 0, 1, 2)),
        line=line, rate_centi=rng.choice((150, 600, 2_000)), active_max=rng.choice((1, 3, 6, 10)),
    )  # fmt: skip


async def _course(world: World, crowd: Crowd) -> None:
    plan = world.plan
    world.note("plan", str(plan))
    await _open(world)
    kinds = {"web": plan.webs, "flusher": plan.flushers, "worker": plan.workers, "admitter": 2 * plan.line}
    for kind, count in kinds.items():
        for number in range(count):
            if f"{kind}{number}" not in world.running:
                world.start(kind, f"{kind}{number}")
    world.network.weather = plan.weather
    troubles = [world.loop.create_task(_trouble(world, at_s, fault)) for at_s, fault in plan.faults]
    troubles += [world.loop.create_task(_move(world, number)) for number in range(plan.moves)]
    await crowd.run()
    await asyncio.gather(*troubles)
    await _finish(world)


async def _open(world: World) -> None:
    """The shop is loaded as a new sale is: by the worker."""
    world.start("worker", "worker0")
    while world.sale["shop_epoch"] == 0 or not _is_loaded(world):
        await asyncio.sleep(0.05)
    if world.plan.line:
        await world.open_line()
    data = world.shop.model.data[world.keys.stock.encode()]
    for product in PRODUCTS:
        for name in ("free", "stock"):
            field = f"{product}:{name}".encode()
            data[field] = b"%d" % (int(data[field]) + world.plan.over)


def _is_loaded(world: World) -> bool:
    meta = world.shop.model.data.get(world.keys.meta.encode()) or {}
    return meta.get(b"run_id") == world.shop.model.run_id.encode()


async def _trouble(world: World, at_s: float, fault: str) -> None:
    rng = world.rng
    verb, _, what = fault.partition(" ")
    await asyncio.sleep(at_s)
    if verb == "storm":
        await _storm(world)
    elif what in ("shop", "all") and verb in ("restart", "lose"):
        await _restart_shop(world, verb, what)
    elif what == "postgres":
        world.note("postgres", "killed")
        world.postgres.stop()
        await asyncio.sleep(rng.random() * 1.5)
        world.postgres.start()
        world.note("postgres", "up again")
    else:
        await _hurt(world, verb, what)


async def _hurt(world: World, verb: str, kind: str) -> None:
    names = [name for name, running in world.running.items() if running.kind == kind]
    name = world.rng.choice(names)
    if verb == "kill":
        world.kill(name)
        await asyncio.sleep(world.rng.random() * 1.0)
        world.start(kind, name)
        return
    process = world.running[name].process
    world.note(process.name, "stopped")
    world.loop.stop_process(process)
    await asyncio.sleep(world.rng.random() * 4.0)
    if not process.is_dead:
        world.note(process.name, "goes on")
        world.loop.continue_process(process)


async def _storm(world: World) -> None:
    calm = world.network.weather
    world.network.weather = Weather(lost_requests=0.1, lost_answers=0.15, slow=0.2, slow_s=1.0)
    world.note("network", "storm")
    await asyncio.sleep(0.5 + world.rng.random())
    world.network.weather = calm
    world.note("network", "calm")


async def _restart_shop(world: World, verb: str, what: str) -> None:
    """The shop's Redis comes back with all it had, with what it had a while ago, or with nothing."""
    rng, data = world.rng, None
    if verb == "lose":
        data = {} if what == "all" else world.shop.model.snapshot()
        await asyncio.sleep(0 if what == "all" else rng.random() * 0.8)
    world.note("shop", f"dies ({verb} {what})")
    world.shop.stop()
    await asyncio.sleep(rng.random() * 0.5)
    # A promoted server's clock may be behind.
    if verb == "lose":
        world.redis_skew_ms += rng.randint(-800, 200)
    world.shop.start(world._run_id(), data)
    world.note("shop", "up again")


async def _move(world: World, number: int) -> None:
    """An operator takes units out of the sale."""
    await asyncio.sleep(world.rng.random() * world.plan.lasts_s)
    tx = world.postgres.transaction(world.postgres)
    product = world.rng.choice(PRODUCTS)
    await world.postgres.handlers[SQL.move_ask](tx, f"move{number}", SALE, product, -1, "taken", None)
    tx.end(commits=True)
    world.note("operator", f"asks for a {product}")


async def _finish(world: World) -> None:
    """Everything dies, the wires are mended, and whoever starts then has to finish what was left."""
    world.note("world", "all die; what is left is finished")
    for name in list(world.running):
        world.kill(name)
    world.running.clear()
    world.network.weather = Weather()
    world.pace = 4
    for kind in ("flusher", "worker", "web"):
        world.start(kind, f"last-{kind}")
    calm = 0
    for _ in range(ROUNDS_MAX):
        await asyncio.sleep(1.0)
        calm = calm + 1 if _is_quiet(world) else 0
        if calm == 3:
            return


def _is_quiet(world: World) -> bool:
    postgres, data = world.postgres, world.shop.model.data
    meta = data.get(world.keys.meta.encode()) or {}
    orders = data.get(world.keys.orders.encode()) or {}
    return (
        meta.get(b"run_id") == world.shop.model.run_id.encode()
        and not data.get(world.keys.holds.encode())
        and _is_recorded(world)
        and (world.plan.over or all(row["state"] != "asked" for row in postgres.rows("stock_moves")))
        and all(row["claim"] != "open" for row in postgres.rows("orders"))
        and all(row["state"] == "done" for row in postgres.rows("refunds"))
        and all(row["settled_at"] is not None for row in postgres.rows("refusals"))
        and not any(b"\xaaconfirming" in packed for packed in orders.values())
    )


def _is_recorded(world: World) -> bool:
    for stream in ("money", "holdings"):
        found = world.shop.model.data.get(getattr(world.keys, stream).encode())
        row = world.postgres.row("watermarks", SALE, stream, world.keys.epoch)
        if row is None or (found is not None and found.last > id_of(row["upto"])):
            return False
    return True


def counts(world: World, crowd: Crowd) -> dict[str, int]:
    """What happened, for the sum over many runs."""
    entries = world.provider.entries.values()
    return {
        "orders": len(crowd.told),
        "confirmed": sum(one.is_confirmed for one in crowd.told.values()),
        "captures": sum(entry.charge.amount > 0 for entry in entries),
        "refunds": sum(bool(entry.refunds) for entry in entries),
        "refused by the record": len(world.postgres.rows("refusals")),
        **{
            fault: sum(one == fault for _, one in world.plan.faults)
            for fault in sorted({f for _, f in world.plan.faults})
        },
    }
