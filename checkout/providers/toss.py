"""The adapter of Toss Payments: the page lets the buyer authenticate, the approval here takes the money.

https://docs.tosspayments.com/reference: `POST /v1/payments/confirm`, `GET /v1/payments/{paymentKey}` and
`/v1/payments/orders/{orderId}`, `POST /v1/payments/{paymentKey}/cancel`; Basic authorization, `Idempotency-Key` (15
days). The page asks Toss with our order's id as `orderId`, so that the key it gets pays for no other order; `token` is
that `paymentKey`. Toss approves one payment an `orderId`, ever.

A payment that was authenticated and not approved runs out by itself (10 minutes); until then nobody can make it void.
Webhooks of payments (`PAYMENT_STATUS_CHANGED`) carry no signature: they are taken for hints about orders that we have,
told apart by their transmission id.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote

import msgspec

from onsale.checkout.errors import EventUnreadable, SignatureInvalid
from onsale.checkout.ports import Attempt, Charge, ChargeState, Method, ProviderEvent
from onsale.checkout.providers import UNKNOWN
from onsale.checkout.providers.credentials import Credentials
from onsale.checkout.providers.signatures import read_json, require_recent
from onsale.checkout.providers.wire import Reply, Wire, WirePolicy

URL = "https://api.tosspayments.com"
NEVER_S = float("nan")
# In other currencies Toss counts whole units with a point, and settles by another contract.
CURRENCY = "KRW"
# What Toss says and what it is in our words, and whether another try may help.
REASONS: Mapping[str, tuple[str, bool]] = {
    "REJECT_ACCOUNT_PAYMENT": ("funds", True),
    "NOT_ENOUGH_BALANCE": ("funds", True),
    "REJECT_CARD_PAYMENT": ("funds", True),
    "INVALID_CARD_EXPIRATION": ("card_expired", True),
    "EXCEED_MAX_DAILY_PAYMENT_COUNT": ("limit", True),
    "EXCEED_MAX_PAYMENT_AMOUNT": ("limit", True),
    "EXCEED_MAX_ONE_DAY_WITHDRAW_AMOUNT": ("limit", True),
    "EXCEED_MAX_ONE_TIME_WITHDRAW_AMOUNT": ("limit", True),
    "EXCEED_MAX_AMOUNT": ("limit", True),
    "REJECT_CARD_COMPANY": ("declined", True),
    "INVALID_REJECT_CARD": ("declined", True),
    "INVALID_STOPPED_CARD": ("declined", True),
    "INVALID_CARD_LOST_OR_STOLEN": ("refused", False),
    "PAY_PROCESS_CANCELED": ("cancelled_by_buyer", False),
    # The buyer took longer than ten minutes: authenticating once more helps.
    "NOT_FOUND_PAYMENT_SESSION": ("timeout", True),
    "EXPIRED_PAYMENT": ("timeout", True),
}
# The payment has been decided, or is being decided: how it stands says it.
LOOKED_UP = frozenset({"ALREADY_PROCESSED_PAYMENT", "DUPLICATED_ORDER_ID", "ALREADY_COMPLETED_PAYMENT"})
# Of these Toss may have taken the money; whoever asks again learns it.
UNDECIDED = frozenset({"PROVIDER_ERROR", "FAILED_INTERNAL_SYSTEM_PROCESSING", "IDEMPOTENT_REQUEST_PROCESSING"})


class _Failure(msgspec.Struct, frozen=True):
    code: str
    message: str = ""


class _Cancel(msgspec.Struct, frozen=True, rename="camel"):
    cancel_reason: str
    cancel_amount: int
    cancel_status: str = "DONE"


class _Payment(msgspec.Struct, frozen=True, rename="camel"):
    """A Payment, as far as it concerns us."""

    payment_key: str
    order_id: str
    status: str
    total_amount: int
    currency: str = CURRENCY
    failure: _Failure | None = None
    cancels: tuple[_Cancel, ...] | None = None


class _EventData(msgspec.Struct, frozen=True, rename="camel"):
    order_id: str = ""
    payment_key: str = ""


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    event_type: str
    data: _EventData


_PAYMENT = msgspec.json.Decoder(_Payment)
_FAILURE = msgspec.json.Decoder(_Failure)
_EVENT = msgspec.json.Decoder(_Event)

_UNSUPPORTED = Charge(ChargeState.DECLINED, reason="currency_unsupported")


class TossProvider:
    """One a process. Raises NotReached and NoReply as `ProviderClient` says."""

    name = "toss"
    methods = frozenset(Method)

    def __init__(self, credentials: Credentials, policy: WirePolicy | None = None) -> None:
        key = b64encode(f"{credentials.secret}:".encode()).decode()
        headers = {"Authorization": f"Basic {key}", "Content-Type": "application/json"}
        self._wire = Wire(credentials.url, headers, policy)

    async def charge(self, asked: Attempt) -> Charge:
        if asked.currency != CURRENCY:
            return _UNSUPPORTED
        wanted = {"paymentKey": asked.token, "orderId": asked.order, "amount": asked.amount}
        reply = await self._post("/v1/payments/confirm", wanted, key=asked.attempt)
        if reply.status == 200:
            return _charge(reply.read(_PAYMENT), asked)
        failure = reply.read(_FAILURE)
        if failure.code in LOOKED_UP:
            return await self.find(asked)
        return _declined(failure, reply.status)

    async def find(self, asked: Attempt) -> Charge:
        payment = await self._payment_of(asked)
        return UNKNOWN if payment is None else _charge(payment, asked)

    async def void(self, asked: Attempt) -> Charge:
        # Nothing can be taken back before it was approved: it runs out by itself, and then says so.
        return await self.find(asked)

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        payment = await self._payment_of(asked)
        if payment is None or payment.order_id != asked.order:
            return False
        if any(_is_of(cancel, key) for cancel in payment.cancels or ()):
            return True
        wanted = {"cancelReason": _cancel_reason(key), "cancelAmount": amount}
        reply = await self._post(f"/v1/payments/{payment.payment_key}/cancel", wanted, key=key)
        return reply.status == 200 and any(_is_of(cancel, key) for cancel in reply.read(_PAYMENT).cancels or ())

    def read_event(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> ProviderEvent | None:
        event_id = headers.get("tosspayments-webhook-transmission-id", "")
        if not event_id or len(event_id) > 200 or not event_id.isascii():
            raise SignatureInvalid
        require_recent(_moment_s(headers.get("tosspayments-webhook-transmission-time", "")), now_s)
        event = read_json(raw, _EVENT)
        if event.event_type != "PAYMENT_STATUS_CHANGED":
            return None
        if not event.data.order_id:
            raise EventUnreadable
        return ProviderEvent(event_id, event.event_type, order=event.data.order_id)

    async def close(self) -> None:
        await self._wire.close()

    async def _payment_of(self, asked: Attempt) -> _Payment | None:
        # With the key at hand it is this very try; else the one payment of the order that was approved.
        path = quote(asked.token, safe="") if asked.token else f"orders/{asked.order}"
        reply = await self._wire.get(f"/v1/payments/{path}")
        return reply.read(_PAYMENT) if reply.status == 200 else None

    async def _post(self, path: str, wanted: Mapping[str, object], *, key: str) -> Reply:
        return await self._wire.post(path, msgspec.json.encode(wanted), {"Idempotency-Key": key})


def _charge(payment: _Payment, asked: Attempt) -> Charge:
    if payment.order_id != asked.order:
        # The key of another order's payment: that one may be paid, this one is not.
        return Charge(ChargeState.DECLINED, reason="rejected")
    amount = (payment.total_amount, payment.currency, payment.payment_key)
    match payment.status:
        case "DONE" | "PARTIAL_CANCELED":
            return Charge(ChargeState.CAPTURED, "", False, *amount)
        case "CANCELED":
            return Charge(ChargeState.DECLINED, "reversed", False, *amount)
        case "EXPIRED":
            return Charge(ChargeState.DECLINED, "timeout", True, *amount)
        case "ABORTED":
            code = payment.failure.code if payment.failure is not None else ""
            reason, is_retryable = REASONS.get(code, ("declined", True))
            return Charge(ChargeState.DECLINED, reason, is_retryable, *amount)
        case _:
            # Ready, in progress, or a state that Toss has invented since.
            return UNKNOWN


def _declined(failure: _Failure, status: int) -> Charge:
    if failure.code in REASONS:
        return Charge(ChargeState.DECLINED, *REASONS[failure.code])
    # 401 and 429 are about us, not about the card.
    if status in (400, 403, 404) and failure.code not in UNDECIDED:
        return Charge(ChargeState.DECLINED, "rejected")
    return UNKNOWN


def _cancel_reason(key: str) -> str:
    return f"refund {key}"


def _is_of(cancel: _Cancel, key: str) -> bool:
    return cancel.cancel_reason == _cancel_reason(key) and cancel.cancel_status == "DONE"


def _moment_s(text: str) -> float:
    """Never, for what is no time with a zone."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo is not None else NEVER_S
    except (ValueError, OverflowError):
        return NEVER_S
