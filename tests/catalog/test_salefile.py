"""Sale files: whole or refused, with line and field."""

import pytest

from onsale.catalog.errors import SaleFileInvalid
from onsale.catalog.salefile import SLUG, parse_sale_file

GOOD = """[sale]
id = "autumn-drop"
title = "Autumn drop"
opens_at = "now"
closes_at = "2027-01-01T00:00:00Z"
limit_per_buyer = 2
hold_ttl_s = 600
guests = false
opening = "fifo"
[admission]
rate_per_second = 50.0
active_max = 500
[[items]]
product = "autumn-1"
title = "Autumn jacket"
stock = 100
price = { amount = 1990000, currency = "KRW" }
[[items]]
title = "Autumn hat"
stock = 5
price = { amount = 90000, currency = "KRW" }
"""


def test_a_good_file_is_read_whole():
    """Every field arrives, defaults are filled in, a missing product id is made from the sale's."""
    sale = parse_sale_file(GOOD)

    assert ("autumn-drop", None, 1_798_761_600_000) == (sale.id, sale.opens_at_ms, sale.closes_at_ms)
    assert (5000, 500, 600, 120, 150) == (
        sale.policy.rate_centi,
        sale.policy.active_max,
        sale.policy.pass_ttl_s,
        sale.policy.turn_ttl_s,
        sale.policy.absent_after_s,
    )
    assert ["autumn-1", "autumn-drop-2"] == [item.product for item in sale.items]
    assert [1_990_000, 90_000] == [item.list_amount for item in sale.items]


def test_an_unquoted_time_is_a_time_too():
    """TOML's own times are read like text."""
    sale = parse_sale_file(GOOD.replace('"2027-01-01T00:00:00Z"', "2027-01-01T09:00:00+09:00"))

    assert 1_798_761_600_000 == sale.closes_at_ms


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("stock = 5", "stock = -5", "line 20, items.1.stock: Expected `int` >= 0"),
        ("stock = 5", 'stock = "5"', "line 20, items.1.stock: Expected `int`, got `str`"),
        ("stock = 5", "stock = nan", "line 20, items.1.stock: Expected `int`, got `float`"),
        ("guests = false", "gusts = false", "line 8, sale.gusts: Object contains unknown field `gusts`"),
        ('title = "Autumn drop"\n', "", "line 1, sale.title: Object missing required field `title`"),
        ("amount = 90000,", "amount = 90000.5,", "line 21, items.1.price.amount: Expected `int`, got `float`"),
        ('"2027-01-01T00:00:00Z"', '"soon"', "line 5, sale.closes_at: RFC 3339 with an offset"),
        ('"2027-01-01T00:00:00Z"', '"2027-01-01T00:00:00"', "line 5, sale.closes_at: RFC 3339 with an offset"),
        ('"now"', '"2028-01-01T00:00:00Z"', "line 5, sale.closes_at: closes_at must be after opens_at"),
        ('"now"', '"0001-01-01T00:00:00+23:59"', "line 4, sale.opens_at: must lie between 1970 and 9999"),
        ("2027-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "line 5, sale.closes_at: must lie between 1970 and 9999"),
        ('"autumn-drop"', r'"autumn-drop\n"', f"line 2, sale.id: Expected `str` matching regex {SLUG!r}"),
        ("= 50.0", "= 1e-10", "line 11, admission.rate_per_second: steps of 0.01 a second"),
        ("= 50.0", "= 50.005", "line 11, admission.rate_per_second: steps of 0.01 a second"),
        ("= 50.0", "= inf", "line 11, admission.rate_per_second: Expected `float` <= 100000.0"),
        ("= 50.0", "= nan", "line 11, admission.rate_per_second: Expected `float` >= 0.0"),
        ('title = "Autumn hat"', 'title = "A"\nproduct = "autumn-1"', "line 20, items.1.product: is item 1 already"),
        (
            '90000, currency = "KRW"',
            '90000, currency = "USD"',
            "line 21, items.1.price.currency: one sale, one currency",
        ),
        (
            "[admission]",
            "[admission",
            "not TOML: Expected ']' at the end of a table declaration (at line 10, column 11)",
        ),
    ],
)
def test_a_bad_file_names_line_and_field(old, new, told):
    """Whatever is wrong, the message says where it stands."""
    with pytest.raises(SaleFileInvalid) as refused:
        parse_sale_file(GOOD.replace(old, new, 1))

    assert told == refused.value.flaws[0]


def test_every_flaw_between_fields_is_named_at_once():
    """One look at the message is enough to mend the file."""
    bad = GOOD.replace('"2027-01-01T00:00:00Z"', '"soon"').replace("= 50.0", "= 50.005")

    with pytest.raises(SaleFileInvalid) as refused:
        parse_sale_file(bad)

    assert 2 == len(refused.value.flaws)
