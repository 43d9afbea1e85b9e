"""What a record costs for which nobody waits, above librdkafka's own cost; and what makes it cost more.

Counted is the processor time of the whole process, until all records are delivered: librdkafka's threads and the pool's
poller are in it, the broker isn't. Each way fills one partition with the same records.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.bench.clients import RECORD, TIMEOUT_S, pool, raw, topic
from tests.bench.turns import whole
from tests.bench.workloads import Target, Workload
from wd_di import Message, TransactionCommitted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from confluent_kafka import KafkaError, Producer
    from confluent_kafka import Message as Answer

    from tests.bench.workloads import Place, Turn
    from wd_di import ProducerPool

    Told = Callable[[KafkaError | None, Answer], None]

PER_SECOND = 50_000
"""Records of a turn for each second that it may take: 100,000 of a usual one."""
CALL = 1_000
"""Records of one call that takes many."""
POLLED = 100
"""Records after which a producer by hand is polled."""
QUEUE: dict[str, Any] = {"queue.buffering.max.messages": 1_000_000}
"""Room for all records of a turn: what is measured isn't the wait for a full queue."""
SLOTS = (10, 100)
SUBSCRIBERS, POOLS = 1_000, 100
AT_ONCE = 10
"""Pools that are opened at the same time."""

BARE = "produce with a callback, polled every 100"
EACH = "wd_di: a checkout each"
ONE = "wd_di: one checkout"
MANY = "wd_di: produce_many_async of 1,000"
ALONE = "1 slot"


def many_records(place: Place) -> Iterator[Workload]:
    """Give what is enqueued and then delivered, one by one and many in a call."""
    servers, to, records = place.kafka.bootstrap_servers, topic(place.kafka, "records"), _records(place)
    ready = [Message(to, RECORD)] * CALL
    with raw(servers, **QUEUE) as bare, pool(servers, 5, **QUEUE) as ours:
        calls: dict[str, Callable[[], None]] = {
            BARE: lambda: _bare(bare, to, records),
            "produce_batch of 1,000 with a callback": lambda: _batches(bare, to, records),
            EACH: lambda: _checkout_each(ours, to, records),
            ONE: lambda: _one_checkout(ours, to, records),
            MANY: lambda: _many(ours, lambda: ready, records),
            "the same, each Message made for it": lambda: _many(
                ours, lambda: [Message(to, RECORD) for _ in range(CALL)], records
            ),
        }
        ways = {name: partial(whole, records, call) for name, call in calls.items()}
        targets = [
            Target(EACH, "cpu", 3.0, "at most", against=BARE),
            Target(ONE, "cpu", 1.8, "at most", against=BARE),
            Target(MANY, "cpu", 1.3, "at most", against=BARE),
        ]
        title = f"{records:,} records to full delivery, {place.brokers}"
        yield Workload(5, title, "records", ways, "cpu", targets)


def growth(place: Place) -> Iterator[Workload]:
    """Give the same with a checkout each, where there are many slots, subscribers or pools."""
    servers, to, records = place.kafka.bootstrap_servers, topic(place.kafka, "growth"), _records(place) // 5
    beside: dict[str, Callable[[], AbstractContextManager[ProducerPool]]] = {
        ALONE: lambda: pool(servers, 1, **QUEUE),
        **{f"{size} slots": partial(pool, servers, size, warm=True, **QUEUE) for size in SLOTS},
        f"{SUBSCRIBERS:,} subscribers of other events": lambda: _heard(pool(servers, 1, **QUEUE)),
        f"{POOLS} pools": lambda: _one_of_many(servers),
    }
    ways = {name: partial(_beside, each, to, records) for name, each in beside.items()}
    targets = [Target(name, "cpu", 1.5, "at most", against=ALONE) for name in ways if name != ALONE]
    title = f"{records:,} records, a checkout each, beside what is idle, {place.brokers}"
    yield Workload(15, title, "records", ways, "cpu", targets)


def _records(place: Place) -> int:
    return CALL * max(1, round(PER_SECOND * place.effort.seconds / CALL))


# -- by hand ---------------------------------------------------------------------------------------


def _bare(producer: Producer, to: str, records: int) -> None:
    def enqueue(told: Told) -> None:
        for number in range(records):
            producer.produce(to, RECORD, on_delivery=told)
            if number % POLLED == 0:
                producer.poll(0)

    _told_of_each(producer, records, enqueue)


def _batches(producer: Producer, to: str, records: int) -> None:
    batch: list[dict[str, Any]] = [{"value": RECORD}] * CALL

    def enqueue(told: Told) -> None:
        for _ in range(records // CALL):
            producer.produce_batch(to, batch, on_delivery=told)
            producer.poll(0)

    _told_of_each(producer, records, enqueue)


def _told_of_each(producer: Producer, records: int, enqueue: Callable[[Told], None]) -> None:
    stored = 0

    def told(error: KafkaError | None, _: Answer) -> None:
        nonlocal stored
        stored += error is None

    enqueue(told)
    producer.flush(TIMEOUT_S)
    if stored != records:
        raise RuntimeError(f"{stored} of {records} records of the benchmark were delivered")


# -- by a pool -------------------------------------------------------------------------------------


def _checkout_each(ours: ProducerPool, to: str, records: int) -> None:
    for _ in range(records):
        with ours.producer() as producer:
            last = producer.produce_async(to, RECORD)
    last.result(TIMEOUT_S * 1000)  # of one partition: all others have their answers, too


def _one_checkout(ours: ProducerPool, to: str, records: int) -> None:
    with ours.producer() as producer:
        for _ in range(records):
            producer.produce_async(to, RECORD)
        producer.flush()


def _many(ours: ProducerPool, messages: Callable[[], Sequence[Message]], records: int) -> None:
    with ours.producer() as producer:
        for _ in range(records // CALL):
            producer.produce_many_async(messages())
        producer.flush()


# -- what is there beside --------------------------------------------------------------------------


def _beside(make: Callable[[], AbstractContextManager[ProducerPool]], to: str, records: int) -> Turn:
    """Measure in what is there for this turn only: what is idle takes its time, too."""
    with make() as ours:
        _checkout_each(ours, to, CALL)  # its producer's first record waits for an id
        return whole(records, lambda: _checkout_each(ours, to, records))


def _heard(ours: ProducerPool) -> ProducerPool:
    for _ in range(SUBSCRIBERS):
        ours.observer.subscribe(TransactionCommitted, lambda _: None)
    return ours


@contextmanager
def _one_of_many(servers: str) -> Iterator[ProducerPool]:
    with ThreadPoolExecutor(AT_ONCE) as executor, ExitStack() as stack:
        opened = executor.map(lambda _: pool(servers, 1, **QUEUE), range(POOLS))
        [first, *_] = [stack.enter_context(each) for each in opened]
        yield first
