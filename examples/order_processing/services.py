"""What the application does: process orders, all of a batch or none."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from examples.order_processing.containers import Container
from wd_di import Transaction, inject, injected

if TYPE_CHECKING:
    from collections.abc import Iterable

TOPIC = "processed_orders"


class OrderError(Exception):
    """An order that can't be processed."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer bought."""

    id: int
    sku: str
    quantity: int


@inject
def process_orders(orders: Iterable[Order], tx: Transaction = injected(Container.orders.transaction)) -> None:
    """Publish every order of the batch: readers see all of them, or none.

    Raises:
        OrderError: One can't be processed; those before it are taken back.
        TransactionError: The batch wasn't committed; its ``outcome`` says whether that is certain.
    """
    for order in orders:
        if order.quantity < 1:
            raise OrderError(f"order {order.id}: a quantity of {order.quantity}")
        tx.produce_async(TOPIC, json.dumps(asdict(order)), key=str(order.id))
