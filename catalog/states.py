"""States of a sale as the clock sees them, and of a product as people see it; why a product is recommended. Who is let
in, and whether anything of a sale is left, is the line's to say."""

from __future__ import annotations

from enum import StrEnum


class SaleState(StrEnum):
    SCHEDULED = "scheduled"  # -> open at opens_at, decided at the request
    OPEN = "open"  # -> draining by an operator; -> ended at closes_at
    DRAINING = "draining"  # nobody joins any more; -> ended at closes_at
    ENDED = "ended"  # final, unless an operator opens it again before closes_at


class ProductState(StrEnum):
    AVAILABLE = "available"  # -> out_of_stock when the record has no unit left
    ON_SALE = "on_sale"  # an open sale has it, decided at the request
    OUT_OF_STOCK = "out_of_stock"  # -> available by units that come
    DISCONTINUED = "discontinued"  # by its vendor, who may take that back; not listed


class Reason(StrEnum):
    BOUGHT_TOGETHER = "bought_together"  # with the product that is looked at
    POPULAR = "popular"  # among what sells best
    NEW = "new"  # among what came last


class ProductKind(StrEnum):
    GOODS = "goods"  # is sent
    ENTRY = "entry"  # is redeemed on the visit with a code


class ItemStatus(StrEnum):
    PENDING = "pending"  # -> approved or refused by an operator; -> refused by the clock, half an hour before the sale
    APPROVED = "approved"  # -> pending by an edit of its vendor; -> removed before the sale
    REFUSED = "refused"  # -> pending when it is proposed anew
    REMOVED = "removed"  # -> pending when it is proposed anew
