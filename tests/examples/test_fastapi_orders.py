"""The FastAPI service: a reply is sent when its commit is done, and tells the truth about it."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from examples.fastapi_orders.app import create_app
from examples.fastapi_orders.containers import Container
from tests.examples.servers import serving
from tests.kafka.readers import read
from wd_di.testing import ClusterError, FakePool, Sent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.examples.servers import Server
    from wd_di.testing import Cluster

SERVICE = "examples.fastapi_orders"
TEA = {"id": "A1", "sku": "tea", "quantity": 2}
NO_POT = {"id": "A2", "sku": "pot", "quantity": 1}
TOO_MANY = {"id": "A3", "sku": "tea", "quantity": 5_000}


@pytest.fixture
def container() -> Iterator[Container]:
    """The application's container."""
    container = Container()
    yield container
    container.unwire()


@pytest.fixture
def orders(container: Container) -> Iterator[FakePool]:
    """A fake in the place of its orders."""
    with FakePool("orders", settings=Container.settings().orders) as fake, container.orders.override(fake):
        yield fake


@pytest.fixture
def clicks(container: Container) -> Iterator[FakePool]:
    """A fake in the place of its clicks."""
    with FakePool("clicks", transactional=False) as fake, container.clicks.override(fake):
        yield fake


@pytest.fixture
async def client(container: Container, orders: FakePool, clicks: FakePool) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application in this very process."""
    app = create_app(container)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


# -- what a reply means --------------------------------------------------------------------------


async def test_an_order_is_committed_when_its_reply_comes(client: httpx.AsyncClient, orders: FakePool) -> None:
    """A 201 has a committed order and its reservation behind it, in one transaction."""
    reply = await client.post("/orders", json=TEA)

    assert 201 == reply.status_code
    orders.assert_committed(Sent("orders", key="A1"), Sent("inventory", "-2", key="tea"))
    assert 1 == sum(event.name == "transaction.committed" for event in orders.events)


async def test_what_is_raised_aborts(client: httpx.AsyncClient, orders: FakePool) -> None:
    """An HTTPException takes back what the endpoint, and the service that it called, have published."""
    reply = await client.post("/orders", json=NO_POT)

    assert 409 == reply.status_code
    orders.assert_nothing_committed()
    orders.assert_aborted(Sent("orders", key="A2"))


async def test_what_is_returned_commits(client: httpx.AsyncClient, orders: FakePool) -> None:
    """A refusal that is returned, not raised, is a result: what was published about it stays."""
    reply = await client.post("/orders", json=TOO_MANY)

    assert 422 == reply.status_code
    assert ["refused"] == [sent.topic for sent in orders.committed]


async def test_an_invalid_order_opens_no_transaction(client: httpx.AsyncClient, orders: FakePool) -> None:
    """What FastAPI refuses by itself never gets as far as the pool."""
    reply = await client.post("/orders", json={"id": "A4", "sku": "tea", "quantity": 0})

    assert 422 == reply.status_code
    assert 0 == orders.stats().totals.requests


@pytest.mark.parametrize(
    ("fault", "status"), [({}, 503), ({"unknown": True}, 500)], ids=["commit refused", "outcome unknown"]
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_failed_commit_is_never_a_success(
    client: httpx.AsyncClient, orders: FakePool, method: str, fault: dict[str, Any], status: int
) -> None:
    """Though the endpoint has returned, the client learns that its commit failed, and whether that is certain."""
    orders.fail_next("commit", **fault)
    if method == "POST":
        reply = await client.post("/orders", json=TEA)
    else:
        reply = await client.delete("/orders/A1")

    assert status == reply.status_code
    orders.assert_nothing_committed()


async def test_a_record_that_is_not_delivered_is_never_a_success(client: httpx.AsyncClient, orders: FakePool) -> None:
    """A record that fails after it was enqueued aborts the order, and the client may repeat it."""
    orders.fail_delivery("inventory", times=1)
    first = await client.post("/orders", json=TEA)
    again = await client.post("/orders", json=TEA)

    assert (503, "1") == (first.status_code, first.headers["retry-after"])
    assert 201 == again.status_code
    assert 1 == sum(sent.topic == "orders" for sent in orders.committed)


async def test_a_busy_pool_is_a_503(client: httpx.AsyncClient, orders: FakePool) -> None:
    """A request that gets no producer in time was not done."""
    with orders.exhaust():
        reply = await client.post("/orders", json=TEA)

    assert 503 == reply.status_code


async def test_a_plain_endpoint_commits_too(client: httpx.AsyncClient, orders: FakePool) -> None:
    """A plain function is served by a thread, from the same pool."""
    reply = await client.delete("/orders/A1")

    assert 200 == reply.status_code
    orders.assert_committed(Sent("orders", None, key="A1"))


async def test_a_click_says_where_it_is(client: httpx.AsyncClient, clicks: FakePool) -> None:
    """An endpoint with a producer replies when the broker has stored its record."""
    reply = await client.post("/clicks/home")

    assert (202, {"offset": 0}) == (reply.status_code, reply.json())
    clicks.assert_committed(Sent("clicks", "home"))


async def test_the_documentation_shows_no_producers(client: httpx.AsyncClient) -> None:
    """Injected parameters are no parameters of the API."""
    paths = (await client.get("/openapi.json")).json()["paths"]

    assert ["order_id"] == [each["name"] for each in paths["/orders/{order_id}"]["delete"]["parameters"]]
    assert "parameters" not in paths["/orders"]["post"]


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
    """Endpoints on the loop and on threads share the pool, and all get their turn."""

    def request(number: int) -> int:
        if number % 2:
            return httpx.delete(f"{server.url}/orders/many-{number}").status_code
        return httpx.post(f"{server.url}/orders", json={**TEA, "id": f"many-{number}"}).status_code

    with ThreadPoolExecutor(16) as clients:
        statuses = Counter(clients.map(request, range(64)))

    assert {200: 32, 201: 32} == statuses
    keys = [_key(each) for each in read(server.kafka, "orders")]
    assert {f"many-{number}" for number in range(64)} <= set(keys)


def test_a_server_ends_in_order() -> None:
    """Asked to end, the server closes its pools before it says that it is done."""
    with serving(SERVICE) as server:
        httpx.post(f"{server.url}/clicks/home").raise_for_status()
        server.stop()

    assert any("Application shutdown complete" in line for line in server.lines)
    assert [] == [line for line in server.lines if "ERROR" in line or "Traceback" in line]


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
