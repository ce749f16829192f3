"""Pages, styles, scripts and the words of every language. Nothing of a rule lives here, only how things are said.

Catalogues are flat JSON, one file a language, keys sorted: `problem.<code>.title`, `problem.<code>.detail`,
`reason.<code>`, and what a page says by the page's name (`waiting.…`, `console.…`). A text that is missing in one
language is a failing test, not a surprise in front of a buyer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import jinja2
import msgspec

from onsale.web import formats

Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = ("ko", "en")


@cache
def messages(lang: str) -> Mapping[str, str]:
    """Every text in one language, by key; English where the language is none of ours."""
    name = lang if lang in LANGUAGES else "en"
    raw = (resources.files("onsale.web") / "messages" / f"{name}.json").read_bytes()
    return MappingProxyType(msgspec.json.decode(raw, type=dict[str, str]))


def static_folder() -> Path:
    """Where styles and scripts lie."""
    return Path(__file__).parent / "static"


@cache
def templates() -> jinja2.Environment:
    """The environment of all pages: escapes everything, and a name that is not there is an error, not nothing."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onsale.web", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "money": formats.money,
        "number": formats.number,
        "moment": formats.moment,
        "clock": formats.clock,
        "wait_range": formats.wait_range,
        "sheet": _sheet,
    }
    return environment


@cache
def letter_templates() -> jinja2.Environment:
    """The environment of letters, which are plain text: nothing is escaped; no page is made from it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onsale.web", "templates/mail"),
        autoescape=False,  # noqa: S701 - text/plain; escaping would put &amp; into it
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["money"] = formats.money_text
    return environment


def _sheet(name: str) -> str:
    """A style as text, for a page that is a file of its own and can ask nobody for it."""
    return (static_folder() / name).read_text("utf-8")
