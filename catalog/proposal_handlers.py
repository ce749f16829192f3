"""Proposing, approving, refusing and editing over HTTP: decode, one call, encode."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from onsale.auth.errors import Flaw, InvalidRequest
from onsale.auth.identity import Identity
from onsale.auth.middleware import require
from onsale.auth.requests import (
    PAGE_LIMIT_DEFAULT,
    body,
    body_or,
    idempotency_key,
    page_limit,
    query,
    reply,
    require_no_query,
)
from onsale.auth.roles import OPERATORS, SELLERS
from onsale.catalog.handlers import BOOK, sale_cursor
from onsale.catalog.moves import move_id
from onsale.catalog.product_handlers import STOCK_CHANGE, VENDORS, move_reply
from onsale.catalog.proposal_schemas import (
    PlanPatch,
    ProposalList,
    ProposalReply,
    ProposalRequest,
    RefusalRequest,
    proposal_reply,
)
from onsale.catalog.proposals import NewProposal, Plan, Proposals
from onsale.catalog.rules import ProposalRules
from onsale.catalog.salefile import SaleFile, moment_ms, new_sale

PROPOSALS = web.AppKey("proposals", Proposals)
RULES = web.AppKey("proposal_rules", ProposalRules)

NEW_SALE = msgspec.json.Decoder(SaleFile)
PLAN = msgspec.json.Decoder(PlanPatch)
PROPOSAL = msgspec.json.Decoder(ProposalRequest)
REFUSAL = msgspec.json.Decoder(RefusalRequest)


async def create_sale(request: web.Request) -> web.Response:
    """POST /v1/sales: an operator's is approved, and open as soon as its clock says so; a vendor's is a proposal."""
    who = await require(request, *SELLERS)
    require_no_query(request)
    sale = await make_sale(request, who, await body(request, NEW_SALE))
    return reply(201, await _shown(request, sale), {"Location": f"/v1/sales/{sale}"})


async def make_sale(request: web.Request, who: Identity, file: SaleFile) -> str:
    """Make an operator's sale, known here when this returns, or propose a vendor's; its id. Raises InvalidRequest and
    what `Proposals.create` raises."""
    new = new_sale(file)
    await request.app[PROPOSALS].create(new, who)
    if who.role in OPERATORS:
        await _make_known(request, new.id)
    return new.id


async def edit_sale(request: web.Request) -> web.Response:
    """PATCH /v1/sales/{sale}"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    plan = _plan(await body(request, PLAN))
    sale = request.match_info["sale"]
    await request.app[PROPOSALS].edit(sale, who, plan)
    await request.app[BOOK].reread()
    return reply(200, await _shown(request, sale))


async def propose_item(request: web.Request) -> web.Response:
    """POST /v1/sales/{sale}/items"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    asked = await body(request, PROPOSAL)
    sale = request.match_info["sale"]
    new = NewProposal(asked.product, asked.stock, asked.price.amount, asked.price.currency)
    await request.app[PROPOSALS].propose(sale, who, new)
    return reply(201, await _shown(request, sale), {"Location": f"/v1/sales/{sale}"})


async def approve_item(request: web.Request) -> web.Response:
    """POST /v1/sales/{sale}/items/{product}/approval"""
    await require(request, *OPERATORS)
    require_no_query(request)
    sale = request.match_info["sale"]
    await let_sell(request, sale, request.match_info["product"])
    return reply(200, await _shown(request, sale))


async def let_sell(request: web.Request, sale: str, product: str) -> None:
    """Approve an item, known here when this returns. Raises what `Proposals.approve` raises."""
    await request.app[PROPOSALS].approve(sale, product)
    await _make_known(request, sale)


async def refuse_item(request: web.Request) -> web.Response:
    """POST /v1/sales/{sale}/items/{product}/refusal"""
    await require(request, *OPERATORS)
    require_no_query(request)
    why = (await body_or(request, REFUSAL, RefusalRequest())).reason
    sale = request.match_info["sale"]
    await request.app[PROPOSALS].refuse(sale, request.match_info["product"], why)
    return reply(200, await _shown(request, sale))


async def remove_item(request: web.Request) -> web.Response:
    """DELETE /v1/sales/{sale}/items/{product}"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    await request.app[PROPOSALS].remove(request.match_info["sale"], request.match_info["product"], who)
    return web.Response(status=204)


async def move_item_stock(request: web.Request) -> web.Response:
    """POST /v1/sales/{sale}/items/{product}/stock"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    key = idempotency_key(request)
    change = await body(request, STOCK_CHANGE)
    if change.quantity == 0:
        raise InvalidRequest(Flaw("#/quantity", "out_of_range", "must not be zero"))
    move = move_id(who.account, request.path, key)
    sale, product = request.match_info["sale"], request.match_info["product"]
    return move_reply(await request.app[PROPOSALS].move(move, sale, product, change.quantity, who))


async def show_proposal(request: web.Request) -> web.Response:
    """GET /v1/sales/{sale}/proposal"""
    who = await require(request, *SELLERS)
    require_no_query(request)
    await request.app[PROPOSALS].require_sight(request.match_info["sale"], who)
    return reply(200, await _shown(request, request.match_info["sale"]))


async def list_proposals(request: web.Request) -> web.Response:
    """GET /v1/proposals"""
    who = await require(request, *SELLERS)
    asked = query(request, limit=page_limit, cursor=sale_cursor)
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    return reply(200, await proposals_of(request, who, asked.get("cursor"), limit))


async def proposals_of(request: web.Request, who: Identity, after: int | None, limit: int) -> ProposalList:
    """A page of what vendors proposed, of a vendor its own. Raises VendorMissing."""
    vendor = None if who.role in OPERATORS else (await request.app[VENDORS].of(who.account)).id
    found = await request.app[BOOK].proposed(vendor, after, limit + 1)
    now_ms = time.time_ns() // 1_000_000
    page = [proposal_reply(sale, request.app[RULES], now_ms) for sale in found[:limit]]
    return ProposalList(page, str(found[limit - 1].no) if len(found) > limit else None)


async def _make_known(request: web.Request, sale: str) -> None:
    await request.app[BOOK].reread()
    await request.app[BOOK].until_served(sale)


async def _shown(request: web.Request, sale: str) -> ProposalReply:
    whole = await request.app[BOOK].whole(sale)
    return proposal_reply(whole, request.app[RULES], time.time_ns() // 1_000_000)


def _plan(patch: PlanPatch) -> Plan:
    flaws: list[Flaw] = []
    opens_at_ms = None if patch.opens_at is UNSET else moment_ms(patch.opens_at, "#/opens_at", flaws)
    closes_at_ms = None if patch.closes_at is UNSET else moment_ms(patch.closes_at, "#/closes_at", flaws)
    if flaws:
        raise InvalidRequest(*flaws)
    given: dict[str, Any] = {
        name: value
        for name in ("title", "limit_per_buyer", "hold_ttl_s")
        if (value := getattr(patch, name)) is not UNSET
    }
    return Plan(opens_at_ms=opens_at_ms, closes_at_ms=closes_at_ms, **given)
