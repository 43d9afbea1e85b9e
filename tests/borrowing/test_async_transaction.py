# ruff: noqa: PT012  (what a transaction's block does is the case)
from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests import internals
from tests.scripted import (
    OFFSETS,
    PATIENCE,
    FaultKind,
    Script,
    aborted,
    committed,
    fault,
    in_thread,
    make_pool,
    outcome,
    plain_pool,
    watch,
)
from wd_di import AsyncTransaction, Message, Retry, Transaction
from wd_di._borrowing.scopes import TransactionRun
from wd_di.errors import (
    AbortTransaction,
    CommitOutcomeUnknownError,
    DeliveryError,
    NotTransactionalError,
    PropagationError,
    RebalancedError,
    ScopeError,
    TransactionAbortedError,
    TransactionClosedError,
    TransactionError,
    UnexpectedAbortError,
)
from wd_di.events import ErrorOccurred, TransactionFinished, TransactionStarted
from wd_di.pool import ProducerPool


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of two scripted producers."""
    with make_pool(size=2, commit_timeout_ms=500, abort_timeout_ms=300) as pool:
        yield pool


async def ended(coroutine: Any) -> Any:
    """What the coroutine returned, or raised, in a task of its own."""
    [result] = await asyncio.gather(asyncio.create_task(coroutine), return_exceptions=True)
    return result


def idle(pool: ProducerPool) -> bool:
    """Whether nobody holds or awaits anything."""
    stats = pool.stats()
    return (0, 0) == (stats.in_use, stats.waiting) and internals.nothing_is_held(pool)


# -- commit and abort --------------------------------------------------------------------------------


async def test_commit(pool):
    """What a block that returns has produced is committed together."""
    events = watch(pool, TransactionStarted, TransactionFinished)
    async with pool.transaction() as tx:
        delivery = tx.produce_async("orders", "a")
        report = await tx.produce_sync("orders", "b")
        await tx.produce_many_sync([Message("orders", "c")])
        tx.produce_many_async([Message("orders", "d")])
        hidden = committed(pool)

    assert isinstance(tx, AsyncTransaction)
    assert ([], list("abcd")) == (hidden, committed(pool))
    assert (1, 0, "delivered") == (report.offset, (await delivery).offset, delivery.outcome)
    assert [tx.id, tx.id] == [event.transaction_id for event in events]
    assert ("committed", 4) == (events[-1].outcome, events[-1].records)
    assert idle(pool)


async def test_error(pool):
    """The block's exception aborts and comes out as itself; deliveries report the abort."""
    original = ValueError("boom")
    with pytest.raises(ValueError, match="boom") as caught:
        async with pool.transaction() as tx:
            delivery = tx.produce_async("orders", "never")
            raise original
    with pytest.raises(DeliveryError, match="was aborted"):
        await delivery

    assert original is caught.value
    assert ([], ["never"], "aborted") == (committed(pool), aborted(pool), delivery.outcome)
    assert idle(pool)


async def test_abort_signal(pool):
    """AbortTransaction aborts, and the block swallows it."""
    async with pool.transaction() as tx:
        tx.produce_async("orders", "never")
        raise AbortTransaction

    assert ([], ["never"]) == (committed(pool), aborted(pool))


async def test_abort_only(pool):
    """abort_only aborts at the end, without an error."""
    async with pool.transaction() as tx:
        tx.abort_only()
        tx.produce_async("orders", "never")

    assert ([], ["never"]) == (committed(pool), aborted(pool))


async def test_commit_on(pool):
    """An exception to commit on commits, and is raised on."""
    with pytest.raises(KeyError):
        async with pool.transaction(commit_on=(KeyError,)) as tx:
            tx.produce_async("orders", "kept")
            raise KeyError("k")

    assert ["kept"] == committed(pool)


async def test_failed_delivery(pool, script):
    """A failed record aborts the transaction, and the error lists it."""
    script.failing.add("broken")
    with pytest.raises(DeliveryError, match="1 of 2 records") as caught:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "never")
            tx.produce_async("broken")

    assert ["broken"] == [delivery.topic for delivery in caught.value.failed]
    assert ([], ["never"]) == (committed(pool), aborted(pool))
    assert idle(pool)


async def test_commit_in_doubt(pool, script):
    """A commit without an answer is in doubt, and its producer is retired."""
    script.on("commit", fault(FaultKind.OTHER))
    events = watch(pool, TransactionFinished)
    with pytest.raises(CommitOutcomeUnknownError) as caught:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "v")

    assert ("unknown", False) == (caught.value.outcome, caught.value.safe_to_retry)
    assert ["unknown"] == [event.outcome for event in events]


async def test_begin_fails(pool, script):
    """A transaction that can't begin raises, and leaves no slot behind."""
    script.on("begin", fault(FaultKind.OTHER))
    with pytest.raises(TransactionAbortedError, match="begin"):
        await pool.transaction().__aenter__()
    async with pool.transaction() as tx:
        tx.produce_async("orders", "v")

    assert ["v"] == committed(pool)
    assert idle(pool)


async def test_after_the_end(pool):
    """A transaction that has ended takes no more calls."""
    async with pool.transaction() as tx:
        pass
    calls = [
        outcome(lambda: tx.produce_async("orders")),
        outcome(tx.abort_only),
        outcome(lambda: tx.after_commit(print)),
        await ended(tx.produce_sync("orders")),
        await ended(tx.flush()),
        await ended(tx.send_offsets(OFFSETS, object())),
    ]

    assert [TransactionClosedError] * 6 == [type(error) for error in calls]


async def test_plain_pool(script):
    """A pool without a transactional_id has no transactions for tasks, either."""
    with pytest.raises(NotTransactionalError):
        await plain_pool().transaction().__aenter__()


async def test_on_a_checkout(pool, script):
    """A producer opens one transaction after the other, on its own slot."""
    async with pool.producer() as producer:
        for value in "ab":
            async with producer.transaction() as tx:
                tx.produce_async("orders", value)
                await producer.produce_sync("orders", value.upper())
                assert producer.index == tx.index

    assert list("aAbB") == committed(pool)
    assert 2 == script.calls.count("commit")


# -- offsets -----------------------------------------------------------------------------------------


async def test_send_offsets(pool, script):
    """Offsets are sent on a worker, inside the transaction."""
    threads: list[str] = []
    script.on("send_offsets", lambda: threads.append(threading.current_thread().name))
    async with pool.transaction() as tx:
        await tx.send_offsets(OFFSETS, object())

    assert ["wd_di-orders-errand"] == threads
    assert ["begin", "send_offsets", "commit"] == [call for call in script.calls if call not in {"init", "poll"}]


async def test_send_offsets_after_a_rebalance(pool, script):
    """Refused offsets doom the transaction, even if somebody swallows the error."""
    script.on("send_offsets", fault(FaultKind.REBALANCED))
    with pytest.raises(UnexpectedAbortError):
        async with pool.transaction() as tx:
            with pytest.raises(RebalancedError):
                await tx.send_offsets(OFFSETS, object())


async def test_producing_while_offsets_are_sent(pool, script):
    """A task can produce while offsets of the same transaction are sent: that blocks a worker, and not the loop."""
    reached, opened = threading.Event(), threading.Event()

    def stop() -> None:
        reached.set()
        assert opened.wait(PATIENCE)

    script.on("send_offsets", stop)
    async with pool.transaction() as tx:
        sending = asyncio.create_task(tx.send_offsets(OFFSETS, object()))
        await asyncio.to_thread(reached.wait, PATIENCE)
        tx.produce_async("orders", "v")
        before = sending.done()
        opened.set()
        await sending

    assert not before
    assert ["v"] == committed(pool)


# -- hooks -------------------------------------------------------------------------------------------


async def test_hooks(pool):
    """Plain and coroutine hooks run in their order, on the loop, when the slot is back and nothing is open."""
    seen: list[tuple[Any, ...]] = []

    def note(name: str, *given: Any) -> None:
        nothing_is_open = internals.lender(pool).current() is None
        seen.append((name, *given, asyncio.current_task() is me, pool.stats().in_use, nothing_is_open))

    async def wait(name: str, *given: Any) -> None:
        await asyncio.sleep(0)
        note(name, *given)

    me = asyncio.current_task()
    async with pool.transaction() as tx:
        tx.after_commit(partial(note, "plain"))
        tx.after_commit(partial(wait, "coroutine"))
        tx.after_completion(partial(wait, "completion"))
        tx.after_abort(partial(note, "never"))
        tx.before_commit(partial(wait, "before"))

    assert [
        ("before", True, 1, False),
        ("plain", True, 0, True),
        ("coroutine", True, 0, True),
        ("completion", "committed", True, 0, True),
    ] == seen


async def test_hooks_of_an_abort(pool):
    """After an abort only the hooks for it run."""
    seen: list[str] = []
    async with pool.transaction() as tx:
        for name in ("before_commit", "after_commit", "after_abort"):
            getattr(tx, name)(partial(seen.append, name))
        tx.after_completion(seen.append)
        raise AbortTransaction

    assert ["after_abort", "aborted"] == seen


async def test_hooks_in_doubt(pool, script):
    """In doubt only after_completion runs."""
    seen: list[str] = []
    script.on("commit", fault(FaultKind.OTHER))
    with pytest.raises(CommitOutcomeUnknownError):
        async with pool.transaction() as tx:
            tx.after_commit(lambda: seen.append("commit"))
            tx.after_abort(lambda: seen.append("abort"))
            tx.after_completion(seen.append)

    assert ["unknown"] == seen


async def test_hook_uses_the_pool(kept, script):
    """A hook after the commit can take the only producer of the pool."""
    pool = kept(make_pool())

    async def tell() -> None:
        async with pool.transaction() as second:
            await second.produce_sync("orders", "second")

    async with pool.transaction() as tx:
        tx.produce_async("orders", "first")
        tx.after_commit(tell)

    assert ["first", "second"] == committed(pool)


async def test_before_commit_produces(pool):
    """A coroutine before the commit may produce, join, and give further ones."""

    async def first() -> None:
        async with pool.transaction() as joined:
            await joined.produce_sync("orders", "b")
            joined.before_commit(lambda: joined.produce_async("orders", "c"))

    async with pool.transaction() as tx:
        tx.produce_async("orders", "a")
        tx.before_commit(first)

    assert list("abc") == committed(pool)


@pytest.mark.parametrize("commit_on", [(), (ValueError,)])
async def test_before_commit_fails(pool, commit_on):
    """What a coroutine before the commit raises aborts, also what the block itself would commit on."""
    original, seen = ValueError("boom"), []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise original

    with pytest.raises(ValueError, match="boom") as caught:
        async with pool.transaction(commit_on=commit_on) as tx:
            tx.produce_async("orders", "never")
            tx.before_commit(fail)
            tx.before_commit(lambda: seen.append("second"))
            tx.after_completion(seen.append)

    assert original is caught.value
    assert ([], ["never"], ["aborted"]) == (committed(pool), aborted(pool), seen)


async def test_before_commit_signals(pool):
    """AbortTransaction from a coroutine before the commit aborts without an error."""

    async def stop() -> None:
        raise AbortTransaction

    async with pool.transaction() as tx:
        tx.produce_async("orders", "never")
        tx.before_commit(stop)

    assert ([], ["never"]) == (committed(pool), aborted(pool))


async def test_before_commit_signals_behind_an_error(pool):
    """AbortTransaction from a coroutine before the commit doesn't swallow the error that was to be committed on."""

    async def stop() -> None:
        raise AbortTransaction

    with pytest.raises(KeyError):
        async with pool.transaction(commit_on=(KeyError,)) as tx:
            tx.produce_async("orders", "never")
            tx.before_commit(stop)
            raise KeyError("k")

    assert ([], ["never"]) == (committed(pool), aborted(pool))


async def test_hook_fails(pool):
    """What a hook after the commit raises is an event; the others run, and the commit stands."""
    errors, seen = watch(pool, ErrorOccurred), []

    async def fail() -> None:
        raise ValueError("boom")

    async with pool.transaction() as tx:
        tx.produce_async("orders", "v")
        tx.after_commit(fail)
        tx.after_commit(lambda: seen.append("next"))

    assert [("transaction.after_commit", "boom")] == [(event.where, str(event.error)) for event in errors]
    assert (["next"], ["v"]) == (seen, committed(pool))


# -- joining -----------------------------------------------------------------------------------------


async def test_join(pool, script):
    """A nested transaction of the same task is the same one, and its exit ends nothing."""
    async with pool.transaction() as outer:
        async with pool.transaction() as inner:
            inner.produce_async("orders", "inner")
        async with pool.producer() as producer:
            await producer.produce_sync("orders", "producer")
        before = committed(pool)

    assert outer is inner is producer
    assert ([], ["inner", "producer"]) == (before, committed(pool))
    assert 1 == script.calls.count("begin")


async def test_join_from_sync_code(pool):
    """A sync function that joins an async transaction gets a Transaction over it, whose blocking calls are refused."""

    def place() -> tuple[Transaction, Any, Any]:
        with pool.transaction() as tx, pool.producer() as producer:
            tx.produce_async("orders", "sync")
            return tx, producer, outcome(lambda: tx.produce_sync("orders"))

    async with pool.transaction() as outer:
        inner, producer, refused = place()
        before = committed(pool)

    assert type(inner) is Transaction
    assert inner is producer
    assert (outer.id, outer.index) == (inner.id, inner.index)
    assert isinstance(refused, ScopeError)
    assert ([], ["sync"]) == (before, committed(pool))


async def test_error_in_joined_sync_code(pool):
    """An error that crosses the boundary of joined sync code dooms the whole, also when it is swallowed."""

    def place() -> None:
        with pool.transaction():
            raise ValueError("boom")

    with pytest.raises(UnexpectedAbortError, match="boom"):
        async with pool.transaction() as outer:
            outer.produce_async("orders", "never")
            with pytest.raises(ValueError, match="boom"):
                place()

    assert ([], ["never"]) == (committed(pool), aborted(pool))


async def test_error_in_a_joined_scope(pool):
    """An error that crosses an inner async boundary and is swallowed aborts the whole, and its end says so."""
    with pytest.raises(UnexpectedAbortError) as caught:
        async with pool.transaction():
            with pytest.raises(ValueError, match="boom"):
                async with pool.transaction():
                    raise ValueError("boom")

    assert "boom" == str(caught.value.__cause__)
    assert idle(pool)


async def test_async_under_sync(kept, script):
    """Where blocking is allowed, async code joins a sync transaction of the same task."""
    pool = kept(make_pool(allow_blocking_in_loop=True))
    with pool.transaction() as outer:
        async with pool.transaction() as inner:
            await inner.produce_sync("orders", "v")

    assert outer.id == inner.id
    assert isinstance(inner, AsyncTransaction)
    assert ["v"] == committed(pool)


async def test_new(pool):
    """A new transaction inside another one has a slot and a fate of its own."""
    async with pool.transaction() as outer:
        async with pool.transaction(propagation="new") as inner:
            inner.produce_async("orders", "inner")
        seen = committed(pool)
        outer.produce_async("orders", "never")
        raise AbortTransaction

    assert outer.index != inner.index
    assert (["inner"], ["inner"], ["never"]) == (seen, committed(pool), aborted(pool))
    assert idle(pool)


async def test_mandatory(pool):
    """Mandatory joins what is open, from sync code too, and refuses to begin."""
    async with pool.transaction() as outer:
        async with pool.transaction(propagation="mandatory") as inner:
            pass
        with pool.transaction(propagation="mandatory") as plain:
            pass
    with pytest.raises(PropagationError, match="no transaction is open"):
        await pool.transaction(propagation="mandatory").__aenter__()

    assert outer is inner
    assert outer.id == plain.id


async def test_never(pool):
    """Never refuses where a transaction is open, from sync code too."""
    async with pool.transaction():
        errors = [
            outcome(pool.transaction(propagation="never").__enter__),
            *await asyncio.gather(_open_never(pool), return_exceptions=True),
        ]
        with pytest.raises(PropagationError):
            await pool.transaction(propagation="never").__aenter__()
    async with pool.transaction(propagation="never") as tx:
        tx.produce_async("orders", "v")

    assert isinstance(errors[0], PropagationError)
    assert errors[1] is None  # a child task, which has nothing open
    assert ["v"] == committed(pool)


async def _open_never(pool: ProducerPool) -> None:
    async with pool.transaction(propagation="never"):
        pass


# -- who doesn't join --------------------------------------------------------------------------------


async def test_child_tasks(pool):
    """Child tasks and gathered coroutines open transactions of their own, which survive the parent's abort."""

    async def place(value: str) -> int:
        async with pool.transaction() as tx:
            tx.produce_async("orders", value)
            return tx.index

    async with pool.transaction() as parent:
        indices = [await asyncio.create_task(place("task")), *await asyncio.gather(place("gathered"))]
        async with asyncio.TaskGroup() as group:
            grouped = group.create_task(place("grouped"))
        parent.produce_async("orders", "never")
        raise AbortTransaction

    assert parent.index not in {*indices, grouped.result()}
    assert (["task", "gathered", "grouped"], ["never"]) == (committed(pool), aborted(pool))


async def test_to_thread(pool):
    """A thread that the task starts opens a transaction of its own, although it runs in a copy of the context."""

    def place() -> None:
        with pool.transaction() as tx:
            tx.produce_sync("orders", "thread")

    async with pool.transaction() as parent:
        await asyncio.to_thread(place)
        parent.produce_async("orders", "never")
        raise AbortTransaction

    assert (["thread"], ["never"]) == (committed(pool), aborted(pool))


async def test_explicit(pool):
    """A transaction that is passed on takes the records of child tasks and threads."""
    async with pool.transaction() as tx:
        await asyncio.gather(*(tx.produce_sync("orders", str(n)) for n in range(3)))
        await asyncio.create_task(tx.flush())
        await asyncio.to_thread(lambda: tx.produce_async("orders", "3").result())

    assert list("0123") == sorted(committed(pool))


async def test_producer_of_the_parent(pool):
    """A child task can't slip into its parent's transaction by the producer under it."""
    async with pool.producer() as producer, producer.transaction() as tx:
        tx.produce_async("orders", "parent")
        errors = [
            await ended(producer.produce_sync("orders", "child")),
            await ended(_enter(producer.transaction())),
            in_thread(lambda: producer.produce_async("orders", "thread")),
        ]

    assert [ScopeError] * 3 == [type(error) for error in errors]
    assert all("open in another thread or task" in str(error) for error in errors)
    assert ["parent"] == committed(pool)


async def _enter(scope: Any) -> None:
    async with scope:
        pass


# -- again -------------------------------------------------------------------------------------------


async def test_run(pool):
    """Run awaits a coroutine function in a transaction, and returns what it returned."""

    async def place(tx: AsyncTransaction, value: str, *, key: str) -> str:
        await tx.produce_sync("orders", value, key)
        return tx.id

    assert (await pool.run(place, "v", key="k")).startswith("t-test-0#")
    assert (await pool.run(partial(place, key="k"), "w")).startswith("t-test-1#")
    assert ["v", "w"] == committed(pool)


async def test_run_a_callable_object(pool):
    """Run awaits an object whose call is a coroutine function, too."""

    class Place:
        async def __call__(self, tx: AsyncTransaction) -> str:
            await tx.produce_sync("orders", "v")
            return "done"

    result: Any = pool.run(Place())

    assert "done" == await result
    assert ["v"] == committed(pool)


async def test_run_again(pool):
    """Run calls the coroutine function again after a confirmed abort, with hooks and records anew."""
    runs: list[str] = []

    async def place(tx: AsyncTransaction) -> int:
        runs.append(tx.id)
        tx.after_commit(lambda: runs.append("committed"))
        await tx.produce_sync("orders", f"run {len(runs)}")
        if len(runs) < 3:
            raise ConnectionError
        return len(runs)

    result = await pool.run(place, retry=Retry(backoff_ms=0, on=(ConnectionError,)))

    assert (3, "committed") == (result, runs[-1])
    assert (["run 3"], ["run 1", "run 2"]) == (committed(pool), aborted(pool))


async def test_run_not_again_in_doubt(pool, script):
    """Run never calls the function again when the commit may have succeeded."""
    script.on("commit", fault(FaultKind.OTHER))
    runs: list[str] = []

    async def place(tx: AsyncTransaction) -> None:
        runs.append(tx.id)

    with pytest.raises(CommitOutcomeUnknownError):
        await pool.run(place, retry=Retry(backoff_ms=0, on=(TransactionError,)))

    assert 1 == len(runs)


async def test_run_not_again_when_cancelled(pool):
    """Run doesn't call the function again when it is cancelled between two runs."""
    runs: list[str] = []
    hidden = asyncio.Event()

    async def place(tx: AsyncTransaction) -> None:
        runs.append(tx.id)
        tx.after_abort(hidden.set)
        raise ConnectionError

    task = asyncio.create_task(pool.run(place, retry=Retry(backoff_ms=60_000, on=(ConnectionError,))))
    await hidden.wait()
    await asyncio.sleep(0.01)  # it pauses for seconds
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE)

    assert task.cancelled()
    assert 1 == len(runs)
    assert idle(pool)


async def test_run_signal(pool):
    """Run returns None when the coroutine function aborts by signal."""

    async def place(tx: AsyncTransaction) -> None:
        tx.produce_async("orders", "never")
        raise AbortTransaction

    assert await pool.run(place) is None
    assert ["never"] == aborted(pool)


async def test_scope_with_retry(pool):
    """A scope that has a retry can't be opened by a block, which can't be run again."""
    with pytest.raises(ScopeError, match="needs a function to call again"):
        await pool.transaction(retry=Retry()).__aenter__()


async def test_interrupt_behind_begin(pool, script, monkeypatch):
    """What comes between begin and the block aborts: nothing is left open that the next transaction would join."""
    begin = TransactionRun._begin

    def interrupted(*given: Any) -> None:
        begin(*given)
        monkeypatch.setattr(TransactionRun, "_begin", begin)
        raise ZeroDivisionError

    monkeypatch.setattr(TransactionRun, "_begin", interrupted)
    with pytest.raises(ZeroDivisionError):
        async with pool.transaction():
            pass
    async with pool.transaction() as tx:
        tx.produce_async("orders", "one")

    assert ["one"] == committed(pool)
    assert 0 == pool.stats().in_use
