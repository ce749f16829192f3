"""What is done to a world while a sale lasts. Each strike is a coroutine that goes on until it is cancelled; whatever
it leaves behind is mended by `heal`. `counts` says how often what was done."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import redis.asyncio

from bench.faults import cluster
from bench.faults.failover import Standby
from bench.faults.kept import Kept
from bench.faults.power import cut_redis
from bench.faults.scale import Scale
from bench.faults.world import World

STUCK_S = 5.0


@dataclass
class Trial:
    """One row being run."""

    world: World
    chance: random.Random
    # Between two strikes of this row.
    every_s: float
    scale: Scale
    pauses: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    notes: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    async def pause(self) -> None:
        """Until the next strike, if there is one."""
        self.pauses += 1
        if self.pauses > self.scale.times:
            await asyncio.Event().wait()
        await asyncio.sleep(self.every_s * self.chance.uniform(0.5, 1.5))

    async def last(self, shortest: float = 0.3) -> None:
        """For as long as one strike lasts."""
        await asyncio.sleep(self.chance.uniform(shortest * self.scale.lasts_s, self.scale.lasts_s))

    def one(self, kind: str) -> Kept | None:
        """A living process or store of that kind."""
        some = [self.world.stores[kind]] if kind in self.world.stores else self.world.of_kind(kind)
        living = [process for process in some if process.pid is not None]
        return self.chance.choice(living) if living else None


Strike = Callable[[Trial, str], Awaitable[None]]


async def heal(trial: Trial) -> None:
    """Everything as it was, and ready again."""
    world = trial.world
    for link in world.links.values():
        link.restore()
    for shim in world.shims.values():
        shim.heal()
    for one in (*world.stores.values(), *world.processes.values()):
        one.signal(signal.SIGCONT)
        await one.up()
    await world.ready()
    for name in world.stores.keys() & {"line", "shop"}:
        async with redis.asyncio.Redis.from_url(world.url(name)) as store:
            await store.config_set("maxmemory", 0)


def kill(*kinds: str) -> Strike:
    """SIGKILL of each kind in turn."""

    async def strike(trial: Trial, sale: str) -> None:
        for kind in itertools.cycle(kinds):
            await trial.pause()
            if (one := trial.one(kind)) and one.signal(signal.SIGKILL):
                trial.counts[f"kill {kind}"] += 1

    return strike


async def deaths_of_flusher(trial: Trial, sale: str) -> None:
    """The flusher kills itself; here its deaths are counted."""
    while True:
        await asyncio.sleep(0.2)
        if trial.world.death_book.exists():
            for point, count in Counter(trial.world.death_book.read_text().split()).items():
                trial.counts[f"kill flusher {point}"] = count


def stop(*kinds: str) -> Strike:
    """SIGSTOP of each kind in turn, then SIGCONT."""

    async def strike(trial: Trial, sale: str) -> None:
        for kind in itertools.cycle(kinds):
            await trial.pause()
            one = trial.one(kind)
            if one is None or not one.signal(signal.SIGSTOP):
                continue
            trial.counts[f"stop {kind}"] += 1
            try:
                await trial.last()
            finally:
                one.signal(signal.SIGCONT)

    return strike


async def masters(trial: Trial, sale: str) -> None:
    """A master of the cluster dies and stays away until its replica has taken over; it comes back as a replica."""
    while True:
        await trial.pause()
        living = await cluster.masters(trial.world.nodes)
        if not living:
            continue
        node = trial.chance.choice(living)
        await node.down()
        trial.counts["failover cluster node"] += 1
        try:
            await trial.last(0.8)
        finally:
            await node.up()
        await node.ready()


def power(*stores: str) -> Strike:
    """The power of each store goes in turn; "all": of the whole machine, processes and stores at once."""

    async def strike(trial: Trial, sale: str) -> None:
        world = trial.world
        for name in itertools.cycle(stores):
            await trial.pause()
            trial.counts[f"power cut {name}"] += 1
            await _whole(_machine(trial) if name == "all" else _cut(trial, name))
            await world.stores["postgres"].ready()

    return strike


async def _whole(work: Awaitable[None]) -> None:
    """A cut that has begun is finished, even where the sale ends meanwhile: half of one is nothing that happens."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _cut(trial: Trial, name: str) -> None:
    world = trial.world
    if name == "postgres":
        assert world.postgres_power is not None
        await world.postgres_power.cut()
    else:
        trial.counts[f"bytes lost {name}"] += await cut_redis(world.stores[name], world.shims[name])


async def _machine(trial: Trial) -> None:
    world = trial.world
    processes = [one for name, one in world.processes.items() if name != "sandbox"]
    # A provider is another house: its power stays.
    await asyncio.gather(*(one.down() for one in processes))
    for name in ("postgres", "shop", "line"):
        await _cut(trial, name)
    await asyncio.gather(*(store.ready() for store in world.stores.values()))
    await asyncio.gather(*(one.up() for one in processes))


def failover(*stores: str) -> Strike:
    """The replica stalls up to three seconds and is then promoted."""

    async def strike(trial: Trial, sale: str) -> None:
        standbys = {name: Standby(trial.world, name) for name in stores}
        try:
            for name in itertools.cycle(stores):
                await standbys[name].attach()
                await trial.pause()
                trial.counts[f"failover {name}"] += 1
                await _whole(standbys[name].fail(trial.chance.uniform(0, trial.scale.lasts_s)))
        finally:
            for standby in standbys.values():
                await standby.close()

    return strike


def flush_all(*stores: str) -> Strike:
    """A Redis loses everything while it runs."""

    async def strike(trial: Trial, sale: str) -> None:
        for name in itertools.cycle(stores):
            await trial.pause()
            async with redis.asyncio.Redis.from_url(trial.world.url(name)) as store:
                await store.flushall()
            trial.counts[f"total loss {name}"] += 1

    return strike


def older_file(*stores: str) -> Strike:
    """A Redis comes back with the file that it had some seconds ago."""

    async def strike(trial: Trial, sale: str) -> None:
        for name in itertools.cycle(stores):
            store = trial.world.stores[name]
            backup = trial.world.folder / f"backup-{name}"
            shutil.rmtree(backup, ignore_errors=True)
            shutil.copytree(store.data, backup)
            await trial.pause()
            await store.down()
            shutil.rmtree(store.data)
            shutil.copytree(backup, store.data)
            trial.counts[f"older file {name}"] += 1
            await store.up()

    return strike


def away(name: str) -> Strike:
    """A store is killed and stays away for a while."""

    async def strike(trial: Trial, sale: str) -> None:
        while True:
            await trial.pause()
            store = trial.world.stores[name]
            await store.down(signal.SIGKILL)
            trial.counts[f"away {name}"] += 1
            await trial.last(0.8)
            await store.up()
            await store.ready()

    return strike


async def backends(trial: Trial, sale: str) -> None:
    """SIGKILL of one backend: Postgres ends all sessions and recovers."""
    while True:
        await trial.pause()
        children = trial.world.stores["postgres"].children()
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(trial.chance.choice(children), signal.SIGKILL)
                trial.counts["kill postgres backend"] += 1


def partition(*, silent: bool) -> Strike:
    """Between each process and each store in turn."""

    async def strike(trial: Trial, sale: str) -> None:
        pairs = sorted(trial.world.links)
        trial.chance.shuffle(pairs)
        for pair in itertools.cycle(pairs):
            await trial.pause()
            link = trial.world.links[pair]
            trial.counts[f"partition {'-'.join(pair)}"] += 1
            if silent:
                link.silence()
            else:
                link.refuse()
            try:
                await trial.last()
            finally:
                link.restore()

    return strike


async def script_flush(trial: Trial, sale: str) -> None:
    """Ten times a second on both servers."""
    clients = [redis.asyncio.Redis.from_url(trial.world.url(name)) for name in ("line", "shop")]
    try:
        while True:
            await asyncio.sleep(0.1)
            for client in clients:
                await client.script_flush()
            trial.counts["script flush"] += 2
    finally:
        for client in clients:
            await client.aclose()


def memory_full(*stores: str) -> Strike:
    """A Redis has room for a few more kilobytes, then for none."""

    async def strike(trial: Trial, sale: str) -> None:
        for name in itertools.cycle(stores):
            await trial.pause()
            async with redis.asyncio.Redis.from_url(trial.world.url(name)) as store:
                used = (await store.info("memory"))["used_memory"]
                await store.config_set("maxmemory", used + 2048)
                trial.counts[f"memory full {name}"] += 1
                try:
                    await trial.last()
                finally:
                    await store.config_set("maxmemory", 0)

    return strike


def disk_full(*stores: str) -> Strike:
    """Writes to files fail with ENOSPC for a while."""

    async def strike(trial: Trial, sale: str) -> None:
        for name in itertools.cycle(stores):
            await trial.pause()
            trial.world.shims[name].fill_disk()
            trial.counts[f"disk full {name}"] += 1
            try:
                await trial.last()
            finally:
                trial.world.shims[name].heal()
            if name == "postgres":
                await _whole(_restart_if_stuck(trial))

    return strike


async def _restart_if_stuck(trial: Trial) -> None:
    """A Postgres whose recovery met the full disk (it could not write pg_control) stays in recovery mode when there is
    room again: its operator starts it anew."""
    store = trial.world.stores["postgres"]
    deadline = asyncio.get_running_loop().time() + STUCK_S
    while asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
            conn = await asyncpg.connect(store.url, timeout=1)
            await conn.close()
            return
        await asyncio.sleep(0.2)
    trial.counts["postgres started anew"] += 1
    store.signal(signal.SIGKILL)
    await store.ready()


async def slow_disks(trial: Trial, sale: str) -> None:
    """Each fsync of every store takes 200 ms longer."""
    for name in trial.world.stores:
        trial.world.shims[name].slow_disk(200)
    trial.counts["slow disk"] += 1
    await asyncio.Event().wait()


def clocks(names: Sequence[str], jumps_s: Sequence[int]) -> Strike:
    """A process's or a store's clock jumps, and later jumps back."""

    async def strike(trial: Trial, sale: str) -> None:
        for name in itertools.cycle(names):
            await trial.pause()
            trial.world.shims[name].move_clock(trial.chance.choice(jumps_s))
            trial.counts[f"clock {name}"] += 1
            try:
                await trial.last()
            finally:
                trial.world.shims[name].heal()

    return strike


async def rolling(trial: Trial, sale: str) -> None:
    """SIGTERM of every process, one after the other, each when the one before is back."""
    names = [name for name in trial.world.processes if name != "sandbox"]
    for name in itertools.cycle(names):
        await trial.pause()
        process = trial.world.processes[name]
        # Its port is the others' too: that it answers again is seen in its log, not from outside.
        before = process.said("process.started")
        process.signal(signal.SIGTERM)
        trial.counts[f"restart {name.partition('.')[0]}"] += 1
        while process.said("process.started") == before:
            await asyncio.sleep(0.1)


async def poison(trial: Trial, sale: str) -> None:
    """Entries that nobody can read, of each stream in turn, and one in a hundred of what a sale this small writes."""
    torn = (
        {"verb": "claimed"}, {"verb": "nonsense", "order": "x"}, {"nothing": "at all"},
        {"verb": "confirmed", "rev": "1e9", "at": "-1"}, {"verb": "claimed", "order": "\x00", "rev": "x"},
    )  # fmt: skip
    for n in itertools.count():
        await trial.pause()
        stream = ("money", "holdings")[n % 2]
        async with redis.asyncio.Redis.from_url(trial.world.url("shop")) as shop:
            names = [name async for name in shop.scan_iter(f"{{{sale}:shop}}:*:{stream}")]
            for name in names:
                await shop.xadd(name, dict(trial.chance.choice(torn)))
                trial.counts["poison"] += 1


def together(*strikes: Strike) -> Strike:
    """Several at once."""

    async def strike(trial: Trial, sale: str) -> None:
        async with asyncio.TaskGroup() as group:
            for one in strikes:
                group.create_task(_run(one, trial, sale))

    return strike


async def _run(strike: Strike, trial: Trial, sale: str) -> None:
    await strike(trial, sale)


def total(counts: Counter[str], prefixes: Iterable[str]) -> int:
    """How many strikes of these kinds."""
    return sum(count for name, count in counts.items() if name.startswith(tuple(prefixes)))
