"""What a dead process leaves is finished by another: exactly one charge, and one end that both stores agree on."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from flow_kit import PRICE, SALE, Checkout, Fate

from onsale.checkout.completer import CompleterPolicy
from onsale.checkout.driving import DrivePolicy
from onsale.checkout.errors import CheckoutError
from onsale.checkout.flow import FlowPolicy
from onsale.checkout.idempotency import Outcome
from onsale.checkout.ports import Attempt, Charge, ChargeState, Method
from onsale.checkout.record.rebuild import Rebuilder
from onsale.checkout.states import OrderState

QUICK = FlowPolicy(200, DrivePolicy(drive_ms=900, call_ms=500))


async def die(process: Checkout, order: str, token: str = "ok") -> None:
    """Confirm in a process that dies on the way; its request hears nothing."""
    task = asyncio.create_task(process.confirm("ann", order, token))
    await asyncio.wait([task])
    assert process.fate.is_dead
    assert task.cancelled()
    await process.flow.close()


@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("after pin", 1),
        ("before verdict", 1),
        ("after verdict", 1),
        ("before charge", 1),
        ("after charge", 1),
        ("before confirm", 1),
        ("after confirm", 1),
        ("before verdict", 2),
        ("after verdict", 2),
    ],
)
async def test_flow_killed_at_any_step_is_completed(checkout: Checkout, step: str, nth: int) -> None:
    """Killed anywhere after the pin: the order ends confirmed, charged once, in both stores."""
    process = checkout.another(fate=Fate(step, nth))
    held = await process.reserve("ann")
    await die(process, held.order)
    await checkout.stop_record()
    await checkout.record()
    await checkout.expire_leases()
    checkout.start_record()

    await checkout.completer.tick()

    assert 1 == len(await checkout.sandbox.charges(held.order))
    row = await checkout.row(held.order)
    assert (OrderState.CONFIRMED, "sold", ["captured"]) == (row.state, row.claim, [p.state for p in row.payments])
    assert {"free": 9, "sold": 1} == await checkout.units()
    assert (await checkout.completer.tick()).attempts == 0


async def test_flow_killed_before_the_pin_leaves_a_reservation(checkout: Checkout) -> None:
    """Nothing was pinned: there is nothing to complete, and the order may still be paid."""
    process = checkout.another(fate=Fate("before pin"))
    held = await process.reserve("ann")
    await die(process, held.order)

    assert (await checkout.completer.tick()).attempts == 0
    assert [] == await checkout.sandbox.charges(held.order)
    assert Outcome.SOLD is (await checkout.confirm("ann", held.order)).ending.outcome


@pytest.mark.parametrize(
    ("step", "token", "state", "units"),
    [
        ("after charge", "decline_funds", OrderState.RESERVED, {"free": 9, "held": 1}),
        ("before decline", "decline_funds", OrderState.RESERVED, {"free": 9, "held": 1}),
        ("after decline", "decline_funds", OrderState.RESERVED, {"free": 9, "held": 1}),
        ("after charge", "fail_other", OrderState.PAYMENT_FAILED, {"free": 10}),
        ("after fail", "fail_other", OrderState.PAYMENT_FAILED, {"free": 10}),
    ],
)
async def test_flow_killed_at_a_decline_is_completed(
    checkout: Checkout, step: str, token: str, state: OrderState, units: dict[str, int]
) -> None:
    """A declined attempt ends declined, whoever finishes it, and nothing is charged."""
    process = checkout.another(fate=Fate(step))
    held = await process.reserve("ann")
    await die(process, held.order, token)
    await checkout.stop_record()
    await checkout.record()
    await checkout.expire_leases()
    checkout.start_record()

    await checkout.completer.tick()

    assert state is (await checkout.row(held.order)).state
    assert units == await checkout.units()
    assert [] == await checkout.sandbox.charges(held.order)


async def test_lost_reply_is_completed_with_the_same_key(checkout: Checkout) -> None:
    """Charged, the reply lost, the process dead: repeating the same call finds the one charge."""
    process = checkout.another(fate=Fate("before find"))
    held = await process.reserve("ann")
    await die(process, held.order, "lost_reply")
    await checkout.expire_leases()

    tick = await checkout.completer.tick()

    assert (1, 0) == (tick.attempts, tick.unanswered)
    [charge] = await checkout.sandbox.charges(held.order)
    assert charge["key"] == (await checkout.row(held.order)).payments[0].payment
    assert OrderState.CONFIRMED is (await checkout.row(held.order)).state


async def test_silent_attempt_stays_open_until_it_is_void(checkout: Checkout) -> None:
    """ "Not found" ends nothing. Only when the provider has made the attempt void may the buyer try again."""
    process = checkout.another(policy=QUICK)
    held = await process.reserve("ann")
    await process.confirm("ann", held.order, "timeout")
    await process.flow.close()

    await checkout.expire_leases()
    tick = await checkout.completer.tick()
    assert (0, 1) == (tick.attempts, tick.unanswered)
    assert OrderState.CONFIRMING is (await checkout.row(held.order)).state

    await checkout.age(held.order, 61_000)
    await checkout.expire_leases()
    tick = await checkout.completer.tick()
    row = await checkout.row(held.order)
    assert (1, OrderState.RESERVED, "timeout") == (tick.attempts, row.state, row.payments[0].reason)

    confirmation = await checkout.confirm("ann", held.order)
    assert Outcome.SOLD is confirmation.ending.outcome
    assert 1 == len(await checkout.sandbox.charges(held.order))


async def test_two_workers_share_the_work(checkout: Checkout) -> None:
    """Six dead attempts and three workers at once: each attempt is taken by one of them, each charged once."""
    orders = []
    for number in range(6):
        process = checkout.another(fate=Fate("after verdict"))
        held = await process.reserve(f"buyer-{number}")
        task = asyncio.create_task(process.confirm(f"buyer-{number}", held.order))
        await asyncio.wait([task])
        orders.append(held.order)
    await checkout.expire_leases()

    workers = [checkout.another().completer for _ in range(3)]
    ticks = await asyncio.gather(*(worker.tick() for worker in workers))

    assert 6 == sum(tick.attempts for tick in ticks)
    assert [1] * 6 == [len(await checkout.sandbox.charges(order)) for order in orders]
    assert {"free": 4, "sold": 6} == await checkout.units()


async def test_lease_of_another_is_left_alone(checkout: Checkout) -> None:
    """While a driver's time runs, no worker touches its attempt."""
    process = checkout.another(fate=Fate("after verdict"))
    held = await process.reserve("ann")
    await die(process, held.order)

    tick = await checkout.completer.tick()

    assert (0, 0) == (tick.attempts, tick.unanswered)
    assert [] == await checkout.sandbox.charges(held.order)


async def test_claim_forgotten_by_redis_is_made_again(checkout: Checkout) -> None:
    """Charged, then Redis forgot the order: the recorded claim outranks it."""
    process = checkout.another(fate=Fate("after charge"))
    held = await process.reserve("ann")
    await die(process, held.order)
    await checkout.redis.hdel(checkout.keys.orders, held.order)
    await checkout.expire_leases()

    await checkout.completer.tick()

    assert OrderState.CONFIRMED is (await checkout.row(held.order)).state
    view = await checkout.inventory.look(checkout.keys, held.order)
    assert view is not None and view.state is OrderState.CONFIRMED
    assert 1 == len(await checkout.sandbox.charges(held.order))


async def test_sale_forgotten_by_redis_is_not_refunded(checkout: Checkout) -> None:
    """The record has it sold; a driver that wakes up late and finds no order in Redis gives no money back."""
    held = await checkout.reserve("ann")
    confirmation = await checkout.confirm("ann", held.order)
    await checkout.redis.hdel(checkout.keys.orders, held.order)
    late = checkout.another()
    row = await checkout.row(held.order)
    claim = late.claim(row, confirmation.ending.attempt)
    charge = Charge(ChargeState.CAPTURED, amount=PRICE, currency="KRW")

    ending = await late.flow._driver._settler.settle(claim, charge, 1_000)

    assert (Outcome.SOLD, True) == (ending.outcome, ending.is_recorded)
    assert [None] == [charge["refunded_at"] for charge in await checkout.sandbox.charges(held.order)]
    assert 0 == await checkout.pool.fetchval("SELECT count(*) FROM refunds")


@pytest.mark.parametrize(
    "step", ["after open_refund", "before fail", "after fail", "before refund", "before close_refund"]
)
async def test_wrong_amount_is_given_back_whoever_dies(checkout: Checkout, step: str) -> None:
    """Killed anywhere between a wrong capture and its refund: the money goes back once, and the order fails."""
    books = Books()
    process = checkout.another(fate=Fate(step), provider=books)
    held = await process.reserve("ann")
    await die(process, held.order)
    await checkout.stop_record()
    await checkout.record()
    await checkout.expire_leases()
    await checkout.pool.execute("UPDATE refunds SET drive_until = NULL")
    checkout.start_record()

    worker = checkout.another(provider=books).completer
    await worker.tick()
    await worker.tick()

    row = await checkout.row(held.order)
    assert (OrderState.PAYMENT_FAILED, "refunded") == (row.state, row.payments[0].state)
    assert {f"{row.payments[0].payment}-refund": PRICE + 1} == books.refunds
    assert "done" == await checkout.pool.fetchval("SELECT state FROM refunds")
    assert {"free": 10} == await checkout.units()


class Books:
    """A provider that takes one too many, and keeps what it gave back by key."""

    name = "sandbox"
    methods = frozenset(Method)
    is_away = False

    def __init__(self) -> None:
        self.refunds: dict[str, int] = {}

    async def charge(self, asked: Attempt) -> Charge:
        return Charge(ChargeState.CAPTURED, amount=PRICE + 1, currency="KRW")

    async def find(self, asked: Attempt) -> Charge:
        return await self.charge(asked)

    async def void(self, asked: Attempt) -> Charge:
        return await self.charge(asked)

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        self.refunds[key] = amount
        return True


async def test_refused_claim_of_a_dead_process_is_put_right(checkout: Checkout) -> None:
    """The record refused, the process died before it put the unit back: withdrawn, once, and settled."""
    process = checkout.another(fate=Fate("before refuse"))
    held = await process.reserve("ann")
    await checkout.pool.execute("UPDATE sale_items SET stock = 0")
    await die(process, held.order)
    assert {"free": 9, "claimed": 1} == await checkout.units()

    first, second = await checkout.completer.tick(), await checkout.completer.tick()

    assert (1, 0) == (first.refusals, second.refusals)
    assert {"free": 9, "withdrawn": 1} == await checkout.units()
    assert [] == await checkout.sandbox.charges(held.order)


async def test_claim_that_the_record_never_saw_is_let_go(checkout: Checkout) -> None:
    """The claimed event is gone, the record has passed by: unit and order are let go in both stores."""
    await checkout.stop_record()
    process = checkout.another(fate=Fate("after pin"))
    held = await process.reserve("ann")
    await die(process, held.order)
    view = await checkout.inventory.look(checkout.keys, held.order)
    assert view is not None
    await checkout.redis.xdel(checkout.keys.money, view.event_id)
    assert 0 == (await checkout.completer.tick()).strays

    checkout.start_record()
    await checkout.bought("bob")
    tick = await checkout.completer.tick()

    assert 1 == tick.strays
    assert OrderState.RELEASED is (await checkout.row(held.order)).state
    assert {"free": 9, "sold": 1} == await checkout.units()
    assert 0 == (await checkout.completer.tick()).strays


async def test_claim_that_waits_for_the_record_is_no_stray(checkout: Checkout) -> None:
    """However long the record takes, a claim it has not come to is left alone."""
    await checkout.stop_record()
    process = checkout.another(fate=Fate("after pin"))
    held = await process.reserve("ann")
    await die(process, held.order)

    assert 0 == (await checkout.completer.tick()).strays
    assert {"free": 9, "claimed": 1} == await checkout.units()


async def test_unreadable_instrument_is_not_charged(checkout: Checkout) -> None:
    """The secret it was sealed under is gone: the attempt is made void, and the buyer may try again."""
    process = checkout.another(fate=Fate("after verdict"))
    held = await process.reserve("ann")
    await die(process, held.order)
    await checkout.pool.execute("UPDATE payments SET instrument = $1", b"\x01nonsense and more of it")
    await checkout.expire_leases()

    tick = await checkout.completer.tick()

    assert 1 == tick.attempts
    assert OrderState.RESERVED is (await checkout.row(held.order)).state
    assert [] == await checkout.sandbox.charges(held.order)


async def test_one_stumble_stops_nothing_else(checkout: Checkout) -> None:
    """An attempt of a provider that nobody knows any more is left; the others are completed."""
    orders = []
    for buyer in ("ann", "bob"):
        process = checkout.another(fate=Fate("after verdict"))
        held = await process.reserve(buyer)
        task = asyncio.create_task(process.confirm(buyer, held.order))
        await asyncio.wait([task])
        orders.append(held.order)
    await checkout.pool.execute("UPDATE payments SET provider = 'gone' WHERE order_id = $1", orders[0])
    await checkout.expire_leases()

    tick = await checkout.completer.tick()

    assert (1, 1) == (tick.attempts, tick.unanswered)
    assert OrderState.CONFIRMED is (await checkout.row(orders[1])).state


async def test_tick_is_bounded(checkout: Checkout) -> None:
    """One tick takes so many and says that there are more."""
    for number in range(3):
        process = checkout.another(fate=Fate("after verdict"))
        held = await process.reserve(f"buyer-{number}")
        task = asyncio.create_task(process.confirm(f"buyer-{number}", held.order))
        await asyncio.wait([task])
    await checkout.expire_leases()

    worker = checkout.another(completing=CompleterPolicy(batch_max=2)).completer
    ticks = [await worker.tick() for _ in range(3)]

    assert [(2, True), (1, False), (0, False)] == [(tick.attempts, tick.more) for tick in ticks]


async def test_killed_again_and_again(checkout: Checkout) -> None:
    """Flow and completers killed in turn at every step of one order: still one charge and one sale."""
    steps = ["after verdict", "after charge", "after confirm"]
    process = checkout.another(fate=Fate("after pin"))
    held = await process.reserve("ann")
    await die(process, held.order)
    await checkout.stop_record()
    await checkout.record()
    checkout.start_record()
    for step in steps:
        await checkout.expire_leases()
        worker = checkout.another(fate=Fate(step)).mortal_completer()
        task = asyncio.create_task(worker.tick())
        await asyncio.wait([task])
    await checkout.expire_leases()
    await checkout.completer.tick()

    assert OrderState.CONFIRMED is (await checkout.row(held.order)).state
    assert 1 == len(await checkout.sandbox.charges(held.order))
    assert {"free": 9, "sold": 1} == await checkout.units()


async def test_flow_never_raises_what_is_not_checkouts(checkout: Checkout) -> None:
    """Whatever breaks after the verdict, the answer is "still open" and the completer finishes it."""

    class Broken(Books):
        async def charge(self, asked: Attempt) -> Charge:
            raise msgspec.DecodeError("nobody can read this")

    process = checkout.another(provider=Broken())
    held = await process.reserve("ann")
    try:
        confirmation = await process.confirm("ann", held.order)
    except CheckoutError as error:
        pytest.fail(repr(error))
    await checkout.expire_leases()
    await checkout.completer.tick()

    assert (Outcome.OPEN, True) == (confirmation.ending.outcome, confirmation.ending.is_recorded)
    assert OrderState.CONFIRMED is (await checkout.row(held.order)).state


@pytest.mark.parametrize("step", ["after verdict", "after charge", "after confirm"])
async def test_redis_lost_whole_in_the_middle(checkout: Checkout, step: str) -> None:
    """Redis is emptied while an order is being paid, the sale rebuilt: the recorded claim ends as one sale."""
    process = checkout.another(fate=Fate(step))
    held = await process.reserve("ann")
    await die(process, held.order)
    await checkout.stop_record()
    if step != "after confirm":
        await checkout.record()
    await checkout.redis.flushall()
    await rebuild(checkout)
    await checkout.expire_leases()
    checkout.start_record()

    await checkout.completer.tick()

    assert 2 == checkout.keys.epoch
    assert OrderState.CONFIRMED is (await checkout.row(held.order)).state
    assert 1 == len(await checkout.sandbox.charges(held.order))
    assert [None] == [charge["refunded_at"] for charge in await checkout.sandbox.charges(held.order)]
    assert {"free": 9, "sold": 1} == await checkout.units()


async def test_flow_goes_on_over_a_rebuild(checkout: Checkout) -> None:
    """The sale is rebuilt while the provider charges: the same request still ends sold and recorded."""

    class Slow(Books):
        async def charge(self, asked: Attempt) -> Charge:
            await rebuild(checkout)
            return Charge(ChargeState.CAPTURED, amount=PRICE, currency="KRW")

    process = checkout.another(provider=Slow())
    held = await process.reserve("ann")
    confirmation = await process.confirm("ann", held.order)

    assert 2 == checkout.keys.epoch
    assert (Outcome.SOLD, True) == (confirmation.ending.outcome, confirmation.ending.is_recorded)
    assert {"free": 9, "sold": 1} == await checkout.units()


async def rebuild(checkout: Checkout) -> None:
    """Make the sale's keys anew under the next epoch."""
    await Rebuilder(checkout.pool, checkout.redis, checkout.inventory, checkout.book).rebuild(SALE)
    await checkout.book.refresh()


@pytest.mark.parametrize(("token", "outcome"), [("decline_funds", "declined"), ("fail_other", "failed")])
async def test_decline_of_a_claim_that_redis_forgot(checkout: Checkout, token: str, outcome: str) -> None:
    """Declined, then Redis forgot the order: the claim ends in the record, in one tick, and no unit is lost."""
    process = checkout.another(fate=Fate("after charge"))
    held = await process.reserve("ann")
    await die(process, held.order, token)
    await checkout.redis.hdel(checkout.keys.orders, held.order)
    await checkout.expire_leases()

    tick = await checkout.completer.tick()

    assert 1 == tick.attempts
    row = await checkout.row(held.order)
    assert (OrderState.PAYMENT_FAILED, "released") == (row.state, row.claim)
    assert "failed" == row.payments[0].state
    assert 0 == (await checkout.completer.tick()).attempts
