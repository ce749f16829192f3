"""Stripe, Toss Payments and PortOne as their documents describe them, each a real HTTP server that keeps books.

What is paid with says what happens: `ok`; `funds`, `expired`, `limit`, `stolen` (declined); `more` (takes one too
many); `lost` (takes the money, then breaks off, once); `hang` (takes the money, then never answers, once); `silent`
(never answers, takes nothing); `broken` (500, takes nothing, once).
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

Body = dict[str, Any]
Answer = tuple[int, Body]
BODY = web.RequestKey("body", dict[str, Any])
# How the connection is to end: lost, hang.
ENDING = web.RequestKey("ending", str)


@dataclass
class Entry:
    """One payment in a fake's books."""

    id: str
    amount: int
    currency: str
    order: str = ""
    attempt: str = ""
    status: str = "new"
    code: str = ""
    # key -> amount
    refunds: dict[str, int] = field(default_factory=dict)

    @property
    def refunded(self) -> int:
        return sum(self.refunds.values())


@dataclass
class Call:
    """One request as it came in."""

    method: str
    path: str
    key: str
    body: Body


class Fake:
    """What the three share: books, idempotency keys, a log of calls, and how a connection may end."""

    key_quoted = False

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.calls: list[Call] = []
        self.numbers = itertools.count(1)
        self._answers: dict[tuple[str, str], tuple[Body, Answer]] = {}
        # Behaviours that happen once: by what was asked.
        self._done: set[tuple[str, str]] = set()
        self.app = web.Application(middlewares=[self._log])
        self.app.on_shutdown.append(self._end)
        self._ending = asyncio.Event()

    def captured(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.status == "captured"]

    def is_first(self, behaviour: str, subject: str) -> bool:
        known = (behaviour, subject) in self._done
        self._done.add((behaviour, subject))
        return not known

    async def silence(self) -> None:
        """Say nothing as long as the server lives."""
        await self._ending.wait()
        raise ConnectionResetError

    async def keyed(self, request: web.Request, body: Body, key_reused: Answer, make: Any) -> web.Response:
        """Answer a key as it was answered first; another body under it is refused."""
        slot = (request.path, request.headers.get("Idempotency-Key", ""))
        assert slot[1], "every call that moves money has a key"
        known = self._answers.get(slot)
        if known is not None:
            return answered(known[1] if known[0] == body else key_reused)
        answer: Answer = await make()
        self._answers[slot] = (body, answer)
        return answered(answer)

    @web.middleware
    async def _log(self, request: web.Request, handler: Any) -> web.StreamResponse:
        raw = await request.read()
        is_form = request.content_type == "application/x-www-form-urlencoded"
        body = dict(parse_qsl(raw.decode())) if is_form else json.loads(raw or b"{}")
        request[BODY] = body
        key = request.headers.get("Idempotency-Key", "")
        assert self.key_quoted == (key[:1] == '"') or not key
        self.calls.append(Call(request.method, request.path, key.strip('"'), body))
        refused = self.refused(request)
        if refused is not None:
            return answered(refused)
        response: web.StreamResponse = await handler(request)
        if request.get(ENDING) == "lost":
            assert request.transport is not None
            request.transport.abort()
        if request.get(ENDING) == "hang":
            await self.silence()
        return response

    def refused(self, request: web.Request) -> Answer | None:
        """What is said to whoever is not the shop."""
        raise NotImplementedError

    async def _end(self, _: web.Application) -> None:
        self._ending.set()

    async def behave(self, request: web.Request, behaviour: str, subject: str) -> Answer | None:
        """What happens before or after the money moves; an answer where none does."""
        if behaviour == "silent":
            await self.silence()
        if behaviour == "broken" and self.is_first(behaviour, subject):
            return 500, {"message": "out of order"}
        if behaviour in ("lost", "hang") and self.is_first(behaviour, subject):
            request[ENDING] = behaviour
        return None


def answered(answer: Answer) -> web.Response:
    return web.json_response(answer[1], status=answer[0])


# What an issuer says, by behaviour.
STRIPE_DECLINES = {"funds": "insufficient_funds", "limit": "card_velocity_exceeded", "stolen": "stolen_card"}
KOREAN_DECLINES = {
    "funds": "NOT_ENOUGH_BALANCE", "expired": "INVALID_CARD_EXPIRATION", "limit": "EXCEED_MAX_AMOUNT",
    "stolen": "INVALID_CARD_LOST_OR_STOLEN",
}  # fmt: skip


class FakeStripe(Fake):
    """https://docs.stripe.com/api: form in, JSON out, `Authorization: Bearer`."""

    secret = "sk_test_1"

    def __init__(self) -> None:
        super().__init__()
        # New intents cannot be searched for at once.
        self.is_searchable = True
        routes = self.app.router
        routes.add_post("/v1/payment_intents", self.make)
        routes.add_get("/v1/payment_intents/search", self.search)
        routes.add_get("/v1/payment_intents/{id}", self.show)
        routes.add_post("/v1/payment_intents/{id}/confirm", self.confirm)
        routes.add_post("/v1/payment_intents/{id}/cancel", self.cancel)
        routes.add_post("/v1/refunds", self.refund)
        routes.add_get("/v1/refunds", self.refunds)

    def refused(self, request: web.Request) -> Answer | None:
        if request.headers.get("Authorization") != f"Bearer {self.secret}":
            return 401, {"error": {"type": "invalid_request_error", "message": "Invalid API Key provided"}}
        return None

    async def make(self, request: web.Request) -> web.Response:
        body = request[BODY]

        async def make() -> Answer:
            if int(body["amount"]) < 1:
                return 400, {"error": {"type": "invalid_request_error", "code": "amount_too_small"}}
            entry = Entry(f"pi_{next(self.numbers)}", int(body["amount"]), body["currency"])
            entry.order, entry.attempt = body["metadata[order]"], body["metadata[attempt]"]
            self.entries[entry.id] = entry
            return 200, self.intent(entry)

        reused = 400, {"error": {"type": "idempotency_error", "message": "Keys for idempotent requests …"}}
        return await self.keyed(request, body, reused, make)

    async def confirm(self, request: web.Request) -> web.Response:
        entry, body = self.entries[request.match_info["id"]], request[BODY]

        async def confirm() -> Answer:
            if entry.status in ("captured", "canceled"):
                return 400, self.error("invalid_request_error", entry, code="payment_intent_unexpected_state")
            behaviour = body["payment_method"].removeprefix("pm_")
            assert body["error_on_requires_action"] == "true"
            if (early := await self.behave(request, behaviour, entry.id)) is not None:
                return early
            if behaviour == "expired":
                return self.decline(entry, "expired_card", "expired_card")
            if behaviour == "authentication":
                return self.decline(entry, "authentication_required", "authentication_required")
            if behaviour in STRIPE_DECLINES:
                return self.decline(entry, "card_declined", STRIPE_DECLINES[behaviour])
            entry.status = "captured"
            entry.amount += behaviour == "more"
            return 200, self.intent(entry)

        reused = 400, {"error": {"type": "idempotency_error"}}
        if request[BODY].get("payment_method") == "pm_broken" and self.is_first("broken", entry.id):
            return answered((500, {"error": {"type": "api_error"}}))
        return await self.keyed(request, body, reused, confirm)

    def decline(self, entry: Entry, code: str, decline_code: str) -> Answer:
        entry.status, entry.code = "declined", decline_code
        return 402, self.error("card_error", entry, code=code, decline_code=decline_code)

    async def search(self, request: web.Request) -> web.Response:
        query = request.query["query"]
        found = [
            e for e in self.entries.values() if self.is_searchable and query == f"metadata['attempt']:'{e.attempt}'"
        ]
        return answered((200, {"object": "search_result", "data": [self.intent(entry) for entry in found]}))

    async def show(self, request: web.Request) -> web.Response:
        return answered((200, self.intent(self.entries[request.match_info["id"]])))

    async def cancel(self, request: web.Request) -> web.Response:
        entry = self.entries[request.match_info["id"]]

        async def cancel() -> Answer:
            if entry.status == "captured":
                return 400, self.error("invalid_request_error", entry, code="payment_intent_unexpected_state")
            entry.status = "canceled"
            return 200, self.intent(entry)

        return await self.keyed(request, request[BODY], (400, {"error": {"type": "idempotency_error"}}), cancel)

    async def refund(self, request: web.Request) -> web.Response:
        body = request[BODY]
        entry = self.entries[body["payment_intent"]]

        async def refund() -> Answer:
            amount = int(body["amount"])
            if entry.status != "captured" or entry.refunded + amount > entry.amount:
                return 400, self.error("invalid_request_error", entry, code="charge_already_refunded")
            entry.refunds[body["metadata[key]"]] = amount
            return 200, self.refund_body(entry, body["metadata[key]"])

        return await self.keyed(request, body, (400, {"error": {"type": "idempotency_error"}}), refund)

    async def refunds(self, request: web.Request) -> web.Response:
        entry = self.entries[request.query["payment_intent"]]
        return answered((200, {"object": "list", "data": [self.refund_body(entry, key) for key in entry.refunds]}))

    def refund_body(self, entry: Entry, key: str) -> Body:
        return {"id": f"re_{key}", "object": "refund", "amount": entry.refunds[key], "status": "succeeded",
                "payment_intent": entry.id, "metadata": {"key": key}}  # fmt: skip

    def error(self, kind: str, entry: Entry, **more: str) -> Body:
        return {"error": {"type": kind, "message": "…", "payment_intent": self.intent(entry), **more}}

    def intent(self, entry: Entry) -> Body:
        statuses = {"new": "requires_payment_method", "declined": "requires_payment_method", "captured": "succeeded"}
        failure = {"type": "card_error", "code": "card_declined", "decline_code": entry.code} if entry.code else None
        return {
            "id": entry.id, "object": "payment_intent", "amount": entry.amount, "currency": entry.currency,
            "amount_received": entry.amount if entry.status == "captured" else 0, "livemode": False,
            "status": statuses.get(entry.status, entry.status), "last_payment_error": failure,
            "metadata": {"attempt": entry.attempt, "order": entry.order}, "client_secret": f"{entry.id}_secret",
        }  # fmt: skip

    def event(self, entry: Entry, event_id: str) -> Body:
        return {"id": event_id, "object": "event", "type": "payment_intent.succeeded",
                "data": {"object": self.intent(entry)}}  # fmt: skip


class FakeToss(Fake):
    """https://docs.tosspayments.com/reference: JSON, Basic authorization, one approved payment an orderId."""

    secret = "test_sk_1"

    def __init__(self) -> None:
        super().__init__()
        routes = self.app.router
        routes.add_post("/v1/payments/confirm", self.confirm)
        routes.add_get("/v1/payments/orders/{order}", self.by_order)
        routes.add_get("/v1/payments/{key}", self.show)
        routes.add_post("/v1/payments/{key}/cancel", self.cancel)

    def refused(self, request: web.Request) -> Answer | None:
        expected = "Basic " + base64.b64encode(f"{self.secret}:".encode()).decode()
        if request.headers.get("Authorization") != expected:
            return 401, {"code": "UNAUTHORIZED_KEY", "message": "인증되지 않은 시크릿 키 혹은 클라이언트 키 입니다."}
        return None

    def authenticate(self, order: str, amount: int, behaviour: str) -> str:
        """What the page does before: the buyer agrees to a payment of an order, and gets its key."""
        key = f"tgen_{next(self.numbers)}_{behaviour}"
        self.entries[key] = Entry(key, amount, "KRW", order, status="new")
        return key

    async def confirm(self, request: web.Request) -> web.Response:
        body = request[BODY]
        entry = self.entries.get(body["paymentKey"])
        behaviour = body["paymentKey"].rpartition("_")[2]
        if behaviour == "broken" and self.is_first("broken", body["paymentKey"]):
            return answered((500, {"code": "FAILED_INTERNAL_SYSTEM_PROCESSING", "message": "…"}))

        async def confirm() -> Answer:
            if entry is None or (entry.order, entry.amount) != (body["orderId"], body["amount"]):
                return 404, {"code": "NOT_FOUND_PAYMENT_SESSION", "message": "결제 시간이 만료되어 …"}
            if entry.status != "new":
                return 400, {"code": "ALREADY_PROCESSED_PAYMENT", "message": "이미 처리된 결제 입니다."}
            if (early := await self.behave(request, behaviour, entry.id)) is not None:
                return early
            if behaviour in KOREAN_DECLINES:
                entry.status, entry.code = "declined", KOREAN_DECLINES[behaviour]
                return 403, {"code": entry.code, "message": "…"}
            entry.status = "captured"
            entry.amount += behaviour == "more"
            return 200, self.payment(entry)

        return await self.keyed(request, body, (400, {"code": "INVALID_IDEMPOTENCY_KEY", "message": "…"}), confirm)

    async def show(self, request: web.Request) -> web.Response:
        entry = self.entries.get(request.match_info["key"])
        return answered((200, self.payment(entry)) if entry else NO_PAYMENT)

    async def by_order(self, request: web.Request) -> web.Response:
        of_order = [entry for entry in self.entries.values() if entry.order == request.match_info["order"]]
        found = next((entry for entry in of_order if entry.status == "captured"), of_order[-1] if of_order else None)
        return answered((200, self.payment(found)) if found else NO_PAYMENT)

    async def cancel(self, request: web.Request) -> web.Response:
        entry, body = self.entries[request.match_info["key"]], request[BODY]

        async def cancel() -> Answer:
            amount = body.get("cancelAmount", entry.amount - entry.refunded)
            if entry.status != "captured" or entry.refunded == entry.amount:
                return 400, {"code": "ALREADY_CANCELED_PAYMENT", "message": "이미 취소된 결제 입니다."}
            if entry.refunded + amount > entry.amount:
                return 403, {"code": "NOT_CANCELABLE_AMOUNT", "message": "취소 할 수 없는 금액 입니다."}
            entry.refunds[body["cancelReason"]] = amount
            return 200, self.payment(entry)

        return await self.keyed(request, body, (400, {"code": "INVALID_IDEMPOTENCY_KEY", "message": "…"}), cancel)

    def payment(self, entry: Entry) -> Body:
        statuses = {"new": "IN_PROGRESS", "declined": "ABORTED", "captured": "DONE"}
        status = statuses.get(entry.status, entry.status)
        if entry.refunded:
            status = "CANCELED" if entry.refunded == entry.amount else "PARTIAL_CANCELED"
        cancels = [
            {"cancelReason": reason, "cancelAmount": amount, "cancelStatus": "DONE", "transactionKey": f"t_{n}"}
            for n, (reason, amount) in enumerate(entry.refunds.items())
        ]
        return {
            "mId": "tosspayments", "version": "2022-11-16", "paymentKey": entry.id, "orderId": entry.order,
            "orderName": "…", "currency": entry.currency, "method": "카드", "status": status,
            "totalAmount": entry.amount, "balanceAmount": entry.amount - entry.refunded,
            "failure": {"code": entry.code, "message": "…"} if entry.code else None, "cancels": cancels or None,
        }  # fmt: skip

    def event(self, entry: Entry) -> Body:
        now = datetime.now(UTC).isoformat()
        return {"eventType": "PAYMENT_STATUS_CHANGED", "createdAt": now, "data": self.payment(entry)}


NO_PAYMENT: Answer = (404, {"code": "NOT_FOUND_PAYMENT", "message": "존재하지 않는 결제 입니다."})


class FakePortone(Fake):
    """https://developers.portone.io/api/rest-v2: JSON, `Authorization: PortOne`, paymentId chosen by the shop."""

    secret = "portone_secret_1"
    key_quoted = True

    def __init__(self) -> None:
        super().__init__()
        routes = self.app.router
        routes.add_post("/payments/{id}/billing-key", self.pay)
        routes.add_get("/payments/{id}", self.show)
        routes.add_post("/payments/{id}/cancel", self.cancel)

    def refused(self, request: web.Request) -> Answer | None:
        if request.headers.get("Authorization") != f"PortOne {self.secret}":
            return 401, {"type": "UNAUTHORIZED", "message": "unauthorized"}
        return None

    async def pay(self, request: web.Request) -> web.Response:
        payment_id, body = request.match_info["id"], request[BODY]
        behaviour = body["billingKey"].removeprefix("billing-key-")
        if behaviour == "broken" and self.is_first("broken", payment_id):
            return answered((502, {"type": "PG_PROVIDER", "message": "…"}))

        async def pay() -> Answer:
            entry = self.entries.get(payment_id)
            if entry is not None and entry.status == "captured":
                return 409, {"type": "ALREADY_PAID", "message": "…"}
            if behaviour == "unknown":
                return 404, {"type": "BILLING_KEY_NOT_FOUND", "message": "…"}
            entry = Entry(payment_id, body["amount"]["total"], body["currency"], body["orderName"], payment_id)
            if (early := await self.behave(request, behaviour, payment_id)) is not None:
                return early
            self.entries[payment_id] = entry
            if behaviour in KOREAN_DECLINES:
                entry.status, entry.code = "declined", KOREAN_DECLINES[behaviour]
                return 502, {"type": "PG_PROVIDER", "message": "…", "pgCode": entry.code, "pgMessage": "…"}
            entry.status = "captured"
            entry.amount += behaviour == "more"
            return 200, {"payment": {"pgTxId": f"pg_{payment_id}", "paidAt": "2026-11-25T00:00:00Z"}}

        return await self.keyed(request, body, (409, {"type": "IDEMPOTENCY_KEY_REUSED", "message": "…"}), pay)

    async def show(self, request: web.Request) -> web.Response:
        entry = self.entries.get(request.match_info["id"])
        if entry is None:
            return answered((404, {"type": "PAYMENT_NOT_FOUND", "message": "…"}))
        return answered((200, self.payment(entry)))

    async def cancel(self, request: web.Request) -> web.Response:
        entry, body = self.entries[request.match_info["id"]], request[BODY]

        async def cancel() -> Answer:
            left = entry.amount - entry.refunded
            if entry.status != "captured" or left == 0:
                return 409, {"type": "PAYMENT_ALREADY_CANCELLED", "message": "…"}
            if body.get("currentCancellableAmount", left) != left:
                return 409, {"type": "CANCELLABLE_AMOUNT_CONSISTENCY_BROKEN", "message": "…"}
            amount = body.get("amount", left)
            if amount > left:
                return 409, {"type": "CANCEL_AMOUNT_EXCEEDS_CANCELLABLE_AMOUNT", "message": "…"}
            entry.refunds[body["reason"]] = amount
            return 200, {"cancellation": self.cancellation(entry, body["reason"])}

        return await self.keyed(request, body, (409, {"type": "IDEMPOTENCY_KEY_REUSED", "message": "…"}), cancel)

    def cancellation(self, entry: Entry, reason: str) -> Body:
        return {"status": "SUCCEEDED", "id": f"c-{reason}", "totalAmount": entry.refunds[reason], "taxFreeAmount": 0,
                "vatAmount": 0, "reason": reason, "requestedAt": "2026-11-25T00:00:00Z"}  # fmt: skip

    def payment(self, entry: Entry) -> Body:
        statuses = {"declined": "FAILED", "captured": "PAID"}
        status = statuses.get(entry.status, "PENDING")
        if entry.refunded:
            status = "CANCELLED" if entry.refunded == entry.amount else "PARTIAL_CANCELLED"
        paid = entry.amount if entry.status == "captured" else 0
        body: Body = {
            "status": status, "id": entry.id, "transactionId": f"tx-{entry.id}", "merchantId": "m", "storeId": "store",
            "currency": entry.currency, "orderName": entry.order, "version": "V2",
            "amount": {"total": entry.amount, "taxFree": 0, "discount": 0, "paid": paid, "cancelled": entry.refunded,
                       "cancelledTaxFree": 0},
        }  # fmt: skip
        if entry.code:
            body["failure"] = {"reason": "…", "pgCode": entry.code, "pgMessage": "…"}
        if entry.refunds:
            body["cancellations"] = [self.cancellation(entry, reason) for reason in entry.refunds]
        return body

    def event(self, entry: Entry) -> Body:
        data = {"paymentId": entry.id, "transactionId": f"tx-{entry.id}", "storeId": "store"}
        return {"type": "Transaction.Paid", "timestamp": "2026-11-25T00:00:00.000Z", "data": data}
