"""A power cut takes what no fsync had covered, and nothing else; a kill takes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from bench.faults.kept import Store
from bench.faults.power import POSTGRES_FLAGS, NoCompiler, PostgresPower, Shim, cut_redis, shim
from onsale.server import embedded

pytestmark = pytest.mark.processes


@pytest.fixture
def disk(tmp_path: Path) -> Shim:
    try:
        shim()
    except NoCompiler:
        pytest.skip("no C compiler to build the shim between a store and its disk")
    return Shim(tmp_path / "shim")


@pytest.fixture
async def line(tmp_path: Path, disk: Shim) -> AsyncIterator[Store]:
    launch = embedded.redis_launch("line", tmp_path / "line", fsync="no", port=embedded.free_port())
    store = Store(launch, tmp_path / "log", disk.environ)
    await store.up()
    await store.ready()
    yield store
    await store.stop()


async def written(store: Store) -> list[str]:
    async with redis.asyncio.Redis.from_url(store.url) as client:
        return sorted(name.decode() for name in await client.keys())


async def test_redis_keeps_what_was_synced(line: Store, disk: Shim) -> None:
    """Synced, then not synced any more: the first survives the cut, the second only a kill."""
    async with redis.asyncio.Redis.from_url(line.url) as client:
        await client.config_set("appendfsync", "always")
        await client.set("synced", 1)
        await client.config_set("appendfsync", "no")
        await client.set("only written", 1)
    await line.down()
    await line.up()
    await line.ready()
    assert ["only written", "synced"] == await written(line)

    lost = await cut_redis(line, disk)
    await line.ready()

    assert lost > 0
    assert ["synced"] == await written(line)


async def test_a_full_disk_refuses(line: Store, disk: Shim) -> None:
    """A Redis that cannot write says so; afterwards it goes on."""
    async with redis.asyncio.Redis.from_url(line.url) as client:
        disk.fill_disk()
        await client.set("perhaps", 1)
        with pytest.raises(redis.exceptions.ResponseError, match="MISCONF"):
            for n in range(100):
                await client.set(f"refused {n}", 1)
        disk.heal()


async def test_a_clock_jumps(line: Store, disk: Shim) -> None:
    """A Redis under the shim has the time of day that it is given, at once and while it runs."""
    async with redis.asyncio.Redis.from_url(line.url) as client:
        before, _ = await client.time()
        disk.move_clock(-3600)
        jumped, _ = await client.time()
        assert -3600 <= jumped - before < -3590


async def test_postgres_keeps_what_was_committed(tmp_path: Path) -> None:
    """Every commit that was answered stands after the cut; one that was told not to wait for the disk may be gone."""
    launch = embedded.postgres_launch(tmp_path / "postgres", port=embedded.free_port())
    # Otherwise the background writer would flush within 200 ms what nobody waits for.
    lazy = ("-c", "wal_writer_delay=10s", "-c", "wal_writer_flush_after=1GB")
    store = Store(launch, tmp_path / "log", {}, *POSTGRES_FLAGS, *lazy)
    power = PostgresPower(store, tmp_path / "base")
    await store.up()
    await store.ready()
    conn = await asyncpg.connect(store.url)
    await conn.execute("CREATE TABLE kept (n int)")
    await conn.executemany("INSERT INTO kept VALUES ($1)", [(n,) for n in range(20)])
    for cut in range(2):
        await conn.execute("INSERT INTO kept VALUES ($1)", 100 + cut)
        await conn.execute("SET synchronous_commit = off")
        await conn.execute("INSERT INTO kept VALUES (-1)")

        await power.cut()
        await store.ready()

        conn.terminate()
        conn = await asyncpg.connect(store.url)
        found = {row["n"] for row in await conn.fetch("SELECT n FROM kept")}
        assert found == {*range(20), *range(100, 101 + cut)}
    await conn.close()
    await store.stop()
