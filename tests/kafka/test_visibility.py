# ruff: noqa: PT012  (what a transaction's block does is the case)
"""What readers see of committed, aborted and plain records."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.kafka.readers import by_key, log_ends, read, readable, values
from tests.pools import Recorder, plain, pool, unique
from wd_di import AbortTransaction, DeliveryError, Message, Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di import ProducerPool, Transaction
    from wd_di.testing import Cluster

KEYS = 5


def test_committed_records_reach_both_readers_whole(local_kafka: Cluster, servers: str) -> None:
    """Key, value, headers, timestamp, partition and tombstone arrive as they were given, under either isolation."""
    topic = local_kafka.create_topic(unique("t"), 3)
    now = int(time.time() * 1000)
    with pool(servers, size=2) as orders, orders.transaction() as tx:
        tx.produce_async(topic, "ä", key="k", headers={"a": "1", "b": None}, partition=2, timestamp_ms=now - 5_000)
        tx.produce_async(topic, b"\x00\xff", headers=[("a", b"1"), ("a", b"2")], partition=0)
        tx.produce_async(topic, None, key="gone", partition=1)

    for isolation in ("read_committed", "read_uncommitted"):
        repeated, tombstone, full = sorted(read(servers, topic, isolation), key=lambda record: record.partition)
        assert (b"k", "ä".encode(), now - 5_000) == (full.key, full.value, full.timestamp_ms)
        assert (("a", b"1"), ("b", None)) == full.headers
        assert (None, b"\x00\xff", (("a", b"1"), ("a", b"2"))) == (repeated.key, repeated.value, repeated.headers)
        assert (b"gone", None, ()) == (tombstone.key, tombstone.value, tombstone.headers)
        assert abs(repeated.timestamp_ms - now) < 60_000


def test_aborted_records_reach_only_the_uncommitted_reader(servers: str, topic: str) -> None:
    """Of alternating commits and aborts a read_committed reader sees exactly the committed ones."""
    with pool(servers, size=3) as orders:
        for number in range(30):
            with orders.transaction() as tx:
                tx.produce_many_async([Message(topic, f"{number}-{part}") for part in range(4)])
                if number % 3 == 0:
                    raise AbortTransaction

    sent = sorted(f"{number}-{part}" for number in range(30) for part in range(4))
    assert [each for each in sent if int(each.split("-")[0]) % 3] == values(servers, topic)
    assert sent == values(servers, topic, "read_uncommitted")


def test_nothing_is_visible_before_the_commit(servers: str, topic: str) -> None:
    """A delivered record of an open transaction is hidden from read_committed readers."""
    with pool(servers, size=1) as orders, orders.transaction() as tx:
        report = tx.produce_sync(topic, "hidden")

        assert 0 == readable(servers, topic)
        assert ["hidden"] == values(servers, topic, "read_uncommitted")
        assert 0 == report.offset


def test_an_exception_aborts_and_is_raised_on(servers: str, topic: str) -> None:
    """The block's own exception comes out, its records stay hidden, and their deliveries say so."""
    with pool(servers, size=1) as orders:
        with pytest.raises(ZeroDivisionError), orders.transaction() as tx:
            delivery = tx.produce_async(topic, "gone")
            _ = 1 / 0

        assert "aborted" == delivery.outcome
        assert [] == values(servers, topic)


@pytest.mark.parametrize("wait", [False, True], ids=["async", "sync"])
def test_a_refused_record_aborts_the_whole(local_kafka: Cluster, servers: str, *, wait: bool) -> None:
    """A record that the broker refuses aborts its transaction and costs its producer, but not the next transaction."""
    topic, recorder = local_kafka.create_topic(unique("t"), config={"max.message.bytes": 1_000}), Recorder()
    with pool(servers, size=1, observer=recorder) as orders:
        with pytest.raises(DeliveryError, match="MSG_SIZE_TOO_LARGE"), orders.transaction() as tx:
            tx.produce_sync(topic, "small")
            if wait:
                tx.produce_sync(topic, "x" * 5_000)
            tx.produce_async(topic, "x" * 5_000)

        with orders.transaction() as tx:
            tx.produce_async(topic, "after")
    assert ["after"] == values(servers, topic)
    assert ["record refused"] == recorder.retirements()


def test_a_refused_record_harms_no_other(local_kafka: Cluster, servers: str) -> None:
    """On a plain producer the records after a refused one arrive."""
    topic = local_kafka.create_topic(unique("t"), config={"max.message.bytes": 1_000})
    with plain(servers, size=1, kafka={"enable.idempotence": True}) as clicks, clicks.producer() as producer:
        producer.produce_sync(topic, "before")
        with pytest.raises(DeliveryError, match="MSG_SIZE_TOO_LARGE"):
            producer.produce_sync(topic, "x" * 5_000)
        producer.produce_sync(topic, "after")
    assert ["after", "before"] == values(servers, topic)


def test_a_retry_commits_once(servers: str, topic: str) -> None:
    """A function that fails twice and is run again each time leaves exactly the records of its last run."""
    runs = itertools.count(1)

    def place(tx: Transaction) -> int:
        tx.produce_async(topic, f"run {(run := next(runs))}")
        if run < 3:
            raise ConnectionError
        return run

    with pool(servers, size=2) as orders:
        result = orders.run(place, retry=Retry(attempts=5, backoff_ms=1, on=(ConnectionError,)))

    assert 3 == result
    assert ["run 3"] == values(servers, topic)
    assert ["run 1", "run 2", "run 3"] == values(servers, topic, "read_uncommitted")


def test_each_key_keeps_its_order(local_kafka: Cluster, servers: str) -> None:
    """Records of one key stand in the log as they were produced, across transactions and producers."""
    topic = local_kafka.create_topic(unique("t"), 4)
    with pool(servers, size=3) as orders:
        for number in range(40):
            with orders.transaction() as tx:
                for key in range(KEYS):
                    tx.produce_async(topic, f"{number}", key=f"key-{key}")

    expected = [f"{number}".encode() for number in range(40)]
    assert {f"key-{key}".encode(): expected for key in range(KEYS)} == by_key(read(servers, topic))


def test_pools_are_isolated(local_kafka: Cluster, servers: str) -> None:
    """One pool's abort and close touch neither the records nor the producers of another."""
    first, second = (local_kafka.create_topic(unique("t")) for _ in range(2))
    with pool(servers, name="second", size=2) as other:
        with pool(servers, name="first", size=2) as one, one.transaction() as doomed, other.transaction() as tx:
            doomed.produce_async(first, "aborted")
            tx.produce_async(second, "committed")
            doomed.abort_only()
        with other.transaction() as tx:
            tx.produce_async(second, "after")

    assert [] == values(servers, first)
    assert ["after", "committed"] == values(servers, second)


@pytest.mark.parametrize("make", [plain, pool])
def test_a_report_agrees_with_what_is_read(
    local_kafka: Cluster, servers: str, make: Callable[..., ProducerPool]
) -> None:
    """Topic, partition, offset and timestamp of a report are those of the record in the log."""
    topic = local_kafka.create_topic(unique("t"), 3)
    with make(servers, size=1) as orders, orders.producer() as producer:
        reports = [producer.produce_sync(topic, f"{number}", key=f"{number}") for number in range(12)]

    found = {record.value: record for record in read(servers, topic)}
    for number, report in enumerate(reports):
        record = found[f"{number}".encode()]
        assert (record.topic, record.partition, record.offset, record.timestamp_ms) == (
            report.topic,
            report.partition,
            report.offset,
            report.timestamp_ms,
        )
        assert report.latency_ms is not None
        assert 0 < report.latency_ms < 10_000


def test_what_a_checkout_left_behind_is_delivered(servers: str, topic: str) -> None:
    """Records that are only enqueued at check-in are sent and answered without anybody's help."""
    with plain(servers, size=1, kafka={"linger.ms": 100}) as clicks:
        with clicks.producer() as producer:
            deliveries = [producer.produce_async(topic, f"{number}") for number in range(100)]

        assert [*range(100)] == [delivery.result(10_000).offset for delivery in deliveries]
    assert 100 == len(read(servers, topic))


def test_producing_outside_a_transaction_is_one_of_its_own(servers: str, topic: str) -> None:
    """On a transactional pool a call without a transaction is committed when it returns, produce_many as a whole."""
    with pool(servers, size=1) as orders, orders.producer() as producer:
        delivery = producer.produce_async(topic, "a")
        reports = producer.produce_many_sync([Message(topic, "b"), Message(topic, "c")])

        assert delivery.done()
        # Each commit ends with a marker, which takes an offset too.
        assert (0, [2, 3]) == (delivery.result(0).offset, [report.offset for report in reports])
        assert ["a", "b", "c"] == values(servers, topic)
        assert {0: 5} == log_ends(servers, topic)


@pytest.mark.parametrize("size", [1, 4])
def test_aborts_right_after_produce_cost_no_producer(local_kafka: Cluster, servers: str, size: int) -> None:
    """However soon an abort follows a produce, no producer turns fatal and none is retired (librdkafka#4849)."""
    topic = local_kafka.create_topic(unique("t"), 2)
    recorder = Recorder()
    failures: list[BaseException] = []

    def abort_again_and_again() -> None:
        try:
            for number in range(150 // size):
                with orders.transaction() as tx:
                    tx.produce_async(topic, "never", partition=number % 2)
                    tx.produce_async(topic, "never", partition=(number + 1) % 2)
                    tx.abort_only()
        except BaseException as error:  # noqa: BLE001  (shown below)
            failures.append(error)

    with pool(servers, size=size, observer=recorder) as orders:
        threads = [threading.Thread(target=abort_again_and_again) for _ in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [] == failures
        assert [] == recorder.retirements()
        assert (size, size) == (orders.stats().totals.created, orders.stats().idle)
        with orders.transaction() as tx:
            tx.produce_async(topic, "committed")
    assert ["committed"] == values(servers, topic)
