# ruff: noqa: PT012  (what a transaction's block does is the case)
from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
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
    plain_pool,
    watch,
)
from wd_di.errors import CommitOutcomeUnknownError, TransactionClosedError
from wd_di.events import TransactionFinished
from wd_di.pool import ProducerPool


class Gate:
    """Stops the worker that comes along, until it is opened."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.error = error

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE)
        if self.error is not None:
            raise self.error

    async def stopped(self) -> None:
        """Wait until somebody stands here."""
        assert await asyncio.to_thread(self.reached.wait, PATIENCE)

    def open(self) -> None:
        """Let everybody through."""
        self.opened.set()


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of one scripted producer."""
    with make_pool() as pool:
        yield pool


def soon(pool: ProducerPool, holds: Callable[[], object]) -> None:
    """Wait until it holds of the pool; for what no event tells."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, repr(pool)
        threading.Event().wait(0.001)


def whole(pool: ProducerPool) -> bool:
    """Whether every slot is idle, nobody is on record as a holder, and the counts add up."""
    soon(pool, lambda: pool.stats().idle == pool.stats().size)
    stats = pool.stats()
    rest = stats.in_use + stats.creating + stats.retiring + stats.waiting
    if rest or stats.available != stats.size:
        return False
    return internals.nothing_is_held(pool) and not internals.table(pool).claims()


async def queued(pool: ProducerPool, count: int) -> None:
    """Wait until so many borrowers wait."""
    async with asyncio.timeout(PATIENCE):
        while pool.stats().waiting != count:
            await turns(1)


async def turns(count: int = 20) -> None:
    """Give every other task of the loop its chance."""
    for _ in range(count):
        await asyncio.sleep(0)


async def ended(task: asyncio.Task[Any]) -> BaseException | None:
    """How the task ended, within the patience."""
    await asyncio.wait([task], timeout=PATIENCE)
    assert task.done()
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def borrow(pool: ProducerPool, got: list[str], name: str) -> None:
    """Take a producer, note it and go."""
    async with pool.producer():
        got.append(name)


async def place(pool: ProducerPool, value: str = "one") -> None:
    """Commit one record."""
    async with pool.transaction() as tx:
        tx.produce_async("orders", value)


def collect(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine until it waits for nothing that will come, close its loop, and forget it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    loop.run_until_complete(turns())
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task, coroutine
    gc.collect()


# -- while waiting -----------------------------------------------------------------------------------


async def test_cancelled_in_the_queue(pool):
    """Who is cancelled while it waits leaves the queue, and the next in turn is served."""
    got: list[str] = []
    async with pool.producer():
        first = asyncio.create_task(borrow(pool, got, "first"))
        second = asyncio.create_task(borrow(pool, got, "second"))
        await queued(pool, 2)
        first.cancel()
        await asyncio.wait([first])
        waiting = pool.stats().waiting
    await second

    assert (1, ["second"]) == (waiting, got)
    assert first.cancelled()
    assert whole(pool)


async def test_cancelled_between_grant_and_wake(pool):
    """Who is cancelled when the slot is granted already, but the task hasn't run yet, passes it on."""
    got: list[str] = []
    async with pool.producer():
        first = asyncio.create_task(borrow(pool, got, "first"))
        second = asyncio.create_task(borrow(pool, got, "second"))
        await queued(pool, 2)
    granted = pool.stats().waiting
    first.cancel()
    await second

    assert (1, ["second"]) == (granted, got)
    assert first.cancelled()
    assert whole(pool)


async def test_cancelled_between_wake_and_turn(pool):
    """Who is cancelled when its future is resolved already passes the slot on, too."""
    got: list[str] = []
    async with pool.producer():
        first = asyncio.create_task(borrow(pool, got, "first"))
        await queued(pool, 1)
    asyncio.get_running_loop().call_soon(first.cancel)  # behind the wake-up, before the task
    await ended(first)

    assert first.cancelled()
    assert [] == got
    assert whole(pool)


async def test_timed_out_when_granted(pool):
    """A grant that races with the deadline is either used or passed on."""
    held = pool.producer()
    await held.__aenter__()
    tasks = [asyncio.create_task(borrow_briefly(pool)) for _ in range(50)]
    await queued(pool, 50)
    await held.__aexit__(None, None, None)
    ends = [await ended(task) for task in tasks]

    assert {None, TimeoutError} >= {type(end) if end else None for end in ends}
    assert whole(pool)


async def borrow_briefly(pool: ProducerPool) -> None:
    """Take a producer if it comes soon."""
    async with asyncio.timeout(0.02), pool.producer():
        await asyncio.sleep(0.001)


async def test_cancelled_during_creation(kept, script):
    """A producer whose borrower is cancelled while it connects is there for the next one."""
    gate = Gate()
    script.on("init", gate)
    pool = kept(make_pool())
    task = asyncio.create_task(place(pool))
    await gate.stopped()
    task.cancel()
    await asyncio.wait([task])
    gate.open()
    await place(pool, "next")

    assert task.cancelled()
    assert ["next"] == committed(pool)
    assert whole(pool)


# -- in the body -------------------------------------------------------------------------------------


async def test_cancelled_in_the_body(pool):
    """Cancelled in its body, a transaction aborts, and the cancellation goes on."""
    events = watch(pool, TransactionFinished)
    inside = asyncio.Event()

    async def work() -> None:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "never")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    end = await ended(task)

    assert isinstance(end, asyncio.CancelledError)
    assert ([], ["never"], ["aborted"]) == (committed(pool), aborted(pool), [event.outcome for event in events])
    assert whole(pool)


async def test_cancelled_while_it_holds_a_producer(kept, script):
    """Cancelled in its body, a checkout gives back, and what was produced is still sent."""
    inside = asyncio.Event()
    deliveries = []
    pool = kept(plain_pool())

    async def work() -> None:
        async with pool.producer() as producer:
            deliveries.append(producer.produce_async("orders", "kept"))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])
    report = await deliveries[0]

    assert ("orders", ["kept"]) == (report.topic, committed(pool))
    assert whole(pool)


async def test_cancelled_in_produce_sync(kept, script):
    """Cancelled while it waits for an answer, a record may still be delivered, and no worker goes on for it."""
    script.silent = True
    pool = kept(plain_pool())
    async with pool.producer() as producer:
        task = asyncio.create_task(producer.produce_sync("orders", "kept"))
        await turns()
        task.cancel()
        await asyncio.wait([task])
        soon(pool, lambda: not internals.lease(producer).sending()._flushing._running)
        script.silent = False
        await producer.flush()

    assert task.cancelled()
    assert ["kept"] == committed(pool)
    assert whole(pool)


async def test_cancelled_in_send_offsets(pool, script):
    """Cancelled while offsets are sent, the abort waits for their end: they don't slip into the next transaction."""
    gate = Gate()
    script.on("send_offsets", gate)
    order: list[str] = []

    async def work() -> None:
        async with pool.transaction() as tx:
            try:
                await tx.send_offsets(OFFSETS, object())
            finally:
                order.append("left send_offsets")

    task = asyncio.create_task(work())
    await gate.stopped()
    task.cancel()
    await turns()
    order.append("opened")
    gate.open()
    end = await ended(task)

    assert isinstance(end, asyncio.CancelledError)
    assert ["left send_offsets", "opened"] == order
    assert ["send_offsets", "abort"] == [call for call in script.calls if call in {"send_offsets", "abort", "commit"}]
    assert whole(pool)


# -- during the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_cancelled_during_commit(pool, script, times):
    """A commit is outwaited however often its task is cancelled; its outcome is an event, then it is cancelled."""
    gate = Gate()
    script.on("commit", gate)
    events = watch(pool, TransactionFinished)
    task = asyncio.create_task(place(pool))
    await gate.stopped()
    for _ in range(times):
        task.cancel()
        await turns()
    before = (task.done(), pool.stats().in_use)
    gate.open()
    end = await ended(task)

    assert (False, 1) == before
    assert isinstance(end, asyncio.CancelledError)
    assert (["one"], ["committed"]) == (committed(pool), [event.outcome for event in events])
    assert whole(pool)


async def test_cancelled_during_a_commit_that_fails(pool, script):
    """When the commit that was outwaited failed, the event says so, and the cancellation still goes on."""
    gate = Gate(fault(FaultKind.FATAL))
    script.on("commit", gate)
    events = watch(pool, TransactionFinished)
    task = asyncio.create_task(place(pool))
    await gate.stopped()
    task.cancel()
    await turns()
    gate.open()
    end = await ended(task)

    assert isinstance(end, asyncio.CancelledError)
    assert ["unknown"] == [event.outcome for event in events]
    assert isinstance(events[0].error, CommitOutcomeUnknownError)
    assert whole(pool)


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_cancelled_during_abort(pool, script, times):
    """An abort is outwaited, too, and then the cancellation goes on."""
    gate = Gate()
    script.on("abort", gate)

    async def work() -> None:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "never")
            raise ValueError("boom")

    task = asyncio.create_task(work())
    await gate.stopped()
    for _ in range(times):
        task.cancel()
        await turns()
    before = task.done()
    gate.open()
    end = await ended(task)

    assert not before
    assert isinstance(end, asyncio.CancelledError)
    assert ([], ["never"]) == (committed(pool), aborted(pool))
    assert whole(pool)


async def test_cancelled_in_the_body_and_during_the_abort(pool, script):
    """Cancelled in its body, and again while that aborts, the transaction still aborts in full."""
    gate, inside = Gate(), asyncio.Event()
    script.on("abort", gate)

    async def work() -> None:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "never")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    await gate.stopped()
    task.cancel()
    await turns()
    gate.open()
    end = await ended(task)

    assert isinstance(end, asyncio.CancelledError)
    assert ["never"] == aborted(pool)
    assert whole(pool)


async def test_cancelled_before_the_commit_waits(pool):
    """A cancellation that is pending when the block returns comes after the commit."""

    async def work() -> None:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "one")
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    end = await ended(asyncio.create_task(work()))

    assert isinstance(end, asyncio.CancelledError)
    assert ["one"] == committed(pool)
    assert whole(pool)


async def test_cancelled_in_before_commit(pool):
    """Cancelled in a coroutine that runs before the commit, the transaction aborts."""
    inside = asyncio.Event()

    async def hook() -> None:
        inside.set()
        await asyncio.Event().wait()

    async def work() -> None:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "never")
            tx.before_commit(hook)

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    end = await ended(task)

    assert isinstance(end, asyncio.CancelledError)
    assert ([], ["never"]) == (committed(pool), aborted(pool))
    assert whole(pool)


async def test_cancelled_in_after_commit(pool):
    """Cancelled in a coroutine that runs after the commit, the commit stands and the slot is back already."""
    inside = asyncio.Event()

    async def hook() -> None:
        inside.set()
        await asyncio.Event().wait()

    async def work() -> None:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "one")
            tx.after_commit(hook)

    task = asyncio.create_task(work())
    await inside.wait()
    back = pool.stats().idle
    task.cancel()
    end = await ended(task)

    assert isinstance(end, asyncio.CancelledError)
    assert (1, ["one"]) == (back, committed(pool))
    assert whole(pool)


async def test_hooks_after_a_cancelled_commit(pool, script):
    """Hooks for a commit run although its task was cancelled meanwhile."""
    gate, told = Gate(), []
    script.on("commit", gate)

    async def hook() -> None:
        await asyncio.sleep(0)
        told.append("committed")

    async def work() -> None:
        async with pool.transaction() as tx:
            tx.after_commit(hook)

    task = asyncio.create_task(work())
    await gate.stopped()
    task.cancel()
    await turns()
    gate.open()
    end = await ended(task)

    assert isinstance(end, asyncio.CancelledError)
    assert ["committed"] == told


# -- by other means ----------------------------------------------------------------------------------


async def test_timeout_in_the_queue(pool):
    """asyncio.timeout ends the wait for a slot with its own TimeoutError."""
    async with pool.producer():
        task = asyncio.create_task(borrow_briefly(pool))
        end = await ended(task)
        waiting = pool.stats().waiting

    assert TimeoutError is type(end)
    assert 0 == waiting
    assert whole(pool)


async def test_timeout_during_commit(pool, script):
    """asyncio.timeout during a commit becomes TimeoutError only when the commit is over."""
    gate = Gate()
    script.on("commit", gate)
    limit = asyncio.timeout(None)

    async def work() -> None:
        async with limit:
            await place(pool)

    task = asyncio.create_task(work())
    await gate.stopped()
    limit.reschedule(asyncio.get_running_loop().time())
    await asyncio.sleep(0.01)
    before = (limit.expired(), task.done())
    gate.open()
    end = await ended(task)

    assert (True, False) == before
    assert TimeoutError is type(end)
    assert ["one"] == committed(pool)
    assert whole(pool)


async def test_timeout_and_cancellation_during_commit(pool, script):
    """A cancellation from outside isn't taken for the time-out that struck during the same commit."""
    gate = Gate()
    script.on("commit", gate)
    limit = asyncio.timeout(None)

    async def work() -> None:
        async with limit:
            await place(pool)

    task = asyncio.create_task(work())
    await gate.stopped()
    limit.reschedule(asyncio.get_running_loop().time())
    await asyncio.sleep(0.01)
    task.cancel()
    await turns()
    gate.open()
    end = await ended(task)

    assert isinstance(end, asyncio.CancelledError)
    assert whole(pool)


async def test_task_group_abort(kept, script):
    """A task group that fails aborts the transactions in their bodies, and outwaits the one that commits."""
    gate, inside = Gate(), asyncio.Event()
    script.on("commit", gate)
    pool = kept(make_pool(size=2))

    async def idle() -> None:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "never")
            inside.set()
            await asyncio.Event().wait()

    async def fail() -> None:
        await inside.wait()
        await gate.stopped()
        asyncio.get_running_loop().call_later(0.01, gate.open)
        raise ValueError("boom")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            for work in (place(pool), idle(), fail()):
                group.create_task(work)

    assert ["boom"] == [str(error) for error in caught.value.exceptions]
    assert (["one"], ["never"]) == (committed(pool), aborted(pool))
    assert whole(pool)


async def test_cancelled_at_every_turn(pool, script):
    """A commit is outwaited also when its task is cancelled at every turn of the loop, as by anyio's scopes."""
    gate = Gate()
    script.on("commit", gate)
    task = asyncio.create_task(place(pool))
    await gate.stopped()
    asyncio.get_running_loop().call_later(0.02, gate.open)
    async with asyncio.timeout(PATIENCE):
        while not task.done():
            task.cancel()
            await turns(1)

    assert task.cancelled()
    assert ["one"] == committed(pool)
    assert whole(pool)


async def test_cancelled_by_an_anyio_scope(pool, script):
    """An anyio scope that is cancelled during the commit is left once the commit has ended."""
    gate = Gate()
    script.on("commit", gate)

    async def cancel(scope: anyio.CancelScope) -> None:
        await gate.stopped()
        asyncio.get_running_loop().call_later(0.02, gate.open)
        scope.cancel()

    with anyio.CancelScope() as scope:
        canceller = asyncio.create_task(cancel(scope))
        await place(pool)
    await canceller

    assert scope.cancelled_caught
    assert ["one"] == committed(pool)
    assert whole(pool)


async def test_used_after_a_cancellation(pool):
    """A transaction whose task was cancelled takes no more records from the tasks that still know it."""
    kept: list[Any] = []

    async def work() -> None:
        async with pool.transaction() as tx:
            kept.append(tx)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await turns()
    task.cancel()
    await asyncio.wait([task])

    with pytest.raises(TransactionClosedError):
        kept[0].produce_async("orders", "late")


# -- loops that end ----------------------------------------------------------------------------------


def test_loop_closed_with_waiters(pool):
    """A slot that would go to the tasks of a closed loop goes on to the next waiter, however many they are."""
    forgotten: list[Any] = []

    async def queue() -> None:
        forgotten.extend(asyncio.create_task(borrow(pool, [], "never")) for _ in range(1_500))
        await queued(pool, 1_500)

    loop = asyncio.new_event_loop()
    with pool.producer():
        loop.run_until_complete(queue())
        loop.close()
        for task in forgotten:
            task._log_destroy_pending = False
        alive = threading.Thread(target=lambda: forgotten.append(in_pool(pool)), daemon=True)
        alive.start()
        soon(pool, lambda: pool.stats().waiting == 1_501)
    alive.join(PATIENCE)

    assert 0 == forgotten.pop()
    forgotten.clear()
    gc.collect()
    assert whole(pool)


def in_pool(pool: ProducerPool) -> int:
    """Take a producer in a thread."""
    with pool.producer() as producer:
        return producer.index


def test_loop_closed_during_commit(pool, script, caplog):
    """When a loop is closed while a commit runs, the commit ends all the same and gives the slot back."""
    gate = Gate()
    script.on("commit", gate)
    told: list[str] = []

    async def work() -> None:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "one")
            tx.after_abort(lambda: told.append("aborted"))
            tx.after_completion(told.append)

    async def start() -> None:
        tasks.append(asyncio.create_task(work()))
        await gate.stopped()

    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    tasks.pop()._log_destroy_pending = False  # type: ignore[attr-defined]
    gate.open()
    soon(pool, lambda: internals.house(pool).jobs._idle)
    gc.collect()

    assert whole(pool)
    assert ["one"] == committed(pool)
    assert [] == told  # no hook: nobody could await it
    assert [] == [record for record in caplog.records if record.name == "wd_di"]


def test_loop_closed_in_the_body(pool):
    """A transaction whose task is collected after its loop's end is aborted, and its slot comes back."""

    async def work() -> None:
        async with pool.transaction() as tx:
            tx.produce_async("orders", "never")
            await asyncio.Event().wait()

    collect(work())

    assert whole(pool)
    assert ([], ["never"]) == (committed(pool), aborted(pool))


def test_loop_closed_in_a_checkout(pool):
    """A checkout whose task is collected after its loop's end comes back."""

    async def work() -> None:
        async with pool.producer():
            await asyncio.Event().wait()

    collect(work())

    assert whole(pool)


def test_asyncio_run_cancelled_from_a_thread(pool, script):
    """asyncio.run that ends while a task commits outwaits it, since it cancels and then awaits its tasks."""
    gate = Gate()
    script.on("commit", gate)

    async def main() -> None:
        keep.append(asyncio.create_task(place(pool)))
        await gate.stopped()
        asyncio.get_running_loop().call_soon(gate.open)

    keep: list[Any] = []
    asyncio.run(main())

    assert keep[0].cancelled()
    assert ["one"] == committed(pool)
    assert whole(pool)
    assert 0 == in_thread(lambda: in_pool(pool))
