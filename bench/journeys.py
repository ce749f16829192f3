"""One client for onsale and for its floors: raw keep-alive connections that run whole journeys one after another.

A journey is: join, poll (at least `POLLS` times, until let in), reserve, confirm. Ids and tokens are cut out of replies
by their bytes; nothing is decoded. Loopback only, bounded by the number of buyers.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from bench.generator import generate as generate

POLLS = 5
# Between polls of one buyer: five of them take as long as being let in takes when nobody is ahead.
POLL_PAUSE_S = 0.04
POLLS_MAX = 400
STEPS = ("join", "poll", "reserve", "confirm")


def request(method: str, path: str, token: str = "", body: str = "", *headers: str) -> bytes:
    """One HTTP request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    elif method == "POST":
        lines.append("Content-Length: 0")
    return "\r\n".join((*lines, *headers, "", body)).encode()


def join(sale: str, token: str) -> bytes:
    return request("POST", f"/v1/sales/{sale}/tickets", token)


def poll(ticket: str, ticket_token: str) -> bytes:
    return request("GET", f"/v1/tickets/{ticket}", ticket_token)


def reserve(sale: str, product: str, token: str, admission: str, key: str) -> bytes:
    body = f'{{"items":[{{"product":"{product}","quantity":1}}]}}'
    return request(
        "POST", f"/v1/sales/{sale}/orders", token, body, f"Admission-Pass: {admission}", f"Idempotency-Key: {key}"
    )


def confirm(order: str, token: str, key: str) -> bytes:
    body = '{"payment":{"provider":"sandbox","method":"card","token":"ok"}}'
    return request("POST", f"/v1/orders/{order}/confirmation", token, body, f"Idempotency-Key: {key}")


def text_of(reply: bytes, name: bytes) -> str:
    """The first string field of that name in a JSON reply, or an empty text."""
    at = reply.find(b'"' + name + b'":"')
    if at < 0:
        return ""
    at += len(name) + 4
    return reply[at : reply.index(b'"', at)].decode()


def pass_of(reply: bytes) -> str:
    """The admission pass in a ticket, or an empty text while it waits."""
    at = reply.find(b'"pass":{')
    return text_of(reply[at:], b"token") if at >= 0 else ""


class Connection(asyncio.Protocol):
    """A keep-alive connection that hands each reply (head and body) to `answered`."""

    def __init__(self) -> None:
        self.answered: Callable[[bytes], None] = lambda _: None
        self.lost: Callable[[], None] = lambda: None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are no subclass of it.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self._buffer.find(b"Content-Length: ", 0, end)
        length = int(self._buffer[at + 16 : self._buffer.index(b"\r", at)]) if at >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        reply, self._buffer = self._buffer, b""
        self.answered(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost()


async def connect(port: int, count: int) -> list[Connection]:
    """That many open connections."""
    loop = asyncio.get_running_loop()
    made: list[Connection] = []
    for first in range(0, count, 200):
        pairs = await asyncio.gather(
            *(loop.create_connection(Connection, "127.0.0.1", port) for _ in range(min(200, count - first)))
        )
        made += [connection for _, connection in pairs]
    return made


def status(reply: bytes) -> str:
    return reply[9:12].decode()


async def ask_all(port: int, requests: Sequence[bytes], connections: int = 64) -> list[bytes]:
    """Send each request once, closed loop; the replies in the same order. An unanswered one is empty."""
    replies = [b""] * len(requests)
    numbers = iter(range(len(requests)))
    open_connections = await connect(port, min(connections, len(requests)))
    ends: list[asyncio.Future[None]] = []
    for connection in open_connections:
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ends.append(end)
        _run(connection, requests, replies, numbers, end)
    await asyncio.gather(*ends)
    return replies


def _run(
    connection: Connection,
    requests: Sequence[bytes],
    replies: list[bytes],
    numbers: object,
    end: asyncio.Future[None],
) -> None:
    asked = -1

    def send() -> None:
        nonlocal asked
        asked = next(numbers, -1)  # type: ignore[call-overload]
        if asked < 0:
            connection.transport.close()
            finish()
        else:
            connection.transport.write(requests[asked])

    def answered(reply: bytes) -> None:
        replies[asked] = reply
        send()

    def finish() -> None:
        if not end.done():
            end.set_result(None)

    connection.answered, connection.lost = answered, finish
    send()


@dataclass
class Journeys:
    """What a run of journeys came to; latencies in milliseconds by step."""

    finished: int = 0
    requests: int = 0
    polls: int = 0
    seconds: float = 0.0
    unexpected: Counter[str] = field(default_factory=Counter)
    took_ms: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})

    @property
    def per_second(self) -> float:
        return round(self.finished / self.seconds, 1) if self.seconds else 0.0

    def quantiles(self) -> dict[str, dict[str, float]]:
        """p50, p95 and p99 by step."""
        return {step: quantiles(took) for step, took in self.took_ms.items() if took}


def quantiles(took_ms: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 of latencies; nothing of none."""
    ordered = sorted(took_ms)
    if not ordered:
        return {}
    return {f"p{q}": round(ordered[min(len(ordered) - 1, len(ordered) * q // 100)], 2) for q in (50, 95, 99)}


@dataclass(frozen=True)
class Course:
    """Which sale is bought in, by whom."""

    sale: str
    product: str
    tokens: Sequence[str]
    name: str = "bench"
    # When so many were bought nothing is left, and whoever still waits goes; 0 = there is enough for all.
    units: int = 0


class _Rider:
    """One connection's journeys, buyer after buyer."""

    def __init__(
        self, course: Course, connection: Connection, buyers: object, log: Journeys, end: asyncio.Future[None]
    ) -> None:
        self._course, self._connection, self._buyers, self._log, self._end = course, connection, buyers, log, end
        self._loop = asyncio.get_running_loop()
        connection.answered, connection.lost = self._answered, self._finish

    def start(self) -> None:
        self._buyer = next(self._buyers, -1)  # type: ignore[call-overload]
        if self._buyer < 0:
            self._finish()
            self._connection.transport.close()
            return
        self._token, self._polls, self._pass = self._course.tokens[self._buyer], 0, ""
        self._ask("join", join(self._course.sale, self._token))

    def _ask(self, step: str, data: bytes) -> None:
        self._step, self._started = step, time.perf_counter()
        self._connection.transport.write(data)

    def _answered(self, reply: bytes) -> None:
        self._log.requests += 1
        self._log.took_ms[self._step].append((time.perf_counter() - self._started) * 1000)
        if reply[9:10] != b"2":
            self._log.unexpected[f"{self._step} {status(reply)} {text_of(reply, b'code')}"] += 1
            self.start()
            return
        getattr(self, f"_after_{self._step}")(reply)

    def _after_join(self, reply: bytes) -> None:
        self._poll_request = poll(text_of(reply, b"ticket"), text_of(reply, b"ticket_token"))
        self._loop.call_later(POLL_PAUSE_S, self._poll)

    def _poll(self) -> None:
        self._polls += 1
        self._log.polls += 1
        self._ask("poll", self._poll_request)

    def _after_poll(self, reply: bytes) -> None:
        self._pass = pass_of(reply) or self._pass
        if self._polls >= POLLS and self._pass:
            course = self._course
            key = f"{course.name}-{self._buyer}"
            self._ask("reserve", reserve(course.sale, course.product, self._token, self._pass, key))
        elif self._polls >= POLLS_MAX or 0 < self._course.units <= self._log.finished:
            self._log.unexpected["never let in"] += 1
            self.start()
        else:
            self._loop.call_later(POLL_PAUSE_S, self._poll)

    def _after_reserve(self, reply: bytes) -> None:
        order = text_of(reply, b"order")
        self._ask("confirm", confirm(order, self._token, f"{self._course.name}-{self._buyer}-pay"))

    def _after_confirm(self, reply: bytes) -> None:
        if b'"confirmed"' in reply:
            self._log.finished += 1
        else:
            self._log.unexpected[f"confirm {status(reply)} not yet confirmed"] += 1
        self.start()

    def _finish(self) -> None:
        if not self._end.done():
            self._end.set_result(None)


async def run_journeys(port: int, course: Course, connections: int) -> Journeys:
    """Every buyer of the course once, closed loop over that many connections."""
    log = Journeys()
    buyers = iter(range(len(course.tokens)))
    riders, ends = [], []
    for connection in await connect(port, min(connections, len(course.tokens))):
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ends.append(end)
        riders.append(_Rider(course, connection, buyers, log, end))
    started = time.perf_counter()
    for rider in riders:
        rider.start()
    await asyncio.gather(*ends)
    log.seconds = time.perf_counter() - started
    return log
