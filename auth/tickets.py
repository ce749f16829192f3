"""Tickets that prove themselves, and the tokens that prove who holds one.

A ticket's id is 24 bytes: when it was joined (6), the sale's number (3), the lane (1), the place (5) and a keyed MAC
(9) over those and the buyer. So a place can be proved after Redis is gone: nobody but us can have written it, and it is
nobody else's. A ticket token adds the buyer and a MAC of its own key; it is the bearer's whole proof, lives as long as
the ticket, and never opens anything but that ticket.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from onsale.auth.errors import NotFound, Unauthenticated
from onsale.auth.identifiers import from_text, to_text
from onsale.auth.keys import Key, Keyring

_FACT_BYTES = 15
# 72 bits: a guess costs a request, and an id is of use only to the buyer it was made for.
_ID_MAC_BYTES = 9
_ID_BYTES = _FACT_BYTES + _ID_MAC_BYTES
_TOKEN_MAC_BYTES = 20
_KIND = "ott"  # onsale ticket token; no other kind of ours starts so
_TOKEN_LENGTH_MAX = 256
# A token and its facts take about 600 bytes: 40 MB at most, and all pollers of one process fit.
_CACHE_MAX = 65_536


@dataclass(frozen=True, slots=True)
class TicketFacts:
    """What a ticket's id says. `lane` 0 is the general one; `joined_ms` is Redis time."""

    ticket: str
    sale_no: int
    lane: int
    place: int
    joined_ms: int


class Tickets:
    """Issues and reads ticket ids and ticket tokens. A token seen before costs one dictionary look-up."""

    def __init__(self, keyring: Keyring) -> None:
        self._id_keys = keyring.derive("ticket id")
        self._token_keys = keyring.derive("ticket token")
        # Only successes are kept: an exception never fills the cache.
        self._read_cached = lru_cache(maxsize=_CACHE_MAX)(self._read)
        self._facts_cached = lru_cache(maxsize=_CACHE_MAX)(_facts)

    def issue(self, sale_no: int, lane: int, place: int, joined_ms: int, buyer: str) -> str:
        """The id of a ticket: the same facts always give the same id (39 characters)."""
        facts = b"".join(
            (
                joined_ms.to_bytes(6, "big"),
                sale_no.to_bytes(3, "big"),
                lane.to_bytes(1, "big"),
                place.to_bytes(5, "big"),
            )
        )
        return to_text(facts + _mac(self._id_keys[0], facts, buyer, _ID_MAC_BYTES))

    def facts(self, ticket_id: str) -> TicketFacts:
        """What the id says, not yet believed: `belongs` or a token must vouch for it. NotFound when it is no id."""
        return self._facts_cached(ticket_id)

    def belongs(self, ticket_id: str, buyer: str) -> bool:
        """Whether we made this id for this buyer."""
        try:
            raw = from_text(ticket_id, _ID_BYTES)
        except ValueError:
            return False
        return _is_signed(self._id_keys, raw[:_FACT_BYTES], buyer, raw[_FACT_BYTES:])

    def token(self, ticket_id: str, buyer: str) -> str:
        """The bearer token of a ticket: at most 256 characters, visible ASCII."""
        mac = _mac(self._token_keys[0], ticket_id.encode(), buyer, _TOKEN_MAC_BYTES)
        return f"{_KIND}.{ticket_id}.{to_text(mac)}.{buyer}"

    def read_token(self, token: str) -> tuple[TicketFacts, str]:
        """The ticket and the buyer that a token speaks for. Unauthenticated when it is not ours, unchanged."""
        return self._read_cached(token)

    def _read(self, token: str) -> tuple[TicketFacts, str]:
        if len(token) > _TOKEN_LENGTH_MAX or not token.isascii():
            raise Unauthenticated
        parts = token.split(".", 3)
        if len(parts) != 4 or parts[0] != _KIND:
            raise Unauthenticated
        _, ticket_id, mac, buyer = parts
        try:
            signature = from_text(mac, _TOKEN_MAC_BYTES)
            facts = _facts(ticket_id)
        except (ValueError, NotFound) as error:
            raise Unauthenticated from error
        if not _is_signed(self._token_keys, ticket_id.encode(), buyer, signature):
            raise Unauthenticated
        return facts, buyer


def is_ticket_token(token: str) -> bool:
    """Whether a bearer token is of this kind; says nothing of its worth."""
    return token.startswith(_KIND + ".")


def _facts(ticket_id: str) -> TicketFacts:
    try:
        raw = from_text(ticket_id, _ID_BYTES)
    except ValueError as error:
        raise NotFound from error
    return TicketFacts(
        ticket=ticket_id,
        joined_ms=int.from_bytes(raw[:6], "big"),
        sale_no=int.from_bytes(raw[6:9], "big"),
        lane=raw[9],
        place=int.from_bytes(raw[10:15], "big"),
    )


def _is_signed(keys: Sequence[Key], facts: bytes, buyer: str, mac: bytes) -> bool:
    return any(hmac.compare_digest(mac, _mac(key, facts, buyer, len(mac))) for key in keys)


def _mac(key: Key, facts: bytes, buyer: str, size: int) -> bytes:
    # `facts` has one length for each key, so nothing of it can be read as part of the buyer.
    return blake2b(facts + buyer.encode(), key=key.secret, digest_size=size).digest()
