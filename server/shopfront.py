"""The pages of the shop: sales, the line, checkout, orders, the console. All but the console work without scripts.

A page shows what the API answers: it calls the same rooms and decodes the same documents, so a buyer without scripts
walks through the same states as a client. Forms are writes by cookie and must come from our own origin; after a form
the browser is sent on to a page, so reloading repeats nothing. What was refused is told there, in the reader's words.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from aiohttp import web

from onsale.auth.errors import EmailUnverified, Flaw, Forbidden, InvalidRequest, NotFound, Unauthenticated
from onsale.auth.handlers import open_session
from onsale.auth.identity import Identity
from onsale.auth.middleware import COOKIES, SESSIONS, TICKETS, identity_renewed, require_same_origin
from onsale.auth.requests import form_fields, language
from onsale.auth.roles import Role
from onsale.auth.sessions import Grant
from onsale.catalog.handlers import BOOK
from onsale.catalog.sales import Sale
from onsale.catalog.schemas import sale_reply
from onsale.catalog.states import SaleState
from onsale.checkout.handlers import FLOW, READS
from onsale.checkout.orders import Page
from onsale.checkout.schemas import ItemRequest, PaymentRequest, ReserveRequest
from onsale.queue.handlers import FEED, TELLER
from onsale.server.problems import INTERNAL, problem_of
from onsale.server.route import Route
from onsale.web import LANGUAGES, messages, money_text, templates

Handler = Callable[[web.Request], Awaitable[web.Response]]

# Who is signed in; None: nobody.
READER: web.RequestKey[Identity | None] = web.RequestKey("reader", object)  # type: ignore[arg-type]
LANGUAGE_COOKIE = "onsale-language"
TICKET_COOKIE = "onsale-ticket"
YEAR_S = 365 * 24 * 3600
# What the sandbox provider obeys and a person may want to try by hand.
SANDBOX_TOKENS = (
    "ok",
    "decline_funds",
    "decline_card_expired",
    "decline_limit",
    "fail_provider",
    "cancelled_by_buyer",
    "slow_2000",
    "lost_reply",
)
OPERATORS = (Role.MANAGER, Role.MASTER)
JOINABLE = (SaleState.SCHEDULED, SaleState.OPEN)
ORDERS_A_PAGE = 20
# What an address may ask for once: it does not belong to the page it leads to.
PASSING = ("lang", "problem")


def page(handler: Handler) -> Handler:
    """A page: whoever must sign in first is sent there; anything else refused is told on a page, with its status."""

    @wraps(handler)
    async def shown(request: web.Request) -> web.Response:
        grant = None
        try:
            grant = await _meet(request)
            answer = await handler(request)
        except Unauthenticated:
            answer = _onward(f"/signin?next={quote(_here(request))}")
        except Exception as error:
            if problem_of(error) is INTERNAL:
                raise
            answer = await _refused(request, error)
        return _keep_signed_in(request, answer, grant)

    return shown


def form(back: str) -> Callable[[Handler], Handler]:
    """A form's answer: what is refused is told on the page `back`, whose {names} come from the path."""

    def wrap(handler: Handler) -> Handler:
        @wraps(handler)
        async def answered(request: web.Request) -> web.Response:
            path = back.format(**{name: quote(value, safe="") for name, value in request.match_info.items()})
            grant = None
            try:
                require_same_origin(request)
                grant = await _meet(request)
                answer = await handler(request)
            except Unauthenticated:
                answer = _onward(f"/signin?next={quote(path)}")
            except Exception as error:
                problem = problem_of(error)
                if problem is INTERNAL:
                    raise
                answer = _onward(f"{path}?{_kept(request)}problem={problem.code}")
            return _keep_signed_in(request, answer, grant)

        return answered

    return wrap


async def _meet(request: web.Request) -> Grant | None:
    """Find out who asks. Waits last longer than an access cookie: where it has run out, the session is renewed."""
    request[READER], grant = await identity_renewed(request)
    return grant


def _keep_signed_in(request: web.Request, answer: web.Response, grant: Grant | None) -> web.Response:
    """Hand a renewed session to the browser, unless this very request began another or ended it."""
    cookies = request.app[COOKIES]
    if grant is not None and cookies.access not in answer.cookies:
        cookies.write(answer, grant)
    return answer


def _reader(request: web.Request) -> Identity:
    """Whoever is signed in. Raises Unauthenticated, EmailUnverified."""
    found = request[READER]
    if found is None:
        raise Unauthenticated
    if not found.is_verified:
        raise EmailUnverified
    return found


@page
async def shop(request: web.Request) -> web.Response:
    """Every sale, the newest first."""
    now_ms = _now_ms()
    sales = [_plain(sale_reply(sale, now_ms)) for sale in reversed(request.app[BOOK].approved())]
    return await _page(request, "shop.html", sales=sales, lines=_lines(request))


@page
async def sign_in_form(request: web.Request) -> web.Response:
    """Where to sign in, and where to go then."""
    return await _page(request, "signin.html", next=_own_path(request.query.get("next", "/")), email="")


@form("/signin")
async def sign_in(request: web.Request) -> web.Response:
    """A session in cookies."""
    fields = await form_fields(request)
    grant = await open_session(request, fields.get("email", ""), fields.get("password", ""), "browser")
    answer = _onward(_own_path(fields.get("next", "/")))
    request.app[COOKIES].write(answer, grant)
    return answer


@form("/")
async def sign_out(request: web.Request) -> web.Response:
    """End this browser's session."""
    answer, found = _onward("/"), request[READER]
    if found is not None:
        await request.app[SESSIONS].sign_out(found.account, found.session)
    request.app[COOKIES].clear(answer)
    return answer


@page
async def sale_page(request: web.Request) -> web.Response:
    """The waiting page: a sale, and how this buyer's ticket in it stands."""
    sale = request.app[BOOK].get(request.match_info["sale"])
    ticket = await _ticket(request)
    lang = _language(request)
    texts = messages(lang)
    reason = ticket["reason"] if ticket else None
    return await _page(
        request,
        "sale.html",
        sale=_plain(sale_reply(sale, _now_ms())),
        line=_line_document(request, sale),
        ticket=ticket,
        can_join=sale.state(_now_ms()) in JOINABLE,
        message=(sale.message or {}).get(lang),
        reason=texts.get(f"reason.{reason['code']}") if reason else None,
        key=secrets.token_hex(16),
        words=_waiting_words(texts),
    )


@form("/sales/{sale}")
async def join(request: web.Request) -> web.Response:
    """A place in the line. The ticket's id stays in a cookie of this page, so that reloading finds it again."""
    found = _reader(request)
    sale = request.app[BOOK].get(request.match_info["sale"])
    joined = await request.app[TELLER].join(request.app[FEED].line_of(sale.no), found.account)
    path = f"/sales/{sale.id}"
    answer = _onward(path)
    answer.set_cookie(TICKET_COOKIE, joined.ticket, path=path, httponly=True, samesite="Lax", max_age=YEAR_S)
    return answer


@form("/sales/{sale}")
async def leave(request: web.Request) -> web.Response:
    """Give the place up."""
    found = _reader(request)
    ticket = (await form_fields(request)).get("ticket", "")
    tickets = request.app[TICKETS]
    facts = tickets.facts(ticket)
    if not tickets.belongs(ticket, found.account):
        raise NotFound
    await request.app[TELLER].leave(facts, found.account)
    return _onward(f"/sales/{request.match_info['sale']}")


@form("/sales/{sale}")
async def reserve(request: web.Request) -> web.Response:
    """Hold units of one product. The form's own key makes a doubled click one order."""
    found = _reader(request)
    fields = await form_fields(request)
    item = _converted({"product": fields.get("product"), "quantity": fields.get("quantity")}, ItemRequest)
    held = await request.app[FLOW].reserve(
        request.match_info["sale"],
        found.account,
        fields.get("pass", ""),
        ReserveRequest(items=(item,)),
        _key(fields),
    )
    return _onward(f"/orders/{held.order}")


@page
async def orders(request: web.Request) -> web.Response:
    """One's own orders, the newest first."""
    found = _reader(request)
    listed = await request.app[READS].page(
        found.account, Page(limit=ORDERS_A_PAGE, after=request.query.get("cursor") or None)
    )
    return await _page(
        request, "orders.html", orders=[_plain(order) for order in listed.items], next_cursor=listed.next_cursor
    )


@page
async def order_page(request: web.Request) -> web.Response:
    """One order: what it holds, how to pay for it, and what became of every try."""
    found = _reader(request)
    order = await request.app[READS].order(found.account, request.match_info["order"])
    return await _page(request, "order.html", order=_plain(order), key=secrets.token_hex(16), tokens=SANDBOX_TOKENS)


@form("/orders/{order}")
async def pay(request: web.Request) -> web.Response:
    """Pay and confirm; the page then says how far it has come."""
    found = _reader(request)
    fields = await form_fields(request)
    payment = _converted({"provider": "sandbox", "method": "card", "token": fields.get("token")}, PaymentRequest)
    order = request.match_info["order"]
    await request.app[FLOW].confirm(found.account, order, payment, _key(fields))
    return _onward(f"/orders/{order}")


@form("/orders/{order}")
async def give_up(request: web.Request) -> web.Response:
    """Give a reservation up."""
    found = _reader(request)
    await request.app[READS].release(found.account, request.match_info["order"])
    return _onward(f"/orders/{request.match_info['order']}")


@page
async def console(request: web.Request) -> web.Response:
    """The operators' console: every sale, or one of them live."""
    if _reader(request).role not in OPERATORS:
        raise Forbidden
    now_ms = _now_ms()
    chosen = request.query.get("sale")
    book = request.app[BOOK]
    texts = messages(_language(request))
    return await _page(
        request,
        "console.html",
        sales=[_plain(sale_reply(sale, now_ms)) for sale in reversed(book.all())],
        sale=_plain(sale_reply(book.get(chosen), now_ms)) if chosen else None,
        lines=_lines(request),
        words=_console_words(texts),
    )


async def _page(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
    lang = _language(request)
    texts = messages(lang)
    told = _told(texts, request.query.get("problem", ""))
    text = (
        templates()
        .get_template(template)
        .render(
            lang=lang,
            t=_translator(texts),
            who=_who(request),
            here=_here(request),
            kept=_kept(request),
            problem=told,
            money=_money,
            moment=_moment,
            clock=_clock,
            number=_number,
            wait_range=_wait_range(texts),
            **values,
        )
    )
    answer = web.Response(
        status=status,
        text=text,
        content_type="text/html",
        headers={"Content-Language": lang, "Cache-Control": "no-store"},
    )
    if request.query.get("lang") in LANGUAGES:
        answer.set_cookie(LANGUAGE_COOKIE, lang, path="/", samesite="Lax", httponly=True, max_age=YEAR_S)
    return answer


async def _refused(request: web.Request, error: Exception) -> web.Response:
    """A page that says what was refused."""
    problem = problem_of(error)
    told = _told(messages(_language(request)), problem.code)
    return await _page(request, "refused.html", status=problem.status, told=told)


def _told(texts: Mapping[str, str], code: str) -> dict[str, str] | None:
    title, detail = texts.get(f"problem.{code}.title"), texts.get(f"problem.{code}.detail")
    return {"title": title, "detail": detail} if title is not None and detail is not None else None


def _kept(request: web.Request) -> str:
    """What an address asks for beside the language and what was refused: it stays when those change."""
    return "".join(urlencode({name: text}) + "&" for name, text in request.query.items() if name not in PASSING)


def _here(request: web.Request) -> str:
    """This page, to come back to."""
    return f"{request.path}?{_kept(request)}".rstrip("&?")


def _onward(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})


def _own_path(path: str) -> str:
    """A path of ours to go on to: nothing that a browser could take for another site."""
    parts = urlsplit(path)
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return path if is_ours and path.isprintable() else "/"


def _who(request: web.Request) -> dict[str, bool] | None:
    found = request.get(READER)
    return None if found is None else {"is_operator": found.role in OPERATORS}


async def _ticket(request: web.Request) -> dict[str, Any] | None:
    """How the ticket of this page's cookie stands, or None where the reader has none here. An admitted one is taken."""
    found = request[READER]
    ticket = request.cookies.get(TICKET_COOKIE, "")
    tickets = request.app[TICKETS]
    if found is None or not tickets.belongs(ticket, found.account):
        return None
    facts = tickets.facts(ticket)
    told = request.app[TELLER].poll(facts) or await request.app[TELLER].tell(facts, found.account)
    decoded: dict[str, Any] = msgspec.json.decode(told.doc)
    return decoded


def _line_document(request: web.Request, sale: Sale) -> dict[str, Any] | None:
    frame = request.app[FEED].line_of(sale.no).frame
    return None if frame is None else _plain(frame.document)


def _lines(request: web.Request) -> dict[str, dict[str, Any] | None]:
    return {sale.id: _line_document(request, sale) for sale in request.app[BOOK].all()}


def _converted(fields: Mapping[str, str | None], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(dict(fields), kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(Flaw("#", "bad_value", str(error)[:200])) from None


def _key(fields: Mapping[str, str]) -> str:
    key = fields.get("key", "")
    if not (1 <= len(key) <= 128 and key.isascii() and key.isalnum()):
        raise InvalidRequest(Flaw("#/key", "bad_value", "The form's key is missing."))
    return key


def _language(request: web.Request) -> str:
    """What was chosen on a page, else what the browser asks for."""
    chosen = request.query.get("lang") or request.cookies.get(LANGUAGE_COOKIE, "")
    return chosen if chosen in LANGUAGES else language(request)


def _translator(texts: Mapping[str, str]) -> Callable[..., str]:
    return lambda key, **values: texts[key].format(**values) if values else texts[key]


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain


def _money(money: Mapping[str, Any]) -> str:
    return money_text(money["amount"], money["currency"])


def _moment(text: str) -> str:
    return _read_time(text).strftime("%Y-%m-%d %H:%M UTC")


def _clock(text: str) -> str:
    return _read_time(text).strftime("%H:%M:%S UTC")


def _read_time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _number(value: int) -> str:
    return f"{value:,}"


def _wait_range(texts: Mapping[str, str]) -> Callable[[Mapping[str, int] | None], str]:
    def span(ms: int) -> str:
        if ms < 60_000:
            return texts["page.seconds"].format(n=max(1, -(-ms // 1000)))
        return texts["page.minutes"].format(n=-(-ms // 60_000))

    def shown(wait: Mapping[str, int] | None) -> str:
        return texts["page.unknown"] if wait is None else f"{span(wait['p50'])} – {span(wait['p90'])}"

    return shown


def _waiting_words(texts: Mapping[str, str]) -> dict[str, Any]:
    named = ("seconds", "minutes", "unknown", "spoken", "your_turn", "by_stream", "by_polling", "away")
    return {name: texts[f"page.{name}"] for name in named} | _line_words(texts)


def _console_words(texts: Mapping[str, str]) -> dict[str, Any]:
    named = ("done", "changed", "reverts", "sure_drain", "sure_close")
    return {name: texts[f"page.{name}"] for name in named} | _line_words(texts)


def _line_words(texts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "states": {
            key.removeprefix("page.state."): text for key, text in texts.items() if key.startswith("page.state.")
        },
        "reasons": {key.removeprefix("reason."): text for key, text in texts.items() if key.startswith("reason.")},
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _html(method: str, path: str, handler: Handler, name: str, summary: str) -> Route:
    return Route(method, path, handler, name, summary, media="text/html")


ROUTES = (
    _html("GET", "/", shop, "shop_page", "The shop."),
    _html("GET", "/signin", sign_in_form, "sign_in_page", "Sign in."),
    _html("POST", "/signin", sign_in, "sign_in_form", "Sign in from the page."),
    _html("POST", "/signout", sign_out, "sign_out_form", "Sign out from the page."),
    _html("GET", "/sales/{sale}", sale_page, "sale_page", "The waiting page."),
    _html("POST", "/sales/{sale}/join", join, "join_form", "Join from the page."),
    _html("POST", "/sales/{sale}/leave", leave, "leave_form", "Leave from the page."),
    _html("POST", "/sales/{sale}/orders", reserve, "reserve_form", "Reserve from the page."),
    _html("GET", "/orders", orders, "orders_page", "One's own orders."),
    _html("GET", "/orders/{order}", order_page, "order_page", "One order."),
    _html("POST", "/orders/{order}/pay", pay, "pay_form", "Pay from the page."),
    _html("POST", "/orders/{order}/give-up", give_up, "give_up_form", "Give a reservation up from the page."),
    _html("GET", "/console", console, "console_page", "The operators' console."),
)
