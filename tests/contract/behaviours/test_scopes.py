"""Who works in which transaction, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.contract.backends import PATIENCE, Backend
from wd_di import (
    CheckoutReturnedError,
    CheckoutTimedOut,
    Message,
    NotTransactionalError,
    PoolClosedError,
    PoolExhaustedError,
    PoolTimeoutError,
    ProducerPool,
    PropagationError,
    ScopeError,
    TransactionClosedError,
)


def test_a_call_outside_is_a_transaction(backend: Backend) -> None:
    """On a transactional pool each call outside of a transaction is one: visible when the call returns."""
    pool, topic = backend.pool(), backend.topic()
    with pool.producer() as producer:
        report = producer.produce_sync(topic, "one")
        after_sync = backend.values(topic)
        delivery = producer.produce_async(topic, "two")
        after_async = backend.values(topic)

    assert 0 == report.offset
    assert "delivered" == delivery.outcome
    assert (["one"], ["one", "two"]) == (after_sync, after_async)
    assert ["committed", "committed"] == backend.outcomes()


def test_many_outside_are_one_transaction(backend: Backend) -> None:
    """Several records of one call outside of a transaction are one."""
    pool, topic = backend.pool(), backend.topic()
    with pool.producer() as producer:
        producer.produce_many_sync([Message(topic, "one"), Message(topic, "two")])

    assert ["one", "two"] == backend.values(topic)
    assert ["committed"] == backend.outcomes()


def test_implicit_transactions_off(backend: Backend) -> None:
    """With implicit_transactions off, a call outside of a transaction is refused and nothing is sent."""
    pool, topic = backend.pool(implicit_transactions=False), backend.topic()
    with pool.producer() as producer, pytest.raises(ScopeError, match="implicit_transactions is off"):
        producer.produce_sync(topic, "never")

    assert [] == backend.stored(topic)
    assert [] == backend.outcomes()


def test_join(backend: Backend) -> None:
    """A nested transaction of the same thread is the same one, which its inner end doesn't end."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as outer:
        with pool.transaction() as inner:
            inner.produce_async(topic, "inner")
        outer.produce_async(topic, "outer")

    assert outer is inner
    assert ["inner", "outer"] == backend.values(topic)
    assert ["committed"] == backend.outcomes()


def test_a_nested_producer_is_the_transaction(backend: Backend) -> None:
    """A checkout inside of a transaction gives that transaction; one inside of a checkout the same producer."""
    pool, topic = backend.pool(), backend.topic()
    with pool.producer() as outer, pool.producer() as inner:
        assert outer is inner
        with inner.transaction() as tx, pool.producer() as producer:
            producer.produce_async(topic, "one")

    assert producer is tx
    assert ["one"] == backend.values(topic)
    assert ["committed"] == backend.outcomes()


def test_new_takes_another_producer(backend: Backend) -> None:
    """propagation="new" commits on its own, on a second producer."""
    pool, topic = backend.pool(size=2), backend.topic()
    with pool.transaction() as outer, pool.transaction(propagation="new") as inner:
        inner.produce_async(topic, "one")

    assert outer.index != inner.index
    assert outer.id != inner.id
    assert ["committed", "committed"] == backend.outcomes()


def test_new_without_another_producer(backend: Backend) -> None:
    """Where no second producer is idle, propagation="new" is refused at once: it could wait for itself."""
    pool = backend.pool()
    with pytest.raises(PoolExhaustedError, match="waiting could wait for itself"), pool.transaction():
        pool.transaction(propagation="new").__enter__()

    assert ["aborted"] == backend.outcomes()


def test_mandatory(backend: Backend) -> None:
    """propagation="mandatory" joins what is open, and is refused where nothing is."""
    pool = backend.pool()
    with pool.transaction() as outer, pool.transaction(propagation="mandatory") as inner:
        pass
    with pytest.raises(PropagationError, match="mandatory"):
        pool.transaction(propagation="mandatory").__enter__()

    assert outer is inner
    assert ["committed"] == backend.outcomes()


def test_never(backend: Backend) -> None:
    """propagation="never" begins where nothing is open, and is refused inside of a transaction."""
    pool = backend.pool()
    with pool.transaction(propagation="never"):
        pass
    with pytest.raises(PropagationError, match="never"), pool.transaction():
        pool.transaction(propagation="never").__enter__()

    assert ["committed", "aborted"] == backend.outcomes()


def test_use_after_the_end(backend: Backend) -> None:
    """An ended transaction is refused, from another thread too, and sends nothing into the next one."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as ended:
        ended.produce_async(topic, "one")
    with pool.transaction():
        error = Thread(lambda: ended.produce_async(topic, "late")).outcome()
        with pytest.raises(TransactionClosedError, match="has ended: committed"):
            ended.produce_async(topic, "late")

    assert isinstance(error, TransactionClosedError)
    assert ["one"] == backend.values(topic)


def test_use_after_the_return(backend: Backend) -> None:
    """A producer that has gone back is refused."""
    pool, topic = backend.plain(), backend.topic()
    with pool.producer() as returned:
        pass
    with pytest.raises(CheckoutReturnedError, match="has gone back"):
        returned.produce_sync(topic, "late")

    assert [] == backend.stored(topic)


def test_no_transactions_without_an_id(backend: Backend) -> None:
    """A pool without a transactional_id has no transactions."""
    pool = backend.plain()

    with pytest.raises(NotTransactionalError, match="no transactional_id"):
        pool.transaction().__enter__()


def test_no_producer_free(backend: Backend) -> None:
    """A checkout that gets none in time says how many are held and by whom, and is an event."""
    pool = backend.pool()
    with pool.producer():
        error = Thread(lambda: pool.producer(timeout_ms=10).__enter__()).outcome()

    assert isinstance(error, PoolTimeoutError)
    assert "orders: no producer free after 10 ms (1 of 1 in use, 0 waiting; longest held" in str(error)
    assert [error] == [event.error for event in backend.of(CheckoutTimedOut)]
    assert 1 == pool.stats().totals.timeouts


def test_a_waiter_gets_what_comes_back(backend: Backend) -> None:
    """Who waits for a producer gets it when its holder gives it back."""
    pool, topic = backend.pool(), backend.topic()

    with pool.producer():
        publishing = Thread(lambda: publish(pool, topic, "waited"))
    publishing.outcome()

    assert ["waited"] == backend.values(topic)


def test_a_closed_pool(backend: Backend) -> None:
    """A closed pool lends nothing."""
    pool = backend.pool()
    pool.close()

    with pytest.raises(PoolClosedError):
        pool.producer().__enter__()


def publish(pool: ProducerPool, topic: str, value: str) -> None:
    """One transaction with one record."""
    with pool.transaction() as tx:
        tx.produce_async(topic, value)


class Thread(threading.Thread):
    """A running thread, and what its function returned or raised."""

    def __init__(self, fn: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._fn = fn
        self._outcome: object = None
        self.start()

    def run(self) -> None:
        try:
            self._outcome = self._fn()
        except Exception as error:  # noqa: BLE001  (it is the outcome)
            self._outcome = error

    def outcome(self) -> object:
        """Wait for it."""
        self.join(PATIENCE)
        assert not self.is_alive()
        return self._outcome
