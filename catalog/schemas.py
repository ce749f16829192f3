"""What the catalogue answers over HTTP."""

from __future__ import annotations

import msgspec

from onsale.auth.requests import rfc3339
from onsale.catalog.salefile import Money
from onsale.catalog.sales import RefundPolicy, Sale, SaleItem


class ItemReply(msgspec.Struct, frozen=True):
    """One item of a sale; the list price is what the sale's price is compared with."""

    product: str
    title: str
    stock: int
    price: Money
    list_price: Money
    # The day that an entry is for.
    visit_on: str | None = None


class RefundStepReply(msgspec.Struct, frozen=True):
    """So many days or more before the visit, so much of the price is given back."""

    days_min: int
    percent: int


class RefundingReply(msgspec.Struct, frozen=True):
    """What cancelling an entry for a visit gives back; the last step counts for fewer days too."""

    since: str
    steps: tuple[RefundStepReply, ...]


class SaleReply(msgspec.Struct, frozen=True):
    """A sale as anyone sees it. Who waits and what is left is in its line document."""

    sale: str
    title: str
    state: str
    opens_at: str
    closes_at: str
    limit_per_buyer: int
    hold_ttl_s: int
    guests: bool
    opening: str
    items: tuple[ItemReply, ...]
    refunding: RefundingReply


class SaleList(msgspec.Struct, frozen=True):
    """A page of sales, newest first."""

    items: list[SaleReply]
    next_cursor: str | None


def sale_reply(sale: Sale, now_ms: int) -> SaleReply:
    """The sale by the clock at `now_ms`."""
    return SaleReply(
        sale=sale.id,
        title=sale.title,
        state=sale.state(now_ms),
        opens_at=rfc3339(sale.opens_at_ms if sale.is_approved else sale.planned_at_ms),
        closes_at=rfc3339(sale.closes_at_ms),
        limit_per_buyer=sale.limit_per_buyer,
        hold_ttl_s=sale.hold_ttl_s,
        guests=sale.guests,
        opening=sale.opening,
        items=tuple(item_reply(item) for item in sale.items),
        refunding=_refunding_reply(sale.refunding),
    )


def _refunding_reply(policy: RefundPolicy) -> RefundingReply:
    steps = [RefundStepReply(step.days_min, step.percent) for step in policy.steps]
    if steps[-1].percent != policy.percent_least:
        steps.append(RefundStepReply(0, policy.percent_least))
    return RefundingReply(policy.since, tuple(steps))


def item_reply(item: SaleItem) -> ItemReply:
    """One item as anyone sees it."""
    return ItemReply(
        product=item.product,
        title=item.title,
        stock=item.stock,
        price=Money(item.amount, item.currency),
        list_price=Money(item.list_amount, item.currency),
        visit_on=None if item.visit_on is None else item.visit_on.isoformat(),
    )
