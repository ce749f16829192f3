"""Letters about orders, all the way: from a purchase over the record and a worker process to a mail server."""

import asyncio
import os
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from contract_kit import System, tokens
from mail_kit import mail_server, text_of

from onsale.auth.roles import Role
from onsale.checkout.providers.sandbox_server import create_sandbox
from onsale.server.app import ROOMS
from onsale.server.loop import Loops
from onsale.server.processes import admitter_loops, flusher_loops

pytestmark = pytest.mark.processes
MINA = "mina@example.com"
PATIENCE_S = 60


class Workers:
    """Worker processes, one after the other; each dies while it hands in a letter, if told to."""

    def __init__(self, environ, mail):
        self._environ, self._mail = environ, mail
        self._process = None
        self.deaths = 0

    async def start(self):
        """One more; there is one at a time."""
        command = (sys.executable, "-m", "onsale.server", "worker")
        self._process = await asyncio.create_subprocess_exec(
            *command, env=os.environ | self._environ, stderr=asyncio.subprocess.DEVNULL
        )

    async def kill(self):
        """SIGKILL, and wait for its end."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    @asynccontextmanager
    async def dying_at_the_next_letter(self):
        """The letter's text has been sent, the server has not said that it took it: there the process is killed."""
        dead = asyncio.Event()

        async def die():
            self._process.kill()
            self.deaths += 1
            dead.set()
            await asyncio.Event().wait()

        self._mail.on_data = die
        yield
        async with asyncio.timeout(PATIENCE_S):
            await dead.wait()
        await self._process.wait()
        self._mail.on_data = None


@pytest.fixture
async def mail():
    async with mail_server() as server:
        yield server


@pytest.fixture
async def environ(environ, mail, tmp_path):
    """With a provider of payments and a mail server."""
    sandbox = web.AppRunner(create_sandbox(tmp_path / "sandbox"), access_log=None)
    await sandbox.setup()
    await web.TCPSite(sandbox, "127.0.0.1", 0).start()
    yield environ | {
        "ONSALE_SANDBOX_URL": "http://{}:{}".format(*sandbox.addresses[0]),
        "SMTP_URL": mail.url,
    }
    await sandbox.cleanup()


@pytest.fixture
async def workers(environ, mail):
    """With a first one, which is at work."""
    made = Workers(environ, mail)
    await made.start()
    yield made
    await made.kill()


@pytest.fixture
async def system(app, server, mail, workers):
    """Everything but a worker is inside the test."""
    loops = Loops()
    admitter_loops(app[ROOMS], loops)
    flusher_loops(app[ROOMS], loops)
    async with loops.running(drain_s=2.0):
        managers = await tokens(app, Role.MANAGER, 2, first=9001)
        [master] = await tokens(app, Role.MASTER, 1, first=9003)
        yield System(app, server.addresses[0][:2], managers, master, mail)


@pytest.mark.timeout(180)
async def test_each_letter_arrives_once_though_its_mailer_is_killed(system, workers):
    """Bought, and given back: both letters reach the mail server, each once, though the worker that was handing it in
    was killed; the next one takes it up under its own Message-ID."""
    pool = system.app[ROOMS].stores.pool
    buyer = await system.person(MINA)
    order = await system.order(await system.sale(), buyer)

    async with workers.dying_at_the_next_letter():
        assert 200 == (await system.pay(order, buyer)).status
    await restart(pool, workers)
    await arrived(system, 2)
    async with workers.dying_at_the_next_letter():
        path = f"/v1/orders/{order}/cancellation"
        assert (await system.call("POST", path, token=buyer, Idempotency_Key="c-1")).status in (200, 202)
    await restart(pool, workers)
    await arrived(system, 3)
    await ended(pool)

    code, bought, refunded = system.mail.letters
    ids = {f"<{row['id']}@127.0.0.1>" for row in await pool.fetch("SELECT id FROM outbox WHERE outcome = 'sent'")}
    assert 2 == workers.deaths
    assert ids == {letter["Message-ID"] for letter in (code, bought, refunded)}
    assert ["paid and confirmed" in text_of(bought), "was given back" in text_of(refunded)] == [True, True]
    assert all(order in text_of(letter) and letter["To"] == MINA for letter in (bought, refunded))


async def restart(pool, workers):
    """The next worker; the dead one's claim is over at once, which else would take two minutes."""
    await pool.execute("UPDATE outbox SET due_at = now() WHERE ended_at IS NULL")
    await workers.start()


async def arrived(system, count):
    """Wait until so many letters were taken."""
    async with asyncio.timeout(PATIENCE_S):
        while len(system.mail.letters) < count:
            await asyncio.sleep(0.05)


async def ended(pool):
    """Wait until no letter is to be sent any more: a second copy would be one of these."""
    async with asyncio.timeout(PATIENCE_S):
        while await pool.fetchval("SELECT count(*) FROM outbox WHERE ended_at IS NULL"):
            await asyncio.sleep(0.05)
