"""Pages, styles, scripts and the words of every language. Nothing of a rule lives here, only how things are said.

Catalogues are flat JSON, one file a language, keys sorted: `problem.<code>.title`, `problem.<code>.detail`,
`reason.<code>`, `page.…`. A text that is missing in one language is a failing test, not a surprise in front of a buyer.
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

Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = ("ko", "en")
# Currencies whose smallest unit is the unit itself.
WHOLE_CURRENCIES = frozenset({"KRW", "JPY", "VND", "CLP", "ISK"})


@cache
def messages(lang: str) -> Mapping[str, str]:
    """Every text in one language, by key; English where the language is none of ours."""
    name = lang if lang in LANGUAGES else "en"
    raw = (resources.files("onsale.web") / "messages" / f"{name}.json").read_bytes()
    return MappingProxyType(msgspec.json.decode(raw, type=dict[str, str]))


def money_text(amount: int, currency: str) -> str:
    """Minor units as people write them: won and yen have none below one."""
    if currency in WHOLE_CURRENCIES:
        return f"{amount:,} {currency}"
    return f"{amount // 100:,}.{amount % 100:02d} {currency}"


def static_folder() -> Path:
    """Where styles and scripts lie."""
    return Path(__file__).parent / "static"


@cache
def templates() -> jinja2.Environment:
    """The environment of all pages: escapes everything, and a name that is not there is an error, not nothing."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("onsale.web", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


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
    environment.filters["money"] = money_text
    return environment
