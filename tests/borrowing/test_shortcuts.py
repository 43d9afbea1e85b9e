"""What the short ways of the most frequent calls must not leave out."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import Any

import pytest

from tests import internals
from tests.scripted import PATIENCE, FaultKind, Script, committed, fault, make_pool, outcome, plain_pool
from wd_di import Message, PoolTimeoutError, QueueFullError, TransactionClosedError
from wd_di._concurrency import waiters
from wd_di._observing import Event, Observer
from wd_di._records.delivery import Ledger
from wd_di._records.sender import SERVE_EVERY, Sender
from wd_di._slots.housekeeping import Housekeeper
from wd_di._transactions.transaction import OpenTransaction
from wd_di._transactions.writing import Writing
from wd_di.errors import DeliveryTimeoutError
from wd_di.events import MessageAcknowledged, MessageFailed
from wd_di.pool import ProducerPool

AT_ONCE_S = 0.25
"""Less than the poller's nap, which would hide that nobody has woken it."""


def soon(holds: Any) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + PATIENCE
        threading.Event().wait(0.001)
    return time.monotonic() - began


def rested(pool: ProducerPool) -> None:
    """Wait until its poller naps for long."""
    threading.Event().wait(0.05)  # as long as its longest nap while anything is due
    soon(lambda: internals.house(pool)._poller.napping)


# -- long waits on a loop ----------------------------------------------------------------------------


async def in_vain(pool: ProducerPool) -> type[BaseException] | None:
    """What becomes of a borrower that nobody serves."""
    error: BaseException | None = None
    try:
        async with asyncio.timeout(PATIENCE), pool.producer():
            pass
    except (PoolTimeoutError, TimeoutError) as raised:
        error = raised
    return None if error is None else type(error)


def test_a_closed_loop_gives_its_slot_back(script: Script) -> None:
    """Nothing keeps a task that waits for long on a loop which is closed under it, nor so the loop."""
    script.silent = True
    with plain_pool() as pool:

        async def hold() -> None:
            async with pool.producer() as producer:
                await producer.produce_sync("orders", "x")

        async def start() -> None:
            task = asyncio.create_task(hold())
            await asyncio.sleep(0.05)
            # asyncio would say that a task was destroyed which was pending: that is the case here.
            task._log_destroy_pending = False  # type: ignore[attr-defined]  (the stub has no private names)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(start())
        loop.close()
        left = weakref.ref(loop)
        del loop
        script.silent = False

        soon(lambda: gc.collect() >= 0 and pool.stats().in_use == 0)
        assert left() is None


def test_a_signal_between_two_rounds_ends_no_others(script: Script) -> None:
    """What a handler raises while a loop's long waits are looked at is logged by asyncio, and they end all the same."""

    class RaisedError(Exception):
        """As a soft time limit."""

    def handler(*_: object) -> None:
        raise RaisedError

    met: list[object] = []

    def interrupt(frame: Any, event: str, _: object) -> None:
        if event == "c_return" and frame.f_code is waiters._Rounds._look.__code__ and not met:
            met.append(event)
            signal.raise_signal(signal.SIGUSR1)

    async def twice(pool: ProducerPool) -> list[object]:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: met.append(type(told["exception"])))
        sys.setprofile(interrupt)
        first = await in_vain(pool)
        sys.setprofile(None)
        return [first, await in_vain(pool)]

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with plain_pool(timeout_ms=600) as pool, pool.producer():
            raised = asyncio.run(twice(pool))
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGUSR1, before)

    assert ["c_return", RaisedError] == met
    assert [PoolTimeoutError, PoolTimeoutError] == raised


def test_a_loop_that_moves_between_threads(script: Script) -> None:
    """Its long waits end wherever it runs."""
    loop, raised = asyncio.new_event_loop(), []

    def run(work: Any) -> None:
        raised.append(loop.run_until_complete(work))

    async def begin(pool: ProducerPool) -> asyncio.Task[Any]:
        task = asyncio.create_task(in_vain(pool))
        await asyncio.sleep(0.05)
        return task

    with plain_pool(timeout_ms=600) as pool, pool.producer():
        task = loop.run_until_complete(begin(pool))
        for work in (task, asyncio.sleep(0.1)):
            thread = threading.Thread(target=run, args=(work,))
            thread.start()
            thread.join(2 * PATIENCE)
        run(in_vain(pool))
    loop.close()

    assert [PoolTimeoutError, None, PoolTimeoutError] == raised


# -- writes that race the end ------------------------------------------------------------------------


def test_a_write_that_is_refused_aborts_no_commit(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is about to be refused while the commit looks for what has no answer."""
    being_refused, go_on = threading.Event(), threading.Event()
    refuse, unflushed = Writing.closed_error, OpenTransaction._unflushed
    late: list[Any] = []

    def slowly(writing: Writing) -> Exception:
        being_refused.set()
        go_on.wait(PATIENCE)
        return refuse(writing)

    with make_pool() as pool:

        def look(transaction: Any, *given: Any) -> Any:
            thread = threading.Thread(target=lambda: late.append(outcome(lambda: tx.produce_async("orders", "late"))))
            thread.start()
            assert being_refused.wait(PATIENCE)
            try:
                return unflushed(transaction, *given)
            finally:
                go_on.set()
                thread.join(PATIENCE)

        monkeypatch.setattr(Writing, "closed_error", slowly)
        monkeypatch.setattr(OpenTransaction, "_unflushed", look)
        with pool.transaction() as tx:
            tx.produce_sync("orders", "in time")

        assert ["in time"] == committed(pool)
    assert [TransactionClosedError] == [type(each) for each in late]


# -- who is told, and where --------------------------------------------------------------------------


def test_listeners_are_called_by_no_sender(script: Script) -> None:
    """Whoever sends may hold a lock that a listener wants."""
    script.failing = {"bad"}
    met: set[str] = set()
    with plain_pool() as pool:
        pool.observer.subscribe(MessageFailed, lambda _: met.add(threading.current_thread().name))
        with pool.producer() as producer:
            for _ in range(2 * SERVE_EVERY):
                producer.produce_async("bad", "x")
            soon(lambda: met)
            with suppress(Exception):
                producer.flush()
            sent = threading.current_thread().name

    assert {"wd_di-" + pool.name + "-poller"} == met - {sent}


def test_a_failure_at_the_deadline_is_told_once(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if its borrower is told that it may fail while it is being noted."""
    script.silent, script.failing = True, {"bad"}
    noting, told = threading.Event(), threading.Event()
    note = Ledger.note_failed

    def slowly(ledger: Ledger, delivery: Any) -> None:
        noting.set()
        told.wait(PATIENCE)
        note(ledger, delivery)

    monkeypatch.setattr(Ledger, "note_failed", slowly)
    script.always("flush", lambda: noting.wait(0.05))
    with plain_pool() as pool, pool.producer() as producer:

        def answer() -> None:
            script.silent = False
            internals.client(producer).poll(0)

        thread = threading.Timer(0.05, answer)
        thread.start()
        first = outcome(lambda: producer.produce_sync("bad", "x", timeout_ms=200))
        told.set()
        thread.join(PATIENCE)
        again = outcome(producer.flush)

    assert DeliveryTimeoutError is type(first)
    assert again is None


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_record_that_is_lost_unseen_is_logged(
    script: Script, caplog: pytest.LogCaptureFixture, *, cancelled: bool
) -> None:
    """Though somebody had awaited it on a shared producer for a while."""
    async with plain_pool(name=f"cancelled-{cancelled}", share=3) as pool:  # a line comes once in a while for each
        async with pool.producer() as producer:
            internals.client(producer).topics.answered.add("orders")
            script.silent = True
            task = asyncio.create_task(producer.produce_sync("orders", "x", timeout_ms=None if cancelled else 1_100))
            await asyncio.sleep(0.05)
            if cancelled:
                task.cancel()
            await asyncio.wait([task])
        script.failing, script.silent = {"orders"}, False
        await asyncio.to_thread(soon, lambda: "a record was lost after its producer went back" in caplog.text)

    assert task.cancelled() is cancelled


def test_an_observer_decides_itself_what_it_wants(script: Script) -> None:
    """Be it one of ours that was refined, or another that has the same two methods."""

    class Wants:
        def __init__(self) -> None:
            self.got: list[type[Event]] = []

        def wants(self, _: type[Event]) -> bool:
            return True

        def emit(self, event: type[Event], /, **_: object) -> None:
            self.got.append(event)

    class Refined(Wants, Observer):
        def __init__(self) -> None:
            Observer.__init__(self)
            Wants.__init__(self)

    for observer in (Wants(), Refined()):
        with plain_pool(observer=observer) as pool, pool.producer() as producer:
            producer.produce_sync("orders", "x")
        assert MessageAcknowledged in observer.got


# -- who serves --------------------------------------------------------------------------------------


async def test_a_batch_that_waits_for_room_is_served() -> None:
    """The poller is woken for what was enqueued, and not only at the end."""
    room = 5
    async with plain_pool() as pool, pool.producer() as producer:
        client = internals.client(producer)
        enqueue = client.produce

        def produce(*given: Any) -> None:
            if client.owes() >= room:
                raise fault(FaultKind.QUEUE_FULL)
            enqueue(*given)

        client.produce = produce  # type: ignore[method-assign]  (of this one client, as long as the test)
        await asyncio.to_thread(rested, pool)
        began = time.monotonic()
        await producer.produce_many_sync([Message("orders", "x")] * 4 * room)

    assert time.monotonic() - began < AT_ONCE_S


@pytest.mark.parametrize("how", ["late", "interrupted", "the last before a pause"])
def test_a_record_that_nobody_waits_for_any_more_is_served(script: Script, how: str) -> None:
    """Its failure is told at once."""
    script.failing, met = {"bad"}, []
    with plain_pool() as pool, pool.producer() as producer:
        pool.observer.subscribe(MessageFailed, met.append)
        if how == "interrupted":
            script.on("flush", KeyboardInterrupt())
        if how == "the last before a pause":
            internals.lease(producer).connection.unserved = SERVE_EVERY - 1
        rested(pool)
        if how == "the last before a pause":
            script.silent = True  # its answer comes when its answers have just been collected
            producer.produce_async("bad", "x")
            script.silent = False
        else:
            outcome(lambda: producer.produce_sync("bad", "x", timeout_ms=0 if how == "late" else None))

        assert soon(lambda: met) < AT_ONCE_S
        outcome(producer.flush)


async def test_a_shared_producer_without_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's poller serves who awaits a record on it, at once."""
    monkeypatch.setattr(Housekeeper, "_serve_alone", lambda *_: None)  # as if there were no more threads
    async with plain_pool(share=3) as pool, pool.producer() as producer:
        internals.client(producer).topics.answered.add("orders")
        await asyncio.to_thread(rested, pool)
        began = time.monotonic()
        await producer.produce_sync("orders", "x")

    assert time.monotonic() - began < AT_ONCE_S


# -- what is kept ------------------------------------------------------------------------------------


def test_a_borrower_that_has_flushed_is_in_no_cycle() -> None:
    """What a task has sent by goes with its block, without the garbage collector."""

    async def flushed(pool: ProducerPool) -> None:
        async with pool.producer() as producer:
            producer.produce_async("orders", "x")
            await producer.flush()

    def senders() -> int:
        return sum(isinstance(each, Sender) for each in gc.get_objects())

    with plain_pool() as pool:
        asyncio.run(flushed(pool))
        gc.collect()
        gc.disable()
        try:
            before = senders()
            for _ in range(3):
                asyncio.run(flushed(pool))
            left = senders()
        finally:
            gc.enable()

    assert before == left


def test_a_full_queue_comes_from_nothing(script: Script) -> None:
    """What is raised for it keeps no frames of the tries."""
    script.always("produce", fault(FaultKind.QUEUE_FULL))
    with plain_pool() as pool, pool.producer() as producer:
        error = outcome(lambda: producer.produce_async("orders", "x", timeout_ms=10))

    assert QueueFullError is type(error)
    assert error.__context__ is None
