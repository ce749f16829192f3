"""`onsale up` as a person runs it: real processes, killed and stopped and started again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from onsale.server.running import ProcessFigures, Running

pytestmark = pytest.mark.processes

READY_WITHIN_S = 45.0
STOPPED_WITHIN_S = 30.0
STORES = ["line-redis", "shop-redis", "postgres"]
PROCESSES = [*STORES, "catcher", "sandbox", "flusher", "worker", "admitter", "web.1", "web.2"]


class System:
    """One `onsale up` on a data directory of its own, and the commands beside it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = options
        self._output = folder / "up.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def said(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*ONSALE, "up", "--port", "0", *self._options],
                cwd=self.folder,
                env=clean_environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(lambda: "onsale is ready" in self.said or self.process.poll() is not None, READY_WITHIN_S)
        assert self.process.poll() is None, self.said

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command in the same folder: it finds the system by itself."""
        return subprocess.run(
            [*ONSALE, *arguments],
            cwd=self.folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def status(self) -> Running:
        said = self.command("status", "--json")
        assert said.returncode == 0, said.stderr
        return msgspec.json.decode(said.stdout, type=Running)

    def figures(self, name: str) -> ProcessFigures:
        """One process, from the file that `status` reads."""
        running = msgspec.json.decode((self.folder / ".onsale" / "state.json").read_bytes(), type=Running)
        return next(one for one in running.processes if one.name == name)

    def pids(self) -> list[int]:
        return [one.pid for one in self.status().processes if one.pid]

    def rate(self) -> float:
        """The demo sale's rate, as a command beside the system reads it."""
        said = self.command("sale", "show", "demo", "--json").stdout
        return float(msgspec.json.decode(said)["admission"]["rate_per_second"])

    def stop(self, kind: signal.Signals = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(kind)
        return self.process.wait(STOPPED_WITHIN_S)


README = Path(__file__).parents[2] / "README.md"
ONSALE = [sys.executable, "-P", "-m", "onsale.server"]


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.endswith("_URL") and "ONSALE" not in name}


def until(condition: Callable[[], bool], within_s: float) -> None:
    """Look until something of another process holds; the test fails when it does not."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A running system with two web processes, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("a shop") / "with a space"
    folder.mkdir()
    one = System(folder, "--web", "2")
    one.start()
    yield one
    one.stop()


def test_everything_runs_and_is_told(system: System) -> None:
    """All processes run, every address answers, and a second `up` on the same data is refused in one line."""
    running = system.status()
    second = system.command("up")

    assert running.state == "ready"
    assert [one.name for one in running.processes] == PROCESSES
    assert {one.state for one in running.processes} == {"running"}
    assert all(one.pid and is_alive(one.pid) for one in running.processes)
    assert answers(running.addresses["shop"])
    assert answers(running.addresses["sale"])
    assert set(running.stores) == {"line_redis", "shop_redis", "postgres"}
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "already" in second.stderr
    assert "buyer@demo.example" in system.said


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_readme_is_true(system: System) -> None:
    """The commands of the README, as they stand there, buy a unit and end with a clean audit."""
    block = re.search(r"## By hand\n.*?```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block
    (system.folder / ".venv").symlink_to(sys.prefix)

    said = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block[1]],
        cwd=system.folder,
        env={**clean_environment(), "BASE": system.status().addresses["shop"].rstrip("/")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert said.returncode == 0, said.stdout + said.stderr
    assert '"state":"confirmed"' in said.stdout
    assert '"recorded":true' in said.stdout
    assert "BROKEN" not in said.stdout


@pytest.mark.parametrize("name", PROCESSES)
def test_what_is_killed_comes_back(system: System, name: str) -> None:
    """kill -9 of any process, stores too: another one takes its place, and the system is ready again."""
    before = system.figures(name)
    assert before.pid is not None

    os.kill(before.pid, signal.SIGKILL)
    until(lambda: system.figures(name).restarts > before.restarts, READY_WITHIN_S)
    until(lambda: system.figures(name).state == "running", READY_WITHIN_S)
    url = system.status().addresses["shop"]
    until(lambda: answers(f"{url}readyz"), READY_WITHIN_S)

    assert system.figures(name).pid not in (None, before.pid)
    assert f"{name} was killed by SIGKILL; starting it again" in system.said


def test_stopped_killed_and_started_again(tmp_path: Path) -> None:
    """Ctrl-C ends with 0 and leaves no process; kill -9 of the supervisor leaves none either; each next start finds the
    data as it was."""
    first = System(tmp_path)
    first.start()
    pids = first.pids()
    assert first.command("rate", "demo", "7.25/s").returncode == 0

    assert first.stop(signal.SIGINT) == 0

    assert [pid for pid in pids if is_alive(pid)] == []
    assert first.command("status").returncode == 1
    second = System(tmp_path)
    second.start()
    assert second.rate() == 7.25
    pids = second.pids()

    second.process.kill()
    second.process.wait()

    third = System(tmp_path)
    third.start()
    until(lambda: not any(is_alive(pid) for pid in pids), STOPPED_WITHIN_S)
    assert third.rate() == 7.25
    assert third.stop(signal.SIGTERM) == 0


def test_a_port_that_is_taken(tmp_path: Path, system: System) -> None:
    """Another program on the port is named at once, and nothing is left running."""
    port = system.status().addresses["shop"].rstrip("/").rpartition(":")[2]
    refused = subprocess.run(
        [*ONSALE, "up", "--port", port],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert refused.returncode == 1
    assert f":{port} is taken" in refused.stderr
    assert not (tmp_path / ".onsale" / "state.json").exists()


def test_stores_that_would_forget_are_refused(
    tmp_path: Path, database_url: str, line_redis_url: str, cluster_url: str | None
) -> None:
    """A shop's Redis that does not write every change to disk is named, and nothing is started."""
    if cluster_url is not None:
        pytest.skip("the cluster of these tests writes every change to disk")
    stores = {"DATABASE_URL": database_url, "LINE_REDIS_URL": line_redis_url, "SHOP_REDIS_URL": line_redis_url}

    refused = subprocess.run(
        [*ONSALE, "up", "--port", "0"],
        cwd=tmp_path,
        env={**clean_environment(), **stores},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert refused.returncode == 2
    assert "shop redis: appendfsync is everysec, must be always" in refused.stderr
    assert not (tmp_path / ".onsale" / "state.json").exists()
