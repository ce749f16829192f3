"""Connections with a deadline for receiving: slow and silent clients cannot hold one open.

aiohttp sets no deadline for a request that is still arriving. Here each connection knows since when it has owed us
bytes: from the moment it was opened, or from the first byte of a request, until that request and its body are complete.
The sweep closes those that owe for too long. A connection that owes nothing is idle keep-alive, or waits for our
answer, and stays: reopening it for each poll would cost four times the poll itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

# Together with a sweep each second this closes within 15 s of the first byte.
RECEIVE_MAX_S = 13.0
SWEEP_INTERVAL_MS = 1_000
# At least twice the longest `poll_after_ms` that we ask of a client.
KEEPALIVE_IDLE_S = 90.0
# At the end of a process bodies on their way are waited for: 5 s in all.
BODY_LOOKS_MAX = 250
BODY_PAUSE_S = 0.02
HEAD_END = b"\r\n\r\n"

Answer = Callable[[web.BaseRequest, BaseException], web.StreamResponse]


class Connection(web.RequestHandler):
    """One client's connection. `owes_since_s` is the loop's time since which a request is incomplete, or None."""

    __slots__ = ("_arriving", "_refuse", "owes_since_s")

    def __init__(self, manager: web.Server, *, refuse: Answer, **options: Any) -> None:
        super().__init__(manager, **options)
        self._refuse = refuse
        self._arriving: StreamReader | None = None
        self.owes_since_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.owes_since_s = self._loop.time()

    def data_received(self, data: bytes) -> None:
        # aiohttp calls this without data to parse what it had put aside.
        if data and self.owes_since_s is None:
            self.owes_since_s = self._loop.time()
        parsed_before = self._request_count
        super().data_received(data)
        if self._request_count != parsed_before:
            self._begin()
        arriving = self._arriving
        if self._upgraded or (arriving is not None and arriving.is_eof() and not _begins_another(arriving, data)):
            self.owes_since_s = None
            self._arriving = None

    def _begin(self) -> None:
        """The head of a request is complete; its body may still be arriving."""
        if self._arriving is not None or self.owes_since_s is None:
            # What came before it is complete: this request has its own time.
            self.owes_since_s = self._loop.time()
        # The handler's task runs later, so what was just parsed is still queued; the newest is the one arriving.
        self._arriving = self._messages[-1][1] if self._messages else None

    @property
    def has_partial_body(self) -> bool:
        """Whether a request has begun whose body is still arriving."""
        return self._arriving is not None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What could not be parsed, or failed outside every handler: a problem document instead of aiohttp's page."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; the connection is closed instead")
        response = self._refuse(request, web.HTTPBadRequest() if status < 500 or exc is None else exc)
        response.force_close()
        return response


class Connections(web.Server):
    """aiohttp's low-level server, with connections of ours."""

    def __init__(self, handler: Any, *, refuse: Answer, **options: Any) -> None:
        super().__init__(handler, **options)
        self._refuse = refuse

    def __call__(self) -> Connection:
        return Connection(self, refuse=self._refuse, loop=self._loop, **self._kwargs)


@dataclass(frozen=True, slots=True)
class SweepTick:
    """What one sweep saw and closed."""

    connections: int
    closed: int


class Sweeper:
    """Closes connections that owe us bytes for too long. `now_s` is the loop's time."""

    def __init__(self, server: web.Server, now_s: Callable[[], float], *, receive_max_s: float = RECEIVE_MAX_S) -> None:
        self._server = server
        self._now_s = now_s
        self._receive_max_s = receive_max_s

    async def tick(self) -> SweepTick:
        """One pass over all connections."""
        oldest_s = self._now_s() - self._receive_max_s
        connections = self._server.connections
        late = [c for c in connections if isinstance(c, Connection) and _is_late(c, oldest_s)]
        for connection in late:
            connection.force_close()
        return SweepTick(len(connections), len(late))


class Runner(web.AppRunner):
    """Runs an application on connections of ours, each request going to `front(app's own handler)` first."""

    __slots__ = ("_front", "_refuse")

    def __init__(
        self,
        app: web.Application,
        *,
        front: Callable[[Callable[[Any], Awaitable[web.StreamResponse]]], Any],
        refuse: Answer,
        drain_s: float = 20.0,
    ) -> None:
        # No body is unpacked: what is compressed is refused, before a few bytes have become many.
        super().__init__(
            app, access_log=None, keepalive_timeout=KEEPALIVE_IDLE_S, shutdown_timeout=drain_s, auto_decompress=False
        )
        self._front = front
        self._refuse = refuse

    async def cleanup(self) -> None:
        """Stop accepting, let bodies arrive that are on their way (the framework would drop them), then as always."""
        for site in self.sites:
            await site.stop()
        for _ in range(BODY_LOOKS_MAX):
            if not self._has_partial_bodies():
                break
            await asyncio.sleep(BODY_PAUSE_S)
        await super().cleanup()

    def _has_partial_bodies(self) -> bool:
        connections = self.server.connections if self.server is not None else []
        return any(isinstance(c, Connection) and c.has_partial_body for c in connections)

    async def _make_server(self) -> web.Server:
        # The application starts and builds its handler as always; only the connections around it are ours.
        plain = await super()._make_server()
        return Connections(
            self._front(plain.request_handler),
            refuse=self._refuse,
            request_factory=plain.request_factory,
            **self._kwargs,
        )


def _begins_another(arriving: StreamReader, data: bytes) -> bool:
    """Whether bytes follow a request without a body: the head of a next one, not yet whole."""
    return arriving is EMPTY_PAYLOAD and not data.endswith(HEAD_END) and HEAD_END in data


def _is_late(connection: Connection, oldest_s: float) -> bool:
    return connection.owes_since_s is not None and connection.owes_since_s <= oldest_s
