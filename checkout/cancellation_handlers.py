"""Cancelling a sale over HTTP, for operators: the sum first, then whoever names it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from onsale.auth.middleware import require
from onsale.auth.requests import body, body_digest, idempotency_key, reply, require_no_query, rfc3339
from onsale.auth.roles import OPERATORS
from onsale.checkout.cancellations import Cancellation, CancellationState, Part, SaleCancellations
from onsale.checkout.handlers import REPLAYED
from onsale.checkout.schemas import Money

CANCELLATIONS = web.AppKey("sale_cancellations", SaleCancellations)


class SaleCancelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`refunds`: what is to be given back, as GET shows it under `open`."""

    refunds: Annotated[tuple[Money, ...], msgspec.Meta(max_length=16)]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)] | None = None


class PartReply(msgspec.Struct, frozen=True):
    """Orders, and what was paid for them."""

    orders: int
    amounts: list[Money]


class CancellationReply(msgspec.Struct, frozen=True, kw_only=True):
    """A sale as its cancellation finds it. `open`: to be cancelled and given back in full; `waiting`: not bought yet,
    they end by themselves; `kept`: shipped, delivered, redeemed or on their way back; `cancelled`: done."""

    sale: str
    state: CancellationState
    is_closed: bool
    asked_at: str | None
    open: PartReply
    waiting: PartReply
    kept: PartReply
    cancelled: PartReply
    refunded: list[Money]


CANCEL_SALE = msgspec.json.Decoder(SaleCancelRequest)


async def show_cancellation(request: web.Request) -> web.Response:
    """GET /v1/sales/{sale}/cancellation"""
    await require(request, *OPERATORS)
    require_no_query(request)
    return reply(200, cancellation_reply(await request.app[CANCELLATIONS].of(request.match_info["sale"])))


async def cancel_sale(request: web.Request) -> web.Response:
    """POST /v1/sales/{sale}/cancellation"""
    operator = await require(request, *OPERATORS)
    require_no_query(request)
    sale, key = request.match_info["sale"], idempotency_key(request)
    asked = await body(request, CANCEL_SALE)
    seen = {money.currency: money.amount for money in asked.refunds}
    is_replay = await request.app[CANCELLATIONS].start(
        sale, seen, actor=operator.account, key=key, digest=body_digest(asked), reason=asked.reason
    )
    found = await request.app[CANCELLATIONS].of(sale)
    return reply(202, cancellation_reply(found), REPLAYED if is_replay else None)


def cancellation_reply(found: Cancellation) -> CancellationReply:
    """As operators see it."""
    return CancellationReply(
        sale=found.sale,
        state=found.state,
        is_closed=found.is_closed,
        asked_at=None if found.asked_at is None else rfc3339(round(found.asked_at.timestamp() * 1000)),
        open=_part(found.open),
        waiting=_part(found.waiting),
        kept=_part(found.kept),
        cancelled=_part(found.cancelled),
        refunded=_money(found.refunded),
    )


def _part(part: Part) -> PartReply:
    return PartReply(part.orders, _money(part.amounts))


def _money(amounts: dict[str, int]) -> list[Money]:
    return [Money(amount, currency) for currency, amount in amounts.items()]
