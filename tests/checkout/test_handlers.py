"""Checkout over HTTP: the answers, headers and refusals that other programs rely on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from flow_kit import KEYRING, PRICE, Checkout

from onsale.auth import middleware as auth
from onsale.auth.access import AccessTokens
from onsale.auth.errors import StoreUnavailable
from onsale.auth.identifiers import new_id, order_id
from onsale.auth.roles import Role
from onsale.auth.tickets import Tickets
from onsale.catalog.handlers import BOOK
from onsale.checkout import handlers
from onsale.checkout.driving import DrivePolicy
from onsale.checkout.flow import FlowPolicy
from onsale.checkout.reads import Reads
from onsale.checkout.stock import StockBoard
from onsale.server.problems import problem_response
from onsale.server.routes import ROUTES

ADDRESS = {"recipient": "김민아", "line1": "세종대로 110", "city": "서울", "country": "KR"}


@web.middleware
async def problems(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        return problem_response(error, language="en", request_id="r")


class Client:
    """Somebody who asks, with or without a name."""

    def __init__(self, http: TestClient[Any, Any], checkout: Checkout) -> None:
        self.http = http
        self.checkout = checkout
        self.tokens = AccessTokens(KEYRING, "http://test", set())

    def headers(self, account: str, role: Role = Role.CUSTOMER) -> dict[str, str]:
        now_ms = time.time_ns() // 1_000_000
        token = self.tokens.mint(account=account, role=role, session="s", is_verified=True, now_ms=now_ms)
        return {"Authorization": f"Bearer {token}"}

    async def send(self, method: str, path: str, account: str = "ann", **more: Any) -> tuple[ClientResponse, Any]:
        headers = {**self.headers(account, more.pop("role", Role.CUSTOMER)), **more.pop("headers", {})}
        async with self.http.request(method, path, headers=headers, **more) as reply:
            text = await reply.read()
            return reply, (await reply.json(content_type=None)) if text else None

    async def reserve(self, account: str = "ann", *, key: str = "", **body: Any) -> tuple[ClientResponse, Any]:
        headers = {"Admission-Pass": self.checkout.pass_of(account), "Idempotency-Key": key or new_id()}
        wanted = {"items": [{"product": "jacket", "quantity": 1}], **body}
        return await self.send("POST", "/v1/sales/drop/orders", account, json=wanted, headers=headers)

    async def confirm(
        self, order: str, token: str = "ok", *, account: str = "ann", key: str = ""
    ) -> tuple[ClientResponse, Any]:
        body = {"payment": {"provider": "sandbox", "method": "card", "token": token}}
        headers = {"Idempotency-Key": key or new_id()}
        return await self.send("POST", f"/v1/orders/{order}/confirmation", account, json=body, headers=headers)


@pytest.fixture
def policy() -> FlowPolicy:
    return FlowPolicy()


@pytest.fixture
async def client(checkout: Checkout, policy: FlowPolicy) -> AsyncIterator[Client]:
    """A server with checkout's routes, as the table has them."""
    process = checkout.another(policy=policy)
    app = web.Application(middlewares=[problems])
    for route in ROUTES:
        if route.handler.__module__ == handlers.__name__:
            app.router.add_route(route.method, route.path, route.handler)
    app[auth.ACCESS] = AccessTokens(KEYRING, "http://test", set())
    app[auth.COOKIES] = auth.Cookies("http://test")
    app[auth.TICKETS] = Tickets(KEYRING)
    app[BOOK] = checkout.book
    app[handlers.FLOW] = process.flow
    app[handlers.READS] = Reads(checkout.book, process.inventory, checkout.orders, checkout.sealer)
    app[handlers.STOCK] = StockBoard(checkout.book, process.inventory)
    async with TestClient(TestServer(app)) as http:
        yield Client(http, process)
    await process.flow.close()


async def test_reservation_is_answered_whole(client: Client) -> None:
    """201 with Location and the order as everyone reads it."""
    reply, order = await client.reserve(key="k", expected_total={"amount": PRICE, "currency": "KRW"})

    assert 201 == reply.status
    assert f"/v1/orders/{order['order']}" == reply.headers["Location"]
    assert "Idempotency-Replayed" not in reply.headers
    expires_at = order.pop("expires_at")
    assert expires_at.endswith("Z")
    assert {
        "order": order["order"],
        "sale": "drop",
        "state": "reserved",
        "items": [
            {
                "product": "jacket",
                "title": "Jacket",
                "quantity": 1,
                "unit_price": {"amount": 1000, "currency": "KRW"},
                "list_price": {"amount": 1200, "currency": "KRW"},
            }
        ],
        "total": {"amount": 1000, "currency": "KRW"},
        "recorded": False,
        "payments": [],
        "reason": None,
    } == order


async def test_replayed_reservation_says_so(client: Client) -> None:
    """The same bytes and the mark; another body under the same key is refused."""
    _, first = await client.reserve(key="k")
    reply, again = await client.reserve(key="k")
    other, problem = await client.reserve(key="k", items=[{"product": "jacket", "quantity": 2}])

    assert (201, "true", first) == (reply.status, reply.headers["Idempotency-Replayed"], again)
    assert (422, "idempotency_key_reused") == (other.status, problem["code"])


async def test_replayed_refusal_says_so(client: Client) -> None:
    """A refusal of business is stored as an answer is."""
    await client.reserve()
    first, _ = await client.reserve(key="k")
    again, problem = await client.reserve(key="k")

    assert (409, 409, "reservation_open") == (first.status, again.status, problem["code"])
    assert [None, "true"] == [reply.headers.get("Idempotency-Replayed") for reply in (first, again)]


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({}, 422, "#/items"),
        ({"items": []}, 422, "#/items"),
        ({"items": [{"product": "jacket"}]}, 422, "#/items/0/quantity"),
        ({"items": [{"product": "jacket", "quantity": 0}]}, 422, "#/items/0/quantity"),
        ({"items": [{"product": "jacket", "quantity": -1}]}, 422, "#/items/0/quantity"),
        ({"items": [{"product": "jacket", "quantity": 1001}]}, 422, "#/items/0/quantity"),
        ({"items": [{"product": "jacket", "quantity": 10**30}]}, 422, "#/items/0/quantity"),
        ({"items": [{"product": "jacket", "quantity": 1.5}]}, 422, "#/items/0/quantity"),
        ({"items": [{"product": "jacket", "quantity": "1"}]}, 422, "#/items/0/quantity"),
        ({"items": [{"product": "jacket", "quantity": True}]}, 422, "#/items/0/quantity"),
        ({"items": [{"product": "j" * 100_000, "quantity": 1}]}, 413, None),
        ({"items": [{"product": "../etc", "quantity": 1}]}, 422, "#/items/0/product"),
        ({"items": [{"product": "jacket", "quantity": 1}] * 51}, 422, "#/items"),
        ({"items": [{"product": "jacket", "quantity": 1}] * 2}, 422, "#/items/1/product"),
        ({"items": [{"product": "jacket", "quantity": 1, "price": 1}]}, 422, "#/items/0/price"),
        ({"items": [{"product": "jacket", "quantity": 1}], "total": 1}, 422, "#/total"),
        ({"items": [{"product": "jacket", "quantity": 1}], "address": "x"}, 422, "#/address"),
        (
            {"items": [{"product": "jacket", "quantity": 1}], "expected_total": {"amount": -1, "currency": "KRW"}},
            422,
            "#/expected_total/amount",
        ),
    ],
)
async def test_bad_body_is_refused_with_its_place(
    client: Client, body: dict[str, Any], status: int, pointer: str | None
) -> None:
    """Whatever is wrong is named by a pointer, and nothing is held."""
    headers = {"Admission-Pass": client.checkout.pass_of("ann"), "Idempotency-Key": "k"}
    reply, problem = await client.send("POST", "/v1/sales/drop/orders", json=body, headers=headers)

    assert status == reply.status
    assert pointer == (problem["errors"][0]["pointer"] if pointer else None)
    assert {"free": 10} == await client.checkout.units()


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b'{"items": NaN}', b'{"items": [Infinity]}', b"[" * 5000])
async def test_what_is_not_json_is_400(client: Client, raw: bytes) -> None:
    """Broken JSON is told from a bad value."""
    headers = {
        "Admission-Pass": client.checkout.pass_of("ann"),
        "Idempotency-Key": "k",
        "Content-Type": "application/json",
    }
    reply, problem = await client.send("POST", "/v1/sales/drop/orders", data=raw, headers=headers)

    assert (400, "malformed_json") == (reply.status, problem["code"])


async def test_refusals_have_their_codes(client: Client) -> None:
    """Every way to ask wrongly has its own word."""
    own = client.checkout.pass_of("ann")
    good = {"items": [{"product": "jacket", "quantity": 1}]}
    key = {"Idempotency-Key": "k"}
    asked: list[tuple[str, Mapping[str, str], Any, int, str]] = [
        ("drop", {"Admission-Pass": own}, good, 400, "idempotency_key_required"),
        ("drop", {"Admission-Pass": own, "Idempotency-Key": "k" * 129}, good, 400, "idempotency_key_required"),
        ("drop", key, good, 403, "pass_required"),
        ("drop", {**key, "Admission-Pass": "forged"}, good, 403, "pass_invalid"),
        ("drop", {**key, "Admission-Pass": client.checkout.pass_of("bob")}, good, 403, "pass_invalid"),
        ("drop", {**key, "Admission-Pass": client.checkout.pass_of("ann", exp_ms=1)}, good, 403, "pass_expired"),
        ("none", {**key, "Admission-Pass": own}, good, 404, "sale_unknown"),
        (
            "drop",
            {**key, "Admission-Pass": own},
            {"items": [{"product": "shoe", "quantity": 1}]},
            404,
            "product_unknown",
        ),
        (
            "drop",
            {**key, "Admission-Pass": own},
            {**good, "expected_total": {"amount": 1, "currency": "KRW"}},
            409,
            "price_changed",
        ),
    ]
    for number, (sale, headers, body, status, code) in enumerate(asked):
        if headers.get("Idempotency-Key") == "k":
            # A refusal is kept for its key: each request has its own.
            headers = {**headers, "Idempotency-Key": f"k{number}"}
        reply, problem = await client.send("POST", f"/v1/sales/{sale}/orders", json=body, headers=headers)
        assert (status, code) == (reply.status, problem["code"])
    assert {"amount": PRICE, "currency": "KRW"} == problem["total"]
    assert {"free": 10} == await client.checkout.units()


async def test_nobody_signed_in_is_401(client: Client) -> None:
    """Each call but the stock says so."""
    order = order_id(client.checkout.sale.no)
    calls = [
        ("POST", "/v1/sales/drop/orders"),
        ("POST", f"/v1/orders/{order}/confirmation"),
        ("GET", "/v1/orders"),
        ("GET", f"/v1/orders/{order}"),
        ("GET", f"/v1/orders/{order}/payments"),
        ("DELETE", f"/v1/orders/{order}"),
        ("GET", "/v1/sales/drop/orders"),
    ]
    for method, path in calls:
        async with client.http.request(method, path) as reply:
            assert 401 == reply.status


async def test_confirmation_is_200_and_recorded(client: Client) -> None:
    """Confirmed, with its payment; the order reads the same afterwards; a replay says that it is one."""
    _, held = await client.reserve()
    reply, order = await client.confirm(held["order"], key="k")
    again, replayed = await client.confirm(held["order"], key="k")
    other, _ = await client.confirm(held["order"])
    _, shown = await client.send("GET", f"/v1/orders/{held['order']}")

    assert (200, "confirmed", True) == (reply.status, order["state"], order["recorded"])
    [payment] = order["payments"]
    assert ("sandbox", "card", "captured", None, False) == tuple(
        payment[name] for name in ("provider", "method", "state", "reason", "retryable")
    )
    assert (200, "true", order) == (again.status, again.headers["Idempotency-Replayed"], replayed)
    assert (200, None) == (other.status, other.headers.get("Idempotency-Replayed"))
    shown.pop("address")
    assert order == shown


async def test_declined_payment_is_402(client: Client) -> None:
    """With its reason, and whether it may be tried again; the same again for its key."""
    _, held = await client.reserve()
    for replayed in (None, "true"):
        reply, problem = await client.confirm(held["order"], "decline_card_expired", key="k")
        assert (402, "payment_declined", "card_expired", True) == (
            reply.status,
            problem["code"],
            problem["reason"],
            problem["retryable"],
        )
        assert replayed == reply.headers.get("Idempotency-Replayed")
    reused, problem = await client.confirm(held["order"], "ok", key="k")
    final, declined = await client.confirm(held["order"], "cancelled_by_buyer")

    assert (422, "idempotency_key_reused") == (reused.status, problem["code"])
    assert (402, "cancelled_by_buyer", False) == (final.status, declined["reason"], declined["retryable"])
    _, listed = await client.send("GET", f"/v1/orders/{held['order']}/payments")
    assert [("declined", "card_expired", True), ("failed", "cancelled_by_buyer", False)] == [
        (payment["state"], payment["reason"], payment["retryable"]) for payment in listed["items"]
    ]


@pytest.mark.parametrize("policy", [FlowPolicy(150, DrivePolicy(drive_ms=700, call_ms=500))])
async def test_unfinished_confirmation_is_202(client: Client) -> None:
    """Past the patience: confirming, recorded, when to ask again; again 202 whatever the key."""
    _, held = await client.reserve()
    for key in ("k", "k", "other"):
        reply, order = await client.confirm(held["order"], "timeout", key=key)
        assert (202, "confirming") == (reply.status, order["state"])
        assert int(reply.headers["Retry-After"]) >= 1
    assert order["recorded"]
    conflict, problem = await client.send("DELETE", f"/v1/orders/{held['order']}")

    assert (409, "order_state_conflict") == (conflict.status, problem["code"])


@pytest.mark.parametrize("policy", [FlowPolicy(150, DrivePolicy(drive_ms=700, call_ms=500))])
async def test_unrecorded_confirmation_says_so(client: Client, checkout: Checkout) -> None:
    """202 with `recorded: false`: nothing is charged yet."""
    await checkout.stop_record()
    _, held = await client.reserve()
    reply, order = await client.confirm(held["order"])

    assert (202, "confirming", False) == (reply.status, order["state"], order["recorded"])
    assert [] == await checkout.sandbox.charges(held["order"])
    checkout.start_record()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"payment": {}},
        {"payment": {"provider": "nobody", "method": "card", "token": "ok"}},
        {"payment": {"provider": "sandbox", "method": "card", "token": ""}},
        {"payment": {"provider": "sandbox", "method": "card", "token": "x" * 3000}},
        {"payment": {"provider": "sandbox", "method": "card", "token": "a\u0000b"}},
        {"payment": {"provider": "sandbox", "method": "card", "token": "ok", "amount": 1}},
    ],
)
async def test_bad_payment_is_422(client: Client, body: dict[str, Any]) -> None:
    """Nothing is pinned."""
    _, held = await client.reserve()
    headers = {"Idempotency-Key": "k"}
    reply, problem = await client.send("POST", f"/v1/orders/{held['order']}/confirmation", json=body, headers=headers)

    assert (422, "invalid_request") == (reply.status, problem["code"])
    assert {"free": 9, "held": 1} == await client.checkout.units()


async def test_others_orders_are_404(client: Client) -> None:
    """Reading, paying and giving up another's order, an unknown one or nonsense: the same 404, and nothing changes."""
    _, held = await client.reserve()
    for order in (held["order"], order_id(client.checkout.sale.no), "nonsense", "v" * 26, "0" * 200):
        confirmed, _ = await client.confirm(order, account="bob")
        calls = [("GET", ""), ("GET", "/payments"), ("DELETE", "")]
        answers = [await client.send(method, f"/v1/orders/{order}{rest}", "bob") for method, rest in calls]
        assert [404] * 4 == [confirmed.status, *(reply.status for reply, _ in answers)]
        assert {"order_unknown"} == {problem["code"] for _, problem in answers}
    assert {"free": 9, "held": 1} == await client.checkout.units()


async def test_reservation_is_given_up_once(client: Client) -> None:
    """204, also when repeated; its unit is free, and the order says so."""
    _, held = await client.reserve()
    statuses = [(await client.send("DELETE", f"/v1/orders/{held['order']}"))[0].status for _ in range(3)]
    _, order = await client.send("GET", f"/v1/orders/{held['order']}")

    assert [204] * 3 == statuses
    assert "released" == order["state"]
    assert {"free": 10} == await client.checkout.units()
    reply, problem = await client.confirm(held["order"])
    assert (409, "order_state_conflict") == (reply.status, problem["code"])


async def test_address_is_sealed_and_shown_to_its_buyer(client: Client, checkout: Checkout) -> None:
    """It stands nowhere in clear, and reads as it was written."""
    _, held = await client.reserve(address=ADDRESS)
    _, before = await client.send("GET", f"/v1/orders/{held['order']}")
    await client.confirm(held["order"])
    _, after = await client.send("GET", f"/v1/orders/{held['order']}")

    assert ADDRESS == {name: text for name, text in before["address"].items() if text}
    assert before["address"] == after["address"]
    stored = await checkout.pool.fetchval("SELECT address FROM orders WHERE id = $1", held["order"])
    document = await checkout.redis.hget(checkout.keys.docs, held["order"])
    for clear in ("김민아", "세종대로"):
        assert clear.encode() not in stored
        assert clear.encode() not in document


async def test_order_is_shown_before_it_is_recorded(client: Client, checkout: Checkout) -> None:
    """Redis knows it first: shown with `recorded: false`, then true."""
    await checkout.stop_record()
    _, held = await client.reserve()
    _, before = await client.send("GET", f"/v1/orders/{held['order']}")
    await checkout.record()
    _, after = await client.send("GET", f"/v1/orders/{held['order']}")
    checkout.start_record()

    assert [False, True] == [before["recorded"], after["recorded"]]
    assert before | {"recorded": True} == after


async def test_order_is_shown_by_the_store_that_is_there(client: Client, checkout: Checkout) -> None:
    """Redis away: what the record says. Postgres away: what Redis says, not recorded. Both: 503, never 404."""
    order = await checkout.bought("ann")
    reads = client.http.server.app[handlers.READS]  # type: ignore[attr-defined]
    inventory, orders = reads._inventory, reads._orders

    class Away:
        async def look(self, *_: Any) -> None:
            raise StoreUnavailable

        get = look

    answers = []
    for redis, postgres in ((Away(), orders), (inventory, Away()), (Away(), Away())):
        reads._inventory, reads._orders = redis, postgres
        reply, shown = await client.send("GET", f"/v1/orders/{order}")
        answers.append((reply.status, shown.get("state"), shown.get("recorded")))

    assert [(200, "confirmed", True), (200, "confirmed", False), (503, None, None)] == answers


async def test_orders_are_listed_newest_first(client: Client, checkout: Checkout) -> None:
    """By pages that neither repeat nor miss one, filtered, and only one's own."""
    orders = []
    for number in range(5):
        held = await checkout.reserve("ann", turn=f"1-{number}-1")
        await checkout.inventory.release(checkout.keys, held.order, "ann")
        orders.append(held.order)
    mine = await checkout.bought("bob")
    await checkout.stop_record()
    await checkout.record()

    found: list[str] = []
    cursor = ""
    while cursor is not None:
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        _, page = await client.send("GET", "/v1/orders", params=query)
        found += [order["order"] for order in page["items"]]
        cursor = page["next_cursor"]
    _, none = await client.send("GET", "/v1/orders", params={"state": "confirmed"})
    _, bobs = await client.send("GET", "/v1/orders", "bob", params={"state": "confirmed", "sale": "drop"})
    _, later = await client.send("GET", "/v1/orders", params={"from": "2999-01-01T00:00:00Z"})
    _, until = await client.send("GET", "/v1/orders", params={"to": "2999-01-01T00:00:00Z", "limit": "1"})

    assert sorted(orders, reverse=True) == found
    assert ([], [mine], [], 1) == (
        none["items"],
        [order["order"] for order in bobs["items"]],
        later["items"],
        len(until["items"]),
    )


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "x"},
        {"limit": "１"},
        {"cursor": "nonsense"},
        {"state": "paid"},
        {"from": "yesterday"},
        {"from": "2026-01-01"},
        {"page": "2"},
    ],
)
async def test_bad_query_is_422(client: Client, query: dict[str, str]) -> None:
    """Unknown names and bad values are refused, not guessed."""
    reply, problem = await client.send("GET", "/v1/orders", params=query)

    assert (422, f"?{next(iter(query))}") == (reply.status, problem["errors"][0]["pointer"])


async def test_orders_of_a_sale_are_for_its_managers(client: Client, checkout: Checkout) -> None:
    """Everybody's, with their buyers; nobody else may read them."""
    order = await checkout.bought("bob")
    forbidden, _ = await client.send("GET", "/v1/sales/drop/orders")
    reply, page = await client.send("GET", "/v1/sales/drop/orders", role=Role.MANAGER)
    unknown, _ = await client.send("GET", "/v1/sales/none/orders", role=Role.MASTER)

    assert (403, 200, 404) == (forbidden.status, reply.status, unknown.status)
    assert [(order, "bob", "confirmed")] == [(one["order"], one["buyer"], one["state"]) for one in page["items"]]


async def test_stock_is_read_by_anyone(client: Client, checkout: Checkout) -> None:
    """Free units, by at most one call a second to the sales and one to the shop, however many ask."""
    calls = 0
    found = checkout.inventory._scripts.stock_free

    async with client.http.get("/v1/products/jacket/stock") as reply:
        assert (200, {"free": 10}) == (reply.status, await reply.json())
    board = client.http.server.app[handlers.STOCK]  # type: ignore[attr-defined]

    async def counting(keys: Any, products: Any) -> Any:
        nonlocal calls
        calls += 1
        return await found(keys, products)

    board._inventory._scripts.stock_free = counting
    board._fresh_until_s = 0.0
    board._ordinary.clear()
    answers = await asyncio.gather(*(board.free("jacket") for _ in range(100)))
    assert ({10}, 2) == (set(answers), calls)
    async with client.http.get("/v1/products/shoe/stock") as reply:
        assert 404 == reply.status


async def test_tickets_token_buys_only_where_guests_may(client: Client, checkout: Checkout) -> None:
    """A ticket speaks for a guest in a sale that has guests, and for nobody elsewhere."""
    tickets = Tickets(KEYRING)
    ticket = tickets.issue(checkout.sale.no, 0, 1, 1, "guest-1")
    headers = {
        "Authorization": f"Bearer {tickets.token(ticket, 'guest-1')}",
        "Admission-Pass": checkout.pass_of("guest-1"),
        "Idempotency-Key": "k",
    }
    body = {"items": [{"product": "jacket", "quantity": 1}]}
    statuses = []
    for guests in (False, True):
        await checkout.pool.execute("UPDATE sales SET guests = $1", guests)
        await checkout.book.refresh()
        async with client.http.post("/v1/sales/drop/orders", json=body, headers=headers) as reply:
            statuses.append(reply.status)

    assert [401, 201] == statuses


async def test_managers_see_payments_of_any_order(client: Client) -> None:
    """Why somebody could not pay is asked of those who run the sale; a stranger is told that there is no such order."""
    _, order = await client.reserve()
    await client.confirm(order["order"], "decline_funds")
    path = f"/v1/orders/{order['order']}/payments"
    stranger, _ = await client.send("GET", path, "bob")
    nothing, _ = await client.send("GET", path[:-12] + "1/payments", "boss", role=Role.MANAGER)

    for account, role in (("ann", Role.CUSTOMER), ("boss", Role.MANAGER), ("boss", Role.MASTER)):
        found, listed = await client.send("GET", path, account, role=role)
        assert (200, ["funds"]) == (found.status, [payment["reason"] for payment in listed["items"]])
    assert (404, 404) == (stranger.status, nothing.status)


@pytest.mark.parametrize("method", ["card", "bank_transfer", "mobile", "wallet"])
async def test_every_method_pays(client: Client, method: str) -> None:
    """And stands beside the payment."""
    _, order = await client.reserve()
    body = {"payment": {"provider": "sandbox", "method": method, "token": "ok"}}
    path = f"/v1/orders/{order['order']}/confirmation"
    found, paid = await client.send("POST", path, json=body, headers={"Idempotency-Key": "k"})

    assert (200, method) == (found.status, paid["payments"][0]["method"])


async def test_a_method_that_is_none_is_refused(client: Client) -> None:
    """Nothing was pinned: the reservation stands."""
    _, order = await client.reserve()
    body = {"payment": {"provider": "sandbox", "method": "barter", "token": "ok"}}
    path = f"/v1/orders/{order['order']}/confirmation"
    found, problem = await client.send("POST", path, json=body, headers={"Idempotency-Key": "k"})

    assert (422, "invalid_request") == (found.status, problem["code"])
    assert {"free": 9, "held": 1} == await client.checkout.units()
