"""What somebody with bad intent tries: another role's calls, another's things, guesses at who has an account, the
database's own files, the logs. Made from the route table where it can be, so that a new call is tried from its first
day.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
import structlog
from contract_kit import PASSWORD, Answer, System, new_key, tokens

from onsale.auth import middleware as auth
from onsale.auth.identifiers import order_id
from onsale.auth.passwords import Checked, Place
from onsale.auth.roles import Role
from onsale.auth.tries import Budget
from onsale.checkout.forgetting import AddressForgetting
from onsale.server.app import ROOMS
from onsale.server.route import Route
from onsale.server.routes import ROUTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = [route for route in ROUTES if route.path.startswith("/v1/")]
NEVER = "0" * 26
# Beside the sale, names of things that nobody has.
NEVERS = ("vendor", "ticket", "order", "address", "session", "discount")
NAMES = {"product": "nothing", "provider": "nothing"} | dict.fromkeys(NEVERS, NEVER)
# Whoever has not verified the address may look at the account, sign out, and go.
UNVERIFIED_MAY = {
    "list_sessions", "sign_out", "sign_out_session", "sign_out_everywhere", "show_me", "delete_me",
}  # fmt: skip
MAY: dict[str, set[Role]] = {
    "buyer": set(Role),
    "joiner": set(Role),
    "holder": set(Role),
    "seller": {Role.VENDOR, Role.MANAGER, Role.MASTER},
    "operator": {Role.MANAGER, Role.MASTER},
    "master": {Role.MASTER},
}
CLOSED = [route for route in API if route.who in MAY]


def path_of(route: Route, **names: str) -> str:
    """The route's path with names in it; a thing that nobody has where none is given."""
    return route.path.format(**{**NAMES, **names})


async def ask(system: System, route: Route, token: str | None, path: str, body: Any = None) -> Answer:
    """The call, with what it cannot do without. The head is enough of a stream."""
    method = "HEAD" if route.media == "text/event-stream" else route.method
    payload = body if body is not None else {} if route.body is not None else None
    headers = {"Idempotency_Key": new_key()} if "Idempotency-Key" in route.headers else {}
    return await system.call(method, path, payload, token, **headers)


def word(answer: Answer) -> str:
    """The problem's word; of an answer to HEAD, which has none, the status says enough."""
    return (answer.code or "") if answer.body else ""


# --- roles


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(system: System) -> dict[str, str]:
    """A sale that a manager made, and an order's id as it gives them out."""
    sale = await system.sale()
    return {"sale": sale, "order": order_id(system.app[ROOMS].book.get(sale).no)}


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: route.name)
async def test_nobody_is_let_in_without_a_name(system: System, real: dict[str, str], route: Route) -> None:
    """No token, a made-up one, one of another kind: 401, before anything else is looked at."""
    path = path_of(route, **real)
    for token in (None, "nonsense", "a.b.c"):
        assert 401 == (await ask(system, route, token, path)).status


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: route.name)
async def test_no_role_does_another_s_work(system: System, real: dict[str, str], route: Route) -> None:
    """Every role that the table does not name is refused as `forbidden`; none that it names is."""
    for number, role in enumerate(Role):
        first = 10_000 + 10 * CLOSED.index(route) + number
        (token,) = await tokens(system.app, role, 1, first=first)
        may = role in MAY[route.who]
        # Whoever may is shown a sale that is not there, so that nothing of the real one changes.
        answer = await ask(system, route, token, path_of(route, **({"sale": "nothing"} if may else real)))
        if may:
            assert 401 != answer.status and "forbidden" != word(answer), f"{role}: {answer.body!r}"
        else:
            assert 403 == answer.status and word(answer) in ("forbidden", ""), f"{role}: {answer.body!r}"


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: route.name)
async def test_nothing_works_before_the_address_is_verified(system: System, real: dict[str, str], route: Route) -> None:
    """But looking at the account, signing out, and going."""
    account = f"unverified-{CLOSED.index(route)}"
    access, pool = system.app[auth.ACCESS], system.app[ROOMS].stores.pool
    await pool.execute("INSERT INTO accounts (id) VALUES ($1) ON CONFLICT DO NOTHING", account)
    now_ms = time.time_ns() // 1_000_000
    token = access.mint(account=account, role=Role.CUSTOMER, session=NEVER, is_verified=False, now_ms=now_ms)
    answer = await ask(system, route, token, path_of(route, **real))

    assert (route.name not in UNVERIFIED_MAY) == (403 == answer.status and word(answer) in ("email_unverified", ""))


# --- another's things


BODIES: dict[str, Any] = {
    "confirm": {"payment": {"provider": "sandbox", "method": "card", "token": "ok"}},
    "amend": {"items": [{"product": "x", "quantity": 1}]},
    "change_address": {"line1": "x"},
}
# By the owner's id; what stands in one's own cart or wish list is named by a product.
OWNED = [
    route
    for route in API
    if route.who in ("buyer", "holder") and re.search(r"\{(order|ticket|address|session)\}", route.path)
]


async def test_another_s_things_are_not_there(system: System) -> None:
    """Everything that a buyer owns, tried by another on every call that takes such an id: 404, and nothing happens."""
    sale = await system.sale()
    mina, jun = await system.person("mina-crawl@example.com"), await system.person("jun-crawl@example.com")
    home = {"recipient": "김미나", "line1": "세종대로 1"}
    order = await system.order(sale, mina)
    owned = {
        "order": order,
        "ticket": (await system.call("POST", f"/v1/sales/{sale}/tickets", token=mina)).json["ticket"],
        "address": (await system.call("POST", "/v1/me/addresses", home, mina)).json["address"],
        "session": (await system.call("GET", "/v1/sessions", token=mina)).json["items"][0]["session"],
    }
    tried: dict[str, int] = {}
    for route in OWNED:
        answer = await ask(system, route, jun, route.path.format(**owned), BODIES.get(route.name))
        tried[f"{route.method} {route.path}"] = answer.status

    assert {404} == set(tried.values()), tried
    assert {"order", "ticket", "address", "session"} == {
        name for name in owned if any(f"{{{name}}}" in route.path for route in OWNED)
    }
    assert "reserved" == (await system.call("GET", f"/v1/orders/{order}", token=mina)).json["state"]
    assert "admitted" == (await system.call("GET", f"/v1/tickets/{owned['ticket']}", token=mina)).json["state"]
    assert 1 == len((await system.call("GET", "/v1/me/addresses", token=mina)).json["items"])
    for listed in ("/v1/orders", "/v1/me/addresses"):
        assert [] == (await system.call("GET", listed, token=jun)).json["items"]


# --- personal data at rest


async def everything(url: str) -> bytes:
    """Every row of every table, as a dump writes it."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    dump: list[bytes] = []

    async def keep(part: bytes) -> None:
        dump.append(part)

    for (table,) in tables:
        await connection.copy_from_table(table, output=keep)
    await connection.close()
    assert len(tables) > 20
    return b"".join(dump)


def spellings(text: str) -> Iterable[bytes]:
    """A text as it may stand in a dump: as it is, as a bytea, in JSON's escapes, in base64 at each offset."""
    raw = text.encode()
    yield raw
    yield raw.hex().encode()
    yield json.dumps(text)[1:-1].encode()
    for offset in range(3):
        yield base64.b64encode(b"\0" * offset + raw)[4 if offset else 0 : -4]


async def test_a_dump_tells_nobody_s_name(system: System, postgres_database: str) -> None:
    """Accounts, address book, sessions, orders on their way, letters and requests of both kinds: all of it sealed."""
    sale = await system.sale()
    email = "dumped.person@example.com"
    home = {"recipient": "홍길동전", "line1": "비밀로 7777", "phone": "010-2222-3333"}
    mina = await system.person(email, name="김비밀", phone="010-4444-5555", address=home)
    admission = await system.pass_of(sale, mina)
    items = [{"product": f"{sale}-hat", "quantity": 1}]
    order = (await system.reserve(sale, mina, admission, body={"items": items, "address": home})).json["order"]
    assert 200 == (await system.pay(order, mina)).status
    # Asked for and not yet answered, written and not yet sent.
    await system.call("POST", "/v1/password-resets", {"email": email})
    await system.call(
        "POST", "/v1/accounts", {"email": email, "password": PASSWORD, "name": "김비밀", "phone": "010-4444-5555"}
    )
    dump = await everything(postgres_database)

    assert order.encode() in dump
    detail = await system.call("GET", f"/v1/orders/{order}", token=mina)
    assert home["line1"] == detail.json["address"]["line1"]
    for secret in (
        email,
        "dumped.person",
        "김비밀",
        "010-4444-5555",
        "홍길동전",
        "비밀로 7777",
        "010-2222-3333",
        PASSWORD,
    ):
        assert not [spelt for spelt in spellings(secret) if len(spelt) > 5 and spelt in dump], secret


async def test_the_judge_of_dumps_can_fail(system: System, postgres_database: str) -> None:
    """A name in clear, anywhere, is found."""
    pool = system.app[ROOMS].stores.pool
    await pool.execute("INSERT INTO poison VALUES ('canary', 'money', 1, '1-1', $1, 'x')", json.dumps({"a": "김탄광"}))
    dump = await everything(postgres_database)
    await pool.execute("DELETE FROM poison WHERE sale = 'canary'")

    assert [spelt for spelt in spellings("김탄광") if spelt in dump]


async def test_deleting_leaves_orders_and_nobody_s_name(system: System) -> None:
    """The order stays for the record; where it goes is erased when it has arrived."""
    sale, email = await system.sale(), "leaving@example.com"
    mina = await system.person(email)
    home = {"recipient": "김미나", "line1": "세종대로 1"}
    body = {"items": [{"product": f"{sale}-hat", "quantity": 1}], "address": home}
    order = (await system.reserve(sale, mina, await system.pass_of(sale, mina), body=body)).json["order"]
    assert 200 == (await system.pay(order, mina)).status
    assert 204 == (await system.call("DELETE", "/v1/me", token=mina)).status
    pool = system.app[ROOMS].stores.pool

    assert 401 == (await system.call("GET", f"/v1/orders/{order}", token=mina)).status
    assert await pool.fetchval("SELECT address IS NOT NULL AND claim = 'sold' FROM orders WHERE id = $1", order)
    await pool.execute("UPDATE orders SET state = 'completed' WHERE id = $1", order)
    assert 1 == (await AddressForgetting(pool).tick()).forgotten
    assert await pool.fetchval("SELECT address IS NULL FROM orders WHERE id = $1", order)


# --- who has an account


def welch(one: list[float], other: list[float]) -> float:
    """|t| of two samples, both cut where nine tenths of all lie: a machine that stumbles says nothing."""
    limit = sorted((*one, *other))[int(0.9 * (len(one) + len(other)))]
    one, other = ([took for took in each if took <= limit] for each in (one, other))
    spread = math.sqrt(statistics.variance(one) / len(one) + statistics.variance(other) / len(other))
    return abs(statistics.mean(one) - statistics.mean(other)) / spread


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def known(system: System) -> AsyncIterator[list[str]]:
    """Addresses with an account. The budgets are lifted: they would tell a guesser nothing, but end this test."""
    lifted = [system.app[key]._tries for key in (auth.SIGN_INS, auth.LETTER_ASKS, auth.CODE_TRIES)]
    budgets = [each.budget for each in lifted]
    for each in lifted:
        each.budget = Budget(tries=1_000_000, refill_ms=1)
    emails = [f"known-{number}@example.com" for number in range(4)]
    for email in emails:
        await system.person(email)
    yield emails
    for each, budget in zip(lifted, budgets, strict=True):
        each.budget = budget


async def timed(
    system: System, path: str, body: Callable[[str], Any], known: list[str], pairs: int
) -> tuple[dict[str, list[float]], set[tuple[int, bytes]]]:
    """Seconds of calls that name a known or an unknown address, in random order, and every different answer."""
    took: dict[str, list[float]] = {"known": [], "unknown": []}
    answers: set[tuple[int, bytes]] = set()
    kinds = ["known", "unknown"] * pairs
    random.Random(7).shuffle(kinds)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{system.address[1]}") as client:
        for number, kind in enumerate(kinds):
            email = known[number % len(known)] if kind == "known" else f"unknown-{number % len(known)}@example.com"
            began = time.perf_counter()
            async with client.post(path, json=body(email)) as response:
                said = await response.read()
            took[kind].append(time.perf_counter() - began)
            told = json.loads(said)
            told.pop("request_id", None)
            answers.add((response.status, json.dumps(told, sort_keys=True).encode()))
    return took, answers


GUESSES: dict[str, tuple[str, Callable[[str], Any], int]] = {
    "sign-in": ("/v1/sessions", lambda email: {"email": email, "password": "wrong"}, 60),
    "sign-up": (
        "/v1/accounts",
        lambda email: {"email": email, "password": PASSWORD, "name": "x", "phone": "010-1234-5678"},
        60,
    ),
    "code": ("/v1/accounts/verification-codes", lambda email: {"email": email}, 150),
    "verification": ("/v1/accounts/verification", lambda email: {"email": email, "code": "000000"}, 150),
    "reset": ("/v1/password-resets", lambda email: {"email": email}, 150),
}


@pytest.mark.parametrize("guess", GUESSES)
async def test_no_answer_tells_who_has_an_account(system: System, known: list[str], guess: str) -> None:
    """The same status, the same words, the same time: Welch's |t| under 4.5 over interleaved tries."""
    path, body, pairs = GUESSES[guess]
    if guess == "sign-up":
        # An unknown address is one only once: here each is asked for anew.
        numbers = iter(range(10_000))
        inner = body

        def body(email: str) -> Any:
            return inner(email if email.startswith("known") else f"fresh-{next(numbers)}@example.com")

    took, answers = await timed(system, path, body, known, pairs)

    assert 1 == len(answers), answers
    assert 4.5 > welch(took["known"], took["unknown"])


async def test_without_the_dummy_hash_it_would_tell(
    system: System, known: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge can fail: an unknown address that costs no hash is told apart at once."""
    honest = Place.check

    async def hasty(self: Place, stored: str | None, password: str) -> Checked:
        return Checked(False) if stored is None else await honest(self, stored, password)

    monkeypatch.setattr(Place, "check", hasty)
    took, _ = await timed(system, *GUESSES["sign-in"][:2], known, 20)

    assert 4.5 < welch(took["known"], took["unknown"])


# --- what a signed-in request costs


async def test_a_signed_in_poll_asks_redis_for_nothing(system: System) -> None:
    """10,000 polls with an access token: what both Redis servers did beyond what they do anyway is far below one
    operation each."""
    token = await system.buyer()
    sale = await system.sale(admission={"rate_per_second": 0.0})
    ticket = (await system.joined(sale, token))["ticket"]
    request = f"GET /v1/tickets/{ticket} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    await system.until(f"/v1/tickets/{ticket}", token, lambda told: told["state"] == "waiting")

    began, before = time.monotonic(), await operations(system)
    await asyncio.sleep(1.5)
    usual_per_s = (await operations(system) - before) / (time.monotonic() - began)
    began, before = time.monotonic(), await operations(system)
    answered = await pipelined(system, request, 10_000)
    beyond = await operations(system) - before - usual_per_s * (time.monotonic() - began)

    assert 10_000 == answered
    assert beyond < 5_000


async def operations(system: System) -> int:
    """Commands that the line's and the shop's Redis have run, those inside scripts too."""
    stores, total = system.app[ROOMS].stores, 0
    for redis in (stores.line, stores.shop):
        total += sum(int(command["calls"]) for command in (await redis.info("commandstats")).values())
    return total


async def pipelined(system: System, request: bytes, count: int) -> int:
    """Send a request so often on one connection, a hundred ahead; how many were answered 200."""
    reader, writer = await asyncio.open_connection(*system.address)
    answered = 0
    try:
        async with asyncio.timeout(60):
            for _ in range(count // 100):
                writer.write(request * 100)
                for _ in range(100):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    await reader.readexactly(length)
                    answered += head.startswith(b"HTTP/1.1 200")
    finally:
        writer.close()
    return answered


# --- a flood of sign-ins


async def test_in_a_flood_nobody_waits_long(system: System, known: list[str]) -> None:
    """300 sign-ins at once: each is answered within two seconds and a little, refused ones with when to come back; and
    a poll meanwhile does not wait for them."""
    token = await system.buyer()

    async def sign_in(number: int) -> tuple[int, float, str]:
        began = time.monotonic()
        body = {"email": f"flood-{number}@example.com", "password": "wrong"}
        answer = await system.call("POST", "/v1/sessions", body)
        return answer.status, time.monotonic() - began, answer.headers.get("Retry-After", "")

    flood: list[Awaitable[tuple[int, float, str]]] = [asyncio.create_task(sign_in(number)) for number in range(300)]
    me = await system.call("GET", "/v1/sessions", token=token)
    answers = await asyncio.gather(*flood)

    assert 200 == me.status
    assert {401, 429} == {status for status, _, _ in answers}
    assert all(after for status, _, after in answers if status == 429)
    # What it took to open three hundred connections is no sign-in's wait.
    assert max(took for _, took, _ in answers) < 4.0


# --- logs


async def test_no_log_holds_a_secret(system: System, caplog: pytest.LogCaptureFixture) -> None:
    """A person's whole way, and every kind of refusal, with every field that is logged at all."""
    caplog.set_level(logging.INFO)
    # What the recipient's mail server writes is not ours; it runs in this process, and whose log it is in is chance.
    caplog.set_level(logging.CRITICAL, logger="mail.log")
    secrets = ["canary.person@example.com", "카나리아", "010-7777-8888", PASSWORD, "wrong-canary"]
    with structlog.testing.capture_logs() as logged:
        token = await system.person("canary.person@example.com", name="카나리아", phone="010-7777-8888")
        code = system.mail.code("canary.person@example.com")
        key = (await system.call("POST", "/v1/stream-keys", token=token)).json["stream_key"]
        grant = (
            await system.call("POST", "/v1/sessions", {"email": "canary.person@example.com", "password": PASSWORD})
        ).json
        await system.call("POST", "/v1/sessions", {"email": "canary.person@example.com", "password": "wrong-canary"})
        await system.call("POST", "/v1/sessions/refresh", {"refresh_token": grant["refresh_token"] + "x"})
        await system.call("GET", f"/v1/tickets/{NEVER}/events?stream_key={key}")
        await system.call("GET", "/v1/me?email=canary.person@example.com", token=token)
        await system.call("POST", "/v1/accounts/verification", {"email": "canary.person@example.com", "code": code})
        await system.call("POST", "/v1/password-resets", {"email": "canary.person@example.com"})
        async with asyncio.timeout(20):
            while len(system.mail.to("canary.person@example.com")) < 2:
                await asyncio.sleep(0.02)
        reset = system.mail.token("canary.person@example.com")
        await system.call("POST", "/v1/password-resets/confirmation", {"token": reset, "new": "short"})
        await system.call("PUT", "/v1/me/password", {"current": "wrong-canary", "new": "another 전차 eight"}, token)
        await system.call("DELETE", "/v1/me", token=token)
    said = repr(logged) + "".join(each.getMessage() for each in caplog.records)

    for secret in (*secrets, token, key, code, reset, grant["access_token"], grant["refresh_token"]):
        assert secret not in said, secret
    assert len(logged) > 10
