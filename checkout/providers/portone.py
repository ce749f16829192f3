"""The adapter of PortOne (iamport), V2 of its API.

https://developers.portone.io/api/rest-v2: `POST /payments/{paymentId}/billing-key`, `GET /payments/{paymentId}`,
`POST /payments/{paymentId}/cancel`; `Authorization: PortOne <secret>`, `Idempotency-Key` (a quoted string, 3 hours).
V2 and not V1: there we choose `paymentId` (it is the attempt's id, so an attempt is found by its own name for ever),
webhooks are signed (Standard Webhooks), and a cancellation says how much it believes is left to cancel.

`token` is a billing key that the page was issued for the buyer's card, account, phone or wallet; with it the money is
taken here, once the unit is the buyer's, and not on the page before. Until PortOne has heard of a payment nobody can
make it void: it is asked for again under the same key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from onsale.checkout.ports import Attempt, Charge, ChargeState, Method, ProviderEvent
from onsale.checkout.providers import UNKNOWN
from onsale.checkout.providers.credentials import Credentials
from onsale.checkout.providers.signatures import read_json, verify_standard
from onsale.checkout.providers.wire import Reply, Wire, WirePolicy

URL = "https://api.portone.io"
# What a refusal's `type` is in our words, and whether another try may help.
REFUSALS: Mapping[str, tuple[str, bool]] = {
    "PG_PROVIDER": ("declined", True),
    "BILLING_KEY_NOT_FOUND": ("card_unknown", True),
    "BILLING_KEY_ALREADY_DELETED": ("card_unknown", True),
    "MAX_TRANSACTION_COUNT_REACHED": ("limit", True),
    "INVALID_REQUEST": ("rejected", False),
    "SUM_OF_PARTS_EXCEEDS_TOTAL_AMOUNT": ("rejected", False),
    "CHANNEL_NOT_FOUND": ("provider", False),
}
# What the company behind the channel says where PortOne passes it on: its codes differ from one to the next, so only
# what many of them share is told apart. Everything else is "declined", and another card may be tried.
PG_REASONS: Mapping[str, tuple[str, bool]] = {
    "INSUFFICIENT_BALANCE": ("funds", True),
    "NOT_ENOUGH_BALANCE": ("funds", True),
    "REJECT_CARD_PAYMENT": ("funds", True),
    "INVALID_CARD_EXPIRATION": ("card_expired", True),
    "EXCEED_MAX_AMOUNT": ("limit", True),
    "EXCEED_MAX_DAILY_PAYMENT_COUNT": ("limit", True),
    "INVALID_CARD_LOST_OR_STOLEN": ("refused", False),
    "PAY_PROCESS_CANCELED": ("cancelled_by_buyer", False),
}


class _Refusal(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    pg_code: str = ""


class _Amount(msgspec.Struct, frozen=True):
    total: int
    cancelled: int = 0


class _Failure(msgspec.Struct, frozen=True, rename="camel"):
    pg_code: str = ""


class _Cancellation(msgspec.Struct, frozen=True, rename="camel"):
    status: str
    reason: str = ""


class _Payment(msgspec.Struct, frozen=True, rename="camel"):
    """A payment, as far as it concerns us."""

    id: str
    status: str
    amount: _Amount
    currency: str = "KRW"
    transaction_id: str = ""
    failure: _Failure | None = None
    cancellations: tuple[_Cancellation, ...] = ()


class _Cancelled(msgspec.Struct, frozen=True):
    cancellation: _Cancellation


class _EventData(msgspec.Struct, frozen=True, rename="camel"):
    payment_id: str = ""


class _Event(msgspec.Struct, frozen=True):
    type: str
    data: _EventData = _EventData()


_PAYMENT = msgspec.json.Decoder(_Payment)
_REFUSAL = msgspec.json.Decoder(_Refusal)
_CANCELLED = msgspec.json.Decoder(_Cancelled)
_EVENT = msgspec.json.Decoder(_Event)


class PortoneProvider:
    """One a process. Raises NotReached and NoReply as `ProviderClient` says."""

    name = "portone"
    methods = frozenset(Method)

    def __init__(self, credentials: Credentials, policy: WirePolicy | None = None) -> None:
        self._webhook_secrets = credentials.webhook_secrets
        self._shop = {
            name: value
            for name, value in (("storeId", credentials.store_id), ("channelKey", credentials.channel_key))
            if value
        }
        headers = {"Authorization": f"PortOne {credentials.secret}", "Content-Type": "application/json"}
        self._wire = Wire(credentials.url, headers, policy)

    async def charge(self, asked: Attempt) -> Charge:
        wanted = {
            **self._shop,
            "billingKey": asked.token,
            "orderName": asked.order,
            "amount": {"total": asked.amount},
            "currency": asked.currency,
        }
        reply = await self._post(f"/payments/{asked.attempt}/billing-key", wanted, key=asked.attempt)
        if reply.status == 200:
            # It says that it is paid, not how much: that is asked.
            return await self.find(asked)
        refusal = reply.read(_REFUSAL)
        if refusal.type == "ALREADY_PAID":
            return await self.find(asked)
        if refusal.type not in REFUSALS:
            # About us (401, 403, 429) or about a call that is still running: nothing is decided.
            return UNKNOWN
        reason = PG_REASONS.get(refusal.pg_code) or REFUSALS[refusal.type]
        return Charge(ChargeState.DECLINED, *reason, asked.amount, asked.currency, asked.attempt)

    async def find(self, asked: Attempt) -> Charge:
        payment = await self._payment(asked)
        return UNKNOWN if payment is None else _charge(payment)

    async def void(self, asked: Attempt) -> Charge:
        return await self.find(asked)

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        payment = await self._payment(asked)
        if payment is None:
            return False
        if any(_is_of(one, key) for one in payment.cancellations):
            return True
        wanted = {
            **({"storeId": self._shop["storeId"]} if "storeId" in self._shop else {}),
            "amount": amount,
            "reason": _reason(key),
            # A cancellation that we have not heard of makes this one fail, and the next look finds it.
            "currentCancellableAmount": payment.amount.total - payment.amount.cancelled,
        }
        reply = await self._post(f"/payments/{asked.attempt}/cancel", wanted, key=key)
        return reply.status == 200 and reply.read(_CANCELLED).cancellation.status in ("SUCCEEDED", "REQUESTED")

    def read_event(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> ProviderEvent | None:
        event_id = verify_standard(headers, raw, self._webhook_secrets, now_s)
        event = read_json(raw, _EVENT)
        payment = event.data.payment_id
        return ProviderEvent(event_id, event.type, attempt=payment) if payment else None

    async def close(self) -> None:
        await self._wire.close()

    async def _payment(self, asked: Attempt) -> _Payment | None:
        query = f"?storeId={self._shop['storeId']}" if "storeId" in self._shop else ""
        reply = await self._wire.get(f"/payments/{asked.attempt}{query}")
        return reply.read(_PAYMENT) if reply.status == 200 else None

    async def _post(self, path: str, wanted: Mapping[str, Any], *, key: str) -> Reply:
        return await self._wire.post(path, msgspec.json.encode(wanted), {"Idempotency-Key": f'"{key}"'})


def _charge(payment: _Payment) -> Charge:
    amount = (payment.amount.total, payment.currency, payment.transaction_id or payment.id)
    match payment.status:
        case "PAID" | "PARTIAL_CANCELLED":
            return Charge(ChargeState.CAPTURED, "", False, *amount)
        case "CANCELLED":
            return Charge(ChargeState.DECLINED, "reversed", False, *amount)
        case "FAILED":
            code = payment.failure.pg_code if payment.failure is not None else ""
            reason, is_retryable = PG_REASONS.get(code, ("declined", True))
            return Charge(ChargeState.DECLINED, reason, is_retryable, *amount)
        case _:
            # Ready, pending, or a state that PortOne has invented since.
            return UNKNOWN


def _reason(key: str) -> str:
    return f"refund {key}"


def _is_of(cancellation: _Cancellation, key: str) -> bool:
    return cancellation.reason == _reason(key) and cancellation.status in ("SUCCEEDED", "REQUESTED")
