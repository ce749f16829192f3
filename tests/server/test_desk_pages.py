"""Vendors and operators at their desks, without scripts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from catalogue_kit import account, product, vendor
from contract_kit import numbers
from page_kit import Browser

from onsale.auth.middleware import COOKIES

pytestmark = pytest.mark.asyncio(loop_scope="module")
HAT = {"title": "Felt hat", "about": "", "amount": "12000", "currency": "KRW", "image": ""}


def desk(system, token, **more):
    """A browser of this person."""
    return Browser(system, {system.app[COOKIES].access: token, "onsale-language": "en"}, **more)


def local(ahead):
    """As a browser's field sends a moment."""
    return (datetime.now(UTC) + ahead).strftime("%Y-%m-%dT%H:%M")


def sale(product, **fields):
    """The form of a proposal, filled in."""
    times = {"opens_at": local(timedelta(hours=3)), "closes_at": local(timedelta(hours=4)), "zone": "utc"}
    name = {"title": f"Night {next(numbers)}", "product": product, "amount": "9000", "stock": "2"}
    return {**name, **times, "limit_per_buyer": "1", **fields}


async def test_a_vendor_begins_offers_edits_and_stocks(system):
    """From nothing to a product that can be bought; a doubled stock form moves once; tampering changes nothing."""
    show = desk(system, await account(system))
    assert 'action="/desk/vendor"' in (await show("GET", "/desk"))[1]
    assert "/desk" == (await show("POST", "/desk/vendor", name="Hatters", about=""))[2]["Location"]

    path = (await show("POST", "/desk/products", **HAT, stock="3"))[2]["Location"]
    name = path.removeprefix("/desk/products/")
    assert path in (await show("GET", "/desk"))[1]
    saved = f"{path}?said=saved"
    assert saved == (await show("POST", path, **(HAT | {"title": "Wool hat", "amount": "15000"})))[2]["Location"]
    key = re.search(r'name="key" value="([0-9a-f]+)"', (await show("GET", path))[1])[1]
    for _ in range(2):
        assert saved == (await show("POST", f"{path}/stock", key=key, quantity="4"))[2]["Location"]
    for form, fields, flawed in (
        ("", HAT | {"amount": "-1", "title": "Kept"}, "amount"),
        ("", HAT | {"currency": "won"}, "currency"),
        ("/stock", {"key": "k", "quantity": "0"}, "quantity"),
    ):
        status, text, _ = await show("POST", path + form, **fields)
        assert (422, True) == (status, f'id="{flawed}-flaw"' in text)
        assert fields.get("title", "Wool hat") in text
    assert 409 == (await show("POST", f"{path}/stock", key="more", quantity="-100"))[0]

    told = (await system.call("GET", f"/v1/products/{name}")).json
    assert ("Wool hat", 15_000) == (told["title"], told["price"]["amount"])
    await system.until(f"/v1/products/{name}/stock", None, lambda stock: stock["free"] == 7)


@pytest.mark.parametrize(("day", "words"), [("2100-01-31", "On 2100-01-31"), ("", "Any day")])
async def test_an_entry_is_offered(system, day, words):
    """For a day or for any; the day is on the page that buyers see."""
    token, _ = await vendor(system)
    show = desk(system, token)

    path = (await show("POST", "/desk/products", **HAT, stock="3", kind="entry", visit_on=day))[2]["Location"]

    told = (await system.call("GET", path.replace("/desk", "/v1"))).json
    assert ("entry", day or None) == (told["kind"], told["visit_on"])
    for page in (path, path.removeprefix("/desk")):
        assert f"Entry · {words}" in (await show("GET", page))[1]


@pytest.mark.parametrize(
    ("fields", "flawed", "words"),
    [
        ({"kind": "goods", "visit_on": "2100-01-31"}, "visit_on", "Only an entry is for a day."),
        ({"kind": "entry", "visit_on": "soon"}, "visit_on", "A day, like"),
        ({"kind": "ticket"}, "kind", "This will not do here."),
    ],
)
async def test_what_is_no_entry_is_said_beside_its_field(system, fields, flawed, words):
    """A day of goods, no day, no such kind: nothing is made, and the form keeps what was typed."""
    token, _ = await vendor(system)
    show = desk(system, token)

    status, text, _ = await show("POST", "/desk/products", **HAT, stock="3", **fields)

    assert 422 == status
    assert f'id="{flawed}-flaw">{words}' in text
    assert 'value="Felt hat"' in text
    assert "No products yet." in (await show("GET", "/desk"))[1]


async def test_a_sale_is_proposed_and_approved(system):
    """Pending at both desks, approved at one press, then a sale that everyone sees; a second press is the same."""
    token, _ = await vendor(system)
    show, judge = desk(system, token), desk(system, system.manager)
    hat = (await product(system, token))["product"]
    asked = sale(hat)

    assert "/desk" == (await show("POST", "/desk/sales", **asked))[2]["Location"]
    for browser, path in ((show, "/desk"), (judge, "/approvals")):
        _, text, _ = await browser("GET", path)
        assert (True, True) == (asked["title"] in text, "Pending" in text)
    forms = re.findall(rf'action="(/approvals/[^"]+/{hat}/approval)"', text)
    assert "/approvals" == (await judge("POST", forms[0]))[2]["Location"]

    assert asked["title"] in (await Browser(system, {})("GET", "/"))[1]
    assert "/approvals" == (await judge("POST", forms[0]))[2]["Location"]


async def test_a_proposal_is_refused_with_a_reason(system):
    """The vendor reads why, and the units are the product's again."""
    token, _ = await vendor(system)
    show, judge = desk(system, token), desk(system, system.manager)
    hat = (await product(system, token))["product"]
    await show("POST", "/desk/sales", **sale(hat))
    form = re.search(rf'action="(/approvals/[^"]+/{hat}/refusal)"', (await judge("GET", "/approvals"))[1])[1]

    assert "/approvals" == (await judge("POST", form, reason="<b>too dear</b>"))[2]["Location"]

    assert "&lt;b&gt;too dear&lt;/b&gt;" in (await show("GET", "/desk"))[1]
    await system.until(f"/v1/products/{hat}/stock", None, lambda stock: stock["free"] == 5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"amount": "12000"}, "below the list price"),
        ({"amount": "13000"}, "below the list price"),
        ({"opens_at": local(timedelta(minutes=5))}, "At least an hour from now"),
        ({"closes_at": local(timedelta(hours=2))}, "after it opens"),
        ({"opens_at": "soon"}, "A day and an hour"),
        ({"limit_per_buyer": "0"}, "From 1 to 1,000"),
        ({"title": ""}, "Please fill this in"),
    ],
)
async def test_the_rules_of_a_proposal_hold_at_the_desk(system, fields, words):
    """Below the list price, an hour ahead, an end after its beginning: nothing is proposed otherwise; what will not do
    is said beside its field, and nothing typed is lost."""
    token, _ = await vendor(system)
    show = desk(system, token)
    hat = (await product(system, token))["product"]

    [flawed], asked = fields, sale(hat, **fields)
    status, text, _ = await show("POST", "/desk/sales", **asked)

    assert (422, 1) == (status, text.count('class="flaw"'))
    assert words in re.search(rf'id="{flawed}-flaw">([^<]*)<', text)[1]
    assert all(f'value="{typed}"' in text for typed in asked.values() if typed)
    assert [] == (await system.call("GET", "/v1/proposals", token=token)).json["items"]


async def test_units_move_between_a_product_and_its_sale(system):
    """In and back from the desk, before and after the approval; a doubled form moves once, too many move none."""
    token, _ = await vendor(system)
    show = desk(system, token)
    hat = (await product(system, token))["product"]
    await show("POST", "/desk/sales", **sale(hat))
    form, key = re.search(
        rf'action="(/desk/sales/[^"]+/{hat}/stock)" class="amount"><input type="hidden" name="key" value="([0-9a-f]+)"',
        (await show("GET", "/desk"))[1],
    ).groups()
    name = form.split("/")[3]

    async def units():
        told = (await system.call("GET", f"/v1/sales/{name}/proposal", token=token)).json["items"][0]
        return told["kept"], told["stock"]

    for _ in range(2):
        assert "/desk?said=units_moved" == (await show("POST", form, key=key, quantity="2"))[2]["Location"]
    assert (4, 0) == await units()
    approved = await system.call("POST", f"/v1/sales/{name}/items/{hat}/approval", token=system.manager)
    assert 200 == approved.status
    assert "/desk?said=units_moved" == (await show("POST", form, key="k2", quantity="-3"))[2]["Location"]
    assert (0, 1) == await units()
    for key, quantity, problem in (("k3", "100", "not_enough_stock"), ("k4", "0", "invalid_request")):
        refused = await show("POST", form, key=key, quantity=quantity)
        assert f"/desk?problem={problem}" == refused[2]["Location"]
    rival = desk(system, (await vendor(system))[0])
    assert "/desk?problem=forbidden" == (await rival("POST", form, key="k5", quantity="1"))[2]["Location"]
    assert (0, 1) == await units()


async def test_desks_are_for_those_whose_they_are(system):
    """Buyers have none, vendors judge nobody, nobody edits another's product, no form comes from elsewhere."""
    token, _ = await vendor(system)
    other, _ = await vendor(system)
    hat = (await product(system, token))["product"]
    buyer, rival = desk(system, await system.buyer()), desk(system, other)
    foreign = desk(system, token, site="cross-site")
    path = f"/desk/products/{hat}"

    assert [403, 403] == [(await buyer("GET", one))[0] for one in ("/desk", "/approvals")]
    assert [403, 403] == [(await rival("GET", one))[0] for one in (path, "/approvals")]
    filled_in = HAT | {"key": "k", "quantity": "1"}
    assert [403, 403] == [(await rival("POST", form, **filled_in))[0] for form in (path, f"{path}/stock")]
    assert f"{path}?problem=cross_site" == (await foreign("POST", path, **filled_in))[2]["Location"]
    approval = await rival("POST", f"/approvals/any/{hat}/approval")
    assert "/approvals?problem=forbidden" == approval[2]["Location"]
