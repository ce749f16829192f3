"""The line document: bytes <-> figures, and from them how many people are in front of any place. Pure.

One document of at most 2 KB (without `message`) stands for a line of a million: it names the places of the first 256
living and then of every fiftieth part further back, so anyone who holds it knows their position exactly near the front
and within 1 % beyond, without asking. Documents are ordered by (epoch, seq), never by time: clocks and numbering of a
recovered Redis may go back.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b

import msgspec

from onsale.queue.estimate import STILL, Pace, Sample, Wait
from onsale.queue.odds import Odds, OddsAhead
from onsale.queue.states import LineState

# Ranks listed one by one: people ahead are exact below this.
EXACT = 256
# What is promised of a document, without its message.
DOCUMENT_BYTES_MAX = 2_048
# A document older than this is shown as such, and no wait is told from it.
FRESH_MS = 3_000


class FrameInvalid(ValueError):
    """These bytes are not a line document."""


class RatePerSecond(msgspec.Struct, frozen=True):
    target: float
    measured: float


class Living(msgspec.Struct, frozen=True):
    """Where the living stand; `places` is padded base64 of LEB128 gaps."""

    exact: int
    places: str


class StockSummary(msgspec.Struct, frozen=True):
    """Units of the whole sale; what is claimed counts as held."""

    free: int
    held: int
    sold: int


class Message(msgspec.Struct, frozen=True):
    """What operators say to everyone who waits."""

    ko: str
    en: str


class Reason(msgspec.Struct, frozen=True):
    """Why things are as they are; clients have the words. `at` is RFC 3339."""

    code: str
    at: str
    params: dict[str, str | int | float | bool | None] = {}


class LineDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The line as everyone sees it. `as_of` is the line's Redis time."""

    sale: str
    lane: str = "general"
    state: LineState
    as_of: str
    epoch: int
    seq: int
    opens_at: str
    closes_at: str
    serving: int
    tail: int
    waiting: int
    absent: int
    admitted: int
    rate_per_second: RatePerSecond
    active: int
    active_max: int
    living: Living
    stock: StockSummary | None = None
    odds: OddsAhead | None = None
    message: Message | None = None
    reason: Reason | None = None


_decode = msgspec.json.Decoder(LineDocument).decode
_encode = msgspec.json.Encoder().encode


def rfc3339(at_ms: int) -> str:
    """RFC 3339 UTC with milliseconds."""
    seconds, ms = divmod(at_ms, 1000)
    return f"{_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def sampled_ranks(waiting: int) -> tuple[int, ...]:
    """Ranks whose places a document lists: 1 to 256 one by one, then r -> max(r + 1, floor(51r / 50)), and the last."""
    ranks = list(range(1, min(EXACT, waiting) + 1))
    rank = len(ranks)
    while rank < waiting:
        rank = min(waiting, max(rank + 1, 51 * rank // 50))
        ranks.append(rank)
    return tuple(ranks)


# Consecutive documents of a line differ little in `waiting`; several lines share the cache.
_ranks = lru_cache(maxsize=64)(sampled_ranks)


def encode_places(places: Sequence[int]) -> str:
    """Padded base64 of the unsigned LEB128 gaps between ascending places; the first gap counts from 0."""
    packed = bytearray()
    before = 0
    for place in places:
        gap, before = place - before, place
        if gap < 1:
            raise ValueError("places must ascend from 1")
        while gap > 0x7F:
            packed.append(gap & 0x7F | 0x80)
            gap >>= 7
        packed.append(gap)
    return b64encode(packed).decode("ascii")


def decode_places(text: str) -> list[int]:
    """The places that `encode_places` packed. Raises FrameInvalid."""
    try:
        packed = b64decode(text, validate=True)
    except binascii.Error as error:
        raise FrameInvalid("living.places is not base64") from error
    places: list[int] = []
    place = gap = shift = 0
    for byte in packed:
        gap |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            continue
        place += gap
        places.append(place)
        gap = shift = 0
    if shift:
        raise FrameInvalid("living.places ends inside a number")
    return places


def build(
    *,
    sale: str,
    lane: str = "general",
    state: LineState,
    as_of_ms: int,
    epoch: int,
    seq: int,
    opens_at_ms: int,
    closes_at_ms: int,
    serving: int,
    tail: int,
    waiting: int,
    absent: int,
    admitted: int,
    rate_target: float,
    rate_measured: float,
    active: int,
    active_max: int,
    places: Sequence[int],
    stock: StockSummary | None,
    odds: OddsAhead | None = None,
    message: Message | None = None,
    reason: Reason | None = None,
) -> bytes:
    """The document's bytes, the same for everyone. `places` are those of `sampled_ranks(waiting)`, in that order. Where
    a line is so large and so thin that its places leave no room for them, the odds are left out."""
    if len(places) != len(_ranks(waiting)):
        raise ValueError(f"{waiting} wait: {len(_ranks(waiting))} ranks must be listed, not {len(places)}")
    document = LineDocument(
        sale=sale,
        lane=lane,
        state=state,
        as_of=rfc3339(as_of_ms),
        epoch=epoch,
        seq=seq,
        opens_at=rfc3339(opens_at_ms),
        closes_at=rfc3339(closes_at_ms),
        serving=serving,
        tail=tail,
        waiting=waiting,
        absent=absent,
        admitted=admitted,
        rate_per_second=RatePerSecond(target=rate_target, measured=round(rate_measured, 2)),
        active=active,
        active_max=active_max,
        living=Living(exact=EXACT, places=encode_places(places)),
        stock=stock,
        odds=odds,
        message=message,
        reason=reason,
    )
    doc = _encode(document)
    if odds is not None and len(doc) - len(_encode(message)) + len(b"null") > DOCUMENT_BYTES_MAX:
        doc = _encode(msgspec.structs.replace(document, odds=None))
    return doc


class Frame:
    """One parsed line document. Everyone between two listed places has the same answer, so answers are kept by step."""

    __slots__ = (
        "_etag",
        "_places",
        "_ranks",
        "_waits",
        "as_of_ms",
        "doc",
        "document",
        "order",
        "pace",
        "texts",
        "waiting",
    )

    def __init__(self, doc: bytes, pace: Pace = STILL) -> None:
        """Raises FrameInvalid."""
        try:
            self.document = document = _decode(doc)
            self.as_of_ms = round(datetime.fromisoformat(document.as_of).timestamp() * 1000)
        except (msgspec.MsgspecError, ValueError) as error:
            raise FrameInvalid(str(error)) from error
        self.doc = doc
        self.order = (document.epoch, document.seq)
        self.waiting = document.waiting
        self.pace = pace
        self._places = decode_places(document.living.places)
        self._ranks = _ranks(document.waiting)
        self._waits: dict[int, Wait | None] = {}
        self._etag = ""
        # What others derive from a step of this document, kept with it.
        self.texts: dict[int, tuple[str, int]] = {}
        if document.living.exact != EXACT or len(self._places) != len(self._ranks):
            raise FrameInvalid("living.places does not list the ranks of this many waiting")

    def ahead(self, place: int) -> int:
        """Living people with a smaller place: exact under 256, within 1 % beyond."""
        return self.ahead_at(self.step(place))

    def step(self, place: int) -> int:
        """How many listed places are smaller; `ahead` and the wait depend on nothing else."""
        return bisect_left(self._places, place)

    def ahead_at(self, step: int) -> int:
        """People ahead of anyone at this step."""
        if step == 0:
            return 0
        low = self._ranks[step - 1]
        high = self._ranks[step] - 1 if step < len(self._ranks) else low
        return (low + high) // 2

    def wait_ms(self, place: int, now_ms: int) -> Wait | None:
        """The remaining wait; None while the line does not move or this document is older than 3 s at `now_ms`."""
        return self.wait_at(self.step(place)) if self.is_fresh(now_ms) else None

    def wait_at(self, step: int) -> Wait | None:
        """The remaining wait of anyone at this step, from a document that is fresh."""
        if step not in self._waits:
            self._waits[step] = self.pace.wait(self.ahead_at(step))
        return self._waits[step]

    def odds(self, place: int, now_ms: int) -> Odds | None:
        """How likely something is left at this place; None where nobody can say, as of `wait_ms`."""
        return self.odds_at(self.step(place)) if self.is_fresh(now_ms) else None

    def odds_at(self, step: int) -> Odds | None:
        """The odds of anyone at this step, from a document that is fresh."""
        odds = self.document.odds
        return None if odds is None else odds.of(self.ahead_at(step))

    def is_fresh(self, now_ms: int) -> bool:
        """Whether the document may still be taken for the present; `now_ms` is the line's Redis time."""
        return now_ms - self.as_of_ms <= FRESH_MS

    @property
    def places(self) -> Sequence[int]:
        """The listed places of the living, ascending."""
        return self._places

    @property
    def etag(self) -> str:
        """The same for documents that differ in nothing but `as_of`."""
        if not self._etag:
            undated = self.doc.replace(self.document.as_of.encode(), b"", 1)
            self._etag = f'"{blake2b(undated, digest_size=8).hexdigest()}"'
        return self._etag

    def sample(self) -> Sample:
        """What this document says of movement."""
        document = self.document
        return Sample(
            at_ms=self.as_of_ms,
            admitted=document.admitted,
            waiting=document.waiting,
            joined=document.tail,
            target=document.rate_per_second.target,
            measured=document.rate_per_second.measured,
            is_moving=document.state in (LineState.OPEN, LineState.DRAINING) and document.rate_per_second.target > 0,
            active=document.active,
            active_max=document.active_max,
        )
