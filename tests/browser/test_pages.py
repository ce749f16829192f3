"""Pages in a real browser: many tabs, lost connections, small screens, and what a machine can judge of access."""

from __future__ import annotations

from browser_kit import MARKS, PHONE, System, ask, faults_of, keep_picture, signed_in
from playwright.async_api import Browser, BrowserContext, Page, expect

from onsale.server.routes import ROUTES

pytestmark = MARKS


async def waiting(context: BrowserContext, system: System, sale: str) -> Page:
    """A page of somebody who waits."""
    page = await signed_in(context, system, "buyer", sale)
    await page.click("#join")
    await expect(page.locator("#how")).to_have_text("live")
    return page


async def test_tabs_share_one_stream(system: System, browser: Browser, sale: str) -> None:
    """Three tabs open one stream, and all say what it says; when the tab that listens is closed, another goes on."""
    context = await browser.new_context(locale="en-US")
    streams: list[str] = []
    context.on("request", lambda request: streams.append(request.url) if request.url.endswith("/events") else None)
    first = await waiting(context, system, sale)
    others = [await context.new_page() for _ in range(2)]
    for page in others:
        await page.goto(system.base + sale)
        await expect(page.locator("#how")).to_have_text("live")
        await expect(page.locator("#odds.likely")).to_contain_text("very likely left")
    assert 1 == len(streams)

    await first.close()
    system.command("rate", sale.removeprefix("/sales/"), "50/s")
    for page in others:
        await expect(page.locator("#reserve")).to_be_visible(timeout=15_000)
    assert 2 == len(streams)


async def test_a_sleep_is_said_and_mended(system: System, browser: Browser, sale: str) -> None:
    """Awake again and still without a network the page says that the place is kept; with one it goes on by itself."""
    context = await browser.new_context(locale="en-US")
    await context.clock.install()
    page = await waiting(context, system, sale)
    number = await page.locator("#place").text_content()

    await context.set_offline(True)
    await page.clock.fast_forward("10:00")
    await expect(page.locator("#how")).to_contain_text("your place is kept", timeout=30_000)
    await context.set_offline(False)
    await expect(page.locator("#how")).to_have_text("live", timeout=30_000)

    await page.reload()
    await expect(page.locator("#how")).to_have_text("live")
    await expect(page.locator("#place")).to_have_text(number)


async def test_the_console_works_on_a_phone_by_keyboard(system: System, browser: Browser, sale: str) -> None:
    """Nothing is wider than the screen; pausing is in reach from everywhere, and one press."""
    context = await browser.new_context(viewport=PHONE, locale="en-US")
    console = await signed_in(context, system, "operator", f"/console?sale={sale.removeprefix('/sales/')}")
    await expect(console.locator("#state")).to_have_text("Open")
    await keep_picture(console, "console-phone")
    assert await console.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]

    await console.locator("#audit").scroll_into_view_if_needed()
    await expect(console.locator("#pause")).to_be_in_viewport()
    await console.locator("#pause").focus()
    await console.keyboard.press("Enter")
    await expect(console.locator("#state")).to_have_text("Paused")
    await expect(console.locator("#audit")).to_contain_text("Paused")
    await console.locator("#resume").focus()
    await console.keyboard.press("Space")
    await expect(console.locator("#state")).to_have_text("Open")


async def test_an_operator_helps_one_person(system: System, browser: Browser, sale: str) -> None:
    """Found by address, revoked in one press and a question, and written down."""
    buyer = await waiting(await browser.new_context(locale="en-US"), system, sale)
    context = await browser.new_context(locale="en-US")
    console = await signed_in(context, system, "operator", f"/console?sale={sale.removeprefix('/sales/')}")
    await console.fill("#email", "buyer@demo.example")
    await console.press("#email", "Enter")
    await expect(console.locator("#found")).to_contain_text("waiting")

    console.on("dialog", lambda dialog: dialog.accept())
    await console.get_by_role("button", name="Revoke").click()
    await expect(console.locator("#audit")).to_contain_text("Ticket revoked")
    await expect(buyer.get_by_text("You left the line.")).to_be_visible(timeout=15_000)


# Every page of the table of routes, by who looks at it; further forms of one stand beside it.
PAGES = {
    "nobody": ("/", "/signin", "/signup", "/verify", "/password-reset", "/password-reset?token=none", "/docs"),
    "buyer": (
        *("/sales/{sale}", "/products/{product}", "/cart", "/wishes", "/notices", "/alarms", "/problems/sold_out"),
        *("/orders", "/orders/{order}", "/orders/{order}/address", "/orders/none"),
        *("/account", "/account/sessions", "/account/addresses"),
        *("/account/addresses/{address}", "/account/password", "/account/delete"),
    ),
    "operator": (
        *("/console", "/approvals", "/desk", "/desk/vendor", "/desk/products", "/desk/sales"),
        *("/desk/products/{product}", "/desk/products/{product}/stock", "/desk/door"),
    ),
}


def test_every_page_is_looked_at() -> None:
    """A page that is added is added above."""
    pages = {route.path for route in ROUTES if (route.method, route.media) == ("GET", "text/html")}

    assert set() == pages - {path for paths in PAGES.values() for path in paths}


async def test_nothing_that_a_machine_sees_keeps_anybody_out(system: System, browser: Browser, sale: str) -> None:
    """axe finds no fault in any page: names, roles, headings, languages, contrast, light and dark; none is wider than a
    phone; and each is served, in one language or the other, without a violation of its own policy."""
    said: list[str] = []
    readers = {name: await browser.new_context(locale="en-US" if name == "buyer" else "ko-KR") for name in PAGES}
    for context in readers.values():
        context.on("console", lambda heard: said.append(heard.text) if heard.type == "error" else None)
    buyer = await waiting(readers["buyer"], system, sale)
    operator = await signed_in(readers["operator"], system, "operator", f"/console?sale={sale.removeprefix('/sales/')}")
    await expect(operator.locator("#measured")).not_to_have_text("–")
    pages = {"nobody": await readers["nobody"].new_page(), "buyer": buyer, "operator": operator}
    names = {"sale": sale.removeprefix("/sales/")} | await things(buyer, operator)

    faults = await faults_of(operator, "console with a sale")
    for reader, paths in PAGES.items():
        for path in paths:
            await pages[reader].goto(system.base + path.format(**names))
            # Sent to no door: it is this page that is judged.
            assert pages[reader].url == system.base + path.format(**names)
            faults += await faults_of(pages[reader], path.replace("/", " "))

    assert [] == faults
    assert [] == [text for text in said if "404" not in text]


async def things(buyer: Page, operator: Page) -> dict[str, str]:
    """A product on sale, and what a buyer has: it in the cart and on the wish list, an order of it, an address."""
    me = await ask(operator, "GET", "/v1/me")
    await ask(operator, "POST", "/v1/vendors", {"name": "Hats & sons", "account": me["account"]})
    described = {"title": "Hat", "price": {"amount": 12_000, "currency": "KRW"}, "stock": 5}
    product = (await ask(operator, "POST", "/v1/products", described))["product"]
    items = {"items": [{"product": product, "quantity": 1}]}
    address = {"recipient": "Mina", "line1": "110 Sejong-daero", "country": "KR"}
    order = await ask(buyer, "POST", "/v1/orders", items)
    await ask(buyer, "PUT", f"/v1/cart/items/{product}", {"quantity": 2})
    await ask(buyer, "PUT", f"/v1/wishes/{product}")
    kept = await ask(buyer, "POST", "/v1/me/addresses", address)
    return {"product": product, "order": order["order"], "address": kept["address"]}
