"""Confirming: a paid claim is sold once, and a recorded claim outranks what Redis has forgotten."""

from __future__ import annotations

import asyncio

import pytest
from shop_kit import KEYS, Shop, new_attempt, order_doc

from onsale.checkout import errors
from onsale.checkout.inventory import OrderState
from onsale.lua.shop import TurnClosing


async def test_units_move_from_claimed_to_sold(shop: Shop) -> None:
    """One `confirmed` event, the turn spent and closed, the buyer's open mark gone."""
    order, attempt = await shop.pinned("ann", turn="turn-x")

    changed = await shop.inventory.confirm(KEYS, order, attempt)

    assert (OrderState.CONFIRMED, 3, False) == (changed.state, changed.rev, changed.is_replay)
    assert {"free": 9, "sold": 1, "stock": 10} == await shop.units()
    event = (await shop.events("money"))[-1]
    assert ("confirmed", order, "3", attempt) == tuple(event[n] for n in ("verb", "order", "rev", "attempt_id"))
    [closing] = await shop.inventory.closings(KEYS.sale, "0-0", 10)
    assert TurnClosing(closing.event_id, "turn-x", "completed") == closing


async def test_repeats_answer_the_same(shop: Shop) -> None:
    """Five copies at once: one sale, one event, one closing."""
    order, attempt = await shop.pinned("ann")

    copies = await asyncio.gather(*(shop.inventory.confirm(KEYS, order, attempt) for _ in range(5)))

    assert 1 == len({copy.event_id for copy in copies}) == sum(not copy.is_replay for copy in copies)
    assert {"free": 9, "sold": 1, "stock": 10} == await shop.units()
    assert (2, 1) == (len(await shop.events("money")), len(await shop.events("closings")))


async def test_a_turn_that_was_left_closes_once(shop: Shop) -> None:
    """Its holder left the line while paying: the order is theirs, the line is told once."""
    order, attempt = await shop.pinned("ann", turn="turn-x")
    await shop.inventory.close_turns(KEYS.sale, ["turn-x"], "left")

    await shop.inventory.confirm(KEYS, order, attempt)

    assert ["left"] == [closing.why for closing in await shop.inventory.closings(KEYS.sale, "0-0", 10)]


@pytest.mark.parametrize("ending", ["decline", "fail"])
async def test_a_claim_that_ended_otherwise(shop: Shop, ending: str) -> None:
    """A late capture finds no claim: the caller gives the money back."""
    order, attempt = await shop.pinned("ann")
    await getattr(shop.inventory, ending)(KEYS, order, attempt, "funds")

    with pytest.raises(errors.OrderStateConflict):
        await shop.inventory.confirm(KEYS, order, attempt, order_doc(order, "ann", "t", {"jacket": 1}, "k"))

    assert "sold" not in await shop.units()


async def test_an_earlier_attempt_than_the_one_that_runs(shop: Shop) -> None:
    """The first card's late success cannot sell what the second is paying for."""
    order, first = await shop.pinned("ann")
    await shop.inventory.decline(KEYS, order, first, "funds")
    await shop.pin(order, "ann", new_attempt())

    with pytest.raises(errors.OrderStateConflict):
        await shop.inventory.confirm(KEYS, order, first)


async def test_an_unknown_order_without_its_document(shop: Shop) -> None:
    with pytest.raises(errors.OrderUnknown):
        await shop.inventory.confirm(KEYS, "forgotten", "attempt")


async def test_a_forgotten_order_is_made_again(shop: Shop) -> None:
    """Redis knows nothing of it, the record has its claim open and it was charged: sold, with a rev that the record
    takes for newer than any it has, and repeats answer the same."""
    doc = order_doc("forgotten", "ann", "turn-x", {"jacket": 2}, "key-1")

    changed = await shop.inventory.confirm(KEYS, "forgotten", "attempt-1", doc)
    again = await shop.inventory.confirm(KEYS, "forgotten", "attempt-1", doc)

    assert (100, changed.event_id, True) == (changed.rev, again.event_id, again.is_replay)
    assert {"free": 8, "sold": 2, "stock": 10} == await shop.units()
    view = await shop.look("forgotten")
    assert ("confirmed", "ann", (("jacket", 2),)) == (view.state, view.buyer, view.items)
    with pytest.raises(errors.PassSpent):
        await shop.reserve("bob", turn="turn-x")
    with pytest.raises(errors.PurchaseLimitReached):
        await shop.reserve("ann")


async def test_units_are_counted_by_how_their_hold_ended(shop: Shop) -> None:
    """Kept when they are sold, back when they are released or lapse, once however often it is said; neither before."""
    sold, given_up, lapsed = [await shop.reserve(buyer, {"jacket": 2}) for buyer in ("ann", "bob", "cat")]
    held = await shop.inventory.figures(KEYS.sale)
    await shop.pin(sold.order, "ann", new_attempt(attempt="attempt-1"))
    for _ in range(2):
        await shop.inventory.confirm(KEYS, sold.order, "attempt-1")
        await shop.inventory.release(KEYS, given_up.order, "bob")
    await shop.age(lapsed.order, 10_000_000)
    await shop.inventory.lapse(KEYS, 10)
    ended = await shop.inventory.figures(KEYS.sale)

    assert (6, 0, 0) == (held.held, held.kept, held.back)
    assert (0, 2, 4) == (ended.held, ended.kept, ended.back)


async def test_a_forgotten_order_is_made_again_below_zero(shop: Shop) -> None:
    """Nobody who was charged is turned away; nobody else is promised the unit."""
    await shop.open_more(jacket=-10)

    await shop.inventory.confirm(KEYS, "forgotten", "a", order_doc("forgotten", "ann", "t", {"jacket": 1}, "k"))

    assert {"free": -1, "sold": 1} == await shop.units()
    assert (5, 1) == ((figures := await shop.inventory.figures(KEYS.sale)).free, figures.sold)


@pytest.mark.parametrize("state", ["reserved", "expired", "released"])
async def test_a_forgotten_claim_of_a_known_order(shop: Shop, state: str) -> None:
    """Redis has the order as it was before the pin, or ended since: sold from where its units are."""
    held = await shop.reserve("ann", turn="turn-x")
    if state == "released":
        await shop.inventory.release(KEYS, held.order, "ann")
    if state == "expired":
        await shop.age(held.order, 600_000)
        await shop.inventory.lapse(KEYS, 1)

    changed = await shop.inventory.confirm(
        KEYS, held.order, "attempt-1", order_doc(held.order, "ann", "turn-x", {"jacket": 1}, "k")
    )

    assert (OrderState.CONFIRMED, 100) == (changed.state, changed.rev)
    assert {"free": 9, "sold": 1, "stock": 10} == await shop.units()
    assert 0 == await shop.redis.zcard(KEYS.holds)
    with pytest.raises(errors.PurchaseLimitReached):
        await shop.reserve("ann", {"jacket": 2})
