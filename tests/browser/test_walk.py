"""A buyer and an operator, each in a real browser, on the whole system as `onsale up` runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which no Python package brings"),
]

ONSALE = str(Path(sys.executable).parent / "onsale")
READY_WITHIN_S = 60
SALE = """[sale]
id = "walk"
title = "Walk through"
opens_at = "now"
closes_at = "2099-01-01T00:00:00Z"
limit_per_buyer = 2
[admission]
rate_per_second = 0
active_max = 50
[[items]]
product = "walk-1"
title = "Walking shoes"
stock = 5
price = { amount = 129000, currency = "KRW" }
"""


class System:
    """One `onsale up` with the demo's people and a sale that lets nobody in yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith(("ONSALE_", "REDIS", "DATABASE"))}
        self._output = folder / "up.log"
        with self._output.open("wb") as output:
            self._up = subprocess.Popen(
                [ONSALE, "up", "--port", "0", "--data-dir", str(folder / "data")],
                stdout=output, stderr=output, env=self._environ, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + READY_WITHIN_S
        while "onsale is ready" not in self.said and self._up.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self._up.poll() is None, self.said
        self.base = re.search(r"shop\s+(http\S+?)/?\s", self.said)[1]
        (folder / "walk.toml").write_text(SALE)
        self.command("sale", "create", str(folder / "walk.toml"))

    @property
    def said(self) -> str:
        return self._output.read_text()

    def command(self, *words: str) -> str:
        done = subprocess.run(
            [ONSALE, *words, "--data-dir", str(self._folder / "data")],
            env=self._environ, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def password(self, who: str) -> str:
        return re.search(rf"{who}\s+\S+\s+password (\S+)", self.said)[1]

    def stop(self) -> None:
        self._up.send_signal(signal.SIGTERM)
        self._up.wait(30)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("walk"))
    yield running
    running.stop()


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            # It keeps settings there: nothing of a test is left in anybody's home.
            env={**os.environ, "HOME": str(tmp_path)},
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--mute-audio",
            ],
        )
        yield started
        await started.close()


async def signed_in(context: BrowserContext, system: System, who: str, onward: str) -> Page:
    page = await context.new_page()
    await page.goto(f"{system.base}/signin?next={onward}")
    await page.fill("#email", f"{who}@demo.example")
    await page.fill("#password", system.password(who))
    await page.click("main button")
    await page.wait_for_url(f"**{onward}")
    return page


async def keep_picture(page: Page, name: str) -> None:
    """For a person to look at, where a folder for pictures is named."""
    if folder := os.environ.get("PICTURES"):
        await page.screenshot(path=f"{folder}/{name}.png", full_page=True)


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
