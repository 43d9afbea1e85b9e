from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import blockbuster_ctx
from dependency_injector import containers, providers

from tests.standin import StandInPool
from wd_di import (
    AsyncProducer,
    AsyncTransaction,
    KafkaSettings,
    PoolResource,
    PoolSettings,
    ScopeError,
    close_pools,
    inject,
    injected,
    lifespan,
    running,
)

if TYPE_CHECKING:
    from wd_di.testing import MockKafka

EVENTS: list[str] = []
PATIENCE = 10


@pytest.fixture(autouse=True)
def _no_events() -> None:
    EVENTS.clear()


class Noting(StandInPool):
    """Notes in the order of all resources, and on which kind of thread."""

    def note(self, what: str) -> None:
        """Write it down among the others'."""
        where = "loop" if threading.current_thread() is threading.main_thread() else "worker"
        EVENTS.append(f"{self.name}: {what} on {where}")


class Stuck(Noting):
    """Can't be closed."""

    def close(self) -> Any:
        """Raise an error."""
        super().close()
        raise OSError(f"{self.name} is stuck")


class Gate:
    """Holds up whoever comes through it on a worker thread."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()

    def __call__(self, _: object = None) -> None:
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self._open.wait(PATIENCE)

    def open(self) -> None:
        """Let everybody through."""
        self._open.set()


async def resource(name: str, *dependencies: object) -> AsyncIterator[str]:
    """A resource of the loop that notes when it is opened and closed."""
    EVENTS.append(f"{name}: open")
    await asyncio.sleep(0)
    yield name
    await asyncio.sleep(0)
    EVENTS.append(f"{name}: close")


async def unreachable() -> AsyncIterator[None]:
    """A resource that can't be opened."""
    await asyncio.sleep(0)
    raise OSError("no database")
    yield


def refuse(_: object) -> None:
    """As settings: makes a stand-in fail to open."""
    raise OSError("no broker")


class Pools(containers.DeclarativeContainer):
    """A pool, and what uses it on the loop."""

    orders = PoolResource(0, provides=Noting)
    cache = providers.Resource(resource, "cache", orders)


class Real(containers.DeclarativeContainer):
    """Its messages stay in memory."""

    orders = PoolResource(PoolSettings(deliver=False, transactional_id="lifecycle-{index}", instance="tests"))


@inject
async def place(tx: AsyncTransaction = injected(Real.orders.async_transaction)) -> AsyncTransaction:
    """A service."""
    return tx


def _task(container: Any, inside: asyncio.Event | None = None, **options: Any) -> asyncio.Task[None]:
    async def run() -> None:
        async with running(container, **options):
            if inside is not None:
                inside.set()
                await asyncio.Event().wait()

    return asyncio.create_task(run())


# -- running -------------------------------------------------------------------------------------


async def test_running_wires_opens_closes_and_unwires() -> None:
    """Inside the block everything is wired and open; afterwards nothing is."""
    container = Real()
    async with running(container, modules=[__name__]) as entered:
        assert container is entered
        assert isinstance(await place(), AsyncTransaction)

    assert container.orders.report.clean
    with pytest.raises(ScopeError, match="wasn't called"):
        await place()


async def test_pools_open_and_close_off_the_loop() -> None:
    """Pools open first and close last, on a worker; what uses them lives on the loop meanwhile."""
    async with running(Pools()):
        pass

    assert ["orders: open on worker", "cache: open", "cache: close", "orders: close on worker"] == EVENTS


async def test_the_loop_goes_on_while_a_pool_opens() -> None:
    """A pool that takes its time to open holds up its own start only."""
    gate = Gate()

    class Slow(containers.DeclarativeContainer):
        orders = PoolResource(gate, provides=Noting)

    task = _task(Slow())
    await asyncio.wait_for(gate.reached.wait(), PATIENCE)
    gate.open()
    await task

    assert ["orders: open on worker", "orders: close on worker"] == EVENTS


@pytest.mark.parametrize("error", [KeyError, SystemExit])
async def test_running_closes_on_any_exit(error: type[BaseException]) -> None:
    """Whatever ends the block, everything is closed, and it goes on."""
    with pytest.raises(error):
        async with running(Pools()):
            raise error

    assert ["cache: close", "orders: close on worker"] == EVENTS[-2:]


async def test_running_again() -> None:
    """The same container runs again after its end, also on another loop."""
    container = Pools()
    async with running(container):
        pass

    def in_another_loop() -> None:
        async def again() -> None:
            async with running(container):
                assert "cache" == await container.cache()

        asyncio.run(again())

    await asyncio.to_thread(in_another_loop)

    assert 2 == EVENTS.count("orders: close on worker")
    assert 2 == EVENTS.count("cache: close")


async def test_a_resource_that_fails_to_open_closes_the_others() -> None:
    """If a resource of the loop can't be opened, what is open already is closed, and nothing stays wired."""

    class Failing(Pools):
        database = providers.Resource(unreachable)

    container = Failing()
    with pytest.raises(OSError, match="no database"):
        async with running(container, modules=[__name__]):
            pass

    assert {"cache: close", "orders: close on worker"} == set(EVENTS[-2:])
    with pytest.raises(ScopeError, match="wasn't called"):
        await place()


async def test_a_pool_that_fails_to_open_closes_the_others() -> None:
    """If a pool can't be opened, those that are open are closed, and no other resource is even started."""

    class Failing(Pools):
        broken = PoolResource(refuse, provides=Noting)

    with pytest.raises(OSError, match="no broker"):
        async with running(Failing()):
            pass

    assert EVENTS in ([], ["orders: open on worker", "orders: close on worker"])


async def test_errors_of_closing_come_together() -> None:
    """A shutdown that raises leaves nothing else open, and all errors come out as one group."""

    class Failing(Pools):
        first = PoolResource(0, provides=Stuck)
        second = PoolResource(0, provides=Stuck)

    with pytest.raises(ExceptionGroup) as caught:
        async with running(Failing()):
            pass

    assert {"first is stuck", "second is stuck"} == {str(error) for error in caught.value.exceptions}
    assert {"cache: close", "orders: close on worker"} < set(EVENTS)


async def test_errors_of_closing_are_notes_on_the_blocks_own() -> None:
    """The exception that ended the block isn't replaced by what goes wrong while closing."""

    class Failing(containers.DeclarativeContainer):
        first = PoolResource(0, provides=Stuck)

    with pytest.raises(KeyError) as caught:
        async with running(Failing()):
            raise KeyError

    assert ["While closing the container's resources: OSError('first is stuck')"] == caught.value.__notes__


# -- cancellation --------------------------------------------------------------------------------


async def test_a_cancellation_in_the_block_closes_everything() -> None:
    """A cancelled server closes its container first."""
    inside = asyncio.Event()
    task = _task(Pools(), inside)
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["cache: close", "orders: close on worker"] == EVENTS[-2:]


async def test_a_cancellation_while_a_pool_opens_closes_it() -> None:
    """Cancelled while a pool is being opened, the start waits for that, closes the pool, and is cancelled."""
    gate = Gate()

    class Slow(containers.DeclarativeContainer):
        orders = PoolResource(gate, provides=Noting)
        cache = providers.Resource(resource, "cache", orders)

    task = _task(Slow())
    await asyncio.wait_for(gate.reached.wait(), PATIENCE)
    task.cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["orders: open on worker", "orders: close on worker"] == EVENTS


async def test_a_cancellation_while_a_resource_opens_closes_the_others() -> None:
    """Cancelled while a resource of the loop is being opened, the start closes what is open."""
    opening = asyncio.Event()

    async def slow(_: object) -> AsyncIterator[None]:
        opening.set()
        await asyncio.Event().wait()
        yield

    class Slow(Pools):
        database = providers.Resource(slow, Pools.cache)

    task = _task(Slow())
    await opening.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["cache: close", "orders: close on worker"] == EVENTS[-2:]


async def test_a_cancellation_while_closing_leaves_nothing_open() -> None:
    """Cancelled while a resource is being closed, the others are closed nevertheless, and then it is cancelled."""
    closing = asyncio.Event()

    async def slow(_: object) -> AsyncIterator[None]:
        yield
        closing.set()
        await asyncio.Event().wait()

    class Slow(Pools):
        database = providers.Resource(slow, Pools.cache)

    container = Slow()
    task = _task(container, modules=[__name__])
    await closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["cache: close", "orders: close on worker"] == EVENTS[-2:]
    with pytest.raises(ScopeError, match="wasn't called"):
        await place()


async def test_a_timeout_while_a_pool_closes_is_outwaited() -> None:
    """A pool that is being closed is closed to the end before a cancellation goes on."""
    gate = Gate()

    class Slow(Noting):
        def close(self) -> Any:
            gate()
            return super().close()

    class Container(containers.DeclarativeContainer):
        orders = PoolResource(0, provides=Slow)

    task = _task(Container())
    await asyncio.wait_for(gate.reached.wait(), PATIENCE)
    task.cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["orders: open on worker", "orders: close on worker"] == EVENTS


# -- mixed containers ----------------------------------------------------------------------------


async def test_users_close_before_what_they_use() -> None:
    """Closing follows the dependencies, whether a resource lives on the loop, on a thread or is a pool."""

    def sync_resource(name: str, *dependencies: object) -> Iterator[str]:
        EVENTS.append(f"{name}: open")
        yield name
        EVENTS.append(f"{name}: close")

    class Layered(containers.DeclarativeContainer):
        settings = providers.Resource(sync_resource, "settings")
        orders = PoolResource(settings.provided.upper.call(), provides=Noting)
        files = providers.Resource(sync_resource, "files", orders)
        database = providers.Resource(resource, "database", files)
        server = providers.Resource(resource, "server", providers.Factory(dict, deep=database))

    for _ in range(5):
        EVENTS.clear()
        async with running(Layered()):
            pass

        closings = [event.partition(" on")[0] for event in EVENTS if "close" in event]
        assert ["server: close", "database: close", "files: close", "orders: close", "settings: close"] == closings


async def test_a_service_of_a_pool_and_a_resource_of_the_loop() -> None:
    """One coroutine function gets a transaction and an asynchronous resource."""

    class Mixed(Real):
        database = providers.Resource(resource, "database")

    @inject
    async def both(
        tx: AsyncTransaction = injected(Real.orders.async_transaction), database: Any = injected(Mixed.database)
    ) -> str:
        await tx.produce_sync("orders", database)
        return f"{type(tx).__name__} {database}"

    async with running(Mixed(), modules=[__name__]):
        assert "AsyncTransaction database" == await both()


async def test_running_under_an_override_opens_no_pool() -> None:
    """With a fake in the pool's place, the pool itself is never opened."""
    container = Pools()
    with container.orders.override(StandInPool(name="fake")):
        async with running(container):
            assert "fake" == container.orders().name

    assert ["cache: open", "cache: close"] == EVENTS


# -- lifespan ------------------------------------------------------------------------------------


async def test_a_lifespan_runs_the_container() -> None:
    """What lifespan returns takes a server's application, and runs the container around it."""
    container = Real()
    lived = lifespan(container, modules=[__name__])
    for _ in range(2):
        async with lived(object()) as state:
            assert state is None
            assert isinstance(await place(), AsyncTransaction)

        assert container.orders.report.clean


async def test_a_failed_start_is_the_servers_error() -> None:
    """A server whose pool can't be opened doesn't start."""

    class Failing(containers.DeclarativeContainer):
        orders = PoolResource(refuse, provides=Noting)

    with pytest.raises(OSError, match="no broker"):
        async with lifespan(Failing())(object()):
            pass


# -- the loop -------------------------------------------------------------------------------------


class OnMock(containers.DeclarativeContainer):
    """Pools that need a broker; the tests give it."""

    settings = providers.Dependency(instance_of=KafkaSettings)
    orders = PoolResource(
        providers.Factory(PoolSettings, size=2, transactional_id="on-mock-{host}-{pid}-{index}", kafka=settings)
    )
    clicks = PoolResource(providers.Factory(PoolSettings, size=1, share=8, kafka=settings))


@inject
async def order(
    tx: AsyncTransaction = injected(OnMock.orders.async_transaction),
    producer: AsyncProducer = injected(OnMock.clicks.async_producer),
) -> str:
    """A service that uses both."""
    tx.produce_async("orders", "tea")
    await producer.produce_sync("clicks", "tea")
    return (await tx.produce_sync("inventory", "-1")).topic


async def test_nothing_blocks_the_loop(mock_kafka: MockKafka) -> None:
    """From opening to closing, no call of the library waits on the loop's thread: not for a lock, a socket or time."""
    container = OnMock(settings=KafkaSettings(bootstrap_servers=mock_kafka.bootstrap_servers))
    with blockbuster_ctx(scanned_modules=["wd_di"]):
        async with running(container, modules=[__name__]):
            topics = await asyncio.gather(*(order() for _ in range(20)))

    assert {"inventory"} == set(topics)
    assert container.orders.report.clean


async def test_the_first_call_blocks_no_loop_either(mock_kafka: MockKafka) -> None:
    """Pools that nobody has opened are opened by the first calls, off the loop."""
    container = OnMock(settings=KafkaSettings(bootstrap_servers=mock_kafka.bootstrap_servers))
    container.wire(modules=[__name__])
    with blockbuster_ctx(scanned_modules=["wd_di"]):
        topics = await asyncio.gather(*(order() for _ in range(20)))
    reports = await asyncio.to_thread(close_pools, container)
    container.unwire()

    assert {"inventory"} == set(topics)
    assert {"orders", "clicks"} == set(reports)
