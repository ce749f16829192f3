"""How pages and forms answer: who looks is found out first, whoever must sign in is sent there, and what is refused is
told on a page, in the reader's words. Forms are writes by cookie and must come from our own origin; after a form the
browser is sent on to a page, so reloading repeats nothing. A long form that is refused is shown again as it was filled
in, each flaw beside its field."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from aiohttp import web
from msgspec import structs

from onsale.auth.errors import EmailUnverified, Flaw, Forbidden, InvalidRequest, Unauthenticated
from onsale.auth.identity import Identity
from onsale.auth.middleware import COOKIES, identity_renewed, require_same_origin
from onsale.auth.requests import form_fields
from onsale.auth.roles import Role
from onsale.auth.sessions import Grant
from onsale.server.pages.rendering import READER, REFUSED, Form, here, kept, page_language, render, told
from onsale.server.problems import INTERNAL, problem_of, refusal_headers
from onsale.server.route import Route
from onsale.web import messages

Handler = Callable[[web.Request], Awaitable[web.Response]]
T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

FIELDS = web.RequestKey("fields", dict[str, str])
# Passwords: taken as they were typed, and never shown again.
UNSHOWN = frozenset({"password", "current", "new"})
# Problems of one field that have words of their own.
FIELD_OF = {"current_password_wrong": "current"}
# What a flaw may point at that nobody filled in: the form as a whole, a letter's token.
NO_FIELDS = frozenset({"#", "token"})


def page(handler: Handler) -> Handler:
    """A page: whoever must sign in first is sent there; anything else refused is told on a page, with its status."""

    @wraps(handler)
    async def shown(request: web.Request) -> web.Response:
        grant = None
        try:
            grant = await _meet(request)
            answer = await handler(request)
        except (Unauthenticated, EmailUnverified) as error:
            answer = _to_door(error, here(request))
        except Exception as error:
            if problem_of(error) is INTERNAL:
                raise
            answer = _refused(request, error)
        return _keep_signed_in(request, answer, grant)

    return shown


def form(back: str, again: Handler | None = None) -> Callable[[Handler], Handler]:
    """A form's answer: what is refused is told on the page `back`, whose {names} come from the path. `again` shows that
    page in place, filled in as it was; it stands under the form's own path, so that its links lead where they say."""

    def wrap(handler: Handler) -> Handler:
        @wraps(handler)
        async def answered(request: web.Request) -> web.Response:
            path = named(request, back)
            grant = None
            try:
                require_same_origin(request)
                grant = await _meet(request)
                answer = await handler(request)
            except (Unauthenticated, EmailUnverified) as error:
                answer = _to_door(error, path)
            except Exception as error:
                problem = problem_of(error)
                if problem is INTERNAL:
                    raise
                if again is not None and FIELDS in request:
                    answer = await _shown_again(request, again, error)
                else:
                    answer = onward(f"{path}?{kept(request)}problem={problem.code}")
            return _keep_signed_in(request, answer, grant)

        return answered

    return wrap


def html(method: str, path: str, handler: Handler, name: str, summary: str) -> Route:
    """A page's or a form's line in the table of routes."""
    return Route(method, path, handler, name, summary, media="text/html")


def new_key() -> str:
    """A key for a form: sent twice it asks for one thing."""
    return secrets.token_hex(16)


def reader(request: web.Request, *roles: Role, unverified: bool = False) -> Identity:
    """Whoever is signed in, with one of the roles where some are named; `unverified`: also before the address is
    verified. Raises Unauthenticated, EmailUnverified, Forbidden."""
    found = request[READER]
    if found is None:
        raise Unauthenticated
    if not found.is_verified and not unverified:
        raise EmailUnverified
    if roles and found.role not in roles:
        raise Forbidden
    return found


def onward(path: str) -> web.Response:
    """Go on there, with GET."""
    return web.Response(status=303, headers={"Location": path})


def named(request: web.Request, path: str) -> str:
    """A path of ours with the {names} of this one's: whatever a name decodes to, it stays one segment."""
    return path.format(**{name: quote(value, safe="") for name, value in request.match_info.items()})


def own_path(path: str) -> str:
    """A path of ours to go on to: nothing that a browser could take for another site."""
    parts = urlsplit(path)
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return path if is_ours and path.isprintable() else "/"


def next_path(request: web.Request) -> str:
    """Where the visitor was going when this page came between: a path of ours."""
    return own_path(request.query.get("next", "/"))


async def typed(request: web.Request) -> dict[str, str]:
    """The fields of the form that was sent; a page that shows it again finds them. Raises what `form_fields` raises."""
    if FIELDS not in request:
        request[FIELDS] = await form_fields(request)
    return request[FIELDS]


def entered(fields: Mapping[str, str], kind: type[S]) -> S:
    """A form as a message of the API: space around is dropped, an empty field was not filled in, and a field that the
    message does not have is not looked at. Raises InvalidRequest, which names every field that will not do."""
    found: dict[str, Any] = {}
    flaws: list[Flaw] = []
    for part in structs.fields(kind):
        text = fields.get(part.name, "")
        text = text if part.name in UNSHOWN else text.strip()
        if text:
            try:
                found[part.name] = msgspec.convert(text, part.type, strict=False)
            except msgspec.ValidationError as error:
                flaws.append(Flaw(f"#/{part.name}", "bad_value", str(error)[:200]))
        elif part.required:
            flaws.append(Flaw(f"#/{part.name}", "missing_field", "This field is required."))
    if flaws:
        raise InvalidRequest(*flaws)
    return kind(**found)


def converted(fields: Mapping[str, Any], kind: type[T]) -> T:
    """The fields of a form as a message of the API. Raises InvalidRequest."""
    try:
        return msgspec.convert(dict(fields), kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(Flaw("#", "bad_value", str(error)[:200])) from None


def filled(request: web.Request, **fields: Callable[[str], Any]) -> dict[str, Any]:
    """What a searching form asks for, each field through its parser; those left empty ask for nothing. Raises
    InvalidRequest."""
    found: dict[str, Any] = {}
    for name, read in fields.items():
        if text := request.query.get(name, "").strip():
            try:
                found[name] = read(text)
            except (ValueError, OverflowError):
                raise InvalidRequest(Flaw(f"?{name}", "bad_value", "Not a value that this field takes.")) from None
    return found


def form_key(fields: Mapping[str, str]) -> str:
    """The key that was put into the form: a doubled click sends it twice. Raises InvalidRequest."""
    key = fields.get("key", "")
    if not (1 <= len(key) <= 128 and key.isascii() and key.isalnum()):
        raise InvalidRequest(Flaw("#/key", "bad_value", "The form's key is missing."))
    return key


def plain(value: Any) -> dict[str, Any]:
    """A message of the API as templates read it."""
    found: dict[str, Any] = msgspec.to_builtins(value)
    return found


async def _meet(request: web.Request) -> Grant | None:
    """Find out who asks, unless the form that is shown again has. Waits last longer than an access cookie: where it has
    run out, the session is renewed."""
    if READER in request:
        return None
    request[READER], grant = await identity_renewed(request)
    return grant


def _keep_signed_in(request: web.Request, answer: web.Response, grant: Grant | None) -> web.Response:
    """Hand a renewed session to the browser, unless this very request began another or ended it."""
    cookies = request.app[COOKIES]
    if grant is not None and cookies.access not in answer.cookies:
        cookies.write(answer, grant)
    return answer


def _to_door(error: Unauthenticated | EmailUnverified, path: str) -> web.Response:
    """What must come first: signing in, or the code of a letter; then back."""
    return onward(f"/{'signin' if isinstance(error, Unauthenticated) else 'verify'}?next={quote(path)}")


async def _shown_again(request: web.Request, again: Handler, error: Exception) -> web.Response:
    """The page with its form as it was filled in, passwords left out, and what will not do."""
    problem, texts = problem_of(error), messages(page_language(request))
    values = {name: text for name, text in request[FIELDS].items() if name not in UNSHOWN}
    flaws = _flaws(error, problem.code, texts)
    over_all = {"title": texts["form.look_again"], "detail": ""} if flaws else told(texts, problem.code)
    request[REFUSED] = Form(values, flaws, over_all)
    answer = await again(request)
    if answer.status == 200:
        answer.set_status(problem.status)
        answer.headers.update(refusal_headers(error, problem))
    return answer


def _flaws(error: Exception, code: str, texts: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with which field, in words."""
    if code in FIELD_OF:
        return {FIELD_OF[code]: texts[f"problem.{code}.detail"]}
    named = error.errors if isinstance(error, InvalidRequest) else ()
    found = {flaw.pointer.removeprefix("#/"): flaw.code for flaw in named}
    return {name: _flaw_words(name, word, texts) for name, word in found.items() if name not in NO_FIELDS}


def _flaw_words(name: str, word: str, texts: Mapping[str, str]) -> str:
    """By what is wrong with this very field, or with any, where that says enough, else by what the field wants."""
    if (words := texts.get(f"flaw.{name}.{word}")) is not None:
        return words
    return texts.get(f"flaw.{name}" if word == "bad_value" else f"flaw.{word}", texts["flaw.bad_value"])


def _refused(request: web.Request, error: Exception) -> web.Response:
    """A page that says what was refused, and tries again by itself where that may help."""
    problem = problem_of(error)
    words = told(messages(page_language(request)), problem.code)
    return render(
        request,
        "refused.html",
        status=problem.status,
        told=words,
        retry_after_s=problem.retry_after_s,
        code=problem.code,
    )
