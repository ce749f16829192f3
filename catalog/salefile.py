"""A sale as people write it: a TOML file or the same as JSON. Wrong ones are refused whole, naming line and field."""

from __future__ import annotations

import re
import secrets
import tomllib
import unicodedata
from collections import defaultdict
from datetime import date, datetime
from typing import Annotated, Any, Literal

import msgspec

from onsale.auth.errors import Flaw, InvalidRequest
from onsale.catalog.errors import SaleFileInvalid
from onsale.catalog.sales import NewItem, NewSale, Policy, RefundPolicy, RefundStep

# In Python `$` also matches before a line's end; the look-ahead says that there is none.
SLUG = r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)"
Slug = Annotated[str, msgspec.Meta(pattern=SLUG, description="lower case letters, digits and hyphens, at most 63")]
# 9999-12-31T23:59:59.999Z. Beyond it, and before 1970, there are moments that a store or a page cannot show.
MOMENT_MS_MAX = 253_402_300_799_999
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
# 2^53 - 1: what Lua and JSON numbers hold exactly.
Amount = Annotated[int, msgspec.Meta(ge=0, le=9_007_199_254_740_991)]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$(?!\n)")]


class Money(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Integer minor units and an ISO 4217 currency."""

    amount: Amount
    currency: Currency


class SaleFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The sale itself. Times are RFC 3339 with an offset, or "now"."""

    id: Slug | None = None
    title: Title
    opens_at: Annotated[str, msgspec.Meta(extra_json_schema={"anyOf": [{"const": "now"}, {"format": "date-time"}]})]
    closes_at: Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
    limit_per_buyer: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    hold_ttl_s: Annotated[int, msgspec.Meta(ge=30, le=3600)] = 600
    guests: bool = False
    opening: Literal["fifo", "draw"] = "fifo"


class RefundFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One step: so many days or more before the visit, so much of the price is given back."""

    days_min: Annotated[int, msgspec.Meta(ge=0, le=3650)]
    percent: Annotated[int, msgspec.Meta(ge=0, le=100)]


class RefundingFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What cancelling an entry for a visit gives back, the most days first; the last step counts for fewer days too."""

    since: Literal["cancellation", "purchase"] = "cancellation"
    steps: Annotated[tuple[RefundFields, ...], msgspec.Meta(min_length=1, max_length=20)] | None = None


class AdmissionFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the line lets people in at first; operators change it live."""

    mode: Literal["manual"] = "manual"
    rate_per_second: Annotated[float, msgspec.Meta(ge=0, le=100_000)]
    active_max: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
    paused: bool = False
    pass_ttl_s: Annotated[int, msgspec.Meta(ge=30, le=7200)] = 600
    turn_ttl_s: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 120
    absent_after_s: Annotated[int, msgspec.Meta(ge=20, le=3600)] = 150


class ItemFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One item. Without `list_price` the sale's price is the list price."""

    product: Slug | None = None
    title: Title
    stock: Annotated[int, msgspec.Meta(ge=0, le=100_000_000)]
    price: Money
    list_price: Money | None = None
    visit_on: Annotated[str, msgspec.Meta(extra_json_schema={"format": "date"})] | None = None


class SaleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file, and the body of `POST /v1/sales`."""

    sale: SaleFields
    admission: AdmissionFields
    items: Annotated[tuple[ItemFields, ...], msgspec.Meta(min_length=1, max_length=100)]
    refunding: RefundingFields | None = None


def rate_centi(rate_per_second: float) -> int | None:
    """Hundredths per second, or None where the rate is not a multiple of 0.01."""
    centi = round(rate_per_second * 100)
    # Both are the floats nearest to their decimals, so of a rate in whole hundredths they are the same one.
    return centi if centi / 100 == rate_per_second else None


def new_sale(file: SaleFile) -> NewSale:
    """Check what types cannot say. Raises InvalidRequest with every flaw found."""
    flaws: list[Flaw] = []
    opens_at_ms = moment_ms(file.sale.opens_at, "#/sale/opens_at", flaws, may_be_now=True)
    closes_at_ms = moment_ms(file.sale.closes_at, "#/sale/closes_at", flaws)
    if opens_at_ms is not None and closes_at_ms is not None and closes_at_ms <= opens_at_ms:
        flaws.append(Flaw("#/sale/closes_at", "out_of_range", "closes_at must be after opens_at"))
    centi = rate_centi(file.admission.rate_per_second)
    if centi is None:
        flaws.append(Flaw("#/admission/rate_per_second", "out_of_range", "steps of 0.01 a second"))
    sale_id = file.sale.id or slug(file.sale.title)
    items = tuple(_item(n, item, sale_id, flaws) for n, item in enumerate(file.items))
    _check_together(items, flaws)
    refunding = None if file.refunding is None else _refunding(file.refunding, flaws)
    if flaws or centi is None or closes_at_ms is None:
        raise InvalidRequest(*flaws)
    return NewSale(
        id=sale_id,
        title=file.sale.title,
        opens_at_ms=opens_at_ms,
        closes_at_ms=closes_at_ms,
        limit_per_buyer=file.sale.limit_per_buyer,
        hold_ttl_s=file.sale.hold_ttl_s,
        guests=file.sale.guests,
        opening=file.sale.opening,
        policy=_policy(file.admission, centi),
        is_paused=file.admission.paused,
        items=items,
        refunding=refunding,
    )


def parse_sale_file(text: str) -> NewSale:
    """Read a TOML file. Raises SaleFileInvalid whose lines name line and field."""
    try:
        return new_sale(msgspec.convert(_with_text_times(tomllib.loads(text)), SaleFile))
    except tomllib.TOMLDecodeError as error:
        raise SaleFileInvalid(f"not TOML: {error}") from None
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `$")
        raise SaleFileInvalid(_where(text, _pointer(path.rstrip("`"), detail)) + detail) from None
    except InvalidRequest as error:
        raise SaleFileInvalid(*(_where(text, flaw.pointer) + flaw.detail for flaw in error.errors)) from None


def _with_text_times(tables: dict[str, Any]) -> dict[str, Any]:
    """TOML has times and days of its own (unquoted); JSON has not. Both are read as text."""
    items = tables.get("items")
    texts: dict[str, Any] = {"sale": _texts(tables["sale"])} if isinstance(tables.get("sale"), dict) else {}
    if isinstance(items, list):
        texts["items"] = [_texts(item) if isinstance(item, dict) else item for item in items]
    return {**tables, **texts}


def _texts(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, date) else value for name, value in table.items()}


def _policy(admission: AdmissionFields, centi: int) -> Policy:
    return Policy(
        mode=admission.mode,
        rate_centi=centi,
        active_max=admission.active_max,
        pass_ttl_s=admission.pass_ttl_s,
        turn_ttl_s=admission.turn_ttl_s,
        absent_after_s=admission.absent_after_s,
    )


def _item(n: int, item: ItemFields, sale_id: str, flaws: list[Flaw]) -> NewItem:
    listed = item.list_price or item.price
    if listed.currency != item.price.currency:
        flaws.append(Flaw(f"#/items/{n}/list_price/currency", "mismatch", "must be the currency of price"))
    if listed.amount < item.price.amount:
        flaws.append(Flaw(f"#/items/{n}/list_price/amount", "out_of_range", "must not be below price"))
    return NewItem(
        product=item.product or f"{sale_id[:55]}-{n + 1}",
        title=item.title,
        stock=item.stock,
        amount=item.price.amount,
        list_amount=listed.amount,
        currency=item.price.currency,
        visit_on=None if item.visit_on is None else visit_day(item.visit_on, f"#/items/{n}/visit_on", flaws),
    )


def _refunding(asked: RefundingFields, flaws: list[Flaw]) -> RefundPolicy:
    if asked.steps is None:
        return RefundPolicy(since=asked.since)
    days = [step.days_min for step in asked.steps]
    if days != sorted(set(days), reverse=True):
        flaws.append(Flaw("#/refunding/steps", "out_of_order", "the most days first, each once"))
    steps = tuple(RefundStep(step.days_min, step.percent) for step in asked.steps)
    return RefundPolicy(since=asked.since, steps=steps, percent_least=steps[-1].percent)


def _check_together(items: tuple[NewItem, ...], flaws: list[Flaw]) -> None:
    first_at: dict[str, int] = {}
    for n, item in enumerate(items):
        if first_at.setdefault(item.product, n) != n:
            flaws.append(Flaw(f"#/items/{n}/product", "duplicate", f"is item {first_at[item.product] + 1} already"))
        if item.currency != items[0].currency:
            flaws.append(Flaw(f"#/items/{n}/price/currency", "mismatch", "one sale, one currency"))


def visit_day(value: str, pointer: str, flaws: list[Flaw]) -> date | None:
    """The day that people wrote; None, with a flaw, for what is no day."""
    try:
        return date.fromisoformat(value)
    except ValueError:
        flaws.append(Flaw(pointer, "invalid", "a day, such as 2027-01-31"))
        return None


def moment_ms(value: str, pointer: str, flaws: list[Flaw], *, may_be_now: bool = False) -> int | None:
    """Unix milliseconds of a time that people wrote; None for "now", and for what is no time: then with a flaw."""
    if value == "now" and may_be_now:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        at_ms = int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        words = 'RFC 3339 with an offset, or "now"' if may_be_now else "RFC 3339 with an offset"
        flaws.append(Flaw(pointer, "invalid", words))
        return None
    if not 0 <= at_ms <= MOMENT_MS_MAX:
        flaws.append(Flaw(pointer, "out_of_range", "must lie between 1970 and 9999"))
        return None
    return at_ms


def slug(title: str, otherwise: str = "sale") -> str:
    """An id from a title, with a few random letters, so that two of one title do not collide."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:50].strip("-") or otherwise
    return f"{words}-{secrets.token_hex(3)}"


def _pointer(path: str, detail: str) -> str:
    """`.items[0].price` (and a missing or unknown field named in the message) -> `#/items/0/price`."""
    field = re.search(r"field `([^`]*)`", detail)
    steps = re.findall(r"[^.\[\]]+", path) + ([field[1]] if field else [])
    return "#" + "".join(f"/{step}" for step in steps)


def _where(text: str, pointer: str) -> str:
    lines = _lines(text)
    steps = pointer.removeprefix("#")
    while steps and steps not in lines:
        steps = steps.rpartition("/")[0]
    field = pointer.removeprefix("#/").replace("/", ".")
    return f"line {lines.get(steps, 1)}, {field}: "


def _lines(text: str) -> dict[str, int]:
    """Where each table and key of a sale file stands: pointer -> line (1-based)."""
    lines: dict[str, int] = {}
    arrays: defaultdict[str, int] = defaultdict(int)
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)\s*([\w.-]+)", line):
            name = header[2].replace(".", "/")
            table = f"/{name}"
            if header[1] == "[[":
                table, arrays[name] = f"/{name}/{arrays[name]}", arrays[name] + 1
            lines[table] = number
        elif key := re.match(r"\s*([\w-]+)\s*=", line):
            lines[f"{table}/{key[1]}"] = number
    return lines
