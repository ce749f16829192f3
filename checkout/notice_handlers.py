"""Notices over HTTP: a list, and the hub's events over an event stream or a WebSocket; neither decides anything.

A parked handler is not woken by the framework when its client goes: it wakes every few seconds to say that it is still
there, and what it writes tells whether anybody is. A client whose network acknowledges nothing is cut by the kernel.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
from aiohttp import WSMsgType, web

from onsale.auth.middleware import Identity, identity, require_same_origin
from onsale.auth.requests import PAGE_LIMIT_DEFAULT, page_limit, query, reply
from onsale.auth.streamkeys import StreamEnded
from onsale.checkout.notices import Cursor, Listener, NoticeBook, NoticeHub, Said
from onsale.checkout.schemas import NoticePage

_encode = msgspec.json.Encoder().encode

BOOK = web.AppKey("notice_book", NoticeBook)
HUB = web.AppKey("notice_hub", NoticeHub)

HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
# One comment at least every 15 s is promised; ten leave room for a slow loop.
SILENCE_S = 10.0
# A client that takes nothing for this long is gone.
STALLED_S = 20.0
# After a restart streams come back over a few seconds, not all at once.
RETRY_MIN_MS, RETRY_MAX_MS = 1_000, 5_000
# Clients send nothing but pongs and their last id.
MESSAGE_BYTES_MAX = 256


async def list_notices(request: web.Request) -> web.Response:
    """GET /v1/notices"""
    asker = await identity(request)
    asked = query(request, limit=page_limit, cursor=Cursor.read)
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    items, cursor = await request.app[BOOK].page(asker.account, asked.get("cursor"), limit)
    return reply(200, NoticePage(items, cursor), {"Cache-Control": "no-store"})


async def stream_notices(request: web.Request) -> web.StreamResponse:
    """GET /v1/notices/events"""
    query(request, stream_key=str)
    asker = await _asker(request)
    if asker is None:
        return web.Response(status=204)
    listener = await request.app[HUB].join(asker.account, asker.session)
    try:
        missed = await _missed(request, listener, request.headers.get("Last-Event-ID"))
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        if request.method != "HEAD":
            await _serve_events(request, response, listener, missed)
        return response
    finally:
        request.app[HUB].leave(listener)


async def socket_notices(request: web.Request) -> web.StreamResponse:
    """GET /v1/notices/socket"""
    asked = query(request, stream_key=str, last_event_id=str)
    asker = await _asker(request)
    if asker is None:
        return web.Response(status=204)
    # A page of another site may open a socket to us, and the browser sends our cookie along.
    if asker.via == "cookie":
        require_same_origin(request)
    # The handshake's own check: whatever is no WebSocket is refused before anybody listens.
    opened = web.WebSocketResponse(heartbeat=SILENCE_S, max_msg_size=MESSAGE_BYTES_MAX, compress=False)
    if not opened.can_prepare(request).ok:
        raise web.HTTPBadRequest
    listener = await request.app[HUB].join(asker.account, asker.session)
    try:
        missed = await _missed(request, listener, asked.get("last_event_id"))
        await opened.prepare(request)
        await _serve_socket(opened, listener, missed)
        return opened
    finally:
        request.app[HUB].leave(listener)


async def _asker(request: web.Request) -> Identity | None:
    """Who listens; None where the stream of this key has ended."""
    try:
        return await identity(request, is_stream=True)
    except StreamEnded:
        return None


async def _missed(request: web.Request, listener: Listener, last: str | None) -> list[Said]:
    """What came between the event that was seen last and this stream."""
    try:
        after = Cursor.read(last or "")
    except ValueError:
        return []
    return await request.app[BOOK].missed(listener.account, after, listener.since)


async def _serve_events(
    request: web.Request, response: web.StreamResponse, listener: Listener, missed: list[Said]
) -> None:
    _cut_by_kernel(request)
    retry = f"retry: {random.randint(RETRY_MIN_MS, RETRY_MAX_MS)}\n\n".encode()
    last = missed[-1].id if missed else f"{listener.since}-0"
    with suppress(ConnectionError, TimeoutError):
        await _write(response, retry + b"".join(_event(said, said.id) for said in missed))
        async for said in _said(listener):
            last = (said.id or last) if said is not None else last
            await _write(response, b": still here\n\n" if said is None else _event(said, last))
        # Told to come back; its client does, with the id it saw last.
        await _write(response, retry)


async def _serve_socket(opened: web.WebSocketResponse, listener: Listener, missed: list[Said]) -> None:
    async def read() -> None:
        # A close or a lost heartbeat ends it; anything said is nothing to us.
        async for message in opened:
            if message.type in (WSMsgType.CLOSE, WSMsgType.ERROR):
                break
        listener.end()

    async def write() -> None:
        with suppress(ConnectionError, TimeoutError):
            for told in missed:
                await _send(opened, told)
            async for said in _said(listener):
                if said is not None:
                    await _send(opened, said)
            await opened.close(code=1012, message=b"come back")

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        await write()
        reading.cancel()


async def _said(listener: Listener) -> AsyncIterator[Said | None]:
    """Events as they come, and None where there was none for a while; ends with the listener."""
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                said = await listener.queue.get()
        except TimeoutError:
            yield None
            continue
        if said is None:
            return
        yield said


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(STALLED_S):
        await response.write(data)


async def _send(opened: web.WebSocketResponse, said: Said) -> None:
    async with asyncio.timeout(STALLED_S):
        await opened.send_str(_socket_text(said))


def _event(said: Said, event_id: str) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), said.name.encode(), said.data)


def _socket_text(said: Said) -> str:
    return _encode({"id": said.id or None, "event": said.name, "data": msgspec.Raw(said.data)}).decode()


def _cut_by_kernel(request: web.Request) -> None:
    sock = None if request.transport is None else request.transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if sock is not None and option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, int(STALLED_S * 1000))
