"""A reservation changed before it is paid: all of it or nothing, once, and recorded as its last change left it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from flow_kit import PRICE, PRODUCT, SALE, Checkout, pay, won
from redis.asyncio import Redis
from shop_kit import NEVER_MS, Shop, new_attempt, order_doc

from onsale.auth.errors import PassInvalid, PassRequired
from onsale.checkout.errors import (
    OrderChanged,
    OrderExpired,
    OrderStateConflict,
    OrderUnknown,
    PassExpired,
    PassRevoked,
    PriceChanged,
    ProductUnknown,
    PurchaseLimitReached,
    SoldOut,
)
from onsale.checkout.inventory import Amend, Changed, Pin
from onsale.checkout.record.audit import audit
from onsale.checkout.record.rebuild import Rebuilder
from onsale.checkout.schemas import Address, AmendRequest, ItemRequest
from onsale.checkout.states import OrderState

HOME = Address(recipient="Ann", line1="1 Lane")


async def amend(shop: Shop, order: str, items: Mapping[str, int], *, rev: int = 1, exp_ms: int = NEVER_MS) -> Changed:
    """Change what an order of the scripts' shop holds."""
    view = await shop.look(order)
    doc = msgspec.structs.replace(order_doc(order, view.buyer, view.turn, items, "key"), revision=rev + 1)
    asked = Amend(order, rev, exp_ms, tuple(items.items()), msgspec.json.encode(doc))
    return await shop.inventory.amend(shop.keys, asked)


# --- the script


async def test_units_move_by_the_difference(shop: Shop) -> None:
    """Other products and quantities, in one step: what is dropped is free, what is added held; its time stays."""
    held = await shop.reserve("ann", {"jacket": 2})
    changed = await amend(shop, held.order, {"jacket": 1, "hat": 1})

    assert ({"free": 9, "held": 1, "stock": 10}, {"free": 4, "held": 1, "stock": 5}) == (
        await shop.units(),
        await shop.units("hat"),
    )
    assert (2, held.expires_at_ms, OrderState.RESERVED) == (changed.rev, changed.expires_at_ms, changed.state)
    assert "amended" == (await shop.events("money"))[-1]["verb"]


@pytest.mark.parametrize(
    ("items", "refusal"),
    [
        ({"hat": 3}, PurchaseLimitReached),
        ({"hat": 2}, SoldOut),
        ({"cap": 1}, OrderUnknown),
    ],
)
async def test_all_or_nothing(shop: Shop, items: Mapping[str, int], refusal: type[Exception]) -> None:
    """A change that cannot be held whole changes nothing."""
    held = await shop.reserve("ann", {"jacket": 1})
    await shop.open_more(hat=-4)
    before = await shop.dump()

    with pytest.raises(refusal):
        await amend(shop, held.order, items)

    assert before == await shop.dump()


async def test_only_as_it_was_seen(shop: Shop) -> None:
    """Two changes made from the same look: the second finds that it was changed, and changes nothing."""
    held = await shop.reserve("ann", {"jacket": 1})
    await amend(shop, held.order, {"jacket": 2})
    before = await shop.dump()

    with pytest.raises(OrderChanged):
        await amend(shop, held.order, {"hat": 1})

    assert before == await shop.dump()


async def test_passes_and_time_count(shop: Shop) -> None:
    """An expired or revoked pass, and an order past its time, change nothing."""
    held = await shop.reserve("ann", {"jacket": 1})
    with pytest.raises(PassExpired):
        await amend(shop, held.order, {"jacket": 2}, exp_ms=1)
    await shop.inventory.close_turns(shop.keys.sale, [(await shop.look(held.order)).turn], "revoked")
    with pytest.raises(PassRevoked):
        await amend(shop, held.order, {"jacket": 2})
    other = await shop.reserve("bob", {"jacket": 1})
    await shop.age(other.order, 600_001)
    with pytest.raises(OrderExpired):
        await amend(shop, other.order, {"jacket": 2})


async def test_an_attempt_made_before_a_change_claims_nothing(shop: Shop) -> None:
    """It would charge the total of before: it is refused, made anew, and a repeat of it finds itself."""
    held = await shop.reserve("ann", {"jacket": 1})
    await amend(shop, held.order, {"jacket": 2})
    attempt = new_attempt()
    with pytest.raises(OrderChanged):
        await shop.inventory.pin(shop.keys, Pin(held.order, "ann", attempt, rev=1))
    assert not (await shop.inventory.pin(shop.keys, Pin(held.order, "ann", attempt, rev=2))).is_replay
    assert (await shop.inventory.pin(shop.keys, Pin(held.order, "ann", attempt, rev=2))).is_replay
    assert {"free": 8, "claimed": 2, "stock": 10} == await shop.units()
    with pytest.raises(OrderStateConflict):
        await amend(shop, held.order, {"jacket": 1}, rev=3)


# --- the flow


async def change(checkout: Checkout, order: str, quantity: int = 0, *, buyer: str = "ann", **more: Any) -> None:
    """Patch an order of jackets as its buyer would."""
    items = {"items": (ItemRequest(PRODUCT, quantity),)} if quantity else {}
    token = more.pop("token", None)
    admission = checkout.pass_of(buyer) if token is None else token
    await checkout.flow.amend(buyer, order, admission, AmendRequest(**items, **more))


async def judged(checkout: Checkout, line: Redis) -> list[str]:
    findings = await audit(checkout.pool, line, checkout.redis, checkout.book, SALE, pause_s=0)
    return [f"{one.invariant}: {one.detail}" for one in findings if not one.ok]


async def test_the_new_total_is_charged(checkout: Checkout, line_redis: Redis) -> None:
    """Two instead of one, to another address; the record has what was paid, and the books agree."""
    order = (await checkout.reserve("ann", address=HOME)).order
    await change(checkout, order, 2, address=None)
    await checkout.confirm("ann", order)

    row = await checkout.row(order)
    assert (2 * PRICE, 2, None, 2) == (row.amount, row.items[0].quantity, row.address, row.revision)
    assert 2 * PRICE == (await checkout.sandbox.charges(order))[0]["amount"]
    assert [] == await judged(checkout, line_redis)


async def test_twice_is_once(checkout: Checkout) -> None:
    """The same change again, and one that changes nothing, write no event."""
    order = (await checkout.reserve("ann", address=HOME)).order
    for _ in range(3):
        await change(checkout, order, 2, address=HOME)
    await change(checkout, order)

    assert 2 == (await checkout.inventory.look(checkout.keys, order)).rev  # type: ignore[union-attr]


async def test_changes_at_once_are_all_made(checkout: Checkout) -> None:
    """One device changes the quantity, another the address: neither undoes the other."""
    order = (await checkout.reserve("ann")).order
    await asyncio.gather(change(checkout, order, 2), change(checkout, order, address=HOME))
    await checkout.confirm("ann", order)

    row = await checkout.row(order)
    assert (2, True, 3) == (row.items[0].quantity, row.address is not None, row.revision)


async def test_what_is_refused(checkout: Checkout) -> None:
    """No pass, another's, another turn's; another's order; a wrong total, an unknown product."""
    order = (await checkout.reserve("ann")).order
    for refusal, more in (
        (PassRequired, {"token": ""}),
        (PassInvalid, {"token": checkout.pass_of("bob")}),
        (PassInvalid, {"token": checkout.pass_of("ann", "1-ann-2")}),
        (OrderUnknown, {"buyer": "bob"}),
        (PriceChanged, {"expected_total": won(PRICE)}),
    ):
        with pytest.raises(refusal):
            await change(checkout, order, 2, **more)
    with pytest.raises(ProductUnknown):
        await checkout.flow.amend(
            "ann", order, checkout.pass_of("ann"), AmendRequest(items=(ItemRequest("nothing", 1),))
        )
    assert {"free": 9, "held": 1} == await checkout.units()


async def test_changed_while_it_is_being_paid(checkout: Checkout, line_redis: Redis) -> None:
    """A confirmation and changes at once: what is charged is what is claimed and recorded."""
    for n in range(5):
        buyer = f"buyer-{n}"
        order = (await checkout.reserve(buyer)).order
        await asyncio.gather(
            checkout.flow.confirm(buyer, order, pay(), "k"),
            change(checkout, order, 2, buyer=buyer),
            return_exceptions=True,
        )
        row = await checkout.row(order)
        [charge] = await checkout.sandbox.charges(order)
        assert (OrderState.CONFIRMED, charge["amount"]) == (row.state, row.amount)
        assert row.amount == PRICE * row.items[0].quantity
    assert [] == await judged(checkout, line_redis)


# --- the record


@pytest.mark.parametrize("together", [True, False])
async def test_recorded_in_whatever_order(checkout: Checkout, line_redis: Redis, together: bool) -> None:
    """Money is read before holdings, and by another task: reserved, changed, declined, changed again and sold, it is
    recorded as its last change left it."""
    await checkout.stop_record()
    order = (await checkout.reserve("ann")).order
    await change(checkout, order, 2)
    money, holdings = checkout.flusher.lanes[:2]
    if not together:
        await money.tick()
    assert [] == await judged(checkout, line_redis)
    if not together:
        await holdings.tick()
    checkout.start_record()
    with pytest.raises(Exception, match="funds"):
        await checkout.confirm("ann", order, "decline_funds")
    await checkout.stop_record()
    await change(checkout, order, 1, address=HOME)
    assert [] == await judged(checkout, line_redis)
    checkout.start_record()
    await checkout.confirm("ann", order)

    row = await checkout.row(order)
    assert (PRICE, 1, True, 3) == (row.amount, row.items[0].quantity, row.address is not None, row.revision)
    assert {"free": 9, "sold": 1} == await checkout.units()
    assert [] == await judged(checkout, line_redis)


async def test_an_amended_order_survives_a_rebuild(checkout: Checkout, line_redis: Redis) -> None:
    """Redis is made anew from the record: the order holds what it was changed to, and can be changed again."""
    order = (await checkout.reserve("ann")).order
    await change(checkout, order, 2)
    await checkout.stop_record()
    await checkout.record()
    await Rebuilder(checkout.pool, checkout.redis, checkout.inventory, checkout.book).rebuild(SALE)

    assert {"free": 8, "held": 2} == await checkout.units()
    await change(checkout, order, 1)
    await checkout.record()
    assert (1, 3) == ((await checkout.row(order)).items[0].quantity, (await checkout.row(order)).revision)
    assert [] == await judged(checkout, line_redis)
