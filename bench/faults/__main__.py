"""`make faults`: a matrix of faults on real processes, a real Redis and a real Postgres, each judged from outside.

    python -m bench.faults                          every row once
    python -m bench.faults kill-redis power-shop    these rows
    python -m bench.faults --smoke                  four small rows, in about two minutes
    python -m bench.faults --report                 write docs/faults.md from the kept results

Each row starts a world of its own and ends it. Prints one line a row; exit 1 where a promise was broken. With --keep
each result is added to bench/results/faults.jsonl, from which the report is made.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench.faults import report
from bench.faults.rows import ROWS, SMOKE, Result, Row, run_row
from bench.faults.scale import Scale

# Two strikes a row, both while the sale still lasts: its units alone take four seconds to be let at.
SMOKE_SCALE = Scale(
    buyers=48, units=32, rate=8.0, every_s=1.5, lasts_s=1.0, times=2, patience_s=100.0, bystanders=40, polls_per_s=80.0
)


async def run(rows: Sequence[Row], scale: Scale, seed: int, asked: Mapping[str, Any], *, keep: bool) -> bool:
    """These rows, one after the other; True when all promises were kept."""
    # Ended from outside, a trial takes what it started with it.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    is_whole = True
    for row in rows:
        result = await run_row(row, scale, seed, asked)
        print(line(result), flush=True)
        is_whole = is_whole and not result.broken
        if keep:
            with report.RESULTS.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(result)) + "\n")
    return is_whole


def line(result: Result) -> str:
    if result.skipped:
        return f"{result.row}: skipped, {result.skipped}"
    struck = ", ".join(f"{name} {count}" for name, count in result.strikes.items())
    said = (
        f"{result.row} (seed {result.seed}): {result.took_s} s, {result.requests} requests ({result.unknown} unknown), "
        f"{result.orders} sold, oversold {result.oversold}, lost {result.lost}, doubled {result.doubled}, "
        f"charged for nothing {result.charged_for_nothing}; {struck}; {result.outcomes}; "
        f"confirm {result.confirm_ms} {result.notes or ''}"
    )
    return "\n".join([said, *(f"  BROKEN {fault}" for fault in result.broken)])


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--keep", action="store_true", help="add the results to bench/results/faults.jsonl")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    for field in dataclasses.fields(Scale):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=None)
    asked = parser.parse_args()
    if unknown := set(asked.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if asked.report:
        report.write()
        return
    given = {f.name: getattr(asked, f.name) for f in dataclasses.fields(Scale) if getattr(asked, f.name) is not None}
    scale = SMOKE_SCALE if asked.smoke else Scale()
    rows = [ROWS[name] for name in asked.rows or (SMOKE if asked.smoke else ROWS)]
    if asked.smoke:
        rows = [dataclasses.replace(row, rarer=1.0, scale={}) for row in rows]
    sys.exit(0 if asyncio.run(run(rows, scale, asked.seed, given, keep=asked.keep)) else 1)


if __name__ == "__main__":
    main()
