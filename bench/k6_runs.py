"""The k6 scripts against a running system: whole journeys, a burst of orders, a crowd that polls. Thresholds judge.

k6 is taken from the PATH, else from `bench/k6`, where it is built from its pinned module when Go is there. Where there
is neither, the scripts are left out and the report says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import CAP, EVERYONE_AT_ONCE, HOLD_TTL_S, Bench, known

MODULE = Path(__file__).parent / "k6"
# What k6 answers when a threshold was crossed.
CROSSED = 99


@dataclass(frozen=True)
class Script:
    """One script, how it is told to behave, and the sale it buys in."""

    name: str
    buyers: int
    units: int
    rate: int
    settings: dict[str, int]


# Journeys have fewer units than buyers: an oversold unit shows only where stock runs out. The burst has one for each:
# nobody is let in for whom nothing is left, and it wants everybody inside before it begins.
SCRIPTS = (
    Script("journey", buyers=200, units=150, rate=200, settings={}),
    Script("order_burst", buyers=800, units=800, rate=EVERYONE_AT_ONCE, settings={"PER_SECOND": 150}),
    Script("poll_soak", buyers=1_000, units=10, rate=0, settings={"PER_SECOND": 1_000, "SECONDS": 10}),
)
SMOKE_SCRIPTS = (Script("journey", buyers=60, units=40, rate=100, settings={}),)


async def find_k6(say: Callable[[str], None], *, may_build: bool) -> str | None:
    """The program, built first where it must and can be."""
    own = MODULE / "k6"
    if found := shutil.which("k6") or (str(own) if own.exists() else None):
        return found
    if not may_build or not shutil.which("go"):
        return None
    say("building k6 from its pinned module (once, a few minutes)")
    build = await asyncio.create_subprocess_exec("go", "build", "-trimpath", "-o", "k6", ".", cwd=MODULE)
    return str(own) if await build.wait() == 0 else None


async def run_scripts(bench: Bench, k6: str, scripts: tuple[Script, ...]) -> list[dict[str, Any]]:
    """Each script on a sale of its own; what it measured and whether its thresholds held."""
    return [await _run(bench, k6, script) for script in scripts]


async def _run(bench: Bench, k6: str, script: Script) -> dict[str, Any]:
    sale = f"k6-{script.name.replace('_', '-')}"
    tokens = await bench.grow_tokens(script.buyers)
    await bench.on.create_sale(sale, units=script.units, rate=script.rate, cap=CAP, hold_ttl_s=HOLD_TTL_S)
    await known(bench, sale)
    with tempfile.TemporaryDirectory() as folder:
        tokens_file, summary = Path(folder) / "tokens", Path(folder) / "summary.json"
        tokens_file.write_text("\n".join(tokens) + "\n")
        told = {"BASE_URL": bench.on.base, "SALE": sale, "TOKENS_FILE": str(tokens_file), "BUYERS": script.buyers}
        settings = [word for name, value in {**told, **script.settings}.items() for word in ("-e", f"{name}={value}")]
        process = await asyncio.create_subprocess_exec(
            *(k6, "run", "--quiet", "--no-color", "--summary-export", str(summary), *settings),
            str(MODULE / f"{script.name}.js"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "K6_NO_USAGE_REPORT": "true"},
        )
        said, _ = await process.communicate()
        metrics = json.loads(summary.read_text())["metrics"] if summary.exists() else {}
    if process.returncode not in (0, CROSSED):
        raise RuntimeError(f"k6 {script.name}: {said.decode()[-2000:]}")
    found = _figures(script, metrics, is_passed=process.returncode == 0)
    bench.say(f"k6 {found}")
    return found


def _figures(script: Script, metrics: dict[str, Any], *, is_passed: bool) -> dict[str, Any]:
    crossed = [
        f"{name}: {rule}"
        for name, metric in metrics.items()
        for rule, bad in metric.get("thresholds", {}).items()
        if bad
    ]
    latency = {
        name.removeprefix("http_req_duration{name:").rstrip("}"): {
            quantile: round(metric[quantile], 1) for quantile in ("med", "p(95)", "p(99)") if quantile in metric
        }
        for name, metric in metrics.items()
        if name.startswith("http_req_duration{name:")
    }
    return {
        "script": script.name,
        "buyers": script.buyers,
        "units": script.units,
        "is_passed": is_passed,
        "crossed": crossed,
        "requests": metrics.get("http_reqs", {}).get("count", 0),
        "confirmed": metrics.get("confirmed", {}).get("count", 0),
        "oversold": metrics.get("oversold", {}).get("value", 0),
        "unexpected": metrics.get("unexpected_answers", {}).get("count", 0),
        "latency_ms": latency,
    }
