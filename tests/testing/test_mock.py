"""What librdkafka's mock cluster does when it is told to."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from wd_di.testing import ApiKey, ClusterError, MockKafka, raise_fatal_error

DEADLINE_S = 10
QUIET = {"log_level": 0}


def plain(kafka: MockKafka) -> Producer:
    """A producer without transactions."""
    return Producer({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})


def in_transaction(kafka: MockKafka) -> Producer:
    """A producer with one record delivered in an open transaction."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": "t", **QUIET})
    producer.init_transactions(DEADLINE_S)
    producer.begin_transaction()
    producer.produce("t", b"")
    assert producer.flush(DEADLINE_S) == 0
    return producer


def test_clients_share_the_cluster(mock_kafka):
    """What one client of a mock cluster produces another one reads."""
    topic = mock_kafka.create_topic("shared", partitions=1)
    producer = plain(mock_kafka)
    producer.produce(topic, b"hello")
    producer.flush(DEADLINE_S)

    consumer = Consumer(
        {"bootstrap.servers": mock_kafka.bootstrap_servers, "group.id": "g", "enable.auto.commit": False, **QUIET}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    message = consumer.poll(DEADLINE_S)
    consumer.close()

    assert message is not None
    assert message.error() is None
    assert b"hello" == message.value()


def test_pushed_errors(mock_kafka):
    """A pushed error answers the next request of its kind: a commit can be fenced."""
    producer = in_transaction(mock_kafka)
    mock_kafka.push_errors(ApiKey.END_TXN, KafkaError.INVALID_PRODUCER_EPOCH)

    with pytest.raises(KafkaException) as raised:
        producer.commit_transaction(DEADLINE_S)
    assert KafkaError._FENCED == raised.value.args[0].code()


def test_cleared_errors(mock_kafka):
    """An error that was pushed and cleared hurts nobody."""
    producer = in_transaction(mock_kafka)
    mock_kafka.push_errors(ApiKey.END_TXN, KafkaError.INVALID_PRODUCER_EPOCH)
    mock_kafka.clear_errors(ApiKey.END_TXN)

    assert producer.commit_transaction(DEADLINE_S) is None


def test_round_trip_time(mock_kafka):
    """Answers take as long as they're told to."""
    producer = plain(mock_kafka)
    producer.produce("t", b"warm")
    producer.flush(DEADLINE_S)
    mock_kafka.set_rtt(150)

    started = time.monotonic()
    producer.produce("t", b"slow")
    producer.flush(DEADLINE_S)

    assert time.monotonic() - started >= 0.15


def test_broker_down_and_up():
    """Nothing is delivered while every broker is down, and everything once they're up again."""
    with MockKafka(2) as kafka:
        producer = plain(kafka)
        producer.produce("t", b"warm")
        producer.flush(DEADLINE_S)
        for broker in (1, 2):
            kafka.broker_down(broker)
        producer.produce("t", b"waiting")
        left = producer.flush(0.2)
        for broker in (1, 2):
            kafka.broker_up(broker)

        assert left == 1
        assert producer.flush(DEADLINE_S) == 0


def test_fatal_error(mock_kafka):
    """A fatal error comes out of the producer's next poll."""
    producer = plain(mock_kafka)

    raise_fatal_error(producer, KafkaError.INVALID_PRODUCER_EPOCH, "as told")

    with pytest.raises(KafkaException, match="as told") as raised:
        producer.poll(DEADLINE_S)
    assert raised.value.args[0].fatal()


def test_topic_exists(mock_kafka):
    """A second topic of the same name is refused in librdkafka's words."""
    mock_kafka.create_topic("twice")

    with pytest.raises(ClusterError, match="already exists"):
        mock_kafka.create_topic("twice")


def test_closed():
    """A closed cluster says so instead of touching freed memory, and may be closed again."""
    kafka = MockKafka()
    kafka.close()
    kafka.close()

    with pytest.raises(ClusterError, match="closed"):
        _ = kafka.bootstrap_servers
    with pytest.raises(ClusterError, match="closed"):
        kafka.push_errors(ApiKey.PRODUCE, 3)
    assert "<MockKafka: closed>" == repr(kafka)


def in_child(call: Callable[[], object]) -> int:
    """How a forked child ends: 0, or 1 for a ClusterError that says why; by a signal if it hangs."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(DEADLINE_S)
        try:
            call()
        except ClusterError as error:
            os._exit(1 if "lives in the process that made it" in str(error) else 2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_in_a_forked_child(mock_kafka: MockKafka) -> None:
    """A child reaches its parent's cluster by the address, and hangs at nothing else that it asks of it."""

    def produce() -> None:
        producer = plain(mock_kafka)
        producer.produce("t", b"")
        if producer.flush(DEADLINE_S) or mock_kafka.bootstrap_servers not in repr(mock_kafka):
            os._exit(3)

    def end() -> None:
        handles = [mock_kafka._host]
        mock_kafka.close()
        mock_kafka.__dict__.clear()
        gc.collect()
        os._exit(0 if handles == [None] else 3)

    assert 0 == in_child(produce)
    assert 0 == in_child(end)
    assert 1 == in_child(lambda: mock_kafka.broker_down(1))
    assert 1 == in_child(lambda: mock_kafka.create_topic("t"))
    assert 1 == in_child(lambda: mock_kafka.push_errors(ApiKey.PRODUCE, 1))
    mock_kafka.create_topic("still-there")


@pytest.mark.parametrize("brokers", [0, -1, True, "x", None])
def test_a_cluster_without_brokers_is_refused(brokers: Any) -> None:
    """Without one librdkafka has no cluster, and whoever asks for it would crash."""
    with pytest.raises(ValueError, match="brokers is a number from 1 on, not"):
        MockKafka(brokers)


def test_a_topic_that_c_would_cut(mock_kafka: MockKafka) -> None:
    """A name with a NUL character is refused."""
    with pytest.raises(ValueError, match="NUL"):
        mock_kafka.create_topic("a\0b")
