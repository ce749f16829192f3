"""Buying, step by step and all at once: one charge and one verdict an attempt, whoever asks and however often."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flow_kit import NEVER_MS, PRICE, PRODUCT, Checkout, Fate, pay, won

from onsale.auth.errors import IdempotencyKeyReused, InvalidRequest, PassInvalid, PassRequired
from onsale.auth.identifiers import order_id
from onsale.checkout.driving import DrivePolicy
from onsale.checkout.errors import (
    AmountMismatch,
    CheckoutError,
    OrderExpired,
    OrderStateConflict,
    OrderUnknown,
    PassExpired,
    PassSpent,
    PaymentDeclined,
    PriceChanged,
    ProductUnknown,
    ProviderAway,
    PurchaseLimitReached,
    ReservationOpen,
    SoldOut,
)
from onsale.checkout.flow import FlowPolicy
from onsale.checkout.idempotency import Outcome
from onsale.checkout.ports import Attempt, Charge, ChargeState, Method
from onsale.checkout.schemas import AmendRequest, ItemRequest, Money, ReserveRequest
from onsale.checkout.states import OrderState


async def outcome(awaitable: Any) -> str:
    """How a call ended: the attempt's outcome, or the error's name."""
    try:
        confirmation = await awaitable
    except (CheckoutError, IdempotencyKeyReused) as error:
        return type(error).__name__
    return str(confirmation.ending.outcome)


# reserving


async def test_reservation_is_priced_by_the_server(checkout: Checkout) -> None:
    """The document holds the sale's price and total; the units are held."""
    held = await checkout.reserve("ann", 2, expected_total=won(2 * PRICE))
    row = await checkout.inventory.look(checkout.keys, held.order)

    assert row is not None
    assert OrderState.RESERVED is row.state
    assert {"free": 8, "held": 2} == await checkout.units()


async def test_repeated_reservation_answers_the_first(checkout: Checkout) -> None:
    """The same key and body is the same order, once; another body is refused."""
    first = await checkout.reserve("ann", key="k")
    again = await checkout.reserve("ann", key="k")
    with pytest.raises(IdempotencyKeyReused):
        await checkout.reserve("ann", 2, key="k")

    assert (first.order, False, True) == (again.order, first.is_replay, again.is_replay)
    assert {"free": 9, "held": 1} == await checkout.units()


async def test_another_expected_total_is_refused(checkout: Checkout) -> None:
    """Nobody pays another price than was shown, and nothing is held."""
    for expected in (won(PRICE - 1), Money(PRICE, "USD")):
        with pytest.raises(PriceChanged) as refused:
            await checkout.reserve("ann", expected_total=expected)
        assert (PRICE, "KRW") == (refused.value.amount, refused.value.currency)

    assert {"free": 10} == await checkout.units()


async def test_a_refused_price_is_what_its_key_answers(checkout: Checkout) -> None:
    """Again the same, with the price; another body under the key is another request. A key that reserved stays one."""
    for is_replay in (False, True):
        with pytest.raises(PriceChanged) as refused:
            await checkout.reserve("ann", key="k", expected_total=won(PRICE - 1))
        assert (PRICE, is_replay) == (refused.value.amount, refused.value.is_replay)
    with pytest.raises(IdempotencyKeyReused):
        await checkout.reserve("ann", key="k", expected_total=won(PRICE))
    held = await checkout.reserve("ann", key="l", expected_total=won(PRICE))
    await checkout.pool.execute("UPDATE sale_items SET amount = amount - 1")
    await checkout.book.refresh()
    again = await checkout.reserve("ann", key="l", expected_total=won(PRICE))

    assert (held.order, True) == (again.order, again.is_replay)
    assert {"free": 9, "held": 1} == await checkout.units()


async def test_an_unknown_product_is_what_its_key_answers(checkout: Checkout) -> None:
    """Again the same."""
    wanted = ReserveRequest((ItemRequest("hat", 1),))
    replays = []
    for _ in range(2):
        with pytest.raises(ProductUnknown) as refused:
            await checkout.flow.reserve(checkout.sale.id, "ann", checkout.pass_of("ann"), wanted, "k")
        replays.append(refused.value.is_replay)

    assert [False, True] == replays


async def test_reserving_takes_the_buyers_own_pass_of_the_sale(checkout: Checkout) -> None:
    """No pass, a forged one, another buyer's and another sale's are refused before anything is held."""
    wanted = ReserveRequest((ItemRequest("jacket", 1),))
    own = checkout.pass_of("ann")
    refused = {
        "": PassRequired,
        own[:-4] + ("AAAA" if own[-4:] != "AAAA" else "BBBB"): PassInvalid,
        checkout.pass_of("bob"): PassInvalid,
        checkout.pass_of("ann", sale="other"): PassInvalid,
    }

    for token, error in refused.items():
        with pytest.raises(error):
            await checkout.flow.reserve("drop", "ann", token, wanted, "k")
    assert {"free": 10} == await checkout.units()


async def test_unknown_and_doubled_products_are_refused(checkout: Checkout) -> None:
    """A product twice is a flaw with its place; one that is not of the sale is unknown."""
    twice = ReserveRequest((ItemRequest("jacket", 1), ItemRequest("jacket", 1)))
    with pytest.raises(InvalidRequest) as refused:
        await checkout.flow.reserve("drop", "ann", checkout.pass_of("ann"), twice, "k")
    assert "#/items/1/product" == refused.value.errors[0].pointer

    with pytest.raises(ProductUnknown):
        unknown = ReserveRequest((ItemRequest("shoe", 1),))
        await checkout.flow.reserve("drop", "ann", checkout.pass_of("ann"), unknown, "k")


async def test_one_open_reservation_a_buyer(checkout: Checkout) -> None:
    """A second one is refused, and its refusal is repeated as such."""
    await checkout.reserve("ann")
    for is_replay in (False, True):
        with pytest.raises(ReservationOpen) as refused:
            await checkout.reserve("ann", key="second", turn="1-other-1")
        assert is_replay == refused.value.is_replay


# confirming


async def test_confirmation_is_sold_charged_and_recorded(checkout: Checkout) -> None:
    """What is answered as sold stands in Postgres, with one charge of the right amount."""
    held = await checkout.reserve("ann", 2)
    confirmation = await checkout.confirm("ann", held.order)

    row = await checkout.row(held.order)
    [charge] = await checkout.sandbox.charges(held.order)
    assert (Outcome.SOLD, True) == (confirmation.ending.outcome, confirmation.ending.is_recorded)
    assert (OrderState.CONFIRMED, "sold", "captured") == (row.state, row.claim, row.payments[0].state)
    assert (2 * PRICE, row.payments[0].payment) == (charge["amount"], charge["key"])
    assert {"free": 8, "sold": 2} == await checkout.units()


async def test_instrument_is_sealed_and_then_erased(checkout: Checkout) -> None:
    """The payment token stands nowhere in clear, and nowhere at all after the attempt."""
    held = await checkout.reserve("ann")
    await checkout.confirm("ann", held.order, "slow_1")

    entries = await checkout.redis.xrange(checkout.keys.money)
    assert all(b"slow_1" not in value for _, fields in entries for value in fields.values())
    instrument = await checkout.pool.fetchval("SELECT instrument FROM payments WHERE order_id = $1", held.order)
    assert instrument is None


@pytest.mark.parametrize("is_same_key", [True, False])
async def test_doubled_confirmations_charge_once(checkout: Checkout, is_same_key: bool) -> None:
    """Ten at once in two processes, with one key or with ten, are one charge, and all of them hear of it."""
    other = checkout.another()
    held = await checkout.reserve("ann")

    keys = ["k"] * 10 if is_same_key else [f"k{number}" for number in range(10)]
    processes = [checkout, other] * 5
    calls = [process.confirm("ann", held.order, "slow_30", key) for process, key in zip(processes, keys, strict=True)]
    answers = await asyncio.gather(*calls)

    assert {(Outcome.SOLD, True)} == {(answer.ending.outcome, answer.ending.is_recorded) for answer in answers}
    assert 1 == len({answer.ending.attempt for answer in answers})
    assert (9 if is_same_key else 0) == sum(answer.is_replay for answer in answers)
    assert 1 == len(await checkout.sandbox.charges(held.order))


async def test_confirmed_order_is_confirmed_whatever_the_key(checkout: Checkout) -> None:
    """A later confirmation charges nothing; the same key says that it is a replay, with another body it is refused."""
    held = await checkout.reserve("ann")
    await checkout.confirm("ann", held.order, key="k")

    same = await checkout.confirm("ann", held.order, key="k")
    other = await checkout.another().confirm("ann", held.order, "fail_other", key="other")
    with pytest.raises(IdempotencyKeyReused):
        await checkout.confirm("ann", held.order, "slow_1", key="k")

    assert (True, False) == (same.is_replay, other.is_replay)
    assert {Outcome.SOLD} == {same.ending.outcome, other.ending.outcome}
    assert 1 == len(await checkout.sandbox.charges(held.order))


async def test_retryable_decline_leaves_the_reservation(checkout: Checkout) -> None:
    """Declined with its reason, recorded, repeated the same for its key; then another try sells."""
    held = await checkout.reserve("ann")
    for is_replay in (False, True):
        with pytest.raises(PaymentDeclined) as declined:
            await checkout.confirm("ann", held.order, "decline_funds", key="k")
        assert ("funds", True, is_replay) == (
            declined.value.reason,
            declined.value.retryable,
            declined.value.is_replay,
        )
    assert (OrderState.RESERVED, "released") == ((row := await checkout.row(held.order)).state, row.claim)

    confirmation = await checkout.confirm("ann", held.order, key="k2")
    assert Outcome.SOLD is confirmation.ending.outcome
    assert ["declined", "captured"] == [payment.state for payment in (await checkout.row(held.order)).payments]


async def test_fifth_decline_is_final(checkout: Checkout) -> None:
    """Five tries, then the order has failed and its unit is free."""
    held = await checkout.reserve("ann")
    retryable = []
    for _ in range(5):
        with pytest.raises(PaymentDeclined) as declined:
            await checkout.confirm("ann", held.order, "decline_limit")
        retryable.append(declined.value.retryable)

    assert [True, True, True, True, False] == retryable
    assert OrderState.PAYMENT_FAILED is (await checkout.row(held.order)).state
    assert {"free": 10} == await checkout.units()
    assert "OrderStateConflict" == await outcome(checkout.confirm("ann", held.order))


@pytest.mark.parametrize(
    ("token", "reason"),
    [("fail_provider", "provider"), ("fail_network", "network"), ("cancelled_by_buyer", "cancelled_by_buyer")],
)
async def test_final_decline_ends_the_order(checkout: Checkout, token: str, reason: str) -> None:
    """Final: the unit is free at once, and the key answers the same again."""
    held = await checkout.reserve("ann")
    for _ in range(2):
        with pytest.raises(PaymentDeclined) as declined:
            await checkout.confirm("ann", held.order, token, key="k")
        assert (reason, False) == (declined.value.reason, declined.value.retryable)

    assert OrderState.PAYMENT_FAILED is (await checkout.row(held.order)).state
    assert {"free": 10} == await checkout.units()


async def test_decline_of_another_key_lets_ones_own_try(checkout: Checkout) -> None:
    """Who waited for another key's attempt pays with its own once that was declined; nobody is charged twice."""
    held = await checkout.reserve("ann")
    answers = await asyncio.gather(
        outcome(checkout.confirm("ann", held.order, "decline_funds", key="a")),
        outcome(checkout.confirm("ann", held.order, "ok", key="b")),
    )

    # Whoever pinned first, b is sold; a was declined, or found the order sold.
    assert "sold" == answers[1]
    assert answers[0] in ("PaymentDeclined", "sold")
    assert 1 == len(await checkout.sandbox.charges(held.order))


async def test_lost_reply_is_found_out(checkout: Checkout) -> None:
    """The provider charged and broke off: asked again with the same key, it says so, and the sale stands."""
    held = await checkout.reserve("ann")
    confirmation = await checkout.confirm("ann", held.order, "lost_reply")

    assert (Outcome.SOLD, True) == (confirmation.ending.outcome, confirmation.ending.is_recorded)
    assert 1 == len(await checkout.sandbox.charges(held.order))


async def test_silent_provider_leaves_the_order_confirming(checkout: Checkout) -> None:
    """Past the patience the answer is "still open"; the claim is recorded, nothing is charged, and it cannot lapse."""
    impatient = checkout.another(policy=FlowPolicy(300, DrivePolicy(drive_ms=1_500, call_ms=500)))
    held = await impatient.reserve("ann")
    confirmation = await impatient.confirm("ann", held.order, "timeout")
    await impatient.flow.close()
    await checkout.inventory.lapse(checkout.keys, 100)

    row = await checkout.row(held.order)
    assert Outcome.OPEN is confirmation.ending.outcome
    assert (OrderState.CONFIRMING, "open") == (row.state, row.claim)
    assert [] == await checkout.sandbox.charges(held.order)
    assert {"free": 9, "claimed": 1} == await checkout.units()


async def test_confirming_waits_for_the_record_before_the_provider(checkout: Checkout) -> None:
    """No money moves while the claim is not in Postgres."""
    await checkout.stop_record()
    impatient = checkout.another(policy=FlowPolicy(confirm_patience_ms=200))
    held = await impatient.reserve("ann")
    confirmation = await impatient.confirm("ann", held.order)

    assert (Outcome.OPEN, False) == (confirmation.ending.outcome, confirmation.ending.is_recorded)
    assert [] == await checkout.sandbox.charges(held.order)
    checkout.start_record()
    await impatient.flow.close()
    assert OrderState.CONFIRMED is (await checkout.row(held.order)).state


async def test_pinned_order_cannot_be_given_up(checkout: Checkout) -> None:
    """Released while it is being paid: refused. Confirmed: refused. The sale stands."""
    held = await checkout.reserve("ann")
    confirming = asyncio.create_task(checkout.confirm("ann", held.order, "slow_100"))
    while (view := await checkout.inventory.look(checkout.keys, held.order)) and view.state is OrderState.RESERVED:
        await asyncio.sleep(0)

    with pytest.raises(OrderStateConflict):
        await checkout.inventory.release(checkout.keys, held.order, "ann")
    assert Outcome.SOLD is (await confirming).ending.outcome


async def test_cancelled_request_leaves_the_flow_running(checkout: Checkout) -> None:
    """A client that hangs up in the middle stops nothing: the order is confirmed, charged once."""
    held = await checkout.reserve("ann")
    request = asyncio.create_task(checkout.confirm("ann", held.order, "slow_100", key="k"))
    while not checkout.flow._driver._driving:
        await asyncio.sleep(0)
    request.cancel()
    await asyncio.wait([request])
    await checkout.flow.close()

    assert request.cancelled()
    assert OrderState.CONFIRMED is (await checkout.row(held.order)).state
    assert 1 == len(await checkout.sandbox.charges(held.order))
    assert Outcome.SOLD is (await checkout.confirm("ann", held.order, "slow_100", key="k")).ending.outcome


async def test_confirmation_against_the_lapse(checkout: Checkout) -> None:
    """At the very end of a hold the order is either paid or expired, never both, never neither."""
    for number in range(30):
        buyer = f"buyer-{number}"
        held = await checkout.reserve(buyer)
        await checkout.redis.zadd(checkout.keys.holds, {held.order: 1})
        answer, _ = await asyncio.gather(
            outcome(checkout.confirm(buyer, held.order, "fail_other")), checkout.inventory.lapse(checkout.keys, 10)
        )
        view = await checkout.inventory.look(checkout.keys, held.order)
        assert view is not None
        expected = {"PaymentDeclined": OrderState.PAYMENT_FAILED, "OrderExpired": OrderState.EXPIRED}
        assert expected[answer] is view.state
    assert {"free": 10} == await checkout.units()


async def test_others_orders_do_not_exist(checkout: Checkout) -> None:
    """Another's order, an unknown one and nonsense are the same: unknown."""
    held = await checkout.reserve("ann")
    for order in (held.order, order_id(checkout.sale.no), order_id(999_999), "nonsense", "0" * 26, ""):
        with pytest.raises(OrderUnknown):
            await checkout.confirm("bob", order)


async def test_expired_reservation_cannot_be_paid(checkout: Checkout) -> None:
    """Past its expiry nothing is pinned and nothing charged."""
    held = await checkout.reserve("ann")
    await checkout.redis.zadd(checkout.keys.holds, {held.order: 1})
    await checkout.inventory.lapse(checkout.keys, 10)

    with pytest.raises(OrderExpired):
        await checkout.confirm("ann", held.order)
    assert [] == await checkout.sandbox.charges(held.order)


# what the record refuses


async def refused_by_record(checkout: Checkout, change: str, *args: Any) -> str:
    """Reserve, let the record know something that Redis does not, confirm."""
    held = await checkout.reserve("ann")
    await checkout.pool.execute(change, *args)
    answer = await outcome(checkout.confirm("ann", held.order))
    assert [] == await checkout.sandbox.charges(held.order)
    return answer


async def test_claim_without_stock_is_refused(checkout: Checkout) -> None:
    """The record has no unit: sold out, nothing charged, and the unit is not offered again."""
    answer = await refused_by_record(checkout, "UPDATE sale_items SET stock = 0")

    assert "SoldOut" == answer
    assert {"free": 9, "withdrawn": 1} == await checkout.units()
    assert 0 == await checkout.pool.fetchval("SELECT count(*) FROM refusals WHERE settled_at IS NULL")


async def test_claim_above_the_limit_is_refused(checkout: Checkout) -> None:
    """The record knows of purchases that Redis forgot: refused, the unit free again."""
    answer = await refused_by_record(checkout, "INSERT INTO sale_buyers VALUES ('drop', 'ann', 2, 2)")

    assert "PurchaseLimitReached" == answer
    assert {"free": 10} == await checkout.units()


async def test_claim_of_a_spent_turn_is_refused(checkout: Checkout) -> None:
    """Another order of the same turn was sold: the pass is spent."""
    order = await checkout.bought("bob")
    answer = await refused_by_record(checkout, "UPDATE orders SET turn = '1-ann-1' WHERE id = $1", order)

    assert "PassSpent" == answer
    assert {"free": 9, "sold": 1} == await checkout.units()


async def test_refusal_is_repeated_for_its_key(checkout: Checkout) -> None:
    """The same key hears the same refusal again, from Redis."""
    held = await checkout.reserve("ann")
    await checkout.pool.execute("UPDATE sale_items SET stock = 0")
    for _ in range(2):
        with pytest.raises(SoldOut):
            await checkout.confirm("ann", held.order, key="k")


# providers that misbehave


class Strange:
    """A provider that answers what a test tells it to, and remembers what it was asked."""

    name = "sandbox"
    methods = frozenset(Method)

    def __init__(self, *answers: Charge, is_away: bool = False) -> None:
        self._answers = list(answers)
        self.is_away = is_away
        self.charged: list[str] = []
        self.refunds: list[tuple[str, str, int]] = []

    async def charge(self, asked: Attempt) -> Charge:
        self.charged.append(asked.attempt)
        return self._answers.pop(0)

    async def find(self, asked: Attempt) -> Charge:
        return Charge(ChargeState.UNKNOWN)

    async def void(self, asked: Attempt) -> Charge:
        return Charge(ChargeState.UNKNOWN)

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        self.refunds.append((asked.attempt, key, amount))
        return True


@pytest.mark.parametrize(("amount", "currency"), [(PRICE + 1, "KRW"), (PRICE - 1, "KRW"), (PRICE, "USD")])
async def test_wrong_amount_is_given_back(checkout: Checkout, amount: int, currency: str) -> None:
    """A capture of another amount: the order fails, the money goes back once, and the key hears the same again."""
    strange = Strange(Charge(ChargeState.CAPTURED, amount=amount, currency=currency))
    process = checkout.another(provider=strange)
    held = await process.reserve("ann")
    for _ in range(2):
        with pytest.raises(AmountMismatch):
            await process.confirm("ann", held.order, key="k")

    row = await checkout.row(held.order)
    assert (OrderState.PAYMENT_FAILED, "refunded") == (row.state, row.payments[0].state)
    assert [amount] == [refund[2] for refund in strange.refunds]
    assert {"free": 10} == await checkout.units()


async def test_unknown_is_asked_again_with_the_same_key(checkout: Checkout) -> None:
    """Unanswered twice, then captured: one attempt, one id, one sale."""
    unknown = Charge(ChargeState.UNKNOWN)
    strange = Strange(unknown, unknown, Charge(ChargeState.CAPTURED, amount=PRICE, currency="KRW"))
    process = checkout.another(provider=strange)
    held = await process.reserve("ann")
    confirmation = await process.confirm("ann", held.order)

    assert Outcome.SOLD is confirmation.ending.outcome
    assert [confirmation.ending.attempt] * 3 == strange.charged


async def test_no_call_is_begun_outside_the_lease(checkout: Checkout) -> None:
    """A process whose time was over before the verdict came leaves the provider alone."""
    strange = Strange()
    process = checkout.another(provider=strange, policy=FlowPolicy(drive=DrivePolicy(drive_ms=500, call_ms=500)))
    held = await process.reserve("ann")
    confirmation = await process.confirm("ann", held.order)

    assert Outcome.OPEN is confirmation.ending.outcome
    assert [] == strange.charged


async def test_provider_away_refuses_before_the_pin(checkout: Checkout) -> None:
    """Nothing is pinned: the reservation stands as it was, and may be paid when the provider is back."""
    strange = Strange(is_away=True)
    process = checkout.another(provider=strange)
    held = await process.reserve("ann")
    with pytest.raises(ProviderAway):
        await process.confirm("ann", held.order)

    assert {"free": 9, "held": 1} == await checkout.units()
    assert Outcome.SOLD is (await checkout.confirm("ann", held.order)).ending.outcome


async def test_late_capture_of_an_ended_claim_is_refunded(checkout: Checkout) -> None:
    """The claim ended while the provider was charging: the money goes back, and nothing is sold."""

    class Late(Strange):
        async def charge(self, asked: Attempt) -> Charge:
            await checkout.inventory.fail(checkout.keys, asked.order, asked.attempt, "other")
            return await super().charge(asked)

    late = Late(Charge(ChargeState.CAPTURED, amount=PRICE, currency="KRW"))
    process = checkout.another(provider=late)
    held = await process.reserve("ann")
    with pytest.raises(OrderStateConflict):
        await process.confirm("ann", held.order)

    # Not before the record has heard that the claim is over: the completer asks for what is written down.
    await checkout.stop_record()
    await checkout.record()
    await checkout.pool.execute("UPDATE refunds SET drive_until = NULL WHERE state = 'pending'")
    await process.completer.tick()

    assert 1 == len(late.refunds)
    assert {"free": 10} == await checkout.units()
    assert "done" == await checkout.pool.fetchval("SELECT state FROM refunds")


async def test_pin_whose_answer_was_lost_is_repeated(checkout: Checkout) -> None:
    """Redis pinned and the reply never came: the same pin again is this process's own, and is driven."""
    from onsale.auth.errors import StoreUnavailable

    class Lossy:
        def __init__(self) -> None:
            self.pins = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(checkout.inventory, name)

        async def pin(self, *args: Any) -> Any:
            pinned = await checkout.inventory.pin(*args)
            self.pins += 1
            if self.pins == 1:
                raise StoreUnavailable
            return pinned

    process = checkout.another(inventory=Lossy())
    held = await process.reserve("ann")

    assert Outcome.SOLD is (await process.confirm("ann", held.order)).ending.outcome
    assert 1 == len(await checkout.sandbox.charges(held.order))


async def test_more_buyers_than_units(checkout: Checkout) -> None:
    """Forty buyers for ten jackets: ten sold, each charged once, nobody else."""

    async def buy(number: int) -> str:
        buyer = f"buyer-{number}"
        try:
            held = await checkout.reserve(buyer)
        except SoldOut:
            return "sold_out"
        return await outcome(checkout.confirm(buyer, held.order))

    answers = await asyncio.gather(*(buy(number) for number in range(40)))

    assert {"sold": 10, "sold_out": 30} == {answer: answers.count(answer) for answer in set(answers)}
    assert 10 == await checkout.pool.fetchval("SELECT count(*) FROM orders WHERE claim = 'sold'")
    assert {"sold": 10} == await checkout.units()


async def test_pass_is_spent_by_a_confirmation(checkout: Checkout) -> None:
    """One turn buys once."""
    await checkout.bought("ann")
    with pytest.raises(PassSpent):
        await checkout.reserve("ann")


async def test_limit_counts_what_was_bought(checkout: Checkout) -> None:
    """Two a buyer, whatever the number of turns."""
    held = await checkout.reserve("ann", 2)
    await checkout.confirm("ann", held.order)
    with pytest.raises(PurchaseLimitReached):
        await checkout.reserve("ann", turn="1-ann-2")


async def test_order_forgotten_by_redis_is_answered_from_the_record(checkout: Checkout) -> None:
    """A day later Redis has dropped the order: its key still answers, another's key as well, a stranger is refused."""
    held = await checkout.reserve("ann")
    await checkout.confirm("ann", held.order, key="k")
    await checkout.redis.hdel(checkout.keys.orders, held.order)

    same = await checkout.confirm("ann", held.order, key="k")
    other = await checkout.confirm("ann", held.order, key="other")

    assert [(Outcome.SOLD, True, True), (Outcome.SOLD, True, False)] == [
        (answer.ending.outcome, answer.ending.is_recorded, answer.is_replay) for answer in (same, other)
    ]
    with pytest.raises(IdempotencyKeyReused):
        await checkout.confirm("ann", held.order, "slow_1", key="k")
    with pytest.raises(OrderUnknown):
        await checkout.confirm("bob", held.order, key="k")


async def test_expired_pass_is_judged_by_redis(checkout: Checkout) -> None:
    """A pass past its end holds nothing."""
    wanted = ReserveRequest((ItemRequest("jacket", 1),))
    for exp_ms, answer in ((1, "PassExpired"), (NEVER_MS, "")):
        token = checkout.pass_of("ann", exp_ms=exp_ms)
        try:
            await checkout.flow.reserve("drop", "ann", token, wanted, f"k{exp_ms}")
            found = ""
        except CheckoutError as error:
            found = type(error).__name__
        assert answer == found


async def test_a_pass_ends_when_the_line_says(checkout: Checkout) -> None:
    """Its own end has passed, but an outage of ours put it off: it still buys. Only its own turn's end counts."""
    wanted = ReserveRequest((ItemRequest("jacket", 1),))
    token = checkout.pass_of("ann", turn="1-7-1", exp_ms=1)
    checkout.pass_times.until["1-8-1"] = NEVER_MS
    with pytest.raises(PassExpired):
        await checkout.flow.reserve("drop", "ann", token, wanted, "early")

    checkout.pass_times.until["1-7-1"] = NEVER_MS
    assert (await checkout.flow.reserve("drop", "ann", token, wanted, "k")).order


async def test_reservation_key_outlives_redis(checkout: Checkout) -> None:
    """A day later Redis has dropped the key, and the pass has expired: the record still answers it."""
    wanted = ReserveRequest((ItemRequest("jacket", 1),))
    order = (await checkout.reserve("ann", key="k")).order
    await checkout.confirm("ann", order)
    await checkout.redis.delete(checkout.keys.keys)
    token = checkout.pass_of("ann", exp_ms=1)

    for _ in range(2):
        held = await checkout.flow.reserve("drop", "ann", token, wanted, "k")
        assert (order, True) == (held.order, held.is_replay)
    with pytest.raises(IdempotencyKeyReused):
        await checkout.flow.reserve("drop", "ann", token, ReserveRequest((ItemRequest("jacket", 2),)), "k")
    with pytest.raises(PassExpired):
        await checkout.flow.reserve("drop", "ann", token, wanted, "never")


def test_fate_ends_everything_after_it() -> None:
    """The kit's own promise: once a process has died at a step, no later step is done."""
    fate = Fate("after pin")
    fate.meet("before pin")
    for moment in ("after pin", "before charge"):
        with pytest.raises(asyncio.CancelledError):
            fate.meet(moment)


def test_payment_of_a_test_is_the_sandbox() -> None:
    assert ("sandbox", "ok") == (pay().provider, pay().token)


async def test_paying_here_what_another_process_amended(checkout: Checkout) -> None:
    """An order that this process reserved and another one changed is charged as it is now."""
    held = await checkout.reserve("ann")
    other = checkout.another()
    request = AmendRequest(items=(ItemRequest(PRODUCT, 2),))
    await other.flow.amend("ann", held.order, checkout.pass_of("ann"), request)

    confirmation = await checkout.confirm("ann", held.order)

    assert (2 * PRICE, Outcome.SOLD) == (confirmation.doc.amount, confirmation.ending.outcome)


async def test_paying_here_what_redis_forgot(checkout: Checkout) -> None:
    """Of an order that this process reserved and the shop's Redis does not know, the record is asked."""
    held = await checkout.reserve("ann")
    await checkout.stop_record()
    await checkout.record()
    await checkout.redis.hdel(checkout.keys.orders, held.order)

    with pytest.raises(OrderExpired):
        await checkout.confirm("ann", held.order)
