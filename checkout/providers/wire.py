"""HTTP to one provider: deadlines, bounded connections, and an honest word on how a call ended.

1 s to connect, 5 s to answer. How many calls run at once begins small and grows with each answer, as TCP does: a crowd
that comes at once would otherwise open hundreds of connections in one instant and find neither the provider nor this
process in time to greet them. A call that ended late because this process was busy says nothing about
the provider (`is_ours`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from onsale.checkout.providers.connections import KEEPALIVE_S, Connections, NotAnswered, NotSent

T = TypeVar("T")

CONNECT_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 5.0
# A provider that answers in 0.3 s is asked 800 times a second by one process.
CONNECTIONS_MAX = 256
CONNECTIONS_FIRST = 32
# How late a beat must come to be called late; a busy loop at its usual load stays under it.
BEAT_S, LATE_S = 0.05, 0.2


class NotReached(Exception):
    """The provider was not reached: nothing was sent."""

    def __init__(self, *, is_ours: bool = False) -> None:
        super().__init__()
        # Whether this process was the cause: it had no connection to spare, or no time.
        self.is_ours = is_ours


class NoReply(Exception):
    """The provider was asked and did not answer: what was asked may have been done."""

    def __init__(self, *, is_ours: bool = False) -> None:
        super().__init__()
        self.is_ours = is_ours


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer below 500, whatever it says."""

    status: int
    body: bytes

    def read(self, decoder: msgspec.json.Decoder[T]) -> T:
        """Raises NoReply for what cannot be read: it says nothing."""
        try:
            return decoder.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NoReply from error


@dataclass(frozen=True, slots=True)
class WirePolicy:
    """How long a call may take, and how many may run at once."""

    connect_timeout_s: float = CONNECT_TIMEOUT_S
    read_timeout_s: float = READ_TIMEOUT_S
    connections_max: int = CONNECTIONS_MAX


class Wire:
    """One a provider and process."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, policy: WirePolicy | None = None) -> None:
        self._policy = policy or WirePolicy()
        self._connections = Connections(
            url,
            headers or {},
            connect_timeout_s=self._policy.connect_timeout_s,
            read_timeout_s=self._policy.read_timeout_s,
        )
        self._slots = _Slots(self._policy.connections_max)
        self._beat = _Beat()

    async def get(self, path: str) -> Reply:
        """Ask; changes nothing."""
        return await self._send("GET", path, None, {})

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Send. Raises NotReached and NoReply; an answer of 500 or more is none."""
        return await self._send("POST", path, body, headers or {})

    async def close(self) -> None:
        """Close every connection."""
        self._beat.stop()
        await self._connections.close()

    async def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        began_s = self._beat.start()
        try:
            await self._slots.take(self._policy.connect_timeout_s)
            is_answered = False
            try:
                reply = await self._ask(method, path, body, headers, began_s)
                is_answered = True
            finally:
                self._slots.give_back(is_answered=is_answered)
        finally:
            self._beat.end()
        if reply.status >= 500:
            raise NoReply
        return reply

    async def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], began_s: float
    ) -> Reply:
        try:
            return Reply(*await self._connections.ask(method, path, headers, body))
        except NotSent as failure:
            raise NotReached(is_ours=failure.is_late and self._beat.was_late(began_s)) from failure
        except NotAnswered as failure:
            raise NoReply(is_ours=failure.is_late and self._beat.was_late(began_s)) from failure


class _Slots:
    """How many calls may run at once: few after a silence, one more with each answer, at most `count_max`."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._count = min(CONNECTIONS_FIRST, count_max)
        self._semaphore = asyncio.Semaphore(self._count)
        self._running = 0
        self._used_s = 0.0

    async def take(self, within_s: float) -> None:
        """Raises NotReached where none is free in time."""
        now_s = asyncio.get_running_loop().time()
        if self._running == 0 and now_s - self._used_s > KEEPALIVE_S:
            # Every connection has been closed meanwhile.
            self._count = min(CONNECTIONS_FIRST, self._count_max)
            self._semaphore = asyncio.Semaphore(self._count)
        self._used_s = now_s
        self._running += 1
        try:
            if self._semaphore.locked():
                async with asyncio.timeout(within_s):
                    await self._semaphore.acquire()
            else:
                await self._semaphore.acquire()
        except TimeoutError:
            self._running -= 1
            raise NotReached(is_ours=True) from None
        except BaseException:
            self._running -= 1
            raise

    def give_back(self, *, is_answered: bool) -> None:
        self._running -= 1
        self._semaphore.release()
        if is_answered and self._count < self._count_max:
            self._count += 1
            self._semaphore.release()


class _Beat:
    """Whether this process's own loop was late, felt by a timer that beats while a call is under way."""

    def __init__(self) -> None:
        self._calls = 0
        self._timer: asyncio.TimerHandle | None = None
        self._late_s = 0.0

    def start(self) -> float:
        """Feel from now on; answers the moment."""
        loop = asyncio.get_running_loop()
        self._calls += 1
        if self._timer is None:
            self._next(loop)
        return loop.time()

    def end(self) -> None:
        self._calls -= 1

    def was_late(self, since_s: float) -> bool:
        """Whether the loop came late at any time since then."""
        return self._late_s >= since_s

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(BEAT_S, self._feel, loop, loop.time() + BEAT_S)

    def _feel(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        now_s = loop.time()
        if now_s - due_s > LATE_S:
            self._late_s = now_s
        self._timer = None
        if self._calls:
            self._next(loop)
