"""The model of Redis is held to Redis: the same commands, the same packing, the same purchases."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from shop_kit import KEYS, new_attempt, request, snapshot

from bench.interleavings.network import Network
from bench.interleavings.redis_client import RedisClient, RedisServer
from bench.interleavings.redis_model import ModelError, RedisModel
from onsale.checkout.errors import CheckoutError
from onsale.checkout.inventory import Inventory, Pin
from onsale.lua.keys import ShopKeys

CALL = "return redis.call(unpack(ARGV))"
PACK = "return cmsgpack.pack(cmsgpack.unpack(ARGV[1]))"
FIELDS, MEMBERS, NUMBERS = ("f1", "f2", "f3"), ("m1", "m2", "m3", "m4"), ("-2", "0", "1", "7", "1767225600123")


def model() -> RedisModel:
    return RedisModel(lambda: int(time.time() * 1000), "r" * 40)


def command(rng: random.Random, ids: Any) -> list[str]:
    """Any command that our scripts use, on keys that mostly have its type."""
    field, member, number = rng.choice(FIELDS), rng.choice(MEMBERS), rng.choice(NUMBERS)
    low, high = (rng.choice(("-inf", "(0", "0", "7")), rng.choice(("+inf", "(7", "7", "0")))
    after, last = f"{rng.randrange(9)}-0", rng.choice(("+", f"{rng.randrange(9)}"))
    made = rng.choice((
        ["HSET", "hash", field, number, rng.choice(FIELDS), "x"], ["HGET", "hash", field],
        ["HDEL", "hash", field, "f9"],
        ["HMGET", "hash", *FIELDS], ["HSETNX", "hash", field, number], ["HGETALL", "hash"], ["HLEN", "hash"],
        ["HINCRBY", "counts", field, number], ["HGET", "counts", field], ["HSCAN", "counts", "0", "COUNT", "100"],
        ["SADD", "set", member, rng.choice(MEMBERS)], ["SREM", "set", member], ["SCARD", "set"], ["SMEMBERS", "set"],
        ["SISMEMBER", "set", member], ["ZADD", "zset", number, member], ["ZREM", "zset", member, "m9"],
        ["ZCARD", "zset"], ["ZSCORE", "zset", member], ["ZMSCORE", "zset", *MEMBERS], ["ZCOUNT", "zset", low, high],
        ["ZRANGEBYSCORE", "zset", low, high], ["ZRANGEBYSCORE", "zset", low, high, "LIMIT", "0", "2"],
        ["ZRANGE", "zset", "0", "1"], ["ZRANGE", "zset", "1", "-1"], ["ZRANGE", "zset", "0", "-1", "WITHSCORES"],
        ["XADD", "stream", f"{next(ids)}-{rng.randrange(3)}", field, number], ["XADD", "stream", "1-0", "a", "b"],
        ["XRANGE", "stream", rng.choice(("-", after, f"({after}")), last], ["XLEN", "stream"],
        ["XRANGE", "stream", f"({after}", "+", "COUNT", "2"], ["XDEL", "stream", after],
        ["XTRIM", "stream", "MINID", f"{rng.randrange(4)}-0"], ["SETBIT", "bits", number.lstrip("-")[:3], "1"],
        ["SETBIT", "bits", "5", "0"], ["GETBIT", "bits", "7"], ["BITCOUNT", "bits"], ["GETRANGE", "bits", "0", "-1"],
        ["BITFIELD", "bits", "GET", "u1", "3", "SET", "u1", "9", "1"], ["SETRANGE", "bits", "2", "ab"],
        ["SET", "text", number], ["GET", "text"], ["TYPE", rng.choice(("hash", "zset", "stream", "text", "none"))],
        ["EXISTS", "hash", "none"], ["RENAME", "text", "other"], ["DEL", rng.choice(("other", "bits", "zset"))],
        ["UNLINK", "set", "none"], ["EXPIRE", "hash", "1000"], ["HGET", "zset", field], ["ZADD", "hash", "1", "m"],
        ["GET", "hash"],
    ))  # fmt: skip
    return list(made)


def code_of(error: Exception) -> str:
    """The word that an error of Redis begins with; its client leaves a general one out."""
    return str(error).removeprefix("ERR ").split(" ", 1)[0]


@pytest.mark.parametrize("seed", range(5))
async def test_same_commands(shop_redis: Redis, seed: int, cluster_url: str | None) -> None:
    """Any command of ours answers the same on the same keys, and refuses keys of another type."""
    if cluster_url:
        pytest.skip("keys of many slots in one script")
    rng, ids, mine = random.Random(seed), itertools.count(2), model()
    for _ in range(400):
        asked = command(rng, ids)
        try:
            expected: Any = await shop_redis.eval(CALL, 0, *asked)
        except ResponseError as error:
            expected = code_of(error)
        try:
            found: Any = mine.eval(CALL, [], asked)
        except ModelError as error:
            found = code_of(error)
        if asked[0] in ("SMEMBERS", "HGETALL"):
            expected, found = sorted(expected), sorted(found)
        assert expected == found, asked


@pytest.mark.parametrize("seed", range(3))
async def test_same_packing(shop_redis: Redis, seed: int) -> None:
    """cmsgpack reads and writes the same bytes."""
    rng, mine = random.Random(seed), model()

    def value(depth: int) -> Any:
        kind = rng.randrange(7 if depth else 5)
        if kind == 5:
            return [value(depth - 1) for _ in range(rng.choice((0, 1, 3, 15, 16, 40)))]
        if kind == 6:
            return {f"k{rng.randrange(99)}": value(depth - 1)}
        small = (1 << rng.randrange(52)) - rng.randrange(2)
        return (small, -(small % (1 << 31)), "x" * rng.choice((0, 5, 31, 32, 255, 256, 70_000)), True, False)[kind]

    for _ in range(60):
        packed = msgspec.msgpack.encode([value(3), 1])
        assert await shop_redis.eval(PACK, 0, packed) == mine.eval(PACK, [], [packed])


class Near(Network):
    """A wire without a way to go."""

    def delay_s(self) -> float:
        return 0.0


async def test_same_purchases(shop_redis: Redis) -> None:
    """A sale's scripts, one call after another: the same answers, and the same units in the end."""
    rng = random.Random(7)
    loop: Any = asyncio.get_running_loop()
    near: Any = RedisClient(RedisServer(Near(loop, rng), model()))
    shops = [Inventory(redis, lambda sale: ShopKeys(sale, 1)) for redis in (shop_redis, near)]
    for shop in shops:
        await shop.load(KEYS, snapshot(jacket=6, hat=4))
    orders = [
        request(f"buyer-{n % 7}", {rng.choice(("jacket", "hat")): 1 + n % 2}, order=f"o{n:02}") for n in range(20)
    ]
    tries = {item.order: [new_attempt() for _ in range(2)] for item in orders}
    for _ in range(400):
        item, verb = (
            rng.choice(orders),
            rng.choice(("reserve", "pin", "pin", "confirm", "decline", "fail", "release", "look")),
        )
        attempt = rng.choice(tries[item.order])
        expected, found = [await _said(shop, verb, item, attempt) for shop in shops]
        assert expected == found, verb
    counters = [await redis.hgetall(KEYS.stock) for redis in (shop_redis, near)]
    assert counters[0] == counters[1]


async def _said(shop: Inventory, verb: str, item: Any, attempt: Any) -> Any:
    """An answer without the times and ids of its server."""
    calls: dict[str, Any] = {
        "reserve": lambda: shop.reserve(KEYS, item),
        "pin": lambda: shop.pin(KEYS, Pin(item.order, item.buyer, attempt)),
        "confirm": lambda: shop.confirm(KEYS, item.order, attempt.attempt),
        "decline": lambda: shop.decline(KEYS, item.order, attempt.attempt, "funds"),
        "fail": lambda: shop.fail(KEYS, item.order, attempt.attempt, "stolen"),
        "release": lambda: shop.release(KEYS, item.order, item.buyer),
        "look": lambda: shop.look(KEYS, item.order),
    }
    try:
        answer = await calls[verb]()
    except CheckoutError as error:
        return type(error), error.is_replay
    except Exception as error:
        return type(error)
    names = ("order", "rev", "state", "is_replay", "outcome", "reason", "attempt", "items", "buyer", "turn")
    return [getattr(answer, name, None) for name in names]
