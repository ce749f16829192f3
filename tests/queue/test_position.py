"""The position that anybody computes from the document, against the rank that Redis itself counts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from line_kit import JOINS_A_CALL, Stand

from onsale.queue.frame import Frame

PEOPLE = 12_000
ASKED = 400


async def frame_of(stand: Stand) -> Frame:
    """A document made now."""
    await stand.redis.hset(stand.keys.meta, "is_due", 1)
    await stand.later(0.001)
    figures = await stand.admitter._show(stand.sale, stand.keys)
    assert figures is not None
    return Frame(await stand.line.document(stand.keys) or b"")


async def require_true(stand: Stand, chance: random.Random) -> None:
    """Exact under 256, within 1 % beyond: for the front, and for places over the whole line."""
    frame = await frame_of(stand)
    waiting = await stand.members(stand.keys.waiting)
    asked = [*waiting[:300], *chance.sample(waiting, min(ASKED, len(waiting)))]
    async with stand.redis.pipeline(transaction=False) as pipe:
        for place in asked:
            pipe.zrank(stand.keys.waiting, place)
        ranks = await pipe.execute()
    assert frame.document.waiting == len(waiting)
    for place, rank in zip(asked, ranks, strict=True):
        assert abs(frame.ahead(place) - rank) <= (0 if rank < 256 else rank / 100), (place, rank)
    assert len(frame.doc) <= 2_048


async def leave(stand: Stand, places: Iterable[int]) -> None:
    """They leave, whoever of them is still there."""
    leaving = [(place, "") for place in places]
    for first in range(0, len(leaving), JOINS_A_CALL):
        await stand.scripts.leave(stand.keys, leaving[first : first + JOINS_A_CALL])


async def go_silent(stand: Stand, living: Sequence[int]) -> None:
    """A grace passes in which nobody but these gives a sign; then the line is looked through for the silent."""
    for _ in range(9):
        await stand.sign(*living)
        await stand.later(5)
        await stand.admit()
    while (await stand.scripts.park(stand.keys, look_max=1_500, park_max=1_000))[0] == 1_500:
        continue


@pytest.mark.parametrize("shape", ["all", "a tenth", "thinned head", "blocks gone"])
async def test_at_every_sparsity(stand: Stand, shape: str) -> None:
    """Everybody there; one in ten; nine in ten of the front gone; blocks of 5,000 gone."""
    await stand.make(rate_centi=0)
    places = await stand.crowd(PEOPLE)
    chance = random.Random(shape)
    gone = {
        "all": [],
        "a tenth": chance.sample(places, PEOPLE * 9 // 10),
        "thinned head": chance.sample(places[: PEOPLE // 2], PEOPLE * 9 // 20),
        "blocks gone": [*places[500:5_500], *places[6_000:11_000]],
    }[shape]

    await leave(stand, gone)

    assert len(await stand.members(stand.keys.waiting)) == PEOPLE - len(gone)
    await require_true(stand, chance)


async def test_with_hundreds_back_below_the_serving_number(stand: Stand) -> None:
    """They were passed over, and stand in front of everybody again."""
    await stand.make(rate_centi=1_000_000, active_max=1_000_000)
    places = await stand.crowd(4_000)
    await go_silent(stand, places[2_000:])
    await stand.later(1)
    await stand.set(rate_centi=0)
    back = random.Random(7).sample(places[:2_000], 700)

    await stand.sign(*back)

    frame = await frame_of(stand)
    assert frame.document.serving >= 2_000
    assert await stand.members(stand.keys.waiting) >= sorted(back)
    await require_true(stand, random.Random(8))


@pytest.mark.parametrize("seed", range(4))
async def test_over_random_histories(stand: Stand, seed: int) -> None:
    """Joining, leaving, going silent, coming back and being let in, in any order."""
    chance = random.Random(seed)
    await stand.make(rate_centi=chance.choice([2_000, 20_000]), active_max=400)
    places = await stand.crowd(chance.randint(300, 3_000), "first")
    for step in range(10):
        match chance.choice(["join", "leave", "silent", "back", "admit"]):
            case "join":
                places += await stand.crowd(chance.randint(1, 800), f"step-{step}")
            case "leave":
                await leave(stand, chance.sample(await waiting_of(stand), chance.randint(0, 200)))
            case "silent":
                await go_silent(stand, chance.sample(places, len(places) * chance.choice([2, 6, 9]) // 10))
            case "back":
                await stand.sign(*chance.sample(places, min(len(places), 300)))
            case "admit":
                await stand.later(2)
                await stand.admit()
        await require_true(stand, chance)


async def waiting_of(stand: Stand) -> list[int]:
    """Enough of the waiting to choose from, whoever they are."""
    return (await stand.members(stand.keys.waiting)) * 2 + [1] * 200
