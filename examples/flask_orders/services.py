"""What the application does, without a word of HTTP."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from examples.flask_orders.containers import Container
from wd_di import Transaction, inject, injected

STOCK = {"tea": 100, "cup": 6, "pot": 0}


class OutOfStockError(Exception):
    """There is less of it than was ordered."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer wants to buy."""

    id: str
    sku: str
    quantity: int


@inject
def place(order: Order, tx: Transaction = injected(Container.orders.transaction)) -> None:
    """Publish the order and take it from the stock: readers see both, or neither.

    Called by a view that is in a transaction already, it takes part in that one.

    Raises:
        OutOfStockError: The order was published, and is taken back.
        TransactionError: It wasn't committed; its ``outcome`` says whether that is certain.
    """
    tx.produce_async("orders", json.dumps(asdict(order)), key=order.id)
    if order.quantity > STOCK.get(order.sku, 0):
        raise OutOfStockError(f"not {order.quantity} of {order.sku!r} in stock")
    tx.produce_async("inventory", f"-{order.quantity}", key=order.sku)
