"""Reserving and paying, as the contract has them: passes, keys, refusals, and what others may learn of it."""

import asyncio
import json

import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sale(system):
    """A sale that lets everyone in and has enough for all."""
    return await system.sale()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other_sale(system):
    return await system.sale()


async def test_a_reservation_and_its_repeats(system, sale):
    """The same key and meaning: the same answer, marked. Another body: 422. Another key: the reservation is open."""
    buyer = await system.buyer()
    admission = await system.pass_of(sale, buyer)
    first = await system.reserve(sale, buyer, admission, "~" * 128)
    spaced = f'{{ "items" : [ {{"quantity":1, "product":"{sale}-hat"}} ] }}'.encode()
    headers = {"Admission_Pass": admission, "Idempotency_Key": "~" * 128}
    again = await system.call("POST", f"/v1/sales/{sale}/orders", token=buyer, sent=spaced, **headers)
    other = await system.reserve(sale, buyer, admission, "~" * 128, quantity=2)

    assert (201, f"/v1/orders/{first.json['order']}") == (first.status, first.headers["Location"])
    assert (201, first.json) == (again.status, again.json)
    assert (None, "true") == tuple(answer.headers.get("Idempotency-Replayed") for answer in (first, again))
    assert (422, "idempotency_key_reused") == other.problem()
    for replayed in (None, "true"):
        open_already = await system.reserve(sale, buyer, admission, "k-open")
        assert (409, "reservation_open") == open_already.problem()
        assert replayed == open_already.headers.get("Idempotency-Replayed")


@pytest.mark.parametrize("key", [None, "", " ", "a b", "a" * 129, "키"])
async def test_keys_that_are_none(system, sale, key):
    """1 to 128 visible ASCII characters, or 400."""
    headers = {} if key is None else {"Idempotency_Key": key}
    answer = await system.call("POST", f"/v1/sales/{sale}/orders", {}, await system.buyer(), **headers)

    assert (400, "idempotency_key_required") == answer.problem()


async def test_every_pass_but_the_buyers_own(system, sale, other_sale):
    """None, another's, another sale's, forged, another token: each refused by its word."""
    buyer, other = await system.buyers(2)
    own, foreign = await system.pass_of(sale, buyer), await system.pass_of(other_sale, buyer)
    for admission, code in (
        ("", "pass_required"),
        (await system.pass_of(sale, other), "pass_invalid"),
        (foreign, "pass_invalid"),
        (own[:-4] + ("AAAA" if own[-4:] != "AAAA" else "BBBB"), "pass_invalid"),
        (buyer, "pass_invalid"),
        ("\udcff", "pass_invalid"),
    ):
        assert (403, code) == (await system.reserve(sale, buyer, admission)).problem(), admission[:20]


async def test_a_revoked_pass_buys_nothing(system, sale):
    """Revoking twice is revoking once; buyers cannot."""
    buyer = await system.buyer()
    ticket = await system.admitted(sale, buyer)
    path = f"/v1/tickets/{ticket['ticket']}/revocation"
    assert (403, "forbidden") == (await system.call("POST", path, token=buyer)).problem()
    for _ in range(2):
        assert 204 == (await system.call("POST", path, {"reason": "asked"}, system.manager)).status

    admission = ticket["pass"]["token"]
    assert (403, "pass_revoked") == (await system.reserve(sale, buyer, admission)).problem()
    assert (401, "unauthenticated") == (
        await system.call("GET", "/v1/passes/verify", Admission_Pass=admission)
    ).problem()


async def test_an_expected_total_and_a_product_that_are_not(system, sale):
    """Refused alike when repeated; another body under the key is another request."""
    buyer = await system.buyer()
    admission = await system.pass_of(sale, buyer)
    hat = {"items": [{"product": f"{sale}-hat", "quantity": 1}]}
    dear = hat | {"expected_total": {"amount": 999, "currency": "KRW"}}
    cap = {"items": [{"product": "cap", "quantity": 1}]}
    for body, status, code in ((dear, 409, "price_changed"), (cap, 404, "product_unknown")):
        for replayed in (None, "true"):
            answer = await system.reserve(sale, buyer, admission, f"k-{code}", body)
            assert (status, code, replayed) == (*answer.problem(), answer.headers.get("Idempotency-Replayed"))
        reused = await system.reserve(sale, buyer, admission, f"k-{code}", hat)
        assert (422, "idempotency_key_reused") == reused.problem()
    right = await system.reserve(
        sale, buyer, admission, body=hat | {"expected_total": {"amount": 1000, "currency": "KRW"}}
    )

    assert 201 == right.status


async def test_a_confirmation_and_its_repeats(system, sale):
    """200 recorded; repeated with its key the same, marked; with another key, or another card, still confirmed."""
    buyer = await system.buyer()
    order = await system.order(sale, buyer)
    first = await system.pay(order, buyer, key="c-1")
    again = await system.pay(order, buyer, key="c-1")
    anew = await system.pay(order, buyer, "decline_funds", key="c-2")
    reused = await system.pay(order, buyer, "decline_funds", key="c-1")

    assert (200, "confirmed", True) == (first.status, first.json["state"], first.json["recorded"])
    assert (200, first.json, "true") == (again.status, again.json, again.headers["Idempotency-Replayed"])
    assert (200, "confirmed", False) == (anew.status, anew.json["state"], "Idempotency-Replayed" in anew.headers)
    assert (422, "idempotency_key_reused") == reused.problem()
    assert (409, "order_state_conflict") == (await system.call("DELETE", f"/v1/orders/{order}", token=buyer)).problem()
    assert 1 == len((await system.call("GET", f"/v1/orders/{order}/payments", token=buyer)).json["items"])


@pytest.mark.parametrize(
    ("card", "retryable", "then"),
    [("decline_funds", True, (200, "confirmed")), ("fail_provider", False, (409, "order_state_conflict"))],
)
async def test_declines_and_their_repeats(system, sale, card, retryable, then):
    """402 with its reason, the same again; another try ends as the first one allows."""
    buyer = await system.buyer()
    order = await system.order(sale, buyer)
    for replayed in (None, "true"):
        answer = await system.pay(order, buyer, card, key="d-1")
        assert (402, "payment_declined") == answer.problem()
        assert (card.partition("_")[2], retryable) == (answer.json["reason"], answer.json["retryable"])
        assert replayed == answer.headers.get("Idempotency-Replayed")
    other = await system.pay(order, buyer, "ok", key="d-2")

    assert then == (other.status, other.json.get("code") or other.json["state"])


async def test_a_crowd_of_one_buyer(system, sale):
    """Ten times at once is once: one ticket, one order, one charge."""
    buyer = await system.buyer()
    joins = await asyncio.gather(*(system.call("POST", f"/v1/sales/{sale}/tickets", token=buyer) for _ in range(10)))
    ticket = joins[0].json["ticket"]
    told = await system.until(f"/v1/tickets/{ticket}", buyer, lambda told: told["state"] == "admitted")
    admission = told["pass"]["token"]
    held = await asyncio.gather(*(system.reserve(sale, buyer, admission, "same") for _ in range(10)))
    order = held[0].json["order"]
    paid = await asyncio.gather(*(system.pay(order, buyer, "slow_100", "same") for _ in range(10)))

    assert ([200] * 9 + [201], {ticket}) == (sorted(a.status for a in joins), {a.json["ticket"] for a in joins})
    assert ({201}, {order}) == ({a.status for a in held}, {a.json["order"] for a in held})
    assert {200} == {a.status for a in paid}
    assert 1 == len((await system.call("GET", f"/v1/orders/{order}/payments", token=buyer)).json["items"])


async def test_another_buyers_order_is_none(system, sale):
    """404 on every call that names it, and as found as one that never was."""
    buyer, stranger = await system.buyers(2)
    order = await system.order(sale, buyer)
    body = {"payment": {"provider": "sandbox", "method": "card", "token": "ok"}}
    for name in (order, order[:-6] + "000000", "none"):
        for method, suffix, sent in (("GET", "", None), ("GET", "/payments", None), ("DELETE", "", None)):
            answer = await system.call(method, f"/v1/orders/{name}{suffix}", sent, stranger)
            assert (404, "order_unknown") == answer.problem()
        paid = await system.call("POST", f"/v1/orders/{name}/confirmation", body, stranger, Idempotency_Key="x")
        assert (404, "order_unknown") == paid.problem()

    assert "reserved" == (await system.call("GET", f"/v1/orders/{order}", token=buyer)).json["state"]


async def test_giving_up_twice(system, sale):
    """204 both times, the pass stays good; a released order takes no money."""
    buyer = await system.buyer()
    admission = await system.pass_of(sale, buyer)
    order = (await system.reserve(sale, buyer, admission)).json["order"]
    for _ in range(2):
        assert 204 == (await system.call("DELETE", f"/v1/orders/{order}", token=buyer)).status

    assert (409, "order_state_conflict") == (await system.pay(order, buyer)).problem()
    assert 201 == (await system.reserve(sale, buyer, admission)).status


async def test_a_sale_that_sells_out(system):
    """`sold_out`, replayed; nobody joins any more."""
    small = await system.sale(stock=3)
    first, second, late = await system.buyers(3)
    one, two = await system.pass_of(small, first), await system.pass_of(small, second)
    orders = [(first, await system.reserve(small, first, one, quantity=2))]
    for replayed in (None, "true"):
        refused = await system.reserve(small, second, two, "s-1", quantity=2)
        assert (409, "sold_out", replayed) == (*refused.problem(), refused.headers.get("Idempotency-Replayed"))
    orders.append((second, await system.reserve(small, second, two)))
    for buyer, answer in orders:
        assert 200 == (await system.pay(answer.json["order"], buyer)).status

    line = await system.until(f"/v1/sales/{small}/line", None, lambda line: line["state"] == "sold_out")
    assert {"free": 0, "held": 0, "sold": 3} == line["stock"]
    assert (409, "sale_sold_out") == (await system.call("POST", f"/v1/sales/{small}/tickets", token=late)).problem()


async def test_guests_buy_by_their_tickets(system):
    """Where the sale takes guests the ticket's token is all they have, and it lists no orders."""
    sale = await system.sale(guests=True)
    joined = await system.joined(sale, None)
    token, ticket = joined["ticket_token"], joined["ticket"]
    told = await system.until(f"/v1/tickets/{ticket}", token, lambda told: told["state"] == "admitted")
    held = await system.reserve(sale, token, told["pass"]["token"])

    assert 201 == held.status
    assert 200 == (await system.pay(held.json["order"], token)).status
    assert (401, "unauthenticated") == (await system.call("GET", "/v1/orders", token=token)).problem()


async def test_lists_of_orders(system, sale):
    """Newest first, page by page, by state, sale and time; operators see the whole sale."""
    buyer = await system.buyer()
    order = await system.order(sale, buyer)
    await system.call("DELETE", f"/v1/orders/{order}", token=buyer)
    await system.until(f"/v1/orders/{order}", buyer, lambda told: told["recorded"])

    async def found(query, token=buyer, path="/v1/orders"):
        told = (await system.call("GET", f"{path}?{query}", token=token)).json
        return [item["order"] for item in told["items"]], told["next_cursor"]

    assert ([order], None) == await found(f"state=released&sale={sale}&from=2020-01-01T00:00:00Z")
    assert ([], None) == await found("state=confirmed")
    assert ([], None) == await found("from=2030-01-01T00:00:00Z")
    first, cursor = await found("limit=1", system.manager, f"/v1/sales/{sale}/orders")
    second, _ = await found(f"limit=1&cursor={cursor}", system.manager, f"/v1/sales/{sale}/orders")
    assert json.dumps(first) > json.dumps(second)
