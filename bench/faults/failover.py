"""A Redis with a replica that may lag, and the change from one to the other."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import redis.asyncio

from bench.faults.kept import Store
from bench.faults.link import Link
from bench.faults.world import launch_of

SYNCED_WITHIN_S = 20.0


class Stage(Protocol):
    """What a standby needs of a world: where files go, its stores, and the relays to them by (process, store)."""

    folder: Path
    stores: dict[str, Store]
    links: dict[tuple[str, str], Link]


@dataclass
class Standby:
    """The replica of one store of a world whose processes reach that store through a relay."""

    world: Stage
    name: str
    number: int = 0
    replica: Store | None = None
    wire: Link | None = None

    async def attach(self) -> None:
        """Give the present primary a new, empty replica, and wait until it has everything."""
        self.number += 1
        primary = self.world.stores[self.name]
        folder = self.world.folder / f"{self.name}-{self.number}"
        self.replica = Store(launch_of(self.name, folder), self.world.folder / f"{folder.name}.log", {})
        await self.replica.up()
        await self.replica.ready()
        self.wire = Link(f"replication-{self.name}", primary.launch.port)
        await self.wire.open()
        async with redis.asyncio.Redis.from_url(primary.url) as one:
            await one.config_set("repl-diskless-sync-delay", 0)
        async with redis.asyncio.Redis.from_url(self.replica.url) as other:
            await other.replicaof("127.0.0.1", self.wire.port)
            async with asyncio.timeout(SYNCED_WITHIN_S):
                while (await other.info("replication")).get("master_link_status") != "up":
                    await asyncio.sleep(0.05)

    async def fail(self, stalled_s: float) -> None:
        """The replica hears nothing for a while; then the primary dies and the replica is promoted."""
        self.stall()
        await asyncio.sleep(stalled_s)
        await self.switch()

    def stall(self) -> None:
        """From now on the replica hears nothing."""
        assert self.wire is not None
        self.wire.silence()

    async def switch(self) -> None:
        """The primary dies, and the replica is promoted with what it has."""
        assert self.replica is not None and self.wire is not None
        dead = self.world.stores[self.name]
        await dead.down()
        await self.wire.close()
        async with redis.asyncio.Redis.from_url(self.replica.url) as other:
            await other.replicaof("NO", "ONE")
        self.world.stores[self.name] = self.replica
        for (_, store), link in self.world.links.items():
            if store == self.name:
                link.target = self.replica.launch.port
                link.reset()
        await dead.stop()
        shutil.rmtree(dead.data, ignore_errors=True)
        self.replica = self.wire = None

    async def close(self) -> None:
        if self.wire is not None:
            await self.wire.close()
        if self.replica is not None:
            await self.replica.stop()
