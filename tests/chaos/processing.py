"""What a consumer does that writes what it reads, with its offsets in the transaction."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from tests.chaos.work import ANSWER_MS, Attempt, Desk, Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH = 10
READ_S = 0.3
LOOK_S = 30
PATIENCE_MS = 4_000


def member(servers: str, group: str, topic: str, client: str) -> Consumer:
    """Return a new member of the group."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "client.id": client,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "session.timeout.ms": 6_000,
            "log_level": 0,
        }
    )
    consumer.subscribe([topic])
    return consumer


def process(desk: Desk, consumer: Consumer, topic: str, numbers: Iterator[int], over: Callable[[], bool]) -> None:
    """Read, write what was read, and commit both in one transaction, until it is over; then leave the group."""
    with closing(consumer):
        while not over():
            batch = consumer.consume(BATCH, READ_S)
            group = consumer.consumer_group_metadata()
            if read := [message for message in batch if message.error() is None]:
                _write(desk, consumer, read, group, topic=topic, number=next(numbers))


def _write(desk: Desk, consumer: Consumer, read: list[Message], group: Any, *, topic: str, number: int) -> None:
    places = [_place(message) for message in read]
    name = f"{desk.name}.0.{number}"
    records = [(topic, f"{desk.name}.0.{partition}") for partition, _ in places]
    following = {partition: offset + 1 for partition, offset in places}
    source = read[0].topic() or ""
    with ExitStack() as unless_committed:
        unless_committed.callback(_seek_back, consumer, source, places)
        attempt = Attempt(desk, name, records, places)
        scope = Watched(desk, desk.pool.transaction(timeout_ms=PATIENCE_MS), PATIENCE_MS)
        with attempt.told(), scope as tx:
            attempt.id = tx.id
            for each, (to, key) in enumerate(records):
                tx.produce_async(to, attempt.value(each), key=key)
            with desk.watch.call("send_offsets", ANSWER_MS):
                offsets = [TopicPartition(source, partition, offset) for partition, offset in following.items()]
                tx.send_offsets(offsets, group, timeout_ms=ANSWER_MS)
            tx.after_commit(unless_committed.pop_all)


def _seek_back(consumer: Consumer, topic: str, places: list[tuple[int, int]]) -> None:
    """Read the batch again, but for what the group has committed."""
    first = dict(reversed(places))
    ours = [each for each in consumer.assignment() if each.partition in first]
    while ours:
        try:
            stands = consumer.committed(ours, timeout=LOOK_S)
            for each in stands:
                consumer.seek(TopicPartition(topic, each.partition, max(first[each.partition], each.offset)))
        except KafkaException:  # the broker isn't there, or the partition is somebody else's by now
            ours = [each for each in consumer.assignment() if each.partition in first]
        else:
            return


def _place(message: Message) -> tuple[int, int]:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset
