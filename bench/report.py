"""What a run found, for people: a Markdown table with its plots and the raw figures beside it, named by the day.

Nothing in it names a path or a host of the machine that measured. A target that was missed says so.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import psutil  # type: ignore[import-untyped]

from bench.floors import KNOWN_CPU_US, cpu_s
from bench.measure import Measured, Target, verdict
from onsale.server import embedded

mpl.use("svg")
import matplotlib.pyplot as plt

LIBRARIES = ("aiohttp", "uvloop", "redis", "hiredis", "asyncpg", "msgspec", "cryptography")
# More than this taken by others, and a run says little.
BUSY_PERCENT = 10
OURS, FLOOR, LIMIT = "#0b5fa5", "#8a8a8a", "#c0392b"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    redis_version = ".".join(map(str, embedded.redis_version(embedded.redis_binary())))
    postgres = subprocess.run(
        [str(embedded.postgres_programs() / "postgres"), "--version"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "cpu": cpu[1] if cpu else platform.machine(),
        "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME', '')}, Linux {platform.release()}",
        "python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "stores": f"Redis {redis_version}, {postgres.removeprefix('postgres ').replace('(PostgreSQL)', 'PostgreSQL')}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "commit": commit(),
    }


class Busy:
    """How much of the machine others used during a run: what makes figures worse than they are."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._all_s, self._own_s = _busy_s(), cpu_s(os.getpid())

    def others(self) -> str:
        """Their share of all cores since this was made."""
        cores_s = (time.monotonic() - self._began) * len(os.sched_getaffinity(0))
        share = (_busy_s() - self._all_s - (cpu_s(os.getpid()) - self._own_s)) / cores_s
        return f"{100 * max(0.0, share):.0f} % of the cores during the run"


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def commit() -> str:
    """The commit that was measured, marked where files differed from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!bench/results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changed else "")


def write(folder: Path, found: Measured, where: dict[str, str], extra: dict[str, Any], today: datetime.date) -> Path:
    """Write `<day>.md`, `<day>.svg` and `<day>.json`; a second run of a day replaces the first. Answers the first."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {
        "machine": where,
        "floors": found.floors,
        "targets": [vars(target) for target in found.targets],
        **found.figures,
        **extra,
    }
    (folder / f"{today}.json").write_text(json.dumps(raw, indent=1, default=str) + "\n")
    _plot(folder / f"{today}.svg", found)
    page = folder / f"{today}.md"
    page.write_text(_page(today, found, where, extra))
    return page


def _page(today: datetime.date, found: Measured, where: dict[str, str], extra: dict[str, Any]) -> str:
    parts = [
        f"# Measured on {today}",
        "Each figure stands beside the least program that does the same work, measured in the same run in turn with it "
        "(medians). CPU is user and system time a request. Generator, servers and stores shared the cores named below, "
        "so absolute figures are this machine's alone; ratios are what is claimed. `make bench` makes this page.",
        _table(("", ""), list(where.items())),
        *_caution(where),
        "## Targets",
        target_table(found.targets),
        _left_out(found),
        f"![throughput, latency and CPU]({today}.svg)",
        "## The machine's floors",
        _floors(found),
        _at_rest(found.figures.get("at_rest_percent", {})),
        "## Whole journeys",
        _journeys(found.figures.get("journeys", {})),
        "## Confirmations by the clock",
        _offered(found.figures.get("confirm", []), ("p50", "p95", "p99")),
        "## Stock reads by the clock",
        _offered(found.figures.get("stock", []), ("p50", "p95", "p99")),
        "## Event streams",
        _streams(extra.get("streams")),
        "## k6",
        _k6(extra.get("k6")),
        "## Audit",
        _audit(extra.get("audit")),
    ]
    return "\n\n".join(parts) + "\n"


def _caution(where: dict[str, str]) -> list[str]:
    taken = int(where.get("others took", "0 %").split(" ")[0])
    if taken <= BUSY_PERCENT:
        return []
    return [
        f"**Not representative: other programs took {taken} % of the cores while this was measured.** Ours needs five "
        "processes where a floor needs one, so waiting for a core weighs on it several times over; CPU a request rises "
        "as well. Measure again on a machine at rest before quoting any line."
    ]


def _left_out(found: Measured) -> str:
    if not found.left_out:
        return "Nothing was left out for want of time."
    return f"Left out for want of time on this machine: {', '.join(found.left_out)}."


def target_table(targets: Sequence[Target]) -> str:
    """The table of targets; lines of one number stand together."""
    ordered = sorted(targets, key=lambda target: int(target.id[1:]))
    return _table(
        ("", "what", "floor", "ours", "ours / floor", "target", "met", ""),
        [
            (
                target.id,
                target.what,
                target.floor,
                target.ours,
                "–" if target.ratio is None else f"{target.ratio:.2f}",
                target.goal,
                {"met": "yes", "NOT met": "**no**"}.get(verdict(target), "not told"),
                target.note,
            )
            for target in ordered
        ],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows])


def _floors(found: Measured) -> str:
    names = {
        "bare": "bare `asyncio.Protocol` answering JSON",
        "f0": "F0: aiohttp `Application`, one route",
        "routed": "… with 22 routes and 3 small middlewares",
        "charge_client": "the client side of one call of the provider (aiohttp)",
        "ed25519_verify": "one Ed25519 verification",
    }
    rows = [
        (text, f"{found.floors[name]:.1f}", f"{KNOWN_CPU_US[name]:.1f}" if name in KNOWN_CPU_US else "–")
        for name, text in names.items()
        if name in found.floors
    ]
    return _table(("what", "CPU µs", "known of such a machine"), rows)


def _at_rest(shares: dict[str, float]) -> str:
    if not shares:
        return ""
    text = ", ".join(f"{name} {share:.1f}" for name, share in shares.items())
    return f"Of a core while nobody asks anything (%): {text}. It is part of every figure of ours."


def _journeys(figures: dict[str, Any]) -> str:
    if not figures:
        return "Not measured."
    rows = []
    for name in ("lean", "ours", "naive"):
        cpu, latency = figures["cpu_us"][name], figures["latency_ms"][name]
        shares = ", ".join(f"{part} {us:.0f}" for part, us in cpu.items() if part != "sum" and us >= 1)
        rows.append(
            (
                name,
                f"{figures['per_second'][name]:,.0f}",
                f"{figures['polls_each'][name]:.1f}",
                f"{cpu['sum']:.0f}",
                shares,
                *(
                    f"{latency[step]['p50']:.0f} / {latency[step]['p99']:.0f}"
                    for step in ("poll", "reserve", "confirm")
                ),
            )
        )
    head = ("", "a second", "polls each", "CPU µs each", "by process (µs)", "poll ms", "reserve ms", "confirm ms")
    return _table(head, rows) + "\n\nLatencies are p50 / p99 at saturation. The sum leaves the provider out."


def _offered(series: Sequence[dict[str, Any]], quantiles: Sequence[str]) -> str:
    if not series:
        return "Not measured."
    rows = [
        (
            f"{one['offered']:,}",
            f"{one['answered']:,}",
            *(f"{one['latency_ms'].get(q, 0):.1f}" for q in quantiles),
            f"{one.get('provider_ms', {}).get('p50', 0):.1f}" if "provider_ms" in one else "–",
            one["dropped"],
            one["late"],
            f"{one['cpu_us']['web']:.0f}",
            f"{one['cpu_us']['sum']:.0f}",
        )
        for one in series
    ]
    head = ("offered a second", "answered", *(f"{q} ms" for q in quantiles))
    return _table((*head, "provider alone p50 ms", "dropped", "sent late", "web CPU µs", "all CPU µs"), rows)


def _streams(streams: dict[str, Any] | None) -> str:
    if not streams:
        return "Not measured."
    delay = streams["delay_ms"]
    return (
        f"{streams['streams']:,} buyers waiting by stream, {streams['rate']:,} admitted a second: "
        f"{streams['told']:,} were told, p50 {delay.get('p50', 0):.0f} ms and p99 {delay.get('p99', 0):.0f} ms after "
        "`admitted_at`; "
        f"{streams['kib_a_stream']} KiB of the web process a stream; answers {streams['statuses']}, "
        f"{streams['lost']} lost."
    )


def _k6(runs: Sequence[dict[str, Any]] | None) -> str:
    if not runs:
        return "Not run: k6 was not on the PATH and could not be built here."
    rows = [
        (
            run["script"],
            run["buyers"],
            run["units"],
            f"{run['requests']:,}",
            run["confirmed"],
            run["oversold"],
            run["unexpected"],
            "; ".join(f"{name} {ms.get('p(99)', 0):.0f}" for name, ms in run["latency_ms"].items()),
            "yes" if run["is_passed"] else f"**no**: {', '.join(run['crossed'])}",
        )
        for run in runs
    ]
    head = ("script", "buyers", "units", "requests", "confirmed", "oversold", "unexpected", "p99 ms", "thresholds held")
    return _table(head, rows)


def _audit(findings: Sequence[dict[str, Any]] | None) -> str:
    if findings is None:
        return "Not run."
    bad = [finding for finding in findings if not finding["ok"]]
    if not bad:
        return f"`onsale audit` after the run: {len(findings)} findings, none wrong."
    return "`onsale audit` after the run found **wrong**:\n\n" + "\n".join(f"- {finding}" for finding in bad)


# --- plots


def _plot(path: Path, found: Measured) -> None:
    plt.rcParams.update({"svg.hashsalt": "onsale", "font.size": 9, "axes.spines.top": False})
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    _plot_offered(axes[0], found.figures.get("confirm", []), "Confirmations", "p99")
    _plot_offered(axes[1], found.figures.get("stock", []), "Stock reads", "p95")
    _plot_polls(axes[2], found.figures.get("polls", []))
    # Without a date: the same figures draw the same file.
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _plot_offered(axis: Any, series: Sequence[dict[str, Any]], title: str, quantile: str) -> None:
    axis.set_title(f"{title}: throughput and latency")
    axis.set_xlabel("offered a second")
    axis.set_ylabel("answered a second", color=OURS)
    if not series:
        return
    offered = [one["offered"] for one in series]
    axis.plot(offered, offered, "--", color=FLOOR, linewidth=1)
    axis.plot(offered, [one["per_second"] for one in series], "o-", color=OURS)
    axis.set_ylim(bottom=0)
    beside = axis.twinx()
    for name, style in (("p50", ":"), (quantile, "-")):
        beside.plot(offered, [one["latency_ms"].get(name, 0) for one in series], style, color=LIMIT, label=name)
    beside.set_ylabel("latency ms", color=LIMIT)
    beside.set_ylim(bottom=0)
    beside.legend(loc="upper left", frameon=False)


def _plot_polls(axis: Any, points: Sequence[dict[str, Any]]) -> None:
    axis.set_title("CPU of a poll against people waiting")
    axis.set_xlabel("people waiting")
    axis.set_ylabel("µs of the web process")
    if not points:
        return
    waiting = [point["waiting"] for point in points]
    axis.plot(waiting, [point["web_us"] for point in points], "o-", color=OURS, label="poll")
    axis.plot(waiting, [point["f0_us"] for point in points], "s-", color=FLOOR, label="F0")
    axis.plot(waiting, [1.4 * point["f0_us"] for point in points], "--", color=LIMIT, label="1.4 × F0")
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
