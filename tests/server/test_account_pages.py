"""The pages of accounts as a browser without scripts meets them: each form, what it refuses and where it goes on."""

from __future__ import annotations

import asyncio
import itertools
import re
from http.cookies import SimpleCookie
from urllib.parse import urlencode

import pytest
from contract_kit import PASSWORD, PATIENCE_S, Answer, System

from onsale.auth.addressbook import ADDRESSES_MAX
from onsale.auth.throttle import LETTER_ACCOUNT_BUDGET
from onsale.server.pages.access import own_path
from onsale.server.pages.devices import device_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEXT = "another 전차 eight"
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Mobile Safari/604.1"
HOME = {"recipient": "김미나", "line1": "세종대로 1", "postal_code": "04524", "country": "kr"}
numbers = itertools.count(1)


class Visitor:
    """A browser: keeps cookies by name and path, comes from our own pages, follows nothing."""

    def __init__(self, system: System, **headers: str) -> None:
        self._system = system
        self.headers = {"Sec-Fetch-Site": "same-origin", **headers}
        self.cookies: dict[tuple[str, str], str] = {}

    async def get(self, path: str) -> Answer:
        return await self._ask("GET", path, None)

    async def post(self, path: str, **fields: str) -> Answer:
        return await self._ask("POST", path, urlencode(fields).encode())

    async def _ask(self, method: str, path: str, sent: bytes | None) -> Answer:
        kept = [f"{name}={text}" for (name, under), text in self.cookies.items() if path.startswith(under)]
        headers = self.headers | ({"Cookie": "; ".join(kept)} if kept else {})
        media = "application/x-www-form-urlencoded"
        answer = await self._system.call(method, path, sent=sent, media=media, **headers)
        for line in answer.headers.getall("Set-Cookie", []):
            for name, morsel in SimpleCookie(line).items():
                self.cookies.pop((name, morsel["path"]), None)
                if morsel.value:
                    self.cookies[name, morsel["path"]] = morsel.value
        return answer


def onward(answer: Answer) -> tuple[int, str]:
    """Where the browser is sent."""
    return answer.status, answer.headers["Location"]


def said(answer: Answer) -> str:
    return answer.body.decode()


def flaws(answer: Answer) -> dict[str, str]:
    """What is written beside fields that will not do, by field."""
    text = said(answer)
    found = dict(re.findall(r'<small class="flaw" id="(\w+)-flaw">([^<]+)</small>', text))
    assert set(found) == set(re.findall(r'aria-describedby="(\w+)-flaw[^"]*" aria-invalid="true"', text))
    return found


def person(**more: str) -> dict[str, str]:
    """What somebody nobody knows yet fills in."""
    email = f"mina-{next(numbers)}@pages.example"
    return {"email": email, "password": PASSWORD, "name": "김미나", "phone": "010-1234-5678", **more}


async def letters(system: System, email: str, count: int) -> None:
    """Wait until so many letters have come to an address."""
    async with asyncio.timeout(PATIENCE_S):
        while len(system.mail.to(email)) < count:
            await asyncio.sleep(0.02)


async def member(system: System, **headers: str) -> tuple[Visitor, dict[str, str]]:
    """Somebody who signed up by the API and in by the page, and what they signed up with."""
    who = person()
    await system.person(who["email"])
    return await entered(system, who, **headers), who


async def entered(system: System, who: dict[str, str], **headers: str) -> Visitor:
    visitor = Visitor(system, **headers)
    answer = await visitor.post("/signin", email=who["email"], password=who["password"])
    assert (303, "/") == onward(answer)
    return visitor


# --- the way in


async def test_signing_up_verifying_signing_in(system: System) -> None:
    """Where the visitor came from comes along through all three, the address of the visitor in no address."""
    visitor, who = Visitor(system), person()
    page = said(await visitor.get("/signin?next=/sales/drop"))
    assert 'href="/signup?next=/sales/drop"' in page and 'href="/password-reset?next=/sales/drop"' in page

    assert (303, "/verify?next=%2Fsales%2Fdrop") == onward(await visitor.post("/signup?next=/sales/drop", **who))
    await letters(system, who["email"], 1)
    page = said(await visitor.get("/verify?next=%2Fsales%2Fdrop"))
    assert f'value="{who["email"]}"' in page
    code = system.mail.code(who["email"])
    answer = await visitor.post("/verify?next=%2Fsales%2Fdrop", email=who["email"], code=f" {code} ")
    assert (303, "/signin?next=%2Fsales%2Fdrop&said=verified") == onward(answer)
    assert {} == visitor.cookies
    answer = await visitor.post("/signin?next=%2Fsales%2Fdrop&said=verified", email=who["email"], password=PASSWORD)

    assert (303, "/sales/drop") == onward(answer)
    assert 200 == (await visitor.get("/account/addresses")).status


async def test_letters_are_in_the_language_of_the_page(system: System) -> None:
    """Which somebody chose there, whatever the browser would rather read."""
    visitor, who = Visitor(system, **{"Accept-Language": "en"}), person()
    await visitor.get("/signup?lang=ko")
    await visitor.post("/signup", **who)
    await letters(system, who["email"], 1)

    assert "인증 번호" in system.mail.to(who["email"])[0]["Subject"]


@pytest.mark.parametrize("path", ["//elsewhere.example", "/\\elsewhere.example", "https://elsewhere.example", "/\t/x"])
async def test_signing_in_goes_on_to_our_own_pages_only(system: System, path: str) -> None:
    """Where to go after signing in is never another site, on this page and on those before it."""
    _, who = await member(system)
    visitor, asked = Visitor(system), urlencode({"next": path})
    assert 'href="/signup?next=/"' in said(await visitor.get(f"/signin?{asked}"))
    answer = await visitor.post(f"/signin?{asked}", email=who["email"], password=PASSWORD)

    assert "/" == own_path(path)
    assert (303, "/") == onward(answer)
    assert (303, "/verify?next=%2F") == onward(await Visitor(system).post(f"/signup?{asked}", **person()))


async def test_a_refused_form_is_shown_as_it_was_filled_in(system: System) -> None:
    """Every flaw beside its field at once; the password is asked for again; nothing is made."""
    visitor, who = Visitor(system, **{"Accept-Language": "en"}), person(name="<b>Mina</b>", phone="call me")
    who["password"] = ""
    answer = await visitor.post("/signup?next=/orders", **who)

    assert 422 == answer.status
    assert ["Please fill this in.", "A phone number is written in digits, like 010-1234-5678."] == (
        [flaws(answer)[name] for name in ("password", "phone")]
    )
    assert f'value="{who["email"]}"' in said(answer) and 'value="&lt;b&gt;Mina&lt;/b&gt;"' in said(answer)
    assert 'action="/signup?next=%2Forders"' in said(answer)
    weak = await visitor.post("/signup", **person(password="qwertyuiop"))
    assert {"password"} == set(flaws(weak))
    assert "qwertyuiop" not in said(weak)
    assert {"email"} == set(flaws(await visitor.post("/signup", **person() | {"email": "a b@c"})))


async def test_no_page_tells_whether_an_address_has_an_account(system: System) -> None:
    """Signing up, another code, a link, a wrong code, a wrong password: one answer for both, to the letter."""
    _, known = await member(system)
    answers: list[list[tuple[int, str | None, str]]] = []
    for email in (known["email"], person()["email"]):
        told = []
        for path, fields in (
            ("/signup", person() | {"email": email}),
            ("/verify", {"email": email, "again": "1"}),
            ("/verify", {"email": email, "code": "000000"}),
            ("/password-reset", {"email": email}),
            ("/signin", {"email": email, "password": "not this one"}),
        ):
            answer = await Visitor(system).post(path, **fields)
            told.append((answer.status, answer.headers.get("Location"), said(answer).replace(email, "…")))
        answers.append(told)

    assert answers[0] == answers[1]
    assert [303, 303, 422, 303, 401] == [status for status, *_ in answers[0]]


async def test_another_code_is_sent(system: System) -> None:
    """By the other button of the same form; the address may be mended meanwhile."""
    visitor, who = Visitor(system), person()
    await visitor.post("/signup", **who)
    await letters(system, who["email"], 1)
    answer = await visitor.post("/verify", email=who["email"], again="1", code="")
    assert (303, "/verify?next=%2F&said=code_sent") == onward(answer)
    await letters(system, who["email"], 2)
    newest = system.mail.code(who["email"])
    wrong = await visitor.post("/verify", email=who["email"], code=f"{(int(newest) + 1) % 10**6:06d}")

    assert (422, {"code"}) == (wrong.status, set(flaws(wrong)))
    assert {"code"} == set(flaws(await visitor.post("/verify", email=who["email"], code="12345")))
    assert 303 == (await visitor.post("/verify", email=who["email"], code=newest)).status


async def test_who_is_not_verified_is_asked_for_the_code_first(system: System) -> None:
    """By every page that needs it, with the way back; the rest of the account is open, so that one can go."""
    who = person()
    await Visitor(system).post("/signup", **who)
    await letters(system, who["email"], 1)
    visitor = await entered(system, who)

    assert (303, "/verify?next=/account/addresses") == onward(await visitor.get("/account/addresses"))
    assert (303, "/verify?next=/sales/x") == onward(await visitor.post("/sales/x/join"))
    assert [200] * 3 == [(await visitor.get(f"/account{part}")).status for part in ("", "/sessions", "/delete")]
    assert f'value="{who["email"]}"' in said(await visitor.get("/verify"))
    answer = await visitor.post("/verify?next=/account", email=who["email"], code=system.mail.code(who["email"]))
    assert (303, "/account") == onward(answer)
    assert 200 == (await visitor.get("/account/addresses")).status
    assert (303, "/") == onward(await visitor.get("/verify"))


async def test_letters_are_asked_for_within_a_budget(system: System) -> None:
    """Beyond it the page says so, and when to come back."""
    who = person()
    tries = range(LETTER_ACCOUNT_BUDGET.tries + 1)
    answers = [await Visitor(system).post("/password-reset", email=who["email"]) for _ in tries]

    assert [303] * LETTER_ACCOUNT_BUDGET.tries + [429] == [answer.status for answer in answers]
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert 'role="alert"' in said(answers[-1])


async def test_a_forgotten_password(system: System) -> None:
    """By the link of a letter, once; every device is out, and the page that holds the token is sent uncompressed."""
    visitor, who = await member(system)
    assert (303, "/password-reset?next=%2F&said=letter_sent") == onward(
        await Visitor(system).post("/password-reset", email=who["email"])
    )
    await letters(system, who["email"], 2)
    link = f"/password-reset?token={system.mail.token(who['email'])}"
    elsewhere = Visitor(system, **{"Accept-Encoding": "gzip"})
    page = await elsewhere.get(link)
    assert (200, False) == (page.status, "Content-Encoding" in page.headers)
    short = await elsewhere.post(link, new="short")
    assert (422, {"new"}) == (short.status, set(flaws(short)))
    assert f'action="{link}"' in said(short)
    assert (303, "/signin?said=password_changed") == onward(await elsewhere.post(link, new=NEXT))
    again = await elsewhere.post(link, new=NEXT)

    assert (422, {}) == (again.status, flaws(again))
    assert 'role="alert"' in said(again)
    assert (303, "/signin?next=/account") == onward(await visitor.get("/account"))
    assert 401 == (await visitor.post("/signin", email=who["email"], password=PASSWORD)).status
    await entered(system, who | {"password": NEXT})


# --- your account


async def test_the_profile(system: System) -> None:
    """Changed, and shown as it is; pages are in the chosen language from then on."""
    visitor, _ = await member(system, **{"Accept-Language": "en"})
    answer = await visitor.post("/account", name=" 김민아 ", phone="02 123 4567", language="ko")
    assert (303, "/account?said=saved") == onward(answer)
    page = said(await visitor.get("/account?said=saved"))

    assert '<html lang="ko">' in page and "저장했습니다." in page
    assert 'value="김민아"' in page and 'value="02 123 4567"' in page
    refused = await visitor.post("/account", name="", phone="x", language="tlh")
    assert (422, {"name", "phone"}) == (refused.status, set(flaws(refused)))
    assert 'value="김민아"' in said(await visitor.get("/account"))


async def test_signing_out_there(system: System) -> None:
    """One device from another, known by what its browser calls itself; in force at once."""
    here, who = await member(system)
    there = await entered(system, who, **{"User-Agent": PHONE})
    page = said(await here.get("/account/sessions"))
    assert "Safari, iPhone" in page
    # This one has no button; the one that signed up by the API has.
    session, _ = re.findall(r'action="/account/sessions/(\w+)/end"', page)

    answer = await here.post(f"/account/sessions/{session}/end")
    assert (303, "/account/sessions?said=signed_out_there") == onward(answer)
    assert (303, "/signin?next=/account") == onward(await there.get("/account"))
    again = await here.post(f"/account/sessions/{session}/end")
    assert onward(answer) == onward(again)
    assert (303, "/signin?said=signed_out_everywhere") == onward(await here.post("/account/sessions/end"))
    assert {} == here.cookies


async def test_the_address_book(system: System) -> None:
    """Added, changed, made the default, removed; a flaw beside its field changes nothing."""
    visitor, _ = await member(system)
    assert 'name="default" value="true" checked' in said(await visitor.get("/account/addresses"))
    for more in ({"default": "true"}, {"line1": "한강대로 2"}):
        answer = await visitor.post("/account/addresses", **HOME | more)
        assert (303, "/account/addresses?said=address_added") == onward(answer)
    page = said(await visitor.get("/account/addresses"))
    newer, older = re.findall(r'href="/account/addresses/(\w+)"', page)
    assert [older not in one for one in re.findall(r'action="/account/addresses/(\w+)/default"', page)] == [True]

    bad = await visitor.post(f"/account/addresses/{newer}", **HOME | {"line1": " ", "country": "Korea"})
    assert (422, {"line1", "country"}) == (bad.status, set(flaws(bad)))
    changed = await visitor.post(f"/account/addresses/{newer}", **HOME | {"line1": "한강대로 3", "postal_code": ""})
    assert (303, "/account/addresses?said=saved") == onward(changed)
    form = said(await visitor.get(f"/account/addresses/{newer}"))
    assert 'value="한강대로 3"' in form and 'value="KR"' in form and "04524" not in form
    await visitor.post(f"/account/addresses/{newer}/default")
    page = said(await visitor.get("/account/addresses"))
    assert [older] == re.findall(r'action="/account/addresses/(\w+)/default"', page)
    await visitor.post(f"/account/addresses/{older}/remove")
    again = await visitor.post(f"/account/addresses/{older}/remove")
    assert (303, "/account/addresses?problem=address_unknown") == onward(again)
    assert [newer] == re.findall(r'href="/account/addresses/(\w+)"', said(await visitor.get("/account/addresses")))


async def test_a_full_address_book_says_so(system: System) -> None:
    """And keeps what was typed."""
    visitor, _ = await member(system)
    for _ in range(ADDRESSES_MAX):
        await visitor.post("/account/addresses", **HOME)
    full = await visitor.post("/account/addresses", **HOME | {"line1": "한 곳 더"})

    assert (409, {}) == (full.status, flaws(full))
    assert 'role="alert"' in said(full) and 'value="한 곳 더"' in said(full)


async def test_changing_the_password(system: System) -> None:
    """The present one is asked for, beside its field; then every device is out, this one too."""
    visitor, who = await member(system)
    other = await entered(system, who)
    wrong = await visitor.post("/account/password", current="not this one", new=NEXT)
    assert (403, {"current"}) == (wrong.status, set(flaws(wrong)))
    same = await visitor.post("/account/password", current=PASSWORD, new=PASSWORD)
    assert (422, {"new"}) == (same.status, set(flaws(same)))
    assert PASSWORD not in said(same)
    answer = await visitor.post("/account/password", current=PASSWORD, new=NEXT)

    assert (303, "/signin?next=/account&said=password_changed") == onward(answer)
    assert {} == visitor.cookies
    assert (303, "/signin?next=/account") == onward(await other.get("/account"))
    await entered(system, who | {"password": NEXT})


async def test_deleting_the_account(system: System) -> None:
    """Only for who says so twice; nobody can sign in afterwards."""
    visitor, who = await member(system)
    unsure = await visitor.post("/account/delete")
    assert (422, {"sure"}) == (unsure.status, set(flaws(unsure)))
    answer = await visitor.post("/account/delete", sure="true")

    assert (303, "/?said=account_deleted") == onward(answer)
    assert {} == visitor.cookies
    assert 401 == (await visitor.post("/signin", email=who["email"], password=PASSWORD)).status


async def test_another_s_things_are_not_there(system: System) -> None:
    """Addresses and sessions of one, tried by another on every form and page that takes such an id."""
    (mina, _), (jun, _) = await member(system), await member(system)
    await mina.post("/account/addresses", **HOME)
    [address] = re.findall(r'href="/account/addresses/(\w+)"', said(await mina.get("/account/addresses")))
    [session] = re.findall(r'action="/account/sessions/(\w+)/end"', said(await mina.get("/account/sessions")))

    assert 404 == (await jun.get(f"/account/addresses/{address}")).status
    assert 404 == (await jun.post(f"/account/addresses/{address}", **HOME | {"line1": "x"})).status
    for form in (f"addresses/{address}/default", f"addresses/{address}/remove", f"sessions/{session}/end"):
        assert "problem=" in onward(await jun.post(f"/account/{form}"))[1]
    assert "세종대로 1" in said(await mina.get("/account/addresses"))
    assert session in said(await mina.get("/account/sessions"))


@pytest.mark.parametrize(
    "path",
    ["/account", "/account/sessions/end", "/account/addresses", "/account/password", "/account/delete", "/signup"],
)
async def test_no_other_site_fills_our_forms_in(system: System, path: str) -> None:
    """Nothing is read, done, or shown as it was filled in."""
    visitor, who = await member(system)
    visitor.headers["Sec-Fetch-Site"] = "cross-site"
    answer = await visitor.post(path, **person(), **HOME, current=PASSWORD, new=NEXT, sure="true")

    assert (303, True) == (answer.status, answer.headers["Location"].endswith("?problem=cross_site"))
    await entered(system, who)


@pytest.mark.parametrize(
    ("user_agent", "device"),
    [
        (PHONE, "Safari, iPhone"),
        ("Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/120.0 Mobile Safari/537.36", "Chrome, Android"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/120.0 Safari/537.36 Edg/120.0", "Edge, Windows"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0", "Firefox, Linux"),
        ("curl/8.0", ""),
    ],
)
async def test_devices_are_named(user_agent: str, device: str) -> None:
    """As their owners call them."""
    assert device == device_of(user_agent)
