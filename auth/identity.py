"""Who asks, and how that was shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onsale.auth.roles import Role

Via = Literal["bearer", "cookie", "stream_key", "ticket"]


@dataclass(frozen=True, slots=True)
class Identity:
    """`account` is the buyer's id in the line and the shop; `session` is empty where there is none (a ticket's holder).

    `ticket` names the one ticket this identity may act for; empty = all of the account's.
    """

    account: str
    role: Role
    session: str
    is_verified: bool
    via: Via
    ticket: str = ""
