"""The real checkout code between models of its stores, in whatever order chance finds; every seed is one run.

    python -m bench.interleavings                                1,000 seeds
    python -m bench.interleavings --seeds 0-9999 --jobs 2        ten thousand
    python -m bench.interleavings --trace 4711                   one run, step by step
    python -m bench.interleavings --plant trim-by-length         with a bug on purpose, until it is found
    python -m bench.interleavings --plant all                    every one of them
    python -m bench.interleavings --seeds 0-9999 --keep          the same, and the figures of docs/faults.md

Not to be taken for `onsale simulate`, which plays a sale's line to its operator. Exit 1 where a promise was broken,
or a planted bug was not found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.interleavings.course import Result, run_seed
from bench.interleavings.plants import PLANTS

CHUNK = 50
# Lines of a trace that are shown with what was found.
TAIL = 60
PLANT_SEEDS_MAX = 1_000
RESULTS = Path(__file__).resolve().parents[1] / "results" / "interleavings.json"


def run_chunk(seeds: range, plant: str) -> tuple[list[Result], Counter[str], int]:
    """These seeds: those that broke something, what happened in all, and how many steps it took."""
    warnings.simplefilter("ignore")
    broken, happened, steps = list[Result](), Counter[str](), 0
    for seed in seeds:
        result = run_seed(seed, plant)
        happened.update(result.counts)
        steps += result.steps
        if result.broken:
            broken.append(result)
    return broken, happened, steps


def run_all(seeds: range, jobs: int, *, keeps: bool) -> int:
    """Run seeds on so many cores; answers the exit code."""
    started, happened, steps, done = time.monotonic(), Counter[str](), 0, 0
    failed: list[Result] = []
    chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(jobs) as pool:
        for chunk, (broken, counts, taken) in zip(chunks, pool.map(run_chunk, chunks, [""] * len(chunks)), strict=True):
            happened += counts
            steps, done = steps + taken, done + len(chunk)
            failed += broken
            for result in broken:
                print(f"seed {result.seed}: {'; '.join(result.broken)}", flush=True)
            if done % 1_000 == 0:
                print(f"{done} seeds, {len(failed)} broken", flush=True)
    seconds = time.monotonic() - started
    print(f"{len(seeds)} seeds, {steps:,} steps in {seconds:.0f} s ({len(seeds) / seconds:.0f} seeds a second)")
    print(", ".join(f"{name} {count:,}" for name, count in sorted(happened.items())))
    print(f"broken: {len(failed)}")
    if keeps:
        found = {plant: _nth(plant, range(PLANT_SEEDS_MAX)) for plant in PLANTS}
        kept = {"seeds": [seeds.start, seeds.stop - 1], "steps": steps, "seconds": round(seconds), "jobs": jobs}
        kept |= {"happened": dict(sorted(happened.items())), "broken": len(failed), "planted": found}
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
    return 1 if failed else 0


def _nth(plant: str, seeds: range) -> int | None:
    """How many seeds it took to find a planted bug; None = it was not found."""
    result = find(plant, seeds)
    return None if result is None else result.seed - seeds.start + 1


def find(plant: str, seeds: range) -> Result | None:
    """The first seed that finds a planted bug."""
    return next((result for result in _results(seeds, plant) if result.broken), None)


def _results(seeds: range, plant: str) -> Iterator[Result]:
    for seed in seeds:
        yield run_seed(seed, plant)


def find_all(plants: Sequence[str], seeds: range) -> int:
    """Look for planted bugs; answers the exit code."""
    missed = 0
    for plant in plants:
        result = find(plant, seeds)
        if result is None:
            missed += 1
            print(f"{plant}: not found in {len(seeds)} seeds")
            continue
        print(
            f"{plant}: found by seed {result.seed}, the {result.seed - seeds.start + 1}th: {'; '.join(result.broken)}"
        )
        if len(plants) == 1:
            print("\n".join(result.trace[-TAIL:]))
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.interleavings", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="0-999", metavar="A-B")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plant", choices=[*PLANTS, "all"], help="a bug on purpose: its runs end when it is found")
    parser.add_argument("--trace", type=int, metavar="SEED", help="show one run step by step")
    parser.add_argument("--keep", action="store_true", help="write the figures that docs/faults.md shows")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    if asked.trace is not None:
        result = run_seed(asked.trace, asked.plant if asked.plant and asked.plant != "all" else "")
        print("\n".join(result.trace))
        print("; ".join(result.broken) or "nothing broken")
        return 1 if result.broken else 0
    if asked.plant:
        return find_all(list(PLANTS) if asked.plant == "all" else [asked.plant], seeds)
    return run_all(seeds, asked.jobs, keeps=asked.keep)


if __name__ == "__main__":
    sys.exit(main())
