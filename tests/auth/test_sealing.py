"""Personal data at rest."""

from __future__ import annotations

import pytest

from onsale.auth.keys import Keyring
from onsale.auth.sealing import BlindIndex, SealBroken, Sealer


def test_a_sealed_value_opens_where_it_was_sealed(keyring: Keyring) -> None:
    """What went in comes out, and does not show from outside."""
    sealed = Sealer(keyring).seal("서울시 중구".encode(), "accounts.name:1")

    assert "서울시 중구" == Sealer(keyring).open(sealed, "accounts.name:1").decode()
    assert "서울시".encode() not in sealed


def test_a_moved_value_does_not_open(keyring: Keyring) -> None:
    """Another row or column is another context."""
    sealed = Sealer(keyring).seal(b"Mina", "accounts.name:1")

    for elsewhere in ("accounts.name:2", "accounts.phone:1", ""):
        with pytest.raises(SealBroken):
            Sealer(keyring).open(sealed, elsewhere)


def test_a_changed_value_does_not_open(keyring: Keyring) -> None:
    """Each byte is vouched for, the key's id and the version too."""
    sealed = Sealer(keyring).seal(b"Mina", "accounts.name:1")

    for at in range(len(sealed)):
        with pytest.raises(SealBroken):
            Sealer(keyring).open(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], "accounts.name:1")
    for cut in (b"", sealed[:1], sealed[:5], sealed[:17], sealed[:-1]):
        with pytest.raises(SealBroken):
            Sealer(keyring).open(cut, "accounts.name:1")


def test_equal_values_do_not_look_equal(keyring: Keyring) -> None:
    """Two people of one name cannot be told from two of different names."""
    sealer = Sealer(keyring)

    assert sealer.seal(b"Mina", "accounts.name:1") != sealer.seal(b"Mina", "accounts.name:1")


def test_sealed_values_outlive_a_rotation(keyring: Keyring, old_keyring: Keyring, stranger_keyring: Keyring) -> None:
    """The older secret's values open while it is listed; without it they stay shut."""
    sealed = Sealer(old_keyring).seal(b"Mina", "accounts.name:1")

    assert b"Mina" == Sealer(keyring).open(sealed, "accounts.name:1")
    with pytest.raises(SealBroken):
        Sealer(stranger_keyring).open(sealed, "accounts.name:1")


def test_an_address_is_found_under_either_key(keyring: Keyring, old_keyring: Keyring) -> None:
    """A look-up after a rotation tries both hashes; the stored one is one of them."""
    stored = BlindIndex(old_keyring, "accounts.email").of("mina@example.com")

    assert stored in BlindIndex(keyring, "accounts.email").candidates("mina@example.com")
    assert stored != BlindIndex(keyring, "accounts.email").of("mina@example.com")
    assert stored != BlindIndex(old_keyring, "accounts.phone").of("mina@example.com")
