"""A line between a process and a store that can be cut: a TCP relay of ours, between two parties each.

It passes bytes on, or is silent (both sides stay connected and hear nothing, as behind a dropped route), or refuses
(connections are reset, as by a machine that is there and whose server is not). Bytes that were on their way when a
silent link is cut are lost, as they are in a partition.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

CHUNK = 64 << 10
RESET = struct.pack("ii", 1, 0)


class Link:
    """One relay on a port of its own, to a port that may change."""

    def __init__(self, name: str, target: int) -> None:
        self.name, self.target, self.port = name, target, 0
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def silence(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self._flows.clear()

    def refuse(self) -> None:
        """Every connection is reset, now and from now on."""
        self._refuses = True
        self.reset()

    def restore(self) -> None:
        """As before. What was silent breaks: the bytes in between are gone."""
        if not self._flows.is_set():
            self.reset()
        self._refuses = False
        self._flows.set()

    def reset(self) -> None:
        """Break what is connected at this moment."""
        for writer in list(self._open):
            with contextlib.suppress(OSError, RuntimeError):
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: the stream's callback logs one that is cancelled as an error.
        task = asyncio.ensure_future(self._between(reader, writer))
        self._tasks.add(task)
        await asyncio.wait((task,))
        self._tasks.discard(task)

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            if self._refuses:
                return
            await self._flows.wait()
            answers, other = await asyncio.open_connection("127.0.0.1", self.target, limit=CHUNK)
            self._open.add(other)
            for end in (writer, other):
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            there = asyncio.create_task(self._pass(reader, other))
            back = asyncio.create_task(self._pass(answers, writer))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except OSError:
            return
        finally:
            for end in (writer, *((other,) if other else ())):
                self._open.discard(end)
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            # Read already, not yet passed on: a link that falls silent now has this in it, and may lose it.
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
