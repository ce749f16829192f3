"""A Redis Cluster in the place of one Redis: what spans sales asks every shard, and answers as one server would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from bench.faults import cluster
from bench.faults.kept import Store
from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import SaleBook
from onsale.checkout.inventory import Inventory
from onsale.checkout.record.flusher import Flusher
from onsale.checkout.record.lag import RecordLag
from onsale.checkout.record.rebuild import Rebuilder
from onsale.lua import connect
from onsale.lua.keys import ShopKeys
from onsale.queue.keeper import Keeper
from onsale.server import embedded
from onsale.server.health import redis_flaws

pytestmark = pytest.mark.processes

STREAMS = {"{a}s": "0-0", "{b}s": "0-0", "{c}s": "0-0", "{d}s": "0-0"}
SALE = """[sale]
id = "{}"
title = "Drop"
opens_at = "now"
closes_at = "2099-01-01T00:00:00Z"
[admission]
rate_per_second = 1
active_max = 10
[[items]]
title = "Hat"
stock = 10
price = {{ amount = 100, currency = "KRW" }}
"""


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[Store]]:
    """Three masters without replicas."""
    stores = []
    for number in range(cluster.MASTERS):
        folder = tmp_path / f"node-{number}"
        launch = embedded.redis_launch("node", folder, fsync="always", port=cluster.node_port())
        stores.append(Store(launch, tmp_path / f"{number}.log", {}, *cluster.FLAGS))
    await asyncio.gather(*(store.up() for store in stores))
    await asyncio.gather(*(store.ready() for store in stores))
    await cluster.form([store.launch for store in stores])
    yield stores
    await asyncio.gather(*(store.stop() for store in stores))


@pytest.fixture
async def redis(nodes: list[Store]) -> AsyncIterator[Redis]:
    # Later addresses need no scheme, as people write them.
    client = connect(",".join([nodes[0].url, *(f"127.0.0.1:{node.launch.port}" for node in nodes[1:])]))
    yield client
    await client.aclose()


async def test_a_cluster_answers_as_one_server(redis: Redis, nodes: list[Store]) -> None:
    """Streams of many shards are read in one call, which waits no longer than it may; TIME goes into a pipeline; a
    setting that differs between masters is seen."""
    slots = {await redis.cluster_keyslot(name) * 3 // 16_384 for name in STREAMS}  # type: ignore[no-untyped-call]
    assert len(slots) > 1
    assert [] == await redis.xread(STREAMS, block=20)
    waiting = asyncio.create_task(redis.xread(STREAMS, block=5_000))
    first = await redis.xadd("{b}s", {"n": 1})
    assert [[b"{b}s", [(first, {b"n": b"1"})]]] == await waiting
    second = await redis.xadd("{a}s", {"n": 2})
    assert {b"{a}s": second, b"{b}s": first} == {
        name: entries[0][0] for name, entries in await redis.xread(STREAMS, count=1)
    }

    async with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        for name in STREAMS:
            pipe.xlen(name)
        (seconds, _), *lengths = await pipe.execute()
    assert seconds > 1_700_000_000
    assert [1, 1, 0, 0] == lengths

    assert [] == await redis_flaws(redis, "shop redis", fsync="always")
    async with Redis.from_url(nodes[2].url) as one:
        await one.config_set("appendfsync", "everysec")
    assert ["shop redis: appendfsync is always or everysec, must be always"] == (
        await redis_flaws(redis, "shop redis", fsync="always")
    )


async def test_sales_on_several_shards_are_kept_and_recorded(redis: Redis, database: asyncpg.Pool) -> None:
    """Line and stock of each sale are loaded wherever they lie, and one flusher reads all of their streams."""
    book = SaleBook(database)
    names = [f"sale-{n}" for n in range(6)]
    for name in names:
        await book.create(parse_sale_file(SALE.format(name)), "tests")
    inventory = Inventory(redis, lambda sale: ShopKeys(sale, book.get(sale).shop_epoch))
    try:
        await Keeper(redis, database, book, takeover_ms=0).tick()
        await Rebuilder(database, redis, inventory, book).tick()
        await book.refresh()
        lag = await RecordLag(redis, book).tick()
        for name in names:
            await redis.xadd(ShopKeys(name, book.get(name).shop_epoch).money, {"verb": "nonsense"})
        flushed = await Flusher(database, redis, redis, inventory).tick()
    finally:
        await inventory.close()

    assert dict.fromkeys(names, 0) == {name: lag.lag_ms[name] for name in names}
    assert (set(names), 6) == ({batch.sale for batch in flushed.batches}, flushed.poisoned)


async def test_a_lost_shard_is_said(redis: Redis, nodes: list[Store]) -> None:
    """Whoever asks a shard that is gone hears so within the bounds of one call; nothing is repeated."""
    await redis.set("{a}s", 1)
    await asyncio.gather(*(node.down() for node in nodes))
    with pytest.raises((RedisError, OSError)):
        await asyncio.wait_for(redis.set("{a}s", 2), 10)
