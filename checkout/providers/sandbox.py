"""The adapter of the sandbox provider: HTTP to a `ProviderClient`, with deadlines, and nothing decided here."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

from onsale.checkout.ports import Charge, ChargeState
from onsale.checkout.providers import UNKNOWN, NoReply, NotReached

CONNECT_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 5.0
# Never the bottleneck: the flow bounds how many attempts run at once.
CONNECTIONS_MAX = 512


class _Result(msgspec.Struct, frozen=True):
    """What the sandbox says of an attempt."""

    attempt: str
    amount: int
    currency: str
    state: str
    reason: str = ""
    retryable: bool = False


_RESULT = msgspec.json.Decoder(_Result)
# The sandbox could not read what we sent, and never will: the attempt ends here.
_UNREADABLE = Charge(ChargeState.DECLINED, reason="rejected", retryable=False)


class SandboxProvider:
    """One session a process. Raises NotReached and NoReply as `ProviderClient` says."""

    name = "sandbox"

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._url = url.rstrip("/")
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None
        # The whole call has an end, waiting for a connection of a busy pool as well: whoever begins one within a lease
        # must be done within it.
        self._timeout = aiohttp.ClientTimeout(
            total=connect_timeout_s + read_timeout_s,
            connect=connect_timeout_s,
            sock_connect=connect_timeout_s,
            sock_read=read_timeout_s,
        )

    async def charge(self, *, attempt: str, order: str, amount: int, currency: str, method: str, token: str) -> Charge:
        asked = {
            "attempt": attempt,
            "order": order,
            "amount": amount,
            "currency": currency,
            "method": method,
            "token": token,
        }
        status, body = await self._send("POST", "/charges", asked)
        return _UNREADABLE if status == 422 else _charge(status, body)

    async def find(self, *, attempt: str) -> Charge:
        return _charge(*await self._send("GET", f"/attempts/{attempt}"))

    async def void(self, *, attempt: str) -> Charge:
        return _charge(*await self._send("POST", "/voids", {"attempt": attempt}))

    async def refund(self, *, attempt: str, key: str, amount: int, currency: str) -> bool:
        asked = {"attempt": attempt, "key": key, "amount": amount, "currency": currency}
        status, _ = await self._send("POST", "/refunds", asked)
        return status == 200

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _send(self, method: str, path: str, asked: dict[str, Any] | None = None) -> tuple[int, bytes]:
        body = None if asked is None else msgspec.json.encode(asked)
        try:
            async with self._connected().request(method, self._url + path, data=body) as reply:
                content = await reply.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotReached from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoReply from error
        if reply.status >= 500:
            raise NoReply
        return reply.status, content

    def _connected(self) -> aiohttp.ClientSession:
        # Made at the first call: a session belongs to the loop that runs it.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                connector=aiohttp.TCPConnector(limit=self._connections_max),
                headers={"Content-Type": "application/json"},
                skip_auto_headers=("User-Agent",),
                auto_decompress=False,
            )
        return self._session


def _charge(status: int, body: bytes) -> Charge:
    if status != 200:
        return UNKNOWN
    try:
        result = _RESULT.decode(body)
    except msgspec.DecodeError as error:
        raise NoReply from error
    return Charge(
        state=ChargeState(result.state),
        reason=result.reason,
        retryable=result.retryable,
        amount=result.amount,
        currency=result.currency,
        reference=result.attempt,
    )
