"""What buyers are told while they look: the same over two transports, once, within a second, and to nobody else."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import aiohttp
import pytest
import pytest_asyncio
from contract_kit import tokens

from onsale.auth.roles import Role
from onsale.server.app import ROOMS

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATIENCE_S = 10


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sale(system):
    """A sale that lets everyone in and has enough for all."""
    return await system.sale()


@asynccontextmanager
async def session(system):
    async with aiohttp.ClientSession("http://{}:{}".format(*system.address)) as opened:
        yield opened


class Events:
    """An open event stream, event by event."""

    def __init__(self, response):
        self._response = response

    async def next(self):
        """The next event as (id, name, data); comments and retries are passed over."""
        fields = {}
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = (await self._response.content.readline()).decode().rstrip("\n")
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "data" in fields:
                    return fields["id"], fields["event"], json.loads(fields["data"])
                else:
                    fields = {}


@asynccontextmanager
async def events(opened, token, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with opened.get("/v1/notices/events", headers={"Authorization": f"Bearer {token}"} | headers) as response:
        assert 200 == response.status
        yield Events(response)


async def bought(system, sale, buyer):
    order = await system.order(sale, buyer)
    assert 200 == (await system.pay(order, buyer)).status
    return order


async def test_both_transports_tell_the_same_within_a_second(system, sale):
    """Confirmed, then cancelled, then refunded: on an event stream and on a socket, in this order."""
    buyer = await system.buyer()
    order = await system.order(sale, buyer)
    async with session(system) as opened, events(opened, buyer) as stream:
        bearer = {"Authorization": f"Bearer {buyer}"}
        async with opened.ws_connect("/v1/notices/socket", headers=bearer) as socket:
            assert 200 == (await system.pay(order, buyer)).status
            paid_s = time.monotonic()
            first = await stream.next()
            took_s = time.monotonic() - paid_s
            await system.call("POST", f"/v1/orders/{order}/cancellation", token=buyer, Idempotency_Key="c-1")
            told = [first, await stream.next(), await stream.next()]
            said = [json.loads((await socket.receive(PATIENCE_S)).data) for _ in told]

    assert took_s < 1
    assert [("order", "confirmed"), ("order", "cancelled"), ("refund", "cancelled")] == [
        (name, data["state"]) for _, name, data in told
    ]
    assert [list(event) for event in told] == [[one["id"], one["event"], one["data"]] for one in said]
    assert ({order}, {"amount": 1000, "currency": "KRW"}) == (
        {data["order"] for _, _, data in told},
        told[2][2]["refund"],
    )


async def test_a_stream_goes_on_where_it_was(system, sale):
    """With the id it saw last, a client is told what came meanwhile, once; without it, what comes from now on."""
    buyer = await system.buyer()
    async with session(system) as opened:
        async with events(opened, buyer) as stream:
            await bought(system, sale, buyer)
            last, _, _ = await stream.next()
        missed = await bought(system, await system.sale(), buyer)
        async with events(opened, buyer, Last_Event_ID=last) as stream, events(opened, buyer) as fresh:
            told = (await stream.next())[2]
            assert (missed, "confirmed") == (told["order"], told["state"])
            await system.call("POST", f"/v1/orders/{missed}/cancellation", token=buyer, Idempotency_Key="c-1")
            assert "cancelled" == (await stream.next())[2]["state"]
            # What was written a moment before it came, it may be told too.
            while "cancelled" != (await fresh.next())[2]["state"]:
                pass


async def test_nobody_hears_of_another_s(system, sale):
    """Two listen, one buys: the other's first event is about an order of their own."""
    buyer, other = await system.buyers(2)
    async with session(system) as opened, events(opened, other) as stream:
        await bought(system, sale, buyer)
        own = await bought(system, sale, other)

        assert own == (await stream.next())[2]["order"]


async def test_the_list(system, sale):
    """Newest first, page after page, own ones only."""
    buyer = await system.buyer()
    orders = [await bought(system, sale, buyer), await bought(system, await system.sale(), buyer)]
    page = (await system.call("GET", "/v1/notices?limit=1", token=buyer)).json
    rest = await system.call("GET", f"/v1/notices?limit=5&cursor={page['next_cursor']}", token=buyer)

    assert [orders[1], orders[0]] == [page["items"][0]["order"], rest.json["items"][0]["order"]]
    assert (None, page["items"][0]["notice"]) == (rest.json["next_cursor"], page["next_cursor"])
    assert (422, "invalid_request") == (await system.call("GET", "/v1/notices?cursor=x", token=buyer)).problem()
    assert (401, "unauthenticated") == (await system.call("GET", "/v1/notices")).problem()


async def test_who_may_listen(system):
    """Nobody without a token; a stream key opens one; a page of another site opens no socket with our cookie."""
    buyer = await system.buyer()
    key = (await system.call("POST", "/v1/stream-keys", token=buyer)).json["stream_key"]
    async with session(system) as opened:
        for path in ("/v1/notices/events", "/v1/notices/socket"):
            assert (401, "unauthenticated") == (await system.call("GET", path)).problem()
        async with opened.get(f"/v1/notices/events?stream_key={key}") as response:
            assert (200, "text/event-stream", "no-store", "no") == (
                response.status,
                response.content_type,
                response.headers["Cache-Control"],
                response.headers["X-Accel-Buffering"],
            )
        assert (400, "bad_request") == (await system.call("GET", "/v1/notices/socket", token=buyer)).problem()
        cookie = {"Cookie": f"__Host-onsale-access={buyer}", "Origin": "https://elsewhere.example"}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await opened.ws_connect("/v1/notices/socket", headers=cookie)
        assert 403 == refused.value.status


async def test_no_more_than_six(system):
    """A person's seventh stream is refused with when to come back; one that ended makes room."""
    buyer = await system.buyer()
    async with session(system) as opened:
        streams = [events(opened, buyer) for _ in range(6)]
        for stream in streams:
            await stream.__aenter__()
        assert (503, "streams_exhausted") == (await system.call("GET", "/v1/notices/events", token=buyer)).problem()
        for stream in streams:
            await stream.__aexit__(None, None, None)


async def test_a_session_that_ends_ends_its_streams(system):
    """Signed out everywhere: the stream ends within a second or two."""
    buyer = await system.buyer()
    async with session(system) as opened, events(opened, buyer) as stream:
        assert 204 == (await system.call("DELETE", "/v1/sessions", token=buyer)).status
        async with asyncio.timeout(PATIENCE_S):
            while await stream._response.content.readline():
                pass


async def test_a_letter_for_each_once(system, sale):
    """Confirmed and refunded: one letter each stands in the outbox, for accounts that have an address."""
    buyer = await system.buyer()
    pool = system.app[ROOMS].stores.pool
    account = (await system.call("GET", "/v1/me", token=buyer)).json["account"]
    await pool.execute("UPDATE accounts SET email = '\\x00', email_hash = $2 WHERE id = $1", account, account.encode())
    order = await bought(system, sale, buyer)
    await system.call("POST", f"/v1/orders/{order}/cancellation", token=buyer, Idempotency_Key="c-1")
    async with asyncio.timeout(PATIENCE_S):
        while await pool.fetchval("SELECT count(*) FROM outbox WHERE account = $1", account) < 2:
            await asyncio.sleep(0.05)

    rows = await pool.fetch("SELECT kind FROM outbox WHERE account = $1 ORDER BY kind", account)
    assert ["order_confirmed", "order_refunded"] == [row["kind"] for row in rows]
    assert 0 == await pool.fetchval("SELECT count(*) FROM notices WHERE account = $1 AND letter IS NOT NULL", account)


async def test_what_runs_out_in_a_cart(system):
    """Whoever has it in the cart and listens is told, once a figure; nobody else is."""
    [vendor] = await tokens(system.app, Role.VENDOR, 1, first=31_000)
    assert 201 == (await system.call("POST", "/v1/vendors", {"name": "Hats"}, vendor)).status
    body = {"title": "Hat", "price": {"amount": 1_000, "currency": "KRW"}, "stock": 6}
    hat = (await system.call("POST", "/v1/products", body, vendor)).json["product"]
    await system.until(f"/v1/products/{hat}/stock", None, lambda told: told["free"] == 6)
    buyer, other = await system.buyers(2)
    assert (await system.call("PUT", f"/v1/cart/items/{hat}", {"quantity": 1}, buyer)).status < 300
    async with session(system) as opened, events(opened, buyer) as stream:
        items = {"items": [{"product": hat, "quantity": 2}]}
        assert 201 == (await system.call("POST", "/v1/orders", items, other, Idempotency_Key="o-1")).status
        _, name, told = await stream.next()

    assert ("stock", {"kind": "stock", "product": hat, "free": 4}) == (name, told)
