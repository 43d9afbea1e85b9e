"""What a topic holds for a reader that stands outside of the library: everything up to the end, within a bound."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Isolation = Literal["read_committed", "read_uncommitted"]

TIMEOUT_MS = 20_000
_BATCH = 5_000
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the reader found it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int


def read(
    servers: str, topic: str, isolation: Isolation = "read_committed", *, timeout_ms: int = TIMEOUT_MS
) -> list[Record]:
    """Return every visible record up to the log's end as it is now, in the order of each partition.

    Raises:
        TimeoutError: The reader didn't get there: behind an open transaction a ``read_committed`` one never does.
    """
    return list(stream(servers, topic, isolation, timeout_ms=timeout_ms))


def stream(
    servers: str, topic: str, isolation: Isolation = "read_committed", *, timeout_ms: int = TIMEOUT_MS
) -> Iterator[Record]:
    """Give what `read` returns one by one, for topics that needn't fit into memory."""
    ends = log_ends(servers, topic, timeout_ms=timeout_ms)
    # A reader learns of markers and aborted records only by the end that it is told: they have offsets, but no record.
    missing = {partition for partition, end in ends.items() if end > 0}
    deadline = time.monotonic() + timeout_ms / 1000
    with closing(_reader(servers, isolation)) as consumer:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in missing])
        while missing:
            for message in consumer.consume(_BATCH, _POLL_S):
                if message.error() is None:
                    yield _record(message)
                elif _is_end(message) and _offset(message) >= ends[_partition(message)]:
                    missing.discard(_partition(message))
            if missing and time.monotonic() > deadline:
                raise TimeoutError(f"{isolation}: partitions {sorted(missing)} of {topic} not read to {ends}")


def values(
    servers: str, topic: str, isolation: Isolation = "read_committed", *, timeout_ms: int = TIMEOUT_MS
) -> list[str]:
    """Return the values of all visible records as sorted text."""
    return sorted((record.value or b"").decode() for record in read(servers, topic, isolation, timeout_ms=timeout_ms))


def by_key(records: Iterable[Record]) -> dict[bytes | None, list[bytes | None]]:
    """Return each key's values in the order in which they stand in the log."""
    found: dict[bytes | None, list[bytes | None]] = defaultdict(list)
    for record in records:
        found[record.key].append(record.value)
    return dict(found)


def log_ends(servers: str, topic: str, *, timeout_ms: int = TIMEOUT_MS) -> dict[int, int]:
    """Return each partition's log end, whatever of it is visible."""
    with closing(_reader(servers, "read_uncommitted")) as consumer:
        partitions = consumer.list_topics(topic, timeout=timeout_ms / 1000).topics[topic].partitions
        return {number: _end(consumer, TopicPartition(topic, number), timeout_ms) for number in partitions}


def readable(servers: str, topic: str, *, timeout_ms: int = TIMEOUT_MS) -> int:
    """Return the last stable offset of partition 0: where a ``read_committed`` reader must stop for now."""
    with closing(_reader(servers, "read_committed")) as consumer:
        return _end(consumer, TopicPartition(topic, 0), timeout_ms)


def committed(servers: str, group: str, topic: str, partition: int = 0, *, timeout_ms: int = TIMEOUT_MS) -> int:
    """Return the group's committed offset of a partition; negative if it has none."""
    with closing(_reader(servers, "read_committed", **{"group.id": group})) as consumer:
        return consumer.committed([TopicPartition(topic, partition)], timeout=timeout_ms / 1000)[0].offset


def _reader(servers: str, isolation: Isolation, **config: Any) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"reader-{uuid.uuid4().hex}",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "log_level": 0,
            **config,
        }
    )


def _end(consumer: Consumer, partition: TopicPartition, timeout_ms: int) -> int:
    return consumer.get_watermark_offsets(partition, timeout=timeout_ms / 1000, cached=False)[1]


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset


def _partition(message: Message) -> int:
    partition = message.partition()
    assert partition is not None
    return partition


def _record(message: Message) -> Record:
    headers: Any = message.headers()  # the stub speaks of what a producer takes
    return Record(
        topic=message.topic() or "",
        partition=_partition(message),
        offset=_offset(message),
        key=message.key(),
        value=message.value(),
        headers=tuple(headers or ()),
        timestamp_ms=message.timestamp()[1],
    )
