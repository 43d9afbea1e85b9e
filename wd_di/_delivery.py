"""What became of one record: from ``produce`` to the broker's answer."""

from __future__ import annotations

import copy
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from wd_di._forks import renew_in_child
from wd_di._loop import Batches, TaskWaiter, refuse_outside_of_a_task, wake_all
from wd_di._threads import Deadline, ThreadWaiter, Workers
from wd_di._topics import Topics
from wd_di._troubles import last_error
from wd_di.errors import DeliveryError, DeliveryTimeoutError
from wd_di.events import MessageAcknowledged, MessageFailed, MessagePurged, Observer, log_error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

DeliveryOutcome = Literal["pending", "delivered", "failed", "purged", "aborted"]
HeaderValue = str | bytes | None

_registering = threading.RLock()
"""Guards the rare first waiter of a delivery; one for all of them, since a lock in each would double their size.

Re-entrant, for the garbage collector may end an abandoned transaction on the thread that holds it.
"""


def _renew_lock() -> None:
    global _registering  # noqa: PLW0603  (another thread may have held it at the fork)
    _registering = threading.RLock()


renew_in_child("deliveries", _renew_lock)


class Acknowledgement(Protocol):
    """What the client knows of a record that was stored."""

    def partition(self) -> int | None: ...
    def offset(self) -> int | None: ...
    def timestamp(self) -> tuple[int, int]: ...
    def latency(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Message:
    """One record for ``produce_many_sync`` and ``produce_many_async``; the fields are those of ``produce_sync``."""

    topic: str
    value: str | bytes | None = None
    key: str | bytes | None = None
    headers: Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]] | None = None
    partition: int | None = None
    timestamp_ms: int | None = None


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


class Ledger:
    """What one checkout or one transaction has sent, and how it fared.

    It knows neither producer nor slot: a callback that held one would keep the client alive, and still sending.
    """

    __slots__ = ("aborted", "ended", "failed", "gate", "pending", "records", "timeout_ms", "transactional")

    def __init__(self, timeout_ms: int, *, transactional: bool = False) -> None:
        self.timeout_ms: int = timeout_ms
        self.transactional: bool = transactional
        self.gate: threading.RLock = threading.RLock()  # a listener may produce while its own thread is at the gate
        self.pending: set[Delivery] = set()
        self.failed: dict[Delivery, None] = {}
        self.records: int = 0
        self.aborted: bool = False
        self.ended: bool = False

    def forget(self, told: Iterable[Delivery]) -> None:
        """Its borrower knows of these failures, or has been told that they may come; a transaction still aborts."""
        if not self.transactional:
            for delivery in told:
                delivery._told = True  # noqa: SLF001  (first: whoever settles looks at it last)
                self.failed.pop(delivery, None)


class Delivery:
    """The fate of one record: a small future that any thread can wait for.

    In a transaction a delivered record is still hidden from ``read_committed`` readers until the commit; when the
    transaction aborts, its deliveries report ``aborted``, also those that the broker had stored already.

    A copy is the delivery itself. Pickled it is a picture of that moment: what had no answer then stays ``pending``,
    and asked for its result raises ``DeliveryTimeoutError`` at once.
    """

    __slots__ = ("_callbacks", "_error", "_ledger", "_outbox", "_outcome", "_place", "_told", "_waiters", "topic")

    def __init__(self, topic: str, ledger: Ledger, outbox: Outbox) -> None:
        self.topic: str = topic
        self._ledger = ledger
        self._outbox = outbox
        self._outcome: DeliveryOutcome = "pending"
        self._place: Place | DeliveryReport | None = None
        self._error: BaseException | None = None
        self._told = False
        self._waiters: list[ThreadWaiter | TaskWaiter] | None = None
        self._callbacks: list[Callable[[Delivery], object]] | None = None

    @property
    def outcome(self) -> DeliveryOutcome:
        """``pending``, ``delivered``, ``failed``, ``purged`` (given up), ``aborted`` with its transaction."""
        return "aborted" if self._ledger.aborted and self._outcome != "pending" else self._outcome

    def done(self) -> bool:
        """Whether the fate is decided."""
        return self._outcome != "pending"

    def result(self, timeout_ms: int | None = None) -> DeliveryReport:
        """Wait for the broker's answer.

        Args:
            timeout_ms: Milliseconds to wait; ``None`` is the pool's ``produce_timeout_ms``, 0 doesn't wait.

        Raises:
            DeliveryTimeoutError: No answer yet. The record may still be delivered.
            DeliveryError: It wasn't delivered, or was aborted with its transaction.
            AuthorizationError: The broker denies the topic.
        """
        error = self.exception(timeout_ms)
        if error is not None:
            self._keep_another()
            raise error
        return self._report()

    def exception(self, timeout_ms: int | None = None) -> BaseException | None:
        """Wait as :meth:`result` does, and return the error instead of raising it; ``None`` if delivered.

        A failure that was told, here or to a callback, isn't told again by ``flush``; a transaction aborts all the
        same.

        Raises:
            DeliveryTimeoutError: No answer yet. The record may still be delivered.
        """
        if self._outcome == "pending":
            deadline = Deadline.of_ms(timeout_ms, self._ledger.timeout_ms)
            self._wait(deadline)
            if self._outcome == "pending":
                raise self._late(deadline)
        if self.outcome == "aborted" and self._error is None:
            return DeliveryError(f"{self._outbox.pool}: a record for {self.topic!r} was aborted", [self])
        if self._error is not None:
            self._ledger.forget([self])
            if _leads_to(sys.exception(), self._error):
                self._keep_another()
        return self._error

    def __await__(self) -> Generator[Any, None, DeliveryReport]:
        return self._answer().__await__()

    async def decided(self, deadline: Deadline, among: Sequence[Delivery] = ()) -> None:
        """Wait without blocking the loop until the fate is decided, the deadline has passed, or it is in vain.

        Args:
            deadline: How long.
            among: The records of the same call: it is in vain if it is for one of them.
        """
        topics = self._outbox.topics
        while not (self.done() or deadline.passed or topics.all_in_vain(among or (self,), deadline)):
            waiter = TaskWaiter()
            self._register(waiter)
            try:
                if not self.done():
                    seconds = topics.patience(self.topic, deadline)
                    self._outbox.hurry()
                    await waiter.wait(seconds)
            finally:
                self._forget(waiter)

    async def _answer(self) -> DeliveryReport:
        refuse_outside_of_a_task(self._outbox.pool)
        deadline = Deadline(self._ledger.timeout_ms / 1000)
        await self.decided(deadline)
        if self._outcome == "pending":
            raise self._late(deadline)
        return self.result(0)

    def add_done_callback(self, fn: Callable[[Delivery], object]) -> None:
        """Call ``fn(delivery)`` on a worker thread once the fate is decided; what it raises is logged.

        Raises:
            TypeError: It can't be called, or only awaited.
        """
        if not callable(fn) or iscoroutinefunction(fn):
            raise TypeError(f"a done callback is a plain function of one argument (it is never awaited), not {fn!r}")
        with _registering:
            if self._callbacks is None:
                self._callbacks = []
            self._callbacks.append(fn)
        if self.done():
            self._outbox.run_callbacks(self)

    def _keep_another(self) -> None:
        """Let go of the error, which is about to be raised or to be a cause, and keep its like.

        Kept, it would keep the frames of whoever was told, with their records; and told again while what came from it
        is handled, it would come from itself.
        """
        if self._error is not None:
            self._error = _another(self._error)

    def _late(self, deadline: Deadline) -> DeliveryTimeoutError:
        outbox = self._outbox
        return DeliveryTimeoutError(
            f"{outbox.pool}: no answer for a record to {self.topic!r} in time; it may still be delivered"
            f"{outbox.topics.hint(self.topic)}{last_error(outbox.last_error(deadline.started))}"
        )

    def _report(self) -> DeliveryReport:
        if not isinstance(self._place, DeliveryReport):
            assert self._place is not None  # noqa: S101  (decided and no error)
            self._place = report_of(self.topic, self._place)
        return self._place

    def _wait(self, deadline: Deadline, among: Sequence[Delivery] = ()) -> None:
        """Block until the fate is decided or there is no use in waiting; :meth:`decided` for threads."""
        waiter, topics = ThreadWaiter(), self._outbox.topics
        self._register(waiter)
        while not (self.done() or deadline.passed or topics.all_in_vain(among or (self,), deadline)):
            seconds = topics.patience(self.topic, deadline)
            self._outbox.hurry()
            waiter.wait(seconds)
        self._forget(waiter)

    def _register(self, waiter: ThreadWaiter | TaskWaiter) -> None:
        """Note who waits; ask :meth:`done` only afterwards.

        Whoever settles does it the other way round, so one of the two sees the other.
        """
        with _registering:
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)

    def _forget(self, waiter: ThreadWaiter | TaskWaiter) -> None:
        """Who has given up no longer watches."""
        if not self.done():
            with _registering, suppress(ValueError):  # settled meanwhile
                (self._waiters or []).remove(waiter)

    def _arrive(self, error: object, ack: Any) -> None:
        """Called by librdkafka: note what came, nothing else.

        It may run with a foreign exception pending; its first C call then raises SystemError although it worked.
        """
        try:
            self._outbox.arrived.append((self, error, ack))
        except SystemError:
            return

    def _settle(
        self, outcome: DeliveryOutcome, error: BaseException | None, place: Place | None, batches: Batches
    ) -> None:
        self._place = place
        self._error = error
        self._outcome = outcome
        self._ledger.pending.discard(self)
        if self._waiters is not None:
            with _registering:
                waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.wake_later(batches)

    def __copy__(self) -> Delivery:
        return self

    def __deepcopy__(self, memo: object) -> Delivery:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        outcome = self._outcome
        report = self._report() if outcome == "delivered" else None
        # As the state, not as arguments: the error may list this very delivery.
        return _picture, (self.topic, self._outbox.pool), (outcome, self._ledger.aborted, report, self._error)

    def __setstate__(self, state: tuple[DeliveryOutcome, bool, DeliveryReport | None, BaseException | None]) -> None:
        self._outcome, self._ledger.aborted, self._place, self._error = state

    def __repr__(self) -> str:
        return f"<Delivery to {self.topic!r}: {self.outcome}>"


def _another(error: BaseException) -> BaseException:
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


def _picture(topic: str, pool: str) -> Delivery:
    """Return what stands for a delivery in a process to which its answer won't come."""

    def refuse(*_: object) -> NoReturn:
        raise DeliveryTimeoutError(
            f"{pool}: this record to {topic!r} had no answer when its Delivery was pickled, and the answer comes where "
            "the record was sent; it may still be delivered"
        )

    # Whoever waits hurries, and whoever doesn't asks for the last error: both come here.
    outbox = Outbox(
        pool, -1, observer=Observer(), callbacks=_workers, translate=refuse, hurry=refuse, last_error_since=refuse
    )
    return Delivery(topic, Ledger(0), outbox)


_workers = Workers("wd_di-deliveries", 1)
"""Run the callbacks of unpickled deliveries."""


class Outbox:
    """All that one client owes an answer for.

    ``arrived`` is filled by librdkafka's callbacks, inside its calls; :meth:`settle` empties it outside of them, so
    that no waiter, listener or callback ever runs inside a client call and hides its result.
    """

    def __init__(
        self,
        pool: str,
        index: int,
        *,
        observer: Observer,
        callbacks: Workers,
        translate: Callable[[Any, str], tuple[DeliveryOutcome, BaseException]],
        hurry: Callable[[], None],
        topics: Topics | None = None,
        trouble: Callable[[], None] | None = None,
        last_error_since: Callable[[float], str | None] | None = None,
    ) -> None:
        self.pool = pool
        self.index = index
        self.arrived: deque[tuple[Delivery | None, Any, Any]] = deque()
        self.ledgers: set[Ledger] = set()
        # A hint to the poller: somebody is inside of the client until then. A moment, not a flag, since whoever would
        # have to take a flag back may not come to it: a thread that can't start, an interrupt.
        self.served_until: float = 0.0
        self.hurry = hurry
        self.last_error: Callable[[float], str | None] = last_error_since or (lambda _: None)
        self.topics: Topics = topics or Topics()
        self.heard: bool = False  # a record was stored since the client last looked
        self._trouble = trouble
        self._observer = observer
        self._callbacks = callbacks
        self._translate = translate

    def open(self, ledger: Ledger) -> None:
        """Take a ledger on; its records are answered for until the last one is settled."""
        self.ledgers.add(ledger)

    def end(self, ledger: Ledger) -> None:
        """The borrower went away; the ledger goes with its last record."""
        if not ledger.pending:
            self.ledgers.discard(ledger)

    def unsettled(self) -> list[Delivery]:
        """Every record without an answer."""
        return [delivery for ledger in tuple(self.ledgers) for delivery in tuple(ledger.pending)]

    def settle(self) -> int:
        """Decide everything that arrived; how many. Each loop is woken once for all of its tasks."""
        count = 0
        batches: Batches = {}
        try:
            while (item := self._next()) is not None:
                delivery, error, ack = item
                count += 1
                if delivery is None:  # an error that concerns no record, in its place among the answers
                    if self._trouble is not None:
                        self._trouble()
                elif error is None:
                    self.heard = True
                    place = (ack.partition(), ack.offset(), ack.timestamp(), ack.latency())
                    self._delivered(delivery, place, batches)
                else:
                    self._failed(delivery, *self._translate(error, delivery.topic), batches)
        finally:
            wake_all(batches)
        return count

    def _next(self) -> tuple[Delivery | None, Any, Any] | None:
        try:
            return self.arrived.popleft()
        except IndexError:  # another thread may settle, too
            return None

    def give_up(self, error: BaseException, outcome: DeliveryOutcome = "purged") -> int:
        """Decide what no callback will ever decide, since the client is gone; how many."""
        self.settle()
        lost = self.unsettled()
        batches: Batches = {}
        for delivery in lost:  # each its own: whoever raises one adds to its traceback
            self._failed(delivery, outcome, _another(error), batches)
        wake_all(batches)
        return len(lost)

    def run_callbacks(self, delivery: Delivery) -> None:
        """Hand the delivery's callbacks to a worker, each once."""
        with _registering:
            callbacks, delivery._callbacks = delivery._callbacks or [], []  # noqa: SLF001  (Delivery is half of this)
        for fn in callbacks:
            self._callbacks.submit(lambda fn=fn: self._call(fn, delivery))  # type: ignore[misc]

    def _delivered(self, delivery: Delivery, place: Place, batches: Batches) -> None:
        delivery._settle("delivered", None, place, batches)  # noqa: SLF001
        self._after(delivery)
        if self._observer.wants(MessageAcknowledged):
            report = report_of(delivery.topic, place)
            self._observer.emit(
                MessageAcknowledged,
                pool=self.pool,
                index=self.index,
                topic=report.topic,
                partition=report.partition,
                offset=report.offset,
                timestamp_ms=report.timestamp_ms,
                latency_ms=report.latency_ms,
            )

    def _failed(self, delivery: Delivery, outcome: DeliveryOutcome, error: BaseException, batches: Batches) -> None:
        ledger = delivery._ledger  # noqa: SLF001
        if ledger.transactional or not ledger.ended:  # else nobody will ask the ledger any more
            ledger.failed[delivery] = None
            if delivery._told:  # noqa: SLF001
                ledger.forget([delivery])
        watched = bool(delivery._waiters or delivery._callbacks)  # noqa: SLF001
        delivery._settle(outcome, error, None, batches)  # noqa: SLF001
        self._after(delivery)
        if outcome == "purged":
            self._observer.emit(MessagePurged, pool=self.pool, index=self.index, topic=delivery.topic)
        else:
            self._observer.emit(MessageFailed, pool=self.pool, index=self.index, topic=delivery.topic, error=error)
        if ledger.ended and not ledger.transactional and not watched:
            log_error(f"{self.pool}.delivery", f"{self.pool}: a record was lost after its producer went back", error)

    def _after(self, delivery: Delivery) -> None:
        ledger = delivery._ledger  # noqa: SLF001
        if ledger.ended and not ledger.pending:
            self.ledgers.discard(ledger)
        if delivery._callbacks:  # noqa: SLF001
            self.run_callbacks(delivery)

    def _call(self, fn: Callable[[Delivery], object], delivery: Delivery) -> None:
        if delivery._error is not None:  # noqa: SLF001
            delivery._ledger.forget([delivery])  # noqa: SLF001
        try:
            fn(delivery)
        except BaseException as error:  # noqa: BLE001  (a user's callback must not end the worker, nor by sys.exit)
            log_error(f"{self.pool}.callback", f"{self.pool}: a delivery callback raised", error)
