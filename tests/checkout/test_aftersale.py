"""After the sale: delivered by the clock, cancelled, sent back; refunded and restocked exactly once, whoever dies."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flow_kit import PRICE, SALE, Checkout
from redis.asyncio import Redis

from onsale.auth.errors import IdempotencyKeyReused
from onsale.catalog.sales import advance_clock
from onsale.checkout.aftersale import AfterSale, Asking
from onsale.checkout.delivery import DAY_MS, Delivery, DeliveryTick
from onsale.checkout.errors import CheckoutError, OrderStateConflict, OrderUnknown, PassSpent
from onsale.checkout.reads import Reads
from onsale.checkout.record.audit import audit
from onsale.checkout.record.rebuild import Rebuilder
from onsale.checkout.restocker import Restocker
from onsale.checkout.settling import Settler, Shop
from onsale.checkout.states import OrderState

HOUR_MS = 3_600_000


class After:
    """What a web process and a worker do with sold orders."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        self.reads = Reads(checkout.book, checkout.inventory, checkout.orders, checkout.sealer)
        self.asked = AfterSale(checkout.pool, self.reads)
        self.delivery = Delivery(checkout.pool, AfterSale(checkout.pool))
        self.restocker = Restocker(checkout.pool, checkout.inventory, Shop(checkout.book))

    async def cancel(self, order: str, key: str = "c-1", *, buyer: str = "ann", digest: str = "d") -> bool:
        return await self.asked.cancel(Asking(buyer, order, key, digest))

    async def send_back(self, order: str, key: str = "r-1") -> bool:
        return await self.asked.request_return(Asking("ann", order, key, "d"))

    async def pass_days(self, days: float) -> DeliveryTick:
        """The clock moves, and a worker ticks."""
        await advance_clock(self.checkout.pool, int(days * DAY_MS))
        return await self.delivery.tick()

    async def state(self, order: str) -> OrderState:
        return (await self.checkout.row(order)).state

    async def judged(self, line: Redis) -> list[str]:
        """Every invariant that does not hold, in words."""
        checkout = self.checkout
        findings = await audit(checkout.pool, line, checkout.redis, checkout.book, SALE, pause_s=0)
        return [f"{one.invariant}: {one.detail}" for one in findings if not one.ok]

    async def refunded(self, order: str) -> list[tuple[str, int]]:
        rows = await self.checkout.pool.fetch(
            "SELECT r.state, r.amount FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE p.order_id = $1",
            order,
        )
        return [(row["state"], row["amount"]) for row in rows]


@pytest.fixture
def after(checkout: Checkout) -> After:
    return After(checkout)


async def outcome(work: Any) -> str:
    """What a call ends with, in a word."""
    try:
        return "again" if await work else "done"
    except CheckoutError as refusal:
        return type(refusal).__name__


# --- delivery


async def test_an_order_is_delivered_by_the_clock(checkout: Checkout, after: After) -> None:
    """Preparing within the first day, shipped on D+1, delivered on D+2, completed on D+3."""
    order = await checkout.bought("ann")
    seen = []
    for days in (0, 0.5, 0.49, 0.01, 1, 1):
        await after.pass_days(days)
        seen.append(str(await after.state(order)))

    assert ["confirmed", "preparing", "preparing", "shipped", "delivered", "completed"] == seen


async def test_missed_days_are_caught_up(checkout: Checkout, after: After) -> None:
    """No worker ran for a week: one tick does all its steps, and the next has nothing to do."""
    order = await checkout.bought("ann")

    assert DeliveryTick(prepared=1, shipped=1, delivered=1, completed=1) == await after.pass_days(7)
    assert OrderState.COMPLETED is await after.state(order)
    assert DeliveryTick() == await after.delivery.tick()


async def test_an_order_made_after_the_clock_was_moved_is_new(checkout: Checkout, after: After) -> None:
    """It is a day old a day later, not at once; one made before goes on from where it was."""
    early = await checkout.bought("ann")
    await after.pass_days(2)
    late = await checkout.bought("bob")

    await after.delivery.tick()
    assert ("delivered", "confirmed") == (await after.state(early), await after.state(late))
    await after.pass_days(1)
    assert ("completed", "shipped") == (await after.state(early), await after.state(late))


async def test_many_workers_move_an_order_once(checkout: Checkout, after: After) -> None:
    """Every step of every order is made by exactly one of them."""
    orders = [await checkout.bought(f"buyer-{n}") for n in range(6)]
    await advance_clock(checkout.pool, 4 * DAY_MS)
    workers = [Delivery(checkout.pool, AfterSale(checkout.pool)) for _ in range(4)]

    ticks = [tick for _ in range(4) for tick in await asyncio.gather(*(worker.tick() for worker in workers))]

    for step in ("prepared", "shipped", "delivered", "completed"):
        assert len(orders) == sum(getattr(tick, step) for tick in ticks), step


async def test_an_entry_for_a_visit_waits_for_its_day(checkout: Checkout, after: After) -> None:
    """It can be cancelled until its day is over, and is done with after that."""
    visit_on = (datetime.now(UTC) + timedelta(days=20)).date()
    await checkout.pool.execute("UPDATE sale_items SET visit_on = $1", visit_on)
    order = await checkout.bought("ann")

    await after.pass_days(19)
    assert OrderState.PREPARING is await after.state(order)
    await after.pass_days(5)
    assert OrderState.COMPLETED is await after.state(order)


# --- cancelling


async def test_a_cancelled_order_is_refunded_and_restocked(checkout: Checkout, after: After, line_redis: Redis) -> None:
    """All of it goes back, its units are free again, its buyer may buy as many again; and the books agree."""
    order = await checkout.bought("ann")
    await after.cancel(order)

    [payment] = (await checkout.row(order)).payments
    assert ("cancelled", "refunding", PRICE) == (await after.state(order), payment.state, payment.refund)
    assert {"free": 9, "sold": 1} == await checkout.units()
    assert [] == await after.judged(line_redis)

    assert 1 == (await checkout.completer.tick()).refunds
    assert 1 == (await after.restocker.tick()).restocked

    [charge] = await checkout.sandbox.charges(order)
    assert PRICE == charge["refunded_amount"]
    assert [("done", PRICE)] == await after.refunded(order)
    assert {"free": 10} == await checkout.units()
    assert [] == await after.judged(line_redis)


async def test_the_limit_comes_back_and_the_pass_does_not(checkout: Checkout, after: After) -> None:
    """With a new turn the buyer may buy up to the limit again; the turn that bought stays spent, rebuilt or not."""
    order = await checkout.bought("ann")
    await after.cancel(order)
    await after.restocker.tick()

    for rebuilt in (False, True):
        if rebuilt:
            await Rebuilder(checkout.pool, checkout.redis, checkout.inventory, checkout.book).rebuild(SALE)
        with pytest.raises(PassSpent):
            await checkout.reserve("ann")
    held = await checkout.reserve("ann", 2, turn="1-ann-2")
    assert held.order != order


async def test_a_repeat_answers_and_another_key_is_refused(checkout: Checkout, after: After) -> None:
    """The same key says what it said, a refusal too; another body under it is an error; another key comes too late."""
    order = await checkout.bought("ann")

    assert "done" == await outcome(after.cancel(order, "k-1"))
    assert "again" == await outcome(after.cancel(order, "k-1"))
    with pytest.raises(IdempotencyKeyReused):
        await after.cancel(order, "k-1", digest="other")
    for is_replay in (False, True):
        with pytest.raises(OrderStateConflict) as refusal:
            await after.cancel(order, "k-2")
        assert is_replay == refusal.value.is_replay
    with pytest.raises(OrderUnknown):
        await after.cancel(order, "k-1", buyer="bob")


async def test_cancelled_by_many_at_once(checkout: Checkout, after: After, line_redis: Redis) -> None:
    """Ten devices with keys of their own, and ten with one key: one cancellation, one refund, one unit."""
    order = await checkout.bought("ann")
    calls = [after.cancel(order, f"own-{n}") for n in range(10)] + [after.cancel(order, "shared") for _ in range(10)]

    outcomes = await asyncio.gather(*(outcome(call) for call in calls))
    ticks = await asyncio.gather(*(After(checkout.another()).restocker.tick() for _ in range(3)))
    await asyncio.gather(*(checkout.another().completer.tick() for _ in range(3)))

    assert 1 == outcomes.count("done")
    assert 1 == sum(tick.restocked for tick in ticks)
    assert {"free": 10} == await checkout.units()
    assert PRICE == (await checkout.sandbox.charges(order))[0]["refunded_amount"]
    assert [] == await after.judged(line_redis)


async def test_cancelling_against_the_delivery_clock(checkout: Checkout, after: After, line_redis: Redis) -> None:
    """In the moment an order ships either it is cancelled or it ships, never both."""
    orders = [await checkout.bought(f"buyer-{n}") for n in range(8)]
    await after.pass_days(0.5)
    await advance_clock(checkout.pool, DAY_MS)

    async def cancel(n: int) -> str:
        return await outcome(after.cancel(orders[n], buyer=f"buyer-{n}"))

    results = await asyncio.gather(
        *(cancel(n) for n in range(4)), after.delivery.tick(), *(cancel(n) for n in range(4, 8)), after.delivery.tick()
    )
    await after.delivery.tick()

    states = [await after.state(order) for order in orders]
    said = [result for result in results if isinstance(result, str)]
    assert ["done" if state is OrderState.CANCELLED else "OrderStateConflict" for state in states] == said
    assert {OrderState.CANCELLED, OrderState.SHIPPED} >= set(states)
    while (await after.restocker.tick()).restocked:
        pass
    assert [] == await after.judged(line_redis)


@pytest.mark.parametrize("state", ["shipped", "delivered", "completed", "reserved", "confirming"])
async def test_too_late_or_too_early(checkout: Checkout, after: After, state: str) -> None:
    """From shipping on, and before it was bought, an order cannot be cancelled; nothing changes."""
    days = {"shipped": 1, "delivered": 2, "completed": 3}.get(state)
    order = await checkout.bought("ann") if days else (await checkout.reserve("ann")).order
    if days:
        await after.pass_days(days)
    else:
        await checkout.stop_record()
        await checkout.record()
        await checkout.pool.execute("UPDATE orders SET state = $1", state)

    assert "OrderStateConflict" == await outcome(after.cancel(order))
    assert state == await after.state(order)
    assert [] == await after.refunded(order)


async def test_an_order_that_is_not_recorded_cannot_be_cancelled(checkout: Checkout, after: After) -> None:
    """Redis knows it, the record does not: refused, and the same key is refused for good."""
    await checkout.stop_record()
    order = (await checkout.reserve("ann")).order

    assert "OrderStateConflict" == await outcome(after.cancel(order))
    assert "OrderUnknown" == await outcome(after.cancel(order, buyer="bob"))
    checkout.start_record()
    await checkout.confirm("ann", order)
    assert "OrderStateConflict" == await outcome(after.cancel(order))
    assert "done" == await outcome(after.cancel(order, "another"))


async def test_a_visit_s_policy_is_paid_out(checkout: Checkout, after: After, line_redis: Redis) -> None:
    """Eight days before the visit nine tenths go back, by the provider's book and by the audit's own count."""
    visit_on = (datetime.now(UTC) + timedelta(days=20)).date()
    await checkout.pool.execute("UPDATE sale_items SET visit_on = $1", visit_on)
    order = await checkout.bought("ann")
    await after.pass_days(12)
    await after.cancel(order)
    await checkout.completer.tick()
    await after.restocker.tick()

    assert [("done", 900)] == await after.refunded(order)
    assert 900 == (await checkout.sandbox.charges(order))[0]["refunded_amount"]
    assert [] == await after.judged(line_redis)
    await checkout.pool.execute("UPDATE refunds SET amount = 1000")
    assert ["I8"] == [words.partition(":")[0] for words in await after.judged(line_redis)]


# --- the same, and a store is lost


async def test_restocking_against_a_rebuild(checkout: Checkout, after: After, line_redis: Redis) -> None:
    """Rebuilds and restocks at once, in any order: each unit comes back once."""
    orders = [await checkout.bought(f"buyer-{n}") for n in range(6)]
    rebuilder = Rebuilder(checkout.pool, checkout.redis, checkout.inventory, checkout.book)

    async def cancel(n: int) -> None:
        await after.cancel(orders[n], buyer=f"buyer-{n}")

    await asyncio.gather(
        *(cancel(n) for n in range(3)), after.restocker.tick(), rebuilder.rebuild(SALE), after.restocker.tick()
    )
    await asyncio.gather(*(cancel(n) for n in range(3, 6)), rebuilder.rebuild(SALE), after.restocker.tick())
    await checkout.book.refresh()
    await after.restocker.tick()

    assert {"free": 10} == await checkout.units()
    assert [] == await after.judged(line_redis)


async def test_restocked_and_not_written_down(checkout: Checkout, after: After, line_redis: Redis) -> None:
    """The worker died between Redis and Postgres: the move is made again, and changes nothing."""
    await after.cancel(await checkout.bought("ann"))
    await after.restocker.tick()
    await checkout.pool.execute("UPDATE stock_moves SET applied_epoch = NULL WHERE order_id IS NOT NULL")

    assert [] == await after.judged(line_redis)
    assert 1 == (await after.restocker.tick()).restocked
    assert {"free": 10} == await checkout.units()
    await checkout.pool.execute("UPDATE stock_moves SET applied_epoch = NULL WHERE order_id IS NOT NULL")
    await Rebuilder(checkout.pool, checkout.redis, checkout.inventory, checkout.book).rebuild(SALE)
    assert 0 == (await after.restocker.tick()).restocked
    assert {"free": 10} == await checkout.units()


async def test_redis_is_lost_between_cancelling_and_restocking(
    checkout: Checkout, after: After, line_redis: Redis
) -> None:
    """What the rebuild reads from the record has the unit already: it is marked as counted."""
    await after.cancel(await checkout.bought("ann"))
    await checkout.redis.flushall()
    await Rebuilder(checkout.pool, checkout.redis, checkout.inventory, checkout.book).tick()

    assert {"free": 10} == await checkout.units()
    assert 0 == (await after.restocker.tick()).restocked
    assert [] == await after.judged(line_redis)


async def test_a_stale_capture_after_a_cancellation(checkout: Checkout, after: After) -> None:
    """A driver that comes late finds the refund as it was written down, and asks for no more than that."""
    visit_on = (datetime.now(UTC) + timedelta(days=1)).date()
    await checkout.pool.execute("UPDATE sale_items SET visit_on = $1", visit_on)
    order = await checkout.bought("ann")
    row = await checkout.row(order)
    claim = checkout.claim(row, row.payments[0].payment)
    await after.cancel(order)
    charge = await checkout.guarded.find(claim.asked())

    await checkout.flow._driver._settler.give_back(checkout.guarded, claim.asked(), charge, "no_claim")
    settler = Settler(Shop(checkout.book), checkout.inventory, checkout.feed, checkout.orders)

    await settler.give_back(checkout.guarded, claim.asked(), charge, "no_claim")

    assert 700 == (await checkout.sandbox.charges(order))[0]["refunded_amount"]


# --- sending back


async def test_a_return_comes_back_after_a_day(checkout: Checkout, after: After, line_redis: Redis) -> None:
    """Asked for once delivered; a day later refunded and restocked, once."""
    order = await checkout.bought("ann")
    await after.pass_days(2)

    assert "done" == await outcome(after.send_back(order))
    assert "again" == await outcome(after.send_back(order))
    assert "OrderStateConflict" == await outcome(after.send_back(order, "r-2"))
    await after.pass_days(0.5)
    assert ("return_requested", []) == (await after.state(order), await after.refunded(order))
    await after.pass_days(0.5)
    await after.delivery.tick()
    await checkout.completer.tick()
    await after.restocker.tick()

    assert ("returned", [("done", PRICE)]) == (await after.state(order), await after.refunded(order))
    assert {"free": 10} == await checkout.units()
    assert [] == await after.judged(line_redis)


@pytest.mark.parametrize("days", [0, 1, 3])
async def test_what_cannot_be_sent_back(checkout: Checkout, after: After, days: int) -> None:
    """Not yet delivered, or delivered more than a day ago."""
    order = await checkout.bought("ann")
    await after.pass_days(days)

    assert "OrderStateConflict" == await outcome(after.send_back(order))


async def test_a_return_is_refused_although_no_worker_ran(checkout: Checkout, after: After) -> None:
    """Whether a day has passed since delivery is decided by the clock, not by when a worker wrote it down."""
    order = await checkout.bought("ann")
    await after.pass_days(2)
    await advance_clock(checkout.pool, DAY_MS)

    assert "OrderStateConflict" == await outcome(after.send_back(order))
    assert OrderState.DELIVERED is await after.state(order)
