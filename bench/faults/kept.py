"""Processes of a trial, kept alive: whoever kills one finds it started again, unless it was told to stay away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from onsale.server import embedded
from onsale.server.embedded import Launch

# Shorter than a supervisor's: a trial is about the deaths, not about the pauses between them.
PAUSE_S = 0.1
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 40.0


class Kept:
    """One process by name, started again whenever it ends. `deaths` counts its ends that nobody asked for."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str],
        directory: Path | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.command, self.environ, self.directory = list(command), dict(environ), directory
        self.deaths = 0
        self._log, self._before_exec = log, before_exec
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._may_run = asyncio.Event()
        self._is_up = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The living process, or None."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def up(self) -> None:
        """Start it, or let it be started again."""
        self._may_run.set()
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=self.name)
        await self._is_up.wait()

    async def down(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, and keep it away until `up`."""
        self._may_run.clear()
        self.signal(how)
        while self.pid is not None:
            await asyncio.sleep(0.01)

    def signal(self, how: signal.Signals) -> bool:
        """Send it and all it started a signal; False when it does not live just now."""
        if (pid := self.pid) is None:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, how)
            return True
        return False

    async def stop(self) -> None:
        """The end of the trial."""
        self._may_run.clear()
        self.signal(signal.SIGCONT)
        self.signal(self._stop_signal())
        if self._task is not None and self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_WITHIN_S)
            self.signal(signal.SIGKILL)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGTERM

    def said(self, words: str) -> int:
        """How often its log has these words."""
        return self._log.read_text(errors="replace").count(words)

    def prepare(self) -> None:
        """What must be so before each start."""

    async def _keep(self) -> None:
        while True:
            await self._may_run.wait()
            self.prepare()
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self.command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=self.environ,
                    cwd=self.directory, start_new_session=True,
                    preexec_fn=self._before_exec or embedded.die_with_parent(signal.SIGKILL),
                )  # fmt: skip
            self._is_up.set()
            await self._process.wait()
            # What it started does not outlive it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._is_up.clear()
            self.deaths += self._may_run.is_set()
            await asyncio.sleep(PAUSE_S)


class Store(Kept):
    """A Redis or Postgres as `onsale up` would start it."""

    def __init__(self, launch: Launch, log: Path, environ: Mapping[str, str], *more: str) -> None:
        super().__init__(
            launch.name,
            [*launch.command, *more],
            log=log,
            environ={**embedded.PLAIN_ENVIRONMENT, **environ},
            directory=launch.directory,
            before_exec=launch.prepare(),
        )
        self.launch = launch

    @property
    def data(self) -> Path:
        return self.launch.directory

    @property
    def url(self) -> str:
        return self.launch.url

    async def ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until it answers."""
        async with asyncio.timeout(within_s):
            while (pid := self.pid) is None or not await asyncio.to_thread(self.launch.is_ready, pid):
                await asyncio.sleep(0.02)

    def prepare(self) -> None:
        # The number in a dead postmaster's file may by now be a stranger's.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def signal(self, how: signal.Signals) -> bool:
        # Each backend of a Postgres leads a group of its own, and would go on for a moment without its parent.
        if how in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT):
            self.signal_children(how)
        return super().signal(how)

    def signal_children(self, how: signal.Signals, but: int = 0) -> None:
        """Send it to every process that this server has started."""
        for child in self.children():
            if child != but:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, how)

    def children(self) -> list[int]:
        """What this server has started and not yet buried."""
        try:
            return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []

    def _stop_signal(self) -> signal.Signals:
        return self.launch.stop_signal
