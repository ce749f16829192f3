"""Letters: written with their cause or not at all, handed to a real mail server, each once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import jinja2
import jinja2.meta
import pytest
import structlog
from mail_kit import MailServer, mail_server, text_of

from onsale.auth.accounts import Account
from onsale.auth.keys import Keyring
from onsale.auth.letters import Letter, Letters
from onsale.auth.mailer import Mailer, MailerPolicy, MailTick, OutboxJanitor
from onsale.auth.outbox import Outbox, ToAccount, ToAddress
from onsale.auth.post import Post, PostAway
from onsale.auth.recipients import Recipients
from onsale.auth.sealing import Sealer
from onsale.web import letter_templates

MINA = "mina@example.com"
TEMPLATES = Path(__file__).parents[2] / "web" / "templates" / "mail"
LANGUAGES = ("ko", "en")


@pytest.fixture
async def post_office() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


@pytest.fixture
def outbox(keyring: Keyring) -> Outbox:
    return Outbox(Sealer(keyring))


@pytest.fixture
def make_mailer(database: asyncpg.Pool, keyring: Keyring, post_office: MailServer) -> Callable[..., Mailer]:
    """A mailer, as another process would have it."""

    def make(url: str = "", **policy: Any) -> Mailer:
        sealer = Sealer(keyring)
        letters = Letters("Shop <no-reply@shop.example>", "https://shop.example")
        recipients = Recipients(database, keyring)
        return Mailer(database, sealer, Post(url or post_office.url), letters, recipients.of, MailerPolicy(**policy))

    return make


@pytest.fixture
def mailer(make_mailer: Callable[..., Mailer]) -> Mailer:
    return make_mailer()


async def put(database: asyncpg.Pool, outbox: Outbox, once_key: str = "a", **more: Any) -> bool:
    """A letter with a code in it."""
    what: dict[str, Any] = {
        "kind": "verification", "to": ToAddress(MINA, "en"), "params": {"code": "123456", "minutes": 5},
    }  # fmt: skip
    async with database.acquire() as connection, connection.transaction():
        return await outbox.put(connection, once_key=once_key, **(what | more))


async def make_due(database: asyncpg.Pool) -> None:
    """Let the pause of every letter be over."""
    await database.execute("UPDATE outbox SET due_at = now() WHERE ended_at IS NULL")


async def test_a_letter_arrives(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer
) -> None:
    """Over SMTP, with everything a letter needs, and once."""
    assert await put(database, outbox)

    assert MailTick(sent=1) == await mailer.tick()
    assert MailTick() == await mailer.tick()

    (letter,) = post_office.letters
    assert (MINA, "Shop <no-reply@shop.example>") == (letter["To"], letter["From"])
    assert "Your code: 123456" == letter["Subject"]
    assert "https://shop.example" in text_of(letter)
    assert letter["Message-ID"].endswith("@shop.example>")
    assert letter["Date"] and "auto-generated" == letter["Auto-Submitted"]


async def test_a_letter_to_an_account(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer, mina: Account
) -> None:
    """It goes where the account's letters go, in its language, Korean subject and all."""
    await database.execute("UPDATE accounts SET language = 'ko' WHERE id = $1", mina.id)
    await put(database, outbox, to=ToAccount(mina.id))
    await mailer.tick()

    (letter,) = post_office.letters
    assert ("mina.kim@example.com", "인증 번호: 123456") == (letter["To"], letter["Subject"])


async def test_a_deleted_account_gets_none(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer, mina: Account
) -> None:
    """Whatever was still to be sent to it ends unsent."""
    await put(database, outbox, to=ToAccount(mina.id))
    await database.execute(
        "UPDATE accounts SET deleted_at = now(), email = NULL, email_hash = NULL, password_hash = NULL WHERE id = $1",
        mina.id,
    )

    assert MailTick(vanished=1) == await mailer.tick()
    assert [] == post_office.letters


async def test_a_letter_lives_and_dies_with_its_cause(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer
) -> None:
    """A transaction that is rolled back has written to nobody."""
    async with database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await outbox.put(
            connection, kind="password_changed", to=ToAddress(MINA, "en"), params={}, once_key="rolled back"
        )
        await transaction.rollback()

    assert MailTick() == await mailer.tick()
    assert [] == post_office.letters


async def test_one_cause_one_letter(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer
) -> None:
    """However many processes write about it at once, and even after it was sent."""
    written = await asyncio.gather(*(put(database, outbox, "alarm:sale:account") for _ in range(8)))
    await mailer.tick()
    again = await put(database, outbox, "alarm:sale:account")

    assert [False] * 7 + [True] == sorted(written)
    assert not again
    assert MailTick() == await mailer.tick()
    assert 1 == len(post_office.letters)


async def test_many_mailers_send_each_letter_once(
    database: asyncpg.Pool, outbox: Outbox, make_mailer: Callable[..., Mailer], post_office: MailServer
) -> None:
    """Sixty letters, four mailers at once."""
    for number in range(60):
        await put(database, outbox, f"letter {number}", params={"code": f"{number:06d}", "minutes": 5})

    async def all_of(mailer: Mailer) -> int:
        return (await mailer.tick()).sent + (await mailer.tick()).sent

    sent = await asyncio.gather(*(all_of(make_mailer(batch_max=10)) for _ in range(4)))

    assert 60 == sum(sent)
    assert 60 == len({letter["Subject"] for letter in post_office.letters}) == len(post_office.letters)


async def test_nothing_is_used_up_while_the_server_is_away(
    database: asyncpg.Pool, outbox: Outbox, make_mailer: Callable[..., Mailer], post_office: MailServer
) -> None:
    """The tick fails, the letter stays due with all its tries; when the server is back it goes out."""
    await put(database, outbox)
    with pytest.raises(PostAway):
        await make_mailer("smtp://127.0.0.1:1").tick()

    assert 0 == await database.fetchval("SELECT tries FROM outbox")
    assert MailTick(sent=1) == await make_mailer().tick()


async def test_a_letter_that_is_not_taken_now_is_tried_again(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer
) -> None:
    """After a pause that grows; another letter does not wait for it."""
    await put(database, outbox, "a")
    post_office.answers = ["451 later", "451 later"]
    assert MailTick(postponed=1) == await mailer.tick()
    first_s = await database.fetchval("SELECT extract(epoch FROM due_at - now())::float FROM outbox")
    await put(database, outbox, "b", to=ToAddress("jun@example.com", "ko"))
    post_office.answers = []
    assert MailTick(sent=1) == await mailer.tick()
    await make_due(database)
    post_office.answers = ["451 later"]
    assert MailTick(postponed=1) == await mailer.tick()
    second_s = await database.fetchval(
        "SELECT extract(epoch FROM due_at - now())::float FROM outbox WHERE ended_at IS NULL"
    )
    await make_due(database)
    assert MailTick(sent=1) == await mailer.tick()

    assert 10 < first_s <= 15 < second_s <= 30
    assert ["jun@example.com", MINA] == [letter["To"] for letter in post_office.letters]


@pytest.mark.parametrize("answer", ["550 no such mailbox", "553 not a mailbox"])
async def test_an_address_that_is_no_good(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer, answer: str
) -> None:
    """The server's word is final: the letter ends."""
    await put(database, outbox)
    post_office.answers = [answer]

    assert MailTick(refused=1) == await mailer.tick()
    assert MailTick() == await mailer.tick()


@pytest.mark.parametrize("address", ["a b@example.com", "a@", "@", "a@b\r\nBcc: c@d", "a@b, c@d"])
async def test_what_is_no_address(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer, address: str
) -> None:
    """Nothing is sent to it, nor to anybody it smuggles in."""
    await put(database, outbox, to=ToAddress(address, "en"))

    assert MailTick(refused=1) == await mailer.tick()
    assert [] == post_office.letters


async def test_a_letter_out_of_date_is_not_sent(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer
) -> None:
    """A code that has run out meanwhile only confuses."""
    await put(database, outbox, expires_after_s=300)
    await database.execute("UPDATE outbox SET expires_at = now()")

    assert MailTick(expired=1) == await mailer.tick()
    assert [] == post_office.letters


async def test_a_letter_for_later(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer
) -> None:
    """It waits for its hour, and its life is counted from there."""
    at = await database.fetchval("SELECT now() + interval '1 day'")
    await put(database, outbox, not_before=at, expires_after_s=60)
    assert MailTick() == await mailer.tick()
    assert await database.fetchval("SELECT expires_at = due_at + interval '1 minute' FROM outbox")
    await make_due(database)

    assert MailTick(sent=1) == await mailer.tick()


async def test_whoever_dies_while_sending_leaves_the_letter(
    database: asyncpg.Pool, outbox: Outbox, make_mailer: Callable[..., Mailer], post_office: MailServer
) -> None:
    """Nobody takes it while the claim lasts; then another sends it, under the same Message-ID."""
    await put(database, outbox)
    reached = asyncio.Event()

    async def never() -> None:
        reached.set()
        await asyncio.Event().wait()

    post_office.on_data = never
    dying = asyncio.create_task(make_mailer().tick())
    await reached.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    post_office.on_data = None
    assert MailTick() == await make_mailer().tick()
    await make_due(database)

    assert MailTick(sent=1) == await make_mailer().tick()
    letter = await database.fetchval("SELECT id FROM outbox")
    assert [f"<{letter}@shop.example>"] == [each["Message-ID"] for each in post_office.letters]


async def test_nothing_is_kept_in_clear_and_nothing_after_the_end(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer
) -> None:
    """Sealed before, erased afterwards; forgotten when no cause can come again."""
    await put(database, outbox)
    before = repr(tuple(await database.fetchrow("SELECT * FROM outbox")))
    await mailer.tick()
    after = await database.fetchrow("SELECT recipient, params, outcome FROM outbox")
    kept = await OutboxJanitor(database).tick()
    await database.execute("UPDATE outbox SET ended_at = now() - interval '91 days'")
    dropped = await OutboxJanitor(database).tick()

    assert "mina" not in before and "123456" not in before
    assert (None, None, "sent") == tuple(after)
    assert (0, 1) == (kept.forgotten, dropped.forgotten)


async def test_a_letter_that_cannot_be_written_waits_for_a_person(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer
) -> None:
    """An unknown kind, a variable that is missing: the others go out."""
    await put(database, outbox, "unknown kind", kind="love")
    await put(database, outbox, "no code", params={"minutes": 5})
    await put(database, outbox, "good")

    assert MailTick(sent=1, postponed=2) == await mailer.tick()
    assert 1 == len(post_office.letters)


async def test_no_log_tells_whom_or_what(
    database: asyncpg.Pool, outbox: Outbox, mailer: Mailer, post_office: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Sent, postponed, refused: neither address nor code."""
    caplog.set_level(logging.INFO)
    post_office.answers = ["451 mina@example.com later", "550 mina@example.com never"]
    with structlog.testing.capture_logs() as ours:
        for number in range(3):
            await put(database, outbox, str(number))
        await mailer.tick()

    assert 3 == len(ours)
    for secret in ("mina", "123456"):
        assert secret not in repr(ours)
        assert secret not in "".join(each.getMessage() for each in caplog.records if each.name != "mail.log")


KINDS = sorted({path.name.split(".")[0] for path in TEMPLATES.glob("*.txt")})


@pytest.mark.parametrize("kind", KINDS)
def test_a_letter_says_the_same_in_both_languages(kind: str) -> None:
    """Both templates are there and use the same variables; the subject is one line, the text is not empty."""
    sources = {language: (TEMPLATES / f"{kind}.{language}.txt").read_text(encoding="utf-8") for language in LANGUAGES}
    asked = [jinja2.meta.find_undeclared_variables(letter_templates().parse(text)) for text in sources.values()]

    assert asked[0] == asked[1]
    assert all(text.partition("\n")[2].strip() for text in sources.values())


def test_a_subject_cannot_start_a_header() -> None:
    """Whatever a param brings along, it stays in its line."""
    letters = Letters("no-reply@shop.example", "https://shop.example")
    message = letters.write(Letter("x", "verification", MINA, "en", {"code": "1\r\nBcc: a@b", "minutes": 5}))

    assert message["Bcc"] is None
