"""The line's Redis is lost while a great many people wait: who comes back, where they stand, and how soon it goes on.

Some have had their turn, some have left, an operator has paused. Then the fault; then everybody polls at once, as a
crowd does. When the line has gathered, the operator resumes, and the next people to be let in are read from outside.

    python -m bench.line_loss --tickets 50000 --fault flushall
    python -m bench.line_loss --tickets 50000 --fault sigkill     killed, started again on its file
    python -m bench.line_loss --tickets 50000 --fault old-file    started again on the file it had before the turns
    python -m bench.line_loss --tickets 50000 --fault away        stopped (SIGSTOP) for --away-s seconds
    python -m bench.line_loss --tickets 50000 --fault replica     killed, and a replica promoted that lagged by seconds

Prints one JSON object; exit 1 when somebody lost a place, came back who had the turn, or a number was given twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import redis.asyncio
import uvloop

from bench.faults.failover import Standby
from bench.faults.kept import Store
from bench.faults.link import Link
from bench.faults.world import launch_of
from bench.journeys import ask_all, join, poll, request, status, text_of
from bench.measure import tickets_of
from bench.scenarios import System, system
from onsale.server import embedded

SALE = "loss"
TURNS, LEAVERS = 500, 200
CONNECTIONS = 256
OPEN_WITHIN_S = 60.0
# The copies of who is gone, and the record of who was let in, are at most a second behind.
SETTLED_S = 2.5
AFTER = 300


class Crowd:
    """Everybody who has joined; `places` in the order of joining."""

    def __init__(self, on: System, tokens: Sequence[str]) -> None:
        self.on, self.port = on, int(on.base.rpartition(":")[2])
        self._tokens = tokens
        self.tickets: list[tuple[str, str]] = []
        self.places: list[int] = []

    async def join(self) -> None:
        replies = await ask_all(self.port, [join(SALE, token) for token in self._tokens], CONNECTIONS)
        # Asked over many connections at once, buyers did not join in the order of their tokens.
        joined = sorted((number_of(reply, b"place"), tickets_of(reply)) for reply in replies)
        self.places, self.tickets = [place for place, _ in joined], [ticket for _, ticket in joined]

    async def poll(self, numbers: Sequence[int]) -> list[str]:
        """How each of them stands: a state, or the status of a refusal."""
        replies = await ask_all(self.port, [poll(*self.tickets[n]) for n in numbers], CONNECTIONS)
        return [text_of(reply, b"state") if status(reply) == "200" else status(reply) for reply in replies]

    async def leave(self, numbers: Sequence[int]) -> None:
        held = [self.tickets[n] for n in numbers]
        await ask_all(self.port, [request("DELETE", f"/v1/tickets/{ticket}", token) for ticket, token in held], 32)


def number_of(reply: bytes, name: bytes) -> int:
    """A number field of a JSON reply."""
    at = reply.index(b'"' + name + b'":') + len(name) + 3
    end = at
    while reply[end : end + 1].isdigit():
        end += 1
    return int(reply[at:end])


async def document(crowd: Crowd) -> dict[str, Any]:
    """The line as everyone sees it."""
    [reply] = await ask_all(crowd.port, [request("GET", f"/v1/sales/{SALE}/line")], 1)
    found: dict[str, Any] = json.loads(reply.partition(b"\r\n\r\n")[2])
    return found


@dataclass
class Pair:
    """A line's Redis of this run's own, behind a relay, so that another can take its place."""

    folder: Path
    stores: dict[str, Store]
    links: dict[tuple[str, str], Link]


@asynccontextmanager
async def replicated() -> AsyncIterator[tuple[Standby, dict[str, str]]]:
    """A line's Redis that can be given a standby, and the setting that names it."""
    with tempfile.TemporaryDirectory(prefix="onsale-pair-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        primary = Store(launch_of("line", folder / "line"), folder / "line.log", {})
        await primary.up()
        await primary.ready()
        relay = Link("line", primary.launch.port)
        await relay.open()
        pair = Pair(folder, {"line": primary}, {("all", "line"): relay})
        standby = Standby(pair, "line")
        try:
            yield standby, {"LINE_REDIS_URL": embedded.redis_url(relay.port)}
        finally:
            await standby.close()
            await relay.close()
            await pair.stores["line"].stop()


class Fault:
    """One way of losing the line's Redis."""

    def __init__(self, on: System, kind: str, away_s: float, standby: Standby | None) -> None:
        self._on, self._kind, self._away_s, self._standby = on, kind, away_s, standby
        self._stalled_s = 0.0
        self._copy = Path(tempfile.mkdtemp(prefix="onsale-older-"))

    async def before_turns(self, pids: dict[str, int], data: Path) -> None:
        """Keep a copy of the file as it is now; or have a replica follow."""
        if self._standby is not None:
            await self._standby.attach()
        if self._kind == "old-file":
            # A second of everysec: by then everything is in the file.
            await asyncio.sleep(1.5)
            shutil.copytree(data, self._copy / "data")

    def before_pause(self) -> None:
        """What happens from now on, a lagging replica never hears of."""
        if self._standby is not None:
            self._standby.stall()
            self._stalled_s = time.monotonic()

    async def strike(self, pids: dict[str, int], url: str, data: Path) -> None:
        if self._standby is not None:
            self._stalled_s = time.monotonic() - self._stalled_s
            await self._standby.switch()
        elif self._kind == "flushall":
            async with redis.asyncio.Redis.from_url(url) as line:
                await line.flushall()
        elif self._kind == "away":
            os.kill(pids["line-redis"], signal.SIGSTOP)
        elif self._kind == "sigkill":
            os.kill(pids["line-redis"], signal.SIGKILL)
        else:
            # The supervisor stands still meanwhile: it would be faster than a person with a backup.
            os.kill(pids["up"], signal.SIGSTOP)
            os.kill(pids["line-redis"], signal.SIGKILL)
            await asyncio.sleep(0.2)
            shutil.rmtree(data)
            shutil.copytree(self._copy / "data", data)
            os.kill(pids["up"], signal.SIGCONT)

    async def end(self, crowd: Crowd, pids: dict[str, int], asking: Sequence[int]) -> dict[str, Any]:
        """What these people see meanwhile, where the fault lasts."""
        if self._standby is not None:
            return {"seconds_missed": round(self._stalled_s, 2)}
        if self._kind != "away":
            return {}
        seen: Counter[str] = Counter()
        until = time.monotonic() + self._away_s
        while time.monotonic() < until:
            seen.update(await crowd.poll(asking))
            pages = await ask_all(crowd.port, [request("GET", f"/sales/{SALE}")], 1)
            seen.update(f"page {status(page)}" for page in pages)
            seen.update([f"line {(await document(crowd))['state']}"])
            await asyncio.sleep(1)
        os.kill(pids["line-redis"], signal.SIGCONT)
        return {"while_away": dict(seen)}

    def forget(self) -> None:
        shutil.rmtree(self._copy, ignore_errors=True)


async def measure(on: System, asked: argparse.Namespace, standby: Standby | None = None) -> dict[str, Any]:
    state = await on.status()
    pids = {process["name"]: process["pid"] for process in state["processes"]} | {"up": state["pid"]}
    stores, data = state["stores"], Path(state["data_dir"]) / "line-redis"
    crowd, fault = Crowd(on, await on.tokens(asked.tickets)), Fault(on, asked.fault, asked.away_s, standby)
    await on.create_sale(SALE, units=asked.tickets, rate=0, cap=asked.tickets)
    await _until(crowd, lambda: _is(crowd, "open"))
    await crowd.join()
    await fault.before_turns(pids, data)

    await on.command("rate", SALE, "500/s")
    await _until(crowd, lambda: _admitted(crowd, TURNS))
    fault.before_pause()
    await on.command("pause", SALE)
    let_in = (await document(crowd))["admitted"]
    had = range(let_in)
    left, waiting = range(let_in, let_in + LEAVERS), range(let_in + LEAVERS, asked.tickets)
    await crowd.poll(had)
    await crowd.leave(left)
    await asyncio.sleep(SETTLED_S)

    struck = time.monotonic()
    await fault.strike(pids, stores["line_redis"], data)
    meanwhile = await fault.end(crowd, pids, [*had[:200], *left[:200], *waiting[:800]])
    since, struck_at_s = time.monotonic(), time.time()
    polling = asyncio.create_task(_poll_on(crowd, [*had, *left, *waiting]))
    await _until(crowd, lambda: _is(crowd, "paused", after_s=struck_at_s), 0.05)
    open_s = time.monotonic() - since
    polling.cancel()
    states = await _poll_all(crowd, [*had, *left, *waiting])
    lost = [n for n in waiting if states[n] != "waiting"]

    async with redis.asyncio.Redis.from_url(stores["line_redis"]) as line:
        epoch = (await document(crowd))["epoch"]
        standing = [int(member) for member in await line.zrange(f"{{{SALE}:line}}:{epoch}:waiting", 0, -1)]
    wanted = {crowd.places[n] for n in waiting}
    late = (await on.tokens(asked.tickets + 1))[-1]
    [reply] = await ask_all(crowd.port, [join(SALE, late)], 1)
    if status(reply) != "201":
        raise RuntimeError(f"a late buyer could not join: {reply!r}")
    await on.command("rate", SALE, "500/s")
    await on.command("resume", SALE)
    await _until(crowd, lambda: _admitted(crowd, let_in + AFTER))
    await asyncio.sleep(1)
    connection = await asyncpg.connect(stores["postgres"])
    rows = await connection.fetch("SELECT places FROM admissions WHERE sale = $1 ORDER BY at, event_id", SALE)
    await connection.close()
    everyone = [place for row in rows for place in row["places"]]
    audit = await on.audit(SALE)
    fault.forget()

    twice = [place for place, count in Counter(everyone).items() if count > 1]
    expected = [*sorted(wanted), number_of(reply, b"place")][: len(everyone) - let_in]
    came_back = sorted({crowd.places[n] for n in (*had, *left)} & set(standing))
    faults = [f"{len(lost)} lost their place"] if lost else []
    faults += [f"{len(came_back)} came back who had their turn or left: {came_back[:40]}"] if came_back else []
    faults += [f"{len(twice)} were let in twice"] if twice else []
    faults += ["not let in by the old order"] if everyone[let_in:] != expected else []
    faults += [] if number_of(reply, b"place") > max(crowd.places) else ["an old number was given again"]
    faults += [f"audit: {finding}" for finding in audit if not finding["ok"]]
    return meanwhile | {
        "fault": asked.fault,
        "tickets": asked.tickets,
        "had_their_turn": let_in,
        "left": LEAVERS,
        "seconds_until_it_goes_on": round(open_s, 2),
        "seconds_of_the_fault": round(since - struck, 2),
        "standing_as_before": len(wanted & set(standing)),
        "of": len(wanted),
        "lost": len(lost),
        "came_back_wrongly": len(came_back),
        "let_in_twice": len(twice),
        "first_new_place": number_of(reply, b"place"),
        "highest_old_place": max(crowd.places),
        "pause_stood": True,
        "epoch": epoch,
        "broken": faults,
    }


async def _poll_all(crowd: Crowd, numbers: Sequence[int]) -> dict[int, str]:
    return dict(zip(numbers, await crowd.poll(numbers), strict=True)) if numbers else {}


async def _poll_on(crowd: Crowd, numbers: Sequence[int]) -> None:
    """Round after round, as fast as they are answered: a crowd that was told to ask again every few seconds."""
    while True:
        await _poll_all(crowd, numbers)


async def _is(crowd: Crowd, state: str, *, after_s: float = 0.0) -> bool:
    """Whether the line says so, in a document that was made after that moment."""
    try:
        found = await document(crowd)
    except (ValueError, OSError):
        return False
    made_s = datetime.fromisoformat(found["as_of"]).timestamp() if "as_of" in found else 0.0
    return found.get("state") == state and made_s > after_s


async def _admitted(crowd: Crowd, count: int) -> bool:
    return bool((await document(crowd)).get("admitted", 0) >= count)


async def _until(crowd: Crowd, is_so: Callable[[], Awaitable[bool]], every_s: float = 0.1) -> None:
    deadline = time.monotonic() + OPEN_WITHIN_S
    while not await is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"what was waited for did not happen: {await document(crowd)}")
        await asyncio.sleep(every_s)


async def _run(asked: argparse.Namespace) -> dict[str, Any]:
    async with AsyncExitStack() as closing:
        standby, settings = None, dict[str, str]()
        if asked.fault == "replica":
            standby, settings = await closing.enter_async_context(replicated())
        on = await closing.enter_async_context(system(asked.web, settings))
        return await measure(on, asked, standby)


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickets", type=int, default=50_000)
    parser.add_argument("--fault", choices=["flushall", "sigkill", "old-file", "away", "replica"], default="flushall")
    parser.add_argument("--away-s", type=float, default=60)
    parser.add_argument("--web", type=int, default=1)
    result = uvloop.run(_run(parser.parse_args()))
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["broken"] else 0)


if __name__ == "__main__":
    main()
