"""Checkout over HTTP: decode, one call, encode. Errors rise; they are answered as problems elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from onsale.auth.errors import Unauthenticated
from onsale.auth.identifiers import sale_no_of
from onsale.auth.middleware import Identity, identity, require
from onsale.auth.requests import (
    PAGE_LIMIT_DEFAULT,
    body,
    body_digest,
    body_or,
    idempotency_key,
    page_limit,
    query,
    reply,
    require_no_query,
)
from onsale.auth.roles import OPERATORS
from onsale.catalog.handlers import BOOK
from onsale.catalog.sales import Sale
from onsale.checkout.aftersale import AfterSale, Asking
from onsale.checkout.documents import DOC, sale_of
from onsale.checkout.flow import CheckoutFlow
from onsale.checkout.inventory import Held
from onsale.checkout.orders import Page
from onsale.checkout.reads import Reads, order_reply
from onsale.checkout.schemas import (
    AMEND,
    CANCEL,
    CONFIRM,
    ORDER,
    RESERVE,
    CancelRequest,
    EventReply,
    PaymentList,
    StockReply,
)
from onsale.checkout.states import OrderState
from onsale.checkout.stock import StockBoard
from onsale.checkout.webhooks import Inbox

AFTER_SALE = web.AppKey("after_sale", AfterSale)
FLOW = web.AppKey("checkout_flow", CheckoutFlow)
READS = web.AppKey("checkout_reads", Reads)
STOCK = web.AppKey("stock_board", StockBoard)
INBOX = web.AppKey("provider_inbox", Inbox)

# A confirmation that is still running: the completer looks again within seconds.
CONFIRMING_RETRY_S = 2
REPLAYED = {"Idempotency-Replayed": "true"}


async def reserve(request: web.Request) -> web.Response:
    """POST /v1/sales/{sale}/orders"""
    require_no_query(request)
    sale = request.app[BOOK].get(request.match_info["sale"])
    buyer = await _buyer(request, sale)
    key = idempotency_key(request)
    wanted = await body(request, RESERVE)
    held = await request.app[FLOW].reserve(sale.id, buyer, request.headers.get("Admission-Pass", ""), wanted, key)
    return _held(held)


async def order(request: web.Request) -> web.Response:
    """POST /v1/orders"""
    require_no_query(request)
    buyer = (await identity(request)).account
    key = idempotency_key(request)
    wanted = await body(request, ORDER)
    return _held(await request.app[FLOW].order(buyer, wanted, key))


async def confirm(request: web.Request) -> web.Response:
    """POST /v1/orders/{order}/confirmation"""
    require_no_query(request)
    order = request.match_info["order"]
    buyer = await _buyer(request, sale_of(request.app[BOOK], order))
    key = idempotency_key(request)
    wanted = await body(request, CONFIRM)
    confirmation = await request.app[FLOW].confirm(buyer, order, wanted.payment, key)
    answer = await request.app[READS].confirmed(confirmation)
    headers = dict(REPLAYED) if confirmation.is_replay else {}
    if answer.state == OrderState.CONFIRMING:
        return reply(202, answer, {"Retry-After": str(CONFIRMING_RETRY_S), **headers})
    return reply(200, answer, headers)


async def show(request: web.Request) -> web.Response:
    """GET /v1/orders/{order}"""
    require_no_query(request)
    order = request.match_info["order"]
    buyer = await _buyer(request, sale_of(request.app[BOOK], order))
    return reply(200, await request.app[READS].order(buyer, order), {"Cache-Control": "no-store"})


async def payments(request: web.Request) -> web.Response:
    """GET /v1/orders/{order}/payments"""
    require_no_query(request)
    order = request.match_info["order"]
    asker = await _asker(request, sale_of(request.app[BOOK], order))
    # Whose orders a manager sees in a sale's list, their payments too.
    buyer = None if asker.role in OPERATORS else asker.account
    return reply(200, PaymentList(await request.app[READS].payments(buyer, order)), {"Cache-Control": "no-store"})


async def release(request: web.Request) -> web.Response:
    """DELETE /v1/orders/{order}"""
    require_no_query(request)
    order = request.match_info["order"]
    buyer = await _buyer(request, sale_of(request.app[BOOK], order))
    await request.app[READS].release(buyer, order)
    return web.Response(status=204)


async def amend(request: web.Request) -> web.Response:
    """PATCH /v1/orders/{order}"""
    require_no_query(request)
    order = request.match_info["order"]
    buyer = await _buyer(request, sale_of(request.app[BOOK], order))
    wanted = await body(request, AMEND)
    await request.app[FLOW].amend(buyer, order, request.headers.get("Admission-Pass", ""), wanted)
    return reply(200, await request.app[READS].order(buyer, order), {"Cache-Control": "no-store"})


async def cancel(request: web.Request) -> web.Response:
    """POST /v1/orders/{order}/cancellation"""
    asking = await _asking(request)
    return await _after_sale(request, asking, is_replay=await request.app[AFTER_SALE].cancel(asking))


async def send_back(request: web.Request) -> web.Response:
    """POST /v1/orders/{order}/return"""
    asking = await _asking(request)
    return await _after_sale(request, asking, is_replay=await request.app[AFTER_SALE].request_return(asking))


async def mine(request: web.Request) -> web.Response:
    """GET /v1/orders"""
    asker = await identity(request)
    page = _page(query(request, **_FILTERS, sale=str))
    return reply(200, await request.app[READS].page(asker.account, page), {"Cache-Control": "no-store"})


async def of_sale(request: web.Request) -> web.Response:
    """GET /v1/sales/{sale}/orders"""
    await require(request, *OPERATORS)
    page = _page(query(request, **_FILTERS, buyer=str))
    found = await request.app[READS].sale_page(request.match_info["sale"], page)
    return reply(200, found, {"Cache-Control": "no-store"})


async def stock(request: web.Request) -> web.Response:
    """GET /v1/products/{product}/stock"""
    require_no_query(request)
    free = await request.app[STOCK].free(request.match_info["product"])
    return reply(200, StockReply(free), {"Cache-Control": "public, max-age=1"})


def _held(held: Held) -> web.Response:
    order = order_reply(DOC.decode(held.doc), OrderState.RESERVED, held.expires_at_ms, is_recorded=False)
    headers = {"Location": f"/v1/orders/{held.order}", **(REPLAYED if held.is_replay else {})}
    return reply(201, order, headers)


async def _asking(request: web.Request) -> Asking:
    require_no_query(request)
    order = request.match_info["order"]
    buyer = await _buyer(request, sale_of(request.app[BOOK], order))
    key = idempotency_key(request)
    wanted: CancelRequest = await body_or(request, CANCEL, CancelRequest())
    return Asking(buyer, order, key, body_digest(wanted))


async def _after_sale(request: web.Request, asking: Asking, *, is_replay: bool) -> web.Response:
    order = await request.app[READS].order(asking.buyer, asking.order)
    return reply(200, order, REPLAYED if is_replay else {})


async def provider_event(request: web.Request) -> web.Response:
    """POST /v1/provider-events/{provider}"""
    require_no_query(request)
    raw = await request.read()
    await request.app[INBOX].receive(request.match_info["provider"], request.headers, raw, time.time())
    return reply(200, EventReply(received=True))


async def buyer_of(request: web.Request) -> str:
    """Who asks for the order in the path: an account, or where its sale allows guests the holder of a ticket."""
    return await _buyer(request, sale_of(request.app[BOOK], request.match_info["order"]))


async def _buyer(request: web.Request, sale: Sale) -> str:
    """Who buys: an account, or where the sale allows guests the holder of a ticket."""
    return (await _asker(request, sale)).account


async def _asker(request: web.Request, sale: Sale) -> Identity:
    asker: Identity = await identity(request, by_ticket=True)
    if asker.ticket and not sale.guests:
        raise Unauthenticated
    return asker


def _cursor(text: str) -> str:
    sale_no_of(text)
    return text


def _moment_ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no zone")
    # In UTC the first and last years' days may not exist.
    return int(moment.astimezone(UTC).timestamp() * 1000)


_FILTERS: Mapping[str, Any] = {
    "limit": page_limit,
    "cursor": _cursor,
    "state": OrderState,
    "from": _moment_ms,
    "to": _moment_ms,
}


def _page(asked: dict[str, Any]) -> Page:
    return Page(
        limit=asked.get("limit", PAGE_LIMIT_DEFAULT),
        after=asked.get("cursor"),
        state=asked.get("state"),
        sale=asked.get("sale"),
        buyer=asked.get("buyer"),
        from_ms=asked.get("from"),
        to_ms=asked.get("to"),
    )
