"""The one table of every path: who serves it, who may ask, what goes in and out. The map of the house.

The application is built from it and so is the OpenAPI document, so a route cannot exist without being documented.
"""

from __future__ import annotations

from onsale.auth import errors as auth_errors
from onsale.catalog import errors as catalog_errors
from onsale.checkout import cancellation_handlers as cancellations
from onsale.checkout import entry_handlers as entries
from onsale.checkout import errors as checkout_errors
from onsale.checkout import handlers as checkout
from onsale.checkout import notice_handlers as notices
from onsale.checkout import schemas as checkout_schemas
from onsale.checkout.states import OrderState
from onsale.queue import errors as line_errors
from onsale.queue import handlers as line
from onsale.queue import schemas as line_schemas
from onsale.server.account_routes import ACCOUNTS
from onsale.server.catalogue_routes import CATALOGUE
from onsale.server.pages import account as account_pages
from onsale.server.pages import alarms, console, desk, documents, door, entry, lists, products, shop, waiting
from onsale.server.pages import checkout as checkout_pages
from onsale.server.pages import notices as notice_pages
from onsale.server.route import PAGE, PAGE_BY_ID, Query, Route, page

LANE = Query("lane", {"enum": ["general"], "default": "general"}, "Which lane of the line.")

LINE = (
    Route(
        "POST", "/v1/sales/{sale}/tickets", line.join, "join", "Join the line, or find your ticket again.", "joiner",
        body=line_schemas.JoinRequest, is_body_optional=True, reply=line_schemas.TicketReply, status=201,
        also={200: "The living ticket you hold."},
        problems=(
            catalog_errors.SaleUnknown, line_errors.GuestsRefused, line_errors.SaleDraining, line_errors.SaleSoldOut,
            line_errors.SaleEnded, line_errors.LineRecovering,
        ),
        is_hot=True,
    ),
    Route(
        "GET", "/v1/tickets/{ticket}", line.show, "show_ticket", "How a ticket stands; a sign of life.", "holder",
        reply=line_schemas.TicketReply, problems=(line_errors.TicketUnknown, line_errors.LineRecovering), is_hot=True,
    ),
    Route(
        "DELETE", "/v1/tickets/{ticket}", line.leave, "leave", "Leave the line.", "holder", status=204,
        problems=(line_errors.TicketUnknown, line_errors.LineRecovering),
    ),
    Route(
        "GET", "/v1/tickets/{ticket}/events", line.stream_ticket, "stream_ticket",
        "The personal event stream; a sign of life.", "holder", media="text/event-stream", headers=("Last-Event-ID",),
        also={204: "The stream has ended: ask no more."},
        problems=(line_errors.TicketUnknown, line_errors.StreamsExhausted),
    ),
    Route(
        "GET", "/v1/sales/{sale}/line", line.show_line, "show_line", "The line as everyone sees it.",
        reply=line_schemas.LineDocument, headers=("If-None-Match",), also={304: "Not changed."}, query=(LANE,),
        problems=(catalog_errors.SaleUnknown,), is_hot=True,
    ),
    Route(
        "GET", "/v1/sales/{sale}/line/events", line.stream_line, "stream_line", "The same as an event stream.",
        media="text/event-stream", headers=("Last-Event-ID",), query=(LANE,),
        problems=(catalog_errors.SaleUnknown, line_errors.StreamsExhausted),
    ),
    Route(
        "GET", "/v1/passes/verify", line.verify_pass, "verify_pass", "Whether a pass is good now; for proxies.", "pass",
        status=204, problems=(auth_errors.Unauthenticated,),
        query=(
            Query("pass", {"type": "string"}, "The pass, where no header or cookie carries it."),
            Query("sale", {"type": "string"}, "The sale that it must be for."),
        ),
    ),
)  # fmt: skip

ORDER_FILTERS = (
    *PAGE_BY_ID,
    Query("state", {"enum": list(OrderState)}, "Only orders in this state."),
    Query("from", {"type": "string", "format": "date-time"}, "Made at this moment or later."),
    Query("to", {"type": "string", "format": "date-time"}, "Made before this moment."),
)
RESERVE_PROBLEMS = (
    catalog_errors.SaleUnknown,
    checkout_errors.PassExpired, checkout_errors.PassRevoked, checkout_errors.PassSpent, checkout_errors.SoldOut,
    checkout_errors.PurchaseLimitReached, checkout_errors.ReservationOpen, checkout_errors.TooManyDrops,
    checkout_errors.PriceChanged,
    checkout_errors.SaleNotOpen, checkout_errors.ProductUnknown, checkout_errors.ShopRecovering,
    checkout_errors.RecordBehind,
)  # fmt: skip
ORDER_PROBLEMS = (
    checkout_errors.SoldOut, checkout_errors.ReservationOpen, checkout_errors.TooManyDrops,
    checkout_errors.PriceChanged, checkout_errors.ProductUnknown, checkout_errors.ProductUnavailable,
    checkout_errors.ShopRecovering, checkout_errors.RecordBehind,
)  # fmt: skip
CONFIRM_PROBLEMS = (
    checkout_errors.OrderUnknown, checkout_errors.OrderExpired, checkout_errors.OrderStateConflict,
    checkout_errors.PaymentDeclined, checkout_errors.AmountMismatch, checkout_errors.SoldOut,
    checkout_errors.PurchaseLimitReached, checkout_errors.PassSpent, checkout_errors.ProviderAway,
    checkout_errors.ShopRecovering,
)  # fmt: skip

AMEND_PROBLEMS = (
    checkout_errors.OrderUnknown, checkout_errors.OrderExpired, checkout_errors.OrderStateConflict,
    checkout_errors.OrderChanged, auth_errors.PassRequired, auth_errors.PassInvalid,
    *(problem for problem in RESERVE_PROBLEMS if problem is not checkout_errors.ReservationOpen),
)  # fmt: skip
AFTER_SALE_PROBLEMS = (checkout_errors.OrderUnknown, checkout_errors.OrderStateConflict)

CHECKOUT = (
    Route(
        "POST", "/v1/sales/{sale}/orders", checkout.reserve, "reserve", "Reserve every item of an order, or nothing.",
        "holder", body=checkout_schemas.ReserveRequest, reply=checkout_schemas.OrderReply, status=201,
        headers=("Idempotency-Key", "Admission-Pass"), problems=RESERVE_PROBLEMS, is_hot=True,
    ),
    Route(
        "POST", "/v1/orders", checkout.order, "order", "Reserve ordinary products: no line, no pass.",
        "buyer", body=checkout_schemas.OrderRequest, reply=checkout_schemas.OrderReply, status=201,
        headers=("Idempotency-Key",), problems=(*ORDER_PROBLEMS, checkout_errors.CartEmpty),
    ),
    Route(
        "POST", "/v1/orders/{order}/confirmation", checkout.confirm, "confirm", "Pay for an order and confirm it.",
        "holder", body=checkout_schemas.ConfirmRequest, reply=checkout_schemas.OrderReply,
        also={202: "Still confirming: ask for the order, or repeat."},
        headers=("Idempotency-Key",), problems=CONFIRM_PROBLEMS, is_hot=True,
    ),
    Route(
        "GET", "/v1/orders", checkout.mine, "list_orders", "Your orders, newest first.", "buyer",
        reply=checkout_schemas.OrderPage,
        query=(*ORDER_FILTERS, Query("sale", {"type": "string"}, "Only orders of this sale.")),
    ),
    Route(
        "GET", "/v1/orders/{order}", checkout.show, "show_order", "One of your orders.", "holder",
        reply=checkout_schemas.OrderDetail, problems=(checkout_errors.OrderUnknown,),
    ),
    Route(
        "PATCH", "/v1/orders/{order}", checkout.amend, "amend",
        "Change what a reservation holds, or where it goes; all of it or nothing.", "holder",
        body=checkout_schemas.AmendRequest, reply=checkout_schemas.OrderDetail, headers=("Admission-Pass",),
        problems=AMEND_PROBLEMS,
    ),
    Route(
        "DELETE", "/v1/orders/{order}", checkout.release, "release", "Give a reservation up.", "holder", status=204,
        problems=(
            checkout_errors.OrderUnknown, checkout_errors.OrderExpired, checkout_errors.OrderStateConflict,
            checkout_errors.ShopRecovering,
        ),
    ),
    Route(
        "GET", "/v1/orders/{order}/payments", checkout.payments, "list_payments",
        "Every try to pay one of your orders; managers see those of any.",
        "holder", reply=checkout_schemas.PaymentList, problems=(checkout_errors.OrderUnknown,),
    ),
    Route(
        "POST", "/v1/provider-events/{provider}", checkout.provider_event, "receive_provider_event",
        "What a provider of payments tells by itself, signed as it signs; a hint, after which it is asked.",
        reply=checkout_schemas.EventReply,
        problems=(
            checkout_errors.ProviderUnknown, checkout_errors.SignatureInvalid, checkout_errors.EventUnreadable,
            auth_errors.PayloadTooLarge,
        ),
    ),
    Route(
        "POST", "/v1/orders/{order}/cancellation", checkout.cancel, "cancel",
        "Give a bought order back before it is shipped: refunded by the sale's policy.", "holder",
        body=checkout_schemas.CancelRequest, is_body_optional=True, reply=checkout_schemas.OrderDetail,
        headers=("Idempotency-Key",), problems=AFTER_SALE_PROBLEMS,
    ),
    Route(
        "POST", "/v1/orders/{order}/return", checkout.send_back, "send_back",
        "Send a delivered order back, until a day after its delivery.", "holder",
        body=checkout_schemas.CancelRequest, is_body_optional=True, reply=checkout_schemas.OrderDetail,
        headers=("Idempotency-Key",), problems=AFTER_SALE_PROBLEMS,
    ),
    Route(
        "GET", "/v1/orders/{order}/entries", entries.list_entries, "list_entries",
        "The codes that let in whoever shows them, of an order of entries.", "holder",
        reply=checkout_schemas.EntryList, problems=(checkout_errors.OrderUnknown,),
    ),
    Route(
        "POST", "/v1/redemptions", entries.redeem, "redeem",
        "Let in whoever shows this code of yours, once, on its day.", "seller",
        body=checkout_schemas.RedeemRequest, reply=checkout_schemas.RedemptionReply,
        problems=(
            checkout_errors.EntryUnknown, checkout_errors.EntryRedeemed, checkout_errors.EntryVoid,
            checkout_errors.EntryNotYet, checkout_errors.EntryExpired,
        ),
    ),
    Route(
        "GET", "/v1/sales/{sale}/orders", checkout.of_sale, "list_sale_orders", "Orders of a sale, newest first.",
        "operator", reply=checkout_schemas.OperatorPage, problems=(catalog_errors.SaleUnknown,),
        query=(*ORDER_FILTERS, Query("buyer", {"type": "string"}, "Only orders of this buyer.")),
    ),
    Route(
        "GET", "/v1/sales/{sale}/cancellation", cancellations.show_cancellation, "show_sale_cancellation",
        "What cancelling a sale would give back, or has given back so far.", "operator",
        reply=cancellations.CancellationReply, problems=(catalog_errors.SaleUnknown,),
    ),
    Route(
        "POST", "/v1/sales/{sale}/cancellation", cancellations.cancel_sale, "cancel_sale",
        "Cancel a closed sale for good: whatever was not shipped is given back in full, order by order.", "operator",
        body=cancellations.SaleCancelRequest, reply=cancellations.CancellationReply, status=202,
        headers=("Idempotency-Key",),
        problems=(
            catalog_errors.SaleUnknown, checkout_errors.SaleNotClosed, checkout_errors.FiguresChanged,
            checkout_errors.SaleCancelled,
        ),
    ),
    Route(
        "GET", "/v1/products/{product}/stock", checkout.stock, "show_stock", "Units that can be reserved now.",
        reply=checkout_schemas.StockReply, problems=(catalog_errors.ProductUnknown, checkout_errors.ShopRecovering),
        is_hot=True,
    ),
)  # fmt: skip

NOTICES = (
    Route(
        "GET", "/v1/notices", notices.list_notices, "list_notices", "What happened to your orders, newest first.",
        "buyer", reply=checkout_schemas.NoticePage, query=page("[0-9]{1,18}-[0-9]{1,18}"),
    ),
    Route(
        "GET", "/v1/notices/events", notices.stream_notices, "stream_notices",
        "The same as it happens, and what runs out in your cart, as an event stream.", "buyer",
        media="text/event-stream", headers=("Last-Event-ID",), also={204: "The stream has ended: ask no more."},
        problems=(checkout_errors.NoticesExhausted,),
    ),
    Route(
        "GET", "/v1/notices/socket", notices.socket_notices, "socket_notices",
        "The same over a WebSocket: texts of `{id, event, data}`.", "buyer", status=101,
        also={204: "The stream has ended: ask no more."},
        query=(
            Query("stream_key", {"type": "string"}, "For clients that can send no header."),
            Query("last_event_id", {"type": "string"}, "The `id` that was seen last."),
        ),
        problems=(checkout_errors.NoticesExhausted, auth_errors.CrossSite),
    ),
)  # fmt: skip

ACT_PROBLEMS = (
    catalog_errors.SaleUnknown, line_errors.SaleNotScheduled, line_errors.SaleEnded, line_errors.SaleSoldOut,
    line_errors.LineRecovering,
)  # fmt: skip

OPERATING = (
    Route(
        "GET", "/v1/sales/{sale}/admission", line.show_admission, "show_admission", "How people are let in.",
        "operator", reply=line_schemas.AdmissionReply, problems=(catalog_errors.SaleUnknown,),
    ),
    Route(
        "PATCH", "/v1/sales/{sale}/admission", line.change_admission, "change_admission",
        "Change how people are let in; in force everywhere within a second.", "operator",
        body=line_schemas.AdmissionPatch, reply=line_schemas.AdmissionReply, headers=("If-Match",),
        problems=(*ACT_PROBLEMS, line_errors.PolicyMissingMatch, line_errors.PolicyStale),
    ),
    Route(
        "POST", "/v1/sales/{sale}/opening", line.open_sale, "open_sale", "Open now, whatever the schedule says.",
        "operator", body=line_schemas.ActionRequest, is_body_optional=True, status=204, problems=ACT_PROBLEMS,
    ),
    Route(
        "POST", "/v1/sales/{sale}/closing", line.close_sale, "close_sale", "End now, whatever the schedule says.",
        "operator", body=line_schemas.ActionRequest, is_body_optional=True, status=204, problems=ACT_PROBLEMS,
    ),
    Route(
        "POST", "/v1/sales/{sale}/draining", line.drain_sale, "drain_sale", "Let nobody join any more.",
        "operator", body=line_schemas.ActionRequest, is_body_optional=True, status=204, problems=ACT_PROBLEMS,
    ),
    Route(
        "PUT", "/v1/sales/{sale}/message", line.set_message, "set_message", "Say something to everyone who waits.",
        "operator", body=line_schemas.MessageRequest, reply=line_schemas.MessageRequest, problems=ACT_PROBLEMS,
    ),
    Route(
        "DELETE", "/v1/sales/{sale}/message", line.clear_message, "clear_message", "Take it back.", "operator",
        status=204, problems=ACT_PROBLEMS,
    ),
    Route(
        "GET", "/v1/sales/{sale}/live/events", line.stream_live, "stream_live", "Operators' figures, once a second.",
        "operator", media="text/event-stream", headers=("Last-Event-ID",),
        also={204: "The stream has ended: ask no more."},
        problems=(catalog_errors.SaleUnknown, line_errors.StreamsExhausted),
    ),
    Route(
        "GET", "/v1/sales/{sale}/audit", line.list_audit, "list_audit", "What operators did, hash-chained.",
        "operator", reply=line_schemas.AuditList, query=PAGE, problems=(catalog_errors.SaleUnknown,),
    ),
    Route(
        "GET", "/v1/sales/{sale}/tickets", line.list_tickets, "list_tickets", "Everyone who was given a place.",
        "operator", reply=line_schemas.TicketList,
        query=(*PAGE, Query("email", {"type": "string", "format": "email"}, "The living ticket of this one person.")),
        problems=(catalog_errors.SaleUnknown, line_errors.LineRecovering),
    ),
    Route(
        "POST", "/v1/tickets/{ticket}/revocation", line.revoke, "revoke", "End a person's ticket, seat and pass.",
        "operator", body=line_schemas.ActionRequest, is_body_optional=True, status=204,
        problems=(line_errors.TicketUnknown, line_errors.LineRecovering, checkout_errors.ShopRecovering),
    ),
)  # fmt: skip

PAGES = (
    *documents.ROUTES,
    *shop.ROUTES,
    *entry.ROUTES,
    *account_pages.ROUTES,
    *products.ROUTES,
    *lists.ROUTES,
    *alarms.ROUTES,
    *waiting.ROUTES,
    *checkout_pages.ROUTES,
    *notice_pages.ROUTES,
    *desk.ROUTES,
    *door.ROUTES,
    *console.ROUTES,
)

ROUTES: tuple[Route, ...] = (*ACCOUNTS, *CATALOGUE, *LINE, *CHECKOUT, *NOTICES, *OPERATING, *PAGES)
