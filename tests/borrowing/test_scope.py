# ruff: noqa: PT012  (what a transaction's block does is the case)
from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.scripted import (
    PATIENCE,
    FaultKind,
    FutureThread,
    Script,
    aborted,
    committed,
    fault,
    in_thread,
    make_pool,
    outcome,
    plain_pool,
)
from wd_di import Retry
from wd_di.errors import (
    AbortTransaction,
    CheckoutReturnedError,
    CommitOutcomeUnknownError,
    NotTransactionalError,
    PoolExhaustedError,
    PropagationError,
    ScopeError,
    TransactionAbortedError,
    TransactionError,
    UnexpectedAbortError,
)
from wd_di.events import ProducerClosed, TransactionStarted
from wd_di.pool import ProducerPool


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of two scripted producers."""
    with make_pool(size=2) as pool:
        yield pool


# -- joining -----------------------------------------------------------------------------------------


def test_join(pool, script):
    """A nested transaction of the same thread is the same one, and its exit ends nothing."""
    with pool.transaction() as outer:
        with pool.transaction() as inner:
            inner.produce_async("orders", "inner")
        before = committed(pool)
        outer.produce_async("orders", "outer")

    assert outer is inner
    assert [] == before
    assert ["inner", "outer"] == committed(pool)
    assert 1 == script.calls.count("begin")


def test_join_by_function_calls(pool):
    """Functions that each open a transaction are atomic together under a caller that has one."""

    def place(value: str) -> None:
        with pool.transaction() as tx:
            tx.produce_async("orders", value)

    with pytest.raises(ValueError, match="boom"), pool.transaction():
        place("one")
        place("two")
        raise ValueError("boom")

    assert ([], ["one", "two"]) == (committed(pool), aborted(pool))


def test_inner_error_passes(pool):
    """An inner error that nobody swallows comes out as itself."""
    original = ValueError("inner")
    with pytest.raises(ValueError, match="inner") as caught, pool.transaction(), pool.transaction() as tx:
        tx.produce_async("orders", "never")
        raise original

    assert original is caught.value
    assert ["never"] == aborted(pool)


def test_inner_error_swallowed(pool):
    """An inner error that the outer block swallows aborts all the same, and its end says so."""
    original = ValueError("inner")
    with pytest.raises(UnexpectedAbortError, match=r"was aborted.*ValueError\('inner'\)") as caught:  # noqa: SIM117
        with pool.transaction() as outer:
            with pytest.raises(ValueError, match="inner"), pool.transaction():
                raise original
            outer.produce_async("orders", "never")

    assert original is caught.value.__cause__
    assert ("aborted", False) == (caught.value.outcome, caught.value.safe_to_retry)
    assert (["never"], []) == (aborted(pool), committed(pool))


def test_first_of_two_inner_errors(pool):
    """Of several swallowed inner errors the first is named as the cause."""
    with pytest.raises(UnexpectedAbortError) as caught, pool.transaction():
        for text in ("first", "second"):
            with pytest.raises(ValueError, match=text), pool.transaction():
                raise ValueError(text)

    assert "first" == str(caught.value.__cause__)


def test_inner_signal(pool):
    """AbortTransaction passes an inner exit, and aborts the whole although the outer block swallows it."""
    with pool.transaction() as outer:
        with pytest.raises(AbortTransaction), pool.transaction():
            raise AbortTransaction
        outer.produce_async("orders", "never")

    assert (["never"], []) == (aborted(pool), committed(pool))


def test_inner_commit_on(pool):
    """An exception that the inner scope commits on doesn't mark the transaction."""
    with pool.transaction() as outer:
        with pytest.raises(KeyError), pool.transaction(commit_on=(KeyError,)):
            raise KeyError("k")
        outer.produce_async("orders", "kept")

    assert ["kept"] == committed(pool)


def test_transaction_of_a_transaction(pool, script):
    """The transaction of a transaction is itself."""
    with pool.transaction() as outer, outer.transaction() as inner:
        pass

    assert outer is inner
    assert 1 == script.calls.count("begin")


# -- a second one, and the strict ones ---------------------------------------------------------------


def test_new(pool):
    """A new transaction has a producer of its own and commits although the outer one aborts."""
    with pytest.raises(ValueError, match="outer"), pool.transaction() as outer:
        outer.produce_async("orders", "outer")
        with pool.transaction(propagation="new") as inner:
            inner.produce_async("audit", "inner")
        with pool.transaction() as again:
            again.produce_async("orders", "outer, too")
        raise ValueError("outer")

    assert outer.index != inner.index
    assert again is outer
    assert (["inner"], ["outer", "outer, too"]) == (committed(pool), aborted(pool))


def test_failing_new(pool):
    """A new transaction that fails doesn't mark the outer one."""
    with pool.transaction() as outer:
        with pytest.raises(ValueError, match="inner"), pool.transaction(propagation="new"):
            raise ValueError("inner")
        outer.produce_async("orders", "kept")

    assert ["kept"] == committed(pool)


def test_join_inside_new(pool):
    """What joins inside a new transaction joins that one."""
    with pool.transaction(), pool.transaction(propagation="new") as new, pool.transaction() as joined:
        pass

    assert new is joined


def test_new_without_another(script):
    """Without a second idle producer a new transaction is refused at once, for it could wait for its own thread."""
    with make_pool(timeout_ms=5_000) as pool, pool.transaction() as outer:
        started = time.monotonic()
        with pytest.raises(PoolExhaustedError, match="the caller holds one already"):
            pool.transaction(propagation="new").__enter__()
        took = time.monotonic() - started
        outer.produce_async("orders", "kept")

    assert took < 1
    assert ["kept"] == committed(pool)


def test_new_on_a_held_producer(pool):
    """A new transaction inside a mere checkout uses the producer that is held."""
    with pool.producer() as producer, pool.transaction(propagation="new") as tx:
        in_use = pool.stats().in_use

    assert producer.index == tx.index
    assert 1 == in_use


def test_mandatory(pool):
    """A mandatory transaction joins one, or is refused."""
    with pool.transaction() as outer, pool.transaction(propagation="mandatory") as inner:
        pass
    with pytest.raises(PropagationError, match="propagation is 'mandatory', and no transaction is open"):
        pool.transaction(propagation="mandatory").__enter__()

    assert outer is inner
    assert 0 == pool.stats().in_use


def test_never(pool):
    """A transaction that is never to be nested is refused inside another, which goes on."""
    with pool.transaction(propagation="never") as outer:
        with pytest.raises(PropagationError, match="propagation is 'never', and a transaction is open"):
            pool.transaction(propagation="never").__enter__()
        outer.produce_async("orders", "kept")

    assert ["kept"] == committed(pool)


# -- checkouts and transactions ----------------------------------------------------------------------


def test_checkout_inside_a_transaction(pool):
    """A checkout inside a transaction is that transaction, and its exit ends nothing."""
    with pool.transaction() as tx:
        with pool.producer() as producer:
            producer.produce_async("orders", "one")
        tx.produce_async("orders", "two")

    assert tx is producer
    assert ["one", "two"] == committed(pool)


def test_checkout_inside_a_checkout(pool):
    """A nested checkout is the same producer."""
    with pool.producer() as outer:
        with pool.producer() as inner:
            pass
        outer.produce_sync("orders", "still there")

    assert outer is inner


def test_manual_form(pool):
    """What is produced on a producer inside its own transaction belongs to it."""
    with pytest.raises(ValueError, match="boom"), pool.producer() as producer, producer.transaction() as tx:
        producer.produce_sync("orders", "by the producer")
        producer.produce_async("orders", "by the producer, too")
        producer.produce_many_async([])
        tx.produce_async("orders", "by the transaction")
        raise ValueError("boom")

    assert ([], 3) == (committed(pool), len(aborted(pool)))


def test_flushing_the_producer_of_a_transaction(pool):
    """Flushing a producer inside its own transaction waits for the transaction's records."""
    with pool.producer() as producer, producer.transaction():
        delivery = producer.produce_async("orders", "one")
        producer.flush()
        done = delivery.done()

    assert done


def test_transactions_in_one_checkout(pool, script):
    """A checkout runs one transaction after another on the same producer."""
    with pool.producer() as producer:
        for value in ("one", "two"):
            with producer.transaction() as tx:
                tx.produce_async("orders", value)
        with pool.transaction() as ambient:
            pass

    assert producer.index == ambient.index
    assert ["one", "two"] == committed(pool)


def test_hooks_inside_a_checkout(pool):
    """Hooks of a transaction on a checked-out producer run without a current transaction."""
    seen = []
    with pool.producer() as producer:
        with producer.transaction() as tx:
            tx.after_commit(lambda: seen.append(outcome(pool.transaction(propagation="mandatory").__enter__)))
        during = len(seen)

    assert 1 == during
    assert isinstance(seen[0], PropagationError)


def test_retired_within_a_checkout(pool, script):
    """A producer that was given up can't begin again within its checkout; the error says what to do."""
    script.on("commit", fault(FaultKind.FATAL))
    with pool.producer() as producer:
        with pytest.raises(CommitOutcomeUnknownError), producer.transaction():
            pass
        with pytest.raises(TransactionError, match=r"can't begin another.*\(commit failed\): leave its 'with' block"):
            producer.transaction().__enter__()

    assert 1 == pool.stats().totals.retired


# -- after the return --------------------------------------------------------------------------------


def test_transaction_after_the_return(pool, script):
    """A producer that was given back begins no transaction: its slot may be another's by now."""
    with pool.producer() as producer:
        pass
    before = list(script.calls)
    with pytest.raises(CheckoutReturnedError, match="producer 0 has gone back"):
        producer.transaction()
    with pytest.raises(CheckoutReturnedError, match="producer 0 has gone back"):
        producer.produce_sync("orders", "late")

    assert before == script.calls


def test_return_during_an_implicit_transaction(pool, script):
    """A checkout that ends while another thread begins on its producer takes neither along to the next borrower."""
    begun, closed = threading.Event(), threading.Event()
    pool.observer.subscribe(TransactionStarted, lambda _: begun.set())
    pool.observer.subscribe(ProducerClosed, lambda _: closed.set())
    script.on("commit", lambda: closed.wait(PATIENCE))
    with pool.producer() as producer:
        other = FutureThread(partial(producer.produce_sync, "orders", "half"))
        other.start()
        begun.wait(PATIENCE)
    with pool.transaction() as following:
        following.produce_async("orders", "next")

    assert isinstance(other.outcome(), TransactionAbortedError)
    assert ["next"] == committed(pool)
    assert 1 == pool.stats().totals.retired


def test_return_while_another_thread_begins(pool, script):
    """A checkout that ends while another thread is about to begin on its producer waits for it, then gives it up."""
    inside, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def dawdle() -> None:
        inside.set()
        go_on.wait(PATIENCE)

    pool.observer.subscribe(ProducerClosed, lambda _: closed.set())
    script.on("begin", dawdle)
    script.on("commit", lambda: closed.wait(PATIENCE))
    with pool.producer() as producer:
        other = FutureThread(partial(producer.produce_sync, "orders", "half"))
        other.start()
        inside.wait(PATIENCE)
        threading.Timer(0.05, go_on.set).start()

    assert 1 == pool.stats().totals.retired
    assert isinstance(other.outcome(), TransactionAbortedError)


def test_transaction_left_open(pool, script):
    """A checkout that ends inside its own transaction costs the producer, not the next borrower's records."""
    with pool.producer() as producer:
        tx = producer.transaction().__enter__()
        tx.produce_async("orders", "half")
    with pool.transaction() as following:
        following.produce_async("orders", "next")

    assert ["next"] == committed(pool)
    assert 1 == pool.stats().totals.retired


def test_closed_by_force_within_a_checkout(pool):
    """After a forced close a held producer begins nothing."""
    with pool.producer() as producer:
        pool.close(timeout_ms=0, force=True)
        with pytest.raises((TransactionError, CheckoutReturnedError)):
            producer.transaction().__enter__()


# -- threads -----------------------------------------------------------------------------------------


def test_other_threads_inherit_nothing(pool):
    """A transaction in another thread is another one."""

    def place() -> int:
        with pool.transaction() as tx:
            return tx.index

    with pool.transaction() as mine:
        other = in_thread(place)

    assert mine.index != other


def test_transaction_of_another_thread(pool):
    """A transaction that another thread has opened on my producer is not mine to join."""
    opened, done = threading.Event(), threading.Event()

    def hold() -> None:
        with producer.transaction():
            opened.set()
            done.wait(PATIENCE)

    with pool.producer() as producer:
        other = FutureThread(hold)
        other.start()
        opened.wait(PATIENCE)
        mine = outcome(producer.transaction().__enter__)
        ambient = outcome(pool.transaction().__enter__)
        done.set()
        other.outcome()

    assert [ScopeError, ScopeError] == [type(mine), type(ambient)]
    assert "open in another thread" in str(mine)


def test_nesting_on_a_borrowed_producer(pool):
    """The thread that opens a transaction on another's producer can nest in it."""

    def nest() -> bool:
        with producer.transaction() as outer, producer.transaction() as inner:
            return outer is inner

    with pool.producer() as producer:
        same = in_thread(nest)

    assert same is True


def test_not_ambient(pool):
    """A scope that isn't ambient is joined by nobody, and joins nobody."""
    scope = pool.transaction().begin(ambient=False)
    with scope as hidden, pool.transaction() as visible:
        pass

    assert hidden.index != visible.index


# -- recipes -----------------------------------------------------------------------------------------


def test_recipe_again(pool):
    """A recipe can be opened again after it was left, but not while it is open."""
    recipe = pool.transaction()
    with recipe as first, pytest.raises(ScopeError, match="is open already"):
        recipe.__enter__()
    with recipe as second:
        pass

    assert first is not second


def test_retry_needs_a_function(pool):
    """A recipe with a retry can't be opened by with, which has nothing to call again."""
    with pytest.raises(ScopeError, match=r"needs a function to call again: pool.run\(fn\) or @inject"):
        pool.transaction(retry=Retry()).__enter__()

    assert 0 == pool.stats().in_use


def test_plain_pool(script):
    """A pool without a transactional id has no transactions."""
    with plain_pool() as pool, pytest.raises(NotTransactionalError, match="orders: this pool has no transactional_id"):
        pool.transaction().__enter__()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"propagation": "nested"}, ValueError, "propagation is one of join, new, mandatory, never, not 'nested'"),
        ({"commit_on": (KeyboardInterrupt,)}, TypeError, "commit_on is a tuple of Exception classes"),
        ({"commit_on": ("ValueError",)}, TypeError, "commit_on is a tuple of Exception classes"),
        ({"timeout_ms": -1}, ValueError, "timeout_ms is -1"),
        ({"timeout_ms": 1.5}, TypeError, "timeout_ms is milliseconds as an int, not float"),
    ],
)
def test_wrong_options(pool, options, error, text):
    """Wrong options are refused when the recipe is made."""
    with pytest.raises(error, match=text):
        pool.transaction(**options)


def test_two_pools(script):
    """Transactions of two pools in one function are two: one may commit although the other aborts."""
    with make_pool(name="a") as one, make_pool(name="b", instance="other") as two:
        with pytest.raises(ValueError, match="boom"), one.transaction() as first:
            with two.transaction() as second:
                second.produce_async("orders", "two")
            first.produce_async("orders", "one")
            raise ValueError("boom")

        assert ([], ["two"]) == (committed(one), committed(two))
