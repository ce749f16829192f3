"""The line's scripts against a model of them in Python: whatever is called, in whatever order and however often, and
whatever Redis forgets in between, real Redis and model agree, and the promises of the line hold after every step."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from line_kit import NOW_KEY, PLENTY, with_still_clock

import onsale.lua
from onsale.lua import connect
from onsale.lua.keys import LineKeys
from onsale.lua.line import LineScripts, Settings
from onsale.lua.replies import Reply

GRACE_MS, TURN_MS, PASS_MS, SKEW_MS = 20_000, 5_000, 10_000, 1_000
BLOCK = 6
STATES = {1: "waiting", 2: "admitted", 3: "completed", 4: "expired", 5: "left"}
LIVING = ("waiting", "absent", "admitted")
BUYERS = st.sampled_from([f"buyer-{n}" for n in range(8)])
RATES = st.sampled_from([20_000, 20_000, 500, 50, 0])
CAPS = st.sampled_from([50, 50, 3, 1, 0])
WHYS = {"completed": "completed", "expired": "expired", "left": "left", "revoked": "expired"}


@dataclass
class Ticket:
    """A ticket as the model has it; `turn` is the last it was given."""

    buyer: str
    state: str = "waiting"
    turns: int = 0
    turn: str = ""
    is_told: bool = False
    # The latest moment at which it may have given a sign of life (Redis ms).
    sign_ms: int = 0


@dataclass
class Memory:
    """What a copy of Redis's data holds, as the model has it."""

    tickets: dict[int, Ticket] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    dump: dict[bytes, bytes] = field(default_factory=dict)


class LineMachine(RuleBasedStateMachine):
    """Drives one line. Postgres is a number here: the ceiling."""

    url: str

    @initialize(rate_centi=RATES, active_max=CAPS)
    def open_sale(self, rate_centi: int, active_max: int) -> None:
        self.runner = asyncio.Runner()
        self.redis = self.run(self._connect())
        self.run(self.redis.flushall())
        self.now_ms = 1_700_000_000_000
        self.set_clock()
        self.scripts = LineScripts(self.redis)
        self.keys = LineKeys("drop", 1)
        self.ceiling = 0
        self.rate_centi, self.active_max, self.version = rate_centi, active_max, 1
        self.holders: tuple[str, ...] = ()
        self.memory = Memory()
        self.older: Memory | None = None
        # Every place ever answered, with its buyer: no place has two, whatever Redis forgets.
        self.issued: dict[int, str] = {}
        self.closings: list[tuple[str, str]] = []
        self.cursor = ""
        self.rates: list[tuple[int, int]] = [(0, rate_centi)]
        self.register(is_again=False)

    async def _connect(self) -> Any:
        return connect(self.url)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.redis.aclose())
            self.runner.close()

    def run(self, awaitable: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(awaitable)

    @property
    def tickets(self) -> dict[int, Ticket]:
        return self.memory.tickets

    def set_clock(self) -> None:
        self.run(self._set_clock())

    async def _set_clock(self) -> None:
        await self.redis.set(NOW_KEY, self.now_ms)

    def settings(self) -> Settings:
        return Settings(
            opens_at_ms=1,
            closes_at_ms=2**45,
            draining=0,
            message="",
            policy_version=self.version,
            mode="manual",
            rate_centi=self.rate_centi,
            active_max=self.active_max,
            pass_ttl_ms=PASS_MS,
            turn_ttl_ms=TURN_MS,
            absent_after_ms=GRACE_MS,
            holders=self.holders,
        )

    def register(self, *, is_again: bool) -> None:
        tail, self.ceiling = self.ceiling, self.ceiling + BLOCK
        run_id = self.run(self.scripts.inspect(self.keys)).run_id
        assert self.run(
            self.scripts.register(
                self.keys, self.settings(), is_again=is_again, run_id=run_id, tail=tail, ceiling=self.ceiling
            )
        )
        for ticket in self.tickets.values():
            ticket.sign_ms = self.now_ms

    # People.

    @rule(buyer=BUYERS)
    def join(self, buyer: str) -> None:
        [(reply, row)] = self.run(self.scripts.join(self.keys, [(buyer, 0)]))
        while reply is Reply.CEILING:
            self.ceiling += BLOCK
            self.run(self.scripts.ceiling(self.keys, self.ceiling))
            [(reply, row)] = self.run(self.scripts.join(self.keys, [(buyer, 0)]))
        place, is_fresh = row[0], row[12] == 1
        mine = [p for p, ticket in self.tickets.items() if ticket.buyer == buyer and ticket.state in LIVING]
        assert mine == ([] if is_fresh else [place])
        assert self.issued.setdefault(place, buyer) == buyer
        assert place <= self.ceiling
        if is_fresh:
            self.tickets[place] = Ticket(buyer)
        self.live(place)

    @rule(places=st.lists(st.integers(1, 40), max_size=8))
    def sign(self, places: Sequence[int]) -> None:
        wanted = list(dict.fromkeys(places))
        absent = [p for p in wanted if p in self.tickets and self.tickets[p].state == "absent"]
        answers = self.run(self.scripts.sign(self.keys, wanted))
        for place in wanted:
            if place in self.tickets:
                self.live(place)
        named = {row[0]: (reply, row) for reply, row in answers}
        assert set(named) == {p for p in wanted if p not in self.tickets or p in absent or not self.is_waiting(p)}
        assert {p for p, (reply, _) in named.items() if reply is Reply.UNKNOWN} == set(wanted) - set(self.tickets)
        assert {p for p, (reply, row) in named.items() if reply is Reply.OK and row[6] == 1} == set(absent)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), is_told=st.booleans())
    def leave(self, data: st.DataObject, is_told: bool) -> None:
        place = data.draw(st.sampled_from(sorted(self.tickets)))
        ticket = self.tickets[place]
        closed = ticket.turn if is_told else ""
        [(reply, _)] = self.run(self.scripts.leave(self.keys, [(place, closed)]))
        if ticket.state == "admitted" and not is_told:
            assert reply is Reply.TURN_BUSY
        else:
            assert reply is Reply.OK
            if ticket.state in LIVING:
                self.end(place, "left")

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.tickets)))
        ticket = self.tickets[place]
        [(_, first)], [(_, again)] = (
            self.run(self.scripts.take(self.keys, [place], skew_ms=SKEW_MS)) for _ in range(2)
        )
        assert first == again
        if ticket.state == "admitted":
            assert first[10] >= first[9] + PASS_MS
            ticket.is_told = True
            self.memory.gone.add(place)

    @precondition(lambda self: self.issued)
    @rule(data=st.data(), is_honest=st.booleans())
    def restore(self, data: st.DataObject, is_honest: bool) -> None:
        place = data.draw(st.sampled_from(sorted(self.issued)))
        buyer = self.issued[place] if is_honest else "eve"
        known, others = self.tickets.get(place), self.living_of(buyer)
        tail = int(self.run(self.redis.hget(self.keys.meta, "tail")))
        [(reply, _)] = self.run(self.scripts.restore(self.keys, [(place, buyer, 1, 0)]))
        if known is not None:
            assert reply is (Reply.OK if known.buyer == buyer else Reply.UNKNOWN)
        elif place > tail:
            assert reply is Reply.UNKNOWN
        elif place in self.memory.gone or any(p < place or self.tickets[p].state == "admitted" for p in others):
            assert reply is Reply.GONE
        else:
            assert reply is Reply.OK
            for other in others:
                self.end(other, "left")
            self.tickets[place] = Ticket(buyer)
            self.live(place)

    # The machinery.

    @rule(admitters=st.integers(1, 3), seats=st.sampled_from([100, 100, 2, 0]), admit_max=st.sampled_from([100, 3, 1]))
    def admit(self, admitters: int, seats: int, admit_max: int) -> None:
        before = copy.deepcopy(self.tickets)
        known = len(self.events())
        note = msgspec.structs.replace(PLENTY, seats_max=seats)
        self.run(self._admit_at_once(admitters, note, admit_max))
        actual = self.actual()
        served = [place for event in self.events()[known:] for place in event["places"]]
        waited = sorted(place for place, ticket in before.items() if ticket.state == "waiting")
        passed = [place for place in waited if actual[place][0] == "absent"]
        # The first come, first served: whoever is let in had nobody before it but those let in or passed over with it.
        assert served == sorted(served)
        front = [place for place in waited if place <= max([*served, *passed], default=0)]
        assert [place for place in front if place not in passed] == served
        for place in passed:
            assert self.now_ms - before[place].sign_ms >= GRACE_MS
        for event in self.events()[known:]:
            assert event["active"] <= min(self.active_max, seats)
        if self.holders:
            assert served == []
        self.adopt(before, actual, served)

    async def _admit_at_once(self, admitters: int, note: Any, admit_max: int) -> None:
        await asyncio.gather(*(self.scripts.admit(self.keys, note, admit_max=admit_max) for _ in range(admitters)))

    def adopt(self, before: dict[int, Ticket], actual: dict[int, tuple[str, str]], served: list[int]) -> None:
        """Take over what admission did, after asking of each change whether it was allowed."""
        for place, (state, turn) in actual.items():
            ticket, was = self.tickets[place], before[place].state
            if place in served:
                assert (was, state) == ("waiting", "admitted")
                ticket.turns += 1
                assert turn == f"{self.keys.epoch}-{place}-{ticket.turns}"
                ticket.state, ticket.turn, ticket.is_told = "admitted", turn, False
            elif state != was:
                is_taken_back = was == "admitted" and not ticket.is_told
                assert (was, state) == ("waiting", "absent") or is_taken_back
                ticket.state = state
                if state == "expired":
                    self.memory.gone.add(place)
                    assert ticket.turns >= 3

    @rule(look_max=st.integers(1, 20), park_max=st.integers(0, 5))
    def park(self, look_max: int, park_max: int) -> None:
        _, parked = self.run(self.scripts.park(self.keys, look_max=look_max, park_max=park_max))
        actual = self.actual()
        moved = [p for p, ticket in self.tickets.items() if ticket.state == "waiting" and actual[p][0] == "absent"]
        assert len(moved) == parked <= park_max
        for place in moved:
            assert self.now_ms - self.tickets[place].sign_ms >= GRACE_MS
            self.tickets[place].state = "absent"

    @rule(why=st.sampled_from(sorted(WHYS)), data=st.data())
    def end_turn_at_the_shop(self, why: str, data: st.DataObject) -> None:
        """A closing is written: of a turn in use, of an old one, or twice."""
        turns = sorted({ticket.turn for ticket in self.tickets.values() if ticket.turn} | {"1-1-1", "9-9-9"})
        self.closings.append((data.draw(st.sampled_from(turns)), why))

    @precondition(lambda self: self.closings)
    @rule(is_stale=st.booleans())
    def apply_closings(self, is_stale: bool) -> None:
        seen = "somewhere else" if is_stale else self.cursor
        upto = f"1:{self.version}-{len(self.closings)}-{len(self.issued)}"
        won, _, cursor = self.run(self.scripts.close_seats(self.keys, seen=seen, upto=upto, closings=self.closings))
        assert won is not is_stale
        self.cursor = cursor
        for turn, why in self.closings if won else ():
            for place, ticket in self.tickets.items():
                if ticket.turn == turn and ticket.state == "admitted":
                    self.end(place, WHYS[why])

    @rule(rate_centi=RATES, active_max=CAPS, holders=st.sampled_from([(), (), (), (), ("operator", "provider")]))
    def control(self, rate_centi: int, active_max: int, holders: tuple[str, ...]) -> None:
        self.version += 1
        self.rate_centi, self.active_max, self.holders = rate_centi, active_max, holders
        seen = self.run(self.scripts.inspect(self.keys)).sync_no
        assert not self.run(self.scripts.settings(self.keys, self.settings(), seen=seen - 1))
        assert self.run(self.scripts.settings(self.keys, self.settings(), seen=seen))
        self.rates.append((self.now_ms, rate_centi))

    @rule(ms=st.sampled_from([1, 50, 170, 1_000, 1_700, 26_000]), has_web=st.booleans())
    def time_passes(self, ms: int, has_web: bool) -> None:
        """After the longest of these nobody knows who was silent: no admitter was there either."""
        self.now_ms += ms
        self.set_clock()
        if has_web:
            self.run(self.scripts.sign(self.keys, []))

    @rule(steps=st.integers(1, 6))
    def silence_passes(self, steps: int) -> None:
        """Web processes and admitters are there; nobody lets anyone in."""
        for _ in range(steps):
            self.time_passes(5_000, has_web=True)
            self.admit(admitters=1, seats=0, admit_max=1)

    @rule(buyers=st.lists(BUYERS, min_size=2, max_size=8))
    def a_crowd_joins(self, buyers: list[str]) -> None:
        for buyer in buyers:
            self.join(buyer)

    # What Redis forgets.

    @rule(is_all=st.booleans())
    def something_is_lost(self, is_all: bool) -> None:
        if is_all:
            self.lose_everything()
        else:
            self.run(self.redis.script_flush())

    @rule()
    def write_a_copy(self) -> None:
        dump = {key: self.run(self.redis.dump(key)) for key in self.run(self.redis.keys("{drop:line}*"))}
        self.older = Memory(copy.deepcopy(self.tickets), set(self.memory.gone), dump)

    @rule(is_older=st.booleans())
    def restart(self, is_older: bool) -> None:
        """The same data on another server, or data as old as the last copy of it."""
        if is_older and self.older is not None:
            self.run(self._load(self.older.dump))
            self.memory = copy.deepcopy(self.older)
        self.run(self.redis.hset(self.keys.meta, "run_id", "the one before"))
        assert self.run(self.scripts.inspect(self.keys)).reply is Reply.RECOVERING
        [(reply, _)] = self.run(self.scripts.join(self.keys, [("buyer-0", 0)]))
        assert reply is Reply.RECOVERING
        self.register(is_again=True)
        self.cursor = (self.run(self.redis.hget(self.keys.meta, "closings_cursor")) or b"").decode()

    async def _load(self, dump: dict[bytes, bytes]) -> None:
        for key in await self.redis.keys("{drop:line}*"):
            await self.redis.delete(key)
        for key, value in dump.items():
            await self.redis.restore(key, 0, value)

    def lose_everything(self) -> None:
        self.run(self.redis.flushall())
        self.set_clock()
        assert self.run(self.scripts.inspect(self.keys)).reply is Reply.UNKNOWN
        self.keys = LineKeys("drop", self.keys.epoch + 1)
        self.memory, self.older, self.cursor = Memory(), None, ""
        self.register(is_again=False)

    # What holds after every step.

    def live(self, place: int) -> None:
        ticket = self.tickets[place]
        if ticket.state == "absent":
            ticket.state = "waiting"
        ticket.sign_ms = self.now_ms

    def end(self, place: int, state: str) -> None:
        self.tickets[place].state = state
        self.memory.gone.add(place)

    def is_waiting(self, place: int) -> bool:
        return self.tickets[place].state == "waiting"

    def living_of(self, buyer: str) -> list[int]:
        return [p for p, ticket in self.tickets.items() if ticket.buyer == buyer and ticket.state in LIVING]

    def events(self) -> list[dict[str, Any]]:
        entries = self.run(self.redis.xrange(self.keys.admissions))
        return [
            {
                "at": int(fields[b"at"]),
                "places": [int(place) for place in fields[b"places"].split(b",")],
                "returners": [int(place) for place in fields[b"returners"].split(b",") if place],
                "active": int(fields[b"active"]),
            }
            for _, fields in entries
        ]

    def actual(self) -> dict[int, tuple[str, str]]:
        """Each ticket's state and turn as Redis has them."""
        absent = set(self.run(self.redis.zrange(self.keys.absent, 0, -1)))
        found = {}
        for place, packed in self.run(self.redis.hgetall(self.keys.tickets)).items():
            fields = msgspec.msgpack.decode(packed)
            state = STATES[fields[0]]
            is_absent = state == "waiting" and place in absent
            found[int(place)] = ("absent" if is_absent else state, fields[6] if len(fields) > 6 else "")
        return found

    @invariant()
    def redis_and_model_agree(self) -> None:
        assert {place: state for place, (state, _) in self.actual().items()} == {
            place: ticket.state for place, ticket in self.tickets.items()
        }

    @invariant()
    def sets_are_the_tickets(self) -> None:
        """Each waiting place in exactly one set, each admitted one with exactly its seat."""
        for key, state in ((self.keys.waiting, "waiting"), (self.keys.absent, "absent")):
            places = {int(member) for member in self.run(self.redis.zrange(key, 0, -1))}
            assert places == {place for place, ticket in self.tickets.items() if ticket.state == state}
        seats = {member.decode() for member in self.run(self.redis.zrange(self.keys.leases, 0, -1))}
        assert seats == {ticket.turn for ticket in self.tickets.values() if ticket.state == "admitted"}

    @invariant()
    def a_buyer_has_one_living_ticket(self) -> None:
        living = {ticket.buyer: place for place, ticket in self.tickets.items() if ticket.state in LIVING}
        assert len(living) == sum(ticket.state in LIVING for ticket in self.tickets.values())
        found = {b.decode(): int(p) for b, p in self.run(self.redis.hgetall(self.keys.buyers)).items()}
        assert found | living == found
        # Of everybody else the last ticket is known, so that it can be found.
        assert all(self.tickets[place].buyer == buyer for buyer, place in found.items())

    @invariant()
    def nothing_that_must_not_happen_was_counted(self) -> None:
        counters = self.run(self.redis.hmget(self.keys.meta, "inversions", "cap_violations"))
        assert counters == [None, None]

    @invariant()
    def whoever_never_went_missing_came_in_order(self) -> None:
        """As the audit reads it: but for returners, places ascend over all admissions."""
        order = [place for event in self.events() for place in event["places"] if place not in event["returners"]]
        assert order == sorted(set(order))

    @invariant()
    def the_rate_was_kept(self) -> None:
        """Over every window between two admissions: never above the integral of the rate and a burst."""
        events = self.events()
        for last in range(len(events)):
            people = 0
            for first in range(last, -1, -1):
                people += len(events[first]["places"])
                since, until = events[first]["at"], events[last]["at"]
                assert people <= self.integral(since, until) + self.burst(since, until) + 1e-9

    def integral(self, since: int, until: int) -> float:
        people = 0.0
        ends = [at for at, _ in self.rates[1:]] + [2**60]
        for (at, rate_centi), end in zip(self.rates, ends, strict=True):
            people += max(0, min(until, end) - max(since, at)) * rate_centi / 100_000
        return people

    def burst(self, since: int, until: int) -> int:
        ends = [at for at, _ in self.rates[1:]] + [2**60]
        rates = [rate for (at, rate), end in zip(self.rates, ends, strict=True) if at <= until and end >= since]
        return max(1, -(-max(rates) // 1000))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, line_redis_url: str) -> type[LineMachine]:
    monkeypatch.setattr(onsale.lua, "source", with_still_clock(onsale.lua.source))
    return type("Machine", (LineMachine,), {"url": line_redis_url})


def test_scripts_agree_with_the_model(machine: type[LineMachine]) -> None:
    """Any sequence of calls and losses leaves Redis as the model says."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
