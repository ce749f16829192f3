"""The simulation of checkout (`bench/interleavings`) keeps its promises over some seeds, and finds what is planted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.interleavings.__main__ import find
from bench.interleavings.course import run_seed

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_promises_hold(first: int) -> None:
    """Whatever dies, is lost, comes late or twice: nothing oversold, lost, or paid for nothing."""
    broken = {seed: run_seed(seed).broken for seed in range(first, first + 25)}

    assert {} == {seed: found for seed, found in broken.items() if found}


@pytest.mark.parametrize(
    ("plant", "seeds"),
    [
        ("drop-the-pin", range(40)),
        ("acknowledge-before-commit", range(10)),
        ("trim-by-length", range(60)),
        ("check-before-lock", range(20)),
        ("last-come-first", range(5)),
    ],
)
def test_a_planted_bug_is_found(plant: str, seeds: range) -> None:
    """A simulation that finds nothing would prove nothing."""
    assert find(plant, seeds) is not None


def test_a_seed_is_the_same_run() -> None:
    """Bit by bit, in processes with other hashes and other runs before it."""
    assert _trace("1", 6) == _trace("2", 6)


def _trace(hash_seed: str, seed: int) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "bench.interleavings", "--trace", str(seed)]
    environ = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
