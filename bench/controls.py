"""Whether each threat's test fails when its control is taken out: a test that cannot fail protects nobody.

    python -m bench.controls                     every control of bench/controls.toml, one after the other
    python -m bench.controls --only cookies      those of one threat
    python -m bench.controls --report            and write the table in docs/threats.md

Each control is taken out of a copy of the tree, and its tests run there on stores of their own. Whole, they have to
pass; without the control, at least one has to fail. Exit 1 where that is not so. Nothing of this tree is changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "threats.md"
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".onsale", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "node_modules", "results"
)
ONE_RUN_MAX_S = 180
# What pytest answers: all passed, some failed. Anything else is an error of ours.
PASSED, FAILED = 0, 1


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One control, where it stands, and the tests that hold it. `also`: more pairs of find and replace in the file."""

    threat: str
    control: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]
    also: tuple[tuple[str, str], ...] = ()


class Outcome(StrEnum):
    """What became of the tests without their control."""

    FAILS = "fails without it"
    PASSES = "PASSES WITHOUT IT"
    ERROR = "ERROR"


def controls() -> list[Control]:
    """Those of bench/controls.toml, in its order."""
    raw = tomllib.loads((ROOT / "bench" / "controls.toml").read_text())
    return msgspec.convert(raw["control"], list[Control])


def without(control: Control, text: str) -> str:
    """The file's text without the control. ValueError when what is to be taken out does not stand there once."""
    for find, replace in ((control.find, control.replace), *control.also):
        if text.count(find) != 1:
            raise ValueError(f"{control.file}: {find.strip()[:60]!r} stands there {text.count(find)} times, not once")
        text = text.replace(find, replace)
    return text


@contextmanager
def copy_of_tree() -> Iterator[Path]:
    """A copy to take controls out of; its rooms are found before the installed ones."""
    with tempfile.TemporaryDirectory(prefix="onsale-controls-") as directory:
        copy = Path(directory) / "tree"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=NOT_COPIED)
        yield copy


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit code and the end of what it said."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", "-n", "0", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy / "typings"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=ONE_RUN_MAX_S, check=False
    )
    return done.returncode, done.stdout[-1_500:]


def tried(copy: Path, control: Control) -> tuple[Outcome, str]:
    """Take one control out, run its tests, put it back."""
    path = copy / control.file
    whole = path.read_text()
    path.write_text(without(control, whole))
    try:
        code, said = run_tests(copy, control.tests)
    finally:
        path.write_text(whole)
    return {FAILED: Outcome.FAILS, PASSED: Outcome.PASSES}.get(code, Outcome.ERROR), said


def written(results: Sequence[tuple[Control, Outcome]]) -> str:
    """The report."""
    rows = []
    for one, outcome in results:
        tests = "<br>".join(f"`{test}`" for test in one.tests)
        rows.append(f"| {one.threat} | {one.control} | `{one.file}` | {tests} | {outcome} |")
    return "\n".join([HEAD, *rows, ""])


HEAD = """# Threats

Made by `python -m bench.controls --report`: each control is taken out of a copy of the tree, and the test that holds it
has to fail there. What is taken out stands in `bench/controls.toml`.

| threat | control | where | held by | without it |
|---|---|---|---|---|"""


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="THREAT", help="a part of a threat's name")
    parser.add_argument("--report", action="store_true")
    asked = parser.parse_args()
    if asked.report and asked.only:
        parser.error("a report is of all of them")
    chosen = [one for one in controls() if not asked.only or asked.only in one.threat]
    results: list[tuple[Control, Outcome]] = []
    with copy_of_tree() as copy:
        code, said = run_tests(copy, sorted({test for one in chosen for test in one.tests}))
        if code != PASSED:
            sys.exit(f"with every control in place:\n{said}")
        for one in chosen:
            outcome, said = tried(copy, one)
            results.append((one, outcome))
            print(f"{one.threat}: {one.control}: {outcome}", flush=True)
            if outcome is not Outcome.FAILS:
                print(said, flush=True)
    if asked.report:
        REPORT.write_text(written(results))
    sys.exit(any(outcome is not Outcome.FAILS for _, outcome in results))


if __name__ == "__main__":
    main()
