"""Every instrument, in one place: their names are public, and dashboards and alerts rest on them.

Rooms report figures through what their ticks and calls return; only this file turns them into instruments. A process
has a registry of its own. Several web processes share one port and a scrape meets any of them, so each process leaves a
snapshot in the data directory every two seconds and `/metrics` answers with all fresh ones, each series labelled with
its process: one scrape shows the whole machine, the loops without a port included.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

# 1 ms to 10 s: what a buyer feels, and the bound of a confirmation's patience.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SNAPSHOT_INTERVAL_MS = 2_000
# Five missed snapshots: the process is gone or stuck, and its gauges would be lies.
SNAPSHOT_FRESH_S = 10.0

# What a success is called, by route and status; failures are called by their problem's code.
OUTCOMES: Mapping[tuple[str, int], str] = {
    ("join", 201): "joined",
    ("join", 200): "again",
    ("reserve", 201): "reserved",
    ("confirm", 200): "confirmed",
    ("confirm", 202): "confirming",
}
COUNTED: Mapping[tuple[str, str], str] = {
    ("POST", "/v1/sales/{sale}/tickets"): "join",
    ("POST", "/v1/sales/{sale}/orders"): "reserve",
    ("POST", "/v1/orders/{order}/confirmation"): "confirm",
}


# Lines of the log a second and route for requests that were told to come back (429). What a flood asks beyond them is
# summed up: its lines would cost as much as its answers, and fill the disk.
REFUSAL_LINES_MAX = 10


@dataclass(slots=True)
class Recent:
    """What a route served since it was last asked."""

    count: int = 0
    total_s: float = 0.0
    slowest_s: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)


class RouteStats:
    """Counts of one route, cheap enough for the hottest: a few additions a request, no lock, no label look-up."""

    __slots__ = ("buckets", "method", "outcomes", "recent", "refusals", "route", "statuses", "total_s", "verb")

    def __init__(self, method: str, route: str) -> None:
        self.method = method
        self.route = route
        self.verb = COUNTED.get((method, route), "")
        self.buckets = [0] * (len(SECONDS) + 1)
        self.total_s = 0.0
        self.statuses: dict[int, int] = {}
        self.outcomes: dict[str, int] = {}
        self.recent = Recent()
        self.refusals = 0

    def note(self, status: int, took_s: float, code: str) -> None:
        """One request was answered; `code` is the problem's, empty for a success."""
        self.buckets[bisect_left(SECONDS, took_s)] += 1
        self.total_s += took_s
        self.statuses[status] = self.statuses.get(status, 0) + 1
        recent = self.recent
        recent.count += 1
        recent.total_s += took_s
        recent.statuses[status] = recent.statuses.get(status, 0) + 1
        if took_s > recent.slowest_s:
            recent.slowest_s = took_s
        if self.verb:
            outcome = code or OUTCOMES.get((self.verb, status), str(status))
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def take_recent(self) -> Recent:
        """What was served since the last call."""
        recent, self.recent = self.recent, Recent()
        return recent

    def is_told_of_refusal(self) -> bool:
        """One more was told to come back; whether the log tells of it in a line of its own."""
        self.refusals += 1
        return self.refusals <= REFUSAL_LINES_MAX

    def take_untold(self) -> int:
        """How many were told to come back since the last call that have no line of their own."""
        refusals, self.refusals = self.refusals, 0
        return max(0, refusals - REFUSAL_LINES_MAX)


class Traffic(Collector):
    """The counts of every route, and the series made of them."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], RouteStats] = {}

    def of(self, method: str, route: str) -> RouteStats:
        """The counts of one route. Unknown methods share one, so that nobody can make series at will."""
        key = (method if method in KNOWN_METHODS else "OTHER", route)
        if key not in self._routes:
            self._routes[key] = RouteStats(*key)
        return self._routes[key]

    def routes(self) -> Sequence[RouteStats]:
        """Every route that was asked for."""
        return list(self._routes.values())

    def collect(self) -> Iterable[Metric]:
        seconds = Metric("onsale_http_request_seconds", "Time to answer, by route.", "histogram")
        requests = Metric("onsale_http_requests", "Requests answered, by route and status.", "counter")
        verbs = {
            verb: Metric(f"onsale_{verb}", f"Calls to {verb}, by outcome.", "counter") for verb in COUNTED.values()
        }
        for stats in self.routes():
            labels = {"method": stats.method, "route": stats.route}
            _add_histogram(seconds, labels, stats)
            for status, count in stats.statuses.items():
                requests.add_sample("onsale_http_requests_total", {**labels, "status": str(status)}, count)
            for outcome, count in stats.outcomes.items():
                verbs[stats.verb].add_sample(f"onsale_{stats.verb}_total", {"outcome": outcome}, count)
        return [seconds, requests, *verbs.values()]


KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _add_histogram(metric: Metric, labels: dict[str, str], stats: RouteStats) -> None:
    reached = 0
    for bound, count in zip((*SECONDS, float("inf")), stats.buckets, strict=True):
        reached += count
        text = "+Inf" if bound == float("inf") else str(bound)
        metric.add_sample("onsale_http_request_seconds_bucket", {**labels, "le": text}, reached)
    metric.add_sample("onsale_http_request_seconds_count", labels, reached)
    metric.add_sample("onsale_http_request_seconds_sum", labels, stats.total_s)


class Metrics:
    """The instruments of one process."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.traffic = Traffic()
        self.registry.register(self.traffic)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Info("onsale_build", "What runs here.", registry=self.registry).info(
            {"version": version, "python": platform.python_version()}
        )
        self._define_loops()
        self._define_line()
        self._define_record()
        self._define_edges()

    def _define_loops(self) -> None:
        self.loop_lag_s = self._gauge("onsale_loop_lag_seconds", "How late the event loop woke, the worst of 1 s.")
        self.tick_s = self._histogram("onsale_tick_seconds", "Time of one tick of a loop.", SECONDS, "loop")
        self.tick_failures = self._counter("onsale_tick_failures", "Ticks that failed.", "loop")
        self.ticked_at = self._gauge("onsale_tick_last_timestamp_seconds", "When a loop last ticked.", "loop")

    def _define_line(self) -> None:
        self.line_waiting = self._gauge("onsale_line_waiting", "Living tickets that wait.", "sale", "lane")
        self.line_absent = self._gauge("onsale_line_absent", "Tickets passed over, their place kept.", "sale", "lane")
        self.line_active = self._gauge("onsale_line_active", "Seats taken.", "sale", "lane")
        self.line_active_max = self._gauge("onsale_line_active_max", "Seats there are.", "sale", "lane")
        self.line_tail = self._gauge("onsale_line_tail", "Highest place given.", "sale", "lane")
        self.line_serving = self._gauge("onsale_line_serving", "Highest place admitted or passed over.", "sale", "lane")
        self.line_rate_target = self._gauge("onsale_line_rate_target", "Admissions a second, wanted.", "sale", "lane")
        self.line_rate_measured = self._gauge("onsale_line_rate_measured", "Admissions a second, seen.", "sale", "lane")
        self.document_age_s = self._gauge(
            "onsale_line_document_age_seconds", "Age of the newest line document here.", "sale", "lane"
        )
        self.admitted = self._counter("onsale_admitted", "Tickets let in by this process.", "sale")
        self.passed_over = self._counter("onsale_passed_over", "Absent tickets passed over by this process.", "sale")
        # Half of the first should be in the second under 0.5, nine tenths under 0.9.
        self.waits_ended = self._counter("onsale_shown_waits_ended", "Shown waits whose turn came.", "sale")
        self.waits_ended_by = self._counter(
            "onsale_shown_waits_ended_by", "Of those, ended by the quantile that was shown.", "sale", "quantile"
        )
        self.unattended = self._counter(
            "onsale_line_unattended", "Ticks in which a line could not be attended to.", "sale", "loop"
        )
        # Counted by the scripts that admit, in Redis; both stay 0.
        self.inversions = self._gauge("onsale_inversions", "People let in before one with a better claim.", "sale")
        self.cap_violations = self._gauge("onsale_cap_violations", "Admissions that left more than the cap.", "sale")

    def _define_record(self) -> None:
        self.record_lag_s = self._gauge(
            "onsale_record_lag_seconds", "From an event until it stood in Postgres.", "sale", "stream"
        )
        self.record_behind_s = self._gauge("onsale_record_behind_seconds", "Age of the oldest event to record.", "sale")
        self.recorded = self._counter("onsale_recorded_events", "Events written to Postgres.", "stream")
        self.refused = self._counter("onsale_refused_claims", "Claims that the record refused.", "stream")
        self.poisoned = self._counter("onsale_poison_events", "Events nobody could read.", "stream")
        self.flush_batch = self._histogram("onsale_flush_batch_events", "Events in one batch.", BATCH, "stream")
        self.contradicted = self._counter(
            "onsale_contradicted_captures", "Payments taken back by a provider that the record has as paid."
        )
        self.lapsed = self._counter("onsale_lapsed_orders", "Reservations whose time ran out.")
        self.restocked = self._counter("onsale_restocked_units_moves", "Returns of units that were made in Redis.")
        self.called_off = self._counter("onsale_called_off_orders", "Orders cancelled with their sale.")
        self.delivered = self._counter("onsale_delivery_steps", "Orders moved on after the sale.", "state")
        self.recommended = self._counter("onsale_recommendations_counted", "Products whose company was counted anew.")
        self.stock_units = self._gauge("onsale_stock_units", "Units by state.", "sale", "state")

    def _define_edges(self) -> None:
        self.streams_open = self._gauge("onsale_streams_open", "Event streams open here.", "kind")
        self.notice_listeners = self._gauge("onsale_notice_listeners", "Streams of notices open here.")
        self.notices_told = self._counter("onsale_notices_told", "Notices written to streams.")
        self.connections = self._gauge(
            "onsale_connections", "Client connections open here, but for the line's event streams."
        )
        self.connections_late = self._counter(
            "onsale_connections_late", "Connections closed: request not sent in time."
        )
        self.letters = self._counter("onsale_letters", "Letters by what became of them at a try.", "outcome")
        self.alarms = self._counter("onsale_sale_alarms", "Letters written before sales start.")
        self.breaker_open = self._gauge("onsale_breaker_open", "1 while a provider is taken to be away.", "provider")
        self.store_up = self._gauge("onsale_store_up", "1 while a store answers.", "store")
        self.clock_skew_s = self._gauge("onsale_clock_skew_seconds", "A store's clock against ours.", "store")

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=tuple(buckets), registry=self.registry)

    def on_failure(self, loop: str) -> None:
        """A tick failed."""
        self.tick_failures.labels(loop).inc()

    def on_tick(self, loop: str, took_s: float) -> None:
        """A loop ticked, and how long it took."""
        self.tick_s.labels(loop).observe(took_s)
        self.ticked_at.labels(loop).set_to_current_time()


class SampleDoc(msgspec.Struct, array_like=True):
    """One sample of a snapshot."""

    name: str
    labels: dict[str, str]
    value: float


class FamilyDoc(msgspec.Struct, array_like=True):
    """One metric of a snapshot."""

    name: str
    documentation: str
    type: str
    samples: list[SampleDoc]


class Snapshots:
    """Leaves this process's figures where every web process of the machine finds them, and reads the others'."""

    def __init__(self, registry: CollectorRegistry, directory: Path, process: str) -> None:
        self._registry = registry
        self._directory = directory
        self._process = process
        self.path = directory / f"{process}-{os.getpid()}.metrics"

    async def tick(self) -> None:
        """Write this process's snapshot, whole or not at all."""
        self._directory.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_bytes(msgspec.msgpack.encode(self._families()))
        part.replace(self.path)

    def forget(self) -> None:
        """Take this process's snapshot away when it ends."""
        self.path.unlink(missing_ok=True)

    async def exposition(self, now_s: Callable[[], float] = time.time) -> bytes:
        """The Prometheus text of every fresh snapshot, this process's own being of this moment. Those of the dead are
        taken away. Text is made in a thread: it takes 20 ms, in which the loop goes on."""
        return await asyncio.to_thread(self._text, self._families(), now_s())

    def _text(self, own: list[FamilyDoc], now_s: float) -> bytes:
        merged: dict[str, Metric] = {}
        _merge(merged, own, self._process, os.getpid())
        for path in sorted(self._directory.glob("*.metrics")):
            process, _, pid = path.stem.rpartition("-")
            if path == self.path or not pid.isdigit():
                continue
            if _is_fresh(path, now_s):
                _merge(merged, _read(path), process, int(pid))
            else:
                path.unlink(missing_ok=True)
        return generate_latest(_Collected(merged.values()))

    def _families(self) -> list[FamilyDoc]:
        return [
            FamilyDoc(m.name, m.documentation, m.type, [SampleDoc(s.name, s.labels, s.value) for s in m.samples])
            for m in self._registry.collect()
        ]


class _Collected(CollectorRegistry):
    """A registry of what has been collected already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        super().__init__()
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _merge(merged: dict[str, Metric], families: Iterable[FamilyDoc], process: str, pid: int) -> None:
    for family in families:
        metric = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            metric.add_sample(sample.name, {**sample.labels, "process": process, "pid": str(pid)}, sample.value)


def _is_fresh(path: Path, now_s: float) -> bool:
    try:
        age_s = now_s - path.stat().st_mtime
    except FileNotFoundError:
        return False
    return age_s <= SNAPSHOT_FRESH_S


def _read(path: Path) -> list[FamilyDoc]:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=list[FamilyDoc])
    except (FileNotFoundError, msgspec.DecodeError):
        return []


def tick_observer(metrics: Metrics, more: Mapping[str, Callable[[Any], None]]) -> Callable[[str, float, Any], None]:
    """An observer for `run_loop`: every tick is counted, and `more[loop]` reads what its tick returned."""

    def observe(loop: str, took_s: float, result: Any) -> None:
        metrics.on_tick(loop, took_s)
        reader = more.get(loop)
        if reader is not None:
            reader(result)

    return observe
