"""What becomes of a record: what a reader finds of it, and what its producer is told."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.contract.backends import Backend
from wd_di import DeliveryError, Message

GIVEN_MS = 1_700_000_000_000


def test_text_is_utf8(backend: Backend) -> None:
    """Values and keys are read as the UTF-8 of what was produced; bytes as they are."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, "größer", "schlüssel")
        tx.produce_async(topic, b"\x00\xff", b"\xfe")

    text, raw = backend.visible(topic)
    assert ("größer".encode(), "schlüssel".encode()) == (text.value, text.key)
    assert (b"\x00\xff", b"\xfe") == (raw.value, raw.key)


def test_nothing_and_empty_differ(backend: Backend) -> None:
    """A tombstone is read as None and an empty value as empty; so are keys."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, None, "k")
        tx.produce_async(topic, "", "")
        tx.produce_async(topic, "v")

    assert [(None, b"k"), (b"", b""), (b"v", None)] == [(record.value, record.key) for record in backend.visible(topic)]


def test_headers(backend: Backend) -> None:
    """Headers keep their order, their doubles, and the difference between nothing and empty."""
    pool, topic = backend.pool(), backend.topic()
    pairs = [("a", "1"), ("b", b"\xff"), ("a", None), ("c", "")]
    with pool.transaction() as tx:
        tx.produce_async(topic, "pairs", headers=pairs)
        tx.produce_async(topic, "mapping", headers={"x": "ä", "y": None})
        tx.produce_async(topic, "none")

    found = [record.headers for record in backend.visible(topic)]
    assert (("a", b"1"), ("b", b"\xff"), ("a", None), ("c", b"")) == found[0]
    assert (("x", "ä".encode()), ("y", None)) == found[1]
    assert () == found[2]


def test_what_c_would_cut(backend: Backend) -> None:
    """Values, keys and header values are read whole, also behind a NUL character."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, "v\0alue", "k\0ey", headers={"text": "a\0b", "bytes": b"a\0b"})

    [found] = backend.visible(topic)
    assert (b"v\0alue", b"k\0ey") == (found.value, found.key)
    assert (("text", b"a\0b"), ("bytes", b"a\0b")) == found.headers


def test_what_cannot_be_sent(backend: Backend) -> None:
    """What has no form on the wire is a ValueError that names the field; nothing is sent, the transaction lives on."""
    pool, topic = backend.pool(), backend.topic()
    refused: list[dict[str, Any]] = [
        {"topic": "no\0where"},
        {"topic": "\udce9"},
        {"value": "\udce9"},
        {"key": "\udce9"},
        {"headers": {"\udce9": "v"}},
        {"headers": {"a\0b": "v"}},
        {"headers": [("a", "\udce9")]},
        {"partition": 2**31},
        {"timestamp_ms": 0},
        {"timestamp_ms": 2**63},
    ]
    with pool.transaction() as tx:
        for given in refused:
            [field] = given
            for produce in (tx.produce_async, tx.produce_sync):
                with pytest.raises(ValueError, match=field.removesuffix("s")):
                    produce(**{"topic": topic, **given})
        tx.produce_async(topic, "after")

    assert ["after"] == backend.values(topic)


def test_order(backend: Backend) -> None:
    """Records of one partition are read in the order in which they were produced, over transactions too."""
    pool, topic = backend.pool(), backend.topic()
    for batch in (range(30), range(30, 60)):
        with pool.transaction() as tx:
            for number in batch:
                tx.produce_async(topic, str(number))

    assert [str(number) for number in range(60)] == backend.values(topic)


def test_partition(backend: Backend) -> None:
    """A record goes to the partition that it names."""
    pool, topic = backend.pool(), backend.topic(3)
    with pool.transaction() as tx:
        report = tx.produce_sync(topic, "two", partition=2)
        tx.produce_async(topic, "one", partition=1)

    assert 2 == report.partition
    assert {(b"two", 2), (b"one", 1)} == {(record.value, record.partition) for record in backend.visible(topic)}


def test_a_key_stays_in_its_partition(backend: Backend) -> None:
    """Records with the same key go to the same partition."""
    pool, topic = backend.pool(), backend.topic(3)
    with pool.transaction() as tx:
        for number in range(5):
            tx.produce_async(topic, str(number), "key")

    assert 1 == len({record.partition for record in backend.visible(topic)})
    assert ["0", "1", "2", "3", "4"] == backend.values(topic)


def test_timestamps(backend: Backend) -> None:
    """A record has the timestamp that it was given, or else that of its produce."""
    pool, topic = backend.pool(), backend.topic()
    before = time.time() * 1000 - 1
    with pool.transaction() as tx:
        tx.produce_async(topic, "given", timestamp_ms=GIVEN_MS)
        tx.produce_async(topic, "now")
    after = time.time() * 1000

    given, now = backend.visible(topic)
    assert GIVEN_MS == given.timestamp_ms
    assert before <= now.timestamp_ms <= after


def test_report(backend: Backend) -> None:
    """The report names the place where a reader finds the record, from offset 0 on."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        reports = [tx.produce_sync(topic, "one"), tx.produce_sync(topic, "two")]

    assert [(topic, 0, 0), (topic, 0, 1)] == [(report.topic, report.partition, report.offset) for report in reports]
    assert [(0, 0), (0, 1)] == [(record.partition, record.offset) for record in backend.visible(topic)]
    assert all(report.latency_ms is not None and report.latency_ms >= 0 for report in reports)


def test_reported_timestamp(backend: Backend) -> None:
    """The report has the record's own timestamp."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        report = tx.produce_sync(topic, "given", timestamp_ms=GIVEN_MS)

    assert GIVEN_MS == report.timestamp_ms


def test_every_transaction_leaves_a_marker(backend: Backend) -> None:
    """A commit and an abort each take one offset more than their records."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_sync(topic, "kept")
    with pool.transaction() as tx:
        tx.produce_sync(topic, "aborted")
        tx.abort_only()

    assert 4 == backend.settled_end(topic, 4)


def test_delivery(backend: Backend) -> None:
    """What produce_async gives is resolved by the commit, with the same report as of produce_sync."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        delivery = tx.produce_async(topic, "one")

    assert delivery.done()
    assert "delivered" == delivery.outcome
    assert delivery.exception(0) is None
    assert (topic, 0, 0) == (delivery.result(0).topic, delivery.result(0).partition, delivery.result(0).offset)


def test_aborted_delivery(backend: Backend) -> None:
    """Deliveries of an aborted transaction report so, also those that the broker had stored."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_sync(topic, "stored")
        delivery = tx.produce_async(topic, "perhaps")
        tx.abort_only()

    assert "aborted" == delivery.outcome
    with pytest.raises(DeliveryError, match="was aborted"):
        delivery.result(0)


def test_many(backend: Backend) -> None:
    """Several records of one call are reported, and read, in their order."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        reports = tx.produce_many_sync([Message(topic, "one", "k"), Message(topic, "two", headers={"h": "x"})])

    one, two = backend.visible(topic)
    assert [0, 1] == [report.offset for report in reports]
    assert (b"one", b"k", ()) == (one.value, one.key, one.headers)
    assert (b"two", None, (("h", b"x"),)) == (two.value, two.key, two.headers)


def test_flush(backend: Backend) -> None:
    """A flush returns when every record of its borrower is answered."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        deliveries = [tx.produce_async(topic, str(number)) for number in range(10)]
        tx.flush()
        done = [delivery.done() for delivery in deliveries]

    assert [True] * 10 == done


def test_plain_records_are_visible_at_once(backend: Backend) -> None:
    """Without transactions a record is visible once it is answered."""
    pool, topic = backend.plain(), backend.topic()
    with pool.producer() as producer:
        report = producer.produce_sync(topic, "one", "k", headers={"h": "x"})
        [found] = backend.visible(topic)

    assert (b"one", b"k", (("h", b"x"),)) == (found.value, found.key, found.headers)
    assert report.offset == found.offset == 0


def test_plain_records_outlive_their_borrower(backend: Backend) -> None:
    """What was enqueued is sent, though its producer has gone back and the pool is closed."""
    pool, topic = backend.plain(), backend.topic()
    with pool.producer() as producer:
        deliveries = [producer.produce_async(topic, str(number)) for number in range(20)]
    report = pool.close()

    assert report.clean
    assert {"delivered"} == {delivery.outcome for delivery in deliveries}
    assert [str(number) for number in range(20)] == backend.values(topic)
