"""Settings: read once from the environment, checked whole, handed out in small parts.

This is the only file that knows the names of environment variables. A missing or bad value never stops at the first:
`load_settings` names every one of them in a single message, so that a deployment is mended in one go.
"""

from __future__ import annotations

import binascii
import ipaddress
import os
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formataddr, parseaddr
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from onsale.catalog.rules import DAY_MINUTES, SaleHours
from onsale.checkout.providers import portone, stripe, toss
from onsale.checkout.providers.credentials import Credentials
from onsale.lua.cluster import nodes_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LogStyle = Literal["console", "json"]
T = TypeVar("T")

# 32: keys are stretched by HKDF-SHA256, so less than its 256 bits of input would be the weakest link.
SECRET_CHARACTERS_MIN = 32
REDIS_SCHEMES = frozenset({"redis", "rediss"})
POSTGRES_SCHEMES = frozenset({"postgres", "postgresql"})
SMTP_SCHEMES = frozenset({"smtp", "smtps"})
HTTP_SCHEMES = frozenset({"http", "https"})
_SALE_HOURS = re.compile(r"(\d\d):([0-5]\d)-(\d\d):([0-5]\d)([+-])(\d\d):([0-5]\d)", re.ASCII)
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
# Standard Webhooks asks for 24 to 64.
WEBHOOK_KEY_BYTES_MIN = 16
ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, never listened on


class SettingsInvalid(Exception):
    """The environment cannot be used: each line names one variable and what is wrong with it."""

    def __init__(self, *flaws: str) -> None:
        super().__init__("settings are missing or bad:\n" + "\n".join(f"  {flaw}" for flaw in flaws))
        self.flaws = flaws


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a process of onsale is told from outside. Rooms are handed what they need of it, never the whole."""

    host: str
    port: int
    # Where browsers find us; the issuer of passes. No trailing slash.
    public_url: str
    line_redis_url: str
    shop_redis_url: str
    database_url: str
    # Current first; the others still verify.
    secret_keys: tuple[bytes, ...]
    # Where letters are handed in; None: they wait.
    smtp_url: str | None
    mail_from: str
    # Where the catcher of `onsale up` shows letters that it was handed instead.
    catcher_url: str | None
    # Whose X-Forwarded-For, X-Forwarded-Proto and X-Request-Id are believed.
    trusted_proxies: tuple[Network, ...]
    # Spared by budgets per address, never by those per account.
    unlimited_from: tuple[Network, ...]
    log: LogStyle
    insecure_cookies: bool
    # Whether `onsale clock advance` may move schedules.
    test_clock: bool
    # Between which times of the day vendors' sales may open.
    sale_hours: SaleHours
    # Providers of payments; None: not offered.
    sandbox: Credentials | None
    portone: Credentials | None
    toss: Credentials | None
    stripe: Credentials | None
    # The seed of a sandbox that times out, doubles its webhooks and is late; None: it does as it is told.
    sandbox_chaos: int | None
    data_dir: Path
    # Whether an account may be signed in on several devices.
    multi_login: bool
    # How long a process told to stop may take to finish what it has begun.
    drain_s: int
    # A pooler between us and Postgres hands each transaction another server: prepared statements must not be kept.
    pgbouncer: bool

    @property
    def is_https(self) -> bool:
        """Whether browsers reach us by https."""
        return self.public_url.startswith("https:")

    @property
    def own_url(self) -> str:
        """Where processes of this machine find the web processes."""
        return _own_url(self.host, self.port)


def environment() -> dict[str, str]:
    """The environment of this process. Read here alone, so that nothing else depends on it unseen."""
    return dict(os.environ)


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read and check every variable. Raises SettingsInvalid naming all that are missing or bad."""
    reader = _Reader(environ)
    host = reader.text("ONSALE_HOST", "127.0.0.1")
    port = reader.number("ONSALE_PORT", 8080, low=0, high=65535)
    public_url = reader.read("ONSALE_PUBLIC_URL", _http_url, _own_url(host, port))
    redis_url = reader.read("REDIS_URL", _redis_url, "")
    settings = Settings(
        host=host,
        port=port,
        public_url=public_url,
        line_redis_url=reader.store("LINE_REDIS_URL", redis_url),
        shop_redis_url=reader.store("SHOP_REDIS_URL", redis_url),
        database_url=reader.required("DATABASE_URL", _postgres_url, ""),
        secret_keys=reader.required("ONSALE_SECRET_KEYS", _secret_keys, ()),
        smtp_url=reader.read("SMTP_URL", _smtp_url, None),
        mail_from=reader.read("ONSALE_MAIL_FROM", _mailbox, _own_mailbox(public_url)),
        catcher_url=reader.read("ONSALE_CATCHER_URL", _http_url, None),
        trusted_proxies=reader.read("ONSALE_TRUSTED_PROXIES", _networks, ()),
        unlimited_from=reader.read("ONSALE_UNLIMITED_FROM", _networks, _networks("127.0.0.0/8, ::1")),
        log=reader.read("ONSALE_LOG", _log_style, "console"),
        insecure_cookies=reader.read("ONSALE_INSECURE_COOKIES", _switch, False),
        test_clock=reader.read("ONSALE_TEST_CLOCK", _switch, False),
        sale_hours=reader.read("ONSALE_SALE_HOURS", _sale_hours, SaleHours()),
        sandbox=_sandbox(reader),
        portone=_portone(reader),
        toss=_toss(reader),
        stripe=_stripe(reader),
        sandbox_chaos=reader.read("ONSALE_SANDBOX_CHAOS", _seed, None),
        data_dir=Path(reader.text("ONSALE_DATA_DIR", ".onsale")),
        multi_login=reader.read("ONSALE_MULTI_LOGIN", _allowed, True),
        drain_s=reader.number("ONSALE_DRAIN_S", 20, low=1, high=600),
        pgbouncer=reader.read("ONSALE_PGBOUNCER", _switch, False),
    )
    if settings.insecure_cookies and settings.is_https:
        reader.flaws.append("ONSALE_INSECURE_COOKIES: refused, ONSALE_PUBLIC_URL is https")
    if reader.flaws:
        raise SettingsInvalid(*reader.flaws)
    return settings


class _Reader:
    """Reads variables one by one and remembers every flaw; an empty variable counts as absent."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.flaws: list[str] = []

    def read(self, name: str, parse: Callable[[str], T], default: T) -> T:
        raw = self._environ.get(name, "").strip()
        if not raw:
            return default
        try:
            return parse(raw)
        except ValueError as error:
            self.flaws.append(f"{name}: {error}")
            return default

    def has_any(self, *names: str) -> bool:
        """Whether one of these is set."""
        return any(self._environ.get(name, "").strip() for name in names)

    def required(self, name: str, parse: Callable[[str], T], otherwise: T) -> T:
        if not self._environ.get(name, "").strip():
            self.flaws.append(f"{name}: missing")
        return self.read(name, parse, otherwise)

    def store(self, name: str, shared_url: str) -> str:
        """A Redis of its own, or the one shared by line and shop."""
        url = self.read(name, _redis_url, shared_url)
        if not url and not any(flaw.startswith((f"{name}:", "REDIS_URL:")) for flaw in self.flaws):
            self.flaws.append(f"{name}: missing, and REDIS_URL too")
        return url

    def text(self, name: str, default: str) -> str:
        return self.read(name, str, default)

    def number(self, name: str, default: int, *, low: int, high: int) -> int:
        def parse(raw: str) -> int:
            if not raw.isascii() or not raw.isdigit() or not low <= int(raw) <= high:
                raise ValueError(f"must be a whole number from {low} to {high}")
            return int(raw)

        return self.read(name, parse, default)


def _sandbox(reader: _Reader) -> Credentials | None:
    if not reader.has_any("ONSALE_SANDBOX_URL", "ONSALE_SANDBOX_WEBHOOK_SECRETS"):
        return None
    url = reader.required("ONSALE_SANDBOX_URL", _http_url, "")
    return Credentials(url, webhook_secrets=reader.read("ONSALE_SANDBOX_WEBHOOK_SECRETS", _standard_secrets, ()))


def _portone(reader: _Reader) -> Credentials | None:
    shop = ("PORTONE_STORE_ID", "PORTONE_CHANNEL_KEY")
    if not reader.has_any("PORTONE_API_SECRET", "PORTONE_WEBHOOK_SECRETS", "PORTONE_URL", *shop):
        return None
    return Credentials(
        reader.read("PORTONE_URL", _provider_url, portone.URL),
        reader.required("PORTONE_API_SECRET", _key, ""),
        reader.required("PORTONE_WEBHOOK_SECRETS", _standard_secrets, ()),
        store_id=reader.read("PORTONE_STORE_ID", _key, ""),
        channel_key=reader.read("PORTONE_CHANNEL_KEY", _key, ""),
    )


def _toss(reader: _Reader) -> Credentials | None:
    if not reader.has_any("TOSS_SECRET_KEY", "TOSS_URL"):
        return None
    url = reader.read("TOSS_URL", _provider_url, toss.URL)
    return Credentials(url, reader.required("TOSS_SECRET_KEY", _key, ""))


def _stripe(reader: _Reader) -> Credentials | None:
    if not reader.has_any("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRETS", "STRIPE_URL"):
        return None
    return Credentials(
        reader.read("STRIPE_URL", _provider_url, stripe.URL),
        reader.required("STRIPE_SECRET_KEY", _key, ""),
        reader.required("STRIPE_WEBHOOK_SECRETS", _stripe_secrets, ()),
    )


def _own_url(host: str, port: int) -> str:
    name = "127.0.0.1" if host in ANY_ADDRESS else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _url(raw: str, schemes: frozenset[str]) -> str:
    # The value is never repeated in a message: it may hold a password.
    try:
        parts = urlsplit(raw)
        parts.port  # noqa: B018 - raises ValueError for a bad port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in schemes or not (parts.netloc or parts.path or parts.query):
        raise ValueError(f"must be a URL with {' or '.join(f'{scheme}://' for scheme in sorted(schemes))}")
    return raw


def _redis_url(raw: str) -> str:
    """One server, or several nodes of a cluster split by commas."""
    for node in nodes_of(raw):
        _url(node, REDIS_SCHEMES)
    return raw


def _postgres_url(raw: str) -> str:
    return _url(raw, POSTGRES_SCHEMES)


def _smtp_url(raw: str) -> str:
    return _url(raw, SMTP_SCHEMES)


def _mailbox(raw: str) -> str:
    name, address = parseaddr(raw)
    if not address or "@" not in address or any(not char.isprintable() for char in raw):
        raise ValueError("must be an address like Shop <no-reply@shop.example>")
    return formataddr((name, address))


def _own_mailbox(public_url: str) -> str:
    host = urlsplit(public_url).hostname or "localhost"
    return f"onsale <no-reply@{'localhost' if _is_address(host) else host}>"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _http_url(raw: str) -> str:
    url = _url(raw, HTTP_SCHEMES).rstrip("/")
    parts = urlsplit(url)
    if not parts.hostname or parts.query or parts.fragment or parts.path:
        raise ValueError("must be an address like https://shop.example without path or query")
    return url


def _provider_url(raw: str) -> str:
    url = _http_url(raw)
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise ValueError("must be https: our key for this provider goes there")
    return url


def _key(raw: str) -> str:
    # It becomes a header: anything else would be refused at the first payment, not at the start.
    if not raw.isascii() or not raw.isprintable() or " " in raw:
        raise ValueError("holds a character that no key has")
    return raw


def _webhook_secrets(raw: str) -> list[str]:
    secrets = [part.strip() for part in raw.split(",") if part.strip()]
    if not secrets or not all(secret.startswith("whsec_") for secret in secrets):
        raise ValueError("needs one or more secrets that begin with whsec_, split by commas, the current one first")
    return secrets


def _standard_secrets(raw: str) -> tuple[bytes, ...]:
    try:
        keys = tuple(b64decode(secret.removeprefix("whsec_"), validate=True) for secret in _webhook_secrets(raw))
    except binascii.Error:
        raise ValueError("must be base64 after whsec_") from None
    if any(len(key) < WEBHOOK_KEY_BYTES_MIN for key in keys):
        raise ValueError(f"must be at least {WEBHOOK_KEY_BYTES_MIN} bytes each")
    return keys


def _stripe_secrets(raw: str) -> tuple[bytes, ...]:
    # Stripe signs with the secret as it is written, its prefix included.
    return tuple(secret.encode() for secret in _webhook_secrets(raw))


def _seed(raw: str) -> int:
    if not raw.isascii() or not raw.isdigit() or len(raw) > 18:
        raise ValueError("must be a whole number, the seed")
    return int(raw)


def _secret_keys(raw: str) -> tuple[bytes, ...]:
    keys = [part.strip() for part in raw.split(",") if part.strip()]
    if not keys or any(len(key) < SECRET_CHARACTERS_MIN for key in keys):
        raise ValueError(f"needs one or more keys of at least {SECRET_CHARACTERS_MIN} characters, split by commas")
    if len(set(keys)) < len(keys):
        raise ValueError("holds the same key twice")
    return tuple(key.encode() for key in keys)


def _networks(raw: str) -> tuple[Network, ...]:
    parts = [part.strip() for part in raw.split(",") if part.strip()]
    try:
        return tuple(ipaddress.ip_network(part, strict=False) for part in parts)
    except ValueError:
        raise ValueError("must be addresses or networks like 10.0.0.0/8, split by commas") from None


def _sale_hours(raw: str) -> SaleHours:
    parts = _SALE_HOURS.fullmatch(raw)
    if parts is None:
        raise ValueError("must be times of the day like 09:00-22:00+09:00")
    from_min, until_min, ahead_min = (int(parts[i]) * 60 + int(parts[i + 1]) for i in (1, 3, 6))
    if not 0 <= from_min < until_min <= DAY_MINUTES or ahead_min > 14 * 60:
        raise ValueError("must be times of one day, the later one last")
    return SaleHours(from_min, until_min, -ahead_min if parts[5] == "-" else ahead_min)


def _log_style(raw: str) -> LogStyle:
    styles: dict[str, LogStyle] = {"console": "console", "json": "json"}
    if raw not in styles:
        raise ValueError("must be console or json")
    return styles[raw]


def _allowed(raw: str) -> bool:
    if raw in ("allow", "deny"):
        return raw == "allow"
    raise ValueError("must be allow or deny")


def _switch(raw: str) -> bool:
    if raw in ("0", "1"):
        return raw == "1"
    raise ValueError("must be 0 or 1")
