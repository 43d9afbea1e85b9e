"""Clients made of a class that instrumentation put in the place of ``confluent_kafka.Producer``, after our import."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import Consumer, cimpl

from tests.pools import plain
from tests.pools import pool as on_brokers
from wd_di import PoolOpenError
from wd_di.testing import MockKafka

TRACE = ("traceparent", b"00-1")


class Traced(cimpl.Producer):
    """As OpenTelemetry's and others': each try of each record adds a header."""

    made: list[Traced]
    tries: list[str]

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.made.append(self)

    def produce(self, topic, value=None, *args, **kwargs):
        kwargs.setdefault("headers", []).append(TRACE)
        self.tries.append(topic)
        super().produce(topic, value, *args, **kwargs)


class Hollow(cimpl.Producer):
    """As OpenTelemetry's ProxiedProducer: what it doesn't pass on ends in a producer that was never made."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._producer = cimpl.Producer(config)

    def poll(self, timeout=-1):
        return self._producer.poll(timeout)


@pytest.fixture
def traced(monkeypatch) -> type[Traced]:
    """The class, in place."""
    Traced.made, Traced.tries = [], []
    monkeypatch.setattr(confluent_kafka, "Producer", Traced)
    return Traced


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    """A mock cluster with a topic of one partition."""
    with MockKafka() as kafka:
        kafka.create_topic("orders")
        yield kafka


def test_each_way_of_producing_is_seen(kafka, traced, kept):
    """Plain and transactional, for threads and for tasks: each record carries what the instrumentation adds, once."""
    clicks = kept(plain(kafka.bootstrap_servers, size=1))
    orders = kept(on_brokers(kafka.bootstrap_servers, size=1))
    own = [("source", "web")]
    with clicks.producer() as producer:
        producer.produce_sync("orders", "1", headers=own)
    with orders.transaction() as tx:
        tx.produce_async("orders", "2")
    with orders.producer() as alone:
        alone.produce_sync("orders", "3")

    async def task() -> None:
        async with orders.transaction() as tx:
            await tx.produce_sync("orders", "4", headers={"source": b"task"})

    asyncio.run(task())
    orders.reload()
    with orders.transaction() as tx:
        tx.produce_sync("orders", "5")

    assert [
        (b"1", [("source", b"web"), TRACE]),
        (b"2", [TRACE]),
        (b"3", [TRACE]),
        (b"4", [("source", b"task"), TRACE]),
        (b"5", [TRACE]),
    ] == _read(kafka, 5)
    assert [("source", "web")] == own


def test_a_second_try_starts_anew(kafka, traced, kept):
    """A record that waited for room in the queue doesn't collect a header from every try."""
    full = {"queue.buffering.max.messages": 1, "linger.ms": 100}
    pool = kept(plain(kafka.bootstrap_servers, size=1, kafka=full))
    with pool.producer() as producer:
        for value in ("1", "2"):
            producer.produce_async("orders", value, headers={"source": "web"})
        producer.flush()

    assert len(traced.tries) > 2
    assert [(b"1", [("source", b"web"), TRACE]), (b"2", [("source", b"web"), TRACE])] == _read(kafka, 2)


def test_only_clients_that_send_are_seen(kafka, traced, kept):
    """Checking settings and the mock cluster itself make clients too, and those stay out of it."""
    kept(plain(kafka.bootstrap_servers, size=1)).open()

    with MockKafka():
        assert 1 == len(traced.made)


def test_a_class_that_comes_later(kafka, kept, monkeypatch):
    """A pool that was there before the instrumentation is seen from its next reload on."""
    pool = kept(plain(kafka.bootstrap_servers, size=1))
    pool.open()
    Traced.made, Traced.tries = [], []
    monkeypatch.setattr(confluent_kafka, "Producer", Traced)
    with pool.producer() as producer:
        producer.produce_sync("orders", "1")
    pool.reload()
    with pool.producer() as producer:
        producer.produce_sync("orders", "2")

    assert [(b"1", None), (b"2", [TRACE])] == _read(kafka, 2)


@pytest.mark.parametrize("make", [plain, on_brokers], ids=["plain", "transactional"])
def test_a_hollow_producer_is_refused(kafka, kept, monkeypatch, make):
    """A stand-in that forwards only part of a producer is named, with what to do, before a record is lost in it."""
    monkeypatch.setattr(confluent_kafka, "Producer", Hollow)
    pool = kept(make(kafka.bootstrap_servers, size=1))

    with pytest.raises(PoolOpenError, match=r"confluent_kafka\.Producer gave a Hollow, .*replace the class by a sub"):
        pool.open()


def _read(kafka: MockKafka, count: int) -> list[tuple[bytes | None, list[tuple[str, bytes]] | None]]:
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "g", "enable.auto.commit": False, "log_level": 0}
    )
    consumer.assign([confluent_kafka.TopicPartition("orders", 0, confluent_kafka.OFFSET_BEGINNING)])
    messages = [each for each in consumer.consume(count, 10) if each.error() is None]
    consumer.close()
    return [(each.value(), each.headers()) for each in messages]
