"""Settings: every flaw named at once, nothing half read."""

import pytest

from onsale.server.config import SettingsInvalid, load_settings

GOOD = {
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "DATABASE_URL": "postgresql://onsale@127.0.0.1/onsale",
    "ONSALE_SECRET_KEYS": "k" * 32,
}


def test_defaults_are_those_of_the_contract():
    """Three variables are enough; the rest has the documented defaults."""
    settings = load_settings(GOOD)

    assert ("127.0.0.1", 8080, "http://127.0.0.1:8080") == (settings.host, settings.port, settings.public_url)
    assert settings.line_redis_url == settings.shop_redis_url == GOOD["REDIS_URL"]
    assert () == settings.trusted_proxies
    assert ["127.0.0.0/8", "::1/128"] == [str(network) for network in settings.unlimited_from]
    assert ("console", False, None) == (settings.log, settings.insecure_cookies, settings.smtp_url)


def test_line_and_shop_may_live_apart():
    """Two addresses need no shared one."""
    apart = {key: value for key, value in GOOD.items() if key != "REDIS_URL"}
    settings = load_settings(apart | {"LINE_REDIS_URL": "redis://a", "SHOP_REDIS_URL": "rediss://b"})

    assert ("redis://a", "rediss://b") == (settings.line_redis_url, settings.shop_redis_url)


def test_nodes_of_a_cluster():
    """Several addresses, later ones with or without the scheme; a bad one among them is named."""
    nodes = "redis://a:7000, b:7001,redis://c:7002"
    assert nodes == load_settings(GOOD | {"REDIS_URL": nodes}).line_redis_url
    with pytest.raises(SettingsInvalid, match="REDIS_URL"):
        load_settings(GOOD | {"REDIS_URL": "redis://a:7000,b:port"})


def test_every_flaw_is_named_in_one_message():
    """Whoever deploys mends all of it in one go."""
    bad = {
        "ONSALE_PORT": "eighty",
        "ONSALE_SECRET_KEYS": "short",
        "ONSALE_LOG": "xml",
        "ONSALE_TRUSTED_PROXIES": "the-proxy",
        "ONSALE_INSECURE_COOKIES": "yes",
        "ONSALE_PUBLIC_URL": "shop.example",
        "SMTP_URL": "mail.example",
    }
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(bad)

    named = {flaw.split(":")[0] for flaw in caught.value.flaws}
    assert {*bad, "LINE_REDIS_URL", "SHOP_REDIS_URL", "DATABASE_URL"} == named


def test_messages_never_repeat_a_secret():
    """A bad URL may hold a password."""
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(GOOD | {"DATABASE_URL": "mysql://root:hunter2@db/x", "ONSALE_SECRET_KEYS": "hunter2"})

    assert "hunter2" not in str(caught.value)


def test_insecure_cookies_are_refused_behind_https():
    """Dropping Secure is for plain http only."""
    with pytest.raises(SettingsInvalid, match="ONSALE_INSECURE_COOKIES"):
        load_settings(GOOD | {"ONSALE_PUBLIC_URL": "https://shop.example", "ONSALE_INSECURE_COOKIES": "1"})


@pytest.mark.parametrize("keys", ["k" * 31, "k" * 32 + "," + "k" * 32, ",", "k" * 32 + ",short"])
def test_weak_or_doubled_secret_keys_are_refused(keys):
    """Every key must be long, and each only once."""
    with pytest.raises(SettingsInvalid, match="ONSALE_SECRET_KEYS"):
        load_settings(GOOD | {"ONSALE_SECRET_KEYS": keys})


def test_older_secret_keys_follow_the_current_one():
    """Order is kept: the first signs, the others verify."""
    assert (b"a" * 32, b"b" * 32) == load_settings(
        GOOD | {"ONSALE_SECRET_KEYS": f" {'a' * 32} , {'b' * 32} "}
    ).secret_keys


def test_hours_of_sales_know_their_distance_from_utc():
    """Nine to ten in the evening in Seoul is midnight to one in the afternoon in UTC."""
    hours = load_settings(GOOD | {"ONSALE_SALE_HOURS": "09:00-22:00+09:00"}).sale_hours

    assert [False, True, True, False] == [hours.allow(hour * 3_600_000) for hour in (-1, 0, 12, 13)]


@pytest.mark.parametrize("hours", ["9-22", "22:00-09:00+00:00", "09:00-25:00+00:00", "09:00-22:00"])
def test_hours_that_are_none_are_refused(hours):
    """Like every other bad value."""
    with pytest.raises(SettingsInvalid, match="ONSALE_SALE_HOURS"):
        load_settings(GOOD | {"ONSALE_SALE_HOURS": hours})


HOOK = "whsec_" + "c2VjcmV0IG9mIGEgd2ViaG9vaw=="


def test_providers_are_those_that_are_named():
    """Nothing set: none is offered. What is set is theirs alone."""
    bare = load_settings(GOOD)
    assert (None, None, None, None) == (bare.sandbox, bare.portone, bare.toss, bare.stripe)

    settings = load_settings(
        GOOD
        | {"PORTONE_API_SECRET": "p", "PORTONE_WEBHOOK_SECRETS": f"{HOOK}, {HOOK}", "PORTONE_STORE_ID": "store-1"}
        | {"TOSS_SECRET_KEY": "t", "STRIPE_SECRET_KEY": "sk", "STRIPE_WEBHOOK_SECRETS": "whsec_raw"}
    )
    portone, toss, stripe = settings.portone, settings.toss, settings.stripe
    assert portone is not None and toss is not None and stripe is not None
    assert ("https://api.portone.io", "p", "store-1") == (portone.url, portone.secret, portone.store_id)
    assert (b"secret of a webhook",) * 2 == portone.webhook_secrets
    assert ("https://api.tosspayments.com", "t") == (toss.url, toss.secret)
    assert (b"whsec_raw",) == stripe.webhook_secrets


def test_half_a_provider_is_refused_with_all_that_it_lacks():
    """One variable of a provider asks for the rest; each that is missing or bad is named at once."""
    bad = {
        "PORTONE_STORE_ID": "store-1",
        "PORTONE_URL": "http://payments.example",
        "TOSS_URL": "https://api.tosspayments.com",
        "STRIPE_SECRET_KEY": "sk live",
        "STRIPE_WEBHOOK_SECRETS": "secret",
        "ONSALE_SANDBOX_WEBHOOK_SECRETS": "whsec_no base64",
        "ONSALE_SANDBOX_CHAOS": "much",
    }
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(GOOD | bad)

    named = {flaw.split(":")[0] for flaw in caught.value.flaws}
    missing = {"PORTONE_API_SECRET", "PORTONE_WEBHOOK_SECRETS", "TOSS_SECRET_KEY", "ONSALE_SANDBOX_URL"}
    assert missing | set(bad) - {"PORTONE_STORE_ID", "TOSS_URL"} == named
    assert "sk live" not in str(caught.value)
