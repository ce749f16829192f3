"""Alarms over HTTP: decode, one call, encode. Everybody sees their own; operators look one person up."""

from __future__ import annotations

from aiohttp import web

from onsale.auth.accounts import email_in_query
from onsale.auth.errors import Forbidden
from onsale.auth.middleware import ACCOUNTS, identity
from onsale.auth.requests import PAGE_LIMIT_DEFAULT, page_limit, query, reply, require_no_query
from onsale.auth.roles import OPERATORS
from onsale.catalog.alarm_schemas import AlarmList, alarm_reply
from onsale.catalog.alarms import Alarms
from onsale.catalog.product_handlers import product_cursor

ALARMS = web.AppKey("alarms", Alarms)

PRIVATE = {"Cache-Control": "no-store"}


async def list_alarms(request: web.Request) -> web.Response:
    """GET /v1/alarms"""
    who = await identity(request)
    asked = query(request, limit=page_limit, cursor=product_cursor, email=email_in_query)
    account: str | None = who.account
    if "email" in asked:
        if who.role not in OPERATORS:
            raise Forbidden
        account = await request.app[ACCOUNTS].named(asked["email"])
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    found = [] if account is None else await request.app[ALARMS].page(account, asked.get("cursor"), limit + 1)
    page = [alarm_reply(alarm) for alarm in found[:limit]]
    return reply(200, AlarmList(page, str(found[limit - 1].no) if len(found) > limit else None), PRIVATE)


async def put_alarm(request: web.Request) -> web.Response:
    """PUT /v1/sales/{sale}/alarm"""
    who = await identity(request)
    require_no_query(request)
    alarm, is_new = await request.app[ALARMS].put(who.account, request.match_info["sale"])
    if not is_new:
        return reply(200, alarm_reply(alarm), PRIVATE)
    return reply(201, alarm_reply(alarm), {**PRIVATE, "Location": "/v1/alarms"})


async def remove_alarm(request: web.Request) -> web.Response:
    """DELETE /v1/sales/{sale}/alarm"""
    who = await identity(request)
    require_no_query(request)
    await request.app[ALARMS].remove(who.account, request.match_info["sale"])
    return web.Response(status=204)
