"""The page of a product: what it costs now and what that saves, what is left, and buying, keeping or wishing for it."""

from __future__ import annotations

from aiohttp import web

from onsale.auth.requests import form_fields
from onsale.catalog.handlers import BOOK
from onsale.catalog.list_handlers import CARTS, FIGURES, WISHES
from onsale.catalog.product_handlers import OFFERS, PRODUCTS, recommended, shown
from onsale.catalog.schemas import sale_reply
from onsale.catalog.states import SaleState
from onsale.checkout.handlers import FLOW
from onsale.checkout.schemas import ItemRequest, Money, OrderRequest
from onsale.server.pages.access import converted, form, form_key, html, named, new_key, onward, page, plain, reader
from onsale.server.pages.addresses import usual_address
from onsale.server.pages.lines import now_ms
from onsale.server.pages.rendering import READER, render


@page
async def show_product(request: web.Request) -> web.Response:
    """A product, and the sales that have it."""
    name = request.match_info["product"]
    product = await request.app[PRODUCTS].get(name)
    told = plain(await shown(request, product))
    offers = await request.app[OFFERS].now([name])
    found, at_ms = request[READER], now_ms()
    sales = [
        plain(sale_reply(sale, at_ms))
        for sale in request.app[BOOK].approved()
        if sale.state(at_ms) is not SaleState.ENDED and any(item.product == name for item in sale.items)
    ]
    return render(
        request,
        "product.html",
        product=told,
        sales=sales,
        free=(await request.app[FIGURES].known([name]))[name],
        can_buy=product.is_ordinary and product.units_left > 0 and name in offers and offers[name].is_available,
        recommended=[plain(other) for other in await recommended(request, name)],
        is_wished=found is not None and await request.app[WISHES].has(found.account, name),
        key=new_key(),
    )


@form("/products/{product}")
async def buy(request: web.Request) -> web.Response:
    """An order of this product alone, at the server's price; refused where that is not the one that was shown."""
    found = reader(request)
    fields = await form_fields(request)
    item = _item(request, fields)
    seen = converted({"amount": fields.get("seen"), "currency": fields.get("currency")}, Money)
    shown_total = Money(seen.amount * item.quantity, seen.currency)
    address = await usual_address(request, found.account)
    wanted = OrderRequest(items=(item,), address=address, expected_total=shown_total)
    held = await request.app[FLOW].order(found.account, wanted, form_key(fields))
    return onward(f"/orders/{held.order}")


@form("/products/{product}")
async def put_in_cart(request: web.Request) -> web.Response:
    """So many units into the cart."""
    found = reader(request)
    item = _item(request, await form_fields(request))
    await request.app[CARTS].put(found.account, item.product, item.quantity)
    return onward("/cart")


@form("/products/{product}")
async def wish(request: web.Request) -> web.Response:
    """Wish for it."""
    found = reader(request)
    await request.app[WISHES].add(found.account, request.match_info["product"])
    return onward(named(request, "/products/{product}"))


@form("/products/{product}")
async def unwish(request: web.Request) -> web.Response:
    """Wish for it no more."""
    found = reader(request)
    await request.app[WISHES].remove(found.account, request.match_info["product"])
    return onward(named(request, "/products/{product}"))


def _item(request: web.Request, fields: dict[str, str]) -> ItemRequest:
    return converted({"product": request.match_info["product"], "quantity": fields.get("quantity")}, ItemRequest)


ROUTES = (
    html("GET", "/products/{product}", show_product, "product_page", "The page of a product."),
    html("POST", "/products/{product}/orders", buy, "buy_form", "Order a product from its page."),
    html("POST", "/products/{product}/cart", put_in_cart, "cart_form", "Put a product into the cart from its page."),
    html("POST", "/products/{product}/wish", wish, "wish_form", "Wish for a product from its page."),
    html("POST", "/products/{product}/unwish", unwish, "unwish_form", "Wish no more for a product, from its page."),
)
