"""Where the contract is shown: in memory, on librdkafka's mock cluster and on a real broker, behind one face."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from tests import internals
from wd_di import Event, KafkaSettings, Observer, PoolSettings, ProducerPool, TransactionFinished
from wd_di.testing import ApiKey, Cluster, FakePool, MockKafka, Sent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

PATIENCE = 15.0
"""Seconds after which something that should come has failed to."""

SETTLING = 3.0
"""Seconds in which a marker is written."""

REFUSED = "x" * 1_000
"""What a broker refuses for a topic whose ``max.message.bytes`` is less; the markers, of 80 bytes, must pass."""


class Found(NamedTuple):
    """A record as a reader finds it: bytes, as on the wire."""

    value: bytes | None
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    partition: int
    offset: int
    timestamp_ms: int


class Backend(ABC):
    """One place to produce to, for one behaviour. At its end nobody may hold, wait for or have left anything."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._pools = ExitStack()
        self._made: list[ProducerPool] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pools.__exit__(kind, error, trace)

    # -- pools -------------------------------------------------------------------------------------

    def pool(self, *, kafka: dict[str, object] | None = None, **options: Any) -> ProducerPool:
        """Return an open pool, by default of one transactional producer."""
        given: dict[str, Any] = {"size": 1, "transactional_id": "contract-{instance}-{index}", "timeout_ms": 15_000}
        given |= {"instance": uuid.uuid4().hex, **options}
        observer = Observer()
        observer.subscribe(Event, self.events.append)
        settings = PoolSettings(kafka=KafkaSettings.of({**self._address(), **(kafka or {})}), **given)
        pool = self._make(settings, observer)
        self._pools.callback(self._leave, pool)
        self._made.append(pool)
        pool.open()
        return pool

    def plain(self, **options: Any) -> ProducerPool:
        """Return an open pool without transactions."""
        return self.pool(transactional_id=None, instance=None, **options)

    def of(self, kind: type[Event]) -> list[Any]:
        """Return the events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def outcomes(self) -> list[str]:
        """Return how the transactions ended so far."""
        return [event.outcome for event in self.of(TransactionFinished)]

    def _leave(self, pool: ProducerPool) -> None:
        stats = pool.stats()
        report = pool.close(force=True)

        assert (0, 0) == (stats.in_use, stats.waiting), f"{pool} wasn't left as it was found"
        assert () == report.abandoned

    @abstractmethod
    def _address(self) -> dict[str, object]: ...

    @abstractmethod
    def _make(self, settings: PoolSettings, observer: Observer) -> ProducerPool: ...

    # -- topics ------------------------------------------------------------------------------------

    @abstractmethod
    def topic(self, partitions: int = 1) -> str:
        """Return the name of a new topic."""

    @abstractmethod
    def refusing_topic(self) -> str:
        """Return the name of a new topic for which the broker refuses one ``REFUSED``."""

    @abstractmethod
    def visible(self, topic: str) -> list[Found]:
        """Return what a ``read_committed`` reader sees now, each partition in the order of its log."""

    @abstractmethod
    def stored(self, topic: str) -> list[Found]:
        """Return what the log holds, for whomever it is visible."""

    @abstractmethod
    def end(self, topic: str) -> int:
        """Return the offset behind the last entry of partition 0."""

    def settled_end(self, topic: str, end: int) -> int:
        """Return the same once it is ``end``, or after a while: the coordinator writes markers behind its answer."""
        deadline = time.monotonic() + SETTLING
        while self.end(topic) < end and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.end(topic)

    def values(self, topic: str) -> list[str]:
        """Return the visible values as text."""
        return [(record.value or b"").decode() for record in self.visible(topic)]

    # -- what happens to a transaction -------------------------------------------------------------

    @abstractmethod
    def take_over(self, pool: ProducerPool) -> None:
        """Let another owner of the pool's first id appear."""

    @abstractmethod
    def outlive(self, topic: str) -> None:
        """Return when the broker has ended the transaction that is open on the topic, for its age."""

    @abstractmethod
    def group(self) -> tuple[str, object]:
        """Return a new consumer group, and the metadata of one who may send its offsets."""

    @abstractmethod
    def former_member(self, topic: str) -> object:
        """Return the group metadata of a member that has left."""

    @abstractmethod
    def group_offset(self, group: str, topic: str) -> int | None:
        """Return where the group stands on partition 0."""


class Fake(Backend):
    """In memory. What others do to a cluster is done here by the fake's cues."""

    name = "fake"

    def __init__(self) -> None:
        super().__init__()
        self._fakes: list[FakePool] = []
        self._refusing: set[str] = set()

    def _address(self) -> dict[str, object]:
        return {}

    def _make(self, settings: PoolSettings, observer: Observer) -> FakePool:
        fake = FakePool("orders", settings=settings, observer=observer)
        for topic in self._refusing:
            fake.fail_delivery(topic)
        self._fakes.append(fake)
        return fake

    def topic(self, partitions: int = 1) -> str:  # noqa: ARG002  (a fake's topics need no making)
        return f"t-{uuid.uuid4().hex}"

    def refusing_topic(self) -> str:
        topic = self.topic()
        self._refusing.add(topic)
        for fake in self._fakes:
            fake.fail_delivery(topic)
        return topic

    def visible(self, topic: str) -> list[Found]:
        return [_found(sent) for fake in self._fakes for sent in fake.committed if sent.topic == topic]

    def stored(self, topic: str) -> list[Found]:
        hidden = [_found(sent) for fake in self._fakes for sent in fake.aborted if sent.topic == topic]
        return sorted([*self.visible(topic), *hidden], key=lambda record: (record.partition, record.offset))

    def end(self, topic: str) -> int:
        return max(fake._broker._ends.get((topic, 0), 0) for fake in self._fakes)

    def settled_end(self, topic: str, end: int) -> int:  # noqa: ARG002  (nothing comes later here)
        return self.end(topic)

    def take_over(self, pool: ProducerPool) -> None:
        assert isinstance(pool, FakePool)
        pool.fence()

    def outlive(self, topic: str) -> None:  # noqa: ARG002  (a cue ages all that is open)
        for fake in self._fakes:
            fake.time_out()

    def group(self) -> tuple[str, object]:
        return "group", object()

    def former_member(self, topic: str) -> object:  # noqa: ARG002  (no group is needed for the cue)
        for fake in self._fakes:
            fake.fail_next("send_offsets")
        return object()

    def group_offset(self, group: str, topic: str) -> int | None:  # noqa: ARG002  (there is one group)
        sent = [each.offset for fake in self._fakes for each in fake.offsets if each.topic == topic]
        return sent[-1] if sent else None


class OnKafka(Backend):
    """Whatever speaks Kafka's protocol."""

    def __init__(self, servers: str) -> None:
        super().__init__()
        self.servers = servers

    def _address(self) -> dict[str, object]:
        return {"bootstrap.servers": self.servers}

    def _make(self, settings: PoolSettings, observer: Observer) -> ProducerPool:
        return ProducerPool(settings, name="orders", observer=observer)

    def visible(self, topic: str) -> list[Found]:
        self._await_markers(topic)
        return self._read(topic, "read_committed")

    def _await_markers(self, topic: str) -> None:
        """Wait a while for the markers of what has ended: the coordinator writes them behind its answer."""
        deadline = time.monotonic() + SETTLING
        while not self._in_transaction() and time.monotonic() < deadline:
            if self._ends(topic, "read_committed") == self._ends(topic, "read_uncommitted"):
                return
            time.sleep(0.01)

    def _in_transaction(self) -> bool:
        return any(client.in_transaction for pool in self._made for client in internals.clients(pool))

    def stored(self, topic: str) -> list[Found]:
        return self._read(topic, "read_uncommitted")

    def end(self, topic: str) -> int:
        return self._end(topic, "read_uncommitted")

    def take_over(self, pool: ProducerPool) -> None:
        transactional_id = internals.plan(pool).slots[0].transactional_id
        rival = Producer({**self._address(), "transactional.id": transactional_id, "log_level": 0})
        rival.init_transactions(PATIENCE)

    def outlive(self, topic: str) -> None:
        _until(lambda: self._end(topic, "read_committed"))

    def group(self) -> tuple[str, object]:
        group = f"group-{uuid.uuid4().hex}"
        with closing(self._consumer(**{"group.id": group})) as consumer:
            return group, consumer.consumer_group_metadata()

    def former_member(self, topic: str) -> object:
        with closing(self._consumer()) as consumer:
            joined: list[object] = []
            consumer.subscribe([topic], on_assign=lambda *_: joined.append(True))
            _until(lambda: consumer.poll(0.05) or joined)
            return consumer.consumer_group_metadata()

    def group_offset(self, group: str, topic: str) -> int | None:
        with closing(self._consumer(**{"group.id": group})) as consumer:
            offset: int = consumer.committed([TopicPartition(topic, 0)], timeout=PATIENCE)[0].offset
            return None if offset < 0 else offset

    def _end(self, topic: str, isolation: str) -> int:
        return self._ends(topic, isolation)[0]

    def _ends(self, topic: str, isolation: str) -> dict[int, int]:
        with closing(self._consumer(**{"isolation.level": isolation})) as consumer:
            return _ends(consumer, topic)

    def _read(self, topic: str, isolation: str) -> list[Found]:
        with closing(self._consumer(**{"isolation.level": isolation})) as consumer:
            ends = _ends(consumer, topic)  # which also tells it the leaders; without, its first fetch takes 0.5 s
            consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
            return sorted(_records(consumer, ends), key=lambda record: record.partition)

    def _consumer(self, **config: object) -> Consumer:
        return Consumer(
            {
                **self._address(),
                "group.id": f"reader-{uuid.uuid4().hex}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
                "heartbeat.interval.ms": 100,
                "log_level": 0,
                **config,
            }
        )


class Mock(OnKafka):
    """librdkafka's mock cluster."""

    name = "mock"

    def __init__(self, cluster: MockKafka) -> None:
        super().__init__(cluster.bootstrap_servers)
        self._cluster = cluster

    def __exit__(self, *given: object) -> None:
        self._cluster.clear_errors(ApiKey.PRODUCE)
        super().__exit__(*given)

    def topic(self, partitions: int = 1) -> str:
        return self._cluster.create_topic(f"t-{uuid.uuid4().hex}", partitions)

    def refusing_topic(self) -> str:
        self._cluster.push_errors(ApiKey.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)
        return self.topic()


class Real(OnKafka):
    """Apache Kafka."""

    name = "real"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.bootstrap_servers)
        self._cluster = cluster

    def topic(self, partitions: int = 1) -> str:
        return self._cluster.create_topic(f"t-{uuid.uuid4().hex}", partitions)

    def refusing_topic(self) -> str:
        return self._cluster.create_topic(f"t-{uuid.uuid4().hex}", config={"max.message.bytes": 500})


def _found(sent: Sent) -> Found:
    headers = tuple((name, _wire(value)) for name, value in sent.headers or ())
    return Found(_wire(sent.value), _wire(sent.key), headers, sent.partition, sent.offset, sent.timestamp_ms)


def _wire(text: str | bytes | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text


def _read_record(message: Message) -> Found:
    given: Any = message
    headers = tuple(given.headers() or ())
    return Found(given.value(), given.key(), headers, given.partition(), given.offset(), given.timestamp()[1])


def _records(consumer: Consumer, ends: dict[int, int]) -> Iterator[Found]:
    behind = {partition for partition, end in ends.items() if end > 0}
    deadline = time.monotonic() + PATIENCE
    while behind:
        assert time.monotonic() < deadline, f"partitions {behind} weren't read to {ends}"
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            yield _read_record(message)
        elif message is not None and _is_end(message, ends):
            behind.discard(message.partition() or 0)


def _is_end(message: Message, ends: dict[int, int]) -> bool:
    given: Any = message
    return bool(given.error().code() == KafkaError._PARTITION_EOF and given.offset() >= ends[given.partition()])


def _ends(consumer: Consumer, topic: str) -> dict[int, int]:
    partitions = consumer.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
    return {number: _watermark(consumer, TopicPartition(topic, number)) for number in partitions}


def _watermark(consumer: Consumer, partition: TopicPartition) -> int:
    return int(consumer.get_watermark_offsets(partition, timeout=PATIENCE, cached=False)[1])


def _until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"{happened} didn't come true"
        time.sleep(0.01)
