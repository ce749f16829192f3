"""The whole way of a buyer over HTTP: join, be let in, reserve, pay, recorded. Real stores, every process's ticks."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from onsale.checkout.providers.sandbox_server import create_sandbox
from onsale.server.app import ROOMS
from onsale.server.auditing import audit_system
from onsale.server.config import load_settings
from onsale.server.loop import Loops
from onsale.server.processes import admitter_loops, flusher_loops, worker_loops

SALE = {
    "sale": {
        "id": "drop",
        "title": "Drop",
        "opens_at": "now",
        "closes_at": "2030-01-01T00:00:00Z",
        "limit_per_buyer": 2,
    },
    "admission": {"rate_per_second": 100.0, "active_max": 50},
    "items": [{"product": "jacket", "title": "Jacket", "stock": 3, "price": {"amount": 1990000, "currency": "KRW"}}],
}
WANTED = {"items": [{"product": "jacket", "quantity": 1}]}


def paying(token="ok"):
    return {"payment": {"provider": "sandbox", "method": "card", "token": token}}


@pytest.fixture
async def sandbox_url(tmp_path):
    """The provider, a server of its own."""
    runner = web.AppRunner(create_sandbox(tmp_path / "sandbox"), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield "http://{}:{}".format(*runner.addresses[0])
    await runner.cleanup()


@pytest.fixture
def settings(environ, sandbox_url):
    return load_settings(environ | {"ONSALE_SANDBOX_URL": sandbox_url})


@pytest.fixture
async def processes(app, server):
    """What admitter, flusher and worker do, beside the web process."""
    rooms, loops = app[ROOMS], Loops()
    admitter_loops(rooms, loops)
    flusher_loops(rooms, loops)
    worker_loops(rooms, loops)
    async with loops.running(drain_s=2.0):
        yield


@pytest.fixture
async def sale(processes, accounts):
    """A sale of three jackets, made by a manager over HTTP."""
    (manager,) = await accounts("manager")
    status, body, headers = await manager("POST", "/v1/sales", SALE)
    assert (201, "/v1/sales/drop") == (status, headers["Location"]), body
    return "drop"


@pytest.fixture
def clean(settings):
    """Every invariant of the sale, judged as `onsale audit` does, against the provider's own book too."""

    async def judge(sale):
        found = await audit_system(settings, sale)
        assert found
        assert [] == [finding for finding in found if not finding.ok]

    return judge


async def admitted(buyer, sale):
    """Join and poll until let in; the ticket that says so."""
    status, ticket, headers = await buyer.insist("POST", f"/v1/sales/{sale}/tickets")
    assert status in (200, 201), ticket
    assert headers["Location"] == f"/v1/tickets/{ticket['ticket']}"
    return await buyer.until(f"/v1/tickets/{ticket['ticket']}", lambda now: now["state"] == "admitted")


async def reserved(buyer, sale, ticket, key="reserve-1"):
    status, order, headers = await buyer.insist(
        "POST", f"/v1/sales/{sale}/orders", WANTED, Idempotency_Key=key, Admission_Pass=ticket["pass"]["token"]
    )
    assert (201, "reserved") == (status, order.get("state")), order
    assert headers["Location"] == f"/v1/orders/{order['order']}"
    return order


async def test_a_buyer_joins_is_let_in_reserves_pays_and_it_is_recorded(sale, accounts, database, clean):
    """Every step answers as promised, and what was answered stands in Postgres."""
    (buyer,) = await accounts("customer")
    ticket = await admitted(buyer, sale)
    order = await reserved(buyer, sale, ticket)
    status, paid, _ = await buyer(
        "POST", f"/v1/orders/{order['order']}/confirmation", paying(), Idempotency_Key="confirm-1"
    )

    assert (200, "confirmed", True) == (status, paid.get("state"), paid.get("recorded")), paid
    assert {"amount": 1990000, "currency": "KRW"} == paid["total"]
    row = await database.fetchrow("SELECT state, claim, amount FROM orders WHERE id = $1", order["order"])
    assert ("confirmed", "sold", 1990000) == tuple(row)
    assert ["claimed", "sold"] == [
        row["verb"]
        for row in await database.fetch("SELECT verb FROM ledger WHERE order_id = $1 ORDER BY id", order["order"])
    ]
    status, shown, _ = await buyer("GET", f"/v1/orders/{order['order']}")
    assert ("confirmed", ["captured"]) == (shown["state"], [payment["state"] for payment in shown["payments"]])
    await buyer.until(f"/v1/tickets/{ticket['ticket']}", lambda now: now["state"] == "completed")
    await buyer.until("/v1/products/jacket/stock", lambda now: now == {"free": 2})
    await clean(sale)


async def test_repeating_every_call_changes_nothing(sale, accounts, database):
    """Twice is as good as once: the same ticket, the same order, one charge, one sale."""
    (buyer,) = await accounts("customer")
    ticket = await admitted(buyer, sale)
    status, again, _ = await buyer("POST", f"/v1/sales/{sale}/tickets")
    assert (200, ticket["ticket"]) == (status, again["ticket"])
    order = await reserved(buyer, sale, ticket)
    assert order["order"] == (await reserved(buyer, sale, ticket))["order"]
    path = f"/v1/orders/{order['order']}/confirmation"
    answers = await asyncio.gather(*(buyer("POST", path, paying(), Idempotency_Key="confirm-1") for _ in range(3)))

    assert {(200, "confirmed")} == {(status, body.get("state")) for status, body, _ in answers}
    assert 1 == await database.fetchval("SELECT count(*) FROM payments WHERE order_id = $1", order["order"])
    assert 1 == await database.fetchval("SELECT sold FROM sale_items WHERE sale = $1", sale)


async def test_more_buyers_than_units(sale, accounts, database, clean):
    """Three jackets, six buyers: three sold, and the others are told so in good manners."""

    async def buy(buyer):
        ticket = await admitted(buyer, sale)
        status, order, _ = await buyer.insist(
            "POST", f"/v1/sales/{sale}/orders", WANTED, Idempotency_Key="r", Admission_Pass=ticket["pass"]["token"]
        )
        if status != 201:
            return order["code"]
        status, paid, _ = 202, None, None
        while status == 202:
            path = f"/v1/orders/{order['order']}/confirmation"
            status, paid, _ = await buyer.insist("POST", path, paying(), Idempotency_Key="c")
        return paid["state"]

    buyers = [asyncio.create_task(buy(buyer)) for buyer in await accounts("customer", 6)]
    async with asyncio.timeout(60):
        while sum(buyer.done() and buyer.result() == "confirmed" for buyer in buyers) < 3:
            await asyncio.wait([buyer for buyer in buyers if not buyer.done()], return_when=asyncio.FIRST_COMPLETED)
    # Whoever is left waits for a unit that may still come back.
    for late in buyers:
        late.cancel()
    endings = await asyncio.gather(*buyers, return_exceptions=True)

    assert 3 == endings.count("confirmed")
    assert {"confirmed", "sold_out"} >= {ending for ending in endings if isinstance(ending, str)}
    assert 3 == await database.fetchval("SELECT count(*) FROM orders WHERE state = 'confirmed'")
    await clean(sale)


async def test_a_declined_card_leaves_the_reservation(sale, accounts):
    """402 with the reason; another card then buys the same order."""
    (buyer,) = await accounts("customer")
    order = await reserved(buyer, sale, await admitted(buyer, sale))
    path = f"/v1/orders/{order['order']}/confirmation"
    status, problem, _ = await buyer("POST", path, paying("decline_funds"), Idempotency_Key="c-1")
    assert (402, "payment_declined", "funds", True) == (
        status,
        problem["code"],
        problem["reason"],
        problem["retryable"],
    )
    status, paid, _ = await buyer("POST", path, paying(), Idempotency_Key="c-2")

    assert (200, "confirmed") == (status, paid.get("state")), paid


async def test_without_a_pass_nothing_is_reserved(sale, accounts):
    """No pass, another's pass, a forged one: refused, each with its word."""
    buyer, other = await accounts("customer", 2)
    ticket = await admitted(buyer, sale)
    path = f"/v1/sales/{sale}/orders"
    none = await other("POST", path, WANTED, Idempotency_Key="k")
    stolen = await other("POST", path, WANTED, Idempotency_Key="k", Admission_Pass=ticket["pass"]["token"])
    forged = await buyer(
        "POST", path, WANTED, Idempotency_Key="k", Admission_Pass=ticket["pass"]["token"][:-4] + "AAAA"
    )

    assert (403, "pass_required") == (none[0], none[1]["code"])
    assert (403, "pass_invalid") == (stolen[0], stolen[1]["code"])
    assert (403, "pass_invalid") == (forged[0], forged[1]["code"])


async def test_the_line_document_follows(sale, accounts, anyone):
    """Anyone reads the line: who was let in is counted, and an unchanged document is not sent again."""
    (buyer,) = await accounts("customer")
    await admitted(buyer, sale)
    shown = await anyone.until(f"/v1/sales/{sale}/line", lambda line: line["admitted"] == 1)

    assert (sale, "open", 1) == (shown["sale"], shown["state"], shown["tail"])
    assert {"free": 3, "held": 0, "sold": 0} == shown["stock"]


@asynccontextmanager
async def events(client, path, **headers):
    """An open event stream; yields a function that answers the next event's name and data."""
    async with client.get(path, headers=headers) as response:
        assert "text/event-stream" == response.content_type, await response.text()

        async def next_event():
            name = ""
            async with asyncio.timeout(60):
                async for raw in response.content:
                    line = raw.decode().rstrip("\n")
                    if line.startswith("event: "):
                        name = line[7:]
                    elif line.startswith("data: "):
                        return name, line[6:]
            return "", ""

        yield next_event


async def test_a_stream_tells_the_turn(sale, accounts, client):
    """A holder with nothing but the ticket's token hears of the turn, with the pass."""
    (buyer,) = await accounts("customer")
    _, ticket, _ = await buyer.insist("POST", f"/v1/sales/{sale}/tickets")
    authorization = f"Bearer {ticket['ticket_token']}"
    async with events(client, f"/v1/tickets/{ticket['ticket']}/events", Authorization=authorization) as next_event:
        async with asyncio.timeout(60):
            told = {}
            while told.get("state") != "admitted":
                name, data = await next_event()
                told = json.loads(data) if name == "ticket" else told

    assert told["pass"]["token"]


async def test_an_operator_changes_the_rate_and_everyone_sees_it(sale, accounts, anyone):
    """Compare-and-set by ETag, in the line document within a second, and in the audit with its reason."""
    (operator,) = await accounts("manager")
    path = f"/v1/sales/{sale}/admission"
    _, before, headers = await operator("GET", path)
    unseen = await operator("PATCH", path, {"rate_per_second": 7.5})
    stale = await operator("PATCH", path, {"rate_per_second": 7.5}, If_Match='"0"')
    await operator.until(f"/v1/sales/{sale}/line", lambda line: line["state"] == "open")
    status, after, _ = await operator(
        "PATCH", path, {"rate_per_second": 7.5, "reason": "calm"}, If_Match=headers["ETag"]
    )
    changed_s = time.monotonic()
    await anyone.until(f"/v1/sales/{sale}/line", lambda line: line["rate_per_second"]["target"] == 7.5)
    seen_s = time.monotonic()

    assert (428, "if_match_required") == (unseen[0], unseen[1]["code"])
    assert (412, "policy_stale") == (stale[0], stale[1]["code"])
    assert (100.0, 200, 7.5) == (before["rate_per_second"], status, after["rate_per_second"])
    # A second is promised; the rest is the patience of a busy test machine.
    assert seen_s - changed_s < 3
    _, audit, _ = await operator("GET", f"/v1/sales/{sale}/audit")
    assert ["calm"] == [entry["reason"] for entry in audit["items"] if entry["reason"]]


async def test_a_paused_line_lets_nobody_in(sale, accounts, anyone):
    """Pausing needs no ETag; whoever waits reads why; resuming lets them in."""
    operator, buyer = (await accounts("manager"))[0], (await accounts("customer"))[0]
    path = f"/v1/sales/{sale}/admission"
    await operator.until(f"/v1/sales/{sale}/line", lambda line: line["state"] == "open")
    assert 200 == (await operator("PATCH", path, {"paused": True}))[0]
    _, ticket, _ = await buyer.insist("POST", f"/v1/sales/{sale}/tickets")
    # Before the stock is known that is the reason; then the pause is.
    shown = await buyer.until(
        f"/v1/tickets/{ticket['ticket']}", lambda now: (now["reason"] or {}).get("code") == "paused_by_operator"
    )
    assert "waiting" == shown["state"]
    assert 200 == (await operator("PATCH", path, {"paused": False}, If_Match="*"))[0]

    await buyer.until(f"/v1/tickets/{ticket['ticket']}", lambda now: now["state"] == "admitted")


async def test_the_shops_redis_is_emptied_in_mid_sale(sale, accounts, shop_redis, database, clean):
    """What was recorded stays, the rest is made anew from the record, and selling goes on: exactly three."""
    first, second = await accounts("customer", 2)
    order = await reserved(first, sale, await admitted(first, sale))
    path = f"/v1/orders/{order['order']}/confirmation"
    assert 200 == (await first("POST", path, paying(), Idempotency_Key="c"))[0]
    ticket = await admitted(second, sale)
    await shop_redis.flushall()
    again = await reserved(second, sale, ticket)
    status, paid, _ = await second.insist(
        "POST", f"/v1/orders/{again['order']}/confirmation", paying(), Idempotency_Key="c"
    )
    still = await first("POST", path, paying(), Idempotency_Key="c")

    assert (200, "confirmed") == (status, paid.get("state")), paid
    assert (200, "confirmed") == (still[0], still[1]["state"])
    assert 2 == await database.fetchval("SELECT sold FROM sale_items WHERE sale = $1", sale)
    await second.until("/v1/products/jacket/stock", lambda now: now == {"free": 1})
    await clean(sale)


async def test_the_lines_redis_is_emptied_in_mid_sale(sale, accounts, line_redis, clean):
    """A ticket proves its own place: its holder goes on polling and is let in."""
    operator, buyer = (await accounts("manager"))[0], (await accounts("customer"))[0]
    path = f"/v1/sales/{sale}/admission"
    await operator.until(f"/v1/sales/{sale}/line", lambda line: line["state"] == "open")
    await operator("PATCH", path, {"paused": True})
    _, ticket, _ = await buyer.insist("POST", f"/v1/sales/{sale}/tickets")
    await line_redis.flushall()
    back = await buyer.until(f"/v1/tickets/{ticket['ticket']}", lambda now: now["state"] == "waiting")
    await operator.insist("PATCH", path, {"paused": False}, If_Match="*")
    let_in = await buyer.until(f"/v1/tickets/{ticket['ticket']}", lambda now: now["state"] == "admitted")

    assert ticket["place"] == back["place"] == let_in["place"]
    await reserved(buyer, sale, let_in)
    await clean(sale)
