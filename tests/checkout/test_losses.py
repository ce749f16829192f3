"""What a shop's Redis may lose, and what a provider may say too late: nobody is charged without an order or a refund,
and no unit is stranded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flow_kit import PRICE, Checkout
from redis.asyncio import Redis

from onsale.checkout.errors import CheckoutError, OrderStateConflict
from onsale.checkout.idempotency import Outcome
from onsale.checkout.ports import Charge, ChargeState
from onsale.checkout.record.rebuild import Rebuilder, RebuildTick
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
    is_away = False

    def __init__(self, checkout: Checkout) -> None:
        self._checkout = checkout
        self.refunds: list[str] = []

    async def charge(self, *, attempt: str, order: str, **_: Any) -> Charge:
        await self._checkout.stop_record()
        await self._checkout.inventory.fail(self._checkout.keys, order, attempt, "other")
        return Charge(ChargeState.CAPTURED, amount=PRICE, currency="KRW")

    async def find(self, **_: Any) -> Charge:
        return Charge(ChargeState.UNKNOWN)

    async def void(self, **_: Any) -> Charge:
        return Charge(ChargeState.UNKNOWN)

    async def refund(self, *, key: str, **_: Any) -> bool:
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
