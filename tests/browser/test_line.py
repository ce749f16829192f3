"""What the page's own script makes of a line document, in the browser it is written for."""

from __future__ import annotations

import json
import re
from pathlib import Path

from browser_kit import MARKS, System
from playwright.async_api import Browser

pytestmark = MARKS

VECTORS = Path(__file__).parents[1] / "vectors" / "line.json"
COMPUTED = """async ([script, cases]) => {
  const { ahead, odds } = await import(script);
  const told = (one, of) => one.ahead.map(([place]) => [place, of(one.document, place)]);
  return cases.flatMap((one) => [told(one, ahead), told(one, odds)]);
}"""


async def test_the_browser_computes_positions_and_odds_as_the_server_does(system: System, browser: Browser) -> None:
    """`line.js` as it is served agrees with every published example."""
    cases = json.loads(VECTORS.read_text("utf-8"))["cases"]
    page = await browser.new_page()
    await page.goto(f"{system.base}/sales/walk")
    served = re.search(r"/static/\w+/", await page.content())

    computed = await page.evaluate(COMPUTED, [f"{served[0]}line.js", cases])

    assert [case[what] for case in cases for what in ("ahead", "odds")] == computed
