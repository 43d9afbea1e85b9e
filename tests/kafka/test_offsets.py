# ruff: noqa: PT012  (what a transaction's block does is the case)
"""Consume, transform, produce: a consumer group's offsets inside the transaction."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.kafka.readers import committed, values
from tests.pools import Recorder, pool, unique, until
from wd_di import ProducerPool, RebalancedError, Transaction, UnexpectedAbortError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di.testing import Cluster

RECORDS = 60
BATCH = 7


@pytest.fixture
def source(local_kafka: Cluster, servers: str) -> str:
    """A topic with records 0, 1, 2... in its only partition."""
    topic = local_kafka.create_topic(unique("in"))
    with pool(servers, size=1) as feed, feed.transaction() as tx:
        for number in range(RECORDS):
            tx.produce_async(topic, f"{number:03}")
    return topic


@pytest.fixture
def group() -> str:
    """A new consumer group."""
    return unique("group")


@pytest.fixture
def consumer(servers: str, source: str, group: str) -> Iterator[Consumer]:
    """A member of the group that has its partition."""
    with closing(member(servers, group)) as consumer:
        consumer.subscribe([source])
        until(lambda: consumer.poll(0.05) is not None)
        consumer.seek(TopicPartition(source, 0, 0))
        yield consumer


def member(servers: str, group: str) -> Consumer:
    """Return a consumer that hasn't joined yet."""
    return Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "heartbeat.interval.ms": 100,
            "fetch.wait.max.ms": 20,
            "log_level": 0,
        }
    )


def pass_on(consumer: Consumer, tx: Transaction, sink: str) -> list[TopicPartition]:
    """Produce one batch of what the consumer reads; the offsets that follow it."""
    batch: list[Any] = until(lambda: consumer.consume(BATCH, 0.1))
    for message in batch:
        tx.produce_async(sink, message.value())
    return [TopicPartition(batch[-1].topic(), batch[-1].partition(), batch[-1].offset() + 1)]


def test_each_record_is_passed_on_exactly_once(
    servers: str, source: str, topic: str, group: str, consumer: Consumer
) -> None:
    """Every third batch aborts and is read again; the output has each input once, and the group stands at the end."""
    with pool(servers, size=2) as orders:
        attempt = 0
        while (done := committed(servers, group, source)) < RECORDS:
            consumer.seek(TopicPartition(source, 0, max(done, 0)))
            attempt += 1
            with orders.transaction() as tx:
                tx.send_offsets(pass_on(consumer, tx, topic), consumer.consumer_group_metadata())
                if attempt % 3 == 1:
                    tx.abort_only()

    assert attempt > RECORDS // BATCH
    assert [f"{number:03}" for number in range(RECORDS)] == values(servers, topic)


def test_an_abort_leaves_the_groups_offset(
    servers: str, source: str, topic: str, group: str, consumer: Consumer
) -> None:
    """Offsets sent in a transaction that aborts are not the group's; those of one that commits are."""
    with pool(servers, size=1) as orders:
        with orders.transaction() as tx:
            tx.send_offsets([TopicPartition(source, 0, 10)], consumer.consumer_group_metadata())
        with pytest.raises(ZeroDivisionError), orders.transaction() as tx:
            tx.produce_async(topic, "never")
            tx.send_offsets([TopicPartition(source, 0, 20)], consumer.consumer_group_metadata())
            _ = 1 / 0

        assert 10 == committed(servers, group, source)
        assert [] == values(servers, topic)


def test_a_second_member_makes_the_offsets_foreign(
    servers: str, source: str, topic: str, group: str, consumer: Consumer
) -> None:
    """After another member has joined, offsets under the old membership abort the transaction; its producer stays."""
    recorder = Recorder()
    with pool(servers, size=1, observer=recorder) as orders, closing(member(servers, group)) as second:
        with pytest.raises(RebalancedError, match="rebalanced") as caught, orders.transaction() as tx:
            offsets, stale = pass_on(consumer, tx, topic), consumer.consumer_group_metadata()
            join(second, consumer, source)
            tx.send_offsets(offsets, stale)

        assert "aborted" == caught.value.outcome
        assert_unharmed(servers, orders, recorder, topic)
    assert committed(servers, group, source) < 0


def test_a_member_that_left_can_send_no_offsets(servers: str, source: str, topic: str, group: str) -> None:
    """A membership that has ended is a rebalance too, also when the block swallows the error."""
    recorder = Recorder()
    with closing(member(servers, group)) as left:
        left.subscribe([source])
        until(lambda: left.poll(0.05) is not None)
        stale = left.consumer_group_metadata()
    with pool(servers, size=1, observer=recorder) as orders:
        with pytest.raises(UnexpectedAbortError) as caught, orders.transaction() as tx:
            tx.produce_async(topic, "never")
            with pytest.raises(RebalancedError):
                tx.send_offsets([TopicPartition(source, 0, 1)], stale)

        assert isinstance(caught.value.__cause__, RebalancedError)
        assert_unharmed(servers, orders, recorder, topic)


def join(second: Consumer, first: Consumer, source: str) -> None:
    """Poll both until the group has taken the second one in: whatever it is assigned is of the new generation."""
    assigned: list[object] = []
    second.subscribe([source], on_assign=lambda _, partitions: assigned.append(partitions))
    until(lambda: (first.poll(0.02), second.poll(0.02), bool(assigned))[-1])


def assert_unharmed(servers: str, orders: ProducerPool, recorder: Recorder, topic: str) -> None:
    """Assert that nothing is visible, and that the producer is the same and works."""
    assert [] == values(servers, topic)
    assert [] == recorder.retirements()
    with orders.transaction() as tx:
        tx.produce_async(topic, "after")
    assert ["after"] == values(servers, topic)
