"""What became of one record: from ``produce`` to the broker's answer."""

from __future__ import annotations

import copy
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, NoReturn, Protocol, cast

from wd_di._concurrency.caller import refuse_outside_of_a_task
from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.uninterrupted import uninterrupted
from wd_di._concurrency.waiters import Batches, TaskWaiter, ThreadWaiter
from wd_di._concurrency.workers import Workers
from wd_di._forks import renew_in_child
from wd_di._kafka.interrupts import hold
from wd_di._kafka.topics import Topics
from wd_di._kafka.troubles import last_error
from wd_di.errors import DeliveryError, DeliveryTimeoutError, ForkedPoolError
from wd_di.events import MessageAcknowledged, log_error

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator, Iterable, Sequence

    from wd_di._kafka.port import Noted
    from wd_di.events import Event

DeliveryOutcome = Literal["pending", "delivered", "failed", "purged", "aborted"]

_registering = threading.RLock()
"""Guards the rare first waiter of a delivery; one for all of them, since a lock in each would double their size.

Re-entrant, for the garbage collector may end an abandoned transaction on the thread that holds it.
"""


def _renew_lock() -> None:
    global _registering  # noqa: PLW0603  (another thread may have held it at the fork)
    _registering = threading.RLock()


renew_in_child("deliveries", _renew_lock)


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """Where the broker stored a record.

    Attributes:
        topic: The topic.
        partition: The partition the record went to.
        offset: Its offset there; ``None`` if the broker didn't say (``acks=0``).
        timestamp_ms: Its timestamp, in milliseconds since the epoch.
        latency_ms: From ``produce`` to the broker's answer, in milliseconds.
    """

    topic: str
    partition: int
    offset: int | None
    timestamp_ms: int | None
    latency_ms: float | None


Place = tuple[int | None, int | None, tuple[int, int], float | None]
"""Partition, offset, kind and value of the timestamp, seconds: all that is kept of an acknowledgement.

confluent-kafka's own holds key, value and headers, too.
"""


def report_of(topic: str, place: Place) -> DeliveryReport:
    """Put in public words where a record was stored."""
    partition, offset, (kind, timestamp), latency = place
    return DeliveryReport(
        topic=topic,
        partition=partition or 0,
        offset=None if offset is None or offset < 0 else offset,
        timestamp_ms=timestamp if kind else None,
        latency_ms=None if latency is None else latency * 1000,
    )


class Stores(Protocol):
    """Where it is noted that a record was stored."""

    stored: bool


_NONE_STORED: dict[str, Place] = {}
"""Of a ledger that is asked for none."""


class Way(Protocol):
    """What a record went by: what its delivery asks while it has no answer."""

    pool: str
    noted: deque[Noted]
    heard: Container[type[Event]]
    callbacks: Workers
    forked: bool

    @property
    def attended(self) -> bool: ...
    @property
    def in_flight(self) -> Stores: ...
    @property
    def topics(self) -> Topics: ...
    def nudge(self) -> None: ...
    def last_error_since(self, started: float) -> str | None: ...
    def forget(self, ledger: Ledger) -> None: ...


class Ledger:
    """What one checkout or one transaction has sent, and how it fared."""

    __slots__ = (
        "aborted",
        "ended",
        "failed",
        "pending",
        "records",
        "stored",
        "timeout_ms",
        "transactional",
        "way",
    )

    def __init__(self, way: Way, timeout_ms: int, *, transactional: bool = False) -> None:
        self.way: Way = way
        self.timeout_ms: int = timeout_ms
        self.transactional: bool = transactional
        self.pending: set[Delivery] = set()
        self.failed: dict[Delivery, None] | None = None  # which most never need
        self.stored: dict[str, Place] = {} if transactional else _NONE_STORED  # the last record of each topic
        self.records: int = 0
        self.aborted: bool = False
        self.ended: bool = False

    def note_failed(self, delivery: Delivery) -> None:
        """Its borrower is to be told."""
        if self.failed is None:
            with _registering:
                self.failed = self.failed or {}
        self.failed[delivery] = None

    def forget(self, told: Iterable[Delivery]) -> None:
        """Its borrower knows of these failures, or has been told that they may come; a transaction still aborts."""
        if not self.transactional:
            for delivery in told:
                delivery.note_told()  # first: whoever decides looks at it last
                if self.failed is not None:
                    self.failed.pop(delivery, None)


DECIDED: Final = "decided"
"""What is noted in place of an acknowledgement that was taken in already."""


class _Failed(NamedTuple):
    """The answer no."""

    outcome: Literal["failed", "purged"]
    error: BaseException


class _Watch:
    """Who wants to know what becomes of a record, and whether its borrower has been told that it may fail."""

    __slots__ = ("callbacks", "told", "waiters")

    def __init__(self) -> None:
        self.waiters: list[ThreadWaiter | TaskWaiter] = []
        self.callbacks: list[Callable[[Delivery], object]] | None = None
        self.told: bool = False


class Delivery:
    """The fate of one record: a small future that any thread can wait for.

    In a transaction a delivered record is still hidden from ``read_committed`` readers until the commit; when the
    transaction aborts, its deliveries report ``aborted``, also those that the broker had stored already.

    A copy is the delivery itself. Pickled it is a picture of that moment: what had no answer then stays ``pending``,
    and asked for its result raises ``DeliveryTimeoutError`` at once.
    """

    # There may be a million of them: each place more costs 30 ns a record, mostly for the collector.
    __slots__ = ("_answer", "_ledger", "_watch", "topic")

    def __init__(self, topic: str, ledger: Ledger) -> None:
        self.topic: str = topic
        self._ledger = ledger
        self._answer: Place | DeliveryReport | _Failed | None = None
        self._watch: _Watch | None = None

    @property
    def outcome(self) -> DeliveryOutcome:
        """``pending``, ``delivered``, ``failed``, ``purged`` (given up), ``aborted`` with its transaction."""
        if self._answer is not None and self._ledger.aborted:
            return "aborted"
        return self._told_by_broker

    @property
    def _told_by_broker(self) -> DeliveryOutcome:
        answer = self._answer
        if isinstance(answer, _Failed):
            return answer.outcome
        return "pending" if answer is None else "delivered"

    def done(self) -> bool:
        """Whether the fate is decided."""
        return self._answer is not None

    def result(self, timeout_ms: int | None = None) -> DeliveryReport:
        """Wait for the broker's answer.

        Args:
            timeout_ms: Milliseconds to wait; ``None`` is the pool's ``produce_timeout_ms``, 0 doesn't wait.

        Raises:
            DeliveryTimeoutError: No answer yet. The record may still be delivered.
            DeliveryError: It wasn't delivered, or was aborted with its transaction.
            AuthorizationError: The broker denies the topic.
        """
        if self.outcome == "delivered":
            return self._report()
        error = self.exception(timeout_ms)
        if error is not None:
            self.keep_another()
            raise error
        return self._report()

    def exception(self, timeout_ms: int | None = None) -> BaseException | None:
        """Wait as :meth:`result` does, and return the error instead of raising it; ``None`` if delivered.

        A failure that was told, here or to a callback, isn't told again by ``flush``; a transaction aborts all the
        same.

        Raises:
            DeliveryTimeoutError: No answer yet. The record may still be delivered.
        """
        if self._answer is None:
            deadline = Deadline.of_ms(timeout_ms, self._ledger.timeout_ms)
            self.decided_by(deadline)
            if self._answer is None:
                raise self._late(deadline)
        error = self.failure
        if error is None:
            if self._ledger.aborted:
                return DeliveryError(f"{self._ledger.way.pool}: a record for {self.topic!r} was aborted", [self])
            return None
        self._ledger.forget([self])
        if _leads_to(sys.exception(), error):
            self.keep_another()
            error = self.failure
        if isinstance(error, DeliveryError):
            error.failed = (self,)
        return error

    def __await__(self) -> Generator[Any, None, DeliveryReport]:
        return self._awaited().__await__()

    async def decided(self, deadline: Deadline, among: Sequence[Delivery] = ()) -> None:
        """Wait without blocking the loop until the fate is decided, the deadline has passed, or it is in vain.

        Args:
            deadline: How long.
            among: The records of the same call: it is in vain if it is for one of them.

        :meta private:
        """
        way = self._ledger.way
        if way.forked:
            raise self._inherited()
        topics, looked = way.topics, way.attended  # by a poller of its own: the pool's is to ask brokers only
        while not (self.done() or deadline.passed or topics.all_in_vain(among or (self,), deadline)):
            waiter = TaskWaiter()
            self.watch(waiter)
            try:
                if not self.done():
                    seconds = topics.patience(self.topic, deadline)
                    if not looked:
                        way.nudge()
                    looked = False
                    await waiter.wait(seconds)
            finally:
                self.unwatch(waiter)

    async def _awaited(self) -> DeliveryReport:
        refuse_outside_of_a_task(self._ledger.way.pool)
        deadline = Deadline(self._ledger.timeout_ms / 1000)
        await self.decided(deadline)
        if self._answer is None:
            raise self._late(deadline)
        return self.result(0)

    def add_done_callback(self, fn: Callable[[Delivery], object]) -> None:
        """Call ``fn(delivery)`` on a worker thread once the fate is decided; what it raises is logged.

        Raises:
            TypeError: It can't be called, or only awaited.
        """
        if not callable(fn) or iscoroutinefunction(fn):
            raise TypeError(f"a done callback is a plain function of one argument (it is never awaited), not {fn!r}")
        if self._ledger.way.forked and not self.done():
            raise self._inherited()
        with _registering:
            watch = self._watched()
            watch.callbacks = [*(watch.callbacks or ()), fn]
        if self.done():
            self._run_callbacks()

    def keep_another(self) -> None:
        """Let go of the error, which is about to be raised or to be a cause, and keep its like.

        Kept, it would keep the frames of whoever was told, with their records; and told again while what came from it
        is handled, it would come from itself.

        :meta private:
        """
        if isinstance(self._answer, _Failed):
            self._answer = self._answer._replace(error=another(self._answer.error))

    def _late(self, deadline: Deadline) -> DeliveryTimeoutError:
        way = self._ledger.way
        return DeliveryTimeoutError(
            f"{way.pool}: {waited(deadline)}no answer for a record to {self.topic!r} in time; it may still be delivered"
            f"{way.topics.hint(self.topic)}{last_error(way.last_error_since(deadline.started))}"
        )

    def _inherited(self) -> ForkedPoolError:
        way = self._ledger.way
        return ForkedPoolError(
            f"{way.pool}: a record for {self.topic!r} was sent before a fork: its answer comes to the parent"
        )

    def _report(self) -> DeliveryReport:
        answer: Any = self._answer  # decided, and no error
        report: DeliveryReport = answer if isinstance(answer, DeliveryReport) else report_of(self.topic, answer)
        self._answer = report
        return report

    def decided_by(self, deadline: Deadline, among: Sequence[Delivery] = ()) -> None:
        """Block until the fate is decided or there is no use in waiting; :meth:`decided` for threads.

        :meta private:
        """
        waiter, way = ThreadWaiter(), self._ledger.way
        if way.forked:
            raise self._inherited()
        topics = way.topics
        self.watch(waiter)
        while not (self.done() or deadline.passed or topics.all_in_vain(among or (self,), deadline)):
            seconds = topics.patience(self.topic, deadline)
            way.nudge()
            waiter.wait(seconds)
        self.unwatch(waiter)

    def watch(self, waiter: ThreadWaiter | TaskWaiter) -> None:
        """Note who waits; ask :meth:`done` only afterwards.

        Whoever settles does it the other way round, so one of the two sees the other.

        :meta private:
        """
        with _registering:
            self._watched().waiters.append(waiter)

    def _watched(self) -> _Watch:
        if self._watch is None:
            self._watch = _Watch()
        return self._watch

    def unwatch(self, waiter: ThreadWaiter | TaskWaiter) -> None:
        """Who has given up no longer watches.

        :meta private:
        """
        if not self.done():
            with _registering, suppress(ValueError):  # settled meanwhile
                self._watched().waiters.remove(waiter)

    # -- for whoever sends and serves it -----------------------------------------------------------

    @uninterrupted
    def __call__(self, error: object, acknowledgement: Any) -> None:
        """Called by librdkafka: decide here what nobody has to be told of, and note the rest.

        A bound method would be one more object for each record. Each call of C may raise what a signal's handler has,
        or what librdkafka has pending. So what was begun here is noted then, too; to decide it twice does no harm.

        :meta private:
        """
        ledger = self._ledger
        way = ledger.way
        try:
            if error is None and MessageAcknowledged not in way.heard:
                ack = acknowledgement
                place = (ack.partition(), ack.offset(), ack.timestamp(), ack.latency())
                if ledger.transactional:
                    ledger.stored[self.topic] = place
                way.in_flight.stored = True
                self._answer = place
                ledger.pending.discard(self)
                # Only now, as whoever begins to wait asks for the answer last; and so does who ends the ledger.
                if self._watch is None and (ledger.pending or not ledger.ended):
                    return
                acknowledgement = DECIDED
                if self._watch is not None:  # a thread needn't wait for the answers of others
                    for waiter in self._watch.waiters:
                        waiter.wake_in_call()
        except BaseException as raised:  # noqa: BLE001  (it goes on when the call has ended)
            hold(raised)
        try:
            way.noted.append((self, error, acknowledgement))
        except BaseException as raised:  # noqa: BLE001  (as above; it has worked)
            hold(raised)

    def tell(self, batches: Batches) -> None:
        """Tell who waits of what was decided inside of a call.

        :meta private:
        """
        if self._answer is not None:  # else a signal's exception came first, and the answer follows
            self._decide(self._answer, batches)

    def decide(self, place: Place, batches: Batches) -> None:
        """Take the answer yes, and wake who waits for it: tasks with the others of their loop.

        :meta private:
        """
        if self._ledger.transactional:
            self._ledger.stored[self.topic] = place
        self._decide(place, batches)

    def decide_failed(self, outcome: Literal["failed", "purged"], error: BaseException, batches: Batches) -> bool:
        """Take the answer no; whether nobody will hear of it.

        :meta private:
        """
        ledger = self._ledger
        if ledger.transactional or not ledger.ended:  # else nobody will ask the ledger any more
            ledger.note_failed(self)
            if self._watch is not None and self._watch.told:  # only now: see Ledger.forget
                ledger.forget([self])
        watch = self._watch
        watched = watch is not None and bool(watch.waiters or watch.callbacks)
        self._decide(_Failed(outcome, error), batches)
        return ledger.ended and not ledger.transactional and not watched

    def _decide(self, answer: Place | DeliveryReport | _Failed, batches: Batches) -> None:
        self._answer = answer
        ledger = self._ledger
        ledger.pending.discard(self)
        watch = self._watch
        if watch is not None:
            with _registering:
                waiters, watch.waiters = watch.waiters, []
            for waiter in waiters:
                waiter.wake_later(batches)
        if ledger.ended and not ledger.pending:
            ledger.way.forget(ledger)
        if watch is not None and watch.callbacks:
            self._run_callbacks()

    def note_told(self) -> None:
        """Its borrower knows that it has failed, or may.

        :meta private:
        """
        with _registering:
            self._watched().told = True

    @property
    def failure(self) -> BaseException | None:
        """Its error, if it has one by now; asked so, it doesn't count as told.

        :meta private:
        """
        return self._answer.error if isinstance(self._answer, _Failed) else None

    def _run_callbacks(self) -> None:
        """Hand the callbacks to a worker, each once."""
        with _registering:
            watch = self._watched()
            callbacks, watch.callbacks = watch.callbacks, None
        for fn in callbacks or ():
            self._ledger.way.callbacks.submit(partial(self._call, fn))

    def _call(self, fn: Callable[[Delivery], object]) -> None:
        if self.failure is not None:
            self._ledger.forget([self])
        try:
            fn(self)
        except BaseException as error:  # noqa: BLE001  (a user's callback must not end the worker, nor by sys.exit)
            pool = self._ledger.way.pool
            log_error(f"{pool}.callback", f"{pool}: a delivery callback raised", error)

    def __copy__(self) -> Delivery:
        return self

    def __deepcopy__(self, memo: object) -> Delivery:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        answer = self._report() if self._told_by_broker == "delivered" else self._answer
        # As the state, not as arguments: the error may list this very delivery.
        return _picture, (self.topic, self._ledger.way.pool), (answer, self._ledger.aborted)

    def __setstate__(self, state: tuple[DeliveryReport | _Failed | None, bool]) -> None:
        self._answer, self._ledger.aborted = state

    def __repr__(self) -> str:
        return f"<Delivery to {self.topic!r}: {self.outcome}>"


def waited(deadline: Deadline) -> str:
    """Return for how long somebody has waited, for the beginning of a message."""
    return f"after {deadline.seconds:.3g} s " if deadline.seconds else ""


def caused_by(failed: Delivery, error: DeliveryError) -> DeliveryError:
    """Return the error as one that comes from a record's, which is told as another one from then on."""
    error.__cause__ = failed.exception(0)
    failed.keep_another()
    return error


def another(error: BaseException) -> BaseException:
    """Return its like, which has been raised nowhere; itself if its class won't be copied."""
    try:
        like = copy.copy(error)
        if hasattr(error, "__notes__"):
            like.__notes__ = [*error.__notes__]
    except Exception:  # noqa: BLE001  (a user's class)
        return error
    return like if isinstance(like, BaseException) else error


def _leads_to(handled: BaseException | None, error: BaseException) -> bool:
    """Whether what is being handled came from the error, so that raised now this would come from itself.

    One error may be that of several records, as in a fake, and have been raised for another one.
    """
    seen: set[int] = set()
    todo = [handled]
    while todo:
        each = todo.pop()
        if each is error:
            return True
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            todo += (each.__cause__, each.__context__)
    return False


class _Elsewhere:
    """The way of a record whose answer comes to another process."""

    def __init__(self, pool: str, topic: str) -> None:
        self.pool: str = pool
        self.topics: Topics = Topics()
        self.noted: deque[Noted] = deque()
        self.heard: Container[type[Event]] = ()
        self.in_flight: Stores = cast("Stores", None)  # nothing is ever stored by it
        self.callbacks: Workers = _workers
        self.forked: bool = False
        self.attended: bool = False
        self._topic = topic

    def nudge(self) -> None:
        """Refuse to wait."""
        self.last_error_since(0)

    def last_error_since(self, started: float) -> NoReturn:  # noqa: ARG002  (as the real way has it)
        """Refuse to say why there is no answer."""
        raise DeliveryTimeoutError(
            f"{self.pool}: this record to {self._topic!r} had no answer when its Delivery was pickled, and the answer "
            "comes where the record was sent; it may still be delivered"
        )

    def forget(self, ledger: Ledger) -> None:
        """It was never taken on."""


def _picture(topic: str, pool: str) -> Delivery:
    """Return what stands for a delivery in a process to which its answer won't come."""
    return Delivery(topic, Ledger(_Elsewhere(pool, topic), 0))


_workers = Workers("wd_di-deliveries", 1)
"""Run the callbacks of unpickled deliveries."""
