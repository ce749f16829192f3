"""Somebody new, in a real browser: from signing up, with a letter that comes in over SMTP, to deleting the account."""

from __future__ import annotations

import pytest
from browser_kit import MARKS, PHONE, WIDE, System, code_for, faults_of, keep_picture, too_wide
from playwright.async_api import Browser, Page, ViewportSize, expect

from onsale.web import messages

pytestmark = MARKS

PASSWORD, ANOTHER = "salt lamp 42 river", "버터 쿠키 seven boats"


async def sign_in(page: Page, system: System, email: str, password: str, onward: str = "/account") -> None:
    await page.goto(f"{system.base}/signin?next={onward}")
    await page.fill("#email", email)
    await page.fill("#password", password)
    await page.click("main button")


@pytest.mark.parametrize(("lang", "screen"), [("en", WIDE), ("ko", PHONE)])
async def test_a_new_user_walks_through(
    system: System, browser: Browser, sale: str, lang: str, screen: ViewportSize
) -> None:
    """Sign up, enter the letter's code, sign in, join a sale, sign another device out, keep an address, change the
    password, and go for good; nothing is wider than a phone."""
    words, email, faults = messages(lang), f"new-{lang}@example.com", []
    locale = {"en": "en-US", "ko": "ko-KR"}[lang]
    here = await browser.new_context(locale=locale, viewport=screen)
    page = await here.new_page()

    await page.goto(f"{system.base}/signup?next={sale}")
    faults += await too_wide(page, f"sign up {lang}")
    for name, text in {"email": email, "password": PASSWORD, "name": "김미나", "phone": "010-1234-5678"}.items():
        await page.fill(f"#{name}", text)
    await page.click("main button")
    await expect(page.get_by_role("heading", name=words["verify.title"])).to_be_visible()
    faults += await too_wide(page, f"verify {lang}")
    letters = await here.new_page()
    code = await code_for(letters, system, email)
    faults += await faults_of(letters, f"letters {lang}")
    await page.fill("#code", code)
    await page.get_by_role("button", name=words["verify.enter"]).click()
    await expect(page.get_by_role("status")).to_have_text(words["said.verified"])

    await page.fill("#email", email)
    await page.fill("#password", PASSWORD)
    await page.click("main button")
    await page.wait_for_url(f"**{sale}")
    await page.click("#join")
    await expect(page.locator("#ahead")).to_have_text("0")

    there = await (await browser.new_context(locale=locale)).new_page()
    await sign_in(there, system, email, PASSWORD)
    await expect(there.locator("#name")).to_have_value("김미나")
    await page.goto(f"{system.base}/account/sessions")
    faults += await too_wide(page, f"devices {lang}")
    await page.get_by_role("button", name=words["sessions.end"]).click()
    await expect(page.get_by_role("status")).to_have_text(words["said.signed_out_there"])
    await there.reload()
    await expect(there.get_by_role("heading", name=words["signin.title"])).to_be_visible()

    await page.goto(f"{system.base}/account/addresses")
    for name, text in {"recipient": "김미나", "line1": "서울시 중구 세종대로 110", "country": "kr"}.items():
        await page.fill(f"#{name}", text)
    await page.locator("#another ~ form button").click()
    await expect(page.get_by_role("status")).to_have_text(words["said.address_added"])
    await expect(page.locator("main .rows")).to_contain_text("서울시 중구 세종대로 110")
    faults += await too_wide(page, f"addresses {lang}")

    await page.goto(f"{system.base}/account/password")
    faults += await too_wide(page, f"password {lang}")
    await page.fill("#current", PASSWORD)
    await page.fill("#new", ANOTHER)
    await page.get_by_role("button", name=words["password.change"]).click()
    await expect(page.get_by_role("status")).to_have_text(words["said.password_changed"])
    await sign_in(page, system, email, ANOTHER, "/account/delete")
    await page.wait_for_url("**/account/delete")

    faults += await too_wide(page, f"delete {lang}")
    await page.check("#sure")
    await page.get_by_role("button", name=words["delete.do"]).click()
    await expect(page.get_by_role("status")).to_have_text(words["said.account_deleted"])
    await sign_in(page, system, email, ANOTHER)
    await expect(page.get_by_role("alert")).to_be_visible()
    await keep_picture(page, f"gone-{lang}")

    assert [] == faults
