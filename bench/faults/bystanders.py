"""People who only wait: they poll all through the harm, and nobody of them may lose the place they were given.

They stand in a sale of their own that lets nobody in, and ask over raw keep-alive connections, opened again whenever
they break. What was not answered counts as unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from bench.faults.world import World
from bench.journeys import ask_all, join, poll, status, text_of

CONNECTIONS = 16
ANSWER_WITHIN_S = 10.0
FIRST_ACCOUNT = 300_001


class Bystanders:
    """So many people, who together poll so often a second."""

    def __init__(self, world: World, sale: str, count: int, per_second: float) -> None:
        self._world, self._sale, self._count, self._per_second = world, f"{sale}-waits", count, per_second
        self._requests: list[bytes] = []
        self._places: list[bytes] = []
        self.statuses: Counter[str] = Counter()
        self.faults: list[str] = []

    @property
    def asked(self) -> int:
        return sum(self.statuses.values())

    async def join(self) -> None:
        """Each gets a place, before any harm is done."""
        await self._world.create_sale(self._sale, units=10, rate=0, cap=10)
        tokens = await self._world.tokens(self._count, first=FIRST_ACCOUNT)
        while not self._requests:
            replies = await ask_all(self._world.port, [join(self._sale, token) for token in tokens], CONNECTIONS)
            if all(status(reply) in ("200", "201") for reply in replies):
                self._requests = [poll(text_of(reply, b"ticket"), text_of(reply, b"ticket_token")) for reply in replies]
                self._places = [_place(reply) for reply in replies]
            else:
                await asyncio.sleep(0.2)

    async def poll_on(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for first in range(CONNECTIONS):
                group.create_task(self._connection(first))

    async def judge(self) -> list[str]:
        """Once all is well again: everybody still waits where they stood."""
        for n, reply in enumerate(await ask_all(self._world.port, self._requests, CONNECTIONS)):
            self._take(n, reply, must_wait=True)
        return self.faults[:5]

    async def _connection(self, first: int) -> None:
        clock, n = asyncio.get_running_loop().time, first
        pause_s = CONNECTIONS / self._per_second
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._world.port)
                with contextlib.closing(writer):
                    while True:
                        due = clock() + pause_s
                        n = (n + CONNECTIONS) % self._count
                        writer.write(self._requests[n])
                        self._take(n, await _answer(reader))
                        await asyncio.sleep(max(0.0, due - clock()))
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self.statuses["unknown"] += 1
                await asyncio.sleep(0.2)

    def _take(self, n: int, reply: bytes, *, must_wait: bool = False) -> None:
        code = status(reply)
        self.statuses[code] += 1
        # By a clock that went back before the opening, the sale has not begun; the place is the same.
        states = ("waiting",) if must_wait else ("waiting", "scheduled")
        if code == "200" and text_of(reply, b"state") in states and _place(reply) == self._places[n]:
            return
        if must_wait or code == "200" or not (code in ("503", "429") and b"Retry-After" in reply):
            body = reply.partition(b"\r\n\r\n")[2][:300].decode()
            self.faults.append(f"a bystander at {self._places[n].decode()} was told {code} {body}")


async def _answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(ANSWER_WITHIN_S):
        head = await reader.readuntil(b"\r\n\r\n")
        at = head.index(b"Content-Length: ") + 16
        return head + await reader.readexactly(int(head[at : head.index(b"\r", at)]))


def _place(reply: bytes) -> bytes:
    at = reply.find(b'"place":') + 8
    return reply[at : reply.index(b",", at)]
