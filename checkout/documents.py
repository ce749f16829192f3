"""What an order and an attempt say of themselves: priced by the server, sealed where it is personal, and so whole that
the record can be written from them alone.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec
from msgspec import UNSET, structs

from onsale.auth.errors import Flaw, InvalidRequest
from onsale.auth.identifiers import order_id, sale_no_of
from onsale.auth.passes import Pass
from onsale.auth.sealing import Sealer
from onsale.catalog.errors import SaleUnknown
from onsale.catalog.sales import Sale, SaleBook
from onsale.checkout.errors import OrderUnknown, PriceChanged, ProductUnknown
from onsale.checkout.record.events import AttemptDoc, ItemDoc, OrderDoc
from onsale.checkout.schemas import (
    ADDRESS,
    Address,
    AmendRequest,
    ItemRequest,
    Money,
    PaymentRequest,
    ReserveRequest,
)

# Larger than any order we can think of, small enough that no sum of it leaves a 64-bit column or a JSON number.
AMOUNT_MAX = 2**53

_encode = msgspec.json.Encoder().encode
DOC = msgspec.json.Decoder(OrderDoc)


class Offered(Protocol):
    """What a product costs now."""

    @property
    def product(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def amount(self) -> int: ...
    @property
    def list_amount(self) -> int: ...
    @property
    def currency(self) -> str: ...


def order_doc(
    sale: Sale,
    admission: Pass,
    offers: Mapping[str, Offered],
    request: ReserveRequest,
    key: str,
    digest: str,
    sealer: Sealer,
) -> OrderDoc:
    """A new order at the offered prices; `digest` is of what was asked under `key`. Raises InvalidRequest,
    ProductUnknown, PriceChanged."""
    items = priced(offers, request.items)
    order = order_id(sale.no)
    return OrderDoc(
        order=order,
        sale=sale.id,
        buyer=admission.buyer,
        turn=admission.turn,
        lane=admission.lane,
        items=items,
        amount=_total(items, request.expected_total),
        currency=items[0].currency,
        idempotency_key=key,
        body_digest=digest,
        limit_per_buyer=sale.limit_per_buyer,
        address=_sealed_address(order, request.address, sealer),
    )


def amended_doc(offers: Mapping[str, Offered], doc: OrderDoc, request: AmendRequest, sealer: Sealer) -> OrderDoc:
    """The order's next document; the same one where nothing changes. Raises InvalidRequest, ProductUnknown,
    PriceChanged."""
    items = doc.items if request.items is UNSET else priced(offers, request.items)
    amount = _total(items, request.expected_total)
    address = doc.address
    if request.address is not UNSET and request.address != opened_address(doc, sealer):
        address = _sealed_address(doc.order, request.address, sealer)
    if (items, address) == (doc.items, doc.address):
        return doc
    return structs.replace(
        doc, items=items, amount=amount, currency=items[0].currency, address=address, revision=doc.revision + 1
    )


def opened_address(doc: OrderDoc, sealer: Sealer) -> Address | None:
    """Where an order goes, as its buyer said."""
    if doc.address is None:
        return None
    return ADDRESS.decode(sealer.open(b64decode(doc.address), address_context(doc.order)))


def attempt_doc(
    attempt: str,
    order: OrderDoc,
    payment: PaymentRequest,
    *,
    key: str,
    digest: str,
    driver: str,
    drive_ms: int,
    sealer: Sealer,
) -> AttemptDoc:
    """A new try to pay an order, with everything another process needs to drive it on."""
    instrument = sealer.seal(payment.token.encode(), instrument_context(attempt))
    return AttemptDoc(
        attempt=attempt,
        provider=payment.provider,
        method=payment.method,
        amount=order.amount,
        currency=order.currency,
        idempotency_key=key,
        body_digest=digest,
        instrument=b64encode(instrument).decode(),
        driver=driver,
        drive_ms=drive_ms,
    )


def priced(offers: Mapping[str, Offered], wanted: Iterable[ItemRequest]) -> tuple[ItemDoc, ...]:
    """The items at the offered price, by product. Raises InvalidRequest (a product twice), ProductUnknown."""
    items: dict[str, ItemDoc] = {}
    for position, asked in enumerate(wanted):
        offer = offers.get(asked.product)
        if offer is None:
            raise ProductUnknown
        if asked.product in items:
            raise InvalidRequest(Flaw(f"#/items/{position}/product", "duplicate", "This product is named twice."))
        items[asked.product] = ItemDoc(
            product=offer.product,
            title=offer.title,
            quantity=asked.quantity,
            unit_amount=offer.amount,
            list_amount=offer.list_amount,
            currency=offer.currency,
        )
    return tuple(items[product] for product in sorted(items))


def sale_of(book: SaleBook, order: str) -> Sale:
    """The sale that an order's id names. OrderUnknown for what is no id of ours."""
    try:
        return book.seller_by_no(sale_no_of(order))
    except (ValueError, SaleUnknown):
        raise OrderUnknown from None


def instrument_context(attempt: str) -> str:
    """Where a sealed payment token belongs."""
    return f"payments.instrument:{attempt}"


def address_context(order: str) -> str:
    """Where a sealed address belongs."""
    return f"orders.address:{order}"


def _total(items: tuple[ItemDoc, ...], expected: Money | None) -> int:
    currency = items[0].currency
    if any(item.currency != currency for item in items):
        raise InvalidRequest(Flaw("#/items", "currency_mixed", "These products are sold in different currencies."))
    amount = sum(item.quantity * item.unit_amount for item in items)
    if amount > AMOUNT_MAX:
        raise InvalidRequest(Flaw("#/items", "total_too_large", "The total is more than one payment can be."))
    if expected is not None and (expected.amount, expected.currency) != (amount, currency):
        raise PriceChanged(amount, currency)
    return amount


def _sealed_address(order: str, address: Address | None, sealer: Sealer) -> str | None:
    if address is None:
        return None
    sealed = sealer.seal(_encode(address), address_context(order))
    return b64encode(sealed).decode()
