"""The only place that knows the names of keys. Every key of a sale's line starts `{sale:line}:EPOCH:`, of its stock
`{sale:shop}:EPOCH:`: one hash tag, so one script may touch them all, and line and stock may live on servers of their
own.

The epoch is in every name: a process, a primary or a backup of an older epoch writes where nobody reads.
"""

from __future__ import annotations

from dataclasses import dataclass

# Signs of life are bitmaps by place, one for each quarter of the grace; five, so that four whole quarters can be read
# while the fifth is being written.
PRESENCE_SLOTS = 5


@dataclass(frozen=True, slots=True)
class LineKeys:
    """Names of the keys of one sale's line in one epoch."""

    sale: str
    epoch: int

    def _key(self, name: str) -> str:
        return f"{{{self.sale}:line}}:{self.epoch}:{name}"

    @property
    def meta(self) -> str:
        """hash: run_id, schedule, numbering, state, stock figures, bucket."""
        return self._key("meta")

    @property
    def policy(self) -> str:
        """hash: what operators set (rate, cap, times to live), with its version."""
        return self._key("policy")

    @property
    def pauses(self) -> str:
        """set: who holds the line still (operator, provider, record, recovering)."""
        return self._key("pauses")

    @property
    def waiting(self) -> str:
        """zset: places that wait and are not absent; member and score = place."""
        return self._key("waiting")

    @property
    def absent(self) -> str:
        """zset: places passed over for want of a sign of life; they keep their place."""
        return self._key("absent")

    @property
    def tickets(self) -> str:
        """hash: place -> packed ticket."""
        return self._key("tickets")

    @property
    def buyers(self) -> str:
        """hash: buyer -> place of the living ticket."""
        return self._key("buyers")

    @property
    def leases(self) -> str:
        """zset: seats; member = turn, score = when the lease ends (ms). Its cardinality is `active`."""
        return self._key("leases")

    @property
    def gone(self) -> str:
        """bitmap by place: had their turn, left or expired; refused when a line is gathered anew."""
        return self._key("gone")

    @property
    def frame(self) -> str:
        """string: the newest line document."""
        return self._key("frame")

    @property
    def admissions(self) -> str:
        """stream: what the flusher records of the line."""
        return self._key("admissions")

    @property
    def feed(self) -> str:
        """channel: documents, admissions, leavings, reasons, for every web process."""
        return self._key("feed")

    def presence(self, slot: int) -> str:
        """bitmap by place: signs of life in the quarter that holds this slot."""
        return self._key(f"presence:{slot}")


@dataclass(frozen=True, slots=True)
class ShopKeys:
    """Names of the keys of one sale's stock and orders in one epoch."""

    sale: str
    epoch: int

    def _key(self, name: str) -> str:
        return f"{{{self.sale}:shop}}:{self.epoch}:{name}"

    @property
    def meta(self) -> str:
        """hash: run_id, opens_at_ms, closes_at_ms, limit_per_buyer, hold_ttl_ms, pass_required, record_behind_ms, and
        how far the record is (`money_upto`, `holds_upto`)."""
        return self._key("meta")

    @property
    def stock(self) -> str:
        """hash: `<product>:free|held|claimed|sold|withdrawn|stock` -> units."""
        return self._key("stock")

    @property
    def holds(self) -> str:
        """zset: unpinned holds; member = order, score = expires_at_ms."""
        return self._key("holds")

    @property
    def orders(self) -> str:
        """hash: order -> packed order (state, rev, buyer, turn, items, expiry, tries, attempt)."""
        return self._key("orders")

    @property
    def docs(self) -> str:
        """hash: order -> the order's document as it was reserved (JSON)."""
        return self._key("docs")

    @property
    def buyers(self) -> str:
        """hash: buyer -> packed (units held, units bought, open order)."""
        return self._key("buyers")

    @property
    def turns(self) -> str:
        """hash: turn -> packed (open, spent, closed or revoked; open order)."""
        return self._key("turns")

    @property
    def keys(self) -> str:
        """hash: `buyer|Idempotency-Key` -> packed (digest, order or refusal); `#buyer` -> refusals among them."""
        return self._key("keys")

    @property
    def ended(self) -> str:
        """zset: orders that ended, `t|turn`, `k|buyer|key` of refusals; score = when (ms). Forgotten after a day,
        orders once they are recorded."""
        return self._key("ended")

    @property
    def moves(self) -> str:
        """set: ids of stock moves already applied."""
        return self._key("moves")

    @property
    def money(self) -> str:
        """stream: claimed, confirmed, declined, failed. Drained before `holds`."""
        return self._key("money")

    @property
    def holdings(self) -> str:
        """stream: reserved, lapsed, released."""
        return self._key("holdings")

    @property
    def closings(self) -> str:
        """stream: turn_closed; the line's admitter frees the seats."""
        return self._key("closings")

    @property
    def verdicts(self) -> str:
        """channel: what the record announces after each batch."""
        return self._key("verdicts")


def stream_key(digest: str) -> str:
    """string: the path of the stream that a stream key opened; of no sale, on the line's server."""
    return f"{{stream-key:{digest}}}"
