"""What a signal's handler raises, wherever it comes, costs no slot, no waiter its turn and no later transaction."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from tests import internals
from tests.interrupts import Interrupt, interrupt_everywhere
from tests.scripted import (
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
    watch,
)
from wd_di._borrowing.checkout import Checkout
from wd_di._borrowing.lease import Lease
from wd_di._borrowing.scopes import TransactionRun
from wd_di._concurrency.workers import Workers
from wd_di._transactions.transaction import OpenTransaction
from wd_di.errors import TransactionClosedError, TransactionError
from wd_di.events import Event, ProducerRetired, TransactionAborted, TransactionCommitted, TransactionFinished
from wd_di.pool import ProducerPool

USES: dict[str, tuple[Callable[..., ProducerPool], Callable[[ProducerPool], None]]] = {}


def use(make: Callable[..., ProducerPool]) -> Callable[[Callable[[ProducerPool], None]], None]:
    """What is interrupted, on a pool that ``make`` makes."""

    def note(fn: Callable[[ProducerPool], None]) -> None:
        USES[fn.__name__] = (make, fn)

    return note


@use(plain_pool)
def checkout(pool: ProducerPool) -> None:
    """A producer, taken and given back."""
    with pool.producer():
        pass


@use(lambda: plain_pool(size=2, share=2))
def shared_checkout(pool: ProducerPool) -> None:
    """One that others may have at the same time."""
    with pool.producer():
        pass


@use(plain_pool)
def nested_checkout(pool: ProducerPool) -> None:
    """A checkout within another, which gives the same producer."""
    with pool.producer(), pool.producer():
        pass


@use(make_pool)
def transaction(pool: ProducerPool) -> None:
    """A transaction that commits."""
    with pool.transaction() as tx:
        tx.produce_async("orders")


@use(make_pool)
def aborted_transaction(pool: ProducerPool) -> None:
    """One that its block aborts."""
    with suppress(ZeroDivisionError), pool.transaction() as tx:
        tx.produce_async("orders")
        raise ZeroDivisionError


@use(make_pool)
def offsets(pool: ProducerPool) -> None:
    """One that takes a consumer group's offsets along."""
    with pool.transaction() as tx:
        tx.send_offsets([TopicPartition("orders", 0, 5)], object())


@use(make_pool)
def transaction_in_a_checkout(pool: ProducerPool) -> None:
    """Two of them on one producer."""
    with pool.producer() as producer:
        with producer.transaction() as tx:
            tx.produce_async("orders")
        with producer.transaction() as tx:
            tx.produce_async("orders")


@use(make_pool)
def broken_producer(pool: ProducerPool) -> None:
    """A producer that can only be retired."""
    with suppress(Exception), pool.transaction():
        internals.clients(pool)[0].break_down(FaultKind.FATAL)


def settled(pool: ProducerPool) -> bool:
    """Whether nobody holds anything, once the pool's own threads have done their part."""
    size, until = pool.stats().size, time.monotonic() + PATIENCE
    while time.monotonic() < until:
        stats = pool.stats()
        if (stats.available, stats.in_use, stats.waiting) == (size, 0, 0) and not stats.creating + stats.retiring:
            return internals.nothing_is_held(pool)
        threading.Event().wait(0.001)
    return False


@pytest.fixture(autouse=True)
def _script(monkeypatch: pytest.MonkeyPatch) -> None:
    Script.install(monkeypatch)


@pytest.fixture(autouse=True)
def _no_garbage() -> Iterator[None]:
    """What is collected meanwhile must not be interrupted: that would be printed, and prove nothing."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", USES)
def test_no_place_loses_a_slot(name: str) -> None:
    """Interrupted at any place between enter and exit, the slot is back, and the next transaction is its own."""
    make, fn = USES[name]
    with make() as pool:
        fn(pool)  # what is done once has been done
        settled(pool)
        for place in interrupt_everywhere(lambda: fn(pool)):
            assert settled(pool), place
            assert in_thread(pool.stats).idle >= 0, place  # no lock was left behind
            if internals.is_transactional(pool):
                before = len(committed(pool))
                outcome(lambda: produce(pool))
                assert before + 1 == len(committed(pool)), place


@pytest.mark.parametrize("name", USES)
def test_no_listener_keeps_a_signals_exception(name: str) -> None:
    """It comes out from whatever event a listener is told of just then, and costs as little as elsewhere."""
    make, fn = USES[name]
    with make() as pool:
        fn(pool)
        settled(pool)
        told, at = 0, 0

        def listen(event: Event) -> None:
            nonlocal told
            if threading.current_thread() is threading.main_thread():
                told += 1
                if told == at:
                    raise SystemExit(143, event.name)

        pool.observer.subscribe("*", listen)
        fn(pool)
        events = told
        assert bool(events) == internals.is_transactional(pool)
        for at in range(1, events + 1):
            told = 0
            error = outcome(lambda: fn(pool))
            assert isinstance(error, SystemExit), (at, error)
            assert settled(pool), error
            if internals.is_transactional(pool):
                before = len(committed(pool))
                produce(pool)
                assert before + 1 == len(committed(pool)), error


def produce(pool: ProducerPool) -> None:
    """Commit one record."""
    with pool.transaction() as tx:
        tx.produce_async("orders")


def produce_noted(pool: ProducerPool, met: list[list[str]]) -> None:
    """Commit one record; what is noted on an interrupt is kept, and not the interrupt: its frames lead to the scope."""
    try:
        produce(pool)
    except Interrupt as error:
        met.append(getattr(error, "__notes__", ["nothing"]))
        raise


def test_no_place_lies_about_the_outcome() -> None:
    """Interrupted at any place, what is noted on the exception about the transaction is so."""
    met: list[list[str]] = []
    told: Counter[str] = Counter()

    def work() -> None:
        internals.broker(pool).committed.clear()
        produce_noted(pool, met)

    with make_pool() as pool:
        produce(pool)
        for place in interrupt_everywhere(work):
            assert settled(pool), place
            visible = len(committed(pool))
            for note in met.pop():
                told[note.rpartition(" ")[2]] += 1
                assert {"committed": 1, "aborted": 0}.get(note.rpartition(" ")[2], visible) == visible, (place, note)

    assert min(told["committed"], told["aborted"]) > 10, told


@pytest.mark.parametrize("answer", [lambda: None, fault(FaultKind.OTHER)])
def test_no_place_asks_for_two_ends(script: Script, answer: Any) -> None:
    """What has begun ends by commits or by aborts, and what hasn't leaves nothing to end."""
    script.always("commit", answer)

    def work() -> None:
        with suppress(TransactionError):
            produce(pool)

    with make_pool() as pool:
        for place in interrupt_everywhere(work):
            assert settled(pool), place
            asked = "".join(f"{call} " for call in script.calls if call in ("begin", "commit", "abort"))
            assert re.fullmatch("(begin ((commit )*|(abort )*))*", asked), (place, asked)
            script.calls.clear()


def test_no_place_keeps_a_producer_in_doubt() -> None:
    """Whose commit may have been carried out, or not, begins nothing more; and the note says why nothing is known."""
    met: list[list[str]] = []
    with make_pool() as pool:
        finished, retired = watch(pool, TransactionFinished), watch(pool, ProducerRetired)
        produce(pool)
        for place in interrupt_everywhere(lambda: produce_noted(pool, met)):
            assert settled(pool), place
        doubts = [event for event in finished if event.outcome == "unknown"]

    assert doubts
    assert len(doubts) == len([event for event in retired if event.reason == "commit in doubt"])
    assert any("interrupted before the answer came" in note for notes in met for note in notes)


def test_no_place_lies_to_a_hook() -> None:
    """Interrupted at any place, what a hook is told of the outcome is so."""
    told: list[str] = []
    met: Counter[str] = Counter()

    def work() -> None:
        internals.broker(pool).committed.clear()
        with pool.transaction() as tx:
            tx.produce_async("orders")
            tx.after_completion(told.append)

    with make_pool() as pool:
        for place in interrupt_everywhere(work):
            assert settled(pool), place
            visible = len(committed(pool))
            for word in told:
                assert {"committed": 1, "aborted": 0, "unknown": visible}[word] == visible, (place, word)
            met.update(told)
            told.clear()

    assert {"committed", "aborted"} <= set(met)


def test_no_place_loses_a_waiter() -> None:
    """Whoever waits gets the slot, wherever the one who gives it back is interrupted."""
    with plain_pool(timeout_ms=int(PATIENCE * 1000)) as pool:

        def hand_over() -> None:
            with pool.producer():
                waiting.append(FutureThread(lambda: USES["checkout"][1](pool)))
                waiting[-1].start()
                until = time.monotonic() + PATIENCE
                while not internals.table(pool)._waiters and time.monotonic() < until:
                    time.sleep(0.001)

        waiting: list[FutureThread] = []
        for place in interrupt_everywhere(hand_over):
            while waiting:
                assert waiting.pop().outcome() is None, place
            assert settled(pool), place


def test_no_place_loses_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is submitted after an interruption runs, and no thread is counted that never began."""
    monkeypatch.setattr(Workers._work, "__defaults__", (0.01,))
    workers = Workers("w", 1)
    for place in interrupt_everywhere(lambda: workers.submit(lambda: None)):
        ran = threading.Event()
        workers.submit(ran.set)
        assert ran.wait(PATIENCE), place


# -- an exit that never began ------------------------------------------------------------------------


@contextmanager
def abandoned_exits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Exits of recipes fail as they do when a signal's exception comes right before their first instruction."""

    def fail(*_: Any) -> None:
        raise Interrupt

    async def fail_async(*_: Any) -> None:
        raise Interrupt

    with monkeypatch.context() as patch:
        for scope in (Checkout, TransactionRun):
            patch.setattr(scope, "__exit__", fail)
            patch.setattr(scope, "__aexit__", fail_async)
        yield


def test_a_transaction_whose_exit_never_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is aborted before the next one begins, although its handle is still at hand; its hooks are run."""
    told: list[str] = []
    with make_pool() as pool:
        events = watch(pool, TransactionCommitted)
        with suppress(Interrupt), abandoned_exits(monkeypatch), pool.transaction() as tx:
            tx.produce_async("orders", "lost")
            tx.after_completion(told.append)
        with pool.transaction() as following:
            following.produce_async("orders", "next")

        assert ["next"] == committed(pool)
        assert (["aborted"], 1, 0) == (told, len(events), pool.stats().in_use)
        with pytest.raises(TransactionClosedError):
            tx.produce_async("orders")


def test_a_transaction_within_a_checkout_whose_exit_never_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkout's own calls don't slip into it."""
    with make_pool() as pool, pool.producer() as producer:
        with suppress(Interrupt), abandoned_exits(monkeypatch), producer.transaction() as tx:
            tx.produce_async("orders", "lost")
        producer.produce_sync("orders", "next")

        assert ["next"] == committed(pool)


def test_a_checkout_whose_exit_never_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot goes back as soon as the handle is gone; until then its borrower's next scopes give that one."""
    with plain_pool() as pool:
        with suppress(Interrupt), abandoned_exits(monkeypatch), pool.producer() as producer:
            pass
        with pool.producer() as other:
            other.produce_sync("orders")
            same = other is producer
        held = pool.stats().in_use
        with suppress(Interrupt), abandoned_exits(monkeypatch), pool.producer():
            del producer, other

        assert (True, 1, 0) == (same, held, pool.stats().in_use)


async def test_a_task_whose_exit_never_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task's transaction and checkout end with their handles, too."""
    async with make_pool() as pool:

        async def abandon() -> None:
            async with pool.transaction() as tx:
                tx.produce_async("orders", "lost")

        with suppress(Interrupt), abandoned_exits(monkeypatch):
            await asyncio.create_task(abandon())
        async with pool.transaction() as tx:
            tx.produce_async("orders", "next")

        assert ["next"] == committed(pool)


def test_a_handle_that_was_entered_by_hand() -> None:
    """Who keeps only what an enter gave has it for as long as it is kept."""
    with plain_pool() as pool:
        producer = pool.producer().__enter__()
        producer.produce_sync("orders")
        held = pool.stats().in_use
        del producer

        assert (1, 0) == (held, pool.stats().in_use)


def by_hand(pool: ProducerPool) -> Any:
    """A producer of which only this is kept."""
    return pool.producer().__enter__()


def on_a_dropped_producer(pool: ProducerPool) -> None:
    """A transaction on a producer that its block drops."""
    producer = by_hand(pool)
    with producer.transaction() as tx:
        del producer
        tx.produce_sync("orders", "first")
        tx.produce_async("orders", "second")


def in_a_dropped_checkout(pool: ProducerPool) -> None:
    """One that only the context ties to the producer."""
    checkout = pool.producer()
    producer = checkout.__enter__()
    with pool.transaction() as tx:
        del checkout, producer
        tx.produce_sync("orders", "first")
        tx.produce_async("orders", "second")


def of_a_passing_producer(pool: ProducerPool) -> None:
    """A transaction whose producer nobody ever keeps."""
    with by_hand(pool).transaction() as tx:
        tx.produce_sync("orders", "first")
        tx.produce_async("orders", "second")


def by_a_bound_method(pool: ProducerPool) -> None:
    """A method keeps its producer; what others take and drop meanwhile is the same one."""
    produce_sync = by_hand(pool).produce_sync
    with pool.producer() as nested:
        nested.produce_sync("orders", "first")
    del nested
    produce_sync("orders", "second")


def in_a_nested_checkout(pool: ProducerPool) -> None:
    """The inner block has the same producer, and keeps it."""
    producer = by_hand(pool)
    with pool.producer() as nested:
        del producer
        nested.produce_sync("orders", "first")
        nested.produce_sync("orders", "second")


def in_transactions_one_after_another(pool: ProducerPool) -> None:
    """The producer outlives the transactions for as long as it is kept."""
    producer = by_hand(pool)
    for value in ("first", "second"):
        with producer.transaction() as tx:
            tx.produce_async("orders", value)


@pytest.mark.parametrize(
    "use_it",
    [
        on_a_dropped_producer,
        in_a_dropped_checkout,
        of_a_passing_producer,
        by_a_bound_method,
        in_a_nested_checkout,
        in_transactions_one_after_another,
    ],
)
def test_what_is_in_use_is_never_ended(use_it: Callable[[ProducerPool], None]) -> None:
    """Dropping a producer that was entered by hand ends nothing that is open on it, and its slot comes back after."""
    with make_pool() as pool:
        use_it(pool)

        assert ["first", "second"] == committed(pool)
        assert 0 == pool.stats().in_use


async def test_what_a_task_uses_is_never_ended() -> None:
    """The same for tasks."""
    async with make_pool() as pool:
        producer = await pool.producer().__aenter__()
        async with producer.transaction() as tx:
            del producer
            await tx.produce_sync("orders", "first")
        async with pool.transaction() as tx:
            tx.produce_async("orders", "second")
        del tx

        assert ["first", "second"] == committed(pool)
        assert 0 == pool.stats().in_use


def test_a_transaction_that_was_entered_by_hand_ends_with_its_handle() -> None:
    """Both it and the producer below go when the last handle goes, in whatever order."""
    with make_pool() as pool:
        producer = by_hand(pool)
        tx = producer.transaction().__enter__()
        tx.produce_async("orders", "lost")
        del producer
        held = pool.stats().in_use
        tx.produce_async("orders", "lost")
        del tx
        produce(pool)

        assert (1, 0) == (held, pool.stats().in_use)
        assert [None] == committed(pool)


async def test_the_collector_aborts_on_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """An abort takes as long as a broker does: where a loop runs a worker does it."""
    aborting: list[str] = []
    async with make_pool() as pool:
        tx = await pool.transaction().__aenter__()
        tx.produce_async("orders", "lost")
        abort = OpenTransaction.abort

        def noted(unit: OpenTransaction, *given: Any) -> None:
            aborting.append(threading.current_thread().name)
            abort(unit, *given)

        monkeypatch.setattr(OpenTransaction, "abort", noted)
        del tx
        async with pool.transaction() as tx:
            tx.produce_async("orders", "next")

        assert ["wd_di-orders-job"] == aborting
        assert ["next"] == committed(pool)


@pytest.mark.parametrize("how", ["held", "pool"])
async def test_what_the_collector_ends_is_ended_once(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Its worker may come late: what its borrower, or another one, has begun since is none of its business."""
    late: list[Callable[[], None]] = []
    async with make_pool(size=1) as pool:
        jobs, submit = internals.house(pool).jobs, internals.house(pool).jobs.submit
        async with pool.producer() if how == "held" else nullcontext(pool) as held:
            tx = await held.transaction().__aenter__()
            tx.produce_async("orders", "lost")
            monkeypatch.setattr(jobs, "submit", late.append)
            del tx
            monkeypatch.setattr(jobs, "submit", submit)
            [end] = late
            if how == "pool":
                submit(end)  # its slot is the only one
            async with held.transaction() as tx:
                await tx.produce_sync("orders", "first")
                await asyncio.to_thread(end)
                tx.produce_async("orders", "second")

        assert ["first", "second"] == committed(pool)
        assert 0 == pool.stats().in_use


def test_a_transaction_is_finished_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scope and the collector may both be at it: the second one waits, and then finds nothing to do."""
    script = Script.install(monkeypatch)
    aborting, go = threading.Event(), threading.Event()

    def wait() -> None:
        aborting.set()
        go.wait(PATIENCE)

    with make_pool(size=1) as pool:
        tx = pool.transaction().__enter__()
        tx.produce_async("orders", "lost")
        transaction, [lease] = internals.transaction(tx), internals.table(pool).claims()
        script.on("abort", wait)
        first = FutureThread(lambda: transaction.finish(GeneratorExit(), ()))
        first.start()
        aborting.wait(PATIENCE)
        second = FutureThread(lambda: transaction.finish(ValueError(), ()))
        second.start()
        go.set()
        outcomes = [first.outcome(), second.outcome(), outcome(lambda: transaction.finish(None, ()))]
        lease.end()
        produce(pool)

        assert [False, False, TransactionClosedError] == [*outcomes[:2], type(outcomes[2])]
        assert 1 == script.calls.count("abort")
        assert [None] == committed(pool)


async def test_a_tasks_next_transaction_waits_for_the_workers_end() -> None:
    """Many times over, with others at the same slots: nobody's transaction is aborted for another's."""
    async with make_pool(size=2) as pool:

        async def other() -> None:
            for _ in range(60):
                async with pool.transaction() as tx:
                    await tx.produce_sync("orders", "other")

        others = [asyncio.create_task(other()) for _ in range(3)]
        for _ in range(30):
            dropped = await pool.transaction().__aenter__()
            dropped.produce_async("orders", "lost")
            del dropped
            async with pool.transaction() as tx:
                await tx.produce_sync("orders", "mine")
        await asyncio.gather(*others)

        assert {"other": 180, "mine": 30} == Counter(committed(pool))
        assert 0 == pool.stats().in_use


def test_the_collector_aborts_for_no_other_thread() -> None:
    """A thread in which garbage happens to be collected doesn't wait for a broker on behalf of another."""
    with make_pool() as pool:
        box: list[Any] = []
        in_thread(lambda: box.append(pool.transaction().__enter__()))
        aborts = watch(pool, TransactionAborted)
        threads: list[str] = []
        pool.observer.subscribe(TransactionAborted, lambda _: threads.append(threading.current_thread().name))
        box.clear()

        assert settled(pool)
        assert (1, ["wd_di-orders-job"]) == (len(aborts), threads)


# -- a second one, in what cleans up after the first -------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["checkout", "transaction"])
def test_an_interrupted_end_is_made_up_for(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where Python drops what a handler raises, the pool's own thread ends what was to be ended."""

    def fail(*_: object) -> None:
        raise Interrupt

    make, fn = USES[name]
    with make() as pool:
        with suppress(Interrupt), abandoned_exits(monkeypatch):
            monkeypatch.setattr(Lease, "abandoned", fail)
            fn(pool)

        assert settled(pool)
        fn(pool)


def test_interrupted_mending_is_made_up_for() -> None:
    """What the core had decided is carried out by the pool's own thread, if nobody else could."""
    with plain_pool() as pool:
        checkout = USES["checkout"][1]
        checkout(pool)
        table = internals.table(pool)
        table._idle.clear()
        table.disturbed = True

        assert settled(pool)
        checkout(pool)
        assert 1 == len(table._idle)


def test_an_interrupted_record_is_not_waited_for():
    """Wherever Ctrl-C comes in a produce, nothing is left that a flush would wait for in vain."""
    with plain_pool(produce_timeout_ms=500) as pool, pool.producer() as producer:
        producer.produce_async("orders", "first")
        places = [
            (place, outcome(producer.flush), set(internals.ledger(producer).pending))
            for place in interrupt_everywhere(lambda: producer.produce_async("orders", "value"))
        ]

    assert len(places) > 5
    assert [] == [each for each in places if each[1:] != (None, set())]
