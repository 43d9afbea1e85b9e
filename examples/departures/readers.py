"""What consumers see of the topics: every record counted, from the first to the high watermark."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Progress = Callable[[int], object]

Isolation = Literal["read_committed", "read_uncommitted"]
_ANSWER_S = 10
_PATIENCE_S = 30


class ReadersError(Exception):
    """The topics couldn't be read to their end."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How many records each kind of reader sees; ``None`` where the broker doesn't tell them apart."""

    read_committed: int | None
    read_uncommitted: int


def read_back(bootstrap_servers: str, topics: Iterable[str], *, isolates: bool, read: Progress) -> Seen:
    """Read the topics as both kinds of reader.

    Args:
        bootstrap_servers: Where they are.
        topics: Their names.
        isolates: Whether the broker hides aborted records from ``read_committed`` readers.
        read: Told how many more records were read.

    Raises:
        ReadersError: The broker stopped answering.
    """
    try:
        ends = _ends(bootstrap_servers, topics)
        return Seen(
            read_committed=_count(bootstrap_servers, ends, "read_committed", read) if isolates else None,
            read_uncommitted=_count(bootstrap_servers, ends, "read_uncommitted", read),
        )
    except KafkaException as error:
        raise ReadersError(f"the topics couldn't be read back: {error.args[0].str()}") from error


Place = tuple[str, int]


def _ends(bootstrap_servers: str, topics: Iterable[str]) -> dict[Place, int]:
    """The high watermarks. A ``read_committed`` consumer would be told the last stable offset instead."""
    consumer = _consumer(bootstrap_servers, "read_uncommitted")
    try:
        places = [
            (topic, partition)
            for topic in topics
            for partition in consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions
        ]
        return {place: consumer.get_watermark_offsets(TopicPartition(*place), timeout=_ANSWER_S)[1] for place in places}
    finally:
        consumer.close()


def _count(bootstrap_servers: str, ends: dict[Place, int], isolation: Isolation, read: Progress) -> int:
    consumer = _consumer(bootstrap_servers, isolation)
    try:
        consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in ends])
        return _count_to(consumer, ends, read)
    finally:
        consumer.close()


def _count_to(consumer: Consumer, ends: dict[Place, int], read: Progress) -> int:
    """Count until each partition is read to its end.

    What lies between the last record and the end are markers of transactions, which no consumer gets to see: only the
    event at the end of a partition tells that they have been passed. A ``read_committed`` reader may meet one earlier,
    as long as the coordinator is still writing the last markers.
    """
    left, seen = set(ends), 0
    deadline = time.monotonic() + _PATIENCE_S
    while left:
        messages = consumer.consume(1000, timeout=0.2)
        records = sum(message.error() is None for message in messages)
        left -= {place for place, offset in map(_end, messages) if place in ends and offset >= ends[place]}
        if records:
            seen += records
            read(records)
            deadline = time.monotonic() + _PATIENCE_S
        elif time.monotonic() > deadline:
            raise ReadersError(f"no new records for {_PATIENCE_S} s before the end of {sorted(left)}")
    return seen


def _end(message: Message) -> tuple[Place, int]:
    """Where the message says that a partition ends; a record says so of none."""
    error = message.error()
    if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001  (that is its public name)
        raise KafkaException(error)
    place = (message.topic() or "", message.partition() or 0)
    return place, -1 if error is None else message.offset() or 0


def _consumer(bootstrap_servers: str, isolation: Isolation) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "departures-readers",  # demanded by librdkafka; nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }
    )
