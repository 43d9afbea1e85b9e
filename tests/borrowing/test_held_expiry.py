from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import internals
from tests.scripted import (
    OFFSETS,
    PATIENCE,
    Fault,
    FaultKind,
    FutureThread,
    Script,
    committed,
    fault,
    in_thread,
    make_pool,
    outcome,
)
from wd_di import DeliveryReport, Retry
from wd_di._borrowing.scopes import TransactionRun
from wd_di._transactions.options import DEFAULTS
from wd_di.errors import (
    CheckoutReturnedError,
    PoolClosedError,
    PoolTimeoutError,
    TransactionAbortedError,
    TransactionError,
)
from wd_di.events import ProducerRetired
from wd_di.pool import ProducerPool

EXPIRY_MS = 1_000_000
TWICE = Retry(attempts=2, backoff_ms=0)


@pytest.fixture
def pool(script: Script) -> Iterator[ProducerPool]:
    """An open pool of two scripted producers that knows how long their ids live."""
    with make_pool(size=2, transactional_id_expiry_ms=EXPIRY_MS) as pool:
        yield pool


def age(pool: ProducerPool, ms: float = EXPIRY_MS) -> None:
    """Let time pass for the pool, but not for its poller, which is stopped like a process after SIGSTOP."""
    internals.house(pool)._poller.stop(PATIENCE)
    slots = internals.table(pool)
    before = slots._clock
    slots._clock = lambda: before() + ms / 1000


def forget(script: Script) -> None:
    """Let the broker forget all ids: every client that lives now has its next transaction refused."""
    refused = Fault(FaultKind.ABORTABLE, "scripted [INVALID_PRODUCER_ID_MAPPING]", expired=True)
    for client in script.clients:
        client.send_offsets = client.commit = raising(refused)  # type: ignore[method-assign]
        client.reason = lambda client=client: refused if client.in_transaction else None  # type: ignore[misc]


def until(happened: Callable[[], object]) -> None:
    """Wait until it has happened."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def raising(error: Exception) -> Any:
    """Something to call that raises."""

    def call(*_: object) -> None:
        raise error

    return call


def renewed(pool: ProducerPool) -> list[str]:
    """A list that fills with why producers were retired."""
    reasons: list[str] = []
    pool.observer.subscribe(ProducerRetired, lambda event: reasons.append(event.reason))
    return reasons


def produce(pool: ProducerPool, value: str) -> None:
    """Commit one record."""
    with pool.transaction() as tx:
        tx.produce_async("orders", value)


# -- the pool knows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["explicit", "ambient", "implicit", "run", "offsets"])
def test_an_old_id_is_never_tried(pool, script, how):
    """A producer that was held past its id's lifetime is exchanged before its next transaction."""
    with pool.producer() as producer:
        producer.produce_sync("orders", "early")
        forget(script)
        age(pool)
        if how == "explicit":
            with producer.transaction() as tx:
                tx.produce_async("orders", "late")
        if how == "ambient":
            with pool.transaction() as tx:
                tx.produce_async("orders", "late")
        if how == "implicit":
            producer.produce_sync("orders", "late")
        if how == "run":
            pool.run(lambda tx: tx.produce_async("orders", "late"))
        if how == "offsets":
            with producer.transaction() as tx:
                tx.send_offsets(OFFSETS, b"CGMD")
                tx.produce_async("orders", "late")
        again = pool.producer().__enter__()

        assert producer is again
    assert ["early", "late"] == committed(pool)


async def test_an_old_id_is_never_tried_by_a_task(pool, script):
    """A task gets another producer in its block, too, without blocking its loop."""
    async with pool.producer() as producer:
        await producer.produce_sync("orders", "early")
        forget(script)
        age(pool)
        async with producer.transaction() as tx:
            await tx.produce_sync("orders", "late")
        await producer.produce_sync("orders", "later")

    assert ["early", "late", "later"] == committed(pool)


def test_a_young_one_is_kept(pool, script):
    """Commits keep an id alive, so a producer in use is never exchanged."""
    reasons = renewed(pool)
    with pool.producer() as producer:
        for number in range(5):
            age(pool, 0.7 * EXPIRY_MS)
            producer.produce_sync("orders", str(number))

    assert [] == reasons
    assert 2 == len(script.clients)


def test_a_producer_keeps_its_index_in_a_pool_of_one(script):
    """Its successor has the same transactional id, made only when the old one is gone."""
    with make_pool(size=1, transactional_id_expiry_ms=EXPIRY_MS) as pool, pool.producer() as producer:
        reasons = renewed(pool)
        producer.produce_sync("orders", "early")
        age(pool)
        producer.produce_sync("orders", "late")

        assert 0 == producer.index
        assert [True, False] == [client._closed for client in script.clients]
        assert 1 == pool.stats().in_use
        assert ["transactional_id_expiry_ms"] == reasons
    assert 0 == pool.stats().in_use


def test_the_index_is_that_of_the_producer_at_hand(pool):
    """A younger sibling that is idle takes over at once, and the handle tells its index."""
    with pool.producer() as held:
        before = held.index
        age(pool)
        in_thread(lambda: pool.run(lambda tx: tx.produce_async("orders", "other")))
        held.produce_sync("orders", "late")

        assert [0, 1] == [before, held.index]
        assert "<Producer 1 of 'orders', 0 unanswered>" == repr(held)


# -- the broker was faster ---------------------------------------------------------------------------


def test_one_failure_in_a_held_block(pool, script):
    """The transaction that learns it aborts; the next one in the same block commits."""
    reasons = renewed(pool)
    with pool.producer() as producer:
        age(pool, EXPIRY_MS / 2)
        forget(script)
        with pytest.raises(TransactionAbortedError) as caught:
            producer.produce_sync("orders", "lost")
        for number in range(3):
            producer.produce_sync("orders", str(number))

    assert caught.value.safe_to_retry
    assert ["0", "1", "2"] == committed(pool)
    until(lambda: 2 * ["transactional.id expired"] == reasons)


@pytest.mark.parametrize("how", ["run", "offsets"])
def test_a_retry_in_a_held_block(pool, script, how):
    """Its second attempt gets through."""

    def work(tx: Any) -> None:
        if how == "offsets":
            tx.send_offsets(OFFSETS, b"CGMD")
        tx.produce_async("orders", "late")

    with pool.producer():
        forget(script)
        pool.run(work, retry=TWICE)

    assert ["late"] == committed(pool)


async def test_a_retry_in_a_tasks_block(pool, script):
    """The same for a task."""

    async def work(tx: Any) -> None:
        await tx.produce_sync("orders", "late")

    async with pool.producer() as producer:
        forget(script)
        await pool.run(work, retry=TWICE)
        await producer.produce_sync("orders", "later")

    assert ["late", "later"] == committed(pool)


def test_a_sibling_that_rested_less_is_not_trusted(pool, script):
    """Whoever has met a forgotten id meets no second one: it gets a producer of which the broker has heard since."""
    with pool.producer() as producer:
        age(pool, EXPIRY_MS / 2)
        in_thread(lambda: produce(pool, "of the sibling"))
        age(pool, EXPIRY_MS / 9)
        forget(script)
        pool.run(lambda tx: tx.produce_async("orders", "late"), retry=TWICE)

        assert producer.index in (0, 1)
    assert ["of the sibling", "late"] == committed(pool)


def test_a_producer_that_a_record_costs(script):
    """A block that holds one whose transaction was aborted with an unanswered record goes on with another one."""
    script.silent = True
    with make_pool(size=2, commit_timeout_ms=200) as pool, pool.producer() as producer:
        first = internals.client(producer)
        with pytest.raises(TransactionAbortedError), producer.transaction() as tx:
            tx.produce_async("orders", "lost")
        script.silent = False
        with producer.transaction() as tx:
            tx.produce_async("orders", "next")
            second = internals.client(tx)

        assert ["next"] == committed(pool)
    assert first is not second


def test_an_abort_that_failed_is_doubt(pool, script):
    """What couldn't be aborted retires its producer for good, as always: the block has to end."""
    with pool.producer() as producer:
        forget(script)
        script.on("abort", fault(FaultKind.FATAL))
        with pytest.raises(TransactionAbortedError):
            producer.produce_sync("orders", "lost")
        with pytest.raises(TransactionError, match=r"can't begin another transaction \(abort failed\)"):
            producer.produce_sync("orders", "refused")


# -- whom else it concerns ---------------------------------------------------------------------------


def test_waiters_come_after_the_holder(script):
    """Whoever brought a slot along isn't queued behind those who wait for one."""
    order: list[str] = []
    with make_pool(size=1, transactional_id_expiry_ms=EXPIRY_MS) as pool:
        with pool.producer() as producer:
            waiter = FutureThread(lambda: pool.run(lambda _: order.append("waiter")))
            waiter.start()
            until(lambda: pool.stats().waiting)
            age(pool)
            with producer.transaction():
                order.append("holder")
        waiter.outcome()

    assert ["holder", "waiter"] == order


@pytest.mark.parametrize("how", ["explicit", "implicit", "ambient"])
def test_no_producer_in_time(script, how):
    """If none can be made in time the error is a checkout's, others get the slot, and the next call asks again."""
    with make_pool(size=1, timeout_ms=50, transactional_id_expiry_ms=EXPIRY_MS) as pool:
        with pool.producer() as producer:
            calls: dict[str, Callable[[], object]] = {
                "explicit": lambda: producer.transaction().__enter__(),
                "implicit": lambda: producer.produce_sync("orders", "late"),
                "ambient": lambda: pool.run(lambda tx: tx.produce_async("orders", "late")),
            }
            age(pool)
            script.always("init", fault(FaultKind.RETRIABLE))
            for _ in range(3):
                with pytest.raises(PoolTimeoutError, match="no producer free after 50 ms"):
                    calls[how]()
            vacant = repr(producer)
            producer.flush()
            script._always.clear()
            in_thread(lambda: pool.run(lambda tx: tx.produce_async("orders", "another")))
            assert 0 == pool.stats().in_use
            producer.produce_sync("orders", "late")
            assert 1 == pool.stats().in_use
        assert 0 == pool.stats().in_use
        with pytest.raises(CheckoutReturnedError):
            producer.produce_sync("orders", "too late")

    assert "<Producer 0 of 'orders', waits for a producer>" == vacant
    assert ["another", "late"] == committed(pool)


async def test_no_producer_in_time_for_a_task(script):
    """A task's block goes on, too, also after a cancellation."""
    async with make_pool(size=1, timeout_ms=50, transactional_id_expiry_ms=EXPIRY_MS) as pool:
        async with pool.producer() as producer:
            age(pool)
            script.always("init", fault(FaultKind.RETRIABLE))
            with pytest.raises(PoolTimeoutError):
                await producer.produce_sync("orders", "late")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await producer.produce_sync("orders", "late")
            await producer.flush()
            script._always.clear()
            await producer.produce_sync("orders", "late")
        assert 0 == pool.stats().in_use

    assert ["late"] == committed(pool)


def test_a_forgotten_id_is_met_once(script):
    """Who asks again and again for another producer takes the first one that was made since it met the forgotten id."""
    with make_pool(size=1, timeout_ms=50, transactional_id_expiry_ms=EXPIRY_MS) as pool, pool.producer() as producer:
        forget(script)
        with pytest.raises(TransactionAbortedError):
            producer.produce_sync("orders", "lost")
        script.always("init", fault(FaultKind.RETRIABLE))
        for _ in range(2):
            with pytest.raises(PoolTimeoutError):
                producer.produce_sync("orders", "late")
        script._always.clear()
        until(lambda: pool.stats().idle)
        made = len(script.clients)
        producer.produce_sync("orders", "late")

        assert made == len(script.clients)
    assert ["late"] == committed(pool)


def test_closing_without_a_producer(script):
    """A close by a holder without one waits for those who hold some: that one isn't its own."""
    with make_pool(size=1, timeout_ms=50, transactional_id_expiry_ms=EXPIRY_MS) as pool, pool.producer() as producer:
        age(pool)
        script.always("init", fault(FaultKind.RETRIABLE))
        with pytest.raises(PoolTimeoutError):
            producer.produce_sync("orders", "late")
        script._always.clear()
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            with pool.transaction(timeout_ms=10_000) as tx:
                tx.produce_async("orders", "other")
                held.set()
                go.wait(PATIENCE)

        other = FutureThread(hold)
        other.start()
        held.wait(PATIENCE)
        threading.Timer(0.1, go.set).start()
        report = pool.close(timeout_ms=10_000, force=True)

        assert None is other.outcome()
        assert () == report.held
        assert ["other"] == committed(pool)


def test_a_block_ends_without_a_producer(script):
    """A holder that never got another one leaves nothing behind, and neither does one of a pool that closes."""
    with make_pool(size=1, timeout_ms=50, transactional_id_expiry_ms=EXPIRY_MS) as pool:
        with pool.producer() as producer:
            age(pool)
            script.always("init", fault(FaultKind.RETRIABLE))
            with pytest.raises(PoolTimeoutError):
                producer.produce_sync("orders", "late")
        assert internals.nothing_is_held(pool)
        with pytest.raises(CheckoutReturnedError):
            producer.transaction()
        script._always.clear()
        with pool.producer() as producer:
            age(pool)
            script.always("init", fault(FaultKind.RETRIABLE))
            with pytest.raises(PoolTimeoutError):
                producer.produce_sync("orders", "late")
            pool.close(timeout_ms=0, force=True)
            with pytest.raises(PoolClosedError):
                producer.produce_sync("orders", "late")
            with pytest.raises(CheckoutReturnedError):
                producer.produce_sync("orders", "late")

    assert [] == committed(pool)


def test_no_record_slips_in_without_a_producer(script):
    """While its holder has none, nothing reaches the producer that went back."""
    with make_pool(size=1, timeout_ms=50, transactional_id_expiry_ms=EXPIRY_MS) as pool, pool.producer() as producer:
        age(pool)
        script.always("init", fault(FaultKind.RETRIABLE))
        with pytest.raises(PoolTimeoutError):
            producer.produce_sync("orders", "late")
        with pytest.raises(CheckoutReturnedError):
            TransactionRun(internals.lender(pool), DEFAULTS, lease=internals.lease(producer))._prepare(
                internals.lease(producer)
            )
        script._always.clear()


def test_an_exchange_has_the_calls_own_time(script):
    """A call that is a transaction of its own waits for another producer no longer than for anything else."""
    with (
        make_pool(size=1, timeout_ms=60_000, transactional_id_expiry_ms=EXPIRY_MS) as pool,
        pool.producer() as producer,
    ):
        age(pool)
        script.always("init", fault(FaultKind.RETRIABLE))
        with pytest.raises(PoolTimeoutError, match=r"no producer free after (4\d|50) ms"):
            producer.produce_sync("orders", "late", timeout_ms=50)
        script._always.clear()


async def test_an_exchange_has_the_awaited_calls_own_time(script):
    """The same for a task."""
    lasting = make_pool(size=1, timeout_ms=60_000, transactional_id_expiry_ms=EXPIRY_MS)
    async with lasting as pool, pool.producer() as producer:
        age(pool)
        script.always("init", fault(FaultKind.RETRIABLE))
        with pytest.raises(PoolTimeoutError, match=r"no producer free after (4\d|50) ms"):
            await producer.produce_sync("orders", "late", timeout_ms=50)
        script._always.clear()


def test_a_pool_that_closes(script):
    """A pool that waits for its holders makes no new producers: by age the old one goes on, a forgotten one doesn't."""
    pool = make_pool(size=1, transactional_id_expiry_ms=EXPIRY_MS, close_timeout_ms=10_000)
    pool.open()
    with pool.producer() as producer:
        age(pool)
        closing = FutureThread(pool.close)
        closing.start()
        until(lambda: internals.table(pool).closing)
        producer.produce_sync("orders", "late")
        forget(script)
        with pytest.raises(TransactionAbortedError):
            producer.produce_sync("orders", "lost")
        with pytest.raises(PoolClosedError):
            producer.produce_sync("orders", "lost")
    closing.outcome()

    assert ["late"] == committed(pool)


def test_a_forced_close_while_the_holder_waits(script):
    """Who waits for another producer hears of the close at once."""
    gate = threading.Event()
    lasting = make_pool(size=1, transactional_id_expiry_ms=EXPIRY_MS, timeout_ms=60_000)
    with lasting as pool, pool.producer() as producer:
        age(pool)
        script.on("init", lambda: gate.wait(PATIENCE))
        waiting = FutureThread(lambda: producer.produce_sync("orders", "late"))
        waiting.start()
        until(lambda: pool.stats().waiting)
        pool.close(timeout_ms=0, force=True)
        raised = waiting.outcome()
        gate.set()

    assert isinstance(raised, PoolClosedError)


def test_two_threads_exchange_once(script):
    """Of two threads that share a held producer one exchanges it; the other finds it exchanged, or is told."""
    both, met = threading.Barrier(2, timeout=PATIENCE), threading.local()
    with make_pool(size=1, transactional_id_expiry_ms=EXPIRY_MS) as pool, pool.producer() as producer:
        age(pool)
        judge = internals.lender(pool).flaw

        def at_once(hold: Any) -> Any:
            flaw = judge(hold)
            if not hasattr(met, "other"):
                met.other = both.wait()
            return flaw

        internals.lender(pool).flaw = at_once  # type: ignore[method-assign]
        other = FutureThread(lambda: producer.produce_sync("orders", "other"))
        other.start()
        outcomes = [outcome(lambda: producer.produce_sync("orders", "mine")), other.outcome()]

    assert all(isinstance(each, (DeliveryReport, CheckoutReturnedError)) for each in outcomes)
    assert committed(pool)
    assert 2 == len(script.clients)
