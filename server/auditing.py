"""`onsale audit`: the record's own checks, given what it cannot know: the provider's book and the operators' chain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import aiohttp
import asyncpg
import msgspec

from onsale.checkout.record.audit import Capture, Charges, Finding, audit
from onsale.queue.control import verify_chain
from onsale.server.config import Settings
from onsale.server.errors import ProviderAway
from onsale.server.rooms import open_rooms
from onsale.server.stores import open_stores

BOOK_TIMEOUT_S = 30


class _Charge(msgspec.Struct):
    order: str
    key: str
    amount: int
    charged_at: str
    refunded_at: str | None
    refunded_amount: int


class _Book(msgspec.Struct):
    items: list[_Charge]


async def audit_system(settings: Settings, sale: str | None) -> list[Finding]:
    """Every invariant of one sale, or of all. Raises SaleUnknown, ProviderAway."""
    async with open_stores(settings, pool_max=4) as stores, open_rooms(settings, stores) as rooms:
        charges = None if settings.sandbox is None else _book_of(settings.sandbox.url)

        async def chain(of: str) -> Sequence[str]:
            return await _broken_links(stores.pool, of)

        return await audit(stores.pool, stores.line, stores.shop, rooms.book, sale, charges=charges, chain=chain)


def _book_of(url: str) -> Charges:
    """Everything the sandbox ever charged, in its own words."""

    async def charges() -> Sequence[Capture]:
        try:
            timeout = aiohttp.ClientTimeout(total=BOOK_TIMEOUT_S)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/charges") as answer:
                book = msgspec.json.decode(await answer.read(), type=_Book)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError):
            raise ProviderAway from None
        return [_capture(charge) for charge in book.items]

    return charges


def _capture(charge: _Charge) -> Capture:
    return Capture(
        order=charge.order,
        key=charge.key,
        amount=charge.amount,
        charged_at_ms=_ms(charge.charged_at),
        refunded_at_ms=_ms(charge.refunded_at) if charge.refunded_at else 0,
        refunded=charge.refunded_amount,
    )


def _ms(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


async def _broken_links(pool: asyncpg.Pool, sale: str) -> Sequence[str]:
    chain = await verify_chain(pool, sale)
    return [] if chain.is_whole else [f"row {chain.broken_at} of the audit does not follow from the one before it"]
