"""What type checkers know of containers and injected parameters; each ignore stands for an error they must find."""

# ruff: noqa: ARG002, ARG003, ARG004, ARG005, D101, D103  (nothing here is run)
from __future__ import annotations

from typing import Annotated, Any, assert_type

from dependency_injector import containers, providers

from wd_di import (
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


class Service:
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


# -- the container's life ------------------------------------------------------------------------

with running(Container(), modules=["shop.services"]) as container:
    assert_type(container, Container)
    assert_type(container.orders(), ProducerPool)
    assert_type(container.orders.report, CloseReport | None)
    assert_type(close_pools(container), dict[str, CloseReport])
