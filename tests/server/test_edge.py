"""What the edge writes by itself, beside what the framework would have written."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientResponse, ClientSession, web

from onsale.server.connections import Runner
from onsale.server.edge import Edge, hot_table
from onsale.server.metrics import Metrics
from onsale.server.middleware import Handler, Stamp, manners
from onsale.server.problems import problem_response

PATH = "/v1/things/{thing}"
# More than one line, and what a handler may say of its own.
HEADERS = {"torn": {"Location": "/x\r\nSet-Cookie: a=b"}, "kept": {"Cache-Control": "public, max-age=1", "ETag": '"1"'}}


# Answers that nobody reads: far more than any socket holds, of few bytes asked.
LARGE = b"x" * 16_384
UNREAD = 4_000
# A loop that did nothing new in so many rounds has nothing left to do.
IDLE_ROUNDS = 500


async def show(request: web.Request) -> web.Response:
    if request.match_info["thing"] == "large":
        return web.Response(body=LARGE)
    headers = {"Content-Type": "application/json", **HEADERS.get(request.match_info["thing"], {})}
    return web.Response(body=b"{}", headers=headers)


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    """One route, hot where nothing is asked after it, ordinary with a query."""
    traffic, stamp = Metrics("0").traffic, Stamp(frozenset({PATH}), is_https=True)
    app = web.Application(middlewares=[manners(traffic, ())])
    app.on_response_prepare.append(stamp.on_prepare)
    app.router.add_get(PATH, show)

    def front(otherwise: Handler) -> Edge:
        return Edge(app, hot_table(app, {("GET", PATH): show}, traffic, stamp), otherwise, ())

    runner = Runner(
        app, front=front, refuse=lambda _, error: problem_response(error, language="en", request_id="x"), drain_s=1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner
    await runner.cleanup()


@pytest.fixture
def base(runner: Runner) -> str:
    return f"http://127.0.0.1:{runner.addresses[0][1]}/v1/things"


@pytest.mark.parametrize("thing", ["plain", "kept"])
async def test_the_edge_says_what_the_application_says(base: str, thing: str) -> None:
    """The same headers by either way; of what every answer says, a handler may have said otherwise."""
    async with ClientSession() as session:
        async with session.get(f"{base}/{thing}") as hot, session.get(f"{base}/{thing}?a=1") as ordinary:
            assert _alike(ordinary) == _alike(hot)


async def test_a_header_is_one_line(base: str) -> None:
    """What would end a header and begin another is never written."""
    async with ClientSession() as session:
        async with session.get(f"{base}/torn") as reply:
            assert 500 == reply.status
            assert "Set-Cookie" not in reply.headers


async def test_whoever_asks_on_and_reads_nothing_is_kept_waiting(runner: Runner) -> None:
    """Requests sent one behind the other, and no answer read: what waits to be read stays small, however many there
    are."""
    assert runner.server is not None
    with socket.create_connection(runner.addresses[0]) as client:
        client.setblocking(False)
        asked = b"GET /v1/things/large HTTP/1.1\r\nHost: x\r\n\r\n" * UNREAD
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(client, asked))
        served, idle_rounds = 0, 0
        while idle_rounds < IDLE_ROUNDS:
            await asyncio.sleep(0)
            is_idle = served == runner.server.requests_count > 0
            served, idle_rounds = runner.server.requests_count, idle_rounds + 1 if is_idle else 0
        transport = runner.server.connections[0].transport
        assert transport is not None
        assert transport.get_write_buffer_size() <= 256 * 1024
        sending.cancel()


def _alike(reply: ClientResponse) -> dict[str, str]:
    """Every header, those that are each answer's own by their names alone."""
    headers = {name.lower(): value for name, value in reply.headers.items()}
    return headers | dict.fromkeys(headers.keys() & {"date", "x-request-id"}, "")
