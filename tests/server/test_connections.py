"""Deadlines for receiving, on real sockets: the clock is the test's, so nothing sleeps."""

import asyncio
import json

import pytest
from aiohttp import web

from onsale.server.connections import Connection, Runner, Sweeper
from onsale.server.problems import problem_response


class Clock:
    """The loop's time and as much more as the test says."""

    def __init__(self):
        self.ahead_s = 0.0

    def __call__(self):
        return asyncio.get_running_loop().time() + self.ahead_s


class Peer:
    """A client that writes what it is told and nothing else."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self):
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return head, await self.reader.readexactly(length)

    async def is_closed(self):
        return await self.reader.read() == b""


def refused(request, error):
    return problem_response(error, language="en", request_id="r-1")


@pytest.fixture
async def house():
    """A server with one route that reads its body, its sweeper and the clock that drives it."""

    async def echo(request):
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_route("*", "/", echo)
    runner = Runner(app, front=lambda handler: handler, refuse=refused, drain_s=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    clock = Clock()
    yield runner, Sweeper(runner.server, clock), clock
    await runner.cleanup()


@pytest.fixture
async def connect(house):
    runner, _, _ = house
    writers = []

    async def _connect():
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writers.append(writer)
        await _until(lambda: len(runner.server.connections) == len(writers))
        return Peer(reader, writer)

    yield _connect
    for writer in writers:
        writer.close()


async def _until(is_so):
    """Let the loop run until the server has seen what the client did."""
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0)


async def _received(runner, count):
    """Wait until the one connection has been given that many bytes."""
    await _until(lambda: [c for c in runner.server.connections if c.bytes_seen >= count])


@pytest.fixture(autouse=True)
def counting(monkeypatch):
    """Connections that count what they received, so that a test knows when its bytes have arrived."""

    class Counting(Connection):
        bytes_seen = 0

        def data_received(self, data):
            super().data_received(data)
            self.bytes_seen += len(data)

    monkeypatch.setattr("onsale.server.connections.Connection", Counting)


PARTIAL = {
    "silent": b"",
    "partial head": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "partial body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
    "partial chunk": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
}


@pytest.mark.parametrize("sent", PARTIAL.values(), ids=PARTIAL)
async def test_a_request_that_does_not_complete_is_closed(house, connect, sent):
    """Within 15 s of its first byte; not a moment before the bound."""
    runner, sweeper, clock = house
    peer = await connect()
    await peer.send(sent)
    await _received(runner, len(sent))

    clock.ahead_s = 12.0
    assert 0 == (await sweeper.tick()).closed
    clock.ahead_s = 14.0
    assert 1 == (await sweeper.tick()).closed
    assert await peer.is_closed()


async def test_dripping_does_not_help(house, connect):
    """The deadline counts from the first byte, however often another follows."""
    runner, sweeper, clock = house
    peer = await connect()
    sent = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    for count, byte in enumerate(sent, 1):
        await peer.send(bytes([byte]))
        await _received(runner, count)
    clock.ahead_s = 14.0

    assert 1 == (await sweeper.tick()).closed


async def test_idle_keep_alive_stays(house, connect):
    """After a whole request nothing is owed, so a poller keeps its connection."""
    _, sweeper, clock = house
    peer = await connect()
    await peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    _, body = await peer.answer()
    clock.ahead_s = 75.0

    assert b"hi" == body
    assert 0 == (await sweeper.tick()).closed
    await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _ = await peer.answer()
    assert head.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("second", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_partial_second_request_is_closed(house, connect, second):
    """Also when its first bytes came together with the end of the request before it."""
    runner, sweeper, clock = house
    peer = await connect()
    first = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    await peer.send(first + second)
    await peer.answer()
    await _received(runner, len(first + second))
    clock.ahead_s = 14.0

    assert 1 == (await sweeper.tick()).closed


async def test_a_partial_request_after_an_idle_while_has_its_own_time(house, connect):
    """What is counted is the request, not the age of the connection."""
    runner, sweeper, clock = house
    peer = await connect()
    first = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    await peer.send(first)
    await peer.answer()
    await peer.send(b"GET")
    await _received(runner, len(first) + 3)

    assert 0 == (await sweeper.tick()).closed
    clock.ahead_s = 14.0
    assert 1 == (await sweeper.tick()).closed


async def test_what_is_not_http_gets_a_problem_document(connect):
    """Even bytes that no parser understands: a problem, no page of the framework, no trace."""
    peer = await connect()
    await peer.send(b"\x16\x03\x01 not http\r\n\r\n")
    head, body = await peer.answer()

    assert head.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert ("bad_request", "r-1") == (json.loads(body)["code"], json.loads(body)["request_id"])
    assert await peer.is_closed()
