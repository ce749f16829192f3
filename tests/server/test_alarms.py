"""Alarms: a letter an hour before a sale starts, for whoever asked in time."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from catalogue_kit import moment
from contract_kit import PATIENCE_S, System, numbers
from page_kit import Browser

from onsale.auth.middleware import COOKIES
from onsale.catalog.alarms import AlarmWriter
from onsale.catalog.sales import advance_clock
from onsale.server.app import ROOMS

pytestmark = pytest.mark.asyncio(loop_scope="module")

MINUTE_MS = 60_000


async def coming(system: System, minutes: float = 90) -> str:
    """A sale that starts so much later by the shop's clock, whatever a test has done to that."""
    pool = system.app[ROOMS].stores.pool
    offset = timedelta(milliseconds=await pool.fetchval("SELECT offset_ms FROM clock"))
    ahead = timedelta(minutes=minutes) + offset
    return await system.sale(opens_at=moment(ahead), closes_at=moment(ahead + timedelta(days=1)))


async def put(system: System, sale: str, buyer: str) -> Any:
    return await system.call("PUT", f"/v1/sales/{sale}/alarm", token=buyer)


async def listed(system: System, buyer: str, query: str = "") -> Any:
    return (await system.call("GET", f"/v1/alarms{query}", token=buyer)).json


def writer(system: System) -> AlarmWriter:
    """Another worker."""
    rooms = system.app[ROOMS]
    return AlarmWriter(rooms.stores.pool, rooms.outbox)


async def letters(system: System, sale: str) -> int:
    """Letters of a sale in the outbox, whether they are sent or not."""
    query = "SELECT count(*) FROM outbox WHERE kind = 'sale_starts' AND once_key LIKE '%:' || $1 || ':%'"
    count: int = await system.app[ROOMS].stores.pool.fetchval(query, sale)
    return count


async def start(system: System, sale: str, in_minutes: float) -> None:
    """Move a sale's start, as its operator would."""
    query = """UPDATE sales SET opens_at = now() + make_interval(secs => $2 * 60 + c.offset_ms / 1000.0)
                 FROM clock c WHERE id = $1"""
    await system.app[ROOMS].stores.pool.execute(query, sale, float(in_minutes))


async def test_asked_for_once(system: System) -> None:
    """201, then 200 with the same, however many ask at once; taken back, there is none."""
    sale, buyer = await coming(system), await system.buyer()

    answers = await asyncio.gather(*(put(system, sale, buyer) for _ in range(4)))
    removed = [(await system.call("DELETE", f"/v1/sales/{sale}/alarm", token=buyer)).status for _ in range(2)]

    assert [200, 200, 200, 201] == sorted(answer.status for answer in answers)
    assert 1 == len({answer.json["created_at"] for answer in answers})
    assert ("waiting", None) == (answers[0].json["state"], answers[0].json["sent_at"])
    assert ([204, 204], []) == (removed, (await listed(system, buyer))["items"])


async def test_listed_newest_first(system: System) -> None:
    """Page by page; nobody sees another's, and operators look one person up."""
    email = f"alarmed-{next(numbers)}@example.com"
    buyer, *sales = await asyncio.gather(system.person(email), *(coming(system) for _ in range(3)))
    for sale in sales:
        await put(system, sale, buyer)

    first = await listed(system, buyer, "?limit=2")
    second = await listed(system, buyer, f"?limit=2&cursor={first['next_cursor']}")
    by_operator = await listed(system, system.manager, f"?email={email}")
    by_another = await system.call("GET", f"/v1/alarms?email={email}", token=await system.buyer())

    assert sales[::-1] == [alarm["sale"] for alarm in first["items"] + second["items"]]
    assert (None, []) == (second["next_cursor"], (await listed(system, await system.buyer()))["items"])
    assert sales[::-1] == [alarm["sale"] for alarm in by_operator["items"]]
    assert (403, "forbidden") == by_another.problem()


@pytest.mark.parametrize(("minutes", "status"), [(71, 201), (69, 409), (0.2, 409)])
async def test_ten_minutes_before_the_letter_it_is_too_late(system: System, minutes: float, status: int) -> None:
    sale = await coming(system, minutes)

    answer = await put(system, sale, await system.buyer())

    assert status == answer.status
    assert status == 201 or answer.code == "alarm_too_late"


async def test_of_no_sale(system: System) -> None:
    """An unknown one is 404; one that is open or closed is not to come."""
    closed, buyer = await coming(system), await system.buyer()
    await system.call("POST", f"/v1/sales/{closed}/closing", token=system.manager)

    assert (404, "sale_unknown") == (await put(system, "nothing", buyer)).problem()
    assert (409, "alarm_too_late") == (await put(system, await system.sale(), buyer)).problem()
    assert (409, "alarm_too_late") == (await put(system, closed, buyer)).problem()


async def test_the_letter_comes_over_smtp(system: System) -> None:
    """By the shop's clock an hour ahead, in the list afterwards as sent."""
    sale, email = await coming(system, 75), f"alarmed-{next(numbers)}@example.com"
    buyer = await system.person(email)
    await put(system, sale, buyer)

    await advance_clock(system.app[ROOMS].stores.pool, 16 * MINUTE_MS)
    async with asyncio.timeout(PATIENCE_S):
        while not any(sale in str(letter) for letter in system.mail.to(email)):
            await writer(system).tick()
            await asyncio.sleep(0.02)

    alarm = (await listed(system, buyer))["items"][0]
    assert ("sent", True) == (alarm["state"], alarm["sent_at"] is not None)
    assert 1 == sum(sale in str(letter) for letter in system.mail.to(email))


async def test_written_once_by_many_workers(system: System) -> None:
    """Eight workers at once, and again later: one letter for each who asked."""
    sale = await coming(system)
    for buyer in await system.buyers(5):
        await put(system, sale, buyer)
    await start(system, sale, 59)

    for _ in range(2):
        await asyncio.gather(*(writer(system).tick() for _ in range(8)))

    assert 5 == await letters(system, sale)


async def test_a_writer_that_dies_has_written_nothing(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the letter and before the note: neither is there, and the next worker writes both."""
    sale = await coming(system)
    await put(system, sale, await system.buyer())
    dying = writer(system)
    write = AlarmWriter._write

    async def dies(*args: Any) -> None:
        await write(*args)
        raise ConnectionResetError

    monkeypatch.setattr(AlarmWriter, "_write", dies)
    await start(system, sale, 59)
    # A worker of the running system, which dies as this one does, may have it in hand: then it is not ours to find.
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(20):
            while True:
                await dying.tick()
    assert 0 == await letters(system, sale)
    monkeypatch.undo()
    async with asyncio.timeout(20):
        while not await letters(system, sale):
            await writer(system).tick()

    assert 1 == await letters(system, sale)


async def test_a_sale_that_is_moved_is_told_anew(system: System) -> None:
    """For its new start, at its time; not before, and not twice."""
    sale, buyer = await coming(system), await system.buyer()
    await put(system, sale, buyer)
    told = []
    for minutes in (59, 300, 58):
        await start(system, sale, minutes)
        for _ in range(2):
            await writer(system).tick()
        told.append(await letters(system, sale))

    assert [1, 1, 2] == told


@pytest.mark.parametrize("how", ["closed", "taken back", "begun"])
async def test_nobody_is_told_of_what_will_not_be(system: System, how: str) -> None:
    """Closed for good, not approved any more, or begun while no worker ran."""
    sale, buyer = await coming(system), await system.buyer()
    await put(system, sale, buyer)
    pool = system.app[ROOMS].stores.pool
    # Before it is moved: workers of the running system look, too.
    if how == "closed":
        await pool.execute("UPDATE sales SET closed_at = now() WHERE id = $1", sale)
    if how == "taken back":
        await pool.execute("UPDATE sales SET approved_at = NULL WHERE id = $1", sale)
    await start(system, sale, -1 if how == "begun" else 59)

    await writer(system).tick()

    assert 0 == await letters(system, sale)


async def test_deleting_an_account_takes_its_alarms(system: System) -> None:
    sale, email = await coming(system), f"alarmed-{next(numbers)}@example.com"
    buyer = await system.person(email)
    await put(system, sale, buyer)

    gone = await system.call("DELETE", "/v1/me", token=buyer)

    assert 204 == gone.status, gone.body
    query = "SELECT count(*) FROM alarms WHERE sale = $1"
    assert 0 == await system.app[ROOMS].stores.pool.fetchval(query, sale)


async def test_on_pages(system: System) -> None:
    """A button of the sale's page until it is asked for, then a word; the list takes it back. No script is needed."""
    sale, token = await coming(system), await system.buyer()
    show = Browser(system, {system.app[COOKIES].access: token, "onsale-language": "en"})

    _, offered, _ = await show("GET", f"/sales/{sale}")
    asked, _, headers = await show("POST", f"/sales/{sale}/alarm")
    _, after, _ = await show("GET", f"/sales/{sale}")
    _, listing, _ = await show("GET", "/alarms")
    await show("POST", f"/alarms/{sale}/removal")
    _, empty, _ = await show("GET", "/alarms")

    action = f'action="/sales/{sale}/alarm"'
    assert (True, False) == (action in offered, action in after)
    assert (303, f"/sales/{sale}") == (asked, headers["Location"])
    assert "You get a letter an hour before it starts." in after
    assert (True, False) == (f"/sales/{sale}" in listing, f"/sales/{sale}" in empty)


async def test_a_sale_that_will_not_be_offers_none(system: System) -> None:
    """Closed before it started: its page has no button that would only be refused."""
    sale, token = await coming(system), await system.buyer()
    show = Browser(system, {system.app[COOKIES].access: token})
    assert 204 == (await system.call("POST", f"/v1/sales/{sale}/closing", token=system.manager)).status
    await system.app[ROOMS].book.refresh()

    status, text, _ = await show("GET", f"/sales/{sale}")

    assert (200, False) == (status, f'action="/sales/{sale}/alarm"' in text)
