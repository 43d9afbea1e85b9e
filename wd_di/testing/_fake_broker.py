"""What a fake pool sends to: the in-memory broker, and clients that fail on cue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from wd_di._kafka.memory import MemoryBroker, MemoryClient, MemoryReader, Record
from wd_di._kafka.port import Fault, FaultKind, Verdict

if TYPE_CHECKING:
    import threading
    from collections import deque
    from collections.abc import Collection

    from wd_di._concurrency.deadline import Deadline
    from wd_di._kafka.port import Answers, Rest
    from wd_di._kafka.topics import OnDelivery

Call = Literal["create", "begin", "produce", "send_offsets", "commit", "abort"]
Found = Literal["committed", "aborted"]

PATIENCE = 30.0
"""Seconds after which a held-up creation goes on by itself: no test hangs on a forgotten exit."""

BACKOFF = 0.01
"""Share of the real pool's back-offs, after a fencing or a failed creation, that a fake waits."""


class LostAnswer(Fault):
    """A commit's answer is lost on cue.

    Attributes:
        found: What is found out afterwards; ``None`` if nothing is.
    """

    def __init__(self, found: Found | None) -> None:
        super().__init__(FaultKind.OTHER, "commit failed on cue")
        self.found: Found | None = found


@dataclass(slots=True)
class FakeBroker(MemoryBroker):
    """The in-memory broker, and what its clients do on cue."""

    keep: int | None = None
    backoff: float = BACKOFF
    cues: dict[str, deque[Fault]] = field(default_factory=dict)
    failing: dict[str, tuple[Exception, int | None]] = field(default_factory=dict)
    gate: threading.Event | None = None
    offsets: list[Any] = field(default_factory=list)
    unknowable: bool = False

    def connect(self, transactional_id: str | None, answers: Answers) -> MemoryClient:
        """Return a new client that asks here before each call."""
        gate = self.gate
        if gate is not None:
            gate.wait(PATIENCE)
        self.play("create")
        return FakeClient(self, transactional_id, answers)

    def read(self) -> MemoryReader:
        """Return who can tell what the last lost answer was, if anybody can."""
        return FakeReader(self)

    def play(self, call: Call) -> None:
        """Raise what the next call of this name shall raise."""
        with self.lock:
            cues = self.cues.get(call)
            fault = cues.popleft() if cues else None
        if fault is not None:
            raise fault

    def verdict(self, topic: str) -> Exception | None:
        """Why a record for this topic isn't delivered."""
        with self.lock:
            error, left = self.failing.get(topic, (None, None))
            if left is not None and error is not None:
                self.failing[topic] = (error, max(0, left - 1))
            return None if left == 0 else error


class FakeClient(MemoryClient):
    """An in-memory client with cues."""

    _broker: FakeBroker

    def __init__(self, broker: FakeBroker, transactional_id: str | None, answers: Answers) -> None:
        super().__init__(broker, transactional_id, answers)
        self._offsets: list[Any] = []
        self._refused: set[BaseException] = set()

    def begin(self) -> None:
        """Begin."""
        self._broker.play("begin")
        super().begin()

    def produce(
        self, topic: str, value: str | bytes | None, key: str | bytes | None, on_delivery: OnDelivery, rest: Rest = None
    ) -> None:
        """Enqueue one record."""
        self._broker.play("produce")
        super().produce(topic, value, key, on_delivery, rest)

    def send_offsets(self, offsets: Any, group_metadata: Any, seconds: float) -> None:
        """Note the offsets; they count with the commit."""
        self._broker.play("send_offsets")
        super().send_offsets(offsets, group_metadata, seconds)
        self._offsets.extend(offsets)

    def commit(self, seconds: float) -> None:
        """Show the transaction's records and offsets."""
        try:
            self._broker.play("commit")
        except LostAnswer as lost:
            self._broker.unknowable = lost.found is None
            if lost.found == "committed":
                self._commit(seconds)
            else:  # the answer is lost, since the request was
                super().abort(seconds)
            self.in_transaction = True
            raise
        self._commit(seconds)

    def _commit(self, seconds: float) -> None:
        super().commit(seconds)
        self._broker.offsets.extend(self._offsets)
        self._offsets.clear()

    def abort(self, seconds: float) -> None:
        """Hide them."""
        self._broker.play("abort")
        super().abort(seconds)
        self._offsets.clear()

    def _acknowledge(self, on_delivery: OnDelivery, record: Record) -> None:
        error = self._broker.verdict(record.name)
        if error is None:
            super()._acknowledge(on_delivery, record)
        else:
            self._refused.add(error)
            on_delivery(error, None)

    def verdict(self, error: BaseException, topic: str) -> Verdict:
        """What was refused on cue costs what a record costs that a broker refuses."""
        return super().verdict(error, topic)._replace(out_of_step="record refused" if error in self._refused else None)


class FakeReader(MemoryReader):
    """A reader that finds out what it shall, else what there is."""

    _broker: FakeBroker

    def sees(self, topic: str, partition: int, offset: int, deadline: Deadline) -> bool:
        """Whether the record was committed."""
        self._play()
        return super().sees(topic, partition, offset, deadline)

    def stands(
        self,
        places: Collection[tuple[str, int]],
        group_metadata: Any,  # noqa: ARG002  (there is one group)
        deadline: Deadline,  # noqa: ARG002
        *,
        stable: bool,
    ) -> dict[tuple[str, int], int]:
        """Return where the committed offsets have brought the group."""
        if stable:
            self._play()
        known = {(each.topic, each.partition): each.offset for each in self._broker.offsets}
        return {place: known.get(place, -1) for place in places}

    def _play(self) -> None:
        if self._broker.unknowable:
            raise Fault(FaultKind.OTHER, "on cue nothing can be found out")
