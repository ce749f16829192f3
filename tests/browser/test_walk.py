"""A buyer and an operator, each in a real browser, on the whole system as `onsale up` runs it."""

from __future__ import annotations

import json

from browser_kit import MARKS, System, keep_picture, signed_in
from playwright.async_api import Browser, expect

pytestmark = MARKS


async def test_a_buyer_walks_through_while_an_operator_changes_the_rate(system: System, browser: Browser) -> None:
    """Join, wait, be let in when the console raises the rate, be declined once, pay, and see it recorded."""
    buyers = await browser.new_context(viewport={"width": 390, "height": 844}, locale="en-US")
    operators = await browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    buyer = await signed_in(buyers, system, "buyer", "/sales/walk")
    await buyer.click("#join")
    await expect(buyer.locator("#ahead")).to_have_text("0")
    await expect(buyer.locator("#how")).to_have_text("live")
    await keep_picture(buyer, "waiting")

    console = await signed_in(operators, system, "operator", "/console?sale=walk")
    await expect(console.locator("#waiting")).to_have_text("1")
    await console.fill("#rate_per_second", "5")
    await console.fill("#why", "the shop is ready")
    await console.click("#apply")
    await expect(console.locator("#said")).to_have_text("Done.")
    await expect(console.locator("#audit")).to_contain_text("the shop is ready")

    await expect(buyer.locator("#reserve")).to_be_visible(timeout=10_000)
    assert (await buyer.title()).startswith("★")
    # How well a page compresses would tell something about the pass in it.
    turn = await buyer.reload()
    assert "content-encoding" not in turn.headers
    await expect(console.locator("#admitted")).to_have_text("1")
    await keep_picture(console, "console")
    await keep_picture(buyer, "turn")

    await buyer.select_option("#quantity", "2")
    await buyer.click("#reserve")
    await expect(buyer.locator("#order-state")).to_have_text("Reserved")
    await keep_picture(buyer, "reserved")
    await buyer.select_option("#token", "decline_funds")
    await buyer.click("#pay")
    await expect(buyer.get_by_role("alert")).to_contain_text("declined")
    await expect(buyer.locator("#order-state")).to_have_text("Reserved")
    await buyer.select_option("#token", "ok")
    await buyer.click("#pay")
    await expect(buyer.locator("#order-state")).to_have_text("Confirmed")
    await keep_picture(buyer, "confirmed")

    await buyer.goto(f"{system.base}/sales/walk")
    await expect(buyer.get_by_text("You bought in this sale.")).to_be_visible()
    await expect(console.locator("#sold")).to_have_text("2", timeout=10_000)
    findings = json.loads(system.command("audit", "walk", "--json"))
    assert [] == [f for f in findings if not f["ok"]]


async def test_without_scripts_the_page_refreshes_itself(system: System, browser: Browser) -> None:
    """The same states without a line of script: wait, be let in, reserve, give up."""
    system.command("rate", "walk", "0/s")
    context = await browser.new_context(java_script_enabled=False, locale="ko-KR")
    operator = await signed_in(context, system, "operator", "/sales/walk")
    await operator.click("#join")
    await expect(operator.locator("#ahead")).to_have_text("0")
    await keep_picture(operator, "waiting-ko")

    system.command("rate", "walk", "50/s")
    await expect(operator.locator("#reserve")).to_be_visible(timeout=15_000)
    await operator.click("#reserve")
    await expect(operator.locator("#order-state")).to_have_text("예약됨")
    await operator.get_by_role("button", name="예약 포기하기").click()
    await expect(operator.locator("#order-state")).to_have_text("포기함")


async def test_pause_is_one_press(system: System, browser: Browser) -> None:
    """The console pauses without a form, every waiting page says so, and resuming lifts it."""
    context = await browser.new_context(locale="en-US")
    console = await signed_in(context, system, "operator", "/console?sale=walk")

    await console.click("#pause")
    await expect(console.locator("#state")).to_have_text("Paused")
    shop = await context.new_page()
    await shop.goto(f"{system.base}/sales/walk")
    await expect(shop.locator("#line-state")).to_have_text("Paused")
    await console.click("#resume")
    await expect(console.locator("#state")).to_have_text("Open")
