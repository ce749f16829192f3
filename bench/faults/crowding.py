"""Clients that are slow, silent, many, or late: what a crowd does to a shop without meaning to, or meaning to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence

from bench.crowd import Log
from bench.faults.strikes import Trial
from bench.faults.verdict import Asked, decide
from bench.generator import generate
from bench.journeys import ask_all, confirm, join, pass_of, poll, reserve, status, text_of

SLOW_EACH = 50
# The server's own deadline for a first or partial request is 15 s.
CLOSED_WITHIN_S = 18.0
FLOOD_PER_S = 300
FLOODERS = 5_000
# The first of them has to last until the last is made.
STORM_TTL_S, STORM_RESERVED_PER_S = 30, 500
STORM_CONFIRMS = 200
ADMITTED_WITHIN_S = 240.0
LAPSED_WITHIN_S = 120.0


async def nothing(trial: Trial, sale: str) -> None:
    """No fault: the crowd itself is the trial."""
    trial.counts["rounds"] += 1
    await asyncio.Event().wait()


async def slow_clients(trial: Trial, sale: str) -> None:
    """Silent, partial and dripping connections, and streams whose reader never reads. Each of the first three kinds has
    to be closed by the server in time; the sale goes on meanwhile."""
    readers = [await _never_reading(trial, sale) for _ in range(trial.scale.never_reading)]
    kinds = {"silent": b"", "partial": b"POST /v1/sales HTTP/1.1\r\nHost: x\r\nContent-", "dripping": b"GET / HTTP/1.1"}
    async with asyncio.TaskGroup() as group:
        waits = {
            kind: [group.create_task(_closed_after(trial, first, kind == "dripping")) for _ in range(SLOW_EACH)]
            for kind, first in kinds.items()
        }
    for kind, tasks in waits.items():
        took = [task.result() for task in tasks]
        trial.counts[f"{kind} connections"] += len(took)
        trial.notes[f"{kind}_closed_after_s"] = round(max(took), 1)
        if max(took) > CLOSED_WITHIN_S:
            trial.faults.append(f"a {kind} connection stayed open for {max(took):.1f} s")
    trial.counts["never-reading streams"] += len(readers)
    for reader in readers:
        reader.close()


async def _closed_after(trial: Trial, first: bytes, drips: bool) -> float:
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", trial.world.port)
    writer.write(first)
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 2 * CLOSED_WITHIN_S:
            try:
                async with asyncio.timeout(0.5):
                    if not await reader.read(1024):
                        break
            except TimeoutError:
                if drips:
                    writer.write(b" ")
    writer.close()
    return time.monotonic() - began


async def _never_reading(trial: Trial, sale: str) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    one.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(one, ("127.0.0.1", trial.world.port))
    await loop.sock_sendall(one, f"GET /v1/sales/{sale}/line/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return one


async def join_flood(trial: Trial, sale: str) -> None:
    """Strangers join another sale of the same shop, hundreds a second, for as long as this one lasts."""
    other = f"{sale}-flood"
    await trial.world.create_sale(other, units=10, rate=1, cap=10)
    tokens = await trial.world.tokens(FLOODERS, first=100_001)
    requests = [join(other, token) for token in tokens]
    while True:
        said = await generate(trial.world.port, requests, seconds=5, connections=32, per_second=FLOOD_PER_S)
        statuses = Counter(said["statuses"])  # type: ignore[call-overload]
        trial.counts["flood joins"] += sum(statuses.values())
        trial.notes["flood"] = dict(Counter(trial.notes.get("flood", {})) + statuses)
        trial.notes["flood_ms"] = said["latency_ms"]


async def expiry_storm(trial: Trial, sale: str) -> None:
    """Holds that lapse in one instant, while some of their buyers pay."""
    count = trial.scale.holds
    ttl_s = STORM_TTL_S + count // STORM_RESERVED_PER_S
    other = f"{sale}-storm"
    world = trial.world
    product = await world.create_sale(other, units=count, rate=100_000, cap=count, hold_ttl_s=ttl_s)
    tokens = await world.tokens(count, first=200_001)
    passes = await _let_in(trial, other, tokens)
    # Nobody takes lapsed holds back until all have lapsed: then it is one instant.
    for worker in world.of_kind("worker"):
        worker.signal(signal.SIGSTOP)
    began = time.monotonic()
    asked = [reserve(other, product, tokens[n], passes[n], f"storm-{n}") for n in range(count)]
    orders = [text_of(reply, b"order") for reply in await ask_all(world.port, asked)]
    last = time.monotonic()
    trial.counts["holds"] += sum(map(bool, orders))
    trial.notes["reserving_s"] = round(last - began, 1)
    await asyncio.sleep(max(0.0, ttl_s - 1 - (time.monotonic() - last)))
    paying = asyncio.create_task(_pay_around_the_end(trial, orders, tokens))
    await asyncio.sleep(1.5)
    for worker in world.of_kind("worker"):
        worker.signal(signal.SIGCONT)
    log = await paying
    trial.notes["lapsed_after_s"] = await _until_lapsed(trial, other)
    places = Asked.of(world, other, product, count)
    await asyncio.sleep(2)
    found = await decide(places, log)
    trial.faults += [f"storm: {fault}" for fault in found.faults]
    trial.notes["storm_sold"] = found.units_sold


async def _let_in(trial: Trial, sale: str, tokens: Sequence[str]) -> list[str]:
    port = trial.world.port
    replies = await ask_all(port, [join(sale, token) for token in tokens])
    tickets = [(text_of(reply, b"ticket"), text_of(reply, b"ticket_token")) for reply in replies]
    passes = [""] * len(tokens)
    deadline = time.monotonic() + ADMITTED_WITHIN_S
    while (waiting := [n for n, one in enumerate(passes) if not one]) and time.monotonic() < deadline:
        for n, reply in zip(waiting, await ask_all(port, [poll(*tickets[n]) for n in waiting]), strict=True):
            passes[n] = pass_of(reply)
        await asyncio.sleep(0.2)
    if waiting:
        raise RuntimeError(f"{len(waiting)} of {len(tokens)} were not let in")
    return passes


async def _pay_around_the_end(trial: Trial, orders: Sequence[str], tokens: Sequence[str]) -> Log:
    """Confirmations spread over the moments before and after the holds end: each is sold, or told it is too late."""
    log = Log()
    chosen = trial.chance.sample(range(len(orders)), min(STORM_CONFIRMS, len(orders)))
    for first in range(0, len(chosen), 20):
        some = chosen[first : first + 20]
        replies = await ask_all(
            trial.world.port, [confirm(orders[n], tokens[n], f"storm-pay-{n}") for n in some], connections=20
        )
        for n, reply in zip(some, replies, strict=True):
            trial.counts[f"storm confirm {status(reply)}"] += 1
            if status(reply) == "200" and b'"recorded":true' in reply:
                log.confirmed[orders[n]] = "confirmed"
        await asyncio.sleep(0.2)
    return log


async def _until_lapsed(trial: Trial, sale: str) -> float:
    """Seconds until nothing is held any more."""
    began = time.monotonic()
    ask = f"GET /v1/sales/{sale}/line HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    while time.monotonic() - began < LAPSED_WITHIN_S:
        [reply] = await ask_all(trial.world.port, [ask], 1)
        if b'"held":0' in reply:
            return round(time.monotonic() - began, 1)
        await asyncio.sleep(0.1)
    trial.faults.append(f"storm: units are still held {LAPSED_WITHIN_S} s after their time")
    return LAPSED_WITHIN_S
