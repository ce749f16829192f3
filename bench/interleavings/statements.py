"""What our named statements do, step by step, on the model of Postgres. Nothing here decides what is right: each
function is the translation of one statement of a `.sql` file, with its guards, its locks and their order, and what it
answers.

Left out, because nothing tried here asks for it: foreign keys, triggers, the notices they write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

import asyncpg

from bench.interleavings.postgres_model import Key, Row, Transaction
from onsale.migrations.sql import load_queries

Rows = list[Row]
HANDLERS: dict[str, Callable[..., Awaitable[Rows]]] = {}
TABLES = (
    "sales", "sale_items", "orders", "order_items", "payments", "sale_buyers", "ledger", "admissions", "watermarks",
    "refusals", "poison", "refunds", "stock_moves", "turns_closed",
)  # fmt: skip
OPEN = ("open", "sold")


def statement(package: str, file: str) -> Callable[[Any], Any]:
    """The function below it is the statement of its name in that file."""

    def adopt(function: Any) -> Any:
        HANDLERS[getattr(load_queries(package, file), function.__name__.rstrip("_"))] = function
        return function

    return adopt


flusher = statement("onsale.checkout.record", "flusher.sql")
rebuild = statement("onsale.checkout.record", "rebuild.sql")
watermark = statement("onsale.checkout.record", "watermark.sql")
orders = statement("onsale.checkout", "orders.sql")
completer = statement("onsale.checkout", "completer.sql")
webhooks = statement("onsale.checkout", "webhooks.sql")
moves = statement("onsale.catalog", "moves.sql")
sales = statement("onsale.catalog", "sales.sql")
numbering = statement("onsale.queue", "numbering.sql")


def checks() -> dict[str, list[Callable[[Row], None]]]:
    """The CHECK constraints, by table."""

    def within_stock(row: Row) -> None:
        if not (row["claimed"] >= 0 and row["sold"] >= 0 and row["claimed"] + row["sold"] <= row["stock"]):
            raise asyncpg.CheckViolationError("sale_items violates its check")

    def within_limit(row: Row) -> None:
        if not 0 <= row["bought"] <= row["bought_max"]:
            raise asyncpg.CheckViolationError("never_above_limit")

    return {"sale_items": [within_stock], "sale_buyers": [within_limit]}


def uniques() -> dict[str, dict[str, Callable[[Row], Key | None]]]:
    """The unique indexes beside the primary keys."""
    return {
        "orders": {
            "orders_one_claim_a_turn": lambda o: (
                (o["sale"], o["turn"]) if o["turn"] is not None and o["claim"] in OPEN else None
            )
        },
        "payments": {
            "payments_order_id_idempotency_key_key": lambda p: (p["order_id"], p["idempotency_key"]),
            "payments_one_open_an_order": lambda p: (p["order_id"],) if p["state"] == "pending" else None,
        },
        "watermarks": {
            "watermarks_one_open_a_stream": lambda w: (w["sale"], w["stream"]) if w["closed_at"] is None else None
        },
    }


def id_of(text: str) -> tuple[int, int]:
    ms, _, seq = text.partition("-")
    return int(ms), int(seq)


ELEMENT = re.compile(r'NULL|"((?:[^"\\]|\\.)*)"', re.DOTALL)


def unnest(names: str, columns: Sequence[Sequence[Any] | str]) -> Iterator[Row]:
    """`unnest($n, …) AS n (names)`; a column that is one string is an array of text as Postgres writes it."""
    arrays = [_elements(column) if isinstance(column, str) else column for column in columns]
    return (dict(zip(names.split(), row, strict=True)) for row in zip(*arrays, strict=True))


def _elements(array: str) -> list[str | None]:
    found = ELEMENT.finditer(array)
    return [None if one[1] is None else re.sub(r"\\(.)", r"\1", one[1], flags=re.DOTALL) for one in found]


def keys_of(rows: Iterable[Row], *names: str) -> list[Key]:
    return [tuple(row[name] for name in names) for row in rows]


async def locked(tx: Transaction, table: str, rows: Iterable[Row], *names: str) -> Rows:
    """FOR UPDATE of these rows in this order."""
    if table in tx.unlocked:
        return list(rows)
    found = [await tx.locked(table, key) for key in keys_of(rows, *names)]
    return [row for row in found if row is not None]


# --- sales -----------------------------------------------------------------------------------------------------------


@sales
async def sales_all(tx: Transaction, sale: str | None) -> Rows:
    found = tx.scan("sales", lambda s: sale in (None, s["id"]))
    rows: Rows = []
    for row in found:
        items = [
            {
                key: item[key]
                for key in ("product", "title", "amount", "list_amount", "currency", "stock", "claimed", "sold")
            }
            for item in tx.scan("sale_items", lambda i, s=row["id"]: i["sale"] == s and s != "_shop")
        ]
        known = {name: value for name, value in row.items() if name != "line_run"}
        rows.append({**known, "items": json.dumps(sorted(items, key=lambda i: i["product"]))})
    return sorted(rows, key=lambda row: row["no"])


@numbering
async def place_ceiling_raise(tx: Transaction, sale: str, epoch: int, run: str, ceiling: int, block: int) -> Rows:
    raised = await tx.update(
        "sales", [(sale,)],
        lambda s: (s["line_epoch"], s["line_run"]) == (epoch, run) and s["place_ceiling"] <= ceiling,
        lambda s: {"place_ceiling": s["place_ceiling"] + block},
    )  # fmt: skip
    return [{"place_ceiling": row["place_ceiling"]} for row in raised]


@numbering
async def place_ceiling(tx: Transaction, sale: str, epoch: int, run: str) -> Rows:
    found = tx.scan("sales", lambda s: (s["id"], s["line_epoch"], s["line_run"]) == (sale, epoch, run))
    return [{"place_ceiling": row["place_ceiling"]} for row in found]


# --- flusher ---------------------------------------------------------------------------------------------------------


def _epoch(sale: Row, stream: str) -> int:
    epoch: int = sale["line_epoch"] if stream == "admissions" else sale["shop_epoch"]
    return epoch


@flusher
async def watermarks_make(tx: Transaction, stream: str) -> Rows:
    for sale in tx.scan("sales"):
        epoch = _epoch(sale, stream)
        is_open = any(
            w["sale"] == sale["id"] and w["stream"] == stream and w["closed_at"] is None for w in tx.scan("watermarks")
        )
        if epoch > 0 and not is_open:
            try:
                await tx.insert(
                    "watermarks", (sale["id"], stream, epoch), _watermark(sale["id"], stream, epoch), lambda _: None
                )
            except asyncpg.UniqueViolationError:
                continue
    return []


def _watermark(sale: str, stream: str, epoch: int, upto: str = "0-0") -> Row:
    return {"sale": sale, "stream": stream, "epoch": epoch, "upto": upto, "closed_at": None}


@flusher
async def watermarks_open(tx: Transaction, stream: str) -> Rows:
    rows: Rows = []
    for w in tx.scan("watermarks", lambda w: w["stream"] == stream and w["closed_at"] is None):
        sale = tx.seen("sales", (w["sale"],))
        assert sale is not None
        is_past = w["epoch"] < _epoch(sale, stream)
        rows.append({"sale": w["sale"], "epoch": w["epoch"], "upto": w["upto"], "is_past": is_past})
    return rows


@flusher
async def watermark_of(tx: Transaction, sale: str, stream: str) -> Rows:
    found = tx.scan("watermarks", lambda w: (w["sale"], w["stream"], w["closed_at"]) == (sale, stream, None))
    return [{"epoch": w["epoch"], "upto": w["upto"]} for w in found]


@flusher
async def watermark_close(tx: Transaction, sale: str, epoch: int, upto: str) -> Rows:
    await tx.update(
        "watermarks", [(sale, "admissions", epoch)],
        lambda w: w["upto"] == upto and w["closed_at"] is None, lambda w: {"closed_at": tx.now_ms},
    )  # fmt: skip
    return []


@flusher
async def watermark_move(tx: Transaction, sale: str, stream: str, epoch: int, prev: str, upto: str) -> Rows:
    tx.idle_timeout_s, tx.lock_timeout_s = 2.0, 1.0
    moved = await tx.update(
        "watermarks", [(sale, stream, epoch)],
        lambda w: w["upto"] == prev and w["closed_at"] is None, lambda w: {"upto": upto},
    )  # fmt: skip
    limit = tx.seen("sales", (sale,))
    assert limit is not None
    return [{"limit_per_buyer": limit["limit_per_buyer"]} for _ in moved]


@flusher
async def orders_lock_ids(tx: Transaction, ids: Sequence[str]) -> Rows:
    rows = sorted(tx.scan("orders", lambda o: o["id"] in ids), key=lambda o: o["id"])
    return [{"id": row["id"]} for row in await locked(tx, "orders", rows, "id")]


LINE = ("product", "title", "quantity", "unit_amount", "list_amount", "currency")


def _lines(tx: Transaction, order: str) -> list[Row]:
    lines = sorted(tx.scan("order_items", lambda i: i["order_id"] == order), key=lambda i: i["product"])
    return [{name: line[name] for name in LINE} for line in lines]


@flusher
async def standing_lock(
    tx: Transaction,
    sale: str,
    ids: Sequence[str],
    products: Sequence[str],
    names: Sequence[str],
    turns: Sequence[str],
) -> Rows:
    known = await locked(tx, "orders", sorted(tx.scan("orders", lambda o: o["id"] in ids), key=lambda o: o["id"]), "id")
    known_ids = {o["id"] for o in known}
    wanted = {*products, *(i["product"] for i in tx.scan("order_items", lambda i: i["order_id"] in known_ids))}
    items = await locked(
        tx,
        "sale_items",
        sorted(
            tx.scan("sale_items", lambda i: i["sale"] == sale and i["product"] in wanted), key=lambda i: i["product"]
        ),
        "sale",
        "product",
    )
    people = {*names, *(o["buyer"] for o in known)}
    buyers = await locked(
        tx,
        "sale_buyers",
        sorted(tx.scan("sale_buyers", lambda b: b["sale"] == sale and b["buyer"] in people), key=lambda b: b["buyer"]),
        "sale",
        "buyer",
    )
    all_turns = {*turns, *(o["turn"] for o in known if o["turn"])}
    taken = tx.scan("orders", lambda o: o["sale"] == sale and o["turn"] in all_turns and o["claim"] in OPEN)
    tries = {
        o["id"]: [
            [p["id"], p["order_id"], p["state"], p["amount"], p["currency"], p["reason"], p["retryable"]]
            for p in tx.scan("payments", lambda p, o=o["id"]: p["order_id"] == o)
        ]
        for o in known
    }
    standing = [
        {
            "order": o["id"], "buyer": o["buyer"], "turn": o["turn"] or "", "amount": o["amount"],
            "currency": o["currency"], "state": o["state"], "claim": o["claim"], "rev": o["rev"],
            "claim_rev": o["claim_rev"], "reason": o["reason"], "revision": o["revision"],
            "items": _lines(tx, o["id"]), "attempts": tries[o["id"]],
        }
        for o in known
    ]  # fmt: skip
    return [
        {
            "orders": json.dumps(standing),
            "items": json.dumps([[i["product"], i["stock"], i["claimed"], i["sold"]] for i in items]),
            "buyers": json.dumps([[b["buyer"], b["bought"]] for b in buyers]),
            "turns": json.dumps([[o["turn"], o["id"]] for o in taken]),
        }
    ]


CLAIMED = (
    "id buyer turn lane state claim reason rev claim_rev amount currency address idempotency_key body_digest "
    "reserved_at expires_at confirmed_at ended_at revision"
)
TRIED = (
    "id order_id provider method state reason retryable amount currency idempotency_key body_digest instrument driver "
    "drive_ms created_at ended_at"
)
KEPT = ("expires_at", "confirmed_at", "ended_at")
CHANGED = "id claim claim_rev state rev reason expires_at confirmed_at ended_at"


def _claimed_again(old: Row, new: Row) -> Row | None:
    if not old["claim_rev"] < new["claim_rev"]:
        return None
    change = {
        name: new[name] for name in ("claim", "claim_rev", "confirmed_at", "amount", "currency", "address", "revision")
    }
    if old["rev"] < new["rev"]:
        change |= {name: new[name] for name in ("state", "reason", "expires_at", "ended_at")}
    return {**change, "rev": max(old["rev"], new["rev"])}


@flusher
async def money_write(tx: Transaction, sale: str, epoch: int, bought_max: int, *columns: Sequence[Any]) -> Rows:
    written = 0
    for new in unnest(CLAIMED, columns[:19]):
        row = {**new, "sale": sale, "epoch": epoch, "turn": new["turn"] or None}
        written += (
            await tx.insert("orders", (new["id"],), row, lambda old, new=row: _claimed_again(old, new)) is not None
        )
    for line in unnest("order_id " + " ".join(LINE), columns[19:26]):
        await tx.insert("order_items", (line["order_id"], line["product"]), line, lambda _: None)
    # Ended before the new ones: payments of one order are of one batch, and the second may be open.
    ended = list(unnest("id state reason retryable ended_at", columns[51:56]))
    for end in ended:
        change = {name: end[name] for name in ("state", "reason", "retryable", "ended_at")} | {"instrument": None}
        await tx.update("payments", [(end["id"],)], lambda _: True, lambda _, change=change: change)
    for new in unnest(TRIED, columns[26:42]):
        drive_ms = new.pop("drive_ms")
        await tx.insert("payments", (new["id"],), {**new, "drive_until": tx.now_ms + drive_ms})
    for new in unnest(CHANGED, columns[42:51]):
        changed = await tx.update(
            "orders", [(new["id"],)], lambda o, new=new: o["claim_rev"] < new["claim_rev"],
            lambda o, new=new: {
                **{name: new[name] for name in ("claim", "claim_rev", "state", "rev", "reason")},
                **{name: o[name] if new[name] is None else new[name] for name in KEPT},
            },
        )  # fmt: skip
        written += len(changed)
    for move in unnest("product claimed sold", columns[56:59]):
        await tx.update(
            "sale_items", [(sale, move["product"])], lambda _: True,
            lambda i, m=move: {"claimed": i["claimed"] + m["claimed"], "sold": i["sold"] + m["sold"]},
        )  # fmt: skip
    for buyer in unnest("buyer bought", columns[59:61]):
        row = {"sale": sale, "buyer": buyer["buyer"], "bought": buyer["bought"], "bought_max": bought_max}
        await tx.insert(
            "sale_buyers", (sale, buyer["buyer"]), row,
            lambda old, new=row: {"bought": new["bought"], "bought_max": max(old["bought_max"], new["bought_max"])},
        )  # fmt: skip
    for line in unnest("at product order_id verb quantity amount currency event_id reason", columns[61:70]):
        key = (line["order_id"], line["product"], line["verb"], epoch, line["event_id"])
        await tx.insert("ledger", key, {**line, "sale": sale, "epoch": epoch})
    return [{"orders": written}]


HELD = (
    "id buyer turn lane state rev amount currency address idempotency_key body_digest reserved_at expires_at ended_at"
)


def _held_again(old: Row, new: Row) -> Row | None:
    if not (old["rev"] < new["rev"] or new["reserved_at"] < old["reserved_at"]):
        return None
    change = {name: new[name] for name in ("state", "expires_at", "ended_at")} if old["rev"] < new["rev"] else {}
    return {
        **change, "rev": max(old["rev"], new["rev"]), "reserved_at": min(old["reserved_at"], new["reserved_at"]),
    }  # fmt: skip


@flusher
async def orders_hold_insert(tx: Transaction, sale: str, epoch: int, *columns: Sequence[Any]) -> Rows:
    held: dict[str, int] = {}
    new_order = {"claim": "none", "reason": None, "claim_rev": 0, "confirmed_at": None, "revision": 1}
    for new in unnest(HELD, columns[:14]):
        row = {**new_order, **new, "sale": sale, "epoch": epoch, "turn": new["turn"] or None}
        found = await tx.insert("orders", (new["id"],), row, lambda old, new=row: _held_again(old, new))
        if found is not None:
            held[new["id"]] = found["revision"]
    for line in unnest("order_id " + " ".join(LINE) + " revision", columns[14:22]):
        if held.get(line["order_id"]) == line.pop("revision"):
            await tx.insert("order_items", (line["order_id"], line["product"]), line, lambda _: None)
    return []


@flusher
async def orders_hold_end(tx: Transaction, *columns: Sequence[Any]) -> Rows:
    ended = list(unnest("id state rev ended_at", columns))
    for new in ended:
        change = {name: new[name] for name in ("state", "rev", "ended_at")}
        await tx.update("orders", [(new["id"],)], lambda o, new=new: o["rev"] < new["rev"], lambda _, c=change: c)
    return [{"id": new["id"]} for new in ended if tx.seen("orders", (new["id"],)) is not None]


@flusher
async def orders_amend(tx: Transaction, *columns: Sequence[Any]) -> Rows:
    for new in unnest("id revision amount currency address", columns):
        change = {name: new[name] for name in ("revision", "amount", "currency", "address")}
        await tx.update(
            "orders", [(new["id"],)], lambda o, new=new: o["revision"] < new["revision"], lambda _, c=change: c
        )
    return []


@flusher
async def order_items_delete(tx: Transaction, *columns: Sequence[Any]) -> Rows:
    kept: dict[str, set[str]] = {}
    for line in unnest("order_id product revision", columns):
        order = tx.seen("orders", (line["order_id"],))
        if order is not None and order["revision"] == line["revision"]:
            kept.setdefault(line["order_id"], set()).add(line["product"])
    for row in tx.scan("order_items", lambda i: i["order_id"] in kept and i["product"] not in kept[i["order_id"]]):
        key = (row["order_id"], row["product"])
        await tx.lock("order_items", key)
        tx.writes["order_items", key] = None
    return []


@flusher
async def order_items_insert(tx: Transaction, *columns: Sequence[Any]) -> Rows:
    for line in unnest("order_id " + " ".join(LINE) + " revision", columns):
        order = tx.seen("orders", (line["order_id"],))
        if order is None or order["revision"] != line.pop("revision"):
            continue
        await tx.insert(
            "order_items", (line["order_id"], line["product"]), line,
            lambda old, new=line: (
                new if (old["quantity"], old["unit_amount"]) != (new["quantity"], new["unit_amount"]) else None
            ),
        )  # fmt: skip
    return []


@flusher
async def refusals_insert(tx: Transaction, sale: str, epoch: int, *columns: Sequence[Any]) -> Rows:
    for new in unnest("order_id event_id reason", columns):
        row = {**new, "sale": sale, "epoch": epoch, "settled_at": None, "created_at": tx.now_ms}
        await tx.insert("refusals", (new["order_id"], epoch, new["event_id"]), row, lambda _: None)
    return []


def _refund(tx: Transaction, payment: str, amount: int, currency: str, reason: str) -> Row:
    return {
        "id": f"{payment}-refund", "payment_id": payment, "amount": amount, "currency": currency, "reason": reason,
        "state": "pending", "drive_until": None, "created_at": tx.now_ms, "done_at": None,
    }  # fmt: skip


@flusher
async def refunds_insert(tx: Transaction, *columns: Sequence[Any]) -> Rows:
    for payment, amount, currency, reason in zip(*columns, strict=True):
        row = _refund(tx, payment, amount, currency, reason)
        await tx.insert("refunds", (row["id"],), row, lambda _: None)
    return []


@flusher
async def poison_insert(tx: Transaction, sale: str, stream: str, epoch: int, *columns: Sequence[Any]) -> Rows:
    for new in unnest("event_id payload error", columns):
        row = {**new, "sale": sale, "stream": stream, "epoch": epoch}
        await tx.insert("poison", (sale, stream, epoch, new["event_id"]), row, lambda _: None)
    return []


ADMITTED = "event_id lane at places returners rate_milli burst active active_max passed_over inversions"


@flusher
async def admissions_insert(tx: Transaction, sale: str, epoch: int, *columns: Sequence[Any]) -> Rows:
    for new in unnest(ADMITTED, columns):
        row = {**new, "sale": sale, "epoch": epoch}
        for name in ("places", "returners"):
            row[name] = [int(place) for place in new[name].strip("{}").split(",") if place]
        await tx.insert("admissions", (sale, epoch, new["event_id"]), row, lambda _: None)
    return []


# --- waiting for the record ------------------------------------------------------------------------------------------


@watermark
async def verdicts_of(tx: Transaction, *columns: Sequence[Any]) -> Rows:
    answers: Rows = []
    for n in unnest("at sale stream epoch event_id order_id", columns):
        w = tx.seen("watermarks", (n["sale"], n["stream"], n["epoch"]))
        if w is None:
            continue
        refusal = tx.seen("refusals", (n["order_id"], n["epoch"], n["event_id"]))
        is_poison = tx.seen("poison", (n["sale"], n["stream"], n["epoch"], n["event_id"])) is not None
        answers.append({
            "at": n["at"], "is_recorded": id_of(w["upto"]) >= id_of(n["event_id"]),
            "is_closed": w["closed_at"] is not None,
            "refused": refusal["reason"] if refusal else "state" if is_poison else None,
        })  # fmt: skip
    return answers


# --- orders ----------------------------------------------------------------------------------------------------------

DETAILS = (
    "sale", "buyer", "lane", "epoch", "state", "claim", "reason", "rev", "amount", "currency", "address",
    "idempotency_key", "body_digest", "reserved_at",
)  # fmt: skip


def _order_details(tx: Transaction, o: Row) -> Row:
    payments = []
    for p in sorted(tx.scan("payments", lambda p: p["order_id"] == o["id"]), key=lambda p: (p["created_at"], p["id"])):
        refund = tx.seen("refunds", (f"{p['id']}-refund",))
        payments.append({
            "payment": p["id"], "provider": p["provider"], "method": p["method"], "state": p["state"],
            "reason": p["reason"], "retryable": p["retryable"], "key": p["idempotency_key"],
            "digest": p["body_digest"], "currency": p["currency"], "refund": refund and refund["amount"],
            "created_at_ms": p["created_at"],
        })  # fmt: skip
    return {
        "order": o["id"], **{name: o[name] for name in DETAILS}, "turn": o["turn"] or "",
        "expires_at_ms": o["expires_at"], "items": json.dumps(_lines(tx, o["id"])), "payments": json.dumps(payments),
        "revision": o["revision"],
    }  # fmt: skip


@orders
async def order_get(tx: Transaction, order: str) -> Rows:
    return [_order_details(tx, o) for o in tx.scan("orders", lambda o: o["id"] == order)]


@orders
async def order_by_key(tx: Transaction, buyer: str, sale: str, key: str) -> Rows:
    found = tx.scan("orders", lambda o: (o["buyer"], o["sale"], o["idempotency_key"]) == (buyer, sale, key))
    return [_order_details(tx, o) for o in sorted(found, key=lambda o: o["id"])[:1]]


@orders
async def refund_open(tx: Transaction, payment: str, amount: int, currency: str, reason: str) -> Rows:
    p = tx.seen("payments", (payment,))
    if p is None:
        return []
    row = await tx.insert(
        "refunds", (f"{payment}-refund",), _refund(tx, payment, amount, currency, reason), lambda r: {}
    )
    assert row is not None
    order = tx.seen("orders", (p["order_id"],))
    is_claimed = p["state"] == "pending" and order is not None and order["claim"] == "open"
    return [{"amount": row["amount"], "currency": row["currency"], "is_claimed": is_claimed}]


@orders
async def refund_close(tx: Transaction, refund: str) -> Rows:
    closed = await tx.update(
        "refunds", [(refund,)], lambda r: r["state"] == "pending",
        lambda _: {"state": "done", "done_at": tx.now_ms, "drive_until": None},
    )  # fmt: skip
    change = {"state": "refunded", "instrument": None, "driver": None, "drive_until": None}
    paid = await tx.update(
        "payments", keys_of(closed, "payment_id"), lambda _: True,
        lambda p: {**change, "ended_at": p["ended_at"] or tx.now_ms},
    )  # fmt: skip
    return [{"id": row["id"]} for row in paid]


@orders
async def refusal_settle(tx: Transaction, order: str, event_id: str) -> Rows:
    keys = keys_of(
        tx.scan("refusals", lambda r: (r["order_id"], r["event_id"]) == (order, event_id)),
        "order_id", "epoch", "event_id",
    )  # fmt: skip
    await tx.update("refusals", keys, lambda r: r["settled_at"] is None, lambda _: {"settled_at": tx.now_ms})
    return []


# --- completer -------------------------------------------------------------------------------------------------------


async def _take(tx: Transaction, table: str, due: Rows, where: Callable[[Row], bool], limit: int) -> list[Row]:
    """FOR UPDATE SKIP LOCKED."""
    taken: list[Row] = []
    for row in due:
        if len(taken) == limit:
            break
        if not await tx.lock(table, (row["id"],), skip=True):
            continue
        newest = tx.newest(table, (row["id"],)) if tx.looks_again else row
        if newest is not None and where(newest):
            taken.append(newest)
    return taken


@completer
async def attempts_take(tx: Transaction, driver: str, drive_ms: int, limit: int) -> Rows:
    def is_due(p: Row) -> bool:
        order = tx.seen("orders", (p["order_id"],))
        return bool(p["state"] == "pending" and order and order["claim"] == "open" and p["drive_until"] < tx.now_ms)

    due = sorted(tx.scan("payments", is_due), key=lambda p: p["drive_until"])
    rows: Rows = []
    for p in await _take(tx, "payments", due, is_due, limit):
        tx.put("payments", (p["id"],), {**p, "driver": driver, "drive_until": tx.now_ms + drive_ms})
        rows.append({
            "attempt": p["id"], "order": p["order_id"], "provider": p["provider"], "method": p["method"],
            "key": p["idempotency_key"], "instrument": p["instrument"], "age_ms": tx.now_ms - p["created_at"],
        })  # fmt: skip
    return rows


@completer
async def attempts_wait(tx: Transaction, attempt: str, driver: str, wait_ms: int) -> Rows:
    await tx.update(
        "payments", [(attempt,)], lambda p: p["driver"] == driver and p["state"] == "pending",
        lambda _: {"drive_until": tx.now_ms + wait_ms},
    )  # fmt: skip
    return []


@completer
async def refunds_take(tx: Transaction, drive_ms: int, limit: int) -> Rows:
    def is_due(r: Row) -> bool:
        p = tx.seen("payments", (r["payment_id"],))
        order = p and tx.seen("orders", (p["order_id"],))
        is_claimed = p and order and p["state"] == "pending" and order["claim"] == "open"
        return r["state"] == "pending" and not is_claimed and (r["drive_until"] is None or r["drive_until"] < tx.now_ms)

    rows: Rows = []
    for r in await _take(
        tx, "refunds", sorted(tx.scan("refunds", is_due), key=lambda r: r["created_at"]), is_due, limit
    ):
        tx.put("refunds", (r["id"],), {**r, "drive_until": tx.now_ms + drive_ms})
        p = tx.seen("payments", (r["payment_id"],))
        assert p is not None
        rows.append({
            "refund": r["id"], "attempt": p["id"], "order": p["order_id"], "charged": p["amount"],
            "amount": r["amount"], "currency": r["currency"], "provider": p["provider"], "method": p["method"],
        })  # fmt: skip
    return rows


@completer
async def refusals_open(tx: Transaction, grace_ms: int, limit: int) -> Rows:
    found = tx.scan(
        "refusals",
        lambda r: r["settled_at"] is None and r["sale"] is not None and r["created_at"] < tx.now_ms - grace_ms,
    )
    found.sort(key=lambda r: r["created_at"])
    names = ("event_id", "epoch", "sale", "reason")
    return [{"order": r["order_id"], **{name: r[name] for name in names}} for r in found[:limit]]


@completer
async def strays_of(tx: Transaction, sale: str, epoch: int, *columns: Sequence[Any]) -> Rows:
    w = tx.seen("watermarks", (sale, "money", epoch))
    rows: Rows = []
    for n in unnest("order_id attempt event_id", columns):
        order = tx.seen("orders", (n["order_id"],))
        if (
            w is not None
            and id_of(w["upto"]) >= id_of(n["event_id"])
            and tx.seen("payments", (n["attempt"],)) is None
            and not tx.scan("refusals", lambda r, n=n: (r["order_id"], r["event_id"]) == (n["order_id"], n["event_id"]))
            and not (order is not None and order["claim"] in OPEN)
        ):
            rows.append({"order": n["order_id"], "attempt": n["attempt"]})
    return rows


@completer
async def stray_end(tx: Transaction, order: str) -> Rows:
    await tx.update(
        "orders", [(order,)], lambda o: o["state"] in ("reserved", "confirming") and o["claim"] not in OPEN,
        lambda _: {"state": "released", "reason": "claim_lost", "ended_at": tx.now_ms},
    )  # fmt: skip
    return []


@webhooks
async def events_take(tx: Transaction, drive_ms: int, limit: int) -> Rows:
    # The provider of these runs sends no webhooks.
    return []


# --- moves of stock --------------------------------------------------------------------------------------------------


@moves
async def move_ask(
    tx: Transaction, move: str, sale: str, product: str, quantity: int, why: str, target: str | None
) -> Rows:
    row = {
        "id": move, "sale": sale, "product": product, "quantity": quantity, "why": why, "state": "asked",
        "target": target, "applied_epoch": None, "order_id": None, "created_at": tx.now_ms,
    }  # fmt: skip
    return [{"id": move}] if await tx.insert("stock_moves", (move,), row, lambda _: None) is not None else []


@moves
async def moves_pending(tx: Transaction, named: Sequence[str] | None, limit: int) -> Rows:
    rows: Rows = []
    for m in sorted(tx.scan("stock_moves"), key=lambda m: (m["created_at"], m["id"])):
        sale = tx.seen("sales", (m["sale"],))
        assert sale is not None and named is None
        if m["applied_epoch"] is None and m["state"] != "refused" and m["order_id"] is None and sale["shop_epoch"] > 0:
            names = ("id", "sale", "product", "quantity", "state")
            rows.append({**{name: m[name] for name in names}, "epoch": sale["shop_epoch"]})
    return rows[:limit]


@moves
async def epoch_hold(tx: Transaction, sale: str) -> Rows:
    # A share lock; one that excludes others as well is waited for by more, and lets nothing through.
    row = await tx.locked("sales", (sale,))
    return [] if row is None else [{"shop_epoch": row["shop_epoch"]}]


@moves
async def move_applied(tx: Transaction, move: str, epoch: int) -> Rows:
    await tx.update(
        "stock_moves", [(move,)], lambda m: m["applied_epoch"] is None and m["state"] == "counted",
        lambda _: {"applied_epoch": epoch},
    )  # fmt: skip
    return []


@moves
async def move_refuse(tx: Transaction, move: str) -> Rows:
    await tx.update("stock_moves", [(move,)], lambda m: m["state"] == "asked", lambda _: {"state": "refused"})
    return []


@moves
async def move_lock(tx: Transaction, move: str) -> Rows:
    row = await tx.locked("stock_moves", (move,))
    return [] if row is None else [{name: row[name] for name in ("sale", "product", "state", "target")}]


async def _moved_items_lock(tx: Transaction, product: str, sellers: Sequence[str | None]) -> Rows:
    rows = sorted(
        tx.scan("sale_items", lambda i: i["product"] == product and i["sale"] in sellers), key=lambda i: i["sale"]
    )
    return [{"sale": row["sale"]} for row in await locked(tx, "sale_items", rows, "sale", "product")]


HANDLERS[load_queries("onsale.catalog", "moves.sql").items_lock] = _moved_items_lock


@moves
async def move_count(tx: Transaction, move: str, epoch: int) -> Rows:
    m = tx.seen("stock_moves", (move,))
    if m is None:
        return []
    items = await tx.update(
        "sale_items", [(m["sale"], m["product"])],
        lambda i: i["claimed"] + i["sold"] <= i["stock"] + m["quantity"],
        lambda i: {"stock": i["stock"] + m["quantity"]},
    )  # fmt: skip
    if not items:
        return []
    await tx.update("stock_moves", [(move,)], lambda _: True, lambda _: {"state": "counted", "applied_epoch": epoch})
    return [{"units": -m["quantity"]}]


# --- rebuild ---------------------------------------------------------------------------------------------------------


@rebuild
async def rebuild_alone(tx: Transaction, sale: str) -> Rows:
    tx.idle_timeout_s = 120.0
    return [{"is_ours": await tx.lock("advisory", ("rebuild", sale), skip=True)}]


@rebuild
async def fence_settings(tx: Transaction) -> Rows:
    tx.idle_timeout_s, tx.lock_timeout_s = 10.0, 5.0
    return []


@rebuild
async def epoch_of(tx: Transaction, sale: str) -> Rows:
    return [{"shop_epoch": row["shop_epoch"]} for row in tx.scan("sales", lambda s: s["id"] == sale)]


@rebuild
async def epoch_raise(tx: Transaction, sale: str, epoch: int) -> Rows:
    raised = await tx.update(
        "sales", [(sale,)], lambda s: s["shop_epoch"] == epoch, lambda s: {"shop_epoch": s["shop_epoch"] + 1}
    )
    return [{"shop_epoch": row["shop_epoch"]} for row in raised]


async def _close(tx: Transaction, sale: str) -> Rows:
    def is_open(w: Row) -> bool:
        return w["sale"] == sale and w["stream"] in ("money", "holdings") and w["closed_at"] is None

    keys = keys_of(tx.scan("watermarks", is_open), "sale", "stream", "epoch")
    return await tx.update("watermarks", keys, is_open, lambda _: {"closed_at": tx.now_ms})


@rebuild
async def watermarks_close(tx: Transaction, sale: str) -> Rows:
    await _close(tx, sale)
    return []


@rebuild
async def watermarks_begin(tx: Transaction, sale: str, epoch: int) -> Rows:
    for stream in ("money", "holdings"):
        await tx.insert("watermarks", (sale, stream, epoch), _watermark(sale, stream, epoch))
    return []


@rebuild
async def watermarks_continue(tx: Transaction, sale: str, epoch: int) -> Rows:
    closed = await _close(tx, sale)
    for row in closed:
        key = (sale, row["stream"], epoch)
        await tx.insert("watermarks", key, _watermark(sale, row["stream"], epoch, row["upto"]))
    return [{"stream": row["stream"], "upto": row["upto"]} for row in closed]


@rebuild
async def items_lock(tx: Transaction, sale: str) -> Rows:
    rows = sorted(tx.scan("sale_items", lambda i: i["sale"] == sale), key=lambda i: i["product"])
    found = await locked(tx, "sale_items", rows, "sale", "product")
    return [{name: row[name] for name in ("product", "stock", "sold")} for row in found]


@rebuild
async def moves_count(tx: Transaction, sale: str, epoch: int) -> Rows:
    def is_counted(m: Row) -> bool:
        return m["sale"] == sale and m["applied_epoch"] is None and m["state"] == "counted"

    keys = keys_of(tx.scan("stock_moves", is_counted), "id")
    await tx.update("stock_moves", keys, is_counted, lambda _: {"applied_epoch": epoch})
    return []


@rebuild
async def moves_of(tx: Transaction, sale: str) -> Rows:
    found = tx.scan("stock_moves", lambda m: m["sale"] == sale and m["state"] == "counted")
    return [{"id": move} for move in sorted(m["id"] for m in found)]


@rebuild
async def refusals_settle(tx: Transaction, sale: str) -> Rows:
    def is_open(r: Row) -> bool:
        return r["sale"] == sale and r["settled_at"] is None

    keys = keys_of(tx.scan("refusals", is_open), "order_id", "epoch", "event_id")
    await tx.update("refusals", keys, is_open, lambda _: {"settled_at": tx.now_ms})
    return []


@rebuild
async def orders_live(tx: Transaction, sale: str) -> Rows:
    seller = tx.seen("sales", (sale,))
    assert seller is not None

    def is_live(o: Row) -> bool:
        return o["sale"] == sale and bool(
            o["claim"] == "open"
            or (o["claim"] in ("none", "released") and o["state"] == "reserved")
            or (o["claim"] == "sold" and o["confirmed_at"] > tx.now_ms - 86_400_000)
        )

    names = (
        "id", "buyer", "lane", "claim", "rev", "amount", "currency", "address", "idempotency_key", "body_digest",
        "revision",
    )  # fmt: skip
    rows: Rows = []
    for o in sorted(tx.scan("orders", is_live), key=lambda o: o["id"]):
        payments = tx.scan("payments", lambda p, o=o["id"]: p["order_id"] == o)
        payments.sort(key=lambda p: (p["created_at"], p["id"]))
        tries = [[p["id"], p["idempotency_key"], p["body_digest"], p["state"], p["reason"] or ""] for p in payments]
        rows.append({
            **{name: o[name] for name in names}, "turn": o["turn"] or "", "limit_per_buyer": seller["limit_per_buyer"],
            "reserved_ms": o["reserved_at"], "expires_ms": max(o["expires_at"], tx._server.clock_ms() + 60_000),
            "confirmed_ms": o["confirmed_at"] or 0, "items": json.dumps(_lines(tx, o["id"])),
            "attempts": json.dumps(tries),
        })  # fmt: skip
    return rows


@rebuild
async def bought_of(tx: Transaction, sale: str) -> Rows:
    units: dict[str, int] = {}
    for o in tx.scan("orders", lambda o: o["sale"] == sale and o["claim"] == "sold"):
        units[o["buyer"]] = units.get(o["buyer"], 0) + sum(line["quantity"] for line in _lines(tx, o["id"]))
    return [{"buyer": buyer, "units": sold} for buyer, sold in units.items()]


@rebuild
async def turns_over(tx: Transaction, sale: str) -> Rows:
    spent = tx.scan("orders", lambda o: o["sale"] == sale and o["turn"] is not None and o["claim"] == "sold")
    over = [(o["confirmed_at"], o["turn"], "spent") for o in spent]
    bought = {turn for _, turn, _ in over}
    closed = tx.scan("turns_closed", lambda t: t["sale"] == sale and t["turn"] not in bought)
    over += [(t["closed_at"], t["turn"], "revoked" if t["why"] == "revoked" else "closed") for t in closed]
    return [{"turn": turn, "state": state} for _, turn, state in sorted(over, reverse=True)]


@rebuild
async def figures_of(tx: Transaction, sale: str) -> Rows:
    rows: Rows = []
    unsettled = len(tx.scan("refusals", lambda r: r["sale"] == sale and r["settled_at"] is None))
    reserved = [o["id"] for o in tx.scan("orders", lambda o: o["sale"] == sale and o["state"] == "reserved")]
    for i in tx.scan("sale_items", lambda i: i["sale"] == sale):
        held = sum(line["quantity"] for o in reserved for line in _lines(tx, o) if line["product"] == i["product"])
        moving = [m for m in tx.scan("stock_moves") if (m["sale"], m["product"]) == (sale, i["product"])]
        moving = [m for m in moving if m["applied_epoch"] is None]
        rows.append({
            "product": i["product"], "stock": i["stock"], "claimed": i["claimed"], "sold": i["sold"], "held": held,
            "moving": sum(m["quantity"] for m in moving if m["order_id"] is None and m["state"] == "counted"),
            "returned": sum(m["quantity"] for m in moving if m["order_id"] is not None), "unsettled": unsettled,
        })  # fmt: skip
    return rows
