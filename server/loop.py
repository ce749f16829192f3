"""The only loop that runs for ever. All else is a `tick()` that does a bounded piece of work and says what it did.

A tick that fails is logged and tried again with a growing pause: a store that is away for ten minutes must neither end
the process nor be hammered by it. A tick that says `more` is followed by the next at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

log = structlog.get_logger()

# 0.05 s doubling to 5 s: the first failure is usually a connection that was just replaced.
PAUSE_FIRST_MS = 50
PAUSE_LAST_MS = 5_000

Tick = Callable[[], Awaitable[Any]]
Observe = Callable[[str, float, Any], None]
Failed = Callable[[str], None]

# In a row; about a second and a half. Fewer are a connection that was replaced, or a store that restarted.
FAILING_MIN = 5

# A tick that takes longer hangs: a loop that hangs for ever looks healthy and does nothing.
DEADLINE_MS = 60_000


async def run_loop(
    name: str,
    tick: Tick,
    interval_ms: int,
    stop: asyncio.Event,
    *,
    observe: Observe | None = None,
    failed: Failed | None = None,
    deadline_ms: int = DEADLINE_MS,
) -> None:
    """Call `tick` every `interval_ms` until `stop` is set; the tick in progress is finished, never cut.

    `observe(name, seconds, result)` sees each successful tick, `failed(name)` hears of the others (metrics). A tick
    past `deadline_ms` fails as TimeoutError. Whatever fails, the observer too, the loop goes on: only its own
    cancellation ends it.
    """
    failures = 0
    while not stop.is_set():
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                result = await tick()
            if observe is not None:
                observe(name, asyncio.get_running_loop().time() - started, result)
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled():
                raise
            failures += 1
            pause_ms = backoff_ms(failures)
            _log_failure(name, error, failures, pause_ms)
            if failed is not None:
                failed(name)
            await pause(stop, pause_ms)
            continue
        if failures:
            log.info("loop.recovered", loop=name, failures=failures)
            failures = 0
        took_ms = (asyncio.get_running_loop().time() - started) * 1000
        # With `more` the loop still goes round once: other work of the process must not starve.
        await pause(stop, 0 if getattr(result, "more", False) else max(0.0, interval_ms - took_ms))


def _is_cancelled() -> bool:
    """Whether it is this task that was cancelled, and not something that its tick waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def backoff_ms(failures: int) -> float:
    """The pause after the nth failure in a row: doubling, bounded, with jitter so that many do not march in step."""
    longest_ms = min(PAUSE_LAST_MS, PAUSE_FIRST_MS << min(failures - 1, 10))
    return longest_ms * random.uniform(0.75, 1.0)


async def pause(stop: asyncio.Event, wait_ms: float) -> None:
    """Wait, but no longer than until `stop`."""
    if wait_ms <= 0:
        await asyncio.sleep(0)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_ms / 1000):
            await stop.wait()


def _log_failure(name: str, error: BaseException, failures: int, pause_ms: float) -> None:
    # The stack only the first time and then at each doubling: an outage of minutes must not fill the disk.
    is_worth_a_stack = failures & (failures - 1) == 0
    log.error(
        "loop.failed",
        loop=name,
        error=type(error).__name__,
        detail=str(error)[:300],
        failures=failures,
        pause_ms=round(pause_ms),
        exc_info=error if is_worth_a_stack else None,
    )


class Loops:
    """The loops of a process: named first, then run together and drained together."""

    def __init__(self, observe: Observe | None = None, failed: Failed | None = None) -> None:
        self.stop = asyncio.Event()
        self._observe = observe
        self._failed = failed
        self._named: list[tuple[str, Tick, int]] = []
        self._failures: dict[str, int] = {}

    def add(self, name: str, tick: Tick, interval_ms: int) -> None:
        """A tick to be called every `interval_ms` once the loops run."""
        self._named.append((name, tick, interval_ms))

    def failing(self) -> tuple[str, ...]:
        """Loops that do nothing at present because each of their ticks fails."""
        return tuple(name for name, failures in self._failures.items() if failures >= FAILING_MIN)

    @asynccontextmanager
    async def running(self, drain_s: float) -> AsyncIterator[None]:
        """Every loop, for as long as the block lasts; then ticks in progress have `drain_s` to finish."""
        tasks = [
            asyncio.create_task(
                run_loop(name, tick, interval_ms, self.stop, observe=self._note_success, failed=self._note_failure),
                name=name,
            )
            for name, tick, interval_ms in self._named
        ]
        try:
            yield
        finally:
            self.stop.set()
            await _drain(tasks, drain_s)

    def _note_success(self, name: str, took_s: float, result: Any) -> None:
        if self._observe is not None:
            self._observe(name, took_s, result)
        self._failures.pop(name, None)

    def _note_failure(self, name: str) -> None:
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failed is not None:
            self._failed(name)


async def _drain(tasks: Sequence[asyncio.Task[None]], drain_s: float) -> None:
    _, late = await asyncio.wait(tasks, timeout=drain_s) if tasks else (set(), set())
    for task in late:
        log.error("loop.cut", loop=task.get_name())
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
