"""docs/faults.md, made from the kept results."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "faults.jsonl"
INTERLEAVINGS = ROOT / "bench" / "results" / "interleavings.json"
PAGE = ROOT / "docs" / "faults.md"
GROUPS = {
    "kills": ("kill ",), "power cuts": ("power cut ",), "failovers": ("failover ",),
    "total losses of Redis": ("total loss ", "older file "), "stops": ("stop ",), "partitions": ("partition ",),
}  # fmt: skip
COLUMNS = ("row", "how", "runs", "strikes", "requests", "unknown", "sold", "oversold", "lost", "doubled",
           "charged for nothing", "seeds")  # fmt: skip
TABLE = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
HEAD = """# Faults

`make faults` runs this matrix: each row starts a system of its own (real processes, two real Redis servers, a real
Postgres, the sandbox provider), lets a crowd buy in it, and does the row's harm to it meanwhile. Then everything is
mended, the audit runs, and a judge that shares no code with the server (`bench/judge.py`, `bench/faults/verdict.py`)
compares what the buyers were told with the public tables, the provider's book and the streams. A call without an answer
is *unknown*: nothing is concluded from it. Except where a row says otherwise, every unit has to be sold in the end.

    make faults ARGS="power-machine --seed 4711"      one row again, with its seed
    make faults ARGS="--keep"                         all rows; results are added to bench/results/faults.jsonl
    make faults ARGS="--report"                       this page, from those results
    make faults-smoke                                 four small rows

A seed fixes what is struck, when and for how long; processes and the network keep their own timing, so a seed repeats a
run's course, not its every step.

*Power cut* means more than a kill: after the kill everything is taken away that no fsync had covered. A small C shim
(`bench/faults/shim.c`, LD_PRELOAD) notes how much of each file an fsync has covered; Redis' append-only file is cut
back to that. Postgres gets the data of a base copy from before its first start and its log up to the flush position,
asked while all its processes stand still. *Disk full*, *fsync +200 ms* and *clocks* are done by the same
shim, *partitions* by relays of ours between each process and each store, silent or resetting. *Failover*:
replication is silenced, 0–3 s later the primary is killed and the replica promoted behind the relay.
"""

FOUND = """
## What the matrix has found

The runs listed above as not kept are these: a sale that did not sell its last units before the buyers of the trial lost
their patience (PgBouncer that waits 15 s after each death of Postgres; payments that end for good and keep their seat),
and a judge that took its own poison for a confirmation, and a sale that had not begun by a clock put back for a lost
place. Nobody lost a unit, a place or money in any of them; the rows and the judge were mended and run again.

- A seat made anew from the record after the line was lost whole was told as a turn in nobody's name, so its pass was
  refused (`pass_invalid`) and the seat stayed taken until the pass ran out. Mended in `lua/sign.lua`
  (`test_a_turn_made_anew_from_the_record_is_its_holders`).
- Where the line's clock had gone back, the audit saw people above the rate who were not (I6), and a rebuilt line could
  take an older turn for the last one. Both go by event ids now (`test_a_clock_that_went_back`,
  `test_the_newest_turn_counts_whatever_the_clock_said`).
- A Postgres whose recovery meets a full disk (it cannot write `pg_control`) stays in recovery mode when there is room
  again, until its operator starts it anew. Nothing of ours can help; the row does as the operator would.
- PgBouncer waits 15 s before it asks a Postgres again that it could not log in to: `server_login_retry = 1` keeps an
  outage as short as it was.

## What it does not show

- The target of one full run (300 kills, 30 power cuts, 30 failovers, 10 total losses, 1,000,000 requests) is reached
  by the sum of the runs above, which are of several states of the code, not by one run of all rows.
- Of the two runs of 2026-11-25 that are listed as not kept, one kept Postgres away for ten minutes four times over, so
  that its buyers went before everything was sold; in the other the judge asked for figures in the second after a power
  cut and took "ask again" for an answer. It asks again now.
- In a rolling restart no confirmation was left without an answer; some polls were (connections cut while a process
  stops), and were asked again.
"""
SIMULATED = """
## In every order of steps

Real processes meet the orders of steps that their machine happens to give them. `python -m bench.interleavings` draws
them from a seed instead: the real code of checkout and line, and the real scripts, run between models of Redis,
Postgres and a provider, on a loop in which chance decides what runs next; requests and answers are lost or late,
processes are killed or stopped at any step, the shop's Redis restarts with all it had, with what it had a while ago, or
with nothing.
After each change, and once whoever is left has finished, the invariants are checked. The same seed is the same run, bit
by bit; `--trace SEED` shows it. What the models are, and what they leave out, is in `bench/README.md`.

It has found three faults. A flusher that had read a confirmation before the shop's Redis lost it could record it
between the rebuilder's comparison and its fence, and keys were taken on that did not have it
(`test_a_batch_that_was_read_before_the_loss`). And a Redis that lost everything while a rebuilder was loading it was
registered with the steps that came after (`test_a_server_that_started_anew_while_it_was_loaded`).

And an operator could take a unit out of a sale that an order had just given back: Postgres counted the move at once
and the order's end a moment later, and refused a claim in between for a unit that it had (seed 5666 of the ten
thousand, `test_units_that_leave_wait_for_the_record_of_what_came_before`). The move waits for the record now.

| what | count |
|---|---|
{counts}

Each of these bugs was planted on purpose, in a copy of its own, and found:

| bug | found by the … seed |
|---|---|
{planted}
"""


def write() -> None:
    """Make the page anew."""
    results = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    PAGE.write_text(page(results) + simulated(json.loads(INTERLEAVINGS.read_text())))


def page(results: Sequence[dict[str, Any]]) -> str:
    ran = [one for one in results if not one["skipped"]]
    parts = [HEAD, "## All runs together\n", totals(ran), "\n## Row by row\n", TABLE]
    by_row: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in results:
        by_row[one["row"]].append(one)
    parts += [row(name, some) for name, some in by_row.items()]
    broken = [f"- {one['row']}, seed {one['seed']}: {fault}" for one in ran for fault in one["broken"]]
    parts += ["\n## Promises that did not hold in these runs\n", *(broken or ["None."]), FOUND.rstrip()]
    return "\n".join(parts) + "\n"


def simulated(kept: dict[str, Any]) -> str:
    """What the simulation of interleavings has shown."""
    first, last = kept["seeds"]
    counts = {"seeds": last - first + 1, "steps": kept["steps"], **kept["happened"], "promises broken": kept["broken"]}
    nth = {plant: f"{found}." if found else "not found" for plant, found in kept["planted"].items()}
    return SIMULATED.format(
        counts="\n".join(f"| {name} | {count:,} |" for name, count in counts.items()),
        planted="\n".join(f"| {plant} | {found} |" for plant, found in nth.items()),
    )


def totals(ran: Sequence[dict[str, Any]]) -> str:
    strikes = sum((Counter(one["strikes"]) for one in ran), Counter[str]())
    figures = {
        name: sum(count for what, count in strikes.items() if what.startswith(prefixes))
        for name, prefixes in GROUPS.items()
    }
    figures |= {"requests": _sum(ran, "requests"), "units sold": _sum(ran, "orders")}
    figures |= {"oversold": _sum(ran, "oversold"), "acknowledged orders lost": _sum(ran, "lost")}
    figures |= {"double charges": _sum(ran, "doubled")}
    figures |= {"charged without an order or a refund": _sum(ran, "charged_for_nothing")}
    lines = ["| what | count |", "|---|---|", *(f"| {name} | {count:,} |" for name, count in figures.items())]
    hours = _sum(ran, "took_s") / 3600
    return "\n".join([*lines, "", f"{len(ran)} runs, {hours:.1f} hours in all."])


def row(name: str, some: Sequence[dict[str, Any]]) -> str:
    ran = [one for one in some if not one["skipped"]]
    if not ran:
        return f"| {name} | {some[-1]['how']} | skipped: {some[-1]['skipped']} |||||||||||"
    strikes = sum((Counter(one["strikes"]) for one in ran), Counter[str]())
    struck = ", ".join(f"{what} {count:,}" for what, count in strikes.items())
    columns = ("requests", "unknown", "orders", "oversold", "lost", "doubled", "charged_for_nothing")
    figures = " | ".join(f"{_sum(ran, column):,}" for column in columns)
    seeds = ", ".join(str(one["seed"]) for one in ran)
    return f"| {name} | {ran[-1]['how']} | {len(ran)} | {struck} | {figures} | {seeds} |"


def _sum(ran: Sequence[dict[str, Any]], column: str) -> Any:
    return sum(one[column] for one in ran)
