"""What the application does, without a word of HTTP."""

from __future__ import annotations

from pydantic import BaseModel, Field

from examples.fastapi_orders.containers import Container
from wd_di import AsyncTransaction, inject, injected

STOCK = {"tea": 100, "cup": 6, "pot": 0}


class OutOfStockError(Exception):
    """There is less of it than was ordered."""


class Order(BaseModel):
    """What a customer wants to buy."""

    id: str
    sku: str
    quantity: int = Field(ge=1)


@inject
async def place(order: Order, tx: AsyncTransaction = injected(Container.orders.async_transaction)) -> None:
    """Publish the order and take it from the stock: readers see both, or neither.

    Called by an endpoint that is in a transaction already, it takes part in that one.

    Raises:
        OutOfStockError: The order was published, and is taken back.
        TransactionError: It wasn't committed; its ``outcome`` says whether that is certain.
    """
    tx.produce_async("orders", order.model_dump_json(), key=order.id)
    if order.quantity > STOCK.get(order.sku, 0):
        raise OutOfStockError(f"not {order.quantity} of {order.sku!r} in stock")
    tx.produce_async("inventory", f"-{order.quantity}", key=order.sku)
