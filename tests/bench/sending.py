"""What it costs to wait for each record: on one thread, behind somebody else's, and with more threads than slots."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from tests.bench.clients import RECORD, TIMEOUT_S, delivered, pool, raw, topic
from tests.bench.comparing import turn
from tests.bench.rivals import Fair, Lending, Lent, Lifo
from tests.bench.workloads import Target, Turn, Workload
from wd_di import Message, ProducerPool
from wd_di.testing import LocalKafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from tests.bench.workloads import Place, Way

    Send = Callable[[], object]

FLUSHED, OURS, EACH = "produce + flush", "wd_di, one checkout", "wd_di, a checkout each"
THREADS, SLOTS = 8, 4
LIFO, FAIR, POOL = "a LIFO queue of producers, flush", "a fair queue by hand, flush", "wd_di"
BACKLOG, AT_ONCE = 200_000, 1_000
QUEUE: Mapping[str, Any] = {"queue_buffering_max_messages": 2 * BACKLOG}


def alone(place: Place) -> Iterator[Workload]:
    """Give one thread that waits for the answer to each record, with the default ``linger.ms``."""
    servers, to, seconds = place.kafka.bootstrap_servers, topic(place.kafka, "alone"), place.effort.seconds
    with ExitStack() as stack:
        bare, polled = stack.enter_context(raw(servers)), stack.enter_context(raw(servers))
        one, each = (stack.enter_context(pool(servers, 1)) for _ in range(2))
        held = stack.enter_context(one.producer())
        sends: dict[str, Send] = {
            FLUSHED: lambda: delivered(bare, to),
            "produce + poll": lambda: _polled(polled, to),
            OURS: lambda: held.produce_sync(to, RECORD),
            EACH: lambda: sent(each, to),
        }
        ways: dict[str, Way] = {name: partial(_again, seconds, send) for name, send in sends.items()}
        asked = [Target(name, "time", 1.1, "at most", against=FLUSHED) for name in (OURS, EACH)]
        yield Workload(3, "produce_sync, one thread", "records", ways, "time", asked)


def behind(place: Place) -> Iterator[Workload]:
    """Give one record that is sent while somebody else's wait on the same producer: 200,000, to another topic.

    The broker is frozen while they are queued, so that all ways have as many before them.
    """
    kafka = place.kafka
    if not isinstance(kafka, LocalKafka):
        return
    servers, to, theirs = kafka.bootstrap_servers, topic(kafka, "behind"), topic(kafka, "backlog")
    with ExitStack() as stack:
        bare = stack.enter_context(raw(servers, **QUEUE))
        shared = stack.enter_context(pool(servers, 1, share=2, **QUEUE))
        ways: dict[str, Way] = {
            FLUSHED: lambda: _behind(kafka, lambda: _queue(bare, theirs), lambda: delivered(bare, to), bare.flush),
            "wd_di, share=2": lambda: _behind_another(kafka, shared, theirs, to),
        }
        asked = [Target("wd_di, share=2", "time", 0.2, "at most", against=FLUSHED)]
        yield Workload(3, f"one record behind {BACKLOG:,} of somebody else", "records", ways, "time", asked)


def crowded(place: Place) -> Iterator[Workload]:
    """Give eight threads that each wait for every record over four producers."""
    servers, to, seconds = place.kafka.bootstrap_servers, topic(place.kafka, "crowded"), place.effort.seconds
    with ExitStack() as stack:
        lifo, fair = (
            lending([stack.enter_context(raw(servers)) for _ in range(SLOTS)]) for lending in (Lifo[Producer], Fair)
        )
        ours = stack.enter_context(pool(servers, SLOTS))
        ways: dict[str, Way] = {
            LIFO: partial(turn, THREADS, seconds, lambda _: _lent(lifo, to)),
            FAIR: partial(turn, THREADS, seconds, lambda _: _lent(fair, to)),
            POOL: partial(turn, THREADS, seconds, lambda _: sent(ours, to)),
        }
        asked = (
            Target(POOL, "rate", 0.85, "at least", against=LIFO),
            Target(POOL, "rate", 0.85, "at least", against=FAIR),
            Target(POOL, "cpu", 95, "at most"),
        )
        yield Workload(4, f"produce_sync, {THREADS} threads over {SLOTS}", "records", ways, targets=asked)


def sent(ours: ProducerPool, to: str) -> int:
    """Send one record by a checkout of its own, and wait for its answer."""
    with ours.producer() as producer:
        producer.produce_sync(to, RECORD)
    return 1


def _lent(pool: Lending[Producer], to: str) -> int:
    with Lent(pool) as producer:
        delivered(producer, to)
    return 1


def _again(seconds: float, send: Send) -> Turn:
    def call(_: int) -> int:
        send()
        return 1

    return turn(1, seconds, call)


def _polled(producer: Producer, to: str) -> None:
    answer: list[object] = []
    producer.produce(to, RECORD, on_delivery=lambda error, _: answer.append(error))
    while not answer:
        producer.poll(0.1)
    if answer != [None]:
        raise RuntimeError(f"a record of the benchmark wasn't delivered: {answer}")


def _queue(producer: Producer, to: str) -> None:
    answered = 0

    def told(*_: object) -> None:
        nonlocal answered
        answered += 1

    for _ in range(BACKLOG):
        producer.produce(to, RECORD, on_delivery=told)


def _behind(kafka: LocalKafka, queue: Send, send: Send, drain: Callable[[float], object]) -> Turn:
    send()  # what is connected and known needn't be found out behind the backlog
    for broker in kafka.brokers:
        broker.pause()
    try:
        queue()
    finally:
        for broker in kafka.brokers:
            broker.resume()
    began, used = time.perf_counter(), time.process_time()
    send()
    lasted, spent = time.perf_counter() - began, time.process_time() - used
    drain(TIMEOUT_S)
    return Turn(1, lasted, cpu=spent)


def _behind_another(kafka: LocalKafka, shared: ProducerPool, theirs: str, to: str) -> Turn:
    """The other borrower is a thread that keeps its checkout until its records are answered."""
    start, queued, over = threading.Event(), threading.Event(), threading.Event()
    record = Message(theirs, RECORD)

    def borrow() -> None:
        with shared.producer() as producer:
            start.wait(TIMEOUT_S)
            for _ in range(BACKLOG // AT_ONCE):
                producer.produce_many_async([record] * AT_ONCE)
            queued.set()
            over.wait(TIMEOUT_S)

    def queue() -> None:
        start.set()
        queued.wait(TIMEOUT_S)

    other = threading.Thread(target=borrow, name="bench-other")
    other.start()
    with shared.producer() as producer:

        def drain(seconds: float) -> None:
            over.set()
            other.join(seconds)

        return _behind(kafka, queue, lambda: producer.produce_sync(to, RECORD), drain)
