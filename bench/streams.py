"""Many event streams in one process: who is told when, what was lost, and what a stream costs in memory.

Personal streams: N buyers join, each opens the stream of its ticket, then everybody is let in at a set rate; the delay
runs from the ticket's `admitted_at` (the line's Redis clock, the same machine) to the event's arrival here. Public
streams: N readers of the line document; the delay runs from its `as_of`. Memory is the growth of the web processes.
Sell-out: N streams and a tenth as many who poll wait for one unit, and its buyer confirms; everything runs from the
moment at which that is asked, before it is sold: when each stream said `closed` and ended, and each poll said so.
`--absent`: this share of all who join never opens a stream, and is silent beyond the grace when the line opens.

    python -m bench.streams personal --streams 20000 --rate 500 --web 2 --absent 0.3
    python -m bench.streams line --streams 2000 --seconds 10
    python -m bench.streams sell-out --streams 15000 --web 2

Starts a fresh `onsale up` and prints one JSON object. Raw protocols; loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import psutil  # type: ignore[import-untyped]
import uvloop

from bench import journeys
from bench.journeys import ask_all, quantiles, request, text_of
from bench.measure import CAP, Bench, known, opened, require_good, tickets_of
from bench.measure import Plan as MeasurePlan

OPENED_AT_ONCE = 200
LET_IN_WITHIN_S = 60.0
# The shortest grace a sale may have; the silent are put aside at the next look after it.
GRACE_S = 20
# Far beyond the two seconds that are promised: what is not told by then never is.
CLOSED_WITHIN_S = 20.0


class Stream(asyncio.Protocol):
    """One event stream: counts its events, keeps the delay of the one it waits for."""

    def __init__(self, asked: bytes, log: Log) -> None:
        self._asked, self._log = asked, log
        self._buffer = b""
        self.is_told = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are no subclass of asyncio.Transport.
        transport.write(self._asked)  # type: ignore[attr-defined]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n\n")) >= 0:
            event, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
            self._log.heard(self, event)
        if not self._log.is_open(self) and self._buffer.startswith(b"HTTP/1.1 "):
            self._log.answered(self, self._buffer[9:12].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        self._log.closed(self)


class Log:
    """What all streams of a run heard. `stamp` is the field whose moment an event's delay runs from."""

    def __init__(self, wanted: bytes, stamp: bytes) -> None:
        self._wanted, self._stamp = wanted, stamp
        self._open: set[Stream] = set()
        self.statuses: Counter[str] = Counter()
        self.delays_ms: list[float] = []
        # When what was waited for came, and when streams that were told it ended (this machine's clock).
        self.told_at_ms: list[float] = []
        self.ended_at_ms: list[float] = []
        self.events = 0
        self.lost = 0
        self._is_over = False

    def is_open(self, stream: Stream) -> bool:
        return stream in self._open

    @property
    def open_count(self) -> int:
        return len(self._open)

    def answered(self, stream: Stream, status: str) -> None:
        """The head of the answer has come."""
        self.statuses[status] += 1
        self._open.add(stream)

    def heard(self, stream: Stream, event: bytes) -> None:
        """One event, or the head with the first one behind it."""
        now_ms = time.time() * 1000
        if event.startswith(b"HTTP/1.1 ") and not self.is_open(stream):
            self.answered(stream, event[9:12].decode())
        self.events += 1
        if self._wanted in event and (moment := text_of(event, self._stamp)):
            if not stream.is_told:
                self.delays_ms.append(now_ms - datetime.fromisoformat(moment).timestamp() * 1000)
                self.told_at_ms.append(now_ms)
            stream.is_told = self._stamp != b"as_of"

    def closed(self, stream: Stream) -> None:
        """A stream that ends before it was told anything was lost."""
        self._open.discard(stream)
        if stream.is_told and not self._is_over:
            self.ended_at_ms.append(time.time() * 1000)
        self.lost += not stream.is_told and not self._is_over

    def over(self) -> None:
        """What ends from now on was ended by us."""
        self._is_over = True


async def personal(
    bench: Bench, streams: int, rate: int, *, absent: float = 0.0, sale: str = "streams"
) -> dict[str, Any]:
    """Everybody who is there waits by stream and is let in at `rate` a second."""
    joining = round(streams / (1 - absent))
    tokens = await bench.grow_tokens(joining)
    await bench.on.create_sale(sale, units=2 * joining, rate=0, cap=CAP, absent_after_s=GRACE_S if absent else 150)
    await known(bench, sale)
    replies = await ask_all(bench.ours.port, [journeys.join(sale, token) for token in tokens], 128)
    require_good(replies)
    tickets = [tickets_of(reply) for reply in replies]
    log = Log(b'"state":"admitted"', b"admitted_at")
    present = random.Random(joining).sample(tickets, streams)
    requests = [request("GET", f"/v1/tickets/{ticket}/events", token) for ticket, token in present]
    held, memory = await _open_all(bench, requests, log)
    if absent:
        await asyncio.sleep(1.5 * GRACE_S)
    await bench.on.command("rate", sale, f"{rate}/s")
    started = time.monotonic()
    while len(log.delays_ms) < streams and time.monotonic() - started < LET_IN_WITHIN_S + streams / rate:
        await asyncio.sleep(0.1)
    took_s = time.monotonic() - started
    _close(held, log)
    return {
        "streams": streams,
        "joined": joining,
        "rate": rate,
        "told_a_second": round(len(log.delays_ms) / took_s, 1),
        "told": len(log.delays_ms),
        "seconds": round(took_s, 1),
        "delay_ms": quantiles(log.delays_ms),
        "kib_a_stream": memory,
        "statuses": dict(log.statuses),
        "lost": log.lost,
        "events": log.events,
    }


async def sell_out(bench: Bench, streams: int, sale: str = "last-unit") -> dict[str, Any]:
    """Everybody waits for the last unit, and somebody else gets it."""
    polls = streams // 10
    tokens = await bench.grow_tokens(1 + streams + polls)
    product = await bench.on.create_sale(sale, units=1, rate=0, cap=1)
    await known(bench, sale)
    joins = [journeys.join(sale, token) for token in tokens]
    replies = await ask_all(bench.ours.port, joins[:1]) + await ask_all(bench.ours.port, joins[1:], 128)
    require_good(replies)
    buyer, *tickets = [tickets_of(reply) for reply in replies]
    log = Log(b'"state":"closed"', b"ended_at")
    requests = [request("GET", f"/v1/tickets/{ticket}/events", token) for ticket, token in tickets[:streams]]
    held, memory = await _open_all(bench, requests, log)
    order = await _reserve_last(bench, sale, product, buyer, tokens[0])
    asked_ms = time.time() * 1000
    confirming = asyncio.create_task(ask_all(bench.ours.port, [journeys.confirm(order, tokens[0], "last-pay")]))
    polled_ms = await _until_closed(bench, [journeys.poll(*ticket) for ticket in tickets[streams:]], asked_ms)
    deadline = time.monotonic() + CLOSED_WITHIN_S
    while len(log.ended_at_ms) + log.lost < streams and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    confirmed = (await confirming)[0]
    _close(held, log)
    return {
        "streams": streams,
        "confirmed": b'"confirmed"' in confirmed,
        "told": len(log.told_at_ms),
        "told_ms": quantiles([at_ms - asked_ms for at_ms in log.told_at_ms]),
        "ended": len(log.ended_at_ms),
        "last_ended_ms": round(max(log.ended_at_ms, default=0.0) - asked_ms, 1),
        "polls": polls,
        "last_polled_ms": polled_ms,
        "kib_a_stream": memory,
        "statuses": dict(log.statuses),
        "lost": log.lost,
    }


async def _reserve_last(bench: Bench, sale: str, product: str, buyer: tuple[str, str], token: str) -> str:
    """Let the first of the line in, and hold the unit; the order's id."""
    await bench.on.command("rate", sale, "1/s")
    admission, deadline = "", time.monotonic() + LET_IN_WITHIN_S
    while not admission and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        admission = journeys.pass_of((await ask_all(bench.ours.port, [journeys.poll(*buyer)]))[0])
    replies = await ask_all(bench.ours.port, [journeys.reserve(sale, product, token, admission, "last")])
    require_good(replies)
    return text_of(replies[0], b"order")


async def _until_closed(bench: Bench, polls: Sequence[bytes], asked_ms: float) -> float | None:
    """Poll until every answer says `closed`; how long after `asked_ms` the last one did, None: not all of them."""
    last_ms, left, deadline = asked_ms, list(polls), time.monotonic() + CLOSED_WITHIN_S
    while left and time.monotonic() < deadline:
        replies = await ask_all(bench.ours.port, left)
        last_ms = time.time() * 1000
        left = [poll for poll, reply in zip(left, replies, strict=True) if b'"state":"closed"' not in reply]
        await asyncio.sleep(0.05)
    return None if left else round(last_ms - asked_ms, 1)


async def line(bench: Bench, streams: int, seconds: float, sale: str = "readers") -> dict[str, Any]:
    """Everybody reads the public document while it changes."""
    await bench.on.create_sale(sale, units=10, rate=0, cap=1)
    await known(bench, sale)
    log = Log(b"event: line", b"as_of")
    requests = [request("GET", f"/v1/sales/{sale}/line/events")] * streams
    held, memory = await _open_all(bench, requests, log)
    log.delays_ms.clear()
    await asyncio.sleep(seconds)
    _close(held, log)
    return {
        "streams": streams,
        "seconds": seconds,
        "documents": len(log.delays_ms),
        "delay_ms": quantiles(log.delays_ms),
        "kib_a_stream": memory,
        "statuses": dict(log.statuses),
    }


async def _open_all(bench: Bench, requests: Sequence[bytes], log: Log) -> tuple[list[Stream], float]:
    """Open every stream; what each added to the web process's memory, KiB."""
    before = _memory_kib(bench)
    loop = asyncio.get_running_loop()
    held: list[Stream] = []
    for first in range(0, len(requests), OPENED_AT_ONCE):
        make: list[Callable[[], Stream]] = [
            lambda asked=asked: Stream(asked, log)  # type: ignore[misc]
            for asked in requests[first : first + OPENED_AT_ONCE]
        ]
        pairs = await asyncio.gather(*(loop.create_connection(one, "127.0.0.1", bench.ours.port) for one in make))
        held += [stream for _, stream in pairs]
    deadline = time.monotonic() + 30
    while log.open_count < len(requests) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    return held, round((_memory_kib(bench) - before) / len(requests), 1)


def _memory_kib(bench: Bench) -> float:
    web = [pid for name, pid in bench.ours.pids.items() if name.startswith("web")]
    return sum(float(psutil.Process(pid).memory_info().rss) for pid in web) / 1024


def _close(held: Sequence[Stream], log: Log) -> None:
    log.over()
    for stream in held:
        stream.transport.close()


def allow_files(wanted: int) -> None:
    """Raise the limit of open files of this process and its children as far as the system lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


async def _run(asked: argparse.Namespace) -> dict[str, Any]:
    async with opened(MeasurePlan(), lambda text: print(text, file=sys.stderr), web=asked.web) as bench:
        if asked.kind == "personal":
            return await personal(bench, asked.streams, asked.rate, absent=asked.absent)
        if asked.kind == "sell-out":
            return await sell_out(bench, asked.streams)
        return await line(bench, asked.streams, asked.seconds)


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["personal", "line", "sell-out"])
    parser.add_argument("--streams", type=int, default=2_000)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--web", type=int, default=1)
    parser.add_argument("--absent", type=float, default=0.0)
    asked = parser.parse_args()
    allow_files(4 * asked.streams + 4_096)
    print(json.dumps(uvloop.run(_run(asked)), indent=2))


if __name__ == "__main__":
    main()
