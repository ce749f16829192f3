"""The adapter of the sandbox provider: HTTP to a `ProviderClient`, and nothing decided here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from onsale.checkout.ports import Attempt, Charge, ChargeState, Method, ProviderEvent
from onsale.checkout.providers import UNKNOWN
from onsale.checkout.providers.credentials import Credentials
from onsale.checkout.providers.signatures import read_json, verify_standard
from onsale.checkout.providers.wire import Reply, Wire, WirePolicy


class _Result(msgspec.Struct, frozen=True):
    """What the sandbox says of an attempt."""

    attempt: str
    amount: int
    currency: str
    state: str
    reason: str = ""
    retryable: bool = False


class _EventData(msgspec.Struct, frozen=True):
    attempt: str


class _Event(msgspec.Struct, frozen=True):
    """What the sandbox tells by itself."""

    type: str
    data: _EventData


_RESULT = msgspec.json.Decoder(_Result)
_EVENT = msgspec.json.Decoder(_Event)
# The sandbox could not read what we sent, and never will: the attempt ends here.
_UNREADABLE = Charge(ChargeState.DECLINED, reason="rejected", retryable=False)


class SandboxProvider:
    """One a process. Raises NotReached and NoReply as `ProviderClient` says."""

    name = "sandbox"
    methods = frozenset(Method)

    def __init__(self, credentials: Credentials, policy: WirePolicy | None = None) -> None:
        self._webhook_secrets = credentials.webhook_secrets
        self._wire = Wire(credentials.url, {"Content-Type": "application/json"}, policy)

    async def charge(self, asked: Attempt) -> Charge:
        reply = await self._post(
            "/charges",
            attempt=asked.attempt,
            order=asked.order,
            amount=asked.amount,
            currency=asked.currency,
            method=asked.method,
            token=asked.token,
        )
        return _UNREADABLE if reply.status == 422 else _charge(reply)

    async def find(self, asked: Attempt) -> Charge:
        return _charge(await self._wire.get(f"/attempts/{asked.attempt}"))

    async def void(self, asked: Attempt) -> Charge:
        return _charge(await self._post("/voids", attempt=asked.attempt))

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        reply = await self._post("/refunds", attempt=asked.attempt, key=key, amount=amount, currency=currency)
        return reply.status == 200

    def read_event(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> ProviderEvent | None:
        event_id = verify_standard(headers, raw, self._webhook_secrets, now_s)
        event = read_json(raw, _EVENT)
        return ProviderEvent(event_id, event.type, attempt=event.data.attempt)

    async def close(self) -> None:
        await self._wire.close()

    async def _post(self, path: str, **asked: Any) -> Reply:
        return await self._wire.post(path, msgspec.json.encode(asked))


def _charge(reply: Reply) -> Charge:
    if reply.status != 200:
        return UNKNOWN
    result = reply.read(_RESULT)
    return Charge(
        state=ChargeState(result.state),
        reason=result.reason,
        retryable=result.retryable,
        amount=result.amount,
        currency=result.currency,
        reference=result.attempt,
    )
