"""What the catalogue refuses. Each class is one decision of the caller; `server/problems.py` has the numbers."""

from __future__ import annotations


class CatalogError(Exception):
    """The catalogue refused."""


class SaleUnknown(CatalogError):
    """There is no such sale."""


class ProductUnknown(CatalogError):
    """There is no such product."""


class ProductExists(CatalogError):
    """There is a product with this id already."""


class ProductInSale(CatalogError):
    """The product is part of a sale that has not ended: take it out first."""


class ProductUnavailable(CatalogError):
    """The product is not sold now."""


class NotEnoughStock(CatalogError):
    """Not so many units are free."""


class VendorUnknown(CatalogError):
    """There is no such vendor."""


class VendorExists(CatalogError):
    """This account has an active vendor already."""


class VendorMissing(CatalogError):
    """You have no vendor yet: make one first."""


class DiscountUnknown(CatalogError):
    """There is no such discount event."""


class WishExists(CatalogError):
    """You wish for this product already."""


class AlarmTooLate(CatalogError):
    """The sale starts too soon for a letter, or has started, or will not."""


class CartFull(CatalogError):
    """The cart holds as many products as one order may."""


class SaleExists(CatalogError):
    """There is a sale with this id already."""


class SaleRunning(CatalogError):
    """A sale that has opened cannot be edited; only its stock can be moved."""


class SaleEnded(CatalogError):
    """The sale has ended."""


class SalesOverlap(CatalogError):
    """The vendor has another sale over the same time."""


class ItemExists(CatalogError):
    """The product is in this sale already."""


class ProposalDecided(CatalogError):
    """The proposal was decided before."""


class ApprovalTooLate(CatalogError):
    """The sale begins too soon to be approved now."""


class SaleFileInvalid(CatalogError):
    """The sale file cannot be used: each line says where and why."""

    def __init__(self, *flaws: str) -> None:
        super().__init__("\n".join(flaws))
        self.flaws = flaws
