"""Under trio, or driven by hand, a coroutine is refused before it takes anything: asyncio's tasks tell owners apart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
import trio
from dependency_injector import containers, providers

from tests import internals
from tests.scripted import make_pool, plain_pool
from wd_di import (
    AsyncProducer,
    AsyncTransaction,
    PoolResource,
    PoolSettings,
    Producer,
    ProducerPool,
    Retry,
    ScopeError,
    Transaction,
    inject,
    injected,
    lifespan,
    running,
)
from wd_di._borrowing.opening import Opening

Main = Callable[[], Awaitable[Any]]

OPENED: list[str] = []


class Container(containers.DeclarativeContainer):
    """A pool of each kind, and a resource that tells when it is opened."""

    number = providers.Object(7)
    told = providers.Resource(lambda: OPENED.append("told"))
    clicks = PoolResource(PoolSettings(deliver=False))
    orders = PoolResource(PoolSettings(deliver=False, transactional_id="trio-{index}", instance="tests"))


@inject
async def by_producer(producer: AsyncProducer = injected(Container.clicks.async_producer)) -> None:
    """A coroutine function that wants a producer."""


@inject
async def by_transaction(tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> None:
    """A coroutine function that wants a transaction."""


@inject
async def by_both(
    producer: AsyncProducer = injected(Container.clicks.async_producer),
    tx: AsyncTransaction = injected(Container.orders.async_transaction),
) -> None:
    """A coroutine function that wants both."""


@inject
async def by_stream(tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> AsyncIterator[int]:
    """An async generator that wants a transaction."""
    yield 1


@inject
def by_plain(tx: Transaction = injected(Container.orders.transaction)) -> None:
    """A plain function that wants a transaction."""


@inject
async def wants_nothing_of_us(number: int = injected(Container.number)) -> int:
    """A coroutine function that any runtime may run."""
    return number


@pytest.fixture
def container() -> Iterator[Container]:
    """A wired container whose pools nobody has opened."""
    OPENED.clear()
    container = Container()
    container.wire(modules=[__name__])
    yield container
    container.unwire()


@pytest.fixture
def orders() -> Iterator[ProducerPool]:
    """A transactional pool with two producers."""
    with make_pool(size=2) as pool:
        yield pool


@pytest.fixture
def clicks() -> Iterator[ProducerPool]:
    """A plain pool."""
    with plain_pool() as pool:
        yield pool


def by_hand(main: Main) -> None:
    """Run a coroutine that waits for nothing, without any loop."""
    steps = main().__await__()
    with pytest.raises(StopIteration):
        next(steps)


def by_a_callback(main: Main) -> None:
    """Run it on asyncio's loop, but outside of its tasks."""
    loop = asyncio.new_event_loop()
    ended = loop.create_future()

    def call() -> None:
        try:
            by_hand(main)
        except BaseException as error:  # noqa: BLE001  (raised where the loop runs)
            ended.set_exception(error)
        else:
            ended.set_result(None)

    loop.call_soon(call)
    try:
        loop.run_until_complete(ended)
    finally:
        loop.close()


def by_guest_mode(main: Main) -> None:
    """Run trio as a guest of asyncio, whose loop is then the one that runs in the thread."""

    async def host() -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            main, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=ended.set_result
        )
        (await ended).unwrap()

    asyncio.run(host())


RUNTIMES: dict[str, Callable[[Main], None]] = {
    "trio": trio.run,
    "anyio": lambda main: anyio.run(main, backend="trio"),
    "guest": by_guest_mode,
    "by_hand": by_hand,
    "callback": by_a_callback,
}
TRIO = ("trio", "anyio", "guest")


@pytest.fixture(params=RUNTIMES)
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    """How something other than a task of asyncio's runs a coroutine."""
    return RUNTIMES[request.param]


@pytest.fixture(params=TRIO)
def run_trio(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    """How trio runs a coroutine."""
    return RUNTIMES[request.param]


async def refused(awaitable: Callable[[], Awaitable[Any]]) -> None:
    """Assert that awaiting it is refused."""
    with pytest.raises(ScopeError, match=r"this needs asyncio, and (here runs trio|no task of asyncio's runs here)"):
        await awaitable()


async def enter(scope: Any) -> None:
    """Enter it."""
    async with scope:
        raise AssertionError("entered")


def untouched(pool: ProducerPool) -> bool:
    """Whether nothing was asked of the pool since it was opened."""
    return pool.stats().totals.requests == (0 if internals.is_transactional(pool) else 1)


# -- entries ---------------------------------------------------------------------------------------


def test_the_ways_into_a_scope(run: Callable[[Main], None], orders: ProducerPool, clicks: ProducerPool) -> None:
    """No producer and no transaction is borrowed, and no function is called."""
    called: list[Any] = []

    async def call(tx: AsyncTransaction) -> None:
        called.append(tx)

    async def main() -> None:
        await refused(lambda: enter(clicks.producer()))
        await refused(lambda: enter(orders.transaction()))
        await refused(lambda: enter(orders.transaction().awaited))
        await refused(lambda: orders.run(call))
        await refused(lambda: orders.run(call, retry=Retry(on=(ScopeError,))))

    run(main)

    assert not called
    assert untouched(orders)
    assert untouched(clicks)


def test_the_remedy_is_named() -> None:
    """The error says what runs here, and how to choose asyncio."""
    pool = plain_pool()
    with pytest.raises(ScopeError) as raised:
        trio.run(enter, pool.producer())
    pool.close()

    assert "orders: this needs asyncio, and here runs trio" in str(raised.value)
    assert "backend='asyncio'" in str(raised.value)
    assert "anyio_backend" in str(raised.value)


def test_injected_functions(run: Callable[[Main], None], container: Container) -> None:
    """Their pools aren't even opened."""

    async def main() -> None:
        await refused(by_producer)
        await refused(by_transaction)
        await refused(by_both)
        await refused(lambda: anext(by_stream()))

    run(main)

    assert not container.clicks.initialized
    assert not container.orders.initialized


def test_injected_functions_that_are_given_all(run: Callable[[Main], None], container: Container) -> None:
    """What needs nothing of a pool, or was given it, runs anywhere."""
    got: list[int] = []

    async def main() -> None:
        await by_transaction(tx=None)  # type: ignore[arg-type]
        got.append(await wants_nothing_of_us())

    run(main)

    assert [7] == got


def test_containers(run: Callable[[Main], None], container: Container) -> None:
    """``running`` and ``lifespan`` open nothing: what they have opened they couldn't close."""

    async def main() -> None:
        await refused(lambda: enter(running(container)))
        await refused(lambda: enter(lifespan(container)(None)))

    run(main)

    assert not OPENED
    assert not container.orders.initialized


# -- what was taken elsewhere ----------------------------------------------------------------------


def test_deliveries(run: Callable[[Main], None], clicks: ProducerPool) -> None:
    """A delivery from a thread can't be awaited, whether it is decided or not."""
    with clicks.producer() as producer:
        delivery = producer.produce_async("clicks", "home")

        async def wait() -> None:
            await delivery

        async def main() -> None:
            await refused(wait)
            delivery.result()
            await refused(wait)

        run(main)


def test_handles_of_a_task(run: Callable[[Main], None], orders: ProducerPool, clicks: ProducerPool) -> None:
    """What a task has taken, nobody else can await."""

    async def take(scope: Any) -> Any:
        return await scope.begin().__aenter__()

    async def leave(scope: Any) -> None:
        await scope.__aexit__(None, None, None)

    tx_scope, producer_scope = orders.transaction(), clicks.producer()
    tx, producer = asyncio.run(tx_scope.__aenter__()), asyncio.run(producer_scope.__aenter__())

    async def main() -> None:
        for handle in (tx, producer):
            await refused(lambda handle=handle: handle.produce_sync("topic", "value"))
            await refused(lambda handle=handle: handle.produce_many_sync([]))
            await refused(handle.flush)
            await refused(handle.drain)
        await refused(lambda: tx.send_offsets([], None))

    run(main)
    asyncio.run(tx_scope.__aexit__(None, None, None))
    asyncio.run(producer_scope.__aexit__(None, None, None))


# -- without await ---------------------------------------------------------------------------------


def test_blocks_without_await(run_trio: Callable[[Main], None], orders: ProducerPool, clicks: ProducerPool) -> None:
    """Two tasks of trio share a thread, and would share its producer or transaction: they are refused both."""

    async def main() -> None:
        for scope in (clicks.producer(), orders.producer(), orders.transaction()):
            with pytest.raises(ScopeError, match="trio runs in this thread"), scope:
                raise AssertionError("entered")
        with pytest.raises(ScopeError, match="trio runs in this thread"):
            orders.run(print)

    run_trio(main)

    assert untouched(orders)
    assert untouched(clicks)


def test_blocks_without_await_where_blocking_is_allowed(run_trio: Callable[[Main], None]) -> None:
    """``allow_blocking_in_loop`` doesn't make its tasks any more distinct."""

    async def main() -> None:
        with pytest.raises(ScopeError, match="trio runs in this thread"), pool.transaction():
            raise AssertionError("entered")

    with make_pool(allow_blocking_in_loop=True) as pool:
        run_trio(main)


def test_blocking_calls(run_trio: Callable[[Main], None], clicks: ProducerPool) -> None:
    """A producer that was taken outside doesn't block trio's loop, as it doesn't block asyncio's."""

    async def main(producer: Producer) -> None:
        producer.produce_async("clicks", "home")
        with pytest.raises(ScopeError, match="produce_sync would block the event loop"):
            producer.produce_sync("clicks", "home")
        with pytest.raises(ScopeError, match="flush would block the event loop"):
            producer.flush()

    with clicks.producer() as producer:
        run_trio(lambda: main(producer))


def test_opening_does_not_block(run_trio: Callable[[Main], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """To open or reload a pool under trio would block it, and there is no task to await that in: all is refused."""

    async def main() -> None:
        with pytest.raises(ScopeError, match=r"orders: open: trio runs in this thread.*trio\.to_thread"):
            pool.open()
        with pytest.raises(ScopeError, match=r"orders: reload: trio runs in this thread.*trio\.to_thread"):
            pool.reload()
        with pytest.raises(ScopeError, match="this needs asyncio, and here runs trio"):
            await pool.aopen()

    def connect(_: object) -> None:
        pytest.fail("waited")

    pool = plain_pool()
    monkeypatch.setattr(Opening, "failure", connect)
    run_trio(main)
    pool.close()


def test_plain_injected_functions(run_trio: Callable[[Main], None], container: Container) -> None:
    """A plain function can't get a transaction in a task of trio's, either."""

    async def main() -> None:
        with pytest.raises(ScopeError, match="trio runs in this thread"):
            by_plain()

    run_trio(main)
    container.shutdown_resources()


def test_worker_threads_of_trio(orders: ProducerPool) -> None:
    """The way out works: each of trio's worker threads has a transaction of its own, also at the same time."""
    barrier = threading.Barrier(2)
    ids: set[str] = set()

    def place() -> None:
        with orders.transaction() as tx:
            barrier.wait(10)
            ids.add(tx.id)
            tx.produce_sync("orders", "tea")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, place)
            nursery.start_soon(trio.to_thread.run_sync, place)

    trio.run(main)

    assert 2 == len(ids)


def test_anyio_on_asyncio(orders: ProducerPool) -> None:
    """On its other backend anyio runs tasks of asyncio's, where two tasks have two transactions."""
    ids: set[str] = set()

    async def place() -> None:
        async with orders.transaction() as tx:
            ids.add(tx.id)
            await tx.produce_sync("orders", "tea")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(place)
            tasks.start_soon(place)

    anyio.run(main, backend="asyncio")

    assert 2 == len(ids)
