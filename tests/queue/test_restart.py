"""A real Redis that dies and comes back with what its file still holds: less than it had acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from line_kit import Stand
from redis.asyncio import Redis

from onsale.lua import connect
from onsale.queue.errors import LineRecovering
from onsale.queue.numbering import PLACES_A_BLOCK
from onsale.server import embedded


class Server:
    """One Redis of the test's own, on one port and folder, started as often as wanted."""

    def __init__(self, directory: Path) -> None:
        self.launch = embedded.redis_launch(
            "line",
            directory,
            fsync="everysec",
            port=embedded.free_port(),
            binary=os.environ.get("ONSALE_TEST_REDIS"),
        )
        self.directory = directory

    @contextmanager
    def running(self) -> Iterator[None]:
        """Until the block ends; then it is killed as by a power cut."""
        process = subprocess.Popen(
            self.launch.command,
            cwd=self.launch.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=self.launch.prepare(),
        )
        try:
            while not self.launch.is_ready(process.pid):
                assert process.poll() is None
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def files(self) -> list[Path]:
        """What it appends to: one file in Redis 6, the incremental ones in 7."""
        return [path for path in self.directory.rglob("*.aof") if "base" not in path.name]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[tuple[Server, Redis]]:
    server = Server(tmp_path)
    redis = connect(server.launch.url)
    yield server, redis
    await redis.aclose()


async def test_places_stay_unique_over_a_restart_with_an_older_file(
    client: tuple[Server, Redis], database: asyncpg.Pool
) -> None:
    """The last joins are forgotten: their numbers are not given again, and their tickets come back before the new."""
    server, redis = client
    stand = Stand(redis, database)
    with server.running():
        await stand.make(rate_centi=0)
        await redis.config_set("appendfsync", "always")
        kept = await stand.crowd(50, "early")
        sizes = {path: path.stat().st_size for path in server.files()}
        lost = await stand.crowd(100, "lost")
    for path, size in sizes.items():
        os.truncate(path, size)

    await redis.connection_pool.disconnect()

    with server.running():
        with pytest.raises(LineRecovering):
            await stand.join("late")
        await stand.keeper.tick()
        late = await stand.crowd(100, "late")
        restored = [
            (await stand.line.restore(stand.keys, place, f"lost-{n}", 1, "general")).place
            for n, place in enumerate(lost)
        ]
        line = await stand.members(stand.keys.waiting)

    assert late[0] == PLACES_A_BLOCK + 1
    assert restored == lost
    assert line == [*kept, *lost, *late]
