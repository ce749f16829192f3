"""Passwords: argon2id in one worker process of lowest priority, so that a flood of sign-ins never slows a sale.

Measured: hashing in two threads beside the loop took checkout's p99 from 1.6 to 46.9 ms under such a flood, one process
of lowest priority to 3.3 ms. The worker is spawned, never forked (a fork would keep the listening socket), knows no
setting and no secret of ours, ends when this process does, and is started again when it dies. At most `waiting_max`
callers wait for it, in a crowd none longer than `PATIENCE_S`; the next is told to come back.

An unknown account costs the same as a wrong password: a dummy hash with the same parameters is verified for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from onsale.auth.errors import StoreUnavailable, TooManyRequests
from onsale.auth.hasher import DUMMY_HASH, Answer, Question

# 64 waiting at 17 ms each is a second's wait on an idle machine; a longer queue would only hide that we are flooded.
WAITING_MAX = 64
# In a crowd nobody waits longer at a sign-in form; half a second is left of two for everything else.
PATIENCE_S = 1.5
# With hardly anybody before us the wait is for the machine alone: where its cores are all taken the worker gets some
# hundredths of one.
PATIENCE_ALONE_S = 10.0
_CROWD_MIN = 3
# A worker that said nothing for as long is taken to hang.
_ANSWER_WITHIN_S = 20.0
_RETRY_AFTER_S = 2
_LINE_BYTES_MAX = 64 * 1024

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Answer)


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether a password was right; `is_weak`: its hash should be made anew."""

    is_right: bool
    is_weak: bool = False


class Place:
    """A place in the queue of the worker; whoever has it waits from then on, whatever else is asked in between. Raises
    what PasswordHasher raises."""

    def __init__(self, ask: Callable[..., Awaitable[Answer]]) -> None:
        self._ask = ask
        self._since_s = asyncio.get_running_loop().time()

    async def hash(self, password: str) -> str:
        """The argon2id hash to keep."""
        return (await self._ask(self._since_s, "hash", password)).hash

    async def check(self, stored: str | None, password: str) -> Checked:
        """Whether this is the password, and whether the hash is of today's strength. For None (no such account, or one
        without a password) False, as slowly."""
        answer = await self._ask(self._since_s, "verify", password, stored or DUMMY_HASH)
        return Checked(answer.is_right and stored is not None, answer.is_weak)


class PasswordHasher:
    """Hashes and verifies. Raises TooManyRequests when too many wait or it would take too long, StoreUnavailable when
    the worker keeps dying."""

    def __init__(self, waiting_max: int = WAITING_MAX, patience_s: float = PATIENCE_S) -> None:
        self._waiting_max = waiting_max
        self._patience_s = patience_s
        # When the worker was asked what it has not answered; None: it owes nothing.
        self._owing_since_s: float | None = None
        # What one answer took lately: whoever would wait too long is told at once, not after having waited.
        self._usual_s = 0.0
        # Whoever has a place in the queue, asking already or not yet.
        self._waiting = 0
        self._turn = asyncio.Lock()
        self._number = 0
        self._worker: asyncio.subprocess.Process | None = None

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id, if it runs."""
        return self._worker.pid if self._worker is not None and self._worker.returncode is None else None

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """A place in the queue, for the block. Whoever is going to ask a store first takes it before that, so that a
        flood is refused at the price of a comparison. TooManyRequests, at once, when the queue is too long."""
        if self._waiting >= self._waiting_max or self._waiting * self._usual_s > self._patience_s:
            raise TooManyRequests(retry_after_s=_RETRY_AFTER_S)
        self._waiting += 1
        try:
            yield Place(self._ask)
        finally:
            self._waiting -= 1

    async def hash(self, password: str) -> str:
        """The argon2id hash to keep."""
        with self.place() as place:
            return await place.hash(password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether this is the password. For None (no such account, or one without a password) False, as slowly."""
        return (await self.check(stored, password)).is_right

    async def check(self, stored: str | None, password: str) -> Checked:
        """The same, and whether the hash is of today's strength."""
        with self.place() as place:
            return await place.check(stored, password)

    async def close(self) -> None:
        """End the worker."""
        worker, self._worker, self._owing_since_s = self._worker, None, None
        if worker is not None:
            await _end(worker)

    async def _ask(self, since_s: float, verb: str, password: str, stored: str = "") -> Answer:
        patience_s = self._patience_s if self._waiting >= _CROWD_MIN else PATIENCE_ALONE_S
        try:
            async with asyncio.timeout_at(since_s + patience_s), self._turn:
                began_s = time.monotonic()
                answer = await self._ask_again(Question(self._next_number(), verb, password, stored))
                self._usual_s += (time.monotonic() - began_s - self._usual_s) / 4
                return answer
        except TimeoutError:
            raise TooManyRequests(retry_after_s=_RETRY_AFTER_S) from None

    async def _ask_again(self, question: Question) -> Answer:
        """Ask; where the worker died, once more of a new one. Hashing twice changes nothing."""
        if self._owing_since_s is not None and time.monotonic() - self._owing_since_s > _ANSWER_WITHIN_S:
            await self.close()
        for _ in range(2):
            try:
                return await self._exchange(question)
            except (OSError, EOFError, msgspec.DecodeError):
                await self.close()
        raise StoreUnavailable

    async def _exchange(self, question: Question) -> Answer:
        worker = await self._running()
        if worker.stdin is None or worker.stdout is None:
            raise EOFError
        if self._owing_since_s is None:
            self._owing_since_s = time.monotonic()
        worker.stdin.write(_encoder.encode(question) + b"\n")
        await worker.stdin.drain()
        while True:
            # Lines, because a cancelled `readuntil` leaves its line whole: the answer to a caller that went away is
            # then skipped here by its number.
            answer = _decoder.decode(await worker.stdout.readuntil(b"\n"))
            if answer.number == question.number:
                self._owing_since_s = None
                return answer

    async def _running(self) -> asyncio.subprocess.Process:
        if self._worker is None or self._worker.returncode is not None:
            self._worker = await _spawn()
        return self._worker

    def _next_number(self) -> int:
        self._number += 1
        return self._number


async def _spawn() -> asyncio.subprocess.Process:
    options: dict[str, Any] = {"limit": _LINE_BYTES_MAX, "start_new_session": True}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "onsale.auth.hasher",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # No secret of ours reaches it; it needs nothing but its own imports.
        env={"PATH": os.defpath},
        **options,
    )


async def _end(worker: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.kill()
    await worker.wait()
