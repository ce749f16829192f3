"""The shop's front: every sale, and signing in and out."""

from __future__ import annotations

from aiohttp import web

from onsale.auth.handlers import open_session
from onsale.auth.middleware import COOKIES, SESSIONS
from onsale.auth.requests import form_fields
from onsale.catalog.handlers import BOOK
from onsale.catalog.schemas import sale_reply
from onsale.server.pages.access import form, html, onward, own_path, page, plain
from onsale.server.pages.lines import line_document, now_ms
from onsale.server.pages.rendering import READER, render


@page
async def show_shop(request: web.Request) -> web.Response:
    """Every sale, the newest first, with its line."""
    at_ms = now_ms()
    sales = list(reversed(request.app[BOOK].approved()))
    return render(
        request,
        "shop.html",
        sales=[plain(sale_reply(sale, at_ms)) for sale in sales],
        lines={sale.id: line_document(request, sale) for sale in sales},
    )


@page
async def show_sign_in(request: web.Request) -> web.Response:
    """Where to sign in, and where to go then."""
    return render(request, "signin.html", next=own_path(request.query.get("next", "/")))


@form("/signin")
async def sign_in(request: web.Request) -> web.Response:
    """A session in cookies."""
    fields = await form_fields(request)
    grant = await open_session(request, fields.get("email", ""), fields.get("password", ""), "browser")
    answer = onward(own_path(fields.get("next", "/")))
    request.app[COOKIES].write(answer, grant)
    return answer


@form("/")
async def sign_out(request: web.Request) -> web.Response:
    """End this browser's session."""
    answer, found = onward("/"), request[READER]
    if found is not None:
        await request.app[SESSIONS].sign_out(found.account, found.session)
    request.app[COOKIES].clear(answer)
    return answer


ROUTES = (
    html("GET", "/", show_shop, "shop_page", "The shop."),
    html("GET", "/signin", show_sign_in, "sign_in_page", "Sign in."),
    html("POST", "/signin", sign_in, "sign_in_form", "Sign in from the page."),
    html("POST", "/signout", sign_out, "sign_out_form", "Sign out from the page."),
)
