"""What happens in a pool, as typed events."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from json import loads
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wd_di._errorlog import ErrorLog
from wd_di._observing import Event as Event
from wd_di._observing import Observer as Observer
from wd_di._observing import Subscription as Subscription
from wd_di._observing import checked_observer as checked_observer
from wd_di._observing import make_known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


# -- the pool ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _SizedEvent(Event):
    _aliases: ClassVar[Mapping[str, str]] = {"timeout": "timeout_ms"}
    size: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class ConnectionPoolCreated(_SizedEvent):
    """A pool was constructed; ``timeout_ms`` is a checkout's deadline (also ``event["timeout"]``)."""

    name = "connection_pool.created"


@dataclass(frozen=True, slots=True)
class ConnectionPoolSetup(_SizedEvent):
    """A pool was configured: right after it was created."""

    name = "connection_pool.setup"


@dataclass(frozen=True, slots=True)
class ConnectionPoolReload(Event):
    """A reload begins; ``generation`` is the one that it leads to."""

    name = "connection_pool.reload"
    generation: int


@dataclass(frozen=True, slots=True)
class ConnectionPoolReloaded(Event):
    """A reload is complete."""

    name = "connection_pool.reloaded"
    generation: int
    duration_ms: float


@dataclass(frozen=True, slots=True)
class ConnectionPoolShutdown(Event):
    """A pool is closed: its last event. ``report`` is the ``CloseReport``."""

    name = "connection_pool.shutdown"
    report: object | None = None


@dataclass(frozen=True, slots=True)
class CheckoutTimedOut(Event):
    """No producer came free in time; ``error`` is what the borrower gets."""

    name = "checkout.timed_out"
    _aliases: ClassVar[Mapping[str, str]] = {"timeout": "timeout_ms"}
    timeout_ms: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class CheckoutLost(Event):
    """Who had taken a producer is gone without giving it back; it is replaced.

    ``owner`` is the thread or task, ``held_ms`` for how long it was held, ``place`` the line that took it, if known.
    """

    name = "checkout.lost"
    index: int
    owner: str
    held_ms: float
    place: str | None


@dataclass(frozen=True, slots=True)
class ErrorOccurred(Event):
    """Something failed with nobody to raise it to; ``where`` names the place."""

    name = "error.occurred"
    index: int | None
    where: str
    error: BaseException


# -- the producers -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ProducerEvent(Event):
    index: int
    transactional_id: str | None


@dataclass(frozen=True, slots=True)
class ProducerCreated(_ProducerEvent):
    """A slot has a new producer, initialised if transactional, after ``duration_ms``."""

    name = "producer.created"
    duration_ms: float


@dataclass(frozen=True, slots=True)
class ProducerContested(_ProducerEvent):
    """A producer is about to ask for an id that another process of this host has; ``rival`` says which one.

    That one is fenced then, unless ``ids_held_elsewhere="refuse"`` forbids it.
    """

    name = "producer.contested"
    rival: str


@dataclass(frozen=True, slots=True)
class ProducerClosed(_ProducerEvent):
    """A producer is closed; ``purged`` counts the messages that it had to give up."""

    name = "producer.closed"
    purged: int


RetirementReason = Literal[
    "broken",
    "left in a transaction",
    "begin failed",
    "commit failed",
    "abort failed",
    "commit in doubt",
    "send_offsets timed out",
    "checkout lost",
    "record refused",
    "record unanswered",
    "sent twice",
    "transactional.id expired",
    "transactional_id_expiry_ms",
    "max_lifetime_ms",
    "idle_timeout_ms",
    "reload",
    "close",
    "close(force=True)",
    "create failed on cue",  # of a fake, as the next one
    "creation is slow on cue",
]
"""Why a producer is never handed out again."""


@dataclass(frozen=True, slots=True)
class ProducerRetired(_ProducerEvent):
    """A producer is never handed out again: it is fenced, fatal, in doubt, too old or reloaded."""

    name = "producer.retired"
    reason: RetirementReason
    error: BaseException | None


@dataclass(frozen=True)  # without slots: cached_property keeps its value in __dict__
class StatisticsEmitted(Event):
    """librdkafka's statistics, as often as ``statistics.interval.ms`` says; ``json`` is its own text."""

    name = "statistics.emitted"
    _aliases: ClassVar[Mapping[str, str]] = {"statistics": "statistics"}
    index: int
    json: str = field(repr=False)

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """The statistics, parsed at the first look."""
        told: dict[str, object] = loads(self.json)
        return told


# -- the transactions --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _TransactionEvent(Event):
    index: int
    transactional_id: str
    transaction_id: str


@dataclass(frozen=True, slots=True)
class TransactionStarted(_TransactionEvent):
    """A transaction began; ``transaction_id`` is the one that all its events carry."""

    name = "transaction.started"


@dataclass(frozen=True, slots=True)
class TransactionCommitted(_TransactionEvent):
    """A transaction is committed: its ``records`` are visible."""

    name = "transaction.committed"
    records: int
    duration_ms: float


@dataclass(frozen=True, slots=True)
class TransactionAborted(_TransactionEvent):
    """A transaction is aborted; ``cause`` is what crossed the scope, if anything did."""

    name = "transaction.aborted"
    records: int
    duration_ms: float
    cause: BaseException | None


@dataclass(frozen=True, slots=True)
class TransactionFinished(_TransactionEvent):
    """A transaction is over, whatever came of it; ``unknown``: the commit's answer is missing."""

    name = "transaction.finished"
    outcome: Literal["committed", "aborted", "unknown"]
    records: int
    duration_ms: float
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class TransactionResolved(_TransactionEvent):
    """A commit had no answer, and its outcome was looked for, ``way`` says where; ``told`` says what was seen there."""

    name = "transaction.resolved"
    outcome: Literal["committed", "aborted", "unknown"]
    way: Literal["record", "offsets"] | None
    told: str
    duration_ms: float


# -- the messages ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _MessageEvent(Event):
    index: int
    topic: str


@dataclass(frozen=True, slots=True)
class MessageAcknowledged(_MessageEvent):
    """The broker has a message; ``timestamp_ms`` is the record's, ``latency_ms`` counts from produce."""

    name = "message.acknowledged"
    partition: int
    offset: int | None
    timestamp_ms: int | None
    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class MessageFailed(_MessageEvent):
    """A message wasn't delivered."""

    name = "message.failed"
    error: BaseException


@dataclass(frozen=True, slots=True)
class MessagePurged(_MessageEvent):
    """A message was given up before it was delivered: by an abort or a close."""

    name = "message.purged"


EVENTS: tuple[type[Event], ...] = (
    ConnectionPoolCreated,
    ConnectionPoolSetup,
    ConnectionPoolReload,
    ConnectionPoolReloaded,
    ConnectionPoolShutdown,
    CheckoutTimedOut,
    CheckoutLost,
    ErrorOccurred,
    ProducerContested,
    ProducerCreated,
    ProducerClosed,
    ProducerRetired,
    StatisticsEmitted,
    TransactionStarted,
    TransactionCommitted,
    TransactionAborted,
    TransactionResolved,
    TransactionFinished,
    MessageAcknowledged,
    MessageFailed,
    MessagePurged,
)
make_known(EVENTS)


# For errors that only an event carries: with nobody listening, this line is all there is of them.
_log = ErrorLog()
log_error: Callable[[str, str, BaseException], None] = _log.write
log_warning: Callable[[str, str], None] = _log.warn
