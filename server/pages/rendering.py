"""The one renderer of pages: language, words, who looks, and how the bytes are sent. Markup and words are in `web/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from onsale.auth.identity import Identity
from onsale.auth.requests import Language, language
from onsale.auth.roles import OPERATORS, SELLERS
from onsale.server.pages.assets import ASSETS
from onsale.web import LANGUAGES, messages, templates
from onsale.web.formats import decline_text, reason_text, translator

# Who is signed in, on pages that ask: None = nobody. Not set where nobody asks.
READER: web.RequestKey[Identity | None] = web.RequestKey("reader", object)  # type: ignore[arg-type]
LANGUAGE_COOKIE = "onsale-language"
YEAR_S = 365 * 24 * 3600
# What an address may ask for once: it does not belong to the page it leads to.
PASSING = ("lang", "problem", "said")


@dataclass(frozen=True, slots=True)
class Form:
    """What the fields of a page's form say, by name. Of one that was refused also what will not do: in words by the
    field's name, and over all."""

    values: Mapping[str, str] = field(default_factory=dict)
    flaws: Mapping[str, str] = field(default_factory=dict)
    problem: Mapping[str, str] | None = None


# The form that was just refused, on the page it is shown again.
REFUSED = web.RequestKey("refused", Form)


def render(
    request: web.Request,
    template: str,
    *,
    status: int = 200,
    is_secret: bool = False,
    filled: Mapping[str, str] | None = None,
    **values: Any,
) -> web.Response:
    """A page in the reader's language. `filled`: what its form says before anybody types. `is_secret`: it holds a
    token, so its length must not tell what else is in it: it is sent uncompressed (the BREACH attack guesses a secret
    by how well a page compresses)."""
    lang = page_language(request)
    texts = messages(lang)
    form = request.get(REFUSED) or Form(filled or {}, problem=told(texts, request.query.get("problem", "")))
    text = (
        templates()
        .get_template(template)
        .render(
            lang=lang,
            t=translator(texts),
            reason_text=lambda reason: reason_text(reason, texts),
            decline_text=lambda payment: decline_text(payment, texts),
            asset=request.app[ASSETS].path,
            who=_who(request),
            here=here(request),
            kept=kept(request),
            form=form,
            problem=form.problem,
            said=texts.get("said." + request.query.get("said", "")),
            **values,
        )
    )
    answer = web.Response(
        status=status,
        text=text,
        content_type="text/html",
        headers={"Content-Language": lang, "Cache-Control": "no-store"},
    )
    if not is_secret:
        answer.enable_compression()
    if request.query.get("lang") in LANGUAGES:
        keep_language(answer, lang)
    return answer


def keep_language(answer: web.Response, lang: Language) -> None:
    """Pages are in this language from now on."""
    answer.set_cookie(LANGUAGE_COOKIE, lang, path="/", samesite="Lax", httponly=True, max_age=YEAR_S)


def page_language(request: web.Request) -> Language:
    """What was chosen on a page, else what the browser asks for."""
    chosen = request.query.get("lang") or request.cookies.get(LANGUAGE_COOKIE, "")
    return next((lang for lang in LANGUAGES if lang == chosen), language(request))


def told(texts: Mapping[str, str], code: str) -> dict[str, str] | None:
    """A problem in words; None where these words know none by that code."""
    title, detail = texts.get(f"problem.{code}.title"), texts.get(f"problem.{code}.detail")
    return {"code": code, "title": title, "detail": detail} if title is not None and detail is not None else None


def kept(request: web.Request) -> str:
    """What an address asks for beside the language and what was refused: it stays when those change."""
    return "".join(urlencode({name: text}) + "&" for name, text in request.query.items() if name not in PASSING)


def here(request: web.Request) -> str:
    """This page, to come back to."""
    return f"{request.path}?{kept(request)}".rstrip("&?")


def line_words(texts: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The names of a line's states and the words of every reason, for scripts."""
    return {"states": words_of(texts, "state."), "reasons": words_of(texts, "reason.")}


def words_of(texts: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The texts whose keys begin like this, by the rest of the key."""
    return {key.removeprefix(prefix): text for key, text in texts.items() if key.startswith(prefix)}


def _who(request: web.Request) -> dict[str, bool] | None:
    found = request.get(READER)
    return None if found is None else {"is_operator": found.role in OPERATORS, "is_seller": found.role in SELLERS}
