"""A sale that is cancelled whole: the sum first, then everybody's money back, once, whatever dies."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from contract_kit import System

from onsale.auth.errors import StoreUnavailable
from onsale.catalog.sales import advance_clock
from onsale.checkout import cancellations
from onsale.checkout.aftersale import AfterSale
from onsale.checkout.cancellations import SaleCanceller
from onsale.server.app import ROOMS

pytestmark = pytest.mark.asyncio(loop_scope="module")

DAY_MS = 86_400_000


def won(amount: int) -> list[dict[str, Any]]:
    return [{"amount": amount, "currency": "KRW"}] if amount else []


async def sold(system: System, orders: int) -> tuple[str, list[str], list[str]]:
    """A closed sale in which so many were bought, at 1,000 won each: sale, orders, buyers."""
    sale, buyers = await system.sale(), await system.buyers(orders)
    bought = [await system.order(sale, buyer) for buyer in buyers]
    for order, buyer in zip(bought, buyers, strict=True):
        assert 200 == (await system.pay(order, buyer)).status
    assert 204 == (await system.call("POST", f"/v1/sales/{sale}/closing", token=system.manager)).status
    return sale, bought, buyers


async def look(system: System, sale: str) -> Any:
    return (await system.call("GET", f"/v1/sales/{sale}/cancellation", token=system.manager)).json


async def cancel(system: System, sale: str, amount: int, key: str = "c-1", **more: Any) -> Any:
    body = {"refunds": won(amount), **more}
    return await system.call("POST", f"/v1/sales/{sale}/cancellation", body, system.manager, Idempotency_Key=key)


async def until_done(system: System, sale: str) -> Any:
    return await system.until(f"/v1/sales/{sale}/cancellation", system.manager, lambda told: told["state"] == "done")


async def refunds(system: System, sale: str) -> list[int]:
    """What was given back, by order; the record's and the provider's account agree."""
    pool = system.app[ROOMS].stores.pool
    rows = await pool.fetch(
        """SELECT r.amount FROM refunds r JOIN payments p ON p.id = r.payment_id JOIN orders o ON o.id = p.order_id
           WHERE o.sale = $1 AND r.reason = 'sale_cancelled'""",
        sale,
    )
    return [row["amount"] for row in rows]


async def test_everybody_gets_everything_back(system: System) -> None:
    """The sum is shown, named, and comes back; each order is cancelled once and its unit is free again."""
    sale, orders, buyers = await sold(system, 3)
    shown = await look(system, sale)
    started = await cancel(system, sale, 3_000, reason="a storm")
    done = await system.until(
        f"/v1/sales/{sale}/cancellation", system.manager, lambda told: told["refunded"] == won(3_000)
    )
    pairs = zip(orders, buyers, strict=True)
    states = [(await system.call("GET", f"/v1/orders/{order}", token=buyer)).json["state"] for order, buyer in pairs]
    audit = (await system.call("GET", f"/v1/sales/{sale}/audit", token=system.manager)).json["items"][0]

    assert ("none", True, {"orders": 3, "amounts": won(3_000)}) == (shown["state"], shown["is_closed"], shown["open"])
    assert (202, "running") == (started.status, started.json["state"])
    assert ({"orders": 3, "amounts": won(3_000)}, {"orders": 0, "amounts": []}) == (done["cancelled"], done["open"])
    assert ["cancelled"] * 3 == states
    assert ("cancel", "a storm") == (audit["action"], audit["reason"])
    assert "done" == (await until_done(system, sale))["state"]


async def test_once_by_its_key(system: System) -> None:
    """The same key answers how it stands, another body or key is refused, many at once cancel once."""
    sale, _, _ = await sold(system, 1)
    answers = await asyncio.gather(*(cancel(system, sale, 1_000) for _ in range(4)))
    other_body = await cancel(system, sale, 2_000)
    other_key = await cancel(system, sale, 1_000, "c-2")

    assert [202] * 4 == [answer.status for answer in answers]
    assert 3 == sum(answer.headers.get("Idempotency-Replayed") == "true" for answer in answers)
    assert (422, "idempotency_key_reused") == other_body.problem()
    assert (409, "sale_cancelled") == other_key.problem()
    await until_done(system, sale)
    assert [1_000] == await refunds(system, sale)


async def test_only_what_was_seen_is_cancelled(system: System) -> None:
    """A running sale, another sum, no key, a stranger: nothing happens."""
    running = await system.sale()
    sale, _, _ = await sold(system, 1)

    assert (409, "sale_not_closed") == (await cancel(system, running, 0)).problem()
    assert (409, "figures_changed") == (await cancel(system, sale, 999)).problem()
    assert (404, "sale_unknown") == (await cancel(system, "nothing", 0)).problem()
    path = f"/v1/sales/{sale}/cancellation"
    keyless = await system.call("POST", path, {"refunds": won(1_000)}, system.manager)
    assert (400, "idempotency_key_required") == keyless.problem()
    assert 403 == (await system.call("GET", path, token=await system.buyer())).status
    assert "none" == (await look(system, sale))["state"]


async def test_nobody_pays_for_it_any_more(system: System) -> None:
    """A reservation made before is not paid, and the sale does not open again."""
    sale, buyer = await system.sale(), await system.buyer()
    order = await system.order(sale, buyer)
    await system.call("POST", f"/v1/sales/{sale}/closing", token=system.manager)
    assert 202 == (await cancel(system, sale, 0)).status
    await system.app[ROOMS].book.refresh()

    assert (409, "sale_not_open") == (await system.pay(order, buyer)).problem()
    opening = await system.call("POST", f"/v1/sales/{sale}/opening", token=system.manager)
    assert (409, "sale_ended") == opening.problem()
    waiting = {"orders": 1, "amounts": won(1_000)}
    await system.until(f"/v1/sales/{sale}/cancellation", system.manager, lambda told: told["waiting"] == waiting)


async def test_what_is_recorded_late_is_given_back_too(system: System) -> None:
    """Bought before the sale was closed, and recorded only after its cancellation was done: cancelled all the same."""
    sale, buyer = await system.sale(), await system.buyer()
    pool = system.app[ROOMS].stores.pool
    async with pool.acquire() as conn, conn.transaction():
        # Until this ends, no batch of the sale is recorded.
        await conn.execute("SELECT FROM watermarks WHERE sale = $1 FOR UPDATE", sale)
        order = await system.order(sale, buyer)
        paying = asyncio.create_task(system.pay(order, buyer))
        assert 204 == (await system.call("POST", f"/v1/sales/{sale}/closing", token=system.manager)).status
        assert 202 == (await cancel(system, sale, 0)).status
        done = await until_done(system, sale)
    paid = await paying

    assert 0 == done["cancelled"]["orders"]
    assert paid.status in (200, 202)
    await system.until(f"/v1/orders/{order}", buyer, lambda told: told["state"] == "cancelled")
    assert [1_000] == await refunds(system, sale)
    assert "done" == (await until_done(system, sale))["state"]


async def test_what_was_shipped_is_kept(system: System) -> None:
    """It is with its buyer, who may send it back; what was bought after it is cancelled."""
    sale, buyers = await system.sale(), await system.buyers(2)
    first = await system.order(sale, buyers[0])
    await system.pay(first, buyers[0])
    await advance_clock(system.app[ROOMS].stores.pool, DAY_MS)
    await system.until(f"/v1/orders/{first}", buyers[0], lambda told: told["state"] == "shipped")
    second = await system.order(sale, buyers[1])
    await system.pay(second, buyers[1])
    await system.call("POST", f"/v1/sales/{sale}/closing", token=system.manager)

    assert (409, "figures_changed") == (await cancel(system, sale, 2_000)).problem()
    assert 202 == (await cancel(system, sale, 1_000)).status
    done = await until_done(system, sale)

    assert (1, 1) == (done["kept"]["orders"], done["cancelled"]["orders"])
    assert "shipped" == (await system.call("GET", f"/v1/orders/{first}", token=buyers[0])).json["state"]


async def test_many_workers_and_one_that_dies(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between an order and its refund, the order is whole for the next worker; of eight at once, one cancels."""
    sale, _, _ = await sold(system, 4)
    pool = system.app[ROOMS].stores.pool
    ended = 0
    end = AfterSale._end

    async def dies_at_the_third(*args: Any, **named: Any) -> bool:
        nonlocal ended
        ended += 1
        is_done = await end(*args, **named)
        if ended == 3:
            # In its transaction, with all of its rows written.
            raise ConnectionResetError
        return is_done

    monkeypatch.setattr(AfterSale, "_end", dies_at_the_third)
    assert 202 == (await cancel(system, sale, 4_000)).status

    async def worker() -> None:
        for _ in range(10):
            await pool.execute("UPDATE sales SET cancel_next_at = now() WHERE id = $1", sale)
            with suppress(StoreUnavailable):
                await SaleCanceller(pool, AfterSale(pool)).tick()

    await asyncio.gather(*(worker() for _ in range(8)))
    await until_done(system, sale)

    assert 5 <= ended
    assert [1_000] * 4 == await refunds(system, sale)


async def test_a_second_has_its_measure(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many workers tick, the orders of one turn are all that are cancelled until the next is due."""
    sale, _, _ = await sold(system, 3)
    pool = system.app[ROOMS].stores.pool
    monkeypatch.setattr(cancellations, "ORDERS_A_SECOND", 2)
    monkeypatch.setattr(cancellations, "TAKEN_FOR_MS", 3_600_000)
    assert 202 == (await cancel(system, sale, 3_000)).status

    await asyncio.gather(*(SaleCanceller(pool, AfterSale(pool)).tick() for _ in range(8)))
    await system.until(f"/v1/sales/{sale}/cancellation", system.manager, lambda told: told["cancelled"]["orders"] == 2)
    await SaleCanceller(pool, AfterSale(pool)).tick()
    after = await look(system, sale)
    monkeypatch.undo()
    await pool.execute("UPDATE sales SET cancel_next_at = now() WHERE id = $1", sale)

    assert (2, 1) == (after["cancelled"]["orders"], after["open"]["orders"])
    assert 3 == (await until_done(system, sale))["cancelled"]["orders"]
