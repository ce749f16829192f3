"""Your account: who you are, where you are signed in, where parcels go, the password, and going.

Before the address is verified one may look at it, sign out of devices, and go (`unverified`), as over the API.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType, structs

from onsale.auth.account_handlers import address_of, set_password
from onsale.auth.errors import Flaw, InvalidRequest
from onsale.auth.handlers import instant
from onsale.auth.identifiers import is_id
from onsale.auth.middleware import ACCOUNTS, ADDRESS_BOOK, COOKIES, DELETION, SESSIONS
from onsale.auth.schemas import Language, Name, PasswordChange, Phone
from onsale.auth.sessions import SessionView
from onsale.server.pages.access import entered, form, html, onward, page, reader, typed
from onsale.server.pages.addresses import address_asked, said_of, told_book
from onsale.server.pages.rendering import keep_language, render

SESSIONS_A_PAGE = 20


class ProfileForm(Struct, frozen=True):
    """What the profile's form says. Accounts made by the command line have no phone."""

    name: Name
    language: Language
    phone: Phone | UnsetType = UNSET


@page
async def show_account(request: web.Request) -> web.Response:
    """Who you are, to be changed."""
    found = reader(request, unverified=True)
    profile = await request.app[ACCOUNTS].profile(found.account)
    said = {"name": profile.name, "phone": profile.phone, "language": profile.language}
    return render(request, "account_profile.html", filled=said, email=profile.email, is_verified=profile.is_verified)


@form("/account", again=show_account)
async def change_profile(request: web.Request) -> web.Response:
    """Change name, phone and language; pages are in that language from now on."""
    found = reader(request)
    asked = entered(await typed(request), ProfileForm)
    changed: dict[str, Any] = {name: text for name, text in structs.asdict(asked).items() if text is not UNSET}
    await request.app[ACCOUNTS].change(found.account, **changed)
    answer = onward("/account?said=saved")
    keep_language(answer, asked.language)
    return answer


@page
async def show_sessions(request: web.Request) -> web.Response:
    """Where you are signed in, the newest first."""
    found = reader(request, unverified=True)
    cursor = request.query.get("cursor", "")
    before = cursor if is_id(cursor) else None
    views = await request.app[SESSIONS].page(found.account, before=before, limit=SESSIONS_A_PAGE + 1)
    return render(
        request,
        "account_sessions.html",
        sessions=[_session(view, found.session) for view in views[:SESSIONS_A_PAGE]],
        next_cursor=views[SESSIONS_A_PAGE - 1].session if len(views) > SESSIONS_A_PAGE else None,
    )


@form("/account/sessions")
async def end_session(request: web.Request) -> web.Response:
    """Sign out of one device."""
    found, session = reader(request, unverified=True), request.match_info["session"]
    await request.app[SESSIONS].sign_out(found.account, session)
    if session == found.session:
        return _signed_out(request, "/")
    return onward("/account/sessions?said=signed_out_there")


@form("/account/sessions")
async def end_sessions(request: web.Request) -> web.Response:
    """Sign out of every device, this one too."""
    found = reader(request, unverified=True)
    await request.app[SESSIONS].sign_out_everywhere(found.account)
    return _signed_out(request, "/signin?said=signed_out_everywhere")


@page
async def show_addresses(request: web.Request) -> web.Response:
    """The address book, the newest first, and a form for another address."""
    found = reader(request)
    addresses = await told_book(request, found.account)
    first = {} if addresses else {"default": "true"}
    return render(request, "account_addresses.html", filled=first, addresses=addresses)


@form("/account/addresses", again=show_addresses)
async def add_address(request: web.Request) -> web.Response:
    """Another address."""
    found = reader(request)
    asked = address_asked(await typed(request))
    await request.app[ADDRESS_BOOK].add(found.account, address_of(asked), is_default=asked.default)
    return onward("/account/addresses?said=address_added")


@page
async def show_address(request: web.Request) -> web.Response:
    """One address, to be changed."""
    found = reader(request)
    entry = await request.app[ADDRESS_BOOK].show(found.account, request.match_info["address"])
    default = {"default": "true"} if entry.is_default else {}
    return render(request, "account_address.html", filled=said_of(entry.address) | default, address=entry.id)


@form("/account/addresses/{address}", again=show_address)
async def change_address(request: web.Request) -> web.Response:
    """What an address says now."""
    found = reader(request)
    asked = address_asked(await typed(request))
    await request.app[ADDRESS_BOOK].change(
        found.account, request.match_info["address"], lambda _: address_of(asked), is_default=asked.default
    )
    return onward("/account/addresses?said=saved")


@form("/account/addresses")
async def make_default(request: web.Request) -> web.Response:
    """Parcels go here unless an order says otherwise."""
    found = reader(request)
    await request.app[ADDRESS_BOOK].change(
        found.account, request.match_info["address"], lambda present: present, is_default=True
    )
    return onward("/account/addresses?said=saved")


@form("/account/addresses")
async def remove_address(request: web.Request) -> web.Response:
    """Take an address out."""
    found = reader(request)
    await request.app[ADDRESS_BOOK].remove(found.account, request.match_info["address"])
    return onward("/account/addresses?said=address_removed")


@page
async def show_password(request: web.Request) -> web.Response:
    """Where the password is changed."""
    reader(request)
    return render(request, "account_password.html")


@form("/account/password", again=show_password)
async def change_password(request: web.Request) -> web.Response:
    """Another password, by the present one; every device is signed out, this one too."""
    found = reader(request)
    await set_password(request, found.account, entered(await typed(request), PasswordChange))
    return _signed_out(request, "/signin?next=/account&said=password_changed")


@page
async def show_delete(request: web.Request) -> web.Response:
    """What goes and what stays when the account is deleted."""
    reader(request, unverified=True)
    return render(request, "account_delete.html")


@form("/account/delete", again=show_delete)
async def delete_account(request: web.Request) -> web.Response:
    """Delete the account, for who says so twice."""
    found = reader(request, unverified=True)
    if (await typed(request)).get("sure") != "true":
        raise InvalidRequest(Flaw("#/sure", "sure", "Not confirmed."))
    await request.app[DELETION].delete(found.account)
    return _signed_out(request, "/?said=account_deleted")


def _signed_out(request: web.Request, path: str) -> web.Response:
    """Go on there, as nobody."""
    answer = onward(path)
    request.app[COOKIES].clear(answer)
    return answer


def _session(view: SessionView, current: str) -> dict[str, Any]:
    return {
        "session": view.session,
        "device": view.device,
        "address": view.address,
        "is_current": view.session == current,
        "created_at": instant(view.created_at),
        "used_at": instant(view.used_at),
    }


ROUTES = (
    html("GET", "/account", show_account, "account_page", "Your account."),
    html("POST", "/account", change_profile, "profile_form", "Change your profile from the page."),
    html("GET", "/account/sessions", show_sessions, "sessions_page", "Where you are signed in."),
    html("POST", "/account/sessions/end", end_sessions, "end_sessions_form", "Sign out everywhere from the page."),
    html("POST", "/account/sessions/{session}/end", end_session, "end_session_form", "Sign out there from the page."),
    html("GET", "/account/addresses", show_addresses, "addresses_page", "Your address book."),
    html("POST", "/account/addresses", add_address, "add_address_form", "Add an address from the page."),
    html("GET", "/account/addresses/{address}", show_address, "address_page", "One address of your book."),
    html("POST", "/account/addresses/{address}", change_address, "change_address_form", "Change it from the page."),
    html("POST", "/account/addresses/{address}/default", make_default, "default_form", "Make it the default."),
    html("POST", "/account/addresses/{address}/remove", remove_address, "remove_address_form", "Take it out."),
    html("GET", "/account/password", show_password, "password_page", "Change your password."),
    html("POST", "/account/password", change_password, "password_form", "Change your password from the page."),
    html("GET", "/account/delete", show_delete, "delete_page", "Delete your account."),
    html("POST", "/account/delete", delete_account, "delete_form", "Delete your account from the page."),
)
