"""A Redis Cluster of three masters and three replicas on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import redis.asyncio

from bench.faults.kept import Store
from onsale.server import embedded
from onsale.server.embedded import Launch

MASTERS = 3
SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000
FORMED_WITHIN_S = 30.0
FLAGS = (
    "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", str(NODE_TIMEOUT_MS),
    # A replica that heard nothing for a while takes over all the same: the trial kills masters one after the other.
    "--cluster-replica-validity-factor", "0",
)  # fmt: skip


def node_port() -> int:
    """A free port; the cluster's own talk, 10,000 above, is below the ports of outgoing connections."""
    while (port := embedded.free_port()) >= 32_768 - 10_000 or not _is_free(port + 10_000):
        continue
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def form(nodes: Sequence[Launch]) -> None:
    """Make one cluster of servers that have just begun: the first three masters, the others their replicas."""
    clients = [redis.asyncio.Redis.from_url(node.url, decode_responses=True) for node in nodes]
    try:
        for number, client in enumerate(clients[:MASTERS]):
            first, behind = SLOTS * number // MASTERS, SLOTS * (number + 1) // MASTERS
            await client.execute_command("CLUSTER ADDSLOTS", *range(first, behind))
        for node in nodes[1:]:
            await clients[0].execute_command("CLUSTER MEET", "127.0.0.1", node.port)
        async with asyncio.timeout(FORMED_WITHIN_S):
            ids = [await client.execute_command("CLUSTER MYID") for client in clients]
            for number, client in enumerate(clients[MASTERS:]):
                while not await _replicates(client, ids[number % MASTERS]):
                    await asyncio.sleep(0.1)
            while not all([await _is_whole(client) for client in clients]):
                await asyncio.sleep(0.1)
    finally:
        for client in clients:
            await client.aclose()


async def _replicates(client: redis.asyncio.Redis, master: str) -> bool:
    try:
        await client.execute_command("CLUSTER REPLICATE", master)
    except redis.exceptions.ResponseError:
        return False  # It has not heard of that master yet.
    return True


async def _is_whole(client: redis.asyncio.Redis) -> bool:
    said = await client.execute_command("CLUSTER INFO")
    replication = await client.info("replication")
    in_step = replication["role"] == "master" or replication["master_link_status"] == "up"
    return said["cluster_state"] == "ok" and in_step


async def masters(nodes: Sequence[Store]) -> list[Store]:
    """The living nodes that are masters just now, each with a replica in step."""
    found = []
    for node in nodes:
        if node.pid is None:
            continue
        try:
            async with redis.asyncio.Redis.from_url(node.url, socket_timeout=1) as client:
                said = await client.info("replication")
        except (redis.exceptions.RedisError, OSError):
            continue
        if said["role"] == "master" and int(said["connected_slaves"]) > 0:
            found.append(node)
    return found
