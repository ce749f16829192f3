"""Floors without a store: the least programs that answer HTTP, each a process of its own.

bare        asyncio.Protocol that writes a JSON answer, no HTTP library
f0          aiohttp Application with one route: the unit in which targets are counted
routed      f0 with 22 routes and 3 small middlewares: what an ordinary application pays
charging    f0 whose handler asks the payment provider once: the client side of a confirmation
lean        the whole journey with the least work (`floor_lean.py`)
naive       the whole journey one await at a time (`floor_naive.py`)
provider    the sandbox provider that onsale itself is measured with

python -m bench.floor_servers f0 --port 9000 [--setup '{"provider": "http://127.0.0.1:9001", …}']
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import aiohttp
import msgspec
import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler

from onsale.checkout.providers.sandbox_server import create_sandbox

# As long as the answer to a poll of onsale.
ANSWER = msgspec.json.encode(
    {
        "ticket": "0" * 39,
        "sale": "floor",
        "lane": "general",
        "state": "waiting",
        "place": 48211,
        "ahead": 1204,
        "wait_ms": {"p50": 61000, "p90": 83000},
        "poll_after_ms": 4000,
        "reason": None,
        "opens_at": "2026-01-01T00:00:00.000Z",
        "joined_at": "2026-01-01T00:00:00.000Z",
        "admitted_at": None,
        "ended_at": None,
        "pass": None,
    }
)
JSON = {"Content-Type": "application/json"}


class Setup(msgspec.Struct, frozen=True):
    """What a floor is told: addresses of its throw-away stores and of the provider, and the key of its tokens."""

    line_redis: str = ""
    shop_redis: str = ""
    postgres: str = ""
    provider: str = ""
    secret: str = "floor"
    stock: int = 1_000_000
    data_dir: str = ""


class Bare(asyncio.Protocol):
    """Answers every GET with the same bytes."""

    REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are no subclass of it.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(self.REPLY)


async def answer(_: web.Request) -> web.Response:
    """The one handler of F0."""
    return web.Response(body=ANSWER, headers=JSON)


def f0() -> web.Application:
    """F0."""
    app = web.Application()
    app.router.add_get("/", answer)
    return app


def routed() -> web.Application:
    """F0 inside an ordinary application; the route that is asked stands in the middle of the table."""
    numbers = itertools.count(1)

    @web.middleware
    async def number(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers["X-Request-Id"] = f"{next(numbers):012x}"
        return response

    @web.middleware
    async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ValueError:
            return web.Response(status=422)

    @web.middleware
    async def who(request: web.Request, handler: Handler) -> web.StreamResponse:
        request["asker"] = request.headers.get("Authorization", "")
        return await handler(request)

    app = web.Application(middlewares=[number, problems, who])
    for n in range(21):
        app.router.add_get(f"/v1/things-{n}/{{thing}}", answer)
        if n == 10:
            app.router.add_get("/", answer)
    return app


def charging(setup: Setup) -> web.Application:
    """F0 whose handler pays once: subtracting F0 leaves the client side of the call."""
    app = web.Application()
    session = web.AppKey("session", aiohttp.ClientSession)
    numbers = itertools.count(1)

    async def connected(app: web.Application) -> None:
        app[session] = aiohttp.ClientSession(setup.provider, headers=JSON, connector=aiohttp.TCPConnector(limit=512))

    async def pay(request: web.Request) -> web.Response:
        await charge(request.app[session], f"floor-{next(numbers)}")
        return web.Response(body=ANSWER, headers=JSON)

    app.on_startup.append(connected)
    app.on_cleanup.append(lambda app: app[session].close())
    app.router.add_get("/", pay)
    return app


async def charge(session: aiohttp.ClientSession, attempt: str) -> None:
    """One payment of one attempt. Raises when it was not captured."""
    asked = {
        "attempt": attempt,
        "order": attempt,
        "amount": 1990000,
        "currency": "KRW",
        "method": "card",
        "token": "ok",
    }
    async with session.post("/charges", data=msgspec.json.encode(asked)) as reply:
        if msgspec.json.decode(await reply.read())["state"] != "captured":
            raise RuntimeError(attempt)


def provider(setup: Setup) -> web.Application:
    """The sandbox, as onsale starts it."""
    return create_sandbox(Path(setup.data_dir))


def _lean(setup: Setup) -> web.Application:
    from bench.floor_lean import lean

    return lean(setup)


def _naive(setup: Setup) -> web.Application:
    from bench.floor_naive import naive

    return naive(setup)


APPLICATIONS: dict[str, Callable[[Setup], web.Application]] = {
    "f0": lambda _: f0(),
    "routed": lambda _: routed(),
    "charging": charging,
    "lean": _lean,
    "naive": _naive,
    "provider": provider,
}


async def serve(name: str, listening: socket.socket, setup: Setup) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if name == "bare":
        server = await loop.create_server(Bare, sock=listening)
        await stop.wait()
        server.close()
        return
    runner = web.AppRunner(APPLICATIONS[name](setup), access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.SockSite(runner, listening, backlog=1024).start()
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["bare", *APPLICATIONS])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--setup", default="{}")
    asked = parser.parse_args()
    listening = socket.create_server(("127.0.0.1", asked.port), backlog=1024)
    work: Awaitable[None] = serve(asked.name, listening, msgspec.json.decode(asked.setup, type=Setup))
    uvloop.run(work)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
