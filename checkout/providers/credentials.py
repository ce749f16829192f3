"""What we and a provider know each other by. Read from the environment by `server/config.py`; never logged."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where a provider is, our key there, and the secrets its webhooks are signed with: the current one first, the one
    before it while it is being changed."""

    url: str
    secret: str = field(default="", repr=False)
    webhook_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    # PortOne alone: which shop, and by which channel its payments go; "" = as is set there.
    store_id: str = ""
    channel_key: str = ""
