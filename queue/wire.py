"""One event stream's connection: events framed once, written without waiting, dropped when its reader does not keep up.

A write to a closed connection raises nothing and a dead peer closes nothing, so whoever writes asks first.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios

# Two line documents of a large line: who is that far behind reads no more.
UNSENT_BYTES_MAX = 64 * 1024
# A connection that takes nothing, or whose network acknowledges nothing, for this long is dead.
STALLED_MS = 20_000
TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)


def event(name: str, data: bytes, event_id: str) -> bytes:
    """One event; `data` is JSON on one line."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), name.encode(), data)


def chunk(payload: bytes) -> bytes:
    """The payload as one chunk of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class Wire:
    """One open stream's connection. Bytes that many streams share are framed once, by the caller."""

    __slots__ = ("_blocked_ms", "_descriptor", "_transport", "_unacked_ms", "ended", "is_chunked", "wrote_ms")

    def __init__(self, transport: asyncio.Transport, *, is_chunked: bool, now_ms: int) -> None:
        self._transport = transport
        self._descriptor = _prepare_socket(transport)
        self._blocked_ms = 0
        self._unacked_ms = 0
        self.is_chunked = is_chunked
        self.wrote_ms = now_ms
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_closing(self) -> bool:
        """Whether the connection has gone."""
        return self._transport.is_closing()

    def write(self, plain: bytes, chunked: bytes, now_ms: int) -> bool:
        """Write to the connection; False when the stream was dropped instead, for what it left unread."""
        if self.is_closing:
            return self.drop()
        self._transport.write(chunked if self.is_chunked else plain)
        self.wrote_ms = now_ms
        if self._transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            return self.drop()
        return True

    def is_moving(self, now_ms: int) -> bool:
        """Whether bytes get through; one that takes nothing for too long is dropped. Ask before writing."""
        if self.is_closing:
            return self.drop()
        is_blocked = self._transport.get_write_buffer_size() > 0
        self._blocked_ms = (self._blocked_ms or now_ms) if is_blocked else 0
        self._unacked_ms = 0 if self.is_acknowledged() else self._unacked_ms or now_ms
        since_ms = self._blocked_ms or self._unacked_ms
        return self.drop() if since_ms and now_ms - since_ms > STALLED_MS else True

    def is_acknowledged(self) -> bool:
        """Whether the other end's network has acknowledged every byte."""
        if self._transport.get_write_buffer_size() > 0:
            return False
        try:
            packed = fcntl.ioctl(self._descriptor, termios.TIOCOUTQ, b"\0\0\0\0")
        except OSError:
            return False
        return not struct.unpack("i", packed)[0]

    @property
    def is_live(self) -> bool:
        """Whether somebody is there to be told something: connected, nothing left unacknowledged for a while."""
        return not self.is_closing and (self._unacked_ms == 0 or self.is_acknowledged())

    def drop(self) -> bool:
        """Cut the connection; nothing that is left is sent. Always False."""
        self._transport.abort()
        self.finish()
        return False

    def finish(self) -> None:
        """Wake the handler, which ends the answer."""
        if not self.ended.done():
            self.ended.set_result(None)


def _prepare_socket(transport: asyncio.Transport) -> int:
    """Let the kernel give up on a peer that acknowledges nothing; answers the descriptor, -1 where there is none."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return -1
    sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, STALLED_MS)
    descriptor: int = sock.fileno()
    return descriptor
