"""run_loop: calls ticks, survives their failures, stops without cutting one."""

import asyncio
from types import SimpleNamespace

from onsale.server import loop


async def test_more_means_at_once_and_stop_ends():
    """A tick that says `more` is followed at once, whatever the interval; a set stop ends the loop."""
    stop, calls = asyncio.Event(), []

    async def tick():
        calls.append(1)
        if len(calls) == 3:
            stop.set()
        return SimpleNamespace(more=True)

    async with asyncio.timeout(30):
        await loop.run_loop("test", tick, 3_600_000, stop)

    assert 3 == len(calls)


async def test_failures_are_tried_again(monkeypatch):
    """An error neither ends the loop nor hides the next success."""
    monkeypatch.setattr(loop, "PAUSE_FIRST_MS", 0)
    stop, outcomes, seen = asyncio.Event(), [ValueError("away"), OSError("still"), "done"], []

    async def tick():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        stop.set()
        return outcome

    async with asyncio.timeout(30):
        await loop.run_loop("test", tick, 1, stop, observe=lambda name, took_s, result: seen.append((name, result)))

    assert [("test", "done")] == seen


async def test_a_tick_in_progress_is_finished():
    """Stopping waits for what has begun: a half-done tick would leave its work to chance."""
    stop, begun, release, finished = asyncio.Event(), asyncio.Event(), asyncio.Event(), []

    async def tick():
        begun.set()
        await release.wait()
        finished.append(1)

    task = asyncio.create_task(loop.run_loop("test", tick, 1, stop))
    await begun.wait()
    stop.set()
    release.set()
    await task

    assert [1] == finished


async def test_a_hanging_tick_fails_at_its_deadline():
    """A tick that never returns is cut and tried again."""
    stop, calls = asyncio.Event(), []

    async def tick():
        calls.append(1)
        if len(calls) == 2:
            stop.set()
            return
        await asyncio.Event().wait()

    async with asyncio.timeout(30):
        await loop.run_loop("test", tick, 1, stop, deadline_ms=1)

    assert 2 == len(calls)


def test_backoff_doubles_within_bounds():
    """From 50 ms to 5 s, with at most a quarter of jitter."""
    assert 37 <= loop.backoff_ms(1) <= 50
    assert 3_750 <= loop.backoff_ms(40) <= 5_000


async def test_nothing_but_its_own_end_ends_a_loop(monkeypatch):
    """An observer that fails, or something cancelled that the tick waited for, is a failure like any other."""
    monkeypatch.setattr(loop, "PAUSE_FIRST_MS", 0)
    stop, seen, failed = asyncio.Event(), [], []
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    ticks = [lambda: cancelled, lambda: asyncio.sleep(0, "bad"), lambda: asyncio.sleep(0, "good")]

    def observe(name, took_s, result):
        if result == "bad":
            raise KeyError(result)
        seen.append(result)
        stop.set()

    async with asyncio.timeout(30):
        await loop.run_loop("test", lambda: ticks.pop(0)(), 1, stop, observe=observe, failed=failed.append)

    assert (["good"], ["test", "test"]) == (seen, failed)


async def test_a_cancelled_loop_ends():
    """Cut at the end of its patience, a loop does not take that for a failure of its tick."""
    begun = asyncio.Event()

    async def tick():
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(loop.run_loop("test", tick, 1, asyncio.Event()))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task], timeout=5)

    assert task.cancelled()


async def test_a_loop_that_fails_for_ever_is_named(monkeypatch):
    """After some failures in a row, until a tick succeeds; what goes on all the time looks healthy to nobody."""
    monkeypatch.setattr(loop, "PAUSE_LAST_MS", 0)
    loops, broken, seen, passed = loop.Loops(), [True], [], asyncio.Event()

    async def tick():
        seen.append(loops.failing())
        if len(seen) > loop.FAILING_MIN:
            broken.clear()
        if len(seen) > loop.FAILING_MIN + 1:
            passed.set()
        if broken:
            raise ValueError

    loops.add("sick", tick, 1)
    async with asyncio.timeout(30), loops.running(drain_s=1.0):
        await passed.wait()

    assert [()] * loop.FAILING_MIN + [("sick",), ()] == seen[: loop.FAILING_MIN + 2]
