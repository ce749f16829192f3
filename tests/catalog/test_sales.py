"""Sales in Postgres: made whole or not at all, and read into memory."""

import asyncio

import msgspec
import pytest

from onsale.auth.errors import InvalidRequest
from onsale.catalog.errors import SaleExists, SaleUnknown
from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import SaleBook, advance_clock
from onsale.catalog.states import SaleState

SALE = """[sale]
id = "spring"
title = "Spring"
opens_at = "2030-01-01T00:00:00Z"
closes_at = "2030-01-02T00:00:00Z"
[admission]
rate_per_second = 2.5
active_max = 10
[[items]]
product = "hat"
title = "Hat"
stock = 3
price = { amount = 500, currency = "KRW" }
"""
OPENS_AT_MS = 1_893_456_000_000
DAY_MS = 86_400_000


@pytest.fixture
def book(database):
    return SaleBook(database)


async def test_a_new_sale_is_known_whole(book, database):
    """Its items, its policy, and the stock move that its units come from."""
    sale = await book.create(parse_sale_file(SALE), "tester")

    assert (250, 10) == (sale.policy.rate_centi, sale.policy.active_max)
    assert [("hat", 3, 0, 0)] == [(item.product, item.stock, item.claimed, item.sold) for item in sale.items]
    assert [3] == [row["quantity"] for row in await database.fetch("SELECT quantity FROM stock_moves")]
    assert (sale, 0, 0) == (book.by_no(sale.no), sale.line_epoch, sale.shop_epoch)


async def test_a_taken_id_leaves_nothing_behind(book, database):
    """The second sale of one id is refused, with its items."""
    await book.create(parse_sale_file(SALE), "tester")

    with pytest.raises(SaleExists):
        await book.create(parse_sale_file(SALE.replace('"hat"', '"cap"')), "tester")

    assert ["hat"] == [row["id"] for row in await database.fetch("SELECT id FROM products")]


async def test_a_sale_that_opens_now_and_is_over_is_refused(book, database):
    """Only Postgres knows when that is: its answer is about the file, not about a store."""
    over = parse_sale_file(SALE.replace("2030-01-01", "2020-01-01").replace("2030-01-02", "2020-01-02"))

    with pytest.raises(InvalidRequest) as refused:
        await book.create(msgspec.structs.replace(over, opens_at_ms=None), "tester")

    assert ["#/sale/closes_at"] == [flaw.pointer for flaw in refused.value.errors]
    assert 0 == await database.fetchval("SELECT count(*) FROM sales WHERE id <> '_shop'")


async def test_two_that_make_one_sale_make_it_once(book):
    """Whoever comes second is told so."""
    results = await asyncio.gather(*(book.create(parse_sale_file(SALE), who) for who in "ab"), return_exceptions=True)

    assert 1 == sum(isinstance(result, SaleExists) for result in results)


async def test_the_clock_decides_at_the_moment_of_the_question(book):
    """The opening instant is open, the closing instant is ended; nothing has to run at either."""
    sale = await book.create(parse_sale_file(SALE), "tester")

    states = [sale.state(OPENS_AT_MS + after) for after in (-1, 0, DAY_MS - 1, DAY_MS)]

    assert [SaleState.SCHEDULED, SaleState.OPEN, SaleState.OPEN, SaleState.ENDED] == states


async def test_the_test_clock_moves_schedules(book, database):
    """A day later a sale opens a day earlier, by the clock that runs on."""
    await book.create(parse_sale_file(SALE), "tester")

    await advance_clock(database, DAY_MS)
    await book.refresh()

    assert OPENS_AT_MS - DAY_MS == book.get("spring").opens_at_ms


def test_an_unknown_sale_is_said_so(book):
    """By id and by number."""
    with pytest.raises(SaleUnknown):
        book.get("none")
    with pytest.raises(SaleUnknown):
        book.by_no(1)
