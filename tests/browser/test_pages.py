"""Pages in a real browser: many tabs, lost connections, small screens, and what a machine can judge of access."""

from __future__ import annotations

import pytest
from browser_kit import MARKS, PHONE, System, faults_of, keep_picture, signed_in
from playwright.async_api import Browser, BrowserContext, Page, expect

pytestmark = MARKS


async def waiting(context: BrowserContext, system: System, sale: str) -> Page:
    """A page of somebody who waits."""
    page = await signed_in(context, system, "buyer", sale)
    await page.click("#join")
    await expect(page.locator("#how")).to_have_text("live")
    return page


async def test_tabs_share_one_stream(system: System, browser: Browser, sale: str) -> None:
    """Three tabs open one stream; when the tab that listens is closed, another goes on."""
    context = await browser.new_context(locale="en-US")
    streams: list[str] = []
    context.on("request", lambda request: streams.append(request.url) if request.url.endswith("/events") else None)
    first = await waiting(context, system, sale)
    others = [await context.new_page() for _ in range(2)]
    for page in others:
        await page.goto(system.base + sale)
        await expect(page.locator("#how")).to_have_text("live")
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_that_a_machine_sees_keeps_anybody_out(
    system: System, browser: Browser, sale: str, scheme: str
) -> None:
    """axe finds no fault in any page: names, roles, headings, languages, contrast; and each is served without a
    violation of its own policy."""
    context = await browser.new_context(locale="en-US", color_scheme=scheme)
    said: list[str] = []
    context.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page = await waiting(context, system, sale)
    operators = await browser.new_context(locale="ko-KR", color_scheme=scheme, viewport=PHONE)
    console = await signed_in(operators, system, "operator", f"/console?sale={sale.removeprefix('/sales/')}")
    await expect(console.locator("#measured")).not_to_have_text("–")

    faults = await faults_of(page, "waiting") + await faults_of(console, "console")
    for name, path in (("shop", "/"), ("orders", "/orders"), ("problem", "/problems/sold_out"), ("sign in", "/signin")):
        await page.goto(system.base + path)
        faults += await faults_of(page, name)

    assert [] == faults
    assert [] == said
