from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import internals
from tests.scripted import (
    OFFSETS,
    PATIENCE,
    FaultKind,
    FutureThread,
    Script,
    committed,
    fault,
    in_thread,
    make_pool,
    outcome,
    plain_pool,
    records,
)
from wd_di import AsyncProducer, Message
from wd_di.errors import (
    CheckoutReturnedError,
    DeliveryError,
    DeliveryTimeoutError,
    PoolClosedError,
    PoolExhaustedError,
    PoolTimeoutError,
    QueueFullError,
    ScopeError,
)
from wd_di.pool import ProducerPool

LAG = 0.15
"""Seconds that a loop may be late on a busy machine; the clients of these tests block twice as long."""


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of two scripted producers without transactions."""
    with plain_pool(size=2) as pool:
        yield pool


@pytest.fixture
def single(script: Script) -> Iterator[ProducerPool]:
    """An open pool of one scripted producer without transactions."""
    with plain_pool() as pool:
        yield pool


@pytest.fixture
def transactional(script: Script) -> Iterator[ProducerPool]:
    """An open pool of two scripted transactional producers."""
    with make_pool(size=2) as pool:
        yield pool


def until(pool: ProducerPool, holds: Callable[[], object]) -> None:
    """Wait in a thread until it holds of the pool; for what no event tells."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, repr(pool)
        threading.Event().wait(0.001)


async def turn() -> None:
    """Give the other tasks of the loop their turn."""
    await asyncio.sleep(0)


async def queued(pool: ProducerPool, count: int) -> None:
    """Wait in a task until so many borrowers wait."""
    async with asyncio.timeout(PATIENCE):
        while pool.stats().waiting != count:
            await turn()


def idle(pool: ProducerPool) -> bool:
    """Whether nobody holds or awaits anything."""
    stats = pool.stats()
    return (0, 0) == (stats.in_use, stats.waiting) and internals.nothing_is_held(pool)


# -- producing ---------------------------------------------------------------------------------------


async def test_checkout(pool):
    """A task gets an AsyncProducer for the time of its block, and not for longer."""
    async with pool.producer() as producer:
        inside = pool.stats().in_use
        text = repr(producer)
    with pytest.raises(CheckoutReturnedError, match="has gone back"):
        producer.produce_async("orders")
    with pytest.raises(CheckoutReturnedError):
        await producer.produce_sync("orders")
    with pytest.raises(CheckoutReturnedError):
        await producer.flush()

    assert isinstance(producer, AsyncProducer)
    assert 1 == inside
    assert "<AsyncProducer 0 of 'orders', 0 unanswered>" == text
    assert idle(pool)


async def test_produce_sync(pool):
    """An awaited call returns where the broker has stored the record."""
    async with pool.producer() as producer:
        report = await producer.produce_sync("orders", "v", "k", headers={"a": "1"}, partition=3, timestamp_ms=5)

    [record] = records(pool)
    assert ("orders", 3, 0, 5) == (report.topic, report.partition, report.offset, report.timestamp_ms)
    assert ("v", "k", [("a", "1")]) == (record.value, record.key, record.headers)


async def test_produce_async(pool):
    """A record is enqueued without an await, and its delivery can be awaited, again and again."""
    async with pool.producer() as producer:
        delivery = producer.produce_async("orders", "v")
        first, second = await delivery, await delivery

    assert first is second
    assert ["v"] == committed(pool)


async def test_forgotten_await(pool):
    """A record whose delivery nobody awaits is sent all the same."""
    async with pool.producer() as producer:
        producer.produce_async("orders", "v")
    until(pool, lambda: committed(pool))

    assert ["v"] == committed(pool)


async def test_produce_many(pool):
    """Several records are produced at once, awaited or not, in their order."""
    async with pool.producer() as producer:
        reports = await producer.produce_many_sync(Message("orders", str(n)) for n in range(3))
        deliveries = producer.produce_many_async(Message("orders", str(n)) for n in range(3, 5))
        await producer.flush()

    assert [0, 1, 2] == [report.offset for report in reports]
    assert ["delivered"] * 2 == [delivery.outcome for delivery in deliveries]
    assert list("01234") == committed(pool)


async def test_checked_before_sent(pool):
    """A wrong record is refused by its field's name, before any of its batch is sent."""
    async with pool.producer() as producer:
        with pytest.raises(TypeError, match="value"):
            await producer.produce_sync("orders", 1)
        with pytest.raises(TypeError, match="key"):
            producer.produce_many_async([Message("orders", "a"), Message("orders", key=1)])
        await producer.flush()

    assert [] == committed(pool)


async def test_failed_record(pool, script):
    """A failed record raises where it is awaited, and from flush if nobody was told."""
    script.failing.add("broken")
    async with pool.producer() as producer:
        with pytest.raises(DeliveryError, match="broken is broken"):
            await producer.produce_sync("broken")
        producer.produce_async("broken")
        with pytest.raises(DeliveryError) as caught:
            await producer.flush()
        await producer.flush()

    assert 1 == len(caught.value.failed)


async def test_failed_batch(pool, script):
    """Of a batch the failed records are listed."""
    script.failing.add("broken")
    async with pool.producer() as producer:
        with pytest.raises(DeliveryError, match="2 of 3 records") as caught:
            await producer.produce_many_sync([Message("broken"), Message("orders"), Message("broken")])

    assert ["broken", "broken"] == [delivery.topic for delivery in caught.value.failed]


async def test_no_answer(pool, script):
    """Without an answer in time an awaited call says that the record may still be delivered."""
    script.silent = True
    async with pool.producer() as producer:
        with pytest.raises(DeliveryTimeoutError, match="may still be delivered"):
            await producer.produce_sync("orders", timeout_ms=20)
        with pytest.raises(DeliveryTimeoutError, match="1 of 1"):
            await producer.flush(timeout_ms=20)
        script.silent = False
        await producer.flush()


async def test_one_worker_flushes_for_all(single, script):
    """However many tasks wait on one producer, one worker flushes for them."""
    script.silent = True
    async with single.producer() as producer:
        calls = [asyncio.create_task(producer.produce_sync("orders", str(n))) for n in range(20)]
        await turn()
        await turn()
        workers = internals.house(single).jobs._threads
        script.silent = False
        reports = await asyncio.gather(*calls)

    assert 1 == workers
    assert list(range(20)) == sorted(report.offset for report in reports)


async def test_used_by_child_tasks(pool):
    """A producer that is passed on may be used by any number of tasks at once."""
    async with pool.producer() as producer:
        await asyncio.gather(*(producer.produce_sync("orders", str(n)) for n in range(10)))

    assert sorted("0123456789") == sorted(committed(pool))


async def test_shared(kept, script):
    """A plain producer that is shared serves several tasks at once."""
    pool = kept(plain_pool(share=3))
    inside = asyncio.Barrier(3)

    async def work() -> int:
        async with pool.producer() as producer:
            await inside.wait()
            await producer.produce_sync("orders", "v")
            return producer.index

    async with asyncio.timeout(PATIENCE):
        indices = await asyncio.gather(*(work() for _ in range(3)))

    assert [0, 0, 0] == indices
    assert idle(pool)


# -- a full queue ------------------------------------------------------------------------------------


async def test_queue_full(single, script):
    """A record that finds no room is refused at once, and drain waits until there is some."""
    script.silent = True
    async with single.producer() as producer:
        for n in range(10):
            producer.produce_async("orders", str(n))
        script.on("produce", fault(FaultKind.QUEUE_FULL))
        with pytest.raises(QueueFullError, match=r"stayed full \(10 records waiting\)"):
            producer.produce_async("orders", "refused")
        with pytest.raises(QueueFullError, match="stayed full"):
            await producer.drain(timeout_ms=20)
        script.silent = False
        await producer.drain()
        await producer.produce_async("orders", "10")

    assert [str(n) for n in range(11)] == committed(single)


async def test_drain_with_room(single, script):
    """Drain has nothing to wait for while the queue was never full."""
    script.silent = True
    async with single.producer() as producer:
        producer.produce_async("orders", "v")
        await producer.drain(timeout_ms=0)
        script.silent = False


async def test_awaited_call_waits_for_room(single, script):
    """An awaited call that finds no room waits for it."""
    script.on("produce", *[fault(FaultKind.QUEUE_FULL)] * 3)
    async with single.producer() as producer:
        report = await producer.produce_sync("orders", "v")

    assert 0 == report.offset


async def test_no_room_ever(single, script):
    """A record that never finds room is refused at the deadline, and the loop isn't blocked until then."""
    script.always("produce", fault(FaultKind.QUEUE_FULL))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    async with single.producer() as producer:
        with pytest.raises(QueueFullError):
            await producer.produce_sync("orders", "v", timeout_ms=100)
    ticking.cancel()

    assert ticks > 5


# -- waiting -----------------------------------------------------------------------------------------


async def test_not_opened(kept, script):
    """A pool that nobody has opened opens at a task's first checkout."""
    pool = kept(make_pool(size=2))
    async with pool.transaction() as tx:
        tx.produce_async("orders", "v")

    assert ["v"] == committed(pool)


async def test_timeout(single):
    """A task that gets no producer in time is told who holds it."""
    held = single.producer()
    await held.__aenter__()
    task = asyncio.create_task(take(single, timeout_ms=10), name="late")
    with pytest.raises(PoolTimeoutError, match=r"after 10 ms \(1 of 1 in use, 0 waiting.*by task 'Task-"):
        await task
    with pytest.raises(PoolTimeoutError, match="after 0 ms"):
        await asyncio.create_task(take(single, timeout_ms=0))
    await held.__aexit__(None, None, None)

    assert idle(single)


async def take(pool: ProducerPool, **options: Any) -> int:
    """Take a producer and go."""
    async with pool.producer(**options) as producer:
        return producer.index


async def test_closed_while_waiting(single):
    """Tasks that wait when the pool closes are told so."""
    async with single.producer():
        waiting = asyncio.create_task(take(single))
        await queued(single, 1)
        await asyncio.to_thread(single.close, timeout_ms=0)
        with pytest.raises(PoolClosedError):
            await waiting


async def test_no_wait_for_a_second(transactional):
    """A task that holds a producer is refused a second one at once, if it had to wait for it."""
    async with transactional.transaction(), transactional.transaction(propagation="new"):
        with pytest.raises(PoolExhaustedError, match="caller holds one already"):
            await transactional.transaction(propagation="new").__aenter__()

    assert idle(transactional)


async def test_recipe_of_two_tasks(single):
    """A recipe that one task waits to open can't be opened by another one meanwhile."""
    recipe = single.producer()

    async def use() -> str:
        async with recipe:
            return "got it"

    async with single.producer():
        first = asyncio.create_task(use())
        await queued(single, 1)
        second = await asyncio.gather(use(), return_exceptions=True)

    assert "got it" == await first
    assert [ScopeError] == [type(error) for error in second]
    assert "got it" == await use()
    assert idle(single)


async def test_recipe_after_a_failure(single):
    """A recipe that couldn't be opened can be opened later."""
    recipe = single.producer(timeout_ms=0)

    async def use() -> str:
        async with recipe:
            return "got it"

    async with single.producer():
        failed = await asyncio.gather(asyncio.create_task(use()), return_exceptions=True)

    assert [PoolTimeoutError] == [type(error) for error in failed]
    assert "got it" == await use()


# -- contexts ----------------------------------------------------------------------------------------


async def test_nested(pool):
    """A nested checkout of the same task gives the same producer, to sync code too, and ends nothing."""
    async with pool.producer() as outer:
        async with pool.producer() as inner:
            in_use = pool.stats().in_use
        with pool.producer() as plain:
            same_slot = plain.index == outer.index
        await outer.produce_sync("orders")

    assert outer is inner
    assert (1, True) == (in_use, same_slot)
    assert idle(pool)


async def test_child_task(pool):
    """A child task takes a producer of its own."""
    async with pool.producer() as parent:
        child = await asyncio.create_task(take(pool))
        [gathered, _] = await asyncio.gather(take(pool), turn())

    assert parent.index not in (child, gathered)


async def test_other_thread(pool):
    """A thread that a task starts takes a producer of its own."""

    def work() -> int:
        with pool.producer() as producer:
            return producer.index

    async with pool.producer() as parent:
        child = await asyncio.to_thread(work)

    assert parent.index != child


async def test_many_tasks(pool):
    """Hundreds of tasks share two producers, and each gets its turn."""

    async def work(number: int) -> None:
        async with pool.producer() as producer:
            await producer.produce_sync("orders", str(number))

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(work(n) for n in range(300)))

    assert {str(n) for n in range(300)} == set(committed(pool))
    assert idle(pool)


# -- implicit transactions ---------------------------------------------------------------------------


async def test_implicit(transactional, script):
    """On a transactional pool each awaited call outside of a transaction is one of its own."""
    async with transactional.producer() as producer:
        report = await producer.produce_sync("orders", "a")
        seen = committed(transactional)
        await producer.produce_many_sync([Message("orders", "b"), Message("orders", "c")])

    assert (0, ["a"]) == (report.offset, seen)
    assert ["a", "b", "c"] == committed(transactional)
    assert 2 == script.calls.count("commit")


async def test_implicit_without_await(transactional):
    """Calls that aren't awaited can't be a transaction of their own, and say what to use."""
    async with transactional.producer() as producer:
        with pytest.raises(ScopeError, match=r"async with producer\.transaction\(\)"):
            producer.produce_async("orders")
        with pytest.raises(ScopeError, match="await produce_sync"):
            producer.produce_many_async([Message("orders")])

    assert [] == committed(transactional)


async def test_implicit_is_off(kept, script):
    """Where implicit transactions are off, awaited calls are refused, too."""
    pool = kept(make_pool(implicit_transactions=False))
    async with pool.producer() as producer:
        with pytest.raises(ScopeError, match="implicit_transactions is off"):
            await producer.produce_sync("orders")


async def test_implicit_failure(transactional, script):
    """A failed record of an implicit transaction raises, and its producer goes on."""
    script.failing.add("broken")
    async with transactional.producer() as producer:
        with pytest.raises(DeliveryError):
            await producer.produce_sync("broken")
        await producer.produce_sync("orders", "after")

    assert ["after"] == committed(transactional)


async def test_implicit_in_two_tasks(transactional, script):
    """A call never slips into the transaction that another task has open on the same producer."""
    async with transactional.producer() as producer:
        results = await asyncio.gather(
            *(producer.produce_sync("orders", str(n)) for n in range(3)), return_exceptions=True
        )

    refused = [result for result in results if isinstance(result, BaseException)]
    assert [ScopeError] * len(refused) == [type(error) for error in refused]
    assert len(committed(transactional)) == len(results) - len(refused) == script.calls.count("commit")


# -- threads and loops -------------------------------------------------------------------------------


def test_fair_between_threads_and_tasks(single):
    """Threads and the tasks of two loops are served in the order in which they came."""
    order: list[int] = []
    loops = [Loop(), Loop()]

    def thread(number: int) -> None:
        with single.producer():
            order.append(number)

    async def task(number: int) -> None:
        async with single.producer():
            order.append(number)

    def start(number: int) -> Any:
        if number % 3 == 2:
            other = FutureThread(lambda: thread(number))
            other.start()
            return other.outcome
        return asyncio.run_coroutine_threadsafe(task(number), loops[number % 3].loop).result

    with single.producer():
        ends = []
        for number in range(12):
            ends.append(start(number))
            until(single, lambda wanted=number + 1: single.stats().waiting == wanted)
    for end in ends:
        end()
    for loop in loops:
        loop.stop()

    assert list(range(12)) == order
    assert idle(single)


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


def test_loops_in_threads(transactional):
    """Several loops in several threads use one pool at once."""
    together = threading.Barrier(3, timeout=PATIENCE)

    async def commit(value: str) -> None:
        async with transactional.transaction() as tx:
            tx.produce_async("orders", value)
            await turn()

    async def main(name: str) -> None:
        await asyncio.gather(*(commit(f"{name}{n}") for n in range(20)))

    def work(name: str) -> None:
        together.wait()
        asyncio.run(main(name))

    threads = [FutureThread(lambda name=name: work(name)) for name in "abc"]
    for thread in threads:
        thread.start()

    assert [None] * 3 == [thread.outcome() for thread in threads]
    assert sorted(f"{name}{n}" for name in "abc" for n in range(20)) == sorted(committed(transactional))
    assert idle(transactional)


def test_one_run_after_the_other(transactional):
    """The same pool serves one asyncio.run after the other, and threads in between."""

    async def main(value: str) -> None:
        async with transactional.transaction() as tx:
            tx.produce_async("orders", value)

    asyncio.run(main("first"))
    with transactional.transaction() as tx:
        tx.produce_async("orders", "between")
    asyncio.run(main("second"))

    assert ["first", "between", "second"] == committed(transactional)
    assert idle(transactional)


def test_recipe_from_before_a_fork(kept, script):
    """A recipe made before a fork works in the child, whose workers are threads of its own."""
    pool = kept(make_pool(transactional_id="t-{pid}"))
    recipe = pool.transaction()

    async def use() -> None:
        async with recipe as tx:
            tx.produce_async("orders", "v")

    asyncio.run(use())
    until(pool, lambda: len(internals.house(pool).jobs._idle) == 1)
    with warnings.catch_warnings():  # Python 3.12 warns of what is tested here: a fork beside threads
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(5)
        error = outcome(lambda: asyncio.run(use()))
        os._exit(error is not None)
    _, status = os.waitpid(child, 0)

    assert 0 == status


# -- sync calls on a loop's thread -------------------------------------------------------------------


async def test_sync_calls_on_a_loop(transactional, pool):
    """Sync calls that would block are refused on a loop's thread, and name the async form."""
    with pool.producer() as producer:
        errors = [outcome(lambda: producer.produce_sync("orders")), outcome(producer.flush)]
        delivery = producer.produce_async("orders", "v")
        await delivery
    errors.append(outcome(transactional.transaction().__enter__))

    assert [ScopeError] * 3 == [type(error) for error in errors]
    assert all("async with" in str(error) for error in errors)
    assert ["v"] == committed(pool)
    assert idle(transactional)


async def test_sync_checkout_that_would_wait(single):
    """A sync checkout that would have to wait is refused on a loop's thread, even from no task."""
    refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    async with single.producer():
        asyncio.get_running_loop().call_soon(
            lambda: refused.set_result(outcome(single.producer().__enter__)),
        )
        error = await refused

    assert isinstance(error, ScopeError)
    assert "use 'async with'" in str(error)
    assert idle(single)


async def test_blocking_allowed(kept, script):
    """In a notebook, where blocking is allowed, sync calls work on a loop's thread."""
    pool = kept(make_pool(allow_blocking_in_loop=True))
    with pool.transaction() as tx:
        tx.produce_sync("orders", "v")
        async with pool.transaction() as same:
            await same.produce_sync("orders", "w")

    assert ["v", "w"] == committed(pool)


async def test_returned_by_another_thread(single):
    """A slot that a thread gives back reaches the task that waits for it."""
    leave, inside = threading.Event(), threading.Event()

    def hold() -> None:
        with single.producer():
            inside.set()
            leave.wait(PATIENCE)

    other = FutureThread(hold)
    other.start()
    await asyncio.to_thread(inside.wait, PATIENCE)
    waiting = asyncio.create_task(take(single))
    await queued(single, 1)
    leave.set()

    assert 0 == await waiting
    assert other.outcome() is None
    assert 0 == in_thread(lambda: asyncio.run(take(single)))


# -- a loop that goes on -----------------------------------------------------------------------------


async def test_loop_goes_on(kept, script):
    """Clients that block in commit, abort, flush, offsets and init hold up only workers, never the loop."""
    for call in ("init", "commit", "abort", "flush", "send_offsets"):
        script.always(call, lambda: threading.Event().wait(2 * LAG))
    pool = kept(make_pool(size=3))
    worst, stop = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal worst
        while not stop.is_set():
            before = time.monotonic()
            await asyncio.sleep(0.001)
            worst = max(worst, time.monotonic() - before)

    async def work(number: int) -> None:
        async with pool.transaction() as tx:
            await tx.produce_sync("orders", str(number))
            await tx.send_offsets(OFFSETS, object())
            if number == 0:
                tx.abort_only()

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(work(n) for n in range(3)))
    stop.set()
    await watching

    assert ["1", "2"] == sorted(committed(pool))
    assert worst < LAG
