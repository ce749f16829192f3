"""What a person without scripts meets between signing in and buying: sessions that go on, forms that go back."""

from __future__ import annotations

import asyncio
import gzip
import re
import time
from pathlib import Path

import pytest

from onsale.auth.accounts import Account
from onsale.auth.middleware import COOKIES, SESSIONS
from onsale.auth.roles import Role
from onsale.queue.handlers import FEED
from onsale.server.app import ROOMS
from onsale.server.pages.assets import ASSETS
from onsale.server.processes import Keeper
from onsale.web import LANGUAGES, formats, messages

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
ROOT = Path(__file__).parents[2]
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


async def test_another_language_is_the_same_page(client):
    """What the address asks for stays when its language changes; what was refused does not."""
    _, text, _ = await Browser(client, {})("GET", "/signin?next=/orders&problem=invalid_credentials&lang=en")

    assert 'href="?next=%2Forders&amp;lang=ko"' in text


# What the waiting page may weigh in all, compressed: the first flight of a TCP connection carries it.
WAITING_BYTES_MAX = 14 * 1024


async def weight(client, path, **headers):
    """What is transferred for a body, and the body."""
    async with client.get(path, headers={"Accept-Encoding": "gzip"} | headers) as answer:
        body = await answer.text()
        assert (200, "gzip") == (answer.status, answer.headers["Content-Encoding"])
        return len(gzip.compress(body.encode(), 9)), body


@pytest.mark.parametrize("lang", LANGUAGES)
async def test_the_waiting_page_is_light(client, returning, sale, lang):
    """Page, style, icon and every script that they lead to fit in 14 KB as they are sent."""
    await returning("POST", f"{sale}/join")
    cookies = "; ".join(f"{name}={value}" for name, value in returning.cookies.items())
    total, page = await weight(client, f"{sale}?lang={lang}", Cookie=cookies)
    assert 'id="waiting"' in page
    found, wanted = set(), set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page))
    while wanted:
        path = wanted.pop()
        found.add(path)
        size, text = await weight(client, path)
        total += size
        wanted |= {f"{path.rsplit('/', 1)[0]}/{name}" for name in re.findall(r'from "./([^"]+)"', text)} - found

    assert {"style.css", "waiting.js", "share.js", "line.js"} < {path.rsplit("/", 1)[1] for path in found}
    assert total <= WAITING_BYTES_MAX


async def test_files_are_kept_under_their_own_version_only(app, client):
    """For a year where the address names what is served; asked again where it does not, as while a release rolls."""
    current = app[ASSETS].path("style.css")
    async with client.get(current) as kept, client.get("/static/0123456789abcdef/style.css") as other:
        assert "immutable" in kept.headers["Cache-Control"]
        assert "no-cache" == other.headers["Cache-Control"]
        etag = kept.headers["ETag"]
    async with client.get("/static/style.css", headers={"If-None-Match": etag}) as again:
        assert 304 == again.status


@pytest.mark.parametrize(
    ("p50", "p90", "told"),
    [
        (1, 900, "1 s"),
        (12_000, 40_000, "12–40 s"),
        (50_000, 61_000, "50 s – 2 min"),
        (60_000, 7_199_999, "1–120 min"),
        (7_200_000, 7_200_001, "2–2.5 h"),
    ],
)
def test_waits_are_ranges_rounded_up(p50, p90, told):
    """In the largest unit that says enough; never shorter than expected."""
    assert told == formats.wait_range({"p50": p50, "p90": p90}, formats.translator(messages("en")))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_reasons_are_told_with_their_facts(lang):
    """A reason names its numbers; one that came without them is told all the same."""
    texts = messages(lang)
    raised = {"code": "rate_raised", "params": {"from": 20.0, "to": 1200.5}}

    assert all(number in formats.reason_text(raised, texts) for number in ("20", "1,200.5"))
    assert "–" in formats.reason_text(raised | {"params": {}}, texts)
    assert formats.reason_text({"code": "never_heard_of", "params": {}}, texts) is None


def test_every_word_is_said_and_every_word_said_is_there():
    """What a template names is in the catalogues; what they hold for a page is named by it, or by its prefix."""
    sources = "".join(
        path.read_text()
        for folder in ("web", "server")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".html", ".py")
    )
    named = set(re.findall(r"""\bt\(['"]([a-z_.]+)['"]""", sources))
    keys = {key for key in messages("en") if not key.startswith(("problem.", "reason.", "flaw."))}
    prefixes = tuple(re.findall(r"""['"]([a-z_]+\.(?:[a-z_]+\.)?)['"]""", sources))

    assert set() == {name for name in named if not name.endswith(".")} - keys
    told = {f"said.{name}" for name in re.findall(r'(?:[?&]said=|\bsaid=")([a-z_]+)', sources)}
    assert {key for key in keys if key.startswith("said.")} == told
    assert [] == [
        key
        for key in sorted(keys)
        if f'"{key}"' not in sources and f"'{key}'" not in sources and not key.startswith(prefixes)
    ]
