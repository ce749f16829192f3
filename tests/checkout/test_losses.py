"""What a shop's Redis may lose, and what a provider may say too late: nobody is charged without an order or a refund,
and no unit is stranded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from flow_kit import PRICE, Checkout
from redis.asyncio import Redis

from onsale.checkout.closings import ClosingsKeeper
from onsale.checkout.errors import AmountMismatch, CheckoutError, OrderStateConflict, PassRevoked, PassSpent
from onsale.checkout.idempotency import Outcome
from onsale.checkout.ports import Attempt, Charge, ChargeState, Method
from onsale.checkout.record.audit import Capture, audit
from onsale.checkout.record.rebuild import Rebuilder, RebuildTick
from onsale.checkout.record.reckoning import reckon
from onsale.checkout.states import OrderState


async def copy_of(redis: Redis) -> dict[bytes, bytes]:
    """Every key as it is now, as a replica that lags would have it."""
    return {name: await redis.dump(name) for name in await redis.keys("*")}


async def promote(checkout: Checkout, copy: dict[bytes, bytes]) -> RebuildTick:
    """Another server takes over with an older copy of the data; a worker looks at it."""
    await checkout.redis.flushall()
    for name, value in copy.items():
        await checkout.redis.restore(name, 0, value)
    await checkout.redis.hset(checkout.keys.meta, "run_id", "of-another-server")
    return await Rebuilder(checkout.pool, checkout.redis, checkout.inventory, checkout.book).tick()


async def pinned(checkout: Checkout, order: str) -> None:
    """Wait until somebody has begun to pay the order."""
    while (view := await checkout.inventory.look(checkout.keys, order)) and view.state is OrderState.RESERVED:
        await asyncio.sleep(0)


async def test_pin_lost_with_its_server_is_never_charged(checkout: Checkout) -> None:
    """A pin was acknowledged and never recorded; the server that took over had not heard of it. When others' events
    pass by its id, its waiter must not take that for a verdict."""
    held, other = await checkout.reserve("ann"), await checkout.reserve("bob")
    await checkout.stop_record()
    await checkout.record()
    copy = await copy_of(checkout.redis)
    confirming = asyncio.create_task(checkout.confirm("ann", held.order))
    await pinned(checkout, held.order)

    tick = await promote(checkout, copy)
    checkout.start_record()
    await checkout.confirm("bob", other.order)

    with pytest.raises(CheckoutError):
        await confirming
    assert [] == await checkout.sandbox.charges(held.order)
    assert ("drop",) == tick.registered
    assert Outcome.SOLD is (await checkout.confirm("ann", held.order)).ending.outcome
    assert 1 == len(await checkout.sandbox.charges(held.order))
    assert {"free": 8, "sold": 2} == await checkout.units()


class Late:
    """A provider that charges although the attempt was ended meanwhile, before the record hears of that."""

    name = "sandbox"
    methods = frozenset(Method)
    is_away = False

    def __init__(self, checkout: Checkout) -> None:
        self._checkout = checkout
        self.refunds: list[str] = []

    async def charge(self, asked: Attempt) -> Charge:
        await self._checkout.stop_record()
        await self._checkout.inventory.fail(self._checkout.keys, asked.order, asked.attempt, "other")
        return Charge(ChargeState.CAPTURED, amount=PRICE, currency="KRW")

    async def find(self, asked: Attempt) -> Charge:
        return Charge(ChargeState.UNKNOWN)

    async def void(self, asked: Attempt) -> Charge:
        return Charge(ChargeState.UNKNOWN)

    async def refund(self, asked: Attempt, *, key: str, **_: Any) -> bool:
        self.refunds.append(key)
        return True


async def test_capture_of_a_claim_that_is_ending_strands_no_unit(checkout: Checkout) -> None:
    """The claim's end is in Redis and on its way to the record: the money is given back once the record has it, or the
    record would see a refunded try and keep its claim open for ever."""
    late = Late(checkout)
    process = checkout.another(provider=late)
    held = await process.reserve("ann")
    with pytest.raises(OrderStateConflict):
        await process.confirm("ann", held.order)

    await checkout.record()
    await process.completer.tick()

    row = await checkout.row(held.order)
    assert (OrderState.PAYMENT_FAILED, "released", "refunded") == (row.state, row.claim, row.payments[0].state)
    assert [f"{row.payments[0].payment}-refund"] == late.refunds
    assert 0 == await checkout.pool.fetchval("SELECT claimed FROM sale_items")
    assert {"free": 10} == await checkout.units()


async def test_sale_of_a_claim_that_the_record_never_saw_is_undone(checkout: Checkout) -> None:
    """The claimed event is gone and the record has passed by it: what was charged goes back, and Redis, which counted a
    sale, is put right without a rebuild."""
    held, other = await checkout.reserve("ann"), await checkout.reserve("bob")
    await checkout.stop_record()
    await checkout.record()
    confirming = asyncio.create_task(checkout.confirm("ann", held.order))
    await pinned(checkout, held.order)
    view = await checkout.inventory.look(checkout.keys, held.order)
    assert view is not None
    await checkout.redis.xdel(checkout.keys.money, view.event_id)

    checkout.start_record()
    await checkout.confirm("bob", other.order)
    with pytest.raises(OrderStateConflict):
        await confirming
    await checkout.completer.tick()

    [charge] = await checkout.sandbox.charges(held.order)
    assert charge["refunded_at"] is not None
    assert OrderState.RELEASED is (await checkout.row(held.order)).state
    assert {"free": 9, "sold": 1} == await checkout.units()
    await checkout.pool.execute("UPDATE stock_moves SET applied_epoch = 1")
    assert [] == await reckon(checkout.pool, checkout.redis, checkout.keys)


async def test_turns_that_were_closed_stay_closed(checkout: Checkout) -> None:
    """Who left, and who was sent away, may not come back with a pass that is still good when Redis is lost whole."""
    keeper = ClosingsKeeper(checkout.pool, checkout.inventory, checkout.book)
    await checkout.inventory.close_turns("drop", ["1-ann-1"], "left")
    await checkout.inventory.close_turns("drop", ["1-bob-1"], "revoked")
    await checkout.inventory.close_turns("drop", ["1-cat-1"], "expired")
    ticks = [await keeper.tick() for _ in range(2)]
    await checkout.redis.flushall()
    await Rebuilder(checkout.pool, checkout.redis, checkout.inventory, checkout.book).tick()

    assert [2, 0] == [tick.kept for tick in ticks]
    for buyer, refusal in (("ann", PassSpent), ("bob", PassRevoked)):
        with pytest.raises(refusal):
            await checkout.reserve(buyer)
    assert 0 == (await keeper.tick()).kept


async def test_wrong_amount_that_went_back_is_no_violation(checkout: Checkout) -> None:
    """The provider took one too many and gave it all back: each capture has its full refund, and the audit says so."""
    process = checkout.another(provider=Greedy())
    held = await process.reserve("ann")
    with pytest.raises(AmountMismatch):
        await process.confirm("ann", held.order)
    attempt = (await checkout.row(held.order)).payments[0].payment

    async def book(refunded_at_ms: int) -> Sequence[Capture]:
        return [Capture(held.order, attempt, PRICE + 1, 1, refunded_at_ms)]

    for state, refunded_at_ms in (("done", 2), ("pending", 0)):
        await checkout.pool.execute("UPDATE refunds SET state = $1", state)
        findings = await audit(
            checkout.pool,
            checkout.redis,
            checkout.redis,
            checkout.book,
            checkout.sale.id,
            charges=partial(book, refunded_at_ms),
            pause_s=0,
        )
        assert [""] == [finding.detail for finding in findings if finding.invariant == "I8"]


class Greedy:
    """A provider that takes one too many."""

    name = "sandbox"
    methods = frozenset(Method)
    is_away = False

    async def charge(self, asked: Attempt) -> Charge:
        return Charge(ChargeState.CAPTURED, amount=PRICE + 1, currency="KRW")

    async def find(self, asked: Attempt) -> Charge:
        return await self.charge(asked)

    async def void(self, asked: Attempt) -> Charge:
        return await self.charge(asked)

    async def refund(self, asked: Attempt, **_: Any) -> bool:
        return True
