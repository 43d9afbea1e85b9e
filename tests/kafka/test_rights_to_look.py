# ruff: noqa: PT012  (what a transaction's block does is the case)
"""What a user must be allowed so that the pool can find out what became of a commit without an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.pools import pool, unique
from tests.secured import secured
from wd_di import CommitOutcomeUnknownError, ProducerPool, TransactionAbortedError
from wd_di._kafka.librdkafka import KafkaClient
from wd_di._kafka.port import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di.testing import LocalKafka


@pytest.fixture(scope="module")
def kafka() -> Iterator[LocalKafka]:
    """A broker with users and rights."""
    with secured() as kafka:
        yield kafka


@pytest.fixture
def topic(kafka: LocalKafka) -> str:
    """A new topic, to which alice may write, and nothing else."""
    topic = kafka.create_topic(unique("t"))
    kafka.grant("alice", "Write", topic=topic)
    kafka.grant("alice", "Write", "Describe", transactional_id="*")
    return topic


@pytest.fixture
def orders(kafka: LocalKafka, topic: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProducerPool]:
    """A pool of alice's whose commits never reach the broker."""

    def commit(_: KafkaClient, seconds: float) -> None:
        raise Fault(FaultKind.RETRIABLE, f"no answer within {seconds} s")

    monkeypatch.setattr(KafkaClient, "commit", commit)
    config = kafka.client_config("SASL_PLAINTEXT", user="alice")
    servers = config.pop("bootstrap.servers")
    with pool(servers, kafka=config, size=1, commit_timeout_ms=1_000, resolve_timeout_ms=3_000) as orders:
        yield orders


def ended(
    orders: ProducerPool, topic: str, offsets: TopicPartition | None = None, member: Consumer | None = None
) -> Any:
    """What a transaction raises that sends a record, and a group's offsets if there are any."""
    with pytest.raises((CommitOutcomeUnknownError, TransactionAbortedError)) as caught, orders.transaction() as tx:
        tx.produce_async(topic, "a")
        if offsets is not None and member is not None:
            tx.send_offsets([offsets], member.consumer_group_metadata(), timeout_ms=10_000)
    return caught.value


def test_no_right_to_read(orders: ProducerPool, topic: str) -> None:
    """Without it the outcome stays unknown, and the error names the right."""
    error = ended(orders, topic)

    assert isinstance(error, CommitOutcomeUnknownError)
    assert f"no right to read {topic!r} (Read on the topic)" in str(error)


def test_the_right_to_read(kafka: LocalKafka, orders: ProducerPool, topic: str) -> None:
    """Read on the topic is enough: no right on a consumer group is needed."""
    kafka.grant("alice", "Read", topic=topic)
    error = ended(orders, topic)

    assert isinstance(error, TransactionAbortedError)
    assert error.resolution is not None
    assert "record" == error.resolution.way


def test_the_right_to_read_the_groups_offsets(kafka: LocalKafka, orders: ProducerPool, topic: str) -> None:
    """Who may only write to the topic is told by the offsets that it took along of another one."""
    group, source = unique("group"), kafka.create_topic(unique("source"))
    kafka.grant("alice", "Read", group=group)
    kafka.grant("alice", "Read", topic=source)
    member = Consumer({**kafka.client_config("SASL_PLAINTEXT", user="alice"), "group.id": group})
    error = ended(orders, topic, TopicPartition(source, 0, 7), member)
    member.close()

    assert isinstance(error, TransactionAbortedError)
    assert error.resolution is not None
    assert "offsets" == error.resolution.way
