"""Holding without buying: whoever lets orders lapse again and again waits, and others get the units meanwhile."""

from __future__ import annotations

import pytest
from shop_kit import KEYS, Shop

from onsale.checkout import errors

HOLD_MS = 600_000


async def drop(shop: Shop, buyer: str) -> None:
    """Hold one unit until it lapses."""
    held = await shop.reserve(buyer)
    await shop.age(held.order, HOLD_MS)
    await shop.inventory.lapse(KEYS, 10)


async def test_two_lapses_are_forgiven(shop: Shop) -> None:
    """Two may be bad luck; after them a buyer waits as long as a hold lives."""
    await drop(shop, "ann")
    await drop(shop, "ann")

    with pytest.raises(errors.TooManyDrops) as refused:
        await shop.reserve("ann")

    assert HOLD_MS // 1000 - 5 <= refused.value.retry_after_s <= HOLD_MS // 1000


async def test_each_further_lapse_doubles_the_wait(shop: Shop) -> None:
    """Up to eight lives of a hold."""
    await drop(shop, "ann")
    waits = []
    for _ in range(6):
        await drop(shop, "ann")
        with pytest.raises(errors.TooManyDrops) as refused:
            await shop.reserve("ann")
        waits.append(round(refused.value.retry_after_s * 1000 / HOLD_MS, 1))
        await shop.let_pass("ann", 8 * HOLD_MS)

    assert [1.0, 2.0, 4.0, 8.0, 8.0, 8.0] == waits


async def test_the_refusal_is_not_the_keys_answer(shop: Shop) -> None:
    """It is over by itself: the same key reserves then."""
    await drop(shop, "ann")
    await drop(shop, "ann")
    with pytest.raises(errors.TooManyDrops):
        await shop.reserve("ann", key="again")
    await shop.let_pass("ann", HOLD_MS)

    assert 1 == (await shop.reserve("ann", key="again")).rev


@pytest.mark.parametrize(("hundredths", "times"), [(100, 2), (99, 3), (49, 5), (10, 20), (1, 200)])
async def test_given_up_counts_for_as_long_as_it_was_held(shop: Shop, hundredths: int, times: int) -> None:
    """Holding and giving up again and again keeps units from others as lapses do."""
    for _ in range(times):
        held = await shop.reserve("ann")
        await shop.age(held.order, HOLD_MS * hundredths // 100)
        await shop.inventory.release(KEYS, held.order, "ann")

    with pytest.raises(errors.TooManyDrops):
        await shop.reserve("ann")


async def test_a_change_of_mind_costs_nothing(shop: Shop) -> None:
    """Given up within a hundredth of a hold's life, however often."""
    for _ in range(30):
        held = await shop.reserve("ann")
        await shop.age(held.order, HOLD_MS // 100 - 2_000)
        await shop.inventory.release(KEYS, held.order, "ann")

    assert 1 == (await shop.reserve("ann")).rev


async def test_a_clock_that_went_back_makes_nobody_wait(shop: Shop) -> None:
    """Whoever dropped at a time that is yet to come would wait until then, and as long again."""
    await drop(shop, "ann")
    await drop(shop, "ann")
    await shop.let_pass("ann", -3_600_000)

    assert 1 == (await shop.reserve("ann")).rev


async def test_whoever_buys_starts_anew(shop: Shop) -> None:
    await drop(shop, "ann")
    order, attempt = await shop.pinned("ann")
    await shop.inventory.confirm(KEYS, order, attempt)
    await drop(shop, "ann")

    assert 1 == (await shop.reserve("ann")).rev


async def test_everybody_else_sells_out(shop: Shop) -> None:
    """Ten units, ten who hold and drop for ever, forty who buy: all units are sold within a few lives of a hold."""
    bots, people = [f"bot-{n}" for n in range(10)], [f"person-{n}" for n in range(40)]
    rounds = 0
    while (await shop.units()).get("sold", 0) < 10 and rounds < 20:
        rounds += 1
        # The bots are always first.
        for who in [*bots, *people]:
            try:
                held = await shop.reserve(who)
            except (errors.TooManyDrops, errors.SoldOut):
                continue
            if who in bots:
                await shop.age(held.order, HOLD_MS)
            else:
                pinned = await shop.pin(held.order, who)
                await shop.inventory.confirm(KEYS, held.order, pinned.attempt)
        await shop.inventory.lapse(KEYS, 100)

    assert 3 == rounds, "two rounds are the bots', the third is the others'"
    assert {"sold": 10, "stock": 10} == await shop.units()
