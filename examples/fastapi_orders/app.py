"""What the application answers: each endpoint's transaction is committed before its reply is sent."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from examples.fastapi_orders.containers import Container
from examples.fastapi_orders.services import Order, OutOfStockError, place
from wd_di import (
    AsyncProducer,
    AsyncTransaction,
    DeliveryTimeoutError,
    PoolTimeoutError,
    ProduceError,
    Transaction,
    TransactionError,
    inject,
    injected,
    lifespan,
)

MOST = 1_000

api = APIRouter()


@api.post("/orders", status_code=201, response_model=None)
@inject
async def create(
    order: Order, tx: AsyncTransaction = injected(Container.orders.async_transaction)
) -> dict[str, str] | JSONResponse:
    """Place an order: what is raised aborts, what is returned commits, a refusal that is to be seen included."""
    if order.quantity > MOST:
        tx.produce_async("refused", order.model_dump_json(), key=order.id)
        return JSONResponse({"detail": f"no more than {MOST} at once"}, 422)
    try:
        await place(order)
    except OutOfStockError as error:
        raise HTTPException(409, str(error)) from error
    return {"id": order.id}


@api.delete("/orders/{order_id}")
@inject
def cancel(order_id: str, tx: Transaction = injected(Container.orders.transaction)) -> dict[str, str]:
    """Cancel an order; a plain function runs on a thread, and gets a producer of the same pool."""
    tx.produce_async("orders", None, key=order_id)
    return {"id": order_id}


@api.post("/clicks/{page}", status_code=202)
@inject
async def click(
    page: str, producer: AsyncProducer = injected(Container.clicks.async_producer)
) -> dict[str, int | None]:
    """Count a click, and say where the broker has stored it."""
    report = await producer.produce_sync("clicks", page)
    return {"offset": report.offset}


async def unavailable(_: Request, error: Exception) -> JSONResponse:
    """Tell the client whether its request can have had an effect."""
    if isinstance(error, DeliveryTimeoutError) or getattr(error, "outcome", None) == "unknown":
        return JSONResponse({"detail": "not known whether it was done: look before you repeat it"}, 500)
    return JSONResponse({"detail": "not done, please repeat it"}, 503, {"Retry-After": "1"})


def create_app(container: Container) -> FastAPI:
    """Return the application; its server opens the container before the first request and closes it after the last."""
    app = FastAPI(lifespan=lifespan(container))
    app.include_router(api)
    for kind in (PoolTimeoutError, ProduceError, TransactionError):
        app.add_exception_handler(kind, unavailable)
    return app
