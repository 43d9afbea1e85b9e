"""The only door to ``confluent_kafka``: one class per client, and the translation of its errors."""

from __future__ import annotations

import enum
import functools
import re
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Protocol

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition, cimpl

from wd_di._forks import leave_to_parent, renew_in_child
from wd_di._green import yielding
from wd_di._guards import ConsumerSettings, LaterLogger, TokenSource, guarded
from wd_di._lines import Lines
from wd_di._names import revealed
from wd_di._reentry import Calls, NestedCallError
from wd_di._threads import Deadline
from wd_di._topics import ASK_SLICE_MAX, PATIENT_MS, PROPAGATION_MS, Topics
from wd_di._troubles import LASTING, Siblings, Troubles, last_error
from wd_di.errors import (
    AuthorizationError,
    DeliveryError,
    ForkedPoolError,
    PoolOpenError,
    SettingsError,
    WdDiError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wd_di._delivery import Delivery, DeliveryOutcome, HeaderValue, Outbox

SLICE = 0.1
"""Seconds of one blocking call: commit, abort and init react to Ctrl-C only when they return."""

BREATH = 0.01
"""Seconds between two tries of one call: some refusals (_CONFLICT, _PREV_IN_PROGRESS) come at once."""

PURGE_PATIENCE = 0.1
"""Seconds to serve the reports that a purge brings; what comes later is answered from our own registry."""

CAUSE_AFTER = 5.0
"""Seconds within which librdkafka tries to connect again, and says why it can't."""

ASK_SLICE = 0.2
"""Seconds that an error may wait for what the brokers say of its topic."""

PROOF_FRESH = 1.0
"""Seconds for which a connection that was proved needs no other proof."""

SILENCE = 1.0
"""Seconds after which a broker that says nothing may be frozen, as after SIGSTOP: no connection ends by that."""

CLOSING = 1.0
"""Seconds that a close of what is answered takes at most, but for slow DNS."""

RENEWAL_MAX = 2.0
"""Seconds for all of these questions: the brokers may be busy, or far."""

RENEWALS = (0.0, 0.05, 0.2)
"""Seconds before each question for a topic or partition that isn't known: a broker hears of new ones a little late."""

_PROPAGATION = "topic.metadata.propagation.max.ms"
_CHECK_DROPS = ("bootstrap.servers", "metadata.broker.list", "test.mock.num.brokers", "statistics.interval.ms")
_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})  # noqa: SLF001
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001
_UNKNOWN_TOPIC = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART})  # noqa: SLF001
_OUTDATED = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})  # noqa: SLF001
_DENIED = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
_MISSING_RIGHT = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Write on the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "Read on the consumer group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "IdempotentWrite on the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "Write and Describe on the transactional.id",
}
_EXPIRED = (
    "the broker forgets a transactional.id that was idle for its transactional.id.expiration.ms: set "
    "transactional_id_expiry_ms to that, and idle producers are initialised again in time"
)
_REBALANCED = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
    }
)


class Kind(enum.Enum):
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


class Fault(WdDiError):  # noqa: N818  (events carry it; what is raised to users is made of it)
    """A failed client call; the foreign error is its ``__cause__``.

    ``requires_abort`` is librdkafka's word that the transaction can and must be aborted, whatever kind of error it was.
    ``expired`` says that the broker forgot the idle ``transactional.id``, of which an abort alone doesn't remind it.
    """

    def __init__(self, kind: Kind, text: str, *, requires_abort: bool = False, expired: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.requires_abort: bool = requires_abort or kind in (Kind.ABORTABLE, Kind.REBALANCED)
        self.expired: bool = expired

    @property
    def fatal(self) -> bool:
        """Whether the handle is lost."""
        return self.kind in (Kind.FENCED, Kind.FATAL, Kind.DENIED, Kind.SETTINGS, Kind.CLOSED, Kind.OTHER)


class Client(Protocol):
    """What the pool needs of a client: real ones and the in-memory one are used alike. Durations in seconds."""

    transactional_id: str | None
    outbox: Outbox
    fault: Fault | None
    topics: Topics
    in_transaction: bool
    doubtful: bool
    full_at: int | None
    out_of_step: bool
    cut_off: bool

    @property
    def silent(self) -> bool: ...
    @property
    def last_error(self) -> str | None: ...
    def last_error_since(self, started: float) -> str | None: ...
    def ask(self, topic: str, seconds: float) -> bool: ...
    def reach(self, deadline: Deadline) -> None: ...
    def renew(self, topic: str, partition: int, deadline: Deadline) -> bool: ...
    def init(self, seconds: float) -> None: ...
    def probe(self, seconds: float) -> None: ...
    def produce(self, delivery: Delivery, topic: str, **record: Any) -> None: ...
    def poll(self, seconds: float) -> None: ...
    def flush(self, seconds: float) -> None: ...
    def begin(self) -> None: ...
    def send_offsets(self, offsets: Any, group_metadata: Any, seconds: float) -> None: ...
    def commit(self, seconds: float) -> None: ...
    def abort(self, seconds: float) -> None: ...
    def purge(self) -> None: ...
    def owes(self) -> int: ...
    def reason(self) -> Fault | None: ...
    def verdict(self, error: Any, topic: str) -> tuple[DeliveryOutcome, BaseException]: ...
    def close(self) -> None: ...


class KafkaClient:
    """A ``confluent_kafka.Producer`` whose errors are :class:`Fault`, and whose callbacks never do more than note.

    Args:
        config: librdkafka's settings under their dotted names; secrets may still be wrapped.
        transactional_id: The id, if the client is transactional.
        statistics: Called with librdkafka's JSON from :meth:`poll`; ``None`` switches statistics off.
        trouble: Called with the text of each error that concerns no call: brokers down, authentication.
        patient: No broker can be reached yet: an unknown topic gets librdkafka's own time to appear. That runs from its
            first record on, reachable or not, and a broker that creates topics couldn't have made it.
        siblings: The pool's clients of the same cluster.
        lines: What becomes of the lines that they log.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        transactional_id: str | None,
        *,
        statistics: Callable[[str], None] | None = None,
        trouble: Callable[[Exception], None] | None = None,
        patient: bool = False,
        siblings: Siblings | None = None,
        lines: Lines | None = None,
    ) -> None:
        self.transactional_id = transactional_id
        self.outbox: Outbox
        self.fault: Fault | None = None
        self.topics = Topics(patient=_number(config, _PROPAGATION, 0) > PROPAGATION_MS)
        self.in_transaction = False
        self.cut_off = False  # all brokers are down, as far as is known
        self._last = Troubles()
        self._siblings = siblings or Siblings()
        self.lines = lines or Lines("a pool")
        self._summary: tuple[Fault, float] | None = None
        self._renewed: dict[str, float] = {}
        self._looked_up: dict[str, float] = {}
        self._deaf = -1.0
        self._proved = -PROOF_FRESH
        self._heard = time.monotonic()
        self._unmet: str | None = unanswered(config)
        self._asking: list[str] = []
        self._wrote = False
        self._unheard = False
        self.doubtful = False
        self.full_at: int | None = None
        self.out_of_step = False
        self._initialised = transactional_id is None
        self._secrets = _secrets(config)
        self._log = LaterLogger(self.lines.to(config.get("logger")))
        self._troubles: deque[KafkaError] = deque()
        self._statistics: deque[str] = deque(maxlen=1)
        self._throttles: deque[Any] = deque()
        self._on_trouble, self._on_statistics, self._on_throttle = trouble, statistics, config.get("throttle_cb")
        self._tokens: TokenSource | None = None
        self._forked = False
        self._calls = Calls()
        self._handle: cimpl.Producer | None = None
        self._handle = self._connect(config, PATIENT_MS if patient else PROPAGATION_MS)
        _live.add(self)

    def _connect(self, config: Mapping[str, object], propagation_ms: int) -> cimpl.Producer:
        given: dict[str, Any] = {_PROPAGATION: _propagation_ms(config, propagation_ms), **config}
        given |= {"logger": self._log, "error_cb": self._note}
        if self._on_throttle is not None:
            given["throttle_cb"] = self._throttles.append
        if "oauth_cb" in config:
            given["oauth_cb"] = self._tokens = TokenSource(config)
            if self._tokens.failure is not None:
                raise Fault(Kind.DENIED, self._scrub(self._tokens.failure))
        if self._on_statistics is None:
            # They pile up unpolled and are counted by len(); so off unless somebody listens.
            given["statistics.interval.ms"] = 0
        else:
            given = {"statistics.interval.ms": 5000, **given, "stats_cb": self._statistics.append}
        try:
            # Looked up now: instrumentation replaces the class, maybe after our import. And the settings are never in a
            # variable: error trackers show those.
            handle = confluent_kafka.Producer(reveal(given))
        except (KafkaException, TypeError, ValueError) as error:
            raise self._translated(error, settings=True) from None  # the original may show a secret
        if type(handle) is not cimpl.Producer:
            _refuse_hollow(handle)
        return handle

    # -- transactions ----------------------------------------------------------------------------

    def init(self, seconds: float) -> None:
        """Get the producer id, one bounded try; after a time-out the same handle must be asked again."""
        self._call(methodcaller("init_transactions", seconds), seconds)
        self._initialised = True
        self._answered()

    def begin(self) -> None:
        """Begin; local, no request is sent."""
        # On an event loop nothing may be looked up.
        self._call(methodcaller("begin_transaction"), 0, settle=False)
        self.in_transaction, self._unheard, self._wrote = True, False, False

    def send_offsets(self, offsets: Any, group_metadata: Any, seconds: float) -> None:
        """Add a consumer group's offsets to the transaction."""
        if not isinstance(group_metadata, bytes) or not group_metadata.startswith(b"CGMD"):
            raise TypeError(unfit_metadata(group_metadata))
        try:
            self._call(methodcaller("send_offsets_to_transaction", offsets, group_metadata, seconds), seconds)
        except Fault as fault:
            if _code(fault) != KafkaError._BAD_MSG:  # noqa: SLF001  (librdkafka couldn't read the metadata)
                raise
            raise ValueError(f"{unfit_metadata(group_metadata)}: it is cut or made up") from fault
        self._wrote = True
        self._answered()

    def commit(self, seconds: float) -> None:
        """Commit, one bounded try; after a time-out only another commit may follow (all else answers _CONFLICT).

        Ctrl-C comes in place of the answer, since confluent-kafka looks for signals right after librdkafka's call. When
        the unheard answer was yes, the same call says _STATE: only a commit can have led out of the transaction.
        """
        try:
            self._call(methodcaller("commit_transaction", seconds), seconds)
        except Fault as fault:
            if not (self._unheard and self.in_transaction and _code(fault) == KafkaError._STATE):  # noqa: SLF001
                self._unheard |= isinstance(fault.__cause__, NestedCallError)  # it goes on all the same
                raise
        except BaseException:
            self._unheard = True
            raise
        self.in_transaction = False
        if self._wrote:  # else nothing was asked of a broker
            self._answered()

    def abort(self, seconds: float) -> None:
        """Abort, one bounded try."""
        self._call(methodcaller("abort_transaction", seconds), seconds)
        self.in_transaction = False

    def reason(self) -> Fault | None:
        """Why the open transaction can only abort, if it can; its purged records don't know it.

        librdkafka answers a begin with it, which has no effect within a transaction.
        """
        if self._handle is None or not self.in_transaction:
            return None
        try:
            self._handle.begin_transaction()
        except KafkaException as error:
            fault = self._fault_of(error.args[0])
            return fault if fault.requires_abort else None
        return None

    # -- records ---------------------------------------------------------------------------------

    def produce(self, delivery: Delivery, topic: str, **record: Any) -> None:
        """Enqueue one record; the delivery learns its fate."""
        handle = self._handle
        if handle is None:
            raise self._closed()
        if record.get("headers") is not None:
            record["headers"] = _encoded(record["headers"])  # a new list: instrumentation adds to it at every try
        try:
            handle.produce(topic, on_delivery=delivery._arrive, **record)  # noqa: SLF001  (its callback)
        except BufferError as error:
            del handle  # as in Calls.make
            raise Fault(Kind.QUEUE_FULL, "librdkafka's queue is full") from error
        except (KafkaException, RuntimeError) as error:
            del handle
            raise self._translated(error, of_record=True) from error
        self._wrote = True
        self.topics.sent(topic, delivery)

    def poll(self, seconds: float) -> None:
        """Serve callbacks; a fatal error, which surfaces here once as an exception, is kept in ``fault``."""
        self._serve(methodcaller("poll", seconds), seconds)

    def flush(self, seconds: float) -> None:
        """Send at once, whatever ``linger.ms`` says, and serve callbacks; ask the outbox for what is left."""
        self._serve(methodcaller("flush", seconds), seconds)

    def purge(self) -> None:
        """Give up on all that is queued or in flight."""
        self._serve(methodcaller("purge"), 0)

    def owes(self) -> int:
        """Messages, reports and events not yet served; not a count of messages."""
        return 0 if self._handle is None else len(self._handle)

    def probe(self, seconds: float) -> None:
        """Ask any broker for the cluster's id, the cheapest proof of a connection; one that is a second old will do.

        Who knows the id isn't asked again, and not every cluster has one: then for all topics. Not for a single one,
        since librdkafka would ask again for what doesn't exist in every second of its life.
        """
        deadline = Deadline(seconds)
        if time.monotonic() - self._proved < PROOF_FRESH:
            return
        try:
            if self._proved > 0:
                self._call(functools.partial(_ask_for, None, seconds=seconds), seconds)
            else:
                self._call(methodcaller("cluster_id", seconds), seconds)
        except (Fault, AttributeError):  # upstream calls the method experimental
            if deadline.left < BREATH:
                raise
            left = deadline.left
            self._call(functools.partial(_ask_for, None, seconds=left), left)
        self._proved = time.monotonic()
        self._answered()

    def ask(self, topic: str, seconds: float) -> bool:
        """Ask any broker for the topic's metadata, which librdkafka takes note of, too; whether an answer came."""
        ask = functools.partial(_ask_for, topic, seconds=seconds)
        self._asking.append(topic)  # before the handle is taken: see close
        try:
            handle = self._handle
            if handle is None:
                return False
            found = yielding(lambda: self._calls.make(ask, handle, seconds)).topics[topic]
        except (KafkaException, RuntimeError, KeyError):  # no broker, or closed meanwhile
            self._deaf = time.monotonic()
            return False
        finally:
            self._asking.pop()
        error = found.error
        if error is not None and error.code() in _UNKNOWN_TOPIC:
            self.topics.learn_missing(topic)
        else:
            self.topics.learn(topic, found.partitions, error.str() if error is not None else None)
        self._answered()
        return True

    def brokers(self, seconds: float) -> dict[str, str] | None:
        """Ask any broker which ones there are: addresses by id, or ``None`` without an answer.

        With all topics, as in :meth:`reach`. An answer ends no error: it says nothing of the broker that failed.
        """
        ask = functools.partial(_ask_for, None, seconds=seconds)
        self._asking.append("")  # as in ask
        try:
            handle = self._handle
            if handle is None:
                return None
            found = yielding(lambda: self._calls.make(ask, handle, seconds)).brokers
        except (KafkaException, RuntimeError):  # no broker, or closed meanwhile
            return None
        finally:
            self._asking.pop()
        return {str(each.id): f"{each.host}:{each.port}" for each in found.values()}

    def reach(self, deadline: Deadline) -> None:
        """Wait until a broker answers: whatever it says, it was there.

        All topics are asked for: a question for one that isn't known is the beginning of its time to appear, and one
        that was deleted would be made anew.
        """
        # A broker that is away answers nothing, however long it has; one that is far hears each question anew.
        seconds = ASK_SLICE if self.cut_off else ASK_SLICE_MAX / 2
        while not (self._handle is None or self.fault is not None or deadline.passed):
            patience = deadline.slice(seconds)
            try:
                self._call(functools.partial(_ask_for, None, seconds=patience), patience)
            except Fault:
                time.sleep(deadline.slice(BREATH))
                seconds = min(2 * seconds, ASK_SLICE_MAX)  # as for the poller's questions
            else:
                self._answered()
                return

    def renew(self, topic: str, partition: int, deadline: Deadline) -> bool:
        """Ask for a topic or partition that the client doesn't know; whether it is there now.

        librdkafka asks by itself only after minutes. Who tries a wrong one again and again asks once in a second.
        """
        if time.monotonic() - self._renewed.get(topic, -1.0) < 1:
            return False
        patience = Deadline(deadline.slice(RENEWAL_MAX))
        for pause in RENEWALS:
            time.sleep(patience.slice(pause))
            seconds = ASK_SLICE
            while not (self._handle is None or patience.passed or self.ask(topic, patience.slice(seconds))):
                time.sleep(patience.slice(BREATH))
                seconds *= 2  # each question is asked anew: a slow link's answer would never be heard
            answer = self.topics.answer_for(topic)
            if answer is not None and (answer.partitions or 0) > partition:
                return True
        self._renewed[topic] = time.monotonic()
        return False

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Destroy the handle; may block on slow DNS, so it is called on the pool's reaper thread.

        ``Producer.close`` aborts and flushes without limit (librdkafka's -1), so it is asked only when nothing is left
        to abort or flush. In doubt, after a fatal error or before init has ended, the handle is dropped instead; so it
        is while a broker is asked for a topic, since close would wait for the answer.
        """
        handle, self._handle = self._handle, None
        if handle is None:
            return
        settled = self.fault is None and len(handle) == 0 and not self._asking
        if settled and (self.transactional_id is None or (self._initialised and not self.in_transaction)):
            self._serve_on(methodcaller("close"), handle, CLOSING)
        self._siblings.gone(self)
        dropped = [handle]
        del handle
        yielding(dropped.clear)

    def pin(self) -> None:
        """After a fork, in the child: keep the handle for ever and never touch it."""
        self._forked = True
        handle, self._handle = self._handle, None
        if handle is not None:
            leave_to_parent(handle)

    # -- translation -------------------------------------------------------------------------------

    def _call(self, call: Callable[[cimpl.Producer], object], seconds: float, *, settle: bool = True) -> None:
        """A call of at most so many seconds whose error concerns the caller. Its callbacks are settled either way."""
        handle = self._open()
        try:
            yielding(lambda: self._calls.make(call, handle, seconds))  # noqa: F821  (it is deleted after that)
        except SystemError as error:
            _raise_interrupt(error)
            raise
        except NestedCallError as error:
            raise Fault(Kind.RETRIABLE, str(error)) from error
        except (KafkaException, RuntimeError, TypeError) as error:
            raise self._translated(error) from error
        finally:
            del handle  # as in Calls.make
            if settle:
                self._settle()

    def _serve(self, call: Callable[[cimpl.Producer], object], seconds: float) -> None:
        self._serve_on(call, self._open(), seconds)

    def _open(self) -> cimpl.Producer:
        handle = self._handle
        if handle is None:
            raise self._closed()
        return handle

    def _serve_on(self, call: Callable[[cimpl.Producer], object], handle: cimpl.Producer, seconds: float) -> None:
        """A call whose errors concern the client as a whole: they are kept, not raised."""
        try:
            if seconds > 0:
                yielding(lambda: self._calls.make(call, handle, seconds))  # noqa: F821  (as above)
            else:
                self._calls.make(call, handle, 0)
        except SystemError as error:
            _raise_interrupt(error)
            raise
        except NestedCallError:
            time.sleep(BREATH)  # whoever waits for something looks again until its deadline
        except (KafkaException, RuntimeError) as error:
            self._translated(error)
        finally:
            del handle  # as in Calls.make
            self._settle()

    def _settle(self) -> None:
        self.outbox.settle()
        while self._troubles:
            self.next_trouble()
        self._listen()
        self._tell_summary()
        while self._statistics and self._on_statistics is not None:
            self._on_statistics(self._statistics.popleft())
        while self._throttles and callable(self._on_throttle):
            guarded("throttle_cb", self._on_throttle, self._throttles.popleft())
        if self._log.lines:
            self._log.write()  # last, since a handler may take its time

    def _note(self, error: KafkaError) -> None:
        """Called by librdkafka: note what came, and where among the answers. As in ``Delivery._arrive``."""
        try:
            self._troubles.append(error)
            self.outbox.arrived.append((None, None, None))
        except SystemError:
            return

    def next_trouble(self) -> None:
        """Take up the error that was noted first; called in its turn, so that an earlier success doesn't end it."""
        self._listen()
        with suppress(IndexError):  # another thread settles, too
            self._trouble(self._troubles.popleft())

    def _listen(self) -> None:
        if self.outbox.heard:
            self.outbox.heard, self._summary = False, None
            self._answered()

    def _answered(self) -> None:
        """A broker did what it was asked for: what went wrong before is over, for siblings that are idle, too."""
        self.cut_off, self._heard, self._unmet = False, time.monotonic(), None
        self._last.end()
        self._siblings.well(self)

    def sibling_answered(self) -> bool:
        """The cluster is there; but who waits for an answer may wait for another broker than the one that gave it."""
        if self.in_transaction or not self._idle():
            return False
        self.cut_off = False
        if self.fault is None:
            self._summary = None
            self._last.end(lasting=False)
        return True

    @property
    def silent(self) -> bool:
        """Whether nothing was heard of any broker for a while, be it that nothing was asked."""
        return time.monotonic() - self._heard > SILENCE

    @property
    def last_error(self) -> str | None:
        """What went wrong last, unless it is over or long ago."""
        return self._last.now

    def last_error_since(self, started: float) -> str | None:
        """The same, or what went wrong since then, whatever else succeeded; or that there never was an answer."""
        return self._last.since(started) or (self._unmet if self.silent else None)

    def _idle(self) -> bool:
        return self._initialised and not any(ledger.pending for ledger in tuple(self.outbox.ledgers))

    def _trouble(self, error: KafkaError) -> None:
        fault = self._no_new_token(error) or self._fault_of(error)
        summary = error.code() == KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001
        self.cut_off = self.cut_off or summary
        if summary and self.last_error is None:
            # Mostly a broker that closed a connection which nobody used. If there is a cause, the next try brings it.
            self._summary = self._summary or (fault, time.monotonic())
            self._siblings.troubled(self)
            return
        self._summary = None
        self._tell(fault, 0 if summary else LASTING if error.code() in _DENIED else 1)

    def _tell_summary(self) -> None:
        """Tell of brokers that are down without a cause, if records still have no answer after a while."""
        held = self._summary
        if held is not None and time.monotonic() - held[1] > CAUSE_AFTER:
            self._summary = None
            if not self._idle():
                self._tell(held[0], 0)

    def _tell(self, fault: Fault, weight: int) -> None:
        self._note_trouble(fault, weight)
        if fault.kind is Kind.DENIED and self.fault is None:
            self.fault = fault  # librdkafka itself would go on trying for ever
        if self._on_trouble is not None:
            self._on_trouble(fault)

    def _no_new_token(self, error: KafkaError) -> Fault | None:
        """What ``oauth_cb`` failed with, if this is about it: the token at hand serves on, and it is asked again."""
        if self._tokens is None or self._tokens.failure is None or "OAuth callback raised exception" not in error.str():
            return None
        return Fault(Kind.RETRIABLE, self._scrub(self._tokens.failure))

    def _translated(self, error: BaseException, *, settings: bool = False, of_record: bool = False) -> Fault:
        fault = self._fault_of(error.args[0] if error.args else error, settings=settings)
        fault.__cause__ = error
        if (fault.kind in (Kind.FENCED, Kind.FATAL) or _is_fatal(error)) and self.fault is None:
            self.fault = fault
        if of_record:  # it explains nothing that happens to other records
            if _code(fault) in _OUTDATED:
                fault.kind = Kind.OUTDATED
            return fault
        # A call's own failure is the last resort: "Connection refused" says more than "Broker transport failure".
        if fault.kind is not Kind.RETRIABLE and not settings:
            self._note_trouble(fault, 0 if fault.kind is Kind.OTHER else LASTING if fault.fatal else 1)
        return fault

    def _note_trouble(self, fault: Fault, weight: int) -> None:
        self._last.note(str(fault), weight)
        self._siblings.troubled(self)

    def _fault_of(self, error: object, *, settings: bool = False) -> Fault:
        if not isinstance(error, KafkaError):
            return Fault(Kind.SETTINGS if settings else Kind.OTHER, self._scrub(str(error)))
        kind = Kind.SETTINGS if settings else self._kind(error)
        right = _MISSING_RIGHT.get(error.code())
        text = f"{error.str()} [{error.name()}]"
        text = self._scrub(f"{text}; missing right: {right}" if right else text) + _foreign(text)
        expired = error.code() == KafkaError.INVALID_PRODUCER_ID_MAPPING
        if expired:
            text += f"; {_EXPIRED}"
        return Fault(kind, text, requires_abort=error.txn_requires_abort(), expired=expired)

    def _kind(self, error: KafkaError) -> Kind:
        code = error.code()
        if code in _REBALANCED:
            return Kind.REBALANCED
        if code in _DENIED:
            return Kind.DENIED
        if code in _FENCED and (error.fatal() or code != KafkaError.INVALID_PRODUCER_EPOCH):
            return Kind.FENCED
        if error.fatal() or code == KafkaError._FATAL or self.fault is not None:  # noqa: SLF001
            # After a fatal error abort and commit answer _CONFLICT, "retriable", for ever: never loop on it.
            return self.fault.kind if self.fault is not None and self.fault.fatal else Kind.FATAL
        if error.txn_requires_abort():
            return Kind.ABORTABLE
        return Kind.RETRIABLE if error.retriable() or code == KafkaError._TIMED_OUT else Kind.OTHER  # noqa: SLF001

    def verdict(self, error: Any, topic: str) -> tuple[DeliveryOutcome, BaseException]:
        """What a delivery report's error means for the record."""
        text = f"{self._scrub(error.str())} [{error.name()}]"
        if error.code() in _PURGED:
            return "purged", DeliveryError(f"a record for {topic!r} was given up before the broker answered: {text}")
        if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return "failed", AuthorizationError(f"no right to write to {topic!r} (Write on the topic): {text}")
        hint = self._explained(error.code(), topic)
        if error.code() > 0 and error.code() not in _UNKNOWN_TOPIC:
            # librdkafka has counted the sequence number of a record that the broker refused, and the broker hasn't: the
            # next transaction would fail with OUT_OF_ORDER_SEQUENCE_NUMBER, whatever it sends (seen in 2.16.0).
            self.out_of_step = True
        return "failed", DeliveryError(f"a record for {topic!r} wasn't delivered: {text}{hint}")

    def _explained(self, code: int, topic: str) -> str:
        """What the brokers say of the topic of a record that failed."""
        if code in _UNKNOWN_TOPIC:
            self.topics.doubt(topic)
            self.topics.learn_missing(topic)
            return "; does the topic exist?"
        if code == KafkaError._UNKNOWN_PARTITION:  # noqa: SLF001
            self.topics.doubt(topic)
            self._look_up(topic)
            return self.topics.place(topic)
        if code == KafkaError._DESTROY:  # noqa: SLF001  (it waited for a partition that went away with its topic)
            self.topics.doubt(topic)
            self._look_up(topic)
            return self.topics.hint(topic)
        if code == KafkaError._MSG_TIMED_OUT:  # noqa: SLF001
            if self.last_error is None:
                self._look_up(topic)
            return f"{self.topics.hint(topic)}{last_error(self.last_error)}"
        return ""

    def _look_up(self, topic: str) -> None:
        """Ask for the topic, at most once in a second: hundreds of records may have failed with this one."""
        now = time.monotonic()
        if min(now - self._looked_up.get(topic, -1.0), now - self._deaf) >= 1:
            self.ask(topic, ASK_SLICE)
            self._looked_up[topic] = time.monotonic()

    def _scrub(self, text: str) -> str:
        return _scrubbed(text, self._secrets)

    def _closed(self) -> Exception:
        if self._forked:
            return ForkedPoolError("this producer was made before a fork; the child must ask the pool for another one")
        return Fault(Kind.CLOSED, "the producer is closed")


def dispose(
    client: Client, deadline: Deadline, abort_seconds: float, *, given_up: Callable[[int], object] | None = None
) -> int:
    """End a client for good, whatever state it is in; how many records were given up.

    In this order: abort what is open, flush until the deadline, purge, serve what that brings, close. After a doubtful
    commit only the drop is left (all else answers _CONFLICT), and after a fatal error or a failed abort nothing would
    come of a flush.
    """
    with suppress(Fault):
        if client.in_transaction and not client.doubtful and client.fault is None:
            client.abort(deadline.slice(abort_seconds))
    with suppress(Fault):
        _flush(client, deadline)
    lost = len(client.outbox.unsettled())
    if given_up is not None:
        given_up(lost)  # before the close, which may block for longer than anybody waits
    if lost or client.owes():
        with suppress(Fault):
            _purge(client)
    client.close()
    client.outbox.give_up(DeliveryError("the producer was closed before the broker had answered"))
    return lost


def _flush(client: Client, deadline: Deadline) -> None:
    """Flush until all is answered or nothing more comes: Ctrl-C inside of a callback costs its record the report."""
    patience = None
    while client.outbox.unsettled() and not (client.in_transaction or client.fault or deadline.passed):
        client.flush(deadline.slice(SLICE))
        if client.owes():
            patience = None
            continue
        patience = patience or Deadline(PURGE_PATIENCE)  # another thread may be about to note a report
        if patience.passed:
            return
        time.sleep(BREATH)


def _purge(client: Client) -> None:
    client.purge()
    patience = Deadline(PURGE_PATIENCE)
    while client.owes() and not patience.passed:
        client.poll(0.01)


def checked_offsets(offsets: Any) -> list[TopicPartition]:
    """Return a consumer group's offsets as librdkafka takes them.

    It would skip a partition without an offset, and find nothing to do in an empty list, without a word.

    Raises:
        TypeError, ValueError: Names what is wrong.
    """
    if isinstance(offsets, (str, bytes)) or not isinstance(offsets, Iterable):
        raise TypeError(f"offsets are a list of confluent_kafka.TopicPartition, not {type(offsets).__name__}")
    given = list(offsets)
    if not given:
        raise ValueError("offsets are empty: send those of the batch, the last read + 1 for each partition")
    for each in given:
        if not isinstance(each, TopicPartition):
            raise TypeError(f"offsets are a list of confluent_kafka.TopicPartition, not of {type(each).__name__}")
        if not each.topic or each.partition < 0:
            raise ValueError(f"offsets name a topic and a partition, not {each.topic!r} and {each.partition}")
        if each.offset < 0:
            raise ValueError(
                f"the offset of {each.topic}[{each.partition}] is {each.offset}, which isn't one: send the last read "
                "+ 1, and leave out a partition of which nothing was read"
            )
    return given


def unfit_metadata(given: object) -> str:
    """Say what should have been given as the group's metadata."""
    return f"group_metadata is what consumer.consumer_group_metadata() returns, not {type(given).__name__}"


def _encoded(headers: list[tuple[str, HeaderValue]]) -> list[tuple[str, bytes | None]]:
    """Encode header values: as text, confluent-kafka would cut them at their first NUL."""
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers]


def check(pool: str, config: Mapping[str, object]) -> None:
    """Let librdkafka judge settings without connecting: a handle without brokers, gone at once.

    Always one of confluent-kafka's own, whatever replaces the class: it sends nothing that could be traced, and a
    stand-in would judge nothing.

    Raises:
        SettingsError: A property is unknown, has a bad value, or contradicts another.
    """
    alone = {key: value for key, value in config.items() if key not in _CHECK_DROPS and not callable(value)}
    said = ConsumerSettings()
    try:
        cimpl.Producer(reveal({**alone, "log_level": 4, "logger": said})).poll(0)  # as in _connect
    except (KafkaException, TypeError, ValueError) as error:
        reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        if unknown := re.fullmatch(r'No such configuration property: "(.*)"', reason, re.DOTALL):
            from wd_di.settings import near_setting  # noqa: PLC0415  (as below)

            reason += near_setting(unknown[1])
        raise SettingsError(
            f"{pool}: librdkafka refuses the kafka settings: {_scrubbed(reason, _secrets(config))}"
        ) from None
    if said.names:
        from wd_di.settings import SettingsWarning  # noqa: PLC0415  (loaded by whoever has settings; it costs pydantic)

        text = f"{pool}: a producer ignores {', '.join(said.names)}, which belongs to consumers: leave it out"
        warnings.warn(text, SettingsWarning, stacklevel=4)  # check, _checked_plan, __init__, who made the pool


def _refuse_hollow(handle: cimpl.Producer) -> None:
    """Raise for a stand-in that inherits all of a producer's methods, passes on some, and has no client for the others.

    OpenTelemetry's ``ProxiedProducer`` is one; the class that its instrumentor's ``instrument()`` puts in place isn't.
    """
    try:
        handle.begin_transaction()  # before init it does nothing, and answers with an error of librdkafka's
    except KafkaException:
        return
    except RuntimeError as error:
        raise Fault(
            Kind.SETTINGS,
            f"confluent_kafka.Producer gave a {type(handle).__qualname__}, whose transactions reach no client "
            f"({error}): replace the class by a subclass that is a producer itself",
        ) from error


def _raise_interrupt(error: SystemError) -> None:
    """Raise what a call without a result and without an exception means on the main thread: Ctrl-C in a callback.

    confluent-kafka keeps a callback's exception only if it has a value, and KeyboardInterrupt has none on Python 3.11.
    """
    if threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt from error


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    try:
        return float(config.get(key, default))
    except (TypeError, ValueError):  # librdkafka will refuse it, and say why
        return default


def _propagation_ms(config: Mapping[str, object], at_most: int = PROPAGATION_MS) -> int:
    """At most half of what a record has: it should fail for its topic, and not for its age."""
    ours: Any = config.get("default.topic.config", {})  # it goes over all else
    timeout = _number(config, "message.timeout.ms", _number(config, "transaction.timeout.ms", 2 * at_most))
    timeout = _number(ours, "message.timeout.ms", timeout)
    return min(at_most, int(timeout / 2)) if timeout else at_most  # 0 is without end


def _ask_for(topic: str | None, handle: cimpl.Producer, seconds: float) -> Any:
    """Ask for one topic, or for all."""
    return handle.list_topics(timeout=seconds) if topic is None else handle.list_topics(topic, timeout=seconds)


def without_frames(error: BaseException) -> BaseException:
    """Return the error; where it and its causes came from is our business, and would be most of a traceback."""
    each: BaseException | None = error
    while isinstance(each, Fault | PoolOpenError | KafkaException):
        each = each.with_traceback(None).__cause__
    return error


def addresses(*configs: Mapping[str, object]) -> str:
    """Return where the brokers of these settings are; nothing, if they are mocks."""
    return " and ".join(filter(None, dict.fromkeys(str(each.get("bootstrap.servers", "")) for each in configs)))


def unanswered(*configs: Mapping[str, object]) -> str:
    """Say what can be said without an error: nobody accepts connections, or somebody does and says nothing."""
    where = addresses(*configs)
    protocols = dict.fromkeys(str(each.get("security.protocol", "plaintext")) for each in configs)
    at = f" at {where}" if where else ""
    return f"no broker has answered yet{at}: is it Kafka, and does it speak {' and '.join(protocols)}?"


def _foreign(text: str) -> str:
    """Say who answers, if librdkafka has taken the first four bytes of its answer for a size."""
    size = re.search(r"Invalid response size (-?\d+)", text)
    if size is None:
        return ""
    start = (int(size[1]) % 2**32).to_bytes(4, "big")
    begins = f", but something whose answer begins with {start.decode()!r}" if start.isascii() else ""
    return f"; that isn't Kafka{begins}"


def _is_fatal(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and bool(error.args[0].fatal())


def _code(fault: Fault) -> int | None:
    error = fault.__cause__
    return error.args[0].code() if isinstance(error, KafkaException) else None


def reveal(config: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings with their secrets in the open: only for librdkafka's eyes."""
    return {key: revealed(value) for key, value in config.items()}


def _scrubbed(text: str, secrets: tuple[str, ...]) -> str:
    return functools.reduce(lambda left, secret: left.replace(secret, "***"), secrets, text)


def _secrets(config: Mapping[str, object]) -> tuple[str, ...]:
    hidden = (value.get_secret_value() for value in config.values() if hasattr(value, "get_secret_value"))
    return tuple(sorted((secret for secret in hidden if secret), key=len, reverse=True))  # one may begin another


_live: weakref.WeakSet[KafkaClient] = weakref.WeakSet()


def pin_all() -> None:
    """Give up every live client of this process without touching it: in a forked child, and at interpreter exit."""
    for client in tuple(_live):
        client.pin()
    _live.clear()


renew_in_child("clients", pin_all)
