"""What a person without scripts meets between signing in and buying: sessions that go on, forms that go back."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from onsale.auth.accounts import Account
from onsale.auth.middleware import COOKIES, SESSIONS
from onsale.auth.roles import Role
from onsale.queue.handlers import FEED
from onsale.server.app import ROOMS
from onsale.server.processes import Keeper

SALE = {
    "sale": {
        "id": "drop",
        "title": "<b>Drop</b>",
        "opens_at": "now",
        "closes_at": "2030-01-01T00:00:00Z",
        "limit_per_buyer": 2,
    },
    "admission": {"rate_per_second": 0, "active_max": 5},
    "items": [{"product": "jacket", "title": "Jacket", "stock": 3, "price": {"amount": 1990000, "currency": "KRW"}}],
}
OURS = {"Sec-Fetch-Site": "same-origin"}


class Browser:
    """Keeps cookies by name, as a browser on our own pages does; follows nothing."""

    def __init__(self, client, cookies):
        self._client = client
        self.cookies = dict(cookies)

    async def __call__(self, method, path, **fields):
        headers = OURS | {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        data = fields if method == "POST" else None
        async with self._client.request(method, path, data=data, headers=headers, allow_redirects=False) as answer:
            for name, morsel in answer.cookies.items():
                if morsel.value:
                    self.cookies[name] = morsel.value
                else:
                    self.cookies.pop(name, None)
            return answer.status, await answer.text(), answer.headers


@pytest.fixture
async def returning(app, server, client):
    """A browser whose access cookie has run out while its buyer waited: only the refresh cookie is left."""
    pool, names = app[ROOMS].stores.pool, app[COOKIES]
    await pool.execute("INSERT INTO accounts (id, role, verified_at) VALUES ('ada', 'customer', now())")
    grant = await app[SESSIONS].sign_in(
        Account("ada", Role.CUSTOMER, is_verified=True),
        device="browser",
        address="127.0.0.1",
        now_ms=time.time_ns() // 1_000_000,
    )
    return Browser(client, {names.refresh: grant.refresh_token})


@pytest.fixture
async def sale(app, accounts):
    """A sale with its line loaded."""
    [manager] = await accounts("manager")
    assert (await manager("POST", "/v1/sales", SALE))[0] in (201, 503)
    rooms = app[ROOMS]
    await Keeper(rooms.stores.line, rooms.stores.pool, rooms.book).tick()
    # The web process learns of it by its own loop.
    async with asyncio.timeout(60):
        while app[FEED].line("drop").keys.epoch == 0:
            await asyncio.sleep(0.02)
    return "/sales/drop"


async def test_who_waited_longer_than_an_access_cookie_is_still_signed_in(app, returning, sale):
    """The page renews it, and says what it said before: nobody is asked to sign in, nobody seems to lose a place."""
    status, text, _ = await returning("GET", sale)

    assert (200, True) == (status, 'action="/sales/drop/join"' in text)
    assert app[COOKIES].access in returning.cookies
    status, _, headers = await returning("POST", f"{sale}/join")
    assert (303, sale) == (status, headers["Location"])
    del returning.cookies[app[COOKIES].access]
    status, text, _ = await returning("GET", sale)
    assert 'data-state="waiting"' in text


async def test_forms_renew_a_session_too(app, returning, sale):
    """A form filled in for longer than an access cookie lives is not lost."""
    status, _, headers = await returning("POST", f"{sale}/join")

    assert (303, sale) == (status, headers["Location"])
    assert app[COOKIES].access in returning.cookies


async def test_signing_out_late_ends_the_session(app, returning):
    """Also when only the refresh cookie is left: both are taken back, and neither is handed out anew."""
    status, _, headers = await returning("POST", "/signout")

    assert (303, "/", {}) == (status, headers["Location"], returning.cookies)
    assert await app[ROOMS].stores.pool.fetchval("SELECT count(*) FROM sessions WHERE revoked_at IS NULL") == 0


async def test_a_session_that_ended_is_asked_to_sign_in(app, returning):
    """Pages for one's own eyes send there, and back."""
    await app[ROOMS].stores.pool.execute("UPDATE sessions SET revoked_at = now(), revoked_for = 'signed_out'")

    status, _, headers = await returning("GET", "/orders")

    assert (303, "/signin?next=/orders") == (status, headers["Location"])


@pytest.mark.parametrize("name", ["x%0d%0aSet-Cookie:%20a=b", "%2F%2Felsewhere.example", "a%3Fproblem=not_found%23"])
async def test_a_name_of_no_sale_is_only_a_name(returning, name):
    """Whatever a path segment decodes to, the way back is a path of ours with that segment in it."""
    status, _, headers = await returning("POST", f"/sales/{name}/join")

    assert 303 == status
    assert headers["Location"].startswith("/sales/")
    assert headers["Location"].endswith("?problem=sale_unknown")
    assert set("\r\n#") & set(headers["Location"]) == set()


async def test_titles_are_text(returning, sale):
    """Markup in the name of a sale is shown, not obeyed."""
    for path in ("/", sale):
        _, text, _ = await returning("GET", path)
        assert ("&lt;b&gt;Drop&lt;/b&gt;" in text, "<b>Drop</b>" in text) == (True, False)


@pytest.mark.parametrize(
    "onward", ["//elsewhere.example", "/\\elsewhere.example", "https://elsewhere.example", "/\t/x"]
)
async def test_signing_in_goes_on_to_our_own_pages_only(client, onward):
    """Where to go after signing in is never another site."""
    async with client.get("/signin", params={"next": onward}) as answer:
        assert 'name="next" value="/"' in await answer.text()


async def test_a_wrong_password_forgets_nothing(client):
    """Who then signs in goes on to where they wanted to go."""
    browser = Browser(client, {})

    _, text, _ = await browser("GET", "/signin?next=/console%3Fsale%3Ddrop")
    action = re.search(r'action="(/signin[^"]*)"', text)[1]
    status, _, headers = await browser("POST", action, email="nobody@example.com", password="wrong")

    assert (303, "/signin?next=%2Fconsole%3Fsale%3Ddrop&problem=invalid_credentials") == (status, headers["Location"])
    _, text, _ = await browser("GET", headers["Location"])
    assert 'name="next" value="/console?sale=drop"' in text


async def test_another_language_is_the_same_page(client):
    """What the address asks for stays when its language changes; what was refused does not."""
    _, text, _ = await Browser(client, {})("GET", "/signin?next=/orders&problem=invalid_credentials&lang=en")

    assert 'href="?next=%2Forders&amp;lang=ko"' in text
