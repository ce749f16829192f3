"""Signs of life: who gives none for the grace is passed over, keeps the place, and goes first after coming back."""

from __future__ import annotations

from line_kit import SALE, Stand

from onsale.queue.states import TicketState, TicketView

# The grace of a_policy(); silence is told by whole quarters, so it may last a quarter longer.
GRACE_S = 40
SILENT_S = 51


async def pass_time(stand: Stand, seconds: int, *living: int) -> None:
    """Time passes in tenths of the grace; a web process beats, and these places give signs."""
    for _ in range(0, seconds, 4):
        await stand.later(4)
        await stand.sign(*living)
        await stand.admit(None)


async def test_who_gives_signs_is_not_passed_over(stand: Stand) -> None:
    """Three graces later the first is still the first."""
    await stand.make()
    await stand.crowd(2)
    await pass_time(stand, 3 * GRACE_S, 1, 2)

    assert (await stand.admit()).admitted == 2
    assert await stand.state(1) == "admitted"


async def test_silence_for_the_grace_is_passed_over_with_the_place_kept(stand: Stand) -> None:
    """The living behind go on; the silent one is absent, not gone."""
    await stand.make()
    await stand.crowd(3)
    await pass_time(stand, SILENT_S, 2, 3)

    tick = await stand.admit()

    assert (tick.admitted, tick.passed_over) == (2, 1)
    view = await stand.line.look(stand.keys, 1)
    assert view is not None
    assert (view.state, view.is_absent) == (TicketState.WAITING, True)
    [event] = await stand.admissions()
    assert (event["places"], event["passed_over"], event["returners"]) == ("2,3", "1", "")


async def test_less_than_the_grace_is_not_silence(stand: Stand) -> None:
    """A phone that slept for most of it loses nothing."""
    await stand.make()
    await stand.crowd(2)
    await pass_time(stand, GRACE_S - 4, 2)

    assert (await stand.admit()).admitted == 2


async def test_who_comes_back_goes_first(stand: Stand) -> None:
    """The first answer says was_absent; the next tick admits it before anyone behind, as a returner."""
    await stand.make()
    await stand.crowd(6)
    await pass_time(stand, SILENT_S, 2, 3, 4, 5, 6)
    await stand.set(active_max=2)
    await stand.admit()

    answers = await stand.sign(1)
    again = await stand.sign(1)
    await stand.set(active_max=3)
    await stand.admit()

    assert [(view.place, view.state, view.was_absent) for view in answers] == [(1, "waiting", True)]
    assert again == []
    event = (await stand.admissions())[-1]
    assert (event["places"], event["returners"]) == ("1", "1")
    assert await stand.meta("inversions") == 0


async def test_joining_again_brings_an_absent_ticket_back(stand: Stand) -> None:
    """The same place, and it says that it was absent."""
    await stand.make()
    await stand.crowd(2)
    await pass_time(stand, SILENT_S, 2)
    await stand.admit()

    view, is_fresh = await stand.line.join(stand.keys, "buyer-0")

    assert (view.place, is_fresh, view.was_absent, view.is_absent) == (1, False, True, False)
    assert await stand.members(stand.keys.waiting) == [1]


async def test_signs_name_whoever_is_not_simply_waiting(stand: Stand) -> None:
    """Admitted, left and unknown ones; the waiting are left out: so a lost announcement is never fatal."""
    await stand.make(active_max=1)
    await stand.crowd(3)
    await stand.admit()
    await stand.line.leave(stand.keys, 2)

    answers = await stand.sign(1, 2, 3, 77)

    found = {view.place if isinstance(view, TicketView) else view: view for view in answers}
    assert set(found) == {1, 2, 77}
    assert (found[1].state, found[1].turn, found[2].state, found[77]) == ("admitted", "1-1-1", "left", 77)


async def test_an_outage_of_every_web_process_parks_nobody(stand: Stand) -> None:
    """Nobody could give a sign: nobody is let in meanwhile, and the grace begins anew afterwards."""
    await stand.make()
    await stand.sign()
    await stand.crowd(5)
    for _ in range(20):
        # More than the 10 s in which web must have been heard, within one millisecond too.
        await stand.later(11)
        assert (await stand.admit()).admitted == 0
    await stand.sign()

    tick = await stand.admit()

    assert (tick.admitted, tick.passed_over) == (5, 0)


async def test_an_outage_of_redis_parks_nobody(stand: Stand) -> None:
    """No admitter reached it for a while: whatever was silent in that time says nothing."""
    await stand.make()
    await stand.crowd(5)
    await stand.admit(None)
    await stand.later(300)
    await stand.sign()

    assert (await stand.admit()).admitted == 5


async def test_a_turn_that_we_could_not_tell_is_not_lost(stand: Stand) -> None:
    """Admitted, then every web process is away: the turn waits for the telling as long as it would have had."""
    await stand.make()
    await stand.sign()
    await stand.crowd(1)
    await stand.admit()
    for _ in range(10):
        await stand.later(11)
        await stand.admit()
    await stand.sign()

    view = await stand.line.take(stand.keys, 1)

    assert (view.state, view.turn) == (TicketState.ADMITTED, "1-1-1")


async def test_parking_goes_over_the_whole_line_ahead_of_need(stand: Stand) -> None:
    """Though nobody is let in, the silent anywhere are put aside, at most so many a call, and the living stay."""
    await stand.make(rate_centi=0)
    await stand.crowd(300)
    living = [place for place in range(1, 301) if place % 3 == 0]
    await pass_time(stand, SILENT_S + 4, *living)

    first = await stand.scripts.park(stand.keys, look_max=120, park_max=50)
    for _ in range(12):
        await stand.scripts.park(stand.keys, look_max=120, park_max=50)

    assert first == (120, 50)
    assert await stand.members(stand.keys.waiting) == living
    assert len(await stand.members(stand.keys.absent)) == 200


async def test_the_admitter_parks_at_most_a_thousand_a_second(stand: Stand) -> None:
    """Bounded over the whole line, however many are silent."""
    await stand.make(rate_centi=0)
    await stand.crowd(2_500)
    await stand.tick()
    await pass_time(stand, SILENT_S + 4)

    parked = []
    for _ in range(4):
        parked.append((await stand.tick()).sales[0].parked)
        parked.append((await stand.tick()).sales[0].parked)
        await stand.later(1)

    assert parked == [1_000, 0, 1_000, 0, 500, 0, 0, 0]


async def test_another_grace_begins_afresh(stand: Stand) -> None:
    """Quarters of another length cannot read the old signs: nobody is missed for a whole new grace."""
    await stand.make()
    await stand.crowd(3)
    await pass_time(stand, SILENT_S, 1, 2, 3)

    await stand.set(absent_after_s=20)
    await stand.later(4)

    assert (await stand.admit()).admitted == 3


async def test_a_held_line_still_takes_signs(stand: Stand) -> None:
    """A pause is no silence: who polls through it is living after it."""
    await stand.make()
    await stand.crowd(2)
    await stand.control.pause(SALE, actor="tests")
    await pass_time(stand, 3 * GRACE_S, 1, 2)
    await stand.control.resume(SALE, actor="tests")
    await stand.later(1)

    assert (await stand.admit()).admitted == 2


async def test_with_sixty_percent_gone_the_rate_is_kept(stand: Stand) -> None:
    """Nobody put them aside beforehand: passing them over as they come up costs no turn of those who are there."""
    await stand.make(rate_centi=0, active_max=1_000_000)
    places = await stand.crowd(6_000)
    there = [place for place in places if place % 5 in (1, 3)]
    for _ in range(12):
        await stand.sign(*there)
        await stand.later(5)
        await stand.admit()
    await stand.set(rate_centi=10_000)
    for _ in range(100):
        await stand.later(0.1)
        # A web process is heard.
        await stand.sign()
        await stand.admit()

    events = await stand.admissions()

    served = [int(place) for event in events for place in event["places"].split(",")]
    assert len(served) >= 0.95 * 10 * 100
    assert served == there[: len(served)]
