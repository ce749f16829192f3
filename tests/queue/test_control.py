"""What operators do: versioned, in force at once, written down so that nobody can rewrite it."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from line_kit import HOUR_MS, SALE, Stand, a_sale

from onsale.catalog.errors import SaleUnknown
from onsale.lua.line import LineFigures
from onsale.queue.control import PolicyChange
from onsale.queue.errors import PolicyStale, SaleEnded, SaleNotScheduled


async def shown(stand: Stand) -> LineFigures:
    figures = (await stand.tick()).sales[0].figures
    assert figures is not None
    return figures


async def test_a_change_is_in_force_before_it_is_answered(stand: Stand) -> None:
    """The next tick of any admitter uses it, and the document says what changed."""
    await stand.make(rate_centi=2_000)

    admission = await stand.control.set_policy(
        SALE, PolicyChange(rate_centi=50_000, active_max=7), actor="ada", version=1, reason="sale goes well"
    )

    assert (admission.version, admission.policy.rate_centi, admission.changed_by) == (2, 50_000, "ada")
    figures = await shown(stand)
    assert (figures.rate_centi, figures.active_max) == (50_000, 7)
    assert (figures.reason, figures.reason_params) == ("rate_raised", '{"from":20.00,"to":500.00}')


async def test_what_is_not_named_stays(stand: Stand) -> None:
    """A merge patch."""
    await stand.make(rate_centi=2_000, turn_ttl_s=33)

    admission = await stand.control.set_policy(SALE, PolicyChange(active_max=9), actor="ada", version=None)

    assert (admission.policy.rate_centi, admission.policy.active_max, admission.policy.turn_ttl_s) == (2_000, 9, 33)


async def test_a_stale_version_changes_nothing(stand: Stand) -> None:
    """Of two who saw the same settings one wins; the other learns the version in force."""
    await stand.make()
    changes = [
        stand.control.set_policy(SALE, PolicyChange(rate_centi=rate), actor="ada", version=1) for rate in (100, 200)
    ]

    results = await asyncio.gather(*changes, return_exceptions=True)

    [stale] = [result for result in results if isinstance(result, PolicyStale)]
    assert stale.version == 2
    assert (await stand.control.admission(SALE)).version == 2


async def test_pausing_needs_no_version(stand: Stand) -> None:
    """Nor does resuming; each is written once, however often it is asked."""
    await stand.make()
    for _ in range(2):
        admission = await stand.control.set_policy(SALE, PolicyChange(paused=True), actor="ada", version=99)
    assert (admission.is_paused, admission.version) == (True, 2)
    assert (await shown(stand)).reason == "paused_by_operator"

    for _ in range(2):
        await stand.control.resume(SALE, actor="bob")

    assert (await shown(stand)).state == "open"
    assert [row.action for row in await stand.control.audit(SALE)] == ["resume", "pause"]


async def test_a_change_for_a_while_comes_back_by_itself(stand: Stand) -> None:
    """At its end what was before it is in force, in Redis too, and the audit says so."""
    await stand.make(rate_centi=2_000)
    admission = await stand.control.set_policy(
        SALE, PolicyChange(rate_centi=50_000), actor="ada", version=None, revert_after_s=300
    )
    assert admission.revert_at_ms == pytest.approx(admission.changed_at_ms + 300_000, abs=2)
    assert (await stand.keeper.tick()).reverted == 0

    await stand.pool.execute("UPDATE sales SET revert_at = now() WHERE id <> '_shop'")
    ticks = await asyncio.gather(*(stand.another_keeper().tick() for _ in range(3)))

    assert sum(tick.reverted for tick in ticks) == 1
    assert (await shown(stand)).rate_centi == 2_000
    admission = await stand.control.admission(SALE)
    assert (admission.version, admission.revert_at_ms, admission.changed_by) == (3, None, "system")


async def test_a_change_for_a_while_goes_back_with_no_keeper_alive(stand: Stand) -> None:
    """The script itself goes back at the moment that was named, and pays out each side of it at its own rate."""
    await stand.make(rate_centi=100, active_max=10_000, absent_after_s=3_600)
    await stand.crowd(1_000)
    await stand.admitter.tick()
    change = PolicyChange(rate_centi=10_000)
    told = await stand.control.set_policy(SALE, change, actor="ada", version=None, revert_after_s=30)
    admitted = []
    for _ in range(5):
        await stand.skew.advance(10_000)
        admitted.append((await stand.admitter.tick()).admitted)

    # The bursts of 100 and of 1 a second.
    assert [10, 10, 1, 1, 1] == admitted
    await stand.skew.advance(1_000)
    assert (100, "rate_lowered") == ((figures := await shown(stand)).rate_centi, figures.reason)
    assert told == await stand.control.admission(SALE)
    # Whatever else is told of the sale before Postgres has followed brings nothing back.
    await stand.control.set_message(SALE, {"ko": "곧", "en": "soon"}, actor="ada")
    assert b"100" == await stand.redis.hget(stand.keys.policy, "rate_centi")


async def test_a_pause_for_a_while_ends_with_no_keeper_alive(stand: Stand) -> None:
    """At its moment the line moves again, at the rate and no faster: the pause is not paid out."""
    await stand.make(rate_centi=100, active_max=10_000, absent_after_s=3_600)
    await stand.crowd(100)
    await stand.admitter.tick()
    await stand.control.set_policy(SALE, PolicyChange(paused=True), actor="ada", version=None, revert_after_s=30)
    admitted = []
    for _ in range(5):
        await stand.skew.advance(10_000)
        admitted.append((await stand.admitter.tick()).admitted)

    assert [0, 0, 0, 1, 1] == admitted


async def test_changes_for_a_while_that_follow_each_other_end_where_the_first_began(stand: Stand) -> None:
    """And a change that stays ends the waiting."""
    await stand.make(rate_centi=1_000)
    for rate_centi in (2_000, 3_000):
        change = PolicyChange(rate_centi=rate_centi)
        await stand.control.set_policy(SALE, change, actor="ada", version=None, revert_after_s=60)
    await stand.pool.execute("UPDATE sales SET revert_at = now() WHERE id <> '_shop'")
    await stand.keeper.tick()
    assert (await stand.control.admission(SALE)).policy.rate_centi == 1_000

    await stand.control.set_policy(SALE, PolicyChange(rate_centi=2), actor="ada", version=None, revert_after_s=60)
    await stand.set(rate_centi=5_000)

    assert (await stand.control.admission(SALE)).revert_at_ms is None


async def test_a_pause_for_a_while_ends_by_itself(stand: Stand) -> None:
    """The operators' hold is lifted at its end, nobody else's; the rate that was changed with it comes back too."""
    await stand.make(rate_centi=1_000)
    change = PolicyChange(paused=True)
    admission = await stand.control.set_policy(SALE, change, actor="ada", version=None, revert_after_s=60)
    assert (True, True) == (admission.is_paused, admission.revert_at_ms is not None)
    change = PolicyChange(rate_centi=5, paused=False)
    await stand.control.set_policy(SALE, change, actor="ada", version=None, revert_after_s=60)
    await stand.control.set_policy(SALE, PolicyChange(paused=True), actor="ada", version=None, revert_after_s=60)
    await stand.pool.execute(
        "UPDATE sales SET revert_at = now(), paused_by = paused_by || '{provider}' WHERE id <> '_shop'"
    )
    await stand.keeper.tick()

    admission = await stand.control.admission(SALE)
    assert (("provider",), 1_000, None) == (admission.paused_by, admission.policy.rate_centi, admission.revert_at_ms)
    assert (await stand.control.verify_chain(SALE)).is_whole


async def test_a_pause_that_is_meant_to_stay_outlives_one_for_a_while(stand: Stand) -> None:
    """Whoever pauses or resumes for good has the last word."""
    await stand.make()
    await stand.control.set_policy(SALE, PolicyChange(paused=True), actor="ada", version=None, revert_after_s=60)
    await stand.control.resume(SALE, actor="bob")
    admission = await stand.control.pause(SALE, actor="bob")

    assert (True, None) == (admission.is_paused, admission.revert_at_ms)
    assert (await stand.keeper.tick()).reverted == 0


async def test_opening_before_its_time(stand: Stand) -> None:
    """Open now, whatever the schedule says; a second opening of an open sale changes nothing."""
    await stand.make(opens_at_ms=(a_sale().opens_at_ms or 0) + HOUR_MS)
    await stand.crowd(2)
    assert (await stand.admit()).state == "scheduled"

    await stand.control.open(SALE, actor="ada")
    opens_at_ms = stand.sale.opens_at_ms
    await stand.control.open(SALE, actor="ada")

    assert stand.sale.opens_at_ms == opens_at_ms
    await stand.later(0.5)
    assert (await stand.tick()).admitted == 2
    assert [row.action for row in await stand.control.audit(SALE)] == ["open"]


async def test_closing_and_opening_again(stand: Stand) -> None:
    """Closed now; an opening before the scheduled end lets tickets wait again."""
    await stand.make(rate_centi=0)
    await stand.crowd(1)
    await stand.control.close(SALE, actor="ada")
    await stand.later(0.1)
    assert (await stand.state(1), (await shown(stand)).state) == ("closed", "ended")
    with pytest.raises(SaleEnded):
        await stand.control.drain(SALE, actor="ada")

    await stand.control.open(SALE, actor="ada")

    await stand.later(0.5)
    assert await stand.state(1) == "waiting"


async def test_draining_and_taking_it_back(stand: Stand) -> None:
    """Those in line are let in; before the opening there is nothing to drain."""
    await stand.make()
    await stand.crowd(2)
    await stand.control.drain(SALE, actor="ada")
    assert ((await stand.tick()).admitted, (await stand.admit()).state) == (2, "draining")

    await stand.control.open(SALE, actor="ada")

    assert (await stand.admit()).state == "open"
    await stand.pool.execute("UPDATE sales SET opens_at = now() + interval '10 minutes' WHERE id <> '_shop'")
    with pytest.raises(SaleNotScheduled):
        await stand.control.drain(SALE, actor="ada")


async def test_a_message_is_in_the_next_document(stand: Stand) -> None:
    """And taken away again."""
    await stand.make()
    await stand.control.set_message(SALE, {"ko": "잠시만요", "en": "One moment"}, actor="ada")
    assert "잠시만요" in (await shown(stand)).message

    await stand.control.set_message(SALE, None, actor="ada")

    assert (await shown(stand)).message == ""


async def test_redis_away_is_told_later(stand: Stand) -> None:
    """The change is made and answered; the keeper brings it into the line."""
    await stand.make(rate_centi=2_000)
    await stand.redis.hset(stand.keys.meta, "run_id", "another")

    await stand.set(rate_centi=50_000)
    await stand.keeper.tick()
    await stand.keeper.tick()

    assert (await shown(stand)).rate_centi == 50_000


async def test_an_older_setting_never_comes_after_a_newer_one(stand: Stand) -> None:
    """Twenty changes at once from many processes, with keepers between: the line ends where Postgres does."""
    await stand.make()
    changes = [
        stand.control.set_policy(SALE, PolicyChange(rate_centi=100 + n), actor="ada", version=None) for n in range(20)
    ]

    await asyncio.gather(*changes, *(stand.another_keeper().tick() for _ in range(5)))
    await stand.keeper.tick()

    admission = await stand.control.admission(SALE)
    assert admission.version == 21
    assert (await shown(stand)).rate_centi == admission.policy.rate_centi


async def test_the_audit_is_a_chain(stand: Stand) -> None:
    """Every action in order: who, from, to, why; each row fits the one before."""
    await stand.make(rate_centi=2_000)
    await stand.control.set_policy(
        SALE, PolicyChange(rate_centi=100), actor="ada", version=None, reason="왜?", revert_after_s=9
    )
    await stand.control.pause(SALE, actor="bob")
    await stand.control.drain(SALE, actor="bob")

    chain = await stand.control.verify_chain(SALE)
    newest, paused, changed = await stand.control.audit(SALE)

    assert (chain.rows, chain.is_whole) == (3, True)
    assert (newest.action, paused.action, changed.action) == ("drain", "pause", "set_admission")
    assert (changed.actor, changed.reason, changed.seq) == ("ada", "왜?", 1)
    assert (changed.before["rate_centi"], changed.after["rate_centi"]) == (2_000, 100)
    assert changed.after["revert_after_s"] == 9
    assert await stand.control.audit(SALE, limit=1, before_seq=3) == [paused]


@pytest.mark.parametrize(
    "crime",
    [
        "UPDATE audit SET actor = 'eve' WHERE seq = 2",
        "UPDATE audit SET \"to\" = '{}' WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 2",
        "UPDATE audit SET at = at - interval '1 hour' WHERE seq = 2",
    ],
)
async def test_tampering_with_the_audit_shows(stand: Stand, crime: str) -> None:
    """Refused by the table; where somebody took the refusal away, the chain breaks there."""
    await stand.make()
    for rate_centi in (100, 200, 300):
        await stand.set(rate_centi=rate_centi)
    with pytest.raises(asyncpg.RaiseError, match="append only"):
        await stand.pool.execute(crime)
    await stand.pool.execute("ALTER TABLE audit DISABLE TRIGGER audit_no_change")

    await stand.pool.execute(crime)

    assert (await stand.control.verify_chain(SALE)).broken_at in (2, 3)


async def test_an_unknown_sale(stand: Stand) -> None:
    """Is said to be one, by every action."""
    for call in (
        stand.control.admission("none"),
        stand.control.pause("none", actor="ada"),
        stand.control.open("none", actor="ada"),
        stand.control.set_message("none", None, actor="ada"),
    ):
        with pytest.raises(SaleUnknown):
            await call
