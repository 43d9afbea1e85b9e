"""Whether a pool of plain producers is faster than one that all threads share. It isn't: it buys isolation."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from queue import LifoQueue
from typing import TYPE_CHECKING

from tests.bench.clients import answered, delivered, polled, pool, raw, topic
from tests.bench.comparing import turn
from tests.bench.sending import sent
from tests.bench.workloads import Target, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confluent_kafka import Producer

    from tests.bench.workloads import Place, Way

THREADS = {8: 1.0, 32: 2.0}
"""How many share, and how many times as fast as under a lock they should be."""
LOCKED, OURS = "one shared, polled, one record at a time under a lock", "wd_di: size=1, share=32"
CROWD, PRODUCERS = 32, 8


def sharing(place: Place) -> Iterator[Workload]:
    """Give one shared producer against one for each thread, where each thread waits for each of its records."""
    kafka = place.kafka
    for threads, least in THREADS.items():
        to = topic(kafka, f"sharing-{threads}")
        with _sharing(kafka.bootstrap_servers, to, place.effort.seconds, threads) as ways:
            asked = [Target(OURS, "rate", least, "at least", against=LOCKED)]
            title = f"plain producers, {threads} threads that wait for each record"
            yield Workload(11, title, "records", ways, targets=asked)


@contextmanager
def _sharing(servers: str, to: str, seconds: float, count: int) -> Iterator[dict[str, Way]]:
    with ExitStack() as stack:
        shared = {linger: stack.enter_context(raw(servers, linger_ms=linger)) for linger in (0, 1)}
        for producer in shared.values():
            stack.enter_context(polled(producer))
        alone, one_at_a_time = stack.enter_context(raw(servers, linger_ms=0)), threading.Lock()
        stack.enter_context(polled(alone))
        naive = stack.enter_context(raw(servers))
        own = [stack.enter_context(raw(servers)) for _ in range(count)]
        many = stack.enter_context(pool(servers, count))
        one = stack.enter_context(pool(servers, 1, share=32, linger_ms=0))

        def locked(_: int) -> int:
            with one_at_a_time:
                return _one(answered, alone, to)

        calls: dict[str, Callable[[int], int]] = {
            "one shared, polled, linger.ms=0": lambda _: _one(answered, shared[0], to),
            "one shared, polled, linger.ms=1": lambda _: _one(answered, shared[1], to),
            LOCKED: locked,
            "one shared, flushed each time": lambda _: _one(delivered, naive, to),
            "one for each thread, flushed": lambda thread: _one(delivered, own[thread], to),
            OURS: lambda _: sent(one, to),
            "wd_di: size=threads": lambda _: sent(many, to),
        }
        yield {name: partial(turn, count, seconds, call) for name, call in calls.items()}


def crowd(place: Place) -> Iterator[Workload]:
    """Give who comes next where more threads than producers send: the last that came, or the first."""
    servers, seconds = place.kafka.bootstrap_servers, place.effort.seconds
    crowded = topic(place.kafka, "crowd")
    idle: LifoQueue[Producer] = LifoQueue()

    def by_hand(_: int) -> int:
        producer = idle.get()
        try:
            return _one(delivered, producer, crowded)
        finally:
            idle.put(producer)

    with ExitStack() as stack:
        for _ in range(PRODUCERS):
            idle.put(stack.enter_context(raw(servers)))
        ours = stack.enter_context(pool(servers, PRODUCERS))
        ways = {
            "a LIFO queue of 8 producers": partial(turn, CROWD, seconds, by_hand),
            "wd_di: size=8": partial(turn, CROWD, seconds, lambda _: sent(ours, crowded)),
        }
        yield Workload(0, f"plain producers, {CROWD} threads over {PRODUCERS}", "records", ways)


def _one(send: Callable[[Producer, str], None], producer: Producer, to: str) -> int:
    send(producer, to)
    return 1
