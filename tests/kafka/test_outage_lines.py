"""What a pool logs of librdkafka's own lines while its brokers come and go."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tests.kafka.clusters import started
from tests.pools import pool, until

if TYPE_CHECKING:
    import pytest

LOGGER = "wd_di.librdkafka"


def test_a_start_and_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """The first start on a new cluster is no warning; a broker that goes and comes back makes two lines for all."""
    caplog.set_level(logging.INFO, LOGGER)
    with started() as kafka, pool(kafka.bootstrap_servers, size=5) as orders:
        with orders.transaction() as tx:
            tx.produce_async("t", "before")
        start = serious(caplog)
        [broker] = kafka.brokers
        broker.kill()
        until(lambda: " is away: " in caplog.text)
        broker.start()
        with orders.transaction(timeout_ms=60_000) as tx:
            tx.produce_async("t", "after")
        until(lambda: " is back after " in caplog.text)
    outage = serious(caplog)

    assert start == []
    assert [True, True] == [line.startswith("orders: broker 127.0.0.1:") for line in outage], outage


def serious(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines that are more than news."""
    return [each.getMessage() for each in caplog.records if each.name == LOGGER and each.levelno > logging.INFO]
