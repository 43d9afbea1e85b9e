# ruff: noqa: D103  (cases are described by their names)
"""The table of all public calls that can wait, each as one or several cases for a stage."""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio import to_thread
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dependency_injector import containers, providers

import wd_di
from tests.kafka.stage import AsyncSteps, Case, Stage, Step, Steps, in_a_thread
from tests.pools import until
from wd_di import (
    AsyncProducer,
    CloseReport,
    CommitOutcomeUnknownError,
    DeliveryTimeoutError,
    Message,
    PoolOpenError,
    PoolResource,
    PoolTimeoutError,
    Producer,
    QueueFullError,
    Retry,
    Transaction,
    TransactionAbortedError,
    TransactionError,
    close_pools,
    inject,
    injected,
    lifespan,
    open_pools,
    running,
)
from wd_di._concurrency.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE: dict[str, Case] = {}

HEARD_NOTHING_S = 1.2
"""After which a client has brokers asked before it sends to a new topic."""


def case(*of: str, name: str = "") -> Callable[[Any], Any]:
    """Put a case into the table."""

    def add(play: Any) -> Any:
        key = name or play.__name__
        assert key not in TABLE
        TABLE[key] = Case(key, of, play)
        return play

    return add


def leave(scope: Any, error: BaseException | None = None) -> Any:
    """Leave a scope: what ``__exit__`` gives."""
    return scope.__exit__(type(error) if error else None, error, None)


def aleave(scope: Any, error: BaseException | None = None) -> Any:
    """Leave one in a task: what is to be awaited."""
    return scope.__aexit__(type(error) if error else None, error, None)


# -- pools: opened -------------------------------------------------------------------------------------


@case("ProducerPool.open")
def open_transactional(stage: Stage) -> Steps:
    pool = stage.pool(size=10)
    yield None
    yield Step(pool.open, stage.ms, PoolOpenError)


@case("ProducerPool.open")
def open_plain(stage: Stage) -> Steps:
    pool = stage.pool(plain=True, open_timeout_ms=60_000)
    yield None
    yield Step(lambda: pool.open(timeout_ms=stage.ms), stage.ms, PoolOpenError)


@case("ProducerPool.__enter__")
def enter_a_pool(stage: Stage) -> Steps:
    pool = stage.pool()
    yield None
    yield Step(pool.__enter__, stage.ms, PoolOpenError)


@case("ProducerPool.aopen")
async def aopen_transactional(stage: Stage) -> AsyncSteps:
    pool = stage.pool(size=3)
    yield None
    yield Step(pool.aopen, stage.ms, PoolOpenError, outwaited=True)


@case("ProducerPool.aopen")
async def aopen_plain(stage: Stage) -> AsyncSteps:
    pool = stage.pool(plain=True)
    yield None
    yield Step(pool.aopen, stage.ms, PoolOpenError, outwaited=True)


@case("ProducerPool.__aenter__")
async def aenter_a_pool(stage: Stage) -> AsyncSteps:
    pool = stage.pool()
    yield None
    yield Step(pool.__aenter__, stage.ms, PoolOpenError, outwaited=True)


# -- pools: reloaded -----------------------------------------------------------------------------------


@case("ProducerPool.reload")
def reload_idle(stage: Stage) -> Steps:
    pool = stage.opened(size=2)
    yield None
    yield Step(pool.reload, stage.ms, PoolTimeoutError)


@case("ProducerPool.reload")
def reload_held(stage: Stage) -> Steps:
    pool = stage.taken(close_timeout_ms=60_000)
    yield None
    yield Step(lambda: pool.reload(timeout_ms=stage.ms), stage.ms, PoolTimeoutError)


@case("ProducerPool.areload")
async def areload_idle(stage: Stage) -> AsyncSteps:
    pool = await to_thread(stage.opened)
    yield None
    yield Step(pool.areload, stage.ms, PoolTimeoutError, outwaited=True)


# -- pools: closed -------------------------------------------------------------------------------------


@case("ProducerPool.close")
def close_idle(stage: Stage) -> Steps:
    pool = stage.opened(size=3)
    yield None
    yield Step(pool.close, stage.ms, CloseReport)


@case("ProducerPool.close")
def close_a_backlog(stage: Stage) -> Steps:
    pool = stage.opened(plain=True)
    yield None
    with pool.producer() as producer:
        producer.produce_many_async([Message(stage.topic, "x")] * 100)
    yield Step(pool.close, stage.ms, CloseReport)


@case("ProducerPool.close")
def close_held(stage: Stage) -> Steps:
    pool = stage.taken(close_timeout_ms=60_000)
    yield None
    yield Step(lambda: pool.close(timeout_ms=stage.ms), stage.ms, CloseReport)
    yield Step(lambda: pool.close(timeout_ms=stage.ms, force=True), stage.ms, CloseReport)


@case("ProducerPool.close")
def close_many_transactions(stage: Stage) -> Steps:
    """More of them than threads that close."""
    pool = stage.opened(size=12)

    def begin() -> None:
        stage.enter(pool.transaction()).produce_sync(stage.topic, "x", timeout_ms=60_000)

    for _ in range(12):
        in_a_thread(begin)
    yield None
    yield Step(lambda: pool.close(force=True), stage.ms, CloseReport)


@case("ProducerPool.close")
def close_what_the_caller_holds(stage: Stage) -> Steps:
    pool = stage.opened(plain=True)
    producer = stage.enter(pool.producer())
    yield None
    producer.produce_async(stage.topic, "x")
    yield Step(lambda: pool.close(force=True), stage.ms, CloseReport)


@case("ProducerPool.close")
def close_while_producers_are_made(stage: Stage) -> Steps:
    pool = stage.pool(size=2, open_policy="background")
    yield None
    pool.open()
    yield Step(pool.close, stage.ms, CloseReport)


@case("ProducerPool.close")
def close_while_a_commit_is_under_way(stage: Stage) -> Steps:
    pool = stage.opened(commit_timeout_ms=20_000)
    begun, commits = threading.Event(), threading.Event()

    def commit() -> None:
        scope = pool.transaction()
        stage.enter(scope).produce_sync(stage.topic, "x", timeout_ms=60_000)
        begun.set()
        commits.wait()
        with suppress(TransactionError):
            leave(scope)

    thread = threading.Thread(target=commit, daemon=True)
    thread.start()
    begun.wait()
    yield None
    commits.set()
    yield Step(lambda: pool.close(force=True), stage.ms, CloseReport)


@case("ProducerPool.__exit__")
def exit_a_pool(stage: Stage) -> Steps:
    pool = stage.taken()
    yield None
    yield Step(lambda: leave(pool), stage.ms)


@case("ProducerPool.aclose")
async def aclose_held(stage: Stage) -> AsyncSteps:
    pool = await to_thread(stage.taken)
    yield None
    yield Step(pool.aclose, stage.ms, CloseReport, outwaited=True)
    yield Step(lambda: pool.aclose(force=True), stage.ms, CloseReport, outwaited=True)


@case("ProducerPool.aclose")
async def aclose_a_backlog(stage: Stage) -> AsyncSteps:
    pool = await to_thread(stage.opened, plain=True)
    yield None
    async with pool.producer() as producer:
        producer.produce_many_async([Message(stage.topic, "x")] * 100)
    yield Step(pool.aclose, stage.ms, CloseReport, outwaited=True)


@case("ProducerPool.__aexit__")
async def aexit_a_pool(stage: Stage) -> AsyncSteps:
    pool = await to_thread(stage.taken)
    yield None
    yield Step(lambda: aleave(pool), stage.ms, outwaited=True)


@case("ProducerPool.aclose", "ProducerPool.areload")
async def aclose_behind_reloads(stage: Stage) -> AsyncSteps:
    """More of them than can be at work, and each with more time."""
    pool = await to_thread(stage.taken, close_timeout_ms=4 * stage.ms)
    yield None
    reloads = [asyncio.ensure_future(pool.areload()) for _ in range(20)]
    await asyncio.sleep(0)
    yield Step(lambda: pool.aclose(timeout_ms=stage.ms), stage.ms, CloseReport, outwaited=True)
    await asyncio.gather(*reloads, return_exceptions=True)


# -- containers ----------------------------------------------------------------------------------------


class Shop(containers.DeclarativeContainer):
    """One pool."""

    settings: Any = providers.Dependency()
    orders = PoolResource(settings)


@inject
def place(tx: Transaction = injected(Shop.orders.transaction)) -> None:
    """Never called: no pool can be opened."""


def shop(stage: Stage, **options: Any) -> Any:
    """Return a container whose pool is closed at the end, if it was opened."""
    return Shop(settings=stage.settings(**options))


def opened_shop(stage: Stage) -> Any:
    """Return one with an open pool whose producer is held."""
    container = shop(stage, open_timeout_ms=60_000)
    pool = stage.keep(container.orders())
    in_a_thread(lambda: stage.enter(pool.producer()))
    return container


@case("PoolResource.init")
def init_a_resource(stage: Stage) -> Steps:
    container = shop(stage)
    yield None
    yield Step(container.orders.init, stage.ms, PoolOpenError)


@case("PoolResource.shutdown")
def shut_a_resource_down(stage: Stage) -> Steps:
    container = opened_shop(stage)
    yield None
    yield Step(container.orders.shutdown, stage.ms)


@case("open_pools")
def open_a_containers_pools(stage: Stage) -> Steps:
    container = shop(stage)
    yield None
    yield Step(lambda: open_pools(container), stage.ms, PoolOpenError)


@case("close_pools")
def close_a_containers_pools(stage: Stage) -> Steps:
    container = opened_shop(stage)
    yield None
    yield Step(lambda: close_pools(container), stage.ms, dict)


@case("Running.__enter__")
def enter_running(stage: Stage) -> Steps:
    block = running(shop(stage))
    yield None
    yield Step(block.__enter__, stage.ms, PoolOpenError)


@case("Running.__exit__")
def exit_running(stage: Stage) -> Steps:
    container = opened_shop(stage)
    block = stage.keep(running(container))
    block.__enter__()
    yield None
    yield Step(lambda: leave(block), stage.ms)


@case("Running.__aenter__")
async def aenter_running(stage: Stage) -> AsyncSteps:
    block = running(shop(stage))
    yield None
    yield Step(block.__aenter__, stage.ms, PoolOpenError, outwaited=True)


@case("Running.__aexit__")
async def aexit_running(stage: Stage) -> AsyncSteps:
    container = await to_thread(opened_shop, stage)
    block = stage.keep(running(container))
    await block.__aenter__()
    yield None
    yield Step(lambda: aleave(block), stage.ms, outwaited=True)


@case("lifespan")
async def enter_a_lifespan(stage: Stage) -> AsyncSteps:
    block = lifespan(shop(stage))(None)
    yield None
    yield Step(block.__aenter__, stage.ms, PoolOpenError, outwaited=True)


@case("inject")
def call_an_injected_function(stage: Stage) -> Steps:
    container = shop(stage)
    container.wire(modules=[sys.modules[__name__]])
    yield None
    yield Step(place, stage.ms, PoolOpenError)
    container.unwire()


@case("setup", "producer", "transaction", "reload", "close")
def the_global_pool(stage: Stage) -> Steps:
    failing, lazy = (stage.settings(open_policy=policy) for policy in ("fail", "background"))
    yield None
    yield Step(lambda: wd_di.setup(settings=failing), stage.ms, PoolOpenError)
    wd_di.setup(settings=lazy)
    try:
        yield Step(lambda: wd_di.producer().__enter__(), stage.ms, PoolTimeoutError)
        yield Step(lambda: wd_di.transaction().__enter__(), stage.ms, PoolTimeoutError)
        yield Step(wd_di.reload, stage.ms, PoolTimeoutError)
        yield Step(wd_di.close, stage.ms, CloseReport)
    finally:
        wd_di.close()


# -- checkouts -----------------------------------------------------------------------------------------


@case("Checkout.__enter__")
def check_out_unconnected(stage: Stage) -> Steps:
    pool = stage.pool()
    yield None
    yield Step(pool.producer().__enter__, stage.ms, PoolTimeoutError)
    yield Step(pool.producer().__enter__, stage.ms, PoolTimeoutError)


@case("Checkout.__enter__")
def check_out_unconnected_plain(stage: Stage) -> Steps:
    """A plain producer is handed out without a broker."""
    pool = stage.pool(plain=True)
    yield None
    scope = stage.keep(pool.producer())
    yield Step(scope.__enter__, stage.ms, Producer)


@case("Checkout.__enter__")
def check_out_taken(stage: Stage) -> Steps:
    pool = stage.taken()
    yield None
    yield Step(pool.producer().__enter__, stage.ms, PoolTimeoutError)
    yield Step(pool.producer(timeout_ms=0).__enter__, 0, PoolTimeoutError)


@case("Producer.produce_sync", "Producer.flush", "ProducerPool.reload", "ProducerPool.close")
def use_unconnected(stage: Stage) -> Steps:
    """What a plain producer sends that never had a connection, and how its pool ends."""
    pool = stage.pool(plain=True)
    yield None
    producer = stage.enter(pool.producer())
    yield Step(lambda: producer.produce_sync("new", "x"), stage.ms, DeliveryTimeoutError)
    yield Step(lambda: flushed(producer, "new"), stage.ms, DeliveryTimeoutError)
    yield Step(pool.reload, stage.ms, PoolTimeoutError)
    yield Step(lambda: pool.close(force=True), stage.ms, CloseReport)


@case("Checkout.__exit__")
def give_back(stage: Stage) -> Steps:
    scope = stage.opened(plain=True).producer()
    producer = stage.enter(scope)
    yield None
    producer.produce_async(stage.topic, "x")
    yield Step(lambda: leave(scope), 0)


@case("Checkout.__aenter__")
async def acheck_out_unconnected(stage: Stage) -> AsyncSteps:
    pool = stage.pool()
    yield None
    yield Step(pool.producer().__aenter__, stage.ms, PoolTimeoutError)


@case("Checkout.__aenter__")
async def acheck_out_unconnected_plain(stage: Stage) -> AsyncSteps:
    pool = stage.pool(plain=True)
    yield None
    scope = stage.keep(pool.producer())
    yield Step(scope.__aenter__, stage.ms, AsyncProducer)


@case("Checkout.__aenter__", "AsyncScope.__aenter__")
async def acheck_out_taken(stage: Stage) -> AsyncSteps:
    pool = await to_thread(stage.taken)
    yield None
    yield Step(pool.producer().__aenter__, stage.ms, PoolTimeoutError)
    yield Step(pool.producer().awaited.__aenter__, stage.ms, PoolTimeoutError)


@case("AsyncProducer.produce_sync", "AsyncProducer.flush", "ProducerPool.aclose")
async def ause_unconnected(stage: Stage) -> AsyncSteps:
    pool = stage.pool(plain=True)
    yield None
    producer = await stage.aenter(pool.producer())
    yield Step(lambda: producer.produce_sync("new", "x"), stage.ms, DeliveryTimeoutError)
    yield Step(lambda: flushed(producer, "new"), stage.ms, DeliveryTimeoutError)
    yield Step(lambda: pool.aclose(force=True), stage.ms, CloseReport, outwaited=True)


@case("Checkout.__aexit__")
async def agive_back(stage: Stage) -> AsyncSteps:
    scope = (await to_thread(stage.opened, plain=True)).producer()
    producer = await stage.aenter(scope)
    yield None
    producer.produce_async(stage.topic, "x")
    yield Step(lambda: aleave(scope), 0)


# -- transactions: entered -----------------------------------------------------------------------------


@case("TransactionScope.__enter__")
def begin_unconnected(stage: Stage) -> Steps:
    pool = stage.pool()
    yield None
    yield Step(pool.transaction().__enter__, stage.ms, PoolTimeoutError)


@case("TransactionScope.__enter__")
def begin_taken(stage: Stage) -> Steps:
    pool = stage.taken()
    yield None
    yield Step(pool.transaction().__enter__, stage.ms, PoolTimeoutError)


@case("TransactionScope.__enter__")
def begin_on_a_producer_whose_id_was_forgotten(stage: Stage) -> Steps:
    """It is to be exchanged for another one."""
    pool = stage.opened(transactional_id_expiry_ms=2_000)
    producer = stage.enter(pool.producer())
    idle = Deadline(1.7)
    until(lambda: idle.passed)
    yield None
    yield Step(producer.transaction().__enter__, stage.ms, PoolTimeoutError)


@case("TransactionScope.__aenter__")
async def abegin_unconnected(stage: Stage) -> AsyncSteps:
    pool = stage.pool()
    yield None
    yield Step(pool.transaction().__aenter__, stage.ms, PoolTimeoutError)


@case("TransactionScope.__aenter__")
async def abegin_taken(stage: Stage) -> AsyncSteps:
    pool = await to_thread(stage.taken)
    yield None
    yield Step(pool.transaction().__aenter__, stage.ms, PoolTimeoutError)


# -- transactions: left --------------------------------------------------------------------------------


@case("TransactionScope.__exit__")
def commit_with_unanswered_records(stage: Stage) -> Steps:
    scope, tx = stage.begun()
    yield None
    tx.produce_async(stage.topic, "x")
    yield Step(lambda: leave(scope), stage.ms, TransactionAbortedError, outwaited=True)


@case("TransactionScope.__exit__")
def commit(stage: Stage) -> Steps:
    """Its records are stored: without an answer it is in doubt, and its outcome is looked for."""
    scope, _ = stage.begun()
    yield None
    yield Step(lambda: leave(scope), 2 * stage.ms, CommitOutcomeUnknownError, outwaited=True)


@case("TransactionScope.__exit__")
def commit_what_nobody_looks_for(stage: Stage) -> Steps:
    scope, _ = stage.begun(resolve_timeout_ms=0)
    yield None
    yield Step(lambda: leave(scope), stage.ms, CommitOutcomeUnknownError, outwaited=True)


@case("TransactionScope.__exit__")
def commit_nothing(stage: Stage) -> Steps:
    scope = stage.opened().transaction()
    stage.enter(scope)
    yield None
    yield Step(lambda: leave(scope), 0, bool)


@case("TransactionScope.__exit__")
def abort(stage: Stage) -> Steps:
    scope, _ = stage.begun()
    yield None
    yield Step(lambda: leave(scope, ZeroDivisionError()), stage.ms, bool)


@case("TransactionScope.__exit__")
def abort_with_unanswered_records(stage: Stage) -> Steps:
    scope, tx = stage.begun()
    yield None
    tx.produce_async(stage.topic, "x")
    tx.abort_only()
    yield Step(lambda: leave(scope), stage.ms, bool)


@case("TransactionScope.__aexit__")
async def acommit_with_unanswered_records(stage: Stage) -> AsyncSteps:
    scope, tx = await stage.abegun()
    yield None
    tx.produce_async(stage.topic, "x")
    yield Step(lambda: aleave(scope), stage.ms, TransactionAbortedError, outwaited=True)


@case("TransactionScope.__aexit__", "AsyncScope.__aexit__")
async def acommit(stage: Stage) -> AsyncSteps:
    scope, _ = await stage.abegun()
    yield None
    yield Step(lambda: aleave(scope.awaited), 2 * stage.ms, CommitOutcomeUnknownError, outwaited=True)


@case("TransactionScope.__aexit__")
async def aabort(stage: Stage) -> AsyncSteps:
    scope, tx = await stage.abegun()
    yield None
    tx.produce_async(stage.topic, "x")
    yield Step(lambda: aleave(scope, ZeroDivisionError()), stage.ms, bool, outwaited=True)


@case("TransactionScope.__aexit__")
async def aabort_behind_questions(stage: Stage) -> AsyncSteps:
    """Other tasks of the transaction have more time, and wait for a broker to ask for their topics."""
    scope, tx = await stage.abegun()
    yield None
    await asyncio.sleep(HEARD_NOTHING_S)
    tasks = [asyncio.ensure_future(tx.produce_sync(f"new-{each}", "x", timeout_ms=5_000)) for each in range(4)]
    await asyncio.sleep(0)
    yield Step(lambda: aleave(scope, ZeroDivisionError()), stage.ms, bool, outwaited=True)
    await called_off(tasks)


async def called_off(tasks: list[Any]) -> None:
    """Cancel tasks that have served."""
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# -- transactions: offsets -----------------------------------------------------------------------------


@case("Transaction.send_offsets")
def send_offsets(stage: Stage) -> Steps:
    """Who swallows that there is no answer can't commit, and who tries again waits again."""
    scope, tx = stage.begun()
    given = stage.offsets()
    yield None
    yield Step(lambda: tx.send_offsets(*given), stage.ms, TransactionAbortedError)
    yield Step(lambda: tx.send_offsets(*given), stage.ms, TransactionError)
    yield Step(lambda: leave(scope), stage.ms, TransactionError, outwaited=True)


@case("Transaction.send_offsets")
def send_offsets_with_an_argument(stage: Stage) -> Steps:
    _, tx = stage.begun(commit_timeout_ms=20_000)
    given = stage.offsets()
    yield None
    yield Step(lambda: tx.send_offsets(*given, timeout_ms=stage.ms), stage.ms, TransactionAbortedError)


@case("AsyncTransaction.send_offsets")
async def asend_offsets(stage: Stage) -> AsyncSteps:
    scope, tx = await stage.abegun()
    given = stage.offsets()
    yield None
    yield Step(lambda: tx.send_offsets(*given), stage.ms, TransactionAbortedError)
    yield Step(lambda: aleave(scope), stage.ms, TransactionError, outwaited=True)


@case("AsyncTransaction.send_offsets")
async def asend_offsets_behind_others(stage: Stage) -> AsyncSteps:
    _, tx = await stage.abegun(commit_timeout_ms=5_000)
    given = stage.offsets()
    yield None
    tasks = [asyncio.ensure_future(tx.send_offsets(*given)) for _ in range(3)]
    await asyncio.sleep(0)
    yield Step(lambda: tx.send_offsets(*given, timeout_ms=stage.ms), stage.ms, TransactionAbortedError)
    await called_off(tasks)


# -- records -------------------------------------------------------------------------------------------

ASYNC = ("AsyncProducer", "AsyncTransaction")
FULL = {"queue.buffering.max.messages": 100}
NEW = "new-{}"
"""A topic that the client doesn't know."""


def handle(stage: Stage, kind: str, **options: Any) -> Any:
    """Return a handle of an open pool: of a plain one, but for transactions and calls that are one of their own."""
    if kind == "Transaction":
        return stage.begun(**options)[1]
    return stage.enter(stage.opened(plain=kind == "Producer", **options).producer())


async def ahandle(stage: Stage, kind: str, **options: Any) -> Any:
    """Return one of a task."""
    if kind == "AsyncTransaction":
        return (await stage.abegun(**options))[1]
    return await stage.aenter((await to_thread(stage.opened, plain=kind == "AsyncProducer", **options)).producer())


def flushed(producer: Any, topic: str) -> Any:
    """Enqueue and flush."""
    producer.produce_async(topic, "x")
    return producer.flush()


WAITING: dict[str, Callable[[Any, str], Any]] = {
    "produce_sync": lambda producer, topic: producer.produce_sync(topic, "x"),
    "produce_many_sync": lambda producer, topic: producer.produce_many_sync([Message(topic, "x")] * 3),
    "flush": flushed,
    "result": lambda producer, topic: producer.produce_async(topic, "x").result(),
    "exception": lambda producer, topic: producer.produce_async(topic, "x").exception(),
    "__await__": lambda producer, topic: producer.produce_async(topic, "x"),
}
"""What waits for records to be stored."""

ENQUEUEING: dict[str, Callable[[Any, str], Any]] = {
    "produce_sync": WAITING["produce_sync"],
    "produce_many_sync": WAITING["produce_many_sync"],
    "produce_async": lambda producer, topic: producer.produce_async(topic, "x"),
    "produce_many_async": lambda producer, topic: producer.produce_many_async([Message(topic, "x")] * 3),
}
"""What waits for room in a full queue, or outside of a transaction until one has ended."""


async def drained(producer: Any, topic: str) -> None:
    """Fill a full queue again and again; a client counts what it has to tell of its brokers, too, which makes room."""
    while True:
        await producer.drain()
        with suppress(QueueFullError):
            producer.produce_async(topic, "x")


ENQUEUEING["drain"] = drained


def waits(kind: str, method: str, *, new: bool) -> None:
    """Add the case of a call that waits for records to be stored, in topics that are known, or new to the client."""
    of = f"Delivery.{method}" if method in {"result", "exception", "__await__"} else f"{kind}.{method}"
    name, call = f"{kind}.{method}{' to a new topic' * new}", WAITING[method]

    def play(stage: Stage) -> Steps:
        producer, topic = handle(stage, kind), NEW.format(stage.topic) if new else stage.topic
        yield None
        yield Step(lambda: call(producer, topic), stage.ms, DeliveryTimeoutError)

    async def aplay(stage: Stage) -> AsyncSteps:
        producer, topic = await ahandle(stage, kind), NEW.format(stage.topic) if new else stage.topic
        yield None
        yield Step(lambda: awaited(call(producer, topic)), stage.ms, DeliveryTimeoutError)

    case(of, name=name)(aplay if kind in ASYNC else play)


async def awaited(result: Any) -> Any:
    """Await what a call gave, be it a coroutine or a delivery."""
    return await result


def finds_no_room(kind: str, method: str) -> None:
    """Add the case of a call that waits for room in a full queue."""
    call = ENQUEUEING[method]

    def play(stage: Stage) -> Steps:
        producer = handle(stage, kind, kafka=FULL)
        yield None
        producer.produce_many_async([Message(stage.topic, "x")] * 100)
        yield Step(lambda: call(producer, stage.topic), stage.ms, QueueFullError)

    async def aplay(stage: Stage) -> AsyncSteps:
        producer = await ahandle(stage, kind, kafka=FULL)
        yield None
        with suppress(QueueFullError):
            producer.produce_many_async([Message(stage.topic, "x")] * 101)
        yield Step(lambda: call(producer, stage.topic), stage.ms, QueueFullError)

    case(f"{kind}.{method}", name=f"{kind}.{method} with a full queue")(aplay if kind in ASYNC else play)


def is_a_transaction(kind: str, method: str, *, new: bool) -> None:
    """Add the case of a call outside of a transaction, on a transactional pool."""
    name, call = f"{kind}.{method} by itself{', to a new topic' * new}", ENQUEUEING[method]
    # What waits for no record has timeout_ms to enqueue them, and then commits.
    times = 2 if "async" in method else 1

    def play(stage: Stage) -> Steps:
        producer, topic = handle(stage, "transactional"), NEW.format(stage.topic) if new else stage.topic
        yield None
        yield Step(lambda: call(producer, topic), times * stage.ms, TransactionAbortedError, outwaited=True)

    async def aplay(stage: Stage) -> AsyncSteps:
        producer, topic = await ahandle(stage, "transactional"), NEW.format(stage.topic) if new else stage.topic
        yield None
        yield Step(lambda: call(producer, topic), stage.ms, TransactionAbortedError, outwaited=True)

    case(f"{kind}.{method}", name=name)(aplay if kind in ASYNC else play)


for _new in (False, True):
    for _method in ("produce_sync", "produce_many_sync", "flush", "result", "exception"):
        for _kind in ("Producer", "Transaction"):
            waits(_kind, _method, new=_new)
    for _method in ("produce_sync", "produce_many_sync", "flush", "__await__"):
        for _kind in ASYNC:
            waits(_kind, _method, new=_new)
    for _method in ("produce_sync", "produce_many_sync", "produce_async", "produce_many_async"):
        is_a_transaction("Producer", _method, new=_new)
    for _method in ("produce_sync", "produce_many_sync"):
        is_a_transaction("AsyncProducer", _method, new=_new)
for _method in ("produce_sync", "produce_many_sync", "produce_async", "produce_many_async"):
    for _kind in ("Producer", "Transaction"):
        finds_no_room(_kind, _method)
for _method in ("produce_sync", "produce_many_sync", "drain"):
    for _kind in ASYNC:
        finds_no_room(_kind, _method)


@case("AsyncProducer.produce_sync")
async def aproduce_behind_others(stage: Stage) -> AsyncSteps:
    """Others have more time, and wait for a broker to ask for their topics."""
    producer = await ahandle(stage, "AsyncProducer")
    yield None
    await asyncio.sleep(HEARD_NOTHING_S)
    tasks = [asyncio.ensure_future(producer.produce_sync(f"new-{each}", "x", timeout_ms=5_000)) for each in range(4)]
    await asyncio.sleep(0)
    yield Step(lambda: producer.produce_sync("new", "x", timeout_ms=stage.ms), stage.ms, DeliveryTimeoutError)
    await called_off(tasks)


# -- functions that are run in transactions ------------------------------------------------------------


@case("ProducerPool.run")
def run(stage: Stage) -> Steps:
    pool = stage.opened()
    yield None
    yield Step(
        lambda: pool.run(lambda tx: tx.produce_async(stage.topic, "x")),
        stage.ms,
        TransactionAbortedError,
        outwaited=True,
    )


@case("ProducerPool.run")
def run_again(stage: Stage) -> Steps:
    """At most as often as its retry says, each time within the deadlines of a transaction."""
    pool = stage.opened()
    yield None
    yield Step(
        lambda: pool.run(
            lambda tx: tx.produce_async(stage.topic, "x"), retry=Retry(attempts=3, backoff_ms=100, max_backoff_ms=100)
        ),
        3 * stage.ms + 200,
        (TransactionError, PoolTimeoutError),
        outwaited=True,
    )


@case("ProducerPool.run")
async def arun(stage: Stage) -> AsyncSteps:
    pool = await to_thread(stage.opened)

    async def work(tx: Any) -> None:
        tx.produce_async(stage.topic, "x")

    yield None
    yield Step(lambda: pool.run(work), stage.ms, TransactionAbortedError, outwaited=True)
