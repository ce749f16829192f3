"""Wish lists and carts, as their owners see them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from catalogue_kit import moment, product, vendor

from onsale.catalog.lists import CART_MAX, Carts
from onsale.server.app import ROOMS

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def things(system, count=1, **fields):
    """New products of one vendor."""
    token, _ = await vendor(system)
    return [(await product(system, token, **fields))["product"] for _ in range(count)]


async def put(system, buyer, product, quantity=1):
    """Into the cart."""
    return await system.call("PUT", f"/v1/cart/items/{product}", {"quantity": quantity}, buyer)


# wishes


async def test_a_product_is_wished_for_once(system):
    """The second time is refused, also in the same moment; taking it back may be repeated."""
    (hat,), buyer = await things(system), await system.buyer()
    path = f"/v1/wishes/{hat}"

    answers = await asyncio.gather(*(system.call("PUT", path, token=buyer) for _ in range(3)))
    removed = [(await system.call("DELETE", path, token=buyer)).status for _ in range(2)]
    again = await system.call("PUT", path, token=buyer)

    assert [204, 409, 409] == sorted(answer.status for answer in answers)
    assert {"wish_exists"} == {answer.code for answer in answers if answer.status == 409}
    assert ([204, 204], 204) == (removed, again.status)


async def test_wishes_are_listed_newest_first(system):
    """With what they cost now; each page begins where the one before ended, and nobody sees another's."""
    hats, buyer = await things(system, 3), await system.buyer()
    for hat in hats:
        await system.call("PUT", f"/v1/wishes/{hat}", token=buyer)

    first = (await system.call("GET", "/v1/wishes?limit=2", token=buyer)).json
    second = (await system.call("GET", f"/v1/wishes?limit=2&cursor={first['next_cursor']}", token=buyer)).json
    others = (await system.call("GET", "/v1/wishes", token=await system.buyer())).json

    assert hats[::-1] == [wish["product"] for wish in first["items"] + second["items"]]
    assert ({"amount": 12_000, "currency": "KRW"}, None, []) == (
        first["items"][0]["price"],
        second["next_cursor"],
        others["items"],
    )


async def test_nobody_wishes_for_what_is_not_there(system):
    """An unknown product is 404, and so is the list of somebody unknown."""
    answer = await system.call("PUT", "/v1/wishes/nothing", token=await system.buyer())

    assert (404, "product_unknown") == answer.problem()
    assert (401, "unauthenticated") == (await system.call("GET", "/v1/wishes")).problem()


# carts


async def test_a_cart_has_quantities_and_totals(system):
    """Putting a product again sets its quantity; totals are what it would cost now."""
    (hat, cap), buyer = await things(system, 2), await system.buyer()

    await put(system, buyer, hat, 5)
    await put(system, buyer, cap, 1)
    cart = (await put(system, buyer, hat, 2)).json

    assert [(hat, 2, 24_000, 5), (cap, 1, 12_000, 5)] == [
        (item["product"], item["quantity"], item["total"]["amount"], item["free"]) for item in cart["items"]
    ]
    assert [{"amount": 36_000, "currency": "KRW"}] == cart["totals"]
    assert cart == (await system.call("GET", "/v1/cart", token=buyer)).json


async def test_a_cart_shows_the_price_and_stock_of_this_moment(system):
    """Neither is what it was when the product was put there; what is not sold now counts for nothing."""
    token, _ = await vendor(system)
    hat, cap = [(await product(system, token))["product"] for _ in range(2)]
    buyer = await system.buyer()
    await put(system, buyer, hat, 1)
    await put(system, buyer, cap, 1)

    times = {"starts_at": moment(timedelta(hours=-1)), "ends_at": moment(timedelta(hours=1))}
    event = {"title": "Spring", **times, "items": [{"product": hat, "percent": 50}]}
    await system.call("POST", "/v1/discounts", event, token)
    await system.call("PATCH", f"/v1/products/{cap}", {"discontinued": True}, token)
    cart = (await system.call("GET", "/v1/cart", token=buyer)).json

    assert [(6_000, True), (12_000, False)] == [
        (item["unit_price"]["amount"], item["available"]) for item in cart["items"]
    ]
    assert [{"amount": 6_000, "currency": "KRW"}] == cart["totals"]


async def test_a_cart_is_emptied_piece_by_piece_or_whole(system):
    """Repeating is the same."""
    hats, buyer = await things(system, 3), await system.buyer()
    for hat in hats:
        await put(system, buyer, hat)

    one = [(await system.call("DELETE", f"/v1/cart/items/{hats[0]}", token=buyer)).status for _ in range(2)]
    left = (await system.call("GET", "/v1/cart", token=buyer)).json["items"]
    whole = (await system.call("DELETE", "/v1/cart", token=buyer)).status

    assert ([204, 204], hats[1:], 204) == (one, [item["product"] for item in left], whole)
    assert {"items": [], "totals": []} == (await system.call("GET", "/v1/cart", token=buyer)).json


async def test_what_nobody_touched_for_three_days_is_gone(system):
    """At the request already; a worker only clears up."""
    (hat, cap), buyer = await things(system, 2), await system.buyer()
    await put(system, buyer, hat)
    await put(system, buyer, cap)
    pool = system.app[ROOMS].stores.pool
    await pool.execute("UPDATE cart_items SET touched_at = now() - interval '3 days' WHERE product = $1", hat)

    cart = (await system.call("GET", "/v1/cart", token=buyer)).json
    await Carts(pool, None).tick()

    assert [cap] == [item["product"] for item in cart["items"]]
    assert 0 == await pool.fetchval("SELECT count(*) FROM cart_items WHERE product = $1", hat)


async def test_a_cart_holds_as_many_products_as_an_order(system):
    """The next one is refused; those in it may be changed."""
    (hat, cap), buyer = await things(system, 2), await system.buyer()
    await put(system, buyer, hat)
    pool = system.app[ROOMS].stores.pool
    account = await pool.fetchval("SELECT account FROM cart_items WHERE product = $1", hat)
    await pool.execute(
        "WITH p AS (INSERT INTO products (id, title, amount, currency)"
        " SELECT 'filler-' || n, 'x', 1, 'KRW' FROM generate_series(2, $2::int) n RETURNING id)"
        " INSERT INTO cart_items (account, product, quantity) SELECT $1, id, 1 FROM p",
        account,
        CART_MAX,
    )

    refused, changed = await put(system, buyer, cap), await put(system, buyer, hat, 3)

    assert ((409, "cart_full"), 200) == (refused.problem(), changed.status)


@pytest.mark.parametrize("quantity", [0, -1, 1_001, 1.5])
async def test_a_bad_quantity_is_refused(system, quantity):
    """And changes nothing."""
    (hat,), buyer = await things(system), await system.buyer()

    answer = await put(system, buyer, hat, quantity)

    assert (422, "invalid_request") == answer.problem()
    assert [] == (await system.call("GET", "/v1/cart", token=buyer)).json["items"]


async def test_what_is_sold_in_sales_alone_is_no_ordinary_purchase(system):
    """It cannot be put into a cart."""
    sale = await system.sale()

    answer = await put(system, await system.buyer(), f"{sale}-hat")

    assert (409, "product_unavailable") == answer.problem()
