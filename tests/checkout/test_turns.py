"""Ending turns: the line is told once, a late reserve is refused, an open order keeps its turn."""

from __future__ import annotations

from shop_kit import KEYS, SALE, Shop

from onsale.lua.shop import TurnClosing


async def test_a_turn_nobody_used(shop: Shop) -> None:
    """Closed at once, told once, however often it is asked."""
    answers = [await shop.inventory.close_turns(SALE, ["turn-x"], "expired") for _ in range(2)]

    assert [[0], [0]] == answers
    [closing] = await shop.inventory.closings(SALE, "0-0", 10)
    assert TurnClosing(closing.event_id, "turn-x", "expired") == closing


async def test_an_open_order_keeps_its_turn(shop: Shop) -> None:
    """Until the order's expiry; once it has ended, the turn closes."""
    held = await shop.reserve("ann", turn="turn-x")
    assert [held.expires_at_ms] == await shop.inventory.close_turns(SALE, ["turn-x"], "expired")
    await shop.inventory.release(KEYS, held.order, "ann")

    assert [0] == await shop.inventory.close_turns(SALE, ["turn-x"], "expired")


async def test_a_payment_in_flight_keeps_its_turn(shop: Shop) -> None:
    """It has no end of its own: ask again in a few seconds."""
    await shop.pinned("ann", turn="turn-x")
    now_ms = (await shop.inventory.standing(KEYS)).at_ms

    [until_ms] = await shop.inventory.close_turns(SALE, ["turn-x"], "expired")

    assert 5_000 <= until_ms - now_ms < 10_000


async def test_leaving_and_revoking_do_not_wait(shop: Shop) -> None:
    """The turn closes though its order is open; the order can still be paid."""
    order, attempt = await shop.pinned("ann", turn="turn-x")

    assert [0] == await shop.inventory.close_turns(SALE, ["turn-x"], "left")
    assert "confirmed" == (await shop.inventory.confirm(KEYS, order, attempt)).state


async def test_many_turns(shop: Shop) -> None:
    """More than a batch, answered in order."""
    held = await shop.reserve("ann", turn="turn-700")
    turns = [f"turn-{number}" for number in range(1_000)]

    answers = await shop.inventory.close_turns(SALE, turns, "expired")

    assert {700: held.expires_at_ms} == {place: until for place, until in enumerate(answers) if until}
    assert 999 == await shop.redis.xlen(KEYS.closings)


async def test_closings_after_an_id(shop: Shop) -> None:
    """Oldest first, at most so many, from where the reader was."""
    await shop.inventory.close_turns(SALE, ["a", "b", "c"], "expired")
    [first] = await shop.inventory.closings(SALE, "0-0", 1)

    rest = await shop.inventory.closings(SALE, first.event_id, 10)

    assert (["a"], ["b", "c"]) == ([first.turn], [closing.turn for closing in rest])
