# ruff: noqa: PT012  (what a transaction's block does is the case)
"""What a pool tells of itself: its events and their order, its numbers, and the report of its close."""

from __future__ import annotations

import pytest

from tests.contract.backends import REFUSED, Backend
from wd_di import (
    ConnectionPoolReloaded,
    Event,
    MessageAcknowledged,
    ProducerCreated,
    TransactionAborted,
    TransactionCommitted,
    TransactionFinished,
    TransactionStarted,
)


def names(events: list[Event]) -> list[str]:
    """The events' names in their order."""
    return [event.name for event in events]


def test_events_of_a_pool(backend: Backend) -> None:
    """A pool tells of its making first, then of its producers; its shutdown is the last."""
    pool = backend.pool()
    report = pool.close()

    told = ["connection_pool.created", "connection_pool.setup", "producer.created", "producer.closed"]
    assert [*told, "connection_pool.shutdown"] == names(backend.events)
    assert report is backend.events[-1]["report"]
    assert ("orders", 1, 15_000) == tuple(backend.events[0][key] for key in ("pool", "size", "timeout_ms"))


def test_events_of_a_commit(backend: Backend) -> None:
    """A committed transaction is told as started, acknowledged, committed and finished."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, "one")
        tx.produce_async(topic, "two")

    told = ["transaction.started", "message.acknowledged", "message.acknowledged"]
    assert [*told, "transaction.committed", "transaction.finished"] == names(backend.events[3:])
    assert {tx.id} == {
        event.transaction_id for event in backend.of(TransactionStarted) + backend.of(TransactionFinished)
    }
    [committed], [finished] = backend.of(TransactionCommitted), backend.of(TransactionFinished)
    assert (2, 2, "committed", None) == (committed.records, finished.records, finished.outcome, finished.error)


def test_events_of_an_abort(backend: Backend) -> None:
    """An aborted transaction is told with its cause; its records had been acknowledged before."""
    pool, topic, cause = backend.pool(), backend.topic(), ValueError("of the block")
    with pytest.raises(ValueError, match="of the block"), pool.transaction() as tx:
        tx.produce_async(topic, "one")
        raise cause

    told = ["transaction.started", "message.acknowledged", "transaction.aborted", "transaction.finished"]
    assert told == names(backend.events[3:])
    [aborted], [finished] = backend.of(TransactionAborted), backend.of(TransactionFinished)
    assert (1, cause) == (aborted.records, aborted.cause)
    assert ("aborted", cause) == (finished.outcome, finished.error)


def test_events_of_a_refused_record(backend: Backend) -> None:
    """A transaction that aborts for a refused record is told as such, with the error that came out."""
    pool, topic = backend.pool(), backend.refusing_topic()
    with pytest.raises(Exception, match="weren't delivered") as caught, pool.transaction() as tx:
        tx.produce_async(topic, REFUSED)

    told = ["transaction.started", "message.failed", "transaction.aborted", "transaction.finished"]
    assert told == names(backend.events[3:7])
    assert caught.value is backend.of(TransactionAborted)[0].cause
    assert caught.value is backend.of(TransactionFinished)[0].error


def test_acknowledgements(backend: Backend) -> None:
    """An acknowledgement names the record's place."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_sync(topic, "one")

    [event] = backend.of(MessageAcknowledged)
    assert ("orders", 0, topic, 0, 0) == (event.pool, event.index, event.topic, event.partition, event.offset)


def test_ids_of_the_producers(backend: Backend) -> None:
    """Each producer has the id of its slot."""
    pool = backend.pool(size=2, instance="host-7", transactional_id="{pool}-{instance}-{index}")

    assert {(0, "orders-host-7-0"), (1, "orders-host-7-1")} == ids(backend)
    assert 2 == pool.stats().idle


def test_reload_keeps_the_ids(backend: Backend) -> None:
    """A reload replaces every producer under its old id; the pool goes on."""
    pool, topic = backend.pool(size=2), backend.topic()
    before = ids(backend)
    pool.reload()
    with pool.transaction() as tx:
        tx.produce_async(topic, "after")

    assert before == ids(backend)
    assert (4, 2) == (pool.stats().totals.created, pool.stats().totals.retired)
    assert (1, 1) == (pool.stats().generation, backend.of(ConnectionPoolReloaded)[0].generation)
    reloads = [name for name in names(backend.events) if name.startswith("connection_pool.reload")]
    assert ["connection_pool.reload", "connection_pool.reloaded"] == reloads
    assert ["after"] == backend.values(topic)


def test_stats(backend: Backend) -> None:
    """The numbers follow a checkout, its return and the close."""
    pool = backend.pool(size=2)
    idle = pool.stats()
    with pool.transaction():
        held = pool.stats()
    returned = pool.stats()
    pool.close()

    assert (2, 2, 0) == (idle.available, idle.idle, idle.in_use)
    assert (1, 1, 1) == (held.available, held.idle, held.in_use)
    assert (2, 2, 0) == (returned.available, returned.idle, returned.in_use)
    assert (0, 0, 0) == (pool.stats().available, pool.stats().idle, pool.stats().in_use)
    assert (1, 0) == (returned.totals.requests, returned.totals.timeouts)


def test_a_clean_close(backend: Backend) -> None:
    """A pool that nobody holds closes clean, and gives the same report again."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, "one")
    report = pool.close()

    assert report.clean
    assert ("orders", 0, ()) == (report.pool, report.purged, report.held)
    assert report is pool.close()


def test_a_close_while_somebody_holds(backend: Backend) -> None:
    """A close reports who still holds a producer; what he does there still counts."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, "one")
        report = pool.close(timeout_ms=0)

    assert not report.clean
    assert [0] == [holder.index for holder in report.held]
    assert "MainThread" in report.held[0].owner
    assert ["one"] == backend.values(topic)


def test_a_close_by_force(backend: Backend) -> None:
    """A close by force takes the producer from its holder; the transaction is not committed."""
    pool, topic = backend.pool(), backend.topic()
    with pytest.raises(Exception, match="orders") as caught, pool.transaction() as tx:
        tx.produce_sync(topic, "never")
        pool.close(timeout_ms=0, force=True)

    assert "committed" not in backend.outcomes()
    assert "aborted" == caught.value.outcome


def ids(backend: Backend) -> set[tuple[int, str]]:
    """The slots of all producers so far, with their ids."""
    return {(event.index, event.transactional_id) for event in backend.of(ProducerCreated)}
