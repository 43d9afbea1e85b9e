"""A client without Kafka: the same calls over an in-memory broker, which is what ``deliver=False`` runs on."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from wd_di._concurrency.waiters import Alarm
from wd_di._kafka.offsets import unfit_metadata
from wd_di._kafka.port import Fault, FaultKind, Verdict
from wd_di._kafka.topics import Topics
from wd_di.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Collection

    from wd_di._concurrency.deadline import Deadline
    from wd_di._kafka.port import Answers, Rest
    from wd_di._kafka.topics import OnDelivery


KEEP = 10_000
MAX_BYTES = 1_000_000
"""librdkafka's own ``message.max.bytes``."""


@dataclass(slots=True)
class Record:
    """One stored record; an acknowledgement at the same time."""

    name: str
    value: Any
    key: Any
    headers: Any
    number: int
    position: int = -1
    written_ms: int = 0

    def partition(self) -> int:
        return self.number

    def offset(self) -> int:
        return self.position

    def timestamp(self) -> tuple[int, int]:
        return 1, self.written_ms

    def latency(self) -> float:
        return 0.0


class Writer(NamedTuple):
    """Who writes: an id, and which of its owners."""

    transactional_id: str
    epoch: int


@dataclass(slots=True)
class MemoryBroker:
    """What one pool's in-memory clients write to; ``committed`` is what a ``read_committed`` reader would see.

    A topic has whichever partition a record names, and 0 for the others. ``keep`` bounds how many records of each kind
    are remembered, so that a service may run on it for long. ``backoff`` is the share that the pool waits of what it
    would wait before it connects again.
    """

    keep: int | None = KEEP
    max_bytes: int = MAX_BYTES
    backoff: float = 1.0
    committed: list[Record] = field(default_factory=list)
    aborted: list[Record] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _ends: dict[tuple[str, int], int] = field(default_factory=dict)
    _epochs: dict[str, int] = field(default_factory=dict)
    _open: dict[str, list[Record]] = field(default_factory=dict)

    def connect(self, transactional_id: str | None, answers: Answers) -> MemoryClient:
        """Return a new client."""
        return MemoryClient(self, transactional_id, answers)

    def read(self) -> MemoryReader:
        """Return who can tell what became of a transaction."""
        return MemoryReader(self)

    def new_epoch(self, transactional_id: str) -> int:
        """Fence every earlier client of the id, and abort what it has open."""
        with self.lock:
            self._decide(transactional_id, commit=False)
            self._epochs[transactional_id] = epoch = self._epochs.get(transactional_id, -1) + 1
            return epoch

    def store(self, record: Record, writer: Writer | None) -> bool:
        """Give the record its place in the log; false if the writer is fenced. ``None`` writes without transactions."""
        with self.lock:
            if not self._welcome(writer):
                return False
            place = (record.name, record.number)
            record.position = self._ends.get(place, 0)
            self._ends[place] = record.position + 1
            if writer is None:
                self._remember(self.committed, [record])
            else:
                self._open.setdefault(writer.transactional_id, []).append(record)
            return True

    def end(self, writer: Writer, *, commit: bool) -> bool:
        """Show the open transaction's records, or hide them for ever; false if the writer is fenced."""
        with self.lock:
            welcome = self._welcome(writer)
            if welcome and writer.transactional_id in self._open:
                self._decide(writer.transactional_id, commit=commit)
            return welcome

    def welcomes(self, writer: Writer | None) -> bool:
        """Whether nobody came after this writer."""
        with self.lock:
            return self._welcome(writer)

    # -- the lock is held --------------------------------------------------------------------------

    def _welcome(self, writer: Writer | None) -> bool:
        return writer is None or self._epochs[writer.transactional_id] == writer.epoch

    def _decide(self, transactional_id: str, *, commit: bool) -> None:
        records = self._open.pop(transactional_id, [])
        self._remember(self.committed if commit else self.aborted, records)
        for place in {(record.name, record.number) for record in records}:
            self._ends[place] += 1  # the marker's own offset

    def _remember(self, kept: list[Record], records: list[Record]) -> None:
        kept.extend(records)
        if self.keep is not None and len(kept) > 2 * self.keep:
            del kept[: -self.keep]


class MemoryClient:
    """Behaves as :class:`wd_di._kafka.librdkafka.KafkaClient` does; records are acknowledged when somebody polls."""

    def __init__(self, broker: MemoryBroker, transactional_id: str | None, answers: Answers) -> None:
        self.transactional_id = transactional_id
        self.fault: Fault | None = None
        self.last_error: str | None = None
        self.topics: Topics = Topics()
        self.in_transaction: bool = False
        self.cut_off = self.silent = False
        self._broker = broker
        self._answers = answers
        self._writer: Writer | None = None
        self._queue: deque[tuple[OnDelivery, Record]] = deque()
        self._serving = threading.Lock()
        self._due = Alarm()
        self._closed = False

    def init(self, seconds: float) -> None:
        """Fence whoever had the id."""
        if self._closed:
            raise _closed()
        transactional_id = self.transactional_id or ""
        self._writer = Writer(transactional_id, self._broker.new_epoch(transactional_id))

    def probe(self, seconds: float) -> None:
        """Always there."""
        if self._closed:
            raise _closed()

    def cluster_id(self, seconds: float) -> str:
        """There is no cluster."""
        return ""

    def ask(self, topic: str, seconds: float) -> bool:
        """Every topic is there, with every partition."""
        return False

    def reach(self, deadline: Deadline) -> bool:
        """Nothing here is ever out of reach."""
        return True

    def renew(self, topic: str, partition: int, deadline: Deadline) -> bool:
        """Nothing here is ever out of date."""
        return False

    def last_error_since(self, started: float) -> str | None:
        """Nothing goes wrong here by itself."""
        return self.last_error

    def begin(self) -> None:
        """Begin."""
        if self._closed:
            raise _closed()
        self.in_transaction = True

    def produce(
        self, topic: str, value: str | bytes | None, key: str | bytes | None, on_delivery: OnDelivery, rest: Rest = None
    ) -> None:
        """Enqueue one record."""
        rest = rest or {}
        if self._closed:
            raise _closed()
        timestamp = rest.get("timestamp") or int(time.time() * 1000)
        number = max(0, rest.get("partition", -1))
        stored = Record(topic, value, key, rest.get("headers"), number)
        stored.written_ms = timestamp
        self._refuse_if_large(stored)
        self._queue.append((on_delivery, stored))
        self._due.ring()

    def poll(self, seconds: float) -> None:
        """Wait for something to acknowledge, and acknowledge all that is queued."""
        if seconds:
            self._due.nap(seconds)
        self.flush(seconds)

    def flush(self, seconds: float) -> None:
        """Acknowledge what is queued."""
        if self._closed:
            raise _closed()
        with self._serving:  # the holder and the poller may both be here
            self._acknowledge_all()
        self._answers.take_in(self.verdict)

    def collect(self) -> None:
        """Acknowledge what is queued, unless somebody is at it, and tell nobody."""
        if not self._closed and self._serving.acquire(blocking=False):
            try:
                self._acknowledge_all()
            finally:
                self._serving.release()

    def _acknowledge_all(self) -> None:
        self._due.silence()
        while self._queue:
            self._acknowledge(*self._queue.popleft())

    def _acknowledge(self, on_delivery: OnDelivery, record: Record) -> None:
        if self._broker.store(record, self._writer):
            on_delivery(None, record)
        else:
            error = DeliveryError(f"a record for {record.name!r} was refused: {self._fenced()}")
            on_delivery(error, None)

    def send_offsets(self, offsets: object, group_metadata: object, seconds: float) -> None:
        """Accept the offsets: there is no consumer group here that could disagree."""
        if self._closed:
            raise _closed()
        if _no_metadata(group_metadata):
            raise TypeError(unfit_metadata(group_metadata))
        if not self._broker.welcomes(self._writer):
            raise self._fenced()

    def commit(self, seconds: float) -> None:
        """Show the transaction's records."""
        self._end(seconds, commit=True)

    def abort(self, seconds: float) -> None:
        """Hide them."""
        self._end(seconds, commit=False)

    def _end(self, seconds: float, *, commit: bool) -> None:
        if self._queue or self._answers.noted or self._closed:
            self.flush(seconds)
        if self._writer is not None and not self._broker.end(self._writer, commit=commit):
            raise self._fenced()
        self.in_transaction = False

    def reason(self) -> Fault | None:
        """Records fail one by one here."""
        return None

    def purge(self) -> None:
        """Drop what is queued, unanswered."""
        with self._serving:
            self._queue.clear()

    def owes(self) -> int:
        """Queued records."""
        return len(self._queue)

    def verdict(self, error: BaseException, topic: str) -> Verdict:
        """Errors come as they are meant here."""
        return Verdict("failed", error)

    def close(self) -> None:
        """Take no more calls; an unfinished transaction is the broker's to abort, which does so at once."""
        if self._writer is not None:
            self._broker.end(self._writer, commit=False)
        self._closed = True
        self._due.ring()

    def _refuse_if_large(self, record: Record) -> None:
        texts, size, limit = [record.value, record.key], 0, self._broker.max_bytes
        for header in record.headers or ():
            texts += header
        for text in texts:
            size += len(text.encode() if isinstance(text, str) else text or b"")
        if size > limit:
            raise Fault(FaultKind.OTHER, f"the record has {size} bytes, message.max.bytes is {limit}")

    def _fenced(self) -> Fault:
        self.fault = Fault(FaultKind.FENCED, "fenced by a newer producer with the same transactional.id")
        return self.fault


class MemoryReader:
    """Answers as :class:`wd_di._kafka.reader.KafkaReader` does, from what the broker remembers."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def sees(self, topic: str, partition: int, offset: int, deadline: Deadline) -> bool:
        """Whether the record was committed."""
        for seen, records in ((True, self._broker.committed), (False, self._broker.aborted)):
            if any((each.name, each.number, each.position) == (topic, partition, offset) for each in tuple(records)):
                return seen
        raise Fault(FaultKind.OTHER, f"{topic}[{partition}]@{offset} isn't there any more")

    def stands(
        self, places: Collection[tuple[str, int]], group_metadata: Any, deadline: Deadline, *, stable: bool
    ) -> dict[tuple[str, int], int]:
        """There are no groups here."""
        raise Fault(FaultKind.OTHER, "a broker in memory keeps no offsets")

    def close(self) -> None:
        """There is nothing to drop."""


def _no_metadata(given: object) -> bool:
    """Whether it can't be a group's metadata; anything opaque will do as a stand-in for it."""
    if isinstance(given, bytes):
        return not given.startswith(b"CGMD")
    other = (str, int, float, list, tuple, dict, set, bytearray, memoryview, type(None))
    return isinstance(given, other) or callable(given) or hasattr(given, "consumer_group_metadata")


def _closed() -> Fault:
    return Fault(FaultKind.CLOSED, "the producer is closed")
