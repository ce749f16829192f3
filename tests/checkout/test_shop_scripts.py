"""What the shop's scripts survive: wrong types on every key, memory full, a flushed script cache, unreadable values.
Either the whole change, or no trace of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from redis.asyncio import Redis
from shop_kit import KEYS, SALE, TERMS, Shop, new_attempt

from onsale.auth.errors import StoreUnavailable
from onsale.checkout.errors import CheckoutError
from onsale.lua.shop import KEYS as SCRIPT_KEYS

Call = Callable[[Shop, str, str], Coroutine[Any, Any, object]]

# One call of each script, on an order of ann's that is being paid with this attempt, or on what the call makes itself.
CALLS: dict[str, Call] = {
    "reserve": lambda shop, order, attempt: shop.reserve("bob"),
    "pin": lambda shop, order, attempt: shop.pin("order-held", "cat", new_attempt()),
    "confirm": lambda shop, order, attempt: shop.inventory.confirm(KEYS, order, attempt),
    "decline": lambda shop, order, attempt: shop.inventory.decline(KEYS, order, attempt, "funds"),
    "fail": lambda shop, order, attempt: shop.inventory.fail(KEYS, order, attempt, "other"),
    "refuse": lambda shop, order, attempt: shop.inventory.refuse(KEYS, order, attempt, "stock"),
    "release": lambda shop, order, attempt: shop.inventory.release(KEYS, "order-held", "cat"),
    "order_look": lambda shop, order, attempt: shop.inventory.look(KEYS, order),
    "lapse": lambda shop, order, attempt: shop.inventory.lapse(KEYS, 10),
    "figures": lambda shop, order, attempt: shop.inventory.figures(SALE),
    "close_turns": lambda shop, order, attempt: shop.inventory.close_turns(SALE, ["turn-x"], "left"),
    "closings": lambda shop, order, attempt: shop.inventory.closings(SALE, "0-0", 10),
    "move_stock": lambda shop, order, attempt: shop.inventory.move_stock(KEYS, "move", "jacket", 1),
    "announce": lambda shop, order, attempt: shop.inventory.announce(KEYS, "money", "0-0", "5-0"),
    "forget": lambda shop, order, attempt: shop.inventory.forget(KEYS),
    "shop_terms": lambda shop, order, attempt: shop.inventory.set_terms(KEYS, TERMS),
    "shop_standing": lambda shop, order, attempt: shop.inventory.standing(KEYS),
}
# A channel is no key; loading removes what is there, registering reads one field.
UNTYPED = {("announce", "verdicts")}
PAIRS = [(script, key) for script in CALLS for key in SCRIPT_KEYS[script] if (script, key) not in UNTYPED]
GROWS = ["reserve", "pin", "move_stock"]
FREES = ["release", "lapse", "confirm", "decline", "fail", "refuse", "close_turns", "announce", "forget"]


async def prepare(shop: Shop) -> tuple[str, str]:
    """An order being paid, one held, one past its expiry."""
    late = await shop.reserve("dan")
    await shop.age(late.order, 600_000)
    await shop.reserve("cat", order="order-held")
    return await shop.pinned("ann", {"jacket": 1, "hat": 1})


@pytest.mark.parametrize(("script", "key"), PAIRS)
async def test_a_key_of_another_type(shop: Shop, script: str, key: str) -> None:
    """No script writes half of a change because a key is not what it should be."""
    order, attempt = await prepare(shop)
    name = getattr(KEYS, key)
    await shop.redis.delete(name)
    await shop.redis.set(name, "not what it should be")
    before = await shop.dump()

    with pytest.raises((StoreUnavailable, CheckoutError)):
        await CALLS[script](shop, order, attempt)

    assert before == await shop.dump()


@pytest.fixture
async def full(shop: Shop) -> AsyncIterator[Callable[[], Coroutine[Any, Any, None]]]:
    """Fills Redis's memory when called; empties the bound afterwards."""

    async def fill() -> None:
        await shop.redis.config_set("maxmemory", 1)

    yield fill
    await shop.redis.config_set("maxmemory", 0)


@pytest.mark.parametrize("script", GROWS)
async def test_memory_full_refuses_what_grows(shop: Shop, full: Call, script: str) -> None:
    """Without a trace: the first write is the one that Redis refuses."""
    order, attempt = await prepare(shop)
    before = await shop.dump()
    await full()

    with pytest.raises(StoreUnavailable):
        await CALLS[script](shop, order, attempt)

    assert before == await shop.dump()


@pytest.mark.parametrize("script", FREES)
async def test_memory_full_lets_units_go(shop: Shop, full: Call, script: str) -> None:
    """What ends something works: units come back, a paid order is sold, the record is announced."""
    order, attempt = await prepare(shop)
    before = await shop.dump()
    await full()

    await CALLS[script](shop, order, attempt)

    if script != "forget":
        assert before != await shop.dump()


async def test_memory_full_keeps_the_books(shop: Shop, full: Call) -> None:
    """Every unit is in one counter afterwards."""
    order, attempt = await prepare(shop)
    await full()

    await shop.inventory.confirm(KEYS, order, attempt)
    await shop.inventory.release(KEYS, "order-held", "cat")
    await shop.inventory.lapse(KEYS, 10)

    assert {"free": 9, "sold": 1, "stock": 10} == await shop.units("jacket")
    assert {"free": 4, "sold": 1, "stock": 5} == await shop.units("hat")


async def test_a_flushed_script_cache(shop: Shop) -> None:
    """Nobody notices."""
    order, attempt = await prepare(shop)
    await shop.redis.script_flush()

    await shop.inventory.confirm(KEYS, order, attempt)

    assert {"free": 7, "held": 2, "sold": 1, "stock": 10} == await shop.units("jacket")


@pytest.mark.parametrize("script", ["pin", "confirm", "decline", "fail", "refuse", "release"])
@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        ("stock", "jacket:free", "many"),
        ("stock", "jacket:held", "1.5"),
        ("stock", "jacket:claimed", ""),
        ("stock", "jacket:sold", "nan"),
        ("stock", "jacket:withdrawn", "-"),
        ("orders", None, b"\xc1"),
        ("orders", None, b"\x01"),
        ("buyers", None, b"\x93\xa1x\xa1y\xa1z"),
        ("turns", None, b"\xc1"),
    ],
)
async def test_a_value_nobody_can_read(shop: Shop, script: str, key: str, field: str | None, value: str) -> None:
    """The whole change, or no trace of it: never an event without its change."""
    order, attempt = await prepare(shop)
    fields = [field] if field else await shop.redis.hkeys(getattr(KEYS, key))
    await shop.redis.hset(getattr(KEYS, key), mapping=dict.fromkeys(fields, value))
    before = await shop.dump()

    try:
        await CALLS[script](shop, order, attempt)
    except StoreUnavailable:
        assert before == await shop.dump()
    else:
        assert before != await shop.dump()


async def test_redis_away(shop: Shop, shop_redis: Redis) -> None:
    """Said, not repeated: a script whose answer was lost may have run."""
    await shop.inventory.close()
    lost = Shop(Redis(host="127.0.0.1", port=1))

    with pytest.raises(StoreUnavailable):
        await lost.reserve()


async def test_batches_of_many_sales(shop_redis: Redis) -> None:
    """Sales do not share batches, and idle ones do not stay for ever."""
    shops = [Shop(shop_redis, type(KEYS)(f"sale-{number}", 1)) for number in range(4)]
    first = shops[0].inventory
    for one in shops:
        one.inventory = first
        await one.open(jacket=1)

    results = await asyncio.gather(*(one.reserve() for one in shops for _ in range(3)), return_exceptions=True)

    assert 4 == sum(not isinstance(result, Exception) for result in results)
    await first.close()
