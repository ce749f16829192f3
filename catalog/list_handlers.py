"""Wish lists and carts over HTTP: decode, one call, encode. Everybody sees their own alone."""

from __future__ import annotations

import msgspec
from aiohttp import web

from onsale.auth.middleware import identity
from onsale.auth.requests import PAGE_LIMIT_DEFAULT, body, page_limit, query, reply, require_no_query
from onsale.catalog.list_schemas import CartReply, QuantityRequest, WishList, cart_reply
from onsale.catalog.lists import Carts, StockFigures, Wishes
from onsale.catalog.product_handlers import OFFERS, product_cursor, shown_all

WISHES = web.AppKey("wishes", Wishes)
CARTS = web.AppKey("carts", Carts)
FIGURES: web.AppKey[StockFigures] = web.AppKey("stock_figures", StockFigures)

QUANTITY = msgspec.json.Decoder(QuantityRequest)
PRIVATE = {"Cache-Control": "no-store"}


async def list_wishes(request: web.Request) -> web.Response:
    """GET /v1/wishes"""
    who = await identity(request)
    asked = query(request, limit=page_limit, cursor=product_cursor)
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    return reply(200, await wishes_of(request, who.account, asked.get("cursor"), limit), PRIVATE)


async def add_wish(request: web.Request) -> web.Response:
    """PUT /v1/wishes/{product}"""
    who = await identity(request)
    require_no_query(request)
    await request.app[WISHES].add(who.account, request.match_info["product"])
    return web.Response(status=204)


async def remove_wish(request: web.Request) -> web.Response:
    """DELETE /v1/wishes/{product}"""
    who = await identity(request)
    require_no_query(request)
    await request.app[WISHES].remove(who.account, request.match_info["product"])
    return web.Response(status=204)


async def show_cart(request: web.Request) -> web.Response:
    """GET /v1/cart"""
    who = await identity(request)
    require_no_query(request)
    return reply(200, await cart_of(request, who.account), PRIVATE)


async def put_in_cart(request: web.Request) -> web.Response:
    """PUT /v1/cart/items/{product}"""
    who = await identity(request)
    require_no_query(request)
    wanted = await body(request, QUANTITY)
    await request.app[CARTS].put(who.account, request.match_info["product"], wanted.quantity)
    return reply(200, await cart_of(request, who.account), PRIVATE)


async def remove_from_cart(request: web.Request) -> web.Response:
    """DELETE /v1/cart/items/{product}"""
    who = await identity(request)
    require_no_query(request)
    await request.app[CARTS].remove(who.account, request.match_info["product"])
    return web.Response(status=204)


async def empty_cart(request: web.Request) -> web.Response:
    """DELETE /v1/cart"""
    who = await identity(request)
    require_no_query(request)
    await request.app[CARTS].remove(who.account)
    return web.Response(status=204)


async def wishes_of(request: web.Request, account: str, after: int | None, limit: int) -> WishList:
    """A page of what somebody wishes for, at the prices of this moment."""
    found = await request.app[WISHES].page(account, after, limit + 1)
    page = await shown_all(request, [wish.product for wish in found[:limit]])
    return WishList(page, str(found[limit - 1].no) if len(found) > limit else None)


async def cart_of(request: web.Request, account: str) -> CartReply:
    """A cart at the prices and stock of this moment."""
    items = await request.app[CARTS].items(account)
    products = [item.product for item in items]
    offers = await request.app[OFFERS].now(products)
    return cart_reply(items, offers, await request.app[FIGURES].known(products))
