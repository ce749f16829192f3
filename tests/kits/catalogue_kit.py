"""What tests of the catalogue share: sellers, their products, and what is free of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from contract_kit import Answer, System, new_key, numbers, tokens

from onsale.auth.roles import Role

WON = {"amount": 12_000, "currency": "KRW"}


def moment(ahead: timedelta) -> str:
    """RFC 3339, so far from now."""
    return (datetime.now(UTC) + ahead).isoformat()


async def account(system: System, role: Role = Role.VENDOR) -> str:
    """An account of this role that nobody has used yet."""
    return (await tokens(system.app, role, 1, first=20_000 + next(numbers)))[0]


async def vendor(system: System) -> tuple[str, str]:
    """Somebody with a vendor: token and vendor."""
    token = await account(system)
    made = await system.call("POST", "/v1/vendors", {"name": "Hats & sons"}, token)
    assert 201 == made.status, made.body
    return token, made.json["vendor"]


async def product(system: System, token: str, **fields: Any) -> Any:
    """A new product; its reply."""
    body = {"title": f"Hat {next(numbers)}", "price": WON, "stock": 5, **fields}
    made = await system.call("POST", "/v1/products", body, token)
    assert 201 == made.status, made.body
    return made.json


async def change(system: System, token: str, product: str, quantity: int, key: str = "") -> Answer:
    """Move units in or out of the shop."""
    path = f"/v1/products/{product}/stock"
    return await system.call("POST", path, {"quantity": quantity}, token, Idempotency_Key=key or new_key())
