"""Accounts over HTTP, with codes and links read out of real letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient
from mail_kit import MailServer, text_of

from onsale.auth.accounts import Account, Accounts
from onsale.auth.errors import InvalidCredentials
from onsale.auth.keys import Keyring
from onsale.auth.revocations import Revocations
from onsale.auth.roles import Role
from onsale.auth.sessions import Sessions
from onsale.auth.throttle import ACCOUNT_BUDGET, LETTER_ACCOUNT_BUDGET
from onsale.auth.verifications import TRIES_MAX

EMAIL = "Jun.Park@Example.com"
PASSWORD = "blue 전차 seven"
NEXT = "another 전차 eight"
SIGN_UP: dict[str, Any] = {"email": EMAIL, "password": PASSWORD, "name": "박준", "phone": "010-1234-5678"}
HOME = {"recipient": "박준", "line1": "세종대로 1", "city": "서울", "postal_code": "04524", "country": "KR"}

Deliver = Callable[[], Awaitable[Any]]
Call = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
def call(client: TestClient) -> Call:
    """One request: `await call("POST", path, body, token)`; its status and body."""

    async def ask(method: str, path: str, body: Any = None, token: str = "", **headers: str) -> tuple[int, Any]:
        if token:
            headers["Authorization"] = f"Bearer {token}"
        response = await client.request(method, path, json=body, headers=headers)
        return response.status, await response.json() if "json" in response.content_type else await response.text()

    return ask


@pytest.fixture
async def jun(call: Call, deliver: Deliver, mail: MailServer) -> AsyncIterator[str]:
    """A verified account with EMAIL and PASSWORD; an access token of it."""
    await call("POST", "/v1/accounts", SIGN_UP)
    await deliver()
    await call("POST", "/v1/accounts/verification", {"email": EMAIL, "code": mail.code(EMAIL)})
    yield await signed_in(call)


async def signed_in(call: Call, password: str = PASSWORD, **more: str) -> str:
    status, grant = await call("POST", "/v1/sessions", {"email": EMAIL, "password": password})
    assert 201 == status, grant
    return str(grant["access_token"])


def code_of(answer: tuple[int, Any]) -> tuple[int, str]:
    """Status and word of a problem."""
    return answer[0], answer[1]["code"]


def flaw_of(answer: tuple[int, Any]) -> tuple[int, str, str]:
    """Status, pointer and word of a bad body's one flaw."""
    (flaw,) = answer[1]["errors"]
    return answer[0], flaw["pointer"], flaw["code"]


# --- signing up and verifying


async def test_signing_up(call: Call, deliver: Deliver, mail: MailServer) -> None:
    """202, a letter with a code, a sign-in that opens nothing until the code is entered, and everything after."""
    assert (202, {"accepted": True}) == await call("POST", "/v1/accounts", SIGN_UP | {"address": HOME})
    await deliver()
    first = (await call("POST", "/v1/sessions", {"email": EMAIL, "password": PASSWORD}))[1]
    closed = await call("GET", "/v1/me/addresses", token=first["access_token"])
    verified = await call("POST", "/v1/accounts/verification", {"email": EMAIL, "code": mail.code(EMAIL)})
    _, grant = await call("POST", "/v1/sessions/refresh", {"refresh_token": first["refresh_token"]})
    _, me = await call("GET", "/v1/me", token=grant["access_token"])
    _, book = await call("GET", "/v1/me/addresses", token=grant["access_token"])

    assert (403, "email_unverified") == code_of(closed)
    assert 204 == verified[0]
    assert ("jun.park@example.com", "박준", "010-1234-5678", "customer", True) == tuple(
        me[name] for name in ("email", "name", "phone", "role", "verified")
    )
    assert [(True, "세종대로 1")] == [(each["default"], each["line1"]) for each in book["items"]]


async def test_letters_come_in_the_language_of_the_form(call: Call, deliver: Deliver, mail: MailServer) -> None:
    """And the account keeps it."""
    await call("POST", "/v1/accounts", SIGN_UP, **{"Accept-Language": "ko"})
    await deliver()
    me = (await call("GET", "/v1/me", token=await signed_in(call)))[1]

    assert "인증 번호" in mail.letters[0]["Subject"]
    assert "ko" == me["language"]


async def test_an_address_that_has_an_account(call: Call, jun: str, deliver: Deliver, mail: MailServer) -> None:
    """The same answer; its owner is told by letter, and nothing of the account changes."""
    again = await call("POST", "/v1/accounts", SIGN_UP | {"password": NEXT, "name": "Thief"})
    await deliver()

    assert (202, {"accepted": True}) == again
    assert "You have an account already" == mail.letters[-1]["Subject"]
    assert "박준" == (await call("GET", "/v1/me", token=jun))[1]["name"]
    await signed_in(call)


async def test_the_newest_sign_up_of_an_unverified_address_counts(
    call: Call, deliver: Deliver, mail: MailServer
) -> None:
    """Whoever took somebody's address before keeps neither password nor session."""
    await call("POST", "/v1/accounts", SIGN_UP | {"password": NEXT, "name": "Thief"})
    await deliver()
    thief = (await call("POST", "/v1/sessions", {"email": EMAIL, "password": NEXT}))[1]
    await call("POST", "/v1/accounts", SIGN_UP)
    await deliver()
    await call("POST", "/v1/accounts/verification", {"email": EMAIL, "code": mail.code(EMAIL)})
    by_thief = await call("POST", "/v1/sessions", {"email": EMAIL, "password": NEXT})
    kept = await call("POST", "/v1/sessions/refresh", {"refresh_token": thief["refresh_token"]})
    me = (await call("GET", "/v1/me", token=await signed_in(call)))[1]

    assert [401, 401] == [by_thief[0], kept[0]]
    assert ("박준", True) == (me["name"], me["verified"])


async def test_many_sign_ups_at_once_make_one_account(
    call: Call, database: asyncpg.Pool, deliver: Deliver, mail: MailServer
) -> None:
    """One address, five forms sent at the same time."""
    answers = await asyncio.gather(*(call("POST", "/v1/accounts", SIGN_UP) for _ in range(5)))
    await deliver()

    assert [202] * 5 == [status for status, _ in answers]
    assert 1 == await database.fetchval("SELECT count(*) FROM accounts")
    assert (204, "") == await call("POST", "/v1/accounts/verification", {"email": EMAIL, "code": mail.code(EMAIL)})


@pytest.mark.parametrize(
    ("changed", "pointer", "code"),
    [
        ({"password": "short"}, "#/password", "password_short"),
        ({"password": "１２３"}, "#/password", "password_short"),
        ({"password": "qwertyuiop"}, "#/password", "password_common"),
        ({"password": "QWERTYUIOP"}, "#/password", "password_common"),
        ({"password": "password123!"}, "#/password", "password_common"),
        ({"password": "aaaaaaaaaaaa"}, "#/password", "password_common"),
        ({"password": "Jun.Park@example.com"}, "#/password", "password_guessable"),
        ({"email": "nobody"}, "#/email", "bad_value"),
        ({"email": "a b@example.com"}, "#/email", "bad_value"),
        ({"name": " "}, "#/name", "bad_value"),
        ({"name": ""}, "#/name", "bad_value"),
        ({"phone": "call me"}, "#/phone", "bad_value"),
        ({"role": "master"}, "#/role", "unknown_field"),
        ({"address": {"recipient": "x"}}, "#/address/line1", "missing_field"),
    ],
)
async def test_a_bad_form_is_refused(
    call: Call, database: asyncpg.Pool, changed: dict[str, Any], pointer: str, code: str
) -> None:
    """Each with what is wrong, whoever has the address; nothing is made. Nobody chooses a role."""
    answer = await call("POST", "/v1/accounts", SIGN_UP | changed)

    assert (422, pointer, code) == flaw_of(answer)
    assert 0 == await database.fetchval("SELECT count(*) FROM letter_requests")


async def test_a_password_means_the_same_on_another_keyboard(call: Call, deliver: Deliver) -> None:
    """Full-width letters and composed Hangul are the same password."""
    await call("POST", "/v1/accounts", SIGN_UP | {"password": "ｂｌｕｅ 전차 ｓｅｖｅｎ"})

    await signed_in(call, "blue 전차 seven")


# --- codes


async def test_a_code_is_good_once(call: Call, deliver: Deliver, mail: MailServer) -> None:
    """Of many who enter it at the same time, one succeeds."""
    await call("POST", "/v1/accounts", SIGN_UP)
    await deliver()
    body = {"email": EMAIL, "code": mail.code(EMAIL)}
    answers = await asyncio.gather(*(call("POST", "/v1/accounts/verification", body) for _ in range(4)))

    assert [204, 422, 422, 422] == sorted(status for status, _ in answers)


async def test_a_code_takes_five_tries(call: Call, deliver: Deliver, mail: MailServer) -> None:
    """After them the right one is wrong too; another code begins anew."""
    await call("POST", "/v1/accounts", SIGN_UP)
    await deliver()
    code = mail.code(EMAIL)
    wrong = {"email": EMAIL, "code": f"{(int(code) + 1) % 10**6:06d}"}
    tried = [code_of(await call("POST", "/v1/accounts/verification", wrong)) for _ in range(TRIES_MAX)]
    late = await call("POST", "/v1/accounts/verification", {"email": EMAIL, "code": code})
    assert 202 == (await call("POST", "/v1/accounts/verification-codes", {"email": EMAIL}))[0]
    await deliver()

    assert [(422, "code_invalid")] * (TRIES_MAX + 1) == [*tried, code_of(late)]
    assert 204 == (await call("POST", "/v1/accounts/verification", {"email": EMAIL, "code": mail.code(EMAIL)}))[0]


async def test_the_fifth_try_still_counts(call: Call, deliver: Deliver, mail: MailServer) -> None:
    """Four wrong, one right."""
    await call("POST", "/v1/accounts", SIGN_UP)
    await deliver()
    code = mail.code(EMAIL)
    for _ in range(TRIES_MAX - 1):
        await call("POST", "/v1/accounts/verification", {"email": EMAIL, "code": f"{(int(code) + 1) % 10**6:06d}"})

    assert 204 == (await call("POST", "/v1/accounts/verification", {"email": EMAIL, "code": code}))[0]


async def test_a_code_runs_out(call: Call, database: asyncpg.Pool, deliver: Deliver, mail: MailServer) -> None:
    """After five minutes by Postgres's clock; the newest code makes the one before useless."""
    await call("POST", "/v1/accounts", SIGN_UP)
    await deliver()
    first = mail.code(EMAIL)
    left_s = await database.fetchval("SELECT extract(epoch FROM expires_at - now())::float FROM verifications")
    await call("POST", "/v1/accounts/verification-codes", {"email": EMAIL})
    await deliver()
    second = mail.code(EMAIL)
    replaced = await call("POST", "/v1/accounts/verification", {"email": EMAIL, "code": first})
    await database.execute("UPDATE verifications SET expires_at = now()")
    late = await call("POST", "/v1/accounts/verification", {"email": EMAIL, "code": second})

    assert 290 < left_s <= 300
    assert first == second or 422 == replaced[0]
    assert (422, "#/code", "code_invalid") == flaw_of(late)


async def test_codes_are_kept_as_hashes(call: Call, database: asyncpg.Pool, deliver: Deliver, mail: MailServer) -> None:
    """Neither code nor address is kept in clear."""
    await call("POST", "/v1/accounts", SIGN_UP)
    await deliver()
    kept = repr(tuple(await database.fetchrow("SELECT * FROM verifications")))

    assert mail.code(EMAIL) not in kept and "jun" not in kept


async def test_nobody_is_written_to_who_has_no_account(call: Call, deliver: Deliver, mail: MailServer) -> None:
    """Nor are the verified sent a code; the answers are the same."""
    answers = [
        await call("POST", path, {"email": "nobody@example.com"})
        for path in ("/v1/accounts/verification-codes", "/v1/password-resets")
    ]
    await deliver()

    assert [(202, {"accepted": True})] * 2 == answers
    assert [] == mail.letters


async def test_letters_are_asked_for_within_a_budget(call: Call, deliver: Deliver, mail: MailServer) -> None:
    """Known and unknown addresses are refused alike, and say when to come back."""
    for email in (EMAIL, "nobody@example.com"):
        answers = [
            await call("POST", "/v1/password-resets", {"email": email}) for _ in range(LETTER_ACCOUNT_BUDGET.tries + 1)
        ]
        assert [202] * LETTER_ACCOUNT_BUDGET.tries + [429] == [status for status, _ in answers]


async def test_nobody_s_mailbox_is_filled(
    call: Call, jun: str, database: asyncpg.Pool, deliver: Deliver, mail: MailServer
) -> None:
    """However many processes are asked: so many letters an hour to one account, and no more."""
    hashes = await database.fetchval("SELECT array[email_hash] FROM accounts WHERE email_hash IS NOT NULL")
    await database.execute(
        "INSERT INTO letter_requests (id, kind, email_hashes, language)"
        " SELECT 'many-' || n, 'password_reset', $1, 'en' FROM generate_series(1, 40) n",
        hashes,
    )
    await deliver()

    assert 12 == len(mail.to("jun.park@example.com"))


# --- passwords


async def test_changing_the_password(
    call: Call, jun: str, deliver: Deliver, mail: MailServer, database: asyncpg.Pool
) -> None:
    """Every device is out, here at once and elsewhere by the next tick; only the new one is right; a letter says so."""
    elsewhere = Revocations(database)
    other = await signed_in(call)
    assert (204, "") == await call("PUT", "/v1/me/password", {"current": PASSWORD, "new": NEXT}, jun)
    await deliver()

    assert [401, 401] == [(await call("GET", "/v1/me", token=token))[0] for token in (jun, other)]
    assert 2 <= (await elsewhere.tick(0)).remembered
    assert 401 == (await call("POST", "/v1/sessions", {"email": EMAIL, "password": PASSWORD}))[0]
    assert "Your password was changed" == mail.letters[-1]["Subject"]
    await signed_in(call, NEXT)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"current": "wrong", "new": NEXT}, 403, "current_password_wrong"),
        ({"current": PASSWORD, "new": PASSWORD}, 422, "invalid_request"),
        ({"current": PASSWORD, "new": "short"}, 422, "invalid_request"),
        ({"current": PASSWORD, "new": "jun.park@example.com"}, 422, "invalid_request"),
        ({"current": PASSWORD}, 422, "invalid_request"),
    ],
)
async def test_a_password_stays(call: Call, jun: str, body: dict[str, str], status: int, code: str) -> None:
    """Where the present one is wrong, or the new one is no good; nobody is signed out."""
    answer = await call("PUT", "/v1/me/password", body, jun)

    assert (status, code) == code_of(answer)
    assert 200 == (await call("GET", "/v1/me", token=jun))[0]
    await signed_in(call)


async def test_a_session_guesses_no_faster_than_the_door(call: Call, jun: str) -> None:
    """Whoever found a phone unlocked has the account's budget of tries."""
    wrong = {"current": "wrong", "new": NEXT}
    statuses = [(await call("PUT", "/v1/me/password", wrong, jun))[0] for _ in range(ACCOUNT_BUDGET.tries + 1)]

    assert [403] * ACCOUNT_BUDGET.tries + [429] == statuses


async def test_a_new_password_that_is_no_good_is_no_guess(call: Call, jun: str) -> None:
    """It may be mended more often than the present one may be guessed."""
    weak = {"current": PASSWORD, "new": "short"}
    statuses = {(await call("PUT", "/v1/me/password", weak, jun))[0] for _ in range(ACCOUNT_BUDGET.tries + 2)}

    assert {422} == statuses


async def test_two_changes_at_once(call: Call, jun: str) -> None:
    """One wins; the other finds that the present password is another by now."""
    bodies = [{"current": PASSWORD, "new": f"{NEXT} {number}"} for number in range(2)]
    answers = await asyncio.gather(*(call("PUT", "/v1/me/password", body, jun) for body in bodies))

    assert [204, 403] == sorted(status for status, _ in answers)


async def test_a_sign_in_under_way_does_not_outlive_a_change(
    accounts: Accounts, sessions: Any, call: Call, jun: str
) -> None:
    """The password was found right, then changed: no session begins."""
    found = await accounts.check(EMAIL, PASSWORD)
    await call("PUT", "/v1/me/password", {"current": PASSWORD, "new": NEXT}, jun)

    with pytest.raises(InvalidCredentials):
        await sessions.sign_in(found, device="", address="::1", now_ms=0)


async def test_a_forgotten_password(call: Call, jun: str, deliver: Deliver, mail: MailServer) -> None:
    """A link in a letter, good once; every device is out."""
    await call("POST", "/v1/password-resets", {"email": EMAIL})
    await deliver()
    token = mail.token(EMAIL)
    weak = await call("POST", "/v1/password-resets/confirmation", {"token": token, "new": "short"})
    done = await call("POST", "/v1/password-resets/confirmation", {"token": token, "new": NEXT})
    again = await call("POST", "/v1/password-resets/confirmation", {"token": token, "new": PASSWORD})

    assert (422, "#/new", "password_short") == flaw_of(weak)
    assert (204, "") == done
    assert (422, "#/token", "reset_invalid") == flaw_of(again)
    assert 401 == (await call("GET", "/v1/me", token=jun))[0]
    await signed_in(call, NEXT)


async def test_a_link_that_is_no_good(
    call: Call, jun: str, database: asyncpg.Pool, deliver: Deliver, mail: MailServer
) -> None:
    """Replaced, too old, made before the password was changed, made up."""
    await call("POST", "/v1/password-resets", {"email": EMAIL})
    await deliver()
    replaced = mail.token(EMAIL)
    await call("POST", "/v1/password-resets", {"email": EMAIL})
    await deliver()
    late = mail.token(EMAIL)
    await database.execute("UPDATE password_resets SET expires_at = now()")
    for token in (replaced, late, "0" * 32, "x", "\u00e9"):
        answer = await call("POST", "/v1/password-resets/confirmation", {"token": token, "new": NEXT})
        assert (422, "reset_invalid") == code_of(answer)
    await call("POST", "/v1/password-resets", {"email": EMAIL})
    await deliver()
    await call("PUT", "/v1/me/password", {"current": PASSWORD, "new": NEXT}, jun)
    after = await call("POST", "/v1/password-resets/confirmation", {"token": mail.token(EMAIL), "new": PASSWORD})

    assert (422, "reset_invalid") == code_of(after)


async def test_a_link_verifies_too(call: Call, deliver: Deliver, mail: MailServer) -> None:
    """Whoever reads the address's letters owns it; a link is used by one of many at once."""
    await call("POST", "/v1/accounts", SIGN_UP)
    await call("POST", "/v1/password-resets", {"email": EMAIL})
    await deliver()
    body = {"token": mail.token(EMAIL), "new": NEXT}
    answers = await asyncio.gather(*(call("POST", "/v1/password-resets/confirmation", body) for _ in range(3)))

    assert [204, 422, 422] == sorted(status for status, _ in answers)
    assert (await call("GET", "/v1/me", token=await signed_in(call, NEXT)))[1]["verified"]


async def test_a_weak_hash_is_made_anew(mina: Account, accounts: Accounts, database: asyncpg.Pool) -> None:
    """At the next sign-in, with today's parameters; the password stays right."""
    for _ in range(2):
        assert mina == await accounts.check("Mina.Kim@Example.com", "버터 쿠키 seven boats")

    assert (await database.fetchval("SELECT password_hash FROM accounts")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


# --- the profile, the address book, the end


async def test_a_profile_is_changed(call: Call, jun: str) -> None:
    """What is named changes, the rest stays; bad values change nothing."""
    changed = await call("PATCH", "/v1/me", {"name": "박 준", "language": "ko"}, jun)
    refused = [
        code_of(await call("PATCH", "/v1/me", body, jun))
        for body in ({"role": "master"}, {"name": None}, {"phone": "x"}, {"email": "a@b.c"}, {"language": "fr"})
    ]
    me = (await call("GET", "/v1/me", token=jun))[1]

    assert (200, me) == changed
    assert ("박 준", "010-1234-5678", "ko") == (me["name"], me["phone"], me["language"])
    assert [(422, "invalid_request")] * 5 == refused


async def test_an_address_book(call: Call, jun: str) -> None:
    """Several, newest first, at most one of them the default; each may be changed and taken out."""
    first = (await call("POST", "/v1/me/addresses", HOME | {"default": True}, jun))[1]
    second = (await call("POST", "/v1/me/addresses", HOME | {"line1": "판교로 2", "default": True}, jun))[1]
    path = f"/v1/me/addresses/{first['address']}"
    patched = await call("PATCH", path, {"default": True, "line2": "2층", "city": None}, jun)
    listed = (await call("GET", "/v1/me/addresses", token=jun))[1]
    page = (await call("GET", "/v1/me/addresses?limit=1", token=jun))[1]
    rest = (await call("GET", f"/v1/me/addresses?limit=1&cursor={page['next_cursor']}", token=jun))[1]
    shown = await call("GET", path, token=jun)
    gone = [(await call("DELETE", path, token=jun))[0] for _ in range(2)]

    assert (200, "2층", None, "04524") == (patched[0], *(patched[1][name] for name in ("line2", "city", "postal_code")))
    assert [(second["address"], False), (first["address"], True)] == [
        (each["address"], each["default"]) for each in listed["items"]
    ]
    assert listed["items"] == [*page["items"], *rest["items"]] and None is rest["next_cursor"]
    assert patched == shown
    assert [204, 404] == gone


async def test_one_default_however_many_ask(call: Call, jun: str) -> None:
    """Ten changes at once leave one default."""
    made = [(await call("POST", "/v1/me/addresses", HOME, jun))[1]["address"] for _ in range(5)]
    answers = await asyncio.gather(
        *(call("PATCH", f"/v1/me/addresses/{each}", {"default": True}, jun) for each in made * 2)
    )
    listed = (await call("GET", "/v1/me/addresses", token=jun))[1]["items"]

    assert {200} == {status for status, _ in answers}
    assert 1 == sum(each["default"] for each in listed)


@pytest.mark.parametrize(
    "body", [{}, {"recipient": "x"}, HOME | {"country": "Korea"}, HOME | {"line1": ""}, HOME | {"x": 1}]
)
async def test_what_is_no_address(call: Call, jun: str, body: dict[str, Any]) -> None:
    """Refused, and none is kept."""
    assert (422, "invalid_request") == code_of(await call("POST", "/v1/me/addresses", body, jun))
    assert [] == (await call("GET", "/v1/me/addresses", token=jun))[1]["items"]


async def test_deleting_an_account(
    call: Call, jun: str, database: asyncpg.Pool, deliver: Deliver, mail: MailServer
) -> None:
    """Nobody is left: no session, no data, no key, no letter; and the address is free again."""
    await call("POST", "/v1/me/addresses", HOME, jun)
    await call("POST", "/v1/password-resets", {"email": EMAIL})
    before = len(mail.letters)
    assert (204, "") == await call("DELETE", "/v1/me", token=jun)
    await deliver()
    row = await database.fetchrow("SELECT * FROM accounts")
    sessions = await database.fetch("SELECT device, address, revoked_for FROM sessions")

    assert 401 == (await call("GET", "/v1/me", token=jun))[0]
    assert 401 == (await call("POST", "/v1/sessions", {"email": EMAIL, "password": PASSWORD}))[0]
    assert [None] * 5 == [row[name] for name in ("email", "email_hash", "name", "data_key", "password_hash")]
    assert {(None, None, "deleted")} == {tuple(each) for each in sessions}
    assert 0 == await database.fetchval("SELECT count(*) FROM addresses")
    assert before == len(mail.letters)
    assert 202 == (await call("POST", "/v1/accounts", SIGN_UP))[0]
    await signed_in(call)


async def test_deleting_twice_at_once(call: Call, jun: str) -> None:
    """Once; the other call finds nobody."""
    answers = await asyncio.gather(*(call("DELETE", "/v1/me", token=jun) for _ in range(3)))

    assert 1 == [status for status, _ in answers].count(204)
    assert {204, 401, 404} >= {status for status, _ in answers}


async def test_masters_list_accounts(
    call: Call, jun: str, make_account: Any, keyring: Keyring, database: asyncpg.Pool
) -> None:
    """Page by page, newest first, deleted ones left out; nobody else may."""
    master = await make_account("master@example.com", Role.MASTER)
    for number in range(3):
        await make_account(f"a{number}@example.com")
    grant = await call("POST", "/v1/sessions", {"email": "master@example.com", "password": "버터 쿠키 seven boats"})
    token = grant[1]["access_token"]
    found: list[Any] = []
    cursor = ""
    while True:
        page = (await call("GET", f"/v1/accounts?limit=2{cursor}", token=token))[1]
        found += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    one = (await call("GET", "/v1/accounts?email=JUN.park@example.com", token=token))[1]["items"]

    assert ["a2@example.com", "a1@example.com", "a0@example.com", "master@example.com", "jun.park@example.com"] == [
        each["email"] for each in found
    ]
    assert master.id in {each["account"] for each in found}
    assert ["박준"] == [each["name"] for each in one]
    assert (403, "forbidden") == code_of(await call("GET", "/v1/accounts", token=jun))


async def test_another_s_address_is_unknown(call: Call, jun: str, make_account: Any) -> None:
    """Neither changed nor taken out."""
    await make_account("thief@example.com")
    body = {"email": "thief@example.com", "password": "버터 쿠키 seven boats"}
    thief = (await call("POST", "/v1/sessions", body))[1]["access_token"]
    home = (await call("POST", "/v1/me/addresses", HOME, jun))[1]["address"]
    path = f"/v1/me/addresses/{home}"

    assert (404, "address_unknown") == code_of(await call("PATCH", path, {"line1": "x"}, thief))
    assert (404, "address_unknown") == code_of(await call("DELETE", path, token=thief))
    assert 1 == len((await call("GET", "/v1/me/addresses", token=jun))[1]["items"])


async def test_no_letter_and_no_answer_holds_a_password(
    call: Call, jun: str, deliver: Deliver, mail: MailServer
) -> None:
    """Letters say what they must."""
    await call("PUT", "/v1/me/password", {"current": PASSWORD, "new": NEXT}, jun)
    await deliver()

    assert not [letter for letter in mail.letters if PASSWORD in text_of(letter) or NEXT in text_of(letter)]


# --- one device at a time


async def test_one_device_at_a_time(
    sessions: Sessions, mina: Account, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the setting says so, of five sign-ins at once one succeeds; signing out, or a new password, makes room."""
    monkeypatch.setattr(sessions, "_is_single", True)
    body = {"email": "Mina.Kim@Example.com", "password": "버터 쿠키 seven boats"}
    answers = await asyncio.gather(*(call("POST", "/v1/sessions", body) for _ in range(5)))
    (grant,) = (said for status, said in answers if status == 201)
    wrong = await call("POST", "/v1/sessions", body | {"password": "wrong"})
    await call("DELETE", "/v1/sessions/current", token=grant["access_token"])
    after = await call("POST", "/v1/sessions", body)

    assert [(409, "already_signed_in")] * 4 == [code_of(each) for each in answers if each[0] != 201]
    assert (401, "invalid_credentials") == code_of(wrong)
    assert 201 == after[0]
