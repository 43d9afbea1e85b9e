"""What type checkers know of injected parameters; checked by mypy --strict and pyright, never run."""

# ruff: noqa: ARG003, ARG004, ARG005, D101, D103  (nothing here is run)
from __future__ import annotations

from typing import Any, assert_type

from dependency_injector import containers, providers

from wd_di._producer import Producer
from wd_di._recipe import Recipe
from wd_di._transaction import Transaction
from wd_di.events import Observer
from wd_di.lifecycle import close_pools, running
from wd_di.pool import CloseReport, ProducerPool
from wd_di.providers import PoolResource, ScopeProvider
from wd_di.settings import PoolSettings, Settings
from wd_di.wiring import inject, injected


class Container(containers.DeclarativeContainer):
    settings = providers.ThreadSafeSingleton(Settings)
    observer = providers.ThreadSafeSingleton(Observer)
    orders = PoolResource(settings.provided.orders, observer=observer)
    clicks = PoolResource(PoolSettings(), name="page-views", configure=lambda config: None, observer=Observer())


assert_type(Container.orders, PoolResource)
assert_type(Container.orders.producer, ScopeProvider[Producer])
assert_type(Container.orders.transaction, ScopeProvider[Transaction])
assert_type(Container.orders.transaction_with(timeout_ms=5, commit_on=(KeyError,)), ScopeProvider[Transaction])
Container.orders.transaction_with(timeout=5)  # type: ignore[call-arg]

assert_type(injected(Container.orders), ProducerPool)
assert_type(injected(Container.orders.producer), Producer)
assert_type(injected(Container.orders.transaction), Transaction)
assert_type(injected(Container.observer), Observer)

assert_type(Container.orders.transaction(), Recipe[Transaction])
with Container.orders.transaction() as opened:
    assert_type(opened, Transaction)


@inject
def place(order: str, tx: Transaction = injected(Container.orders.transaction)) -> int:
    assert_type(tx, Transaction)
    return len(order)


@inject
def wrong(tx: ProducerPool = injected(Container.orders.transaction)) -> None: ...  # type: ignore[assignment]


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


assert_type(place("order"), int)
place(1)  # type: ignore[arg-type]
assert_type(Service.of("name"), Service)
assert_type(Service.count("name"), int)


async def call() -> None:
    assert_type(await seen("page"), str)


with running(Container(), modules=["shop.services"]) as container:
    assert_type(container, Container)
    assert_type(container.orders(), ProducerPool)
    assert_type(container.orders.report, CloseReport | None)
    assert_type(close_pools(container), dict[str, CloseReport])


def of_any(provider: Any) -> None:
    injected(provider)
