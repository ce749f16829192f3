"""A Redis Cluster where the rooms know one Redis. A sale's line is one hash tag, its stock another: each lives whole on
one shard, so scripts and their keys need nothing here. What differs is what spans sales.

Promises: the same methods with the same answers. Calls are not repeated, but for those that a shard sent on to another
(MOVED, ASK): such a call was not run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio.cluster import ClusterNode, ClusterPipeline, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

# A blocking read of streams on several shards would hold a connection to each, and one that has news would wait for
# the others: they are asked again and again instead. 5 ms: a tenth of what a reader waits.
READ_AGAIN_S: Final = 0.005


def nodes_of(url: str) -> list[str]:
    """The addresses in a setting: one server, or some nodes of a cluster. Later ones may leave the scheme out."""
    first, *others = [part.strip() for part in url.split(",")]
    scheme = first.partition("://")[0]
    return [first, *(other if "://" in other else f"{scheme}://{other}" for other in others)]


class Cluster(RedisCluster):
    """Several masters and their replicas, known by some of their addresses."""

    @classmethod
    def of(cls, urls: list[str], *, timeout_s: float, connections_max: int) -> Cluster:
        """A client; nothing is connected yet. User and password are the first address's."""
        parts = [urlsplit(url) for url in urls]
        return cls(
            startup_nodes=[ClusterNode(part.hostname or "127.0.0.1", part.port or 6379) for part in parts],
            username=parts[0].username,
            password=parts[0].password,
            ssl=parts[0].scheme == "rediss",
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            max_connections=connections_max,
        )

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> Pipeline:
        # redis-py's own pipeline lacks, by its types, an attribute that only a client has.
        return Pipeline(self, transaction or None)  # type: ignore[abstract]

    async def config_get(self, pattern: Any = "*", *args: Any, **kwargs: Any) -> Any:
        """What all masters say; where they differ, all of it."""
        await self.initialize()
        answers = await asyncio.gather(
            *(self.execute_command("CONFIG GET", pattern, *args, target_nodes=node) for node in self.get_primaries())
        )
        said: dict[str, set[str]] = {}
        for answer in answers:
            for name, value in answer.items():
                said.setdefault(name, set()).add(value)
        return {name: " or ".join(sorted(values)) for name, values in said.items()}

    async def xread(
        self,
        streams: Any,
        count: int | None = None,
        block: int | None = None,
        max_count: int | None = None,
        max_size: int | None = None,
    ) -> Any:
        """Streams of any shards; waits at most `block` milliseconds for the first news."""
        ends_at = time.monotonic() + (block or 0) / 1000
        while True:
            found = await self._read_all(streams, count)
            if found or time.monotonic() >= ends_at:
                return found
            await asyncio.sleep(READ_AGAIN_S)

    async def _read_all(self, streams: Mapping[Any, Any], count: int | None) -> list[Any]:
        async with self.pipeline() as pipe:
            for stream, after in streams.items():
                pipe.xread({stream: after}, count=count)
            return [news for answer in await pipe.execute() for news in _pairs(answer)]


class Pipeline(ClusterPipeline):
    """Commands to any shards, one round to each. TIME is a master's: the clocks of a cluster are held together."""

    def time(self, **kwargs: Any) -> Any:
        return self.execute_command("TIME", target_nodes=self.cluster_client.get_default_node())


def _pairs(answer: Any) -> list[Any]:
    # redis-py answers a list of pairs for RESP2 and a dictionary for RESP3.
    return list(answer.items()) if isinstance(answer, dict) else list(answer or ())


__all__ = ["Cluster", "nodes_of"]
