"""A topic of its own for each test, and one broker that may be killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
    [broker] = _own_kafka.brokers
    if broker.running:
        broker.resume()
    broker.start()
    return _own_kafka


@pytest.fixture
def own_topic(own_kafka: LocalKafka) -> str:
    """A new topic with one partition on the broker that may be killed."""
    return own_kafka.create_topic(unique("t"))
