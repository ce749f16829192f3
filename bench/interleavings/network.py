"""The wires between processes and stores. A request travels, is served where it arrives, and its answer travels back;
either may be lost or late, and a request that has left is served even if its sender is dead by then.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from bench.interleavings.loop import SeededLoop


@dataclass(frozen=True)
class Weather:
    """How bad the wires are: shares of requests and answers that are lost, and of those that are slow."""

    lost_requests: float = 0.0
    lost_answers: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.5
    # A client notices that nothing comes after this.
    silence_s: float = 2.0


class Lost(Exception):
    """No answer came: the request may have been served or not."""


# What servers do happens in no process.
NOBODY = Context()


class Network:
    """One wire for all; `weather` is replaced as a run goes on."""

    def __init__(self, loop: SeededLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self.weather = Weather()

    def delay_s(self) -> float:
        """How long one way takes: mostly below a millisecond, now and then much longer."""
        chance = self._rng.random()
        if chance < self.weather.slow:
            return self._rng.random() * self.weather.slow_s
        return 0.0001 + chance * chance * 0.001

    async def call(self, serve: Callable[[], Any]) -> Any:
        """Have `serve` run at the other end; answers what it answers, raises what it raises. Raises Lost."""
        answer = self._loop.create_future()
        self.send(serve, answer)
        return await answer

    def send(self, serve: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        """The same; `serve` may answer a future, which is waited for at its end."""
        if self._rng.random() < self.weather.lost_requests:
            self._later(self._silence_s(), _fail, answer, Lost())
            return
        self._later(self.delay_s(), self._arrive, serve, answer)

    def _arrive(self, serve: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        try:
            found = serve()
        except Exception as error:
            self._answer(answer, None, error)
            return
        if isinstance(found, asyncio.Future):
            found.add_done_callback(lambda done: self._answer_with(answer, done), context=NOBODY)
            return
        self._answer(answer, found, None)

    def _answer_with(self, answer: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            self._answer(answer, None, Lost())
            return
        error = done.exception()
        self._answer(answer, None if error else done.result(), error)

    def _answer(self, answer: asyncio.Future[Any], found: Any, error: BaseException | None) -> None:
        if self._rng.random() < self.weather.lost_answers:
            self._later(self._silence_s(), _fail, answer, Lost())
        elif error is not None:
            self._later(self.delay_s(), _fail, answer, error)
        else:
            self._later(self.delay_s(), _succeed, answer, found)

    def _silence_s(self) -> float:
        # Half the time the connection is reset, and its client learns of that at once.
        return self.weather.silence_s if self._rng.random() < 0.5 else self.delay_s()

    def _later(self, delay_s: float, callback: Callable[..., None], *args: Any) -> None:
        self._loop.call_later(delay_s, callback, *args, context=NOBODY)


def _succeed(answer: asyncio.Future[Any], found: Any) -> None:
    if not answer.done():
        answer.set_result(found)


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
