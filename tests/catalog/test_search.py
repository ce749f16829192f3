"""Search over a real Postgres: what a title is like, with typos, in Korean and English."""

from __future__ import annotations

import pytest

from onsale.catalog.grams import grams
from onsale.catalog.products import Asked, Products
from onsale.catalog.search import IndexTick, Search
from onsale.catalog.vendors import Vendors

TITLES = ["가을 재킷", "겨울 코트", "Autumn jacket", "Winter coat", "Café crème", "여름 반팔 티셔츠", "모자"]


@pytest.fixture
async def search(database):
    """A shop with these titles, indexed."""
    await database.executemany(
        "INSERT INTO products (id, title, amount, currency) VALUES ($1, $2, $3, 'KRW')",
        [(f"p-{n}", title, 1_000 * (n + 1)) for n, title in enumerate(TITLES)],
    )
    search = Search(database)
    assert IndexTick(len(TITLES), more=False) == await search.tick()
    return search


async def found(search, text, **asked):
    """Titles, the best first."""
    return [one.product.title for one in await search.find(text, Asked(limit=10, **asked), None)]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("재킷", "가을 재킷"),
        ("재켓", "가을 재킷"),
        ("가을재켓", "가을 재킷"),
        ("코드", "겨울 코트"),
        ("jaket", "Autumn jacket"),
        ("AUTUM", "Autumn jacket"),
        ("cafe creme", "Café crème"),
        ("티셔쓰", "여름 반팔 티셔츠"),
        ("모", "모자"),
    ],
)
async def test_typos_are_forgiven(search, text, title):
    """The title that was meant comes first."""
    assert title == (await found(search, text))[0]


@pytest.mark.parametrize("text", ["zzz", "?!", "  "])
async def test_what_is_like_nothing_finds_nothing(search, text):
    assert [] == await found(search, text)


async def test_filters_hold(search):
    """Of what is alike, only what costs as much."""
    assert [] == await found(search, "jacket", price_max=2_000)
    assert ["Autumn jacket"] == await found(search, "jacket", price_min=3_000, price_max=3_000)


@pytest.mark.parametrize("text", ["jacket", None])
async def test_prices_are_those_of_the_moment(search, database, text):
    """An event that is on counts, its best percentage; one that is over, to come or taken back does not."""
    for no, (percent, starts, ends, deleted) in enumerate(
        [(50, -1, 1, None), (20, -1, 1, None), (90, -2, -1, None), (91, 1, 2, None), (92, -1, 1, "now")]
    ):
        await database.execute(
            "INSERT INTO discounts (id, title, starts_at, ends_at, deleted_at) VALUES ($1, $1, now() + $2 * interval"
            " '1 hour', now() + $3 * interval '1 hour', $4::text::timestamptz)",
            *(f"event-{no}", starts, ends, deleted),
        )
        await database.execute("INSERT INTO discount_items VALUES ($1, 'p-2', $2)", f"event-{no}", percent)

    async def listed(**asked):
        if text is not None:
            return await found(search, text, **asked)
        rows = await Products(database, Vendors(database), None).page(Asked(limit=10, **asked))
        return [row.title for row in rows if row.product == "p-2"]

    # Its list price is 3,000.
    assert ["Autumn jacket"] == await listed(price_min=1_500, price_max=1_500)
    assert ["Autumn jacket"] == await listed(price_max=2_000)
    assert [] == await listed(price_max=1_499)
    assert [] == await listed(price_min=1_501)
    assert [] == await listed(price_min=3_000)


async def test_pages_go_on_where_the_one_before_ended(search, database):
    """By score, then the newest first; nothing twice, nothing missed."""
    await database.executemany(
        "INSERT INTO products (id, title, amount, currency) VALUES ($1, $2, 1, 'KRW')",
        [(f"more-{n}", "jacket" if n % 2 else "jackets") for n in range(7)],
    )
    await search.tick()
    whole = await search.find("jacket", Asked(limit=100), None)

    pages, after = [], None
    while page := await search.find("jacket", Asked(limit=3), after):
        pages += page
        after = (page[-1].score, page[-1].product.no)

    assert whole == pages
    assert 8 == len(whole)
    assert sorted(whole, key=lambda one: (-one.score, -one.product.no)) == whole


async def test_another_title_is_found_by_it_alone(search, database):
    """Once the indexer came by."""
    await database.execute("UPDATE products SET title = 'Umbrella', grams = NULL WHERE id = 'p-2'")
    await search.tick()

    assert ["Umbrella"] == await found(search, "umbrela")
    assert [] == await found(search, "autumn")


def test_syllables_are_taken_apart():
    """One vowel is one letter of six, not one syllable of two."""
    assert 3 == len(set(grams("재킷")) & set(grams("재켓")))
    assert () == grams("—")
