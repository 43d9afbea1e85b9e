"""Event publishing: headers, topics by type, many threads, and what is lost."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from examples.events_publishing import __main__ as demo
from examples.events_publishing.containers import Container, Settings
from examples.events_publishing.services import publish
from tests.kafka.readers import read
from wd_di import KafkaSettings, PoolClosedError, PoolSettings, ProducerPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wd_di.testing import MockKafka


@pytest.fixture
def pool() -> Iterator[ProducerPool]:
    """A pool in memory."""
    with ProducerPool(PoolSettings(deliver=False, size=1)) as pool:
        yield pool


@pytest.fixture
def container(pool: ProducerPool) -> Iterator[Container]:
    """The application with that pool instead of its own."""
    container = Container()
    with container.events.override(pool):
        yield container
    container.unwire()


def test_an_event_goes_to_the_topic_of_its_type(container: Container) -> None:
    """The caller gets the delivery, which tells where the event went."""
    order = publish("order_placed", {"order_id": 456, "amount": 99.99})
    user = publish("user_created", {"id": 123, "name": "Alice"})

    assert ["events.order_placed", "events.user_created"] == [order.result().topic, user.result().topic]


def test_an_event_carries_headers(mock_kafka: MockKafka) -> None:
    """A reader finds the type and the time of publishing in the headers, and the data as JSON."""
    before = int(time.time())
    settings = PoolSettings(kafka=KafkaSettings(bootstrap_servers=mock_kafka.bootstrap_servers))
    with ProducerPool(settings) as pool, pool.producer() as producer:
        publish("user_created", {"id": 123, "name": "Alice"}, producer=producer).result()
    [event] = read(mock_kafka.bootstrap_servers, "events.user_created", "read_uncommitted")
    headers = dict(event.headers)

    assert b"user_created" == headers["type"]
    assert before <= int(headers["timestamp"] or 0) <= time.time()
    assert {"id": 123, "name": "Alice"} == json.loads(event.value or b"")


def test_publishing_after_the_end_fails(container: Container, pool: ProducerPool) -> None:
    """An event that nobody would send is refused."""
    pool.close()

    with pytest.raises(PoolClosedError):
        publish("user_created", {})


def test_threads_share_the_producers() -> None:
    """By default more threads than producers publish at once."""
    events = Settings().events

    assert events.size * events.share >= demo.THREADS > events.size


def test_all_events_arrive(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo publishes on the mock, and says that nothing was lost."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setattr(demo, "EVENTS", 200)

    demo.main()
    out = capsys.readouterr().out

    assert out.startswith("200 of 200 events from 8 threads delivered in ")
    assert ", 0 lost\n" in out
    assert "purged=0" in out
