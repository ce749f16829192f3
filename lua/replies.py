"""Refusal numbers that scripts answer, one table for all of them. A number is never reused; 0 is success."""

from enum import IntEnum


class Reply(IntEnum):
    """What a script says of one item. Lua writes the number, Python reads the name."""

    OK = 0
    # Not the state this Redis was registered with (other run id or no meta): the store is being recovered.
    RECOVERING = 1
    NOT_OPEN = 2
    DRAINING = 3
    SOLD_OUT = 4
    ENDED = 5
    # Numbering reached the ceiling kept in Postgres: raise it and ask again.
    CEILING = 6
    UNKNOWN = 7
    GONE = 8
    STALE = 9
    PASS_EXPIRED = 10
    PASS_REVOKED = 11
    PASS_SPENT = 12
    LIMIT_REACHED = 13
    RESERVATION_OPEN = 14
    KEY_REUSED = 15
    RECORD_BEHIND = 16
    ORDER_EXPIRED = 17
    STATE_CONFLICT = 18
    IN_PROGRESS = 19
    NOT_YOURS = 20
    TRIES_EXHAUSTED = 21
    CORRUPT = 22
    TURN_BUSY = 23
    GUESTS_REFUSED = 24
    PRICE_CHANGED = 25
    UNAVAILABLE = 26
    CART_EMPTY = 27
    TOO_MANY_DROPS = 28
