"""Proposals as they come in and go out over HTTP."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from onsale.catalog.product_schemas import Moment, Units
from onsale.catalog.rules import ProposalRules
from onsale.catalog.salefile import Money, Slug, Title
from onsale.catalog.sales import Sale, SaleItem
from onsale.catalog.schemas import ItemReply, SaleReply, item_reply, sale_reply
from onsale.catalog.states import ItemStatus


class PlanPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What of a sale shall change, before it begins."""

    title: Title | UnsetType = UNSET
    opens_at: Moment | UnsetType = UNSET
    closes_at: Moment | UnsetType = UNSET
    limit_per_buyer: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    hold_ttl_s: Annotated[int, Meta(ge=30, le=3600)] | UnsetType = UNSET


class ProposalRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A product for a sale: at which price, and how many of its units."""

    product: Slug
    price: Money
    stock: Units


class RefusalRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why not."""

    reason: Annotated[str, Meta(max_length=500)] | None = None


class ProposedItem(ItemReply, frozen=True, kw_only=True):
    """An item as its vendor and operators see it; `kept` units wait for its approval."""

    status: ItemStatus
    kept: int
    reason: str | None


class ProposalReply(SaleReply, frozen=True, kw_only=True):
    """A sale as its vendor and operators see it; `approval` is pending, approved or refused."""

    items: tuple[ProposedItem, ...]
    vendor: str | None
    approval: ItemStatus


class ProposalList(msgspec.Struct, frozen=True):
    """A page of sales that vendors proposed, newest first."""

    items: list[ProposalReply]
    next_cursor: str | None


def proposal_reply(sale: Sale, rules: ProposalRules, now_ms: int) -> ProposalReply:
    """The sale by the clock at `now_ms`."""
    items = tuple(_item(item, rules.status(item.status, sale.planned_at_ms, now_ms)) for item in sale.items)
    return ProposalReply(
        **{**msgspec.structs.asdict(sale_reply(sale, now_ms)), "items": items},
        vendor=sale.vendor,
        approval=_approval(sale, items),
    )


def _approval(sale: Sale, items: tuple[ProposedItem, ...]) -> ItemStatus:
    if sale.is_approved:
        return ItemStatus.APPROVED
    is_pending = any(item.status is ItemStatus.PENDING for item in items)
    return ItemStatus.PENDING if is_pending else ItemStatus.REFUSED


def _item(item: SaleItem, status: ItemStatus) -> ProposedItem:
    return ProposedItem(**msgspec.structs.asdict(item_reply(item)), status=status, kept=item.kept, reason=item.reason)
