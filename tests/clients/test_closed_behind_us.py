# ruff: noqa: PT012  (what a transaction's block does is the case)
"""A program that gets hold of a producer's own client, and closes it: what is known then, and what comes next."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from tests import internals
from tests.clients.test_librdkafka import begun, connect, end, kind, produce
from tests.clients.test_signals import metadata
from tests.pools import Recorder, plain, until
from tests.pools import pool as transactional
from wd_di import (
    DeliveryError,
    ProducerPool,
    ProducerRetired,
    TransactionAbortedError,
    TransactionFinished,
)
from wd_di._kafka.port import FaultKind
from wd_di.testing import MockKafka

TEXT = "its client was closed behind its pool"


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    """A mock cluster with a topic of one partition."""
    with MockKafka() as kafka:
        kafka.create_topic("orders")
        yield kafka


@pytest.fixture
def told() -> Recorder:
    """What the pool tells."""
    return Recorder()


@pytest.fixture
def pool(kafka: MockKafka, told: Recorder, kept: Callable[[ProducerPool], ProducerPool]) -> ProducerPool:
    """An open pool of one transactional producer."""
    pool = kept(transactional(kafka.bootstrap_servers, size=1, observer=told, resolve_timeout_ms=0))
    pool.open(timeout_ms=10_000)
    return pool


def close(handle: Any) -> None:
    """Close the client below a handle."""
    close_client(internals.client(handle))


def close_client(client: Any) -> None:
    """Close it; where its abort is refused, confluent-kafka warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        client._kept[0].close()


def test_before_the_end(pool: ProducerPool, told: Recorder) -> None:
    """Nothing was committed, which is known: confluent-kafka aborts before it closes. The slot is made again."""
    outcomes: list[str] = []
    with pytest.raises(TransactionAbortedError, match=TEXT) as caught, pool.transaction() as tx:
        tx.produce_sync("orders", "x", timeout_ms=5_000)
        tx.after_completion(outcomes.append)
        close(tx)

    assert "aborted" == caught.value.outcome
    assert ["aborted"] == outcomes == [event.outcome for event in told.of(TransactionFinished)]
    with pool.transaction(timeout_ms=5_000) as tx:
        tx.produce_sync("orders", "x", timeout_ms=5_000)
    assert ["broken"] == [event.reason for event in told.of(ProducerRetired)]


def test_before_an_abort(pool: ProducerPool, told: Recorder) -> None:
    """A block that fails has nothing to abort any more; its own error comes out, with no note of a failed abort."""
    with pytest.raises(ZeroDivisionError) as caught, pool.transaction() as tx:
        tx.produce_sync("orders", "x", timeout_ms=5_000)
        close(tx)
        raise ZeroDivisionError

    assert not hasattr(caught.value, "__notes__")
    assert ["aborted"] == [event.outcome for event in told.of(TransactionFinished)]


@pytest.mark.parametrize("call", ["produce_sync", "produce_async", "send_offsets"])
def test_in_the_block(kafka: MockKafka, pool: ProducerPool, call: str) -> None:
    """What comes next in the transaction says so, at once, and the outcome is known."""
    with pytest.raises(TransactionAbortedError, match=TEXT) as caught, pool.transaction() as tx:
        tx.produce_sync("orders", "x", timeout_ms=5_000)
        close(tx)
        if call == "send_offsets":
            tx.send_offsets([TopicPartition("orders", 0, 5)], metadata(kafka), timeout_ms=5_000)
        else:
            getattr(tx, call)("orders", "y", timeout_ms=5_000)

    assert "aborted" == caught.value.outcome


def test_before_a_begin(pool: ProducerPool) -> None:
    """A held producer can't begin; the next borrower has another one."""
    with pool.producer() as producer:
        close(producer)
        with pytest.raises(TransactionAbortedError, match=TEXT), producer.transaction():
            pass
    with pool.transaction(timeout_ms=5_000) as tx:
        tx.produce_sync("orders", "x", timeout_ms=5_000)


def test_a_plain_producer(kafka: MockKafka, kept: Callable[[ProducerPool], ProducerPool]) -> None:
    """A record is refused with the reason, and not as if its borrower's time were over."""
    pool = kept(plain(kafka.bootstrap_servers, size=1))
    with pool.producer(timeout_ms=10_000) as producer:
        answered = producer.produce_async("orders", "x")
        close(producer)
        with pytest.raises(DeliveryError, match=TEXT):
            producer.produce_sync("orders", "y", timeout_ms=5_000)
        answered.result(5_000)  # confluent-kafka flushes before it closes
    with pool.producer(timeout_ms=5_000) as producer:
        producer.produce_sync("orders", "z", timeout_ms=5_000)


def test_after_the_commit_was_sent(
    kafka: MockKafka, pool: ProducerPool, told: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call that waits for its answer still gets it."""
    with pool.transaction() as tx:
        tx.produce_sync("orders", "x", timeout_ms=5_000)
        client = internals.client(tx)
        commit = client.commit

        def commit_late(seconds: float) -> None:
            kafka.set_rtt(300)
            monkeypatch.setattr(client, "commit", commit)
            try:
                commit(seconds)
            finally:
                kafka.set_rtt(0)
                close_client(client)

        monkeypatch.setattr(client, "commit", commit_late)

    assert "committed" == told.of(TransactionFinished)[0].outcome


def test_each_call(kafka: MockKafka) -> None:
    """All calls of a client that was closed say the same; an idle one is noticed by the poller's."""
    client = begun(kafka)
    close_client(client)
    calls = [client.begin, lambda: client.commit(1), lambda: client.abort(1), lambda: client.init(1)]

    assert [FaultKind.CLOSED] * 5 == [kind(call) for call in [*calls, lambda: produce(client)]]
    assert (None, 0) == (client.reason(), client.owes())
    end(client)
    idle = connect(kafka, None)
    close_client(idle)
    idle.poll(0)
    assert idle.fault is not None
    assert FaultKind.CLOSED is idle.fault.kind


def test_closed_by_the_pool_meanwhile(kafka: MockKafka) -> None:
    """Its own close is no fault: who still has the producer hears that its time is over."""
    client = begun(kafka)
    client.close()

    assert [FaultKind.CLOSED, None] == [kind(client.commit, 1), client.reason()]
    assert client.fault is None


def test_an_idle_producer_is_replaced(pool: ProducerPool, told: Recorder) -> None:
    """The pool's poller finds it closed, and makes another one before anybody asks."""
    with pool.producer() as producer:
        client = internals.client(producer)
    close_client(client)

    until(lambda: told.of(ProducerRetired))
    until(lambda: pool.stats().idle == 1)
