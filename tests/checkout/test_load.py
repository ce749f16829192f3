"""Loading a sale from the record, registering one that survived, moving its stock, announcing what is recorded."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import AsyncMock

import msgspec
import pytest
from redis.asyncio import Redis
from shop_kit import KEYS, TERMS, Shop, new_attempt, order_doc, request, snapshot

from onsale.checkout import errors
from onsale.checkout.inventory import ItemUnits, LiveOrder, OrderState, PackedAttempt, Reserve, ShopSnapshot
from onsale.checkout.record.events import Announcement
from onsale.lua.keys import ShopKeys
from onsale.lua.shop import StockFigures

RESERVED = order_doc("order-r", "ann", "turn-r", {"jacket": 2}, "key-r")
CONFIRMING = order_doc("order-c", "bob", "turn-c", {"jacket": 1, "hat": 1}, "key-c")


def history(expires_at_ms: int) -> ShopSnapshot:
    """Four of ten jackets sold, a hold of two, an open claim of one."""
    tried = PackedAttempt("attempt-0", "pay-0", "digest", "0-0", "declined", "funds", "0-0")
    running = PackedAttempt("attempt-1", "pay-1", "digest", "0-0")
    return ShopSnapshot(
        terms=TERMS,
        items=(ItemUnits("jacket", 10, sold=4), ItemUnits("hat", 5)),
        orders=(
            LiveOrder(RESERVED, OrderState.RESERVED, 1, expires_at_ms - 600_000, expires_at_ms),
            LiveOrder(CONFIRMING, OrderState.CONFIRMING, 4, 0, 0, (tried, running)),
        ),
        bought={"cat": 2, "dan": 2},
        turns={"turn-spent": "spent", "turn-gone": "closed", "turn-bad": "revoked"},
        moves=("move-1",),
    )


@pytest.fixture
async def loaded(shop_redis: Redis) -> Shop:
    """That history, in Redis."""
    shop = Shop(shop_redis)
    now_ms = (await shop.inventory.standing(KEYS)).at_ms
    await shop.inventory.load(KEYS, history(now_ms + 300_000))
    return shop


async def test_counters_follow_from_the_orders(loaded: Shop) -> None:
    """What is held and claimed, what was sold, and the rest is free."""
    assert {"free": 3, "held": 2, "claimed": 1, "sold": 4, "stock": 10} == await loaded.units("jacket")
    assert {"free": 4, "claimed": 1, "stock": 5} == await loaded.units("hat")
    figures = await loaded.inventory.figures(KEYS.sale)
    assert StockFigures(7, 2, 2, 4, figures.at_ms) == figures


async def test_live_orders_go_on(loaded: Shop) -> None:
    """The hold can be paid, given up or lapse; the open claim is confirmed with the attempt it has."""
    assert "confirming" == (await loaded.pin("order-r", "ann")).state
    confirmed = await loaded.inventory.confirm(KEYS, "order-c", "attempt-1")

    assert (OrderState.CONFIRMED, 5) == (confirmed.state, confirmed.rev)
    assert {"free": 3, "claimed": 2, "sold": 5, "stock": 10} == await loaded.units("jacket")


async def test_a_loaded_hold_lapses(loaded: Shop) -> None:
    await loaded.age("order-r", 300_000)

    assert 1 == (await loaded.inventory.lapse(KEYS, 10)).expired
    assert 5 == (await loaded.units("jacket"))["free"]


async def test_limits_turns_and_keys_are_remembered(loaded: Shop) -> None:
    """What a buyer has, which turns ended, and what a live order's key answers."""
    for fields, error in (
        ({"buyer": "cat"}, errors.PurchaseLimitReached),
        ({"buyer": "ann"}, errors.ReservationOpen),
        ({"turn": "turn-c"}, errors.ReservationOpen),
        ({"turn": "turn-spent"}, errors.PassSpent),
        ({"turn": "turn-gone"}, errors.PassSpent),
        ({"turn": "turn-bad"}, errors.PassRevoked),
    ):
        with pytest.raises(error):
            await loaded.reserve(**fields)
    again: Reserve = request("ann", key="key-r", digest="digest")

    assert ("order-r", True) == ((held := await loaded.inventory.reserve(KEYS, again)).order, held.is_replay)
    assert RESERVED == msgspec.json.decode(held.doc, type=type(RESERVED))


async def test_a_key_of_an_earlier_try_is_remembered(loaded: Shop) -> None:
    pinned = await loaded.pin("order-c", "bob", new_attempt(idempotency_key="pay-0", body_digest="digest"))

    assert ("attempt-0", "declined", True) == (pinned.attempt, pinned.outcome, pinned.is_replay)


async def test_counted_moves_are_not_applied_again(loaded: Shop) -> None:
    assert not (await loaded.inventory.move_stock(KEYS, "move-1", "jacket", 5)).is_new
    assert 10 == (await loaded.units("jacket"))["stock"]


async def test_keys_in_use_are_not_loaded_over(loaded: Shop) -> None:
    """A rebuilder that was slow finds the sale running and changes nothing."""
    before = await loaded.dump()

    with pytest.raises(errors.OrderStateConflict):
        await loaded.inventory.load(KEYS, snapshot(jacket=99))

    assert before == await loaded.dump()


async def test_nothing_acts_before_the_last_step(shop_redis: Redis) -> None:
    """A rebuilder that died half-way leaves a sale that says it is recovering; the next one starts over."""
    shop = Shop(shop_redis)
    scripts = shop.inventory._scripts
    await scripts.shop_load(KEYS, "meta", ["opens_at_ms", 0, "closes_at_ms", 9])
    await scripts.shop_load(KEYS, "stock", ["jacket:free", 7, "sock:free", 7])
    with pytest.raises(errors.ShopRecovering):
        await shop.reserve()

    await shop.open(jacket=1)

    assert (await shop.reserve()).rev == 1
    assert 0 == await shop_redis.hexists(KEYS.stock, "sock:free")


async def test_a_large_sale_loads_whole(shop_redis: Redis) -> None:
    """More values than one call of Redis's Lua can carry."""
    shop = Shop(shop_redis)
    orders = tuple(
        LiveOrder(order_doc(f"o-{n}", f"b-{n}", f"t-{n}", {"jacket": 1}, f"k-{n}"), OrderState.RESERVED, 1, 0, 1)
        for n in range(5_000)
    )

    await shop.inventory.load(KEYS, ShopSnapshot(TERMS, (ItemUnits("jacket", 6_000),), orders))

    assert {"free": 1_000, "held": 5_000, "stock": 6_000} == await shop.units()
    assert {5_000} == {await shop_redis.hlen(key) for key in (KEYS.orders, KEYS.docs, KEYS.buyers, KEYS.turns)}


async def test_another_servers_keys_do_nothing(shop: Shop) -> None:
    """A restarted, restored or promoted server: every script refuses until somebody has compared and registered."""
    held = await shop.reserve("ann")
    await shop.redis.hset(KEYS.meta, "run_id", "another-server")
    before = await shop.dump()
    for call in (
        shop.reserve(),
        shop.pin(held.order, "ann"),
        shop.inventory.confirm(KEYS, held.order, "a"),
        shop.inventory.decline(KEYS, held.order, "a", "funds"),
        shop.inventory.fail(KEYS, held.order, "a", "other"),
        shop.inventory.refuse(KEYS, held.order, "a", "stock"),
        shop.inventory.release(KEYS, held.order, "ann"),
        shop.inventory.look(KEYS, held.order),
        shop.inventory.lapse(KEYS, 10),
        shop.inventory.figures(KEYS.sale),
        shop.inventory.close_turns(KEYS.sale, ["t"], "left"),
        shop.inventory.closings(KEYS.sale, "0-0", 1),
        shop.inventory.move_stock(KEYS, "m", "jacket", 1),
        shop.inventory.announce(KEYS, "money", "0-0", "1-0"),
        shop.inventory.forget(KEYS),
        shop.inventory.set_terms(KEYS, TERMS),
    ):
        with pytest.raises(errors.ShopRecovering):
            await call
    assert before == await shop.dump()

    successor = ShopKeys(KEYS.sale, 2)
    standing = await shop.inventory.register(KEYS, "another-server", successor)

    assert standing.is_registered
    view = await shop.inventory.look(successor, held.order)
    assert view is not None and "reserved" == view.state
    assert {name.replace(":1:", ":2:") for name in before} == set(await shop.dump())


async def test_keys_that_changed_meanwhile_are_not_registered(shop: Shop) -> None:
    """Between the comparison and the registration somebody else put other keys there."""
    await shop.redis.hset(KEYS.meta, "run_id", "another-server")

    with pytest.raises(errors.ShopRecovering):
        await shop.inventory.register(KEYS, "the-one-compared", ShopKeys(KEYS.sale, 2))


async def test_an_emptied_server_is_recovering(shop: Shop) -> None:
    """Never "sold out", never "full stock"."""
    await shop.redis.flushall()

    with pytest.raises(errors.ShopRecovering):
        await shop.reserve()
    assert ("", False) == ((standing := await shop.inventory.standing(KEYS)).known_run_id, standing.is_registered)


async def test_an_older_epoch_is_another_sale(shop: Shop) -> None:
    """A process that has not heard of the new epoch writes where nobody reads, once the old keys are fenced."""
    with pytest.raises(errors.ShopRecovering):
        await shop.inventory.reserve(ShopKeys(KEYS.sale, 2), request())


async def test_stock_moves_once(shop: Shop) -> None:
    moved = [await shop.inventory.move_stock(KEYS, "m", "jacket", 5) for _ in range(2)]

    assert [(True, True), (False, True)] == [(one.is_new, one.is_recorded) for one in moved]
    assert {"free": 15, "stock": 15} == await shop.units()


async def test_a_new_item_is_made_by_its_first_units(shop: Shop) -> None:
    await shop.inventory.move_stock(KEYS, "m", "sock", 3)

    assert {"free": 3, "stock": 3} == await shop.units("sock")
    assert (await shop.reserve(items={"sock": 1})).rev == 1


async def test_only_free_units_are_taken_away(shop: Shop) -> None:
    """A unit somebody holds stays. A move that was refused stays refused, whoever carries it; another one succeeds."""
    held = await shop.reserve("ann", {"jacket": 1})
    with pytest.raises(errors.SoldOut):
        await shop.inventory.move_stock(KEYS, "m", "jacket", -10)
    await shop.inventory.release(KEYS, held.order, "ann")

    with pytest.raises(errors.SoldOut):
        await shop.inventory.move_stock(KEYS, "m", "jacket", -10)
    assert (await shop.inventory.move_stock(KEYS, "m2", "jacket", -10)).is_new
    assert {} == await shop.units()


async def test_units_that_leave_wait_for_the_record_of_what_came_before(shop: Shop) -> None:
    """They may be those of an order that has just ended. What comes afterwards is not waited for, and coming units wait
    for nothing."""
    order, attempt = await shop.pinned("ann", {"jacket": 1})
    failed = await shop.inventory.fail(KEYS, order, attempt, "other")
    left = [await shop.inventory.move_stock(KEYS, "m", "jacket", -1) for _ in range(2)]
    came = await shop.inventory.move_stock(KEYS, "m2", "jacket", 1)
    await shop.inventory.announce(KEYS, "money", "0-0", failed.event_id)
    await shop.later()
    await shop.pinned("bob", {"jacket": 1})
    after = [await shop.inventory.move_stock(KEYS, "m", "jacket", -1) for _ in range(2)]

    assert [False, False, True] == [*(one.is_recorded for one in left), came.is_recorded]
    assert [True, True] == [one.is_recorded for one in after]


async def test_nothing_is_taken_from_an_unknown_item(shop: Shop) -> None:
    with pytest.raises(errors.ProductUnknown):
        await shop.inventory.move_stock(KEYS, "m", "sock", -1)


async def test_an_announcement_reaches_who_listens(shop: Shop) -> None:
    """As JSON, with what came before it and what was refused."""
    async with shop.redis.pubsub() as listener:
        await listener.subscribe(KEYS.verdicts)
        await listener.get_message(timeout=1)

        await shop.inventory.announce(KEYS, "money", "1-0", "2-0", [("order-1", "2-0", "stock")])

        message = await listener.get_message(ignore_subscribe_messages=True, timeout=1)
    assert message is not None
    assert Announcement(1, "money", "1-0", "2-0", (("order-1", "2-0", "stock"),)) == msgspec.json.decode(
        message["data"], type=Announcement
    )


async def test_the_mirrored_watermark_moves_forward_only(shop: Shop) -> None:
    """As numbers: 9-0 is before 10-0."""
    for upto in ("9-0", "10-0", "10-1", "9-5"):
        await shop.inventory.announce(KEYS, "money", "0-0", upto)
    await shop.inventory.announce(KEYS, "holdings", "0-0", "7-0")

    assert [b"10-1", b"7-0"] == await shop.redis.hmget(KEYS.meta, "money_upto", "holds_upto")


async def test_streams_are_trimmed_well_behind_the_record(shop: Shop) -> None:
    """By the record's progress and time, never by length: ten minutes stay."""
    now_ms = (await shop.inventory.standing(KEYS)).at_ms
    old, new = now_ms - 700_000, now_ms - 500_000
    async with shop.redis.pipeline() as pipe:
        for number in range(500):
            pipe.xadd(KEYS.holdings, {"verb": "x"}, id=f"{old}-{number}")
        for number in range(500):
            pipe.xadd(KEYS.holdings, {"verb": "x"}, id=f"{new}-{number}")
        await pipe.execute()
    await shop.inventory.announce(KEYS, "holdings", "0-0", f"{old}-499")
    assert 1_000 == await shop.redis.xlen(KEYS.holdings)

    await shop.inventory.announce(KEYS, "holdings", "0-0", f"{now_ms}-0")

    assert 500 <= await shop.redis.xlen(KEYS.holdings) <= 600
    assert 500 == len(await shop.redis.xrange(KEYS.holdings, min=str(new)))


async def test_a_server_that_started_anew_while_it_was_loaded(
    shop_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps written before the server lost everything are missing: nobody sells from what is left."""
    shop = Shop(shop_redis)
    begun = replace(await shop.inventory.standing(KEYS), server_run_id="of-the-server-before")
    monkeypatch.setattr(shop.inventory, "standing", AsyncMock(return_value=begun))

    with pytest.raises(errors.OrderStateConflict):
        await shop.open(jacket=1)

    assert not await shop_redis.hexists(KEYS.meta, "run_id")
