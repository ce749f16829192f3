"""Entries: sold like anything else, let in once by a code, on their day, by their vendor; what then is not undone."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from catalogue_kit import account, product, vendor
from contract_kit import new_key, numbers, sale_body
from page_kit import Browser

from onsale.auth.middleware import COOKIES
from onsale.catalog.sales import advance_clock
from onsale.server.app import ROOMS

pytestmark = pytest.mark.asyncio(loop_scope="module")
DAY_MS = 86_400_000


async def pass_days(system, days):
    await advance_clock(system.app[ROOMS].stores.pool, days * DAY_MS)


async def today(system):
    """Today on the shop's clock, which the tests of this module move."""
    return await system.app[ROOMS].stores.pool.fetchval("SELECT (shop_now() AT TIME ZONE 'UTC')::date")


async def entry(system, *, ahead=0, is_general=False, stock=20):
    """A vendor with a product of entries for a day: token, product, the day."""
    token, _ = await vendor(system)
    visit_on = None if is_general else (await today(system) + timedelta(days=ahead)).isoformat()
    made = await product(system, token, kind="entry", visit_on=visit_on, stock=stock)
    assert ("entry", visit_on) == (made["kind"], made["visit_on"])
    await system.until(f"/v1/products/{made['product']}/stock", None, lambda told: told["free"] == stock)
    return token, made["product"]


async def bought(system, name, buyer, quantity=1):
    body = {"items": [{"product": name, "quantity": quantity}]}
    made = await system.call("POST", "/v1/orders", body, buyer, Idempotency_Key=new_key())
    assert 201 == made.status, made.body
    paid = await system.pay(made.json["order"], buyer)
    assert (200, "confirmed") == (paid.status, paid.json["state"])
    return made.json["order"]


async def codes(system, order, buyer):
    told = await system.call("GET", f"/v1/orders/{order}/entries", token=buyer)
    assert 200 == told.status, told.body
    return [unit["code"] for unit in told.json["items"]]


async def redeem(system, code, token):
    return await system.call("POST", "/v1/redemptions", {"code": code}, token)


async def test_every_unit_has_a_code_of_its_own_that_lets_in_once(system):
    """The same codes whenever they are asked for, by many at once too; each redeemed once, however it is typed."""
    token, name = await entry(system)
    buyer = await system.buyer()
    order = await bought(system, name, buyer, quantity=3)
    asked = await asyncio.gather(*(codes(system, order, buyer) for _ in range(5)))
    first, second, third = asked[0]
    let_in = await redeem(system, f" {first.lower().replace('-', ' ')}", token)
    again = await redeem(system, first, token)
    told = (await system.call("GET", f"/v1/orders/{order}/entries", token=buyer)).json["items"]

    assert 5 * [asked[0]] == asked
    assert 3 == len({first, second, third})
    assert (200, order, name) == (let_in.status, let_in.json["order"], let_in.json["product"])
    assert (409, "entry_redeemed") == again.problem()
    assert let_in.json["redeemed_at"] == again.json["redeemed_at"] == told[0]["redeemed_at"]
    assert [None, None] == [unit["redeemed_at"] for unit in told[1:]]
    assert 200 == (await redeem(system, third, token)).status


async def test_two_doors_one_code(system):
    """Shown at eight doors at once it lets one person in."""
    token, name = await entry(system)
    buyer = await system.buyer()
    [code] = await codes(system, await bought(system, name, buyer), buyer)
    answers = await asyncio.gather(*(redeem(system, code, token) for _ in range(8)))

    assert [200] + 7 * [409] == sorted(answer.status for answer in answers)


async def test_who_may_let_in(system):
    """Its vendor and operators; another vendor learns nothing, a buyer has no door, and codes are not guessed."""
    token, name = await entry(system)
    buyer = await system.buyer()
    first, second = await codes(system, await bought(system, name, buyer, quantity=2), buyer)
    stranger, _ = await vendor(system)
    without = await account(system)

    for other in (stranger, without):
        assert (404, "entry_unknown") == (await redeem(system, first, other)).problem()
    assert (404, "entry_unknown") == (await redeem(system, "AAAA-AAAA-AAAA-AAAA", token)).problem()
    assert (403, "forbidden") == (await redeem(system, first, buyer)).problem()
    assert (401, "unauthenticated") == (await redeem(system, first, None)).problem()
    for bad in ({}, {"code": ""}, {"code": 7}, {"code": "a" * 65}, {"code": first, "door": "east"}):
        assert (422, "invalid_request") == (await system.call("POST", "/v1/redemptions", bad, token)).problem()
    assert [200, 200] == [
        (await redeem(system, code, who)).status for code, who in ((first, token), (second, system.manager))
    ]


async def test_only_on_its_day(system):
    """Too early, then on the day, then too late; nothing is sold for a day that is over."""
    token, name = await entry(system, ahead=2)
    buyer = await system.buyer()
    first, second = await codes(system, await bought(system, name, buyer, quantity=2), buyer)
    early = await redeem(system, first, token)
    await pass_days(system, 2)
    on_the_day = await redeem(system, first, token)
    await pass_days(system, 1)
    late = await redeem(system, second, token)
    body = {"items": [{"product": name, "quantity": 1}]}
    sold = await system.call("POST", "/v1/orders", body, await system.buyer(), Idempotency_Key=new_key())

    assert (409, "entry_not_yet") == early.problem()
    assert 200 == on_the_day.status
    assert (409, "entry_expired") == late.problem()
    assert on_the_day.json["visit_on"] == early.json["visit_on"] == late.json["visit_on"]
    assert (409, "product_unavailable") == sold.problem()


async def test_an_entry_for_any_day(system):
    """It is good days later, when its order has long been completed."""
    token, name = await entry(system, is_general=True)
    buyer = await system.buyer()
    order = await bought(system, name, buyer)
    [code] = await codes(system, order, buyer)
    await pass_days(system, 9)
    await system.until(f"/v1/orders/{order}", buyer, lambda told: told["state"] == "completed")

    assert 200 == (await redeem(system, code, token)).status


async def test_a_cancelled_order_lets_nobody_in(system):
    """Its code is dead, and no more shown."""
    token, name = await entry(system)
    buyer = await system.buyer()
    order = await bought(system, name, buyer)
    [code] = await codes(system, order, buyer)
    cancelled = await system.call("POST", f"/v1/orders/{order}/cancellation", token=buyer, Idempotency_Key="c")

    assert 200 == cancelled.status
    assert (409, "entry_void") == (await redeem(system, code, token)).problem()
    assert [] == await codes(system, order, buyer)


async def test_whoever_was_let_in_cannot_cancel(system):
    """One unit of two is enough; the other still lets in."""
    token, name = await entry(system)
    buyer = await system.buyer()
    order = await bought(system, name, buyer, quantity=2)
    first, second = await codes(system, order, buyer)
    await redeem(system, first, token)
    refused = await system.call("POST", f"/v1/orders/{order}/cancellation", token=buyer, Idempotency_Key="c")

    assert (409, "order_state_conflict") == refused.problem()
    assert 200 == (await redeem(system, second, token)).status


async def test_whoever_was_let_in_cannot_send_back(system):
    """An entry for any day counts as delivered two days later: unused it goes back, and then lets nobody in; used it
    does not."""
    token, name = await entry(system, is_general=True)
    buyer = await system.buyer()
    used, unused = [await bought(system, name, buyer) for _ in range(2)]
    [[used_code], [unused_code]] = [await codes(system, order, buyer) for order in (used, unused)]
    await redeem(system, used_code, token)
    await pass_days(system, 2)
    for order in (used, unused):
        await system.until(f"/v1/orders/{order}", buyer, lambda told: told["state"] == "delivered")
    kept, returned = [
        await system.call("POST", f"/v1/orders/{order}/return", token=buyer, Idempotency_Key="r")
        for order in (used, unused)
    ]

    assert (409, "order_state_conflict") == kept.problem()
    assert (200, "return_requested") == (returned.status, returned.json["state"])
    assert (409, "entry_void") == (await redeem(system, unused_code, token)).problem()


async def test_a_door_and_a_cancellation_at_once(system):
    """One of them comes first, the other is refused: nobody is let in and given the money back."""
    token, name = await entry(system)
    buyer = await system.buyer()
    for _ in range(6):
        order = await bought(system, name, buyer)
        [code] = await codes(system, order, buyer)
        let_in, cancelled = await asyncio.gather(
            redeem(system, code, token),
            system.call("POST", f"/v1/orders/{order}/cancellation", token=buyer, Idempotency_Key="c"),
        )
        assert [200, 409] == sorted([let_in.status, cancelled.status])


async def test_whose_codes_are_shown(system):
    """Nobody else's; none of an order that is not bought, or has no entries."""
    _, name = await entry(system)
    buyer, other = await system.buyers(2)
    order = await bought(system, name, buyer)
    sale = await system.sale()
    held = await system.order(sale, buyer)

    path = "/v1/orders/{}/entries"
    assert (404, "order_unknown") == (await system.call("GET", path.format(order), token=other)).problem()
    assert (401, "unauthenticated") == (await system.call("GET", path.format(order))).problem()
    await system.pay(held, buyer)
    assert [] == await codes(system, held, buyer)


async def test_a_sale_s_entries(system):
    """An item that a sale sells for a day is an entry; the house's are let in by operators."""
    sale, price = f"visit-{new_key()[:8].lower()}", {"amount": 1000, "currency": "KRW"}
    item = {"product": f"{sale}-hat", "title": "Visit", "stock": 5, "price": price}
    body = {
        "sale": {"id": sale, "title": "Visit", "opens_at": "now", "closes_at": "2100-01-01T00:00:00Z"},
        "admission": {"rate_per_second": 1000, "active_max": 1000},
        "items": [item | {"visit_on": (await today(system)).isoformat()}],
    }
    assert 201 == (await system.call("POST", "/v1/sales", body, system.manager)).status
    buyer = await system.buyer()
    order = await system.order(sale, buyer)
    assert 200 == (await system.pay(order, buyer)).status
    [code] = await codes(system, order, buyer)
    stranger, _ = await vendor(system)

    assert (404, "entry_unknown") == (await redeem(system, code, stranger)).problem()
    assert 200 == (await redeem(system, code, system.manager)).status


async def test_whoever_was_let_in_keeps_the_order_when_its_sale_is_cancelled(system):
    """It has had what it paid for, and comes to its end like any other; the other one gets everything back."""
    sale = f"visit-{next(numbers)}"
    body = sale_body(sale, 10, {}, {})
    body["items"][0]["visit_on"] = (await today(system)).isoformat()
    assert 201 == (await system.call("POST", "/v1/sales", body, system.manager)).status
    buyers = await system.buyers(2)
    orders = [await system.order(sale, buyer) for buyer in buyers]
    for order, buyer in zip(orders, buyers, strict=True):
        assert 200 == (await system.pay(order, buyer)).status
    assert 200 == (await redeem(system, (await codes(system, orders[0], buyers[0]))[0], system.manager)).status
    path = f"/v1/sales/{sale}"
    await system.call("POST", f"{path}/closing", token=system.manager)
    refunds = (await system.call("GET", f"{path}/cancellation", token=system.manager)).json["open"]["amounts"]

    started = await system.call(
        "POST", f"{path}/cancellation", {"refunds": refunds}, system.manager, Idempotency_Key=new_key()
    )
    done = await system.until(f"{path}/cancellation", system.manager, lambda told: told["state"] == "done")

    assert (202, 1000) == (started.status, refunds[0]["amount"])
    assert (1, 1) == (done["kept"]["orders"], done["cancelled"]["orders"])
    assert "confirmed" == (await system.call("GET", f"/v1/orders/{orders[0]}", token=buyers[0])).json["state"]
    await pass_days(system, 5)
    await system.until(f"/v1/orders/{orders[0]}", buyers[0], lambda told: told["state"] == "completed")


async def test_the_door_s_page(system):
    """A buyer sees code and picture on the order's page, the door lets in once."""
    token, name = await entry(system)
    show = Browser(system, {system.app[COOKIES].access: token, "onsale-language": "en"})
    buyer = await system.buyer()
    order = await bought(system, name, buyer)
    own = Browser(system, {system.app[COOKIES].access: buyer, "onsale-language": "en"})
    [code] = await codes(system, order, buyer)
    _, text, _ = await own("GET", f"/orders/{order}")

    assert (True, True) == (code in text, "data:image/svg+xml" in text)
    assert "/desk/door?said=entry_redeemed" == (await show("POST", "/desk/door", code=code))[2]["Location"]
    assert "/desk/door?problem=entry_redeemed" == (await show("POST", "/desk/door", code=code))[2]["Location"]
    assert "Hat " in (await show("GET", "/desk/door"))[1]
    _, text, _ = await own("GET", f"/orders/{order}")
    assert (True, False) == ("Redeemed" in text, "data:image/svg+xml" in text)


async def test_a_door_sees_its_own(system):
    """Whom it let in itself, or an operator for it; nobody else's. Operators see all of them."""
    token, name = await entry(system)
    stranger, _ = await vendor(system)
    buyer = await system.buyer()
    codes_of_two = await codes(system, await bought(system, name, buyer, quantity=2), buyer)
    for code, who in zip(codes_of_two, (token, system.manager), strict=True):
        assert 200 == (await redeem(system, code, who)).status
    title = (await system.call("GET", f"/v1/products/{name}")).json["title"]

    for who, count in ((token, 2), (system.manager, 2), (stranger, 0), (await account(system), 0)):
        _, text, _ = await Browser(system, {system.app[COOKIES].access: who})("GET", "/desk/door")
        assert count == text.count(f"{title} ")


@pytest.mark.parametrize(
    "fields", [{"visit_on": "2100-01-01"}, {"kind": "entry", "visit_on": "soon"}, {"kind": "ticket"}]
)
async def test_an_entry_that_makes_no_sense(system, fields):
    """A day without an entry, no day, no such kind: refused."""
    token, _ = await vendor(system)
    body = {"title": "Entry", "price": {"amount": 1, "currency": "KRW"}, **fields}

    assert (422, "invalid_request") == (await system.call("POST", "/v1/products", body, token)).problem()


async def test_the_record_tells_nobody_a_code(system):
    """What is kept of a code is a hash, and a seal."""
    _, name = await entry(system)
    buyer = await system.buyer()
    order = await bought(system, name, buyer)
    [code] = await codes(system, order, buyer)
    row = await system.app[ROOMS].stores.pool.fetchrow("SELECT e::text FROM entries e WHERE order_id = $1", order)

    assert code not in row["e"]
    assert code.encode().hex() not in row["e"]
