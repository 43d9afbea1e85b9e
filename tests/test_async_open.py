"""How tasks open, reload and close pools: while their loop goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx
from dependency_injector import containers, providers

import wd_di
from tests import internals
from tests.pools import bounded, plain
from tests.pools import pool as on_brokers
from tests.scripted import PATIENCE, Script, committed, make_pool, outcome, plain_pool
from tests.standin import StandInPool
from wd_di import (
    PoolClosedError,
    PoolOpenError,
    PoolResource,
    PoolSettings,
    ProducerPool,
    ScopeError,
    SettingsError,
    open_pools,
    running,
)
from wd_di._borrowing.opening import Opening
from wd_di._concurrency.deadline import Deadline
from wd_di.pool import WORKERS_MAX
from wd_di.testing import FakePool

if TYPE_CHECKING:
    from wd_di.testing import MockKafka

DEAD = "127.0.0.1:1"
INSTEAD = r"await pool\.aopen\(\), or 'async with' the pool or running\(\.\.\.\)"


# -- what tasks do -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transactional_id", ["t-{instance}-{index}", None])
async def test_a_pool_in_async_with(mock_kafka: MockKafka, transactional_id: str | None) -> None:
    """It is connected inside of the block and closed after it, and nothing of that blocks the loop."""
    with blockbuster_ctx(scanned_modules=["wd_di"]):
        async with on_brokers(mock_kafka.bootstrap_servers, size=2, transactional_id=transactional_id) as pool:
            idle = pool.stats().idle
            async with pool.producer() as producer:
                report = await producer.produce_sync("orders", "tea")
            await pool.areload()
            generation = pool.stats().generation

    assert "orders" == report.topic
    assert (2 if transactional_id else 1) == idle
    assert 1 == generation
    assert isinstance(outcome(pool.open), PoolClosedError)


async def test_each_by_itself(script: Script) -> None:
    """Opening, reloading and closing do what the plain calls do, with their arguments and reports."""
    pool = make_pool(size=2, max_lifetime_ms=10_000)
    await pool.aopen(timeout_ms=1_000)
    await pool.aopen()
    await pool.areload(PoolSettings(size=2, deliver=False, transactional_id="u-{index}", instance="test"))
    ids = [client.transactional_id for client in script.clients]
    report = await pool.aclose(timeout_ms=1_000, force=True)
    again = await pool.aclose()

    assert ["t-test-0", "t-test-1", "u-0", "u-1"] == sorted(str(each) for each in ids)
    assert report.clean
    assert again is report


async def test_what_fails_is_told_to_the_task() -> None:
    """Wrong arguments, settings and addresses raise what the plain calls raise."""
    pool = plain_pool()
    wrong = await _outcome(pool.aopen(timeout_ms=-1))
    await pool.aopen()
    refused = await _outcome(pool.areload(PoolSettings(size=9, deliver=False)))
    await pool.aclose()
    closed = await _outcome(pool.aopen())
    dead = await _outcome(_within(plain(DEAD, size=1, open_timeout_ms=200)))

    assert [ValueError, SettingsError, PoolClosedError, PoolOpenError] == [
        type(each) for each in (wrong, refused, closed, dead)
    ]


async def test_opening_many_at_a_dead_broker() -> None:
    """Each has its own deadline, however many pools of the process open at the same time."""
    pools = [plain(DEAD, name=f"p{each}", size=1, open_timeout_ms=300) for each in range(40)]
    started = time.monotonic()
    outcomes = await asyncio.gather(*(_outcome(pool.aopen()) for pool in pools))

    assert {PoolOpenError} == {type(each) for each in outcomes}
    assert time.monotonic() - started < 2 * 0.3 + 1


async def _within(pool: ProducerPool) -> None:
    async with pool:
        pytest.fail("entered")


async def _outcome(awaited: object) -> object:
    try:
        return await awaited  # type: ignore[misc]  # each is awaitable
    except Exception as error:  # noqa: BLE001  (it is compared)
        return error


@pytest.mark.parametrize("call", ["aopen", "areload", "aclose"])
def test_only_in_a_task(call: str) -> None:
    """Whoever drives them by hand is told that they need asyncio, and the pool stays as it was."""
    pool = plain_pool()
    coroutine = getattr(pool, call)()
    with pytest.raises(ScopeError, match="orders: this needs asyncio, and no task"):
        coroutine.send(None)

    assert "new" in repr(pool)
    assert pool.close().clean


@pytest.mark.parametrize("how", ["aclose", "aexit"])
async def test_a_task_does_not_wait_for_itself(script: Script, how: str) -> None:
    """Closing waits for others, but not for what the closing task holds, which closes when it is given back."""
    pool = make_pool(size=1, close_timeout_ms=PATIENCE * 1_000)
    await pool.aopen()
    started = asyncio.get_running_loop().time()
    async with pool.transaction() as tx:
        tx.produce_async("orders", "tea")
        await (pool.aclose() if how == "aclose" else pool.__aexit__(None, None, None))
        took = asyncio.get_running_loop().time() - started

    assert took < PATIENCE / 2
    assert ["tea"] == committed(pool)


async def test_closing_waits_for_no_reload() -> None:
    """However many tasks wait for a reload, a close that has less time ends by its own deadline."""
    pool = plain_pool(close_timeout_ms=5_000)
    async with pool.producer():
        reloads = [asyncio.create_task(pool.areload()) for _ in range(2 * WORKERS_MAX)]
        await asyncio.sleep(0)
        with bounded(50):
            report = await pool.aclose(timeout_ms=50)
        ends = await asyncio.gather(*reloads, return_exceptions=True)

    assert 1 == len(report.held)
    assert {PoolClosedError} == set(map(type, ends))


async def test_closing_waits_for_another_task() -> None:
    """What another task holds is waited for."""
    pool, taken, closing = plain_pool(close_timeout_ms=PATIENCE * 1_000), asyncio.Event(), asyncio.Event()
    await pool.aopen()

    async def hold() -> None:
        async with pool.producer():
            taken.set()
            await closing.wait()

    holder = asyncio.create_task(hold())
    await taken.wait()
    closer = asyncio.create_task(pool.aclose())
    await asyncio.to_thread(internals.house(pool).wait_until, lambda: internals.table(pool).closing, Deadline(PATIENCE))
    unfinished = not closer.done()
    closing.set()
    report = await closer
    await holder

    assert unfinished
    assert report.clean


async def test_a_cancelled_start_leaves_nothing(script: Script) -> None:
    """A task that is cancelled while its pool connects waits for that, and leaves the pool closed."""
    begun, go = threading.Event(), threading.Event()

    def init() -> None:
        begun.set()
        go.wait(PATIENCE)

    script.on("init", init)
    pool = make_pool()
    task = asyncio.create_task(_within(pool))
    await asyncio.to_thread(begun.wait, PATIENCE)
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert "closed" in repr(pool)
    assert 0 == pool.stats().idle


# -- what would block --------------------------------------------------------------------------------


async def test_opening_on_a_loop(script: Script) -> None:
    """To open a pool on a loop's thread is refused, the awaited call is named, and nothing was begun."""
    pool = make_pool()
    for call in (pool.open, pool.__enter__):
        with pytest.raises(ScopeError, match=f"orders: open would block the event loop.*{INSTEAD}"):
            call()
    begun = list(script.clients)
    await pool.aopen()
    pool.open()  # it is open already
    await pool.aclose()

    assert [] == begun


async def test_reloading_on_a_loop(script: Script) -> None:
    """To reload on a loop's thread is refused before anything of the pool changes, and the awaited call is named."""
    async with make_pool(close_timeout_ms=1) as pool, pool.producer():
        for given in (None, internals.settings(make_pool(max_waiting=9, transactional_id="u-{index}"))):
            with pytest.raises(ScopeError, match=r"orders: reload would block the event loop.*await pool\.areload\(\)"):
                pool.reload(given)
        generation, limit = pool.stats().generation, internals.settings(pool).max_waiting

    assert (0, None) == (generation, limit)


async def test_where_blocking_is_allowed(script: Script) -> None:
    """In a notebook a plain ``with`` connects, as everywhere, and a plain reload reloads."""
    with make_pool(allow_blocking_in_loop=True) as pool:
        pool.reload()
        assert (1, 1) == (pool.stats().idle, pool.stats().generation)


async def test_what_only_begins() -> None:
    """A pool that connects in the background blocks nobody, and may be opened anywhere."""
    with make_pool(open_policy="background") as pool:
        async with pool.producer() as producer:
            assert 0 == producer.index


async def test_a_fake_on_a_loop() -> None:
    """A fake takes no time, and is open at once: both ways are the same to it."""
    with FakePool("orders") as plain:
        plain.open()
    async with FakePool("orders") as fake, fake.transaction() as tx:
        tx.produce_async("orders", "tea")

    assert ["tea"] == [sent.value for sent in fake.committed]


class Container(containers.DeclarativeContainer):
    """Two pools that would connect."""

    allowed = providers.Object(False)
    orders = PoolResource(
        providers.Factory(PoolSettings, size=1, deliver=False, allow_blocking_in_loop=allowed), observer=None
    )
    clicks = PoolResource(PoolSettings(size=1, deliver=False, allow_blocking_in_loop=True))


@pytest.mark.parametrize("how", ["running", "open_pools"])
async def test_a_container_on_a_loop(how: str) -> None:
    """A container's pools aren't opened on a loop's thread, either; those that were are closed again."""
    container = Container()
    with pytest.raises(ScopeError, match=f"orders: open would block the event loop.*{INSTEAD}"):
        running(container).__enter__() if how == "running" else open_pools(container)

    assert [False, False] == [container.orders.initialized, container.clicks.initialized]


@pytest.mark.parametrize("how", ["running", "open_pools"])
async def test_a_container_where_blocking_is_allowed(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """In a notebook they are opened, each of them."""
    opened: list[str] = []
    prove = Opening.failure
    monkeypatch.setattr(Opening, "failure", lambda self: opened.append(self._lender.name) or prove(self))
    container = Container(allowed=True)
    if how == "running":
        with running(container):
            pass
    else:
        open_pools(container)
        wd_di.close_pools(container)

    assert {"orders", "clicks"} == set(opened)


async def test_what_a_container_does_by_itself() -> None:
    """Resources that are initialised on a loop, and the first injection, only construct; checkouts connect."""
    container = Container()
    container.init_resources()
    async with container.orders().producer() as producer:
        index = producer.index
    await asyncio.to_thread(wd_di.close_pools, container)

    assert 0 == index


async def test_a_container_with_stand_ins() -> None:
    """What stands in for a pool, and is none, may be opened anywhere."""
    container = Container()
    with container.orders.override(StandInPool()), container.clicks.override(StandInPool()), running(container):
        pass


async def test_the_global_pool_on_a_loop() -> None:
    """A setup that would connect is refused, and leaves room for another one."""
    settings = PoolSettings(size=1, deliver=False, open_policy="fail")
    with pytest.raises(ScopeError, match=r"default: setup with .* would block.*await asyncio\.to_thread\(wd_di\.setup"):
        wd_di.setup(settings=settings)
    await asyncio.to_thread(wd_di.setup, settings=settings)
    with pytest.raises(ScopeError, match="default: reload would block the event loop"):
        wd_di.reload()
    await asyncio.to_thread(wd_di.reload)
    generation = wd_di.default.container.pool().stats().generation
    await asyncio.to_thread(wd_di.close)

    assert 1 == generation


async def test_the_global_pool_where_blocking_is_allowed() -> None:
    """In a notebook its setup connects, and its reload reloads."""
    wd_di.setup(settings=PoolSettings(size=1, deliver=False, open_policy="fail", allow_blocking_in_loop=True))
    try:
        wd_di.reload()
    finally:
        wd_di.close()
