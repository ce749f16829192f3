"""The reaper: units of a hold past its expiry are free, in every sale, whatever the others are at."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis
from shop_kit import KEYS, TERMS, Shop

from onsale.checkout.caretaker import Caretaker
from onsale.checkout.reaper import Reaper, ReapTick
from onsale.lua.keys import ShopKeys


@dataclass
class SaleStub:
    """What reaper and caretaker read of a sale."""

    id: str
    shop_epoch: int = 1
    opens_at_ms: int = TERMS.opens_at_ms
    closes_at_ms: int = TERMS.closes_at_ms
    limit_per_buyer: int = TERMS.limit_per_buyer
    hold_ttl_s: int = 600
    is_shop: bool = False


class BookStub:
    """A book of these sales."""

    def __init__(self, *sales: SaleStub) -> None:
        self._sales = sales

    def sellers(self) -> tuple[SaleStub, ...]:
        return self._sales


async def test_a_hold_lapses_at_its_expiry(shop: Shop) -> None:
    """Free again with one `lapsed` event; buyer and turn may reserve anew."""
    held = await shop.reserve("ann", turn="turn-x")
    await shop.age(held.order, 600_000)

    tick = await Reaper(shop.inventory, BookStub(SaleStub(KEYS.sale))).tick()

    assert ReapTick(expired=1, more=False) == tick
    assert {"free": 10, "stock": 10} == await shop.units()
    assert "expired" == (await shop.look(held.order)).state
    event = (await shop.events("holdings"))[-1]
    assert ("lapsed", held.order, "2") == (event["verb"], event["order"], event["rev"])
    assert (await shop.reserve("ann", turn="turn-x")).rev == 1


async def test_a_hold_lives_until_its_expiry(shop: Shop) -> None:
    held = await shop.reserve("ann")
    await shop.age(held.order, 590_000)

    tick = await Reaper(shop.inventory, BookStub(SaleStub(KEYS.sale))).tick()

    assert ReapTick(expired=0, more=False) == tick


async def test_a_storm_of_expiries(shop_redis: Redis) -> None:
    """More than a batch in one tick, each once."""
    shop = await Shop(shop_redis).open(jacket=450)
    for _ in range(450):
        await shop.age((await shop.reserve()).order, 600_000)

    tick = await Reaper(shop.inventory, BookStub(SaleStub(KEYS.sale))).tick()

    assert ReapTick(expired=450, more=False) == tick
    assert {"free": 450, "stock": 450} == await shop.units()


async def test_two_reapers_lapse_once(shop: Shop) -> None:
    held = await shop.reserve("ann")
    await shop.age(held.order, 600_000)
    book = BookStub(SaleStub(KEYS.sale))

    ticks = [await Reaper(shop.inventory, book).tick() for _ in range(2)]

    assert [1, 0] == [tick.expired for tick in ticks]


async def test_a_sale_being_recovered_keeps_no_other_waiting(shop: Shop) -> None:
    """It is named, and tried again at the next tick."""
    held = await shop.reserve("ann")
    await shop.age(held.order, 600_000)
    book = BookStub(SaleStub("not-loaded", shop_epoch=0), SaleStub(KEYS.sale))

    tick = await Reaper(shop.inventory, book).tick()

    assert ReapTick(expired=1, more=False, postponed=("not-loaded",)) == tick


async def test_a_member_that_holds_nothing_is_dropped(shop: Shop) -> None:
    """An order that is not reserved cannot stay at the head of the list for ever."""
    await shop.redis.zadd(KEYS.holds, {"never-made": 1})

    assert 0 == (await shop.inventory.lapse(KEYS, 10)).expired
    assert 0 == await shop.redis.zcard(KEYS.holds)


async def test_the_caretaker_puts_terms_in_force(shop: Shop) -> None:
    """Once; a sale as it was costs nothing."""
    caretaker = Caretaker(shop.inventory, BookStub(SaleStub(KEYS.sale, limit_per_buyer=5)))

    ticks = [await caretaker.tick() for _ in range(2)]

    assert [1, 0] == [tick.terms_changed for tick in ticks]
    assert (await shop.reserve(items={"jacket": 5})).rev == 1


async def test_the_caretaker_forgets_what_is_old_and_recorded(shop: Shop) -> None:
    """An order that ended over a day ago goes with its document, key and turn once its event is recorded, not before,
    and so does that its buyer dropped it; what was bought is still counted."""
    order, attempt = await shop.pinned("ann", turn="turn-x")
    confirmed = await shop.inventory.confirm(KEYS, order, attempt)
    await shop.open_more(hat=-5)
    await shop.refused("bob", {"hat": 1})
    dropped = await shop.reserve("cat")
    await shop.age(dropped.order, 600_000)
    await shop.inventory.lapse(KEYS, 1)
    await shop.inventory.announce(KEYS, "holdings", "0-0", "9999999999999-0")
    await shop.redis.zadd(KEYS.ended, dict.fromkeys(await shop.redis.zrange(KEYS.ended, 0, -1), 1))
    caretaker = Caretaker(shop.inventory, BookStub(SaleStub(KEYS.sale)))

    await caretaker.tick()
    assert "confirmed" == (await shop.look(order)).state
    await shop.inventory.announce(KEYS, "money", "0-0", confirmed.event_id)
    await caretaker.tick()

    assert await shop.inventory.look(KEYS, order) is None
    left = [getattr(ShopKeys(KEYS.sale, 1), name) for name in ("orders", "docs", "keys", "turns", "ended")]
    assert 0 == await shop.redis.exists(*left)
    assert {"free": 9, "sold": 1, "stock": 10} == await shop.units()
    assert 1 == await shop.redis.hlen(KEYS.buyers)


async def test_the_caretaker_keeps_what_ended_today(shop: Shop) -> None:
    held = await shop.reserve("ann")
    changed = await shop.inventory.release(KEYS, held.order, "ann")
    await shop.inventory.announce(KEYS, "holdings", "0-0", changed.event_id)

    await Caretaker(shop.inventory, BookStub(SaleStub(KEYS.sale))).tick()

    assert "released" == (await shop.look(held.order)).state
