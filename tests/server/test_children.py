"""One child kept alive: real processes, real deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from onsale.server import embedded
from onsale.server.children import Child, Start
from onsale.server.errors import ChildFailed
from onsale.server.running import ChildState

PATIENCE_S = 20.0
STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
)


class Nursery:
    """Children of one test, and what was said of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []
        self._changed = asyncio.Event()
        self.said: list[str] = []

    def child(self, code: str, *, is_ready: Callable[[int], bool] = lambda _pid: True) -> Child:
        start = Start(
            command=(sys.executable, "-P", "-c", code),
            directory=self._folder,
            environment={"PATH": os.defpath},
            before_exec=embedded.die_with_parent(signal.SIGTERM),
            is_ready=is_ready,
        )
        log = self._folder / "child.log"
        child = Child("child", lambda: start, log=log, say=self.said.append, changed=self._changed.set)
        self._children.append(child)
        child.start()
        return child

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a change after which this holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await self._changed.wait()
                self._changed.clear()

    async def close(self) -> None:
        for child in self._children:
            await child.stop(0)


@pytest.fixture
async def nursery(tmp_path: Path) -> AsyncIterator[Nursery]:
    one = Nursery(tmp_path)
    yield one
    await one.close()


def is_(child: Child, state: ChildState, restarts: int) -> Callable[[], bool]:
    return lambda: (child.figures.state, child.figures.restarts) == (state, restarts)


async def test_a_killed_child_is_started_again(nursery: Nursery) -> None:
    """kill -9 costs a restart, which is counted and said; the new one is another process."""
    child = nursery.child("import time; time.sleep(99)")
    await nursery.until(is_(child, "running", 0))
    first = child.figures.pid
    assert first is not None

    os.kill(first, signal.SIGKILL)
    await nursery.until(is_(child, "running", 1))

    assert child.figures.pid not in (None, first)
    assert nursery.said == ["child was killed by SIGKILL; starting it again in 0.2 s (restart 1)"]


async def test_the_pause_doubles(nursery: Nursery) -> None:
    """A child that cannot live is tried again ever more slowly, and its last words are said."""
    child = nursery.child("import sys; sys.exit('no such luck')")

    await nursery.until(lambda: child.figures.restarts == 3)

    assert [said.rpartition(" in ")[2].partition(" s")[0] for said in nursery.said] == ["0.2", "0.4", "0.8"]
    assert "no such luck" in nursery.said[0]


async def test_a_stopped_child_stays_stopped(nursery: Nursery) -> None:
    """A child that is asked to stop is not started again, and nothing is said of its end."""
    child = nursery.child("import time; time.sleep(99)")
    await nursery.until(is_(child, "running", 0))

    await child.stop(PATIENCE_S)

    assert (child.figures.state, child.figures.pid, nursery.said) == ("stopped", None, [])


async def test_stopping_is_bounded(nursery: Nursery, tmp_path: Path) -> None:
    """A child that does not listen is killed when its patience is over."""
    log = tmp_path / "child.log"
    child = nursery.child(STUBBORN, is_ready=lambda _pid: "up" in log.read_text())
    await nursery.until(is_(child, "running", 0))

    await child.stop(0.05)

    assert (child.figures.state, child.figures.pid) == ("stopped", None)
    assert nursery.said == ["child did not stop within 0.05 s: killed"]


async def test_what_a_child_started_dies_with_it(nursery: Nursery, tmp_path: Path) -> None:
    """The process group of a dead child is cleared: no orphan keeps a port or a file."""
    log = tmp_path / "child.log"
    code = "import subprocess as s; print(s.Popen(['sleep', '99']).pid, flush=True); import time; time.sleep(99)"
    child = nursery.child(code, is_ready=lambda _pid: log.read_text().endswith("\n"))
    await nursery.until(is_(child, "running", 0))
    grandchild = int(log.read_text())
    assert child.figures.pid is not None

    os.kill(child.figures.pid, signal.SIGKILL)
    await nursery.until(lambda: child.figures.restarts == 1)

    # The kernel ends it in its own time.
    async with asyncio.timeout(PATIENCE_S):
        while is_alive(grandchild):
            await asyncio.sleep(0.005)


async def test_a_store_that_never_was_ready_is_a_failure(nursery: Nursery) -> None:
    """Before its first readiness a death is final: whoever starts the system reads why."""
    child = nursery.child("import sys; sys.exit('disk is full')", is_ready=lambda _pid: False)

    with pytest.raises(ChildFailed, match="disk is full"):
        await child.ready(PATIENCE_S)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
