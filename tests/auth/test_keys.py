"""Keys and their rotation."""

from __future__ import annotations

import pytest

from onsale.auth.keys import Keyring


def test_no_two_purposes_share_a_key(keyring: Keyring) -> None:
    """Each purpose and each secret has a key and a key id of its own."""
    keys = [key for purpose in ("pass", "access", "seal") for key in keyring.derive(purpose)]

    assert 6 == len({key.secret for key in keys})
    assert 6 == len({key.kid for key in keys})


def test_the_first_secret_is_current(keyring: Keyring, old_keyring: Keyring) -> None:
    """After a rotation the older secret's key is still there, second."""
    assert keyring.derive("pass")[1] == old_keyring.derive("pass")[0]
    assert keyring.derive("pass")[0] != old_keyring.derive("pass")[0]


@pytest.mark.parametrize("secrets", [[], [b"short"], [b"a" * 32, b""], [b"a" * 32, b"a" * 32]])
def test_bad_secrets_are_refused(secrets: list[bytes]) -> None:
    """None at all, a short one, a doubled one: refused before anything is signed with it."""
    with pytest.raises(ValueError):
        Keyring(secrets)


def test_a_key_does_not_print_its_secret(keyring: Keyring) -> None:
    """A key that reaches a log tells only its name."""
    key = keyring.derive("pass")[0]

    assert f"Key(kid='{key.kid}')" == repr(key)
