"""Logs: only allow-listed fields are written, and every field that the code logs is on the list."""

import ast
from pathlib import Path

import pytest

import onsale.server.log
from onsale.server.log import FIELDS, allow_listed

HOUSE = Path(onsale.server.log.__file__).parent.parent
ROOMS = ("auth", "catalog", "checkout", "lua", "migrations", "queue", "server")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
# Options of the logger, not fields.
OPTIONS = {"exc_info"}


def _logged():
    """(file, line, field) of every keyword that is given to a logger."""
    for path in (file for room in ROOMS for file in (HOUSE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
            ):
                for keyword in node.keywords:
                    if keyword.arg and keyword.arg not in OPTIONS:
                        yield path.relative_to(HOUSE), node.lineno, keyword.arg


def test_unknown_fields_are_dropped_and_their_names_kept():
    """A token handed to a logger does not reach the line."""
    event = allow_listed(None, "info", {"event": "order.confirmed", "order": "o-1", "access_token": "canary"})

    assert {"event": "order.confirmed", "order": "o-1", "dropped": ["access_token"]} == event


def test_long_details_are_cut():
    """A library's message cannot fill the disk."""
    assert 2_000 == len(allow_listed(None, "info", {"event": "x", "detail": "d" * 9_000})["detail"])


def test_what_the_code_logs_is_on_the_list():
    """A field that is dropped in silence would be missed in the night it is needed."""
    assert [] == [f"{file}:{line}: {name}" for file, line, name in _logged() if name not in FIELDS]


@pytest.mark.parametrize("word", ["token", "password", "secret", "pass", "email", "phone", "instrument", "cookie"])
def test_no_field_is_named_after_a_secret(word):
    """The list itself cannot let one through."""
    assert word not in FIELDS
