"""Whole sales on real processes: a crowd, and what goes wrong under it. Each ends with `onsale audit` and the judge.

    python -m bench.scenarios rush            2,000 buyers, 500 units, 200 a second
    python -m bench.scenarios kills           the same at 20 a second; kill -9 of a process every 2 s, in turn
    python -m bench.scenarios rate            `onsale rate` in mid-run; admissions seen from outside
    python -m bench.scenarios last-unit       1 unit, 2,000 buyers, 20 rounds
    python -m bench.scenarios redis-kill      both Redis servers SIGKILLed in mid-sale
    python -m bench.scenarios flush-shop      FLUSHALL of the shop's Redis in mid-sale
    python -m bench.scenarios chaos           20,000 payments of several units at a provider on a bad day (by --seed)

Prints one JSON object; exit 1 when a promise was broken. Everything runs on loopback, bounded in number and time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import redis

from bench.crowd import Habits, Log, run_crowd
from bench.judge import judge, payment_figures, payments_made, rate_faults, until_none_confirming
from onsale.server import embedded

ONSALE = str(Path(sys.executable).parent / "onsale")
# No event streams: the buyers are not what is tried. Several units an order, and whoever is declined pays again.
CHAOS = Habits(stream_share=0.0, double_share=0.05, arrive_s=5.0, payments=(("ok", 1.0),), quantity=2)
CHAOS_QUANTITY = CHAOS.quantity
CONFIRMING_MAX_S = 120
KILLED_IN_TURN = ("web", "admitter", "flusher", "worker")

SALE = """[sale]
id = "{sale}"
title = "Scenario {sale}"
opens_at = "now"
closes_at = "2099-01-01T00:00:00Z"
limit_per_buyer = {limit}
hold_ttl_s = {hold_ttl_s}
[admission]
rate_per_second = {rate}
active_max = {cap}
absent_after_s = {absent_after_s}
[[items]]
product = "{sale}-1"
title = "Only one kind"
stock = {units}
price = {{ amount = 1990000, currency = "KRW" }}
"""


class System:
    """`onsale up` in a data directory of its own, and the commands beside it."""

    def __init__(self, data_dir: Path, port: int, up: asyncio.subprocess.Process) -> None:
        self._data_dir, self._up = data_dir, up
        self.base = f"http://127.0.0.1:{port}"

    async def command(self, *words: str, check: bool = True) -> str:
        """Run one onsale command; answers its standard output."""
        process = await asyncio.create_subprocess_exec(
            ONSALE,
            *words,
            "--data-dir",
            str(self._data_dir),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environ(),
        )
        out, err = await process.communicate()
        if check and process.returncode:
            raise RuntimeError(f"onsale {' '.join(words)}: {err.decode()[-2000:]}{out.decode()[-2000:]}")
        return out.decode()

    async def status(self) -> dict[str, Any]:
        """`onsale status --json`."""
        status: dict[str, Any] = json.loads(await self.command("status", "--json"))
        return status

    async def create_sale(
        self,
        sale: str,
        *,
        units: int,
        rate: float,
        cap: int,
        hold_ttl_s: int = 60,
        absent_after_s: int = 150,
        limit: int = 1,
    ) -> str:
        """Answers the product's id."""
        file = self._data_dir / f"{sale}.toml"
        text = SALE.format(
            sale=sale,
            units=units,
            rate=rate,
            cap=cap,
            hold_ttl_s=hold_ttl_s,
            absent_after_s=absent_after_s,
            limit=limit,
        )
        file.write_text(text)
        await self.command("sale", "create", str(file))
        return f"{sale}-1"

    async def tokens(self, count: int) -> list[str]:
        """Access tokens of accounts made for load, valid for hours."""
        return (await self.command("tokens", "--count", str(count), "--ttl", "6h")).split()

    async def audit(self, sale: str) -> list[dict[str, Any]]:
        """What `onsale audit SALE --json` found, one entry for each invariant."""
        findings: list[dict[str, Any]] = json.loads(await self.command("audit", sale, "--json", check=False))
        return findings


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("ONSALE_", "REDIS", "DATABASE"))}


@contextlib.asynccontextmanager
async def system(web: int = 1, settings: Mapping[str, str] | None = None) -> AsyncIterator[System]:
    """Start everything in an empty directory; stop it with SIGTERM, as a person's Ctrl-C would."""
    with tempfile.TemporaryDirectory(prefix="onsale-scenario-", ignore_cleanup_errors=True) as folder:
        port = embedded.free_port()
        log = (Path(folder) / "up.log").open("wb")
        up = await asyncio.create_subprocess_exec(
            ONSALE, "up", "--no-demo", "--port", str(port), "--web", str(web), "--data-dir", f"{folder}/data",
            stdout=log, stderr=log, env=_environ() | dict(settings or {}),
        )  # fmt: skip
        running = System(Path(folder) / "data", port, up)
        try:
            await _until_ready(port, up, Path(folder) / "up.log")
            yield running
        finally:
            if up.returncode is None:
                up.terminate()
                await asyncio.wait_for(up.wait(), 60)
            if keep := os.environ.get("SCENARIO_LOG"):
                Path(keep).write_bytes((Path(folder) / "up.log").read_bytes())


async def _until_ready(port: int, up: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and up.returncode is None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            line = await reader.readline()
            writer.close()
            if b" 200 " in line:
                return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"onsale up did not become ready:\n{log.read_text()[-4000:]}")


async def sell(
    on: System,
    sale: str,
    *,
    buyers: int,
    units: int,
    rate: float,
    cap: int,
    habits: Habits,
    tokens: list[str],
    meanwhile: Callable[[System, str], Awaitable[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """One sale from its opening until nobody waits, then the audit and the judge."""
    product = await on.create_sale(sale, units=units, rate=rate, cap=cap)
    started = time.monotonic()
    crowd = asyncio.create_task(run_crowd(on.base, sale, product, tokens[:buyers], habits))
    side = asyncio.create_task(meanwhile(on, sale)) if meanwhile else None
    log: Log = await crowd
    took_s = round(time.monotonic() - started, 1)
    extra: dict[str, Any] = {}
    if side:
        side.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            extra = await side
    return await _result(on, sale, units, log, took_s) | extra | {"admitted_at": log.admitted_at}


async def _result(on: System, sale: str, units: int, log: Log, took_s: float) -> dict[str, Any]:
    status = await on.status()
    await _until_drained(on, sale)
    verdict = await judge(status["stores"]["postgres"], status["addresses"]["sandbox"], sale, units, log.confirmed)
    audit = await on.audit(sale)
    broken = [*verdict.faults, *(f"audit: {f}" for f in audit if not f["ok"])]
    broken += [f"5xx: {call}" for call in log.errors_5xx[:5]]
    if verdict.units_sold != units:
        broken.append(f"sold {verdict.units_sold} of {units}")
    return {
        "sale": sale,
        "took_s": took_s,
        "summary": log.summary(),
        "recorded": verdict.confirmed_recorded,
        "units_sold": verdict.units_sold,
        "charged_orders": verdict.charged_orders,
        "refunded": verdict.refunded,
        "restarts": {p["name"]: p["restarts"] for p in status["processes"]},
        "broken": broken,
    }


async def _until_drained(on: System, sale: str) -> None:
    """Until the audit finds nothing, at most 30 s: the record may be a moment behind, claims may be completing."""
    for _ in range(15):
        audit = await on.audit(sale)
        if all(finding["ok"] for finding in audit):
            return
        await asyncio.sleep(2)


async def rush(asked: argparse.Namespace) -> dict[str, Any]:
    """Half polling, half streaming, 10 % declines, 20 % doubled requests."""
    async with system(asked.web) as on:
        tokens = await on.tokens(asked.buyers)
        result = await sell(
            on, "rush", buyers=asked.buyers, units=asked.units, rate=asked.rate or 200, cap=asked.cap or asked.units,
            habits=Habits(), tokens=tokens,
        )  # fmt: skip
    return _with_rate(result, asked.rate or 200)


async def kills(asked: argparse.Namespace) -> dict[str, Any]:
    """kill -9 of web, admitter, flusher and worker in turn, every 2 s, while the sale lasts."""
    async with system(asked.web) as on:
        tokens = await on.tokens(asked.buyers)
        killed: Counter[str] = Counter()

        async def kill_in_turn(on: System, sale: str) -> dict[str, Any]:
            with contextlib.suppress(asyncio.CancelledError):
                async for name in _by_the_clock(asked.every, KILLED_IN_TURN):
                    killed[name] += await _kill(on, name)
            return {"killed": dict(killed)}

        result = await sell(
            on, "kills", buyers=asked.buyers, units=asked.units, rate=asked.rate or 20, cap=asked.cap or asked.units,
            habits=Habits(), tokens=tokens, meanwhile=kill_in_turn,
        )  # fmt: skip
    return _with_rate(result, asked.rate or 20)


async def _by_the_clock(every_s: float, names: Sequence[str]) -> AsyncIterator[str]:
    """One name after another, each at its time: a slow kill delays no later one."""
    clock = asyncio.get_running_loop().time
    due = clock()
    for name in itertools.cycle(names):
        due += every_s
        await asyncio.sleep(max(0.0, due - clock()))
        yield name


async def _kill(on: System, name: str) -> bool:
    """SIGKILL the living process of that name (or its first copy); False when none lives just now."""
    for process in (await on.status())["processes"]:
        if process["name"].partition(".")[0] == name and process["state"] == "running":
            with contextlib.suppress(ProcessLookupError):
                os.kill(process["pid"], signal.SIGKILL)
                return True
    return False


async def rate(asked: argparse.Namespace) -> dict[str, Any]:
    """From 20 to 500 a second in mid-run; how soon the admissions follow, by `admitted_at`."""
    async with system(asked.web) as on:
        tokens = await on.tokens(asked.buyers)
        changed: dict[str, Any] = {}

        async def change(on: System, sale: str) -> dict[str, Any]:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(5)
                await on.command("rate", sale, "500/s")
                changed["changed_at"] = time.time()
            return changed

        result = await sell(
            on, "rate", buyers=asked.buyers, units=asked.buyers, rate=20, cap=asked.cap or 10 * asked.buyers,
            habits=Habits(decline_share=0, double_share=0), tokens=tokens, meanwhile=change,
        )  # fmt: skip
    moments = sorted(datetime.fromisoformat(text).timestamp() for text in result.pop("admitted_at"))
    after = [moment - changed["changed_at"] for moment in moments]
    first_second = sum(0 <= s < 1 for s in after)
    busiest = max(sum(s <= other < s + 1 for other in after) for s in after[:: max(1, len(after) // 400)])
    result |= {"in_the_second_before": sum(-1 <= s < 0 for s in after), "in_the_second_after": first_second}
    result["busiest_second"] = busiest
    if first_second < 250:
        result["broken"].append(f"only {first_second} let in during the second after the change")
    if busiest > 500 + 50 + 1:
        result["broken"].append(f"{busiest} let in within one second at 500/s with a burst of 50")
    return result


async def last_unit(asked: argparse.Namespace) -> dict[str, Any]:
    """One unit, everyone at once, again and again."""
    async with system(asked.web) as on:
        tokens = await on.tokens(asked.buyers)
        rounds = []
        for n in range(asked.rounds):
            result = await sell(
                on, f"last-{n + 1}", buyers=asked.buyers, units=1, rate=5000, cap=100_000,
                habits=Habits(decline_share=0.3, arrive_s=0.5), tokens=tokens,
            )  # fmt: skip
            result.pop("admitted_at")
            rounds.append(result)
    return {
        "rounds": len(rounds),
        "sold": sum(r["units_sold"] for r in rounds),
        "outcomes": dict(sum((Counter(r["summary"]["outcomes"]) for r in rounds), Counter())),
        "broken": [fault for r in rounds for fault in r["broken"]],
    }


async def redis_kill(asked: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL of both Redis servers in turn, every few seconds; `onsale up` starts them again."""

    async def kill_redis(on: System, sale: str) -> dict[str, Any]:
        killed: Counter[str] = Counter()
        with contextlib.suppress(asyncio.CancelledError):
            async for name in _by_the_clock(asked.every * 2, ("shop-redis", "line-redis")):
                killed[name] += await _kill(on, name)
        return {"killed": dict(killed)}

    return await _with_fault(asked, "redis-kill", kill_redis)


async def flush_shop(asked: argparse.Namespace) -> dict[str, Any]:
    """FLUSHALL of the shop's Redis in mid-sale; the rebuild follows by itself."""

    async def flush(on: System, sale: str) -> dict[str, Any]:
        times = 0
        shop = (await on.status())["stores"]["shop_redis"]
        with contextlib.suppress(asyncio.CancelledError):
            while times < 3:
                await asyncio.sleep(asked.every * 3)
                await asyncio.to_thread(redis.Redis.from_url(shop).flushall)
                times += 1
        return {"flushed": times}

    return await _with_fault(asked, "flush-shop", flush)


async def chaos(asked: argparse.Namespace) -> dict[str, Any]:
    """Sale after sale at a provider that is silent, late, early and doubled; judged when all is over.

    Every captured payment belongs to exactly one confirmed order or is refunded in full; the audit finds nothing; no
    order is still being paid two minutes after the last buyer left.
    """
    started = time.monotonic()
    sales: dict[str, Log] = {}
    units = asked.buyers * CHAOS_QUANTITY
    async with system(asked.web, {"ONSALE_SANDBOX_CHAOS": str(asked.seed)}) as on:
        tokens = await on.tokens(asked.buyers)
        stores = (await on.status())["stores"]
        while (paid := await payments_made(stores["postgres"])) < asked.payments:
            sale = f"chaos-{len(sales) + 1}"
            buyers = min(asked.buyers, asked.payments - paid)
            product = await on.create_sale(
                sale, units=units, rate=asked.rate or 2000, cap=units, hold_ttl_s=120, limit=CHAOS_QUANTITY
            )
            sales[sale] = await run_crowd(on.base, sale, product, tokens[:buyers], CHAOS)
        sold_s = round(time.monotonic() - started, 1)
        left = await until_none_confirming(stores["postgres"], CONFIRMING_MAX_S)
        broken = [f"still being paid after {CONFIRMING_MAX_S} s: {order}" for order in left]
        for sale, log in sales.items():
            result = await _result(on, sale, len(log.confirmed) * CHAOS_QUANTITY, log, 0.0)
            broken += result["broken"]
        return {
            "seed": asked.seed,
            "sales": len(sales),
            "took_s": {"selling": sold_s, "until judged": round(time.monotonic() - started, 1)},
            **await payment_figures(stores["postgres"]),
            "outcomes": dict(sum((log.outcomes for log in sales.values()), Counter())),
            "statuses": dict(sorted(sum((log.statuses for log in sales.values()), Counter()).items())),
            "broken": broken,
        }


async def _with_fault(
    asked: argparse.Namespace, sale: str, meanwhile: Callable[[System, str], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    speed = asked.rate or 20
    async with system(asked.web) as on:
        tokens = await on.tokens(asked.buyers)
        result = await sell(
            on, sale, buyers=asked.buyers, units=asked.units, rate=speed, cap=asked.cap or asked.units,
            habits=Habits(), tokens=tokens, meanwhile=meanwhile,
        )  # fmt: skip
    return _with_rate(result, speed)


def _with_rate(result: dict[str, Any], speed: float) -> dict[str, Any]:
    result["broken"] += rate_faults(result.pop("admitted_at"), speed, max(1, -(-int(speed) // 10)))
    return result


SCENARIOS = {
    "rush": rush,
    "kills": kills,
    "rate": rate,
    "last-unit": last_unit,
    "redis-kill": redis_kill,
    "flush-shop": flush_shop,
    "chaos": chaos,
}


def main() -> None:
    """One scenario by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--buyers", type=int, default=2000)
    parser.add_argument("--units", type=int, default=500)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--cap", type=int, default=0)
    parser.add_argument("--web", type=int, default=1)
    parser.add_argument("--every", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--payments", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    result = asyncio.run(SCENARIOS[asked.scenario](asked))
    print(json.dumps({"scenario": asked.scenario} | result, indent=2))
    sys.exit(1 if result["broken"] else 0)


if __name__ == "__main__":
    main()
