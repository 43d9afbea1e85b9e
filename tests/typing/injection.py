"""What type checkers know of containers and injected parameters; each ignore stands for an error they must find."""

# ruff: noqa: ARG002, ARG003, ARG004, ARG005, D101, D103  (nothing here is run)
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, assert_type

from dependency_injector import containers, providers

from wd_di import (
    AsyncProducer,
    AsyncScopeProvider,
    AsyncTransaction,
    CloseReport,
    Observer,
    PoolResource,
    PoolSettings,
    Producer,
    ProducerPool,
    Retry,
    ScopeProvider,
    Settings,
    Transaction,
    close_pools,
    inject,
    injected,
    lifespan,
    running,
)


class Order:
    id: int
    sku: str

    def to_json(self) -> str:
        return ""

    def reservation(self) -> bytes:
        return b""


class AppSettings(Settings):
    orders: PoolSettings
    clicks: PoolSettings


class Container(containers.DeclarativeContainer):
    wiring_config = containers.WiringConfiguration(modules=["shop.services"])
    settings = providers.ThreadSafeSingleton(AppSettings)
    observer = providers.ThreadSafeSingleton(Observer)
    orders = PoolResource(settings.provided.orders, observer=observer)
    clicks = PoolResource(PoolSettings(), name="page-views", configure=lambda config: None, observer=Observer())


# -- providers -----------------------------------------------------------------------------------

assert_type(Container.orders, PoolResource)
assert_type(Container.orders.producer, ScopeProvider[Producer])
assert_type(Container.orders.transaction, ScopeProvider[Transaction])
assert_type(
    Container.orders.transaction_with(timeout_ms=5, propagation="new", commit_on=(KeyError,), retry=Retry(attempts=2)),
    ScopeProvider[Transaction],
)
assert_type(Container.orders.async_producer, AsyncScopeProvider[AsyncProducer])
assert_type(Container.orders.async_transaction, AsyncScopeProvider[AsyncTransaction])
assert_type(Container.orders.async_transaction_with(retry=Retry()), AsyncScopeProvider[AsyncTransaction])
Container.orders.async_transaction_with(timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Container.orders.transaction_with(timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Container.orders.transaction_with(timeout_ms="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Container.orders.transaction_with(propagation="nest")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Container.orders.transaction_with(commit_on=KeyError)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Container.orders.transaction_with(commit_on=(SystemExit,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
PoolResource(PoolSettings(), size=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

with Container.orders.producer() as borrowed:
    assert_type(borrowed, Producer)
with Container.orders.transaction() as opened:
    assert_type(opened, Transaction)

# -- markers -------------------------------------------------------------------------------------

assert_type(injected(Container.orders), ProducerPool)
assert_type(injected(Container.orders.producer), Producer)
assert_type(injected(Container.orders.transaction), Transaction)
assert_type(injected(Container.orders.transaction_with(retry=Retry())), Transaction)
assert_type(injected(Container.orders.async_producer), AsyncProducer)
assert_type(injected(Container.orders.async_transaction), AsyncTransaction)
assert_type(injected(Container.orders.async_transaction_with(propagation="new")), AsyncTransaction)
assert_type(injected(Container.observer), Observer)
injected(Container)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def of_any(provider: Any) -> None:
    injected(provider)


# -- functions -----------------------------------------------------------------------------------


@inject
def place(order: Order, tx: Transaction = injected(Container.orders.transaction)) -> None:
    assert_type(tx, Transaction)
    tx.produce_async("orders", order.to_json(), key=str(order.id))
    tx.produce_async("inventory", order.reservation(), key=order.sku)
    tx.after_commit(order.to_json)


@inject
def count(page: str, producer: Producer = injected(Container.clicks.producer)) -> int:
    return producer.produce_sync("clicks", page).partition


@inject
def by_annotation(page: str, producer: Annotated[Producer, injected(Container.clicks.producer)]) -> int:
    return producer.produce_sync("clicks", page).partition


@inject
def wider(producer: Producer = injected(Container.orders.transaction)) -> None: ...


@inject
def narrower(
    tx: Transaction = injected(Container.orders.producer),  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
) -> None: ...


@inject
def unlike(
    tx: ProducerPool = injected(Container.orders.transaction),  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
) -> None: ...


@inject
async def seen(page: str, pool: ProducerPool = injected(Container.clicks)) -> str:
    return page


@inject
async def place_async(order: Order, tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> int:
    tx.produce_async("orders", order.to_json())
    return (await tx.produce_sync("inventory", order.reservation())).partition


@inject
async def pages(
    count: int, producer: AsyncProducer = injected(Container.clicks.async_producer)
) -> AsyncIterator[AsyncProducer]:
    yield producer


@inject
async def of_the_other_colour(
    tx: Transaction = injected(Container.orders.async_transaction),  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
) -> None: ...


class Service:
    @inject
    async def serve(self, order: Order, tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> str:
        return tx.id

    @inject
    @classmethod
    def of(cls, name: str, pool: ProducerPool = injected(Container.orders)) -> Service:
        return cls()

    @staticmethod
    @inject
    def count(name: str, producer: Producer = injected(Container.orders.producer)) -> int:
        return len(name)

    @inject
    def name(self, producer: Producer = injected(Container.orders.producer)) -> str:
        return ""


place(Order())
place(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(count("page"), int)
assert_type(Service.of("name"), Service)
assert_type(Service.count("name"), int)
assert_type(Service().name(), str)


async def call() -> None:
    assert_type(await seen("page"), str)
    assert_type(await place_async(Order()), int)
    assert_type(await Service().serve(Order()), str)
    async for each in pages(3):
        assert_type(each, AsyncProducer)
    await place_async(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- the container's life ------------------------------------------------------------------------

with running(Container(), modules=["shop.services"]) as container:
    assert_type(container, Container)
    assert_type(container.orders(), ProducerPool)
    assert_type(container.orders.report, CloseReport | None)
    assert_type(close_pools(container), dict[str, CloseReport])


async def serve() -> None:
    async with Container.orders.async_transaction() as opened_by_a_task:
        assert_type(opened_by_a_task, AsyncTransaction)
    async with Container.orders.async_producer() as borrowed_by_a_task:
        assert_type(borrowed_by_a_task, AsyncProducer)
    async with running(Container(), packages=["shop"]) as container:
        assert_type(container, Container)
    async with lifespan(Container())(object()) as state:
        assert_type(state, None)
