"""docs/holes.md names tests that there are."""

import re

import pytest

from bench.controls import ROOT

ROWS = re.findall(r"^\| ([RMLK]\d+) \|(.+)\|$", (ROOT / "docs" / "holes.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("hole", "row"), ROWS, ids=[hole for hole, _ in ROWS])
def test_each_hole_names_its_tests(hole: str, row: str) -> None:
    """Each stands in the file that is named."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
    assert named or hole == "K5"
    for file, test in named:
        assert re.search(rf"def {test}\b", (ROOT / file).read_text()), f"{file}::{test}"


def test_no_hole_is_left_out() -> None:
    """Fourteen of the record, nine of money, twelve of the line, twelve of the machinery."""
    counts = {letter: sum(hole[0] == letter for hole, _ in ROWS) for letter in "RMLK"}
    assert {"R": 14, "M": 9, "L": 12, "K": 12} == counts
