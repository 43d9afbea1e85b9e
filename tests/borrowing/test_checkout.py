from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest

from tests import internals
from tests.pools import plain
from tests.pools import pool as on_brokers
from tests.scripted import Fault, FaultKind, committed, plain_pool
from wd_di import ProducerConfig
from wd_di._concurrency.deadline import Deadline
from wd_di._kafka.memory import MemoryBroker, MemoryClient
from wd_di._slots import making
from wd_di._slots.housekeeping import Housekeeper
from wd_di.errors import (
    CheckoutReturnedError,
    PoolClosedError,
    PoolExhaustedError,
    PoolOpenError,
    PoolTimeoutError,
    PoolUnhealthyError,
    ScopeError,
    SettingsError,
)
from wd_di.events import EVENTS, Observer
from wd_di.pool import ProducerPool
from wd_di.settings import PoolSettings
from wd_di.testing import MockKafka

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds after which a test gives up; what it waits for comes in milliseconds."""
PATIENCE_MS = 10_000
IDS = {"transactional_id": "t-{index}"}


# -- tools -----------------------------------------------------------------------------------------


@pytest.fixture
def pools() -> Iterator[list[ProducerPool]]:
    """Closes what a test has opened."""
    made: list[ProducerPool] = []
    yield made
    for pool in made:
        pool.close(timeout_ms=0, force=True)


@pytest.fixture
def make(pools: list[ProducerPool]) -> Callable[..., ProducerPool]:
    """Makes pools called orders that keep their messages in memory."""

    def build(observer: Observer | None = None, **given: Any) -> ProducerPool:
        pool = two(observer=observer, **given)
        pools.append(pool)
        return pool

    return build


def two(**given: Any) -> ProducerPool:
    """An unopened pool of two producers without Kafka, but for what is given."""
    return plain_pool(**{"size": 2, "timeout_ms": PATIENCE_MS, "close_timeout_ms": PATIENCE_MS, **given})


def settings(**given: Any) -> PoolSettings:
    """New settings for such a pool."""
    return PoolSettings.model_validate({"size": 2, "deliver": False, "timeout_ms": PATIENCE_MS, **given})


def run(job: Callable[[], T], name: str | None = None) -> Future[T]:
    """Run the job in a thread of its own."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(job())
        except BaseException as error:  # noqa: BLE001  (raised again where the result is asked for)
            future.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future


def soon(pool: ProducerPool, holds: Callable[[], object]) -> None:
    """Wait until it holds of the pool; for what no event tells."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, repr(pool)
        threading.Event().wait(0.001)


def waiting(pool: ProducerPool, count: int) -> None:
    """Wait until so many borrowers wait."""
    soon(pool, lambda: pool.stats().waiting == count)


class Guest:
    """A thread that holds a producer until it is told to leave."""

    def __init__(self, pool: ProducerPool, name: str = "guest", **options: Any) -> None:
        self.leave = threading.Event()
        self.index: Future[int] = Future()
        self.left = run(lambda: self._stay(pool, options), name)

    def _stay(self, pool: ProducerPool, options: dict[str, Any]) -> None:
        try:
            with pool.producer(**options) as producer:
                self.index.set_result(producer.index)
                assert self.leave.wait(PATIENCE)
        except BaseException as error:
            if not self.index.done():
                self.index.set_exception(error)
            raise

    def seated(self) -> Guest:
        """Itself, once it holds a producer."""
        self.index.result(PATIENCE)
        return self

    def go(self) -> None:
        """Leave, and be gone."""
        self.leave.set()
        self.left.result(PATIENCE)


class Told:
    """An observer that keeps everything."""

    def __init__(self, *names: str) -> None:
        self.observer = Observer()
        self.events: list[Any] = []
        self._come: queue.Queue[str] = queue.Queue()
        for name in names or ("*",):
            self.observer.subscribe(name, self._note)

    def _note(self, event: Any) -> None:
        self.events.append(event)
        self._come.put(event.name)

    def next(self) -> str:
        """The next event's name."""
        return self._come.get(timeout=PATIENCE)

    def names(self) -> list[str]:
        """Those of all that happened, with the producer's index if there is one."""
        return [f"{event.name} {getattr(event, 'index', '')}".strip() for event in self.events]


class Gate:
    """Keeps the creation of some clients waiting, or fails it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shut: dict[str, threading.Event] = {}
        self.faults: dict[str, Exception] = {}
        self.reached: queue.Queue[str] = queue.Queue()
        gate = self

        class Gated(MemoryClient):
            def init(self, seconds: float) -> None:
                name = self.transactional_id or ""
                gate.reached.put(name)
                if name in gate.shut:
                    assert gate.shut[name].wait(PATIENCE)
                if (fault := gate.faults.get(name)) is not None:
                    self.last_error = f"last: {fault}"
                    threading.Event().wait(0.001)
                    raise fault
                super().init(seconds)

        def connect(broker: MemoryBroker, name: str | None, answers: Any) -> MemoryClient:
            return Gated(broker, name, answers)  # a class in its place wouldn't be bound

        monkeypatch.setattr(MemoryBroker, "connect", connect)

    def hold(self, name: str) -> threading.Event:
        """Set the event to let the creation go on."""
        self.shut[name] = threading.Event()
        return self.shut[name]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Whoever stands in the way of new clients."""
    gate = Gate(monkeypatch)
    yield gate
    for event in gate.shut.values():
        event.set()


Make = Callable[..., ProducerPool]


# -- borrowing -------------------------------------------------------------------------------------


def test_a_producer_is_lent_for_the_block(make: Make) -> None:
    """And is back after it, also when the block fails."""
    pool = make(size=1)
    with pytest.raises(ZeroDivisionError), pool.producer() as producer:
        assert (1, 0) == (pool.stats().in_use, producer.index // 0)

    assert (0, 1) == (pool.stats().in_use, pool.stats().idle)


def test_a_checkout_can_be_used_again_but_not_twice_at_once(make: Make) -> None:
    """It is a recipe: each 'with' borrows anew."""
    checkout = make().producer()
    with checkout as first, pytest.raises(ScopeError, match="producer of pool 'orders' is open already"):
        checkout.__enter__()
    with checkout as second:
        assert first is not second


def test_a_producer_serves_nobody_after_its_return(make: Make) -> None:
    """Whoever kept it is told to take another one."""
    pool = make()
    with pool.producer() as producer:
        pass

    for use in (producer.produce_sync, producer.produce_async):
        with pytest.raises(
            CheckoutReturnedError, match=r"^orders: producer 0 has gone back to its pool: take one with"
        ):
            use("topic", "value")
    assert "<Producer 0 of 'orders', returned>" == repr(producer)


def test_a_producer_can_be_returned_from_another_thread(make: Make) -> None:
    """The exit acts on the checkout, not on who calls it."""
    pool = make(size=1)
    checkout = pool.producer()
    producer = checkout.__enter__()
    run(lambda: checkout.__exit__(None, None, None)).result(PATIENCE)

    assert 0 == pool.stats().in_use
    with pool.producer() as another:
        assert producer is not another


def test_lazy_pools_make_no_more_producers_than_are_asked_for(make: Make) -> None:
    """A plain pool starts empty and grows with its borrowers."""
    pool = make(size=3)
    assert 0 == pool.stats().totals.created
    with pool.producer():
        guest = Guest(pool).seated()
        assert 2 == pool.stats().totals.created
        guest.go()


def test_warm_pools_make_all_producers_at_once(make: Make) -> None:
    """Also if nobody opened them: the first borrower takes what is ready first."""
    told = Told("producer.created")
    pool = make(told.observer, size=3, **IDS)
    with pool.producer():
        assert ["producer.created"] * 3 == [told.next() for _ in range(3)]

    assert 3 == pool.stats().idle


@pytest.mark.parametrize(("order", "expected"), [("fifo", [0, 1, 2, 0]), ("lifo", [2, 2, 2, 2])])
def test_idle_producers_take_turns_or_not(make: Make, order: str, expected: list[int]) -> None:
    """The setting decides; transactional pools rotate by default."""
    pool = make(size=3, warm=True, order=order, max_lifetime_ms=None)
    pool.open()
    with contextlib.ExitStack() as stack:  # bring them to the order 0, 1, 2
        by_index = {}
        for _ in range(3):
            scope = pool.producer().begin(ambient=False)
            by_index[scope.__enter__().index] = scope
        for index in range(3):
            stack.push(by_index[2 - index])
    used = []
    for _ in expected:
        with pool.producer() as producer:
            used.append(producer.index)

    assert expected == used


def test_a_shared_producer_serves_several_threads_at_once(make: Make) -> None:
    """The next one gets another, and each waits for its own records only."""
    pool = make(size=2, share=2)
    with pool.producer() as mine:
        guest = Guest(pool).seated()
        assert (mine.index, 1) == (guest.index.result(), pool.stats().in_use)
        third = Guest(pool).seated()
        assert mine.index != third.index.result()
        assert "topic" == mine.produce_sync("topic", "value", timeout_ms=PATIENCE_MS).topic
        guest.go()
        third.go()

    assert 2 == pool.stats().idle


def test_a_shared_producer_has_its_own_thread_which_sleeps(make: Make) -> None:
    """It waits inside the client, spends no time there, and ends with it."""
    pool = make(size=1, share=2)
    with pool.producer() as producer:
        producer.produce_sync("topic", "value", timeout_ms=PATIENCE_MS)
        began = time.process_time()
        threading.Event().wait(0.2)
        assert time.process_time() - began < 0.1
    pool.close()

    soon(pool, lambda: "wd_di-orders-0" not in {thread.name for thread in threading.enumerate()})


# -- waiting ---------------------------------------------------------------------------------------


def test_producers_are_handed_over_in_the_order_of_asking(make: Make) -> None:
    """Nobody is overtaken, neither by a later waiter nor by the one who gives back and asks again."""
    pool = make(size=1)
    served: queue.Queue[str] = queue.Queue()

    def serve(name: str) -> None:
        with pool.producer():
            served.put(name)

    with pool.producer():
        jobs = []
        for count, name in enumerate("abcd", 1):
            jobs.append(run(lambda name=name: serve(name)))  # type: ignore[misc]
            waiting(pool, count)
    serve("again")
    for job in jobs:
        job.result(PATIENCE)

    assert ["a", "b", "c", "d", "again"] == [served.get() for _ in range(5)]


def test_the_time_out_says_who_holds_what_and_how_long_one_waited(make: Make) -> None:
    """And is an event, too; the waiter itself is no longer counted."""
    told = Told("checkout.timed_out")
    pool = make(told.observer, size=2)
    guests = [Guest(pool, "worker-1").seated(), Guest(pool, "worker-2").seated()]
    third = Guest(pool, "worker-3")
    waiting(pool, 1)
    with pytest.raises(PoolTimeoutError) as raised:
        pool.producer(timeout_ms=20).__enter__()

    expected = "orders: no producer free after 20 ms (2 of 2 in use, 1 waiting; longest held 0."
    assert str(raised.value).startswith(expected)
    assert str(raised.value).endswith(" s by thread 'worker-1')")
    assert isinstance(raised.value, TimeoutError)
    assert [(20, raised.value)] == [(event.timeout_ms, event.error) for event in told.events]
    assert 1 == pool.stats().totals.timeouts
    for guest in [*guests, third]:
        guest.go()


def test_a_time_out_of_nothing_takes_what_is_ready_and_never_waits(make: Make, gate: Gate) -> None:
    """0 ms is a question; the creation it started goes on."""
    slow = gate.hold("t-0")
    pool = make(size=1, **IDS)
    with pytest.raises(PoolTimeoutError, match=r"^orders: no producer free after 0 ms \(0 of 1 in use, 0 waiting"):
        pool.producer(timeout_ms=0).__enter__()
    slow.set()
    soon(pool, lambda: pool.stats().idle == 1)
    with pool.producer(timeout_ms=0) as producer:
        assert 0 == producer.index


def test_a_negative_time_out_is_refused_when_it_is_written(make: Make) -> None:
    """Not when the checkout is opened."""
    with pytest.raises(ValueError, match="timeout_ms is -1: it can't be negative"):
        make().producer(timeout_ms=-1)


def test_the_pools_own_time_out_counts_if_none_is_given(make: Make) -> None:
    """None is the setting."""
    pool = make(size=1, timeout_ms=10)
    guest = Guest(pool, timeout_ms=PATIENCE_MS).seated()
    with pytest.raises(PoolTimeoutError, match="after 10 ms"):
        pool.producer(timeout_ms=None).__enter__()
    guest.go()


def test_waiting_for_a_slot_and_for_its_creation_have_one_deadline(make: Make, gate: Gate) -> None:
    """A slow broker's time-out says that it is connecting, and the last error."""
    pool = make(size=1, **IDS)
    gate.hold("t-0")
    with pytest.raises(PoolTimeoutError, match=r"after 30 ms \(0 of 1 in use, 0 waiting, 1 connecting\)"):
        pool.producer(timeout_ms=30).__enter__()


def test_a_time_out_names_the_error_that_kept_everybody_waiting(make: Make, gate: Gate) -> None:
    """That of the producer which is still being connected; else the last failure, which is also the cause."""
    told = Told("error.occurred")
    pool = make(told.observer, size=1, **IDS)
    gate.faults["t-0"] = Fault(FaultKind.RETRIABLE, "broker down")
    with pytest.raises(PoolTimeoutError, match=r"; last error: last: broker down$"):
        pool.producer(timeout_ms=50).__enter__()
    gate.faults["t-0"] = Fault(FaultKind.OTHER, "odd")
    told.next()
    with pytest.raises(PoolTimeoutError, match=r"; last error: producer 0: odd$") as raised:
        pool.producer(timeout_ms=10).__enter__()

    assert isinstance(raised.value.__cause__, PoolOpenError)
    assert isinstance(raised.value.__cause__.__cause__, Fault)


def test_the_queue_is_bounded_if_so_wished(make: Make) -> None:
    """Whoever comes later fails at once instead of lengthening it."""
    pool = make(size=1, max_waiting=1)
    guests = [Guest(pool).seated(), Guest(pool)]
    waiting(pool, 1)
    with pytest.raises(PoolExhaustedError, match="1 borrowers wait already"):
        pool.producer().__enter__()
    for guest in guests:
        guest.go()


def test_an_interrupt_while_waiting_loses_no_slot(make: Make) -> None:
    """Ctrl-C leaves the queue; the producer goes to the next one."""
    pool = make(size=1)
    guest = Guest(pool).seated()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        waiting(pool, 1)
        signal.pthread_kill(main, signal.SIGINT)

    job = run(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.producer().__enter__()
    job.result(PATIENCE)

    assert 0 == pool.stats().waiting
    guest.go()
    with pool.producer(timeout_ms=0):
        assert 1 == pool.stats().in_use
    assert 1 == pool.stats().idle


@pytest.mark.parametrize("step", ["start", "nudge", "carry_out"])
def test_an_interrupt_at_any_step_loses_no_slot(make: Make, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """It may come between any two steps of a checkout that needs another producer, not only inside the wait."""
    pool = make(size=2)
    guest = Guest(pool).seated()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(internals.house(pool), step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.producer().__enter__()
    guest.go()

    assert (0, 0) == (pool.stats().waiting, pool.stats().in_use)
    second = Guest(pool).seated()
    with pool.producer():
        assert 2 == pool.stats().in_use
    second.go()


def test_an_interrupt_right_after_the_grant_loses_no_slot(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot goes back, and the thread holds nothing."""
    pool = make(size=1)
    with pool.producer():
        pass

    take = internals.table(pool).take

    def interrupt(claim: Any) -> None:
        assert take(claim)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(internals.table(pool), "take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.producer().__enter__()

    assert (1, 0) == (pool.stats().idle, internals.lender(pool).holds())


def test_what_gets_ready_while_one_is_about_to_queue_is_taken_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody will wake the borrower later, so it must not wait."""
    pool = make(size=1, **IDS)
    start = internals.house(pool).start

    def start_and_dawdle() -> None:
        start()
        soon(pool, lambda: pool.stats().idle)

    monkeypatch.setattr(internals.house(pool), "start", start_and_dawdle)
    began = time.monotonic()
    with pool.producer():
        assert time.monotonic() - began < PATIENCE / 2


# -- nesting ---------------------------------------------------------------------------------------


def test_a_nested_checkout_of_the_same_thread_is_the_same_producer(make: Make) -> None:
    """And the inner exit ends nothing, so one slot can't wait for itself."""
    pool = make(size=1)
    with pool.producer() as outer:
        with pool.producer(timeout_ms=0) as inner:
            assert outer is inner
        assert 1 == pool.stats().in_use
        assert outer.produce_sync("topic", "value")


def test_inside_a_transaction_a_nested_checkout_is_that_transaction(make: Make) -> None:
    """Whatever is produced there belongs to it."""
    pool = make(**IDS)
    with pool.transaction() as tx, pool.producer() as producer:
        assert tx is producer


def test_another_thread_inherits_nothing(make: Make) -> None:
    """What one thread holds is its own, also for threads that it starts."""
    pool = make(size=2)
    with pool.producer() as mine:
        guest = Guest(pool).seated()
        assert mine.index != guest.index.result()
        guest.go()


def test_a_second_transaction_never_waits_for_the_first(make: Make) -> None:
    """Whoever holds one and waits for another could wait for itself; so it fails at once."""
    pool = make(size=1, **IDS)
    with pool.transaction(), pytest.raises(PoolExhaustedError, match="the caller holds one already") as raised:
        pool.transaction(propagation="new").__enter__()

    assert "1 of 1 in use, 0 waiting" in str(raised.value)
    assert 1 == pool.stats().idle


def test_scopes_may_end_in_another_order_than_they_began(make: Make) -> None:
    """Each gives back its own; what is left stays the thread's."""
    pool = make(size=3, **IDS)
    pool.open()
    scopes = [pool.transaction(propagation="new") for _ in range(3)]
    transactions = [scope.__enter__() for scope in scopes]
    for number in (1, 0):
        scopes[number].__exit__(None, None, None)

    assert 1 == pool.stats().in_use
    with pool.producer() as producer:
        assert transactions[2] is producer
    scopes[2].__exit__(None, None, None)
    assert (3, 0) == (pool.stats().idle, internals.lender(pool).holds())


# -- creating --------------------------------------------------------------------------------------


def test_a_slow_creation_delays_no_other_slot(make: Make, gate: Gate) -> None:
    """Who waits takes whatever is ready first, and comes and goes while one is still connecting."""
    slow = gate.hold("t-0")
    pool = make(size=2, **IDS)
    for _ in range(3):
        with pool.producer() as producer:
            assert 1 == producer.index
    assert (1, 1) == (pool.stats().creating, pool.stats().idle)
    slow.set()

    soon(pool, lambda: pool.stats().idle == 2)


def test_a_return_serves_who_waits_for_a_creation(make: Make, gate: Gate) -> None:
    """A waiter isn't bound to the slot that was started for it."""
    slow = gate.hold("t-1")
    pool = make(size=2, warm=False, **IDS)
    guest = Guest(pool).seated()
    second = Guest(pool)
    waiting(pool, 1)
    guest.go()

    assert 0 == second.seated().index.result()
    slow.set()
    second.go()


@pytest.mark.parametrize("kind", [FaultKind.SETTINGS, FaultKind.DENIED, FaultKind.FATAL])
def test_what_no_waiting_cures_fails_the_waiters_at_once(make: Make, gate: Gate, kind: FaultKind) -> None:
    """Long before their deadline, with the reason as the cause."""
    pool = make(size=1, **IDS)
    gate.faults["t-0"] = Fault(kind, "no such user")
    with pytest.raises(PoolOpenError, match=r"^orders: no producer can be connected: producer 0: no such user$"):
        pool.producer().__enter__()


def test_an_init_that_had_no_answer_is_asked_again_on_the_same_handle(make: Make, gate: Gate) -> None:
    """It goes on in the background, and would fence another one."""
    pool = make(size=1, **IDS)
    gate.faults["t-0"] = Fault(FaultKind.RETRIABLE, "not yet")
    guest = Guest(pool)
    for _ in range(3):
        gate.reached.get(timeout=PATIENCE)
    gate.faults.clear()
    guest.seated().go()

    assert (0, 1) == (pool.stats().totals.create_errors, pool.stats().totals.created)


def test_what_may_be_over_soon_is_tried_again(make: Make, gate: Gate) -> None:
    """The waiter gets the producer of a later try."""
    told = Told("error.occurred")
    pool = make(told.observer, size=1, **IDS)
    gate.faults["t-0"] = Fault(FaultKind.OTHER, "not yet")
    guest = Guest(pool)
    told.next()
    gate.faults.clear()
    guest.seated().go()

    assert (1, 1) == (pool.stats().totals.create_errors, pool.stats().totals.created)


def test_a_bug_while_creating_costs_no_slot(make: Make, gate: Gate) -> None:
    """An exception that nobody expected is a failed creation like others."""
    told = Told("error.occurred")
    pool = make(told.observer, size=1, **IDS)
    gate.faults["t-0"] = KeyError("oauth_cb")
    guest = Guest(pool)
    told.next()
    gate.faults.clear()
    guest.seated().go()

    assert "producer 0: 'oauth_cb'" == str(told.events[0].error)
    assert 1 == pool.stats().idle


def test_a_failed_handle_is_gone_before_its_index_is_used_again(
    make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would fence its own replacement."""
    closing, may_close = threading.Event(), threading.Event()

    def close(client: MemoryClient) -> None:
        closing.set()
        assert may_close.wait(PATIENCE)

    monkeypatch.setattr(MemoryClient, "close", close)
    pool = make(size=1, **IDS)
    gate.faults["t-0"] = Fault(FaultKind.OTHER, "odd")
    guest = Guest(pool)
    assert closing.wait(PATIENCE)
    gate.faults.clear()

    assert (1, 0) == (pool.stats().retiring, pool.stats().creating)
    may_close.set()
    guest.seated().go()


def test_opening_connects_every_producer_of_a_transactional_pool(make: Make) -> None:
    """Opening it again is harmless."""
    pool = make(size=3, **IDS)
    pool.open()
    pool.open()

    assert 3 == pool.stats().idle == pool.stats().totals.created


def test_who_opens_a_pool_that_is_closed_is_told_so(make: Make, gate: Gate) -> None:
    """At once, and not that producers couldn't be connected; the close goes on as whoever called it wants it."""
    pool = make(size=2, **IDS)
    go_on = gate.hold("t-1")
    opener = run(pool.open)
    soon(pool, lambda: pool.stats().idle)
    guest = Guest(pool).seated()
    closer = run(lambda: pool.close(timeout_ms=int(1000 * PATIENCE)))

    with pytest.raises(PoolClosedError, match=r"^orders: the pool was closed while it opened$"):
        opener.result(PATIENCE)
    assert (1, 1) == (pool.stats().in_use, pool.stats().creating)
    go_on.set()
    guest.go()
    assert closer.result(PATIENCE).clean


def test_a_plain_pool_that_is_closed_while_it_looks_for_brokers(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is who opens one whose only producer has no answer yet."""
    asked = threading.Event()

    def probe(client: MemoryClient, seconds: float) -> None:
        asked.set()
        raise Fault(FaultKind.RETRIABLE, "no answer")

    monkeypatch.setattr(MemoryClient, "probe", probe)
    pool = make(size=1)
    opener = run(pool.open)
    assert asked.wait(PATIENCE)
    report = pool.close(timeout_ms=int(1000 * PATIENCE))

    with pytest.raises(PoolClosedError, match=r"^orders: the pool was closed while it opened$"):
        opener.result(PATIENCE)
    assert report.clean


def test_a_pool_that_is_closed_when_it_has_just_opened(make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that a closed pool is open."""
    pool = make(size=1, **IDS)
    wait = Housekeeper.wait_until

    def closed_meanwhile(house: Housekeeper, *given: Any) -> bool:
        monkeypatch.undo()
        found = wait(house, *given)
        pool.close()
        return found

    monkeypatch.setattr(Housekeeper, "wait_until", closed_meanwhile)
    with pytest.raises(PoolClosedError, match=r"^orders: the pool was closed while it opened$"):
        pool.open()


def test_opening_twice_at_once_waits_twice(make: Make, gate: Gate) -> None:
    """Who opens a pool that another thread is opening waits for its connection, too."""
    pool = make(size=1, **IDS)
    go_on = gate.hold("t-0")
    openers = [run(pool.open), run(pool.open)]
    time.sleep(0.1)
    early = [opener.done() for opener in openers]
    go_on.set()
    for opener in openers:
        opener.result(PATIENCE)

    assert [False, False] == early


def test_repr_of_a_refused_pool() -> None:
    """A debugger shows it while its SettingsError is under way."""
    pool = ProducerPool.__new__(ProducerPool)
    with pytest.raises(SettingsError):
        pool.__init__(PoolSettings(), name="orders")  # type: ignore[misc]  # as Python does

    assert "<ProducerPool 'orders', not made>" == repr(pool)


def test_a_pool_that_cannot_be_opened_leaves_nothing_behind(make: Make, gate: Gate) -> None:
    """It says why, is closed, and the producers that worked are gone."""
    pool = make(size=2, **IDS)
    gate.faults["t-1"] = Fault(FaultKind.DENIED, "no right")
    with pytest.raises(
        PoolOpenError, match=r"^orders: [01] of 2 producers could be connected; last error: .*no right$"
    ):
        pool.open()

    soon(pool, lambda: pool.stats().idle + pool.stats().retiring + pool.stats().creating == 0)
    with pytest.raises(PoolClosedError):
        pool.producer().__enter__()


# -- retiring --------------------------------------------------------------------------------------


def test_a_producer_that_broke_is_replaced_on_its_return(make: Make) -> None:
    """Nobody gets it again; its slot keeps the index."""
    told = Told("producer.retired")
    pool = make(told.observer, size=1)
    with pool.producer() as producer:
        broken = internals.client(producer)
        broken.fault = Fault(FaultKind.FATAL, "fatal")
    with pool.producer() as producer:
        assert (0, True) == (producer.index, internals.client(producer) is not broken)

    assert [("broken", broken.fault)] == [(event.reason, event.error) for event in told.events]


def test_a_producer_that_broke_at_rest_is_lent_to_nobody(make: Make) -> None:
    """Also if the poller hasn't seen it yet."""
    pool = make(size=1)
    with pool.producer() as producer:
        broken = internals.client(producer)
    broken.fault = Fault(FaultKind.FATAL, "fatal")
    with pool.producer() as producer:
        assert internals.client(producer) is not broken


def test_a_pool_that_is_fenced_again_and_again_says_so(make: Make) -> None:
    """Another process has the same ids: waiting doesn't help."""
    pool = make(size=1, fenced_retries=0, **IDS)
    with pool.producer() as producer:
        internals.client(producer).fault = Fault(FaultKind.FENCED, "fenced")

    soon(pool, lambda: pool.stats().retiring == 0)
    with pytest.raises(PoolUnhealthyError, match="another process uses the same transactional ids"):
        pool.producer().__enter__()


@pytest.mark.parametrize("limit", ["max_lifetime_ms", "idle_timeout_ms"])
def test_an_old_or_unused_producer_is_closed_by_itself(make: Make, limit: str) -> None:
    """No borrower is needed for that, and the reason is the setting's name."""
    told = Told("producer.retired", "producer.closed")
    pool = make(told.observer, size=1, **{limit: 20})
    with pool.producer():
        pass

    assert ["producer.retired", "producer.closed"] == [told.next(), told.next()]
    assert limit == told.events[0].reason


def test_a_producer_that_is_held_too_long_is_reported_with_its_place(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: as an event and as a line in the log, which name the line that took it."""
    caplog.set_level(logging.ERROR, "wd_di")
    told = Told("error.occurred")
    pool = make(told.observer, size=1, leak_after_ms=20)
    with pool.producer():
        told.next()
        place = internals.table(pool).holders()[0].place

    assert place is not None
    assert place.startswith(f"{__file__}:")
    assert "leak" == told.events[0].where
    assert f"orders: producer 0 is held for more than 20 ms, from {place}" == str(told.events[0].error)
    assert 1 == len(caplog.messages)


# -- looking ---------------------------------------------------------------------------------------


def test_the_stats_add_up_at_any_moment(make: Make) -> None:
    """They are one picture, taken while everybody is busy."""
    pool = make(size=3)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with pool.producer():
                pass

    jobs = [run(work) for _ in range(4)]
    sums = set()
    for _ in range(500):
        stats = pool.stats()
        sums.add(stats.available + stats.in_use + stats.creating + stats.retiring)
    stop.set()
    for job in jobs:
        job.result(PATIENCE)

    assert {3} == sums


def test_a_pool_shows_itself_without_its_settings(make: Make) -> None:
    """Name, phase and counts."""
    pool = make(size=2)
    assert "<ProducerPool 'orders' new: 2 slots, 0 idle, 0 in use, 0 waiting>" == repr(pool)
    with pool.producer() as producer:
        assert "<ProducerPool 'orders' open: 2 slots, 0 idle, 1 in use, 0 waiting>" == repr(pool)
        assert "<Producer 0 of 'orders', 0 unanswered>" == repr(producer)
    pool.close()

    assert "<ProducerPool 'orders' closed: 2 slots, 0 idle, 0 in use, 0 waiting>" == repr(pool)
    assert "producer of pool 'orders'" == repr(pool.producer())


def test_a_slow_cluster_is_heard(mock_kafka: MockKafka) -> None:
    """A plain pool opens though an answer takes longer than the first question waits."""
    mock_kafka.set_rtt(250)

    with plain(mock_kafka.bootstrap_servers, size=1) as pool:
        assert 1 == pool.stats().idle


def test_producers_of_another_cluster_are_no_siblings(mock_kafka: MockKafka) -> None:
    """A success is news for the pool's other producers of the same cluster."""
    other = f"{mock_kafka.bootstrap_servers},{mock_kafka.bootstrap_servers}"  # named otherwise

    def configure(config: ProducerConfig, index: int) -> None:
        if index == 2:
            config.kafka["bootstrap.servers"] = other

    with on_brokers(mock_kafka.bootstrap_servers, size=3, configure=configure) as pool:
        first, second, third = (slot.connection.client._siblings for slot in internals.table(pool)._slots)

    assert first is second
    assert first is not third


# -- reloading -------------------------------------------------------------------------------------


def test_a_reload_replaces_all_producers_under_their_old_names(make: Make) -> None:
    """One after another; indices and transactional ids stay, clients don't."""
    told = Told("producer.created", "producer.closed")
    pool = make(told.observer, size=2, **IDS)
    pool.open()
    before = {slot.index: slot.connection.client for slot in internals.table(pool)._slots}
    told.events.clear()
    pool.reload()
    after = {slot.index: slot.connection.client for slot in internals.table(pool)._slots}

    closed_first = ["producer.closed 0", "producer.created 0", "producer.closed 1", "producer.created 1"]
    assert closed_first == told.names()
    assert {0: "t-0", 1: "t-1"} == {index: client.transactional_id for index, client in after.items()}
    assert not {*before.values()} & {*after.values()}
    assert (1, 2) == (pool.stats().generation, pool.stats().idle)


def test_a_reload_waits_for_a_holder_who_goes_on_undisturbed(make: Make) -> None:
    """The held producer is replaced when it comes back; others are lent meanwhile."""
    told = Told("producer.closed")
    pool = make(told.observer, size=2)
    with pool.producer() as producer:
        old = internals.client(producer)
        job = run(pool.reload)
        soon(pool, lambda: pool.stats().generation == 1)
        with pytest.raises(
            PoolTimeoutError, match=r"^orders: producers \[0\] are still of the generation before: 0 held"
        ):
            pool.reload(timeout_ms=0)
        with pytest.raises(
            PoolTimeoutError, match=r"^orders: after 0\.02 s producers \[0\] are still of the generation"
        ):
            pool.reload(timeout_ms=20)
        Guest(pool).seated().go()
        assert producer.produce_sync("topic", "value")
        assert not job.done()
    job.result(PATIENCE)

    with pool.producer() as producer:
        assert old is not internals.client(producer)


def test_reloading_what_was_never_used_is_over_at_once(make: Make) -> None:
    """There is nothing of an older generation, also if all of it is wanted warm."""
    pool = make(size=2, **IDS)
    pool.reload(timeout_ms=0)

    assert (1, 0) == (pool.stats().generation, pool.stats().creating)


def test_a_reload_may_bring_new_settings(pools: list[ProducerPool]) -> None:
    """Configure is asked again for every index, and not for a replacement."""
    asked: list[int] = []
    pool = two(timeout_ms=1, configure=lambda _, index: asked.append(index))
    pools.append(pool)
    pool.open()
    assert [0, 1] == asked
    pool.reload(settings(timeout_ms=2))
    pool.reload()

    assert [0, 1, 0, 1] == asked
    assert 2 == internals.lender(pool).policies.settings.timeout_ms


@pytest.mark.parametrize("given", [{"size": 3}, IDS])
def test_a_reload_cannot_make_another_pool_of_it(make: Make, given: dict[str, Any]) -> None:
    """Its size and its kind are for life; nothing happens then."""
    pool = make(size=2)
    with pytest.raises(SettingsError, match="orders: reload can't change size or transactional_id on and off"):
        pool.reload(settings(**given))

    assert 0 == pool.stats().generation


def test_a_closed_pool_takes_nothing_of_new_settings(pools: list[ProducerPool]) -> None:
    """Refused before configure is asked, it has neither the new settings nor their ids, which another pool may have."""
    asked: list[int] = []
    servers = {"bootstrap.servers": "127.0.0.1:9"}
    old, new = (
        PoolSettings.model_validate({"size": 1, "transactional_id": f"{word}-{{host}}", "kafka": servers})
        for word in ("old", "new")
    )
    closed = ProducerPool(old, configure=lambda _, index: asked.append(index), name="closed")
    closed.close()
    with pytest.raises(PoolClosedError, match="closed: the pool is closed"):
        closed.reload(new)
    pools.append(ProducerPool(new, name="other"))

    assert [0] == asked
    assert old is internals.settings(closed)


def test_a_pool_that_closes_while_it_is_reconfigured_takes_nothing_either(pools: list[ProducerPool]) -> None:
    """Its configure may close it; the refusal comes before the new ids are taken."""
    servers = {"bootstrap.servers": "127.0.0.1:9"}
    old, new = (
        PoolSettings.model_validate({"size": 1, "transactional_id": f"{word}-{{host}}", "kafka": servers})
        for word in ("former", "next")
    )
    closers: list[Callable[[], object]] = []
    pool = ProducerPool(old, configure=lambda _: [close() for close in closers], name="closing")
    closers.append(pool.close)
    with pytest.raises(PoolClosedError, match="closing: the pool is closed"):
        pool.reload(new)

    pools.append(ProducerPool(new, name="other"))


def test_a_refused_claim_changes_nothing(pools: list[ProducerPool]) -> None:
    """An id that another pool has is a SettingsError, and the old settings are still those of the pool."""
    servers = {"bootstrap.servers": "127.0.0.1:9"}
    mine, theirs = (
        PoolSettings.model_validate({"size": 1, "transactional_id": f"{word}-{{host}}", "kafka": servers})
        for word in ("mine", "theirs")
    )
    pool, other = ProducerPool(mine, name="mine"), ProducerPool(theirs, name="theirs")
    pools.extend((pool, other))
    with pytest.raises(SettingsError, match="in use by pool 'theirs'"):
        pool.reload(theirs)

    assert (0, mine) == (pool.stats().generation, internals.settings(pool))


def test_a_reload_during_which_the_pool_closes_says_so(make: Make) -> None:
    """It isn't reported as reloaded."""
    told = Told("connection_pool.reloaded")
    pool = make(told.observer, size=1)
    guest = Guest(pool).seated()
    job = run(pool.reload)
    soon(pool, lambda: pool.stats().generation == 1)
    pool.close(timeout_ms=0)

    with pytest.raises(PoolClosedError, match="orders: the pool was closed while it reloaded"):
        job.result(PATIENCE)
    assert [] == told.events
    guest.go()


# -- closing ---------------------------------------------------------------------------------------


def test_a_closed_pool_lends_nothing(make: Make) -> None:
    """Neither a producer nor a transaction, and it can't be opened again."""
    pool = make(**IDS)
    with pool:
        pass

    for ask in (pool.producer().__enter__, pool.transaction().__enter__, pool.open, pool.reload):
        with pytest.raises(PoolClosedError, match="orders: the pool is closed"):
            ask()


def test_closing_waits_for_the_holders(make: Make) -> None:
    """Who holds one goes on, and the report is clean."""
    pool = make(size=1)
    with pool.producer() as producer:
        job = run(pool.close)
        soon(pool, lambda: internals.table(pool).closing)
        assert producer.produce_sync("topic", "value")
        assert not job.done()
    report = job.result(PATIENCE)

    assert report.clean
    assert 2 * [(), ()] == [report.held, report.abandoned] * 2


def test_closing_fails_the_waiters_at_once(make: Make) -> None:
    """They needn't wait for their deadline."""
    pool = make(size=1)
    guest = Guest(pool).seated()
    waiter = Guest(pool)
    waiting(pool, 1)
    pool.close(timeout_ms=0)

    with pytest.raises(PoolClosedError, match="orders: the pool is closing"):
        waiter.index.result(PATIENCE)
    guest.go()


def test_the_report_says_who_still_holds_what(make: Make) -> None:
    """At the deadline; what is held closes on its return."""
    told = Told("producer.closed")
    pool = make(told.observer, size=2)
    guest = Guest(pool, "worker-7").seated()
    report = pool.close(timeout_ms=20)

    assert [(0, "thread 'worker-7'")] == [(holder.index, holder.owner) for holder in report.held]
    assert not report.clean
    assert [] == told.events
    guest.go()
    assert "producer.closed" == told.next()


def test_a_late_holder_still_gets_its_answers_and_sends_what_it_owes(make: Make) -> None:
    """The pool's poller serves it until it returns, and what it enqueued is flushed, not purged."""
    pool = make(size=1)
    with pool.producer() as producer:
        pool.close(timeout_ms=0)
        assert producer.produce_async("topic", "first").result(PATIENCE_MS)
        last = producer.produce_async("topic", "last")

    assert last.result(PATIENCE_MS)
    assert ["first", "last"] == committed(pool)
    soon(pool, lambda: "wd_di-orders-poller" not in {thread.name for thread in threading.enumerate()})


def test_closing_by_force_takes_what_is_held(make: Make) -> None:
    """The holder's next use says so, its exit is harmless, and what it owes is given up."""
    pool = make(size=1)
    with pool.producer() as producer:
        report = run(lambda: pool.close(timeout_ms=0, force=True)).result(PATIENCE)
        assert ((), ()) == (report.held, report.abandoned)
        for use in (producer.produce_sync, producer.produce_async):
            with pytest.raises(CheckoutReturnedError):
                use("topic", "value")

    assert [0, 0] == [pool.stats().in_use, pool.stats().idle]


def test_what_a_close_has_left_can_be_taken_by_force_later(make: Make) -> None:
    """First ask, then take."""
    pool = make(size=1)
    guest = Guest(pool).seated()

    assert 1 == len(pool.close(timeout_ms=0).held)
    assert pool.close(timeout_ms=0, force=True).clean
    assert 0 == pool.stats().in_use
    guest.go()


def test_ids_are_free_again_when_the_last_producer_is_gone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while a late holder works under one of them; closing again looks after it."""
    client: Any = lambda _, name, answers, **__: MemoryClient(MemoryBroker(), name, answers)  # noqa: E731
    monkeypatch.setattr(making, "KafkaClient", client)
    given = {"deliver": True, "kafka": {"bootstrap.servers": "kafka:9092"}, "instance": "7"}
    given |= {"transactional_id": "t-{instance}-{index}"}
    pool = make(size=1, **given)
    guest = Guest(pool).seated()
    pool.close(timeout_ms=0)
    with pytest.raises(SettingsError, match="'t-7-0' on kafka:9092 is in use by pool 'orders' of this process"):
        make(size=1, **given)
    guest.go()
    soon(pool, lambda: pool.stats().in_use + pool.stats().retiring == 0)
    pool.close()

    assert make(size=1, **given)


def test_a_forced_close_during_a_transaction_aborts_it(make: Make) -> None:
    """Nothing of it is visible, and the holder is told."""
    pool = make(size=1, **IDS)

    def lose() -> None:
        with pool.transaction() as tx:
            tx.produce_async("topic", "value")
            run(lambda: pool.close(timeout_ms=0, force=True)).result(PATIENCE)

    with pytest.raises(Exception, match="orders") as raised:
        lose()

    assert not isinstance(raised.value, Fault)
    assert [] == committed(pool)


def test_a_holder_may_close_its_own_pool(make: Make) -> None:
    """It doesn't wait for itself, and is in the report."""
    pool = make(size=2)
    with pool.producer():
        report = pool.close(timeout_ms=PATIENCE_MS)
        assert [0] == [holder.index for holder in report.held]
        assert report.duration_ms < PATIENCE_MS / 2

    soon(pool, lambda: pool.stats().retiring + pool.stats().in_use == 0)


def test_closing_twice_gives_the_same_report(make: Make) -> None:
    """And tells of it once."""
    told = Told("connection_pool.shutdown")
    pool = make(told.observer)
    pool.open()
    report = pool.close()

    assert report is pool.close()
    assert [report] == [event.report for event in told.events]


def test_two_threads_may_close_at_once(make: Make) -> None:
    """The second joins the first."""
    told = Told("connection_pool.shutdown")
    pool = make(told.observer, size=1)
    guest = Guest(pool).seated()
    jobs = [run(pool.close), run(pool.close)]
    soon(pool, lambda: internals.table(pool).closing)
    assert not any(job.done() for job in jobs)
    guest.go()
    first, second = (job.result(PATIENCE) for job in jobs)

    assert first is second
    assert 1 == len(told.events)


def test_an_interrupted_close_has_closed_all_the_same(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the waiting; the next close doesn't wait for one that is gone."""
    told = Told("connection_pool.shutdown")
    pool = make(told.observer, size=1)
    guest = Guest(pool).seated()

    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(internals.house(pool), "wait_until", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.close()

    assert 1 == len(told.events)
    assert 1 == len(pool.close(timeout_ms=PATIENCE_MS).held)
    guest.go()


def test_what_has_no_answer_yet_is_not_reported_as_flushed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A close whose time is over while a producer still flushes doesn't know what becomes of that one's records."""
    may_flush = threading.Event()
    monkeypatch.setattr(MemoryClient, "poll", lambda *_: None)
    monkeypatch.setattr(MemoryClient, "flush", lambda *_: may_flush.wait(PATIENCE))
    pool = make(size=1, transactional_id=None)
    with pool.producer() as producer:
        delivery = producer.produce_async("t", "x")
    report = pool.close(timeout_ms=50)
    assert not delivery.done()
    assert (0, 0, (0,)) == (report.flushed, report.purged, report.abandoned)
    may_flush.set()
    soon(pool, lambda: pool.stats().retiring == 0)

    assert "purged" == delivery.outcome


def test_a_close_that_takes_too_long_goes_on_without_its_caller(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report names the index whose closing hadn't ended."""
    may_close = threading.Event()
    monkeypatch.setattr(MemoryClient, "close", lambda _: may_close.wait(PATIENCE))
    pool = make(size=1)
    pool.open()
    report = pool.close(timeout_ms=0)
    may_close.set()

    assert (0,) == report.abandoned
    assert not report.clean
    soon(pool, lambda: pool.stats().retiring == 0)


def test_closing_sends_what_is_still_queued(make: Make) -> None:
    """Also what was enqueued a moment ago, by a borrower that is gone."""
    pool = make(size=1)
    with pool.producer() as producer:
        deliveries = [producer.produce_async("topic", str(number)) for number in range(100)]
    report = pool.close()

    assert report.clean
    assert ["delivered"] * 100 == [delivery.outcome for delivery in deliveries]


def test_a_pool_that_is_left_open_and_forgotten_warns(make: Make) -> None:
    """It names the pool, and what to do."""
    pool = two(name="forgotten")
    with pool.producer():
        pass
    with pytest.warns(
        ResourceWarning, match=r"^pool 'forgotten' was never closed: call close\(\), or use it in 'with'$"
    ):
        del pool


# -- events ----------------------------------------------------------------------------------------


def test_every_transition_is_told_once_and_in_order() -> None:
    """From the pool's construction to its end."""
    told = Told()
    with two(size=1, observer=told.observer, **IDS) as pool:
        with pool.transaction() as tx:
            tx.produce_sync("topic", "value")
        pool.reload()
    pool.close()

    expected = [
        "connection_pool.created",
        "connection_pool.setup",
        "producer.created 0",
        "transaction.started 0",
        "message.acknowledged 0",
        "transaction.committed 0",
        "transaction.finished 0",
        "connection_pool.reload",
        "producer.closed 0",
        "producer.created 0",
        "connection_pool.reloaded",
        "producer.closed 0",
        "connection_pool.shutdown",
    ]
    assert expected == told.names()


def test_with_nobody_listening_no_event_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one in a whole life of a pool, good ends and bad ones."""
    built: list[str] = []
    for event in EVENTS:
        monkeypatch.setattr(event, "__init__", lambda self, **_: built.append(type(self).__name__))
    with two(size=1, **IDS) as pool:
        with pool.transaction() as tx:
            tx.produce_sync("topic", "value")
        with pytest.raises(ZeroDivisionError), pool.transaction() as tx:
            tx.produce_async("topic", str(1 // 0))
        guest = Guest(pool).seated()
        with pytest.raises(PoolTimeoutError):
            pool.producer(timeout_ms=0).__enter__()
        guest.go()
        pool.reload()

    assert [] == built
    pool.observer.subscribe("*", print)
    pool.observer.emit(EVENTS[0], pool="orders", size=1, timeout_ms=1)
    assert [EVENTS[0].__name__] == built


def test_a_listener_may_use_the_pool(make: Make) -> None:
    """Nothing is told under a lock."""
    observer = Observer()
    pool = make(observer, size=1, **IDS)
    seen: list[int] = []
    observer.subscribe("*", lambda _: seen.append(pool.stats().size))
    pool.open()
    with pool.transaction() as tx:
        tx.produce_sync("topic", "value")
    pool.reload()
    pool.close()

    assert {1} == {*seen}
    assert len(seen) > 8


# -- storms and forks ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [{}, {"share": 2}, IDS])
def test_a_storm_leaves_everything_in_its_place(make: Make, kind: dict[str, str]) -> None:
    """8 threads over 3 slots with time-outs, errors, broken producers and reloads: all slots are there again."""
    pool = make(size=3, fenced_retries=1000, **kind) if kind is IDS else make(size=3, **kind)
    end = Deadline(1.0)
    outcomes: queue.Queue[str] = queue.Queue()

    def once(dice: random.Random) -> None:
        with pool.producer(timeout_ms=dice.choice([0, 1, 5, 50])) as producer:
            chance = dice.random()
            if chance < 0.1:
                raise ValueError("body")
            if chance < 0.13:
                internals.client(producer).fault = Fault(FaultKind.FATAL, "broken")
            elif chance < 0.5:
                producer.produce_async("topic", "value")

    def work(seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311  (chance, not a secret)
        while not end.passed:
            try:
                once(dice)
                outcomes.put("done")
            except (PoolTimeoutError, ValueError) as error:
                outcomes.put(type(error).__name__)

    jobs = [run(lambda seed=seed: work(seed)) for seed in range(8)]  # type: ignore[misc]
    while not end.passed:
        with contextlib.suppress(PoolTimeoutError):
            pool.reload(timeout_ms=10)
    for job in jobs:
        job.result(PATIENCE)

    soon(pool, lambda: not (pool.stats().creating + pool.stats().retiring + internals.table(pool).restless))
    stats = pool.stats()
    assert (0, 0, 3) == (stats.in_use, stats.waiting, stats.available)
    assert stats.idle == stats.totals.created - stats.totals.retired
    assert {"done", "ValueError", "PoolTimeoutError"} == {outcomes.get() for _ in range(outcomes.qsize())}
    assert pool.close().clean


def in_child(job: Callable[[], object]) -> Any:
    """What the job returns in a forked child, by way of JSON."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 warns of what is tested here: a fork beside threads
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        answer: object = "nothing"
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(PATIENCE))
        try:
            answer = job()
        except BaseException as error:  # noqa: BLE001  (told to the parent)
            answer = repr(error)
        finally:
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader) as pipe:
            return json.loads(pipe.read())
    finally:
        os.waitpid(pid, 0)


def test_a_forked_child_has_an_empty_pool_of_its_own(make: Make) -> None:
    """What the parent made and holds isn't there; what the child makes has other ids."""
    pool = make(size=2, transactional_id="t-{instance}-{index}", instance="7")
    pool.open()

    def child() -> object:
        before = pool.stats()
        with pool.transaction() as tx:
            tx.produce_sync("topic", "value")
            name = internals.client(tx).transactional_id
        counts = (before.idle, before.in_use, before.available)
        return [counts, name == f"t-7-{os.getpid()}-{tx.index}", pool.close().clean]

    with pool.producer() as mine:
        assert [[0, 0, 2], True, True] == in_child(child)
        assert mine.produce_sync("topic", "value")

    assert 2 == pool.stats().idle


def test_a_checkout_from_before_the_fork_is_inert_in_the_child(make: Make) -> None:
    """Its exit gives nothing back, and the child's first checkout isn't it."""
    pool = make(size=1)
    checkout = pool.producer()
    producer = checkout.__enter__()

    def child() -> object:
        with pool.producer() as another:
            checkout.__exit__(None, None, None)
            return [another is producer, pool.stats().in_use]

    assert [False, 1] == in_child(child)
    checkout.__exit__(None, None, None)


def test_a_fork_while_others_are_at_work_leaves_no_lock_held(make: Make) -> None:
    """Another thread may be anywhere in the pool at that moment; the child has new locks."""
    pool = make(size=2)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with pool.producer() as producer:
                producer.produce_sync("topic", "value")

    def child() -> object:
        with pool.producer() as producer:
            producer.produce_sync("topic", "value")
        return pool.close().clean

    jobs = [run(work) for _ in range(3)]
    answers = [in_child(child) for _ in range(15)]
    stop.set()
    for job in jobs:
        job.result(PATIENCE)

    assert [True] * 15 == answers


def test_a_closed_pool_is_closed_in_the_child(make: Make) -> None:
    """It doesn't come back to life by a fork."""
    pool = make()
    pool.close()

    assert "PoolClosedError('orders: the pool is closed')" == in_child(lambda: pool.producer().__enter__())


def test_a_forgotten_shared_pool_ends_its_threads(make: Make) -> None:
    """The blocking poller of a shared producer holds nothing that nobody can close any more."""
    pool = make(size=1, share=2)
    with pool.producer() as producer:
        producer.produce_sync("orders", "one")
    [serving] = [thread for thread in threading.enumerate() if thread.name == "wd_di-orders-0"]
    internals.house(pool).forget()  # what the pool's finalizer says
    serving.join(PATIENCE)

    assert not serving.is_alive()


def test_a_forked_child_keeps_its_own_ids_through_a_reload(pools: list[ProducerPool]) -> None:
    """New settings in the child don't take the parent's ids, and ids that configure makes alike are refused."""
    kafka = {"bootstrap.servers": "127.0.0.1:9"}
    given = {"size": 1, "transactional_id": "kept-{instance}", "instance": "7", "kafka": kafka}
    pool = ProducerPool(PoolSettings.model_validate(given), name="kept")
    alike = ProducerPool(
        PoolSettings.model_validate({"size": 1, "kafka": kafka}),
        name="alike",
        configure=lambda config: config.kafka.update({"transactional.id": "alike"}),
    )
    pools.extend((pool, alike))
    child = os.fork()
    if child == 0:
        with contextlib.suppress(PoolTimeoutError):
            pool.reload(PoolSettings.model_validate({**given, "timeout_ms": 1}), timeout_ms=0)
        mine = [slot.transactional_id for slot in internals.plan(pool).slots]
        try:
            alike.producer()
        except SettingsError as error:
            refused = "would fence the parent's producer" in str(error)
        else:
            refused = False
        os._exit(0 if mine == [f"kept-7-{os.getpid()}"] and refused else 1)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_poller_without_a_thread_gets_one_later(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system had no thread to spare, deliveries are answered once it has."""
    start = threading.Thread.start
    scarce = [True]

    def refuse(thread: threading.Thread) -> None:
        if scarce[0] and thread.name == "wd_di-orders-poller":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool = make(size=1)
    with pool.producer() as producer:
        producer.produce_async("orders", "kept")
        scarce[0] = False
        delivery = producer.produce_async("orders", "answered")
    assert 1 == delivery.result(PATIENCE_MS).offset
