"""A line of a million: what a ticket costs in Redis, and what keeping such a line costs each second.

The tickets are joined through the join script itself (a million sign-ins would measure something else); then signs of
life are sent as web processes send them, each ticket once a quarter of the grace, while the admitter of a real
`onsale up` lets people in, parks, and makes the line document. Every ticket lives, so nothing is spared.

    python -m bench.million --tickets 1000000 --rate 500 --seconds 30

Prints one JSON object. CPU is user + system seconds of the line's Redis, of the admitter, and of this process while it
sends signs, per second of the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psutil  # type: ignore[import-untyped]
import redis.asyncio
import uvloop

from bench.scenarios import System, system
from onsale.auth.identifiers import new_id
from onsale.lua.keys import LineKeys
from onsale.lua.line import LineScripts
from onsale.lua.replies import Reply

SALE = "million"
JOINS_A_CALL = 500
# As web processes send them.
SIGNS_A_CALL = 1_000
GRACE_S = 150
QUARTER_S = GRACE_S / 4


async def fill(scripts: LineScripts, keys: LineKeys, tickets: int) -> list[int]:
    """Join that many buyers; the places they got. Waits where the ceiling of places must be raised first."""
    places: list[int] = []
    while len(places) < tickets:
        items = [(new_id(), 0) for _ in range(min(JOINS_A_CALL, tickets - len(places)))]
        answers = await scripts.join(keys, items)
        places += [row[0] for reply, row in answers if reply is Reply.OK]
        if any(reply is Reply.CEILING for reply, _ in answers):
            await asyncio.sleep(0.1)
    return places


class Cpu:
    """CPU seconds of a process since it was last asked."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._before = self._now()

    def spent(self) -> float:
        before, self._before = self._before, self._now()
        return self._before - before

    def _now(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


async def live(scripts: LineScripts, keys: LineKeys, places: Sequence[int], seconds: int) -> None:
    """Every ticket's sign of life once a quarter, evenly, for so many seconds."""
    a_second = round(len(places) / QUARTER_S)
    coming: Iterator[int] = itertools.cycle(places)
    due = time.monotonic()
    for _ in range(seconds):
        signs = list(itertools.islice(coming, a_second))
        for first in range(0, len(signs), SIGNS_A_CALL):
            await scripts.sign(keys, signs[first : first + SIGNS_A_CALL])
        due += 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def measure(on: System, tickets: int, rate: int, seconds: int) -> dict[str, Any]:
    """Fill the line of a fresh sale, keep it for a while, and say what both cost."""
    await on.create_sale(SALE, units=10 * tickets, rate=0, cap=10 * tickets)
    status = await on.status()
    pids = {process["name"]: process["pid"] for process in status["processes"]}
    async with redis.asyncio.Redis.from_url(status["stores"]["line_redis"]) as line:
        scripts, keys = LineScripts(line), LineKeys(SALE, 1)
        before = await _memory(line)
        started = time.monotonic()
        places = await fill(scripts, keys, tickets)
        filled_s = time.monotonic() - started
        bytes_a_ticket = (await _memory(line) - before) / tickets
        await on.command("rate", SALE, f"{rate}/s")
        # One quarter of signs, so that nobody is silent, before it counts.
        await live(scripts, keys, places, round(QUARTER_S) + 1)
        meters = {
            "line-redis": Cpu(pids["line-redis"]),
            "admitter": Cpu(pids["admitter"]),
            "signs": Cpu(psutil.Process().pid),
        }
        started = time.monotonic()
        admitted = int(await line.hget(keys.meta, "admitted") or 0)
        await live(scripts, keys, places, seconds)
        took_s = time.monotonic() - started
        shares = {name: round(meter.spent() / took_s, 4) for name, meter in meters.items()}
        admitted = int(await line.hget(keys.meta, "admitted") or 0) - admitted
        document = await line.get(keys.frame) or b""
    return {
        "tickets": tickets,
        "bytes_a_ticket": round(bytes_a_ticket, 1),
        "joins_a_second": round(tickets / filled_s),
        "admitted_a_second": round(admitted / took_s, 1),
        "signs_a_second": round(tickets / QUARTER_S),
        "document_bytes": len(document),
        "share_of_a_core": shares | {"sum": round(sum(shares.values()), 4)},
    }


async def _memory(line: redis.asyncio.Redis) -> int:
    return int((await line.info("memory"))["used_memory"])


async def _run(asked: argparse.Namespace) -> dict[str, Any]:
    async with system() as on:
        return await measure(on, asked.tickets, asked.rate, asked.seconds)


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickets", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=30)
    print(json.dumps(uvloop.run(_run(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
