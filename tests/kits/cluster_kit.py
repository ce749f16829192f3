"""What tests ask of a whole server, asked of every master of a cluster: a key's shard is nothing a test should know."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import redis.asyncio

from onsale.lua.cluster import Cluster


class WholeCluster(Cluster):
    """A cluster that also answers what only tests ask."""

    async def _of_all(self, *command: Any) -> list[Any]:
        await self.initialize()
        return await asyncio.gather(*(self.execute_command(*command, target_nodes=one) for one in self.get_primaries()))

    async def keys(self, pattern: Any = "*", **kwargs: Any) -> list[Any]:
        return [key for keys in await self._of_all("KEYS", pattern) for key in keys]

    async def config_set(self, name: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._of_all("CONFIG SET", name, value, *args)

    async def client_kill_filter(self, *args: Any, **kwargs: Any) -> Any:
        """Of all nodes, replicas too: how many were cut off."""
        await self.initialize()
        nodes = [redis.asyncio.Redis(host=node.host, port=node.port) for node in self.get_nodes()]
        try:
            return sum([await node.client_kill_filter(*args, **kwargs) for node in nodes])
        finally:
            for node in nodes:
                await node.aclose()

    async def info(self, section: str | None = None, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Calls of each command, added up; of other sections the first master's."""
        answers = await self._of_all("INFO", *(() if section is None else (section,)))
        if section != "commandstats":
            return answers[0]
        calls: Counter[str] = Counter()
        for answer in answers:
            calls.update({name: int(stats["calls"]) for name, stats in answer.items()})
        return {name: {"calls": count} for name, count in calls.items()}
