from __future__ import annotations

import pytest

from wd_di.testing import Cluster, LocalKafka


@pytest.fixture
def kafka(local_kafka: Cluster) -> LocalKafka:
    """The run's broker, if it is one that may be killed; up, whatever the last test did to it."""
    if not isinstance(local_kafka, LocalKafka):
        pytest.skip("kills its broker: unset KAFKA_BOOTSTRAP_SERVERS")
    for broker in local_kafka.brokers:
        broker.start()
    return local_kafka
