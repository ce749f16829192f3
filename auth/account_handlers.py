"""Accounts over HTTP: signing up, codes, passwords, the profile, the address book. Decode, one call, encode.

Whoever names an address is answered the same, in text, status and time, whether anybody has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, structs

from onsale.auth.accounts import is_email, normal_email
from onsale.auth.addressbook import Entry
from onsale.auth.errors import CurrentPasswordWrong, Flaw, InvalidRequest
from onsale.auth.handlers import NO_STORE, id_cursor, instant, me, now_ms, signed_out
from onsale.auth.middleware import (
    ACCOUNTS,
    ADDRESS_BOOK,
    CODE_TRIES,
    CREDENTIALS,
    DELETION,
    LETTER_ASKS,
    PASSWORDS,
    SIGN_INS,
    SIGN_UPS,
    VERIFICATIONS,
    identity,
    require,
)
from onsale.auth.passwordpolicy import require_good
from onsale.auth.requests import PAGE_LIMIT_DEFAULT, Language, body, client_address, language, page_limit, query, reply
from onsale.auth.roles import Role
from onsale.auth.schemas import (
    Accepted,
    AccountList,
    Address,
    AddressList,
    AddressNew,
    AddressPatch,
    AddressReply,
    EmailOnly,
    MePatch,
    PasswordChange,
    PasswordReset,
    SignUp,
    Verify,
)
from onsale.auth.signups import LetterKind, NewAccount
from onsale.auth.throttle import TryThrottle

SIGN_UP = msgspec.json.Decoder(SignUp)
EMAIL_ONLY = msgspec.json.Decoder(EmailOnly)
VERIFY = msgspec.json.Decoder(Verify)
PASSWORD_CHANGE = msgspec.json.Decoder(PasswordChange)
PASSWORD_RESET = msgspec.json.Decoder(PasswordReset)
ME_PATCH = msgspec.json.Decoder(MePatch)
ADDRESS_NEW = msgspec.json.Decoder(AddressNew)
ADDRESS_PATCH = msgspec.json.Decoder(AddressPatch)

_ACCOUNT_ID = re.compile(r"[0-9a-z-]{1,40}", re.ASCII)


async def sign_up(request: web.Request) -> web.Response:
    """An account, and a letter with a code; or a letter that says that there is one. The same answer."""
    query(request)
    await open_account(request, await body(request, SIGN_UP), language(request))
    return reply(202, Accepted(), NO_STORE)


async def open_account(request: web.Request, asked: SignUp, lang: Language) -> None:
    """Sign up, with letters in that language. InvalidRequest, TooManyRequests; nothing that tells whether the address
    was free."""
    _require_email(asked.email)
    require_good(asked.password, "#/password", normal_email(asked.email), asked.name)
    new = NewAccount(asked.email, asked.password, asked.name, asked.phone, asked.address, lang)
    with request.app[PASSWORDS].place() as place:
        await _take(request, LETTER_ASKS, asked.email)
        await request.app[SIGN_UPS].sign_up(new, place)


async def send_code(request: web.Request) -> web.Response:
    """Another code, to whoever has the address and has not verified it."""
    return await _ask_for(request, "verification")


async def send_reset(request: web.Request) -> web.Response:
    """A link to choose a new password by, to whoever has the address."""
    return await _ask_for(request, "password_reset")


async def ask_for_letter(request: web.Request, kind: LetterKind, email: str, lang: Language) -> None:
    """Have a letter in that language sent to an address, if anybody has it. InvalidRequest, TooManyRequests."""
    _require_email(email)
    await _take(request, LETTER_ASKS, email)
    await request.app[SIGN_UPS].ask_for(kind, email, lang)


async def verify(request: web.Request) -> web.Response:
    """The address is its owner's, by the code of a letter."""
    query(request)
    asked = await body(request, VERIFY)
    await verify_email(request, asked.email, asked.code)
    return web.Response(status=204)


async def verify_email(request: web.Request, email: str, code: str) -> None:
    """The same for a page. CodeInvalid, TooManyRequests."""
    _require_email(email)
    await _take(request, CODE_TRIES, email)
    await request.app[VERIFICATIONS].verify(email, code)


async def change_password(request: web.Request) -> web.Response:
    """Another password, by the present one; every device is signed out, this one too."""
    found = await identity(request)
    query(request)
    await set_password(request, found.account, await body(request, PASSWORD_CHANGE))
    return signed_out(request)


async def set_password(request: web.Request, account: str, asked: PasswordChange) -> None:
    """The same for a page. CurrentPasswordWrong, InvalidRequest, TooManyRequests."""
    # Whoever holds somebody's session may not guess at the password faster than at the door.
    name, address = account.encode(), client_address(request)
    async with request.app[SIGN_INS].trying(name, address, now_ms(), wrong=CurrentPasswordWrong):
        await request.app[CREDENTIALS].change(account, asked.current, asked.new)


async def reset_password(request: web.Request) -> web.Response:
    """Another password, by the token of a letter; every device is signed out."""
    query(request)
    asked = await body(request, PASSWORD_RESET)
    await request.app[CREDENTIALS].reset(asked.token, asked.new)
    return web.Response(status=204)


async def change_me(request: web.Request) -> web.Response:
    """Change one's own profile."""
    found = await identity(request)
    query(request)
    asked = await body(request, ME_PATCH)
    changed = {name: value for name, value in structs.asdict(asked).items() if value is not UNSET}
    return reply(200, me(await request.app[ACCOUNTS].change(found.account, **changed)), NO_STORE)


async def delete_me(request: web.Request) -> web.Response:
    """Delete one's own account; orders stay, with nobody's name on them."""
    found = await identity(request, unverified=True)
    query(request)
    await request.app[DELETION].delete(found.account)
    return signed_out(request)


async def list_accounts(request: web.Request) -> web.Response:
    """Every account, newest first; or the one of an address."""
    await require(request, Role.MASTER)
    asked = query(request, limit=page_limit, cursor=_account_cursor, email=str)
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    profiles = await request.app[ACCOUNTS].page(after=asked.get("cursor"), email=asked.get("email"), limit=limit + 1)
    page = [me(profile) for profile in profiles[:limit]]
    return reply(200, AccountList(page, page[-1].account if len(profiles) > limit else None), NO_STORE)


async def list_addresses(request: web.Request) -> web.Response:
    """One's address book, newest first."""
    found = await identity(request)
    asked = query(request, limit=page_limit, cursor=id_cursor)
    limit: int = asked.get("limit", PAGE_LIMIT_DEFAULT)
    entries = await request.app[ADDRESS_BOOK].page(found.account, before=asked.get("cursor"), limit=limit + 1)
    page = [_address_reply(entry) for entry in entries[:limit]]
    return reply(200, AddressList(page, page[-1].address if len(entries) > limit else None), NO_STORE)


async def add_address(request: web.Request) -> web.Response:
    """Another address."""
    found = await identity(request)
    query(request)
    asked = await body(request, ADDRESS_NEW)
    entry = await request.app[ADDRESS_BOOK].add(found.account, address_of(asked), is_default=asked.default)
    return reply(201, _address_reply(entry), {**NO_STORE, "Location": f"/v1/me/addresses/{entry.id}"})


async def show_address(request: web.Request) -> web.Response:
    """One address of one's book."""
    found = await identity(request)
    query(request)
    entry = await request.app[ADDRESS_BOOK].show(found.account, request.match_info["address"])
    return reply(200, _address_reply(entry), NO_STORE)


async def change_address(request: web.Request) -> web.Response:
    """What an address says now."""
    found = await identity(request)
    query(request)
    asked = await body(request, ADDRESS_PATCH)
    is_default = None if asked.default is UNSET else asked.default
    entry = await request.app[ADDRESS_BOOK].change(
        found.account, request.match_info["address"], _merged(asked), is_default=is_default
    )
    return reply(200, _address_reply(entry), NO_STORE)


async def remove_address(request: web.Request) -> web.Response:
    """Take an address out."""
    found = await identity(request)
    query(request)
    await request.app[ADDRESS_BOOK].remove(found.account, request.match_info["address"])
    return web.Response(status=204)


async def _ask_for(request: web.Request, kind: LetterKind) -> web.Response:
    query(request)
    await ask_for_letter(request, kind, (await body(request, EMAIL_ONLY)).email, language(request))
    return reply(202, Accepted(), NO_STORE)


async def _take(request: web.Request, throttle: web.AppKey[TryThrottle], email: str) -> None:
    """One try of the budgets; they know nothing of accounts, so a refusal tells nothing either."""
    email_hash = request.app[ACCOUNTS].email_hash(email)
    await request.app[throttle].take(email_hash, client_address(request), now_ms())


def _require_email(email: str) -> None:
    if not is_email(normal_email(email)):
        raise InvalidRequest(Flaw("#/email", "bad_value", "Not an e-mail address."))


def address_of(asked: AddressNew) -> Address:
    """What is kept of it: whether it is the default is the book's."""
    return Address(**{name: getattr(asked, name) for name in Address.__struct_fields__})


def _merged(patch: AddressPatch) -> Callable[[Address], Address]:
    changed: dict[str, Any] = {
        name: value for name, value in structs.asdict(patch).items() if name != "default" and value is not UNSET
    }
    return lambda present: structs.replace(present, **changed)


def _address_reply(entry: Entry) -> AddressReply:
    said = structs.asdict(entry.address)
    return AddressReply(address=entry.id, default=entry.is_default, created_at=instant(entry.created_at), **said)


def _account_cursor(text: str) -> str:
    if _ACCOUNT_ID.fullmatch(text) is None:
        raise ValueError("not a cursor of ours")
    return text
