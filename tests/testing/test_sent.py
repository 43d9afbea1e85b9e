from __future__ import annotations

import pytest

from wd_di.testing import ANY, Sent
from wd_di.testing._sent import listed, missing

RECORD = Sent("orders", "v", "7", [("a", "1"), ("b", None)], partition=2, timestamp_ms=5, offset=3)


@pytest.mark.parametrize(
    "pattern",
    [
        Sent("orders"),
        Sent("orders", "v"),
        Sent("orders", b"v", b"7"),
        Sent("orders", headers=[("a", b"1"), ("b", None)]),
        Sent("orders", headers={"a": "1", "b": None}),
        Sent("orders", partition=2, timestamp_ms=5, offset=3),
        Sent("orders", value=ANY, key="7"),
        Sent(ANY, key="7"),
    ],
    ids=repr,
)
def test_matches(pattern):
    """A pattern means a record whose wire form is the same in each field that it gives."""
    assert pattern.matches(RECORD)


@pytest.mark.parametrize(
    "pattern",
    [
        Sent("order"),
        Sent("orders", ""),
        Sent("orders", None),
        Sent("orders", key="8"),
        Sent("orders", headers=[("b", None), ("a", "1")]),
        Sent("orders", headers={"a": "1"}),
        Sent("orders", headers=None),
        Sent("orders", partition=0),
        Sent("orders", offset=4),
    ],
    ids=repr,
)
def test_matches_not(pattern):
    """One field that differs is enough."""
    assert not pattern.matches(RECORD)


@pytest.mark.parametrize("none", [None, [], {}, ()])
def test_no_headers(none):
    """A record without headers is meant by None and by every empty collection."""
    assert Sent("orders", headers=none).matches(Sent("orders", "v", headers=None))
    assert Sent("orders", headers=None).matches(Sent("orders", "v", headers=none))


def test_nothing_is_not_empty():
    """A tombstone isn't an empty value."""
    assert not Sent("orders", None).matches(Sent("orders", ""))
    assert not Sent("orders", "").matches(Sent("orders", None))


def test_repr_shows_what_was_given():
    """A pattern reads as it was written."""
    assert "Sent('orders', key='7', headers={'a': '1'})" == repr(Sent("orders", key="7", headers={"a": "1"}))
    assert "Sent('orders', value=None)" == repr(Sent("orders", None))


def test_missing_counts():
    """Two equal patterns need two records."""
    twice = [Sent("orders"), Sent("orders")]

    assert [] == missing(twice, [RECORD, RECORD])
    assert [Sent("orders")] == missing(twice, [RECORD])


def test_missing_finds_the_only_way():
    """A loose pattern leaves its record to a strict one when another one does for it, in whatever order they come."""
    seven, eight = Sent("orders", "v", "7"), Sent("orders", "v", "8")
    patterns = [Sent("orders"), Sent("orders", key="7")]

    assert [] == missing(patterns, [seven, eight])
    assert [] == missing(patterns, [eight, seven])
    assert [] == missing(patterns[::-1], [seven, eight])
    assert [Sent("orders", key="7")] == missing(patterns, [eight, eight])


def test_missing_of_many():
    """Hundreds of equal patterns are found among as many records."""
    assert [] == missing([Sent("orders")] * 500, [RECORD] * 500)


def test_listed():
    """A record is listed with its value, its key and headers if it has some, and what was asked for."""
    bare = Sent("clicks", None, None, None, partition=0, timestamp_ms=9, offset=0)

    assert "sent: none" == listed("sent", [])
    assert "sent: 1\n  Sent('clicks', value=None)" == listed("sent", [bare])
    assert (
        "sent: 2\n"
        "  Sent('orders', value='v', key='7', headers=[('a', '1'), ('b', None)], partition=2)\n"
        "  Sent('clicks', value=None, partition=0)"
    ) == listed("sent", [RECORD, bare], like=[Sent("orders", partition=2)])
