"""A sale's life before and after it runs: proposed, approved, refused, edited, and where its units are meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from catalogue_kit import WON, account, moment, product, vendor
from contract_kit import new_key, numbers, sale_body

from onsale.server.app import ROOMS

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR = timedelta(hours=1)


def plan(sale: str, product: str, *, stock=3, opens=2 * HOUR, closes=4 * HOUR, amount=8_000):
    """A sale of one product as a vendor writes it."""
    return {
        "sale": {"id": sale, "title": "Hats", "opens_at": moment(opens), "closes_at": moment(closes)},
        "admission": {"rate_per_second": 100.0, "active_max": 100},
        "items": [{"product": product, "title": "Hat", "stock": stock, "price": {"amount": amount, "currency": "KRW"}}],
    }


async def proposed(system, *, stock=3, units=10, **times):
    """A vendor's sale of one of its products: (token, sale, product)."""
    token, _ = await vendor(system)
    made = (await product(system, token, stock=units))["product"]
    sale = f"proposal-{next(numbers)}"
    answer = await system.call("POST", "/v1/sales", plan(sale, made, stock=stock, **times), token)
    assert 201 == answer.status, answer.body
    return token, sale, made


async def item(system, sale):
    """The one item of a sale, as operators see it."""
    return (await system.call("GET", f"/v1/sales/{sale}/proposal", token=system.manager)).json["items"][0]


async def decide(system, sale, product, verb):
    """Approve or refuse."""
    return await system.call("POST", f"/v1/sales/{sale}/items/{product}/{verb}", token=system.manager)


async def units(system, product):
    """Where Postgres has the units of a product: seller -> (stock, kept)."""
    rows = await system.app[ROOMS].stores.pool.fetch(
        "SELECT sale, stock, kept FROM sale_items WHERE product = $1", product
    )
    return {row["sale"]: (row["stock"], row["kept"]) for row in rows if row["stock"] or row["kept"]}


async def until_units(system, product, **expected):
    """Until they are there; `shop` is the product itself."""
    wanted = {"_shop" if name == "shop" else name: where for name, where in expected.items()}
    async with asyncio.timeout(20):
        while await units(system, product) != wanted:
            await asyncio.sleep(0.05)


async def until_free(system, product, free):
    """Until that many can be bought."""
    await system.until(f"/v1/products/{product}/stock", None, lambda told: told["free"] == free)


async def shift(system, sale, **times):
    """Another moment for a sale, as if time had passed."""
    for name, at in times.items():
        query = f"UPDATE sales SET {name} = now() + $2::interval WHERE id = $1"
        await system.app[ROOMS].stores.pool.execute(query, sale, at)


# proposed, approved, refused


async def test_a_vendors_sale_is_a_proposal(system):
    """Nobody else sees it; its units have left the product and are for sale nowhere."""
    token, sale, made = await proposed(system)

    own = (await system.call("GET", f"/v1/sales/{sale}/proposal", token=token)).json
    stranger = await system.call("GET", f"/v1/sales/{sale}/proposal", token=(await vendor(system))[0])

    assert ("pending", "pending", 3, 0) == (
        own["approval"], own["items"][0]["status"], own["items"][0]["kept"], own["items"][0]["stock"],
    )  # fmt: skip
    assert (404, "sale_unknown") == stranger.problem()
    assert (404, "sale_unknown") == (await system.call("GET", f"/v1/sales/{sale}")).problem()
    assert {"_shop": (7, 0), sale: (0, 3)} == await units(system, made)
    await until_free(system, made, 7)


async def test_a_sale_s_list_price_is_the_product_s(system):
    """Whoever proposes does not say it; buyers see what the product costs outside the sale."""
    _, sale, _ = await proposed(system)

    told = await item(system, sale)

    assert ({"amount": 8_000, "currency": "KRW"}, WON) == (told["price"], told["list_price"])


async def test_an_approved_sale_is_seen_and_has_its_units(system):
    """Approving twice is approving once."""
    _, sale, made = await proposed(system)

    answers = [await decide(system, sale, made, "approval") for _ in range(2)]

    assert [(200, "approved")] * 2 == [(answer.status, answer.json["approval"]) for answer in answers]
    assert {"_shop": (7, 0), sale: (3, 0)} == await units(system, made)
    told = await system.until(f"/v1/sales/{sale}", None, lambda told: True)
    assert ("scheduled", [made]) == (told["state"], [one["product"] for one in told["items"]])
    await until_free(system, made, 10)


async def test_a_refused_proposal_gives_its_units_back(system):
    """Once, however often it is refused; and it cannot be approved any more."""
    _, sale, made = await proposed(system)
    path = f"/v1/sales/{sale}/items/{made}/refusal"

    answers = [await system.call("POST", path, {"reason": "no hats"}, system.manager) for _ in range(2)]
    late = await decide(system, sale, made, "approval")

    assert [200, 200] == [answer.status for answer in answers]
    shown = await item(system, sale)
    assert ("refused", "no hats", 0) == (shown["status"], shown["reason"], shown["kept"])
    assert (409, "proposal_decided") == late.problem()
    assert {"_shop": (10, 0)} == await units(system, made)
    await until_free(system, made, 10)


async def test_vendors_decide_nothing(system):
    """Not even about their own."""
    token, sale, made = await proposed(system)

    answer = await system.call("POST", f"/v1/sales/{sale}/items/{made}/approval", token=token)

    assert (403, "forbidden") == answer.problem()


async def test_what_nobody_approved_in_time_is_refused_by_the_clock(system):
    """Half an hour before the sale, decided at the request; the units go back when a worker comes by."""
    _, sale, made = await proposed(system)
    await shift(system, sale, opens_at=timedelta(minutes=29))

    shown = await item(system, sale)
    late = await decide(system, sale, made, "approval")

    assert ("refused", 409) == (shown["status"], late.status)
    assert late.code in ("approval_too_late", "proposal_decided")
    await until_units(system, made, shop=(10, 0))
    assert "too_late" == (await item(system, sale))["reason"]


async def test_a_manager_sees_every_proposal_and_a_vendor_its_own(system):
    """Newest first."""
    token, sale, _ = await proposed(system)
    _, other, _ = await proposed(system)

    managers = (await system.call("GET", "/v1/proposals?limit=2", token=system.manager)).json["items"]
    own = (await system.call("GET", "/v1/proposals", token=token)).json["items"]

    assert ([other, sale], [sale]) == ([one["sale"] for one in managers], [one["sale"] for one in own])


# rules


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"opens": timedelta(minutes=59)}, 422, "invalid_request"),
        ({"opens": 3 * HOUR, "closes": 2 * HOUR}, 422, "invalid_request"),
        ({"amount": 12_000}, 422, "invalid_request"),
        ({"stock": 11}, 409, "not_enough_stock"),
    ],
)
async def test_a_proposal_against_the_rules_changes_nothing(system, changes, status, code):
    """Too soon, upside down, not cheaper, more than there is."""
    token, _ = await vendor(system)
    made = (await product(system, token, stock=10))["product"]

    answer = await system.call("POST", "/v1/sales", plan(f"proposal-{next(numbers)}", made, **changes), token)

    assert (status, code) == answer.problem()
    assert {"_shop": (10, 0)} == await units(system, made)


async def test_a_vendor_has_one_sale_at_a_time(system):
    """Also when two are proposed in the same moment; the day after is another time."""
    token, _ = await vendor(system)
    made = (await product(system, token, stock=10))["product"]
    plans = [plan(f"proposal-{next(numbers)}", made) for _ in range(2)]
    later = plan(f"proposal-{next(numbers)}", made, opens=24 * HOUR, closes=25 * HOUR)

    answers = await asyncio.gather(*(system.call("POST", "/v1/sales", one, token) for one in plans))
    next_day = await system.call("POST", "/v1/sales", later, token)

    assert [201, 409] == sorted(answer.status for answer in answers)
    assert ["sales_overlap"] == [answer.code for answer in answers if answer.status == 409]
    assert 201 == next_day.status


async def test_anothers_product_cannot_be_proposed(system):
    """Neither in a sale of one's own nor for another's."""
    _, sale, made = await proposed(system)
    stranger, _ = await vendor(system)
    own = (await product(system, stranger))["product"]
    wanted = {"product": own, "price": {"amount": 1, "currency": "KRW"}, "stock": 1}

    taken = await system.call("POST", "/v1/sales", plan(f"proposal-{next(numbers)}", made), stranger)
    put = await system.call("POST", f"/v1/sales/{sale}/items", wanted, stranger)

    assert ((403, "forbidden"), (403, "forbidden")) == (taken.problem(), put.problem())


# items


async def test_vendors_propose_for_a_house_sale_and_managers_approve(system):
    """The item is pending in a sale that is approved; what is in it already stays on sale."""
    token, _ = await vendor(system)
    made = (await product(system, token, stock=5))["product"]
    sale = await system.sale(opens_at=moment(2 * HOUR))
    wanted = {"product": made, "price": {"amount": 900, "currency": "KRW"}, "stock": 2}

    put = await system.call("POST", f"/v1/sales/{sale}/items", wanted, token)
    again = await system.call("POST", f"/v1/sales/{sale}/items", wanted, token)
    before = (await system.call("GET", f"/v1/sales/{sale}")).json["items"]
    await decide(system, sale, made, "approval")

    assert ((201, "approved"), (409, "item_exists")) == ((put.status, put.json["approval"]), again.problem())
    assert [f"{sale}-hat"] == [one["product"] for one in before]
    await system.until(f"/v1/sales/{sale}", None, lambda told: len(told["items"]) == 2)
    assert {"_shop": (3, 0), sale: (2, 0)} == await units(system, made)


async def test_a_removed_item_gives_its_units_back(system):
    """Approved or not, before the sale begins; afterwards it stays."""
    token, sale, made = await proposed(system)
    await decide(system, sale, made, "approval")
    path = f"/v1/sales/{sale}/items/{made}"

    stranger = await system.call("DELETE", path, token=(await vendor(system))[0])
    removed = await system.call("DELETE", path, token=token)

    assert ((403, "forbidden"), 204) == (stranger.problem(), removed.status)
    await until_units(system, made, shop=(10, 0))
    await until_free(system, made, 10)


async def test_nothing_is_edited_once_a_sale_runs(system):
    """But units are moved in and out, once a key."""
    token, sale, made = await proposed(system)
    await decide(system, sale, made, "approval")
    await shift(system, sale, opens_at=timedelta(seconds=-1))
    path = f"/v1/sales/{sale}/items/{made}"
    key = new_key()

    edited = await system.call("PATCH", f"/v1/sales/{sale}", {"title": "Other"}, token)
    removed = await system.call("DELETE", path, token=token)
    await until_free(system, made, 10)
    moved = [await system.call("POST", f"{path}/stock", {"quantity": 4}, token, Idempotency_Key=key) for _ in range(2)]
    await until_units(system, made, shop=(3, 0), **{sale: (7, 0)})
    back = await system.call("POST", f"{path}/stock", {"quantity": -5}, token, Idempotency_Key=new_key())

    assert ((409, "sale_running"), (409, "sale_running")) == (edited.problem(), removed.problem())
    assert moved[0].json["move"] == moved[1].json["move"]
    assert back.status in (200, 202)
    await until_units(system, made, shop=(8, 0), **{sale: (2, 0)})
    await until_free(system, made, 10)


async def test_no_more_units_are_moved_than_are_free(system):
    """Neither in nor out."""
    token, sale, made = await proposed(system)
    path = f"/v1/sales/{sale}/items/{made}/stock"

    too_many = [
        await system.call("POST", path, {"quantity": quantity}, token, Idempotency_Key=new_key())
        for quantity in (8, -4)
    ]
    await system.call("POST", path, {"quantity": -3}, token, Idempotency_Key=new_key())

    assert [(409, "not_enough_stock")] * 2 == [answer.problem() for answer in too_many]
    assert {"_shop": (10, 0)} == await units(system, made)


async def test_an_edit_is_judged_anew(system):
    """An approved sale is pending again, out of sight, and its units are put aside until it is approved anew."""
    token, sale, made = await proposed(system)
    await decide(system, sale, made, "approval")
    await until_free(system, made, 10)

    edited = await system.call("PATCH", f"/v1/sales/{sale}", {"opens_at": moment(3 * HOUR)}, token)
    await until_units(system, made, shop=(7, 0), **{sale: (0, 3)})
    hidden = await system.call("GET", f"/v1/sales/{sale}")
    approved = await decide(system, sale, made, "approval")

    assert ("pending", (404, "sale_unknown")) == (edited.json["approval"], hidden.problem())
    assert "approved" == approved.json["approval"]
    await until_units(system, made, shop=(7, 0), **{sale: (3, 0)})
    await until_free(system, made, 10)


async def test_an_operators_edit_stays_approved(system):
    """What a manager changes needs nobody's approval."""
    sale = await system.sale(opens_at=moment(2 * HOUR))

    edited = await system.call("PATCH", f"/v1/sales/{sale}", {"title": "Caps", "limit_per_buyer": 5}, system.manager)

    assert ("approved", "Caps", 5) == (edited.json["approval"], edited.json["title"], edited.json["limit_per_buyer"])


# the end


async def test_what_is_left_when_a_sale_is_over_is_the_products_again(system):
    """Units that were bought stay sold."""
    _, sale, made = await proposed(system)
    await decide(system, sale, made, "approval")
    await shift(system, sale, opens_at=timedelta(seconds=-1))
    buyer = await system.buyer()
    admission = await system.pass_of(sale, buyer)
    wanted = {"items": [{"product": made, "quantity": 1}]}
    async with asyncio.timeout(20):
        # The shop hears of another opening time within a second.
        while (order := await system.reserve(sale, buyer, admission, body=wanted)).code == "sale_not_open":
            await asyncio.sleep(0.05)
    assert 200 == (await system.pay(order.json["order"], buyer)).status

    await shift(system, sale, opens_at=timedelta(seconds=-2), closes_at=timedelta(seconds=-1))

    await until_units(system, made, shop=(9, 0), **{sale: (1, 0)})
    await until_free(system, made, 9)


async def test_an_operators_sale_takes_its_units_out_of_the_product(system):
    """A product that is sold by itself gives them; too many are refused."""
    made = (await product(system, system.manager, stock=5, price=WON))["product"]
    bodies = []
    for stock in (4, 2):
        body = sale_body(f"sale-{next(numbers)}", stock, {}, {})
        bodies.append({**body, "items": [{**body["items"][0], "product": made}]})

    first, second = [await system.call("POST", "/v1/sales", body, system.manager) for body in bodies]

    assert (201, (409, "not_enough_stock")) == (first.status, second.problem())
    await until_units(system, made, shop=(1, 0), **{bodies[0]["sale"]["id"]: (4, 0)})


async def test_customers_propose_nothing(system):
    """A sale is made by those who sell."""
    answer = await system.call("POST", "/v1/sales", plan("mine", "hat"), await system.buyer())
    nobody = await system.call("POST", "/v1/sales", plan("mine", "hat"), await account(system))

    assert ((403, "forbidden"), (409, "vendor_missing")) == (answer.problem(), nobody.problem())
