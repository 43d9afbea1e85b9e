"""What a forked child has inherited is its parent's: each call of it says so at once, whoever was at it meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest

from tests import internals
from tests.pools import plain
from tests.pools import pool as transactional
from tests.scripted import PATIENCE, Script, in_thread, make_pool, outcome, plain_pool
from wd_di import AsyncProducer, AsyncTransaction, Delivery, ForkedPoolError, Message, PoolTimeoutError, ProducerPool
from wd_di._records.connection import Retirement
from wd_di.testing import MockKafka

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

AT_ONCE_S = 0.5
"""Seconds, for a child that has just begun; no deadline of these pools is as short."""
OFFSETS: Any = []


class Inherited:
    """All that a program can have open when it forks."""

    def __init__(self, clicks: ProducerPool, orders: ProducerPool, orphan: ProducerPool) -> None:
        self.clicks, self.orders = clicks, orders
        self.checkout = clicks.producer()
        self.producer = self.checkout.__enter__()
        self.silent = clicks.producer()
        self.unused = outcome(self.silent.__enter__)
        self.delivered = self.producer.produce_async("orders", "before")
        self.producer.flush(timeout_ms=5_000)
        self.pending = self.producer.produce_async("orders", "pending")
        self.scope = orders.transaction()
        self.tx = self.scope.__enter__()
        self.tx.produce_async("orders", "x")
        self.hooks: list[str] = []
        self.tx.after_completion(self.hooks.append)
        self.held = orders.producer()
        self.bound = self.held.__enter__()
        self.vacated = orders.producer()
        self.vacant = in_thread(self.vacated.__enter__)
        internals.lease(self.vacant).retirement = Retirement("transactional_id_expiry_ms", expired=True)
        self.atask, self.ascope = clicks.producer(), orders.transaction()
        self.atx = in_thread(lambda: asyncio.run(entered(self.ascope)))
        self.aproducer = in_thread(lambda: asyncio.run(entered(self.atask)))
        with retiring_later(orders):  # all others are held, so there is none to exchange it for
            assert isinstance(outcome(self.vacant.transaction(timeout_ms=0).__enter__), PoolTimeoutError)
        self.orphaned = orphan.producer()
        self.orphan = self.orphaned.__enter__()
        self.late = self.orphan.produce_async("orders", "late")


Case = Callable[[Inherited], object]
BACKENDS = ("memory", "mock")
OF_PENDING = ("result", "exception", "a callback", "await", "result without waiting", "result by a pool that is gone")
"""What is asked of a record without an answer, which memory always has."""

REFUSED: dict[str, Case] = {
    "produce_sync": lambda it: it.producer.produce_sync("orders", "x"),
    "produce_async": lambda it: it.producer.produce_async("orders", "x"),
    "produce_many_sync": lambda it: it.producer.produce_many_sync([Message("orders", "x")]),
    "produce_many_async": lambda it: it.producer.produce_many_async([Message("orders", "x")]),
    "flush": lambda it: it.producer.flush(),
    "of an unused producer": lambda it: it.unused.produce_sync("orders", "x"),
    "flush of an unused producer": lambda it: it.unused.flush(),
    "result": lambda it: it.pending.result(),
    "result without waiting": lambda it: it.pending.result(0),
    "exception": lambda it: it.pending.exception(),
    "a callback": lambda it: it.pending.add_done_callback(print),
    "await": lambda it: asyncio.run(awaited(it.pending)),
    "produce_sync in a transaction": lambda it: it.tx.produce_sync("orders", "x"),
    "produce_async in a transaction": lambda it: it.tx.produce_async("orders", "x"),
    "flush in a transaction": lambda it: it.tx.flush(),
    "send_offsets": lambda it: it.tx.send_offsets(OFFSETS, b"CGMD"),
    "abort_only": lambda it: it.tx.abort_only(),
    "before_commit": lambda it: it.tx.before_commit(print),
    "after_commit": lambda it: it.tx.after_commit(print),
    "after_abort": lambda it: it.tx.after_abort(print),
    "after_completion": lambda it: it.tx.after_completion(print),
    "the end of a transaction": lambda it: it.scope.__exit__(None, None, None),
    "an implicit transaction": lambda it: it.bound.produce_sync("orders", "x"),
    "a transaction on a held producer": lambda it: it.bound.transaction().__enter__(),
    "a transaction in a transaction": lambda it: it.tx.transaction().__enter__(),
    "a transaction on a vacant lease": lambda it: it.vacant.transaction().__enter__(),
    "an implicit transaction on a vacant lease": lambda it: it.vacant.produce_sync("orders", "x"),
    "a task's transaction on a vacant lease": lambda it: asyncio.run(
        entered(internals.lease(it.vacant).handle(AsyncProducer, AsyncTransaction).transaction())
    ),
    "produce_sync by a pool that is gone": lambda it: it.orphan.produce_sync("orders", "x"),
    "result by a pool that is gone": lambda it: it.late.result(),
    "a task's produce_sync": lambda it: asyncio.run(it.aproducer.produce_sync("orders", "x")),
    "a task's produce_async": lambda it: it.aproducer.produce_async("orders", "x"),
    "a task's flush": lambda it: asyncio.run(it.aproducer.flush()),
    "a task's produce_sync in a transaction": lambda it: asyncio.run(it.atx.produce_sync("orders", "x")),
    "a task's flush in a transaction": lambda it: asyncio.run(it.atx.flush()),
    "a task's send_offsets": lambda it: asyncio.run(it.atx.send_offsets(OFFSETS, b"CGMD")),
    "a task's abort_only": lambda it: it.atx.abort_only(),
    "the end of a task's transaction": lambda it: asyncio.run(it.ascope.__aexit__(None, None, None)),
}
"""Of these there is no use."""

HARMLESS: dict[str, Case] = {
    "result of a delivered record": lambda it: it.delivered.result().topic,
    "outcome of a pending record": lambda it: it.pending.outcome,
    "done": lambda it: it.pending.done(),
    "names": lambda it: [repr(each) for each in (it.producer, it.tx, it.scope, it.checkout, it.pending, it.clicks)],
    "id": lambda it: it.tx.id,
    "remaining_ms": lambda it: it.tx.remaining_ms > 0,
    "index": lambda it: it.producer.index,
    "the end of a transaction that failed": lambda it: [it.scope.__exit__(ValueError, ValueError(), None), it.hooks],
    "the end of a checkout": lambda it: it.checkout.__exit__(None, None, None),
    "the end of a checkout of a pool that is gone": lambda it: it.orphaned.__exit__(None, None, None),
    "the end of a vacant checkout": lambda it: it.vacated.__exit__(None, None, None),
    "the end of a task's transaction that failed": lambda it: asyncio.run(
        it.ascope.__aexit__(KeyError, KeyError(), None)
    ),
    "the end of a task's checkout": lambda it: asyncio.run(it.atask.__aexit__(None, None, None)),
    "drain": lambda it: asyncio.run(it.aproducer.drain()),
    "dropping all of it": lambda it: vars(it).clear(),
    "a pool's look": lambda it: it.clicks.stats().in_use,
    "a pool's close": lambda it: it.clicks.close().held,
}
"""These have an answer, or nothing to do."""


async def entered(scope: Any) -> Any:
    """What it gives to a task."""
    return await scope.__aenter__()


async def awaited(delivery: Delivery) -> object:
    """What it gives to a task."""
    return await delivery


@contextmanager
def retiring_later(pool: ProducerPool) -> Iterator[None]:
    """No producer is closed, to be made again, while the block runs."""
    reaper, jobs = internals.house(pool)._reaper, list[Any]()
    with mock.patch.object(reaper, "submit", jobs.append):
        yield
    for job in jobs:
        reaper.submit(job)


@contextmanager
def busy(*locks: Any) -> Iterator[None]:
    """Another thread holds all locks; in a child nobody would ever release them."""
    holds, go = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as all_of_them:
            for lock in locks:
                all_of_them.enter_context(lock)
            holds.set()
            go.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(PATIENCE)
    try:
        yield
    finally:
        go.set()
        thread.join()


def locks(it: Inherited) -> list[Any]:
    """What another thread may be at: sending, giving back, ending, looking."""
    connections = [internals.lease(handle).connection for handle in (it.producer, it.tx, it.orphan)]
    return [
        *(internals.lease(handle).slot.gate for handle in (it.producer, it.tx, it.bound, it.vacant, it.orphan)),
        *(lock for each in connections if each is not None for lock in (each.ending, each.offering)),
        *(internals.table(pool)._lock for pool in (it.clicks, it.orders)),
        internals.lease(it.orphan).table._lock,
    ]


def in_child(it: Inherited, fn: Case) -> Any:
    """The kind of what it raised, or what it returned, in a forked child; and after how many seconds."""
    ears, mouth = os.pipe()
    with warnings.catch_warnings(), busy(*locks(it)):
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of just this
        child = os.fork()
    if child == 0:
        started = time.monotonic()
        told = outcome(lambda: fn(it))
        said = type(told).__name__ if isinstance(told, BaseException) else told
        os.write(mouth, json.dumps([said, time.monotonic() - started, str(told)]).encode())
        os._exit(0)
    try:
        assert select.select([ears], [], [], PATIENCE)[0], "the child hangs"
        return json.loads(os.read(ears, 10_000))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ears)
        os.close(mouth)


@pytest.fixture(params=BACKENDS)
def it(request: pytest.FixtureRequest, kept: Callable[[ProducerPool], ProducerPool]) -> Iterator[Inherited]:
    """On real clients, whose threads stay in the parent, and in memory."""
    if request.param == "memory":
        with pytest.warns(ResourceWarning, match="'orphan' was never closed"):
            it = Inherited(kept(plain_pool(size=3)), kept(make_pool(size=3)), plain_pool(name="orphan"))
        yield it
        return
    with MockKafka() as kafka:
        kafka.create_topic("orders")
        servers, lingering = kafka.bootstrap_servers, {"linger.ms": 60_000}
        with pytest.warns(ResourceWarning, match="'orphan' was never closed"):
            it = Inherited(
                kept(plain(servers, size=3, kafka=lingering)),
                kept(transactional(servers, size=3)),
                plain(servers, name="orphan", size=1, kafka=lingering),
            )
        yield it
        it.orphaned.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("it", "name"),
    [(backend, name) for backend in BACKENDS for name in REFUSED if backend != "memory" or name not in OF_PENDING],
    indirect=["it"],
)
def test_what_is_refused(it: Inherited, name: str) -> None:
    """Whoever calls it in the child is told what to do."""
    told, seconds, text = in_child(it, REFUSED[name])

    assert ForkedPoolError.__name__ == told, text
    assert "fork" in text
    assert seconds < AT_ONCE_S


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless(it: Inherited, name: str) -> None:
    """Nothing of it touches what is the parent's, nor waits for it."""
    told, seconds, text = in_child(it, HARMLESS[name])

    assert not str(told).endswith("Error"), text
    assert seconds < AT_ONCE_S
    if name == "the end of a transaction that failed":
        assert [False, []] == told


def test_a_record_that_a_pool_has_left_behind(script: Script) -> None:
    """Its answer comes to the parent, also where nobody has the pool any more, or a producer of it."""
    script.silent = True
    with pytest.warns(ResourceWarning, match="was never closed"):
        delivery = left_behind(plain_pool(close_timeout_ms=60_000))
    ears, mouth = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        told = outcome(lambda: delivery.result(int(2 * AT_ONCE_S * 1000)))
        os.write(mouth, type(told).__name__.encode())
        os._exit(0)
    try:
        assert select.select([ears], [], [], PATIENCE)[0], "the child hangs"
        assert ForkedPoolError.__name__ == os.read(ears, 10_000).decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ears)
        os.close(mouth)
        script.silent = False


def left_behind(pool: ProducerPool) -> Delivery:
    """What is pending when the pool goes."""
    with pool.producer() as producer:
        return producer.produce_async("orders", "late")


def test_the_parent_goes_on(it: Inherited) -> None:
    """Its own are what they were."""
    in_child(it, REFUSED["the end of a transaction"])
    it.tx.produce_async("orders", "y")
    it.scope.__exit__(None, None, None)

    assert ["committed"] == it.hooks
    assert it.producer.produce_sync("orders", "z", timeout_ms=5_000)


def test_a_scope_that_was_not_entered(kept: Callable[[ProducerPool], ProducerPool]) -> None:
    """Entered in the child, it is the child's own, under an id of its own."""
    pool = kept(make_pool(instance=None))
    scope = pool.transaction()
    with scope as tx:
        tx.produce_async("orders", "x")
    mine = tx.id.partition("#")[0]

    def enter(_: Inherited) -> str:
        with scope as tx:
            tx.produce_async("orders", "x")
        return tx.id.partition("#")[0]

    nothing: Any = None
    ears, mouth = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.write(mouth, str(outcome(lambda: enter(nothing))).encode())
        os._exit(0)
    try:
        assert select.select([ears], [], [], PATIENCE)[0], "the child hangs"
        theirs = os.read(ears, 10_000).decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    assert theirs.startswith("t-")
    assert mine != theirs
