"""One connected producer: its client, what is in flight on it, whether it is fit, and how it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from wd_di._concurrency.deadline import Deadline
from wd_di._kafka.port import BREATH, SLICE, Client, Fault, FaultKind, Verdict
from wd_di._observing import heard_by
from wd_di._records.in_flight import InFlight
from wd_di._records.questions import Questions
from wd_di.errors import DeliveryError, QueueFullError

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Container

    from wd_di._concurrency.errands import Errand
    from wd_di._concurrency.workers import Workers
    from wd_di._kafka.port import Answers, Noted, Reader
    from wd_di._kafka.topics import Topics
    from wd_di._records.delivery import Ledger
    from wd_di.events import Event, Observer, RetirementReason

ROOM = 0.9
"""Share of what a full queue held, below which there is room again."""
ROOM_NAP = 0.005
FLUSH_BEFORE_ABORT = 1.0
"""Seconds in which brokers answer for the records of a transaction that is to be aborted, or it can't be."""
PURGE_PATIENCE = 0.1
"""Seconds to serve the reports that a purge brings; what comes later is answered from our own registry."""


Requested = Literal["offsets", "end"]


class Retirement(NamedTuple):
    """Why a producer must not be handed out again.

    Attributes:
        reason: In a word.
        error: What it has met.
        fenced: Whether another owner has its id.
        expired: Whether the coordinator has forgotten it.
        spent: Whether nothing is wrong with its block: who holds it may go on with another one.
    """

    reason: RetirementReason
    error: BaseException | None = None
    fenced: bool = False
    expired: bool = False
    spent: bool = False


@dataclass(frozen=True, slots=True)
class Services:
    """What a pool does for all that is sent by it.

    Attributes:
        observer: Is told what happens.
        nudge: Ends the nap of whoever serves the connections.
        jobs: Does what would block an event loop.
        callbacks: Calls what the users have given to be called.
        errands: Makes the calls that may take longer than their callers wait; one for each producer at a time.
        questions: Asks the brokers what a call has to know before it can send.
        closing: Whether the pool is.
        rivals: Says who else of this host has the transactional id of a producer, given its index.
        stood: Where consumer groups stood last, by the metadata of a member: with that a doubtful commit is compared.
        least: The least time in seconds that a request has taken.
    """

    observer: Observer
    nudge: Callable[[], None]
    jobs: Workers
    callbacks: Workers
    errands: Workers
    questions: Workers
    closing: Callable[[], bool]
    rivals: Callable[[int], str]
    stood: dict[object, dict[tuple[str, int], int]] = field(default_factory=dict)
    least: dict[Requested, float] = field(default_factory=dict)


class Connection:
    """A connected producer of a pool, from its making to its end.

    Attributes:
        shared: Whether a thread of its own serves it.
        doubtful: Whether the answer to a commit or an abort is missing: then nothing but a drop is left.
        left_open: Whether a transaction was left open on the broker, of whose records some have no answer.
        full_at: How much its queue held when it was full, until there is room again.
        served_until: A hint to the poller: somebody is inside of the client until then. A moment, not a flag, since
            whoever would have to take a flag back may not come to it: a thread that can't start, an interrupt.
        unserved: How many records were sent without waiting since whoever sends them served it last.
        ending: Held by whoever ends a transaction: its scope, the collector or the poller.
        offering: Held by whoever begins to send offsets, which mustn't slip into the next transaction, or to flush.
        forked: Whether this is a forked child, and it the parent's.
        errand: The call that a worker makes, or has made last. Until it is over the client isn't closed.
        read: Makes a reader of what it has sent.
        questions: What the brokers are asked before something can be sent.
        given_up: Whether what has no answer counts as lost.
        heard: The events that anybody listens to.
    """

    __slots__ = (
        "_connect",
        "callbacks",
        "client",
        "doubtful",
        "ending",
        "errand",
        "forked",
        "full_at",
        "given_up",
        "heard",
        "in_flight",
        "index",
        "left_open",
        "noted",
        "offering",
        "pool",
        "questions",
        "read",
        "served_until",
        "services",
        "shared",
        "unserved",
    )

    def __init__(
        self,
        pool: str,
        index: int,
        services: Services,
        connect: Callable[[Answers], Client],
        read: Callable[[], Reader],
        *,
        shared: bool = False,
    ) -> None:
        self.pool: str = pool
        self.index: int = index
        self.services: Services = services
        self.shared: bool = shared
        self.in_flight: InFlight = InFlight(pool, index, services.observer)
        self.noted: deque[Noted] = self.in_flight.noted
        self.heard: Container[type[Event]] = heard_by(services.observer)
        self.callbacks: Workers = services.callbacks
        self.client: Client = connect(self.in_flight)
        self.questions: Questions = Questions(self.client, services.questions)
        self.read: Callable[[], Reader] = read
        self._connect = connect
        self.doubtful: bool = False
        self.left_open: bool = False
        self.given_up: bool = False
        self.forked: bool = False
        self.full_at: int | None = None
        self.served_until: float = 0.0
        self.unserved: int = 0
        # Of the one transaction at a time; re-entrant, for a listener may end it from inside.
        self.ending: threading.RLock = threading.RLock()
        self.offering: threading.RLock = threading.RLock()
        self.errand: Errand[Any] | None = None

    def leave_to_parent(self) -> None:
        """In a forked child: nothing can be sent by it any more. Another thread of the parent's may hold its locks."""
        self.forked = True
        self.ending, self.offering = threading.RLock(), threading.RLock()
        for ledger in self.in_flight.ledgers:
            ledger.ended = True

    def __repr__(self) -> str:
        return f"<Connection {self.index} of {self.pool!r}>"

    def successor(self) -> Client:
        """Return another client of the same settings; this one must be gone, for it gets its id."""
        return self._connect(InFlight(self.pool, self.index, self.services.observer))

    # -- for deliveries ----------------------------------------------------------------------------

    @property
    def topics(self) -> Topics:
        """What the brokers say of its topics."""
        return self.client.topics

    @property
    def attended(self) -> bool:
        """Whether a thread of its own serves it now: none could be started, or it has ended."""
        return self.shared and time.monotonic() < self.served_until

    def nudge(self) -> None:
        """Let the poller look here."""
        self.services.nudge()

    def last_error_since(self, started: float) -> str | None:
        """What may explain that there is no answer."""
        return self.client.last_error_since(started)

    def rivals(self) -> str:
        """Who else of this host has its transactional id, if that is known."""
        return self.services.rivals(self.index)

    def forget(self, ledger: Ledger) -> None:
        """The last record of a borrower that went away has its answer."""
        self.in_flight.ledgers.discard(ledger)

    # -- whether it is fit -------------------------------------------------------------------------

    def broken(self) -> Retirement | None:
        """Why it is lost, if it is."""
        fault = self.client.fault
        return None if fault is None else Retirement("broken", fault, fenced=fault.kind is FaultKind.FENCED)

    def unfit(self) -> Retirement | None:
        """Why it can't be handed out again; an interrupt between two steps may have left a transaction open."""
        if self.client.fault is not None:
            return self.broken()
        return Retirement("left in a transaction") if self.client.in_transaction else None

    # -- what may take longer than its caller waits ------------------------------------------------

    def entrust(self, errand: Errand[Any]) -> None:
        """Let a worker do this. Who waits for it no longer has nothing more to do with the client, but its end."""
        self.errand = errand
        errand.run_on(self.services.errands)

    def at_rest(self, deadline: Deadline) -> bool:
        """Wait for the end of what a worker does here; whether it has come."""
        return self.errand is None or self.errand.over or self.errand.known(deadline.left)

    # -- serving it --------------------------------------------------------------------------------

    def serve(self, call: Callable[[float], None], seconds: float) -> None:
        """Make a call that serves the client; the poller may look elsewhere meanwhile.

        Raises:
            Fault: It was closed.
        """
        self.served_until = time.monotonic() + seconds
        try:
            call(seconds)
        finally:
            if not self.shared:
                self.served_until = 0.0

    async def drain_async(self, deadline: Deadline) -> None:
        """Wait until a queue that was full has room again.

        Raises:
            QueueFullError: It stayed full.
        """
        while self.full_at is not None and self.client.owes() > self.full_at * ROOM:
            if deadline.passed:
                raise QueueFullError(f"{self.pool}: the queue of producer {self.index} stayed full")
            await asyncio.sleep(ROOM_NAP)
        self.full_at = None

    # -- the end -----------------------------------------------------------------------------------

    def abortable(self, besides: Ledger | None = None) -> bool:
        """Whether an open transaction can be aborted, as it can't if no broker has answered for one of its records.

        The record's partition may be about to be registered with the transaction. An abort forgets that, and when the
        request fails, librdkafka ends the process by an assertion (seen in 2.16.0). So such a client is dropped; the
        next one's init aborts. Nor does it help that the topic isn't there any more.

        Args:
            besides: Of which it is known already.
        """
        in_flight = self.in_flight
        owed = any(ledger.pending for ledger in tuple(in_flight.ledgers) if ledger is not besides)
        return not owed and in_flight.out_of_step != "record unanswered"

    def leave_open(self) -> None:
        """Give up what has no answer, and leave the open transaction to the next init."""
        self.doubtful = self.left_open = True
        self._purge()

    def clear_up(self, deadline: Deadline) -> None:
        """Abort what was left open, by a successor's init; for a producer in whose place no other one comes."""
        with suppress(Fault):
            successor = self.successor()
            try:
                initialise(successor, lambda: not deadline.passed)
            finally:
                successor.close()

    def dispose(
        self, deadline: Deadline, abort_seconds: float, *, giving_up: Callable[[int], object] | None = None
    ) -> int:
        """End it for good, whatever state it is in; how many records were given up.

        In this order: abort what is open, flush until the deadline, purge, serve what that brings, close. After a
        doubtful commit or abort only the drop is left: all else answers _CONFLICT, and another abort would keep those
        waiting who want the next producer, whose init aborts as well. After a fatal error nothing comes of a flush.
        """
        client, in_flight = self.client, self.in_flight
        with suppress(Fault):
            if client.in_transaction and not self.doubtful and client.fault is None:
                self._abort(Deadline(deadline.slice(abort_seconds)))
        with suppress(Fault):
            if not client.in_transaction:
                self._flush(deadline)
        lost = len(in_flight.undecided())
        if giving_up is not None:
            giving_up(lost)  # before the close, which may block for longer than anybody waits
        if lost or client.owes():
            with suppress(Fault):
                self._purge()
        client.close()
        in_flight.take_in(client.verdict)
        in_flight.give_up(Verdict("purged", DeliveryError("the producer was closed before the broker had answered")))
        return lost

    def _purge(self) -> None:
        self.client.purge()
        patience = Deadline(PURGE_PATIENCE)
        while self.client.owes() and not patience.passed:
            self.client.poll(BREATH)

    def _abort(self, deadline: Deadline) -> None:
        """Abort, if the brokers have answered by half of the deadline."""
        answered_by = Deadline(min(FLUSH_BEFORE_ABORT, deadline.left / 2))
        while not (self.abortable() or self.client.fault or answered_by.passed):
            self.client.flush(answered_by.slice(SLICE))
        if self.abortable():
            persist(lambda: self.client.abort(deadline.left), self.client, lambda: not deadline.passed)
        elif self.client.fault is None:
            self.leave_open()

    def _flush(self, deadline: Deadline) -> None:
        """Flush until all is answered or nothing more comes: Ctrl-C inside of a callback costs its record a report."""
        client, patience = self.client, None
        while self.in_flight.outstanding and not (client.fault or deadline.passed):
            client.flush(deadline.slice(SLICE))
            if client.owes():
                patience = None
                continue
            patience = patience or Deadline(PURGE_PATIENCE)  # another thread may be about to note a report
            if patience.passed:
                return
            time.sleep(BREATH)


def initialise(client: Client, wanted: Callable[[], bool]) -> None:
    """Get the transactional id, in slices on the same handle, for as long as somebody could want it.

    No other handle may be tried meanwhile: what this one has asked can wait in a frozen broker's socket, also when the
    handle is gone, and would fence its replacement later.
    """
    persist(lambda: client.init(SLICE), client, wanted)


def persist(call: Callable[[], object], client: Client, wanted: Callable[[], bool]) -> None:
    """Make a call to the client again and again until it succeeds, for as long as somebody could want that."""
    while True:
        try:
            call()
        except Fault as fault:
            client.poll(BREATH)
            if client.fault not in (None, fault):
                raise client.fault from fault
            if fault.kind is not FaultKind.RETRIABLE or not wanted():
                raise
        else:
            return
