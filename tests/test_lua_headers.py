"""Each script's header says what its body does: the keys, the arguments, the answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onsale.lua import source
from onsale.lua.keys import LineKeys, ShopKeys
from onsale.lua.replies import Reply

FOLDER = Path(__file__).parents[1] / "lua"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.lua"))
HEADER = re.compile(r"\A--\[\[(.*?)\]\]", re.DOTALL)
COMMENT = re.compile(r"--\[\[.*?\]\]|--[^\n]*", re.DOTALL)
NUMBERED = re.compile(r"\b(KEYS|ARGV)\[(\d+)\]")
# `{3}`, `{3, "x"}` as what one item or a whole script answers.
ANSWER = re.compile(r"return \{\s*(\d+)\s*[,}]")
NAMES = re.compile(r"\b[A-Z][A-Z_]+\b")
CONSTANTS = re.compile(r"^local ([A-Z_]+(?:, [A-Z_]+)*) = (\d+(?:, \d+)*)\s*$", re.MULTILINE)


def header_of(script: str) -> str:
    found = HEADER.match((FOLDER / f"{script}.lua").read_text(encoding="utf-8"))
    assert found, f"{script}.lua does not open with its contract"
    return found[1]


def body_of(script: str) -> str:
    return COMMENT.sub("", source(script))


def numbered(text: str) -> set[tuple[str, int]]:
    return {(kind, int(number)) for kind, number in NUMBERED.findall(text)}


def named_replies(text: str) -> set[int]:
    return {int(Reply[name]) for name in NAMES.findall(text) if name in Reply.__members__}


def documented_replies(header: str) -> set[int]:
    """Every `{n…}` and every name of a reply in the header."""
    return {int(number) for number in re.findall(r"[{|]\s*\{?(\d+)\b", header)} | named_replies(header)


def answered_replies(script: str) -> set[int]:
    """What the script's own lines answer, by number or by the name of a constant; what it includes is checked once."""
    own = COMMENT.sub("", (FOLDER / f"{script}.lua").read_text(encoding="utf-8"))
    uses = CONSTANTS.sub("", own)
    return {int(number) for number in ANSWER.findall(uses)} | named_replies(uses)


@pytest.mark.parametrize("script", SCRIPTS)
def test_keys_and_arguments_are_documented(script: str) -> None:
    """What the header names is used, and what is used is named; numbering has no gap."""
    header, body = numbered(header_of(script)), numbered(body_of(script))

    assert header == body
    for kind in ("KEYS", "ARGV"):
        numbers = sorted(number for of, number in header if of == kind)
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("script", SCRIPTS)
def test_replies_are_documented(script: str) -> None:
    """Each number a script answers is in its header, and is a reply that Python knows."""
    answered = answered_replies(script)

    assert answered <= documented_replies(header_of(script))
    assert answered <= set(Reply)


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.lua")), ids=lambda path: path.stem)
def test_a_constant_is_the_number_it_is_named_after(file: Path) -> None:
    """Where Lua gives a reply's number a name, it is Python's."""
    pairs = [
        (name, int(number))
        for names, numbers in CONSTANTS.findall(file.read_text(encoding="utf-8"))
        for name, number in zip(names.split(", "), numbers.split(", "), strict=True)
        if name in Reply.__members__
    ]

    assert [(name, number) for name, number in pairs if Reply[name] != number] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_time_and_keys_come_from_where_they_must(script: str) -> None:
    """Time is the server's (TIME), never the caller's machine; chance has no place; keys are declared, never made."""
    body = body_of(script)

    assert not re.search(r"\bos\.|math\.random", body)
    written_out = re.findall(r"redis\.p?call\(\s*\"(\w+)\"\s*,\s*\"", body)
    assert set(written_out) <= {"INFO"}, "a key written out instead of passed in KEYS"


@pytest.mark.parametrize("keys", [LineKeys("drop", 7), ShopKeys("drop", 7)], ids=["line", "shop"])
def test_one_hash_tag_a_side(keys: LineKeys | ShopKeys) -> None:
    """All keys of a sale's line, and all of its shop, carry one hash tag and the epoch: one script may touch them."""
    side = "line" if isinstance(keys, LineKeys) else "shop"
    names = [getattr(keys, name) for name in vars(type(keys)) if isinstance(vars(type(keys))[name], property)]
    names += [keys.presence(0)] if isinstance(keys, LineKeys) else []

    assert names
    assert all(name.startswith(f"{{drop:{side}}}:7:") for name in names)
    assert len(set(names)) == len(names)


def test_no_reply_number_is_used_twice() -> None:
    """An alias in the table would be two names for one number."""
    assert len(Reply.__members__) == len(set(Reply))
