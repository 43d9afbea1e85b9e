"""What the application answers: each view's transaction is committed before its reply is sent."""

from __future__ import annotations

from flask import Blueprint, Flask, Response, abort, jsonify, make_response, request

from examples.flask_orders.containers import Container
from examples.flask_orders.services import Order, OutOfStockError, place
from wd_di import PoolTimeoutError, ProduceError, Transaction, TransactionError, inject, injected

MOST = 1_000

api = Blueprint("orders", __name__)


@api.post("/orders")
@inject
def create(tx: Transaction = injected(Container.orders.transaction)) -> Response:
    """Place an order: what is raised aborts, what is returned commits, a refusal that is to be seen included."""
    order = _order()
    if order.quantity > MOST:
        tx.produce_async("refused", request.get_data(), key=order.id)
        return make_response({"detail": f"no more than {MOST} at once"}, 422)
    try:
        place(order)
    except OutOfStockError as error:
        abort(409, str(error))
    return make_response({"id": order.id}, 201)


@api.delete("/orders/<order_id>")
@inject
def cancel(order_id: str, tx: Transaction = injected(Container.orders.transaction)) -> Response:
    """Cancel an order."""
    tx.produce_async("orders", None, key=order_id)
    return jsonify(id=order_id)


def _order() -> Order:
    body = request.get_json()
    try:
        return Order(str(body["id"]), str(body["sku"]), int(body["quantity"]))
    except (KeyError, TypeError, ValueError):
        abort(400, "an order has an id, a sku and a quantity")


def unavailable(error: Exception) -> Response:
    """Tell the client whether its request can have had an effect."""
    if getattr(error, "outcome", None) == "unknown":
        return make_response({"detail": "not known whether it was done: look before you repeat it"}, 500)
    return make_response({"detail": "not done, please repeat it"}, 503, {"Retry-After": "1"})


def create_app() -> Flask:
    """Return the application; whoever serves it opens the container."""
    app = Flask(__name__)
    app.register_blueprint(api)
    for kind in (PoolTimeoutError, ProduceError, TransactionError):
        app.register_error_handler(kind, unavailable)
    return app
