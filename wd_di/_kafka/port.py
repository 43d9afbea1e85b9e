"""What is asked of a client, and how a call of it fails."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from wd_di.errors import WdDiError

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Collection

    from wd_di._concurrency.deadline import Deadline
    from wd_di._kafka.topics import OnDelivery, Topics

SLICE = 0.1
"""Seconds of one blocking call: commit, abort and init react to Ctrl-C only when they return."""

BREATH = 0.01
"""Seconds between two tries of one call: some refusals (_CONFLICT, _PREV_IN_PROGRESS) come at once."""


class FaultKind(enum.Enum):
    """What can be done about a failed call."""

    RETRIABLE = "retriable"  # the same call again
    ABORTABLE = "abortable"  # abort, then the producer is good again
    REBALANCED = "rebalanced"  # as ABORTABLE: the consumer group moved on
    FENCED = "fenced"  # fatal: another producer has the id, or the broker ended an overlong transaction
    FATAL = "fatal"  # only a new handle helps
    DENIED = "denied"  # authentication or rights: waiting won't help
    SETTINGS = "settings"  # nor here
    OUTDATED = "outdated"  # of a record: the client knows no such topic or partition, but there may be one by now
    QUEUE_FULL = "queue full"
    CLOSED = "closed"
    OTHER = "other"  # neither retriable nor abortable: treat as fatal


_LOSES_THE_HANDLE = frozenset(
    {
        FaultKind.FENCED,
        FaultKind.FATAL,
        FaultKind.DENIED,
        FaultKind.SETTINGS,
        FaultKind.CLOSED,
        FaultKind.OTHER,
    }
)


class Fault(WdDiError):  # noqa: N818  (events carry it; what is raised to users is made of it)
    """A failed client call; the foreign error is its ``__cause__``.

    ``requires_abort`` is librdkafka's word that the transaction can and must be aborted, whatever kind of error it was.
    ``expired`` says that the broker forgot the idle ``transactional.id``, of which an abort alone doesn't remind it.
    ``right`` is the one that is missing, if that is why.
    """

    def __init__(
        self,
        kind: FaultKind,
        text: str,
        *,
        requires_abort: bool = False,
        expired: bool = False,
        right: str | None = None,
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.requires_abort: bool = requires_abort or kind in (FaultKind.ABORTABLE, FaultKind.REBALANCED)
        self.expired: bool = expired
        self.right: str | None = right

    @property
    def fatal(self) -> bool:
        """Whether the handle is lost."""
        return self.kind in _LOSES_THE_HANDLE


Rest = Mapping[str, Any] | None
"""What else is given of a record: its partition, timestamp and headers, in confluent-kafka's words."""


class Acknowledgement(Protocol):
    """What the client knows of a record that was stored."""

    def partition(self) -> int | None: ...
    def offset(self) -> int | None: ...
    def timestamp(self) -> tuple[int, int]: ...
    def latency(self) -> float | None: ...


OutOfStep = Literal["record refused", "record unanswered"]


class Verdict(NamedTuple):
    """What the error of a record's answer means.

    Attributes:
        outcome: What became of the record.
        error: In our words.
        out_of_step: Why client and broker may number this producer's records differently now, if they may.
    """

    outcome: Literal["failed", "purged"]
    error: BaseException
    out_of_step: OutOfStep | None = None


Noted = tuple[Any, Any, Any]
"""A record's delivery, error and acknowledgement; or a function that is called with the error, and with whether
a record was stored before, which is the third."""


class Answers(Protocol):
    """Where the answers of one client come together.

    Attributes:
        noted: What came inside of a call, in its order. ``on_delivery`` adds to it, and the client itself.
        stored: Whether a record was stored, of which nothing was noted.
    """

    noted: deque[Noted]
    stored: bool

    def take_in(self, verdict: Callable[[Any, str], Verdict]) -> bool:
        """Decide what was noted, outside of all calls; whether a record was stored.

        Args:
            verdict: Says what the error of a record's answer means, given the record's topic.
        """

    @property
    def outstanding(self) -> bool:
        """Whether any record has no answer yet."""


class Reader(Protocol):
    """Looks up what became of one transaction that is over. Without an answer in time its calls raise `Fault`."""

    def sees(self, topic: str, partition: int, offset: int, deadline: Deadline) -> bool:
        """Whether a ``read_committed`` reader sees the record; no, if it skips it."""

    def stands(
        self, places: Collection[tuple[str, int]], group_metadata: Any, deadline: Deadline, *, stable: bool
    ) -> dict[tuple[str, int], int]:
        """Return where the group stands in these partitions, below 0 where nowhere; if stable, once it is decided."""

    def close(self) -> None: ...


class Client(Protocol):
    """What the pool needs of a client: real ones and the in-memory one are used alike. Durations in seconds.

    ``produce`` calls ``on_delivery(error, acknowledgement)`` from inside of another call, so it may do no more than
    note that in the client's :class:`Answers`.
    """

    transactional_id: str | None
    fault: Fault | None
    topics: Topics
    in_transaction: bool

    @property
    def cut_off(self) -> bool: ...
    @property
    def silent(self) -> bool: ...
    @property
    def last_error(self) -> str | None: ...
    def last_error_since(self, started: float) -> str | None: ...
    def ask(self, topic: str, seconds: float) -> bool: ...
    def reach(self, deadline: Deadline) -> bool: ...
    def renew(self, topic: str, partition: int, deadline: Deadline) -> bool: ...
    def init(self, seconds: float) -> None: ...
    def probe(self, seconds: float) -> None: ...
    def cluster_id(self, seconds: float) -> str: ...
    def produce(
        self, topic: str, value: str | bytes | None, key: str | bytes | None, on_delivery: OnDelivery, rest: Rest = None
    ) -> None: ...
    def poll(self, seconds: float) -> None: ...
    def collect(self) -> None: ...
    def flush(self, seconds: float) -> None: ...
    def begin(self) -> None: ...
    def send_offsets(self, offsets: object, group_metadata: object, seconds: float) -> None: ...
    def commit(self, seconds: float) -> None: ...
    def abort(self, seconds: float) -> None: ...
    def purge(self) -> None: ...
    def owes(self) -> int: ...
    def reason(self) -> Fault | None: ...
    def verdict(self, error: Any, topic: str) -> Verdict: ...
    def close(self) -> None: ...
