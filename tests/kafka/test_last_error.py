"""The last thing that went wrong explains what fails next, and nothing else."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pytest

from tests import internals
from tests.kafka.clusters import started
from tests.pools import Recorder, plain, pool, unique, until
from wd_di import DeliveryError, DeliveryTimeoutError, ErrorOccurred, PoolOpenError, ProduceError
from wd_di.testing import LocalKafka

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from wd_di import Producer, ProducerPool

IDLE_MS = 1_000


@pytest.fixture(scope="module")
def impatient() -> Iterator[LocalKafka]:
    """A broker that closes idle connections soon."""
    with started(config={"connections.max.idle.ms": IDLE_MS, "auto.create.topics.enable": False}) as kafka:
        yield kafka


def test_an_idle_connection(impatient: LocalKafka, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that its broker closes because nobody used it is no error."""
    recorder, topic, servers = Recorder(), impatient.create_topic(unique("t")), impatient.bootstrap_servers
    caplog.set_level(logging.INFO, "wd_di.librdkafka")
    clicks = plain(servers, size=1, observer=recorder, open_policy="background")  # without the question of an open
    with clicks, clicks.producer() as producer:
        producer.produce_sync(topic, "before")
        until(lambda: "Disconnected" in caplog.text)
        producer.produce_sync(topic, "after")

    assert [] == recorder.of(ErrorOccurred)


def test_an_error_that_is_over(impatient: LocalKafka) -> None:
    """After a broker's return its death explains nothing: what fails then has causes of its own."""
    servers, [broker] = impatient.bootstrap_servers, impatient.brokers
    topic = impatient.create_topic(unique("t"))
    kafka = {"reconnect.backoff.max.ms": 200}
    with plain(servers, size=1, close_timeout_ms=0, kafka=kafka) as clicks, clicks.producer() as producer:
        producer.produce_sync(topic, "before")
        broker.kill()
        with pytest.raises(DeliveryTimeoutError, match="Connection refused"):
            producer.produce_sync(topic, "while it is dead", timeout_ms=1_500)
        broker.start()
        producer.produce_sync(topic, "after")
        with pytest.raises(ProduceError, match="does the topic exist") as caught:
            producer.produce_sync(unique("missing"), "lost", timeout_ms=1_000)

    assert "Connection refused" not in str(caught.value)
    assert "last error" not in str(caught.value)


def own(pool: ProducerPool) -> AbstractContextManager[Producer]:
    """Return a producer besides those that the thread holds already."""
    return pool.producer().begin(ambient=False)


def test_an_error_that_is_over_for_all(impatient: LocalKafka) -> None:
    """A producer that nobody uses hears from its siblings that the broker is back."""
    servers, [broker] = impatient.bootstrap_servers, impatient.brokers
    topic = impatient.create_topic(unique("t"))
    kafka = {"reconnect.backoff.max.ms": 200}
    clicks = plain(servers, size=2, close_timeout_ms=0, kafka=kafka)
    with clicks, own(clicks) as used, own(clicks) as idle:
        for producer in (used, idle):
            producer.produce_sync(topic, "before")
        broker.kill()
        until(lambda: "Connection refused" in str(internals.client(idle).last_error))
        broker.start()
        for _ in range(20):
            used.produce_sync(topic, "after")
        with pytest.raises(DeliveryTimeoutError) as caught:
            idle.produce_sync(topic, "without patience", timeout_ms=0)

    assert "last error" not in str(caught.value)


@pytest.fixture(scope="module")
def unreachable() -> Iterator[str]:
    """Where a broker is that tells its clients to go to a host that doesn't exist."""
    with started(advertise=lambda _, port: f"no-such-host.invalid:{port}") as kafka:
        yield kafka.bootstrap_servers.replace("no-such-host.invalid", "127.0.0.1")


def test_a_host_that_does_not_exist(unreachable: str) -> None:
    """A broker's advertised host that can't be resolved is named, by whatever fails for it."""
    host = r"Failed to resolve 'no-such-host\.invalid:\d+'"
    kafka = {"message.timeout.ms": 1_500}
    with plain(unreachable, size=1, kafka=kafka) as clicks, clicks.producer() as producer:
        with pytest.raises(DeliveryTimeoutError, match=host):
            producer.produce_sync("t", "lost", timeout_ms=1_000)
        with pytest.raises(DeliveryError, match=f"_MSG_TIMED_OUT.*{host}"):
            producer.produce_sync("t", "lost")
    with pytest.raises(PoolOpenError) as caught:
        pool(unreachable, size=1).open(timeout_ms=2_000)

    assert re.search(host, str(caught.value))
