"""What a new password must be: ten characters or more, not one of those that everybody tries first, not the name it
belongs to. Nothing else is asked of it (NIST SP 800-63B §5.1.1.2): rules of composition make passwords worse.

The list of common ones is that of the zxcvbn package: 30,000 from leaks, of which those long enough matter here.
"""

from __future__ import annotations

import unicodedata
from functools import cache

from onsale.auth.errors import Flaw, InvalidRequest

LENGTH_MIN = 10


def require_good(password: str, pointer: str, *named: str) -> None:
    """Raises InvalidRequest, pointing at `pointer`: `password_short`, `password_common`, or `password_guessable` for
    one of the `named` texts (the account's address, its name)."""
    flaw = password_flaw(password, *named)
    if flaw is not None:
        code, detail = flaw
        raise InvalidRequest(Flaw(pointer, code, detail))


def password_flaw(password: str, *named: str) -> tuple[str, str] | None:
    """What is wrong with a password, as word and sentence; None: nothing."""
    normal = normal_password(password)
    folded = normal.casefold()
    if len(normal) < LENGTH_MIN:
        return "password_short", f"A password has at least {LENGTH_MIN} characters."
    # A common one with a digit or a mark behind it is the next that is tried.
    if folded in _common() or folded.rstrip("0123456789!.?") in _common() or len(set(folded)) < 3:
        return "password_common", "Many people use this password: it is among the first that are tried."
    if folded in {part for text in named for part in _parts(text)}:
        return "password_guessable", "The password is the account's own address or name."
    return None


def normal_password(password: str) -> str:
    """The same password typed on another keyboard (NIST SP 800-63B §5.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


def _parts(text: str) -> set[str]:
    folded = normal_password(text).strip().casefold()
    return {folded, folded.partition("@")[0], folded.replace(" ", "")}


@cache
def _common() -> frozenset[str]:
    # Imported when first asked: its other lists cost every process some megabytes.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(word for word in FREQUENCY_LISTS["passwords"] if len(word) >= LENGTH_MIN - 2)
