"""The whole system as `onsale up` runs it, and people in front of browsers on it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import BrowserContext, Page, ViewportSize

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

MARKS = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which no Python package brings"),
]
ONSALE = str(Path(sys.executable).parent / "onsale")
WIDE: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
# Asks as a page's own scripts do: the cookies go along, and the browser says where the call comes from.
CALL = """async ([method, path, body]) => {
  const headers = {"Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID()};
  const sent = body === null ? {} : {body: JSON.stringify(body)};
  const answer = await fetch(path, {method, headers, ...sent});
  const text = await answer.text();
  return {status: answer.status, body: text ? JSON.parse(text) : null};
}"""
READY_WITHIN_S = 60
LETTER_WITHIN_S = 20
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
        # Parcels arrive when a test says that days have passed.
        self._environ["ONSALE_TEST_CLOCK"] = "1"
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
        self.mail = re.search(r"mail\s+(http\S+?)/?\s", self.said)[1]
        self.create_sale(SALE)

    def create_sale(self, text: str) -> None:
        path = self._folder / "sale.toml"
        path.write_text(text)
        self.command("sale", "create", str(path))

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


async def signed_in(context: BrowserContext, system: System, who: str, onward: str) -> Page:
    """A page where one of the demo's people is signed in."""
    page = await context.new_page()
    await page.goto(f"{system.base}/signin?next={onward}")
    await page.fill("#email", f"{who}@demo.example")
    await page.fill("#password", system.password(who))
    await page.click("main button")
    await page.wait_for_url(f"**{onward}")
    return page


async def code_for(page: Page, system: System, email: str) -> str:
    """The code in the newest letter to an address, read where `onsale up` shows what came in over SMTP; the page stays
    there."""
    async with asyncio.timeout(LETTER_WITHIN_S):
        while True:
            await page.goto(f"{system.mail}/?to={email}")
            if await page.locator("article").count():
                text = await page.locator("article pre").first.inner_text()
                return re.search(r"\b\d{6}\b", text)[0]
            await page.wait_for_timeout(100)


async def as_role(context: BrowserContext, system: System, role: str, number: int) -> Page:
    """A page of somebody with that role, one of the accounts made for load; numbers tell them apart."""
    token = system.command("tokens", "--count", "1", "--from", str(number), "--role", role).strip()
    await context.add_cookies([
        {"name": "__Host-onsale-access", "value": token, "domain": "127.0.0.1", "path": "/", "secure": True}
    ])  # fmt: skip
    return await context.new_page()


async def keep_picture(page: Page, name: str) -> None:
    """For a person to look at, where a folder for pictures is named."""
    if folder := os.environ.get("PICTURES"):
        await page.screenshot(path=f"{folder}/{name}.png", full_page=True)


async def ask(page: Page, method: str, path: str, body: Any = None) -> Any:
    """A call of the API by whoever is signed in on the page; what was answered."""
    found = await page.evaluate(CALL, [method, path, body])
    assert found["status"] < 300, found
    return found["body"]


async def too_wide(page: Page, name: str) -> list[str]:
    """Where a page is wider than the screen, on a wide one and on a phone."""
    return [fault for screen in (WIDE, PHONE) for fault in await _wider_than(page, screen, name)]


async def faults_of(page: Page, name: str) -> list[str]:
    """What a machine can judge of a page, wide and light, and on a phone and dark: whom axe sees kept out, and what is
    wider than the screen."""
    found, was = [], page.viewport_size
    for screen, scheme in ((WIDE, "light"), (PHONE, "dark")):
        await page.emulate_media(color_scheme=scheme)
        found += await _wider_than(page, screen, name)
        judged = await Axe().run(page)
        found += [
            f"{name}, {scheme}: {fault['id']}: {fault['nodes'][0]['html'][:200]}"
            for fault in judged.response["violations"]
        ]
    await page.set_viewport_size(was or WIDE)
    return found


async def _wider_than(page: Page, screen: ViewportSize, name: str) -> list[str]:
    await page.set_viewport_size(screen)
    await keep_picture(page, f"{name}-{screen['width']}")
    width = await page.evaluate("document.documentElement.scrollWidth")
    return [f"{name}: {width} px wide on a screen of {screen['width']}"] if width > screen["width"] else []
