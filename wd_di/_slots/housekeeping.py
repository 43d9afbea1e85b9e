"""Who carries out what the table decides: producers are made, served, retired and closed, on the pool's own threads."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from wd_di._concurrency.deadline import Deadline
from wd_di._concurrency.workers import Poller, Workers
from wd_di._forks import WeakCalls
from wd_di._kafka.port import SLICE, Fault, FaultKind, Verdict
from wd_di._kafka.translation import public, without_frames
from wd_di._records.connection import Connection, Retirement, Services
from wd_di._records.delivery import waited
from wd_di._slots.asking import Asker
from wd_di._slots.making import MAKERS_MAX, Maker, NotMadeError
from wd_di._slots.slots import Claim, Effects, Slot, SlotPolicy, State
from wd_di._slots.stats import listed, name_of
from wd_di._slots.table import SlotTable
from wd_di.errors import DeliveryError, PoolClosedError, PoolError, PoolOpenError, PoolTimeoutError
from wd_di.events import (
    CheckoutLost,
    ErrorOccurred,
    Observer,
    ProducerClosed,
    ProducerCreated,
    ProducerRetired,
    StatisticsEmitted,
    log_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._kafka.memory import MemoryBroker
    from wd_di._slots.plan import Plan

ROUND_OWING = 0.005
ROUND_WAITING = 0.05
ROUND_IDLE = 0.5
LOOK_EVERY = 0.5
SIGN_OF_LIFE = 1.0
"""Seconds that a broker has for one."""
REAPERS_MAX = 8
"""More than one, since destroying a handle can block for seconds, and its neighbours' deadline goes on."""
CALL_MAX = 10.0
"""Seconds after which a producer is given up whose last call hasn't come back: it may never. In librdkafka 2.16
``send_offsets_to_transaction`` waits, if it is told NOT_COORDINATOR, until some broker's connection comes or goes."""
GIVEN_UP = "its producer was given up, in a call that doesn't come back"
PERMANENT = (FaultKind.SETTINGS, FaultKind.DENIED, FaultKind.FATAL)
"""Failures of a creation that no waiting cures."""
ORDINARY = ("close", "reload")
"""Retirements that nobody needs to be told of."""
inherited = WeakCalls()
"""In a forked child: says of all that live that they are the parent's, also of those whose pool is gone."""


class Housekeeper:
    """The hands of one pool: its table, its threads, and the producers they look after.

    A forked child makes a new one, for it has neither the threads nor the producers.

    Args:
        plan: By which producers are made.
        policy: By which they are lent.
        observer: Who is told what happens.
        memory: Where records go that aren't delivered.
        prepare: What must be done before the first producer is made; held weakly, as it is the pool's.
    """

    def __init__(
        self,
        plan: Plan,
        policy: SlotPolicy,
        observer: Observer,
        memory: MemoryBroker,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.name: str = plan.name
        self.plan: Plan = plan
        self.table: SlotTable[Connection] = SlotTable(plan.name, policy)
        self.observer = observer
        self.purged: int = 0
        self.lost: deque[tuple[Claim[Connection], float]] = deque()
        self._refreshing: set[int] = set()
        self._left: list[Connection] = []  # given up in a call
        self._called: dict[int, tuple[Slot[Connection], Deadline]] = {}  # whose retirement waits for a call's end
        self.started: bool = False
        self._ready = False  # the start is over, and not only begun by another thread
        self._prepare = None if prepare is None else weakref.WeakMethod(prepare)
        self._forgotten = False
        self._closing_until: Deadline | None = None
        self._looked_at = 0.0
        self._awaited: list[Deadline] = []
        self._starting = threading.RLock()  # re-entrant, as every lock that a signal handler or finalizer may meet
        self._mutex = threading.RLock()  # entered itself, as in Workers
        self._changed = threading.Condition(self._mutex)
        self._poller = Poller(f"wd_di-{self.name}-poller", weakref.WeakMethod(self._round))
        self._makers = Workers(f"wd_di-{self.name}-maker", min(policy.size, MAKERS_MAX))
        self._reaper = Workers(f"wd_di-{self.name}-reaper", min(policy.size, REAPERS_MAX))
        self.jobs: Workers = Workers(f"wd_di-{self.name}-job", 2 * policy.size)
        callbacks = Workers(f"wd_di-{self.name}-callback", 1)
        self._errands = Workers(f"wd_di-{self.name}-errand", policy.size)
        questions = Workers(f"wd_di-{self.name}-question", policy.size * (1 + policy.share))
        self._asker = Asker(self.name, observer)
        services = Services(
            observer,
            self.nudge,
            self.jobs,
            callbacks,
            self._errands,
            questions,
            closing=lambda: self.table.closing,
            rivals=self._rivals,
        )
        self._maker = Maker(plan, memory, services, self._changed)
        inherited.add(self.leave_to_parent)

    def apply(self, plan: Plan, policy: SlotPolicy) -> None:
        """Take the plan as the one by which producers are made from now on."""
        self.plan = self._maker.plan = plan
        self.table.policy = policy

    # -- for borrowers and the pool ----------------------------------------------------------------

    def start(self) -> None:
        """Start the poller, and warm a pool that is used before it was opened."""
        if self._ready:
            return
        with self._starting:
            if self.started:
                return
            self.started = True
        try:
            if self._prepare is not None and (prepare := self._prepare()) is not None:
                prepare()
            self._poller.start()
            if self.table.policy.warm:
                self.carry_out(self.table.warm())
            self._ready = True
        except BaseException:  # a signal's
            self.started = False
            raise

    def trouble(self) -> BaseException | str | None:
        """The last thing that went wrong with a producer that isn't working yet."""
        return (
            self._maker.trouble() or self.table.last_error or (self._maker.unanswered() if self._maker.making else None)
        )

    def unanswered(self) -> str:
        """What can be said without an error."""
        return self._maker.unanswered()

    def addresses(self) -> str:
        """Where the brokers are; nothing, if they are mocks."""
        return self._maker.addresses()

    def hand_over(self, effects: Effects[Connection]) -> None:
        """Do what the table decided on a return: mostly no more than to wake whoever is next.

        Of which nobody needs to be told who waits until producers are made or closed.
        """
        some = bool(effects.wake)
        self._wake(effects)
        if effects.create or effects.retire:  # also where a loop was closed, and the slot had to go on
            self.carry_out(effects, late=self.overdue)
        elif not some:
            self.nudge()  # to a tick

    def _wake(self, effects: Effects[Connection]) -> None:
        for claim in effects.wake:  # it may grow: by a call in itself, a closed loop's many tasks would end the stack
            waiter = claim.waiter  # none: it was woken before, see Decisions._mend
            if waiter is not None and not waiter.wake():  # its loop is closed, so the next one gets the slot
                claim.waiter = None
                effects.add(self.table.release(claim))
        effects.wake.clear()

    def carry_out(self, effects: Effects[Connection] | None, *, late: bool = False) -> None:
        """Do what the table decided; its lock is free now."""
        if effects is None:
            return
        self._wake(effects)
        for slot in effects.create:
            self._makers.submit(partial(self._create, slot))
        for slot in effects.retire:
            self._reaper.submit(partial(self._retire, slot, late=late))
        for slot in effects.refresh:
            if slot.index not in self._refreshing:  # by a broker that doesn't answer
                self._refreshing.add(slot.index)
                self.jobs.submit(partial(self._refresh, slot.index, slot.connection))
        for claim in effects.leaks:
            self._report_leak(claim)
        with self._mutex:
            self._changed.notify_all()

    def wait_until(self, done: Callable[[], bool], deadline: Deadline) -> bool:
        """Wait until ``done()`` holds; it is asked again after everything that was carried out."""
        with self._mutex:
            self._awaited.append(deadline)
            try:
                self._changed.notify_all()
                return self._changed.wait_for(done, deadline.left)
            finally:
                self._awaited.remove(deadline)

    def fate(self) -> tuple[int, int]:
        """How many records were given up so far, and how many have no answer yet."""
        with self._mutex:
            waiting = [each for each in self.table.connections() if not each.given_up]
            return self.purged, sum(len(each.in_flight.undecided()) for each in waiting)

    def await_reload(self, deadline: Deadline) -> None:
        """Wait until every producer is of the present generation.

        Raises:
            PoolTimeoutError: Some still aren't; they will follow.
            PoolOpenError, PoolUnhealthyError: None can be made of it, and waiting won't cure that.
            PoolClosedError: The pool was closed meanwhile.
        """
        table, failed = self.table, None

        def over() -> bool:
            nonlocal failed
            failed = table.irreplaceable()
            return failed is not None or table.closing or not (self.started and table.outdated())

        if not self.wait_until(over, deadline):
            cause, old = self.trouble(), list(table.outdated())
            what = f"producers {old} are still of the generation before: {listed(table.holders())}"
            text = f"{self.name}: {waited(deadline)}{what}"
            late = PoolTimeoutError(f"{text}; last error: {cause}" if cause else text)
            late.__cause__ = without_frames(cause) if isinstance(cause, BaseException) else None
            raise late
        if table.closing:
            raise PoolClosedError(f"{self.name}: the pool was closed while it reloaded")
        if failed is not None:
            raise without_frames(failed)

    def close_producers(self, deadline: Deadline) -> None:
        """Refuse newcomers and begin to close what is idle; what is held follows on its return."""
        self._closing_until = deadline
        self.carry_out(self.table.close())

    def seize(self, patience: float) -> None:
        """Close what is held; an open transaction is aborted if the broker answers within ``patience`` seconds."""
        self._closing_until = Deadline(patience)
        for slot in self.table.seize():
            self._reaper.submit(partial(self._retire, slot))

    @property
    def overdue(self) -> bool:
        """Whether the time to close has passed, and what is still held comes back late."""
        return self._closing_until is not None and self._closing_until.passed

    def forget(self) -> None:
        """Nobody can close the pool any more: threads of its own must not keep it alive."""
        self._forgotten = True

    def leave_to_parent(self) -> None:
        """In a forked child: its producers are the parent's, and so is what is lent of them."""
        for slot in self.table.inherited():
            if slot.connection is not None:
                slot.connection.leave_to_parent()
            for claim in slot.claims:
                claim.leave_to_parent()

    def stop(self, seconds: float) -> None:
        """End the poller."""
        self._poller.stop(seconds)
        for lines in tuple(self._maker.lines.values()):
            lines.end()

    # -- making ------------------------------------------------------------------------------------

    def _create(self, slot: Slot[Connection]) -> None:
        table = self.table
        if not table.begin(slot, State.CREATING):
            return
        started = time.monotonic()
        try:
            connection = self._maker.make(
                slot.index,
                wanted=lambda: not table.closing,
                outdated=lambda: slot.generation != table.generation,
                patience=lambda since: min(
                    [table.patience(since), *(each.to_half_since(since) for each in self._awaited)]
                ),
            )
        except NotMadeError as failure:
            self._not_created(slot, failure.connection, failure.raised)
            return
        if connection.shared:
            self._serve_alone(connection)
        self.observer.emit(
            ProducerCreated,
            pool=self.name,
            index=slot.index,
            transactional_id=connection.client.transactional_id,
            duration_ms=(time.monotonic() - started) * 1000,
        )
        self.carry_out(table.created(slot, connection))
        self.nudge()

    def _not_created(self, slot: Slot[Connection], connection: Connection | None, raised: BaseException) -> None:
        kind = raised.kind if isinstance(raised, Fault) else FaultKind.OTHER
        cause = connection.client.last_error if connection is not None and kind is FaultKind.RETRIABLE else None
        error = PoolOpenError(f"producer {slot.index}: {cause or raised}")
        error.__cause__ = public(raised)
        self.observer.emit(ErrorOccurred, pool=self.name, index=slot.index, where="producer.create", error=error)
        self.carry_out(self.table.creation_failed(slot, error, permanent=kind in PERMANENT))
        self._reaper.submit(partial(self._discard, slot, connection))

    def _discard(self, slot: Slot[Connection], connection: Connection | None) -> None:
        try:
            if connection is not None:
                connection.client.close()
        finally:
            self._gone(slot)

    def _gone(self, slot: Slot[Connection], *, again: bool = False) -> None:
        """The old handle is destroyed: its id is free for others, and for the next producer of this slot."""
        self._maker.rivals.leave(slot.index)
        self.carry_out(self.table.retired(slot, again=again))

    def given_up(self) -> list[int]:
        """Return the indices of the producers that were given up in a call, which hasn't come back yet."""
        return [connection.index for connection in self._left]

    def _rivals(self, index: int) -> str:
        return self._maker.rivals.of(index)

    def _refresh(self, index: int, connection: Connection | None) -> None:
        """Ask for a sign of life, which keeps the connection open and finds out about a broken one."""
        try:
            if connection is not None:
                connection.client.probe(SIGN_OF_LIFE)
        except Fault:
            return
        finally:
            self._refreshing.discard(index)

    # -- closing -----------------------------------------------------------------------------------

    def _retire(self, slot: Slot[Connection], *, late: bool = False, in_a_call: bool = False) -> None:
        """Close a producer, when the last call to it has come back, and let its slot be filled again.

        Args:
            slot: The producer's.
            late: Whether it comes back after the pool's close: it still has time to send what it owes.
            in_a_call: Whether the slot is filled before the call is back, for which nobody waits any longer. The next
                producer's init fences whatever the call may still do.
        """
        connection, again = slot.connection, partial(self._reaper.submit, partial(self._retire, slot, late=late))
        errand = connection.errand if connection is not None else None
        if errand is not None and not in_a_call:
            if errand.endless:
                self._called.setdefault(slot.index, (slot, Deadline(CALL_MAX)))
            if errand.then(again):
                return
        self._called.pop(slot.index, None)
        if connection is None or not self.table.begin(slot, State.RETIRING):
            return
        retirement = slot.retirement or Retirement("close")
        if retirement.reason not in ORDINARY:
            self._tell_retired(connection, retirement)
        end = partial(self._end, connection, late=late)
        if in_a_call:
            self._left.append(connection)  # before the call can come back, and take it off again
        if in_a_call and errand is not None and errand.then(partial(self._reaper.submit, end)):
            self._errands.spare()
            self._note_purged(connection, connection.in_flight.give_up(Verdict("purged", DeliveryError(GIVEN_UP))))
        else:
            end()
        self._gone(slot, again=connection.left_open)

    def _end(self, connection: Connection, *, late: bool) -> None:
        settings, until = self.plan.settings, None if late else self._closing_until
        deadline = until or Deadline(settings.close_timeout_ms / 1000)
        try:
            lost = connection.dispose(
                deadline, settings.abort_timeout_ms / 1000, giving_up=partial(self._note_purged, connection)
            )
        except BaseException as error:  # noqa: BLE001  (one client that can't be closed must not keep its slot)
            log_error(f"{self.name}.close", f"{self.name}: producer {connection.index} could not be closed", error)
            lost = 0
        if connection in self._left:
            self._left.remove(connection)
        elif connection.left_open and self.table.closing:
            connection.clear_up(deadline)
        self.observer.emit(
            ProducerClosed,
            pool=self.name,
            index=connection.index,
            transactional_id=connection.client.transactional_id,
            purged=lost,
        )

    def _note_purged(self, connection: Connection, lost: int) -> None:
        with self._mutex:
            self.purged += lost
            connection.given_up = True

    def _tell_retired(self, connection: Connection, retirement: Retirement) -> None:
        self.observer.emit(
            ProducerRetired,
            pool=self.name,
            index=connection.index,
            transactional_id=connection.client.transactional_id,
            reason=retirement.reason,
            error=retirement.error,
        )

    # -- serving -----------------------------------------------------------------------------------

    def _serve_alone(self, connection: Connection) -> None:
        name = f"wd_di-{self.name}-{connection.index}"
        thread = threading.Thread(target=self._serve, args=(connection,), name=name, daemon=True)
        with suppress(RuntimeError):  # no more threads: the pool's poller serves it
            thread.start()

    def _serve(self, connection: Connection) -> None:
        """The poller of one shared producer: blocking, so that a waiting borrower is answered at once.

        Whatever ends it, the pool's poller takes over.
        """
        with suppress(Fault):  # closed
            while connection.client.fault is None and not self._forgotten:
                connection.serve(connection.client.poll, SLICE)

    def nudge(self) -> None:
        """Something came up: end the poller's long nap."""
        if self._poller.napping:
            self._poller.wake()
        elif self._poller.refused:
            self._poller.start()

    def _round(self) -> float:
        """Serve all, do what is due; seconds until the next round."""
        owing, living = False, self.table.living()
        if self.table.closing and not living:
            self._poller.stop(0)
        for slot, connection in living:
            owing = self._poll(slot, connection) or owing
        self._finish_interrupted()
        self._give_up_calls()
        connections = [connection for _, connection in living]
        self._asker.look_for_brokers(
            tuple(self._maker.lines.values()), (*connections, *tuple(self._maker.making.values()))
        )
        while self.lost:
            self._report_lost(*self.lost.popleft())
        self.carry_out(self.table.tick())
        if owing:
            return ROUND_OWING
        often = self.table.restless or self.observer.wants(StatisticsEmitted)
        often = often or any(connection.topics.watched for connection in connections)
        return ROUND_WAITING if often else ROUND_IDLE

    def _poll(self, slot: Slot[Connection], connection: Connection) -> bool:
        """Serve one producer; whether it owes anything. Who waits inside the client serves it itself."""
        client, served = connection.client, time.monotonic() < connection.served_until
        if not served or connection.noted:  # whoever has sent without waiting only collects what is to be told
            try:
                client.poll(0)
            except Fault:  # closed meanwhile
                return False
        if (broken := connection.broken()) is not None:
            self.carry_out(self.table.mark_broken(slot, connection, broken))
        self._asker.ask_for_topics(connection)
        return client.owes() > 0 and not (served and connection.shared)

    def _finish_interrupted(self) -> None:
        """Do what an exception of a signal's handler has kept a borrower from doing; none is called on this thread."""
        if self.table.disturbed:
            self.table.disturbed = False
            self.carry_out(self.table.mend())
        now = time.monotonic()
        if now < self._looked_at + LOOK_EVERY:
            return
        self._looked_at = now
        for claim in self.table.claims():
            if (end := claim.overdue()) is not None:
                self.jobs.submit(end)

    def _give_up_calls(self) -> None:
        for index, (slot, patience) in tuple(self._called.items()):
            if patience.passed:
                self._called.pop(index, None)
                self._reaper.submit(partial(self._retire, slot, in_a_call=True))

    def _report_lost(self, claim: Claim[Connection], at: float) -> None:
        index, owner, held_ms = claim.slot.index, name_of(claim.owner), (at - claim.since) * 1000
        self.observer.emit(CheckoutLost, pool=self.name, index=index, owner=owner, held_ms=held_ms, place=claim.place)
        taken = f"producer {index}, taken by {owner} {held_ms / 1000:.1f} s ago at {claim.place or 'an unknown place'}"
        text = f"{taken}, was never given back; it is replaced"
        log_error(f"{self.name}.lost.{claim.place}", f"{self.name}: a checkout was lost", PoolError(text))

    def _report_leak(self, claim: Claim[Connection]) -> None:
        index, held = claim.slot.index, self.plan.settings.leak_after_ms
        error = PoolError(f"{self.name}: producer {index} is held for more than {held} ms, from {claim.place}")
        log_error(f"{self.name}.leak.{claim.place}", f"{self.name}: a producer may have leaked", error)
        self.observer.emit(ErrorOccurred, pool=self.name, index=index, where="leak", error=error)
