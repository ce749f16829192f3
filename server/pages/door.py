"""The door: where a seller lets in whoever shows the code of an entry, and sees whom it let in last."""

from __future__ import annotations

from aiohttp import web

from onsale.auth.requests import form_fields
from onsale.auth.roles import SELLERS
from onsale.checkout.entry_handlers import ENTRIES, redemption_reply
from onsale.checkout.schemas import RedeemRequest
from onsale.server.pages.access import converted, form, html, onward, page, plain, reader
from onsale.server.pages.rendering import render

SHOWN_MAX = 10


@page
async def show_door(request: web.Request) -> web.Response:
    """A field for the code."""
    found = await request.app[ENTRIES].redeemed(reader(request, *SELLERS), SHOWN_MAX)
    return render(request, "desk_door.html", redeemed=[plain(redemption_reply(one)) for one in found])


@form("/desk/door")
async def redeem(request: web.Request) -> web.Response:
    """Let somebody in, once."""
    who = reader(request, *SELLERS)
    wanted = converted({"code": (await form_fields(request)).get("code", "")}, RedeemRequest)
    await request.app[ENTRIES].redeem(who, wanted.code)
    return onward("/desk/door?said=entry_redeemed")


ROUTES = (
    html("GET", "/desk/door", show_door, "door_page", "A field for the code of an entry."),
    html("POST", "/desk/door", redeem, "redeem_form", "Let in by a code from the desk."),
)
