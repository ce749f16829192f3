"""Addresses on pages: as forms say them, as templates read them, and the one that orders take by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from msgspec import structs

from onsale.auth.addressbook import ADDRESSES_MAX, Entry
from onsale.auth.middleware import ADDRESS_BOOK
from onsale.auth.schemas import Address, AddressNew
from onsale.server.pages.access import entered


async def told_book(request: web.Request, account: str) -> list[dict[str, Any]]:
    """Somebody's address book, the newest first."""
    return [_told(entry) for entry in await request.app[ADDRESS_BOOK].page(account, before=None, limit=ADDRESSES_MAX)]


async def usual_address(request: web.Request, account: str) -> Address | None:
    """Where parcels go unless an order says otherwise."""
    entries = await request.app[ADDRESS_BOOK].page(account, before=None, limit=ADDRESSES_MAX)
    return next((entry.address for entry in entries if entry.is_default), None)


def said_of(address: Address) -> dict[str, str]:
    """An address as a form that changes it is filled in."""
    return {name: text for name, text in structs.asdict(address).items() if text is not None}


def address_asked(fields: Mapping[str, str]) -> AddressNew:
    """Countries are written in capitals (ISO 3166), however somebody types. Raises InvalidRequest."""
    return entered({**fields, "country": fields.get("country", "").upper()}, AddressNew)


def _told(entry: Entry) -> dict[str, Any]:
    return structs.asdict(entry.address) | {"address": entry.id, "is_default": entry.is_default}
