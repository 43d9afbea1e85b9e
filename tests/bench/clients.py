"""The clients that are compared: confluent-kafka's producers as one would use them without a pool, and our pools."""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, Message, Producer

from wd_di import KafkaSettings, PoolSettings, ProducerPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di.testing import Cluster

RECORD = b"x" * 100
ID = "bench-{instance}-{index}"
TIMEOUT_S = 30
LOG_PARTITIONS = 3
"""How many partitions `LocalKafka` gives the transaction log on three brokers."""


def topic(kafka: Cluster, name: str) -> str:
    """Create a topic that no earlier run has written to."""
    return kafka.create_topic(f"bench-{name}-{uuid.uuid4().hex[:8]}")


def raw(servers: str, **options: Any) -> Producer:
    """Return a producer of confluent-kafka's, with the ``acks=all`` and the idempotence that a pool sets, too."""
    settings = {"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 0}
    return Producer(settings | _dotted(options))


def transactional(servers: str, count: int) -> Iterator[Producer]:
    """Give producers that are ready for transactions."""
    drawn = instance()
    for index in range(count):
        producer = raw(servers, transactional_id=ID.format(instance=drawn, index=index))
        producer.init_transactions(TIMEOUT_S)
        yield producer


def pool(
    servers: str, size: int, *, share: int = 1, transactions: bool = False, warm: bool | None = None, **kafka: Any
) -> ProducerPool:
    """Return an open pool; close it."""
    settings = PoolSettings(
        size=size,
        share=share,
        transactional_id=ID if transactions else None,
        warm=warm,
        instance=instance(),
        timeout_ms=TIMEOUT_S * 1000,
        kafka=KafkaSettings.of({"bootstrap.servers": servers} | _dotted(kafka)),
    )
    opened = ProducerPool(settings, name=f"bench-{uuid.uuid4().hex[:8]}")
    opened.open()
    return opened


def _dotted(options: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "."): value for name, value in options.items()}


def delivered(producer: Producer, topic: str) -> None:
    """Produce one record and wait for its answer by flushing the producer."""
    answer: list[KafkaError | None] = []
    producer.produce(topic, RECORD, on_delivery=lambda error, _: answer.append(error))
    producer.flush(TIMEOUT_S)
    _check(answer)


def answered(producer: Producer, topic: str) -> None:
    """Produce one record and wait for its answer, which another thread polls."""
    answer: list[KafkaError | None] = []
    there = threading.Event()

    def told(error: KafkaError | None, _: Message) -> None:
        answer.append(error)
        there.set()

    producer.produce(topic, RECORD, on_delivery=told)
    there.wait(TIMEOUT_S)
    _check(answer)


def _check(answer: list[KafkaError | None]) -> None:
    if answer != [None]:
        raise RuntimeError(f"a record of the benchmark wasn't delivered: {answer or 'no answer'}")


@contextmanager
def polled(producer: Producer) -> Iterator[None]:
    """Poll the producer on a thread of its own."""
    over = threading.Event()

    def poll() -> None:
        while not over.is_set():
            producer.poll(0.1)

    thread = threading.Thread(target=poll, name="bench-poller", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(TIMEOUT_S)


def instance() -> str:
    """Return what tells the next producers' ids, which are ``ID`` with it and a number, from all others.

    The id decides which broker coordinates its transactions, and so how fast they are. Therefore the instance is such
    that the first id belongs to the same partition of the transaction log each time, the second to the next, and so on.
    """
    while True:
        drawn = uuid.uuid4().hex[:8]
        if _java_hash(ID.format(instance=drawn, index=0)) % LOG_PARTITIONS == 0:
            return drawn


def _java_hash(text: str) -> int:
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return value & 0x7FFFFFFF
