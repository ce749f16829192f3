"""One suite over the four providers: the same question has the same answer, whatever is spoken on the wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import unused_port
from flow_kit import PRICE, Checkout
from provider_kit import AMOUNT, NAMES, OLD_SECRET, ORDER, SECRET, Rig, rig_of

from onsale.checkout.errors import AmountMismatch, EventUnreadable, PaymentDeclined, SignatureInvalid
from onsale.checkout.ports import Charge, ChargeState
from onsale.checkout.providers import FAILURES_MAX, Guarded
from onsale.checkout.providers.credentials import Credentials

CAPTURED, DECLINED, UNKNOWN = ChargeState.CAPTURED, ChargeState.DECLINED, ChargeState.UNKNOWN


@pytest.fixture(params=NAMES)
async def rig(request: Any, tmp_path: Path) -> AsyncIterator[Rig]:
    """One of the four."""
    async with rig_of(request.param, tmp_path) as made:
        yield made


async def test_a_charge_is_captured_once(rig: Rig) -> None:
    """Amount and currency as the provider took them; the same attempt again is the same charge."""
    asked = rig.asked()
    first, second, found = await rig.charge(asked), await rig.charge(asked), await rig.guarded.find(asked)

    assert (CAPTURED, AMOUNT, "KRW") == (first.state, first.amount, first.currency)
    assert first.reference
    assert first == second == found
    assert [(AMOUNT, 0)] == rig.captures()


async def test_one_attempt_from_many_processes(rig: Rig) -> None:
    """However many ask at once, money moves once, and nobody is told otherwise."""
    asked = rig.asked()
    charges = await asyncio.gather(*(rig.charge(asked) for _ in range(8)))

    assert {CAPTURED} == {charge.state for charge in charges}
    assert [(AMOUNT, 0)] == rig.captures()


@pytest.mark.parametrize(
    ("behaviour", "reason", "is_retryable"),
    [
        ("funds", "funds", True),
        ("expired", "card_expired", True),
        ("limit", "limit", True),
        ("stolen", "refused", False),
    ],
)
async def test_declines_in_our_words(rig: Rig, behaviour: str, reason: str, is_retryable: bool) -> None:
    """Why, and whether another card may help; the same when it is asked what became of it."""
    asked = rig.asked(behaviour)
    charge, found = await rig.charge(asked), await rig.guarded.find(asked)

    assert (DECLINED, reason, is_retryable) == (charge.state, charge.reason, charge.retryable)
    assert (DECLINED, reason, is_retryable) == (found.state, found.reason, found.retryable)
    assert [] == rig.captures()


async def test_a_lost_reply_is_found(rig: Rig) -> None:
    """Charged, and the connection broke off: the question after it says so."""
    asked = rig.asked("lost")
    unanswered, found = await rig.guarded.charge(asked), await rig.guarded.find(asked)

    assert (UNKNOWN, CAPTURED) == (unanswered.state, found.state)
    assert [(AMOUNT, 0)] == rig.captures()


async def test_a_hanging_charge_is_found(rig: Rig) -> None:
    """Charged, and nothing said: given up in time, found afterwards, and charged once."""
    asked = rig.asked("hang")
    began_s = time.monotonic()
    assert UNKNOWN is (await rig.guarded.charge(asked)).state
    assert time.monotonic() - began_s < 3

    while (found := await rig.charge(asked)).state is UNKNOWN:
        await asyncio.sleep(0.05)
    assert CAPTURED is found.state
    assert [(AMOUNT, 0)] == rig.captures()


async def test_not_found_is_never_final(rig: Rig) -> None:
    """An attempt that the provider has not heard of may yet come."""
    asked = rig.asked("silent")
    assert UNKNOWN is (await rig.guarded.find(asked)).state
    assert UNKNOWN is (await rig.charge(asked)).state
    assert [] == rig.captures()


async def test_void_never_lets_a_charge_through_unseen(rig: Rig) -> None:
    """What was captured is told; what can be stopped is stopped for good; what cannot is not called so."""
    paid, unpaid = rig.asked(), rig.asked(attempt="attempt-2", order="order-2")
    await rig.charge(paid)
    told, voided = await rig.guarded.void(paid), await rig.guarded.void(unpaid)
    late = await rig.charge(unpaid)

    assert CAPTURED is told.state
    if rig.name in ("sandbox", "stripe"):
        assert (DECLINED, DECLINED, True) == (voided.state, late.state, voided.retryable)
        assert [(AMOUNT, 0)] == rig.captures()
    else:
        assert (UNKNOWN, CAPTURED) == (voided.state, late.state)


async def test_refund_in_parts_once_a_key(rig: Rig) -> None:
    """A part, the same key again, another part, the rest; more than was taken is refused."""
    asked = rig.asked()
    await rig.charge(asked)
    # Later nobody knows any more what was paid with.
    erased = replace(asked, token="")
    parts = [("r1", 300), ("r1", 300), ("r2", 300), ("r3", 400), ("r3", 400), ("r4", 1)]
    done = [await rig.guarded.refund(erased, key=key, amount=amount, currency="KRW") for key, amount in parts]

    assert [True, True, True, True, True, False] == done
    assert [(AMOUNT, AMOUNT)] == rig.captures()


async def test_full_refund(rig: Rig) -> None:
    """All of it, whoever asks how often at once."""
    asked = rig.asked()
    await rig.charge(asked)
    done = await asyncio.gather(*(rig.guarded.refund(asked, key="r", amount=AMOUNT, currency="KRW") for _ in range(5)))

    assert True in done
    assert await rig.guarded.refund(asked, key="r", amount=AMOUNT, currency="KRW")
    assert [(AMOUNT, AMOUNT)] == rig.captures()


async def test_refund_of_nothing_is_not_done(rig: Rig) -> None:
    """There is nothing to give back of an attempt that never charged."""
    assert not await rig.guarded.refund(rig.asked("silent"), key="r", amount=1, currency="KRW")


async def test_breaker_opens_and_closes(rig: Rig) -> None:
    """Nobody there: away after five questions, UNKNOWN all along; back with the first answer."""
    asked = rig.asked()
    await rig.charge(asked)
    nobody = type(rig.client)(Credentials(f"http://127.0.0.1:{unused_port()}", "x"))
    guarded = Guarded(nobody, open_s=0.0)
    charges = [await guarded.charge(asked) for _ in range(FAILURES_MAX)]
    assert [UNKNOWN] * FAILURES_MAX == [charge.state for charge in charges]
    assert guarded.is_away

    guarded._client = rig.client
    assert await guarded.probe()
    assert not guarded.is_away
    assert CAPTURED is (await guarded.find(asked)).state
    await nobody.close()


async def test_webhook_names_its_payment(rig: Rig) -> None:
    """Of whom it speaks, under an id of its own; what it says of it is not read."""
    await rig.charge(rig.asked())
    event = rig.client.read_event(*rig.event("attempt-1"), time.time())

    assert event is not None
    assert "evt-1" == event.event_id
    assert ("attempt-1", "") == (event.attempt, event.order) or ("", ORDER) == (event.attempt, event.order)


async def test_webhook_out_of_its_window_is_refused(rig: Rig) -> None:
    """Five minutes either way."""
    await rig.charge(rig.asked())
    now_s = time.time()
    for age_s in (301, -301, 3e9):
        with pytest.raises(SignatureInvalid):
            rig.client.read_event(*rig.event("attempt-1", at_s=now_s - age_s if age_s < 1e9 else 0), now_s)
    assert rig.client.read_event(*rig.event("attempt-1", at_s=now_s - 299), now_s)


async def test_forged_webhooks_are_refused(rig: Rig) -> None:
    """A bit of the body, another secret, no header at all; the secret before the current one still counts."""
    await rig.charge(rig.asked())
    now_s = time.time()
    headers, raw = rig.event("attempt-1")
    with pytest.raises(SignatureInvalid):
        rig.client.read_event({}, raw, now_s)
    if rig.name == "toss":
        # Its payment webhooks carry no signature: only their form can be wrong.
        with pytest.raises(EventUnreadable):
            rig.client.read_event(headers, raw[:-2], now_s)
        return
    assert rig.client.read_event(*rig.event("attempt-1", secret=OLD_SECRET), now_s)
    forgeries = [(headers, raw + b" "), rig.event("attempt-1", secret=b"wrong"), (_tampered(headers), raw)]
    for forged, body in forgeries:
        with pytest.raises(SignatureInvalid):
            rig.client.read_event(forged, body, now_s)


def _tampered(headers: dict[str, str]) -> dict[str, str]:
    name = next(name for name in headers if name.lower().endswith("signature"))
    return {**headers, name: headers[name][:-12] + "\udce9AAAAAAAAAAA"}


@pytest.mark.parametrize("name", ["portone", "toss", "stripe"])
async def test_every_repeat_has_the_same_key(name: str, tmp_path: Path) -> None:
    """A provider out of order is asked again under the attempt's own key, and charges once."""
    async with rig_of(name, tmp_path) as rig:
        asked = rig.asked("broken")
        assert UNKNOWN is (await rig.guarded.charge(asked)).state
        assert CAPTURED is (await rig.charge(asked)).state

        path = {"portone": "/billing-key", "toss": "/confirm", "stripe": "/confirm"}[name]
        assert 2 == len(rig.keys(path))
        assert 1 == len(set(rig.keys(path)))
        assert [(AMOUNT, 0)] == rig.captures()


@pytest.mark.parametrize("name", ["portone", "toss", "stripe"])
async def test_a_wrong_key_of_ours_decides_nothing(name: str, tmp_path: Path) -> None:
    """401 is about us: no card was declined, and nobody may say that nothing was charged."""
    async with rig_of(name, tmp_path) as rig:
        stranger = type(rig.client)(Credentials(str(rig.server.make_url("")), "wrong"))
        charge = await Guarded(stranger).charge(rig.asked())
        await stranger.close()

        assert UNKNOWN is charge.state
        assert [] == rig.captures()


@pytest.mark.parametrize("name", ["portone", "toss", "stripe"])
async def test_what_was_taken_is_told_not_what_was_asked(name: str, tmp_path: Path) -> None:
    """One too many: the amount of the capture, so that it can be compared, and given back whole."""
    async with rig_of(name, tmp_path) as rig:
        asked = rig.asked("more")
        charge = await rig.charge(asked)

        assert (CAPTURED, AMOUNT + 1) == (charge.state, charge.amount)
        assert await rig.guarded.refund(asked, key="r", amount=charge.amount, currency=charge.currency)
        assert [(AMOUNT + 1, AMOUNT + 1)] == rig.captures()


async def test_toss_key_of_another_order_buys_nothing(tmp_path: Path) -> None:
    """A key whose payment was approved for another order of the same amount: declined, and that payment untouched."""
    async with rig_of("toss", tmp_path) as rig:
        paid = rig.asked(order="order-other")
        await rig.charge(paid)
        stolen = replace(rig.asked(attempt="attempt-2"), token=paid.token)

        assert DECLINED is (await rig.charge(stolen)).state
        assert DECLINED is (await rig.guarded.find(stolen)).state
        assert not await rig.guarded.refund(stolen, key="r", amount=AMOUNT, currency="KRW")
        assert [(AMOUNT, 0)] == rig.captures()


async def test_stripe_intent_that_cannot_be_searched_yet(tmp_path: Path) -> None:
    """Search lags behind: the intent is found by making it again, which moves no money."""
    async with rig_of("stripe", tmp_path) as rig:
        rig.fake.is_searchable = False  # type: ignore[union-attr]
        asked = rig.asked("lost")
        await rig.guarded.charge(asked)

        assert CAPTURED is (await rig.guarded.find(asked)).state
        assert await rig.guarded.refund(replace(asked, token=""), key="r", amount=AMOUNT, currency="KRW")
        assert [(AMOUNT, AMOUNT)] == rig.captures()


async def test_stripe_card_that_wants_its_holder(tmp_path: Path) -> None:
    """Nobody is there to act for a card that asks: declined, and may be tried again."""
    async with rig_of("stripe", tmp_path) as rig:
        charge = await rig.charge(rig.asked("authentication"))

        assert Charge(DECLINED, "authentication_required", True, AMOUNT, "KRW", charge.reference) == charge


async def test_currencies_that_are_counted_otherwise_are_declined(tmp_path: Path) -> None:
    """Where a provider's minor unit is not ISO's, an amount would be wrong a hundredfold: nothing is asked."""
    for name, currency in (("stripe", "ISK"), ("toss", "USD")):
        async with rig_of(name, tmp_path) as rig:
            charge = await rig.charge(replace(rig.asked(), currency=currency))

            assert (DECLINED, "currency_unsupported") == (charge.state, charge.reason)
            assert rig.fake is not None
            assert [] == rig.fake.calls


async def test_buying_with_each(checkout: Checkout, rig: Rig) -> None:
    """Through the whole checkout: paid, paid though the answer was lost, declined and paid with another card; and where
    the provider took one too many, refused and given back whole."""
    process = checkout.another(provider=rig.guarded)

    async def pay(buyer: str, order: str, behaviour: str) -> str:
        token = rig.token(behaviour, order, PRICE)
        try:
            return (await process.confirm(buyer, order, token)).ending.outcome
        except (AmountMismatch, PaymentDeclined) as refusal:
            return type(refusal).__name__

    orders = {buyer: (await process.reserve(buyer)).order for buyer in ("ann", "bob", "cat", "dan")}
    assert "sold" == await pay("ann", orders["ann"], "ok")
    assert "sold" == await pay("bob", orders["bob"], "lost")
    assert ["PaymentDeclined", "sold"] == [await pay("cat", orders["cat"], card) for card in ("funds", "ok")]
    if rig.fake is None:
        assert [(PRICE, 0)] * 3 == rig.captures()
        return
    assert "AmountMismatch" == await pay("dan", orders["dan"], "more")
    await process.completer.tick()

    assert [(PRICE, 0)] * 3 + [(PRICE + 1, PRICE + 1)] == rig.captures()
    assert {"free": 7, "sold": 3} == await checkout.units()
    assert "payment_failed" == (await checkout.row(orders["dan"])).state


def test_secrets_are_not_shown() -> None:
    """Neither a key nor a webhook's secret stands in a log of what was configured."""
    shown = repr(Credentials("http://there", "sk_live_1", (SECRET,)))

    assert "sk_live_1" not in shown
    assert "secret" not in shown.replace("webhook_secrets", "")
