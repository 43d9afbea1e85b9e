from __future__ import annotations

import asyncio
import threading
from asyncio.base_events import BaseEventLoop
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests import internals
from tests.scripted import PATIENCE, FutureThread, Script, in_thread, make_pool, plain_pool
from wd_di import Delivery
from wd_di.errors import DeliveryError, DeliveryTimeoutError
from wd_di.pool import ProducerPool

MANY = 20_000
WAKE_UPS = 200
"""Far fewer than deliveries: one for each loop and each time that the client's answers are looked at."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """What the clients do on cue; silent until a test wants answers."""
    script = Script.install(monkeypatch)
    script.silent = True
    return script


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of one scripted producer without transactions."""
    with plain_pool() as pool:
        yield pool


@pytest.fixture
def wake_ups(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often loops were woken from another thread, by the thread's name."""
    counted: Counter[str] = Counter()
    original = BaseEventLoop.call_soon_threadsafe

    def count(self: BaseEventLoop, *given: Any, **options: Any) -> Any:
        counted[threading.current_thread().name] += 1
        return original(self, *given, **options)

    monkeypatch.setattr(BaseEventLoop, "call_soon_threadsafe", count)
    return counted


def produce(pool: ProducerPool, *values: str) -> list[Delivery]:
    """Enqueue records that wait for their answers."""
    with pool.producer() as producer:
        return [producer.produce_async("orders", value) for value in values]


async def answer(delivery: Delivery) -> Any:
    """What awaiting the delivery gives."""
    return await delivery


async def turns(count: int = 10) -> None:
    """Give every other task of the loop its chance."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- awaited -----------------------------------------------------------------------------------------


async def test_awaited(pool, script):
    """Awaiting a delivery gives its report, whenever one asks."""
    [delivery] = produce(pool, "v")
    waiting = asyncio.create_task(answer(delivery))
    await turns()
    before = waiting.done()
    script.silent = False
    report = await waiting

    assert not before
    assert report is await delivery
    assert ("orders", 0) == (report.topic, report.offset)


async def test_awaited_failure(pool, script):
    """Awaiting a delivery that failed raises its error, each time."""
    script.failing.add("orders")
    script.silent = False
    [delivery] = produce(pool, "v")
    for _ in range(2):
        with pytest.raises(DeliveryError, match="orders is broken"):
            await delivery


async def test_awaited_too_long(kept, script):
    """Awaiting a delivery ends at the pool's produce_timeout_ms, and nobody is left on its list."""
    pool = kept(plain_pool(produce_timeout_ms=20))
    [delivery] = await asyncio.to_thread(produce, pool, "v")
    with pytest.raises(DeliveryTimeoutError, match="may still be delivered"):
        await delivery
    left = list(delivery._watch.waiters)
    script.silent = False

    assert [] == left
    assert 0 == (await delivery).offset


async def test_cancelled(pool, script):
    """Who is cancelled while it awaits a delivery is taken off its list, and the others are told."""
    [delivery] = produce(pool, "v")
    first, second = (asyncio.create_task(answer(delivery)) for _ in range(2))
    await turns()
    first.cancel()
    await asyncio.wait([first])
    left = len(delivery._watch.waiters)
    script.silent = False
    report = await second

    assert (True, 1, 0) == (first.cancelled(), left, report.offset)


async def test_cancelled_ones_do_not_pile_up(pool, script):
    """A delivery that is awaited again and again with a short patience keeps nothing of that."""
    [delivery] = produce(pool, "v")
    for _ in range(50):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await delivery
    left = list(delivery._watch.waiters)
    script.silent = False
    await delivery

    assert [] == left


async def test_lost_after_a_cancelled_wait(kept, script, caplog):
    """A record that fails when nobody waits any more is logged, although somebody once did."""
    pool = kept(make_pool(name="lossy", transactional_id=None, instance=None))
    script.failing.add("orders")
    [delivery] = await asyncio.to_thread(produce, pool, "v")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await delivery
    script.silent = False
    await asyncio.to_thread(pool.close)

    assert "failed" == delivery.outcome
    assert [
        "lossy: a record was lost after its producer went back: DeliveryError('orders is broken')"
    ] == caplog.messages


async def test_aborted_with_its_transaction(kept, script):
    """A delivery that is awaited beyond the abort of its transaction says that it was aborted."""
    script.silent = False
    pool = kept(make_pool())
    async with pool.transaction() as tx:
        delivery = tx.produce_async("orders", "never")
        tx.abort_only()
    with pytest.raises(DeliveryError, match="was aborted"):
        await delivery


# -- from everywhere ---------------------------------------------------------------------------------


async def test_from_threads_and_loops(pool, script):
    """One delivery is awaited by tasks of several loops and waited for by threads, at once."""
    [delivery] = produce(pool, "v")
    ready = threading.Barrier(5, timeout=PATIENCE)

    async def elsewhere() -> Any:
        task = asyncio.create_task(answer(delivery))
        await turns()
        ready.wait()
        return await task

    def wait() -> Any:
        ready.wait()
        return delivery.result()

    others = [FutureThread(wait) for _ in range(2)] + [FutureThread(lambda: asyncio.run(elsewhere())) for _ in range(2)]
    for other in others:
        other.start()
    here = asyncio.create_task(answer(delivery))
    await asyncio.to_thread(ready.wait)
    script.silent = False
    reports = [await here, *[await asyncio.to_thread(other.outcome) for other in others]]

    assert 5 == len(reports)
    assert {id(reports[0])} == {id(report) for report in reports}


def test_loop_closed_while_it_waits(pool, script):
    """A closed loop's tasks don't keep anybody else from being told."""
    [delivery] = produce(pool, "v")
    loop = asyncio.new_event_loop()
    task = loop.create_task(answer(delivery))
    loop.run_until_complete(turns())
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    script.silent = False

    assert 0 == in_thread(delivery.result).offset
    assert 0 == asyncio.run(answer(delivery)).offset


def test_awaited_in_a_later_run(pool, script):
    """A delivery of one asyncio.run can be awaited in the next one."""

    async def first() -> Delivery:
        async with pool.producer() as producer:
            return producer.produce_async("orders", "v")

    delivery = asyncio.run(first())
    script.silent = False

    assert 0 == asyncio.run(answer(delivery)).offset


# -- wake-ups ----------------------------------------------------------------------------------------


async def test_few_wake_ups(pool, script, wake_ups):
    """Thousands of tasks that await a delivery each cost a loop few wake-ups."""
    async with pool.producer() as producer:
        deliveries = [producer.produce_async("orders", str(number)) for number in range(MANY)]
        waiting = [asyncio.create_task(answer(delivery)) for delivery in deliveries]
        await turns(2)
        script.silent = False
        async with asyncio.timeout(PATIENCE):
            reports = await asyncio.gather(*waiting)

    assert list(range(MANY)) == [report.offset for report in reports]
    assert wake_ups.total() < WAKE_UPS


async def test_few_wake_ups_of_two_loops(pool, script, wake_ups):
    """Each loop is woken once for all of its tasks, whichever answers come together."""
    deliveries = produce(pool, *map(str, range(MANY)))
    ready = threading.Event()

    async def elsewhere() -> int:
        waiting = [asyncio.create_task(answer(delivery)) for delivery in deliveries[::2]]
        await turns(2)
        ready.set()
        return len(await asyncio.gather(*waiting))

    other = FutureThread(lambda: asyncio.run(elsewhere()))
    other.start()
    await asyncio.to_thread(ready.wait, PATIENCE)
    waiting = [asyncio.create_task(answer(delivery)) for delivery in deliveries]
    await turns(2)
    script.silent = False
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*waiting)
        count = await asyncio.to_thread(other.outcome)

    assert MANY / 2 == count
    assert wake_ups.total() < WAKE_UPS


async def test_few_wake_ups_of_one_call(pool, script, wake_ups):
    """One awaited call for thousands of records costs few wake-ups, too."""
    script.silent = False
    async with pool.producer() as producer:
        deliveries = [producer.produce_async("orders", str(number)) for number in range(MANY)]
        await producer.flush()

    assert {"delivered"} == {delivery.outcome for delivery in deliveries}
    assert wake_ups.total() < WAKE_UPS


# -- callbacks ---------------------------------------------------------------------------------------


async def test_callback(pool, script):
    """A callback runs on a worker thread, also for a record that a task has produced."""
    told: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def note(delivery: Delivery) -> None:
        loop.call_soon_threadsafe(told.set_result, (delivery.outcome, threading.current_thread().name))

    async with pool.producer() as producer:
        producer.produce_async("orders", "v").add_done_callback(note)
    script.silent = False

    assert ("delivered", "wd_di-orders-callback") == await told


@pytest.mark.parametrize("cancelled", [False, True], ids=["late", "cancelled"])
async def test_a_failure_after_its_awaited_call_is_forgotten(pool, script, cancelled):
    """Who gave up on a produce_sync, or was told that it is late, isn't told of its failure by flush."""
    script.failing.add("broken")
    async with pool.producer() as producer:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01 if cancelled else PATIENCE):
                await producer.produce_sync("broken", timeout_ms=10_000 if cancelled else 10)
        waiting = list(internals.ledger(producer).pending)
        script.silent = False
        await producer.flush()

        assert ["failed"] == [delivery.outcome for delivery in waiting]
        assert {} == internals.ledger(producer).failed
