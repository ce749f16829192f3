"""Passwords: one worker of the lowest priority, a bounded queue, and nothing to be told from time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import time
from pathlib import Path

import psutil
import pytest

from onsale.auth.errors import TooManyRequests
from onsale.auth.hasher import DUMMY_HASH, GROUP_PRIORITY, Question, answer
from onsale.auth.passwordpolicy import password_flaw
from onsale.auth.passwords import Checked, PasswordHasher


async def test_a_password_is_verified_by_its_hash(passwords: PasswordHasher) -> None:
    """argon2id with 19 MiB, two passes and one lane; another password is not it."""
    stored = await passwords.hash("버터 쿠키")

    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify(stored, "버터 쿠키")
    assert not await passwords.verify(stored, "버터 쿠기")
    assert stored != await passwords.hash("버터 쿠키")


@pytest.mark.parametrize("stored", [None, "", "nonsense", DUMMY_HASH])
async def test_without_a_hash_no_password_is_right(passwords: PasswordHasher, stored: str | None) -> None:
    """No account, no password, a broken row: False, and no error to tell them apart."""
    assert not await passwords.verify(stored, "anything")


async def test_passwords_of_any_content_are_hashed(passwords: PasswordHasher) -> None:
    """Line ends, quotes, control characters and a thousand letters are a password like any other."""
    for password in ("a\nb\r\n", '"\\', "\x01\x7f\u2028", "길" * 1024):
        assert await passwords.verify(await passwords.hash(password), password)


async def test_the_dummy_hash_has_the_real_parameters(passwords: PasswordHasher) -> None:
    """Verifying it is the same work."""
    real = await passwords.hash("x")

    assert real.split("$")[1:4] == DUMMY_HASH.split("$")[1:4]
    assert [len(part) for part in real.split("$")] == [len(part) for part in DUMMY_HASH.split("$")]


def test_an_unknown_account_costs_the_same() -> None:
    """CPU time of a wrong password and of no account, interleaved: Welch's |t| under 4.5."""
    stored = answer(Question(0, "hash", "right")).hash
    took: dict[str, list[float]] = {stored: [], DUMMY_HASH: []}
    for number in range(25):
        for each in (stored, DUMMY_HASH) if number % 2 else (DUMMY_HASH, stored):
            started = time.process_time()
            answer(Question(number, "verify", "wrong", each))
            took[each].append(time.process_time() - started)
    one, other = took.values()
    spread = (statistics.variance(one) / len(one) + statistics.variance(other) / len(other)) ** 0.5

    assert 4.5 > abs(statistics.mean(one) - statistics.mean(other)) / max(spread, 1e-4)


async def test_no_account_is_asked_of_the_worker_too(passwords: PasswordHasher) -> None:
    """None takes the whole way through argon2: the worker's CPU time says so."""
    await passwords.verify(None, "first")
    worker = psutil.Process(passwords.worker_pid)
    before = worker.cpu_times().user + worker.cpu_times().system
    for _ in range(10):
        await passwords.verify(None, "x")
    took = worker.cpu_times().user + worker.cpu_times().system - before

    # Ten hashes of some 17 ms; a kernel counts in hundredths.
    assert took >= 0.05


async def test_the_worker_has_the_lowest_priority_and_no_secret(
    passwords: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It yields to everything else, and no setting of ours is in its environment."""
    monkeypatch.setenv("ONSALE_SECRET_KEYS", "canary")
    await passwords.verify(None, "x")

    assert 19 == os.getpriority(os.PRIO_PROCESS, passwords.worker_pid or 0)
    # A kernel that schedules sessions as groups would not look at that: the worker has a session of its own.
    group = Path(f"/proc/{passwords.worker_pid}/autogroup")
    told = group.read_text() if group.exists() else ""
    assert not told or told.endswith(f"nice {GROUP_PRIORITY}\n")
    assert b"canary" not in Path(f"/proc/{passwords.worker_pid}/environ").read_bytes()


async def test_the_worker_holds_no_socket_of_ours(passwords: PasswordHasher) -> None:
    """A listening socket that it kept would take connections that nobody answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        await passwords.verify(None, "x")

        assert [] == psutil.Process(passwords.worker_pid).net_connections()


async def test_a_dead_worker_is_started_again(passwords: PasswordHasher) -> None:
    """Killed while idle or while hashing: its callers get their answer from the next one."""
    stored = await passwords.hash("x")
    pid = passwords.worker_pid
    os.kill(pid or 0, signal.SIGKILL)
    assert await passwords.verify(stored, "x")

    asking = asyncio.ensure_future(passwords.verify(stored, "x"))
    await asyncio.sleep(0)
    os.kill(passwords.worker_pid or 0, signal.SIGKILL)
    assert await asking
    assert pid != passwords.worker_pid


async def test_a_caller_that_goes_away_leaves_the_answers_in_order(passwords: PasswordHasher) -> None:
    """The answer to a cancelled question is nobody's."""
    stored = await passwords.hash("x")
    leaving = [asyncio.ensure_future(passwords.verify(stored, "x")) for _ in range(3)]
    await asyncio.sleep(0)
    for asking in leaving:
        asking.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)

    assert [False, True, False] == [await passwords.verify(stored, each) for each in ("y", "x", "z")]


async def test_the_queue_is_bounded() -> None:
    """Whoever comes when it is full is told to come back, at once; who waits is served."""
    passwords = PasswordHasher(waiting_max=3)
    answers = await asyncio.gather(*(passwords.verify(None, "x") for _ in range(10)), return_exceptions=True)
    refused = [each for each in answers if isinstance(each, TooManyRequests)]

    assert [False] * 3 == answers[:3]
    assert 7 == len(refused)
    assert refused[0].retry_after_s >= 1
    assert not await passwords.verify(None, "x")
    await passwords.close()


async def test_who_has_a_place_is_served() -> None:
    """It counts from when it is taken, so whoever comes after it meets a full queue; left, it is free again."""
    passwords = PasswordHasher(waiting_max=1)
    with passwords.place() as place:
        with pytest.raises(TooManyRequests):
            await passwords.verify(None, "x")
        assert Checked(is_right=False) == await place.check(None, "x")
    assert not await passwords.verify(None, "x")
    await passwords.close()


async def test_the_worker_ends_with_its_parent(passwords: PasswordHasher) -> None:
    """When the pipe closes, as it does when the parent is killed, nothing is left behind."""
    await passwords.verify(None, "x")
    worker = psutil.Process(passwords.worker_pid)
    process = passwords._worker
    assert process is not None and process.stdin is not None
    process.stdin.close()

    assert 0 == await asyncio.wait_for(process.wait(), 10)
    assert not worker.is_running()


async def test_in_a_crowd_nobody_waits_beyond_their_patience() -> None:
    """The worker stands still: those who came behind others are told to come back, not kept."""
    passwords = PasswordHasher(patience_s=0.05)
    await passwords.verify(None, "x")
    # Nothing warns them: the answers so far came at once.
    passwords._usual_s = 0.0
    os.kill(passwords.worker_pid or 0, signal.SIGSTOP)
    try:
        waiting = [asyncio.create_task(passwords.verify(None, "x")) for _ in range(6)]
        done, late = await asyncio.wait(waiting, timeout=2)
        refused = [each.exception() for each in done]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    finally:
        os.kill(passwords.worker_pid or 0, signal.SIGCONT)

    assert [TooManyRequests] * 4 == [type(each) for each in refused]
    assert not await passwords.verify(None, "x")
    await passwords.close()


async def test_a_worker_that_hangs_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gave up left it owing an answer; when it has owed it too long another takes its place."""
    passwords = PasswordHasher()
    stored = await passwords.hash("x")
    pid = passwords.worker_pid
    os.kill(pid or 0, signal.SIGSTOP)
    asking = asyncio.create_task(passwords.verify(stored, "x"))
    await asyncio.wait((asking,), timeout=0.05)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    monkeypatch.setattr("onsale.auth.passwords._ANSWER_WITHIN_S", 0.0)

    assert await passwords.verify(stored, "x")
    assert pid != passwords.worker_pid
    await passwords.close()


def test_the_list_of_common_passwords_is_there() -> None:
    """The package that brings it keeps its form, or this fails before a buyer meets an empty list."""
    assert [("password_common")] * 3 == [
        (password_flaw(each) or ("", ""))[0] for each in ("1q2w3e4r5t", "Password123", "iloveyou12")
    ]
    assert None is password_flaw("blue 전차 seven")


async def test_who_would_wait_too_long_is_told_at_once() -> None:
    """By what answers took lately; alone in front of the worker anybody is served, however slow it was."""
    passwords = PasswordHasher(patience_s=1.5)
    await passwords.verify(None, "x")
    passwords._usual_s = 1.0
    answers = await asyncio.gather(*(passwords.verify(None, "x") for _ in range(5)), return_exceptions=True)

    assert [bool, bool, *[TooManyRequests] * 3] == [type(each) for each in answers]
    assert passwords._usual_s < 1.0
    await passwords.close()
