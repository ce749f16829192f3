"""Pinning: a hold that is being paid can no longer lapse, and each key tries once."""

from __future__ import annotations

import msgspec
import pytest
from shop_kit import KEYS, Shop, new_attempt

from onsale.auth.errors import IdempotencyKeyReused
from onsale.checkout import errors
from onsale.checkout.record.events import AttemptDoc


async def test_units_move_from_held_to_claimed(shop: Shop) -> None:
    """Off the reaper's list, with one event that carries order and attempt whole."""
    held = await shop.reserve("ann")
    attempt = new_attempt()

    pinned = await shop.pin(held.order, "ann", attempt)

    assert ("confirming", 2, attempt.attempt, False) == (pinned.state, pinned.rev, pinned.attempt, pinned.is_replay)
    assert {"free": 9, "claimed": 1, "stock": 10} == await shop.units()
    assert 0 == await shop.redis.zcard(KEYS.holds)
    [event] = await shop.events("money")
    assert ("claimed", held.order, "2", held.doc.decode()) == tuple(event[n] for n in ("verb", "order", "rev", "doc"))
    assert attempt == msgspec.json.decode(event["attempt"], type=AttemptDoc)


async def test_the_same_attempt_again(shop: Shop) -> None:
    """The same event, no second claim."""
    held = await shop.reserve("ann")
    attempt = new_attempt()
    first = await shop.pin(held.order, "ann", attempt)

    again = await shop.pin(held.order, "ann", attempt)

    assert (first.event_id, first.rev, True, "open") == (again.event_id, again.rev, again.is_replay, again.outcome)
    assert 1 == len(await shop.events("money"))


async def test_the_same_key_with_another_attempt(shop: Shop) -> None:
    """A doubled request made an id of its own: it is told of the attempt that the key has."""
    held = await shop.reserve("ann")
    first = await shop.pin(held.order, "ann", new_attempt(idempotency_key="k"))

    again = await shop.pin(held.order, "ann", new_attempt(idempotency_key="k"))

    assert (first.attempt, "k", True) == (again.attempt, again.key, again.is_replay)


async def test_the_same_key_with_another_body(shop: Shop) -> None:
    """One key, one request."""
    held = await shop.reserve("ann")
    await shop.pin(held.order, "ann", new_attempt(idempotency_key="k"))

    with pytest.raises(IdempotencyKeyReused):
        await shop.pin(held.order, "ann", new_attempt(idempotency_key="k", body_digest="another"))


async def test_another_key_while_it_is_being_paid(shop: Shop) -> None:
    """Whatever the key: the attempt that runs."""
    order, attempt = await shop.pinned("ann")

    again = await shop.pin(order, "ann")

    assert ("confirming", attempt, True) == (again.state, again.attempt, again.is_replay)


async def test_any_key_once_it_is_paid(shop: Shop) -> None:
    """Whatever the key: the attempt that was sold."""
    order, attempt = await shop.pinned("ann")
    await shop.inventory.confirm(KEYS, order, attempt)

    again = await shop.pin(order, "ann")

    assert ("confirmed", attempt, "sold", True) == (again.state, again.attempt, again.outcome, again.is_replay)


async def test_the_key_of_a_declined_try(shop: Shop) -> None:
    """Repeating a declined confirmation answers that decline; it does not charge again."""
    held = await shop.reserve("ann")
    declined = new_attempt()
    await shop.pin(held.order, "ann", declined)
    await shop.inventory.decline(KEYS, held.order, declined.attempt, "funds")

    again = await shop.pin(held.order, "ann", declined)

    assert ("reserved", "declined", "funds", True) == (again.state, again.outcome, again.reason, again.is_replay)
    assert 1 == len((await shop.look(held.order)).attempts)


async def test_past_its_expiry(shop: Shop) -> None:
    """Though the reaper has not come yet: its units may be another's in a moment."""
    held = await shop.reserve("ann")
    await shop.age(held.order, 600_000)

    with pytest.raises(errors.OrderExpired):
        await shop.pin(held.order, "ann")


async def test_lapsed(shop: Shop) -> None:
    held = await shop.reserve("ann")
    await shop.age(held.order, 600_000)
    await shop.inventory.lapse(KEYS, 10)

    with pytest.raises(errors.OrderExpired):
        await shop.pin(held.order, "ann")


async def test_given_up(shop: Shop) -> None:
    held = await shop.reserve("ann")
    await shop.inventory.release(KEYS, held.order, "ann")

    with pytest.raises(errors.OrderStateConflict):
        await shop.pin(held.order, "ann")


@pytest.mark.parametrize("buyer", ["bob", "ann"])
async def test_somebody_elses_or_nobodys_order(shop: Shop, buyer: str) -> None:
    """The same answer, whether the order exists or not."""
    held = await shop.reserve("cat")

    with pytest.raises(errors.OrderUnknown):
        await shop.pin(held.order if buyer == "bob" else "never-made", buyer)


async def test_a_pinned_order_cannot_lapse(shop: Shop) -> None:
    """However old it is."""
    held = await shop.reserve("ann")
    await shop.pin(held.order, "ann")

    assert 0 == (await shop.inventory.lapse(KEYS, 10)).expired
    assert "confirming" == (await shop.look(held.order)).state
