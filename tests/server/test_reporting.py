"""The report of a sale: figures of a record that the test wrote, in numbers, on a page and where nothing was kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result

from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import create_sale
from onsale.server.cli import main
from onsale.server.demo import demo_sale_text

# 100 people join in the ten seconds before the opening and 100 in the ten after it; ten are let in each second.
PEOPLE = 200
Ask = Callable[..., Awaitable[Result]]


@pytest.fixture
def ask(database: asyncpg.Pool, database_url: str, tmp_path: Path) -> Ask:
    """`onsale report` in a process of its own loop."""
    variables = {
        "DATABASE_URL": database_url,
        "REDIS_URL": "redis://127.0.0.1:1",
        "ONSALE_SECRET_KEYS": "s" * 40,
        "ONSALE_DATA_DIR": str(tmp_path / "data"),
    }

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, ["report", *arguments], env=variables)

    return run


@pytest.fixture
async def sold(database: asyncpg.Pool) -> None:
    """A sale of which everything was kept. Its opening is `opens_at`."""
    await create_sale(database, parse_sale_file(demo_sale_text()), "test")
    for second in range(-10, 21):
        await database.execute(
            "INSERT INTO line_seconds SELECT id, 1, $1::int + 11, opens_at + $1::int * interval '1 second', 'open',"
            " $2::int, $3::int, $3::int - $2::int, 0, $2::int, 10, 3, 50, 40, 5, $2::int,"
            " CASE WHEN $1::int > 15 THEN 'rate_lowered' END FROM sales WHERE id = 'demo'",
            second, max(0, second * 10), min(PEOPLE, (second + 10) * 10),
        )  # fmt: skip
    for second in range(1, 21):
        await database.execute(
            "INSERT INTO admissions (sale, epoch, event_id, at, places, returners, rate_milli, burst, active,"
            " active_max, passed_over, inversions) SELECT id, 1, $1::int || '-0',"
            " opens_at + $1::int * interval '1 second', $2::bigint[], $3::bigint[], 10000, 1, 3, 50, $4::int, 0"
            " FROM sales WHERE id = 'demo'",
            second, list(range(second * 10 - 9, second * 10 + 1)), [1] if second == 1 else [], int(second == 2),
        )  # fmt: skip
    for turn, state, confirmed in (("a", "confirmed", True), ("b", "expired", False), ("b", "confirmed", True)):
        await database.execute(
            "INSERT INTO orders (id, sale, buyer, turn, epoch, state, rev, amount, currency, idempotency_key,"
            " body_digest, reserved_at, expires_at, confirmed_at) VALUES (gen_random_uuid()::text, 'demo', 'x', $1,"
            " 1, $2, 1, 5000, 'KRW', 'k', 'd', now(), now(), CASE WHEN $3::boolean THEN now() END)",
            turn, state, confirmed,
        )  # fmt: skip
    await database.execute(
        "INSERT INTO shown_waits VALUES ('demo', 1, 'one', 8, 10, 5, 9), ('demo', 1, 'other', 8, 10, 6, 9)"
    )
    await database.execute(
        "INSERT INTO audit SELECT id, 1, opens_at + interval '15 seconds', 'ada', 'admission',"
        """ '{"rate_centi": 1000}', '{"rate_centi": 500}', '<the shop> is slow', '', 'h' FROM sales WHERE id = 'demo'"""
    )


@pytest.mark.usefixtures("sold")
async def test_its_figures(ask: Ask) -> None:
    """Funnel, waits, judged waits, fairness and changes are those that were written."""
    done = await ask("demo", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)

    assert found["funnel"] == {"joined": 200, "admitted": 200, "reserved": 2, "bought": 2}
    assert found["turns"] == 200
    # Joined before the opening: waited from it, a second for each ten in front. After it: joined as fast as let in.
    assert [part["people"] for part in found["waits"]] == [20] * 10
    assert (found["waits"][0]["from_s"], found["waits"][-1]["to_s"]) == (1.0, 10.9)
    assert found["unknown_waits"] == 0
    assert found["shown"] == [{"upto_s": 8, "ended": 20, "by_p50": 0.55, "by_p90": 0.9}]
    assert found["fairness"] == {"inversions": 0, "returners": 1, "passed_over": 1, "over_cap": 0}
    assert [(one["who"], one["what"]) for one in found["changes"]] == [
        ("ada", "admission: rate_centi 1000 → 500"),
        ("line", "rate_lowered"),
    ]


@pytest.mark.usefixtures("sold")
async def test_its_page_stands_alone(ask: Ask, tmp_path: Path) -> None:
    """One file: six plots, nothing loaded from anywhere, what operators wrote shown as text."""
    done = await ask("demo", "--out", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")

    assert done.exit_code == 0, done.output
    assert page.count("<svg") == 6
    assert "&lt;the shop&gt; is slow" in page
    assert "nan" not in page
    assert all(outside not in page for outside in ("<script", "<link", "src=", "url(", "http"))


async def test_a_sale_of_which_nothing_was_kept(database: asyncpg.Pool, ask: Ask, tmp_path: Path) -> None:
    """Nobody came: a report all the same, and it says that nothing was recorded. An unknown sale is an error."""
    await create_sale(database, parse_sale_file(demo_sale_text()), "test")

    done = await ask("demo", "--out", str(tmp_path / "report.html"))
    unknown = await ask("nothing")

    assert done.exit_code == 0, done.output
    assert "was not recorded second by second" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert unknown.exit_code != 0
