"""The shop's scripts against a model of them in Python: whatever is called, in whatever order and however often, real
Redis and model agree, every unit is in one counter, and every change of an order has one event."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
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
from shop_kit import COUNTERS, KEYS, NEVER_MS, SALE, Shop, new_attempt, order_doc, request

from onsale.auth.errors import IdempotencyKeyReused
from onsale.checkout import errors
from onsale.checkout.inventory import Pin, Reserve
from onsale.lua import connect
from onsale.lua.shop import PackedOrder

LIMIT, TRIES_MAX, DROPPED_FREE = 2, 5, 200
BUYERS = st.sampled_from(["ann", "bob", "cat"])
TURNS = st.sampled_from([f"turn-{number}" for number in range(6)])
BASKETS = st.sampled_from(
    [{"jacket": 1}, {"jacket": 2}, {"hat": 1}, {"jacket": 1, "hat": 1}, {"jacket": 3}, {"sock": 1}]
)
REFUSALS = st.sampled_from(["stock", "limit", "turn", "epoch"])


@dataclass
class Try:
    """An attempt as the model has it."""

    attempt: str
    key: str
    digest: str
    outcome: str = "open"


@dataclass
class Order:
    """An order as the model has it; `where` is the counter its units are in."""

    asked: Reserve
    items: dict[str, int]
    state: str = "reserved"
    where: str = "held"
    rev: int = 1
    is_due: bool = False
    tries: list[Try] = field(default_factory=list)


class ShopMachine(RuleBasedStateMachine):
    """Drives one sale. Refusals are compared by the class of the error."""

    url: str

    @initialize(jackets=st.integers(0, 6), hats=st.integers(0, 3))
    def open_sale(self, jackets: int, hats: int) -> None:
        self.runner = asyncio.Runner()
        self.redis = self.run(self._connect())
        self.shop = Shop(self.redis)
        self.run(self.redis.flushall())
        self.run(self.shop.open(jacket=jackets, hat=hats))
        self.units = {name: Counter(free=units, stock=units) for name, units in (("jacket", jackets), ("hat", hats))}
        self.orders: dict[str, Order] = {}
        self.answers: dict[str, tuple[Reserve, Any]] = {}
        self.turns: dict[str, str] = {}
        self.dropped: Counter[str] = Counter()
        self.closings: list[tuple[str, str]] = []
        self.moves: set[str] = set()
        self.moves_refused: set[str] = set()

    async def _connect(self) -> Any:
        return connect(self.url)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.run(self.redis.aclose())
            self.runner.close()

    def run(self, awaitable: Any) -> Any:
        return self.runner.run(awaitable) if asyncio.iscoroutine(awaitable) else self.runner.run(_await(awaitable))

    def outcome(self, awaitable: Any) -> Any:
        """What a call answered, or the class of what it raised."""
        try:
            return self.run(awaitable)
        except (errors.CheckoutError, IdempotencyKeyReused) as error:
            return type(error)

    # What the model says.

    def bought(self, buyer: str) -> int:
        return self._quantity(buyer, {"confirmed"})

    def held(self, buyer: str) -> int:
        return self._quantity(buyer, {"reserved", "confirming"})

    def _quantity(self, buyer: str, states: set[str]) -> int:
        own = (order for order in self.orders.values() if order.asked.buyer == buyer and order.state in states)
        return sum(sum(order.items.values()) for order in own)

    def open_orders(self) -> list[Order]:
        return [order for order in self.orders.values() if order.state in ("reserved", "confirming")]

    def expected_reserve(self, asked: Reserve, items: dict[str, int]) -> Any:
        known = self.answers.get(asked.buyer + "|" + asked.key)
        if known is not None:
            return known[1] if known[0].digest == asked.digest else IdempotencyKeyReused
        answer = self._fresh_answer(asked, items)
        if answer is errors.TooManyDrops:
            return answer
        self.answers[asked.buyer + "|" + asked.key] = (asked, answer)
        if isinstance(answer, str):
            self.orders[answer] = Order(asked, items)
            self._move(items, "free", "held")
        return answer

    def _fresh_answer(self, asked: Reserve, items: dict[str, int]) -> Any:
        if asked.pass_exp_ms < NEVER_MS:
            return errors.PassExpired
        ended = {"revoked": errors.PassRevoked, "spent": errors.PassSpent, "closed": errors.PassSpent}
        if asked.turn in self.turns:
            return ended[self.turns[asked.turn]]
        if any(asked.turn == order.asked.turn or asked.buyer == order.asked.buyer for order in self.open_orders()):
            return errors.ReservationOpen
        if self.dropped[asked.buyer] >= DROPPED_FREE:
            return errors.TooManyDrops
        if self.held(asked.buyer) + self.bought(asked.buyer) + sum(items.values()) > LIMIT:
            return errors.PurchaseLimitReached
        for product, quantity in items.items():
            if product not in self.units:
                return errors.ProductUnknown
            if self.units[product]["free"] < quantity:
                return errors.SoldOut
        return asked.order

    def _move(self, items: dict[str, int], source: str, target: str) -> None:
        for product, quantity in items.items():
            self.units[product][source] -= quantity
            self.units[product][target] += quantity

    def _become(self, order: Order, state: str, where: str) -> None:
        self._move(order.items, order.where, where)
        order.state, order.where = state, where

    # Reserving.

    @rule(buyer=BUYERS, turn=TURNS, items=BASKETS, is_late=st.sampled_from([False, False, False, False, True]))
    def reserve(self, buyer: str, turn: str, items: dict[str, int], is_late: bool) -> None:
        asked = request(buyer, items, turn=turn, pass_exp_ms=1 if is_late else NEVER_MS)
        self._reserve([(asked, items)])

    @rule(wanted=st.lists(st.tuples(BUYERS, TURNS, BASKETS), min_size=2, max_size=8))
    def reserve_at_once(self, wanted: list[tuple[str, str, dict[str, int]]]) -> None:
        """Many in one batch: each sees what those before it did."""
        self._reserve([(request(buyer, items, turn=turn), items) for buyer, turn, items in wanted])

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), digest=st.sampled_from(["digest", "digest", "another"]), twice=st.booleans())
    def reserve_again(self, data: st.DataObject, digest: str, twice: bool) -> None:
        asked, _ = self.answers[data.draw(st.sampled_from(sorted(self.answers)))]
        again = msgspec.structs.replace(asked, digest=digest, order=f"{asked.order}-again")
        self._reserve([(again, dict(asked.items))] * (2 if twice else 1))

    @rule(buyer=BUYERS, turn=TURNS, items=BASKETS)
    def reserve_doubled(self, buyer: str, turn: str, items: dict[str, int]) -> None:
        """The same request twice in one batch."""
        asked = request(buyer, items, turn=turn)
        self._reserve([(asked, items), (asked, items)])

    def _reserve(self, wanted: list[tuple[Reserve, dict[str, int]]]) -> None:
        async def all_of_them() -> list[Any]:
            calls = (self.shop.inventory.reserve(KEYS, asked) for asked, _ in wanted)
            return await asyncio.gather(*calls, return_exceptions=True)

        answers = [answer.order if hasattr(answer, "order") else type(answer) for answer in self.run(all_of_them())]
        assert [self.expected_reserve(asked, items) for asked, items in wanted] == answers

    # Paying.

    @precondition(lambda self: self.orders)
    @rule(
        data=st.data(),
        buyer=st.sampled_from(["its own"] * 6 + ["stranger"]),
        key=st.sampled_from(["new", "new", "new", "old"]),
        digest=st.sampled_from(["digest", "digest", "digest", "another"]),
    )
    def pin(self, data: st.DataObject, buyer: str, key: str, digest: str) -> None:
        name, order = self._draw_order(data)
        attempt = new_attempt(body_digest=digest)
        if key == "old" and order.tries:
            attempt = msgspec.structs.replace(attempt, idempotency_key=data.draw(st.sampled_from(order.tries)).key)
        who = order.asked.buyer if buyer == "its own" else buyer
        expected = self._expected_pin(order, who, attempt)

        answer = self.outcome(self.shop.inventory.pin(KEYS, Pin(name, who, attempt)))

        if isinstance(expected, Try):
            assert (expected.attempt, expected.outcome, order.state) == (answer.attempt, answer.outcome, answer.state)
            assert answer.is_replay == (expected.attempt != attempt.attempt)
        else:
            assert expected == answer

    def _expected_pin(self, order: Order, who: str, attempt: Any) -> Any:
        if who != order.asked.buyer:
            return errors.OrderUnknown
        known = next((made for made in order.tries if made.key == attempt.idempotency_key), None)
        if known is not None:
            return known if known.digest == attempt.body_digest else IdempotencyKeyReused
        if order.state in ("confirming", "confirmed"):
            return order.tries[-1]
        if order.state == "expired" or (order.state == "reserved" and order.is_due):
            return errors.OrderExpired
        if order.state != "reserved":
            return errors.OrderStateConflict
        order.tries.append(Try(attempt.attempt, attempt.idempotency_key, attempt.body_digest))
        order.rev += 1
        self._become(order, "confirming", "claimed")
        return order.tries[-1]

    @precondition(lambda self: any(order.state == "reserved" and not order.is_due for order in self.orders.values()))
    @rule(data=st.data(), times=st.integers(2, TRIES_MAX))
    def be_declined(self, data: st.DataObject, times: int) -> None:
        """Try and be declined several times over."""
        able = sorted(name for name, order in self.orders.items() if order.state == "reserved" and not order.is_due)
        name = data.draw(st.sampled_from(able))
        order = self.orders[name]
        for _ in range(times):
            if order.state == "reserved":
                attempt = new_attempt()
                made = self._expected_pin(order, order.asked.buyer, attempt)
                answer = self.outcome(self.shop.inventory.pin(KEYS, Pin(name, order.asked.buyer, attempt)))
                assert made.attempt == answer.attempt
                self._decline(name, order, made)

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        name, order, made = self._draw_try(data)
        expected: Any = "confirmed"
        if made is None:
            expected = errors.OrderStateConflict
        elif made.outcome == "open":
            made.outcome = "sold"
            order.rev += 1
            self._become(order, "confirmed", "sold")
            self.dropped[order.asked.buyer] = 0
            self._end_turn(order.asked.turn, "spent", "completed")
        elif made.outcome != "sold":
            expected = errors.OrderStateConflict

        answer = self.outcome(self.shop.inventory.confirm(KEYS, name, made.attempt if made else "never-made"))

        assert expected == getattr(answer, "state", answer)

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def decline(self, data: st.DataObject) -> None:
        self._decline(*self._draw_try(data))

    def _decline(self, name: str, order: Order, made: Try | None) -> None:
        expected: Any = errors.OrderUnknown
        if made is not None and made.outcome == "open":
            order.rev += 1
            if len(order.tries) >= TRIES_MAX:
                made.outcome = "failed"
                self._become(order, "payment_failed", "free")
            else:
                made.outcome = "declined"
                self._become(order, "reserved", "held")
                order.is_due = False
        if made is not None:
            expected = order.state if made.outcome in ("declined", "failed") else errors.OrderStateConflict

        answer = self.outcome(self.shop.inventory.decline(KEYS, name, made.attempt if made else "never-made", "funds"))

        assert expected == getattr(answer, "state", answer)

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        name, order, made = self._draw_try(data)
        expected: Any = errors.OrderUnknown
        if made is not None and made.outcome == "open":
            made.outcome = "failed"
            order.rev += 1
            self._become(order, "payment_failed", "free")
        if made is not None:
            expected = order.state if made.outcome == "failed" else errors.OrderStateConflict

        answer = self.outcome(self.shop.inventory.fail(KEYS, name, made.attempt if made else "never-made", "other"))

        assert expected == getattr(answer, "state", answer)

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), reason=REFUSALS)
    def refuse(self, data: st.DataObject, reason: str) -> None:
        name, order, made = self._draw_try(data)
        expected: Any = None
        if made is not None and made.outcome == "open":
            made.outcome = "refused"
            self._become(order, "released", "withdrawn" if reason == "stock" else "free")
        if made is not None:
            expected = order.state if made.outcome == "refused" else errors.OrderStateConflict

        answer = self.outcome(self.shop.inventory.refuse(KEYS, name, made.attempt if made else "never-made", reason))

        assert expected == getattr(answer, "state", answer)

    # Ending.

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), is_own=st.sampled_from([True, True, True, False]))
    def release(self, data: st.DataObject, is_own: bool) -> None:
        name, order = self._draw_order(data)
        expected: Any = "released"
        if not is_own:
            expected = errors.OrderUnknown
        elif order.state == "reserved":
            order.rev += 1
            self._become(order, "released", "free")
            # Given up when its time is over: a lapse by another name.
            self.dropped[order.asked.buyer] += 100 * order.is_due
        elif order.state == "expired":
            expected = errors.OrderExpired
        elif order.state != "released":
            expected = errors.OrderStateConflict
        buyer = order.asked.buyer if is_own else "stranger"

        answer = self.outcome(self.shop.inventory.release(KEYS, name, buyer))

        assert expected == getattr(answer, "state", answer)

    @precondition(lambda self: any(order.state == "reserved" for order in self.orders.values()))
    @rule(data=st.data())
    def grow_old(self, data: st.DataObject) -> None:
        reserved = sorted(name for name, order in self.orders.items() if order.state == "reserved" and not order.is_due)
        if not reserved:
            return
        name = data.draw(st.sampled_from(reserved))
        # Beyond one life of a hold, not beyond two: a decline may still leave time to pay.
        self.run(self.shop.age(name, 700_000))
        self.orders[name].is_due = True

    @rule(count=st.integers(1, 3))
    def lapse(self, count: int) -> None:
        due = {name for name, order in self.orders.items() if order.state == "reserved" and order.is_due}

        answer = self.run(self.shop.inventory.lapse(KEYS, count))

        assert (min(count, len(due)), len(due) > count) == (answer.expired, answer.more)
        lapsed = {name for name in due if self.run(self.shop.look(name)).state == "expired"}
        assert answer.expired == len(lapsed)
        for name in lapsed:
            self.orders[name].rev += 1
            self._become(self.orders[name], "expired", "free")
            self.dropped[self.orders[name].asked.buyer] += 100

    @rule(data=st.data(), why=st.sampled_from(["expired", "left", "revoked"]))
    def close_turn(self, data: st.DataObject, why: str) -> None:
        """Any turn, oftener one with an open order."""
        in_use = sorted(order.asked.turn for order in self.open_orders())
        turn = data.draw(st.sampled_from(in_use * 3) | TURNS if in_use else TURNS)
        keeps = [order for order in self.open_orders() if order.asked.turn == turn]
        is_kept = why == "expired" and turn not in self.turns and bool(keeps)
        if not is_kept:
            self._end_turn(turn, "revoked" if why == "revoked" else "closed", why)

        answer = self.run(self.shop.inventory.close_turns(SALE, [turn, turn], why))

        assert [is_kept, is_kept] == [until_ms > 0 for until_ms in answer]

    def _end_turn(self, turn: str, state: str, why: str) -> None:
        if turn not in self.turns:
            self.closings.append((turn, why))
            self.turns[turn] = state
        elif state == "spent":
            self.turns[turn] = state

    @rule(
        move=st.sampled_from([f"move-{number}" for number in range(6)]),
        product=st.sampled_from(["jacket", "hat"]),
        quantity=st.sampled_from([-2, -1, 1, 2]),
    )
    def move_stock(self, move: str, product: str, quantity: int) -> None:
        units, expected = self.units[product], move not in self.moves
        if move in self.moves_refused or (expected and units["free"] + quantity < 0):
            self.moves_refused.add(move)
            expected = errors.SoldOut
        elif expected:
            self.moves.add(move)
            units.update(free=quantity, stock=quantity)

        answer = self.outcome(self.shop.inventory.move_stock(KEYS, move, product, quantity))

        assert expected == getattr(answer, "is_new", answer)

    # What always holds.

    @invariant()
    def redis_is_as_the_model_says(self) -> None:
        found = self.run(self._read())
        self._units_are_in_one_counter(found["stock"])
        self._orders_agree(found["orders"])
        self._only_reserved_orders_can_lapse(found["holds"])
        self._buyers_agree(found["buyers"])
        self._every_change_has_one_event([*found["money"], *found["holdings"]])
        self._each_turn_closes_once(found["closings"])

    async def _read(self) -> dict[str, Any]:
        """Everything at once: a journey for each would be most of the test."""
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(KEYS.stock).hgetall(KEYS.orders).zrange(KEYS.holds, 0, -1).hgetall(KEYS.buyers)
            pipe.xrange(KEYS.money).xrange(KEYS.holdings).xrange(KEYS.closings)
            answers = await pipe.execute()
        return dict(zip(("stock", "orders", "holds", "buyers", "money", "holdings", "closings"), answers, strict=True))

    def _units_are_in_one_counter(self, raw: dict[bytes, bytes]) -> None:
        counters = {name.decode(): int(units) for name, units in raw.items()}
        expected = {f"{product}:{name}": self.units[product][name] for product in self.units for name in COUNTERS}
        assert expected == counters
        for product in self.units:
            units = [counters[f"{product}:{name}"] for name in COUNTERS]
            assert sum(units) == 2 * counters[f"{product}:stock"]
            assert min(units) >= 0

    def _orders_agree(self, raw: dict[bytes, bytes]) -> None:
        packed = {name.decode(): msgspec.msgpack.decode(order, type=PackedOrder) for name, order in raw.items()}
        found = {name: (order.state, order.rev, len(order.attempts)) for name, order in packed.items()}
        assert {name: (order.state, order.rev, len(order.tries)) for name, order in self.orders.items()} == found

    def _only_reserved_orders_can_lapse(self, raw: list[bytes]) -> None:
        members = {name.decode() for name in raw}
        assert {name for name, order in self.orders.items() if order.state == "reserved"} == members

    def _buyers_agree(self, raw: dict[bytes, bytes]) -> None:
        found = {name.decode(): msgspec.msgpack.decode(packed) for name, packed in raw.items()}
        names = {order.asked.buyer for order in self.orders.values()}
        expected = {
            name: [self.held(name), self.bought(name), self._open_order(name), self.dropped[name]] for name in names
        }
        # A buyer who dropped nothing has three figures; one who did has when beside how much.
        found = {name: [*figures[:3], figures[3] if len(figures) > 3 else 0] for name, figures in found.items()}
        assert {name: figures for name, figures in expected.items() if any(figures)} == found
        assert all(held + bought <= LIMIT for held, bought, *_ in found.values())

    def _open_order(self, buyer: str) -> str:
        return next((order.asked.order for order in self.open_orders() if order.asked.buyer == buyer), "")

    def _every_change_has_one_event(self, raw: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        """Revs of an order's events, over both streams, count from 1 without gap or repeat."""
        revs: dict[str, list[int]] = defaultdict(list)
        for _, event in raw:
            revs[event[b"order"].decode()].append(int(event[b"rev"]))
        assert {name: list(range(1, order.rev + 1)) for name, order in self.orders.items()} == {
            name: sorted(found) for name, found in revs.items()
        }

    def _each_turn_closes_once(self, raw: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        assert self.closings == [(event[b"turn"].decode(), event[b"why"].decode()) for _, event in raw]

    def _draw_order(self, data: st.DataObject) -> tuple[str, Order]:
        """Any order, more often one that is reserved: most calls that matter are made on those."""
        reserved = sorted(name for name, order in self.orders.items() if order.state == "reserved")
        name = data.draw(st.sampled_from(reserved * 3 + sorted(self.orders)))
        return name, self.orders[name]

    def _draw_try(self, data: st.DataObject) -> tuple[str, Order, Try | None]:
        """An order with tries where there is one, oftener one being paid; and one of its tries, mostly the newest."""
        paying = sorted(name for name, order in self.orders.items() if order.state == "confirming")
        paid = sorted(name for name, order in self.orders.items() if order.tries)
        name = data.draw(st.sampled_from(paying * 3 + (paid or sorted(self.orders))))
        order = self.orders[name]
        if not order.tries:
            return name, order, None
        return name, order, data.draw(st.sampled_from([order.tries[-1], order.tries[-1], *order.tries]))


async def _await(awaitable: Any) -> Any:
    return await awaitable


@pytest.fixture
def machine(shop_redis_url: str) -> type[ShopMachine]:
    return type("Machine", (ShopMachine,), {"url": shop_redis_url})


def test_scripts_agree_with_the_model(machine: type[ShopMachine]) -> None:
    """Any sequence of calls leaves Redis as the model says."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_documents_of_events_are_whole(machine: type[ShopMachine]) -> None:
    """A `claimed` event carries everything the record needs, whatever became of the `reserved` one."""
    state = machine()
    state.open_sale(jackets=1, hats=0)
    try:
        order, attempt = state.run(state.shop.pinned("ann"))
        claimed = state.run(state.shop.events("money"))[0]
    finally:
        state.teardown()

    doc = json.loads(claimed["doc"])
    assert (order, attempt) == (doc["order"], json.loads(claimed["attempt"])["attempt"])
    assert msgspec.json.encode(order_doc(order, "ann", doc["turn"], {"jacket": 1}, doc["idempotency_key"])) == (
        claimed["doc"].encode()
    )
