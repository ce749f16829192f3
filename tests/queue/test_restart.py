"""A real Redis that dies and comes back with what its file still holds: less than it had acknowledged."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from line_kit import SALE, Stand, record_admissions, with_skew
from redis.asyncio import Redis

import onsale.lua
from onsale.lua import connect
from onsale.lua.line import LineScripts
from onsale.queue.errors import LineRecovering, TicketUnknown
from onsale.queue.gone import GoneKeeper
from onsale.queue.keeper import Keeper
from onsale.queue.numbering import PLACES_A_BLOCK
from onsale.server import embedded


class Server:
    """One Redis of the test's own, on one port and folder, started as often as wanted."""

    def __init__(self, directory: Path) -> None:
        self.launch = embedded.redis_launch(
            "line",
            directory,
            fsync="everysec",
            port=embedded.free_port(),
            binary=os.environ.get("ONSALE_TEST_REDIS"),
        )
        self.directory = directory

    @contextmanager
    def running(self) -> Iterator[None]:
        """Until the block ends; then it is killed as by a power cut."""
        process = subprocess.Popen(
            self.launch.command,
            cwd=self.launch.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=self.launch.prepare(),
        )
        try:
            while not self.launch.is_ready(process.pid):
                assert process.poll() is None
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def files(self) -> list[Path]:
        """What it appends to: one file in Redis 6, the incremental ones in 7."""
        return [path for path in self.directory.rglob("*.aof") if "base" not in path.name]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[tuple[Server, Redis]]:
    server = Server(tmp_path)
    redis = connect(server.launch.url)
    yield server, redis
    await redis.aclose()


async def test_places_stay_unique_over_a_restart_with_an_older_file(
    client: tuple[Server, Redis], database: asyncpg.Pool
) -> None:
    """The last joins are forgotten: their numbers are not given again, and their tickets come back before the new."""
    server, redis = client
    stand = Stand(redis, database)
    with server.running():
        await stand.make(rate_centi=0)
        await redis.config_set("appendfsync", "always")
        kept = await stand.crowd(50, "early")
        sizes = {path: path.stat().st_size for path in server.files()}
        lost = await stand.crowd(100, "lost")
    for path, size in sizes.items():
        os.truncate(path, size)

    await redis.connection_pool.disconnect()

    with server.running():
        with pytest.raises(LineRecovering):
            await stand.join("late")
        await stand.keeper.tick()
        late = await stand.crowd(100, "late")
        restored = [
            (await stand.line.restore(stand.keys, place, f"lost-{n}", 1, "general")).place
            for n, place in enumerate(lost)
        ]
        line = await stand.members(stand.keys.waiting)

    assert late[0] == PLACES_A_BLOCK + 1
    assert restored == lost
    assert line == [*kept, *lost, *late]


@pytest.mark.parametrize(
    ("is_older", "done", "standing"),
    [(False, ("registered", 1), [1, 2, 3]), (True, ("loaded", 2), [1, 3])],
    ids=["the last moment", "an older file"],
)
async def test_a_file_in_which_nobody_was_let_in_since(
    client: tuple[Server, Redis],
    database: asyncpg.Pool,
    monkeypatch: pytest.MonkeyPatch,
    is_older: bool,
    done: tuple[str, int],
    standing: list[int],
) -> None:
    """Data that lacks a document that was seen is an older file, whatever the admissions say: the line is made anew,
    who left since stays away, and everybody else stands as before. What lacks less goes on at once."""
    monkeypatch.setattr(onsale.lua, "source", with_skew(onsale.lua.source))
    server, redis = client
    stand = Stand(redis, database)
    copier = GoneKeeper(LineScripts(redis), database, stand.book)
    with server.running():
        await stand.make(rate_centi=0)
        await redis.config_set("appendfsync", "always")
        await stand.crowd(3)
        await stand.tick()
        await copier.tick()
        sizes = {path: path.stat().st_size for path in server.files()}
        await stand.line.leave(stand.keys, 2)
        if is_older:
            await stand.later(600)
            await stand.tick()
            await copier.tick()
    for path, size in sizes.items():
        os.truncate(path, size)

    await redis.connection_pool.disconnect()

    with server.running():
        await copier.tick()
        tick = await stand.keeper.tick()
        came_back = []
        for place in (3, 2, 1):
            try:
                await stand.line.restore(stand.keys, place, f"buyer-{place - 1}", 1, "general")
                came_back.append(place)
            except TicketUnknown:
                pass
        line = await stand.members(stand.keys.waiting)

    what, epoch = done
    assert ((SALE,), epoch) == (getattr(tick, what), stand.sale.line_epoch)
    assert standing == sorted(came_back) == line


async def test_a_promoted_replica_that_lagged_lets_nobody_in_twice(
    client: tuple[Server, Redis], tmp_path: Path, database: asyncpg.Pool
) -> None:
    """Admissions that it never heard of are in the record: those people keep their seats, the rest their places, and
    new numbers lie above all old ones."""
    server, primary = client
    replica_server = Server(tmp_path / "replica")
    replica = connect(replica_server.launch.url)
    stand = Stand(primary, database)
    (tmp_path / "replica").mkdir(exist_ok=True)
    with replica_server.running():
        with server.running():
            await stand.make(rate_centi=100_000, active_max=5)
            places = await stand.crowd(20)
            await primary.config_set("repl-diskless-sync-delay", 0)
            await replica.replicaof("127.0.0.1", server.launch.port)
            await until(lambda: _has_line(replica, stand))
            await replica.replicaof("127.0.0.1", 1)  # Cut off: what follows is not heard of.
            await stand.tick()
            await record_admissions(stand)
        await replica.replicaof("NO", "ONE")
        promoted = Stand(replica, database)
        await promoted.book.refresh()

        tick = await Keeper(replica, database, promoted.book, takeover_ms=0, gather_ms=0).tick()
        restored = [
            await promoted.line.restore(promoted.keys, place, f"buyer-{place - 1}", 1, "general")
            for place in reversed(places)
        ]
        late = await promoted.crowd(1, "late")

        assert ((SALE,), 2) == (tick.loaded, promoted.sale.line_epoch)
        assert ["waiting"] * 15 + ["admitted"] * 5 == [view.state for view in restored]
        assert places[5:] == (await promoted.members(promoted.keys.waiting))[:15]
        assert late[0] > max(places)
    await replica.aclose()


async def _has_line(redis: Redis, stand: Stand) -> bool:
    return await redis.zcard(stand.keys.waiting) == 20 and bool(await redis.hexists(stand.keys.meta, "run_id"))


async def until(is_so: Callable[[], Awaitable[bool]], patience_s: float = 10) -> None:
    """Wait for another process to have done something."""
    async with asyncio.timeout(patience_s):
        while not await is_so():
            await asyncio.sleep(0.01)
