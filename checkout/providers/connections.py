"""HTTP/1.1 to one address over kept connections, one request at a time on each: what a provider is asked through.

The general client costs 80 microseconds of CPU a call, more than all the rest of a confirmation that is no waiting;
this is a parser in C (httptools) on a plain protocol. It knows no redirects, no cookies, no proxies and no compression,
which none of the providers' interfaces needs, and says of a call that failed whether anything was sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

# Longer than most servers keep a connection: who closes it first is then the one that knows that it is idle.
KEEPALIVE_S = 70.0
# Heads, bodies, words in between: the longest answers of a provider, lists of a hundred refunds, have a tenth of this.
ANSWER_BYTES_MAX = 1 << 20


class NotSent(Exception):
    """No connection could be made: nothing was sent. `is_late`: nobody greeted us in time."""

    def __init__(self, *, is_late: bool = False) -> None:
        super().__init__()
        self.is_late = is_late


class NotAnswered(Exception):
    """It was sent, and no whole answer came. `is_late`: none in time. `is_stale`: not a byte, on a connection that had
    served before: the other side had most likely closed it unread."""

    def __init__(self, *, is_late: bool = False, is_stale: bool = False) -> None:
        super().__init__()
        self.is_late = is_late
        self.is_stale = is_stale


class Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._answered: asyncio.Future[tuple[int, bytes]] | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        # Whether a byte of the answer has come, and whether it says where it ends.
        self._has_begun = self._has_length = False
        self._served = 0
        self.is_open = False
        self.idle_since_s = 0.0

    async def ask(self, request: bytes, within_s: float) -> tuple[int, bytes]:
        """Status and body of the answer. Raises NotSent where the other side has closed it; NotAnswered, after which it
        is closed."""
        if not self.is_open:
            # Nothing that is written now goes out, and nobody would say so.
            raise NotSent
        answered: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()
        self._answered = answered
        self._chunks = []
        self._size = 0
        self._has_begun = self._has_length = False
        deadline = self._loop.call_later(within_s, self._fail, NotAnswered(is_late=True))
        self._transport.write(request)
        try:
            return await answered
        finally:
            deadline.cancel()
            self._answered = None
            if not answered.done() or answered.cancelled():
                # Its caller has gone: what comes now belongs to nobody.
                self.close()

    def close(self) -> None:
        """At once; an answer on its way is not waited for."""
        self.is_open = False
        self._transport.abort()

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are no subclass of it.
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._answered is None or self._answered.done():
            # Nobody asked.
            self.close()
            return
        self._has_begun = True
        self._size += len(data)
        if self._size > ANSWER_BYTES_MAX:
            self._fail(NotAnswered())
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(NotAnswered())

    def eof_received(self) -> None:
        # The loop closes it next; nobody may write to it until then.
        self.is_open = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if exc is None and self._answered is not None and self._has_begun and not self._has_length and self._chunks:
            # An answer without a length ends with its connection.
            self._succeed()
        self._fail(NotAnswered(is_stale=self._served > 0 and self._answered is not None and not self._has_begun))

    # what the parser calls

    def on_message_begin(self) -> None:
        if self._answered is None or self._answered.done():
            # An answer too many, in one piece with the one that was asked for.
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._has_length = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            # A word in between; the answer follows.
            self._has_length = False
            return
        self.is_open = self.is_open and self._parser.should_keep_alive()
        self._succeed()

    def _succeed(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._served += 1
            self._answered.set_result((self._parser.get_status_code(), b"".join(self._chunks)))

    def _fail(self, error: NotAnswered) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
            self.close()


class Connections:
    """Every connection to one address. How many there are is its caller's to bound."""

    def __init__(
        self, url: str, headers: Mapping[str, str], *, connect_timeout_s: float, read_timeout_s: float
    ) -> None:
        address = urlsplit(url)
        self._host = address.hostname or ""
        self._is_tls = address.scheme == "https"
        self._port = address.port or (443 if self._is_tls else 80)
        self._prefix = address.path.rstrip("/")
        host = address.netloc.rpartition("@")[2]
        self._head = _lines({"Host": host, "Accept": "*/*", "Accept-Encoding": "identity", **headers})
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._idle: list[Connection] = []
        self._tls: ssl.SSLContext | None = None
        self._is_closed = False

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes]:
        """Status and body of the answer. Raises NotSent and NotAnswered."""
        request = self._request(method, path, headers, body)
        try:
            return await self._ask(self._kept() or await self._connect(), request)
        except NotAnswered as failure:
            if method != "GET" or not failure.is_stale:
                raise
        # A question changes nothing: it is put again where it was most likely not read.
        return await self._ask(await self._connect(), request)

    async def close(self) -> None:
        """Close every connection that is not in use; the others close when they were answered."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    async def _ask(self, connection: Connection, request: bytes) -> tuple[int, bytes]:
        answer = await connection.ask(request, self._read_timeout_s)
        if not connection.is_open or self._is_closed:
            connection.close()
        else:
            connection.idle_since_s = asyncio.get_running_loop().time()
            self._idle.append(connection)
        return answer

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        target = self._prefix + path
        if not target.isascii() or not target.isprintable() or " " in target:
            raise ValueError("not the path of a request")
        own = _lines(headers) if headers else b""
        if body is None:
            return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method.encode(), target.encode(), self._head, own)
        start = (method.encode(), target.encode(), self._head, own, len(body), body)
        return b"%b %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % start

    def _kept(self) -> Connection | None:
        """The one used last: the others may then grow old and close."""
        oldest_s = asyncio.get_running_loop().time() - KEEPALIVE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and connection.idle_since_s > oldest_s:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._is_tls and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        except TimeoutError as error:
            raise NotSent(is_late=True) from error
        except OSError as error:
            raise NotSent from error
        return connection


def _lines(headers: Mapping[str, str]) -> bytes:
    """Header lines. ValueError for what would be more than a line."""
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"not the value of a header: {name}")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
