"""Admission closes while the record is behind, and opens by itself."""

import pytest

from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import SaleBook
from onsale.checkout.record.lag import RecordLag
from onsale.checkout.record.watch import RecordWatch, WatchTick
from onsale.lua.keys import ShopKeys

SALE = """[sale]
id = "late"
title = "Late"
opens_at = "now"
closes_at = "2099-01-01T00:00:00Z"
[admission]
rate_per_second = 1
active_max = 1
[[items]]
title = "One"
stock = 1
price = { amount = 1, currency = "KRW" }
"""


class Pauses:
    """The line, as far as the watch knows it."""

    def __init__(self) -> None:
        self.held: set[tuple[str, str]] = set()

    async def pause(self, sale: str, holder: str) -> None:
        self.held.add((sale, holder))

    async def resume(self, sale: str, holder: str) -> None:
        self.held.remove((sale, holder))


@pytest.fixture
async def book(database):
    book = SaleBook(database)
    await book.create(parse_sale_file(SALE), "tester")
    await database.execute("UPDATE sales SET shop_epoch = 1")
    await book.refresh()
    return book


async def test_the_line_stops_while_the_record_is_behind(book, shop_redis):
    """An event older than the bound stops the line once, in the record's own name; recorded, it lets go on."""
    line, keys = Pauses(), ShopKeys("late", 1)
    watch = RecordWatch(RecordLag(shop_redis, book).tick, line, book)
    assert WatchTick() == await watch.tick()

    await shop_redis.xadd(keys.money, {"verb": "claimed"}, id="1-1")
    assert WatchTick(paused=("late",)) == await watch.tick()
    assert WatchTick() == await watch.tick()
    assert {("late", "record")} == line.held

    await shop_redis.hset(keys.meta, "money_upto", "1-1")
    assert WatchTick(resumed=("late",)) == await watch.tick()
    assert set() == line.held


async def test_a_pause_that_a_dead_worker_left_is_lifted(book, database, shop_redis):
    """What it knows of such a pause is in the record."""
    await database.execute("UPDATE sales SET paused_by = '{record,operator}'")
    await book.refresh()
    line = Pauses()
    line.held = {("late", "record"), ("late", "operator")}

    assert WatchTick(resumed=("late",)) == await RecordWatch(RecordLag(shop_redis, book).tick, line, book).tick()
    assert {("late", "operator")} == line.held
