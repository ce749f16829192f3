"""Losing the shop's Redis loses nothing that was recorded: units, limits, turns, claims, keys and moves come back."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import asyncpg
import pytest

from onsale.checkout.errors import (
    PassSpent,
    PurchaseLimitReached,
    ReservationOpen,
    ShopRecovering,
    SoldOut,
)
from onsale.checkout.record.reading import Stream, entries
from onsale.checkout.record.rebuild import RebuildTick
from onsale.checkout.record.reckoning import reckon
from onsale.checkout.record.recorder import Batch, Recorder
from onsale.checkout.states import OrderState
from onsale.lua.keys import ShopKeys


class Killed(BaseException):
    """The process is gone."""


def counted(**units: int) -> dict[str, int]:
    return {"free": 0, "held": 0, "claimed": 0, "sold": 0, "withdrawn": 0, "stock": 100} | units


async def test_first_load(make_shop: Any, database: asyncpg.Pool) -> None:
    """A new sale gets its keys under epoch 1, its opening move counted, and is then left alone."""
    shop = await make_shop()
    again = await shop.rebuilder().tick()

    assert ShopKeys("drop", 1) == shop.keys
    assert counted(free=100) == await shop.stock()
    assert RebuildTick() == again


async def test_restarted_server_keeps_its_keys(make_shop: Any, database: asyncpg.Pool) -> None:
    """Keys that lost nothing go on in the next epoch, after what their streams still held was recorded."""
    shop = await make_shop()
    await shop.reserve("o1")
    await shop.reserve("o2")
    await shop.pin("o2")
    await shop.lose_run_id()
    with pytest.raises(ShopRecovering):
        await shop.reserve("o3")

    tick = await shop.rebuilder().tick()

    assert ("drop",) == tick.registered
    assert 2 == shop.keys.epoch
    assert counted(free=98, held=1, claimed=1) == await shop.stock()
    await shop.confirm("o2")
    await shop.reserve("o3")
    await shop.record()
    rows = await database.fetch("SELECT id, claim FROM orders")
    assert {"o1": "none", "o2": "sold", "o3": "none"} == {row["id"]: row["claim"] for row in rows}
    assert [] == await reckon(database, shop.redis, shop.keys)


async def test_death_between_fence_and_taking_over(make_shop: Any, database: asyncpg.Pool) -> None:
    """Fenced, and the keys not renamed: the next rebuilder makes them anew, and nothing is lost."""
    shop = await make_shop()
    await shop.reserve("o1")
    await shop.lose_run_id()

    async def die(here: str) -> None:
        if here == "after_fence":
            raise Killed

    with pytest.raises(Killed):
        await shop.rebuilder(die).tick()
    tick = await shop.rebuilder().tick()

    assert (("drop",), 3) == (tick.rebuilt, shop.keys.epoch)
    assert counted(free=99, held=1) == await shop.stock()


async def test_lost_tail_makes_keys_anew(make_shop: Any) -> None:
    """A server that went back behind what was recorded (old file, lagging replica) is not believed."""
    shop = await make_shop()
    await shop.reserve("o1")
    before = {name: await shop.redis.dump(name) for name in await shop.redis.keys("*")}
    await shop.pin("o1")
    await shop.record()
    await shop.redis.flushall()
    for name, value in before.items():
        await shop.redis.restore(name, 0, value)
    await shop.lose_run_id()

    tick = await shop.rebuilder().tick()

    assert ("drop",) == tick.rebuilt
    assert 2 == shop.keys.epoch
    assert counted(free=99, claimed=1) == await shop.stock()


async def test_a_batch_that_was_read_before_the_loss(make_shop: Any, database: asyncpg.Pool) -> None:
    """A flusher has a confirmation in hand that the server then loses, and records it once the keys were compared: they
    are not taken on, whose order would be paid for ever and whose next events would be taken for recorded."""
    shop = await make_shop()
    await shop.reserve("o1")
    await shop.pin("o1")
    await shop.record()
    before = {name: await shop.redis.dump(name) for name in await shop.redis.keys("*")}
    await shop.confirm("o1")
    upto = await database.fetchval("SELECT upto FROM watermarks WHERE sale = 'drop' AND stream = 'money'")
    found = await shop.redis.xrange(shop.keys.money, min=f"({upto}")
    in_hand = Batch("drop", Stream.MONEY, 1, upto, entries(found))
    await shop.redis.flushall()
    for name, value in before.items():
        await shop.redis.restore(name, 0, value)
    await shop.lose_run_id()

    async def record_late(point: str) -> None:
        if point == "before_fence" and in_hand.upto != await database.fetchval(
            "SELECT upto FROM watermarks WHERE sale = 'drop' AND stream = 'money' AND epoch = 1"
        ):
            await Recorder(database).record(in_hand)

    tick = await shop.rebuilder(record_late).tick()

    assert (("drop",), 2) == (tick.rebuilt, shop.keys.epoch)
    assert counted(free=99, sold=1) == await shop.stock()
    await shop.reserve("o2")
    await shop.record()
    assert [] == await reckon(database, shop.redis, shop.keys)


async def test_everything_comes_back(make_shop: Any, database: asyncpg.Pool) -> None:
    """After FLUSHALL: sold, claimed and held units, limits, spent turns, open reservations, keys and attempts."""
    shop = await make_shop(limit=2)
    await shop.reserve("sold", buyer="ann", turn="t-sold", quantity=2)
    await shop.pin("sold", buyer="ann")
    await shop.confirm("sold")
    await shop.reserve("claimed", buyer="bob")
    await shop.pin("claimed", buyer="bob")
    await shop.reserve("held", buyer="cat", turn="t-held")
    await shop.record()
    await shop.redis.flushall()
    with pytest.raises(ShopRecovering):
        await shop.reserve("no")

    await shop.rebuilder().tick()

    assert counted(free=96, held=1, claimed=1, sold=2) == await shop.stock()
    with pytest.raises(PurchaseLimitReached):
        await shop.reserve("o4", buyer="ann", turn="t-new")
    with pytest.raises(PassSpent):
        await shop.reserve("o5", buyer="dan", turn="t-sold")
    with pytest.raises(ReservationOpen):
        await shop.reserve("o6", buyer="cat", turn="t-other")
    assert (await shop.reserve("held", buyer="cat", turn="t-held")).is_replay
    assert (await shop.pin("claimed", buyer="bob")).is_replay
    await shop.confirm("claimed")
    await shop.record()
    assert (0, 3) == tuple(await database.fetchrow("SELECT claimed, sold FROM sale_items"))


async def test_seats_of_turns_that_are_over_are_told_again(make_shop: Any) -> None:
    """A `turn_closed` that was lost before the line read it would keep its seat taken until the pass ends."""
    shop = await make_shop()
    for order in ("o1", "o2"):
        await shop.reserve(order, buyer=order, turn=f"t-{order}")
        await shop.pin(order, buyer=order)
        await shop.confirm(order)
        await shop.record()
    await shop.redis.flushall()

    await shop.rebuilder().tick()

    closings = await shop.inventory.closings("drop", "0-0", 10)
    assert [("t-o2", "completed"), ("t-o1", "completed")] == [(c.turn, c.why) for c in closings]


async def test_holds_are_extended_by_the_outage(make_shop: Any, database: asyncpg.Pool) -> None:
    """A hold that would have run out while nobody could buy has a minute from the rebuild."""
    shop = await make_shop()
    await shop.reserve("o1")
    await shop.record()
    await database.execute("UPDATE orders SET expires_at = now() - interval '5 minutes'")
    await shop.redis.flushall()

    await shop.rebuilder().tick()

    view = await shop.inventory.look(shop.keys, "o1")
    now_ms = (await shop.inventory.standing(shop.keys)).at_ms
    assert view is not None
    assert OrderState.RESERVED == view.state
    assert 55_000 < view.expires_at_ms - now_ms <= 60_500


async def test_moves_are_counted_once(make_shop: Any, database: asyncpg.Pool) -> None:
    """A restock that Postgres has and Redis had not is in the new keys, and its mover finds it applied."""
    shop = await make_shop()
    await database.execute("INSERT INTO stock_moves VALUES ('m1', 'drop', 'drop-p', 7, 'restock')")
    await database.execute("UPDATE sale_items SET stock = stock + 7")
    await shop.redis.flushall()

    await shop.rebuilder().tick()
    moved = await shop.inventory.move_stock(shop.keys, "m1", "drop-p", 7)

    assert not moved.is_new
    assert 107 == (await shop.stock())["free"]
    assert 2 == await database.fetchval("SELECT applied_epoch FROM stock_moves WHERE id = 'm1'")


async def test_unrecorded_reservation_of_lost_keys_is_free_again(make_shop: Any) -> None:
    """What was never recorded and is lost was promised to nobody: its units are free."""
    shop = await make_shop()
    await shop.reserve("o1")
    await shop.redis.flushall()

    await shop.rebuilder().tick()

    assert counted(free=100) == await shop.stock()


async def test_oversold_redis_stops_reserving(make_shop: Any, database: asyncpg.Pool) -> None:
    """Where the record has given away more than there is room for, free is below zero and nobody reserves."""
    shop = await make_shop(stock=2)
    await shop.reserve("o1", quantity=2)
    await shop.pin("o1")
    await shop.record()
    # Lost with Redis: that the units were claimed. A hold that was recorded meanwhile does not fit any more.
    await shop.redis.delete(shop.keys.holdings)
    shop.hand.epoch = 1
    await database.execute("UPDATE watermarks SET upto = '0-0' WHERE stream = 'holdings'")
    await shop.hand.reserved("o2")
    await shop.record()
    await shop.redis.flushall()

    await shop.rebuilder().tick()

    assert 0 > (await shop.stock())["free"]
    with pytest.raises(SoldOut):
        await shop.reserve("o4")


async def test_two_rebuilders(make_shop: Any) -> None:
    """Two at once: one works, the other leaves it alone; the epoch is raised once."""
    shop = await make_shop()
    await shop.redis.flushall()
    is_loading, may_go_on = asyncio.Event(), asyncio.Event()
    loads = itertools.count(1)

    async def stand_still(point: str) -> None:
        # The shop of ordinary products is first.
        if point == "before_load" and next(loads) == 2:
            is_loading.set()
            await may_go_on.wait()

    first = asyncio.create_task(shop.rebuilder(stand_still).tick())
    await is_loading.wait()
    second = await shop.rebuilder().tick()
    may_go_on.set()

    assert ("drop",) == second.busy
    assert ("_shop", "drop") == (await first).rebuilt
    assert 2 == shop.keys.epoch
    assert RebuildTick() == await shop.rebuilder().tick()


@pytest.mark.parametrize(
    "point", ["after_stop", "after_drain", "before_fence", "after_fence", "before_load", "after_load"]
)
async def test_death_at_every_point(point: str, make_shop: Any, database: asyncpg.Pool) -> None:
    """A rebuilder that dies anywhere leaves a sale that the next one mends, with nothing lost."""
    shop = await make_shop()
    await shop.reserve("o1")
    await shop.pin("o1")
    await shop.confirm("o1")
    await shop.reserve("o2")

    async def die(here: str) -> None:
        if here == point:
            raise Killed

    with pytest.raises(Killed):
        await shop.rebuilder(die).rebuild("drop")
    await shop.rebuilder().tick()

    assert counted(free=98, held=1, sold=1) == await shop.stock()
    assert RebuildTick() == await shop.rebuilder().tick()
    await shop.reserve("o3")


async def test_rebuild_under_traffic(make_shop: Any, database: asyncpg.Pool) -> None:
    """Buyers go on while keys are made anew: each call is done or refused as recovering, no unit is lost or doubled."""
    shop = await make_shop(stock=40)
    is_over = asyncio.Event()

    async def buy(number: int) -> None:
        order = f"o{number:03}"
        for step in (shop.reserve, shop.pin, shop.confirm):
            for _ in range(200):
                try:
                    await step(order)
                    break
                except ShopRecovering:
                    await shop.book.refresh()
                    await shop.flusher.tick()
                except Exception:
                    return  # Lost with the old keys before it was recorded, or sold out.

    async def flush() -> None:
        while not is_over.is_set():
            await shop.flusher.tick()

    flushing = asyncio.create_task(flush())
    buyers = [asyncio.create_task(buy(number)) for number in range(80)]
    await asyncio.sleep(0)
    tick = await shop.rebuilder().rebuild("drop")
    await asyncio.gather(*buyers)
    is_over.set()
    await flushing
    await shop.record()

    stock = await shop.stock()
    claimed, sold = await database.fetchrow("SELECT claimed, sold FROM sale_items")
    assert ("drop",) == tick.rebuilt
    assert (claimed, sold) == (stock["claimed"], stock["sold"])
    assert 40 == stock["free"] + stock["held"] + stock["claimed"] + stock["sold"]
    assert sold == await database.fetchval("SELECT count(*) FROM orders WHERE claim = 'sold'")


async def test_writer_of_an_old_epoch_is_refused(make_shop: Any, database: asyncpg.Pool) -> None:
    """A primary that nobody told goes on writing into the old epoch: none of it reaches the record."""
    shop = await make_shop()
    shop.hand.epoch = 1
    await shop.rebuilder().rebuild("drop")
    await shop.hand.claimed("ghost")

    await shop.record()

    assert 0 == await database.fetchval("SELECT count(*) FROM orders")
    assert counted(free=100) == await shop.stock()
