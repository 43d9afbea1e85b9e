# ruff: noqa: PT012  (what a transaction's block does is the case)
"""Which way out of a transaction commits, which aborts, and who sees what of it."""

from __future__ import annotations

import pytest

from tests.contract.backends import Backend
from wd_di import AbortTransaction, ErrorOccurred, Retry, UnexpectedAbortError


def test_return_commits(backend: Backend) -> None:
    """Leaving the block shows its records."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, "one")
        tx.produce_async(topic, "two")

    assert ["one", "two"] == backend.values(topic)
    assert ["committed"] == backend.outcomes()


def test_hidden_until_the_commit(backend: Backend) -> None:
    """A record that the broker has stored is hidden from read_committed readers until the commit."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_sync(topic, "one")
        before = backend.values(topic)

    assert [] == before
    assert ["one"] == backend.values(topic)


def test_an_exception_aborts(backend: Backend) -> None:
    """What leaves the block aborts, and comes out as the very same object, without a note."""
    pool, original = backend.pool(), ValueError("of the block")
    with pytest.raises(ValueError, match="of the block") as caught, pool.transaction() as tx:
        tx.produce_async(backend.topic(), "never")
        raise original

    assert original is caught.value
    assert not hasattr(original, "__notes__")
    assert ["aborted"] == backend.outcomes()


def test_an_interrupt_aborts(backend: Backend) -> None:
    """KeyboardInterrupt aborts, as every exception does, and goes on."""
    pool = backend.pool()
    with pytest.raises(KeyboardInterrupt), pool.transaction() as tx:
        tx.produce_async(backend.topic(), "never")
        raise KeyboardInterrupt

    assert ["aborted"] == backend.outcomes()


def test_aborted_records_stay_hidden(backend: Backend) -> None:
    """Between two committed transactions an aborted one leaves nothing for read_committed readers."""
    pool, topic = backend.pool(), backend.topic()
    for value in ("first", "aborted", "last"):
        with pool.transaction() as tx:
            tx.produce_async(topic, value)
            if value == "aborted":
                tx.abort_only()

    assert ["first", "last"] == backend.values(topic)


def test_aborted_records_are_in_the_log(backend: Backend) -> None:
    """Aborted records did reach the log: only read_committed readers are spared them."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, "aborted")
        tx.abort_only()

    assert [b"aborted"] == [record.value for record in backend.stored(topic)]


def test_the_signal_aborts_without_an_error(backend: Backend) -> None:
    """AbortTransaction aborts and is swallowed."""
    pool = backend.pool()
    with pool.transaction() as tx:
        tx.produce_async(backend.topic(), "never")
        raise AbortTransaction

    assert ["aborted"] == backend.outcomes()


def test_abort_only(backend: Backend) -> None:
    """A transaction that is marked aborts at its end, without an error."""
    pool = backend.pool()
    with pool.transaction() as tx:
        tx.abort_only()
        tx.produce_async(backend.topic(), "never")

    assert ["aborted"] == backend.outcomes()


def test_commit_on(backend: Backend) -> None:
    """An exception of commit_on commits, and is raised on."""
    pool, topic = backend.pool(), backend.topic()
    with pytest.raises(KeyError), pool.transaction(commit_on=(LookupError,)) as tx:
        tx.produce_async(topic, "kept")
        raise KeyError("k")

    assert ["kept"] == backend.values(topic)
    assert ["committed"] == backend.outcomes()


def test_an_empty_transaction_commits(backend: Backend) -> None:
    """A transaction without a record commits."""
    pool = backend.pool()
    with pool.transaction():
        pass

    assert ["committed"] == backend.outcomes()


def test_a_swallowed_inner_error_aborts_the_whole(backend: Backend) -> None:
    """An error that crosses an inner boundary aborts, and says so when the outer block swallows it."""
    pool, inner = backend.pool(), KeyError("inner")
    with pytest.raises(UnexpectedAbortError) as caught, pool.transaction() as tx:
        tx.produce_async(backend.topic(), "never")
        with pytest.raises(KeyError), pool.transaction():
            raise inner

    assert inner is caught.value.__cause__
    assert ("aborted", False) == (caught.value.outcome, caught.value.safe_to_retry)
    assert ["aborted"] == backend.outcomes()


def test_transactions_at_the_same_time_are_independent(backend: Backend) -> None:
    """Of two open transactions one may abort and the other commit."""
    pool, aborted, kept = backend.pool(size=2), backend.topic(), backend.topic()
    with pool.transaction() as outer:
        outer.produce_sync(aborted, "never")
        with pool.transaction(propagation="new") as inner:
            inner.produce_async(kept, "kept")
        outer.abort_only()

    assert ["kept"] == backend.values(kept)
    assert ["committed", "aborted"] == backend.outcomes()


def test_run_again_after_an_abort(backend: Backend) -> None:
    """A function that is run again after its abort leaves the records of its last run."""
    pool, topic = backend.pool(), backend.topic()
    attempts: list[int] = []

    def place(tx):
        attempts.append(len(attempts) + 1)
        if attempts == [1]:
            raise KeyError("not yet")
        tx.produce_async(topic, f"attempt {attempts[-1]}")
        return "placed"

    result = pool.run(place, retry=Retry(on=(KeyError,), backoff_ms=1))

    assert "placed" == result
    assert ["attempt 2"] == backend.values(topic)
    assert ["aborted", "committed"] == backend.outcomes()


def test_an_abort_costs_no_producer(backend: Backend) -> None:
    """After an abort the same producer goes on: nothing is retired, and no error is reported."""
    pool, topic = backend.pool(), backend.topic()
    with pool.transaction() as tx:
        tx.produce_async(topic, "aborted")
        tx.abort_only()
    with pool.transaction() as tx:
        tx.produce_async(topic, "kept")

    assert (0, 1) == (pool.stats().totals.retired, pool.stats().totals.created)
    assert [] == backend.of(ErrorOccurred)
