"""The Flask service: a reply is sent when its commit is done, and tells the truth about it."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from examples.flask_orders.app import create_app
from examples.flask_orders.containers import Container
from tests.examples.servers import serving
from tests.kafka.readers import read
from wd_di.testing import ClusterError, FakePool, Sent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.examples.servers import Server
    from wd_di.testing import Cluster

SERVICE = "examples.flask_orders"
TEA = {"id": "A1", "sku": "tea", "quantity": 2}
NO_POT = {"id": "A2", "sku": "pot", "quantity": 1}
TOO_MANY = {"id": "A3", "sku": "tea", "quantity": 5_000}


@pytest.fixture
def orders() -> Iterator[FakePool]:
    """A fake in the place of the application's orders."""
    container = Container()
    with FakePool("orders", settings=container.settings().orders) as fake, container.orders.override(fake):
        yield fake
    container.unwire()


@pytest.fixture
def client(orders: FakePool) -> Iterator[httpx.Client]:
    """A client of the application in this very process."""
    with httpx.Client(transport=httpx.WSGITransport(create_app()), base_url="http://localhost") as client:
        yield client


# -- what a reply means --------------------------------------------------------------------------


def test_an_order_is_committed_when_its_reply_comes(client: httpx.Client, orders: FakePool) -> None:
    """A 201 has a committed order and its reservation behind it, in one transaction."""
    reply = client.post("/orders", json=TEA)

    assert 201 == reply.status_code
    orders.assert_committed(Sent("orders", key="A1"), Sent("inventory", "-2", key="tea"))
    assert 1 == sum(event.name == "transaction.committed" for event in orders.events)


def test_what_is_raised_aborts(client: httpx.Client, orders: FakePool) -> None:
    """Flask's abort takes back what the view, and the service that it called, have published."""
    reply = client.post("/orders", json=NO_POT)

    assert 409 == reply.status_code
    orders.assert_nothing_committed()
    orders.assert_aborted(Sent("orders", key="A2"))


def test_what_is_returned_commits(client: httpx.Client, orders: FakePool) -> None:
    """A refusal that is returned, not raised, is a result: what was published about it stays."""
    reply = client.post("/orders", json=TOO_MANY)

    assert 422 == reply.status_code
    assert ["refused"] == [sent.topic for sent in orders.committed]


def test_an_invalid_order_publishes_nothing(client: httpx.Client, orders: FakePool) -> None:
    """A body that is no order is the client's error."""
    assert 400 == client.post("/orders", json={"id": "A4"}).status_code
    orders.assert_nothing_committed()


@pytest.mark.parametrize(
    ("fault", "status"), [({}, 503), ({"unknown": True}, 500)], ids=["commit refused", "outcome unknown"]
)
def test_a_failed_commit_is_never_a_success(
    client: httpx.Client, orders: FakePool, fault: dict[str, Any], status: int
) -> None:
    """Though the view has returned, the client learns that its commit failed, and whether that is certain."""
    orders.fail_next("commit", **fault)

    assert status == client.post("/orders", json=TEA).status_code
    orders.assert_nothing_committed()


def test_a_record_that_is_not_delivered_is_never_a_success(client: httpx.Client, orders: FakePool) -> None:
    """A record that fails after it was enqueued aborts the order, and the client may repeat it."""
    orders.fail_delivery("inventory", times=1)
    first = client.post("/orders", json=TEA)
    again = client.post("/orders", json=TEA)

    assert (503, "1") == (first.status_code, first.headers["retry-after"])
    assert 201 == again.status_code
    assert 1 == sum(sent.topic == "orders" for sent in orders.committed)


def test_a_busy_pool_is_a_503(client: httpx.Client, orders: FakePool) -> None:
    """A request that gets no producer in time was not done."""
    with orders.exhaust():
        reply = client.post("/orders", json=TEA)

    assert 503 == reply.status_code


# -- a real server -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The service as a process, on its own mock."""
    with serving(SERVICE) as server:
        yield server


def test_a_server_commits_before_it_replies(server: Server) -> None:
    """A record is on the broker when a client of a real server has its reply."""
    order = {"id": uuid.uuid4().hex, "sku": "tea", "quantity": 1}
    reply = httpx.post(f"{server.url}/orders", json=order)
    found = [json.loads(each.value or b"") for each in read(server.kafka, "orders") if _key(each) == order["id"]]

    assert (201, {"id": order["id"]}) == (reply.status_code, reply.json())
    assert [order] == found


def test_a_server_serves_more_clients_than_it_has_producers(server: Server) -> None:
    """The server's threads share the pool, and all get their turn."""

    def request(number: int) -> int:
        return httpx.delete(f"{server.url}/orders/many-{number}").status_code

    with ThreadPoolExecutor(16) as clients:
        statuses = Counter(clients.map(request, range(64)))

    assert {200: 64} == statuses
    assert {f"many-{number}" for number in range(64)} <= {_key(each) for each in read(server.kafka, "orders")}


def test_a_server_ends_in_order() -> None:
    """Asked to end, the server closes its pool and says how that went."""
    with serving(SERVICE) as server:
        httpx.delete(f"{server.url}/orders/A1").raise_for_status()
        server.stop()

    assert 0 == server.process.returncode
    assert "CloseReport(pool='orders'" in server.lines[-1]


def test_every_success_is_on_a_real_broker_once(local_kafka: Cluster) -> None:
    """Of many requests at once, readers see the orders that had a 201, each once, and no other."""
    with suppress(ClusterError):  # it is there already
        local_kafka.create_topic("orders")
    run = uuid.uuid4().hex

    with serving(SERVICE, local_kafka.bootstrap_servers) as server, httpx.Client(base_url=server.url) as client:

        def request(number: int) -> tuple[str, int]:
            order = {"id": f"{run}-{number}", "sku": ("tea", "pot")[number % 3 == 0], "quantity": 1}
            return f"{run}-{number}", client.post("/orders", json=order, timeout=20).status_code

        with ThreadPoolExecutor(12) as clients:
            replies = dict(clients.map(request, range(120)))
    records = [_key(each) for each in read(local_kafka.bootstrap_servers, "orders") if _key(each).startswith(run)]

    assert {201: 80, 409: 40} == Counter(replies.values())
    assert Counter(key for key, status in replies.items() if status == 201) == Counter(records)


def _key(record: Any) -> str:
    return (record.key or b"").decode()
