"""The house rules of imports: they point down only, and each outside library is used where it belongs.

server
queue  checkout  catalog      queue and checkout never import each other; both may read what a sale is
auth
lua  migrations  web
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STOREY = {"server": 3, "queue": 2, "checkout": 2, "catalog": 2, "auth": 1, "lua": 0, "migrations": 0, "web": 0}
# What queue and checkout may know of the room beside them.
WHAT_A_SALE_IS = re.compile(r"onsale\.catalog\.((sales|errors|states|schedule|moves|offers)\.\w+|handlers\.BOOK)")
FILES = sorted(path.relative_to(ROOT) for room in STOREY for path in (ROOT / room).rglob("*.py"))

AIOHTTP = re.compile(
    r"server/.*|\w+/(\w+_)?handlers\.py|queue/(stream|wire)\.py|auth/(middleware|requests)\.py|checkout/providers/.*"
)
# The scripts, the feeds, and those who are handed a client to call scripts on: never a handler or a pure file.
REDIS = re.compile(
    r"server/.*|lua/.*|queue/(admitter|control|feed|keeper|line)\.py|checkout/(inventory|record/\w+)\.py"
)
# Besides modules with statements of their own: those of the record, which pass connections to each other.
ASYNCPG = re.compile(r"server/.*|migrations/.*|checkout/record/\w+\.py")
SQL = re.compile(
    r"\s*(SELECT\s|INSERT\s+INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|CREATE\s+(TABLE|INDEX)\s|ALTER\s+TABLE\s|WITH\s+\w+\s+AS\s)"
)
LUA = re.compile(r"redis\.p?call\(")


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def imports(file: Path) -> set[str]:
    """Every module a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def rooms_imported(file: Path) -> Iterator[tuple[str, str]]:
    for name in imports(file):
        if name.startswith("onsale."):
            yield name.split(".")[1], name


def texts(file: Path) -> Iterator[str]:
    """String constants that are not docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def may_import(room: str, other: str, module: str) -> bool:
    if STOREY[other] < STOREY[room] or other == room:
        return True
    return room in ("queue", "checkout") and bool(WHAT_A_SALE_IS.fullmatch(module))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_down(file: Path) -> None:
    """A room imports itself and what lies below it; what it needs of a neighbour is a Protocol bound in the server."""
    room = file.parts[0]

    upward = [module for other, module in rooms_imported(file) if not may_import(room, other, module)]

    assert upward == []


@pytest.mark.parametrize("file", FILES, ids=str)
def test_outside_libraries_stay_where_they_belong(file: Path) -> None:
    """HTTP at the edge, Redis behind the scripts, Postgres in the modules that have statements of their own."""
    # Whoever waits for Redis may catch its errors.
    used = {name.split(".")[0] for name in imports(file) if not name.startswith("redis.exceptions.")}

    assert "aiohttp" not in used or AIOHTTP.fullmatch(str(file)), "aiohttp below the edge"
    assert "redis" not in used or REDIS.fullmatch(str(file)), "redis outside the scripts, the feeds and the ports"
    if "asyncpg" in used and not ASYNCPG.fullmatch(str(file)):
        assert "onsale.migrations.sql.load_queries" in imports(file), "asyncpg in a module without statements"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_environment_is_read_in_one_file(file: Path) -> None:
    """`os.environ` and `os.getenv` belong to server/config.py."""
    reads = [
        node.attr
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb", "putenv")
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    ]

    assert reads == [] or file == Path("server/config.py")


@pytest.mark.parametrize("file", FILES, ids=str)
def test_python_holds_no_sql_and_no_lua(file: Path) -> None:
    """Statements live in `.sql` files, scripts in `.lua` files."""
    assert [text for text in texts(file) if SQL.match(text) or LUA.search(text)] == []


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_opens_by_saying_what_it_is_for(file: Path) -> None:
    """Every file that holds code has a docstring."""
    assert not tree(file).body or ast.get_docstring(tree(file))


def test_queue_has_no_init() -> None:
    """`queue/__init__.py` would hide the standard library's module from everything that is run from here."""
    assert not (ROOT / "queue" / "__init__.py").exists()


def test_no_room_for_odds_and_ends() -> None:
    """A file is named by its one responsibility."""
    assert [file for file in FILES if file.stem in ("utils", "util", "common", "helpers", "misc")] == []
