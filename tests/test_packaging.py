"""What is installed is what is here: the wheel holds every script, statement and page, and shadows no one's module."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = {".sql", ".lua", ".json", ".html", ".css", ".js", ".svg", ".toml"}
ROOMS = ("server", "queue", "checkout", "catalog", "auth", "lua", "migrations", "web")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names inside a wheel built from a copy of this tree, without the network."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements", *ROOMS):
        subprocess.run(["cp", "-rL", ROOT / name, copy / name], check=True)
    out = copy / "dist"
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [*build, "--disable-pip-version-check", "-w", out, copy], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return set(archive.namelist())


def test_everything_is_in_the_wheel(wheel: set[str]) -> None:
    """Every module and every data file of every room."""
    here = {
        f"onsale/{path.relative_to(ROOT)}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and (path.suffix == ".py" or path.suffix in DATA)
    }

    assert here - wheel == set()


def test_nothing_lies_beside_the_package(wheel: set[str]) -> None:
    """No top-level `queue` or `auth` gets into a site-packages folder, nor any test."""
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"onsale"}


def test_queue_stays_the_standard_library_s() -> None:
    """From the root of the tree, `import queue` is the standard library's module, and ours is `onsale.queue`."""
    said = subprocess.run(
        [sys.executable, "-c", "import queue, onsale.queue.states as ours; print(queue.__file__, ours.__name__)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert said[0].endswith("/queue.py")
    assert said[1] == "onsale.queue.states"


@pytest.mark.parametrize("file", ["runtime", "test"])
def test_requirements_are_pinned_with_hashes(file: str) -> None:
    """Each requirement has one exact version and hashes, and no file names an index."""
    text = (ROOT / "requirements" / f"{file}.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))

    assert all(
        re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", block) and "--hash=sha256:" in block for block in blocks if block
    )
    assert "://" not in text
    assert "--index-url" not in text


def test_runtime_requirements_cover_what_is_imported() -> None:
    """Nothing that only the tests install is imported by the product."""
    declared = {
        line.strip().lower() for line in (ROOT / "requirements" / "runtime.in").read_text().splitlines() if line.strip()
    }
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "runtime.txt").read_text(), re.MULTILINE))

    assert declared - locked == set()
