"""Giving a reservation up."""

from __future__ import annotations

import pytest
from shop_kit import KEYS, Shop

from onsale.checkout import errors
from onsale.checkout.inventory import OrderState


async def test_units_are_free_again(shop: Shop) -> None:
    """One `released` event; turn and pass stay."""
    held = await shop.reserve("ann", {"jacket": 2}, turn="turn-x")

    changed = await shop.inventory.release(KEYS, held.order, "ann")

    assert (OrderState.RELEASED, 2, False) == (changed.state, changed.rev, changed.is_replay)
    assert {"free": 10, "stock": 10} == await shop.units()
    event = (await shop.events("holdings"))[-1]
    assert ("released", held.order, "2") == (event["verb"], event["order"], event["rev"])
    assert (await shop.reserve("ann", turn="turn-x")).rev == 1


async def test_repeated(shop: Shop) -> None:
    """The same answer, also while the buyer holds another order by then."""
    held = await shop.reserve("ann")
    first = await shop.inventory.release(KEYS, held.order, "ann")
    other = await shop.reserve("ann")

    again = await shop.inventory.release(KEYS, held.order, "ann")

    assert (first.event_id, True) == (again.event_id, again.is_replay)
    assert OrderState.RESERVED == (await shop.look(other.order)).state
    assert {"free": 9, "held": 1, "stock": 10} == await shop.units()


async def test_somebody_elses(shop: Shop) -> None:
    held = await shop.reserve("ann")

    with pytest.raises(errors.OrderUnknown):
        await shop.inventory.release(KEYS, held.order, "bob")


async def test_lapsed(shop: Shop) -> None:
    held = await shop.reserve("ann")
    await shop.age(held.order, 600_000)
    await shop.inventory.lapse(KEYS, 1)

    with pytest.raises(errors.OrderExpired):
        await shop.inventory.release(KEYS, held.order, "ann")


async def test_being_paid_and_paid(shop: Shop) -> None:
    """A pinned order can no longer be given up: the provider may be charging it."""
    order, attempt = await shop.pinned("ann")
    with pytest.raises(errors.OrderStateConflict):
        await shop.inventory.release(KEYS, order, "ann")
    await shop.inventory.confirm(KEYS, order, attempt)

    with pytest.raises(errors.OrderStateConflict):
        await shop.inventory.release(KEYS, order, "ann")


async def test_after_a_decline(shop: Shop) -> None:
    """A buyer whose card was declined may give up."""
    order, attempt = await shop.pinned("ann")
    await shop.inventory.decline(KEYS, order, attempt, "funds")

    assert (OrderState.RELEASED, 4) == (
        (changed := await shop.inventory.release(KEYS, order, "ann")).state,
        changed.rev,
    )
