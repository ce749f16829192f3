"""A flusher that is killed at the named points of a batch, and begun again, as often as one likes.

    python -m bench.faults.dying_flusher BOOK POINT...

Each life is a forked process (its program is loaded already, so a life costs milliseconds) that kills itself with
SIGKILL when it passes its point: the next of POINT..., after one to three batches. BOOK gets one line for each death.
The switch that lets anybody in at these points is refused outside tests: this loads pytest, as a test would.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest  # noqa: F401 - what the switch looks for
import uvloop

from onsale.server.config import environment, load_settings
from onsale.server.embedded import die_with_parent
from onsale.server.processes import run_flusher

BATCHES_MAX = 3


def live(book: Path, point: str, batches: int) -> None:
    """One life, until its point."""
    left = batches

    async def die(passed: str) -> None:
        nonlocal left
        if passed != point:
            return
        left -= 1
        if left <= 0:
            with book.open("a") as lines:
                lines.write(f"{point}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    uvloop.run(run_flusher(load_settings(environment()), die))


def main(book: Path, points: Sequence[str]) -> None:
    chance, lives = random.Random(os.getpid()), 0
    while True:
        point, batches = points[lives % len(points)], chance.randint(1, BATCHES_MAX)
        prepare = die_with_parent(signal.SIGKILL)
        if (child := os.fork()) == 0:
            prepare()
            live(book, point, batches)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return
        lives += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
