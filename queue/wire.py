"""One event stream's connection: events framed once, written without waiting, dropped when its reader does not keep up.

Once the answer has begun, the connection is taken from the framework: parser, request, middleware and two tasks, which
would be parked for as long as somebody waits, are three quarters of what a stream would cost in memory.
A write to a closed connection raises nothing and a dead peer closes nothing, so whoever writes asks first.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable, Mapping

from aiohttp import HttpVersion11, web

# Two line documents of a large line: who is that far behind reads no more.
UNSENT_BYTES_MAX = 64 * 1024
# A connection that takes too little, or whose network acknowledges nothing, for this long is dead.
STALLED_MS = 20_000
LAST_CHUNK = b"0\r\n\r\n"
TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)


def event(name: str, data: bytes, event_id: str) -> bytes:
    """One event; `data` is JSON on one line."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), name.encode(), data)


def chunk(payload: bytes) -> bytes:
    """The payload as one chunk of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class Answer(web.StreamResponse):
    """The head of an event stream's answer. Its end is the wire's: the framework writes none."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers=headers)
        # No request can follow on a connection that the framework has let go; proxies and clients are told so.
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: `Wire.finish` does."""


class Wire(asyncio.Protocol):
    """One open stream's connection. Bytes that many streams share are framed once, by the caller."""

    __slots__ = (
        "_blocked_ms",
        "_descriptor",
        "_on_gone",
        "_through",
        "_transport",
        "_unacked_ms",
        "_written",
        "is_chunked",
        "is_gone",
        "is_over",
        "wrote_ms",
    )

    def __init__(self, transport: asyncio.Transport, *, is_chunked: bool, now_ms: int) -> None:
        self._transport = transport
        self._descriptor = _prepare_socket(transport)
        self._blocked_ms = 0
        # Since when something has been on its way of which nothing got through; 0: all had, at the last look.
        self._unacked_ms = 0
        # Bytes written here, and how many of them had got through then.
        self._written = 0
        self._through = 0
        self._on_gone: Callable[[], None] | None = None
        self.is_chunked = is_chunked
        # Nothing more is written, though what was written may still be on its way; and the connection has closed.
        self.is_over = False
        self.is_gone = False
        self.wrote_ms = now_ms

    @classmethod
    def take(cls, request: web.Request, *, now_ms: int) -> Wire:
        """Take the connection over which `request` is being answered; for the framework it is as if it had been lost.

        What the client still sends is left unread by anyone. Raises ConnectionResetError when it has gone already.
        """
        handler, transport = request.protocol, request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        wire = cls(transport, is_chunked=request.version >= HttpVersion11, now_ms=now_ms)
        transport.set_protocol(wire)
        if not transport.is_reading():
            # Paused for requests behind this one: nobody would see the connection close.
            transport.resume_reading()
        # Otherwise it would close what it believes to be lost.
        handler.transport = None
        handler.connection_lost(None)
        return wire

    def watch(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` once, when the connection has gone."""
        self._on_gone = on_gone

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, however the connection ended."""
        self.is_over = self.is_gone = True
        on_gone, self._on_gone = self._on_gone, None
        if on_gone is not None:
            on_gone()

    def write(self, plain: bytes, chunked: bytes, now_ms: int) -> bool:
        """Write to the connection; False when the stream is over, or was dropped for what it left unread."""
        if self.is_over or self._transport.is_closing():
            return False
        payload = chunked if self.is_chunked else plain
        self._transport.write(payload)
        self._written += len(payload)
        self.wrote_ms = now_ms
        if self._transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            return self.drop()
        return True

    def is_moving(self, now_ms: int) -> bool:
        """Whether bytes get through; one that leaves some with us, or takes none, for too long is dropped. Ask before
        writing.

        That something is on its way says nothing: to a distant reader of an event a second there may be at every look.
        """
        is_blocked = self._transport.get_write_buffer_size() > 0
        self._blocked_ms = (self._blocked_ms or now_ms) if is_blocked else 0
        unacked = self.unacknowledged_bytes()
        through = self._written - unacked
        if not unacked:
            self._unacked_ms = 0
        elif not self._unacked_ms or through > self._through:
            self._unacked_ms = now_ms
        self._through = through
        since_ms = self._blocked_ms or self._unacked_ms
        return self.drop() if since_ms and now_ms - since_ms > STALLED_MS else True

    def unacknowledged_bytes(self) -> int:
        """What was written and the other end's network has not acknowledged; all of it where nobody can say."""
        try:
            packed = fcntl.ioctl(self._descriptor, termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, ValueError):
            # No socket, or none any more.
            return self._written + 1
        queued: int = struct.unpack("i", packed)[0]
        return self._transport.get_write_buffer_size() + queued

    def is_acknowledged(self) -> bool:
        """Whether the other end's network has acknowledged every byte."""
        return not self.unacknowledged_bytes()

    @property
    def is_live(self) -> bool:
        """Whether somebody is there to be told something: connected, nothing left unacknowledged for a while."""
        is_open = not self.is_over and not self._transport.is_closing()
        return is_open and (self._unacked_ms == 0 or self.is_acknowledged())

    def drop(self) -> bool:
        """Cut the connection; nothing that is left is sent. Always False."""
        self.is_over = True
        self._transport.abort()
        return False

    def finish(self) -> None:
        """End the answer. What was written still goes out, and then the connection closes."""
        if self.is_over:
            return
        self.is_over = True
        if self.is_chunked and not self._transport.is_closing():
            self._transport.write(LAST_CHUNK)
            self._written += len(LAST_CHUNK)
        self._transport.close()


def _prepare_socket(transport: asyncio.Transport) -> int:
    """Let the kernel give up on a peer that acknowledges nothing; answers the descriptor, -1 where there is none."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return -1
    sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, STALLED_MS)
    descriptor: int = sock.fileno()
    return descriptor
