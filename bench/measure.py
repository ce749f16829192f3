"""onsale beside its floors, in one run: rounds of floor and ours in turn, medians of both, and their ratio.

CPU figures are microseconds of user and system time a request. `web` is the process that answers; `sum` adds Redis,
Postgres, the flusher and everything else of the system but the payment provider, which both sides share (the sandbox).
Polls and reads are asked in a closed loop (saturation); latencies come from open loops, counted from when a request was
due. Whatever is asked runs on loopback and beside the generator, which takes its share of the same cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import redis

from bench import journeys, record
from bench.floor_lean import token_of
from bench.floor_naive import naive_token
from bench.floor_servers import Setup
from bench.floors import Meter, Server, ed25519_us, floor, floor_stores, median
from bench.journeys import Course, Journeys, ask_all, generate, request, run_journeys
from bench.scenarios import System, system
from onsale.server import embedded

EVERYONE_AT_ONCE = 100_000
CAP = 1_000_000
# Long enough for the newest line document to know everyone who has joined, and for signs of life to settle.
SETTLE_S = 1.5
HOLD_TTL_S = 600
ADMITTED_WITHIN_S = 60.0
# Crowds from here on are measured last.
LARGE = 50_000


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 3
    seconds: float = 2.0
    connections: int = 64
    waiting: tuple[int, ...] = (1_000, 10_000, 100_000)
    buyers: int = 3_000
    journeys: int = 3_000
    naive_journeys: int = 500
    journey_connections: int = 512
    confirm_rates: tuple[int, ...] = (250, 500, 1_000)
    confirm_seconds: float = 4.0
    stock_rates: tuple[int, ...] = (5_000, 10_000, 15_000, 20_000)
    stock_seconds: float = 3.0
    record_orders: int = 10_000
    record_rate: int = 2_000
    record_seconds: float = 6.0
    starts: int = 3


SMOKE = Plan(
    rounds=2,
    seconds=1.0,
    waiting=(1_000,),
    buyers=800,
    journeys=600,
    naive_journeys=150,
    journey_connections=128,
    confirm_rates=(200,),
    confirm_seconds=3.0,
    stock_rates=(2_000,),
    stock_seconds=2.0,
    record_orders=2_000,
    record_rate=500,
    record_seconds=3.0,
    starts=1,
)


@dataclass
class Target:
    """One line of the report. `goal` says what was promised; `is_met` is None where this run cannot tell."""

    id: str
    what: str
    floor: str
    ours: str
    ratio: float | None
    goal: str
    is_met: bool | None
    # Whether the system is plainly broken, by a bound far from the promise: what a smoke run looks at.
    is_broken: bool = False
    note: str = ""


@dataclass
class Measured:
    """Everything a run found: lines of the table, figures beside them, series to draw."""

    targets: list[Target] = field(default_factory=list)
    floors: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


@dataclass
class Bench:
    """What every measurement is given: the running system, its processes, the floors, and access tokens."""

    on: System
    ours: Server
    f0: Server
    plan: Plan
    found: Measured
    tokens: list[str]
    say: Callable[[str], None]
    # Past this nothing more is begun: a busy machine makes a shorter report, not a longer run.
    ends_at: float = float("inf")

    def is_late(self, what: str) -> bool:
        """Whether the time for measuring is over; what is left out then is told in the report."""
        if time.monotonic() < self.ends_at:
            return False
        self.found.left_out.append(what)
        self.say(f"no time left: {what} is left out")
        return True

    def add(self, target: Target) -> None:
        self.found.targets.append(target)
        self.say(f"{target.id} {target.what}: {target.ours} (floor {target.floor}, {target.goal}) {verdict(target)}")

    async def grow_tokens(self, count: int) -> list[str]:
        """At least that many access tokens."""
        if len(self.tokens) < count:
            self.tokens = await self.on.tokens(count)
            if len(self.tokens) != count:
                raise RuntimeError(f"asked for {count} tokens, got {len(self.tokens)}")
        return self.tokens[:count]

    async def f0_us(self) -> float:
        """One round of F0: CPU microseconds a request."""
        with Meter(self.f0) as meter:
            answered = await saturate(self.f0.port, [request("GET", "/")], self.plan)
        return meter.us(answered)["web"]


def verdict(target: Target) -> str:
    if target.is_met is None:
        return "not told"
    return "met" if target.is_met else "NOT met"


@contextlib.asynccontextmanager
async def opened(
    plan: Plan, say: Callable[[str], None], *, within_s: float = float("inf"), web: int = 1
) -> AsyncIterator[Bench]:
    """A fresh `onsale up`, and F0 beside it."""
    # Unbuffered, Python drops what a pipe did not take at once: thousands of tokens would end in the middle of one.
    os.environ.pop("PYTHONUNBUFFERED", None)
    async with system(web) as on, floor("f0") as f0:
        yield Bench(on, await ours_of(on), f0, plan, Measured(), [], say, time.monotonic() + within_s)


async def ours_of(on: System) -> Server:
    """The running system's processes; the sandbox counts as the provider."""
    status = await on.status()
    names = {"web.1": "web", "sandbox": "provider"}
    pids = {names.get(p["name"], p["name"]): p["pid"] for p in status["processes"]}
    return Server("ours", int(on.base.rpartition(":")[2]), pids)


# --- floors


async def machine_floors(bench: Bench) -> None:
    """What this machine needs for the least: beside the known figures it shows whether a floor is one."""
    found: dict[str, float] = {"ed25519_verify": ed25519_us()}
    for name in ("bare", "f0", "routed"):
        async with floor(name) as server:
            rounds = []
            for _ in range(bench.plan.rounds):
                with Meter(server) as meter:
                    answered = await saturate(server.port, [request("GET", "/")], bench.plan)
                rounds.append(meter.us(answered)["web"])
            found[name] = median(rounds)
    found["charge_client"] = await _charge_client_us(bench) - found["f0"]
    bench.found.floors = {name: round(us, 1) for name, us in found.items()}
    bench.say(f"floors, CPU µs: {bench.found.floors}")


async def at_rest(bench: Bench) -> None:
    """What each process uses of a core while nobody asks anything: part of every figure below, more where few ask."""
    with Meter(bench.ours) as meter:
        await asyncio.sleep(3)
    shares = {name: round(100 * used / meter.took_s, 1) for name, used in meter.used_s.items()}
    bench.found.figures["at_rest_percent"] = shares
    bench.say(f"at rest, % of a core: {shares}")


async def _charge_client_us(bench: Bench) -> float:
    """F0 with one call of the provider inside."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            floor("provider", Setup(data_dir=folder)) as provider,
            floor("charging", Setup(provider=f"http://127.0.0.1:{provider.port}")) as server,
        ):
            rounds = []
            for _ in range(bench.plan.rounds):
                with Meter(server) as meter:
                    answered = await saturate(server.port, [request("GET", "/")], bench.plan)
                rounds.append(meter.us(answered)["web"])
    return median(rounds)


async def saturate(port: int, requests: list[bytes], plan: Plan) -> int:
    """Ask in a closed loop; answers how many were answered. Raises when one was not answered well."""
    result: Any = await generate(port, requests, seconds=plan.seconds, connections=plan.connections)
    bad = {status: n for status, n in result["statuses"].items() if status not in ("200", "201")}
    if bad or not result["answered"]:
        raise RuntimeError(f"port {port} answered {result['statuses']}")
    return int(result["answered"])


# --- T2: join, reserve, confirm


async def steps(bench: Bench) -> None:
    """CPU of join, reserve and confirm, each asked by everyone once, beside F0."""
    tokens = await bench.grow_tokens(bench.plan.buyers)
    f0: list[float] = []
    taken: dict[str, list[dict[str, float]]] = {"join": [], "reserve": [], "confirm": []}
    for number in range(-1, bench.plan.rounds):
        f0_us = await bench.f0_us()
        buying = await Buying.opened(bench, f"steps-{number + 1}", tokens if number >= 0 else tokens[:200])
        figures = {
            "join": await buying.join(),
            "reserve": await buying.reserve(),
            "confirm": await buying.confirm(),
        }
        # The first round fills caches and compiles nothing twice: it is not counted.
        if number >= 0:
            f0.append(f0_us)
            for step, figure in figures.items():
                taken[step].append(figure)
    _judge_steps(bench, median(f0), taken)


def _judge_steps(bench: Bench, f0: float, taken: dict[str, list[dict[str, float]]]) -> None:
    web = {step: median([figure["web"] for figure in figures]) for step, figures in taken.items()}
    total = {step: median([figure["sum"] for figure in figures]) for step, figures in taken.items()}
    verify, client = bench.found.floors["ed25519_verify"], bench.found.floors["charge_client"]
    bench.found.figures["steps"] = {"f0_us": f0, "web_us": web, "sum_us": total, "rounds": taken}
    allowed = {"join": 1.7 * f0, "reserve": 1.9 * f0 + verify, "confirm": 3 * f0 + client}
    goals = {
        "join": f"≤ 1.7 × F0 = {allowed['join']:.0f} µs",
        "reserve": f"≤ 1.9 × F0 + one Ed25519 verification = {allowed['reserve']:.0f} µs",
        "confirm": f"≤ 3 × F0 + the provider's client side ({client:.0f} µs) = {allowed['confirm']:.0f} µs",
    }
    for step, us in web.items():
        bench.add(
            Target(
                id="T2",
                what=f"{step}: CPU of the web process",
                floor=f"{f0:.1f} µs",
                ours=f"{us:.1f} µs",
                ratio=round(us / f0, 2),
                goal=goals[step],
                is_met=us <= allowed[step],
                is_broken=us > 4 * allowed[step],
                note=f"all processes {total[step]:.0f} µs",
            )
        )


class Buying:
    """One sale that everybody buys in, a step at a time."""

    def __init__(self, bench: Bench, sale: str, product: str, tokens: Sequence[str]) -> None:
        self._bench, self.sale, self._product, self._tokens = bench, sale, product, tokens
        self._tickets: list[tuple[str, str]] = []
        self._orders: list[str] = []

    @classmethod
    async def opened(cls, bench: Bench, sale: str, tokens: Sequence[str]) -> Buying:
        """Nobody is let in yet, so that joining is measured alone."""
        product = await bench.on.create_sale(sale, units=len(tokens), rate=0, cap=CAP, hold_ttl_s=HOLD_TTL_S)
        await known(bench, sale)
        return cls(bench, sale, product, tokens)

    async def join(self) -> dict[str, float]:
        """CPU µs a join."""
        figure, replies = await self._metered([journeys.join(self.sale, token) for token in self._tokens])
        self._tickets = [tickets_of(reply) for reply in replies]
        return figure

    async def reserve(self) -> dict[str, float]:
        """CPU µs a reservation; everyone is let in first."""
        passes = await self.passes()
        requests = [
            journeys.reserve(self.sale, self._product, token, admission, f"{self.sale}-{n}")
            for n, (token, admission) in enumerate(zip(self._tokens, passes, strict=True))
        ]
        figure, replies = await self._metered(requests)
        self._orders = [journeys.text_of(reply, b"order") for reply in replies]
        return figure

    async def confirm(self) -> dict[str, float]:
        """CPU µs a confirmation."""
        figure, replies = await self._metered(self.confirmations())
        missed = sum(b'"confirmed"' not in reply for reply in replies)
        if missed:
            raise RuntimeError(f"{missed} confirmations of {self.sale} were not confirmed in time")
        return figure

    def confirmations(self) -> list[bytes]:
        """A request for each order."""
        pairs = zip(self._orders, self._tokens, strict=True)
        return [journeys.confirm(order, token, f"{self.sale}-{n}-pay") for n, (order, token) in enumerate(pairs)]

    async def passes(self) -> list[str]:
        """Let everyone in and answer their passes."""
        await self._bench.on.command("rate", self.sale, f"{EVERYONE_AT_ONCE}/s", "--active-max", str(CAP))
        passes = [""] * len(self._tickets)
        deadline = time.monotonic() + ADMITTED_WITHIN_S
        while missing := [n for n, admission in enumerate(passes) if not admission]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(missing)} of {len(passes)} were never let in")
            replies = await ask_all(self._bench.ours.port, [journeys.poll(*self._tickets[n]) for n in missing])
            for n, reply in zip(missing, replies, strict=True):
                passes[n] = journeys.pass_of(reply)
            await asyncio.sleep(0.3)
        return passes

    async def _metered(self, requests: list[bytes]) -> tuple[dict[str, float], list[bytes]]:
        with Meter(self._bench.ours) as meter:
            replies = await ask_all(self._bench.ours.port, requests, self._bench.plan.connections)
        require_good(replies)
        return meter.us(len(requests)) | {"per_second": round(len(requests) / meter.took_s, 1)}, replies


def tickets_of(reply: bytes) -> tuple[str, str]:
    """The ticket's id and its token."""
    return journeys.text_of(reply, b"ticket"), journeys.text_of(reply, b"ticket_token")


def require_good(replies: Sequence[bytes]) -> None:
    bad = [reply for reply in replies if reply[9:10] != b"2"]
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(replies)} were answered otherwise: {bad[0][-300:].decode()}")


async def known(bench: Bench, sale: str) -> None:
    """Until every process knows a new sale and its line has a document."""
    deadline = time.monotonic() + 30
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            async with session.get(f"{bench.on.base}/v1/sales/{sale}/line") as reply:
                if reply.status == 200 and (await reply.json())["state"] == "open":
                    # The shop's side is loaded by the same worker within the same second.
                    await asyncio.sleep(1)
                    return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{sale} was not open after 30 s")


# --- T3: whole journeys


async def whole_journeys(bench: Bench) -> None:
    """Join, five polls, reserve, confirm: the lean floor, ours and the naive one in turn, each beside a sandbox."""
    plan = bench.plan
    tokens = await bench.grow_tokens(plan.journeys)
    runs: dict[str, list[tuple[Journeys, dict[str, float]]]] = {"ours": [], "lean": [], "naive": []}
    with tempfile.TemporaryDirectory(prefix="onsale-floor-", ignore_cleanup_errors=True) as folder:
        async with (
            floor_stores(Path(folder)) as (setup, pids),
            floor("provider", Setup(data_dir=f"{folder}/provider")) as provider,
        ):
            setup = msgspec.structs.replace(setup, provider=f"http://127.0.0.1:{provider.port}")
            stores = {**pids, "provider": provider.pids["web"]}

            async def on_floor(name: str, buyers: list[str]) -> tuple[Journeys, dict[str, float]]:
                async with floor(name, setup, stores) as server:
                    await run_journeys(server.port, Course("floor", "floor", buyers[:100], "warm"), 50)
                    return await _travel(server, Course("floor", "floor", buyers[100:]), plan)

            lean = [token_of(setup.secret, f"lean-{n}") for n in range(plan.journeys + 100)]
            naive = [naive_token(setup.secret, f"naive-{n}") for n in range(plan.naive_journeys + 100)]
            for number in range(plan.rounds):
                runs["lean"].append(await on_floor("lean", lean))
                sale = f"journey-{number + 1}"
                product = await bench.on.create_sale(
                    sale, units=len(tokens), rate=EVERYONE_AT_ONCE, cap=CAP, hold_ttl_s=HOLD_TTL_S
                )
                await known(bench, sale)
                runs["ours"].append(await _travel(bench.ours, Course(sale, product, tokens), plan))
                runs["naive"].append(await on_floor("naive", naive))
    _judge_journeys(bench, runs)


async def _travel(server: Server, course: Course, plan: Plan) -> tuple[Journeys, dict[str, float]]:
    with Meter(server) as meter:
        log = await run_journeys(server.port, course, plan.journey_connections)
    return log, meter.us(log.finished)


def _judge_journeys(bench: Bench, runs: dict[str, list[tuple[Journeys, dict[str, float]]]]) -> None:
    speed = {name: median([log.per_second for log, _ in logs]) for name, logs in runs.items()}
    cpu = {name: {key: median([us[key] for _, us in logs]) for key in logs[0][1]} for name, logs in runs.items()}
    bench.found.figures["journeys"] = {
        "per_second": speed,
        "cpu_us": cpu,
        "latency_ms": {name: logs[-1][0].quantiles() for name, logs in runs.items()},
        "polls_each": {
            name: round(sum(log.polls for log, _ in logs) / max(1, sum(log.finished for log, _ in logs)), 2)
            for name, logs in runs.items()
        },
        "unexpected": {name: [dict(log.unexpected) for log, _ in logs] for name, logs in runs.items()},
    }
    for name, goal, least, broken in (("lean", "≥ 0.9 × lean", 0.9, 0.1), ("naive", "≥ 3 × naive", 3.0, 0.7)):
        ratio = speed["ours"] / speed[name] if speed[name] else 0.0
        bench.add(
            Target(
                id="T3",
                what=f"whole journeys a second, beside the {name} floor",
                floor=f"{speed[name]:,.0f}/s",
                ours=f"{speed['ours']:,.0f}/s",
                ratio=round(ratio, 2),
                goal=goal,
                is_met=ratio >= least,
                is_broken=ratio < broken,
                note=f"CPU a journey without the provider: ours {cpu['ours']['sum']:,.0f} µs, "
                f"{name} {cpu[name]['sum']:,.0f} µs",
            )
        )


# --- T4: latency of a confirmation


async def confirm_latency(bench: Bench) -> None:
    """Confirmations by the clock at growing rates; the provider's own time, measured beside it, is taken off."""
    plan = bench.plan
    sandbox = int((await bench.on.status())["addresses"]["sandbox"].rpartition(":")[2])
    series = []
    for rate in plan.confirm_rates:
        count = int(rate * plan.confirm_seconds)
        buying = await Buying.opened(bench, f"confirm-{rate}", await bench.grow_tokens(count))
        await buying.join()
        await buying.reserve()
        provider: Any = await generate(
            sandbox, charges(rate, count // 2), seconds=60, connections=256, per_second=rate, once=True
        )
        with Meter(bench.ours) as meter:
            result: Any = await generate(
                bench.ours.port, buying.confirmations(), seconds=60, connections=512, per_second=rate, once=True
            )
        series.append({"offered": rate, **result, "provider_ms": provider["latency_ms"], "cpu_us": meter.us(count)})
        bench.say(f"confirm at {rate}/s: {result['latency_ms']}, provider {provider['latency_ms']}")
    bench.found.figures["confirm"] = series
    _judge_latency(bench, series[-1])


def charges(rate: int, count: int) -> list[bytes]:
    """Charges at the provider itself, whose own time is taken off what it is part of."""
    made = []
    for n in range(count):
        body = (
            f'{{"attempt":"alone-{rate}-{n}","order":"alone-{rate}-{n}","amount":1,"currency":"KRW","method":"card",'
            '"token":"ok"}'
        )
        made.append(request("POST", "/charges", "", body))
    return made


def _judge_latency(bench: Bench, last: dict[str, Any]) -> None:
    own = {q: last["latency_ms"].get(q, 1e9) - last["provider_ms"].get("p50", 0) for q in ("p50", "p99")}
    is_whole = last["statuses"] == {"200": last["answered"]} and not last["dropped"]
    bench.add(
        Target(
            id="T4",
            what=f"confirm, answered after the record, {last['offered']:,} a second offered",
            floor=f"provider p50 {last['provider_ms'].get('p50', 0):.1f} ms",
            ours=f"p50 {own['p50']:.1f} ms, p99 {own['p99']:.1f} ms",
            ratio=None,
            goal="p99 < 50 ms at 1,000 a second, the provider's median taken off",
            is_met=(own["p99"] < 50 and is_whole) if last["offered"] >= 1000 else None,
            is_broken=own["p50"] > 2_000,
            note=f"answered {last['answered']:,}: {last['statuses']}; dropped {last['dropped']}, "
            f"sent late {last['late']}",
        )
    )


# --- T7: the record


async def record_speed(bench: Bench) -> None:
    """A flusher and a backlog beside two floors, on stores of their own; then how far it is behind at a steady rate."""
    plan = bench.plan
    async with record.opened() as on:
        found = await record.compare(on, plan.record_orders, plan.rounds, bench.say)
        behind = await record.lag(on, plan.record_rate, plan.record_seconds)
    bench.found.figures["record"] = {name: vars(one) for name, one in {**found, "lag": behind}.items()}
    ours = found["ours"]
    for name, what in (("narrow", "order, line, two of the ledger"), ("same", "our rows and columns, once")):
        rows = ours.rows_per_second / found[name].rows_per_second
        bench.add(
            Target(
                id="T7",
                what=f"rows a second of a flusher out of a backlog, beside `unnest` ({what})",
                floor=f"{found[name].rows_per_second:,.0f}/s",
                ours=f"{ours.rows_per_second:,.0f}/s",
                ratio=round(rows, 2),
                goal="≥ 0.5 × the `unnest` floor",
                is_met=rows >= 0.5,
                is_broken=rows < 0.02,
                note=f"{ours.per_second:,.0f} orders a second, {ours.rows_an_order:.1f} rows each, beside "
                f"{found[name].per_second:,.0f}; CPU of all processes {ours.cpu_us_a_row:.1f} µs a row, "
                f"floor {found[name].cpu_us_a_row:.1f} µs",
            )
        )
    _judge_lag(bench, behind)


def _judge_lag(bench: Bench, behind: record.Lag) -> None:
    money, holdings = behind.events["money"], behind.events["holdings"]
    worst = max(money["p99"], holdings["p99"])
    bench.add(
        Target(
            id="T7",
            what=f"from an event until it is announced as recorded, {behind.offered:,} orders a second",
            floor="–",
            ours=f"p99 {worst:.0f} ms",
            ratio=None,
            goal="p99 < 250 ms at 2,000 orders a second",
            is_met=worst < 250 if behind.offered >= 2_000 else None,
            is_broken=worst > 10_000,
            note=f"money p50 {money['p50']:.0f} ms, holdings p50 {holdings['p50']:.0f} ms; "
            f"the writer was late by {behind.late_ms:.0f} ms at most",
        )
    )


# --- T9: stock read


async def stock_reads(bench: Bench) -> None:
    """One item, nobody signed in, by the clock at growing rates."""
    plan = bench.plan
    product = await bench.on.create_sale("stock-read", units=1000, rate=0, cap=1)
    await known(bench, "stock-read")
    asked = [request("GET", f"/v1/products/{product}/stock")]
    series: list[dict[str, Any]] = []
    for rate in plan.stock_rates:
        own = time.process_time()
        with Meter(bench.ours) as meter:
            result: Any = await generate(
                bench.ours.port, asked, seconds=plan.stock_seconds, connections=256, per_second=rate
            )
        used = (time.process_time() - own) * 1e6 / max(1, result["answered"])
        answered = result["answered"] / plan.stock_seconds
        cost = {"cpu_us": meter.us(result["answered"]), "generator_us": round(used, 1)}
        series.append({"offered": rate, **result, "per_second": round(answered, 1), **cost})
        bench.say(f"stock at {rate}/s: {answered:,.0f}/s {result['latency_ms']}")
    bench.found.figures["stock"] = series
    good = [one for one in series if one["latency_ms"].get("p95", 1e9) < 5 and not one["dropped"]]
    best = max((one["per_second"] for one in good), default=0.0)
    top = series[-1]
    bench.add(
        Target(
            id="T9",
            what="stock read, open loop: most a second with p95 < 5 ms and none dropped",
            floor=f"generator {top['generator_us']:.1f} µs",
            ours=f"{best:,.0f}/s",
            ratio=None,
            goal="≥ 20,000/s",
            is_met=best >= 0.99 * 20_000 if plan.stock_rates[-1] >= 20_000 else None,
            is_broken=top["per_second"] < top["offered"] / 20,
            note=f"at {top['offered']:,}/s offered: {top['per_second']:,.0f}/s, p95 "
            f"{top['latency_ms'].get('p95', 0):.1f} ms, dropped {top['dropped']:,}, late {top['late']:,}; "
            f"web {top['cpu_us']['web']:.1f} µs a read",
        )
    )


# --- T1: polls


async def polls(bench: Bench) -> None:
    """Polls spread over everyone who waits, by the number waiting, beside F0; and what Redis did meanwhile."""
    await _polls(bench, [waiting for waiting in bench.plan.waiting if waiting < LARGE])


async def large_crowd(bench: Bench) -> None:
    """The same with the largest crowds, last: they keep the system a little busy from then on."""
    await _polls(bench, [waiting for waiting in bench.plan.waiting if waiting >= LARGE])
    _judge_flatness(bench, bench.found.figures.get("polls", []))


async def _polls(bench: Bench, crowds: Sequence[int]) -> None:
    points = []
    for waiting in crowds:
        if bench.is_late(f"polls with {waiting:,} waiting"):
            continue
        requests = await crowd(bench, f"wait-{waiting}", waiting)
        f0, ours = [], []
        for _ in range(bench.plan.rounds):
            f0.append(await bench.f0_us())
            with Meter(bench.ours) as meter:
                answered = await saturate(bench.ours.port, requests, bench.plan)
            ours.append(meter.us(answered) | {"per_second": answered / meter.took_s})
        point = {
            "waiting": waiting,
            "f0_us": median(f0),
            "web_us": median([one["web"] for one in ours]),
            "sum_us": median([one["sum"] for one in ours]),
            "per_second": round(median([one["per_second"] for one in ours])),
            "redis": await _redis_share(bench, requests),
        }
        points.append(point)
        bench.say(f"polls, {waiting:,} waiting: {point}")
    bench.found.figures.setdefault("polls", []).extend(points)
    _judge_polls(bench, points)


async def crowd(bench: Bench, sale: str, waiting: int) -> list[bytes]:
    """Everyone joins and nobody is let in; the poll of each."""
    tokens = await bench.grow_tokens(waiting)
    await bench.on.create_sale(sale, units=10, rate=0, cap=1)
    await known(bench, sale)
    replies = await ask_all(bench.ours.port, [journeys.join(sale, token) for token in tokens], 256)
    require_good(replies)
    await asyncio.sleep(SETTLE_S)
    return [journeys.poll(*tickets_of(reply)) for reply in replies]


async def _redis_share(bench: Bench, requests: list[bytes]) -> dict[str, float]:
    """What both Redis servers did during 10,000 polls, less what they do in the same time when nobody polls.

    `scripts`: calls of scripts (one a batch); `commands`: everything, what scripts do inside counted too.
    """
    stores = (await bench.on.status())["stores"]
    urls = {stores["line_redis"], stores["shop_redis"]}
    started = time.perf_counter()
    before = _redis_calls(urls)
    await ask_all(bench.ours.port, [requests[n % len(requests)] for n in range(10_000)], bench.plan.connections)
    # The signs of life of the last polls leave within a second.
    await asyncio.sleep(1)
    busy = _redis_calls(urls)
    await asyncio.sleep(time.perf_counter() - started)
    rest = _redis_calls(urls)
    spent = {name: max(0, (busy[name] - before[name]) - (rest[name] - busy[name])) for name in before}
    return {f"{name}_a_poll": round(count / 10_000, 5) for name, count in spent.items()}


def _redis_calls(urls: set[str]) -> dict[str, int]:
    found = {"scripts": 0, "commands": 0}
    for url in urls:
        with redis.Redis.from_url(url) as client:
            stats: dict[str, Any] = client.info("commandstats")
        calls = {name: int(stat["calls"]) for name, stat in stats.items()}
        found["scripts"] += calls.get("cmdstat_evalsha", 0) + calls.get("cmdstat_eval", 0)
        found["commands"] += sum(calls.values())
    return found


def _judge_polls(bench: Bench, points: list[dict[str, Any]]) -> None:
    for point in points:
        ratio = point["web_us"] / point["f0_us"]
        bench.add(
            Target(
                id="T1",
                what=f"poll, {point['waiting']:,} waiting: CPU of the web process",
                floor=f"{point['f0_us']:.1f} µs",
                ours=f"{point['web_us']:.1f} µs",
                ratio=round(ratio, 2),
                goal="≤ 1.4 × F0",
                is_met=ratio <= 1.4,
                is_broken=ratio > 4,
                note=f"all processes {point['sum_us']:.0f} µs, {point['per_second']:,} a second, "
                f"{point['redis']['scripts_a_poll']:g} scripts a poll",
            )
        )


def _judge_flatness(bench: Bench, points: list[dict[str, Any]]) -> None:
    if len(points) > 1:
        flat = max(p["web_us"] / p["f0_us"] for p in points) / min(p["web_us"] / p["f0_us"] for p in points)
        bench.add(
            Target(
                id="T1",
                what=f"poll: dearest over cheapest, {points[0]['waiting']:,} to {points[-1]['waiting']:,} waiting",
                floor="1.00",
                ours=f"{flat:.2f}",
                ratio=round(flat, 2),
                goal="flat within ±10 % (≤ 1.22), to 1,000,000",
                is_met=flat <= 1.22,
                note=f"measured to {points[-1]['waiting']:,}",
            )
        )


# --- T11: starting


async def starts(plan: Plan, say: Callable[[str], None]) -> Target:
    """Seconds from `onsale up` in an empty directory to the first ready answer; and once more on its data."""
    cold, warm = [], []
    for _ in range(plan.starts):
        with tempfile.TemporaryDirectory(prefix="onsale-start-", ignore_cleanup_errors=True) as folder:
            cold.append(await _start(Path(folder) / "data"))
            warm.append(await _start(Path(folder) / "data"))
    say(f"starts: empty {cold}, again {warm}")
    took = median(cold)
    return Target(
        id="T11",
        what="`onsale up` until ready, empty data directory",
        floor="–",
        ours=f"{took:.1f} s",
        ratio=None,
        goal="< 5 s",
        is_met=took < 5,
        is_broken=took > 30,
        note=f"again on its data {median(warm):.1f} s; tries {', '.join(f'{s:.1f}' for s in cold)}",
    )


async def _start(data_dir: Path) -> float:
    port = embedded.free_port()
    onsale = str(Path(sys.executable).parent / "onsale")
    started = time.monotonic()
    up = subprocess.Popen(
        [onsale, "up", "--no-demo", "--port", str(port), "--data-dir", str(data_dir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not await _is_ready(port):
            if up.poll() is not None or time.monotonic() - started > 60:
                raise RuntimeError("onsale up did not become ready")
            await asyncio.sleep(0.02)
        return round(time.monotonic() - started, 2)
    finally:
        up.send_signal(signal.SIGTERM)
        await asyncio.to_thread(up.wait, 60)


async def _is_ready(port: int) -> bool:
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            head = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in head
