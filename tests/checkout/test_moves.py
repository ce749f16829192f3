"""Stock moves between the shop and sales while movers die, Redis is lost, and everything happens at once: no unit ever
vanishes, none is counted twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from flow_kit import Fate, Mortal
from redis.asyncio import Redis

from onsale.auth.identifiers import new_id
from onsale.auth.identity import Identity
from onsale.auth.roles import Role
from onsale.catalog.errors import CatalogError
from onsale.catalog.moves import Moves, ShopStock
from onsale.catalog.products import Product, Products
from onsale.catalog.proposals import NewProposal, Proposals
from onsale.catalog.rules import ProposalRules
from onsale.catalog.sales import SHOP, NewSale, Policy, SaleBook
from onsale.catalog.vendors import Vendors
from onsale.checkout.inventory import Inventory
from onsale.checkout.mover import MoveTick, StockMover
from onsale.checkout.record.rebuild import Rebuilder
from onsale.checkout.record.reckoning import reckon
from onsale.checkout.sweeper import StockSweeper
from onsale.lua.keys import ShopKeys

HAT, SALE = "hat", "drop"
UNITS = 100
BOSS = Identity("boss", Role.MANAGER, "", True, "bearer")
STEPS = [f"{when} {step}" for step in ("move_stock", "applied", "count", "refuse") for when in ("before", "after")]


@dataclass
class House:
    """The shop with a hundred hats, and a sale that has not begun."""

    pool: asyncpg.Pool
    redis: Redis
    book: SaleBook
    inventory: Inventory

    def mover(self, fate: Fate | None = None) -> StockMover:
        """A mover that meets its fate."""
        fate = fate or Fate()
        moves: Any = Mortal(Moves(self.pool), fate, "applied", "count", "refuse")
        inventory: Any = Mortal(self.inventory, fate, "move_stock")
        return StockMover(moves, inventory)

    def stock(self, fate: Fate | None = None) -> ShopStock:
        return ShopStock(self.pool, self.mover(fate))

    def proposals(self, fate: Fate | None = None) -> Proposals:
        mover = self.mover(fate)
        sweeper = StockSweeper(Moves(self.pool), self.inventory, mover)
        return Proposals(self.pool, Vendors(self.pool), mover, sweeper, ProposalRules())

    def rebuilder(self) -> Rebuilder:
        return Rebuilder(self.pool, self.redis, self.inventory, self.book)

    async def units(self) -> dict[str, int]:
        """Where Postgres has the hats; `kept` are put aside."""
        rows = await self.pool.fetch("SELECT sale, stock, kept FROM sale_items WHERE product = $1", HAT)
        return {row["sale"]: row["stock"] for row in rows} | {"kept": sum(row["kept"] for row in rows)}

    async def rest(self) -> None:
        """Tick until nothing is on its way."""
        sweeper = StockSweeper(Moves(self.pool), self.inventory, self.mover())
        while await Moves(self.pool).pending(100):
            await self.book.refresh()
            await self.mover().tick()
            await sweeper.tick()

    async def differences(self) -> list[str]:
        """What the audit says of both sellers."""
        await self.book.refresh()
        return [
            words
            for seller in (SHOP, SALE)
            for words in await reckon(self.pool, self.redis, ShopKeys(seller, self.book.seller(seller).shop_epoch))
        ]


@pytest.fixture
async def house(database: asyncpg.Pool, shop_redis: Redis) -> AsyncIterator[House]:
    book = SaleBook(database)
    inventory = Inventory(shop_redis, lambda seller: ShopKeys(seller, book.seller(seller).shop_epoch))
    house = House(database, shop_redis, book, inventory)
    await house.rebuilder().tick()
    hat = Product(product=HAT, no=0, vendor=None, title="Hat", about="", image=None, amount=1_000, currency="KRW")
    await Products(database, Vendors(database), house.mover()).create(hat, UNITS)
    await database.execute("INSERT INTO accounts (id) VALUES ('boss')")
    await house.proposals().create(new_sale(), BOSS)
    await house.proposals().propose(SALE, BOSS, NewProposal(HAT, 0, 900, "KRW"))
    await house.rebuilder().tick()
    yield house
    await inventory.close()


def new_sale() -> NewSale:
    """A sale far ahead, without items."""
    return NewSale(
        id=SALE,
        title="Drop",
        opens_at_ms=3_900_000_000_000,
        closes_at_ms=4_000_000_000_000,
        limit_per_buyer=2,
        hold_ttl_s=600,
        guests=False,
        opening="fifo",
        policy=Policy(rate_centi=100, active_max=10),
        is_paused=False,
        items=(),
    )


async def outcome(call: Any) -> str:
    """What became of a call whose process may have died."""
    try:
        await call
    except (CatalogError, asyncio.CancelledError) as end:
        return type(end).__name__
    return "done"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("quantity", [30, -30, 130])
async def test_a_move_survives_its_mover(house: House, step: str, quantity: int) -> None:
    """Killed at any line, the next mover carries on: moved once, or refused once."""
    await house.proposals().move(new_id(), SALE, HAT, 40, BOSS)

    await outcome(house.proposals(Fate(step)).move("m", SALE, HAT, quantity, BOSS))
    await house.rest()

    in_sale = 40 + (quantity if quantity < 100 else 0)
    assert {SHOP: UNITS - in_sale, SALE: in_sale, "kept": 0} == await house.units()
    assert in_sale == (await house.inventory.free(SALE))[HAT]
    assert [] == await house.differences()


@pytest.mark.parametrize("step", STEPS)
async def test_a_move_survives_the_loss_of_redis(house: House, step: str) -> None:
    """Whatever Redis had heard of it: both sellers are made anew from the record, and the move is carried on."""
    await outcome(house.proposals(Fate(step)).move("m", SALE, HAT, 30, BOSS))
    await house.redis.flushall()
    await house.rebuilder().tick()
    await house.rest()

    assert {SHOP: 70, SALE: 30, "kept": 0} == await house.units()
    assert {HAT: 30} == await house.inventory.free(SALE)
    assert [] == await house.differences()


async def test_an_answer_of_an_older_epoch_counts_nothing(house: House) -> None:
    """Taken from keys that are lost since: Postgres waits for the same answer from the new ones."""
    moves = Moves(house.pool)
    await outcome(house.proposals(Fate("after move_stock")).move("m", SALE, HAT, 30, BOSS))
    stale = (await moves.pending(1))[0]
    await house.redis.flushall()
    await house.rebuilder().tick()

    assert not await moves.count(stale)
    assert {SHOP: UNITS, SALE: 0, "kept": 0} == await house.units()
    assert MoveTick(done=1, refused=0, postponed=0, more=False) == await house.mover().tick()


async def test_a_product_that_is_made_during_a_rebuild_keeps_its_units(house: House) -> None:
    """It waits until the rebuild has read everything, and is counted afterwards."""
    cap = Product(product="cap", no=0, vendor=None, title="Cap", about="", image=None, amount=1_000, currency="KRW")
    made: list[asyncio.Task[Product]] = []

    async def make_it(point: str) -> None:
        if point == "before_fence" and not made:
            making = Products(house.pool, Vendors(house.pool), house.mover()).create(cap, 5)
            made.append(asyncio.create_task(making))
            await asyncio.wait(made, timeout=0.2)
            assert not made[0].done()

    await Rebuilder(house.pool, house.redis, house.inventory, house.book, make_it).rebuild(SHOP)
    await made[0]
    await house.rest()

    assert 5 == (await house.inventory.free(SHOP))["cap"]
    assert [] == await house.differences()


async def test_two_movers_carry_one_move_once(house: House) -> None:
    """However many tick at once."""
    await outcome(house.proposals(Fate("before move_stock")).move("m", SALE, HAT, 30, BOSS))

    await asyncio.gather(*(house.mover().tick() for _ in range(4)))
    await house.rest()

    assert {SHOP: 70, SALE: 30, "kept": 0} == await house.units()


async def test_the_record_may_lag_behind_what_redis_gave(house: House) -> None:
    """A claim that Redis knows to be over is still open in the record: the units wait on their way, and arrive then."""
    await house.pool.execute("UPDATE sale_items SET claimed = 90 WHERE sale = $1", SHOP)
    await outcome(house.proposals().move("m", SALE, HAT, 30, BOSS))
    waiting = await house.units()
    await house.pool.execute("UPDATE sale_items SET claimed = 0 WHERE sale = $1", SHOP)
    await house.rest()

    assert {SHOP: UNITS, SALE: 0, "kept": 0} == waiting
    assert {SHOP: 70, SALE: 30, "kept": 0} == await house.units()


@pytest.mark.parametrize("seed", range(4))
async def test_no_unit_vanishes(house: House, seed: int) -> None:
    """Moves in and out, additions, refusals and approvals at once, by movers that die anywhere, Redis lost in between:
    at every moment Postgres has what was added less what was taken out, and in the end Redis agrees."""
    chance = random.Random(seed)
    totals: list[int] = []

    async def act(number: int) -> None:
        fate = Fate(chance.choice(STEPS), chance.randint(1, 3)) if chance.random() < 0.5 else Fate()
        quantity = chance.choice([-20, -7, -1, 1, 7, 20, 60])
        match chance.randrange(4):
            case 0 | 1:
                await outcome(house.proposals(fate).move(f"move-{number}", SALE, HAT, quantity, BOSS))
            case 2:
                await outcome(house.stock(fate).change(f"change-{number}", HAT, quantity))
            case _:
                status = chance.choice(["pending", "approved", "refused"])
                await house.pool.execute("UPDATE sale_items SET status = $2 WHERE sale = $1 AND kept = 0", SALE, status)
                await outcome(house.mover(fate).tick())
        totals.append(await begun_with(house))

    for turn in range(4):
        await asyncio.gather(*(act(turn * 8 + number) for number in range(8)))
        if turn == 2:
            await house.redis.flushall()
            await house.rebuilder().tick()
    await house.pool.execute("UPDATE sale_items SET status = 'approved' WHERE sale = $1", SALE)
    await house.rest()

    assert {UNITS} == {*totals, await begun_with(house)}
    assert [] == await house.differences()


async def begun_with(house: House) -> int:
    """Every hat there is, less those that came into the house since, and those that left it: in one snapshot."""
    query = """
      SELECT (SELECT sum(stock + kept) FROM sale_items WHERE product = $1)
           - (SELECT coalesce(sum(quantity), 0) FROM stock_moves WHERE id LIKE 'change-%' AND state = 'counted')"""
    return int(await house.pool.fetchval(query, HAT))
