"""Reserving: every unit of an order or none, once per key, for whoever may, while the sale is open and recorded."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import pytest
from redis.asyncio import Redis
from shop_kit import KEYS, NEVER_MS, Shop, request, with_terms

from onsale.auth.errors import IdempotencyKeyReused
from onsale.checkout import errors


async def test_units_move_from_free_to_held(shop: Shop) -> None:
    """A reservation holds its units, keeps its document and writes one event beside the change."""
    asked = request("ann", {"jacket": 1, "hat": 1})

    held = await shop.inventory.reserve(KEYS, asked)

    assert ({"free": 9, "held": 1, "stock": 10}, {"free": 4, "held": 1, "stock": 5}) == (
        await shop.units("jacket"),
        await shop.units("hat"),
    )
    assert (asked.order, 1, asked.doc, False) == (held.order, held.rev, held.doc, held.is_replay)
    view = await shop.look(asked.order)
    assert ("reserved", "ann", asked.turn, asked.items) == (view.state, view.buyer, view.turn, view.items)
    assert 600_000 == view.expires_at_ms - view.reserved_at_ms
    [event] = await shop.events("holdings")
    assert ("reserved", asked.order, "1", str(held.expires_at_ms), asked.doc.decode()) == tuple(
        event[name] for name in ("verb", "order", "rev", "expires", "doc")
    )


async def test_all_or_nothing(shop: Shop) -> None:
    """One item too few leaves the others free."""
    await shop.open_more(hat=-5)

    with pytest.raises(errors.SoldOut):
        await shop.reserve(items={"jacket": 1, "hat": 1})

    assert {"free": 10, "stock": 10} == await shop.units("jacket")


async def test_the_last_unit_is_held_once(shop_redis: Redis) -> None:
    """Two hundred at once for one unit: one gets it, whoever asks first."""
    shop = await Shop(shop_redis).open(jacket=1)

    results = await asyncio.gather(*(shop.reserve() for _ in range(200)), return_exceptions=True)

    assert {"Held": 1, "SoldOut": 199} == Counter(type(result).__name__ for result in results)
    assert {"held": 1, "stock": 1} == await shop.units()


async def test_the_last_unit_is_held_once_by_many_processes(shop_redis: Redis) -> None:
    """The same without a batch in common: every call goes alone."""
    await Shop(shop_redis).open(jacket=1)
    shops = [Shop(shop_redis) for _ in range(50)]

    results = await asyncio.gather(*(one.reserve() for one in shops), return_exceptions=True)

    assert {"Held": 1, "SoldOut": 49} == Counter(type(result).__name__ for result in results)


async def test_a_repeat_answers_the_same(shop: Shop) -> None:
    """The same key and body, under a new order id: the same order, expiry and event, and nothing more is held."""
    asked = request("ann")
    first = await shop.inventory.reserve(KEYS, asked)

    again = await shop.inventory.reserve(KEYS, msgspec.structs.replace(asked, order="another", doc=b"{}"))

    assert again.is_replay
    assert (first.order, first.expires_at_ms, first.event_id, first.doc) == (
        again.order,
        again.expires_at_ms,
        again.event_id,
        again.doc,
    )
    assert {"free": 9, "held": 1, "stock": 10} == await shop.units()
    assert await shop.inventory.look(KEYS, "another") is None


async def test_a_repeat_answers_the_same_after_the_order_ended(shop: Shop) -> None:
    """What a key answered stays its answer, whatever became of the order."""
    asked = request("ann")
    first = await shop.inventory.reserve(KEYS, asked)
    await shop.inventory.release(KEYS, asked.order, "ann")

    again = await shop.inventory.reserve(KEYS, asked)

    assert (first.order, True) == (again.order, again.is_replay)
    assert {"free": 10, "stock": 10} == await shop.units()


async def test_a_refusal_is_repeated(shop: Shop) -> None:
    """A key that was told `sold out` is told so again, marked as a repeat, even when units are free by then."""
    await shop.open_more(hat=-5)
    asked = request("ann", {"hat": 1})
    with pytest.raises(errors.SoldOut) as first:
        await shop.inventory.reserve(KEYS, asked)
    await shop.open_more(hat=5)

    with pytest.raises(errors.SoldOut) as again:
        await shop.inventory.reserve(KEYS, asked)

    assert (False, True) == (first.value.is_replay, again.value.is_replay)


async def test_a_key_with_another_body_is_refused(shop: Shop) -> None:
    """One key, one request."""
    asked = request("ann")
    await shop.inventory.reserve(KEYS, asked)

    with pytest.raises(IdempotencyKeyReused):
        await shop.inventory.reserve(KEYS, msgspec.structs.replace(asked, digest="another"))


async def test_keys_are_each_buyers_own(shop: Shop) -> None:
    """Another buyer's equal key is another key."""
    await shop.reserve("ann", key="1")

    assert not (await shop.reserve("bob", key="1")).is_replay


async def test_an_order_id_is_used_once(shop: Shop) -> None:
    """An id that stands for an order cannot be given to another one."""
    held = await shop.reserve("ann")

    with pytest.raises(IdempotencyKeyReused):
        await shop.reserve("bob", order=held.order)

    assert "ann" == (await shop.look(held.order)).buyer


@pytest.mark.parametrize(
    ("opens_at_ms", "closes_at_ms"), [(NEVER_MS, NEVER_MS + 1), (0, 1)], ids=["before it opens", "after it closed"]
)
async def test_the_clock_decides_whether_the_sale_is_open(
    shop_redis: Redis, opens_at_ms: int, closes_at_ms: int
) -> None:
    """By Redis's clock at the moment of the request."""
    shop = await Shop(shop_redis).open(with_terms(opens_at_ms=opens_at_ms, closes_at_ms=closes_at_ms), jacket=1)

    with pytest.raises(errors.SaleNotOpen):
        await shop.reserve()


async def test_changed_hours_are_in_force(shop: Shop) -> None:
    """Closing a sale stops the next reservation."""
    assert await shop.inventory.set_terms(KEYS, with_terms(closes_at_ms=1))
    assert not await shop.inventory.set_terms(KEYS, with_terms(closes_at_ms=1))

    with pytest.raises(errors.SaleNotOpen):
        await shop.reserve()


async def test_an_expired_pass_is_refused(shop: Shop) -> None:
    """By Redis's clock, not the caller's."""
    now_ms = (await shop.inventory.standing(KEYS)).at_ms

    with pytest.raises(errors.PassExpired):
        await shop.reserve(pass_exp_ms=now_ms)

    assert (await shop.reserve(pass_exp_ms=now_ms + 60_000)).rev == 1


@pytest.mark.parametrize(
    ("why", "error"), [("revoked", errors.PassRevoked), ("left", errors.PassSpent), ("expired", errors.PassSpent)]
)
async def test_an_ended_turn_is_refused(shop: Shop, why: str, error: type[Exception]) -> None:
    """A pass whose turn ended buys nothing, though it has not expired."""
    await shop.inventory.close_turns(KEYS.sale, ["turn-x"], why)

    with pytest.raises(error):
        await shop.reserve(turn="turn-x")


async def test_a_spent_pass_is_refused(shop: Shop) -> None:
    """A turn buys once."""
    order, attempt = await shop.pinned("ann", turn="turn-x")
    await shop.inventory.confirm(KEYS, order, attempt)

    with pytest.raises(errors.PassSpent):
        await shop.reserve("ann", turn="turn-x")


@pytest.mark.parametrize("same", ["buyer", "turn"])
async def test_one_open_reservation(shop: Shop, same: str) -> None:
    """Per buyer and per turn; giving it up makes room, with the same pass."""
    held = await shop.reserve("ann", turn="turn-x")
    fields = {"buyer": "ann", "turn": "turn-y"} if same == "buyer" else {"buyer": "bob", "turn": "turn-x"}
    with pytest.raises(errors.ReservationOpen):
        await shop.reserve(**fields)
    await shop.inventory.release(KEYS, held.order, "ann")

    assert (await shop.reserve(**fields)).rev == 1


async def test_the_limit_counts_what_was_bought(shop: Shop) -> None:
    """Two a buyer: one bought, and two more wanted."""
    order, attempt = await shop.pinned("ann")
    await shop.inventory.confirm(KEYS, order, attempt)

    with pytest.raises(errors.PurchaseLimitReached):
        await shop.reserve("ann", {"jacket": 2})

    assert (await shop.reserve("ann", {"jacket": 1})).rev == 1


async def test_the_limit_counts_every_item(shop: Shop) -> None:
    """Units of all items together."""
    with pytest.raises(errors.PurchaseLimitReached):
        await shop.reserve(items={"jacket": 2, "hat": 1})


async def test_a_product_of_another_sale(shop: Shop) -> None:
    """Refused by name; nothing is held."""
    with pytest.raises(errors.ProductUnknown):
        await shop.reserve(items={"jacket": 1, "sock": 1})

    assert {"free": 10, "stock": 10} == await shop.units()


@pytest.mark.parametrize("stream", ["money", "holdings"])
async def test_reserving_stops_when_the_record_is_behind(shop: Shop, stream: str) -> None:
    """An event older than the bound that nobody wrote down: even with the Flusher dead, reserving stops by itself, is
    not remembered as this key's answer, and goes on once the event is recorded."""
    event = (await shop.redis.xadd(getattr(KEYS, stream), {"verb": "old"}, id="5-0")).decode()
    asked = request("ann")
    with pytest.raises(errors.RecordBehind):
        await shop.inventory.reserve(KEYS, asked)

    await shop.inventory.announce(KEYS, stream, "0-0", event)

    assert not (await shop.inventory.reserve(KEYS, asked)).is_replay


async def test_below_zero_free_stops_reserving(shop: Shop) -> None:
    """Where the record has outranked Redis, nobody is promised a unit."""
    await shop.redis.hset(KEYS.stock, "jacket:free", -1)

    with pytest.raises(errors.SoldOut):
        await shop.reserve()


async def test_no_pass_where_none_is_required(shop_redis: Redis) -> None:
    """Terms without a pass ask for neither turn nor expiry."""
    shop = await Shop(shop_redis).open(with_terms(pass_required=False), jacket=1)

    assert (await shop.reserve(turn="", pass_exp_ms=0)).rev == 1


async def test_a_bad_item_in_a_batch_hurts_nobody_else(shop: Shop) -> None:
    """A buyer whose own entry cannot be read is refused; those before and after in the batch are served."""
    await shop.redis.hset(KEYS.buyers, "bob", b"\xc1 not packed")

    results = await asyncio.gather(*(shop.reserve(name) for name in ("ann", "bob", "cat")), return_exceptions=True)

    assert ["Held", "StoreUnavailable", "Held"] == [type(result).__name__ for result in results]
    assert {"free": 8, "held": 2, "stock": 10} == await shop.units()


async def test_a_cancelled_request_takes_nobody_with_it(shop: Shop) -> None:
    """Whoever hangs up may have reserved; the others of the batch are answered."""
    gone, stays = (asyncio.create_task(shop.reserve(name)) for name in ("ann", "bob"))
    await asyncio.sleep(0)
    gone.cancel()

    assert "bob" == (await shop.look((await stays).order)).buyer


async def test_refusals_of_one_buyer_are_remembered_so_often(shop: Shop) -> None:
    """Whoever is refused without end does not fill the memory of all; the place is free again when one is forgotten."""
    await shop.open_more(hat=-5)
    for number in range(101):
        with pytest.raises(errors.SoldOut):
            await shop.reserve("ann", {"hat": 1}, key=f"k{number}")
    assert 101 == await shop.redis.hlen(KEYS.keys)
    with pytest.raises(errors.SoldOut) as again:
        await shop.reserve("ann", {"hat": 1}, key="k0")
    assert again.value.is_replay

    await shop.redis.zadd(KEYS.ended, {"k|ann|k0": 1})
    await shop.inventory.forget(KEYS)

    with pytest.raises(errors.SoldOut):
        await shop.reserve("ann", {"hat": 1}, key="another")
    assert b"100" == await shop.redis.hget(KEYS.keys, "#ann")
    assert await shop.redis.hexists(KEYS.keys, "ann|another")
