"""The cart and the wish list: quantities, what it all costs now, and ordering it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from onsale.auth.errors import Flaw, InvalidRequest
from onsale.auth.requests import form_fields
from onsale.catalog.list_handlers import CARTS, WISHES, cart_of, wishes_of
from onsale.catalog.list_schemas import CartItemReply, CartReply, QuantityRequest
from onsale.catalog.product_handlers import product_cursor
from onsale.checkout.handlers import FLOW
from onsale.checkout.schemas import ITEMS_MAX, ItemRequest, Money, OrderRequest
from onsale.server.pages.access import converted, filled, form, form_key, html, new_key, onward, page, plain, reader
from onsale.server.pages.addresses import usual_address
from onsale.server.pages.rendering import render

WISHES_A_PAGE = 24
# A line of an order's form: units-<product>=<n>.
UNITS = re.compile(r"units-(.*)", re.DOTALL)


@page
async def show_cart(request: web.Request) -> web.Response:
    """One's own cart."""
    cart = await cart_of(request, reader(request).account)
    return render(request, "cart.html", cart=plain(cart), orders=_orders(cart), key=new_key())


@form("/cart")
async def change_cart(request: web.Request) -> web.Response:
    """Another quantity of one product."""
    found = reader(request)
    wanted = converted({"quantity": (await form_fields(request)).get("quantity")}, QuantityRequest)
    await request.app[CARTS].put(found.account, request.match_info["product"], wanted.quantity)
    return onward("/cart")


@form("/cart")
async def take_out(request: web.Request) -> web.Response:
    """One product out of the cart."""
    await request.app[CARTS].remove(reader(request).account, request.match_info["product"])
    return onward("/cart")


@form("/cart")
async def order_cart(request: web.Request) -> web.Response:
    """Reserve what the page showed, at the server's price, and take it out of the cart. The form says what was shown,
    so a doubled click asks for the same order; a total that is another by now is refused."""
    found = reader(request)
    fields = await form_fields(request)
    items = _ordered(fields)
    seen = converted({"amount": fields.get("seen"), "currency": fields.get("currency")}, Money)
    held = await request.app[FLOW].order(
        found.account,
        OrderRequest(items=items, address=await usual_address(request, found.account), expected_total=seen),
        form_key(fields),
    )
    await request.app[CARTS].take(found.account, held.order, {item.product: item.quantity for item in items})
    return onward(f"/orders/{held.order}")


@page
async def show_wishes(request: web.Request) -> web.Response:
    """What one wishes for, newest first."""
    found = reader(request)
    asked = filled(request, cursor=product_cursor)
    wishes = await wishes_of(request, found.account, asked.get("cursor"), WISHES_A_PAGE)
    return render(
        request,
        "wishes.html",
        products=[plain(product) for product in wishes.items],
        next_cursor=wishes.next_cursor,
    )


@form("/wishes")
async def unwish(request: web.Request) -> web.Response:
    """Wish for it no more."""
    await request.app[WISHES].remove(reader(request).account, request.match_info["product"])
    return onward("/wishes")


def _orders(cart: CartReply) -> list[Mapping[str, Any]]:
    """What the cart can be ordered as: what is sold now, one currency an order, as many products as one may hold."""
    return [
        {"items": [plain(item) for item in items], "total": {"amount": _sum(items), "currency": total.currency}}
        for total in cart.totals
        for items in _parts(_sold(cart, total.currency))
    ]


def _sold(cart: CartReply, currency: str) -> list[CartItemReply]:
    return [item for item in cart.items if item.available and item.total.currency == currency]


def _parts(items: list[CartItemReply]) -> list[list[CartItemReply]]:
    return [items[first : first + ITEMS_MAX] for first in range(0, len(items), ITEMS_MAX)]


def _sum(items: Iterable[CartItemReply]) -> int:
    return sum(item.total.amount for item in items)


def _ordered(fields: Mapping[str, str]) -> tuple[ItemRequest, ...]:
    items = tuple(
        converted({"product": match[1], "quantity": units}, ItemRequest)
        for name, units in fields.items()
        if (match := UNITS.fullmatch(name))
    )
    if not 1 <= len(items) <= ITEMS_MAX:
        raise InvalidRequest(Flaw("#", "out_of_range", f"1 to {ITEMS_MAX} products"))
    return items


ROUTES = (
    html("GET", "/cart", show_cart, "cart_page", "One's own cart."),
    html("POST", "/cart/orders", order_cart, "order_cart_form", "Order the cart from the page."),
    html("POST", "/cart/items/{product}", change_cart, "change_cart_form", "Another quantity in the cart."),
    html("POST", "/cart/items/{product}/removal", take_out, "take_out_form", "Take a product out of the cart."),
    html("GET", "/wishes", show_wishes, "wishes_page", "What one wishes for."),
    html("POST", "/wishes/{product}/removal", unwish, "remove_wish_form", "Wish no more for it, from the list."),
)
