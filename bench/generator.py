"""A load generator lighter than the servers it asks: raw asyncio protocols, prepared bytes, no HTTP library.

Closed loop: every connection asks again as soon as it was answered (saturation: CPU per request is the figure).
Open loop (`per_second`): requests leave by the clock, whether earlier ones were answered or not; what could not leave
in time is counted as late, what found no free connection as dropped. Bounded in time and number; loopback only.

    python -m bench.generator --port 8080 --requests requests.bin --seconds 5 --connections 64 [--per-second 1000]

`requests.bin` holds HTTP requests separated by the line `%%%`. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop

SEPARATOR = b"\n%%%\n"
LATE_MS = 10
TICK_S = 0.001
# How long the last answers of an open loop are waited for.
STRAGGLERS_S = 1.0


class Run:
    """Counts of one run, shared by its connections."""

    def __init__(self, requests: list[bytes], seconds: float, count_max: int, once: bool) -> None:
        self._requests, self._next, self._once = requests, 0, once
        self.count_max = min(count_max, len(requests)) if once else count_max
        self.ends_at = time.perf_counter() + seconds
        self.sent = 0
        self.statuses: Counter[str] = Counter()
        self.took_ms: list[float] = []
        self.dropped = self.late = 0

    def take(self) -> bytes | None:
        """The next request to send, or None when the run is over."""
        if self.sent >= self.count_max or time.perf_counter() >= self.ends_at:
            return None
        self.sent += 1
        request = self._requests[self._next]
        self._next = (self._next + 1) % len(self._requests)
        return request


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, run: Run, is_open_loop: bool, idle: deque[Connection], finished: asyncio.Future[None]) -> None:
        self._run, self._is_open_loop, self._idle, self._finished = run, is_open_loop, idle, finished
        self._buffer = b""
        self._started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are no subclass of it.
        self._transport = cast(asyncio.Transport, transport)
        if self._is_open_loop:
            self._idle.append(self)
        else:
            self._next()

    def ask(self, request: bytes, due: float) -> None:
        """Send one request; its latency counts from when it was due."""
        self._started = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 : (head + b"\r\n").find(b"\r\n", at)]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._run.statuses[head[9:12].decode()] += 1
            self._run.took_ms.append((time.perf_counter() - self._started) * 1000)
            self._buffer = self._buffer[end + 4 + length :]
            if self._is_open_loop:
                self._idle.append(self)
            else:
                self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._finished.done():
            self._run.statuses["connection lost"] += 1
            self._finished.set_result(None)

    def _next(self) -> None:
        request = self._run.take()
        if request is not None:
            self.ask(request, time.perf_counter())
        elif not self._finished.done():
            self._finished.set_result(None)
            self._transport.close()


async def generate(
    port: int,
    requests: list[bytes],
    *,
    seconds: float,
    connections: int,
    per_second: float = 0,
    count_max: int = 10**9,
    once: bool = False,
) -> dict[str, object]:
    """Run against 127.0.0.1:port. `once`: each request is sent one time and the run ends with the last."""
    run = Run(requests, seconds, count_max, once)
    loop = asyncio.get_running_loop()
    idle: deque[Connection] = deque()
    finished = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()

    def connect(future: asyncio.Future[None]) -> Callable[[], Connection]:
        return lambda: Connection(run, per_second > 0, idle, future)

    for future in finished:
        await loop.create_connection(connect(future), "127.0.0.1", port)
    if per_second > 0:
        await _pace(run, idle, per_second)
        took_s = time.perf_counter() - started
        await asyncio.sleep(STRAGGLERS_S)
    else:
        await asyncio.wait(finished, timeout=seconds + 10)
        took_s = time.perf_counter() - started
    return _summary(run, took_s)


async def _pace(run: Run, idle: deque[Connection], per_second: float) -> None:
    """Requests leave in groups, one a millisecond: finer sleeping would keep this process as busy as the server."""
    started = time.perf_counter()
    n = 0
    while True:
        now = time.perf_counter()
        tick = int((now - started) / TICK_S)
        while n < (tick + 1) * TICK_S * per_second:
            request = run.take()
            if request is None:
                return
            due = started + int(n / per_second / TICK_S) * TICK_S
            n += 1
            run.late += (time.perf_counter() - due) * 1000 > LATE_MS
            if idle:
                idle.popleft().ask(request, due)
            else:
                run.dropped += 1
        await asyncio.sleep(max(0.0, started + (tick + 1) * TICK_S - time.perf_counter()))


def _summary(run: Run, took_s: float) -> dict[str, object]:
    took = sorted(run.took_ms)
    latency = (
        {f"p{q}": round(took[min(len(took) - 1, int(len(took) * q / 100))], 3) for q in (50, 95, 99, 99.9)}
        | {"max": round(took[-1], 3)}
        if took
        else {}
    )
    return {
        "answered": len(took),
        "per_second": round(len(took) / took_s, 1),
        "seconds": round(took_s, 3),
        "statuses": dict(run.statuses),
        "latency_ms": latency,
        "dropped": run.dropped,
        "late": run.late,
    }


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--per-second", type=float, default=0)
    parser.add_argument("--once", action="store_true")
    asked = parser.parse_args()
    requests = asked.requests.read_bytes().split(SEPARATOR)
    work = generate(
        asked.port, requests, seconds=asked.seconds, connections=asked.connections, per_second=asked.per_second,
        once=asked.once,
    )  # fmt: skip
    print(json.dumps(uvloop.run(work)))


if __name__ == "__main__":
    main()
