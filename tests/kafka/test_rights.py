"""A right that is missing is an AuthorizationError that names it, wherever it comes up."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.pools import bounded, settings, unique
from wd_di import (
    AuthorizationError,
    DeliveryError,
    Message,
    PoolOpenError,
    ProduceError,
    ProducerPool,
    TransactionError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di import Delivery, Transaction
    from wd_di.testing import LocalKafka
    from wd_di.testing._security import Protocol

LISTENERS = pytest.mark.parametrize("protocol", ["SSL", "SASL_PLAINTEXT", "SASL_SSL"])
WRITE = "Write on the topic"
PATIENCE_MS = 20_000


class Topics(NamedTuple):
    """Topics by what alice may do with them.

    Attributes:
        open: Write.
        seen: Describe: her client learns of its partitions, and the broker refuses its records.
        hidden: Nothing.
    """

    open: str
    seen: str
    hidden: str


@pytest.fixture
def topics(secured_kafka: LocalKafka) -> Topics:
    """New ones; alice may have transactions whose ids begin with "shop-"."""
    topics = Topics(*(secured_kafka.create_topic(unique(name)) for name in Topics._fields))
    secured_kafka.grant("alice", "Write", topic=topics.open)
    secured_kafka.grant("alice", "Describe", topic=topics.seen)
    secured_kafka.grant("alice", "Write", "Describe", transactional_id="shop-*")
    return topics


def unopened(
    cluster: LocalKafka, protocol: Protocol, transactional_id: str | None, *, user: str = "alice", **kafka: object
) -> ProducerPool:
    """A pool of one producer that nobody has opened."""
    config = {**cluster.client_config(protocol, user=user), **kafka}
    of_pool = settings("", kafka=config, size=1, transactional_id=transactional_id)
    return ProducerPool(of_pool, name="orders")


def shop() -> str:
    """An id that alice may use."""
    return unique("shop") + "-{pid}"


def causes(error: BaseException | None) -> list[BaseException]:
    """The error, and what it comes from."""
    return [] if error is None else [error, *causes(error.__cause__)]


def denied(error: BaseException) -> str:
    """What the AuthorizationError in the chain says."""
    [found] = [each for each in causes(error) if isinstance(each, AuthorizationError)]
    return str(found)


# -- the id ------------------------------------------------------------------------------------------


@LISTENERS
def test_a_transactional_id(secured_kafka: LocalKafka, protocol: Protocol) -> None:
    """An id that one may not use fails open and checkout at once, and the right is named by what they come from."""
    right = "missing right: Write and Describe on the transactional.id"
    with bounded(5_000), pytest.raises(PoolOpenError, match=right) as opened:
        unopened(secured_kafka, protocol, unique("forbidden") + "-{pid}").open(timeout_ms=PATIENCE_MS)
    pool = unopened(secured_kafka, protocol, unique("forbidden") + "-{pid}")
    with bounded(5_000), pytest.raises(PoolOpenError, match=right) as borrowed:
        pool.transaction(timeout_ms=PATIENCE_MS).__enter__()
    pool.close()

    assert right in denied(opened.value)
    assert right in denied(borrowed.value)


def test_an_id_that_is_forbidden_in_use(secured_kafka: LocalKafka, topics: Topics) -> None:
    """Who loses the right on its id hears of it, and goes on when it is given back."""
    name, right = unique("lent"), "Write and Describe on the transactional.id"
    grant = secured_kafka.grant("alice", "Write", "Describe", transactional_id=f"{name}*")
    with unopened(secured_kafka, "SASL_SSL", f"{name}-{{pid}}") as pool:

        def revoked(tx: Transaction) -> None:
            tx.produce_sync(topics.open, "before")
            grant.revoke()

        with pytest.raises(TransactionError, match=right):
            pool.run(revoked)
        with pytest.raises(PoolOpenError, match=right), pool.transaction(timeout_ms=PATIENCE_MS):
            pass
        secured_kafka.grant("alice", "Write", "Describe", transactional_id=f"{name}*")
        while True:
            try:
                with pool.transaction(timeout_ms=PATIENCE_MS) as tx:
                    tx.produce_sync(topics.open, "after")
            except PoolOpenError:  # a failed creation has its back-off
                continue
            break


# -- the topic ---------------------------------------------------------------------------------------


@LISTENERS
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "hidden"])
@pytest.mark.parametrize("transactional", [True, False], ids=["transactional", "plain"])
def test_a_topic(
    secured_kafka: LocalKafka, topics: Topics, protocol: Protocol, *, seen: bool, transactional: bool
) -> None:
    """A record for a topic that one may not write to fails with it, whichever way it is sent, and the pool lives on."""
    topic = topics.seen if seen else topics.hidden
    with unopened(secured_kafka, protocol, shop() if transactional else None) as pool:
        with pool.producer() as producer, pytest.raises(ProduceError) as one:
            producer.produce_sync(topic, "lost", timeout_ms=PATIENCE_MS)
        with pool.producer() as producer, pytest.raises(ProduceError) as many:
            producer.produce_many_sync([Message(topics.open, "a"), Message(topic, "b")])
        with pool.producer() as producer:
            report = producer.produce_sync(topics.open, "stored", timeout_ms=PATIENCE_MS)

    assert topics.open == report.topic
    assert "Write on the topic" in denied(one.value)
    assert "Write on the topic" in denied(many.value)


@LISTENERS
def test_a_topic_in_a_transaction(secured_kafka: LocalKafka, topics: Topics, protocol: Protocol) -> None:
    """In a transaction the record's delivery says so, and so does what the transaction's error comes from."""
    sent: list[Delivery] = []
    with unopened(secured_kafka, protocol, shop()) as pool:
        with pytest.raises(DeliveryError) as raised:
            pool.run(lambda tx: sent.extend(tx.produce_async(topics.seen, "lost") for _ in range(2)))
        with pytest.raises(AuthorizationError, match=WRITE), pool.transaction() as tx:
            tx.produce_sync(topics.seen, "lost", timeout_ms=PATIENCE_MS)
        with pytest.raises(AuthorizationError, match=WRITE), pool.transaction() as tx:
            tx.produce_async(topics.seen, "lost").result(timeout_ms=PATIENCE_MS)
        with pool.transaction() as tx:
            tx.produce_sync(topics.open, "stored")

    assert "Write on the topic" in denied(raised.value)
    assert ["aborted", "aborted"] == [each.outcome for each in sent]
    assert [AuthorizationError, AuthorizationError] == [type(each.exception(0)) for each in sent]
    assert set(sent) == set(raised.value.failed)


def test_a_record_before_one_that_was_refused(secured_kafka: LocalKafka, topics: Topics) -> None:
    """What the broker had stored is aborted with the one that it refused, and isn't counted as undelivered."""
    stored, refused = [], []

    def one_of_each(tx: Transaction) -> None:
        stored.append(tx.produce_async(topics.open, "stored"))
        stored[0].result(PATIENCE_MS)
        refused.append(tx.produce_async(topics.seen, "lost"))

    with unopened(secured_kafka, "SSL", shop()) as pool, pytest.raises(DeliveryError) as raised:
        pool.run(one_of_each)

    assert [each.outcome for each in stored + refused] == ["aborted", "aborted"]
    assert isinstance(stored[0].exception(0), DeliveryError)
    assert "Write on the topic" in denied(raised.value)
    assert raised.value.failed == tuple(refused)


def test_a_record_after_one_that_was_refused(secured_kafka: LocalKafka, topics: Topics) -> None:
    """What is sent once the transaction can only abort is refused for the same reason, not for librdkafka's state."""

    def too_late(tx: Transaction) -> None:
        assert tx.produce_async(topics.seen, "lost").exception(timeout_ms=PATIENCE_MS) is not None
        tx.produce_async(topics.open, "too late")

    with unopened(secured_kafka, "SSL", shop()) as pool, pytest.raises(AuthorizationError, match=WRITE):
        pool.run(too_late)


@pytest.mark.parametrize("transactional", [True, False], ids=["transactional", "plain"])
async def test_a_topic_on_a_loop(secured_kafka: LocalKafka, topics: Topics, *, transactional: bool) -> None:
    """So it is on an event loop."""
    async with unopened(secured_kafka, "SASL_SSL", shop() if transactional else None) as pool:
        with pytest.raises(ProduceError) as raised:
            async with pool.producer() as producer:
                await producer.produce_sync(topics.seen, "lost", timeout_ms=PATIENCE_MS)
        assert "Write on the topic" in denied(raised.value)
        if transactional:
            with pytest.raises(DeliveryError) as raised:
                async with pool.transaction() as tx:
                    lost = tx.produce_async(topics.seen, "lost")
            assert "Write on the topic" in denied(raised.value)
            assert isinstance(lost.exception(0), AuthorizationError)


def test_a_topic_that_is_forbidden_in_use(secured_kafka: LocalKafka, topics: Topics) -> None:
    """Who loses the right on a topic hears of it with the next record, and goes on when it is given back."""
    topic = secured_kafka.create_topic(unique("lent"))
    grant = secured_kafka.grant("alice", "Write", topic=topic)
    with unopened(secured_kafka, "SASL_PLAINTEXT", shop()) as pool:
        with pool.transaction() as tx:
            tx.produce_sync(topic, "before")
        grant.revoke()
        with pytest.raises(AuthorizationError, match=WRITE), pool.transaction() as tx:
            tx.produce_sync(topic, "lost")
        secured_kafka.grant("alice", "Write", topic=topic)
        with pool.transaction() as tx:
            tx.produce_sync(topic, "after")


# -- the cluster -------------------------------------------------------------------------------------


@LISTENERS
def test_idempotence(secured_kafka: LocalKafka, protocol: Protocol) -> None:
    """Without any right to write, a producer with idempotence lacks IdempotentWrite on the cluster, and says so."""
    seen = secured_kafka.create_topic(unique("seen"))
    secured_kafka.grant("carol", "Describe", topic=seen)
    with unopened(secured_kafka, protocol, None, user="carol", enable_idempotence=True) as pool:
        with pool.producer() as producer, pytest.raises(AuthorizationError, match="IdempotentWrite on the cluster"):
            producer.produce_sync(seen, "lost", timeout_ms=PATIENCE_MS)
        with pool.producer() as producer, pytest.raises(AuthorizationError, match="IdempotentWrite on the cluster"):
            producer.produce_async(seen, "lost").result(timeout_ms=PATIENCE_MS)


# -- the group ---------------------------------------------------------------------------------------


@LISTENERS
def test_a_group(secured_kafka: LocalKafka, topics: Topics, protocol: Protocol) -> None:
    """Offsets need Read on the group and on their topic; the one that is missing is named."""
    group, offsets = unique("g"), [TopicPartition(topics.open, 0, 1)]

    def consumed(tx: Transaction) -> None:
        tx.produce_async(topics.open, "out")
        tx.send_offsets(offsets, metadata, timeout_ms=PATIENCE_MS)

    with member(secured_kafka, topics.open, group) as metadata, unopened(secured_kafka, protocol, shop()) as pool:
        with pytest.raises(AuthorizationError, match="missing right: Read on the consumer group"):
            pool.run(consumed)
        secured_kafka.grant("alice", "Read", group=group)
        with pytest.raises(AuthorizationError, match="missing right: Read on the topic"):
            pool.run(consumed)
        secured_kafka.grant("alice", "Read", topic=topics.open)
        pool.run(consumed)


@contextmanager
def member(kafka: LocalKafka, topic: str, group: str) -> Iterator[object]:
    """What a consumer that has joined the group knows of it."""
    config = {"group.id": group, "auto.offset.reset": "earliest", "log_level": 0}
    with Consumer({**kafka.client_config("SASL_PLAINTEXT"), **config}) as consumer:
        consumer.subscribe([topic])
        while not consumer.assignment():
            consumer.poll(0.1)
        yield consumer.consumer_group_metadata()
