"""The matrix: one row a fault, each a world of its own with a crowd in it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.crowd import Habits, Log, run_crowd
from bench.faults import crowding, pooler, strikes, verdict
from bench.faults.bystanders import Bystanders
from bench.faults.power import NoCompiler, shim
from bench.faults.scale import Scale
from bench.faults.strikes import Strike, Trial, heal
from bench.faults.world import Parts, World, world
from onsale.checkout.record.recorder import CRASH_POINTS

# What an audit finds in the middle of a change is looked at again for this long.
DRAINED_WITHIN_S = 45.0


@dataclass(frozen=True)
class Row:
    """One fault. `must_sell`: every unit has to be sold in the end, since more people want one than there are."""

    name: str
    how: str
    strike: Strike
    parts: Parts = field(default_factory=Parts)
    habits: Habits = field(default_factory=Habits)
    must_sell: bool = True
    # Strikes are this many times further apart than the scale says.
    rarer: float = 1.0
    # What of the scale is otherwise in this row, where nobody asks for more.
    scale: dict[str, Any] = field(default_factory=dict)
    # The strike comes to its own end, and is waited for.
    has_an_end: bool = False
    judge_more: Callable[[World, Trial, list[Log]], Any] | None = None

    def skipped(self) -> str | None:
        """Why this machine cannot try it."""
        if self.parts.shims:
            try:
                shim()
            except NoCompiler:
                return "no C compiler here to build the shim between a program and its disk and clock"
        if self.parts.pooler and pooler.program() is None:
            return "pgbouncer is not installed"
        return None


@dataclass
class Result:
    """One run of one row, as it is kept."""

    row: str
    how: str
    seed: int
    took_s: float = 0.0
    strikes: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    unknown: int = 0
    orders: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    confirm_ms: dict[str, float] = field(default_factory=dict)
    oversold: int = 0
    lost: int = 0
    doubled: int = 0
    charged_for_nothing: int = 0
    broken: list[str] = field(default_factory=list)
    skipped: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)


async def run_row(row: Row, scale: Scale, seed: int, asked: Mapping[str, Any] | None = None) -> Result:
    """One row, judged. What is `asked` of the scale goes above the row's own."""
    result = Result(row.name, row.how, seed)
    if (reason := row.skipped()) is not None:
        result.skipped = reason
        return result
    began = time.monotonic()
    scale = dataclasses.replace(scale, **{**row.scale, **(asked or {})})
    async with world(row.parts) as one:
        trial = Trial(one, random.Random(seed), scale.every_s * row.rarer, scale)
        tokens = await one.tokens(scale.buyers)
        sales = [f"{row.name}-{seed}-{number + 1}" for number in range(scale.sales)]
        logs = [await _sale(trial, row, scale, sale, tokens, result) for sale in sales]
        if row.judge_more is not None:
            result.broken += await row.judge_more(one, trial, logs)
        result.broken += trial.faults
        if not trial.counts:
            result.broken.append("nothing was struck: the sale was over before")
        result.strikes, result.notes = dict(sorted(trial.counts.items())), trial.notes
    result.took_s = round(time.monotonic() - began, 1)
    return result


async def _sale(trial: Trial, row: Row, scale: Scale, sale: str, tokens: list[str], result: Result) -> Log:
    one = trial.world
    product = await one.create_sale(sale, units=scale.units, rate=scale.rate, cap=scale.units)
    habits = _with_patience(row.habits, scale.patience_s)
    bystanders = Bystanders(one, sale, scale.bystanders, scale.polls_per_s)
    await bystanders.join()
    waiting = asyncio.create_task(bystanders.poll_on())
    side = asyncio.create_task(row.strike(trial, sale), name=f"strike {row.name}")
    crowd = run_crowd(one.base, sale, product, tokens, habits)
    if row.has_an_end:
        log, _ = await asyncio.gather(crowd, side)
    else:
        log = await _crowd_or_strike(crowd, side)
        side.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await side
    await heal(trial)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    findings = await _drained(one, sale)
    found = await verdict.decide(
        verdict.Asked.of(one, sale, product, scale.units),
        log,
    )
    found.faults += await bystanders.judge()
    _add(result, log, found)
    result.requests += bystanders.asked
    result.unknown += bystanders.statuses["unknown"]
    result.broken += [f"{sale}: {fault}" for fault in [*found.faults, *verdict.audit_faults(findings)]]
    if row.must_sell and found.units_sold != scale.units:
        result.broken.append(f"{sale}: sold {found.units_sold} of {scale.units}")
    return log


async def _crowd_or_strike(crowd: Any, side: asyncio.Task[None]) -> Log:
    """A strike that fails by itself ends the run: nothing would be tried any more."""
    running = asyncio.ensure_future(crowd)
    await asyncio.wait((running, side), return_when=asyncio.FIRST_COMPLETED)
    if not running.done() and side.done():
        running.cancel()
        side.result()
        raise RuntimeError(f"{side.get_name()} ended before the sale")
    log: Log = await running
    return log


def _with_patience(habits: Habits, patience_s: float) -> Habits:
    return Habits(**{**vars(habits), "patience_s": patience_s})


async def _drained(one: World, sale: str) -> list[dict[str, Any]]:
    """The audit's findings once it finds nothing, or after a while: the record may be behind, claims be completing."""
    deadline = time.monotonic() + DRAINED_WITHIN_S
    while True:
        findings = await one.audit(sale)
        if all(finding["ok"] for finding in findings) or time.monotonic() > deadline:
            return findings
        await asyncio.sleep(1)


def _add(result: Result, log: Log, found: verdict.Found) -> None:
    result.requests += len(log.calls)
    result.unknown += sum(call["status"] is None for call in log.calls)
    result.orders += found.units_sold
    result.outcomes = dict(Counter(result.outcomes) + log.outcomes)
    result.confirm_ms = log.summary()["latency_ms"]["confirm"]
    result.oversold += found.oversold
    result.lost += found.lost
    result.doubled += found.doubled
    result.charged_for_nothing += found.charged_for_nothing


async def _no_confirmation_failed(one: World, trial: Trial, logs: list[Log]) -> list[str]:
    """Planned restarts: no confirmation is left without an answer."""
    unanswered = sum(call["call"] == "confirm" and call["status"] is None for log in logs for call in log.calls)
    trial.notes["confirmations_unanswered"] = unanswered
    return [f"{unanswered} confirmations had no answer"] if unanswered else []


async def _poison_is_kept(one: World, trial: Trial, logs: list[Log]) -> list[str]:
    """Each entry nobody can read is a row of its own."""
    import asyncpg

    conn = await asyncpg.connect(one.url("postgres"))
    kept = await conn.fetchval("SELECT count(*) FROM poison")
    await conn.close()
    return [] if kept == trial.counts["poison"] else [f"poison: {trial.counts['poison']} written, {kept} kept"]


CHAOS = Habits(
    copies_max=5, late_share=0.3, double_share=1.0,
    payments=(("ok", 0.8), ("lost_reply", 0.06), ("slow_3000", 0.04), ("decline_funds", 0.05), ("timeout", 0.02),
              ("fail_other", 0.03)),
)  # fmt: skip
WITH_SHIMS = Parts(shims=True)
MOVED = ("web.1", "admitter.1", "flusher.1", "worker.1")

ROWS = {
    row.name: row
    for row in (
        Row("flusher-points", "SIGKILL at " + ", ".join(f"`{point}`" for point in CRASH_POINTS),
            strikes.deaths_of_flusher, Parts(dying_flusher=CRASH_POINTS)),
        Row("kill-processes", "SIGKILL of web, admitter, flusher, worker in turn",
            strikes.kill("web", "admitter", "flusher", "worker")),
        Row("kill-redis", "SIGKILL of the shop's and the line's Redis in turn", strikes.kill("shop", "line"), rarer=2),
        Row("kill-postgres", "SIGKILL of every Postgres process at once, and of single backends",
            strikes.together(strikes.kill("postgres"), strikes.backends), rarer=3),
        Row("power-shop", "power cut: the shop's append-only file back to its last fsync", strikes.power("shop"),
            WITH_SHIMS, rarer=2),
        Row("power-line", "power cut: the line's append-only file back to its last fsync", strikes.power("line"),
            WITH_SHIMS, rarer=6),
        Row("power-postgres", "power cut: base copy, log up to its flush position", strikes.power("postgres"),
            WITH_SHIMS, rarer=3),
        Row("power-machine", "power cut of everything at once", strikes.power("all"), WITH_SHIMS, rarer=8),
        Row("failover-shop", "replica stalled 0–3 s, primary killed, replica promoted", strikes.failover("shop"),
            Parts(links="store"), rarer=2, scale={"lasts_s": 3.0}),
        Row("failover-line", "replica stalled 0–3 s, primary killed, replica promoted", strikes.failover("line"),
            # A replica that lagged is a line made anew, and gathered for five seconds.
            Parts(links="store"), rarer=16, scale={"lasts_s": 3.0}),
        Row("flushall", "FLUSHALL of shop and line in turn", strikes.flush_all("shop", "line"), rarer=6),
        Row("older-file", "an older append-only file restored, of shop and line in turn",
            strikes.older_file("shop", "line"), rarer=6),
        Row("postgres-away", "Postgres killed and kept away", strikes.away("postgres"), rarer=4,
            scale={"lasts_s": 15.0}),
        Row("partition-silent", "each process–store pair in turn: connected and silent",
            strikes.partition(silent=True), Parts(links="pair"), scale={"lasts_s": 4.0}),
        Row("partition-refused", "each process–store pair in turn: connections reset",
            strikes.partition(silent=False), Parts(links="pair"), scale={"lasts_s": 4.0}),
        Row("script-flush", "SCRIPT FLUSH ten times a second on both servers", strikes.script_flush),
        Row("memory-full", "maxmemory reached, on shop and line in turn", strikes.memory_full("shop", "line"), rarer=2),
        Row("disk-full", "ENOSPC on every write, on shop, line and Postgres in turn",
            strikes.disk_full("shop", "line", "postgres"), WITH_SHIMS, rarer=2, scale={"lasts_s": 3.0}),
        Row("fsync-slow", "each fsync of every store 200 ms longer", strikes.slow_disks, WITH_SHIMS),
        Row("clock-processes", "clocks of web, admitter, flusher, worker jump by up to an hour, both ways",
            strikes.clocks(MOVED, (-3600, -60, 60, 3600)), WITH_SHIMS),
        Row("clock-stores", "clocks of both Redis and Postgres jump by up to ten minutes, both ways",
            strikes.clocks(("line", "shop", "postgres"), (-600, -5, 5, 600)), WITH_SHIMS, must_sell=False),
        Row("stop-processes", "SIGSTOP of web, admitter, flusher, worker in turn",
            strikes.stop("web", "admitter", "flusher", "worker")),
        Row("stop-stores", "SIGSTOP of shop, line and Postgres in turn", strikes.stop("shop", "line", "postgres")),
        Row("two-flushers", "two flushers, one of them always stopped or killed",
            strikes.together(strikes.stop("flusher"), strikes.kill("flusher")), Parts(flushers=2)),
        Row("rolling-restart", "SIGTERM of every process, one after the other", strikes.rolling, Parts(web=2),
            judge_more=_no_confirmation_failed),
        Row("chaos-requests", "1–5 copies of every request, shuffled, late; provider loses, delays, declines",
            strikes.kill("web", "worker"), Parts(workers=2), CHAOS, must_sell=False, rarer=3),
        Row("slow-clients", "silent, partial and dripping connections; streams that nobody reads",
            crowding.slow_clients, has_an_end=True),
        Row("join-flood", "300 joins a second of another sale beside the checkout", crowding.join_flood),
        Row("last-unit", "one unit, everyone at once, again and again", crowding.nothing,
            habits=Habits(arrive_s=0.5), scale={"units": 1, "rate": 5000.0, "buyers": 1000, "sales": 5}),
        Row("expiry-storm", "thousands of holds lapse in one instant while some of them are being paid",
            crowding.expiry_storm, has_an_end=True),
        Row("cluster", "on a Redis Cluster of 3 masters and 3 replicas; masters die, replicas take over",
            strikes.masters, Parts(cluster=True), rarer=6, scale={"lasts_s": 6.0}),
        Row("pgbouncer", "everything behind PgBouncer in transaction mode; SIGKILL of processes and of Postgres",
            strikes.together(strikes.kill("web", "admitter", "flusher", "worker"), strikes.kill("postgres")),
            Parts(pooler=True), rarer=3),
        Row("poison", "entries nobody can read among the events", strikes.poison, rarer=0.2,
            judge_more=_poison_is_kept),
    )
}  # fmt: skip

# What one row of each family shows in about two minutes.
SMOKE = ("flusher-points", "kill-redis", "power-machine", "failover-shop")
