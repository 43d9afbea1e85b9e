"""How many transactions one producer commits, and how many several do: in turn on one thread, and on eight.

All ids have the same map of coordinators: whether an id shares its coordinator with others decides on its speed.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

from tests.bench.clients import RECORD, TIMEOUT_S, pool, topic, transactional
from tests.bench.comparing import turn
from tests.bench.workloads import Target, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from confluent_kafka import Producer

    from tests.bench.workloads import Place, Way
    from wd_di import ProducerPool

RECORDS = 10
FEW, MANY = 5, 8
ALONE = "1 thread, 1 producer"
ROTATION, IN_TURN = f"1 thread, {FEW} producers in turn", f"1 thread, wd_di: size={FEW}"
SHARED = f"{MANY} threads, 1 producer and a lock"
OWN, POOLED = f"{MANY} threads, a producer each", f"{MANY} threads, wd_di: size={MANY}"


def in_turn(place: Place) -> Iterator[Workload]:
    """Give one thread that commits transaction after transaction, of ten records each."""
    servers, to = place.kafka.bootstrap_servers, topic(place.kafka, "in-turn")
    with ExitStack() as stack:
        [alone], few = ([stack.enter_context(each) for each in transactional(servers, count)] for count in (1, FEW))
        rotation = cycle(few)
        ours = stack.enter_context(pool(servers, FEW, transactions=True))
        calls: dict[str, Callable[[int], int]] = {
            ALONE: lambda _: _by_hand(alone, to),
            ROTATION: lambda _: _by_hand(next(rotation), to),
            IN_TURN: lambda _: _by_pool(ours, to),
        }
        asked = [Target(IN_TURN, "rate", 0.95, "at least", against=ROTATION)]
        title = f"transactions of {RECORDS} records in turn, {place.brokers}"
        yield Workload(6, title, "transactions", _ways(place, 1, calls), targets=asked)


def side_by_side(place: Place) -> Iterator[Workload]:
    """Give eight threads that do the same at once."""
    servers, to = place.kafka.bootstrap_servers, topic(place.kafka, "side-by-side")
    with ExitStack() as stack:
        [alone], many = ([stack.enter_context(each) for each in transactional(servers, count)] for count in (1, MANY))
        one_at_a_time = threading.Lock()
        ours = stack.enter_context(pool(servers, MANY, transactions=True))

        def sharing(_: int) -> int:
            with one_at_a_time:
                return _by_hand(alone, to)

        calls: dict[str, Callable[[int], int]] = {
            SHARED: sharing,
            OWN: lambda thread: _by_hand(many[thread], to),
            POOLED: lambda _: _by_pool(ours, to),
        }
        asked = [Target(POOLED, "rate", 0.97, "at least", against=OWN)]
        title = f"transactions of {RECORDS} records side by side, {place.brokers}"
        yield Workload(7, title, "transactions", _ways(place, MANY, calls), targets=asked)


def _ways(place: Place, threads: int, calls: Mapping[str, Callable[[int], int]]) -> dict[str, Way]:
    return {name: partial(turn, threads, place.effort.seconds, call) for name, call in calls.items()}


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
