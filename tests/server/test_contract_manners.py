"""What every call has in common, and who is believed to be who."""

import pytest
import pytest_asyncio
from contract_kit import Names

from onsale.auth.accounts import Accounts, DemoAccount
from onsale.auth.passwords import PasswordHasher
from onsale.auth.roles import Role
from onsale.server.app import ROOMS
from onsale.server.routes import ROUTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

EMAIL, PASSWORD = "ann@shop.example", "correct horse battery staple"
ORIGIN = "http://127.0.0.1:8080"
API = [route for route in ROUTES if route.media == "application/json"]
READS = [route for route in API if route.method == "GET"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def names(system):
    """Something for every variable part of a path."""
    sale, buyer = await system.sale(), await system.buyer()
    ticket = (await system.joined(sale, buyer))["ticket"]
    return Names(sale=sale, product=f"{sale}-hat", ticket=ticket, code="sold_out")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ann(system):
    """An account with a password."""
    rooms, hasher = system.app[ROOMS], PasswordHasher()
    await Accounts(rooms.stores.pool, rooms.keyring, hasher).ensure_demo(
        [DemoAccount(email=EMAIL, password=PASSWORD, role=Role.CUSTOMER, name="Ann")]
    )
    await hasher.close()
    return {"email": EMAIL, "password": PASSWORD}


@pytest.mark.parametrize("route", READS, ids=lambda route: route.name)
async def test_head_is_get_without_its_body(system, names, route):
    """The same status and headers, for whoever asks; other sites read what anyone may."""
    path = route.path.format_map(names)
    for token in (system.manager, None):
        got, asked = [await system.call(method, path, token=token) for method in ("GET", "HEAD")]
        assert (got.status, set(got.headers), b"") == (asked.status, set(asked.headers), asked.body)
        assert route.is_public == ("Access-Control-Allow-Origin" in got.headers)
        assert got.headers["X-Request-Id"] != asked.headers["X-Request-Id"]
        if got.status >= 400:
            got.problem()


@pytest.mark.parametrize("path", sorted({route.path for route in API}))
async def test_other_methods_are_refused(system, names, path):
    """405 that names exactly what there is."""
    methods = {route.method for route in API if route.path == path}
    allowed = methods | ({"HEAD"} if "GET" in methods else set())
    own = [route for route in API if route.path == path]
    allowed |= {"OPTIONS"} if any(route.is_public for route in own) else set()
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - allowed:
        answer = await system.call(method, path.format_map(names), token=system.manager)
        assert (405, "method_not_allowed") == answer.problem()
        assert allowed == set(answer.headers["Allow"].split(", "))
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_languages(system):
    """Words change, codes do not."""
    ko, en, odd = [
        await system.call("GET", "/v1/me", Accept_Language=asked)
        for asked in ("ko-KR,en;q=0.5", "fr", "ko;q=nan,\udcff")
    ]

    assert 3 * ["unauthenticated"] == [answer.code for answer in (ko, en, odd)]
    assert ko.json["title"] != en.json["title"] == odd.json["title"]


async def test_signing_in_for_a_program(system, ann):
    """Tokens in the answer; the refresh token is rotated, and nothing of it works as another."""
    made = await system.call("POST", "/v1/sessions", ann)
    grant = made.json
    refreshed = await system.call("POST", "/v1/sessions/refresh", {"refresh_token": grant["refresh_token"]})

    assert (201, f"/v1/sessions/{grant['session']}") == (made.status, made.headers["Location"])
    assert {"access_token", "refresh_token", "token_type", "expires_in", "session"} == set(grant) == set(refreshed.json)
    assert grant["refresh_token"] != refreshed.json["refresh_token"]
    assert "Set-Cookie" not in made.headers
    for wrong in ("x", grant["access_token"][:250], f"{grant['refresh_token']}0", "ort.a.b.c"):
        answer = await system.call("POST", "/v1/sessions/refresh", {"refresh_token": wrong})
        assert (401, "refresh_invalid") == answer.problem()


async def test_signing_in_for_a_browser(system, ann):
    """Both tokens in cookies that no script reads and no other site sends; nothing in the answer."""
    made = await system.call("POST", "/v1/sessions", ann | {"cookies": True})
    cookies = made.headers.getall("Set-Cookie")
    jar = "; ".join(cookie.partition(";")[0] for cookie in cookies)

    assert {"session", "token_type", "expires_in"} == set(made.json)
    assert ["__Host-onsale-access", "__Host-onsale-refresh"] == [cookie.partition("=")[0] for cookie in cookies]
    for cookie in cookies:
        attributes = {part.strip().partition("=")[0]: part.strip().partition("=")[2] for part in cookie.split(";")[1:]}
        assert {"HttpOnly": "", "Secure": "", "Path": "/", "SameSite": "Lax"}.items() <= attributes.items()
        assert int(attributes["Max-Age"]) > 0
    assert 200 == (await system.call("GET", "/v1/me", Cookie=jar)).status
    assert (403, "cross_site") == (await system.call("POST", "/v1/sessions/refresh", Cookie=jar)).problem()
    out = await system.call("DELETE", "/v1/sessions/current", Cookie=jar, Sec_Fetch_Site="same-origin")
    assert (204, 2) == (out.status, sum("Max-Age=0" in cookie for cookie in out.headers.getall("Set-Cookie")))
    assert (401, "unauthenticated") == (await system.call("GET", "/v1/me", Cookie=jar)).problem()


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec_Fetch_Site": "cross-site"}, False),
        ({"Sec_Fetch_Site": "same-site"}, False),
        ({"Sec_Fetch_Site": "cross-site", "Origin": ORIGIN}, False),
        ({"Origin": ORIGIN}, True),
        ({"Sec_Fetch_Site": "same-origin"}, True),
    ],
)
async def test_a_write_by_cookie_comes_from_our_pages(system, headers, is_ours):
    """Another site's form or script is refused, and signs nobody in or out."""
    cookie = f"__Host-onsale-access={await system.buyer()}"
    answer = await system.call("POST", "/v1/stream-keys", Cookie=cookie, **headers)

    assert (201 if is_ours else 403, None if is_ours else "cross_site") == (answer.status, answer.code)


async def test_whom_nobody_believes(system, names):
    """Tokens of another kind, forged, cut, doubled, or under another scheme: 401."""
    good, other = await system.buyers(2)
    ticket_token = (await system.joined(names["sale"], other))["ticket_token"]
    stream_key = (await system.call("POST", "/v1/stream-keys", token=good)).json["stream_key"]
    unsigned = f"eyJhbGciOiJub25lIn0.{good.split('.')[1]}."
    tokens = (
        "",
        "x",
        "a.b.c",
        good[:-4] + "AAAA",
        unsigned,
        ticket_token,
        stream_key,
        "A" * 6_000,
        "\udcff",
        f" {good}",
    )
    for authorization in [*(f"Bearer {token}" for token in tokens), "Basic Zm9vOmJhcg==", "Bearer", f"Token {good}"]:
        answer = await system.call("GET", "/v1/me", Authorization=authorization)
        assert (401, "unauthenticated") == answer.problem(), authorization[:40]
    assert 200 == (await system.call("GET", "/v1/me", Authorization=f"bearer {good}")).status


async def test_a_new_sale_is_known_when_it_is_answered(system):
    """Whoever is told of it may join at once."""
    sale = await system.sale()

    assert 201 == (await system.call("POST", f"/v1/sales/{sale}/tickets", token=await system.buyer())).status
