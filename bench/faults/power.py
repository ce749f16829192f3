"""What a store's disk holds after the power went: only what had been synced when it went.

A killed process loses nothing that it wrote, the kernel has it. So after the kill everything is taken away that no
fsync had covered: for Redis the append-only file is cut back to the size it had when its last successful fsync began;
for Postgres the data are those of a base copy made at the start (no page written since is trusted), and the log goes as
far as it was flushed, which is asked of the server while all its processes stand still.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import asyncpg

from bench.faults.kept import Store

SHIM = Path(__file__).with_name("shim.c")
CONTROL = "control"
SEGMENT_BYTES = 16 << 20
STILL_WITHIN_S = 2.0
# The log is kept whole from the base copy on, and nothing is written back behind it.
POSTGRES_FLAGS = (
    "-c", "wal_keep_size=8GB", "-c", "max_wal_size=16GB", "-c", "checkpoint_timeout=1h",
    "-c", "restore_command=/bin/false", "-c", "hot_standby=off",
)  # fmt: skip


class NoCompiler(Exception):
    """No C compiler (cc) is here, and the shim between a store and its disk has to be built."""


@cache
def shim() -> Path:
    """The shim, built once a run. Raises NoCompiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler
    built = Path(tempfile.mkdtemp(prefix="onsale-shim-")) / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(built), str(SHIM), "-ldl"], check=True)
    return built


class Shim:
    """The disk and the clock of one store or process, as it sees them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self.heal()

    @property
    def environ(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(shim()), "FAULT_SHIM": str(self._folder)}

    def slow_disk(self, delay_ms: int) -> None:
        """Each fsync takes this much longer."""
        self._set(delay_ms=delay_ms)

    def fill_disk(self) -> None:
        """No write to a file succeeds any more."""
        self._set(is_full=True)

    def move_clock(self, off_s: int) -> None:
        """The time of day is this much later, or earlier."""
        self._set(off_s=off_s)

    def heal(self) -> None:
        self._set()

    def synced(self, path: Path) -> int:
        """How much of a file surely survives."""
        mark = self._folder / str(path.stat().st_ino)
        return struct.unpack("q", mark.read_bytes())[0] if mark.exists() else 0

    def _set(self, *, delay_ms: int = 0, is_full: bool = False, off_s: int = 0) -> None:
        # In place: the processes have this very file mapped.
        path = self._folder / CONTROL
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.write(struct.pack("IIi", delay_ms, is_full, off_s))


async def cut_redis(store: Store, disk: Shim) -> int:
    """The power of this Redis goes and comes back; answers how many bytes went with it."""
    await store.down(signal.SIGKILL)
    lost = 0
    for path in store.data.rglob("*.aof"):
        if "base" in path.name:
            continue  # Written whole and synced before it is named in the manifest.
        size = path.stat().st_size
        keep = min(size, disk.synced(path))
        lost += size - keep
        os.truncate(path, keep)
    await store.up()
    return lost


class PostgresPower:
    """A Postgres and the copy of its data from before its first start."""

    def __init__(self, store: Store, base: Path) -> None:
        self._store, self._base = store, base
        shutil.copytree(store.data, base)

    async def cut(self) -> None:
        """The power goes and comes back."""
        flushed = await self._still()
        await self._store.down(signal.SIGKILL)
        await asyncio.to_thread(self._recover, *flushed)
        await self._store.up()

    async def _still(self) -> tuple[str, int]:
        """Stop every process but the one that answers us; the segment and offset up to which the log is flushed."""
        while True:
            probe = await asyncpg.connect(self._store.url)
            with contextlib.suppress(TimeoutError):
                found = await self._ask_still(probe)
                # Not closed: a server of which all else stands still would not let go. It is about to be killed.
                probe.terminate()
                return found
            self._store.signal(signal.SIGCONT)
            probe.terminate()
            await asyncio.sleep(0.05)

    async def _ask_still(self, probe: asyncpg.Connection) -> tuple[str, int]:
        # Asked once while everything runs, so that the second time nothing has to be read in or locked.
        ask = "SELECT file_name, file_offset FROM pg_walfile_name_offset(pg_current_wal_flush_lsn())"
        await probe.fetchrow(ask)
        self._store.signal_children(signal.SIGSTOP, but=probe.get_server_pid())
        row = await asyncio.wait_for(probe.fetchrow(ask), STILL_WITHIN_S)
        return row["file_name"], row["file_offset"]

    def _recover(self, segment: str, offset: int) -> None:
        data, aside = self._store.data, self._store.data.with_name("postgres-before")
        shutil.rmtree(aside, ignore_errors=True)
        data.rename(aside)
        shutil.copytree(self._base, data)
        for path in sorted((aside / "pg_wal").iterdir()):
            if path.suffix == ".history":
                shutil.copy2(path, data / "pg_wal")
            elif len(path.name) == 24 and path.name[8:] <= segment[8:]:
                copied = Path(shutil.copy2(path, data / "pg_wal"))
                # The end of another timeline's segment lies behind the point where ours left it: it is not read.
                if path.name == segment:
                    _zero_behind(copied, offset)
        (data / "recovery.signal").touch()
        shutil.rmtree(aside)


def _zero_behind(path: Path, offset: int) -> None:
    """Forget the rest of a log segment."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(SEGMENT_BYTES - offset))
