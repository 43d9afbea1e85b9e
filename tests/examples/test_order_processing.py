"""Order processing: a batch is committed as a whole, or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from dependency_injector import providers

from examples.order_processing import __main__ as demo
from examples.order_processing import services
from examples.order_processing.containers import Container, Settings
from examples.order_processing.services import Order, OrderError, process_orders
from tests.kafka.readers import read
from tests.pools import unique
from wd_di import Event, PoolSettings, ProducerPool, TransactionAborted, TransactionCommitted, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di.testing import Cluster


@pytest.fixture
def pool() -> Iterator[ProducerPool]:
    """A pool in memory."""
    with ProducerPool(PoolSettings(deliver=False, size=1, transactional_id="test-{host}-{index}")) as pool:
        yield pool


@pytest.fixture
def seen(pool: ProducerPool) -> Iterator[list[Event]]:
    """What became of transactions, in the application with that pool instead of its own."""
    events: list[Event] = []
    pool.observer.subscribe(TransactionCommitted, events.append)
    pool.observer.subscribe(TransactionAborted, events.append)
    container = Container()
    with container.orders.override(pool):
        yield events
    container.unwire()


def test_a_batch_is_one_transaction(seen: list[Event]) -> None:
    """All orders of a batch are committed together."""
    process_orders(demo.GOOD)

    assert [("transaction.committed", 3)] == [(event.name, event["records"]) for event in seen]


def test_one_bad_order_aborts_the_batch(seen: list[Event]) -> None:
    """An order that can't be processed takes those before it back."""
    with pytest.raises(OrderError, match="order 5: a quantity of 0"):
        process_orders(demo.BAD)

    assert [("transaction.aborted", 1)] == [(event.name, event["records"]) for event in seen]


def test_readers_see_whole_batches_only(local_kafka: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real broker an aborted batch is in the log, and hidden from ``read_committed`` readers."""
    servers = local_kafka.bootstrap_servers
    topic = local_kafka.create_topic(unique("processed_orders"))
    monkeypatch.setattr(services, "TOPIC", topic)
    settings = Settings.model_validate({"orders": {"kafka": {"bootstrap_servers": servers}}})
    with running(Container(settings=providers.Object(settings))):
        process_orders(demo.GOOD)
        with pytest.raises(OrderError):
            process_orders(demo.BAD)
        process_orders([Order(6, "tin", 1)])
    orders = read(servers, topic)

    assert [b"1", b"2", b"3", b"6"] == [order.key for order in orders]
    assert {"id": 2, "sku": "cup", "quantity": 6} == json.loads(orders[1].value or b"")
    assert b"4" in [order.key for order in read(servers, topic, "read_uncommitted")]


def test_the_demo_tells_both_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo runs on the mock, and says how each batch ended."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)

    demo.main()

    assert "3 orders: committed\n2 orders: aborted, since order 5: a quantity of 0\n" == capsys.readouterr().out


def test_the_demo_runs_on_a_broker_of_your_own(
    local_kafka: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``KAFKA_BOOTSTRAP_SERVERS`` is where the demo runs instead of the mock."""
    topic = local_kafka.create_topic(unique("processed_orders"))
    monkeypatch.setattr(services, "TOPIC", topic)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", local_kafka.bootstrap_servers)

    demo.main()

    assert capsys.readouterr().out.startswith("3 orders: committed\n")
    assert 3 == len(read(local_kafka.bootstrap_servers, topic))
