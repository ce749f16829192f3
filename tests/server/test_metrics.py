"""Metrics: what ticks returned is counted, and one scrape shows every process of the machine."""

import asyncio
import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from onsale.checkout.completer import CompleteTick
from onsale.queue.admitter import AdmitterTick, SaleTick
from onsale.queue.keeper import KeeperTick
from onsale.server import readers
from onsale.server.connections import SweepTick
from onsale.server.metrics import Metrics, Snapshots, tick_observer


async def exposition(metrics):
    """What a scrape of this process alone answers."""
    return await Snapshots(metrics.registry, Path("/nonexistent"), "web").exposition()


def samples(text):
    """Every sample of an exposition: (name, labels) -> value; the parser refuses what Prometheus would."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def named(text, name, **labels):
    """The values of one series' samples that have these labels."""
    return [
        value
        for (found, labelled), value in samples(text).items()
        if found == name and labels.items() <= dict(labelled).items()
    ]


async def test_outcomes_of_the_main_verbs_have_counters_of_their_own():
    """Successes by what happened, refusals by their code."""
    metrics = Metrics("0")
    reserve = metrics.traffic.of("POST", "/v1/sales/{sale}/orders")
    for status, code in ((201, ""), (409, "sold_out"), (409, "sold_out")):
        reserve.note(status, 0.002, code)
    text = await exposition(metrics)

    assert [1.0] == named(text, "onsale_reserve_total", outcome="reserved")
    assert [2.0] == named(text, "onsale_reserve_total", outcome="sold_out")


async def test_times_fall_into_their_buckets():
    """Cumulative, as Prometheus wants them."""
    metrics = Metrics("0")
    stats = metrics.traffic.of("GET", "/livez")
    for took_s in (0.0005, 0.001, 0.3, 60.0):
        stats.note(200, took_s, "")
    text = await exposition(metrics)
    reached = {
        dict(labels)["le"]: value
        for (name, labels), value in samples(text).items()
        if name == "onsale_http_request_seconds_bucket"
    }

    assert (2.0, 2.0, 3.0, 3.0, 4.0) == tuple(reached[le] for le in ("0.001", "0.25", "0.5", "10.0", "+Inf"))


def test_strange_methods_share_a_series():
    """Nobody makes series at will."""
    traffic = Metrics("0").traffic

    assert traffic.of("BREW", "/livez") is traffic.of("PROPFIND", "/livez")


async def test_one_scrape_shows_every_process(tmp_path):
    """Each process leaves a snapshot; any of them answers for all, by name and pid."""
    web, worker = Metrics("0"), Metrics("0")
    worker.tick_failures.labels("reaper").inc(3)
    other = Snapshots(worker.registry, tmp_path, "worker")
    other.path = tmp_path / f"worker-{os.getpid() + 1}.metrics"
    await other.tick()
    text = await Snapshots(web.registry, tmp_path, "web").exposition()

    assert [3.0] == named(text, "onsale_tick_failures_total", process="worker", loop="reaper")
    assert {"web", "worker"} == {
        dict(labels)["process"] for (name, labels) in samples(text) if name == "onsale_build_info"
    }


async def test_snapshots_of_the_dead_are_not_shown(tmp_path):
    """Figures of a process that left none for ten seconds would be lies."""
    gone = Snapshots(Metrics("0").registry, tmp_path, "worker")
    gone.path = tmp_path / f"worker-{os.getpid() + 1}.metrics"
    await gone.tick()
    written_s = gone.path.stat().st_mtime
    text = await Snapshots(Metrics("0").registry, tmp_path, "web").exposition(lambda: written_s + 11)

    assert [] == named(text, "onsale_build_info", process="worker")


async def test_a_broken_snapshot_hides_no_other(tmp_path):
    """Half a file is skipped."""
    (tmp_path / "worker-1.metrics").write_bytes(b"\xff\x00broken")
    text = await Snapshots(Metrics("0").registry, tmp_path, "web").exposition()

    assert 1 == len(named(text, "onsale_build_info"))


async def test_ticks_are_counted_by_loop():
    """How often and how long; what they returned goes to its reader."""
    metrics = Metrics("0")
    observe = tick_observer(metrics, readers.of(metrics))
    observe("sweep", 0.002, SweepTick(connections=7, closed=2))
    text = await exposition(metrics)

    assert [1.0] == named(text, "onsale_tick_seconds_count", loop="sweep")
    assert ([7.0], [2.0]) == (named(text, "onsale_connections"), named(text, "onsale_connections_late_total"))


async def test_payments_that_were_taken_back_are_counted():
    """The series is there from the start, so that the first one is an increase."""
    metrics = Metrics("0")
    before = await exposition(metrics)
    tick_observer(metrics, readers.of(metrics))("completer", 0.01, CompleteTick(hints=2, contradicted=1))
    after = await exposition(metrics)

    assert [[0.0], [1.0]] == [named(text, "onsale_contradicted_captures_total") for text in (before, after)]


async def test_lines_that_a_tick_went_on_without_are_counted():
    """A tick that serves many sales does not fail for one; the one still shows."""
    metrics = Metrics("0")
    observe = tick_observer(metrics, readers.of(metrics))
    observe("admitter", 0.01, AdmitterTick((SaleTick("drop", failure="RECOVERING"), SaleTick("other"))))
    observe("keeper", 0.01, KeeperTick(failed=(("drop", "CORRUPT"),)))
    text = await exposition(metrics)

    assert [1.0] == named(text, "onsale_line_unattended_total", sale="drop", loop="admitter")
    assert [1.0] == named(text, "onsale_line_unattended_total", sale="drop", loop="keeper")
    assert [] == named(text, "onsale_line_unattended_total", sale="other")


async def test_loop_lag_is_seen(monkeypatch):
    """Whatever holds the loop shows: here a task that holds it for 20 ms."""
    monkeypatch.setattr(readers.LoopLag, "NAP_S", 0.001)
    metrics = Metrics("0")

    async def hold():
        ends_s = asyncio.get_running_loop().time() + 0.02
        while asyncio.get_running_loop().time() < ends_s:
            pass

    worst_s, _ = await asyncio.gather(readers.LoopLag(metrics).tick(), hold())

    assert worst_s >= 0.015
    assert pytest.approx(worst_s) == metrics.loop_lag_s._value.get()
