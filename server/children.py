"""One child process kept alive: started, watched, started again when it dies, stopped in bounded time.

The pause before a restart is 0.2 s, doubling to 5 s, so that a child that cannot live does not eat the machine; one
that lived 3 s starts afresh at 0.2 s. A child leads a process group of its own: the terminal's Ctrl-C reaches the
supervisor alone, and what a child started dies with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from onsale.server.errors import ChildFailed
from onsale.server.running import ChildState, ProcessFigures

PAUSE_FIRST_S = 0.2
PAUSE_LAST_S = 5.0
STEADY_S = 3.0
READY_POLL_S = 0.01
# 64 MiB: a log of this size is put aside (one older one is kept) when its process is started.
LOG_BYTES_MAX = 64 << 20

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Start:
    """How to start a child once. `is_ready(pid)` is asked until it says so."""

    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str]
    before_exec: Callable[[], None]
    stop_signal: signal.Signals = signal.SIGTERM
    is_ready: Callable[[int], bool] = lambda _pid: True


class Child:
    """One process by name. `make` is called before each start, so that a store can clear what its last death left."""

    def __init__(
        self, name: str, make: Callable[[], Start], *, log: Path, say: Say, changed: Callable[[], None]
    ) -> None:
        self.name = name
        self._make = make
        self._log = log
        self._say = say
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._stop_signal = signal.SIGTERM
        self._state: ChildState = "stopped"
        self._restarts = 0
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def figures(self) -> ProcessFigures:
        pid = self._process.pid if self._process and self._process.returncode is None else None
        return ProcessFigures(name=self.name, pid=pid, state=self._state, restarts=self._restarts)

    def start(self) -> None:
        """Begin to keep it alive."""
        self._task = asyncio.create_task(self._keep_alive(), name=self.name)

    async def ready(self, within_s: float) -> None:
        """Wait until it first was ready. Raises ChildFailed when it died before, or took longer."""
        assert self._task is not None
        waiting = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait((waiting, self._task), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                await self._task
            if not self._ready.is_set():
                raise ChildFailed(f"{self.name} did not start: {last_line(self._log)}")
        finally:
            waiting.cancel()

    async def stop(self, patience_s: float) -> None:
        """Ask it to end; after `patience_s` make it."""
        self._stopping.set()
        if self._task is None:
            return
        self._set(state="stopping")
        self._signal(self._stop_signal)
        _, late = await asyncio.wait((self._task,), timeout=patience_s)
        if late:
            self._say(f"{self.name} did not stop within {patience_s:g} s: killed")
            self.kill()
            await asyncio.wait((self._task,))
        self._set(state="stopped")

    def kill(self) -> None:
        """End it and what it started, now."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _keep_alive(self) -> None:
        pause_s = PAUSE_FIRST_S
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started_at = clock()
            why = await self._live()
            if self._stopping.is_set():
                return
            if not self._ready.is_set():
                raise ChildFailed(f"{self.name} {why}")
            pause_s = PAUSE_FIRST_S if clock() - started_at >= STEADY_S else pause_s
            self._restarts += 1
            self._set(state="restarting")
            self._say(f"{self.name} {why}; starting it again in {pause_s:g} s (restart {self._restarts})")
            await self._pause(pause_s)
            pause_s = min(PAUSE_LAST_S, pause_s * 2)

    async def _live(self) -> str:
        """One life; answers how it ended."""
        try:
            start = await asyncio.to_thread(self._make)
            await self._spawn(start)
        except OSError as error:
            return f"could not be started ({error})"
        assert self._process is not None
        watching = asyncio.create_task(self._watch_ready(start, self._process))
        # Asked to stop between the last look and the birth: the signal went nowhere.
        if self._stopping.is_set():
            self._signal(start.stop_signal)
        code = await self._process.wait()
        watching.cancel()
        self.kill()
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with code {code}" + (f" ({last_line(self._log)})" if code else "")

    async def _spawn(self, start: Start) -> None:
        self._stop_signal = start.stop_signal
        put_aside(self._log)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *start.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=start.directory,
                env=dict(start.environment),
                start_new_session=True,
                preexec_fn=start.before_exec,
            )
        self._set(state="starting")

    async def _watch_ready(self, start: Start, process: asyncio.subprocess.Process) -> None:
        # Nobody tells us: a store is asked until it answers.
        while not start.is_ready(process.pid):  # noqa: ASYNC110
            await asyncio.sleep(READY_POLL_S)
        self._ready.set()
        self._set(state="running")

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _signal(self, kind: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(kind)

    def _set(self, *, state: ChildState) -> None:
        # While stopping, a late "running" of the last start changes nothing.
        if self._stopping.is_set() and state not in ("stopping", "stopped"):
            return
        self._state = state
        self._changed()


def last_line(log: Path) -> str:
    """The last thing a child said, for the message about its end."""
    try:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-50:] if line.strip()]
    except OSError:
        lines = []
    return lines[-1].strip()[:500] if lines else f"it said nothing (see {log})"


def put_aside(log: Path) -> None:
    """Keep logs bounded: a large one becomes `.1`."""
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(f"{log.name}.1"))
