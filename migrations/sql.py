"""Named SQL statements from `.sql` files. Python holds no SQL; a file that does not read as promised fails at import.

A file is a run of statements, each under its name and a comment that says what it is for:

    -- order_set_state_if --
    -- Move one order if it is still in the state the caller saw.
    UPDATE orders SET state = $3 WHERE id = $1 AND state = $2 RETURNING id;
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

NAME_LINE = re.compile(r"^-- (\w+) --[ \t]*$", re.MULTILINE)


class SqlFileError(Exception):
    """A file of named statements does not follow its grammar."""


class Queries:
    """The statements of one file, by attribute: `queries.order_insert` is the text to run."""

    def __init__(self, where: str, statements: Mapping[str, str]) -> None:
        self._where = where
        self._statements = dict(statements)

    def __getattr__(self, name: str) -> str:
        try:
            return self._statements[name]
        except KeyError:
            raise AttributeError(f"{self._where} has no statement named {name}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)


@cache
def load_queries(package: str, file: str) -> Queries:
    """The named statements of `file` inside `package`. Raises SqlFileError when the file breaks the grammar."""
    where = f"{package}/{file}"
    return Queries(where, parse(_file(package, file).read_text(encoding="utf-8"), where))


def _file(package: str, file: str) -> Path:
    # Not importlib.resources: `onsale.queue` has no __init__.py, and an editable install puts a hook beside its folder
    # that resources refuses.
    folders = [Path(folder) for folder in import_module(package).__path__]
    return next((folder / file for folder in folders if (folder / file).is_file()), folders[0] / file)


def parse(text: str, where: str) -> dict[str, str]:
    """Split a file into its statements. Comments above a statement stay out of it: they are for the reader."""
    head, *parts = NAME_LINE.split(text)
    if _without_comments(head):
        raise SqlFileError(f"{where}: SQL above the first name")
    statements: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in statements:
            raise SqlFileError(f"{where}: two statements are named {name}")
        statements[name] = _one_statement(body, f"{where}: {name}")
    return statements


def _path(package: str, file: str) -> Path:
    # Not importlib.resources: it cannot read a package without __init__.py (`onsale.queue`) that is installed editable.
    places = import_module(package).__path__
    return next((path for place in places if (path := Path(place, file)).is_file()), Path(places[0], file))


def _one_statement(body: str, where: str) -> str:
    statement = _without_comments(body).removesuffix(";").rstrip()
    if not statement:
        raise SqlFileError(f"{where} is empty")
    return statement


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--")).strip()
