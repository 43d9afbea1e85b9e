# ruff: noqa: B008  (markers are defaults that are calls)
from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Annotated, Any

import pytest
from dependency_injector import containers, providers, wiring
from dependency_injector.wiring import Provide, Provider

from wd_di import (
    AbortTransaction,
    AsyncProducer,
    AsyncScopeProvider,
    AsyncTransaction,
    PoolResource,
    PoolSettings,
    Retry,
    ScopeError,
    Transaction,
    inject,
    injected,
    running,
)
from wd_di.errors import TransactionClosedError, UnopenedScopeError
from wd_di.testing import FakePool, Sent

RETRY = Retry(attempts=2, backoff_ms=0, on=(KeyError,))
PATIENCE = 10


class Container(containers.DeclarativeContainer):
    """Two pools, which the tests override with fakes."""

    broken = providers.Callable(int, "not a number")
    clicks = PoolResource(PoolSettings(deliver=False))
    orders = PoolResource(PoolSettings(deliver=False, size=2, transactional_id="async-{index}", instance="tests"))
    late = providers.Callable(lambda pool: pool.transaction().awaited, orders)
    named = orders.async_transaction


@pytest.fixture
def container() -> Iterator[Container]:
    """A container that isn't wired yet."""
    container = Container()
    yield container
    container.unwire()


@pytest.fixture
def orders(container: Container) -> Iterator[FakePool]:
    """A fake in the place of its orders."""
    with FakePool("orders") as fake, container.orders.override(fake):
        yield fake


@pytest.fixture
def clicks(container: Container) -> Iterator[FakePool]:
    """A fake in the place of its clicks."""
    with FakePool("clicks", transactional=False) as fake, container.clicks.override(fake):
        yield fake


def wired(container: Container) -> None:
    """Wire this module; functions must have been decorated before."""
    container.wire(modules=[__name__])


def happened(pool: FakePool) -> list[str]:
    """How the pool's transactions began and ended, in order."""
    told = {"transaction.started": "begin", "transaction.committed": "commit", "transaction.aborted": "abort"}
    return [told[event.name] for event in pool.events if event.name in told]


# -- what reaches the function -------------------------------------------------------------------


@inject
async def by_injected(tx: Any = injected(Container.orders.async_transaction)) -> Any:
    """Marked by the typed marker."""
    return tx


@inject
async def by_provide(tx: Any = Provide[Container.orders.async_transaction]) -> Any:
    """Marked as with dependency-injector."""
    return tx


@inject
async def by_string(tx: Any = Provide["orders.async_transaction"]) -> Any:
    """Marked by a path."""
    return tx


@inject
async def by_annotation(tx: Annotated[Any, Provide[Container.orders.async_transaction]]) -> Any:
    """Marked in the annotation."""
    return tx


@inject
async def by_annotated_string(tx: Annotated[Any, Provide["orders.async_transaction"]]) -> Any:
    """Marked by a path in the annotation."""
    return tx


@inject
async def by_options(tx: Any = injected(Container.orders.async_transaction_with(propagation="new"))) -> Any:
    """Marked with options."""
    return tx


@inject
async def by_value(tx: Any = Provide[Container.late]) -> Any:
    """Given by another provider: it is the value that counts."""
    return tx


@inject
async def by_alias(tx: Any = injected(Container.named)) -> Any:
    """Given by an attribute of the container."""
    return tx


EVERY_WAY = [
    by_injected,
    by_provide,
    by_string,
    by_annotation,
    by_annotated_string,
    by_options,
    by_value,
    by_alias,
]


@pytest.mark.parametrize("fn", EVERY_WAY, ids=lambda fn: fn.__name__)
async def test_a_transaction_is_injected(container: Container, orders: FakePool, fn: Any) -> None:
    """Every way of marking a parameter gives an open AsyncTransaction, committed when the function returns."""
    wired(container)
    tx = await fn()

    assert isinstance(tx, AsyncTransaction)
    assert inspect.iscoroutinefunction(fn)
    assert ["begin", "commit"] == happened(orders)
    with pytest.raises(TransactionClosedError):
        tx.produce_async("topic")


async def test_a_producer_is_injected(container: Container, clicks: FakePool) -> None:
    """A producer is the function's own while it runs, and goes back when it returns."""

    @inject
    async def seen(page: str, producer: AsyncProducer = injected(Container.clicks.async_producer)) -> int:
        await producer.produce_sync("clicks", page)
        return clicks.stats().in_use

    wired(container)

    assert 1 == await seen("home")
    assert 0 == clicks.stats().in_use
    clicks.assert_committed(Sent("clicks", "home"))


async def test_a_provider_marker_gives_the_factory(container: Container, orders: FakePool) -> None:
    """Provider[...] leaves the opening to the function, which opens each scope by async with."""

    @inject
    async def fn(new: Any = Provider[Container.orders.async_transaction]) -> None:
        async with new() as tx:
            tx.produce_async("orders", "tea")
        with pytest.raises(KeyError):
            async with new():
                raise KeyError

    wired(container)
    await fn()

    orders.assert_committed(Sent("orders", "tea"))
    assert ["begin", "commit", "begin", "abort"] == happened(orders)


def test_a_scope_for_tasks_opens_in_no_thread(orders: FakePool) -> None:
    """What async_transaction provides can't be opened by a plain with, nor used unopened; the error names the way."""
    recipe: Any = orders.transaction().awaited
    with pytest.raises(TypeError, match="context manager protocol"), recipe:
        pass
    with pytest.raises(UnopenedScopeError, match="or use 'async with'"):
        recipe.produce_async("orders")

    assert [] == happened(orders)


def test_a_copied_container_keeps_the_kind_of_its_scopes() -> None:
    """An attribute that provides a scope for tasks is still known as one in every container made of the class."""
    assert isinstance(Container().named, AsyncScopeProvider)


# -- order and outcome ---------------------------------------------------------------------------


async def test_two_scopes_in_one_coroutine(container: Container, orders: FakePool, clicks: FakePool) -> None:
    """Two scopes are both open in the body, and both given back."""

    @inject
    async def fn(
        producer: AsyncProducer = injected(Container.clicks.async_producer),
        tx: AsyncTransaction = injected(Container.orders.async_transaction),
    ) -> tuple[int, int]:
        producer.produce_async("clicks", "home")
        tx.produce_async("orders", "tea")
        return clicks.stats().in_use, orders.stats().in_use

    wired(container)

    assert (1, 1) == await fn()
    assert (0, 0) == (clicks.stats().in_use, orders.stats().in_use)
    orders.assert_committed(Sent("orders", "tea"))


async def test_a_second_scope_that_cannot_open_aborts_the_first(container: Container, orders: FakePool) -> None:
    """If the second scope has no producer, the first is aborted and the body never runs."""

    @inject
    async def fn(
        tx: AsyncTransaction = injected(Container.orders.async_transaction),
        other: AsyncTransaction = injected(Container.clicks.async_transaction),
    ) -> None:
        raise AssertionError

    wired(container)
    with FakePool("clicks") as clicks, container.clicks.override(clicks):
        clicks.fail_next("begin")
        with pytest.raises(Exception, match="begin failed"):
            await fn()

    assert ["begin", "abort"] == happened(orders)


async def test_a_failing_sibling_opens_nothing(container: Container, orders: FakePool) -> None:
    """If another injection fails, no scope has been opened."""

    @inject
    async def fn(
        tx: AsyncTransaction = injected(Container.orders.async_transaction), bad: Any = Provide[Container.broken]
    ) -> None: ...

    wired(container)
    with pytest.raises(ValueError, match="not a number"):
        await fn()

    assert [] == happened(orders)
    assert 0 == orders.stats().totals.requests


async def test_an_exception_aborts(container: Container, orders: FakePool) -> None:
    """What the function raises aborts its transaction and goes on to the caller."""

    @inject
    async def fn(tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> None:
        tx.produce_async("orders", "tea")
        raise KeyError("no tea")

    wired(container)
    with pytest.raises(KeyError, match="no tea"):
        await fn()

    assert ["begin", "abort"] == happened(orders)
    orders.assert_aborted(Sent("orders", "tea"))


async def test_a_cancellation_aborts(container: Container, orders: FakePool) -> None:
    """A task that is cancelled in the body aborts its transaction, and is cancelled."""
    inside = asyncio.Event()

    @inject
    async def fn(tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> None:
        tx.produce_async("orders", "tea")
        inside.set()
        await asyncio.Event().wait()

    wired(container)
    task = asyncio.create_task(fn())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["begin", "abort"] == happened(orders)
    assert 2 == orders.stats().idle


@pytest.mark.parametrize("pools", ["one", "two"])
async def test_an_abort_signal_returns_none(
    container: Container, orders: FakePool, clicks: FakePool, pools: str
) -> None:
    """AbortTransaction ends the call with None, with one scope and with several."""

    @inject
    async def one(tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> str:
        raise AbortTransaction

    @inject
    async def two(
        producer: AsyncProducer = injected(Container.clicks.async_producer),
        tx: AsyncTransaction = injected(Container.orders.async_transaction),
    ) -> str:
        raise AbortTransaction

    wired(container)

    assert await {"one": one, "two": two}[pools]() is None
    assert ["begin", "abort"] == happened(orders)


async def test_a_commit_that_fails_is_the_callers_error(container: Container, orders: FakePool) -> None:
    """The function has returned, but its commit was refused: the call raises."""
    wired(container)
    orders.fail_next("commit")
    with pytest.raises(Exception, match="commit failed"):
        await by_injected()

    orders.assert_nothing_committed()


# -- retries -------------------------------------------------------------------------------------


async def test_a_retry_calls_the_whole_function_again(container: Container, orders: FakePool) -> None:
    """With a retry, the whole coroutine function runs again, in a new transaction."""
    attempts: list[AsyncTransaction] = []

    @inject
    async def fn(
        word: str, tx: AsyncTransaction = injected(Container.orders.async_transaction_with(retry=RETRY))
    ) -> str:
        attempts.append(tx)
        tx.produce_async("orders", f"{len(attempts)}")
        if len(attempts) == 1:
            raise KeyError
        return f"{word} {len(attempts)}"

    wired(container)

    assert "attempt 2" == await fn("attempt")
    assert attempts[0] is not attempts[1]
    assert [("2",), ("1",)] == [tuple(sent.value for sent in each) for each in (orders.committed, orders.aborted)]


async def test_a_retry_gives_up(container: Container, orders: FakePool) -> None:
    """After the last attempt, the function's own error comes out."""

    @inject
    async def fn(tx: AsyncTransaction = injected(Container.orders.async_transaction_with(retry=RETRY))) -> None:
        raise KeyError("stays")

    wired(container)
    with pytest.raises(KeyError, match="stays"):
        await fn()

    assert ["begin", "abort", "begin", "abort"] == happened(orders)


async def test_a_retry_stands_alone(container: Container, orders: FakePool, clicks: FakePool) -> None:
    """An async generator, or a coroutine with a second scope, can't be called again: refused before anything opens."""

    @inject
    async def values(
        tx: AsyncTransaction = injected(Container.orders.async_transaction_with(retry=RETRY)),
    ) -> AsyncIterator[int]:
        yield 1

    @inject
    async def both(
        tx: AsyncTransaction = injected(Container.orders.async_transaction_with(retry=RETRY)),
        producer: AsyncProducer = injected(Container.clicks.async_producer),
    ) -> None: ...

    wired(container)
    with pytest.raises(ScopeError, match="'tx' has a retry, but what a generator has yielded"):
        await anext(aiter(values()))
    with pytest.raises(ScopeError, match="a plain function with this as its only scope"):
        await both()

    assert [] == happened(orders)


# -- the caller's own arguments ------------------------------------------------------------------


@inject
async def place(item: str, tx: Any = injected(Container.orders.async_transaction), note: str = "-") -> str:
    """A service with arguments of its own."""
    return f"{item} {tx if isinstance(tx, str) else type(tx).__name__} {note}"


async def test_an_explicit_argument_wins() -> None:
    """What the caller passes, by position or by name, is used as it is; not even a container is needed."""
    assert "tea fake -" == await place("tea", "fake")
    assert "tea fake n" == await place("tea", tx="fake", note="n")


async def test_an_explicit_recipe_is_opened(orders: FakePool) -> None:
    """A recipe for tasks in place of the injected one is opened like it."""
    assert "tea AsyncTransaction -" == await place("tea", orders.transaction(timeout_ms=100).awaited)
    assert ["begin", "commit"] == happened(orders)


# -- kinds of functions --------------------------------------------------------------------------


class Service:
    """Has methods of every kind."""

    @inject
    async def method(self, a: int, tx: Any = injected(Container.orders.async_transaction)) -> str:
        """Tell how it was called."""
        return f"{type(self).__name__} {a} {type(tx).__name__}"

    @inject
    @classmethod
    async def class_inside(cls, a: int, tx: Any = injected(Container.orders.async_transaction)) -> str:
        """Tell how it was called."""
        return f"{cls.__name__} {a} {type(tx).__name__}"

    @classmethod
    @inject
    async def class_outside(cls, a: int, tx: Any = injected(Container.orders.async_transaction)) -> str:
        """Tell how it was called."""
        return f"{cls.__name__} {a} {type(tx).__name__}"

    @inject
    @staticmethod
    async def static_inside(a: int, tx: Any = injected(Container.orders.async_transaction)) -> str:
        """Tell how it was called."""
        return f"Service {a} {type(tx).__name__}"

    @staticmethod
    @inject
    async def static_outside(a: int, tx: Any = injected(Container.orders.async_transaction)) -> str:
        """Tell how it was called."""
        return f"Service {a} {type(tx).__name__}"


@pytest.mark.parametrize("name", ["method", "class_inside", "class_outside", "static_inside", "static_outside"])
async def test_methods(container: Container, orders: FakePool, name: str) -> None:
    """Coroutine methods of every kind are injected, in either order of the decorators."""
    wired(container)
    method = getattr(Service(), name)

    assert inspect.iscoroutinefunction(method)
    assert "Service 1 AsyncTransaction" == await method(1)
    assert ["begin", "commit"] == happened(orders)


@inject
async def numbers(
    count: int, tx: AsyncTransaction = injected(Container.orders.async_transaction)
) -> AsyncGenerator[object, object]:
    """Count, and yield what was received, too."""
    for index in range(count):
        tx.produce_async("orders", str(index))
        try:
            received = yield index
        except KeyError:
            received = "caught"
        if received is not None:
            yield received


async def test_an_async_generator_commits_when_exhausted(container: Container, orders: FakePool) -> None:
    """An async generator's transaction begins with its first step and is committed at its end."""
    wired(container)
    stream = numbers(2)

    assert inspect.isasyncgenfunction(numbers)
    assert [] == happened(orders)
    assert 0 == await anext(stream)
    assert ["begin"] == happened(orders)
    assert [1] == [each async for each in stream]
    assert ["begin", "commit"] == happened(orders)


async def test_an_async_generator_is_spoken_to(container: Container, orders: FakePool) -> None:
    """What is sent to or thrown into the generator reaches its body, which goes on in the same transaction."""
    wired(container)
    stream = numbers(2)
    await anext(stream)

    assert "sent" == await stream.asend("sent")
    assert 1 == await anext(stream)
    assert "caught" == await stream.athrow(KeyError())
    assert [] == [each async for each in stream]
    assert ["begin", "commit"] == happened(orders)


async def test_an_async_generator_that_is_closed_aborts(container: Container, orders: FakePool) -> None:
    """A generator that is left early has aborted when aclose returns."""
    wired(container)
    stream = numbers(2)
    await anext(stream)
    await stream.aclose()

    assert ["begin", "abort"] == happened(orders)
    assert 2 == orders.stats().idle


async def test_an_exception_that_leaves_an_async_generator_aborts(container: Container, orders: FakePool) -> None:
    """What the generator doesn't handle aborts its transaction and comes out."""
    wired(container)
    stream = numbers(2)
    await anext(stream)
    with pytest.raises(ValueError, match="x"):
        await stream.athrow(ValueError("x"))

    assert ["begin", "abort"] == happened(orders)


async def test_a_generator_dropped_by_its_task_aborts(container: Container, orders: FakePool) -> None:
    """A generator that nobody closes is closed by the loop, in another task, and aborts there."""
    wired(container)
    aborted = asyncio.Event()
    loop = asyncio.get_running_loop()
    orders.observer.subscribe("transaction.finished", lambda _: loop.call_soon_threadsafe(aborted.set))

    async def first() -> object:
        return await anext(numbers(2))

    assert 0 == await asyncio.create_task(first())
    await asyncio.wait_for(aborted.wait(), PATIENCE)
    assert ["begin", "abort"] == happened(orders)


async def test_a_context_manager_above_an_async_generator(container: Container, orders: FakePool) -> None:
    """Inject below asynccontextmanager makes a context manager whose block is the transaction."""

    @contextlib.asynccontextmanager
    @inject
    async def unit(tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> AsyncIterator[Any]:
        yield tx

    wired(container)
    async with unit() as tx:
        tx.produce_async("orders", "tea")
    with pytest.raises(KeyError):
        async with unit():
            raise KeyError

    assert ["begin", "commit", "begin", "abort"] == happened(orders)


# -- who joins whom ------------------------------------------------------------------------------


async def test_a_nested_call_joins(container: Container, orders: FakePool) -> None:
    """A coroutine function called inside another one's transaction takes part in it."""

    @inject
    async def outer(tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> bool:
        return tx is await by_string()

    wired(container)

    assert await outer()
    assert ["begin", "commit"] == happened(orders)


async def test_a_plain_function_joins(container: Container, orders: FakePool) -> None:
    """A plain function called inside of a coroutine's transaction gets a Transaction over the same one."""

    @inject
    def inner(tx: Transaction = injected(Container.orders.transaction)) -> str:
        tx.produce_async("orders", "tea")
        return tx.id

    @inject
    async def outer(tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> bool:
        return tx.id == inner()

    wired(container)

    assert await outer()
    assert ["begin", "commit"] == happened(orders)
    orders.assert_committed(Sent("orders", "tea"))


async def test_a_child_task_does_not_join(container: Container, orders: FakePool) -> None:
    """A task started inside of a transaction has its own, unless it is given the transaction."""

    @inject
    async def outer(tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> list[bool]:
        own, [given] = await asyncio.gather(by_string(), asyncio.gather(by_string(tx)))
        return [own is tx, given is tx]

    wired(container)

    assert [False, True] == await outer()
    assert ["begin", "begin", "commit", "commit"] == happened(orders)


async def test_an_async_generators_caller_does_not_join(container: Container, orders: FakePool) -> None:
    """What runs between two values of an async generator has a transaction of its own."""

    @inject
    async def values(tx: Any = injected(Container.orders.async_transaction)) -> AsyncIterator[Any]:
        yield tx

    wired(container)

    assert [False] == [tx is await by_string() async for tx in values()]
    assert ["begin", "begin", "commit", "commit"] == happened(orders)


async def test_many_calls_at_once_share_the_pool(container: Container, orders: FakePool) -> None:
    """More calls at once than there are producers wait for their turn, each in its own transaction."""
    wired(container)
    transactions = await asyncio.gather(*(by_injected() for _ in range(20)))

    assert 20 == len({tx.id for tx in transactions})
    assert 20 == happened(orders).count("commit")
    assert 2 == orders.stats().idle


# -- the wrong colour ----------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["async_transaction", "async_producer"])
def test_a_plain_function_refuses_a_scope_for_tasks(scope: str) -> None:
    """A plain function or generator that could never open its scope is refused at decoration, with the way out."""
    marker = injected(getattr(Container.orders, scope))
    with pytest.raises(TypeError, match=r"'tx' is a producer or transaction for coroutine functions"):

        @inject
        def fn(tx: Any = marker) -> None: ...

    with pytest.raises(TypeError, match=r"Inject producer or transaction"):

        @inject
        def values(tx: Any = marker) -> Iterator[int]:
            yield 1


@pytest.mark.parametrize("scope", ["transaction", "producer"])
def test_a_coroutine_function_refuses_a_scope_for_threads(scope: str) -> None:
    """A coroutine function or async generator refuses what would block its loop, with the way out."""
    marker = injected(getattr(Container.orders, scope))
    with pytest.raises(TypeError, match=r"'tx'.*would block the event loop.*async_transaction"):

        @inject
        async def fn(tx: Any = marker) -> None: ...

    with pytest.raises(TypeError, match=r"'tx'.*would block the event loop"):

        @inject
        async def values(tx: Any = marker) -> AsyncIterator[int]:
            yield 1


def test_a_plain_function_refuses_a_path_to_a_scope_for_tasks(container: Container, orders: FakePool) -> None:
    """Where only the call can tell, the call says it, and opens nothing."""

    @inject
    def fn(tx: Any = Provide["orders.async_transaction"]) -> None: ...

    @inject
    def values(tx: Any = Provide["orders.async_transaction"]) -> Iterator[int]:
        yield 1

    wired(container)
    with pytest.raises(ScopeError, match="for coroutine functions"):
        fn()
    with pytest.raises(ScopeError, match="for coroutine functions"):
        next(values())

    assert [] == happened(orders)


async def test_a_hidden_coroutine_function_is_refused() -> None:
    """Inject above a decorator that hides a coroutine function is refused: the scope would end before its body."""
    with pytest.raises(TypeError, match=r"would end before its body runs|for coroutine functions"):

        @inject
        @contextlib.asynccontextmanager
        async def fn(tx: Any = injected(Container.orders.async_transaction)) -> AsyncIterator[Any]:
            yield tx


# -- beside dependency-injector's own ------------------------------------------------------------


async def test_stock_inject_below(container: Container, orders: FakePool) -> None:
    """Inject above dependency-injector's opens the scopes for it."""

    @inject
    @wiring.inject
    async def fn(a: int, tx: Any = injected(Container.orders.async_transaction)) -> str:
        return f"{a} {type(tx).__name__}"

    wired(container)

    assert "1 AsyncTransaction" == await fn(1)
    assert ["begin", "commit"] == happened(orders)


async def test_stock_inject_above(container: Container, orders: FakePool) -> None:
    """dependency-injector's above ours finds nothing left to do and says so."""
    with pytest.warns(wiring.DIWiringWarning, match="not required"):

        @wiring.inject
        @inject
        async def fn(tx: Any = injected(Container.orders.async_transaction)) -> str:
            return type(tx).__name__

    wired(container)

    assert "AsyncTransaction" == await fn()
    assert ["begin", "commit"] == happened(orders)


async def test_stock_inject_instead(container: Container, orders: FakePool) -> None:
    """A recipe that dependency-injector's inject left unopened says which inject opens it."""

    @wiring.inject
    async def fn(tx: Any = injected(Container.orders.async_transaction)) -> None:
        tx.produce_async("topic")

    wired(container)
    with pytest.raises(UnopenedScopeError, match=r"'produce_async'.*decorate the function with wd_di.inject"):
        await fn()

    assert [] == happened(orders)


# -- overriding ----------------------------------------------------------------------------------


async def test_an_override_before_or_after_the_first_use(container: Container) -> None:
    """A pool overridden before its opening or after it gives its scopes to wired coroutine functions."""
    wired(container)
    with FakePool("first") as first, container.orders.override(first):
        await by_injected()
    async with running(container):
        await by_injected()
        with FakePool("second") as second, container.orders.override(second):
            await by_string()

        assert ["begin", "commit"] == happened(first)
        assert ["begin", "commit"] == happened(second)
        assert 1 == container.orders().stats().totals.requests


async def test_overriding_leaves_the_providers_synchronous(container: Container, orders: FakePool) -> None:
    """Neither a fake nor a coroutine function that was injected turns a provider asynchronous."""
    wired(container)
    await by_injected()

    assert orders is container.orders()
    assert not container.orders.is_async_mode_enabled()
    assert not container.orders.async_transaction.is_async_mode_enabled()


async def test_a_pool_that_nobody_opened_opens_at_the_first_call(container: Container) -> None:
    """Without running or lifespan, the first injected call opens the pool, off the loop."""
    wired(container)
    tx = await by_injected()

    assert isinstance(tx, AsyncTransaction)
    assert (await asyncio.to_thread(container.orders.shutdown)) is None
    assert container.orders.report.clean
