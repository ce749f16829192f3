"""The adapter of Stripe: Payment Intents, made first and confirmed second, both under keys of the attempt.

https://docs.stripe.com/api/payment_intents, /refunds, /idempotent_requests, /webhooks/signature. Making an intent moves
no money and answers the same intent for a day, so an attempt whose answer was lost is found by making it again; after
that day by the attempt's id in its metadata. A void cancels the intent: whatever confirms it later is refused. `token`
is a PaymentMethod (`pm_…`) that the page made; a card that wants its holder to act is declined, and may be tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec

from onsale.checkout.ports import Attempt, Charge, ChargeState, Method, ProviderEvent
from onsale.checkout.providers import UNKNOWN
from onsale.checkout.providers.credentials import Credentials
from onsale.checkout.providers.signatures import read_json, verify_stripe
from onsale.checkout.providers.wire import Reply, Wire, WirePolicy

URL = "https://api.stripe.com"
# Fields are read as they were in this version, whatever the account's default becomes.
VERSION = "2024-06-20"
# Where Stripe counts another minor unit than ISO 4217: an amount would be a hundred times too large or too small.
CURRENCIES_REFUSED = frozenset({"ISK", "MGA", "UGX"})
# What became of the card, in our words, and whether another try may help. Anything else is "declined", and may.
REASONS: Mapping[str, tuple[str, bool]] = {
    "insufficient_funds": ("funds", True),
    "expired_card": ("card_expired", True),
    "card_velocity_exceeded": ("limit", True),
    "withdrawal_count_limit_exceeded": ("limit", True),
    "authentication_required": ("authentication_required", True),
    "processing_error": ("provider", True),
    "fraudulent": ("refused", False),
    "lost_card": ("refused", False),
    "stolen_card": ("refused", False),
    "pickup_card": ("refused", False),
}


class _Error(msgspec.Struct, frozen=True):
    type: str
    code: str | None = None
    decline_code: str | None = None


class _Intent(msgspec.Struct, frozen=True):
    """A PaymentIntent, as far as it concerns us."""

    id: str
    status: str
    amount: int
    currency: str
    amount_received: int = 0
    metadata: dict[str, str] = {}
    last_payment_error: _Error | None = None


class _Failure(msgspec.Struct, frozen=True):
    error: _Error


class _Intents(msgspec.Struct, frozen=True):
    data: tuple[_Intent, ...]


class _Refund(msgspec.Struct, frozen=True):
    id: str
    status: str
    metadata: dict[str, str] = {}


class _Refunds(msgspec.Struct, frozen=True):
    data: tuple[_Refund, ...]


class _Object(msgspec.Struct, frozen=True):
    object: str = ""
    metadata: dict[str, str] = {}


class _Data(msgspec.Struct, frozen=True):
    object: _Object


class _Event(msgspec.Struct, frozen=True):
    id: str
    type: str
    data: _Data


_INTENT = msgspec.json.Decoder(_Intent)
_INTENTS = msgspec.json.Decoder(_Intents)
_REFUND = msgspec.json.Decoder(_Refund)
_REFUNDS = msgspec.json.Decoder(_Refunds)
_FAILURE = msgspec.json.Decoder(_Failure)
_EVENT = msgspec.json.Decoder(_Event)

_UNSUPPORTED = Charge(ChargeState.DECLINED, reason="currency_unsupported")
_REJECTED = Charge(ChargeState.DECLINED, reason="rejected")
_CANCELLED = Charge(ChargeState.DECLINED, reason="timeout", retryable=True)


class StripeProvider:
    """One a process. Raises NotReached and NoReply as `ProviderClient` says."""

    name = "stripe"
    # Apple Pay, Google Pay and Link arrive as PaymentMethods too.
    methods = frozenset({Method.CARD, Method.WALLET})

    def __init__(self, credentials: Credentials, policy: WirePolicy | None = None) -> None:
        self._webhook_secrets = credentials.webhook_secrets
        headers = {
            "Authorization": f"Bearer {credentials.secret}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Stripe-Version": VERSION,
        }
        self._wire = Wire(credentials.url, headers, policy)

    async def charge(self, asked: Attempt) -> Charge:
        if asked.currency in CURRENCIES_REFUSED:
            return _UNSUPPORTED
        made = await self._make(asked)
        if isinstance(made, Charge):
            return made
        confirmation = {"payment_method": asked.token, "error_on_requires_action": "true"}
        reply = await self._post(f"/v1/payment_intents/{made.id}/confirm", confirmation, key=f"{asked.attempt}-confirm")
        if reply.status == 200:
            return _charge(reply.read(_INTENT))
        error = _error(reply)
        if error.type == "card_error":
            return _declined(error, made)
        # Made before under another key, or cancelled: how the intent stands says it.
        if error.code == "payment_intent_unexpected_state":
            return _charge(await self._intent(made.id))
        return _REJECTED if reply.status == 400 and error.type == "invalid_request_error" else UNKNOWN

    async def find(self, asked: Attempt) -> Charge:
        found = await self._find(asked)
        return found if isinstance(found, Charge) else _charge(found)

    async def void(self, asked: Attempt) -> Charge:
        found = await self._find(asked)
        if isinstance(found, Charge):
            return found
        reply = await self._post(f"/v1/payment_intents/{found.id}/cancel", {}, key=f"{asked.attempt}-void")
        return _charge(reply.read(_INTENT) if reply.status == 200 else await self._intent(found.id))

    async def refund(self, asked: Attempt, *, key: str, amount: int, currency: str) -> bool:
        found = await self._find(asked)
        if isinstance(found, Charge):
            return False
        reply = await self._wire.get("/v1/refunds?" + urlencode({"payment_intent": found.id, "limit": 100}))
        done = next((one for one in reply.read(_REFUNDS).data if one.metadata.get("key") == key), None)
        if done is None:
            wanted = {"payment_intent": found.id, "amount": str(amount), "metadata[key]": key}
            reply = await self._post("/v1/refunds", wanted, key=key)
            if reply.status != 200:
                return False
            done = reply.read(_REFUND)
        return done.status in ("succeeded", "pending")

    def read_event(self, headers: Mapping[str, str], raw: bytes, now_s: float) -> ProviderEvent | None:
        verify_stripe(headers, raw, self._webhook_secrets, now_s)
        event = read_json(raw, _EVENT)
        attempt = event.data.object.metadata.get("attempt", "")
        return ProviderEvent(event.id, event.type, attempt=attempt) if attempt else None

    async def close(self) -> None:
        await self._wire.close()

    async def _find(self, asked: Attempt) -> _Intent | Charge:
        """The attempt's intent as it is now, or what is to be said where there can be none."""
        if asked.currency in CURRENCIES_REFUSED:
            return _UNSUPPORTED
        query = urlencode({"query": f"metadata['attempt']:'{asked.attempt}'", "limit": 1})
        found = (await self._wire.get(f"/v1/payment_intents/search?{query}")).read(_INTENTS).data
        if found:
            return await self._intent(found[0].id)
        # Not searchable yet, or never made: then it is made now, and moves no money.
        made = await self._make(asked)
        return made if isinstance(made, Charge) else await self._intent(made.id)

    async def _make(self, asked: Attempt) -> _Intent | Charge:
        wanted = {
            "amount": str(asked.amount),
            "currency": asked.currency.lower(),
            "payment_method_types[]": "card",
            "metadata[attempt]": asked.attempt,
            "metadata[order]": asked.order,
        }
        reply = await self._post("/v1/payment_intents", wanted, key=asked.attempt)
        if reply.status == 200:
            return reply.read(_INTENT)
        # Too small an amount, a currency the account does not take: no intent, no money, now or later.
        return _REJECTED if reply.status == 400 and _error(reply).type == "invalid_request_error" else UNKNOWN

    async def _intent(self, intent: str) -> _Intent:
        return (await self._wire.get(f"/v1/payment_intents/{intent}")).read(_INTENT)

    async def _post(self, path: str, wanted: Mapping[str, str], *, key: str) -> Reply:
        return await self._wire.post(path, urlencode(wanted).encode(), {"Idempotency-Key": key})


def _charge(intent: _Intent) -> Charge:
    if intent.status == "succeeded":
        return Charge(
            ChargeState.CAPTURED,
            amount=intent.amount_received,
            currency=intent.currency.upper(),
            reference=intent.id,
        )
    if intent.status == "canceled":
        return _CANCELLED
    # Back to asking for a card after one was declined; without an error none was tried yet.
    if intent.status == "requires_payment_method" and intent.last_payment_error is not None:
        return _declined(intent.last_payment_error, intent)
    return UNKNOWN


def _declined(error: _Error, intent: _Intent) -> Charge:
    reason, is_retryable = REASONS.get(error.decline_code or "") or REASONS.get(error.code or "") or ("declined", True)
    return Charge(ChargeState.DECLINED, reason, is_retryable, intent.amount, intent.currency.upper(), intent.id)


def _error(reply: Reply) -> _Error:
    # A refusal that cannot be read says nothing.
    return reply.read(_FAILURE).error
