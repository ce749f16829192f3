"""The audit is clean where nothing is wrong, also in the middle of traffic, and sees each thing that can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from onsale.catalog.errors import SaleUnknown
from onsale.checkout.record.audit import Capture, audit
from onsale.lua.keys import LineKeys

Broken = dict[str, str]
Look = Callable[..., Awaitable[Broken]]


@pytest.fixture
def look(database: asyncpg.Pool, line_redis: Redis, shop_redis: Redis) -> Callable[..., Awaitable[Broken]]:
    """Broken invariants with what was seen."""

    async def run(shop: Any, pause_s: float = 0, **more: Any) -> Broken:
        findings = await audit(database, line_redis, shop_redis, shop.book, shop.sale, pause_s=pause_s, **more)
        assert [f"I{n}" for n in range(1, 11)] == [finding.invariant for finding in findings]
        return {finding.invariant: finding.detail for finding in findings if not finding.ok}

    return run


async def sell(shop: Any, order: str, **more: Any) -> None:
    """A whole purchase, as the flow would do it."""
    await shop.reserve(order, **more)
    await shop.pin(order)
    await shop.flusher.tick()
    await shop.confirm(order)
    await shop.flusher.tick()


async def book(*captures: Capture) -> Sequence[Capture]:
    return captures


async def test_clean_sale(make_shop: Any, look: Look) -> None:
    """Sold, held, pinned, declined, released: nothing is wrong, recorded or not."""
    shop = await make_shop()
    await sell(shop, "sold")
    await shop.reserve("held")
    await shop.reserve("pinned")
    await shop.pin("pinned")
    await shop.reserve("declined")
    await shop.pin("declined")
    await shop.inventory.decline(shop.keys, "declined", "try-declined", "funds")
    await shop.reserve("released")
    await shop.inventory.release(shop.keys, "released", "buyer-of-released")

    assert {} == await look(shop)
    await shop.record()
    assert {} == await look(shop)


async def test_unknown_sale(make_shop: Any, look: Look) -> None:
    """A sale that does not exist is said to be unknown, not clean."""
    shop = await make_shop()
    shop.hand.sale = "nowhere"

    with pytest.raises(SaleUnknown):
        await look(shop)


async def test_refused_claims_are_accounted_for(make_shop: Any, look: Look, database: asyncpg.Pool) -> None:
    """A claim that the record refused is claimed in Redis until it is withdrawn; both are no violation."""
    shop = await make_shop(stock=2)
    await shop.reserve("o1")
    await shop.reserve("o2")
    await database.execute("UPDATE sale_items SET stock = 1")
    await database.execute("INSERT INTO stock_moves VALUES ('m', 'drop', 'drop-p', -1, 'damaged')")
    await shop.pin("o1")
    await shop.pin("o2")
    assert {} == await look(shop)
    await shop.record()
    assert {} == await look(shop)
    await shop.inventory.refuse(shop.keys, "o2", "try-o2", "stock")
    assert {} == await look(shop)
    await database.execute("UPDATE refusals SET settled_at = now()")

    assert {} == await look(shop)


async def test_no_false_alarm_under_traffic(make_shop: Any, look: Look) -> None:
    """Buyers buy, flushers flush, and every audit in between is clean."""
    shop = await make_shop(stock=1_000)
    is_over = asyncio.Event()

    async def buy(lane: int) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            order = f"o{lane}-{number}"
            await shop.reserve(order)
            await shop.pin(order)
            if number % 3:
                await shop.confirm(order)
            else:
                await shop.inventory.fail(shop.keys, order, f"try-{order}", "provider")

    async def flush() -> None:
        while not is_over.is_set():
            await shop.flusher.tick()

    running = [asyncio.create_task(work) for work in (buy(1), buy(2), buy(3), flush())]
    found = [await look(shop, pause_s=0.02) for _ in range(10)]
    is_over.set()
    await asyncio.gather(*running)

    assert [{}] * 10 == found


async def test_lost_unit_is_seen(make_shop: Any, look: Look) -> None:
    """I1: a unit that is in no counter, or in two."""
    shop = await make_shop()
    await sell(shop, "o1")
    await shop.redis.hincrby(shop.keys.stock, "drop-p:free", 1)

    assert {"I1": "drop-p:free is 100 in Redis, 99 by the record"} == await look(shop)


async def test_recovering_shop_is_not_called_clean(make_shop: Any, look: Look) -> None:
    """I1 cannot be judged while the shop is another server's: that is no pass."""
    shop = await make_shop()
    await shop.lose_run_id()

    assert {"I1": "not judged: recovering"} == await look(shop)


@pytest.mark.parametrize(
    ("invariant", "statement"),
    [
        ("I2", "UPDATE sale_items SET sold = sold + 1"),
        ("I2", "DELETE FROM ledger WHERE verb = 'sold'"),
        ("I2", "ALTER TABLE sale_items DROP CONSTRAINT never_oversold"),
        ("I3", "UPDATE payments SET state = 'declined'"),
        ("I3", "UPDATE orders SET state = 'expired'"),
        ("I3", "UPDATE orders SET claim = 'refused'"),
        ("I7", "UPDATE sale_buyers SET bought = bought + 1"),
        ("I7", "ALTER TABLE sale_buyers DROP CONSTRAINT never_above_limit"),
        ("I8", "UPDATE orders SET claim = 'released'"),
        ("I8", "UPDATE payments SET state = 'refunded'"),
    ],
)
async def test_damaged_record_is_seen(
    invariant: str, statement: str, make_shop: Any, look: Look, database: asyncpg.Pool
) -> None:
    """A row changed by hand breaks the invariant that it belongs to."""
    shop = await make_shop()
    await sell(shop, "o1")
    await database.execute(statement)

    assert invariant in await look(shop)


async def test_limit_in_redis(make_shop: Any, look: Look) -> None:
    """I7: a buyer above the limit in Redis alone."""
    shop = await make_shop(limit=2)
    await shop.reserve("o1")
    packed = msgspec.msgpack.encode([2, 1, "o1"])
    await shop.redis.hset(shop.keys.buyers, "buyer-of-o1", packed)

    assert {"I7": "buyer buyer-of-o1 holds 2 and bought 1 in Redis"} == await look(shop)


async def test_charge_for_nothing(make_shop: Any, look: Look) -> None:
    """I8: the provider's own book has a charge that the record knows nothing of, or misses one that it stands on."""
    shop = await make_shop()
    await sell(shop, "o1")
    bought = Capture("o1", "try-o1", 100, 1)

    assert {} == await look(shop, charges=lambda: book(bought))
    astray = await look(shop, charges=lambda: book(bought, Capture("o1", "unknown", 100, 1)))
    assert "order o1 was charged 100 for nothing (attempt unknown)" == astray["I8"]
    assert {} == await look(shop, charges=lambda: book(bought, Capture("o1", "unknown", 100, 1, refunded_at_ms=2)))
    missing = await look(shop, charges=book)
    assert "payment try-o1 is recorded as captured, the provider says None" == missing["I8"]


async def test_stranded_holds(make_shop: Any, look: Look, database: asyncpg.Pool) -> None:
    """I9: a hold past its end that nobody lapsed, and a pinned order that the record has no claim for."""
    shop = await make_shop()
    await shop.reserve("late")
    await shop.redis.zadd(shop.keys.holds, {"late": 1})
    assert {"I9": "the hold of order late is past its end"} == await look(shop)
    await shop.inventory.lapse(shop.keys, 10)

    await shop.reserve("pinned")
    await shop.pin("pinned")
    assert {} == await look(shop)
    order = msgspec.msgpack.decode(await shop.redis.hget(shop.keys.orders, "pinned"))
    order[9][0][3] = "1-0"
    await shop.redis.hset(shop.keys.orders, "pinned", msgspec.msgpack.encode(order))

    assert {"I9": "order pinned is pinned without an open claim"} == await look(shop)


async def admit(shop: Any, *admissions: dict[str, Any]) -> None:
    """Admissions as the line's script writes them, recorded."""
    shop.hand.epoch = 1
    await shop.pool.execute("UPDATE sales SET line_epoch = 1")
    await admit_more(shop, *admissions)
    assert len(admissions) == await shop.pool.fetchval("SELECT count(*) FROM admissions")


async def admit_more(shop: Any, *admissions: dict[str, Any]) -> None:
    for admission in admissions:
        more = dict(admission)
        await shop.hand.admitted(*more.pop("places"), **more)
    await shop.record()


async def test_fair_and_paced_line(make_shop: Any, look: Look, database: asyncpg.Pool) -> None:
    """I4 to I6 hold for a line that lets in by place, at its rate, with a burst, and takes a returner first."""
    shop = await make_shop()
    await admit(
        shop,
        {"places": [1, 2], "at": 1_790_000_000_000},
        {"places": [3], "at": 1_790_000_000_050},
        {"places": [2, 4], "returners": "2", "at": 1_790_000_000_200},
        {"places": list(range(7, 27)), "rate_milli": 500_000, "burst": 50, "at": 1_790_000_000_240},
    )

    assert {} == await look(shop)


@pytest.mark.parametrize(
    ("invariant", "admissions"),
    [
        ("I4", [{"places": [5], "returners": "5", "at": at * 1_000} for at in range(1, 5)]),
        ("I5", [{"places": [4], "at": 1_000}, {"places": [3], "at": 2_000}]),
        ("I5", [{"places": [2, 1], "at": 1_000}]),
        ("I5", [{"places": [1], "inversions": 1}]),
        ("I6", [{"places": [1, 2, 3]}]),
        ("I6", [{"places": [1, 2], "at": 1_000}, {"places": [3], "at": 1_049}]),
        ("I6", [{"places": [1], "active": 101}]),
        (
            "I6",
            [
                {"places": [1], "rate_milli": 500_000, "burst": 50, "at": 1_000},
                {"places": [2, 3, 4], "at": 1_001},
            ],
        ),
    ],
)
async def test_unfair_line(invariant: str, admissions: list[dict[str, Any]], make_shop: Any, look: Look) -> None:
    """A place too often, a place out of order, one person too many for rate, burst or cap."""
    shop = await make_shop()
    await admit(shop, *admissions)

    assert {invariant} == set(await look(shop))


async def test_a_clock_that_went_back(make_shop: Any, look: Look) -> None:
    """I6: how long it was between the two admissions nobody knows, so the bucket may be full, and fuller it is not."""
    shop = await make_shop()
    await admit(shop, {"places": [1, 2], "at": 9_000})
    await shop.pool.execute("UPDATE admissions SET at = to_timestamp(90)")
    await admit_more(shop, {"places": [3, 4], "at": 10_000})
    assert {} == await look(shop)

    await admit_more(shop, {"places": [5], "at": 10_001})
    assert {"I6"} == set(await look(shop))


async def test_two_living_tickets(make_shop: Any, look: Look, line_redis: Redis, database: asyncpg.Pool) -> None:
    """I4: a buyer with two living tickets, two buyers of one place, a place above the ceiling."""
    shop = await make_shop()
    await database.execute("UPDATE sales SET line_epoch = 1, place_ceiling = 100")
    keys = LineKeys("drop", 1)
    await line_redis.hset(keys.tickets, mapping={"1": msgspec.msgpack.encode([1, "ann", 5])})
    await line_redis.hset(keys.buyers, mapping={"ann": "1"})
    assert {} == await look(shop)
    # Seats made anew from the record, whose holders have not come back yet.
    for place in ("3", "4"):
        await line_redis.hset(keys.tickets, place, msgspec.msgpack.encode([2, "", 0]))
    assert {} == await look(shop)

    await line_redis.hset(keys.tickets, "2", msgspec.msgpack.encode([2, "ann", 5]))
    assert {"I4": "a buyer has 2 living tickets: places [1, 2]"} == await look(shop)
    await line_redis.hset(keys.tickets, "2", msgspec.msgpack.encode([4, "ann", 5]))
    await line_redis.hset(keys.buyers, mapping={"bob": "1"})
    assert {"I4": "place 1 belongs to two buyers"} == await look(shop)
    await line_redis.hset(keys.buyers, mapping={"bob": "101"})
    assert {"I4": "place 101 is above the ceiling 100"} == await look(shop)


async def test_one_place_two_buyers(make_shop: Any, look: Look, database: asyncpg.Pool) -> None:
    """I4: the same place in two epochs belongs to one buyer; another buyer with its turn is a place issued twice."""
    shop = await make_shop()
    await shop.reserve("o1", buyer="ann", turn="1-7-1")
    await shop.record()
    await shop.inventory.release(shop.keys, "o1", "ann")
    await shop.reserve("o2", buyer="ann", turn="2-7-1")
    await shop.record()
    assert {} == await look(shop)
    await shop.reserve("o3", buyer="bob", turn="3-7-1")
    await shop.record()

    assert {"I4": "place 7 bought for two buyers"} == await look(shop)


async def test_broken_chain_of_operators(make_shop: Any, look: Look) -> None:
    """I10 is what the bound check says."""
    shop = await make_shop()

    async def broken(sale: str) -> Sequence[str]:
        return [f"row 3 of {sale} does not follow"]

    assert {"I10": "row 3 of drop does not follow"} == await look(shop, chain=broken)
