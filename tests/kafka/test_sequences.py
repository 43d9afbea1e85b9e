# ruff: noqa: PT012  (what a transaction's block does is the case)
"""What an aborted transaction leaves behind in a producer must not cost the next one its records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.rules import Api
from tests.kafka.readers import values
from tests.pools import pool
from wd_di import ProducerRetired, TransactionAbortedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.proxy import FaultProxy
    from wd_di import ProducerPool
    from wd_di.testing import LocalKafka

NAME = "sequences"
LONG_MS = 20_000
"""So long a record that had no answer waits before it is sent again."""


class Whim(Exception):  # noqa: N818  (it is no error)
    """A reason to abort."""


@pytest.fixture
def seen(proxied_kafka: LocalKafka, proxied_topic: str) -> Callable[[], list[str]]:
    """Reads what is visible."""
    return lambda: values(proxied_kafka.bootstrap_servers, proxied_topic)


@pytest.fixture
def orders(proxied_kafka: LocalKafka, proxied_topic: str) -> Iterator[ProducerPool]:
    """A pool with one producer, which has written to the topic."""
    # Without its only broker for a moment, librdkafka would forget who coordinates, too, and the abort would take long.
    kafka = {"retry.backoff.ms": LONG_MS, "retry.backoff.max.ms": LONG_MS, "metadata.recovery.strategy": "none"}
    servers = proxied_kafka.bootstrap_servers
    with pool(servers, size=1, name=NAME, kafka=kafka, commit_timeout_ms=1_500) as orders:
        with orders.transaction() as tx:
            tx.produce_sync(proxied_topic, "before")
        yield orders


@pytest.mark.parametrize("way", ["the block raised", "the commit gave up"])
def test_a_record_without_an_answer_hides_no_record_of_the_next_transaction(
    proxy: FaultProxy, proxied_topic: str, orders: ProducerPool, seen: Callable[[], list[str]], way: str
) -> None:
    """If the broker has an aborted record, without having said so, the next one isn't taken for a repetition of it."""
    retired: list[ProducerRetired] = []
    orders.observer.subscribe(ProducerRetired, retired.append)
    rule = proxy.on(Api.PRODUCE, "cut after", client=NAME)
    with pytest.raises((Whim, TransactionAbortedError)), orders.transaction() as tx:
        tx.produce_async(proxied_topic, "aborted")
        rule.wait()
        if way == "the block raised":
            raise Whim
    with orders.transaction() as tx:
        tx.produce_async(proxied_topic, "committed")

    assert ["before", "committed"] == seen()
    assert ["record unanswered"] == [event.reason for event in retired]


def test_records_with_answers_cost_nothing(
    proxied_topic: str, orders: ProducerPool, seen: Callable[[], list[str]]
) -> None:
    """A transaction whose records all have answers is aborted, and its producer goes on."""
    with pytest.raises(Whim), orders.transaction() as tx:
        tx.produce_async(proxied_topic, "aborted")
        raise Whim
    with orders.transaction() as tx:
        tx.produce_async(proxied_topic, "committed")

    assert ["before", "committed"] == seen()
    assert 0 == orders.stats().totals.retired
