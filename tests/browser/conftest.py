"""Real browsers, and the whole system for them, once for all of these tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from browser_kit import CHROMIUM, System
from playwright.async_api import Browser, async_playwright

numbers = itertools.count(1)
STILL = """[sale]
id = "{sale}"
title = "Standing still"
opens_at = "now"
closes_at = "2099-01-01T00:00:00Z"
[admission]
rate_per_second = 0
active_max = 50
[[items]]
title = "Slippers"
stock = 5
price = {{ amount = 29000, currency = "KRW" }}
"""


@pytest.fixture(scope="session")
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


@pytest.fixture
def sale(system: System) -> str:
    """The path of a sale of this test's own, that lets nobody in."""
    name = f"still-{next(numbers)}"
    system.create_sale(STILL.format(sale=name))
    return f"/sales/{name}"
