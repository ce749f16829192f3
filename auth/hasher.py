"""The password worker: a question a line on standard input, an answer a line on standard output, until the input ends.

Run by `PasswordHasher` as `python -m onsale.auth.hasher`, at the lowest priority there is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

LOWEST = 19
AUTOGROUP = Path("/proc/self/autogroup")
# A third of the weight of another session. With five of those at work on each core that is 6 % of it, and a hash takes
# some 0.3 s; at 19 it took over ten seconds on a full machine, and nobody could sign in.
GROUP_PRIORITY = 5

# OWASP's first choice of small parameters: 19 MiB, two passes, one lane; about 17 ms.
_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)

# Of a random password that nobody knows, with the parameters above: verifying it costs what verifying a real one costs.
DUMMY_HASH = "$argon2id$v=19$m=19456,t=2,p=1$SNtmWoAoAOHNLMXP0wHY3w$T7p+W/3jiD5NkwyPC36XngEZ/+RyBFZWEl1eQb41BgI"


class Question(msgspec.Struct, frozen=True):
    """`verb` is hash or verify."""

    number: int
    verb: str
    password: str
    stored: str = ""


class Answer(msgspec.Struct, frozen=True):
    """The answer to the question with this number."""

    number: int
    hash: str = ""
    is_right: bool = False
    # The password is right, and its hash was made with weaker parameters than today's.
    is_weak: bool = False


def answer(question: Question) -> Answer:
    """Hash, or verify; a stored text that is no argon2 hash is no password's."""
    if question.verb == "hash":
        return Answer(question.number, hash=_hasher.hash(question.password))
    try:
        is_right = _hasher.verify(question.stored, question.password)
        return Answer(question.number, is_right=is_right, is_weak=_hasher.check_needs_rehash(question.stored))
    except (VerifyMismatchError, VerificationError, InvalidHashError):
        return Answer(question.number)


def yield_to_everybody() -> None:
    """The lowest priority. Linux may schedule each session as a group (autogroup): there a process's own priority
    counts only within its session, in which this one is alone, and what counts is that of the group."""
    os.setpriority(os.PRIO_PROCESS, 0, LOWEST)
    with contextlib.suppress(OSError):
        AUTOGROUP.write_text(str(GROUP_PRIORITY))


def main() -> None:
    """Serve until the parent goes away."""
    yield_to_everybody()
    # Ctrl-C reaches the whole terminal; the parent decides when this ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    decoder = msgspec.json.Decoder(Question)
    encoder = msgspec.json.Encoder()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(encoder.encode(answer(decoder.decode(line))) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
