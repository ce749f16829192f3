"""How a claim ends without a sale: declined and tried again, failed, or refused by the record."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from shop_kit import KEYS, Shop, new_attempt, order_doc, with_terms

from onsale.checkout import errors
from onsale.checkout.inventory import OrderState


async def test_a_declined_order_goes_back_to_its_buyer(shop: Shop) -> None:
    """Held again, on the reaper's list with the expiry it had, one `declined` event."""
    order, attempt = await shop.pinned("ann")
    before = await shop.look(order)

    changed = await shop.inventory.decline(KEYS, order, attempt, "funds")

    assert (OrderState.RESERVED, 3, before.expires_at_ms) == (changed.state, changed.rev, changed.expires_at_ms)
    assert {"free": 9, "held": 1, "stock": 10} == await shop.units()
    assert changed.expires_at_ms == await shop.redis.zscore(KEYS.holds, order)
    event = (await shop.events("money"))[-1]
    assert ("declined", "3", attempt, "funds", str(changed.expires_at_ms)) == tuple(
        event[name] for name in ("verb", "rev", "attempt_id", "reason", "expires")
    )


async def test_at_least_a_minute_is_left_to_pay(shop: Shop) -> None:
    """A decline after the old expiry does not lapse at once."""
    held = await shop.reserve("ann")
    attempt = new_attempt()
    await shop.pin(held.order, "ann", attempt)
    await shop.age(held.order, 700_000)
    await shop.redis.zrem(KEYS.holds, held.order)

    changed = await shop.inventory.decline(KEYS, held.order, attempt.attempt, "funds")

    now_ms = (await shop.inventory.standing(KEYS)).at_ms
    assert 59_000 < changed.expires_at_ms - now_ms <= 60_000
    assert 0 == (await shop.inventory.lapse(KEYS, 10)).expired


async def test_never_beyond_two_lives_of_a_hold(shop: Shop) -> None:
    """A buyer cannot keep a unit by being declined: the last minute is cut at twice the hold."""
    order, attempt = await shop.pinned("ann")
    await shop.age(order, 1_190_000)
    await shop.redis.zrem(KEYS.holds, order)

    changed = await shop.inventory.decline(KEYS, order, attempt, "funds")

    assert 1_200_000 == changed.expires_at_ms - (await shop.look(order)).reserved_at_ms


async def test_no_time_left_to_pay(shop: Shop) -> None:
    """Beyond two lives of a hold a decline is the end, and says so."""
    order, attempt = await shop.pinned("ann")
    await shop.age(order, 1_200_000)
    await shop.redis.zrem(KEYS.holds, order)

    changed = await shop.inventory.decline(KEYS, order, attempt, "funds")

    assert OrderState.PAYMENT_FAILED == changed.state
    assert {"free": 10, "stock": 10} == await shop.units()


async def test_a_hold_extended_by_an_outage_is_not_cut(shop_redis: Redis) -> None:
    """An expiry that was promised stands, even beyond the cap."""
    shop = await Shop(shop_redis).open(with_terms(hold_ttl_ms=1_000), jacket=1)
    await shop.inventory.set_terms(KEYS, with_terms(hold_ttl_ms=600_000))
    order, attempt = await shop.pinned("ann")
    await shop.inventory.set_terms(KEYS, with_terms(hold_ttl_ms=1_000))
    before = await shop.look(order)

    assert before.expires_at_ms == (await shop.inventory.decline(KEYS, order, attempt, "funds")).expires_at_ms


async def test_the_fifth_decline_fails_the_order(shop: Shop) -> None:
    """Four times back to reserved, then over."""
    held = await shop.reserve("ann")
    states = []
    for _ in range(5):
        attempt = new_attempt()
        await shop.pin(held.order, "ann", attempt)
        states.append((await shop.inventory.decline(KEYS, held.order, attempt.attempt, "funds")).state)

    assert [OrderState.RESERVED] * 4 + [OrderState.PAYMENT_FAILED] == states
    assert {"free": 10, "stock": 10} == await shop.units()
    assert ("failed", "11") == ((event := (await shop.events("money"))[-1])["verb"], event["rev"])


async def test_a_decline_repeated(shop: Shop) -> None:
    """The same event; the try that runs by then is not touched."""
    order, attempt = await shop.pinned("ann")
    first = await shop.inventory.decline(KEYS, order, attempt, "funds")
    await shop.pin(order, "ann")

    again = await shop.inventory.decline(KEYS, order, attempt, "funds")

    assert (first.event_id, first.rev, True) == (again.event_id, again.rev, again.is_replay)
    assert OrderState.CONFIRMING == again.state
    assert {"free": 9, "claimed": 1, "stock": 10} == await shop.units()


async def test_a_final_decline(shop: Shop) -> None:
    """Units free, the order over, one `failed` event, and the buyer may reserve again with the same pass."""
    order, attempt = await shop.pinned("ann", turn="turn-x")

    changed = await shop.inventory.fail(KEYS, order, attempt, "provider")

    assert (OrderState.PAYMENT_FAILED, 3) == (changed.state, changed.rev)
    assert {"free": 10, "stock": 10} == await shop.units()
    event = (await shop.events("money"))[-1]
    assert ("failed", attempt, "provider") == tuple(event[name] for name in ("verb", "attempt_id", "reason"))
    assert (await shop.reserve("ann", turn="turn-x")).rev == 1


async def test_a_final_decline_repeated(shop: Shop) -> None:
    order, attempt = await shop.pinned("ann")
    first = await shop.inventory.fail(KEYS, order, attempt, "provider")

    again = await shop.inventory.fail(KEYS, order, attempt, "provider")

    assert (first.event_id, True) == (again.event_id, again.is_replay)
    assert {"free": 10, "stock": 10} == await shop.units()


@pytest.mark.parametrize("verb", ["decline", "fail"])
async def test_a_sold_claim_cannot_fail(shop: Shop, verb: str) -> None:
    order, attempt = await shop.pinned("ann")
    await shop.inventory.confirm(KEYS, order, attempt)

    with pytest.raises(errors.OrderStateConflict):
        await getattr(shop.inventory, verb)(KEYS, order, attempt, "funds")

    assert {"free": 9, "sold": 1, "stock": 10} == await shop.units()


@pytest.mark.parametrize("verb", ["decline", "fail"])
async def test_an_attempt_nobody_made(shop: Shop, verb: str) -> None:
    order, _ = await shop.pinned("ann")

    with pytest.raises(errors.OrderUnknown):
        await getattr(shop.inventory, verb)(KEYS, order, "never-made", "funds")


@pytest.mark.parametrize(("reason", "counter"), [("stock", "withdrawn"), ("limit", "free"), ("turn", "free")])
async def test_a_claim_the_record_refused(shop: Shop, reason: str, counter: str) -> None:
    """Refused for stock the units are offered to nobody; refused otherwise they are free. Once, without an event."""
    order, attempt = await shop.pinned("ann")

    first = await shop.inventory.refuse(KEYS, order, attempt, reason)
    again = await shop.inventory.refuse(KEYS, order, attempt, reason)

    assert first is not None and again is not None
    assert (OrderState.RELEASED, "", False, True) == (first.state, first.event_id, first.is_replay, again.is_replay)
    expected = {"free": 9, "withdrawn": 1, "stock": 10} if counter == "withdrawn" else {"free": 10, "stock": 10}
    assert expected == await shop.units()
    assert 1 == len(await shop.events("money"))


async def test_a_refusal_that_redis_has_forgotten(shop: Shop) -> None:
    """A rebuild has counted the units already: nothing is left to undo."""
    assert await shop.inventory.refuse(KEYS, "forgotten", "attempt", "stock") is None
    assert {"free": 10, "stock": 10} == await shop.units()


async def test_a_sale_the_record_refused(shop: Shop) -> None:
    """Only the very event that made it undoes a sale; then the units are free and the buyer's count is as before."""
    order, attempt = await shop.pinned("ann", {"jacket": 2})
    confirmed = await shop.inventory.confirm(KEYS, order, attempt)
    with pytest.raises(errors.OrderStateConflict):
        await shop.inventory.refuse(KEYS, order, attempt, "state", "1-1")

    refused = [await shop.inventory.refuse(KEYS, order, attempt, "state", confirmed.event_id) for _ in range(2)]

    assert [(OrderState.RELEASED, False), (OrderState.RELEASED, True)] == [
        (answer.state, answer.is_replay) for answer in refused if answer is not None
    ]
    assert {"free": 10, "stock": 10} == await shop.units()
    assert (await shop.reserve("ann", {"jacket": 2})).rev == 1


async def test_a_forgotten_claim_fails(shop: Shop) -> None:
    """Redis knows nothing of the order, the record has its claim open: an event that the record takes for newer, no
    unit moved twice, and repeats answer the same."""
    doc = order_doc("forgotten", "ann", "turn-x", {"jacket": 2}, "key-1")
    for verb, order in ((shop.inventory.fail, "forgotten"), (shop.inventory.decline, "forgotten-too")):
        with pytest.raises(errors.OrderUnknown):
            await verb(KEYS, order, "attempt-1", "funds")
        changed = await verb(KEYS, order, "attempt-1", "funds", doc)
        again = await verb(KEYS, order, "attempt-1", "funds", doc)

        assert (OrderState.PAYMENT_FAILED, 100) == (changed.state, changed.rev)
        assert (changed.event_id, True) == (again.event_id, again.is_replay)
        view = await shop.look(order)
        assert ("payment_failed", "ann") == (view.state, view.buyer)
    assert {"free": 10, "stock": 10} == await shop.units()


@pytest.mark.parametrize(("state", "expected"), [("reserved", "reserved"), ("expired", "payment_failed")])
async def test_a_forgotten_decline_of_a_known_order(shop: Shop, state: str, expected: str) -> None:
    """Redis has the order as it was before the pin: its buyer may pay again. Where it ended since, it fails."""
    held = await shop.reserve("ann", turn="turn-x")
    if state == "expired":
        await shop.age(held.order, 600_000)
        await shop.inventory.lapse(KEYS, 1)
    doc = order_doc(held.order, "ann", "turn-x", {"jacket": 1}, "k")

    changed = await shop.inventory.decline(KEYS, held.order, "attempt-1", "funds", doc)
    again = await shop.inventory.decline(KEYS, held.order, "attempt-1", "funds", doc)

    assert (expected, 100, changed.event_id) == (changed.state, changed.rev, again.event_id)
    units = {"free": 9, "held": 1, "stock": 10} if expected == "reserved" else {"free": 10, "stock": 10}
    assert units == await shop.units()
    assert int(expected == "reserved") == await shop.redis.zcard(KEYS.holds)


async def test_a_forgotten_failure_of_a_reserved_order(shop: Shop) -> None:
    """Its hold goes, its unit is free, its buyer may reserve again."""
    held = await shop.reserve("ann", turn="turn-x")
    doc = order_doc(held.order, "ann", "turn-x", {"jacket": 1}, "k")

    await shop.inventory.fail(KEYS, held.order, "attempt-1", "other", doc)

    assert {"free": 10, "stock": 10} == await shop.units()
    assert 0 == await shop.redis.zcard(KEYS.holds)
    await shop.reserve("ann", turn="turn-y")


async def test_remake_changes_nothing_that_redis_knows(shop: Shop) -> None:
    """A claim that is there ends as ever; one that another attempt runs on, or that is sold, is not touched."""
    order, attempt = await shop.pinned("ann")
    doc = order_doc(order, "ann", "turn-x", {"jacket": 1}, "k")
    with pytest.raises(errors.OrderUnknown):
        await shop.inventory.decline(KEYS, order, "another", "funds", doc)
    changed = await shop.inventory.decline(KEYS, order, attempt, "funds", doc)

    assert 100 > changed.rev
    assert {"free": 9, "held": 1, "stock": 10} == await shop.units()
