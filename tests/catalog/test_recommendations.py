"""Recommendations over a real Postgres: what is counted from orders, by any number of workers that may die anywhere."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from onsale.catalog import recommendations
from onsale.catalog.recommendations import Recommendations, Recommender

numbers = itertools.count(1)
PRODUCTS = ("hat", "cap", "scarf", "belt")


@pytest.fixture
async def shop(database):
    """Products that can be bought."""
    await database.executemany(
        "INSERT INTO products (id, title, amount, currency) VALUES ($1, $1, 1000, 'KRW')", [(one,) for one in PRODUCTS]
    )
    await database.executemany(
        "INSERT INTO sale_items (sale, product, title, stock, amount, list_amount, currency)"
        " VALUES ('_shop', $1, $1, 100, 1000, 1000, 'KRW')",
        [(one,) for one in PRODUCTS],
    )
    return database


async def bought(database, *products, state="confirmed"):
    """An order of one of each; its id."""
    order = f"order-{next(numbers):06}"
    async with database.acquire() as conn, conn.transaction():
        await conn.execute(
            "INSERT INTO orders (id, sale, buyer, epoch, state, rev, amount, currency, idempotency_key, body_digest,"
            " reserved_at, expires_at) VALUES ($1, '_shop', 'b', 1, $2, 1, 1, 'KRW', $1, '', now(), now())",
            order,
            state,
        )
        for product in products:
            await conn.execute("INSERT INTO order_items VALUES ($1, $2, $2, 1, 1000, 1000, 'KRW')", order, product)
    return order


async def settle(recommender):
    """Ticks until nothing is left to do."""
    async with asyncio.timeout(10):
        while True:
            done = await recommender.tick()
            if not (done.more or done.changed or done.counted):
                return


async def together(database, product):
    """What is shown because it was bought with a product."""
    found = await Recommendations(database).of(product, ())
    return [one.product.product for one in found if one.reason == "bought_together"]


async def test_what_most_orders_have_too_comes_first(shop):
    """Of paid orders that stand; what was never paid says nothing."""
    for products in (("hat", "scarf"), ("hat", "cap"), ("hat", "cap"), ("belt",)):
        await bought(shop, *products)
    for _ in range(3):
        await bought(shop, "hat", "belt", state="expired")

    await settle(Recommender(shop))

    assert ["cap", "scarf"] == await together(shop, "hat")
    assert ["hat"] == await together(shop, "cap")
    assert [] == await together(shop, "belt")


async def test_entries_are_shown_until_their_day_is_over(shop):
    """Nobody can buy one for yesterday."""
    await bought(shop, "hat", "cap", "scarf", "belt")
    await settle(Recommender(shop))
    for one, days in (("cap", -1), ("scarf", 0), ("belt", 1)):
        await shop.execute(
            "UPDATE products SET kind = 'entry', visit_on = (shop_now() AT TIME ZONE 'UTC')::date + $2::int"
            " WHERE id = $1",
            one,
            days,
        )

    assert ["belt", "scarf"] == await together(shop, "hat")


async def test_what_was_given_back_drops_out(shop):
    """A cancelled order is a reason to count its products anew."""
    order = await bought(shop, "hat", "cap")
    await settle(Recommender(shop))
    await shop.execute("UPDATE orders SET state = 'cancelled' WHERE id = $1", order)

    await settle(Recommender(shop))

    assert [] == await together(shop, "hat")


async def test_however_small_the_batches_nothing_is_missed(shop, monkeypatch):
    """One notice and one product at a time come to the same as all at once."""
    monkeypatch.setattr(recommendations, "NOTICES_MAX", 1)
    monkeypatch.setattr(recommendations, "COUNTED_MAX", 1)
    for products in (("hat", "cap"), ("scarf", "belt"), ("hat", "scarf")):
        await bought(shop, *products)

    await settle(Recommender(shop))

    assert (["cap", "scarf"], ["belt", "hat"]) == (await together(shop, "hat"), await together(shop, "scarf"))


async def test_workers_beside_each_other_cut_anywhere(shop):
    """Four tick at once while people buy, and each tick is cut at another moment: the next ones make up for it."""

    async def cut(spins):
        tick = asyncio.create_task(Recommender(shop, ranked_for_s=0).tick())
        for _ in range(spins):
            await asyncio.sleep(0)
        tick.cancel()
        await asyncio.gather(tick, return_exceptions=True)

    for spins in range(0, 60, 4):
        await asyncio.gather(bought(shop, "hat", "cap"), *(cut(spins + n) for n in range(4)))
    await bought(shop, "hat", "scarf")
    await settle(Recommender(shop))

    assert ["cap", "scarf"] == await together(shop, "hat")
    assert ["hat"] == await together(shop, "scarf")


async def test_who_sells_nothing_yet_shows_the_newest(shop):
    """And once there are orders, best sellers before them; each product once, never itself."""
    fresh = [(one.product.product, one.reason) for one in await Recommendations(shop).of("hat", ())]
    for products in (("cap",), ("cap",), ("belt",)):
        await bought(shop, *products)
    await Recommender(shop).tick()
    later = [(one.product.product, one.reason) for one in await Recommendations(shop).of("hat", ())]

    assert [("belt", "new"), ("scarf", "new"), ("cap", "new")] == fresh
    assert [("cap", "popular"), ("belt", "popular"), ("scarf", "new")] == later


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE products SET deleted_at = now() WHERE id = 'cap'",
        "UPDATE products SET discontinued_at = now() WHERE id = 'cap'",
        "UPDATE products SET available_from = now() + interval '1 day' WHERE id = 'cap'",
        "UPDATE products SET available_until = now() - interval '1 day' WHERE id = 'cap'",
        "UPDATE sale_items SET stock = 0 WHERE product = 'cap'",
    ],
)
async def test_what_cannot_be_bought_is_not_shown(shop, change):
    """Gone, discontinued, not sold yet or any more, or out of stock: for no reason at all."""
    await bought(shop, "hat", "cap")
    await settle(Recommender(shop))
    assert ["cap"] == await together(shop, "hat")

    await shop.execute(change)

    shown = [one.product.product for one in await Recommendations(shop).of("hat", ())]
    assert ["belt", "scarf"] == sorted(shown)


async def test_what_a_sale_has_is_shown_while_it_is_open(shop):
    """Though the shop has none of it."""
    await shop.execute("UPDATE sale_items SET stock = 0 WHERE product = 'cap'")

    shown = [one.product.product for one in await Recommendations(shop).of("hat", ("cap",))]

    assert "cap" in shown


async def test_best_sellers_are_ranked_by_one_and_not_all_the_time(shop):
    """Of many at once one ranks, and nobody again within ten minutes."""
    await bought(shop, "hat")

    ticks = await asyncio.gather(*(Recommender(shop).tick() for _ in range(4)))

    assert 1 == sum(tick.ranked for tick in ticks)
    assert 0 == (await Recommender(shop).tick()).ranked
