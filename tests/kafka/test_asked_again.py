"""What is asked for again in time leaves no doubt: a lost answer costs half of a commit's deadline."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.rules import Action, Api
from tests.kafka.readers import values
from tests.pools import pool, until
from wd_di import ProducerRetired

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.proxy import FaultProxy
    from wd_di import ProducerPool
    from wd_di.testing import LocalKafka

NAME = "again"
COMMIT_TIMEOUT_MS = 6_000
ASKED_AGAIN_S = COMMIT_TIMEOUT_MS / 2000
HANGS_S = 6


@pytest.fixture
def orders(proxied_kafka: LocalKafka) -> Iterator[ProducerPool]:
    """A pool behind the proxy that has one producer."""
    with pool(proxied_kafka.bootstrap_servers, size=1, name=NAME, commit_timeout_ms=COMMIT_TIMEOUT_MS) as orders:
        yield orders


@pytest.mark.parametrize("action", ["swallow request", "swallow reply"])
def test_a_lost_end_is_no_doubt(
    proxy: FaultProxy, proxied_kafka: LocalKafka, proxied_topic: str, orders: ProducerPool, action: Action
) -> None:
    """A commit whose request or answer is lost is asked for again, and is committed by the same call.

    The producer goes, since the first request may still be on its way.
    """
    retired: list[ProducerRetired] = []
    orders.observer.subscribe(ProducerRetired, retired.append)
    rule = proxy.on(Api.END_TXN, action, client=NAME)
    started = time.monotonic()
    with orders.transaction() as tx:
        tx.produce_async(proxied_topic, "a")
    took = time.monotonic() - started

    assert 1 == rule.hits
    assert ASKED_AGAIN_S <= took <= COMMIT_TIMEOUT_MS / 1000
    assert ["a"] == values(proxied_kafka.bootstrap_servers, proxied_topic)
    until(lambda: retired)
    assert ["sent twice"] == [event.reason for event in retired]


def test_a_lost_initialisation_is_asked_for_again(proxy: FaultProxy, orders: ProducerPool) -> None:
    """A producer whose InitProducerId has no answer asks again long before the open gives up."""
    with proxy.on(Api.INIT_PRODUCER_ID, "swallow reply", client=NAME) as rule:
        started = time.monotonic()
        orders.reload()
        took = time.monotonic() - started

    assert 1 == rule.hits
    assert took <= 2 * ASKED_AGAIN_S


def test_a_broker_that_hangs_costs_one_connection(
    proxy: FaultProxy, proxied_kafka: LocalKafka, proxied_topic: str
) -> None:
    """A broker that answers nothing for 6 s costs a connection, no storm of them, and no transaction."""
    with pool(proxied_kafka.bootstrap_servers, size=1, name=NAME) as orders:
        with orders.transaction() as tx:
            tx.produce_sync(proxied_topic, "a")
        before = sum(proxy.connections.values())
        with orders.transaction() as tx:
            tx.produce_async(proxied_topic, "b")
            proxy.freeze()
            thaw = threading.Timer(HANGS_S, proxy.thaw)
            thaw.start()
        thaw.join()
        made = sum(proxy.connections.values()) - before

    assert ["a", "b"] == values(proxied_kafka.bootstrap_servers, proxied_topic)
    assert made <= 3
