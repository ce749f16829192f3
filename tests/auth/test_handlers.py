"""Signing in and out over HTTP, as a client sees it."""

from __future__ import annotations

import logging
from http.cookies import SimpleCookie
from typing import Any

import asyncpg
import jwt
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient

from onsale.auth.accounts import Account
from onsale.auth.middleware import Cookies
from onsale.auth.passwords import PasswordHasher
from onsale.auth.roles import Role
from onsale.auth.throttle import ACCOUNT_BUDGET, ADDRESS_BUDGET

EMAIL = "Mina.Kim@Example.com"
PASSWORD = "버터 쿠키 seven boats"
GOOD: dict[str, Any] = {"email": EMAIL, "password": PASSWORD}
OURS = {"Sec-Fetch-Site": "same-origin"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def sign_in(client: TestClient, **more: Any) -> dict[str, Any]:
    response = await client.post("/v1/sessions", json=GOOD | more)
    assert 201 == response.status
    return await response.json()


def set_cookies(response: ClientResponse) -> dict[str, str]:
    """Each Set-Cookie line by its cookie's name."""
    return {line.partition("=")[0]: line for line in response.headers.getall("Set-Cookie", ())}


def cookie_header(response: ClientResponse) -> dict[str, str]:
    """The cookies that a browser would send from now on."""
    jar = SimpleCookie()
    for line in response.headers.getall("Set-Cookie", ()):
        jar.load(line)
    return {"Cookie": "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())}


async def test_signing_in(client: TestClient, mina: Account) -> None:
    """201 with both tokens, the session and where to end it; nobody keeps a copy."""
    response = await client.post("/v1/sessions", json=GOOD)
    grant = await response.json()

    assert 201 == response.status
    assert {"session", "token_type", "expires_in", "access_token", "refresh_token"} == set(grant)
    assert ("Bearer", 600) == (grant["token_type"], grant["expires_in"])
    assert f"/v1/sessions/{grant['session']}" == response.headers["Location"]
    assert "no-store" == response.headers["Cache-Control"]
    assert {} == set_cookies(response)


async def test_an_access_token_tells_who_asks(client: TestClient, mina: Account) -> None:
    """The account's owner reads it."""
    me = await client.get("/v1/me", headers=bearer((await sign_in(client))["access_token"]))
    body = await me.json()
    at = body.pop("created_at")

    assert {
        "account": mina.id,
        "role": "customer",
        "verified": True,
        "email": EMAIL.lower(),
        "name": "",
        "phone": "",
        "language": "en",
    } == body
    assert at.endswith("Z") and len("2026-11-20T11:13:00.000Z") == len(at)


async def test_signing_in_with_cookies(client: TestClient, mina: Account) -> None:
    """Both tokens go into cookies that no script reads and no other site sends; neither into the body."""
    response = await client.post("/v1/sessions", json=GOOD | {"cookies": True}, headers=OURS)
    cookies = set_cookies(response)

    assert {"session", "token_type", "expires_in"} == set(await response.json())
    assert {"__Host-onsale-access", "__Host-onsale-refresh"} == set(cookies)
    for name, max_age in (("__Host-onsale-access", "600"), ("__Host-onsale-refresh", str(7 * 24 * 3600))):
        attributes = {part.strip() for part in cookies[name].split(";")[1:]}
        assert {f"Max-Age={max_age}", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"} == attributes


@pytest.mark.parametrize("cookies", [Cookies("http://192.168.0.7:8080", is_insecure=True)])
async def test_insecure_cookies_have_no_prefix(client: TestClient, mina: Account) -> None:
    """Off loopback over plain http a browser would drop the others."""
    lines = set_cookies(await client.post("/v1/sessions", json=GOOD | {"cookies": True}))

    assert {"onsale-access", "onsale-refresh"} == set(lines)
    assert all("Secure" not in line and "HttpOnly" in line and "SameSite=Lax" in line for line in lines.values())


async def test_another_site_signs_nobody_in(client: TestClient, mina: Account) -> None:
    """A visitor must not end up in the thief's account."""
    for headers in ({"Origin": "https://thief.example"}, {"Sec-Fetch-Site": "cross-site"}):
        response = await client.post("/v1/sessions", json=GOOD | {"cookies": True}, headers=headers)
        assert (403, "cross_site") == (response.status, (await response.json())["code"])


async def test_cookies_are_refreshed_and_taken_back(client: TestClient, mina: Account) -> None:
    """A browser's whole life: in, refreshed, out."""
    signed_in = await client.post("/v1/sessions", json=GOOD | {"cookies": True}, headers=OURS)
    refreshed = await client.post("/v1/sessions/refresh", headers=cookie_header(signed_in) | OURS)
    jar = cookie_header(refreshed)
    out = await client.delete("/v1/sessions/current", headers=jar | OURS)

    assert [201, 200, 204] == [signed_in.status, refreshed.status, out.status]
    assert {"session", "token_type", "expires_in"} == set(await refreshed.json())
    assert cookie_header(signed_in) != jar
    assert all("Max-Age=0" in line for line in set_cookies(out).values()) and 2 == len(set_cookies(out))
    assert 401 == (await client.get("/v1/me", headers=jar)).status
    assert 401 == (await client.post("/v1/sessions/refresh", headers=jar | OURS)).status


async def test_a_page_renews_what_has_run_out(client: TestClient, mina: Account) -> None:
    """Without any script: a page opened with only the refresh cookie left answers with a new pair."""
    signed_in = cookie_header(await client.post("/v1/sessions", json=GOOD | {"cookies": True}, headers=OURS))
    only_refresh = {"Cookie": signed_in["Cookie"].partition("; ")[2]}
    assert only_refresh["Cookie"].startswith("__Host-onsale-refresh=")
    fresh = await client.get("/page", headers=signed_in)
    renewed = await client.get("/page", headers=only_refresh)
    again = await client.get("/page", headers=cookie_header(renewed))
    nobody = await client.get("/page", headers={"Cookie": "__Host-onsale-refresh=nonsense"})

    answers = [(await each.json())["account"] for each in (fresh, renewed, again, nobody)]
    assert [mina.id, mina.id, mina.id, None] == answers
    assert [0, 2, 0, 0] == [len(set_cookies(each)) for each in (fresh, renewed, again, nobody)]


async def test_a_page_learns_at_once_that_the_address_is_verified(
    client: TestClient, make_account: Any, database: asyncpg.Pool
) -> None:
    """Its access cookie says otherwise for minutes; the page renews it."""
    await make_account(EMAIL, Role.CUSTOMER, False)
    jar = cookie_header(await client.post("/v1/sessions", json=GOOD | {"cookies": True}, headers=OURS))
    before = await client.get("/page", headers=jar)
    await database.execute("UPDATE accounts SET verified_at = now()")
    after = await client.get("/page", headers=cookie_header(before))

    assert 403 == (await client.get("/door", headers=cookie_header(before))).status
    assert 200 == (await client.get("/door", headers=cookie_header(after))).status


async def test_another_site_refreshes_nothing(client: TestClient, mina: Account) -> None:
    """The refresh cookie, too, is for our own pages."""
    jar = cookie_header(await client.post("/v1/sessions", json=GOOD | {"cookies": True}, headers=OURS))
    for headers in ({}, {"Origin": "https://thief.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert 403 == (await client.post("/v1/sessions/refresh", headers=jar | headers)).status


async def test_refreshing_with_a_body(client: TestClient, mina: Account) -> None:
    """The answer goes the way the token came; the used-up one ends the family after its child was used."""
    first = await sign_in(client)
    tokens = [first["refresh_token"]]
    for _ in range(2):
        response = await client.post("/v1/sessions/refresh", json={"refresh_token": tokens[-1]})
        assert (200, {}) == (response.status, set_cookies(response))
        tokens.append((await response.json())["refresh_token"])

    stolen = await client.post("/v1/sessions/refresh", json={"refresh_token": tokens[0]})
    after = await client.post("/v1/sessions/refresh", json={"refresh_token": tokens[-1]})

    assert [(401, "refresh_invalid")] * 2 == [(each.status, (await each.json())["code"]) for each in (stolen, after)]
    assert 401 == (await client.get("/v1/me", headers=bearer(first["access_token"]))).status


async def test_refreshing_nothing(client: TestClient, mina: Account) -> None:
    """No token anywhere."""
    assert 401 == (await client.post("/v1/sessions/refresh")).status
    assert 401 == (await client.post("/v1/sessions/refresh", json={})).status


async def test_one_device_signs_another_out(client: TestClient, mina: Account) -> None:
    """The list names both; ending one leaves the other, and ending it again is as good as once."""
    phone, laptop = await sign_in(client, device="phone"), await sign_in(client, device="laptop")
    listed = await (await client.get("/v1/sessions", headers=bearer(phone["access_token"]))).json()
    path = f"/v1/sessions/{laptop['session']}"
    statuses = [(await client.delete(path, headers=bearer(phone["access_token"]))).status for _ in range(2)]

    assert [("laptop", False), ("phone", True)] == [(each["device"], each["current"]) for each in listed["items"]]
    assert None is listed["next_cursor"]
    assert [204, 204] == statuses
    assert 401 == (await client.get("/v1/me", headers=bearer(laptop["access_token"]))).status
    assert 200 == (await client.get("/v1/me", headers=bearer(phone["access_token"]))).status


async def test_sessions_come_in_pages(client: TestClient, mina: Account) -> None:
    """By keyset, newest first, to the end."""
    grants = [await sign_in(client) for _ in range(3)]
    headers = bearer(grants[0]["access_token"])
    first = await (await client.get("/v1/sessions?limit=2", headers=headers)).json()
    rest = await (await client.get(f"/v1/sessions?limit=2&cursor={first['next_cursor']}", headers=headers)).json()

    assert [each["session"] for each in reversed(grants)] == [
        each["session"] for each in (*first["items"], *rest["items"])
    ]
    assert None is rest["next_cursor"]


async def test_signing_out_everywhere(client: TestClient, mina: Account) -> None:
    """Every device, the one that asks included."""
    grants = [await sign_in(client) for _ in range(2)]

    assert 204 == (await client.delete("/v1/sessions", headers=bearer(grants[0]["access_token"]))).status
    for grant in grants:
        assert 401 == (await client.get("/v1/me", headers=bearer(grant["access_token"]))).status
        refreshed = await client.post("/v1/sessions/refresh", json={"refresh_token": grant["refresh_token"]})
        assert 401 == refreshed.status


async def test_anothers_sessions_are_unknown(client: TestClient, mina: Account, make_account: Any) -> None:
    """Neither seen nor ended."""
    await make_account("thief@example.com")
    minas = await sign_in(client)
    thiefs = await sign_in(client, email="thief@example.com")
    headers = bearer(thiefs["access_token"])
    for session in (minas["session"], "0" * 26, "x", "%00", "a" * 5000):
        assert 404 == (await client.delete(f"/v1/sessions/{session}", headers=headers)).status
    listed = await (await client.get("/v1/sessions", headers=headers)).json()

    assert [thiefs["session"]] == [each["session"] for each in listed["items"]]
    assert 200 == (await client.get("/v1/me", headers=bearer(minas["access_token"]))).status


async def test_wrong_credentials_are_one_answer(client: TestClient, mina: Account) -> None:
    """The same bytes for a wrong password and for no account."""
    answers = [
        await client.post("/v1/sessions", json=wrong)
        for wrong in (GOOD | {"password": "wrong"}, GOOD | {"email": "nobody@example.com"})
    ]

    assert [401, 401] == [each.status for each in answers]
    assert await answers[0].read() == await answers[1].read()
    assert "invalid_credentials" == (await answers[0].json())["code"]


async def test_guessing_ends_soon(client: TestClient, mina: Account) -> None:
    """After the account's budget the right password waits too, and a made-up account is answered alike."""
    for email in (EMAIL, "nobody@example.com"):
        wrong = {"email": email, "password": "wrong"}
        statuses = [(await client.post("/v1/sessions", json=wrong)).status for _ in range(ACCOUNT_BUDGET.tries + 1)]
        assert [401] * ACCOUNT_BUDGET.tries + [429] == statuses
    refused = await client.post("/v1/sessions", json=GOOD)

    assert 429 == refused.status
    assert 1 <= int(refused.headers["Retry-After"]) <= 30


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/sessions", {"password": "wrong"}),
        ("/v1/accounts", {"password": PASSWORD, "name": "Mina", "phone": "010-1234-5678"}),
    ],
)
async def test_a_flood_costs_no_store_and_no_budget(
    client: TestClient, passwords: PasswordHasher, database: asyncpg.Pool, path: str, body: dict[str, str]
) -> None:
    """While too many wait for a hash the next is told to come back before anything is asked or counted."""
    passwords._waiting_max = 0
    wrong = body | {"email": EMAIL}
    flood = [await client.post(path, json=wrong) for _ in range(ADDRESS_BUDGET.tries + 1)]

    assert {429} == {each.status for each in flood}
    assert all(int(each.headers["Retry-After"]) >= 1 for each in flood)
    assert 0 == await database.fetchval("SELECT count(*) FROM tries")
    passwords._waiting_max = 1
    assert 429 != (await client.post(path, json=wrong)).status
    assert 1 == await database.fetchval("SELECT count(*) FROM tries")


async def test_spraying_ends_soon(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """One password on many accounts from one address, all in one instant: a slow machine refills no budget."""
    monkeypatch.setattr("onsale.auth.handlers.now_ms", lambda: 1_700_000_000_000)
    statuses = [
        (await client.post("/v1/sessions", json={"email": f"a{number}@example.com", "password": "x"})).status
        for number in range(ADDRESS_BUDGET.tries + 2)
    ]

    assert [401] * ADDRESS_BUDGET.tries + [429] * 2 == statuses


async def test_an_unverified_account_signs_in_and_is_told(client: TestClient, make_account: Any) -> None:
    """Its tokens open nothing but the account itself."""
    await make_account(EMAIL, Role.CUSTOMER, False)
    grant = await sign_in(client)

    me = await (await client.get("/v1/me", headers=bearer(grant["access_token"]))).json()
    key = await client.post("/v1/stream-keys", headers=bearer(grant["access_token"]))
    assert not me["verified"]
    assert (403, "email_unverified") == (key.status, (await key.json())["code"])


async def test_a_stream_key_is_made(client: TestClient, mina: Account) -> None:
    """201, for thirty seconds."""
    grant = await sign_in(client)
    response = await client.post("/v1/stream-keys", headers=bearer(grant["access_token"]))
    body = await response.json()

    assert (201, 30) == (response.status, body["expires_in"])
    assert {"stream_key", "expires_in"} == set(body)
    assert "no-store" == response.headers["Cache-Control"]
    assert "Location" in response.headers and body["stream_key"] not in response.headers["Location"]


async def test_the_key_set_is_public(client: TestClient) -> None:
    """What a proxy needs to check passes, and nothing secret."""
    response = await client.get("/.well-known/jwks.json")
    keys = (await response.json())["keys"]

    assert "public, max-age=300" == response.headers["Cache-Control"]
    assert [{"kty", "crv", "x", "kid", "use", "alg"}] * 2 == [set(key) for key in keys]
    assert 2 == len(jwt.PyJWKSet(keys).keys)


BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"email=a", 400),
    "a list": (b"[]", 422),
    "no password": (b'{"email": "a@b.c"}', 422),
    "a number for a password": (b'{"email": "a@b.c", "password": 1}', 422),
    "null": (b'{"email": "a@b.c", "password": null}', 422),
    "an empty password": (b'{"email": "a@b.c", "password": ""}', 422),
    "an unknown field": (b'{"email": "a@b.c", "password": "x", "role": "master"}', 422),
    "a long address": (b'{"email": "%s@b.c", "password": "x"}' % (b"a" * 50_000), 422),
    "a long password": (b'{"email": "a@b.c", "password": "%s"}' % (b"a" * 50_000), 422),
    "a long device": (b'{"email": "a@b.c", "password": "x", "device": "%s"}' % (b"a" * 101), 422),
    "cookies as text": (b'{"email": "a@b.c", "password": "x", "cookies": "yes"}', 422),
    "NUL in an address": (b'{"email": "a\\u0000@b.c", "password": "x"}', 422),
    "NUL in a password": (b'{"email": "a@b.c", "password": "x\\u0000"}', 422),
    "half a surrogate": (b'{"email": "a@b.c", "password": "\\ud800"}', 400),
    "not UTF-8": (b'{"email": "a@b.c", "password": "\xff"}', 400),
    "too much": (b" " * 70_000, 413),
}


async def test_bad_bodies_are_refused(client: TestClient, mina: Account) -> None:
    """Each with a documented problem, which names the values where there are some."""
    statuses = {}
    for name, (raw, _) in BAD_BODIES.items():
        response = await client.post("/v1/sessions", data=raw, headers={"Content-Type": "application/json"})
        problem = await response.json()
        statuses[name] = response.status
        assert (response.status, f"/problems/{problem['code']}") == (problem["status"], problem["type"])
        assert (response.status == 422) == ("errors" in problem)

    assert {name: status for name, (_, status) in BAD_BODIES.items()} == statuses


BAD_QUERIES = [
    ("POST", "/v1/sessions?a=1"),
    ("GET", "/v1/sessions?limit=0"),
    ("GET", "/v1/sessions?limit=101"),
    ("GET", "/v1/sessions?limit=-1"),
    ("GET", "/v1/sessions?limit=NaN"),
    ("GET", "/v1/sessions?limit=" + "9" * 5000),
    ("GET", "/v1/sessions?limit=٣"),
    ("GET", "/v1/sessions?limit=1&limit=2"),
    ("GET", "/v1/sessions?cursor=x"),
    ("GET", "/v1/sessions?cursor=%00"),
    ("GET", "/v1/sessions?cursor="),
    ("GET", "/v1/me?fields=all"),
    ("POST", "/v1/stream-keys?x="),
    ("GET", "/.well-known/jwks.json?kid=1"),
    ("DELETE", "/v1/sessions/current?x=1"),
    ("DELETE", "/v1/sessions?all=1"),
]


async def test_bad_queries_are_refused(client: TestClient, mina: Account) -> None:
    """Unknown names and values out of bounds; nobody is signed out by one."""
    grant = await sign_in(client)
    headers = bearer(grant["access_token"])
    codes = {}
    for method, path in BAD_QUERIES:
        response = await client.request(method, path, json=GOOD, headers=headers)
        codes[method, path] = (response.status, (await response.json())["code"])

    assert dict.fromkeys(BAD_QUERIES, (422, "invalid_request")) == codes
    assert 200 == (await client.get("/v1/me", headers=headers)).status


DOORS = [
    ("GET", "/v1/sessions"),
    ("DELETE", "/v1/sessions"),
    ("DELETE", "/v1/sessions/current"),
    ("DELETE", "/v1/sessions/" + "0" * 26),
    ("POST", "/v1/stream-keys"),
    ("GET", "/v1/me"),
]


async def test_every_door_asks_who_is_there(client: TestClient) -> None:
    """Nobody, and somebody with a token of nonsense."""
    for method, path in DOORS:
        for headers in ({}, bearer("nonsense")):
            response = await client.request(method, path, headers=headers)
            assert (401, "Bearer") == (response.status, response.headers["WWW-Authenticate"])


async def test_no_log_holds_a_secret(client: TestClient, mina: Account, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a password nor any token, with every logger wide open."""
    caplog.set_level(logging.DEBUG)
    grant = await sign_in(client)
    await client.post("/v1/sessions", json=GOOD | {"password": "canary-password"})
    key = await (await client.post("/v1/stream-keys", headers=bearer(grant["access_token"]))).json()
    await client.post("/v1/sessions/refresh", json={"refresh_token": grant["refresh_token"]})
    await client.get("/v1/me", headers=bearer(grant["access_token"] + "x"))

    for secret in (PASSWORD, "canary-password", grant["access_token"], grant["refresh_token"], key["stream_key"]):
        assert secret not in caplog.text
