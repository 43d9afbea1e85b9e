"""What a record costs in a transaction of many, above librdkafka's own cost."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from tests.bench.clients import RECORD, TIMEOUT_S, pool, topic, transactional
from tests.bench.comparing import turn
from tests.bench.workloads import Target, Workload
from wd_di import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confluent_kafka import KafkaError, Producer
    from confluent_kafka import Message as Answer

    from tests.bench.workloads import Place
    from wd_di import ProducerPool

THREADS = 8
RECORDS = 100

BARE = "a producer for each of 8 threads"
ONE = "wd_di: size=8"


def batches(place: Place) -> Iterator[Workload]:
    """Give transactions of many records, each thread on its own producer and all of them over a pool as large."""
    servers, to = place.kafka.bootstrap_servers, topic(place.kafka, "batches")
    with ExitStack() as stack:
        producers = [stack.enter_context(each) for each in transactional(servers, THREADS)]
        ours = stack.enter_context(pool(servers, THREADS, transactions=True))
        messages = [Message(to, RECORD)] * RECORDS
        calls: dict[str, Callable[[int], int]] = {
            BARE: lambda thread: _by_hand(producers[thread], to),
            "the same, with a callback for each record": lambda thread: _told_of_each(producers[thread], to),
            ONE: lambda _: _by_pool(ours, to),
            "wd_di: size=8, produce_many_async": lambda _: _many(ours, messages),
        }
        ways = {name: partial(turn, THREADS, place.effort.seconds, call) for name, call in calls.items()}
        targets = [Target(ONE, "cpu", 1.3, "at most", against=BARE)]
        title = f"transactions of {RECORDS} records, {THREADS} threads, {place.brokers}"
        yield Workload(16, title, "records", ways, "cpu", targets)


def _by_hand(producer: Producer, to: str) -> int:
    producer.begin_transaction()
    for _ in range(RECORDS):
        producer.produce(to, RECORD)
    producer.commit_transaction(TIMEOUT_S)
    return RECORDS


def _told_of_each(producer: Producer, to: str) -> int:
    stored = 0

    def told(error: KafkaError | None, _: Answer) -> None:
        nonlocal stored
        stored += error is None

    producer.begin_transaction()
    for _ in range(RECORDS):
        producer.produce(to, RECORD, on_delivery=told)
    producer.commit_transaction(TIMEOUT_S)
    return stored


def _by_pool(ours: ProducerPool, to: str) -> int:
    with ours.transaction() as tx:
        for _ in range(RECORDS):
            tx.produce_async(to, RECORD)
    return RECORDS


def _many(ours: ProducerPool, messages: list[Message]) -> int:
    with ours.transaction() as tx:
        tx.produce_many_async(messages)
    return RECORDS
