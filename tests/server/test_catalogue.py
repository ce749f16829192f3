"""Vendors, products and their stock, as strangers ask for them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from catalogue_kit import WON, account, change, moment, product, vendor
from contract_kit import new_key

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def free(system, product):
    """Units free."""
    return (await system.call("GET", f"/v1/products/{product}/stock")).json["free"]


# vendors


async def test_an_account_has_one_active_vendor(system):
    """A second one is refused until the first has ended."""
    token, first = await vendor(system)

    again = await system.call("POST", "/v1/vendors", {"name": "Another"}, token)
    ended = await system.call("DELETE", f"/v1/vendors/{first}", token=token)
    after = await system.call("POST", "/v1/vendors", {"name": "Another"}, token)

    assert ((409, "vendor_exists"), 204, 201) == (again.problem(), ended.status, after.status)


async def test_a_vendor_is_edited_by_its_owner_or_a_manager(system):
    """Anybody else is refused, and nothing changes."""
    token, own = await vendor(system)
    stranger, _ = await vendor(system)
    path = f"/v1/vendors/{own}"

    refused = await system.call("PATCH", path, {"name": "Mine"}, stranger)
    edited = await system.call("PATCH", path, {"about": "Since 1901"}, token)
    managed = await system.call("PATCH", path, {"name": "Hats"}, system.manager)

    assert (403, "forbidden") == refused.problem()
    assert ["Hats & sons", "Since 1901"] == [edited.json["name"], edited.json["about"]]
    assert ("Hats", "Since 1901") == (managed.json["name"], managed.json["about"])


async def test_a_deleted_vendor_is_gone_and_its_products_with_it(system):
    """Nobody finds it; what it sold is discontinued."""
    token, own = await vendor(system)
    made = await product(system, token)

    await system.call("DELETE", f"/v1/vendors/{own}", token=token)

    assert (404, "vendor_unknown") == (await system.call("GET", f"/v1/vendors/{own}")).problem()
    assert "discontinued" == (await system.call("GET", f"/v1/products/{made['product']}")).json["state"]


async def test_customers_are_no_vendors(system):
    """Who may sell is not the client's choice."""
    answer = await system.call("POST", "/v1/vendors", {"name": "Me"}, await system.buyer())

    assert (403, "forbidden") == answer.problem()


async def test_a_vendor_of_nobody(system):
    """A master names an account that there is."""
    answer = await system.call("POST", "/v1/vendors", {"name": "Me", "account": "0" * 26}, system.master)

    assert (422, "invalid_request") == answer.problem()
    assert "#/account" == answer.json["errors"][0]["pointer"]


async def test_vendors_are_listed_by_keyset(system):
    """Each page begins where the one before ended."""
    made = [(await vendor(system))[1] for _ in range(3)]

    first = (await system.call("GET", "/v1/vendors?limit=2")).json
    second = (await system.call("GET", f"/v1/vendors?limit=1&cursor={first['next_cursor']}")).json

    assert [made[2], made[1], made[0]] == [one["vendor"] for one in first["items"] + second["items"]]


# products


async def test_a_product_is_made_with_its_first_units(system):
    """Whoever asks for it finds it, its price and its stock."""
    token, own = await vendor(system)

    made = await product(system, token, title="가을 재킷", stock=7, image="/images/jacket.jpg")
    shown = (await system.call("GET", f"/v1/products/{made['product']}")).json

    assert made == shown
    assert (own, "가을 재킷", WON, "available", "/images/jacket.jpg") == tuple(
        shown[name] for name in ("vendor", "title", "price", "state", "image")
    )
    assert 7 == await free(system, made["product"])


async def test_a_product_needs_a_vendor(system):
    """A seller who has none yet is told so; a manager's product is the house's."""
    refused = await system.call("POST", "/v1/products", {"title": "Hat", "price": WON}, await account(system))
    made = await product(system, system.manager)

    assert ((409, "vendor_missing"), None) == (refused.problem(), made["vendor"])


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"image": "https://elsewhere.example/x.png"}, "#/image"),
        ({"image": "/../secret"}, "#/image"),
        ({"stock": -1}, "#/stock"),
        ({"price": {"amount": 1.5, "currency": "KRW"}}, "#/price/amount"),
        ({"available_from": "tomorrow"}, "#/available_from"),
        ({"available_from": ""}, "#/available_from"),
        ({"available_until": ""}, "#/available_until"),
        ({"available_from": "2030-01-02T00:00:00Z", "available_until": "2030-01-01T00:00:00Z"}, "#/available_until"),
        ({"vendor": "somebody-else"}, "#/vendor"),
    ],
)
async def test_a_bad_product_is_refused_where_it_is_bad(system, fields, pointer):
    """The answer points at the field."""
    token, _ = await vendor(system)

    answer = await system.call("POST", "/v1/products", {"title": "Hat", "price": WON, **fields}, token)

    assert (422, [pointer]) == (answer.status, [flaw["pointer"] for flaw in answer.json["errors"]])


@pytest.mark.parametrize("end", ["from", "until"])
async def test_an_end_is_held_against_the_other_that_was_given_before(system, end):
    """Moving one end of a product's time beyond the other is refused, and changes nothing."""
    token, _ = await vendor(system)
    times = {"available_from": "2030-01-02T00:00:00Z", "available_until": "2030-01-03T00:00:00Z"}
    made = await product(system, token, **times)
    path = f"/v1/products/{made['product']}"
    moved = {"from": "2030-01-03T00:00:00Z", "until": "2030-01-02T00:00:00Z"}[end]

    answer = await system.call("PATCH", path, {f"available_{end}": moved}, token)

    assert (422, [f"#/available_{end}"]) == (answer.status, [flaw["pointer"] for flaw in answer.json["errors"]])
    assert (await system.call("GET", path)).json == made


async def test_a_product_is_edited_by_its_vendor_alone(system):
    """Another vendor is refused; null takes a value away."""
    token, _ = await vendor(system)
    stranger, _ = await vendor(system)
    made = await product(system, token, image="/a.png")
    path = f"/v1/products/{made['product']}"

    refused = await system.call("PATCH", path, {"title": "Stolen"}, stranger)
    edited = await system.call("PATCH", path, {"price": {"amount": 9_000, "currency": "KRW"}, "image": None}, token)

    assert (403, "forbidden") == refused.problem()
    assert (made["title"], 9_000, None) == (edited.json["title"], edited.json["price"]["amount"], edited.json["image"])


async def test_a_discontinued_product_is_listed_only_where_it_is_asked_for(system):
    """It is shown by its id all the same."""
    token, own = await vendor(system)
    made = await product(system, token)
    path = f"/v1/products/{made['product']}"

    await system.call("PATCH", path, {"discontinued": True}, token)
    listed = (await system.call("GET", f"/v1/products?vendor={own}")).json["items"]
    asked = (await system.call("GET", f"/v1/products?vendor={own}&state=discontinued")).json["items"]

    assert ([], [made["product"]], "discontinued") == (
        listed,
        [one["product"] for one in asked],
        (await system.call("GET", path)).json["state"],
    )


async def test_a_deleted_product_is_gone(system):
    """And its id is not given again: orders name it."""
    token, own = await vendor(system)
    made = await product(system, token)
    path = f"/v1/products/{made['product']}"

    deleted = await system.call("DELETE", path, token=token)
    again = await system.call("POST", "/v1/products", {"product": made["product"], "title": "Hat", "price": WON}, token)

    assert 204 == deleted.status
    assert (404, "product_unknown") == (await system.call("GET", path)).problem()
    assert [] == (await system.call("GET", f"/v1/products?vendor={own}")).json["items"]
    assert (409, "product_exists") == again.problem()


async def test_products_are_listed_by_state_and_price_in_keyset_pages(system):
    """Filters hold on every page."""
    token, own = await vendor(system)
    cheap = await product(system, token, price={"amount": 100, "currency": "KRW"})
    await product(system, token, stock=0)
    dear = await product(system, token, price={"amount": 900, "currency": "KRW"})
    path = f"/v1/products?vendor={own}&limit=1&state=available&price_min=50&price_max=1000"

    first = (await system.call("GET", path)).json
    second = (await system.call("GET", f"{path}&cursor={first['next_cursor']}")).json

    assert [dear["product"]] == [one["product"] for one in first["items"]]
    assert ([cheap["product"]], None) == ([one["product"] for one in second["items"]], second["next_cursor"])


# search


async def test_products_are_found_by_a_title_with_a_typo(system):
    """In pages, with the filters of the list; a cursor of another list is refused."""
    token, own = await vendor(system)
    made = [(await product(system, token, title=f"초록 우산 {n}"))["product"] for n in range(3)]
    path = f"/v1/products?vendor={own}&q=%EC%B4%88%EB%A1%9D%EC%9A%B0%EC%84%A0&limit=2"

    first = await system.until(path, None, lambda told: told["next_cursor"] is not None)
    second = (await system.call("GET", f"{path}&cursor={first['next_cursor']}")).json
    dear = (await system.call("GET", f"{path}&price_min=12001")).json
    wrong = await system.call("GET", f"/v1/products?cursor={first['next_cursor']}")

    assert made[::-1] == [one["product"] for one in first["items"] + second["items"]]
    assert ([], (422, "invalid_request")) == (dear["items"], wrong.problem())


# discounts


async def discount(system, token, *items, starts=timedelta(hours=-1), ends=timedelta(hours=1), **fields):
    """A new event."""
    wanted = [{"product": product, "percent": percent} for product, percent in items]
    times = {"starts_at": moment(starts), "ends_at": moment(ends)}
    return await system.call("POST", "/v1/discounts", {"title": "Spring", **times, "items": wanted, **fields}, token)


async def price(system, product):
    """What a product costs now, and what is taken off."""
    told = (await system.call("GET", f"/v1/products/{product}")).json
    event = told["discount"] and told["discount"]["percent"]
    return told["price"]["amount"], told["list_price"]["amount"], told["saving"]["amount"], event


async def test_a_discount_makes_a_product_cheaper_while_it_is_on(system):
    """Between its start and its end; what is taken off is shown, and rounded down."""
    token, _ = await vendor(system)
    made = (await product(system, token, price={"amount": 999, "currency": "KRW"}))["product"]

    event = await discount(system, token, (made, 15))
    while_on = await price(system, made)
    path = f"/v1/discounts/{event.json['discount']}"
    over = await system.call("PATCH", path, {"ends_at": moment(timedelta(seconds=-1))}, token)
    after = await price(system, made)
    ahead = {"starts_at": moment(timedelta(hours=1)), "ends_at": moment(timedelta(hours=2))}
    await system.call("PATCH", path, ahead, token)

    assert ((201, True), (850, 999, 149, 15)) == ((event.status, event.json["on"]), while_on)
    assert (False, (999, 999, 0, None)) == (over.json["on"], after)
    assert (999, 999, 0, None) == await price(system, made)


async def test_the_best_discount_counts_and_a_deleted_one_does_not(system):
    """Two events at once are not added up."""
    token, _ = await vendor(system)
    made = (await product(system, token, price={"amount": 1_000, "currency": "KRW"}))["product"]
    await discount(system, token, (made, 10))
    best = (await discount(system, token, (made, 30))).json["discount"]

    both = await price(system, made)
    deleted = await system.call("DELETE", f"/v1/discounts/{best}", token=token)

    assert ((700, 1_000, 300, 30), 204) == (both, deleted.status)
    assert (900, 1_000, 100, 10) == await price(system, made)
    assert (404, "discount_unknown") == (await system.call("GET", f"/v1/discounts/{best}")).problem()


async def test_an_order_pays_the_price_of_its_moment(system):
    """An order after the end of an event pays the whole price, whatever was shown before."""
    token, _ = await vendor(system)
    made = (await product(system, token, price={"amount": 1_000, "currency": "KRW"}))["product"]
    event = (await discount(system, token, (made, 50))).json["discount"]
    buyers = await system.buyers(2)
    body = {"items": [{"product": made, "quantity": 1}], "expected_total": {"amount": 500, "currency": "KRW"}}

    cheap = await system.call("POST", "/v1/orders", body, buyers[0], Idempotency_Key=new_key())
    await system.call("PATCH", f"/v1/discounts/{event}", {"ends_at": moment(timedelta(seconds=-1))}, token)
    late = await system.call("POST", "/v1/orders", body, buyers[1], Idempotency_Key=new_key())

    assert (201, 500, 1_000) == (
        cheap.status, cheap.json["total"]["amount"], cheap.json["items"][0]["list_price"]["amount"]
    )  # fmt: skip
    assert ((409, "price_changed"), 1_000) == (late.problem(), late.json["total"]["amount"])


async def test_what_is_not_sold_now_is_not_ordered(system):
    """Before its first moment, after its last, and when it is discontinued."""
    token, _ = await vendor(system)
    body = {"items": [{"product": "", "quantity": 1}]}
    answers = []
    for fields in (
        {"available_from": moment(timedelta(hours=1))},
        {"available_until": moment(timedelta(hours=-1))},
        {"discontinued": True},
    ):
        made = (await product(system, token))["product"]
        await system.call("PATCH", f"/v1/products/{made}", fields, token)
        body["items"][0]["product"] = made
        buyer = await system.buyer()
        answers.append((await system.call("POST", "/v1/orders", body, buyer, Idempotency_Key=new_key())).problem())

    assert [(409, "product_unavailable")] * 3 == answers


async def test_a_vendor_takes_nothing_off_anothers_products(system):
    """Nor changes another's event."""
    token, _ = await vendor(system)
    stranger, _ = await vendor(system)
    made = (await product(system, token))["product"]
    event = (await discount(system, token, (made, 10))).json["discount"]

    taken = await discount(system, stranger, (made, 90))
    changed = await system.call("PATCH", f"/v1/discounts/{event}", {"title": "Mine"}, stranger)

    assert [(403, "forbidden")] * 2 == [taken.problem(), changed.problem()]


@pytest.mark.parametrize("fields", [{"ends_at": "2020-01-01T00:00:00Z"}, {"items": []}, {"items": [{"percent": 0}]}])
async def test_a_bad_discount_is_refused(system, fields):
    """Upside down, about nothing, taking nothing off."""
    token, _ = await vendor(system)
    made = (await product(system, token))["product"]

    assert 422 == (await discount(system, token, (made, 10), **fields)).status


# stock


async def test_units_are_moved_once_a_key(system):
    """A repeat answers the same and moves nothing; another quantity under the key is refused."""
    token, _ = await vendor(system)
    made = (await product(system, token))["product"]
    key = new_key()

    answers = [await change(system, token, made, 3, key) for _ in range(2)]
    other = await change(system, token, made, 4, key)
    await system.until(f"/v1/products/{made}/stock", None, lambda told: told["free"] == 8)

    assert [(200, True)] * 2 == [(answer.status, answer.json["done"]) for answer in answers]
    assert answers[0].json == answers[1].json
    assert (422, "idempotency_key_reused") == other.problem()


async def test_only_free_units_are_taken_out(system):
    """Too many are refused, and stay refused under their key though units have come since."""
    token, _ = await vendor(system)
    made = (await product(system, token, stock=2))["product"]
    key = new_key()

    refused = await change(system, token, made, -3, key)
    taken = await change(system, token, made, -2)
    await change(system, token, made, 5)
    again = await change(system, token, made, -3, key)

    assert ((409, "not_enough_stock"), 200, (409, "not_enough_stock")) == (
        refused.problem(),
        taken.status,
        again.problem(),
    )
    await system.until(f"/v1/products/{made}/stock", None, lambda told: told["free"] == 5)


async def test_the_shop_is_no_sale(system):
    """Nobody can name it, and no list shows it."""
    sales = (await system.call("GET", "/v1/sales?limit=100")).json["items"]

    assert (404, "sale_unknown") == (await system.call("GET", "/v1/sales/_shop")).problem()
    assert "_shop" not in [sale["sale"] for sale in sales]
