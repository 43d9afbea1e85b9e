"""What only the broker can find wrong with settings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.kafka.readers import values
from tests.pools import bounded, plain, pool, unique
from wd_di import DeliveryError, PoolOpenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di import ProducerPool
    from wd_di.testing import LocalKafka

BROKERS_MAXIMUM_MS = 900_000


def test_a_transaction_timeout_above_the_brokers_maximum(servers: str) -> None:
    """The broker's refusal ends open and checkout at once, long before their deadlines, and names the trouble."""
    options: dict[str, Any] = {"size": 2, "kafka": {"transaction.timeout.ms": BROKERS_MAXIMUM_MS + 1}}
    started = time.monotonic()
    with pytest.raises(PoolOpenError, match="INVALID_TRANSACTION_TIMEOUT"):
        pool(servers, **options).open(timeout_ms=30_000)
    unopened = pool(servers, **options)
    with pytest.raises(PoolOpenError, match="INVALID_TRANSACTION_TIMEOUT"):
        unopened.producer(timeout_ms=30_000).__enter__()
    unopened.close()

    assert time.monotonic() - started < 10


@pytest.mark.parametrize("make", [pool, plain])
def test_an_unknown_topic(own_kafka: LocalKafka, make: Callable[..., ProducerPool]) -> None:
    """Where topics aren't created by themselves a record for a missing one fails, and the error asks if it exists."""
    missing, there = unique("missing"), own_kafka.create_topic(unique("t"))
    kafka = {"topic.metadata.propagation.max.ms": 500}  # librdkafka: 30 s, for topics that were created just now
    with make(own_kafka.bootstrap_servers, size=1, kafka=kafka) as orders, orders.producer() as producer:
        with bounded(10_000), pytest.raises(DeliveryError, match="does the topic exist"):
            producer.produce_sync(missing, "lost", timeout_ms=10_000)

        assert 0 == producer.produce_sync(there, "after").offset
    assert ["after"] == values(own_kafka.bootstrap_servers, there)
