"""The controls that `python -m bench.controls` takes out are there to be taken out."""

import re

import pytest

from bench.controls import ROOT, Control, controls, without


@pytest.mark.parametrize("control", controls(), ids=lambda one: one.control)
def test_a_control_stands_where_the_table_says(control: Control) -> None:
    """Once, so that it is gone when it was taken out; and what it is held by is a test that exists."""
    whole = (ROOT / control.file).read_text()
    assert whole != without(control, whole)
    for test in control.tests:
        file, _, name = test.partition("::")
        assert not name or re.search(rf"def {name}\b", (ROOT / file).read_text()), test
