"""What Redis runs, and the small Python that loads and calls it. No rule of the line or the stock lives in Python here.

`Script` is one `.lua` file: its text with includes pasted in, its SHA, and a call that survives SCRIPT FLUSH and a
restarted server. Calls are never retried by the client: a script whose reply was lost may have run, so every item in a
script is idempotent under an id the caller made (the caller repeats it knowingly, or not at all).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from onsale.lua.cluster import Cluster, nodes_of

INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


@cache
def source(name: str) -> str:
    """The text of `name`.lua with each `-- include: part` line replaced by `includes/part.lua`."""
    folder = resources.files("onsale.lua")
    body = (folder / f"{name}.lua").read_text(encoding="utf-8")
    return INCLUDE.sub(lambda m: (folder / "includes" / f"{m[1]}.lua").read_text(encoding="utf-8"), body)


class Script:
    """One Lua file on one server or cluster. `await script(keys, args)` answers what the script returns, undecoded."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._redis = redis
        self._text = source(name)
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()
        self.name = name

    async def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """EVALSHA; where the server does not know the script (flushed, restarted, another node), EVAL once."""
        try:
            return await self._redis.evalsha(self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self._redis.eval(self._text, len(keys), *keys, *args)


class PromptConnection(Connection):
    """A connection that waits for a write only where the kernel did not take it.

    The client makes a task of every write, to give up on it in time: 10 to 15 µs of the 50 that calling a script costs.
    What the kernel did not take goes that way still; what it took and nobody answers, the read gives up on.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        writer = self._writer if self.is_connected and not self.health_check_interval else None
        if isinstance(command, list) and writer is not None and not writer.transport.is_closing():
            writer.writelines(command)
            if not writer.transport.get_write_buffer_size():
                return
            # Written already: what is left is to wait.
            command = []
        await super().send_packed_command(command, check_health)


def connect(url: str, *, timeout_s: float = 2.0, connections_max: int = 64) -> Redis:
    """A client that fails rather than repeats (a script whose reply was lost may have run) and answers bytes.

    A non-blocking pool: a small blocking one gave a p99 of half a second under 200 tasks. Several addresses, split by
    commas, are nodes of a cluster, which is used as if it were one server.
    """
    nodes = nodes_of(url)
    if len(nodes) > 1:
        return cast(Redis, Cluster.of(nodes, timeout_s=timeout_s, connections_max=connections_max))
    return Redis.from_url(
        url,
        decode_responses=False,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        max_connections=connections_max,
        # An address of TLS or of a socket file has a class of its own, which wins.
        connection_class=PromptConnection,
    )
