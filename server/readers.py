"""What ticks return, turned into instruments: one reader a loop. Rooms know nothing of metrics; this file knows both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onsale.checkout.record.flusher import FlushTick
from onsale.queue.admitter import AdmitterTick
from onsale.server.metrics import Metrics


def of(metrics: Metrics) -> Mapping[str, Callable[[Any], None]]:
    """The readers of all loops, by the loop's name."""
    return {
        "admitter": lambda tick: admitted(metrics, tick),
        "flusher_money": lambda tick: flushed(metrics, tick),
        "flusher_holdings": lambda tick: flushed(metrics, tick),
        "flusher_admissions": lambda tick: flushed(metrics, tick),
        "reaper": lambda tick: metrics.lapsed.inc(tick.expired),
    }


def admitted(metrics: Metrics, tick: AdmitterTick) -> None:
    """People let in, and how."""
    for sale in tick.sales:
        metrics.admitted.labels(sale.sale).inc(sale.admitted)
        metrics.passed_over.labels(sale.sale).inc(sale.passed_over)
        metrics.line_active.labels(sale.sale, "general").set(sale.active)


def flushed(metrics: Metrics, tick: FlushTick) -> None:
    """Events recorded, and how late."""
    for batch in tick.batches:
        stream = str(batch.stream)
        metrics.recorded.labels(stream).inc(batch.recorded.events)
        metrics.refused.labels(stream).inc(len(batch.recorded.refused))
        metrics.poisoned.labels(stream).inc(batch.recorded.poisoned)
        metrics.flush_batch.labels(stream).observe(batch.recorded.events)
        metrics.record_lag_s.labels(batch.sale, stream).set(batch.lag_ms / 1000)
