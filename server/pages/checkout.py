"""From the turn to the order: reserve, pay, give up, cancel, send back, and one's own orders."""

from __future__ import annotations

from typing import Any

import segno
from aiohttp import web

from onsale.auth.account_handlers import address_of
from onsale.auth.middleware import ADDRESS_BOOK
from onsale.auth.requests import body_digest, form_fields
from onsale.checkout.aftersale import Asking
from onsale.checkout.entries import GOOD
from onsale.checkout.entry_handlers import ENTRIES, entry_reply
from onsale.checkout.handlers import AFTER_SALE, FLOW, READS
from onsale.checkout.orders import Page
from onsale.checkout.schemas import CancelRequest, ItemRequest, OrderDetail, PaymentRequest, ReserveRequest
from onsale.checkout.states import OrderState
from onsale.server.pages.access import (
    converted,
    form,
    form_key,
    html,
    named,
    new_key,
    onward,
    page,
    plain,
    reader,
    typed,
)
from onsale.server.pages.addresses import address_asked, said_of, told_book, usual_address
from onsale.server.pages.lines import left_ms
from onsale.server.pages.rendering import render

ORDERS_A_PAGE = 20
SANDBOX = "sandbox"
# What the sandbox provider obeys and a person may want to try by hand.
SANDBOX_TOKENS = (
    "ok",
    "decline_funds",
    "decline_card_expired",
    "decline_limit",
    "fail_provider",
    "cancelled_by_buyer",
    "slow_2000",
    "lost_reply",
)


@form("/sales/{sale}")
async def reserve(request: web.Request) -> web.Response:
    """Hold units of one product. The form's own key makes a doubled click one order."""
    found = reader(request)
    fields = await form_fields(request)
    item = converted({"product": fields.get("product"), "quantity": fields.get("quantity")}, ItemRequest)
    held = await request.app[FLOW].reserve(
        request.match_info["sale"],
        found.account,
        fields.get("pass", ""),
        ReserveRequest(items=(item,), address=await usual_address(request, found.account)),
        form_key(fields),
    )
    return onward(f"/orders/{held.order}")


@page
async def show_orders(request: web.Request) -> web.Response:
    """One's own orders, the newest first."""
    found = reader(request)
    listed = await request.app[READS].page(
        found.account, Page(limit=ORDERS_A_PAGE, after=request.query.get("cursor") or None)
    )
    return render(
        request, "orders.html", orders=[plain(order) for order in listed.items], next_cursor=listed.next_cursor
    )


@page
async def show_order(request: web.Request) -> web.Response:
    """One order: what it holds, how to pay for it, and what became of every try."""
    found = reader(request)
    order = await request.app[READS].order(found.account, request.match_info["order"])
    return render(
        request,
        "order.html",
        order=plain(order),
        entries=await _entries(request, found.account, order),
        outlook=await request.app[AFTER_SALE].outlook(found.account, order.order),
        left_ms=left_ms(order.expires_at),
        key=new_key(),
        # Of the others a browser needs scripts of theirs, which no page of ours loads.
        methods=request.app[FLOW].methods.get(SANDBOX, ()),
        providers=list(request.app[FLOW].methods),
        tokens=SANDBOX_TOKENS,
    )


@page
async def show_order_address(request: web.Request) -> web.Response:
    """Where a reservation goes: one of the address book's, or another."""
    found = reader(request)
    order = await request.app[READS].order(found.account, request.match_info["order"])
    if order.state != OrderState.RESERVED:
        return onward(named(request, "/orders/{order}"))
    return render(
        request,
        "order_address.html",
        filled=said_of(order.address) if order.address else None,
        order=order.order,
        addresses=await told_book(request, found.account),
    )


@form("/orders/{order}/address", again=show_order_address)
async def send_order_to(request: web.Request) -> web.Response:
    """Send a reservation there; an address that was typed is kept in the book where that was asked for."""
    found = reader(request)
    fields = await typed(request)
    if entry := fields.get("entry"):
        address = (await request.app[ADDRESS_BOOK].show(found.account, entry)).address
    else:
        address = address_of(address_asked(fields))
    await request.app[FLOW].send_to(found.account, request.match_info["order"], address)
    if not entry and fields.get("keep") == "true":
        await request.app[ADDRESS_BOOK].add(found.account, address, is_default=False)
    return onward(named(request, "/orders/{order}?said=order_address"))


@form("/orders/{order}")
async def pay(request: web.Request) -> web.Response:
    """Pay and confirm; the page then says how far it has come."""
    found = reader(request)
    fields = await form_fields(request)
    asked = {"provider": SANDBOX, "method": fields.get("method", "card"), "token": fields.get("token")}
    payment = converted(asked, PaymentRequest)
    order = request.match_info["order"]
    await request.app[FLOW].confirm(found.account, order, payment, form_key(fields))
    return onward(named(request, "/orders/{order}"))


@form("/orders/{order}")
async def give_up(request: web.Request) -> web.Response:
    """Give a reservation up."""
    found = reader(request)
    await request.app[READS].release(found.account, request.match_info["order"])
    return onward(named(request, "/orders/{order}"))


@form("/orders/{order}")
async def cancel(request: web.Request) -> web.Response:
    """Cancel a bought order that has not been shipped."""
    await request.app[AFTER_SALE].cancel(await _asking(request))
    return onward(named(request, "/orders/{order}"))


@form("/orders/{order}")
async def send_back(request: web.Request) -> web.Response:
    """Ask to send a delivered order back."""
    await request.app[AFTER_SALE].request_return(await _asking(request))
    return onward(named(request, "/orders/{order}"))


async def _entries(request: web.Request, buyer: str, order: OrderDetail) -> list[dict[str, Any]]:
    """What the door lets in by, each with a picture that it can scan."""
    if not (order.recorded and order.state in GOOD):
        return []
    found = await request.app[ENTRIES].of(buyer, order.order)
    return [plain(entry_reply(entry)) | {"picture": _picture(entry.code)} for entry in found]


def _picture(code: str) -> str:
    """Black on white in the dark too: scanners want it so."""
    picture: str = segno.make(code, error="m", micro=False).svg_data_uri(scale=5, border=4, dark="#000", light="#fff")
    return picture


async def _asking(request: web.Request) -> Asking:
    found = reader(request)
    key = form_key(await form_fields(request))
    return Asking(found.account, request.match_info["order"], key, body_digest(CancelRequest()))


ROUTES = (
    html("POST", "/sales/{sale}/orders", reserve, "reserve_form", "Reserve from the page."),
    html("GET", "/orders", show_orders, "orders_page", "One's own orders."),
    html("GET", "/orders/{order}", show_order, "order_page", "One order."),
    html("GET", "/orders/{order}/address", show_order_address, "order_address_page", "Where a reservation goes."),
    html("POST", "/orders/{order}/address", send_order_to, "order_address_form", "Say where from the page."),
    html("POST", "/orders/{order}/pay", pay, "pay_form", "Pay from the page."),
    html("POST", "/orders/{order}/give-up", give_up, "give_up_form", "Give a reservation up from the page."),
    html("POST", "/orders/{order}/cancel", cancel, "cancel_form", "Cancel an order from the page."),
    html("POST", "/orders/{order}/return", send_back, "return_form", "Send an order back from the page."),
)
