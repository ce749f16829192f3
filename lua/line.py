"""The line's scripts, typed: what goes in as it is sent, what comes out as it is read. No rule lives here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis

from onsale.lua import Script
from onsale.lua.keys import PRESENCE_SLOTS, LineKeys
from onsale.lua.replies import Reply

# A view as scripts answer it, behind its Reply: place, state number, buyer, joined_ms, lane number, is_absent,
# was_absent, turn, admitted_ms, told_ms, pass_exp_ms, ended_ms.
ViewRow = Sequence[Any]
Answer = tuple[Reply, Sequence[Any]]

_pack = msgspec.msgpack.Encoder().encode


class LineRefused(Exception):
    """A script of the whole line answered something else than OK."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.name)
        self.reply = reply


# 32,768 places: a chunk that changes is read and written whole.
GONE_CHUNK_BYTES = 4_096


class Settings(msgspec.Struct, frozen=True, array_like=True):
    """What Postgres says of a sale, in the order of `includes/settings.lua`."""

    opens_at_ms: int
    closes_at_ms: int
    draining: int
    # JSON of {"ko", "en"} or empty.
    message: str
    policy_version: int
    mode: str
    rate_centi: int
    active_max: int
    pass_ttl_ms: int
    turn_ttl_ms: int
    absent_after_ms: int
    # Who holds the line still.
    holders: tuple[str, ...]
    # 0, or when the settings below come back by themselves.
    revert_at_ms: int = 0
    # mode, rate_centi, active_max, pass_ttl_ms, turn_ttl_ms, absent_after_ms, paused (0, 1, or -1: as it is).
    back: tuple[str | int, ...] = ()


class StockNote(msgspec.Struct, frozen=True, array_like=True):
    """The shop's figures as an admitter read them `age_ms` ago, and the seats they allow."""

    free: int
    held: int
    claimed: int
    sold: int
    seats_max: int
    age_ms: int
    # Of units whose hold has ended: sold, and come back.
    kept: int = 0
    back: int = 0


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the data of a line has come, registered or not: its newest document, how many were let in since the
    opening, and how many places are gone."""

    seq: int
    admitted: int
    gone: int


class SeatOfRecord(msgspec.Struct, frozen=True, array_like=True):
    """A place that the record saw let in; `turn` is empty where the seat is over for certain."""

    place: int
    turn: str
    turns: int
    admitted_ms: int
    pass_exp_ms: int
    seat_until_ms: int
    # Whether its holder has heard of the turn, as far as anybody knows; else it can still be told, or taken back.
    is_told: bool = True


@dataclass(frozen=True, slots=True)
class AdmitTick:
    """What one call of admit.lua did. `is_more`: call again at once. `overdue` turns: the shop ends or keeps them."""

    state: str
    active: int
    admitted: int
    passed_over: int
    untold: int
    expired: int
    is_more: bool
    is_due: bool
    # Where the shop's closings were applied up to: the shop's epoch, a colon, a stream id.
    closings_cursor: str
    overdue: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """`reply`: OK, RECOVERING (on another server), UNKNOWN (not loaded) or CORRUPT (a key of another type); behind the
    server's clock, all is nothing for the latter two."""

    reply: Reply
    # Of the server that answered.
    run_id: str
    now_ms: int
    sync_no: int = 0
    tail: int = 0
    ceiling: int = 0
    is_sold_out: bool = False
    # opens_at_ms, closes_at_ms, draining, message, policy_version
    synced: tuple[int, int, int, str, int] | None = None
    holders: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LineFigures:
    """What a line document is made of: one consistent look at the line on Redis time."""

    epoch: int
    # The document made from this look has this number; publishing it is a compare-and-set.
    seq: int
    # A LineState.
    state: str
    as_of_ms: int
    opens_at_ms: int
    closes_at_ms: int
    serving: int
    tail: int
    waiting: int
    absent: int
    admitted: int
    rate_centi: int
    # Let in during the last whole seconds: (seconds, people) over 10 s and over 60 s, shorter just after opening.
    recent_short: tuple[int, int]
    recent_long: tuple[int, int]
    active: int
    active_max: int
    # Units as the admitters last knew them; `held` includes claimed ones; -1 = never known.
    stock_free: int
    stock_held: int
    stock_sold: int
    units_kept: int
    units_back: int
    # JSON of {"ko", "en"} or empty.
    message: str
    # Empty, or why the line stands or what changed, since when, and a JSON object of facts.
    reason: str
    reason_at_ms: int
    reason_params: str
    # What the document before this one said.
    shown_state: str
    shown_reason: str
    # Counters that stay 0: someone let in before a lower place that lived; seats above the cap.
    inversions: int
    cap_violations: int
    # Places of the living of rank 1 to 256, then of ranks r -> max(r + 1, floor(51 r / 50)), the last being `waiting`.
    places: tuple[int, ...]


class LineScripts:
    """One method a script. Those of many items answer one (Reply, values) each; the others raise LineRefused."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._join = Script(redis, "join")
        self._look = Script(redis, "look")
        self._sign = Script(redis, "sign")
        self._take = Script(redis, "take")
        self._leave = Script(redis, "leave")
        self._restore = Script(redis, "restore")
        self._admit = Script(redis, "admit")
        self._park = Script(redis, "park")
        self._close_seats = Script(redis, "close_seats")
        self._extend_seats = Script(redis, "extend_seats")
        self._document = Script(redis, "document")
        self._publish = Script(redis, "publish")
        self._hold = Script(redis, "hold")
        self._settings = Script(redis, "settings")
        self._inspect = Script(redis, "inspect")
        self._ceiling = Script(redis, "line_ceiling")
        self._load = Script(redis, "line_load")
        self._load_gone = Script(redis, "line_gone")
        self._register = Script(redis, "line_register")

    async def join(self, keys: LineKeys, items: Sequence[tuple[str, int]]) -> list[Answer]:
        """(buyer, lane number) each. OK: a view with is_fresh behind it."""
        names = [keys.meta, keys.pauses, keys.waiting, keys.absent, keys.tickets, keys.buyers, *_presence(keys)]
        return _answers(await self._join(names, [_pack(items)]))

    async def look(self, keys: LineKeys, places: Sequence[int]) -> list[Answer]:
        """OK: a view."""
        return _answers(await self._look([keys.meta, keys.pauses, keys.absent, keys.tickets], [_pack(places)]))

    async def sign(self, keys: LineKeys, places: Sequence[int]) -> list[Answer]:
        """Only those not simply waiting: OK and a view, or UNKNOWN and the place."""
        names = [keys.meta, keys.pauses, keys.waiting, keys.absent, keys.tickets, *_presence(keys)]
        return _answers(_ok(await self._sign(names, [_pack(places)])))

    async def take(self, keys: LineKeys, places: Sequence[int], *, skew_ms: int) -> list[Answer]:
        """OK: a view."""
        names = [keys.meta, keys.pauses, keys.policy, keys.absent, keys.tickets, keys.leases, keys.gone]
        return _answers(await self._take(names, [_pack(places), skew_ms]))

    async def leave(self, keys: LineKeys, items: Sequence[tuple[int, str]]) -> list[Answer]:
        """(place, turn that the shop has closed or "") each. OK: a view; TURN_BUSY: the turn to close first."""
        names = [
            *(keys.meta, keys.pauses, keys.waiting, keys.absent, keys.tickets),
            *(keys.leases, keys.gone, keys.feed),
        ]
        return _answers(await self._leave(names, [_pack(items)]))

    async def restore(self, keys: LineKeys, items: Sequence[tuple[int, str, int, int]]) -> list[Answer]:
        """(place, buyer, joined_ms, lane number) each. OK: a view."""
        names = [
            *(keys.meta, keys.pauses, keys.waiting, keys.absent, keys.tickets),
            *(keys.buyers, keys.gone, keys.feed, *_presence(keys)),
        ]
        return _answers(await self._restore(names, [_pack(items)]))

    async def admit(self, keys: LineKeys, stock: StockNote | None, *, admit_max: int, skew_ms: int = 0) -> AdmitTick:
        """Let in whom rate, cap and stock allow; a seat is kept `skew_ms` longer than its pass."""
        names = [
            *(keys.meta, keys.policy, keys.pauses, keys.waiting, keys.absent, keys.tickets),
            *(keys.leases, keys.gone, keys.admissions, keys.feed, *_presence(keys)),
        ]
        row = _ok(await self._admit(names, [_pack(stock or ()), admit_max, skew_ms]))
        return AdmitTick(
            state=row[0].decode(),
            active=row[1],
            admitted=row[2],
            passed_over=row[3],
            untold=row[4],
            expired=row[5],
            is_more=row[6] == 1,
            is_due=row[7] == 1,
            closings_cursor=row[8].decode(),
            overdue=tuple(turn.decode() for turn in row[9]),
        )

    async def park(self, keys: LineKeys, *, look_max: int, park_max: int) -> tuple[int, int]:
        """How many were looked at, and how many of them put aside."""
        names = [keys.meta, keys.pauses, keys.waiting, keys.absent, keys.feed, *_presence(keys)]
        looked, parked = _ok(await self._park(names, [look_max, park_max]))
        return looked, parked

    async def close_seats(
        self, keys: LineKeys, *, seen: str, upto: str, closings: Sequence[tuple[str, str]]
    ) -> tuple[bool, int, str]:
        """Whether this call applied them, how many seats became free, and the cursor as it stands now."""
        names = [keys.meta, keys.tickets, keys.leases, keys.gone, keys.feed]
        row = await self._close_seats(names, [seen, upto, _pack(closings)])
        if row[0] == Reply.STALE:
            return False, 0, row[1].decode()
        freed, cursor = _ok(row)
        return True, freed, cursor.decode()

    async def extend_seats(self, keys: LineKeys, items: Sequence[tuple[str, int]]) -> int:
        """(turn, until_ms) each. How many seats are kept longer."""
        kept: int = _ok(await self._extend_seats([keys.meta, keys.leases], [_pack(items)]))[0]
        return kept

    async def document(self, keys: LineKeys) -> LineFigures | None:
        """None: another admitter makes the next document, or none is due."""
        names = [keys.meta, keys.policy, keys.pauses, keys.waiting, keys.absent, keys.leases]
        row = await self._document(names, [])
        if row[0] == Reply.STALE:
            return None
        return _figures(_ok(row))

    async def publish(self, keys: LineKeys, figures: LineFigures, document: bytes, messages: Sequence[bytes]) -> bool:
        """Whether this document became the newest; `messages` went out with it, in order."""
        # As msgpack strings: Redis's unpacker knows no binary type.
        texts = [message.decode() for message in messages]
        args: list[str | bytes | int] = [figures.seq, figures.state, figures.reason, document, _pack(texts)]
        row = await self._publish([keys.meta, keys.frame, keys.feed], args)
        if row[0] == Reply.STALE:
            return False
        _ok(row)
        return True

    async def hold(self, keys: LineKeys, holder: str, *, is_held: bool) -> bool:
        """Whether that changed anything."""
        names = [keys.meta, keys.policy, keys.pauses]
        return bool(_ok(await self._hold(names, [holder, int(is_held)]))[0])

    async def settings(self, keys: LineKeys, settings: Settings, *, seen: int) -> bool:
        """False: read sync_no, then Postgres, again."""
        row = await self._settings([keys.meta, keys.policy, keys.pauses], [seen, _pack(settings)])
        if row[0] == Reply.STALE:
            return False
        _ok(row)
        return True

    async def inspect(self, keys: LineKeys) -> Inspection:
        """How the line stands on this server."""
        names = [
            *(keys.meta, keys.policy, keys.pauses, keys.waiting, keys.absent, keys.tickets, keys.buyers),
            *(keys.leases, keys.gone, keys.admissions, keys.frame, *_presence(keys)),
        ]
        row = await self._inspect(names, [])
        reply, run_id, now_ms = Reply(row[0]), row[1].decode(), row[2]
        if len(row) == 3:
            return Inspection(reply, run_id, now_ms)
        opens_at_ms, closes_at_ms, draining, message, version = row[7]
        synced = (opens_at_ms, closes_at_ms, draining, message.decode(), version)
        holders = frozenset(holder.decode() for holder in row[8])
        return Inspection(reply, run_id, now_ms, row[3], row[4], row[5], row[6] == 1, synced, holders)

    async def ceiling(self, keys: LineKeys, ceiling: int) -> int:
        """The ceiling in force."""
        raised: int = _ok(await self._ceiling([keys.meta], [ceiling]))[0]
        return raised

    async def load(self, keys: LineKeys, seats: Sequence[SeatOfRecord]) -> None:
        """Write seats of the record into a line that is not registered."""
        _ok(await self._load([keys.meta, keys.tickets, keys.leases, keys.gone], [_pack(seats)]))

    async def load_gone(self, keys: LineKeys, chunk: int, bits: bytes) -> None:
        """Write a chunk of those who are gone into a line that is not registered; before any `load`."""
        _ok(await self._load_gone([keys.meta, keys.gone], [chunk * GONE_CHUNK_BYTES, bits]))

    async def reached(self, keys: LineKeys) -> Reached:
        """How far this data has come."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hmget(keys.meta, "seq", "admitted")
            pipe.bitcount(keys.gone)
            (seq, admitted), gone = await pipe.execute()
        return Reached(int(seq or 0), int(admitted or 0), gone)

    async def gone_counts(self, keys: LineKeys) -> list[int]:
        """How many places of each chunk are gone."""
        chunks = -(-int(await self._redis.strlen(keys.gone)) // GONE_CHUNK_BYTES)
        async with self._redis.pipeline(transaction=False) as pipe:
            for chunk in range(chunks):
                pipe.bitcount(keys.gone, *_byte_range(chunk))
            return [int(count) for count in await pipe.execute()]

    async def gone_chunks(self, keys: LineKeys, chunks: Sequence[int]) -> list[bytes]:
        """The bits of those chunks; the last one of a line may be shorter."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for chunk in chunks:
                pipe.getrange(keys.gone, *_byte_range(chunk))
            return [bytes(bits) for bits in await pipe.execute()]

    async def forget(self, keys: LineKeys) -> None:
        """Drop a line of an epoch that is over, but for the admissions that may not be recorded yet."""
        names = [
            *(keys.meta, keys.policy, keys.pauses, keys.waiting, keys.absent, keys.tickets, keys.buyers),
            *(keys.leases, keys.gone, keys.frame, *_presence(keys)),
        ]
        await self._redis.unlink(*names)

    async def register(
        self,
        keys: LineKeys,
        settings: Settings,
        *,
        is_again: bool,
        run_id: str,
        tail: int,
        ceiling: int,
        gather_ms: int = 0,
        admitted: int = 0,
        serving: int = 0,
        recorded_upto: str = "0-0",
    ) -> bool:
        """Whether this call registered the line."""
        numbers: list[str | bytes | int] = [int(is_again), keys.epoch, tail, ceiling, gather_ms, admitted, serving]
        row = await self._register(
            [keys.meta, keys.policy, keys.pauses, keys.admissions],
            [*numbers, _pack(settings), run_id, recorded_upto],
        )
        if row[0] == Reply.STALE:
            return False
        _ok(row)
        return True


def _byte_range(chunk: int) -> tuple[int, int]:
    return chunk * GONE_CHUNK_BYTES, (chunk + 1) * GONE_CHUNK_BYTES - 1


def _presence(keys: LineKeys) -> list[str]:
    return [keys.presence(slot) for slot in range(PRESENCE_SLOTS)]


def _answers(rows: Sequence[Sequence[Any]]) -> list[Answer]:
    return [(Reply(row[0]), row[1:]) for row in rows]


def _ok(row: Sequence[Any]) -> Sequence[Any]:
    if row[0] != Reply.OK:
        raise LineRefused(Reply(row[0]))
    return row[1:]


def _figures(row: Sequence[Any]) -> LineFigures:
    return LineFigures(
        epoch=row[0],
        seq=row[1],
        state=row[2].decode(),
        as_of_ms=row[3],
        opens_at_ms=row[4],
        closes_at_ms=row[5],
        serving=row[6],
        tail=row[7],
        waiting=row[8],
        absent=row[9],
        admitted=row[10],
        rate_centi=row[11],
        recent_short=(row[12], row[13]),
        recent_long=(row[14], row[15]),
        active=row[16],
        active_max=row[17],
        stock_free=row[18],
        stock_held=row[19],
        stock_sold=row[20],
        units_kept=row[21],
        units_back=row[22],
        message=row[23].decode(),
        reason=row[24].decode(),
        reason_at_ms=row[25],
        reason_params=row[26].decode(),
        shown_state=row[27].decode(),
        shown_reason=row[28].decode(),
        inversions=row[29],
        cap_violations=row[30],
        places=tuple(row[31]),
    )
