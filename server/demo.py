"""The demo: a sale to try things on, a buyer and an operator with passwords made for this data directory."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path

import asyncpg
import msgspec

from onsale.auth.accounts import Accounts, DemoAccount
from onsale.auth.keys import Keyring
from onsale.auth.passwords import PasswordHasher
from onsale.auth.roles import Role
from onsale.catalog.errors import SaleExists
from onsale.catalog.salefile import parse_sale_file
from onsale.catalog.sales import create_sale
from onsale.server.running import replace_file

DEMO_SALE = "demo"
PASSWORDS_FILE = "demo.json"
# Account -> e-mail address and role. The passwords are nobody's default: each data directory has its own.
PEOPLE = {"buyer": ("buyer@demo.example", Role.CUSTOMER), "operator": ("operator@demo.example", Role.MANAGER)}


class SignIn(msgspec.Struct, frozen=True):
    """How a person of the demo signs in."""

    who: str
    email: str
    password: str


async def ensure_demo(pool: asyncpg.Pool, secret_keys: Sequence[bytes], data_dir: Path) -> Sequence[SignIn]:
    """Make what is missing of the demo; answers how to sign in. What people changed about the sale stays."""
    with suppress(SaleExists):
        await create_sale(pool, parse_sale_file(demo_sale_text()), "demo")
    sign_ins = _sign_ins(data_dir)
    passwords = PasswordHasher()
    try:
        accounts = Accounts(pool, Keyring(secret_keys), passwords)
        await accounts.ensure_demo([_account(one) for one in sign_ins])
    finally:
        await passwords.close()
    return sign_ins


def demo_sale_text() -> str:
    """The demo sale as a sale file."""
    return resources.files("onsale.server").joinpath("demo.toml").read_text(encoding="utf-8")


def _account(one: SignIn) -> DemoAccount:
    email, role = PEOPLE[one.who]
    return DemoAccount(email=email, password=one.password, role=role, name=f"Demo {one.who}")


def _sign_ins(data_dir: Path) -> Sequence[SignIn]:
    path = data_dir / PASSWORDS_FILE
    if not path.exists():
        made = [SignIn(who, email, secrets.token_urlsafe(12)) for who, (email, _) in PEOPLE.items()]
        replace_file(path, msgspec.json.format(msgspec.json.encode(made)))
    return msgspec.json.decode(path.read_bytes(), type=list[SignIn])
