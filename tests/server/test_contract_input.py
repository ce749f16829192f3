"""Whatever a client sends gets a documented problem and changes nothing."""

import asyncio
import gzip
from types import SimpleNamespace

import pytest
import pytest_asyncio
from contract_kit import PATIENCE_S, Names

from onsale.server.routes import ROUTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

SENSELESS = (
    (b"{", 400, "malformed_json"),
    (b"{'a': 1}", 400, "malformed_json"),
    (b'{"a": 1,}', 400, "malformed_json"),
    (b'{"a": 1}{"a": 1}', 400, "malformed_json"),
    (b'{"a": NaN}', 400, "malformed_json"),
    (b'{"a": -Infinity}', 400, "malformed_json"),
    (b"\xef\xbb\xbf{}", 400, "malformed_json"),
    (b'{"a": "\xff"}', 400, "malformed_json"),
    (b'{"a": "\xed\xa0\x80"}', 400, "malformed_json"),
    (b'{"a": "\\ud800"}', 400, "malformed_json"),
    (b'{"a": "\x00"}', 400, "malformed_json"),
    (b"[" * 60_000, 400, "malformed_json"),
    (b"[" * 100_000, 413, "payload_too_large"),
    (b'{"a": "' + b"n" * 100_000 + b'"}', 413, "payload_too_large"),
    (b"null", 422, "invalid_request"),
    (b"[]", 422, "invalid_request"),
    (b'{"a": 1e400}', 422, "invalid_request"),
    (b'{"a": ' + b"9" * 5_000 + b"}", 422, "invalid_request"),
    (b'{"a": "\\u0000"}', 422, "invalid_request"),
    (b'{"\\u0000": 1}', 422, "invalid_request"),
    (b'{"' + b"n" * 60_000 + b'": 1}', 422, "invalid_request"),
)
DOUBLED = {
    "sign_in": b'{"email": "a@b.example", "password": "x", "password": "y"}',
    "change_admission": b'{"paused": true, "paused": true}',
    "reserve": b'{"items": [{"product": "hat", "quantity": 1, "quantity": 2}]}',
    "confirm": b'{"payment": {"provider": "sandbox", "method": "card", "token": "ok", "token": "ok"}}',
}
MEDIA = ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application/json; charset=latin1", "")
WITH_BODY = [route for route in ROUTES if route.body is not None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def order(system):
    """A reservation: its sale, ticket, order and buyer."""
    sale, buyer = await system.sale(), await system.buyer()
    ticket = await system.admitted(sale, buyer)
    answer = await system.reserve(sale, buyer, ticket["pass"]["token"])
    # Until the document has caught up, lists go on changing.
    async with asyncio.timeout(PATIENCE_S):
        while not (await system.call("GET", f"/v1/sales/{sale}/tickets", token=system.manager)).json["items"]:
            await asyncio.sleep(0.05)
    return Names(
        sale=sale,
        ticket=ticket["ticket"],
        order=answer.json["order"],
        product=f"{sale}-hat",
        code="sold_out",
        buyer=buyer,
        admission=ticket["pass"]["token"],
    )


async def asking(system, order, route, path="", **more):
    """The call of a route, by somebody who may make it, with every header that it needs."""
    token = system.allowed(route, order["buyer"])
    headers = {"Idempotency_Key": "senseless", "Admission_Pass": order["admission"], "If_Match": "*"}
    return await system.call(route.method, path or route.path.format_map(order), token=token, **headers | more)


async def standing(system, order):
    """What no senseless request may change."""
    sale, manager, buyer = order["sale"], system.manager, order["buyer"]
    paths = {
        f"/v1/sales/{sale}": None,
        f"/v1/sales/{sale}/admission": manager,
        f"/v1/sales/{sale}/audit": manager,
        f"/v1/sales/{sale}/tickets": manager,
        f"/v1/orders/{order['order']}/payments": buyer,
        "/v1/sales": None,
    }
    return [(await system.call("GET", path, token=token)).json for path, token in paths.items()]


@pytest.mark.parametrize("route", WITH_BODY, ids=lambda route: route.name)
async def test_senseless_bodies(system, order, route):
    """Not JSON, not by name, not in bounds: each its own word, on every call that reads a body."""
    before = await standing(system, order)
    for sent, status, code in SENSELESS:
        answer = await asking(system, order, route, sent=sent)
        assert (status, code) == answer.problem(), sent[:40]
        assert len(answer.body) < 2_000
    for media in MEDIA:
        answer = await asking(system, order, route, sent=b"{}", media=media)
        assert (415, "unsupported_media_type") == answer.problem()

    assert before == await standing(system, order)


@pytest.mark.parametrize("name", DOUBLED)
async def test_names_given_twice(system, order, name):
    """Which of the two counts nobody has to guess."""
    route = next(route for route in ROUTES if route.name == name)
    answer = await asking(system, order, route, sent=DOUBLED[name])

    assert (422, "invalid_request") == answer.problem()
    assert "duplicate" == answer.json["errors"][0]["code"]


@pytest.mark.parametrize("packed", [gzip.compress(b"{}", mtime=0), gzip.compress(b" " * 10_000_000), b"no gzip"])
async def test_packed_bodies_are_refused(system, packed):
    """A few bytes never become many, and what does not unpack is no fault of ours."""
    answer = await system.call("POST", "/v1/sessions", sent=packed, Content_Encoding="gzip")

    assert (415, "unsupported_media_type") == answer.problem()


@pytest.mark.parametrize(
    ("chunks", "status", "code"),
    [
        (b"zz\r\n{}\r\n0\r\n\r\n", 400, "bad_request"),
        (b"4000\r\n" + b" " * 0x4000 + b"\r\n", 413, "payload_too_large"),
    ],
)
async def test_bodies_in_senseless_chunks(system, chunks, status, code):
    """Framing that breaks off, and a body without an end."""
    head = (
        b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )

    assert (status, code) == (await system.raw(head + chunks * 8)).problem()


async def test_an_empty_chunked_body_is_none(system, order):
    """Where the body is optional nothing is missing."""
    head = f"POST /v1/sales/{order['sale']}/tickets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {order['buyer']}\r\n"

    assert 200 == (await system.raw(f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode())).status


async def test_bodies_that_nobody_asked_for(system, order):
    """On a GET or a DELETE they are read and dropped, and the connection stays in step."""
    body = b'Content-Length: 5\r\n\r\n{"a":'
    line = f"GET /v1/sales/{order['sale']}/line HTTP/1.1\r\nHost: x\r\n".encode()
    giving_up = b"DELETE /v1/orders/x HTTP/1.1\r\nHost: x\r\n"

    assert 200 == (await system.raw(line + body)).status
    assert (404, "order_unknown") == (await system.raw(giving_up + body)).problem()


# The one that is left out signs out whoever asks rightly.
CALLS = [route for route in ROUTES if route.media == "application/json" and route.name != "sign_out"]


@pytest.mark.parametrize("route", CALLS, ids=lambda route: route.name)
async def test_unknown_query_names(system, order, route):
    """A misspelt name is refused by every call of the API, never ignored."""
    sent = b"{}" if route.body is not None else None
    path = route.path.format_map(order) + "?limt=3"
    answer = await asking(system, order, route, path, sent=sent)

    assert (422, "invalid_request") == answer.problem()
    assert "?limt" == answer.json["errors"][0]["pointer"]


LISTS = ("sessions", "orders", "sales", "sales/{sale}/orders", "sales/{sale}/audit", "sales/{sale}/tickets")
SENSELESS_PAGES = (
    *("limit=0", "limit=101", "limit=-1", "limit=%2B5", "limit=%205", "limit=1.0", "limit=%EF%BC%95", "limit="),
    *("limit=1&limit=2", "limit=" + "9" * 5000, "cursor=", "cursor=!", "cursor=%00", "cursor=" + "9" * 40),
    "cursor=99999999999999999999999999",
)


@pytest.mark.parametrize("path", LISTS)
async def test_senseless_pages(system, order, path):
    """Limits and cursors as they were given, or none."""
    for query in SENSELESS_PAGES:
        answer = await system.call("GET", f"/v1/{path.format_map(order)}?{query}", token=system.manager)
        assert (422, "invalid_request") == answer.problem(), query[:40]


@pytest.mark.parametrize(
    "value",
    ["0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "2026-01-01", "9999-99-99", "-1", "NaN", "%00"],
)
@pytest.mark.parametrize("name", ["from", "to"])
async def test_moments_that_are_none(system, order, name, value):
    """The year 1 east of Greenwich is no moment that a store holds."""
    answer = await system.call("GET", f"/v1/orders?{name}={value}", token=order["buyer"])

    assert (422, "invalid_request") == answer.problem()


NO_NAMES = (
    *("%00", "a%00b", "%FF", "%ED%A0%80", "%C0%80", "%", "%zz", "a%2Fb", "a;b", "-", "x" * 250),
    *("..%2F..%2Fetc%2Fpasswd", "%2e%2e", "a%0D%0AX-Evil:1"),
)


@pytest.mark.parametrize("path", ["/v1/sales", "/v1/tickets", "/v1/orders", "/v1/products/x", "/static", "/problems"])
async def test_names_of_nothing(system, order, path):
    """404 in good manners, for files too."""
    for name in NO_NAMES:
        answer = await system.call("GET", f"{path}/{name}", token=order["buyer"])
        assert 404 == answer.problem()[0], name
        assert "X-Evil" not in answer.headers


@pytest.mark.parametrize(
    ("sent", "media"),
    [
        (b"\xff\xfe\x00", "application/x-www-form-urlencoded"),
        (b"email=%00&password=%FF", "application/x-www-form-urlencoded"),
        (b"a=1", "application/x-www-form-urlencoded; charset=nope"),
        (b"&".join(b"a%d=1" % n for n in range(1000)), "application/x-www-form-urlencoded"),
        (b"a=" + b"x" * 100_000, "application/x-www-form-urlencoded"),
        (b"--x\r\nbad", "multipart/form-data; boundary=x"),
        (b"abc", "multipart/form-data"),
        (b"{}", "application/json"),
    ],
    ids=["bytes", "nul", "charset", "many", "long", "torn", "unbounded", "json"],
)
@pytest.mark.parametrize("page", ["/signin", "/sales/{sale}/orders", "/orders/{order}/pay", "/sales/{sale}/leave"])
async def test_senseless_forms(system, order, page, sent, media):
    """Told on the page that the form stands on; nothing bought, nobody signed in."""
    cookie = f"__Host-onsale-access={order['buyer']}"
    answer = await system.call(
        "POST", page.format_map(order), sent=sent, media=media, Origin="http://127.0.0.1:8080", Cookie=cookie
    )

    assert (303, True) == (answer.status, "problem=" in answer.headers["Location"])
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"X: a\x00b", 400),
        (b"no colon", 400),
        (b"X: " + b"a" * 100_000, 400),
        (b"Content-Length: -5", 400),
        (b"Content-Length: 2\r\nContent-Length: 3", 400),
        (b"Content-Length: 2\r\nTransfer-Encoding: chunked", 400),
        (b"Expect: miracles", 417),
        (b"Content-Length: 9999999999\r\nContent-Type: application/json", 413),
    ],
)
async def test_senseless_heads(system, line, status):
    """Refused before anything is read."""
    answer = await system.raw(b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")

    assert status == answer.problem()[0]


@pytest.fixture
def lines(monkeypatch):
    """What is logged of requests: (event, fields) in order."""
    written = []

    def write(event, **fields):
        written.append((event, fields))

    for module in ("middleware", "edge"):
        monkeypatch.setattr(f"onsale.server.{module}.log", SimpleNamespace(info=write, error=write))
    return written


@pytest.mark.parametrize("agent", [b"\xff\xfe", b"\xed\xa0\x80", "안녕".encode(), b"\xe2\x80\xae"])
async def test_what_clients_call_themselves(system, agent, lines):
    """Bytes that are no text break no answer, and no line of the log."""
    answer = await system.raw(b"GET /v1/sales HTTP/1.1\r\nHost: x\r\nUser-Agent: " + agent + b"\r\n\r\n")
    [(_, fields)] = [line for line in lines if line[0] == "request.served"]

    assert 200 == answer.status
    assert fields["user_agent"].isprintable()
    assert fields["user_agent"].encode()


async def test_secrets_stay_out_of_the_log(system, order, lines):
    """No token, pass, key or password, wherever in a request it stood."""
    key = (await system.call("POST", "/v1/stream-keys", token=order["buyer"])).json["stream_key"]
    await system.call("GET", f"/v1/tickets/{order['ticket']}?stream_key={key}", token=order["buyer"])
    await system.call("GET", f"/v1/passes/verify?pass={order['pass']}")
    await system.call("POST", "/v1/sessions", {"email": "a@b.example", "password": "hunter-two-and-more"})
    await system.call("GET", f"/nowhere?stream_key={key}")
    await system.pay(order["order"], order["buyer"], "decline_funds", key="senseless-pay")
    log = repr(lines)

    assert {"/v1/stream-keys", "/v1/passes/verify", "(none)"} <= {fields.get("route") for _, fields in lines}
    secrets = (key, order["admission"], order["buyer"], "hunter-two", "decline_funds")
    assert [] == [secret for secret in secrets if secret in log]


async def test_a_sale_of_the_year_1_is_refused(system):
    """It would be read as minus infinity, and stop every process from reading any sale."""
    for times in ({"opens_at": "0001-01-01T00:00:00Z"}, {"closes_at": "9999-12-31T23:59:59-23:59"}, {"id": "a\n"}):
        body = {
            "sale": {"title": "T", "opens_at": "now", "closes_at": "2030-01-01T00:00:00Z", **times},
            "admission": {"rate_per_second": 1, "active_max": 1},
            "items": [{"title": "T", "stock": 1, "price": {"amount": 1, "currency": "KRW"}}],
        }
        assert (422, "invalid_request") == (await system.call("POST", "/v1/sales", body, system.manager)).problem()
    assert 200 == (await system.call("GET", "/v1/sales")).status
