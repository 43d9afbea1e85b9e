"""What it costs to have a transaction injected, above opening it by hand. Nothing is sent, and there is no broker."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import dependency_injector.wiring
from dependency_injector import containers

from tests.bench.workloads import Target, Turn, Workload
from wd_di import PoolResource, PoolSettings, ProducerPool, Transaction, inject, injected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.workloads import Place, Way

SETTINGS = PoolSettings(deliver=False, transactional_id="bench-{host}-{pid}-{pool}-{index}")
BARE, STOCK, OURS = "with pool.transaction()", "the same, the pool injected by dependency-injector", "wd_di's @inject"
AT_ONCE, ALL_S = 100, 0.5


class Container(containers.DeclarativeContainer):
    """A pool in memory."""

    orders = PoolResource(SETTINGS, name="injected")


@dependency_injector.wiring.inject
def stock(pool: ProducerPool = dependency_injector.wiring.Provide[Container.orders]) -> None:
    """Get a pool, and open the transaction."""
    with pool.transaction():
        pass


@inject
def ours(tx: Transaction = injected(Container.orders.transaction)) -> None:
    """Get the transaction."""


def injection(place: Place) -> Iterator[Workload]:
    """Give an empty transaction in three ways."""
    seconds = min(place.effort.seconds, ALL_S)
    container = Container()
    with ExitStack() as stack:
        stack.callback(container.shutdown_resources)
        container.init_resources()
        container.wire(modules=[__name__])
        stack.callback(container.unwire)
        pool = stack.enter_context(ProducerPool(SETTINGS, name="by-hand"))

        def bare() -> None:
            with pool.transaction():
                pass

        calls: dict[str, Callable[[], None]] = {BARE: bare, STOCK: lambda: stock(), OURS: lambda: ours()}  # noqa: PLW0108  (looked up at the call)
        ways: dict[str, Way] = {name: partial(_calling, seconds, call) for name, call in calls.items()}
        asked = [
            Target(BARE, "cpu", 10, "at most"),
            Target(OURS, "cpu", 4, "at most", against=STOCK, above=True),
        ]
        yield Workload(8, "an empty transaction, in memory", "transactions", ways, "cpu", asked)


def _calling(seconds: float, call: Callable[[], None]) -> Turn:
    called, each = 0, range(AT_ONCE)
    began, used = time.perf_counter(), time.process_time()
    while (lasted := time.perf_counter() - began) < seconds or not called:
        for _ in each:
            call()
        called += AT_ONCE
    return Turn(called, lasted, cpu=time.process_time() - used)
