"""A buyer in the shop without scripts: every step is a page or a form, and the server's prices are the only ones."""

from __future__ import annotations

import ast
import asyncio
import re
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from catalogue_kit import moment, product, vendor
from contract_kit import new_key, numbers
from page_kit import Browser

from onsale.auth.middleware import COOKIES
from onsale.checkout.handlers import FLOW
from onsale.checkout.providers import portone, stripe, toss
from onsale.checkout.record.folding import Refusal
from onsale.server.app import ROOMS
from onsale.web import LANGUAGES, formats, messages

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROVIDERS = Path(portone.__file__).parent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seller(system):
    """Somebody who sells."""
    return (await vendor(system))[0]


@pytest_asyncio.fixture(loop_scope="module")
async def browser(system):
    """A buyer's browser, and the same buyer's access token."""
    token = await system.buyer()
    return Browser(system, {system.app[COOKIES].access: token, "onsale-language": "en"}), token


async def stocked(system, seller, **fields):
    """A new product whose units can be bought."""
    made = await product(system, seller, **fields)
    units = fields.get("stock", 5)
    await system.until(f"/v1/products/{made['product']}/stock", None, lambda told: told["free"] == units)
    return made["product"]


def hidden(page, action):
    """What the form of this action would send as it is shown."""
    form = re.search(rf'<form[^>]*action="{re.escape(action)}".*?</form>', page, re.DOTALL)[0]
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form))


async def test_products_and_sales_are_searched_and_filtered(system, seller, browser):
    """By names with typos and by price; what is left empty asks for nothing; nonsense is told on a page."""
    show, _ = browser
    word = f"Zebrafinch{next(numbers)}"
    cheap = await stocked(system, seller, title=f"{word} cage", price={"amount": 3_000, "currency": "KRW"})
    dear = await stocked(system, seller, title=f"{word} palace", price={"amount": 90_000, "currency": "KRW"})
    sale = await system.sale(title=f"{word} days")
    await system.until(f"/v1/products?q={word}", None, lambda told: len(told["items"]) == 2)

    async def found(query):
        status, text, _ = await show("GET", f"/?{query}")
        return status, set(re.findall(r'href="/(?:products|sales)/([a-z0-9-]+)"', text)) & {cheap, dear, sale}

    assert (200, {cheap, dear, sale}) == await found(f"q={word[:-1]}x&price_min=&price_max=")
    assert (200, {dear}) == await found(f"q={word}&price_min=5000")
    assert (200, {cheap, sale}) == await found(f"q={word}&price_max=5000")
    assert (200, set()) == await found("q=quite+another+thing")
    assert 422 == (await found("price_min=-1"))[0]
    assert 422 == (await found("cursor=x"))[0]


async def test_the_next_page_of_a_search_is_of_the_same_search(system, seller, browser):
    """The link keeps what was asked for."""
    show, _ = browser
    word = f"Quagga{next(numbers)}"
    await asyncio.gather(*(product(system, seller, title=f"{word} {n}", stock=1) for n in range(25)))
    await system.until(f"/v1/products?q={word}&limit=100", None, lambda told: len(told["items"]) == 25)

    _, first, _ = await show("GET", f"/?q={word}&price_min=1")
    link = re.search(r'href="(\?[^"]*cursor=[^"]+)"', first)[1].replace("&amp;", "&")
    _, second, _ = await show("GET", f"/{link}")
    pages = [set(re.findall(r'href="/products/([a-z0-9-]+)"', page)) for page in (first, second)]

    assert (24, 1, set()) == (len(pages[0]), len(pages[1]), pages[0] & pages[1])


async def test_a_product_s_page_says_what_is_saved(system, seller, browser):
    """Price, list price, percent and saving; markup in its words is text."""
    show, _ = browser
    hat = await stocked(system, seller, title="<i>Hat</i>", about="<script>", stock=3)
    times = {"starts_at": moment(timedelta(hours=-1)), "ends_at": moment(timedelta(hours=1))}
    event = {"title": "Spring", **times, "items": [{"product": hat, "percent": 25}]}
    assert 201 == (await system.call("POST", "/v1/discounts", event, seller)).status

    status, text, _ = await show("GET", f"/products/{hat}")

    assert (200, True, True) == (status, "9,000 KRW" in text, "12,000 KRW" in text)
    assert "Spring: 25% off, you save 3,000 KRW" in text
    assert ("&lt;i&gt;Hat&lt;/i&gt;" in text, "<i>Hat" in text, "&lt;script&gt;" in text) == (True, False, True)
    assert "3 in stock" in text
    assert 404 == (await show("GET", "/products/nothing"))[0]


async def test_bought_at_once_a_double_click_is_one_order(system, seller, browser):
    """The form's own key; the order's page is the one that sales have."""
    show, token = browser
    hat = await stocked(system, seller)
    path = f"/products/{hat}/orders"
    fields = hidden((await show("GET", f"/products/{hat}"))[1], path) | {"quantity": "2"}

    answers = [await show("POST", path, **fields) for _ in range(2)]
    places = {headers["Location"] for _, _, headers in answers}
    status, text, _ = await show("GET", places.pop())

    assert ([303, 303], set(), 200) == ([status for status, _, _ in answers], places, status)
    assert ("24,000 KRW" in text, 'id="pay"' in text) == (True, True)
    listed = await system.until("/v1/orders", token, lambda told: told["items"])
    assert 1 == len(listed["items"])


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"seen": "1"}, "price_changed"),
        ({"seen": "12000", "currency": "USD"}, "price_changed"),
        ({"seen": "-5"}, "invalid_request"),
        ({"quantity": "0"}, "invalid_request"),
        ({"quantity": "-1"}, "invalid_request"),
        ({"quantity": "1001"}, "invalid_request"),
        ({"quantity": "6"}, "sold_out"),
        ({"key": ""}, "invalid_request"),
    ],
)
async def test_a_form_that_was_tampered_with_orders_nothing(system, seller, browser, fields, problem):
    """Another price, a quantity that is none, no key: told on the page, and nothing is held."""
    show, token = browser
    hat = await stocked(system, seller)
    path = f"/products/{hat}/orders"
    shown = hidden((await show("GET", f"/products/{hat}"))[1], path) | {"quantity": "1"}

    status, _, headers = await show("POST", path, **(shown | fields))

    assert (303, f"/products/{hat}?problem={problem}") == (status, headers["Location"])
    assert [] == (await system.call("GET", "/v1/orders", token=token)).json["items"]
    assert 200 == (await show("GET", headers["Location"]))[0]


async def test_forms_of_another_site_are_refused(system, seller, browser):
    """A write by cookie comes from our own pages, or changes nothing."""
    show, token = browser
    hat = await stocked(system, seller)
    foreign = Browser(system, show.cookies, site="cross-site")

    for path, fields in (
        (f"/products/{hat}/cart", {"quantity": "1"}),
        (f"/products/{hat}/wish", {}),
        (f"/products/{hat}/orders", {"quantity": "1", "seen": "12000", "currency": "KRW", "key": "a"}),
        ("/cart/orders", {f"units-{hat}": "1", "seen": "12000", "currency": "KRW", "key": "b"}),
    ):
        _, _, headers = await foreign("POST", path, **fields)
        assert headers["Location"].endswith("?problem=cross_site")

    for path in ("/v1/cart", "/v1/wishes", "/v1/orders"):
        assert [] == (await system.call("GET", path, token=token)).json["items"]


async def test_who_is_not_signed_in_is_asked_to(system, seller):
    """Looking is free; one's own pages and forms send there, and back."""
    hat = await stocked(system, seller)
    stranger = Browser(system, {})

    status, text, _ = await stranger("GET", f"/products/{hat}")
    assert (200, True) == (status, f'href="/signin?next=/products/{hat}"' in text)
    for method, path, back in (
        ("GET", "/cart", "/cart"),
        ("GET", "/wishes", "/wishes"),
        ("GET", "/notices", "/notices"),
        ("POST", f"/products/{hat}/cart", f"/products/{hat}"),
        ("POST", "/cart/orders", "/cart"),
    ):
        status, _, headers = await stranger(method, path)
        assert (303, f"/signin?next={back}") == (status, headers["Location"])


async def test_a_cart_is_filled_changed_and_ordered(system, seller, browser):
    """Quantities and the total of now; ordered it is empty, and a second click asks for the same order."""
    show, token = browser
    hat, cap = await stocked(system, seller), await stocked(system, seller)
    for name in (hat, cap):
        assert "/cart" == (await show("POST", f"/products/{name}/cart", quantity="2"))[2]["Location"]
    await show("POST", f"/cart/items/{hat}", quantity="3")
    assert "/cart?problem=invalid_request" == (await show("POST", f"/cart/items/{hat}", quantity="0"))[2]["Location"]

    _, text, _ = await show("GET", "/cart")
    fields = hidden(text, "/cart/orders")
    assert (True, "3", "2") == ("60,000 KRW" in text, fields[f"units-{hat}"], fields[f"units-{cap}"])
    places = {(await show("POST", "/cart/orders", **fields))[2]["Location"] for _ in range(2)}
    _, order, _ = await show("GET", next(iter(places)))
    _, text, _ = await show("GET", "/cart")

    assert (1, True, True) == (len(places), "60,000 KRW" in order, "Your cart is empty." in text)
    listed = await system.until("/v1/orders", token, lambda told: told["items"])
    assert 1 == len(listed["items"])


async def test_what_changed_in_the_cart_meanwhile_stays_there(system, seller, browser):
    """An order takes what it took; another quantity from another tab is somebody's wish, and kept."""
    show, token = browser
    hat, cap = await stocked(system, seller), await stocked(system, seller)
    for name in (hat, cap):
        await show("POST", f"/products/{name}/cart", quantity="1")
    fields = hidden((await show("GET", "/cart"))[1], "/cart/orders")
    await show("POST", f"/cart/items/{cap}", quantity="2")

    await show("POST", "/cart/orders", **fields)

    cart = (await system.call("GET", "/v1/cart", token=token)).json
    assert [(cap, 2)] == [(item["product"], item["quantity"]) for item in cart["items"]]


async def test_a_price_that_rose_since_is_not_charged_unseen(system, seller, browser):
    """The cart's page showed another total: refused, the cart is as it was and shows the new one."""
    show, token = browser
    hat = await stocked(system, seller)
    await show("POST", f"/products/{hat}/cart", quantity="1")
    fields = hidden((await show("GET", "/cart"))[1], "/cart/orders")
    dearer = {"price": {"amount": 15_000, "currency": "KRW"}}
    assert 200 == (await system.call("PATCH", f"/v1/products/{hat}", dearer, seller)).status

    _, _, headers = await show("POST", "/cart/orders", **fields)
    _, text, _ = await show("GET", headers["Location"])

    assert ("/cart?problem=price_changed", True) == (headers["Location"], "15,000 KRW" in text)
    assert [] == (await system.call("GET", "/v1/orders", token=token)).json["items"]


async def test_a_cart_says_what_is_short(system, seller, browser):
    """Too few units, and what is not sold any more: said beside the item, and not counted."""
    show, _ = browser
    hat, cap = await stocked(system, seller), await stocked(system, seller)
    await show("POST", f"/products/{hat}/cart", quantity="6")
    await show("POST", f"/products/{cap}/cart", quantity="1")
    await system.call("PATCH", f"/v1/products/{cap}", {"discontinued": True}, seller)

    _, text, _ = await show("GET", "/cart")

    assert ("Only 5 left: order fewer." in text, "Not sold now: it is not counted." in text) == (True, True)
    assert "72000" == hidden(text, "/cart/orders")["seen"]


async def test_a_product_is_wished_for_and_no_more(system, seller, browser):
    """From its page and from the list; a second time says so."""
    show, _ = browser
    hat = await stocked(system, seller)
    await show("POST", f"/products/{hat}/wish")
    again = (await show("POST", f"/products/{hat}/wish"))[2]["Location"]
    _, text, _ = await show("GET", "/wishes")
    removed = (await show("POST", f"/wishes/{hat}/removal"))[2]["Location"]

    assert (f"/products/{hat}?problem=wish_exists", True, "/wishes") == (again, f"/products/{hat}" in text, removed)
    assert f"/products/{hat}" not in (await show("GET", "/wishes"))[1]
    assert f'action="/products/{hat}/wish"' in (await show("GET", f"/products/{hat}"))[1]


async def reserved(system, seller, token, **fields):
    """An order of one unit."""
    hat = await stocked(system, seller, **fields)
    wanted = {"items": [{"product": hat, "quantity": 1}]}
    held = await system.call("POST", "/v1/orders", wanted, token, Idempotency_Key=new_key())
    return held.json["order"]


async def ordered(system, seller, token, **fields):
    """The same, paid for."""
    order = await reserved(system, seller, token, **fields)
    assert 200 == (await system.pay(order, token)).status
    return order


async def test_a_declined_payment_is_told_and_paid_again(system, seller, browser):
    """Why it was declined stands above the form, in words, also where a word is new; the reservation is kept."""
    show, token = browser
    hat = await stocked(system, seller)
    wanted = {"items": [{"product": hat, "quantity": 1}]}
    order = (await system.call("POST", "/v1/orders", wanted, token, Idempotency_Key=new_key())).json["order"]
    path = f"/orders/{order}"

    for instrument, why in (("decline_funds", "not enough funds"), ("decline_never_heard_of", "another reason")):
        fields = hidden((await show("GET", path))[1], f"{path}/pay")
        _, _, headers = await show("POST", f"{path}/pay", token=instrument, **fields)
        assert f"{path}?problem=payment_declined" == headers["Location"]
        status, text, _ = await show("GET", headers["Location"])
        assert (200, True, True) == (status, why in text, 'id="pay"' in text)
    fields = hidden(text, f"{path}/pay")
    assert path == (await show("POST", f"{path}/pay", token="ok", **fields))[2]["Location"]
    assert 'id="order-state">Confirmed' in (await show("GET", path))[1]


HOME = {"recipient": "김미나", "line1": "1 Hill Road", "city": "Seoul", "country": "KR"}


async def test_an_order_goes_to_the_usual_address(system, seller, browser):
    """What is ordered on a page goes to the book's default address, and the page says where."""
    show, token = browser
    await system.call("POST", "/v1/me/addresses", HOME | {"default": True}, token)
    made = await stocked(system, seller)
    path = f"/products/{made}"
    key = hidden((await show("GET", path))[1], f"{path}/orders")
    _, _, headers = await show("POST", f"{path}/orders", **key, quantity="1")
    _, page, _ = await show("GET", headers["Location"])

    assert HOME["line1"] in page
    assert f'href="{headers["Location"]}/address"' in page
    assert (
        HOME["line1"] == (await system.call("GET", f"/v1{headers['Location']}", token=token)).json["address"]["line1"]
    )


async def test_an_order_is_sent_elsewhere_before_it_is_paid(system, seller, browser):
    """To another address of the book, or to one that is typed, kept where that is asked for; what will not do is said
    beside its field and nothing is lost; paid for, it stays where it goes."""
    show, token = browser
    order = await reserved(system, seller, token)
    path = f"/orders/{order}/address"
    book = (await system.call("POST", "/v1/me/addresses", HOME, token)).json["address"]

    async def address():
        return (await system.call("GET", f"/v1/orders/{order}", token=token)).json["address"]

    chosen = await show("POST", path, entry=book)
    assert (303, f"/orders/{order}?said=order_address") == (chosen[0], chosen[2]["Location"])
    assert HOME["line1"] == (await address())["line1"]
    status, page, _ = await show("POST", path, recipient="Bo", line1="", country="Korea")
    assert (422, True, True) == (status, 'id="line1-flaw"' in page, 'value="Bo"' in page)
    typed = {"recipient": "Bo", "line1": "2 Dale", "country": "kr", "keep": "true"}
    for _ in range(2):
        assert 303 == (await show("POST", path, **typed))[0]
    assert {"recipient": "Bo", "line1": "2 Dale", "country": "KR"} == await address()
    kept = (await system.call("GET", "/v1/me/addresses", token=token)).json["items"]
    assert {HOME["line1"], "2 Dale"} == {one["line1"] for one in kept}
    assert (404, "2 Dale") == ((await show("POST", path, entry="nothing"))[0], (await address())["line1"])

    assert 200 == (await system.pay(order, token)).status
    assert 303 == (await show("GET", path))[0]
    await show("POST", path, entry=book)
    assert "2 Dale" == (await address())["line1"]


async def test_an_order_of_a_sale_is_sent_elsewhere_without_its_pass(system, browser):
    """The pass guards units; where they go is their holder's to say. Nobody else's, and nothing but that."""
    show, token = browser
    sale, other = await system.sale(), await system.buyer()
    order = await system.order(sale, token)
    strange = Browser(system, {system.app[COOKIES].access: other})

    assert 303 == (await show("POST", f"/orders/{order}/address", **HOME))[0]
    assert 404 == (await strange("POST", f"/orders/{order}/address", **HOME | {"line1": "Mine"}))[0]
    told = (await system.call("GET", f"/v1/orders/{order}", token=token)).json
    assert (HOME["line1"], 1) == (told["address"]["line1"], told["items"][0]["quantity"])


async def test_only_what_is_offered_can_be_paid_with(system, seller, browser):
    """The page lists the methods of the provider that it can speak to."""
    show, token = browser
    order = await reserved(system, seller, token)
    _, page, _ = await show("GET", f"/orders/{order}")
    key = hidden(page, f"/orders/{order}/pay")
    refused = await show("POST", f"/orders/{order}/pay", **key | {"method": "barter", "token": "ok"})
    paid = await show("POST", f"/orders/{order}/pay", **key | {"method": "bank_transfer", "token": "ok"})

    assert {"card", "bank_transfer", "mobile", "wallet"} == set(
        re.findall(r'<option value="(\w+)"', re.search(r'<select id="method".*?</select>', page, re.DOTALL)[0])
    )
    assert "problem=invalid_request" in refused[2]["Location"]
    assert 303 == paid[0]
    made = (await system.call("GET", f"/v1/orders/{order}/payments", token=token)).json["items"]
    assert ["bank_transfer"] == [payment["method"] for payment in made]


async def test_a_provider_without_a_window_here_is_said_to_be_elsewhere(system, seller, browser, monkeypatch):
    """No form that could only fail."""
    show, token = browser
    order = await reserved(system, seller, token)
    flow = system.app[FLOW]
    monkeypatch.setattr(flow, "_providers", {"toss": flow._providers["sandbox"]})
    _, page, _ = await show("GET", f"/orders/{order}")

    assert ("toss" in page, 'id="pay-elsewhere"' in page, 'id="pay"' in page) == (True, True, False)


async def test_an_order_is_cancelled_and_says_what_comes_back(system, seller, browser):
    """Before, how much would; afterwards, how much has; the list and the notices say it too. A second click is the
    same, another form is refused."""
    show, token = browser
    path = f"/orders/{await ordered(system, seller, token)}"
    _, text, _ = await show("GET", path)
    assert "If you cancel now, 12,000 KRW comes back." in text
    fields = hidden(text, f"{path}/cancel")

    places = [(await show("POST", f"{path}/cancel", **fields))[2]["Location"] for _ in range(2)]
    later = (await show("POST", f"{path}/cancel", key="another"))[2]["Location"]
    await system.until(f"/v1{path}", token, lambda told: told["payments"][0]["state"] == "refunded")
    _, text, _ = await show("GET", path)

    assert ([path] * 2, f"{path}?problem=order_state_conflict") == (places, later)
    assert ("12,000 KRW has been given back." in text, f"{path}/cancel" in text) == (True, False)
    assert "12,000 KRW" in (await show("GET", "/orders"))[1]
    await system.until("/v1/notices", token, lambda told: "refund" in {one["kind"] for one in told["items"]})
    assert "12,000 KRW has been given back." in (await show("GET", "/notices"))[1]


async def test_a_delivered_order_is_sent_back(system, seller, browser):
    """The form is there once it is delivered, and says how much comes back; asked for, the page says so."""
    show, token = browser
    order = await ordered(system, seller, token)
    path = f"/orders/{order}"
    pool = system.app[ROOMS].stores.pool
    await pool.execute(
        "UPDATE orders SET state = 'delivered', confirmed_at = now() - interval '50 hours' WHERE id = $1", order
    )
    _, text, _ = await show("GET", path)
    assert ("If you send it back, 12,000 KRW" in text, f"{path}/cancel" in text) == (True, False)

    _, _, headers = await show("POST", f"{path}/return", **hidden(text, f"{path}/return"))
    _, text, _ = await show("GET", headers["Location"])

    assert (path, True) == (headers["Location"], "You asked to send this back." in text)


async def test_another_s_order_is_nobody_s(system, seller, browser):
    """Neither shown nor cancelled."""
    show, _ = browser
    path = f"/orders/{await ordered(system, seller, await system.buyer())}"

    assert 404 == (await show("GET", path))[0]
    assert f"{path}?problem=order_unknown" == (await show("POST", f"{path}/cancel", key="k"))[2]["Location"]


def provider_reasons():
    """Every reason that an adapter can answer: in its tables, and written out where it makes a charge."""
    tables = (portone.REFUSALS, portone.PG_REASONS, toss.REASONS, stripe.REASONS)
    found = {reason for table in tables for reason, _ in table.values()}
    for path in PROVIDERS.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("Charge", "ChargeReply"):
                given = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "reason")]
                found |= {one.value for one in given if isinstance(one, ast.Constant) and one.value}
        found |= set(re.findall(r"\"declined\", \"([a-z_]+)\"", path.read_text()))
        found |= {token for token in re.findall(r'"(?:decline|fail)_([a-z_]+)"', path.read_text()) if token}
    return found


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_no_reason_of_a_provider_is_without_words(lang):
    """Each has its own in every language; what the record refuses too; one that nobody knows is told all the same."""
    texts, reasons = messages(lang), provider_reasons()

    assert {"funds", "aborted", "reversed", "token_unknown", "authentication_required", "rejected"} < reasons
    assert set() == {reason for reason in reasons if f"decline.{reason}" not in texts}
    assert set() == {refusal for refusal in Refusal if f"unclaimed.{refusal}" not in texts}
    told = formats.decline_text({"state": "declined", "reason": "never_heard_of"}, texts)
    assert texts["decline.other"] == told
