"""Webhooks that the sandbox sends, signed as Standard Webhooks says. A few tries, then given up: they are hints."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import aiohttp
import msgspec

from onsale.auth.identifiers import new_id
from onsale.checkout.providers.signatures import sign_standard

# More than these wait only where nobody takes them; the newest are then left out.
WAITING_MAX = 20_000
SENDERS = 4
# Seconds after each try that failed.
PAUSES_S = (0.5, 2.0, 10.0)
SEND_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Hook:
    """One event, the same bytes and id however often it is sent."""

    event_id: str
    body: bytes


def hook(kind: str, attempt: str) -> Hook:
    """What is told of an attempt."""
    return Hook(f"evt_{new_id()}", msgspec.json.encode({"type": kind, "data": {"attempt": attempt}}))


class Hooks:
    """One a sandbox."""

    def __init__(self, url: str, secret: bytes) -> None:
        self._url = url
        self._secret = secret
        self._waiting: asyncio.Queue[Hook] = asyncio.Queue(WAITING_MAX)
        self._senders: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        """Begin to send what is told."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SEND_TIMEOUT_S))
        self._senders = [asyncio.create_task(self._send_on()) for _ in range(SENDERS)]

    def tell(self, told: Hook) -> None:
        """Send it soon."""
        if not self._waiting.full():
            self._waiting.put_nowait(told)

    async def send(self, told: Hook) -> bool:
        """Send it now, once; whether it was taken."""
        assert self._session is not None, "started before anybody is charged"
        at_s = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": told.event_id,
            "webhook-timestamp": str(at_s),
            "webhook-signature": sign_standard(told.event_id, at_s, told.body, self._secret),
        }
        try:
            async with self._session.post(self._url, data=told.body, headers=headers) as reply:
                # What is refused for what it is will not be taken later either.
                return reply.status < 500
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def close(self) -> None:
        """What still waits is never sent."""
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _send_on(self) -> None:
        while True:
            told = await self._waiting.get()
            for pause_s in PAUSES_S:
                if await self.send(told):
                    break
                await asyncio.sleep(pause_s)
