"""What must hold: while a run goes on, after each change of a store, and once everything was mended and finished.

The invariants have the numbers of the design; `Broken` names the first that did not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bench.interleavings.postgres_model import Key, Row
from bench.interleavings.statements import id_of
from bench.interleavings.world import PRODUCTS, SALE, World
from onsale.checkout.ports import Attempt, ChargeState
from onsale.checkout.record.rebuild import FencedByAnother
from onsale.checkout.record.recorder import Contended
from onsale.checkout.states import OrderState
from onsale.lua.shop import PackedOrder
from onsale.server.problems import problem_of

_order = msgspec.msgpack.Decoder(PackedOrder).decode
# Whoever meets these comes again.
EXPECTED = (FencedByAnother, Contended)
COUNTERS = ("free", "held", "claimed", "sold", "withdrawn")


class Broken(Exception):
    """A promise did not hold."""


class Judge:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.broken: list[str] = []
        self._orders: dict[bytes, bytes] = {}
        self._states: dict[bytes, str] = {}
        self._server = ("", 0)
        # The highest watermark seen of each stream.
        self._upto: dict[Key, str] = {}
        self._let_in: set[int] = set()
        # Who waited when the line was last looked at, and how far its admissions were read then.
        self._waiting: set[int] = set()
        self._admissions = (0, 0)
        world.line.watchers.append(self.look_at_line)
        world.shop.watchers.append(self.look_at_shop)
        world.postgres.watchers.append(self.look_at_record)
        world.provider.on_charge = self.look_at_charge
        world.on_failure = self.hear_failure

    def blame(self, what: str) -> None:
        """Note what did not hold."""
        if what not in self.broken:
            self.broken.append(what)
            self._world.note("judge", f"BROKEN {what}")

    # while it runs

    def look_at_shop(self) -> None:
        """I1 and the table of states, after each script."""
        world, model = self._world, self._world.shop.model
        keys = world.keys
        if (model.run_id, keys.epoch) != self._server:
            # Another server, or other keys: what they know may be older.
            self._server = model.run_id, keys.epoch
            self._orders.clear()
            self._states.clear()
        stock = model.data.get(keys.stock.encode())
        if stock and b"run_id" in model.data.get(keys.meta.encode(), {}):
            self._look_at_units(stock)
        for order, packed in (model.data.get(keys.orders.encode()) or {}).items():
            if self._orders.get(order) != packed:
                self._orders[order] = packed
                self._look_at_order(order, _order(packed))

    def look_at_line(self) -> None:
        """I5, after each script: nobody was let in before somebody who waited already, at a lower place, and lives.
        Runs are shorter than the grace: everybody lives."""
        data, keys = self._world.line.model.data, self._world.line_keys
        waiting = {int(place) for place in data.get(keys.waiting.encode()) or ()}
        stream = data.get(keys.admissions.encode())
        if stream is not None and stream.last != self._admissions:
            passed = self._waiting & waiting
            for entry, fields in stream.entries.items():
                if entry > self._admissions and passed:
                    places = [int(place) for place in fields[fields.index(b"places") + 1].split(b",")]
                    if max(places) > min(passed):
                        self.blame(f"I5: {max(places)} was let in before {min(passed)}")
            self._admissions = stream.last
        self._waiting = waiting

    def _look_at_units(self, stock: Mapping[bytes, bytes]) -> None:
        for product in PRODUCTS:
            units = {name: int(stock.get(f"{product}:{name}".encode(), b"0")) for name in (*COUNTERS, "stock")}
            if sum(units[name] for name in COUNTERS) != units["stock"]:
                self.blame(f"I1: units of {product} do not add up: {units}")
            if min(units[name] for name in COUNTERS if name != "free") < 0:
                self.blame(f"I1: units below zero: {units}")
            if units["free"] < 0 and not (self._world.plan.loses_data or self._world.plan.over):
                self.blame(f"I1: free below zero and nothing was lost: {units}")

    def _look_at_order(self, order: bytes, view: PackedOrder) -> None:
        before = self._states.get(order)
        self._states[order] = view.state
        if before in (None, view.state):
            return
        name = order.decode()[-5:]
        self._world.note("shop", f"{name} {before} -> {view.state}")
        if OrderState(before).may_become(OrderState(view.state)):
            return
        # A recorded claim outranks what Redis has forgotten.
        is_remade = self._world.plan.loses_data and view.state in ("confirmed", "payment_failed", "reserved")
        if not is_remade:
            self.blame(f"an order went from {before} to {view.state}")

    def look_at_record(self, writes: Mapping[tuple[str, Key], Row | None]) -> None:
        """I2, and that no watermark goes back or moves in a closed epoch, at each commit."""
        for (table, key), row in writes.items():
            if row is None:
                continue
            if table == "watermarks":
                before = self._upto.get(key)
                if before is not None and id_of(row["upto"]) < id_of(before):
                    self.blame(f"a watermark went back from {before} to {row['upto']}")
                self._upto[key] = row["upto"]
            elif table == "sale_items" and row["claimed"] + row["sold"] > row["stock"]:
                self.blame(f"I2: {row}")
            elif table == "poison":
                self.blame(f"an event could not be recorded: {row['error'][:80]}")
            elif table == "admissions":
                self._look_at_admission(row)
            elif table == "refusals":
                self._world.note("record", f"{row['order_id'][-5:]} refused: {row['reason']}")
                if row["reason"] == "stock" and not self._world.plan.loses_data and not self._world.plan.over:
                    self.blame("Redis promised a unit that the record does not have, and nothing was lost")
            elif table == "orders":
                self._world.note("record", f"{key[0][-5:]} {row['state']}, claim {row['claim']}")

    def _look_at_admission(self, row: Row) -> None:
        """I5, I6: who was let in, in which order, and how many were in then."""
        self._world.note("record", f"let in {row['places']}, {row['active']} of {row['active_max']}")
        if row["active"] > row["active_max"]:
            self.blame(f"I6: {row['active']} are in, at most {row['active_max']}")
        # Whoever was let in before and not told may come again.
        fresh = [place for place in row["places"] if place not in row["returners"] and place not in self._let_in]
        if fresh != sorted(fresh) or (fresh and self._let_in and fresh[0] < max(self._let_in)):
            self.blame(f"I5: {fresh} were let in after {max(self._let_in, default=0)}")
        self._let_in.update(row["places"])

    def _rate(self) -> None:
        """I6: over every stretch of time no more were let in than the rate and its burst allow."""
        rows = sorted(self._world.postgres.rows("admissions"), key=lambda row: row["at"])
        for first, one in enumerate(rows):
            people = 0
            for row in rows[first:]:
                people += len(row["places"])
                most = row["burst"] + row["rate_milli"] * (row["at"] - one["at"]) / 1e6
                if people > most + 1e-6:
                    self.blame(f"I6: {people} let in within {row['at'] - one['at']} ms, at most {most:.2f}")

    def look_at_charge(self, asked: Attempt) -> None:
        """No money moves before the unit is durably the buyer's."""
        row = self._world.postgres.row("payments", asked.attempt)
        self._world.note("provider", f"{asked.order[-5:]} charged")
        if row is None:
            self.blame("money moved for a claim that is not recorded")
        elif row["state"] == "refused":
            self.blame("money moved for a claim that the record refused")

    def hear_log(self, event: str, facts: Mapping[str, Any], error: BaseException | None) -> None:
        """What the code says of itself."""
        told = " ".join(f"{name}={str(value)[-20:]}" for name, value in facts.items())
        self._world.note("log", f"{event} {told}{f' {error!r}' if error else ''}")
        if error is not None:
            self.hear_failure(event, error)

    def hear_failure(self, who: str, error: BaseException) -> None:
        """A loop's tick failed: stores may be away, nothing else may be wrong."""
        if not isinstance(error, EXPECTED) and problem_of(error).status == 500:
            self.blame(f"{who}: {error!r}")

    def look_at_confirmation(self, order: str) -> None:
        """I3: what is answered `recorded` stands in Postgres at that moment."""
        row = self._world.postgres.row("orders", order)
        if row is None or row["claim"] != "sold":
            self.blame(f"I3: confirmed as recorded, and the record has claim {row and row['claim']}")

    # once it is over

    def verdict(self, told: Mapping[str, Any]) -> None:
        """Everything, after all was finished."""
        self._acknowledged(told)
        self._money()
        self._limits()
        self._streams()
        self._rate()
        if not self._world.plan.over:
            self._stores_agree()

    def _acknowledged(self, told: Mapping[str, Any]) -> None:
        for one in told.values():
            row = self._world.postgres.row("orders", one.order)
            if one.is_confirmed and (row is None or row["claim"] != "sold"):
                self.blame(f"I3: order {one.order[-5:]} was confirmed and is not sold")
            if row is None and not self._world.plan.loses_data:
                self.blame(f"order {one.order[-5:]} was reserved, nothing was lost, and the record does not know it")

    def _money(self) -> None:
        postgres = self._world.postgres
        sold: dict[str, int] = {}
        for attempt, entry in self._world.provider.entries.items():
            if entry.charge.state is not ChargeState.CAPTURED:
                continue
            order, payment = postgres.row("orders", entry.order), postgres.row("payments", attempt)
            is_sold = bool(order and payment and order["claim"] == "sold" and payment["state"] == "captured")
            is_refunded = sum(entry.refunds.values()) == entry.charge.amount
            sold[entry.order] = sold.get(entry.order, 0) + is_sold
            if is_sold == is_refunded:
                state = payment and payment["state"]
                self.blame(
                    f"I8: a capture of {entry.order[-5:]} ({state}) refunded {entry.refunds}, "
                    f"claim {order and order['claim']}"
                )
        for order_row in postgres.rows("orders"):
            if order_row["claim"] == "sold" and sold.get(order_row["id"]) != 1:
                self.blame(f"I8: order {order_row['id'][-5:]} is sold and paid {sold.get(order_row['id'], 0)} times")

    def _limits(self) -> None:
        bought: dict[str, int] = {}
        units: dict[tuple[str, str], int] = {}
        for order in self._world.postgres.rows("orders"):
            if order["claim"] not in ("open", "sold"):
                continue
            for line in self._world.postgres.rows("order_items"):
                if line["order_id"] == order["id"]:
                    bought[order["buyer"]] = bought.get(order["buyer"], 0) + line["quantity"]
                    at = (line["product"], "sold" if order["claim"] == "sold" else "claimed")
                    units[at] = units.get(at, 0) + line["quantity"]
        for buyer, count in bought.items():
            if count > self._world.plan.limit:
                self.blame(f"I7: {buyer} has {count}")
        for item in self._world.postgres.rows("sale_items"):
            for name in ("claimed", "sold"):
                if item[name] != units.get((item["product"], name), 0):
                    self.blame(f"I2: the record counts {item[name]} {name}, its orders {units}")

    def _streams(self) -> None:
        """Nothing is left behind the watermark, and nobody waits for what will not come."""
        world = self._world
        for stream in ("money", "holdings"):
            found = world.shop.model.data.get(getattr(world.keys, stream).encode())
            row = world.postgres.row("watermarks", SALE, stream, world.keys.epoch)
            if found is not None and row is not None and found.last > id_of(row["upto"]):
                self.blame(f"{stream} ends at {found.last}, recorded up to {row['upto']}")
        for order in world.postgres.rows("orders"):
            if order["claim"] == "open":
                self.blame(f"I9: the claim of {order['id'][-5:]} is still open")
        for refund in world.postgres.rows("refunds"):
            if refund["state"] != "done":
                self.blame(f"I8: a refund is not done: {refund['id'][-12:]}")
        if world.shop.model.data.get(world.keys.holds.encode()):
            self.blame("I9: a hold never lapsed")

    def _stores_agree(self) -> None:
        """I1: the shop's counters are the record's, order by order and unit by unit."""
        world = self._world
        stock = world.shop.model.data.get(world.keys.stock.encode()) or {}
        moving = {
            product: sum(
                move["quantity"] for move in world.postgres.rows("stock_moves")
                if move["product"] == product and move["state"] == "asked"
            )
            for product in PRODUCTS
        }  # fmt: skip
        for item in world.postgres.rows("sale_items"):
            product = item["product"]
            units = {name: int(stock.get(f"{product}:{name}".encode(), b"0")) for name in (*COUNTERS, "stock")}
            expected = {"held": 0, "claimed": item["claimed"], "sold": item["sold"], "stock": item["stock"]}
            if any(units[name] != value for name, value in expected.items()) and not moving[product]:
                self.blame(f"I1: {product}: Redis {units}, the record {item['stock']}/{item['claimed']}/{item['sold']}")
        for order, packed in (world.shop.model.data.get(world.keys.orders.encode()) or {}).items():
            row, state = world.postgres.row("orders", order.decode()), _order(packed).state
            if row is None or row["state"] != state:
                self.blame(f"I1: order {order.decode()[-5:]} is {state} in Redis, {row and row['state']} in the record")
