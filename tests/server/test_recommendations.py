"""What is shown beside a product after real orders: by the API and on the page."""

from __future__ import annotations

import asyncio

import pytest
from catalogue_kit import product, vendor
from contract_kit import new_key

from onsale.catalog.recommendations import Recommender
from onsale.server.app import ROOMS

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def things(system, count):
    """New products of one vendor, with units."""
    token, _ = await vendor(system)
    made = [(await product(system, token))["product"] for _ in range(count)]
    for one in made:
        await system.until(f"/v1/products/{one}/stock", None, lambda told: told["free"] == 5)
    return token, made


async def bought(system, *products):
    """An order of one of each, paid."""
    buyer = await system.buyer()
    body = {"items": [{"product": one, "quantity": 1} for one in products]}
    held = await system.call("POST", "/v1/orders", body, buyer, Idempotency_Key=new_key())
    assert 201 == held.status, held.body
    assert 200 == (await system.pay(held.json["order"], buyer)).status


async def reasons(system, product):
    """Products shown beside one, and why, in their order."""
    answer = await system.call("GET", f"/v1/products/{product}/recommendations")
    assert 200 == answer.status, answer.body
    return {one["product"]: one["reason"] for one in answer.json["items"]}


async def test_after_real_orders(system):
    """Bought together first, the most often first of all; a discontinued one is shown no more."""
    token, (hat, cap, scarf) = await things(system, 3)
    for products in ((hat, scarf), (hat, cap), (hat, cap)):
        await bought(system, *products)
    recommender = Recommender(system.app[ROOMS].stores.pool, ranked_for_s=0)

    async with asyncio.timeout(20):
        while [cap, scarf] != list(await reasons(system, hat))[:2]:
            await recommender.tick()
    shown = await reasons(system, hat)
    page = await system.call("GET", f"/products/{hat}", Accept_Language="en")
    patched = await system.call("PATCH", f"/v1/products/{cap}", {"discontinued": True}, token)

    assert ["bought_together"] * 2 == [shown[cap], shown[scarf]]
    assert hat not in shown
    assert page.body.decode().count("Often bought with it") == 2
    assert (200, False) == (patched.status, cap in await reasons(system, hat))


async def test_a_new_product_shows_what_sells(system):
    """Nobody bought it yet."""
    _, (fresh, seller) = await things(system, 2)
    await bought(system, seller)
    recommender = Recommender(system.app[ROOMS].stores.pool, ranked_for_s=0)

    async with asyncio.timeout(20):
        while (await reasons(system, fresh)).get(seller) != "popular":
            await recommender.tick()


async def test_of_nothing(system):
    """An unknown product is 404, and so is one that is gone; it takes no query."""
    token, (gone,) = await things(system, 1)
    assert 204 == (await system.call("DELETE", f"/v1/products/{gone}", token=token)).status

    for path in ("/v1/products/nothing/recommendations", f"/v1/products/{gone}/recommendations"):
        assert (404, "product_unknown") == (await system.call("GET", path)).problem()
    _, (hat,) = await things(system, 1)
    answer = await system.call("GET", f"/v1/products/{hat}/recommendations?limit=3")
    assert (422, "invalid_request") == answer.problem()
