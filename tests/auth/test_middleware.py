"""Who asks: by header, by cookie, by a ticket's token, by stream key; and where a write comes from."""

from __future__ import annotations

import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from onsale.auth.access import AccessTokens
from onsale.auth.accounts import Account
from onsale.auth.middleware import STREAM_KEYS, TICKETS, Cookies
from onsale.auth.roles import Role

ISSUER = "https://shop.example"
COOKIE = "__Host-onsale-access"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def token(access: AccessTokens) -> str:
    """Mina's, good for ten minutes."""
    return mint(access)


def mint(access: AccessTokens, account: str = "mina", role: Role = Role.CUSTOMER, *, is_verified: bool = True) -> str:
    return access.mint(account=account, role=role, session="s-" + account, is_verified=is_verified, now_ms=now_ms())


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def cookie(token: str, **headers: str) -> dict[str, str]:
    return {"Cookie": f"theme=dark; {COOKIE}={token}; x=y"} | {k.replace("_", "-"): v for k, v in headers.items()}


async def answer(client: TestClient, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    response = await client.request(method, path, headers=headers)
    return response.status, await response.json() if response.content_length else {}


async def test_a_bearer_token_says_who_asks(client: TestClient, token: str) -> None:
    """The scheme's case does not matter; for a write nothing else is needed."""
    for scheme in ("Bearer", "bearer", "BEARER"):
        for method in ("GET", "POST"):
            status, body = await answer(client, method, "/door", {"Authorization": f"{scheme} {token}"})
            assert (200, "mina", "bearer") == (status, body["account"], body["via"])


NO_AUTHORIZATIONS = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Basic bWluYTp4",
    "Bearer  {token}",
    "{token}",
    "Bearer {token}x",
]


async def test_any_other_authorization_is_refused(client: TestClient, token: str) -> None:
    """Also beside a good cookie: its sender meant it."""
    for authorization in NO_AUTHORIZATIONS:
        headers = cookie(token) | {"Authorization": authorization.format(token=token)}
        response = await client.get("/door", headers=headers)
        assert (401, "Bearer") == (response.status, response.headers["WWW-Authenticate"])


async def test_nobody_is_nobody(client: TestClient) -> None:
    """Neither header nor cookie."""
    assert 401 == (await answer(client, "GET", "/door", {}))[0]
    assert (200, {"account": None}) == await answer(client, "GET", "/open-door", {})


async def test_an_open_door_still_refuses_a_bad_token(client: TestClient, token: str) -> None:
    """A stale cookie is nobody, a stale header an error: its sender believes to be signed in."""
    assert (200, {"account": None}) == await answer(client, "GET", "/open-door", cookie(token + "x"))
    assert 401 == (await answer(client, "GET", "/open-door", bearer(token + "x")))[0]
    assert (200, {"account": "mina"}) == await answer(client, "GET", "/open-door", cookie(token))


async def test_a_cookie_reads_without_more(client: TestClient, token: str) -> None:
    """GET and HEAD, from wherever a link was followed."""
    status, body = await answer(client, "GET", "/door", cookie(token, Sec_Fetch_Site="cross-site"))

    assert (200, "mina", "cookie") == (status, body["account"], body["via"])


ORIGINS = {
    "nothing said": ({}, 403),
    "the same origin": ({"Sec_Fetch_Site": "same-origin"}, 200),
    "another site": ({"Sec_Fetch_Site": "cross-site"}, 403),
    "a subdomain": ({"Sec_Fetch_Site": "same-site"}, 403),
    "typed by hand": ({"Sec_Fetch_Site": "none"}, 403),
    "our Origin": ({"Origin": ISSUER}, 200),
    "another Origin": ({"Origin": "https://thief.example"}, 403),
    "a look-alike": ({"Origin": f"{ISSUER}.thief.example"}, 403),
    "our name on plain http": ({"Origin": "http://shop.example"}, 403),
    "our name on another port": ({"Origin": f"{ISSUER}:8443"}, 403),
    "a sandboxed frame": ({"Origin": "null"}, 403),
    "our page without a referrer": ({"Origin": "null", "Sec_Fetch_Site": "same-origin"}, 200),
    "our Origin, but another site": ({"Origin": ISSUER, "Sec_Fetch_Site": "cross-site"}, 403),
    "the Host they wrote": ({"Origin": "https://thief.example", "Host": "thief.example"}, 403),
    "the Host they wrote on http": ({"Origin": "http://thief.example", "Host": "thief.example"}, 403),
}


async def test_a_write_by_cookie_comes_from_our_pages(client: TestClient, token: str) -> None:
    """Another site can make a browser send the cookie; it cannot make it lie about where the request comes from."""
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        statuses = {}
        for name, (headers, _) in ORIGINS.items():
            response = await client.request(method, "/door", headers=cookie(token, **headers))
            statuses[name] = response.status
            assert (response.status == 403) == ((await response.json()).get("code") == "cross_site")
        assert {name: expected for name, (_, expected) in ORIGINS.items()} == statuses


@pytest.mark.parametrize("cookies", [Cookies("http://127.0.0.1:8080", is_insecure=True)])
async def test_in_development_our_host_is_our_origin(client: TestClient, token: str) -> None:
    """A machine on the local network has many names; its cookies have no prefix."""
    headers = {"Cookie": f"onsale-access={token}", "Origin": "http://192.168.0.7:8080"}

    assert 200 == (await client.post("/door", headers=headers | {"Host": "192.168.0.7:8080"})).status
    assert 403 == (await client.post("/door", headers=headers | {"Host": "192.168.0.8:8080"})).status


async def test_roles_open_doors(client: TestClient, access: AccessTokens) -> None:
    """Managers and masters, nobody else."""
    statuses = {role: (await answer(client, "GET", "/managers", bearer(mint(access, role=role))))[0] for role in Role}

    assert {Role.CUSTOMER: 403, Role.VENDOR: 403, Role.MANAGER: 200, Role.MASTER: 200} == statuses


async def test_an_unverified_address_opens_little(client: TestClient, access: AccessTokens, mina: Account) -> None:
    """Its owner may see the account and sign out, no more."""
    headers = bearer(mint(access, mina.id, is_verified=False))
    status, body = await answer(client, "GET", "/door", headers)

    assert (403, "email_unverified") == (status, body["code"])
    assert 200 == (await answer(client, "GET", "/v1/me", headers))[0]
    assert 200 == (await answer(client, "GET", "/v1/sessions", headers))[0]


@pytest.fixture
def ticket(app: web.Application) -> str:
    """Mina's ticket."""
    return app[TICKETS].issue(1, 0, 48_211, now_ms(), "mina")


@pytest.fixture
def ticket_token(app: web.Application, ticket: str) -> str:
    return app[TICKETS].token(ticket, "mina")


async def test_a_ticket_is_held_by_its_token_or_its_buyer(
    client: TestClient, token: str, ticket: str, ticket_token: str
) -> None:
    """Either by header, or the buyer's cookie."""
    path = f"/tickets/{ticket}"
    ways = [
        await answer(client, "GET", path, headers) for headers in (bearer(ticket_token), bearer(token), cookie(token))
    ]

    assert [(200, "ticket"), (200, "bearer"), (200, "cookie")] == [(status, body["via"]) for status, body in ways]


async def test_anothers_ticket_is_not_found(
    client: TestClient, app: web.Application, access: AccessTokens, ticket: str
) -> None:
    """Nor is one that was never issued; both look the same."""
    other = app[TICKETS].issue(1, 0, 48_212, now_ms(), "thief")
    thiefs = [bearer(app[TICKETS].token(other, "thief")), bearer(mint(access, "thief"))]
    for headers in thiefs:
        for path in (f"/tickets/{ticket}", "/tickets/" + "0" * 39, "/tickets/x", "/tickets/%00"):
            assert 404 == (await answer(client, "GET", path, headers))[0]


async def test_a_tickets_token_opens_nothing_else(client: TestClient, app: web.Application, ticket_token: str) -> None:
    """Not an account's door, not even the same buyer's other ticket."""
    other = app[TICKETS].issue(2, 0, 1, now_ms(), "mina")
    for path in ("/door", "/managers", "/v1/me", "/v1/sessions"):
        assert 401 == (await answer(client, "GET", path, bearer(ticket_token)))[0]

    assert 404 == (await answer(client, "GET", f"/tickets/{other}", bearer(ticket_token)))[0]


async def test_a_stream_key_opens_its_stream(client: TestClient, app: web.Application, token: str, ticket: str) -> None:
    """Made by the buyer, good for one stream and its reconnects, ended with 204; nowhere but at streams."""
    key = (await answer(client, "POST", "/v1/stream-keys", bearer(token)))[1]["stream_key"]
    stream = f"/tickets/{ticket}/events?stream_key={key}"
    for _ in range(2):
        status, body = await answer(client, "GET", stream, {})
        assert (200, "mina", "stream_key") == (status, body["account"], body["via"])

    assert 401 == (await answer(client, "GET", f"/tickets/{ticket}?stream_key={key}", {}))[0]
    assert 401 == (await answer(client, "GET", f"/tickets/{ticket}/events?stream_key={key}x", {}))[0]
    await app[STREAM_KEYS].ended(key)
    assert 204 == (await answer(client, "GET", stream, {}))[0]


async def test_a_tickets_token_makes_a_key_for_its_ticket(
    client: TestClient, app: web.Application, ticket: str, ticket_token: str
) -> None:
    """A guest, too, can open a stream; only that one."""
    key = (await answer(client, "POST", "/v1/stream-keys", bearer(ticket_token)))[1]["stream_key"]
    other = app[TICKETS].issue(2, 0, 1, now_ms(), "mina")

    assert 404 == (await answer(client, "GET", f"/tickets/{other}/events?stream_key={key}", {}))[0]
    key = (await answer(client, "POST", "/v1/stream-keys", bearer(ticket_token)))[1]["stream_key"]
    assert 200 == (await answer(client, "GET", f"/tickets/{ticket}/events?stream_key={key}", {}))[0]
