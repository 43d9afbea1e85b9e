"""How many transactions one producer commits, and how many several do: in turn on one thread, and on eight."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from queue import Queue
from typing import TYPE_CHECKING

from tests.bench.clients import RECORD, TIMEOUT_S, pool, topic, transactional
from tests.bench.comparing import turn
from tests.bench.workloads import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confluent_kafka import Producer

    from tests.bench.workloads import Place, Way
    from wd_di import ProducerPool

RECORDS = 10
IN_TURN, MANY = 4, 8


def committing(place: Place) -> Iterator[Workload]:
    """Give one producer against several, each by hand and by a pool, in transactions of ten records."""
    to = topic(place.kafka, "committing")
    with _committing(place.kafka.bootstrap_servers, to, place.effort.seconds) as ways:
        yield Workload(0, f"transactions of {RECORDS} records, {place.brokers}", "transactions", ways)


@contextmanager
def _committing(servers: str, to: str, seconds: float) -> Iterator[dict[str, Way]]:
    with ExitStack() as stack:
        [alone], few, many = (
            [stack.enter_context(producer) for producer in transactional(servers, count)]
            for count in (1, IN_TURN, MANY)
        )
        rotation, idle = cycle(few), _queue(many)
        pool_of_few, pool_of_many = (
            stack.enter_context(pool(servers, size, transactions=True)) for size in (IN_TURN, MANY)
        )
        calls: dict[str, tuple[int, Callable[[int], int]]] = {
            "1 thread, 1 producer": (1, lambda _: _by_hand(alone, to)),
            "1 thread, 4 producers in turn": (1, lambda _: _by_hand(next(rotation), to)),
            "1 thread, wd_di: size=4": (1, lambda _: _by_pool(pool_of_few, to)),
            "8 threads, a queue of 8 producers": (MANY, lambda _: _from(idle, to)),
            "8 threads, wd_di: size=8": (MANY, lambda _: _by_pool(pool_of_many, to)),
        }
        yield {name: partial(turn, threads, seconds, call) for name, (threads, call) in calls.items()}


def _queue(producers: list[Producer]) -> Queue[Producer]:
    queue: Queue[Producer] = Queue()
    for producer in producers:
        queue.put(producer)
    return queue


def _from(idle: Queue[Producer], to: str) -> int:
    producer = idle.get()
    try:
        return _by_hand(producer, to)
    finally:
        idle.put(producer)


def _by_hand(producer: Producer, to: str) -> int:
    producer.begin_transaction()
    for _ in range(RECORDS):
        producer.produce(to, RECORD)
    producer.commit_transaction(TIMEOUT_S)
    return 1


def _by_pool(ours: ProducerPool, to: str) -> int:
    with ours.transaction() as tx:
        for _ in range(RECORDS):
            tx.produce_async(to, RECORD)
    return 1
