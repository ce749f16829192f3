"""Passwords: argon2id in one worker process of lowest priority, so that a flood of sign-ins never slows a sale.

Measured: hashing in two threads beside the loop took checkout's p99 from 1.6 to 46.9 ms under such a flood, one process
of lowest priority to 3.3 ms. The worker is spawned, never forked (a fork would keep the listening socket), knows no
setting and no secret of ours, ends when this process does, and is started again when it dies. At most `waiting_max`
callers wait for it; the next is told to come back.

An unknown account costs the same as a wrong password: a dummy hash with the same parameters is verified for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

import msgspec

from onsale.auth.errors import StoreUnavailable, TooManyRequests
from onsale.auth.hasher import DUMMY_HASH, Answer, Question

# 64 waiting at 17 ms each is a second's wait on an idle machine; a longer queue would only hide that we are flooded.
WAITING_MAX = 64
# On a machine whose cores are all taken the worker gets some hundredths of one.
_ANSWER_WITHIN_S = 20.0
_RETRY_AFTER_S = 2
_LINE_BYTES_MAX = 64 * 1024

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Answer)


class PasswordHasher:
    """Hashes and verifies. Raises TooManyRequests when too many wait, StoreUnavailable when the worker keeps dying."""

    def __init__(self, waiting_max: int = WAITING_MAX) -> None:
        self._waiting_max = waiting_max
        self._waiting = 0
        self._turn = asyncio.Lock()
        self._number = 0
        self._worker: asyncio.subprocess.Process | None = None

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id, if it runs."""
        return self._worker.pid if self._worker is not None and self._worker.returncode is None else None

    async def hash(self, password: str) -> str:
        """The argon2id hash to keep."""
        return (await self._ask("hash", password)).hash

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether this is the password. For None (no such account, or one without a password) False, as slowly."""
        answer = await self._ask("verify", password, stored or DUMMY_HASH)
        return answer.is_right and stored is not None

    async def close(self) -> None:
        """End the worker."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await _end(worker)

    async def _ask(self, verb: str, password: str, stored: str = "") -> Answer:
        if self._waiting >= self._waiting_max:
            raise TooManyRequests(retry_after_s=_RETRY_AFTER_S)
        self._waiting += 1
        try:
            async with self._turn:
                return await self._ask_again(Question(self._next_number(), verb, password, stored))
        finally:
            self._waiting -= 1

    async def _ask_again(self, question: Question) -> Answer:
        """Ask; where the worker died or hangs, once more of a new one. Hashing twice changes nothing."""
        for _ in range(2):
            try:
                async with asyncio.timeout(_ANSWER_WITHIN_S):
                    return await self._exchange(question)
            except (OSError, EOFError, TimeoutError, msgspec.DecodeError):
                await self.close()
        raise StoreUnavailable

    async def _exchange(self, question: Question) -> Answer:
        worker = await self._running()
        if worker.stdin is None or worker.stdout is None:
            raise EOFError
        worker.stdin.write(_encoder.encode(question) + b"\n")
        await worker.stdin.drain()
        while True:
            # Lines, because a cancelled `readuntil` leaves its line whole: the answer to a caller that went away is
            # then skipped here by its number.
            answer = _decoder.decode(await worker.stdout.readuntil(b"\n"))
            if answer.number == question.number:
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
