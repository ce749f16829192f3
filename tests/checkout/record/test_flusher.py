"""The flusher writes each event once, in stream order, whoever else runs and whatever dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from onsale.checkout.record.flusher import Flusher, FlushTick
from onsale.checkout.record.recorder import CRASH_POINTS, HookRefused, crash_hook
from onsale.lua.keys import LineKeys

Counters = Callable[..., Awaitable[tuple[int, int]]]


class Killed(BaseException):
    """The process is gone: nothing after this line runs."""


def killer(point: str) -> Callable[[str], Awaitable[None]]:
    """Dies once at that point."""
    left = [1]

    async def hook(here: str) -> None:
        if here == point and left.pop():
            left.append(0)
            raise Killed

    return hook


async def drain(flusher: Flusher) -> FlushTick:
    """Tick until nothing is left; answers the sum."""
    total = tick = await flusher.tick()
    while tick.batches or tick.lost:
        tick = await flusher.tick()
        total += tick
    return total


async def states(database: asyncpg.Pool) -> dict[str, tuple[str, str]]:
    rows = await database.fetch("SELECT id, state, claim FROM orders")
    return {row["id"]: (row["state"], row["claim"]) for row in rows}


async def test_reservation_becomes_a_row(make_sale: Any, make_flusher: Any, database: asyncpg.Pool) -> None:
    """A reserved event is an order with its items; no units are claimed by it."""
    hand = await make_sale()
    await hand.reserved("o1", quantity=2)

    tick = await make_flusher().tick()

    assert 1 == tick.events
    assert {"o1": ("reserved", "none")} == await states(database)
    assert 2 == await database.fetchval("SELECT quantity FROM order_items WHERE order_id = 'o1'")


async def test_whole_life_in_one_batch(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """Claimed and confirmed in one batch, behind a reservation that is read later: one sold order, no row twice."""
    hand = await make_sale()
    await hand.reserved("o1", quantity=2)
    await hand.claimed("o1", quantity=2)
    await hand.confirmed("o1")

    await drain(make_flusher())

    assert {"o1": ("confirmed", "sold")} == await states(database)
    assert (0, 2) == await counters()
    assert ["claimed", "sold"] == [r["verb"] for r in await database.fetch("SELECT verb FROM ledger ORDER BY id")]
    payment = await database.fetchrow("SELECT state, instrument FROM payments")
    assert ("captured", None) == (payment["state"], payment["instrument"])
    assert 2 == await database.fetchval("SELECT bought FROM sale_buyers")


async def test_claim_keeps_its_instrument_until_it_ends(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """The sealed instrument is there for the completer while the claim is open, and erased with a decline."""
    hand = await make_sale()
    await hand.claimed("o1")
    flusher = make_flusher()
    await flusher.tick()

    assert b"sealed" == await database.fetchval("SELECT instrument FROM payments")
    assert (1, 0) == await counters()

    await hand.declined("o1")
    await flusher.tick()

    assert await database.fetchval("SELECT instrument FROM payments") is None
    assert {"o1": ("reserved", "released")} == await states(database)
    assert (0, 0) == await counters()


async def test_second_claim_after_a_decline(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """A retryable decline leaves room for the next try: its own row, its own key, one claim."""
    hand = await make_sale()
    await hand.claimed("o1", "first")
    await hand.declined("o1", "first")
    await hand.claimed("o1", "second")
    await hand.confirmed("o1", "second")

    await drain(make_flusher())

    rows = await database.fetch("SELECT id, state FROM payments ORDER BY id")
    assert [("first", "declined"), ("second", "captured")] == [tuple(row) for row in rows]
    assert (0, 1) == await counters()


async def test_five_hundred_claims_for_one_unit(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters, announcer: Any
) -> None:
    """The first claim in stream order gets the unit, 499 are refused as rows, and the stream goes on."""
    hand = await make_sale(stock=1)
    ids = [await hand.claimed(f"o{n:03}") for n in range(500)]

    tick = await drain(make_flusher())

    assert 499 == tick.refused
    assert (1, 0) == await counters()
    assert "o000" == await database.fetchval("SELECT id FROM orders WHERE claim = 'open'")
    refused = await database.fetch("SELECT event_id FROM refusals WHERE reason = 'stock' ORDER BY event_id")
    assert ids[1:] == [row["event_id"] for row in refused]
    assert 499 == len(announcer.said[0].refused)
    assert 499 == await database.fetchval(
        "SELECT count(*) FROM payments WHERE state = 'refused' AND instrument IS NULL"
    )


async def test_limit_is_judged_in_order(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """A buyer's third unit is refused for the limit, and a released claim makes room for the next."""
    hand = await make_sale(limit=2)
    await hand.claimed("o1", buyer="kim", turn="t1", quantity=2)
    await hand.claimed("o2", buyer="kim", turn="t2")
    await hand.failed("o1")
    await hand.claimed("o3", buyer="kim", turn="t3")

    await drain(make_flusher())

    assert {
        "o1": ("payment_failed", "released"),
        "o2": ("released", "refused"),
        "o3": ("confirming", "open"),
    } == await states(database)
    assert "limit" == await database.fetchval("SELECT reason FROM refusals")
    assert (1, 0) == await counters()


async def test_a_turn_buys_once(make_sale: Any, make_flusher: Any, database: asyncpg.Pool) -> None:
    """Two orders of one turn: the second claim is refused, in the same batch and in a later one."""
    hand = await make_sale(limit=10)
    flusher = make_flusher()
    await hand.claimed("o1", turn="t1")
    await hand.claimed("o2", turn="t1")
    await flusher.tick()
    await hand.claimed("o3", turn="t1")
    await flusher.tick()

    reasons = await database.fetch("SELECT order_id, reason FROM refusals ORDER BY order_id")
    assert [("o2", "turn"), ("o3", "turn")] == [tuple(row) for row in reasons]


async def test_capture_without_a_claim_is_given_back(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """A confirmation of a claim that has ended sells nothing: the money goes back, as a row, once."""
    hand = await make_sale()
    await hand.claimed("o1")
    await hand.failed("o1")
    flusher = make_flusher()
    await drain(flusher)
    await hand.confirmed("o1")
    await hand.confirmed("o1")

    await drain(flusher)

    assert (0, 0) == await counters()
    rows = await database.fetch("SELECT payment_id, amount, state FROM refunds")
    assert [("try-o1", 100, "pending")] == [tuple(row) for row in rows]
    assert "refunding" == await database.fetchval("SELECT state FROM payments")


async def test_holdings_ahead_of_money(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """A release recorded before the decline that made it possible does not hide the decline from the claim."""
    hand = await make_sale()
    await hand.reserved("o1")
    await hand.claimed("o1")
    flusher = make_flusher()
    await drain(flusher)
    await hand.declined("o1")
    await hand.released("o1")

    await flusher.holdings.tick()
    await flusher.money.tick()

    assert {"o1": ("released", "released")} == await states(database)
    assert (0, 0) == await counters()
    assert "declined" == await database.fetchval("SELECT state FROM payments")


async def test_reservation_read_after_its_claim(make_sale: Any, make_flusher: Any, database: asyncpg.Pool) -> None:
    """A backlog of holdings behind recorded money changes no newer state."""
    hand = await make_sale()
    await hand.reserved("o1")
    await hand.claimed("o1")
    flusher = make_flusher()

    await flusher.money.tick()
    await flusher.holdings.tick()

    assert {"o1": ("confirming", "open")} == await states(database)


@pytest.mark.parametrize("point", CRASH_POINTS)
async def test_death_at_every_point(
    point: str, make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """A flusher that dies anywhere loses nothing and doubles nothing: the next one ends with the same rows."""
    hand = await make_sale()
    for n in range(20):
        await hand.reserved(f"o{n}")
        await hand.claimed(f"o{n}")
        if n % 2:
            await hand.confirmed(f"o{n}")
    with pytest.raises(Killed):
        await make_flusher(killer(point)).tick()

    await drain(make_flusher())

    assert (10, 10) == await counters()
    assert 30 == await database.fetchval("SELECT count(*) FROM ledger")
    assert 20 == await database.fetchval("SELECT count(*) FROM orders")
    assert 20 == await database.fetchval("SELECT sum(bought) FROM sale_buyers")


async def test_two_flushers_one_writer(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """A flusher that stood still between reading and writing finds the watermark moved, and leaves nothing behind."""
    hand = await make_sale()
    for n in range(10):
        await hand.claimed(f"o{n}")
    is_reading, may_go_on = asyncio.Event(), asyncio.Event()

    async def stand_still(point: str) -> None:
        if point == "before_tx":
            is_reading.set()
            await may_go_on.wait()

    stopped = asyncio.create_task(make_flusher(stand_still).money.tick())
    await is_reading.wait()
    first = await make_flusher().money.tick()
    may_go_on.set()
    late = await stopped

    assert (10, 0) == (first.events, first.lost)
    assert (0, 1) == (late.events, late.lost)
    assert (10, 0) == await counters()
    assert 10 == await database.fetchval("SELECT count(*) FROM ledger")


async def test_stopped_flusher_does_not_hold_its_locks(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """A writer stopped inside its transaction loses its session after two seconds; the next one writes the batch."""
    hand = await make_sale()
    await hand.claimed("o1")
    is_inside, may_go_on = asyncio.Event(), asyncio.Event()

    async def stop_inside(point: str) -> None:
        if point == "after_rows":
            is_inside.set()
            await may_go_on.wait()

    stopped = asyncio.create_task(make_flusher(stop_inside).money.tick())
    await is_inside.wait()
    other = make_flusher()
    recorded = 0
    async with asyncio.timeout(5):
        while not recorded:
            try:
                recorded = (await other.money.tick()).events
            except asyncpg.LockNotAvailableError:
                continue
    may_go_on.set()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await stopped

    assert (1, 0) == await counters()


async def test_trimmed_hole_is_no_progress(make_sale: Any, make_flusher: Any, database: asyncpg.Pool) -> None:
    """Two flushers with one backlog: nothing is skipped, because both read after the watermark Postgres holds."""
    hand = await make_sale(stock=2_000)
    for n in range(1_500):
        await hand.claimed(f"o{n:04}")
    first, second = make_flusher(), make_flusher()

    while True:
        ticks = await asyncio.gather(first.money.tick(), second.money.tick())
        if not any(tick.batches or tick.lost for tick in ticks):
            break

    assert 1_500 == await database.fetchval("SELECT count(*) FROM orders WHERE claim = 'open'")


async def test_poison_is_put_aside(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """One event in a hundred cannot be read, each for another reason: kept whole, refused, and the rest goes on."""
    hand = await make_sale(stock=1_000)
    bad = (
        {"verb": "exploded", "order": "p0", "rev": 1, "at": 1},
        {"verb": "claimed", "order": "p1", "rev": 1, "at": 1, "expires": 1, "doc": "{", "attempt": "{}"},
        {"verb": "claimed", "order": "p2", "rev": "x", "at": 1},
        {"verb": b"\xff\x00", "order": b"\x00", "rev": 1, "at": 1},
        {"nothing": "at all"},
        {"verb": "confirmed", "order": "nobody", "rev": 1, "at": 1, "attempt_id": "never"},
    )
    for n in range(600):
        await hand.claimed(f"o{n:03}")
        if n % 100 == 50:
            await hand.redis.xadd(hand.keys.money, bad[n // 100], id=f"{1_790_000_000_000 + n + 1}-{n}")

    tick = await drain(make_flusher())

    assert (600, 6) == (tick.events, tick.poisoned)
    assert (600, 0) == await counters()
    assert 6 == await database.fetchval("SELECT count(*) FROM poison")
    assert 6 == tick.refused


async def test_event_that_postgres_refuses_is_found_by_halving(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """A readable event whose values no column takes stands alone in the end; 99 others are written."""
    hand = await make_sale()
    for n in range(99):
        if n == 33:
            await hand.claimed("o-bad", turn="a\x00b")
        await hand.claimed(f"o{n:03}")

    tick = await drain(make_flusher())

    assert (99, 1) == (tick.events, tick.poisoned)
    assert (99, 0) == await counters()
    assert "o-bad" == await database.fetchval("SELECT order_id FROM refusals WHERE reason = 'state'")


async def test_ids_below_the_old_watermark_count_in_a_new_epoch(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """A promoted server whose clock is behind writes smaller ids: under the new epoch they are all recorded."""
    hand = await make_sale()
    await hand.claimed("o1")
    flusher = make_flusher()
    await flusher.tick()
    await database.execute("UPDATE watermarks SET closed_at = now() WHERE stream <> 'admissions'")
    await database.execute("UPDATE sales SET shop_epoch = 2")
    await hand.claimed("o-late")
    hand.epoch = 2
    await hand.redis.xadd(
        hand.keys.money, {"verb": "confirmed", "order": "o1", "rev": 5, "at": 1, "attempt_id": "try-o1"}, id="7-0"
    )

    await drain(flusher)

    assert {"o1": ("confirmed", "sold")} == await states(database)
    assert (0, 1) == await counters()


async def test_lost_announcement_is_mended(
    make_sale: Any, make_flusher: Any, announcer: Any, shop_redis: Redis
) -> None:
    """A flusher that died before announcing leaves a mirror behind the record: the next refresh tells the shop."""
    hand = await make_sale()
    upto = await hand.claimed("o1")
    with pytest.raises(Killed):
        await make_flusher(killer("after_commit")).money.tick()
    assert await shop_redis.hget(hand.keys.meta, "money_upto") is None

    await make_flusher().money.tick()

    assert upto.encode() == await shop_redis.hget(hand.keys.meta, "money_upto")


async def test_admissions_of_a_past_epoch_are_read_to_the_end(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool
) -> None:
    """What the line wrote before it went on to a new epoch is recorded before the new stream is read."""
    hand = await make_sale()
    await hand.admitted(1, 2)
    flusher = make_flusher()
    await flusher.tick()
    await hand.admitted(3)
    await database.execute("UPDATE sales SET line_epoch = 2")
    await hand.admitted(4)
    hand.epoch = 2
    await hand.admitted(5)

    for _ in range(4):
        await flusher.tick()

    rows = await database.fetch("SELECT epoch, places FROM admissions ORDER BY epoch, event_id")
    assert [(1, [1, 2]), (1, [3]), (1, [4]), (2, [5])] == [tuple(row) for row in rows]


async def test_lane_wakes_with_the_event(make_sale: Any, make_flusher: Any, counters: Counters) -> None:
    """A waiting lane is woken by the event itself, over several sales in one call."""
    hand, other = await make_sale("one"), await make_sale("two")
    lane = make_flusher().money
    await lane.tick()
    waiting = asyncio.create_task(lane.tick(wait_ms=1_900))
    await hand.claimed("o1")
    first = await waiting
    await other.claimed("o2")
    second = await lane.tick(wait_ms=1_900)

    assert (["one"], ["two"]) == ([b.sale for b in first.batches], [b.sale for b in second.batches])


async def test_backlog_of_holdings_does_not_delay_money(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """Whoever claims does not stand behind a thousand reservations that are being written."""
    hand = await make_sale()
    for n in range(50):
        await hand.reserved(f"o{n}")
    is_inside, may_go_on = asyncio.Event(), asyncio.Event()

    async def dawdle(point: str) -> None:
        if point == "after_rows":
            is_inside.set()
            await may_go_on.wait()

    holdings = asyncio.create_task(make_flusher(dawdle).holdings.tick())
    await is_inside.wait()
    await hand.claimed("other")
    tick = await make_flusher().money.tick()
    may_go_on.set()

    assert 1 == tick.events
    assert (1, 0) == await counters()
    assert 50 == (await holdings).events


async def test_order_that_both_streams_bring_at_once(make_sale: Any, make_flusher: Any, database: asyncpg.Pool) -> None:
    """Reserved and claimed written in the same moment by two lanes: one order, claimed, with both its times."""
    hand = await make_sale()
    await hand.reserved("o1")
    await hand.claimed("o1")
    is_inside, may_go_on = asyncio.Event(), asyncio.Event()

    async def dawdle(point: str) -> None:
        if point == "after_rows":
            is_inside.set()
            await may_go_on.wait()

    holdings = asyncio.create_task(make_flusher(dawdle).holdings.tick())
    await is_inside.wait()
    money = asyncio.create_task(make_flusher().money.tick())
    while not await database.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        continue
    may_go_on.set()
    await holdings

    assert 1 == (await money).events
    assert {"o1": ("confirming", "open")} == await states(database)
    assert 1 == await database.fetchval("SELECT count(*) FROM order_items")


async def test_trimming_stays_behind_the_record(make_sale: Any, make_flusher: Any, line_redis: Redis) -> None:
    """Old entries go once they are recorded, never before, and never by length."""
    hand = await make_sale()
    for place in range(300):
        await hand.admitted(place + 1)
    key = LineKeys("drop", 1).admissions
    await make_flusher().admissions.tick()
    assert 300 == await line_redis.xlen(key)

    await make_flusher().admissions.tick()

    assert 300 > await line_redis.xlen(key)


async def test_one_sale_in_trouble_stops_no_other(
    make_sale: Any, make_flusher: Any, database: asyncpg.Pool, counters: Counters
) -> None:
    """A sale whose rows somebody holds locked is tried again later; the other one is recorded meanwhile."""
    stuck, free = await make_sale("stuck"), await make_sale("free")
    await stuck.claimed("o1")
    await free.claimed("o2")
    flusher = make_flusher()
    async with database.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM sale_items WHERE sale = 'stuck' FOR UPDATE")
        first = await flusher.money.tick()
        await free.claimed("o3")
        second = await flusher.money.tick()

    assert (1, 1) == (first.failed, first.events)
    assert (0, 1) == (second.failed, second.events)
    assert ((0, 0), (2, 0)) == (await counters("stuck"), await counters("free"))
    async with asyncio.timeout(5):
        while (await counters("stuck")) != (1, 0):
            await flusher.money.tick(wait_ms=100)


def test_crash_points_exist_in_tests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook handed in outside tests is refused."""
    monkeypatch.delitem(__import__("sys").modules, "pytest")

    with pytest.raises(HookRefused):
        crash_hook(killer("after_read"))
