"""Whether a pool of plain producers is faster than one that all threads share. It isn't: it buys isolation."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from queue import LifoQueue
from typing import TYPE_CHECKING

from tests.bench.clients import answered, delivered, polled, pool, raw, topic
from tests.bench.comparing import Comparison, Effort, Turn, compare, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confluent_kafka import Producer

    from wd_di import ProducerPool
    from wd_di.testing import Cluster

THREADS = (1, 8, 32)
CROWD, PRODUCERS = 32, 8


def sharing(kafka: Cluster, effort: Effort, threads: int) -> Comparison:
    """Compare one shared producer with one for each thread, where each thread waits for each of its records."""
    with _sharing(kafka.bootstrap_servers, topic(kafka, f"sharing-{threads}"), effort, threads) as ways:
        return compare(f"plain producers, {threads} threads that wait for each record", "records", ways, effort.rounds)


@contextmanager
def _sharing(servers: str, to: str, effort: Effort, threads: int) -> Iterator[dict[str, Callable[[], Turn]]]:
    with ExitStack() as stack:
        shared = {linger: stack.enter_context(raw(servers, linger_ms=linger)) for linger in (0, 1)}
        for producer in shared.values():
            stack.enter_context(polled(producer))
        naive = stack.enter_context(raw(servers))
        own = [stack.enter_context(raw(servers)) for _ in range(threads)]
        many = stack.enter_context(pool(servers, threads))
        one = stack.enter_context(pool(servers, 1, share=32, linger_ms=0))
        calls: dict[str, Callable[[int], int]] = {
            "one shared, polled, linger.ms=0": lambda _: _one(answered, shared[0], to),
            "one shared, polled, linger.ms=1": lambda _: _one(answered, shared[1], to),
            "one shared, flushed each time": lambda _: _one(delivered, naive, to),
            "one for each thread, flushed": lambda thread: _one(delivered, own[thread], to),
            "wd_di: size=1, share=32": lambda _: _sent(one, to),
            "wd_di: size=threads": lambda _: _sent(many, to),
        }
        yield {name: partial(turn, threads, effort.seconds, call) for name, call in calls.items()}


def crowd(kafka: Cluster, effort: Effort) -> Comparison:
    """Compare who comes next where more threads than producers send: the last that came, or the first."""
    crowded, servers = topic(kafka, "crowd"), kafka.bootstrap_servers
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
            "a LIFO queue of 8 producers": partial(turn, CROWD, effort.seconds, by_hand),
            "wd_di: size=8": partial(turn, CROWD, effort.seconds, lambda _: _sent(ours, crowded)),
        }
        return compare(f"plain producers, {CROWD} threads over {PRODUCERS}", "records", ways, effort.rounds)


def _one(send: Callable[[Producer, str], None], producer: Producer, to: str) -> int:
    send(producer, to)
    return 1


def _sent(ours: ProducerPool, to: str) -> int:
    with ours.producer() as producer:
        producer.produce_sync(to, b"x" * 100)
    return 1
