"""The way in: signing up, the code of the letter, signing in, and a new password by a letter.

Each page says the same whether anybody has the address that is named. Where the visitor was going comes along in the
address (`next`) through all of them; the address of the visitor does not: until its code is entered a cookie keeps it.
"""

from __future__ import annotations

from urllib.parse import quote, unquote, urlencode

from aiohttp import web

from onsale.auth.account_handlers import ask_for_letter, open_account, verify_email
from onsale.auth.handlers import open_session
from onsale.auth.middleware import ACCOUNTS, COOKIES, CREDENTIALS, SESSIONS
from onsale.auth.schemas import EmailOnly, PasswordReset, SignIn, SignUp, Verify
from onsale.server.pages.access import entered, form, html, next_path, onward, page, typed
from onsale.server.pages.devices import device_of
from onsale.server.pages.rendering import READER, page_language, render

# Whose code is waited for. Read by the page that asks for the code, and sent to no other.
VERIFYING_COOKIE = "onsale-verifying"
# Somebody may have to look for the letter among the unwanted ones.
VERIFYING_S = 3600


@page
async def show_sign_up(request: web.Request) -> web.Response:
    """Where to sign up."""
    return render(request, "signup.html", next=next_path(request))


@form("/signup", again=show_sign_up)
async def sign_up(request: web.Request) -> web.Response:
    """An account, or a letter to whoever has it already; then the code."""
    asked = entered(await typed(request), SignUp)
    await open_account(request, asked, page_language(request))
    return _to_code(request, asked.email)


@page
async def show_verify(request: web.Request) -> web.Response:
    """Where the code of the letter is entered, and another is asked for."""
    found = request[READER]
    if found is not None and found.is_verified:
        return onward(next_path(request))
    email = unquote(request.cookies.get(VERIFYING_COOKIE, ""))
    if found is not None:
        email = (await request.app[ACCOUNTS].profile(found.account)).email
    return render(request, "verify.html", filled={"email": email}, next=next_path(request))


@form("/verify", again=show_verify)
async def verify(request: web.Request) -> web.Response:
    """The address is its owner's; or another letter, by the form's other button."""
    fields = await typed(request)
    if "again" in fields:
        email = entered(fields, EmailOnly).email
        await ask_for_letter(request, "verification", email, page_language(request))
        return _to_code(request, email, said="code_sent")
    asked = entered(fields, Verify)
    await verify_email(request, asked.email, asked.code)
    is_in = request[READER] is not None
    answer = onward(next_path(request) if is_in else _with_next(request, "/signin", said="verified"))
    answer.del_cookie(VERIFYING_COOKIE, path="/verify")
    return answer


@page
async def show_sign_in(request: web.Request) -> web.Response:
    """Where to sign in, and where to go then."""
    return render(request, "signin.html", next=next_path(request))


@form("/signin", again=show_sign_in)
async def sign_in(request: web.Request) -> web.Response:
    """A session in cookies."""
    asked = entered(await typed(request), SignIn)
    device = device_of(request.headers.get("User-Agent", ""))
    grant = await open_session(request, asked.email, asked.password, device)
    answer = onward(next_path(request))
    request.app[COOKIES].write(answer, grant)
    return answer


@form("/")
async def sign_out(request: web.Request) -> web.Response:
    """End this browser's session."""
    answer, found = onward("/"), request[READER]
    if found is not None:
        await request.app[SESSIONS].sign_out(found.account, found.session)
    request.app[COOKIES].clear(answer)
    return answer


@page
async def show_reset(request: web.Request) -> web.Response:
    """Where a letter with a link is asked for; and where its link leads, to the new password."""
    is_link = "token" in request.query
    return render(request, "reset.html", is_secret=is_link, is_link=is_link, next=next_path(request))


@form("/password-reset", again=show_reset)
async def reset(request: web.Request) -> web.Response:
    """The letter, if anybody has the address; or, from the link of one, the new password."""
    fields = await typed(request)
    if "token" in request.query:
        asked = entered({**fields, "token": request.query["token"]}, PasswordReset)
        await request.app[CREDENTIALS].reset(asked.token, asked.new)
        answer = onward("/signin?said=password_changed")
        # Every device was signed out, whoever's it was: what this one keeps is of no use any more.
        request.app[COOKIES].clear(answer)
        return answer
    email = entered(fields, EmailOnly).email
    await ask_for_letter(request, "password_reset", email, page_language(request))
    return onward(_with_next(request, "/password-reset", said="letter_sent"))


def _to_code(request: web.Request, email: str, **more: str) -> web.Response:
    """On to the page that asks for the code sent to this address."""
    answer = onward(_with_next(request, "/verify", **more))
    is_secure = not request.app[COOKIES].is_insecure
    answer.set_cookie(
        VERIFYING_COOKIE, quote(email), path="/verify", max_age=VERIFYING_S, httponly=True, samesite="Lax",
        secure=is_secure,
    )  # fmt: skip
    return answer


def _with_next(request: web.Request, path: str, **more: str) -> str:
    """A page of the way in, from where it goes on to where the visitor was going."""
    return f"{path}?{urlencode({'next': next_path(request), **more})}"


ROUTES = (
    html("GET", "/signup", show_sign_up, "sign_up_page", "Sign up."),
    html("POST", "/signup", sign_up, "sign_up_form", "Sign up from the page."),
    html("GET", "/verify", show_verify, "verify_page", "Enter a letter's code."),
    html("POST", "/verify", verify, "verify_form", "Enter a letter's code from the page, or have another sent."),
    html("GET", "/signin", show_sign_in, "sign_in_page", "Sign in."),
    html("POST", "/signin", sign_in, "sign_in_form", "Sign in from the page."),
    html("POST", "/signout", sign_out, "sign_out_form", "Sign out from the page."),
    html("GET", "/password-reset", show_reset, "reset_page", "Have a link to a new password sent, or follow it."),
    html("POST", "/password-reset", reset, "reset_form", "Ask for that link, or choose the password, from the page."),
)
