"""The judge alone: whatever comes, in whatever batches, no more is claimed than there is; each claim has a verdict."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given, settings

from onsale.checkout.record.events import AttemptDoc, ItemDoc, OrderDoc
from onsale.checkout.record.folding import ItemStanding, MoneyFold, MoneyStanding
from onsale.checkout.record.reading import Claimed, Confirmed, Declined, Failed, MoneyEvent

ORDERS = [f"o{n}" for n in range(8)]
STOCK, LIMIT = 5, 3


def claimed(order: str, number: int, units: int) -> Claimed:
    """Two orders share a buyer, four share a turn."""
    index = int(order[1:])
    item = ItemDoc("p", "Jacket", units, 100, 100, "KRW")
    doc = OrderDoc(
        order, "drop", f"b{index // 2}", f"t{index // 4}", "general", (item,), 100 * units, "KRW", "k", "d", LIMIT
    )
    attempt = AttemptDoc(f"{order}-{number}", "sandbox", "card", 100, "KRW", f"k{number}", "d", "", "test", 1)
    return Claimed(f"{number}-0", order, number, number, number, doc, None, attempt, b"sealed")


@st.composite
def histories(draw: st.DrawFn) -> list[MoneyEvent]:
    """Events of a stream: mostly what a shop writes, sometimes what no shop should."""
    events: list[MoneyEvent] = []
    sizes = {order: draw(st.integers(1, 3)) for order in ORDERS}
    attempts: dict[str, str] = {}
    for number in range(1, draw(st.integers(1, 40))):
        order = draw(st.sampled_from(ORDERS))
        verb = draw(st.sampled_from(["claimed", "claimed", "confirmed", "declined", "failed"]))
        common = (f"{number}-0", order, number, number)
        attempt = attempts.get(order, f"{order}-never")
        if verb == "claimed":
            attempts[order] = f"{order}-{number}"
            events.append(claimed(order, number, sizes[order]))
        elif verb == "confirmed":
            events.append(Confirmed(*common, attempt))
        elif verb == "declined":
            events.append(Declined(*common, attempt, "funds", number))
        else:
            events.append(Failed(*common, attempt, "provider"))
    return events


def fresh() -> MoneyStanding:
    return MoneyStanding(LIMIT, {"p": ItemStanding(STOCK, 0, 0)})


def settle(standing: MoneyStanding) -> None:
    """What a commit does: the counters have moved, and new rows are known rows."""
    for item in standing.items.values():
        item.claimed, item.sold = item.claimed + item.claimed_by, item.sold + item.sold_by
        item.claimed_by = item.sold_by = 0
    for row in (*standing.orders.values(), *standing.attempts.values()):
        row.doc = None


@given(histories())
@settings(max_examples=300, deadline=None)
def test_never_more_than_there_is(events: list[MoneyEvent]) -> None:
    """After every event: claimed + sold within the stock, each buyer within the limit, one claim a turn, and counters
    that are what the ledger adds up to."""
    for number in range(len(events) + 1):
        standing = fresh()
        fold = MoneyFold(standing)
        fold.apply(events[:number])
        item = standing.items["p"]
        live = [order.turn for order in fold.orders.values() if order.claim in ("open", "sold")]
        ledger: Counter[str] = Counter()
        for row in fold.ledger:
            ledger[row.verb] += row.item.quantity

        assert item.left >= 0
        assert all(0 <= units <= LIMIT for units in fold.bought.values())
        assert len(live) == len(set(live))
        assert item.claimed_by == ledger["claimed"] - ledger["sold"] - ledger["released"]
        assert item.sold_by == ledger["sold"]


@given(histories())
@settings(max_examples=200, deadline=None)
def test_each_claim_has_one_verdict(events: list[MoneyEvent]) -> None:
    """A claim is in the ledger as claimed, or refused, or is the same attempt told again; never two of them."""
    fold = MoneyFold(fresh())
    fold.apply(events)

    accepted = {row.event_id for row in fold.ledger if row.verb == "claimed"}
    refused = [row.event_id for row in fold.refusals]
    claims = {event.id for event in events if isinstance(event, Claimed)}

    assert len(refused) == len(set(refused))
    assert not accepted & set(refused)
    assert claims == accepted | (claims & set(refused))


@given(histories(), st.lists(st.integers(1, 5), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_batches_do_not_matter(events: list[MoneyEvent], sizes: list[int]) -> None:
    """However a stream is cut into batches, the same rows stand in the end."""
    whole = fresh()
    MoneyFold(whole).apply(events)
    settle(whole)
    parts, rest, number = fresh(), list(events), 0
    while rest:
        size = sizes[number % len(sizes)]
        batch, rest, number = rest[:size], rest[size:], number + 1
        MoneyFold(parts).apply(batch)
        settle(parts)

    assert whole == parts
