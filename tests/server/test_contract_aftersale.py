"""After the sale, as the contract has it: cancelling, sending back, who may ask, and a line that reopens."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from onsale.catalog.sales import advance_clock
from onsale.server.app import ROOMS

pytestmark = pytest.mark.asyncio(loop_scope="module")
DAY_MS = 86_400_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sale(system):
    """A sale that lets everyone in and has enough for all."""
    return await system.sale()


async def bought(system, sale, buyer):
    order = await system.order(sale, buyer)
    assert 200 == (await system.pay(order, buyer)).status
    return order


async def cancel(system, order, buyer, key="c-1", body=None, verb="cancellation"):
    return await system.call("POST", f"/v1/orders/{order}/{verb}", body, buyer, Idempotency_Key=key)


async def pass_days(system, days):
    await advance_clock(system.app[ROOMS].stores.pool, int(days * DAY_MS))


async def test_a_cancellation_and_its_repeats(system, sale):
    """200 and cancelled; the same key the same, marked; another key 409; the money comes back by itself."""
    buyer = await system.buyer()
    order = await bought(system, sale, buyer)
    first = await cancel(system, order, buyer)
    again = await cancel(system, order, buyer, body={})
    other = await cancel(system, order, buyer, "c-2")
    repeated = await cancel(system, order, buyer, "c-2")

    assert (200, "cancelled", True, None) == (
        first.status, first.json["state"], first.json["recorded"], first.headers.get("Idempotency-Replayed"),
    )  # fmt: skip
    assert (200, "cancelled", "true") == (again.status, again.json["state"], again.headers["Idempotency-Replayed"])
    assert (409, "order_state_conflict") == other.problem() == repeated.problem()
    assert "true" == repeated.headers["Idempotency-Replayed"]
    told = await system.until(
        f"/v1/orders/{order}/payments", buyer, lambda payments: payments["items"][0]["state"] == "refunded"
    )
    assert {"amount": 1000, "currency": "KRW"} == told["items"][0]["refund"]


async def test_paying_for_a_cancelled_order(system, sale):
    """Its own key answers the order as it is now; another key cannot pay for it."""
    buyer = await system.buyer()
    order = await system.order(sale, buyer)
    await system.pay(order, buyer, key="p-1")
    await cancel(system, order, buyer)
    replayed = await system.pay(order, buyer, key="p-1")

    assert (200, "cancelled", "true") == (
        replayed.status, replayed.json["state"], replayed.headers["Idempotency-Replayed"],
    )  # fmt: skip
    assert (409, "order_state_conflict") == (await system.pay(order, buyer, key="p-2")).problem()
    assert (409, "order_state_conflict") == (await system.call("DELETE", f"/v1/orders/{order}", token=buyer)).problem()


@pytest.mark.parametrize("verb", ["cancellation", "return"])
async def test_bad_requests_change_nothing(system, sale, verb):
    """No key 400, unknown field 422, not JSON 415, another's 404, nobody 401."""
    buyer, other = await system.buyers(2)
    order = await bought(system, sale, buyer)
    path = f"/v1/orders/{order}/{verb}"

    assert (400, "idempotency_key_required") == (await system.call("POST", path, token=buyer)).problem()
    assert (422, "invalid_request") == (await cancel(system, order, buyer, body={"why": 1}, verb=verb)).problem()
    bad = await system.call("POST", path, token=buyer, sent=b"x=1", media="text/plain", Idempotency_Key="k")
    assert (415, "unsupported_media_type") == bad.problem()
    assert (404, "order_unknown") == (await cancel(system, order, other, verb=verb)).problem()
    assert (404, "order_unknown") == (await cancel(system, "nothing", buyer, verb=verb)).problem()
    assert (401, "unauthenticated") == (await cancel(system, order, None, verb=verb)).problem()
    assert "confirmed" == (await system.call("GET", f"/v1/orders/{order}", token=buyer)).json["state"]


async def test_a_reservation_cannot_be_cancelled(system, sale):
    """It is given up instead; neither is it sent back."""
    buyer = await system.buyer()
    order = await system.order(sale, buyer)

    for verb in ("cancellation", "return"):
        assert (409, "order_state_conflict") == (await cancel(system, order, buyer, verb=verb)).problem()
    assert "reserved" == (await system.call("GET", f"/v1/orders/{order}", token=buyer)).json["state"]


async def test_a_returned_unit_goes_to_who_waits(system):
    """The last unit was bought and somebody waits: cancelled, it lets them in, and is bought again."""
    sale = await system.sale(stock=1)
    first, second = await system.buyers(2)
    order = await system.order(sale, first)
    ticket = (await system.joined(sale, second))["ticket"]
    assert 200 == (await system.pay(order, first)).status
    line = await system.until(f"/v1/sales/{sale}/line", None, lambda line: line["state"] == "sold_out")
    assert 0 == line["stock"]["free"]
    assert 200 == (await cancel(system, order, first)).status
    await system.until(f"/v1/sales/{sale}/line", None, lambda line: line["stock"]["free"] == 1)

    assert 204 == (await system.call("POST", f"/v1/sales/{sale}/opening", token=system.manager)).status
    told = await system.until(f"/v1/tickets/{ticket}", second, lambda told: told["state"] == "admitted")
    bought_again = await system.reserve(sale, second, told["pass"]["token"])

    assert 201 == bought_again.status
    assert 200 == (await system.pay(bought_again.json["order"], second)).status


async def test_a_sale_s_own_refunds(system):
    """A sale says what it gives back; an entry for a visit five days from now gives back what its step says."""
    visit_on = (datetime.now(UTC) + timedelta(days=5)).date().isoformat()
    steps = [{"days_min": 6, "percent": 100}, {"days_min": 4, "percent": 55}, {"days_min": 0, "percent": 0}]
    sale = "with-refunds"
    price = {"amount": 1000, "currency": "KRW"}
    body = {
        "sale": {"id": sale, "title": "Visit", "opens_at": "now", "closes_at": "2100-01-01T00:00:00Z"},
        "admission": {"rate_per_second": 1000, "active_max": 1000},
        "items": [
            {"product": f"{sale}-hat", "title": "Entry", "stock": 5, "price": price, "visit_on": visit_on},
        ],
        "refunding": {"steps": steps},
    }
    made = await system.call("POST", "/v1/sales", body, system.manager)
    buyer = await system.buyer()
    order = await bought(system, sale, buyer)
    answer = await cancel(system, order, buyer)

    assert (201, steps, visit_on) == (
        made.status, made.json["refunding"]["steps"], made.json["items"][0]["visit_on"],
    )  # fmt: skip
    assert {"amount": 550, "currency": "KRW"} == answer.json["payments"][0]["refund"]
    wrong = body | {"refunding": {"steps": steps[::-1]}}
    assert (422, "invalid_request") == (await system.call("POST", "/v1/sales", wrong, system.manager)).problem()


async def test_days_pass(system, sale):
    """Shipped, it is too late to cancel; delivered, it is sent back; a day later it has come."""
    buyer = await system.buyer()
    order = await bought(system, sale, buyer)
    path = f"/v1/orders/{order}"
    await pass_days(system, 1)
    await system.until(path, buyer, lambda told: told["state"] == "shipped")
    assert (409, "order_state_conflict") == (await cancel(system, order, buyer)).problem()
    assert (409, "order_state_conflict") == (await cancel(system, order, buyer, verb="return")).problem()
    await pass_days(system, 1)
    await system.until(path, buyer, lambda told: told["state"] == "delivered")
    answers = await asyncio.gather(*(cancel(system, order, buyer, "r-1", verb="return") for _ in range(5)))
    assert [(200, "return_requested")] * 5 == [(answer.status, answer.json["state"]) for answer in answers]
    await pass_days(system, 1)
    told = await system.until(path, buyer, lambda told: told["payments"][0]["state"] == "refunded")

    assert "returned" == told["state"]


async def test_a_reservation_is_changed(system):
    """Items and address by merge patch, with the pass; the same once more changes nothing; bad ones change nothing."""
    sale = await system.sale(limit_per_buyer=3)
    buyer, other = await system.buyers(2)
    admission = await system.pass_of(sale, buyer)
    order = (await system.reserve(sale, buyer, admission)).json["order"]
    path, product = f"/v1/orders/{order}", f"{sale}-hat"
    home = {"recipient": "Ann", "line1": "1 Lane"}

    async def change(body, token=buyer, admission=admission):
        return await system.call("PATCH", path, body, token, Admission_Pass=admission)

    two = {"items": [{"product": product, "quantity": 2}], "address": home}
    for _ in range(2):
        changed = await change(two | {"expected_total": {"amount": 2000, "currency": "KRW"}})
        assert (200, 2, {"amount": 2000, "currency": "KRW"}, home["line1"]) == (
            changed.status,
            changed.json["items"][0]["quantity"],
            changed.json["total"],
            changed.json["address"]["line1"],
        )
    four = {"items": [{"product": product, "quantity": 4}]}
    for body, token, presented, problem in (
        (four, buyer, admission, (409, "purchase_limit_reached")),
        (two, buyer, "", (403, "pass_required")),
        (two, other, admission, (404, "order_unknown")),
        (two, None, admission, (401, "unauthenticated")),
        ({"items": []}, buyer, admission, (422, "invalid_request")),
        ({"items": [{"product": "cap", "quantity": 1}]}, buyer, admission, (404, "product_unknown")),
        ({"quantity": 1}, buyer, admission, (422, "invalid_request")),
        (two | {"expected_total": {"amount": 1, "currency": "KRW"}}, buyer, admission, (409, "price_changed")),
    ):
        assert problem == (await change(body, token, presented)).problem()
    away = await change({"address": None})
    assert (200, None, 2) == (away.status, away.json["address"], away.json["items"][0]["quantity"])
    paid = await system.pay(order, buyer)

    assert (200, 2000) == (paid.status, paid.json["total"]["amount"])
    assert (409, "order_state_conflict") == (await change(two)).problem()
