"""What ticks return, turned into instruments: one reader a loop. Rooms know nothing of metrics, this file of both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from onsale.auth.mailer import MailTick
from onsale.checkout.delivery import DeliveryTick
from onsale.checkout.notices import NoticeTick
from onsale.checkout.providers import Guarded
from onsale.checkout.record.flusher import FlushTick
from onsale.checkout.record.lag import LagTick
from onsale.queue.admitter import AdmitterTick
from onsale.queue.feed import Feed, KnownLine
from onsale.queue.keeper import KeeperTick
from onsale.queue.shown import ShownTick
from onsale.queue.stream import Streams
from onsale.server.connections import SweepTick
from onsale.server.health import Readiness
from onsale.server.metrics import Metrics


def of(metrics: Metrics) -> Mapping[str, Callable[[Any], None]]:
    """The readers of all loops, by the loop's name."""
    return {
        "admitter": lambda tick: admitted(metrics, tick),
        "shown_waits": lambda tick: calibrated(metrics, tick),
        "keeper": lambda tick: kept(metrics, tick),
        "flusher_money": lambda tick: flushed(metrics, tick),
        "flusher_holdings": lambda tick: flushed(metrics, tick),
        "flusher_admissions": lambda tick: flushed(metrics, tick),
        "record_lag": lambda tick: lagged(metrics, tick),
        "completer": lambda tick: metrics.contradicted.inc(tick.contradicted),
        "mailer": lambda tick: lettered(metrics, tick),
        "alarms": lambda tick: metrics.alarms.inc(tick.written),
        "sweep": lambda tick: swept(metrics, tick),
        "notices": lambda tick: noticed(metrics, tick),
        "restocker": lambda tick: metrics.restocked.inc(tick.restocked),
        "sale_canceller": lambda tick: metrics.called_off.inc(tick.cancelled),
        "delivery": lambda tick: delivered(metrics, tick),
        "recommender": lambda tick: metrics.recommended.inc(tick.counted),
        "reaper": lambda tick: metrics.lapsed.inc(tick.expired),
    }


def admitted(metrics: Metrics, tick: AdmitterTick) -> None:
    """People let in, and how."""
    for sale in tick.sales:
        metrics.admitted.labels(sale.sale).inc(sale.admitted)
        metrics.passed_over.labels(sale.sale).inc(sale.passed_over)
        if sale.failure:
            metrics.unattended.labels(sale.sale, "admitter").inc()
        if sale.figures is not None:
            metrics.inversions.labels(sale.sale).set(sale.figures.inversions)
            metrics.cap_violations.labels(sale.sale).set(sale.figures.cap_violations)


def calibrated(metrics: Metrics, tick: ShownTick) -> None:
    """Waits that ended, and by what was shown."""
    for judged in tick.judged:
        metrics.waits_ended.labels(judged.sale).inc(judged.ended)
        metrics.waits_ended_by.labels(judged.sale, "0.5").inc(judged.by_p50)
        metrics.waits_ended_by.labels(judged.sale, "0.9").inc(judged.by_p90)


def kept(metrics: Metrics, tick: KeeperTick) -> None:
    """Lines that could be neither loaded nor told what is in force: the tick went on without them."""
    for sale, _ in tick.failed:
        metrics.unattended.labels(sale, "keeper").inc()


def flushed(metrics: Metrics, tick: FlushTick) -> None:
    """Events recorded, and how late."""
    for batch in tick.batches:
        stream = str(batch.stream)
        metrics.recorded.labels(stream).inc(batch.recorded.events)
        metrics.refused.labels(stream).inc(len(batch.recorded.refused))
        metrics.poisoned.labels(stream).inc(batch.recorded.poisoned)
        metrics.flush_batch.labels(stream).observe(batch.recorded.events)
        metrics.record_lag_s.labels(batch.sale, stream).set(batch.lag_ms / 1000)


def noticed(metrics: Metrics, tick: NoticeTick) -> None:
    """Who listens, and what they were told."""
    metrics.notice_listeners.set(tick.listeners)
    metrics.notices_told.inc(tick.told)


def delivered(metrics: Metrics, tick: DeliveryTick) -> None:
    """Orders that came a step further."""
    for state in ("prepared", "shipped", "delivered", "completed", "returned"):
        metrics.delivered.labels(state).inc(getattr(tick, state))


def lagged(metrics: Metrics, tick: LagTick) -> None:
    """How far the record is behind, by what the shop's Redis says."""
    for sale, lag_ms in tick.lag_ms.items():
        metrics.record_behind_s.labels(sale).set(lag_ms / 1000)


def lettered(metrics: Metrics, tick: MailTick) -> None:
    """Letters sent, and those that were not."""
    for outcome in ("sent", "expired", "refused", "vanished", "postponed"):
        metrics.letters.labels(outcome).inc(getattr(tick, outcome))


def swept(metrics: Metrics, tick: SweepTick) -> None:
    """Connections open, and those closed because their request did not come."""
    metrics.connections.set(tick.connections)
    metrics.connections_late.inc(tick.closed)


class WebGauges:
    """What a web process knows without being asked: lines, streams, providers, stores. Ticked each second."""

    def __init__(
        self, metrics: Metrics, feed: Feed, streams: Streams, providers: Mapping[str, Guarded], readiness: Readiness
    ) -> None:
        self._metrics = metrics
        self._feed = feed
        self._streams = streams
        self._providers = providers
        self._readiness = readiness

    async def tick(self) -> None:
        """Set every gauge."""
        metrics, now_ms = self._metrics, self._feed.now_ms()
        for line in self._feed.lines():
            _show_line(metrics, line, now_ms)
        metrics.streams_open.labels("all").set(self._streams.open_count)
        for name, provider in self._providers.items():
            metrics.breaker_open.labels(name).set(provider.is_away)
        for clock in await self._readiness.clocks():
            metrics.store_up.labels(clock.name).set(clock.offset_ms is not None)
            metrics.clock_skew_s.labels(clock.name).set((clock.offset_ms or 0) / 1000)


def _show_line(metrics: Metrics, line: KnownLine, now_ms: int) -> None:
    if line.frame is None:
        return
    document, labels = line.frame.document, (line.sale.id, line.frame.document.lane)
    metrics.document_age_s.labels(*labels).set((now_ms - line.frame.as_of_ms) / 1000)
    metrics.line_waiting.labels(*labels).set(document.waiting)
    metrics.line_absent.labels(*labels).set(document.absent)
    metrics.line_active.labels(*labels).set(document.active)
    metrics.line_active_max.labels(*labels).set(document.active_max)
    metrics.line_tail.labels(*labels).set(document.tail)
    metrics.line_serving.labels(*labels).set(document.serving)
    metrics.line_rate_target.labels(*labels).set(document.rate_per_second.target)
    metrics.line_rate_measured.labels(*labels).set(document.rate_per_second.measured)
    if document.stock is not None:
        for state in ("free", "held", "sold"):
            metrics.stock_units.labels(line.sale.id, state).set(getattr(document.stock, state))


class LoopLag:
    """How late the event loop wakes what asked to be woken: whatever holds it shows here. Ticked all the time."""

    NAP_S = 0.05

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def tick(self) -> float:
        """The worst of twenty naps, in seconds."""
        loop, worst_s = asyncio.get_running_loop(), 0.0
        for _ in range(20):
            began_s = loop.time()
            await asyncio.sleep(self.NAP_S)
            worst_s = max(worst_s, loop.time() - began_s - self.NAP_S)
        self._metrics.loop_lag_s.set(worst_s)
        return worst_s
