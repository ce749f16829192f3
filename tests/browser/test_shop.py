"""The shop in a real browser: found, bought, declined, cancelled, sent back; offered, proposed and approved.

Every page on the way is judged wide and on a phone.
"""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest
from browser_kit import MARKS, System, as_role, faults_of, too_wide
from playwright.async_api import Browser, Page, expect

pytestmark = MARKS

numbers = itertools.count(700_000)
SCRIPTS = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])


async def offered(browser: Browser, system: System, title: str, *, scripts: bool = True) -> Page:
    """A vendor's desk with a product just offered on it."""
    context = await browser.new_context(locale="en-US", java_script_enabled=scripts)
    desk = await as_role(context, system, "vendor", next(numbers))
    await desk.goto(f"{system.base}/desk")
    await desk.fill("#name", "Hats & sons")
    await desk.get_by_role("button", name="Begin").click()
    await desk.get_by_role("link", name="New product").click()
    await desk.fill("#title", title)
    await desk.fill("#about", "Felt, by hand.")
    await desk.fill("#amount", "48000")
    await desk.fill("#stock", "12")
    await desk.click("#offer")
    await expect(desk.locator("#units-left")).to_have_text("12")
    return desk


@SCRIPTS
async def test_a_buyer_finds_buys_cancels_and_sends_back(system: System, browser: Browser, scripts: bool) -> None:
    """Search, product, cart, an address, a declined card and a good one, cancelled; bought again, delivered, back."""
    title = f"Porkpie {next(numbers)}"
    await offered(browser, system, title)
    context = await browser.new_context(locale="en-US", java_script_enabled=scripts)
    buyer = await as_role(context, system, "customer", next(numbers))
    faults: list[str] = []
    # axe itself is a script.
    judge = faults_of if scripts else too_wide

    await buyer.goto(system.base)
    await buyer.fill("#q", title.replace("Porkpie", "Porkpy"))
    await buyer.get_by_role("button", name="Find").click()
    faults += await too_wide(buyer, "shop-search")
    await buyer.get_by_role("link", name=title).click()
    faults += await too_wide(buyer, "shop-product")
    await buyer.fill("#quantity", "2")
    await buyer.click("#to-cart")
    await expect(buyer.get_by_role("heading", name="Cart")).to_be_visible()
    faults += await too_wide(buyer, "shop-cart")
    await buyer.click("#order")
    await expect(buyer.locator("#order-state")).to_have_text("Reserved")
    await buyer.get_by_role("link", name="Choose an address").click()
    await buyer.fill("#recipient", "Mina Kim")
    await buyer.fill("#line1", "1 Hill Road")
    await buyer.check("#keep")
    faults += await too_wide(buyer, "order-address")
    await buyer.click("#send")
    await expect(buyer.locator("#address")).to_have_text("Mina Kim")
    faults += await too_wide(buyer, "order-reserved")
    await buyer.select_option("#token", "decline_funds")
    await buyer.click("#pay")
    await expect(buyer.get_by_role("alert")).to_contain_text("declined")
    faults += await judge(buyer, "order-declined")
    await buyer.select_option("#token", "ok")
    await buyer.click("#pay")
    await expect(buyer.locator("#order-state")).to_have_text("Confirmed")
    faults += await judge(buyer, "order-confirmed")
    await buyer.click("#cancel")
    await expect(buyer.locator("#order-state")).to_have_text("Cancelled")
    faults += await too_wide(buyer, "order-cancelled")

    await buyer.goto(f"{system.base}/?q={title.replace(' ', '+')}")
    await buyer.get_by_role("link", name=title).click()
    await buyer.click("#buy")
    await buyer.click("#pay")
    await expect(buyer.locator("#order-state")).to_have_text("Confirmed")
    order = buyer.url.partition("?")[0]
    system.command("clock", "advance", "2d")
    await reloaded_until(buyer, order, "Delivered")
    faults += await judge(buyer, "order-delivered")
    await buyer.click("#return")
    await expect(buyer.locator("#order-state")).to_have_text("Return requested")
    system.command("clock", "advance", "1d")
    await reloaded_until(buyer, order, "Returned")
    await expect(buyer.get_by_text("48,000")).not_to_have_count(0)
    faults += await too_wide(buyer, "order-returned")
    await buyer.goto(f"{system.base}/orders")
    faults += await too_wide(buyer, "orders")

    assert [] == faults
    assert [] == [one for one in json.loads(system.command("audit", "--json")) if not one["ok"]]


async def reloaded_until(page: Page, address: str, state: str) -> None:
    """The page says it as soon as the delivery clock has ticked."""
    for _ in range(40):
        await page.goto(address)
        if await page.locator("#order-state").inner_text() == state:
            return
        await page.wait_for_timeout(250)
    await expect(page.locator("#order-state")).to_have_text(state)


@SCRIPTS
async def test_a_vendor_proposes_and_a_manager_approves(system: System, browser: Browser, scripts: bool) -> None:
    """Edited and stocked at the desk; too soon is said beside its field and nothing typed is lost; proposed in time it
    waits for approval, and approved it stands in the shop."""
    # axe itself is a script.
    judge = faults_of if scripts else too_wide
    title = f"Trilby {next(numbers)}"
    desk = await offered(browser, system, title, scripts=scripts)
    await desk.fill("#quantity", "-2")
    await desk.click("#move")
    await expect(desk.locator("#units-left")).to_have_text("10")
    await desk.fill("#amount", "50000")
    await desk.click("#save")
    await desk.get_by_role("link", name="desk").last.click()
    await expect(desk.get_by_text("50,000")).not_to_have_count(0)

    offset_ms = json.loads(system.command("clock", "advance", "1ms", "--json"))["offset_ms"]
    shop_now = datetime.now(UTC) + timedelta(milliseconds=offset_ms)
    await desk.get_by_role("link", name="Propose a sale").click()
    await desk.fill("#title", f"{title} days")
    await desk.fill("#amount", "39000")
    await desk.fill("#stock", "4")
    await desk.select_option("#zone", "utc")
    await desk.fill("#opens_at", local(shop_now + timedelta(minutes=10)))
    await desk.fill("#closes_at", local(shop_now + timedelta(hours=9)))
    await desk.click("#propose")
    await expect(desk.locator("#opens_at-flaw")).to_be_visible()
    await expect(desk.locator("#title")).to_have_value(f"{title} days")
    faults = await judge(desk, "desk-refused")
    await desk.fill("#opens_at", local(shop_now + timedelta(hours=3)))
    await desk.click("#propose")
    await expect(desk.locator(".proposal", has_text=f"{title} days")).to_contain_text("Pending")
    faults += await judge(desk, "desk")

    managers = await browser.new_context(locale="ko-KR", java_script_enabled=scripts)
    manager = await as_role(managers, system, "manager", next(numbers))
    await manager.goto(f"{system.base}/approvals")
    faults += await judge(manager, "approvals")
    row = manager.locator(".proposal", has_text=f"{title} days")
    await row.get_by_role("button", name="승인").click()
    await expect(row).to_contain_text("승인됨")
    await expect(row.get_by_role("button")).to_have_count(0)
    await manager.goto(f"{system.base}/?q={title.replace(' ', '+')}")
    await expect(manager.get_by_role("link", name=f"{title} days")).to_be_visible()
    faults += await too_wide(manager, "shop-ko")

    assert [] == faults


def local(moment: datetime) -> str:
    """As a browser's own field for a day and an hour takes it."""
    return moment.strftime("%Y-%m-%dT%H:%M")
