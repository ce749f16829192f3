"""What the commands do to a system: each opens what it needs, does one thing, and answers figures.

No command line in here and no printing; `cli.py` has both.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
from msgspec import UNSET

from onsale.auth import rotation as account_rotation
from onsale.auth.access import AccessTokens
from onsale.auth.accounts import Accounts, ensure_load_accounts
from onsale.auth.errors import InvalidRequest, NotFound
from onsale.auth.identifiers import new_id
from onsale.auth.keys import Keyring
from onsale.auth.passwords import PasswordHasher
from onsale.auth.requests import rfc3339
from onsale.auth.roles import Role
from onsale.auth.rotation import Renewed
from onsale.catalog.errors import SaleFileInvalid
from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import Sale, SaleBook, advance_clock
from onsale.catalog.schemas import sale_reply
from onsale.checkout import rotation as checkout_rotation
from onsale.checkout.cancellation_handlers import cancellation_reply
from onsale.checkout.cancellations import Cancellation, CancellationState, SaleCancellations
from onsale.checkout.record.rebuild import Rebuilder
from onsale.migrations import migrate
from onsale.queue.control import Admission, Control, PolicyChange
from onsale.server.config import Settings
from onsale.server.errors import AccountUnknown, ClockFixed, RebuildBusy
from onsale.server.reset import reset_sale
from onsale.server.rooms import open_rooms
from onsale.server.stores import open_stores

# Who an action is signed by when it came from the command line.
COMMAND_LINE = "command-line"

SaleDocument = dict[str, Any]
AdmissionDocument = dict[str, Any]
CancellationDocument = dict[str, Any]


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[asyncpg.Pool]:
    """A small pool on the record."""
    options = {"statement_cache_size": 0} if settings.pgbouncer else {}
    async with asyncpg.create_pool(settings.database_url, min_size=1, max_size=4, **options) as pool:
        yield pool


@asynccontextmanager
async def sales(settings: Settings) -> AsyncIterator[tuple[asyncpg.Pool, SaleBook]]:
    """The record and the sales in it, as of now."""
    async with database(settings) as pool:
        book = SaleBook(pool)
        await book.refresh()
        yield pool, book


@asynccontextmanager
async def control(settings: Settings) -> AsyncIterator[Control]:
    """What operators change, with the stores behind it."""
    async with open_stores(settings, pool_max=4) as stores, open_rooms(settings, stores) as rooms:
        yield Control(stores.line, stores.pool, rooms.book, rooms.inventory)


async def migrate_database(settings: Settings) -> Sequence[str]:
    """Bring the schema up to date; the files applied."""
    async with database(settings) as pool:
        return await migrate(pool)


async def create_sale(settings: Settings, text: str) -> SaleDocument:
    """Make a sale from the text of a sale file. Raises SaleFileInvalid, SaleExists."""
    new = parse_sale_file(text)
    async with sales(settings) as (_, book):
        try:
            sale = await book.create(new, COMMAND_LINE)
        except InvalidRequest as error:
            raise SaleFileInvalid(*(flaw.detail for flaw in error.errors)) from None
        await book.until_served(sale.id)
        return sale_document(book.get(sale.id), settings)


async def list_sales(settings: Settings) -> list[SaleDocument]:
    """Every sale, oldest first."""
    async with sales(settings) as (_, book):
        return [sale_document(sale, settings) for sale in book.all()]


async def show_sale(settings: Settings, sale: str) -> SaleDocument:
    """One sale."""
    async with sales(settings) as (_, book):
        return sale_document(book.get(sale), settings)


async def set_rate(
    settings: Settings,
    sale: str,
    centi: int,
    *,
    active_max: int | None,
    revert_after_ms: int | None,
    reason: str | None,
) -> AdmissionDocument:
    """Let people in at this rate, and this cap where one is given; in force everywhere within a second."""
    change = PolicyChange(rate_centi=centi, active_max=UNSET if active_max is None else active_max)
    revert_after_s = None if revert_after_ms is None else max(1, revert_after_ms // 1000)
    async with control(settings) as line:
        now = await line.set_policy(
            sale, change, actor=COMMAND_LINE, version=None, reason=reason, revert_after_s=revert_after_s
        )
    return admission_document(sale, now)


async def pause(settings: Settings, sale: str, *, reason: str | None) -> AdmissionDocument:
    """Hold the line in the operators' name."""
    async with control(settings) as line:
        return admission_document(sale, await line.pause(sale, actor=COMMAND_LINE, reason=reason))


async def resume(settings: Settings, sale: str, *, reason: str | None) -> AdmissionDocument:
    """Lift the operators' hold; what others hold stays held."""
    async with control(settings) as line:
        return admission_document(sale, await line.resume(sale, actor=COMMAND_LINE, reason=reason))


async def open_sale(settings: Settings, sale: str, *, reason: str | None) -> None:
    """Open now, whatever the schedule says."""
    async with control(settings) as line:
        await line.open(sale, actor=COMMAND_LINE, reason=reason)


async def close_sale(settings: Settings, sale: str, *, reason: str | None) -> None:
    """Close now, whatever the schedule says."""
    async with control(settings) as line:
        await line.close(sale, actor=COMMAND_LINE, reason=reason)


async def cancel_sale(
    settings: Settings, sale: str, *, reason: str | None, is_agreed: Callable[[CancellationDocument], bool]
) -> CancellationDocument:
    """Show what cancelling a sale gives back, and if that is agreed to close it and cancel it; how it stands then. What
    was still sold while it was agreed to is shown, and agreed to, again."""
    async with control(settings) as line, database(settings) as pool:
        cancellations = SaleCancellations(pool, line)
        found = await cancellations.of(sale)
        while found.state is CancellationState.NONE and is_agreed(_cancellation(found)):
            await line.close(sale, actor=COMMAND_LINE, reason=reason)
            amounts = found.open.amounts
            found = await cancellations.of(sale)
            if amounts == found.open.amounts:
                await cancellations.start(
                    sale, amounts, actor=COMMAND_LINE, key=new_id(), digest=COMMAND_LINE, reason=reason
                )
                found = await cancellations.of(sale)
        return _cancellation(found)


def _cancellation(found: Cancellation) -> CancellationDocument:
    document: CancellationDocument = msgspec.to_builtins(cancellation_reply(found))
    return document


async def reset(settings: Settings, sale: str) -> None:
    """Make a sale as it was before anybody came."""
    async with database(settings) as pool:
        await reset_sale(pool, sale)


async def rebuild(settings: Settings, sale: str) -> int:
    """Make a sale's keys in the shop's Redis anew from the record; the epoch they have now."""
    async with open_stores(settings, pool_max=4) as stores, open_rooms(settings, stores) as rooms:
        tick = await Rebuilder(stores.pool, stores.shop, rooms.inventory, rooms.book).rebuild(sale)
        if tick.busy:
            raise RebuildBusy
        await rooms.book.refresh()
        return rooms.book.seller(sale).shop_epoch


async def make_tokens(settings: Settings, *, count: int, first: int, ttl_ms: int, role: Role) -> list[str]:
    """Access tokens of load accounts, made when missing."""
    async with database(settings) as pool:
        access = AccessTokens(Keyring(settings.secret_keys), settings.public_url, frozenset())
        return await ensure_load_accounts(
            pool, access, count=count, first=first, ttl_s=max(1, ttl_ms // 1000), role=role, now_ms=now_ms()
        )


async def set_role(settings: Settings, email: str, role: Role) -> str:
    """Give an account another role; its id. Raises AccountUnknown."""
    async with database(settings) as pool:
        # No password is hashed for this: the hasher's worker never starts.
        try:
            return await Accounts(pool, Keyring(settings.secret_keys), PasswordHasher()).set_role(email, role)
        except NotFound:
            raise AccountUnknown from None


async def rotate_keys(settings: Settings) -> Sequence[Renewed]:
    """Seal everything anew under the first secret key; what was done, column by column."""
    keyring = Keyring(settings.secret_keys)
    async with database(settings) as pool:
        accounts = Accounts(pool, keyring, PasswordHasher())
        columns = (*account_rotation.COLUMNS, *checkout_rotation.COLUMNS)
        return await account_rotation.Rotation(pool, keyring, columns, accounts.reseal).run()


async def move_clock(settings: Settings, by_ms: int) -> int:
    """Move the clock that schedules are read with; the whole offset (ms)."""
    if not settings.test_clock:
        raise ClockFixed
    async with database(settings) as pool:
        return await advance_clock(pool, by_ms)


def sale_document(sale: Sale, settings: Settings) -> SaleDocument:
    """A sale as its page shows it, with what operators and the record know of it."""
    document: SaleDocument = msgspec.to_builtins(sale_reply(sale, now_ms()))
    sold = {item.product: {"claimed": item.claimed, "sold": item.sold} for item in sale.items}
    document["items"] = [{**item, **sold[item["product"]]} for item in document["items"]]
    document["admission"] = {
        "mode": sale.policy.mode,
        "rate_per_second": sale.policy.rate_centi / 100,
        "active_max": sale.policy.active_max,
        "paused_by": list(sale.paused_by),
        "pass_ttl_s": sale.policy.pass_ttl_s,
        "turn_ttl_s": sale.policy.turn_ttl_s,
        "absent_after_s": sale.policy.absent_after_s,
    }
    document["address"] = f"{settings.public_url}/sales/{sale.id}"
    return document


def admission_document(sale: str, now: Admission) -> AdmissionDocument:
    """How people are let in, as `GET …/admission` says it."""
    return {
        "sale": sale,
        "mode": now.policy.mode,
        "rate_per_second": now.policy.rate_centi / 100,
        "active_max": now.policy.active_max,
        "paused": now.is_paused,
        "paused_by": list(now.paused_by),
        "version": now.version,
        "changed_at": rfc3339(now.changed_at_ms),
        "changed_by": now.changed_by,
        "revert_at": None if now.revert_at_ms is None else rfc3339(now.revert_at_ms),
    }


def now_ms() -> int:
    """This machine's clock."""
    return time.time_ns() // 1_000_000
