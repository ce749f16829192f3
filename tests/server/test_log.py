"""Logs: only allow-listed fields are written."""

from onsale.server.log import allow_listed


def test_unknown_fields_are_dropped_and_their_names_kept():
    """A token handed to a logger does not reach the line."""
    event = allow_listed(None, "info", {"event": "order.confirmed", "order": "o-1", "access_token": "canary"})

    assert {"event": "order.confirmed", "order": "o-1", "dropped": ["access_token"]} == event


def test_long_details_are_cut():
    """A library's message cannot fill the disk."""
    assert 2_000 == len(allow_listed(None, "info", {"event": "x", "detail": "d" * 9_000})["detail"])
