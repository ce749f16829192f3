"""One loop tick, one call: what many requests ask of one script goes to Redis in one batch, one batch in flight.

Requests await futures; only the batcher's task awaits Redis, so a cancelled request never takes a batch with it.
While a batch is in flight the next one gathers, so a busy server makes larger batches by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# 500: a batch of this size holds Redis for about 2 ms; a larger one would delay every other caller of the server.
BATCH_MAX = 500


class Overloaded(Exception):
    """More requests wait for Redis than may: try again shortly."""


class Batcher(Generic[Item, Answer]):
    """Gathers items and sends them with `send(items) -> answers`, which answers one per item in the same order.

    When `send` raises, every item of that batch gets the error; the next batch is tried afresh.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        batch_max: int = BATCH_MAX,
        waiting_max: int = 20_000,
    ) -> None:
        self._send = send
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Answer:
        """Wait for the answer to one item. Raises what `send` raised, or `Overloaded` at once."""
        if len(self._waiting) >= self._waiting_max:
            raise Overloaded
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def close(self) -> None:
        """Let what is in flight and what waits finish."""
        if self._task is not None:
            await self._task

    async def _drain(self) -> None:
        # One trip through the loop first: every request of this tick joins the first batch.
        await asyncio.sleep(0)
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._batch_max, len(self._waiting)))]
            await self._settle(batch)

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._send([item for item, _ in batch])
            pairs = list(zip(batch, answers, strict=True))
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in pairs:
            if not future.done():
                future.set_result(answer)
