"""A client without Kafka: the same calls over an in-memory broker, which is what ``deliver=False`` runs on."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wd_di._client import Fault, Kind
from wd_di.errors import DeliveryError

if TYPE_CHECKING:
    from wd_di._delivery import Delivery, DeliveryOutcome, Outbox


KEEP = 10_000


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

    def topic(self) -> str:
        return self.name

    def partition(self) -> int:
        return self.number

    def offset(self) -> int:
        return self.position

    def timestamp(self) -> tuple[int, int]:
        return 1, self.written_ms

    def latency(self) -> float:
        return 0.0


@dataclass(slots=True)
class MemoryBroker:
    """What one pool's in-memory clients write to; ``committed`` is what a ``read_committed`` reader would see.

    ``keep`` bounds how many records of each kind are remembered, so that a service may run on it for long.
    """

    keep: int | None = KEEP
    committed: list[Record] = field(default_factory=list)
    aborted: list[Record] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _ends: dict[tuple[str, int], int] = field(default_factory=dict)
    _epochs: dict[str, int] = field(default_factory=dict)

    def store(self, record: Record) -> None:
        """Give the record its place in the log."""
        with self.lock:
            place = (record.name, record.number)
            record.position = self._ends.get(place, 0)
            self._ends[place] = record.position + 1

    def new_epoch(self, transactional_id: str) -> int:
        """Fence every earlier client of the id."""
        with self.lock:
            self._epochs[transactional_id] = epoch = self._epochs.get(transactional_id, -1) + 1
            return epoch

    def current(self, transactional_id: str, epoch: int) -> bool:
        """Whether nobody came after this epoch."""
        with self.lock:
            return self._epochs[transactional_id] == epoch

    def decide(self, records: list[Record], *, commit: bool) -> None:
        """Show the records, or hide them for ever."""
        with self.lock:
            kept = self.committed if commit else self.aborted
            kept.extend(records)
            if self.keep is not None and len(kept) > 2 * self.keep:
                del kept[: -self.keep]

    def connect(self, transactional_id: str | None) -> MemoryClient:
        """Return a new client."""
        return MemoryClient(self, transactional_id)


class MemoryClient:
    """Behaves as :class:`wd_di._client.KafkaClient` does; records are acknowledged when somebody polls."""

    def __init__(self, broker: MemoryBroker, transactional_id: str | None) -> None:
        self.transactional_id = transactional_id
        self.outbox: Outbox
        self.fault: Fault | None = None
        self.last_error: str | None = None
        self.in_transaction: bool = False
        self.doubtful = False
        self.out_of_step = False
        self._broker = broker
        self._epoch: int | None = None
        self._queue: deque[tuple[Delivery, Record]] = deque()
        self._sent: list[Record] = []
        self._serving = threading.Lock()
        self._due = threading.Event()
        self._closed = False

    def init(self, seconds: float) -> None:  # noqa: ARG002  (the port's signature)
        """Fence whoever had the id."""
        self._refuse_if_closed()
        self._epoch = self._broker.new_epoch(self.transactional_id or "")

    def probe(self, seconds: float) -> None:  # noqa: ARG002
        """Always there."""
        self._refuse_if_closed()

    def begin(self) -> None:
        """Begin."""
        self._refuse_if_closed()
        self.in_transaction = True

    def produce(self, delivery: Delivery, topic: str, **record: Any) -> None:
        """Enqueue one record."""
        self._refuse_if_closed()
        timestamp = record.get("timestamp") or int(time.time() * 1000)
        number = max(0, record.get("partition", -1))
        stored = Record(topic, record.get("value"), record.get("key"), record.get("headers"), number)
        stored.written_ms = timestamp
        self._queue.append((delivery, stored))
        self._due.set()

    def poll(self, seconds: float) -> None:
        """Wait for something to acknowledge, and acknowledge all that is queued."""
        if seconds:
            self._due.wait(seconds)
        self.flush(seconds)

    def flush(self, seconds: float) -> None:  # noqa: ARG002
        """Acknowledge what is queued."""
        self._refuse_if_closed()
        with self._serving:  # the holder and the poller may both be here
            self._due.clear()
            while self._queue:
                self._acknowledge(*self._queue.popleft())
        self.outbox.settle()

    def _acknowledge(self, delivery: Delivery, record: Record) -> None:
        try:
            self._refuse_if_fenced()
        except Fault as fault:
            delivery._arrive(DeliveryError(f"a record for {record.name!r} was refused: {fault}"), None)  # noqa: SLF001
            return
        self._broker.store(record)
        if self.transactional_id is None:
            self._broker.decide([record], commit=True)
        else:
            self._sent.append(record)
        delivery._arrive(None, record)  # noqa: SLF001  (its callback)

    def send_offsets(self, offsets: Any, group_metadata: Any, seconds: float) -> None:  # noqa: ARG002
        """Accept the offsets: there is no consumer group here that could disagree."""
        self._refuse_if_fenced()

    def commit(self, seconds: float) -> None:
        """Show the transaction's records."""
        self._end(seconds, commit=True)

    def abort(self, seconds: float) -> None:
        """Hide them."""
        self._end(seconds, commit=False)

    def _end(self, seconds: float, *, commit: bool) -> None:
        self.flush(seconds)
        self._refuse_if_fenced()
        records, self._sent = self._sent, []
        self._broker.decide(records, commit=commit)
        self.in_transaction = False

    def reason(self) -> Fault | None:
        """Records fail one by one here."""
        return None

    def purge(self) -> None:
        """Drop what is queued; the outbox gives the deliveries up."""
        with self._serving:
            self._queue.clear()

    def owes(self) -> int:
        """Queued records."""
        return len(self._queue)

    def verdict(self, error: BaseException, topic: str) -> tuple[DeliveryOutcome, BaseException]:  # noqa: ARG002
        """Errors come as they are meant here."""
        return "failed", error

    def close(self) -> None:
        """Take no more calls."""
        self._closed = True
        self._due.set()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Fault(Kind.CLOSED, "the producer is closed")

    def _refuse_if_fenced(self) -> None:
        self._refuse_if_closed()
        if self.transactional_id is None or self._epoch is None:
            return
        if not self._broker.current(self.transactional_id, self._epoch):
            self.fault = Fault(Kind.FENCED, "fenced by a newer producer with the same transactional.id")
            raise self.fault
