"""Ordinary orders, as the contract has them: no line, no pass, the price of the moment; paid, changed, given back."""

import asyncio

import pytest
import pytest_asyncio
from contract_kit import new_key, numbers, tokens

from onsale.auth.roles import Role
from onsale.catalog.handlers import BOOK
from onsale.catalog.lists import CART_MAX
from onsale.catalog.sales import SHOP
from onsale.checkout.record.audit import audit
from onsale.checkout.schemas import ITEMS_MAX
from onsale.lua.keys import ShopKeys
from onsale.server.app import ROOMS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vendor(system):
    """Somebody who sells ordinary products."""
    [token] = await tokens(system.app, Role.VENDOR, 1, first=30_000)
    assert 201 == (await system.call("POST", "/v1/vendors", {"name": "Hats"}, token)).status
    return token


async def product(system, vendor, stock=5, amount=1_000):
    """A new ordinary product that can be bought."""
    body = {"title": f"Hat {next(numbers)}", "price": {"amount": amount, "currency": "KRW"}, "stock": stock}
    made = await system.call("POST", "/v1/products", body, vendor)
    assert 201 == made.status, made.body
    await system.until(f"/v1/products/{made.json['product']}/stock", None, lambda told: told["free"] == stock)
    return made.json["product"]


async def order(system, buyer, *products, key="", **more):
    items = [{"product": one, "quantity": quantity} for one, quantity in products]
    return await system.call("POST", "/v1/orders", {"items": items, **more}, buyer, Idempotency_Key=key or new_key())


async def free(system, product, units):
    await system.until(f"/v1/products/{product}/stock", None, lambda told: told["free"] == units)


async def test_ordered_paid_and_given_back(system, vendor):
    """Several products in one order, no sale; paid once; cancelled, the units are free again."""
    buyer = await system.buyer()
    hat, cap = await product(system, vendor), await product(system, vendor, amount=500)
    held = await order(system, buyer, (hat, 2), (cap, 1), key="k-1")
    again = await order(system, buyer, (cap, 1), (hat, 2), key="k-1")
    path = held.headers["Location"]
    paid = await system.pay(held.json["order"], buyer)
    await free(system, hat, 3)

    assert (201, None, "reserved", 2_500) == (
        held.status, held.json["sale"], held.json["state"], held.json["total"]["amount"],
    )  # fmt: skip
    assert (422, "idempotency_key_reused") == again.problem()
    assert (200, "confirmed", True) == (paid.status, paid.json["state"], paid.json["recorded"])
    assert path in [
        f"/v1/orders/{one['order']}" for one in (await system.call("GET", "/v1/orders", token=buyer)).json["items"]
    ]
    cancelled = await system.call("POST", f"{path}/cancellation", token=buyer, Idempotency_Key="c-1")
    assert (200, "cancelled") == (cancelled.status, cancelled.json["state"])
    await free(system, hat, 5)
    await free(system, cap, 5)


async def cart_order(system, buyer, key, **more):
    return await system.call("POST", "/v1/orders", {"cart": True, **more}, buyer, Idempotency_Key=key)


async def test_the_whole_cart(system, vendor):
    """All that it holds, once: the key answers the same order when the cart is empty, and when it was filled anew."""
    buyer = await system.buyer()
    hat, cap = await product(system, vendor), await product(system, vendor, amount=500)
    assert (409, "cart_empty") == (await cart_order(system, buyer, "none")).problem()
    for one, quantity in ((hat, 2), (cap, 1)):
        put = await system.call("PUT", f"/v1/cart/items/{one}", {"quantity": quantity}, buyer)
        assert put.status in (200, 201), put.body

    held = await cart_order(system, buyer, "cart-1")
    left = await system.call("GET", "/v1/cart", token=buyer)
    await system.call("PUT", f"/v1/cart/items/{hat}", {"quantity": 2}, buyer)
    again = await cart_order(system, buyer, "cart-1")
    none = await cart_order(system, buyer, "none")

    assert (201, 2_500) == (held.status, held.json["total"]["amount"])
    assert {hat: 2, cap: 1} == {item["product"]: item["quantity"] for item in held.json["items"]}
    assert [] == left.json["items"]
    assert (201, held.json["order"], "true") == (
        again.status, again.json["order"], again.headers["Idempotency-Replayed"],
    )  # fmt: skip
    assert 1 == len((await system.call("GET", "/v1/cart", token=buyer)).json["items"])
    assert (409, "cart_empty", "true") == (*none.problem(), none.headers["Idempotency-Replayed"])


async def filled_cart(system, vendor):
    """Somebody with two hats in the cart: token and product."""
    buyer = await system.buyer()
    hat = await product(system, vendor)
    assert 200 == (await system.call("PUT", f"/v1/cart/items/{hat}", {"quantity": 2}, buyer)).status
    return buyer, hat


async def until_in_cart(system, buyer, **quantities):
    """Until the cart holds that; orders are recorded moments after they end."""
    await system.until(
        "/v1/cart", buyer, lambda cart: {item["product"]: item["quantity"] for item in cart["items"]} == quantities
    )


async def lapse(system, order):
    """Its hold is over; the reaper does the rest."""
    rooms = system.app[ROOMS]
    keys = ShopKeys(SHOP, system.app[BOOK].shop().shop_epoch)
    await rooms.stores.shop.zadd(keys.holds, {order: 1})


@pytest.mark.parametrize("ending", ["given_up", "lapsed", "declined_for_good"])
async def test_what_was_not_bought_is_in_the_cart_again(system, vendor, ending):
    """Given up, lapsed or declined for good: the cart is as it was, and is ordered by another key."""
    buyer, hat = await filled_cart(system, vendor)
    first = (await cart_order(system, buyer, "c-1")).json["order"]
    await until_in_cart(system, buyer)
    if ending == "given_up":
        assert 204 == (await system.call("DELETE", f"/v1/orders/{first}", token=buyer)).status
    elif ending == "declined_for_good":
        assert (402, "payment_declined") == (await system.pay(first, buyer, "fail_other")).problem()
    else:
        await lapse(system, first)
    await until_in_cart(system, buyer, **{hat: 2})

    replayed = await cart_order(system, buyer, "c-1")
    second = await cart_order(system, buyer, "c-2")

    assert (201, first) == (replayed.status, replayed.json["order"])
    assert (201, {hat: 2}) == (
        second.status, {item["product"]: item["quantity"] for item in second.json["items"]},
    )  # fmt: skip
    assert [] == (await system.call("GET", "/v1/cart", token=buyer)).json["items"]


async def test_what_was_bought_does_not_come_back(system, vendor):
    """Not when it was paid, nor when it was cancelled afterwards; put in again, it is there again."""
    buyer, hat = await filled_cart(system, vendor)
    order = (await cart_order(system, buyer, "c-1")).json["order"]
    assert 200 == (await system.pay(order, buyer)).status
    paid = (await system.call("GET", "/v1/cart", token=buyer)).json["items"]
    cancelled = await system.call("POST", f"/v1/orders/{order}/cancellation", token=buyer, Idempotency_Key="x")
    left = (await system.call("GET", "/v1/cart", token=buyer)).json["items"]
    again = await system.call("PUT", f"/v1/cart/items/{hat}", {"quantity": 1}, buyer)

    assert ([], 200, []) == (paid, cancelled.status, left)
    assert [(hat, 1)] == [(item["product"], item["quantity"]) for item in again.json["items"]]


async def test_a_cart_that_was_changed_meanwhile_stays_changed(system, vendor):
    """What was put in while the order stood is what counts, whatever becomes of the order; the rest comes back."""
    buyer, hat = await filled_cart(system, vendor)
    cap = await product(system, vendor, amount=500)
    await system.call("PUT", f"/v1/cart/items/{cap}", {"quantity": 1}, buyer)
    order = (await cart_order(system, buyer, "c-1")).json["order"]
    await system.call("PUT", f"/v1/cart/items/{hat}", {"quantity": 5}, buyer)
    await until_in_cart(system, buyer, **{hat: 5})
    assert 204 == (await system.call("DELETE", f"/v1/orders/{order}", token=buyer)).status

    await until_in_cart(system, buyer, **{hat: 5, cap: 1})


async def test_a_cart_emptied_meanwhile_stays_empty(system, vendor):
    """Whoever empties it means also what is on its way."""
    buyer, _ = await filled_cart(system, vendor)
    order = (await cart_order(system, buyer, "c-1")).json["order"]
    assert 204 == (await system.call("DELETE", "/v1/cart", token=buyer)).status
    await system.call("DELETE", f"/v1/orders/{order}", token=buyer)
    await system.until(f"/v1/orders/{order}", buyer, lambda told: told["state"] == "released" and told["recorded"])

    assert [] == (await system.call("GET", "/v1/cart", token=buyer)).json["items"]


async def test_two_devices_order_one_cart(system, vendor):
    """In the same moment, each with its own key: one order; the other is refused, and the cart is empty."""
    buyer, hat = await filled_cart(system, vendor)

    answers = await asyncio.gather(*(cart_order(system, buyer, f"device-{n}") for n in range(4)))

    assert [201, 409, 409, 409] == sorted(answer.status for answer in answers)
    assert {None, "reservation_open", "cart_empty"} >= {answer.code for answer in answers}
    assert [] == (await system.call("GET", "/v1/cart", token=buyer)).json["items"]
    await free(system, hat, 3)


async def test_a_cart_from_when_carts_were_larger(system, vendor):
    """It cannot be ordered whole: the answer says how much an order takes, nothing is kept under the key."""
    buyer, hat = await filled_cart(system, vendor)
    pool = system.app[ROOMS].stores.pool
    await pool.execute(
        "WITH p AS (INSERT INTO products (id, title, amount, currency)"
        " SELECT 'many-' || n, 'x', 1, 'KRW' FROM generate_series(1, $2::int) n RETURNING id)"
        " INSERT INTO cart_items (account, product, quantity)"
        " SELECT (SELECT account FROM cart_items WHERE product = $1), id, 1 FROM p",
        hat,
        ITEMS_MAX,
    )
    refused = await cart_order(system, buyer, "c-1")
    await pool.execute("DELETE FROM cart_items WHERE product LIKE 'many-%'")

    assert (422, "invalid_request", "#/cart") == (*refused.problem(), refused.json["errors"][0]["pointer"])
    assert 201 == (await cart_order(system, buyer, "c-1")).status
    assert CART_MAX == ITEMS_MAX


@pytest.mark.parametrize("body", [{}, {"cart": False}, {"cart": True, "items": [{"product": "x", "quantity": 1}]}])
async def test_items_or_the_cart(system, body):
    """One of both."""
    answer = await system.call("POST", "/v1/orders", body, await system.buyer(), Idempotency_Key=new_key())

    assert (422, "invalid_request") == answer.problem()


async def test_what_is_refused_and_kept(system, vendor):
    """Unknown, discontinued, too many, another total: nothing is held, and the same key says the same."""
    buyer = await system.buyer()
    hat, gone = await product(system, vendor), await product(system, vendor)
    assert 200 == (await system.call("PATCH", f"/v1/products/{gone}", {"discontinued": True}, vendor)).status
    dear = {"expected_total": {"amount": 1, "currency": "KRW"}}
    for products, more, problem in (
        ([("nothing", 1)], {}, (404, "product_unknown")),
        ([(gone, 1)], {}, (409, "product_unavailable")),
        ([(hat, 6)], {}, (409, "sold_out")),
        ([(hat, 1)], dear, (409, "price_changed")),
    ):
        for replayed in (None, "true"):
            answer = await order(system, buyer, *products, key=f"k-{problem[1]}", **more)
            assert (*problem, replayed) == (*answer.problem(), answer.headers.get("Idempotency-Replayed"))
    assert (422, "invalid_request") == (await order(system, buyer, (hat, 1), (hat, 1))).problem()
    assert (422, "invalid_request") == (await order(system, buyer)).problem()
    assert (401, "unauthenticated") == (await order(system, None, (hat, 1))).problem()
    await free(system, hat, 5)


async def test_the_last_unit_goes_to_one(system, vendor):
    """Ten buyers, three units: three orders."""
    hat = await product(system, vendor, stock=3)
    answers = await asyncio.gather(*(order(system, buyer, (hat, 1)) for buyer in await system.buyers(10)))

    assert [201] * 3 + [409] * 7 == sorted(answer.status for answer in answers)
    assert {"sold_out"} == {answer.code for answer in answers if answer.status == 409}


async def test_changed_before_it_is_paid(system, vendor):
    """No pass is asked for; the price is the one of the moment; given up, all is free."""
    buyer = await system.buyer()
    hat, cap = await product(system, vendor), await product(system, vendor)
    held = await order(system, buyer, (hat, 1))
    path = held.headers["Location"]
    price = {"price": {"amount": 1_500, "currency": "KRW"}}
    assert 200 == (await system.call("PATCH", f"/v1/products/{hat}", price, vendor)).status
    body = {"items": [{"product": hat, "quantity": 2}, {"product": cap, "quantity": 1}]}
    changed = await system.call("PATCH", path, body, buyer)

    assert (200, 4_000) == (changed.status, changed.json["total"]["amount"])
    await free(system, hat, 3)
    assert 204 == (await system.call("DELETE", path, token=buyer)).status
    await free(system, hat, 5)
    await free(system, cap, 5)


async def test_the_shop_is_audited(system, vendor):
    """The books of the shop agree like those of any sale."""
    buyer, hat = await system.buyer(), await product(system, vendor)
    held = await order(system, buyer, (hat, 1))
    await system.pay(held.json["order"], buyer)
    rooms = system.app[ROOMS]
    shop = rooms.book.shop().id
    findings = await audit(rooms.stores.pool, rooms.stores.line, rooms.stores.shop, rooms.book, shop)

    assert findings
    assert [] == [(one.invariant, one.detail) for one in findings if not one.ok]
