# ruff: noqa: PT012  (what a transaction's block does is the case)
from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from tests import internals
from tests.pools import bounded, until
from tests.pools import pool as on_brokers
from tests.scripted import (
    OFFSETS,
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
    watch,
)
from wd_di import Retry
from wd_di._borrowing.scopes import TransactionRun
from wd_di._transactions.transaction import OpenTransaction
from wd_di.errors import (
    AbortTransaction,
    AuthorizationError,
    CommitOutcomeUnknownError,
    DeliveryError,
    DeliveryTimeoutError,
    FencedError,
    PropagationError,
    RebalancedError,
    ScopeError,
    TransactionAbortedError,
    TransactionClosedError,
    TransactionError,
    TransactionTimedOutError,
    UnexpectedAbortError,
)
from wd_di.events import (
    ErrorOccurred,
    ProducerRetired,
    TransactionAborted,
    TransactionCommitted,
    TransactionFinished,
    TransactionStarted,
)
from wd_di.pool import ProducerPool
from wd_di.testing import ApiKey, MockKafka

LATE = 15.0
"""Seconds after which the coordinator has aborted: transaction.timeout.ms by default."""


class Clock:
    """Stands for the time module in the transactions' own reckoning."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of one scripted producer."""
    with make_pool(commit_timeout_ms=300, abort_timeout_ms=300) as pool:
        yield pool


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The transactions' clock, which stands still."""
    clock = Clock()
    monkeypatch.setattr("wd_di._transactions.ending.time", clock)
    monkeypatch.setattr("wd_di._transactions.writing.time", clock)
    return clock


def ends(script: Script) -> list[str]:
    """The calls that end a transaction."""
    return [call for call in script.calls if call in ("commit", "abort")]


def retired(pool: ProducerPool) -> int:
    """How many producers the pool gave up."""
    return pool.stats().totals.retired


def produce_one(pool: ProducerPool, value: str = "one", topic: str = "orders") -> None:
    """One transaction with one record."""
    with pool.transaction() as tx:
        tx.produce_async(topic, value)


# -- the ways out ------------------------------------------------------------------------------------


def test_return_commits(pool):
    """Leaving the block commits what was produced in it."""
    produce_one(pool)

    assert ["one"] == committed(pool)
    assert [] == aborted(pool)


def test_early_return_commits(pool):
    """A return out of the middle of the block commits, too."""

    def place() -> str:
        with pool.transaction() as tx:
            tx.produce_async("orders", "early")
            return tx.id

    assert place().startswith("t-test-0#")
    assert ["early"] == committed(pool)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_exception_aborts(pool, kind):
    """Whatever leaves the block aborts, and comes out as the very same object."""
    original = kind("of the block")
    with pytest.raises(kind) as caught, pool.transaction() as tx:
        tx.produce_async("orders", "never")
        raise original

    assert original is caught.value
    assert (["never"], []) == (aborted(pool), committed(pool))
    assert 0 == retired(pool)


def test_failing_abort(pool, script):
    """An abort that fails is an event and a note on the original error, and costs the producer."""
    errors, original = watch(pool, ErrorOccurred), ValueError("of the block")
    script.on("abort", fault(FaultKind.OTHER))
    with pytest.raises(ValueError, match="of the block") as caught, pool.transaction():
        raise original

    assert original is caught.value
    assert "couldn't be aborted (scripted other); its producer is retired" in caught.value.__notes__[0]
    assert ["transaction.abort"] == [event.where for event in errors]
    assert 1 == retired(pool)


def test_a_failed_abort_is_not_tried_again(pool, script):
    """Closing the producer doesn't abort once more: who waits for the next one would wait for that, too."""
    script.on("abort", fault(FaultKind.OTHER))
    with pytest.raises(ZeroDivisionError), pool.transaction():
        _ = 1 / 0
    produce_one(pool)

    assert 1 == script.calls.count("abort")


def test_abort_signal(pool):
    """AbortTransaction aborts and is swallowed."""
    with pool.transaction() as tx:
        tx.produce_async("orders", "never")
        raise AbortTransaction

    assert (["never"], []) == (aborted(pool), committed(pool))


def test_abort_only(pool):
    """A transaction marked abort-only aborts at its end, without an error."""
    with pool.transaction() as tx:
        tx.abort_only()
        tx.produce_async("orders", "never")

    assert (["never"], []) == (aborted(pool), committed(pool))


def test_abort_only_and_an_error(pool):
    """An error comes out of a transaction that was abort-only anyway."""
    with pytest.raises(ValueError, match="boom"), pool.transaction() as tx:
        tx.abort_only()
        raise ValueError("boom")

    assert [] == committed(pool)


def test_commit_on(pool):
    """An exception of commit_on commits and is raised on, its subclasses too; another one aborts."""
    with pytest.raises(KeyError), pool.transaction(commit_on=(LookupError,)) as tx:
        tx.produce_async("orders", "kept")
        raise KeyError("k")
    with pytest.raises(ValueError, match="boom"), pool.transaction(commit_on=(LookupError,)) as tx:
        tx.produce_async("orders", "dropped")
        raise ValueError("boom")

    assert (["kept"], ["dropped"]) == (committed(pool), aborted(pool))


def test_commit_on_and_abort_only(pool):
    """Abort-only outweighs commit_on."""
    with pytest.raises(KeyError), pool.transaction(commit_on=(KeyError,)) as tx:
        tx.produce_async("orders", "dropped")
        tx.abort_only()
        raise KeyError("k")

    assert [] == committed(pool)


def test_empty_transaction(pool, script):
    """A transaction without a record commits."""
    with pool.transaction():
        pass

    assert ["commit"] == ends(script)


def test_consecutive_transactions(pool):
    """The same producer runs one transaction after another, each with an id of its own."""
    ids = []
    for _ in range(3):
        with pool.transaction() as tx:
            ids.append(tx.id)

    assert 3 == len(set(ids))
    assert 1 == pool.stats().totals.created


# -- deliveries --------------------------------------------------------------------------------------


def test_failure_of_a_late_call(pool, script):
    """A record whose produce_sync was told to be late, and which fails then, aborts all the same."""
    script.failing.add("broken")
    script.silent = True
    with pytest.raises(DeliveryError, match="1 of 1 records weren't delivered"), pool.transaction() as tx:
        with pytest.raises(DeliveryTimeoutError):
            tx.produce_sync("broken", timeout_ms=1)
        script.silent = False

    assert [] == committed(pool)


def test_failed_delivery(pool, script):
    """A record that fails aborts the transaction; the error lists the records that failed, and no others."""
    script.failing.add("broken")
    with pytest.raises(DeliveryError, match="1 of 2 records weren't delivered") as caught, pool.transaction() as tx:
        good = tx.produce_async("orders", "good")
        bad = tx.produce_async("broken", "bad")

    assert (bad,) == caught.value.failed
    assert isinstance(caught.value.__cause__, DeliveryError)
    assert ["abort"] == ends(script)
    assert ("aborted", "aborted") == (good.outcome, bad.outcome)


@pytest.mark.parametrize("ask", ["produce_sync", "flush"])
def test_swallowed_delivery_error(pool, script, ask):
    """A failed record aborts although the block has swallowed its error."""
    script.failing.add("broken")
    with pytest.raises(DeliveryError, match="1 of 1"), pool.transaction() as tx, pytest.raises(DeliveryError):
        if ask == "flush":
            tx.produce_async("broken", "bad")
            tx.flush()
        else:
            tx.produce_sync("broken", "bad")

    assert ["abort"] == ends(script)


def test_unanswered_records(pool, script):
    """Records without an answer at the commit's deadline abort, which is a known outcome."""
    events = watch(pool, ProducerRetired)
    script.silent = True
    with pytest.raises(TransactionAbortedError, match="1 of 1 records had no answer") as caught:
        produce_one(pool)

    assert ("aborted", True) == (caught.value.outcome, caught.value.safe_to_retry)
    assert [] == ends(script)  # the next init aborts: what is under way meanwhile must not meet it
    until(lambda: 1 == retired(pool))
    assert ["record unanswered"] == [event.reason for event in events]


def test_unanswered_records_are_sent_again(pool, script):
    """Nothing of theirs can become visible, so a retry runs the transaction once more."""

    def work(tx):
        script.silent = not script.silent
        tx.produce_async("orders", "x")

    pool.run(work, retry=Retry(attempts=2, backoff_ms=0))

    assert ["x"] == committed(pool)


def test_an_abort_is_asked_for_again(pool, script):
    """An abort that may be repeated is, and its producer stays."""
    script.on("abort", fault(FaultKind.RETRIABLE))
    with pool.transaction() as tx:
        tx.produce_async("orders", "never")
        tx.abort_only()

    assert ["abort", "abort"] == ends(script)
    assert 0 == retired(pool)


def test_aborted_deliveries(pool):
    """The deliveries of an aborted transaction say so, though the broker had stored them."""
    with pool.transaction() as tx:
        delivery = tx.produce_async("orders", "never")
        tx.flush()
        delivered = delivery.outcome
        tx.abort_only()

    assert ("delivered", "aborted") == (delivered, delivery.outcome)
    with pytest.raises(DeliveryError, match="a record for 'orders' was aborted"):
        delivery.result(0)


# -- Ctrl-C ------------------------------------------------------------------------------------------


def test_interrupt_while_flushing(pool, script):
    """Ctrl-C before the commit was sent aborts."""
    original = KeyboardInterrupt()
    script.on("flush", original)
    with pytest.raises(KeyboardInterrupt) as caught:
        produce_one(pool)

    assert original is caught.value
    assert ["abort"] == ends(script)
    assert [] == committed(pool)


def test_an_interrupt_in_a_flush_leaves_an_abort_its_own_time(kept, script):
    """Who is interrupted while records are waited for waits no longer than abort_timeout_ms, whatever a commit has."""
    pool = kept(make_pool(commit_timeout_ms=5_000, abort_timeout_ms=100))
    script.on("flush", KeyboardInterrupt())
    script.always("abort", fault(FaultKind.RETRIABLE))
    with bounded(100), pytest.raises(KeyboardInterrupt) as caught, pool.transaction() as tx:
        tx.produce_async("orders", "x")

    assert "couldn't be aborted" in caught.value.__notes__[0]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, TimeoutError, SoftTimeLimitExceeded])
def test_interrupt_while_committing(pool, script, kind):
    """Ctrl-C, an exit or a time limit in the commit is outwaited and raised after it, with a note on the outcome."""
    original, events = kind(), watch(pool, TransactionFinished)
    script.on("commit", original)
    with pytest.raises(kind) as caught:
        produce_one(pool)

    assert original is caught.value
    assert [f"orders: transaction {events[0].transaction_id} was committed"] == original.__notes__
    assert ["one"] == committed(pool)
    assert ["commit", "commit"] == ends(script)
    assert ["committed"] == [event.outcome for event in events]
    assert 0 == retired(pool)


def test_second_interrupt(pool, script):
    """A second Ctrl-C gives up: the program is told to stop, with the doubt as the reason, and nothing is aborted."""
    first, finished = KeyboardInterrupt(), watch(pool, TransactionFinished)
    script.on("commit", first, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        produce_one(pool)

    assert first is caught.value
    assert isinstance(first.__cause__, CommitOutcomeUnknownError)
    assert "interrupted twice" in str(first.__cause__)
    assert ["unknown"] == [event.outcome for event in finished]
    assert ["commit", "commit"] == ends(script)
    assert 1 == retired(pool)


def test_time_limit_while_committing_in_vain(script):
    """A time limit waits a second for the answer at most, and then comes out with the doubt as its cause and note."""
    script.on("commit", TimeoutError("SIGALRM"))
    script.always("commit", fault(FaultKind.RETRIABLE))
    with make_pool(commit_timeout_ms=10_000) as pool:
        finished, started = watch(pool, TransactionFinished), time.monotonic()
        with pytest.raises(TimeoutError, match="SIGALRM") as caught:
            produce_one(pool)
        took = time.monotonic() - started

        assert ["unknown"] == [event.outcome for event in finished]
        assert 1 == retired(pool)
    assert isinstance(caught.value.__cause__, CommitOutcomeUnknownError)
    assert [str(caught.value.__cause__)] == caught.value.__notes__
    assert "the outcome is unknown, no answer within 1 s after TimeoutError" in caught.value.__notes__[0]
    assert 0.9 <= took <= 1.3


@pytest.mark.parametrize("kind", [KeyboardInterrupt, TimeoutError])
@pytest.mark.parametrize("call", ["flush", "abort"])
def test_interrupt_before_the_end(pool, script, call, kind):
    """One that comes before the commit was sent, or in the abort of a block that failed, notes that all was aborted."""
    finished = watch(pool, TransactionFinished)
    script.on(call, kind())
    with pytest.raises(kind) as caught, pool.transaction() as tx:
        tx.produce_async("orders", "one")
        if call == "abort":
            raise ZeroDivisionError

    assert f"orders: transaction {finished[0].transaction_id} was aborted" in caught.value.__notes__
    assert [] == committed(pool)


def test_interrupt_on_the_way_back(pool, monkeypatch):
    """One that comes when the commit has been confirmed, and the producer isn't back yet, notes that, too."""
    finished, give_back = watch(pool, TransactionFinished), TransactionRun._give_back

    def interrupted(*given: Any) -> None:
        monkeypatch.setattr(TransactionRun, "_give_back", give_back)
        raise TimeoutError

    monkeypatch.setattr(TransactionRun, "_give_back", interrupted)
    with pytest.raises(TimeoutError) as caught:
        produce_one(pool)

    assert [f"orders: transaction {finished[0].transaction_id} was committed"] == caught.value.__notes__
    assert ["one"] == committed(pool)
    assert 0 == pool.stats().in_use


def test_what_a_block_raises_has_no_note(pool):
    """That it aborts is what a transaction is for."""
    with pytest.raises(ZeroDivisionError) as caught, pool.transaction():
        raise ZeroDivisionError

    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, TimeoutError])
def test_interrupted_abort(pool, script, kind):
    """What a signal handler raises out of the abort comes out, from the block's own exception; the producer is lost."""
    script.on("abort", kind())
    with pytest.raises(kind) as caught, pool.transaction() as tx:
        tx.produce_async("orders", "one")
        raise ZeroDivisionError

    assert isinstance(caught.value.__context__, ZeroDivisionError)
    assert [] == committed(pool)
    assert 1 == retired(pool)


def test_what_was_refused_starts_no_clock(pool, script):
    """The coordinator's clock begins with what is sent, not with an argument that can't be, or a refused record."""
    script.on("produce", fault(FaultKind.OTHER))
    with pool.transaction() as tx:
        for refused in (lambda: tx.send_offsets(OFFSETS, None), lambda: tx.produce_async("orders")):
            assert isinstance(outcome(refused), Exception)

        assert internals.transaction(tx).first_write is None


def test_interrupt_behind_begin(pool, script, monkeypatch):
    """Ctrl-C between begin and the block aborts: nothing is left open that the next transaction would join."""
    begin = TransactionRun._begin

    def interrupted(*given: Any) -> None:
        begin(*given)
        monkeypatch.setattr(TransactionRun, "_begin", begin)
        raise KeyboardInterrupt

    monkeypatch.setattr(TransactionRun, "_begin", interrupted)
    with pytest.raises(KeyboardInterrupt), pool.transaction():
        pass
    produce_one(pool)

    assert ["abort", "commit"] == ends(script)
    assert ["one"] == committed(pool)
    assert 0 == pool.stats().in_use


def test_interrupt_in_begin(pool, script):
    """Ctrl-C in begin costs the producer, since nobody knows whether it has begun."""
    script.on("begin", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        produce_one(pool)

    assert 1 == retired(pool)
    assert 0 == pool.stats().in_use


def test_interrupt_by_a_listener(pool):
    """An interrupt that a listener lets out right after begin doesn't leave a transaction in the pool."""

    def interrupt(_event: TransactionStarted) -> None:
        raise KeyboardInterrupt

    with pool.observer.subscribe(TransactionStarted, interrupt), pytest.raises(KeyboardInterrupt):
        produce_one(pool)
    produce_one(pool, "next")

    assert 1 == retired(pool)
    assert ["next"] == committed(pool)


def test_interrupt_by_a_listener_within_a_checkout(pool):
    """After an interrupt in begin a held producer says why it can't go on."""

    def interrupt(_event: TransactionStarted) -> None:
        raise KeyboardInterrupt

    with pool.producer() as producer:
        with pool.observer.subscribe(TransactionStarted, interrupt), pytest.raises(KeyboardInterrupt):
            producer.produce_sync("orders", "lost")
        with pytest.raises(TransactionError, match=r"can't begin another transaction \(begin failed\)"):
            producer.produce_sync("orders", "refused")


def test_interrupt_between_two_steps(pool, script, monkeypatch):
    """A transaction that an interrupt has left open isn't handed to the next borrower."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(OpenTransaction, "_flush_all", interrupted)
        produce_one(pool, "lost")
    produce_one(pool, "next")

    assert 1 == retired(pool)
    assert ["next"] == committed(pool)


def test_interrupt_while_librdkafka_commits():
    """A real SIGINT during a commit is outwaited although it takes the place of librdkafka's answer."""
    with MockKafka() as kafka, mock_pool(kafka) as pool:
        produce_one(pool)
        finished = watch(pool, TransactionFinished)
        kafka.set_rtt(60)
        with pytest.raises(KeyboardInterrupt), pool.transaction() as tx:
            tx.produce_sync("orders", "two")
            threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT)).start()

        assert ["committed"] == [event.outcome for event in finished]
        assert 0 == retired(pool)


# -- the commit's answers ----------------------------------------------------------------------------


def test_retriable_commit(pool, script):
    """A commit without an answer is asked again until it has one."""
    script.on("commit", fault(FaultKind.RETRIABLE), fault(FaultKind.RETRIABLE))
    produce_one(pool)

    assert ["commit"] * 3 == ends(script)
    assert ["one"] == committed(pool)


def test_commit_without_answer(pool, script):
    """At the deadline an unanswered commit is in doubt: never aborted, its producer retired."""
    retirements, completions = watch(pool, ProducerRetired), []
    script.always("commit", fault(FaultKind.RETRIABLE))
    with pytest.raises(CommitOutcomeUnknownError, match="no answer within 300 ms") as caught, pool.transaction() as tx:
        tx.produce_async("orders", "perhaps")
        for name in ("after_commit", "after_abort"):
            getattr(tx, name)(lambda name=name: completions.append(name))
        tx.after_completion(completions.append)
    pool.close()

    assert ("unknown", False) == (caught.value.outcome, caught.value.safe_to_retry)
    assert ["unknown"] == completions
    assert "abort" not in script.calls
    assert ["commit in doubt"] == [event.reason for event in retirements if event.reason != "close"]


def test_abortable_commit(pool, script):
    """A commit that is refused and abortable is aborted: a known outcome, and the producer stays."""
    script.on("commit", fault(FaultKind.ABORTABLE))
    with pytest.raises(TransactionAbortedError, match="commit failed: scripted abortable") as caught:
        produce_one(pool)

    assert ("aborted", True) == (caught.value.outcome, caught.value.safe_to_retry)
    assert ["commit", "abort"] == ends(script)
    assert 0 == retired(pool)


def test_abortable_commit_whose_abort_fails(pool, script):
    """If the abort after a refused commit fails, running it again isn't called safe."""
    script.on("commit", fault(FaultKind.ABORTABLE))
    script.on("abort", fault(FaultKind.OTHER))
    with pytest.raises(TransactionAbortedError) as caught:
        produce_one(pool)

    assert not caught.value.safe_to_retry
    assert "couldn't be aborted" in caught.value.__notes__[0]
    assert 1 == retired(pool)


@pytest.mark.parametrize("kind", [FaultKind.FATAL, FaultKind.OTHER, FaultKind.DENIED])
def test_fatal_commit(pool, script, kind):
    """A commit that ends fatally is in doubt, for a yes may have been lost before."""
    script.on("commit", fault(kind))
    with pytest.raises(CommitOutcomeUnknownError, match=f"scripted {kind.value}"):
        produce_one(pool)

    assert ["commit"] == ends(script)
    assert 1 == retired(pool)


def test_commit_on_a_closed_producer(pool, script):
    """A commit that was never sent, because the pool was closed by force, is no matter of doubt."""
    with pytest.raises(TransactionAbortedError, match="the producer is closed") as caught, pool.transaction():
        pool.close(timeout_ms=0, force=True)

    assert ("aborted", False) == (caught.value.outcome, caught.value.safe_to_retry)


@pytest.mark.parametrize(
    ("age", "error", "text"),
    [
        (1.0, FencedError, r"fenced after 1.0 s.*'t-test-0' of this pool's slot 0.*transactional_id or instance"),
        (LATE, TransactionTimedOutError, r"open for 15.0 s, transaction.timeout.ms is 15000"),
    ],
)
def test_fenced_commit(pool, script, clock, age, error, text):  # noqa: PLR0917  (fixtures and the case)
    """Fenced in the commit is in doubt; its age tells another owner from an overlong transaction."""
    script.on("flush", lambda: setattr(clock, "now", clock.now + age))
    script.on("commit", fault(FaultKind.FENCED))
    with pytest.raises(error, match=text) as caught:
        produce_one(pool)

    assert "unknown" == caught.value.outcome
    assert ["commit"] == ends(script)
    assert 1 == retired(pool)


def _fenced_late(clock):
    clock.now += LATE
    raise fault(FaultKind.FENCED)


@pytest.mark.parametrize("ends", ["commit", "abort"])
def test_too_late_is_no_fencing(script, clock, ends):
    """Who was open for longer than the broker allows has no rival: the id is taken back at once, however often."""
    with make_pool(fenced_retries=0) as pool:
        for _ in range(3):
            script.on(ends, lambda: _fenced_late(clock))
            with pytest.raises((TransactionTimedOutError, ZeroDivisionError)), pool.transaction() as tx:
                tx.produce_async("orders", "one")
                if ends == "abort":
                    _ = 1 / 0

        assert 3 == retired(pool)
        produce_one(pool)


def test_fenced_before_the_commit(pool, script):
    """Fenced before the commit was sent is a known abort, and nothing more is asked of the producer."""
    with pytest.raises(FencedError) as caught, pool.transaction() as tx:
        tx.produce_sync("orders", "never")
        script.clients[0].break_down(FaultKind.FENCED)

    assert "aborted" == caught.value.outcome
    assert [] == ends(script)
    assert 1 == retired(pool)


def test_produce_on_a_broken_producer(pool, script):
    """What is produced on a fenced producer raises the reason, not the client's vague refusal."""
    script.on("produce", fault(FaultKind.FATAL))
    with pytest.raises(FencedError), pool.transaction() as tx:
        script.clients[0].break_down(FaultKind.FENCED)
        tx.produce_async("orders", "never")

    assert [] == ends(script)


def test_broken_after_the_commit(pool, script):
    """A producer that breaks while it commits is retired, and the commit stands."""
    script.on("commit", script.clients[0].break_down)
    produce_one(pool)

    assert ["one"] == committed(pool)
    assert 1 == retired(pool)


def test_failing_begin(pool, script):
    """A producer that can't begin is retired; the error may be retried, and the end is told once."""
    finished = watch(pool, TransactionStarted, TransactionFinished)
    script.on("begin", fault(FaultKind.OTHER))
    with pytest.raises(TransactionAbortedError, match="begin failed: scripted other") as caught:
        produce_one(pool)
    produce_one(pool, "next")

    assert caught.value.safe_to_retry
    assert ["aborted", "committed"] == [event.outcome for event in finished if isinstance(event, TransactionFinished)]
    assert 1 == retired(pool)
    assert ["next"] == committed(pool)


# -- aborting ----------------------------------------------------------------------------------------


def test_flush_before_abort(pool, script):
    """An abort flushes first."""
    with pool.transaction() as tx:
        tx.produce_async("orders", "never")
        tx.abort_only()

    assert ["begin", "produce", "flush", "abort"] == script.calls[1:]


def test_retriable_abort(pool, script):
    """An abort without an answer is asked again, and the producer stays."""
    script.on("abort", fault(FaultKind.RETRIABLE), fault(FaultKind.RETRIABLE))
    with pool.transaction():
        raise AbortTransaction

    assert ["abort"] * 3 == ends(script)
    assert 0 == retired(pool)


def test_interrupt_while_aborting(pool, script):
    """Ctrl-C during the abort comes out, with the block's error behind it, and costs the producer."""
    script.on("abort", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught, pool.transaction():
        raise ValueError("of the block")

    assert isinstance(caught.value.__context__, ValueError)
    assert 1 == retired(pool)


@pytest.mark.parametrize(("how", "limit_ms"), [("commit", 400), ("abort", 700)])
def test_dead_client(script, how, limit_ms):
    """With a client that never answers for a record, an end takes hardly more than its own deadline."""
    script.silent = True
    with make_pool(commit_timeout_ms=400, abort_timeout_ms=700, close_timeout_ms=0) as pool:
        with pytest.raises((TransactionAbortedError, ValueError)), pool.transaction() as tx:
            tx.produce_async("orders", "never")
            started = time.monotonic()
            if how == "abort":
                raise ValueError("boom")
        took_ms = (time.monotonic() - started) * 1000

    assert limit_ms * 0.4 <= took_ms <= limit_ms + max(limit_ms * 0.1, 250)


def test_an_abort_without_an_answer(script):
    """One that is asked for in vain takes its own deadline and hardly more."""
    script.always("abort", fault(FaultKind.RETRIABLE))
    with make_pool(abort_timeout_ms=700, close_timeout_ms=0) as pool:
        with pytest.raises(ZeroDivisionError), pool.transaction() as tx:
            tx.produce_async("orders", "never")
            started = time.monotonic()
            raise ZeroDivisionError
        took_ms = (time.monotonic() - started) * 1000

    assert 630 <= took_ms <= 950


# -- the transaction's own time limit ----------------------------------------------------------------


def test_soft_deadline(pool, script, clock):
    """Past 80 % of transaction.timeout.ms the next write is refused and the transaction aborts."""
    with pytest.raises(TransactionTimedOutError, match="aborted at 80 % of it") as caught, pool.transaction() as tx:
        tx.produce_async("orders", "in time")
        clock.now += LATE * 0.81
        tx.produce_async("orders", "too late")

    assert "aborted" == caught.value.outcome
    assert ["abort"] == ends(script)


def test_soft_deadline_swallowed(pool, script, clock):
    """Swallowing the refusal doesn't save an overlong transaction: its end raises it again."""
    with pytest.raises(TransactionTimedOutError), pool.transaction() as tx:
        tx.produce_async("orders", "in time")
        clock.now += LATE * 0.81
        with pytest.raises(TransactionTimedOutError):
            tx.produce_async("orders", "too late")

    assert ["abort"] == ends(script)


def test_soft_deadline_at_the_commit(pool, script, clock):
    """A transaction that is too old when its block ends aborts instead of being fenced."""
    with pytest.raises(TransactionTimedOutError), pool.transaction() as tx:
        tx.produce_async("orders", "in time")
        clock.now += LATE * 0.81

    assert ["abort"] == ends(script)


def test_soft_deadline_at_the_commit_keeps_the_producer(pool, clock):
    """Its abort is confirmed and told before the error comes out, so its producer goes back as after any other."""
    events, first = watch(pool, TransactionAborted, TransactionFinished, ProducerRetired), pool.stats().totals.created

    with pytest.raises(TransactionTimedOutError) as caught, pool.transaction() as tx:
        tx.produce_async("orders", "in time")
        clock.now += LATE * 0.81

    assert [TransactionAborted, TransactionFinished] == [type(event) for event in events]
    assert caught.value is events[0].cause
    assert (first, 0) == (pool.stats().totals.created, pool.stats().totals.retired)


def test_soft_deadline_of_a_doomed_transaction(pool, clock):
    """A transaction that is to abort anyway isn't blamed for its age."""
    with pool.transaction() as tx:
        tx.produce_async("orders", "in time")
        tx.abort_only()
        clock.now += LATE

    assert [] == committed(pool)


def test_remaining_ms(pool, clock):
    """The time left counts from the first write, which is when the coordinator's clock starts."""
    with pool.transaction() as tx:
        clock.now += 5
        unwritten = tx.remaining_ms
        tx.produce_async("orders", "x")
        clock.now += 5
        written = tx.remaining_ms
        clock.now += 100
        over = tx.remaining_ms
        tx.abort_only()

    assert (12_000, 7_000, 0) == (unwritten, written, over)


# -- offsets -----------------------------------------------------------------------------------------


def test_send_offsets_again(pool, script):
    """Offsets without an answer are sent again."""
    script.on("send_offsets", fault(FaultKind.RETRIABLE))
    with pool.transaction() as tx:
        tx.send_offsets(OFFSETS, object())

    assert 2 == script.calls.count("send_offsets")
    assert ["commit"] == ends(script)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.REBALANCED, RebalancedError),
        (FaultKind.DENIED, AuthorizationError),
        (FaultKind.ABORTABLE, TransactionAbortedError),
    ],
)
def test_refused_offsets(pool, script, kind, error):
    """Refused offsets raise the reason, and abort."""
    script.on("send_offsets", fault(kind))
    with pytest.raises(error, match=f"scripted {kind.value}"), pool.transaction() as tx:
        tx.send_offsets(OFFSETS, object())

    assert ["abort"] == ends(script)


def test_refused_offsets_swallowed(pool, script):
    """Swallowing refused offsets doesn't commit without them."""
    script.on("send_offsets", fault(FaultKind.REBALANCED))
    with pytest.raises(UnexpectedAbortError) as caught, pool.transaction() as tx, pytest.raises(RebalancedError):
        tx.send_offsets(OFFSETS, object())

    assert isinstance(caught.value.__cause__, RebalancedError)
    assert ["abort"] == ends(script)


# -- after the end -----------------------------------------------------------------------------------

USES: dict[str, Callable[[Any], object]] = {
    "produce_sync": lambda tx: tx.produce_sync("orders", "late"),
    "produce_async": lambda tx: tx.produce_async("orders", "late"),
    "flush": lambda tx: tx.flush(),
    "send_offsets": lambda tx: tx.send_offsets(OFFSETS, object()),
    "abort_only": lambda tx: tx.abort_only(),
    "before_commit": lambda tx: tx.before_commit(print),
    "after_commit": lambda tx: tx.after_commit(print),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "other thread"])
def test_use_after_the_end(pool, script, use, elsewhere):
    """A transaction that has ended is closed to every thread, also while the next one is open on its producer."""
    with pool.transaction() as old:
        old.produce_async("orders", "one")
    before = len(script.calls)
    with pool.transaction():
        error = in_thread(partial(use, old)) if elsewhere else outcome(partial(use, old))

    assert isinstance(error, TransactionClosedError)
    assert f"transaction {old.id} has ended: committed" in str(error)
    assert ["begin", "commit"] == script.calls[before:]
    assert ["one"] == committed(pool)


def test_write_that_races_the_end(pool, script):
    """A write that waits for room while its transaction ends never lands in the next one."""
    full, ended = threading.Event(), threading.Event()
    late = FutureThread(lambda: first.produce_async("orders", "late"))

    def dawdle() -> None:
        full.set()
        ended.wait(PATIENCE)

    with pool.transaction() as first:
        script.on("produce", fault(FaultKind.QUEUE_FULL))
        script.on("poll", dawdle)
        late.start()
        full.wait(PATIENCE)
    with pool.transaction() as following:
        ended.set()
        error = late.outcome()
        following.produce_async("orders", "next")

    assert isinstance(error, TransactionClosedError)
    assert ["next"] == committed(pool)


def test_offsets_that_race_the_end(pool, script):
    """Offsets that are repeated while their transaction ends never land in the next one."""
    refused = threading.Event()
    late = FutureThread(lambda: first.send_offsets(OFFSETS, object()))

    def dawdle() -> None:
        refused.set()
        until(lambda: internals.transaction(first).ledger.ended)

    with pool.transaction() as first:
        script.on("send_offsets", fault(FaultKind.RETRIABLE))
        script.on("poll", dawdle)
        late.start()
        refused.wait(PATIENCE)
    with pool.transaction():
        error = late.outcome()

    assert isinstance(error, TransactionClosedError)
    assert 1 == script.calls.count("send_offsets")


def test_too_late_and_ended(pool, clock):
    """A transaction that has ended says so, however long ago it began."""
    with pool.transaction() as old:
        old.produce_async("orders", "one")
    clock.now += LATE
    with pytest.raises(TransactionClosedError):
        old.produce_async("orders", "late")


def test_write_before_the_end(pool, script):
    """A write that was first at the gate belongs to the transaction, whose end waits for it."""
    inside, go_on = threading.Event(), threading.Event()

    def dawdle() -> None:
        inside.set()
        go_on.wait(PATIENCE)

    with pool.transaction() as tx:
        script.on("produce", dawdle)
        thread = threading.Thread(target=tx.produce_async, args=("orders", "just in time"))
        thread.start()
        inside.wait(PATIENCE)
        threading.Timer(0.05, go_on.set).start()
    thread.join(PATIENCE)

    assert ["just in time"] == committed(pool)


# -- hooks -------------------------------------------------------------------------------------------


def add_hooks(tx: Any, log: list[str]) -> None:
    """Hooks of every kind, two of each."""
    for number in (1, 2):
        tx.after_completion(lambda outcome, number=number: log.append(f"completion {number} {outcome}"))
        for name in ("before_commit", "after_commit", "after_abort"):
            getattr(tx, name)(lambda name=name, number=number: log.append(f"{name} {number}"))


def test_hooks_of_a_commit(pool):
    """After a commit its hooks run in the order they were added."""
    log: list[str] = []
    with pool.transaction() as tx:
        add_hooks(tx, log)

    assert [
        "before_commit 1",
        "before_commit 2",
        "completion 1 committed",
        "after_commit 1",
        "completion 2 committed",
        "after_commit 2",
    ] == log


def test_hooks_of_an_abort(pool):
    """After an abort only after_abort and after_completion run."""
    log: list[str] = []
    with pytest.raises(ValueError, match="boom"), pool.transaction() as tx:
        add_hooks(tx, log)
        raise ValueError("boom")

    assert ["completion 1 aborted", "after_abort 1", "completion 2 aborted", "after_abort 2"] == log


def test_hooks_of_a_doomed_transaction(pool):
    """What is to abort anyway isn't prepared for a commit."""
    log: list[str] = []
    with pool.transaction() as tx:
        add_hooks(tx, log)
        tx.before_commit(tx.abort_only)
        tx.before_commit(lambda: log.append("too much"))
    with pool.transaction() as tx:
        tx.before_commit(lambda: log.append("too much"))
        tx.abort_only()

    assert ["before_commit 1", "before_commit 2"] == [line for line in log if line.startswith("before")]
    assert "too much" not in log


def test_where_hooks_run(pool):
    """Hooks run on the caller's thread when the slot is back and no transaction is current."""
    seen: list[object] = []

    def look() -> None:
        with pytest.raises(PropagationError), pool.transaction(propagation="mandatory"):
            pass
        seen.extend((threading.current_thread(), pool.stats().in_use, pool.stats().idle))
        produce_one(pool, "from the hook")

    with pool.transaction() as tx:
        tx.after_commit(look)

    assert [threading.current_thread(), 0, 1] == seen
    assert ["from the hook"] == committed(pool)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_hook_that_exits(pool, kind):
    """What ends a program comes out of the block when all other hooks have run; the outcome stands."""
    errors, log, first = watch(pool, ErrorOccurred), [], kind("first")

    def fail(error: BaseException) -> None:
        raise error

    with pytest.raises(kind, match="first") as caught, pool.transaction() as tx:
        tx.produce_async("orders", "one")
        tx.after_commit(partial(fail, first))
        add_hooks(tx, log)
        tx.after_completion(lambda _: fail(SystemExit("second")))
        tx.after_commit(lambda: log.append("last"))
    produce_one(pool, "next")

    assert first is caught.value
    assert ["completion 1 committed", "after_commit 1", "completion 2 committed", "after_commit 2", "last"] == log[2:]
    assert [("transaction.after_completion", "second")] == [(event.where, str(event.error)) for event in errors]
    assert ["one", "next"] == committed(pool)


def test_failing_hook(pool, caplog):
    """What a hook raises is an event and a log line; the others run, and the outcome stands."""
    errors, log = watch(pool, ErrorOccurred), []
    boom = ValueError("boom")

    def fail() -> None:
        raise boom

    with caplog.at_level(logging.ERROR, logger="wd_di"), pool.transaction() as tx:
        tx.after_commit(fail)
        tx.after_commit(lambda: log.append("ran"))

    assert ["ran"] == log
    assert [("transaction.after_commit", boom, 0)] == [(event.where, event.error, event.index) for event in errors]
    assert f"after_commit of transaction {tx.id} failed" in caplog.text


def test_producing_before_the_commit(pool):
    """A before_commit hook may produce into the transaction and add another hook."""
    with pool.transaction() as tx:
        tx.before_commit(lambda: tx.before_commit(lambda: tx.produce_async("orders", "second")))
        tx.before_commit(lambda: tx.produce_sync("orders", "first"))

    assert ["first", "second"] == committed(pool)


def test_failing_before_the_commit(pool, script):
    """An error of a before_commit hook aborts and comes out."""
    original = ValueError("not yet")

    def fail() -> None:
        raise original

    with pytest.raises(ValueError, match="not yet") as caught, pool.transaction() as tx:
        tx.before_commit(fail)
        tx.before_commit(lambda: tx.produce_async("orders", "never"))

    assert original is caught.value
    assert ["abort"] == ends(script)


def test_aborting_before_the_commit(pool, script):
    """A before_commit hook may abort by the signal, which is swallowed, or by abort_only."""

    def give_up() -> None:
        raise AbortTransaction

    with pool.transaction() as tx:
        tx.before_commit(give_up)
    with pool.transaction() as tx:
        tx.before_commit(tx.abort_only)

    assert ["abort", "abort"] == ends(script)


def test_inner_failure_before_the_commit(pool, script):
    """An inner scope that fails inside a before_commit hook dooms the transaction, as one in the block does."""

    def swallow() -> None:
        with pytest.raises(ValueError, match="inner"), pool.transaction():
            raise ValueError("inner")

    with pytest.raises(UnexpectedAbortError), pool.transaction() as tx:
        tx.before_commit(swallow)

    assert ["abort"] == ends(script)


# -- events ------------------------------------------------------------------------------------------


def test_events_of_a_commit(pool):
    """A commit is told as started, committed and finished, with who, what and how long."""
    events = watch(pool, TransactionStarted, TransactionCommitted, TransactionAborted, TransactionFinished)
    with pool.transaction() as tx:
        tx.produce_async("orders", "one")
        tx.produce_async("orders", "two")
    _, done, finished = events

    assert [TransactionStarted, TransactionCommitted, TransactionFinished] == [type(event) for event in events]
    assert {("orders", 0, "t-test-0", tx.id)} == {
        (event.pool, event.index, event.transactional_id, event.transaction_id) for event in events
    }
    assert (2, 2) == (done.records, finished.records)
    assert ("committed", None) == (finished.outcome, finished.error)
    assert 0 <= done.duration_ms <= finished.duration_ms


def test_events_of_an_abort(pool):
    """An abort is told with its cause."""
    events, original = watch(pool, TransactionCommitted, TransactionAborted, TransactionFinished), ValueError("boom")
    with pytest.raises(ValueError, match="boom"), pool.transaction() as tx:
        tx.produce_async("orders", "one")
        raise original
    done, finished = events

    assert (TransactionAborted, original, 1) == (type(done), done.cause, done.records)
    assert ("aborted", original) == (finished.outcome, finished.error)


def test_finished_once(pool, script):
    """However a transaction ends, its end is told once."""
    finished = watch(pool, TransactionFinished)
    cues = [fault(FaultKind.ABORTABLE), None, fault(FaultKind.FATAL), fault(FaultKind.FENCED)]
    for cue in cues:
        script.on("commit", cue)
        outcome(partial(produce_one, pool))

    assert ["aborted", "committed", "unknown", "unknown"] == [event.outcome for event in finished]


# -- event loops -------------------------------------------------------------------------------------


async def test_on_a_running_loop(pool):
    """A sync transaction is refused on a thread that runs an event loop."""
    with pytest.raises(ScopeError, match=r"would block the event loop.*allow_blocking_in_loop"), pool.transaction():
        pass

    assert 0 == pool.stats().in_use


async def test_allowed_on_a_running_loop(script):
    """allow_blocking_in_loop lets a notebook have it."""
    pool = make_pool(allow_blocking_in_loop=True)
    await asyncio.to_thread(pool.open)
    produce_one(pool)
    await asyncio.to_thread(pool.close)

    assert ["one"] == committed(pool)


# -- librdkafka --------------------------------------------------------------------------------------


def mock_pool(kafka: MockKafka, **given: Any) -> ProducerPool:
    """An unopened pool of one producer on the mock cluster."""
    return on_brokers(kafka.bootstrap_servers, size=1, **given)


def test_librdkafka_commits_and_aborts():
    """On librdkafka one producer commits and aborts in turn and stays."""
    with MockKafka() as kafka, mock_pool(kafka) as pool:
        for number in range(4):
            with pool.transaction() as tx:
                delivery = tx.produce_async("orders", str(number))
                if number % 2:
                    tx.abort_only()

        assert "aborted" == delivery.outcome
        assert 0 == retired(pool)


def test_librdkafka_denies_the_topic():
    """A topic without the right to write is named, although its records only know that they were purged."""
    with MockKafka() as kafka, mock_pool(kafka) as pool:
        reasons = watch(pool, ProducerRetired)
        kafka.push_errors(ApiKey.ADD_PARTITIONS_TO_TXN, 29)
        with pytest.raises(DeliveryError, match="missing right: Write on the topic"):
            produce_one(pool)
        produce_one(pool)

        assert ["record unanswered"] == [event.reason for event in reasons]


@pytest.mark.parametrize(
    ("code", "error"),
    [(49, TransactionAbortedError), (47, FencedError), (90, FencedError), (53, CommitOutcomeUnknownError)],
)
def test_librdkafka_refuses_the_commit(code, error):
    """Each of the broker's answers to a commit has its error."""
    with MockKafka() as kafka, mock_pool(kafka) as pool:
        kafka.push_errors(ApiKey.END_TXN, code)
        with pytest.raises(error):
            produce_one(pool)


def test_a_coroutine_hook_is_refused(pool):
    """Nobody would await it: a hook of a transaction for threads is a plain function."""

    async def hook() -> None: ...

    with (
        pool.transaction() as tx,
        pytest.raises(TypeError, match="after_commit of a Transaction takes a plain function"),
    ):
        tx.after_commit(hook)
