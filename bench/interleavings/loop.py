"""An event loop in which chance, not the machine, decides what runs next, and time passes only when nothing can run.

Every callback belongs to the simulated process in whose context it was made. The callbacks of a process that was killed
never run again, not even to clean up, as with SIGKILL; those of one that is stopped wait until it goes on.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from onsale.checkout.record.watermark import Waiter

# 2026-01-01: stream ids and order ids begin with milliseconds of six bytes.
EPOCH_NS = 1_767_225_600_000_000_000


@dataclass(eq=False)
class Process:
    """One simulated process. Its wall clock may be wrong by `skew_ms`; its monotonic clock never is."""

    name: str
    skew_ms: int = 0
    is_dead: bool = False
    is_stopped: bool = False
    waiting: list[asyncio.Handle] = field(default_factory=list)


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)


class Stuck(Exception):
    """Nothing can run and nothing waits for any time: a task waits for what will never come."""


class SeededLoop(asyncio.BaseEventLoop):
    """Runs one ready callback at a time, drawn from the seed; the clock jumps to the next timer when none is ready."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._now_s = 0.0
        # Timers by (when, number): two of one moment run in the order drawn, whatever their handles are.
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self.steps = 0
        # Kept until the run is over: what a killed process left must not be cleaned up by the garbage collector.
        self._tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._adopt)
        self.set_exception_handler(_keep_silent)

    def time(self) -> float:
        return self._now_s

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def kill(self, process: Process) -> None:
        """Nothing of it runs from now on."""
        process.is_dead = True
        process.waiting.clear()

    def stop_process(self, process: Process) -> None:
        """It stands still, as after SIGSTOP."""
        process.is_stopped = True

    def continue_process(self, process: Process) -> None:
        """It goes on where it was."""
        process.is_stopped = False
        self._ready.extend(process.waiting)
        process.waiting.clear()

    def end(self) -> None:
        """Throw away what is left, in the order in which it began."""
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            if not task.done():
                # Whatever it would still do on its way out fails: there is no loop to do it.
                with suppress(BaseException):
                    task.get_coro().close()
        self._tasks.clear()
        self._ready.clear()
        self.close()

    def _adopt(self, loop: asyncio.AbstractEventLoop, coro: Any, **named: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **named)
        self._tasks.append(task)
        if len(self._tasks) > 500:
            self._tasks = [one for one in self._tasks if not one.done()]
        return task

    def _run_once(self) -> None:
        ready = self._ready
        if not ready:
            self._pass_time()
        at = int(self._rng.random() * len(ready))
        ready[0], ready[at] = ready[at], ready[0]
        handle = ready.popleft()
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)
        if process is not None:
            if process.is_dead:
                return
            if process.is_stopped:
                process.waiting.append(handle)
                return
        self.steps += 1
        handle._run()

    def _pass_time(self) -> None:
        timers, ready = self._timers, self._ready
        while timers and (not ready or timers[0][0] <= self._now_s):
            when, _, handle = heapq.heappop(timers)
            if not handle._cancelled:
                self._now_s = max(self._now_s, when)
                ready.append(handle)
        if not ready:
            raise Stuck

    # BaseEventLoop asks these of its selector; there is none.

    def _process_events(self, event_list: list[Any]) -> None:
        """No file descriptors here."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """They are left out when their time comes."""


def _keep_silent(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a killed process left unfinished is no news; what fails is seen by whoever awaits it."""


@contextmanager
def simulated(loop: SeededLoop, rng: random.Random) -> Iterator[None]:
    """Time and chance are the simulation's for as long as the block runs, also for the code that is tried."""

    def monotonic() -> float:
        return loop.time()

    def time_ns() -> int:
        process = PROCESS.get()
        skew_ns = 0 if process is None else process.skew_ms * 1_000_000
        # Two readings in one step differ, as they would: what is made one after another sorts so.
        return EPOCH_NS + int(loop.time() * 1e9) + skew_ns + next(ticks) % 1_000 * 16

    ticks = itertools.count()
    replaced = [
        (time, "monotonic", monotonic),
        (time, "time_ns", time_ns),
        (time, "time", lambda: time_ns() / 1e9),
        (os, "urandom", rng.randbytes),
        # A set of waiters is gone through in the order of their addresses; here in that of their events.
        (Waiter, "__hash__", lambda waiter: hash(waiter.id)),
    ]
    originals = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    chance = random.getstate()
    random.seed(rng.random())
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in originals:
            setattr(module, name, value)
        random.setstate(chance)
