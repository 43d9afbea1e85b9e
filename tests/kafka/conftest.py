"""A topic of its own for each test, one broker that may be killed, and one behind a proxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.proxy import FaultProxy
from tests.kafka.clusters import started
from tests.pools import unique
from wd_di.testing import Cluster, LocalKafka

CONFIG = {
    # The coordinator's search for overlong transactions; by default it runs every 10 s.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
    "auto.create.topics.enable": False,
}


@pytest.fixture
def servers(local_kafka: Cluster) -> str:
    """Where the run's broker is."""
    return local_kafka.bootstrap_servers


@pytest.fixture
def topic(local_kafka: Cluster) -> str:
    """A new topic with one partition."""
    return local_kafka.create_topic(unique("t"))


@pytest.fixture(scope="session")
def _own_kafka() -> Iterator[LocalKafka]:
    with started(config=CONFIG) as kafka:
        yield kafka


@pytest.fixture
def own_kafka(_own_kafka: LocalKafka) -> LocalKafka:
    """A broker that a test may kill or pause; up again, whatever the test before did to it."""
    return _up(_own_kafka)


@pytest.fixture
def own_topic(own_kafka: LocalKafka) -> str:
    """A new topic with one partition on the broker that may be killed."""
    return own_kafka.create_topic(unique("t"))


@pytest.fixture(scope="session")
def _proxied() -> Iterator[tuple[LocalKafka, FaultProxy]]:
    with FaultProxy() as proxy, started(config=CONFIG, advertise=proxy.advertise) as kafka:
        yield kafka, proxy


@pytest.fixture
def proxy(_proxied: tuple[LocalKafka, FaultProxy]) -> Iterator[FaultProxy]:
    """What stands before the broker of `proxied_kafka`; it does no harm but what the test tells it."""
    _, proxy = _proxied
    proxy.reset()
    yield proxy
    proxy.reset()


@pytest.fixture
def proxied_kafka(_proxied: tuple[LocalKafka, FaultProxy], proxy: FaultProxy) -> LocalKafka:
    """A broker that clients reach by `proxy` alone; up again, whatever the test before did to it."""
    return _up(_proxied[0])


@pytest.fixture
def proxied_topic(proxied_kafka: LocalKafka) -> str:
    """A new topic with one partition on the broker behind the proxy."""
    return proxied_kafka.create_topic(unique("t"))


def _up(kafka: LocalKafka) -> LocalKafka:
    [broker] = kafka.brokers
    if broker.running:
        broker.resume()
    broker.start()
    return kafka
