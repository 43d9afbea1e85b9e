# ruff: noqa: PT012, SIM117  (what a transaction's block does is the case)
"""What goes wrong with a transaction: which error says so, what is known of its outcome, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import TopicPartition

from tests.contract.backends import REFUSED, Backend
from wd_di import (
    DeliveryError,
    ErrorOccurred,
    FencedError,
    MessageFailed,
    PoolUnhealthyError,
    ProducerPool,
    ProducerRetired,
    RebalancedError,
    TransactionTimedOutError,
    UnexpectedAbortError,
)

TOO_LARGE = "x" * 2_000_000


# -- records -----------------------------------------------------------------------------------------


def test_a_record_that_is_too_large(backend: Backend) -> None:
    """A record beyond message.max.bytes is refused at once; crossing the block, its error aborts."""
    pool = backend.pool()
    with pytest.raises(DeliveryError, match="producer 0 refused a record for"), pool.transaction() as tx:
        tx.produce_async(backend.topic(), TOO_LARGE)

    assert ["aborted"] == backend.outcomes()
    assert 0 == pool.stats().totals.retired


def test_a_record_that_was_never_sent(backend: Backend) -> None:
    """Who handles the refusal of a record commits the others."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, "one")
        with pytest.raises(DeliveryError):
            tx.produce_async(topic, TOO_LARGE)

    assert ["one"] == backend.values(topic)
    assert ["committed"] == backend.outcomes()


def test_limit_of_size(backend: Backend) -> None:
    """message.max.bytes of the settings counts."""
    pool, topic = backend.pool(kafka={"message.max.bytes": 2_000}), backend.topic()
    with pytest.raises(DeliveryError), pool.transaction() as tx:
        tx.produce_async(topic, "x" * 2_100)

    assert ["aborted"] == backend.outcomes()


def test_a_refused_record_aborts(backend: Backend) -> None:
    """A record that the broker refuses makes the commit abort and list it."""
    pool, topic = backend.pool(), backend.refusing_topic()
    with pytest.raises(DeliveryError, match=r"1 of 1 records weren't delivered, transaction .* was aborted") as caught:
        with pool.transaction() as tx:
            delivery = tx.produce_async(topic, REFUSED)

    assert (delivery,) == caught.value.failed
    assert "aborted" == delivery.outcome
    assert ["aborted"] == backend.outcomes()
    assert [topic] == [event.topic for event in backend.of(MessageFailed)]


def test_a_swallowed_refusal_aborts_all_the_same(backend: Backend) -> None:
    """produce_sync raises when the broker refuses the record; swallowing that doesn't save the transaction."""
    pool, topic = backend.pool(), backend.refusing_topic()
    with pytest.raises(DeliveryError, match="was aborted"), pool.transaction() as tx:
        with pytest.raises(DeliveryError, match=topic):
            tx.produce_sync(topic, REFUSED)

    assert ["aborted"] == backend.outcomes()


def test_a_refused_record_costs_the_producer(backend: Backend) -> None:
    """Librdkafka is out of step after a refused record, so its producer is replaced; the next transaction is well."""
    pool, topic = backend.pool(), backend.refusing_topic()
    with pytest.raises(DeliveryError), pool.transaction() as tx:
        tx.produce_async(topic, REFUSED)

    assert_replaced(backend, pool)


def test_a_refused_record_on_a_plain_pool(backend: Backend) -> None:
    """Without transactions produce_sync raises what the broker answered, and the producer goes on."""
    pool, topic = backend.plain(), backend.refusing_topic()
    with pool.producer() as producer, pytest.raises(DeliveryError, match=topic):
        producer.produce_sync(topic, REFUSED)

    assert [] == backend.stored(topic)


def test_an_unknown_partition(backend: Backend) -> None:
    """A record for a partition that the topic doesn't have isn't delivered, and aborts."""
    pool, topic = backend.pool(), backend.topic()
    with pytest.raises(DeliveryError), pool.transaction() as tx:
        tx.produce_async(topic, "never", partition=99)

    assert ["aborted"] == backend.outcomes()


# -- owners of the id --------------------------------------------------------------------------------


def test_fenced_before_the_commit(backend: Backend) -> None:
    """A commit under a lost id is a FencedError that names the id; it is found out that nothing is visible."""
    pool, topic = backend.pool(), backend.topic()
    with pytest.raises(FencedError) as caught, pool.transaction() as tx:
        tx.produce_sync(topic, "never")
        backend.take_over(pool)

    assert ("aborted", False) == (caught.value.outcome, caught.value.safe_to_retry)
    assert "record" == caught.value.resolution.way
    assert tx.id.rpartition("#")[0] in str(caught.value)
    assert [] == backend.values(topic)
    assert ["aborted"] == backend.outcomes()


def test_fenced_before_a_record(backend: Backend) -> None:
    """A record produced under a lost id ends in a FencedError; the transaction is known to be aborted."""
    pool, topic = backend.pool(), backend.topic()
    with pytest.raises(FencedError) as caught, pool.transaction() as tx:
        tx.produce_sync(topic, "never")
        backend.take_over(pool)
        tx.produce_async(topic, "nor this")

    assert ("aborted", False) == (caught.value.outcome, caught.value.safe_to_retry)
    assert [] == backend.values(topic)
    assert ["aborted"] == backend.outcomes()


def test_fenced_before_produce_sync(backend: Backend) -> None:
    """produce_sync under a lost id raises FencedError itself."""
    pool, topic = backend.pool(), backend.topic()
    with pytest.raises(FencedError, match="another producer took over"), pool.transaction() as tx:
        tx.produce_sync(topic, "never")
        backend.take_over(pool)
        with pytest.raises(FencedError):
            tx.produce_sync(topic, "nor this")

    assert ["aborted"] == backend.outcomes()


def test_fenced_before_the_abort(backend: Backend) -> None:
    """An abort under a lost id leaves the block's exception in place, with a note; the failure is an event."""
    pool, topic = backend.pool(), backend.topic()
    with pytest.raises(ZeroDivisionError) as caught, pool.transaction() as tx:
        tx.produce_sync(topic, "never")
        backend.take_over(pool)
        raise ZeroDivisionError

    assert "couldn't be aborted" in "".join(getattr(caught.value, "__notes__", []))
    assert ["transaction.abort"] == [event.where for event in backend.of(ErrorOccurred)]
    assert ["aborted"] == backend.outcomes()


def test_a_fenced_producer_is_replaced(backend: Backend) -> None:
    """After a fencing the slot takes its id back, and goes on with a new producer."""
    pool, topic = backend.pool(), backend.topic()
    with pytest.raises(FencedError), pool.transaction() as tx:
        tx.produce_sync(topic, "never")
        backend.take_over(pool)

    assert_replaced(backend, pool)
    assert 1 == len({event.transactional_id for event in backend.of(ProducerRetired)})


def test_fenced_while_idle(backend: Backend) -> None:
    """Who gets a producer whose id was lost while it was idle learns it from the first record."""
    pool, topic = backend.pool(), backend.topic()
    backend.take_over(pool)
    with pytest.raises(FencedError), pool.transaction() as tx:
        tx.produce_async(topic, "never")

    assert [] == backend.values(topic)


def test_fenced_too_often(backend: Backend) -> None:
    """After more than fenced_retries fencings checkouts fail at once and say why."""
    pool, topic = backend.pool(fenced_retries=0), backend.topic()
    with pytest.raises(FencedError), pool.transaction() as tx:
        tx.produce_sync(topic, "never")
        backend.take_over(pool)

    with pytest.raises(PoolUnhealthyError, match="fenced 1 times"):
        pool.producer().__enter__()


def test_too_late(backend: Backend) -> None:
    """Who commits after the broker's own time-out is told so, and nothing is visible."""
    pool, topic = backend.pool(kafka={"transaction.timeout.ms": 1_000}), backend.topic()
    with pytest.raises(TransactionTimedOutError, match=r"transaction\.timeout\.ms is 1000") as caught:
        with pool.transaction() as tx:
            tx.produce_sync(topic, "never")
            backend.outlive(topic)

    assert ("aborted", False) == (caught.value.outcome, caught.value.safe_to_retry)
    assert [] == backend.values(topic)
    assert ["aborted"] == backend.outcomes()
    assert_replaced(backend, pool)


# -- consumer groups ---------------------------------------------------------------------------------


def test_offsets_move_with_the_commit(backend: Backend) -> None:
    """A group's offsets that are sent in a transaction are the group's when it commits."""
    pool, topic = backend.pool(), backend.topic()
    group, metadata = backend.group()
    with pool.transaction() as tx:
        tx.send_offsets([TopicPartition(topic, 0, 10)], metadata)

    assert ["committed"] == backend.outcomes()
    assert 10 == backend.group_offset(group, topic)


def test_offsets_stay_with_an_abort(backend: Backend) -> None:
    """A group's offsets that are sent in a transaction are forgotten when it aborts."""
    pool, topic = backend.pool(), backend.topic()
    group, metadata = backend.group()
    with pool.transaction() as tx:
        tx.send_offsets([TopicPartition(topic, 0, 10)], metadata)
        tx.abort_only()

    assert ["aborted"] == backend.outcomes()
    assert backend.group_offset(group, topic) is None


def test_offsets_that_are_none(backend: Backend) -> None:
    """Offsets or metadata of another kind are refused by name; the transaction lives on without them."""
    pool, topic = backend.pool(), backend.topic()
    group, metadata = backend.group()
    good = [TopicPartition(topic, 0, 10)]
    refused: list[tuple[Any, Any, type[Exception], str]] = [
        ("abc", metadata, TypeError, "offsets are a list of confluent_kafka.TopicPartition"),
        (None, metadata, TypeError, "offsets are a list of confluent_kafka.TopicPartition, not NoneType"),
        ([topic], metadata, TypeError, "offsets are a list of confluent_kafka.TopicPartition"),
        ([], metadata, ValueError, "offsets are empty"),
        ([TopicPartition(topic, 0)], metadata, ValueError, "isn't one: send the last read"),
        ([*good, TopicPartition(topic, 1, -1)], metadata, ValueError, "the offset of .*1. is -1, which isn't one"),
        ([TopicPartition(topic, offset=3)], metadata, ValueError, "offsets name a topic and a partition"),
        (good, None, TypeError, "group_metadata is what consumer.consumer_group_metadata.. returns, not NoneType"),
        (good, b"x", TypeError, "group_metadata is what"),
        (good, len, TypeError, "group_metadata is what consumer.consumer_group_metadata.. returns, not builtin"),
        (good, group, TypeError, "group_metadata is what consumer.consumer_group_metadata.. returns, not str"),
    ]
    if isinstance(metadata, bytes):
        refused += ((good, metadata[:end], TypeError, "group_metadata is what") for end in range(4))
        refused += ((good, metadata[:end], ValueError, "cut or made up") for end in range(4, len(metadata)))
    with pool.transaction() as tx:
        for offsets, given, error, text in refused:
            with pytest.raises(error, match=text):
                tx.send_offsets(offsets, given)
        tx.produce_async(topic, "after")

    assert ["committed"] == backend.outcomes()
    assert ["after"] == backend.values(topic)
    assert backend.group_offset(group, topic) is None


def test_offsets_of_a_former_member(backend: Backend) -> None:
    """Offsets under a membership that has ended are a RebalancedError; the transaction aborts, its producer stays."""
    pool, topic = backend.pool(), backend.topic()
    stale = backend.former_member(topic)
    with pytest.raises(RebalancedError, match="the consumer group has rebalanced") as caught, pool.transaction() as tx:
        tx.send_offsets([TopicPartition(topic, 0, 10)], stale)

    assert ("aborted", False) == (caught.value.outcome, caught.value.safe_to_retry)
    assert ["aborted"] == backend.outcomes()
    assert 0 == pool.stats().totals.retired


def test_a_swallowed_rebalance_aborts_all_the_same(backend: Backend) -> None:
    """Swallowing a RebalancedError doesn't save the transaction."""
    pool, topic = backend.pool(), backend.topic()
    stale = backend.former_member(topic)
    with pytest.raises(UnexpectedAbortError) as caught, pool.transaction() as tx, pytest.raises(RebalancedError):
        tx.send_offsets([TopicPartition(topic, 0, 10)], stale)

    assert isinstance(caught.value.__cause__, RebalancedError)
    assert ["aborted"] == backend.outcomes()


def assert_replaced(backend: Backend, pool: ProducerPool) -> None:
    """Assert that the producer was retired once, and that its successor on the same slot works."""
    topic = backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, "after")

    assert ["after"] == backend.values(topic)
    assert 1 == len(backend.of(ProducerRetired))
    assert (2, 1) == (pool.stats().totals.created, pool.stats().totals.retired)
