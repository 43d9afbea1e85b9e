"""Carries out what the core decides: producers are made, polled, retired and closed here, on the pool's own threads."""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from wd_di._checkout import broken
from wd_di._client import BREATH, SLICE, Client, Fault, KafkaClient, Kind, addresses, dispose, unanswered
from wd_di._core import Core, Effects, Limits, Retirement, Slot, State
from wd_di._delivery import Outbox
from wd_di._lines import Lines
from wd_di._probe import Probe
from wd_di._scope import Options, TransactionScope
from wd_di._sender import Terms
from wd_di._threads import Deadline, Poller, Workers
from wd_di._troubles import Siblings
from wd_di._unit import Rules
from wd_di.errors import DeliveryError, PoolOpenError
from wd_di.events import (
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
    from typing import Unpack

    from wd_di._checkout import Desk, Hold
    from wd_di._memory import MemoryBroker
    from wd_di._plan import Plan, SlotPlan
    from wd_di._scope import TransactionOptions
    from wd_di.settings import PoolSettings

ROUND_OWING = 0.005
ROUND_WAITING = 0.05
ROUND_IDLE = 0.5
MAKERS_MAX = 32
ASKERS_MAX = 4
LOOK_EVERY = 0.5
TOLD_EVERY = 10.0
"""Seconds between two events about one missing topic."""
REAPERS_MAX = 8
"""More than one, since destroying a handle can block for seconds, and its neighbours' deadline goes on."""
EXPIRY_SHARE = 0.8
"""Share of ``transactional_id_expiry_ms`` after which an idle producer is made anew."""
PERMANENT = (Kind.SETTINGS, Kind.DENIED, Kind.FATAL)
"""Failures of a creation that no waiting cures."""
ORDINARY = ("close", "reload")
"""Retirements that nobody needs to be told of."""


class Keeper:
    """The hands of one pool: its threads, and the clients they look after."""

    desk: Desk

    def __init__(self, plan: Plan, observer: Observer, memory: MemoryBroker) -> None:
        self.name: str = plan.name
        self.observer = observer
        self.purged: int = 0
        self.forgotten = False  # nobody can close the pool any more: its own threads must not keep it alive
        self.memory = memory
        self._closing_until: Deadline | None = None
        self.apply(plan)
        self.renew()

    def apply(self, plan: Plan) -> None:
        """Take the plan as the one by which producers are made from now on."""
        self.plan = plan
        settings = plan.settings
        self.settings: PoolSettings = settings
        self.limits: Limits = _limits(plan, self.memory.backoff)
        self.terms: Terms = Terms(
            pool=plan.name,
            produce_timeout_ms=settings.produce_timeout_ms,
            shared=settings.share > 1,
            transactional=plan.transactional,
            implicit_transactions=settings.implicit_transactions,
            allow_blocking_in_loop=settings.allow_blocking_in_loop,
            nudge=self.nudge,
            jobs=Workers(f"wd_di-{plan.name}-job", 2 * settings.size),
        )
        self.rules: Rules = Rules(
            terms=self.terms,
            observer=self.observer,
            transaction_timeout=plan.transaction_timeout_ms / 1000,
            commit_timeout=settings.commit_timeout_ms / 1000,
            abort_timeout=settings.abort_timeout_ms / 1000,
        )

    def renew(self) -> None:
        """Start from nothing: new locks, empty slots, no threads. At the beginning, and in a child after a fork."""
        self.core: Core = Core(self.name, self.limits)
        self.memory.lock = threading.Lock()
        self._making: dict[int, Client] = {}
        self._siblings: dict[str, Siblings] = {}
        self._lines: dict[str, Lines] = {}
        self.started: bool = False
        self._starting = threading.RLock()  # re-entrant, as every lock that a signal handler or finalizer may meet
        self._makers = Workers(f"wd_di-{self.name}-maker", min(self.limits.size, MAKERS_MAX))
        self._reaper = Workers(f"wd_di-{self.name}-reaper", min(self.limits.size, REAPERS_MAX))
        self._callbacks = Workers(f"wd_di-{self.name}-callback", 1)
        self._askers = Workers(f"wd_di-{self.name}-topic", ASKERS_MAX)
        self._probers = Workers(f"wd_di-{self.name}-probe", min(self.limits.size, MAKERS_MAX))
        self._awaited: list[Deadline] = []
        self._told: dict[str, float] = {}
        self._looked_at = 0.0
        self._mutex = threading.RLock()  # entered itself, as in Workers
        self._changed = threading.Condition(self._mutex)
        self._poller = Poller(f"wd_di-{self.name}-poller", weakref.WeakMethod(self._round))

    # -- for the desk and the pool -----------------------------------------------------------------

    def scope(self, hold: Hold | None = None, **options: Unpack[TransactionOptions]) -> TransactionScope:
        """Return a transaction to come, on ``hold`` or on whatever slot comes free."""
        return TransactionScope(self.desk, self.rules, Options(**options), hold)

    def start(self) -> None:
        """Start the poller, and warm a pool that is used before it was opened."""
        with self._starting:
            if self.started:
                return
            self.started = True
        try:
            self._poller.start()
            if self.limits.warm:
                self.carry_out(self.core.warm())
        except BaseException:  # a signal's
            self.started = False
            raise

    def trouble(self) -> BaseException | str | None:
        """The last thing that went wrong with a client that isn't working yet."""
        for client in tuple(self._making.values()):
            if client.last_error is not None:
                return client.last_error
        return self.core.last_error or (self.unanswered() if self._making else None)

    def unanswered(self) -> str:
        """What can be said without an error."""
        return unanswered(*(slot.kafka for slot in self.plan.slots))

    def addresses(self) -> str:
        """Where the brokers are; nothing, if they are mocks."""
        return addresses(*(slot.kafka for slot in self.plan.slots))

    def carry_out(self, effects: Effects | None, *, late: bool = False) -> None:
        """Do what the core decided; the lock is free now."""
        if effects is None:
            return
        self._wake(effects)
        for slot in effects.create:
            self._makers.submit(partial(self._create, self.core, slot))
        for slot in effects.retire:
            self._reaper.submit(partial(self._retire, self.core, slot, late=late))
        for lease in effects.leaks:
            self._report_leak(lease)
        with self._mutex:
            self._changed.notify_all()

    def _wake(self, effects: Effects) -> None:
        """Wake borrowers; one whose loop is closed can't take its slot, so the next one gets it."""
        for lease in effects.wake:  # it may grow: by a call in itself, a closed loop's many tasks would end the stack
            waiter = lease.waiter
            if waiter is not None and not waiter.wake():  # none: it was woken before, see Core.mend
                effects.add(self.core.release(lease))

    def wait_until(self, done: Callable[[], bool], deadline: Deadline) -> bool:
        """Wait until ``done()`` holds; it is asked again after everything that was carried out."""
        with self._mutex:
            try:
                self._awaited.append(deadline)
                self._changed.notify_all()
                return self._changed.wait_for(done, deadline.left)
            finally:
                self._awaited.remove(deadline)

    def close_clients(self, deadline: Deadline) -> None:
        """Refuse newcomers and begin to close what is idle; what is held follows on its return."""
        self._closing_until = deadline
        self.carry_out(self.core.close())

    def seize(self, patience: float) -> None:
        """Close what is held; an open transaction is aborted if the broker answers within ``patience`` seconds."""
        self._closing_until = Deadline(patience)
        for slot in self.core.seize():
            self._reaper.submit(partial(self._retire, self.core, slot))

    @property
    def overdue(self) -> bool:
        """Whether the time to close has passed, and what is still held comes back late."""
        return self._closing_until is not None and self._closing_until.passed

    def stop(self, seconds: float) -> None:
        """End the poller."""
        self._poller.stop(seconds)
        for lines in tuple(self._lines.values()):
            lines.end()

    # -- making ------------------------------------------------------------------------------------

    def _create(self, core: Core, slot: Slot) -> None:
        if not core.begin(slot, State.CREATING):
            return
        started = time.monotonic()
        plan, client = self.plan.slots[slot.index], None
        try:
            client = self._making[slot.index] = self._connect(plan)
            if client.transactional_id is not None:
                self._initialise(core, slot, client)
            elif plan.deliver and not self._reached(client):
                client = None  # the probe closes it
                client = self._making[slot.index] = self._connect(plan, patient=True)
        except BaseException as error:  # noqa: BLE001  (whatever it is, the slot must not stay CREATING)
            self._not_created(core, slot, client, error)
            return
        finally:
            self._making.pop(slot.index, None)
        self._adopt(core, slot, client, started)

    def _reached(self, client: Client) -> bool:
        """Whether a broker answers a plain producer, while nobody is in a hurry."""
        probe, since = Probe(client, self._changed), time.monotonic()
        self._probers.submit(probe.ask)
        return probe.reached(
            lambda: min([self.core.patience(since), *(each.to_half_since(since) for each in self._awaited)])
        )

    def _adopt(self, core: Core, slot: Slot, client: Client, started: float) -> None:
        if self.terms.shared:
            self._serve_alone(client, slot.index)
        self.observer.emit(
            ProducerCreated,
            pool=self.name,
            index=slot.index,
            transactional_id=client.transactional_id,
            duration_ms=(time.monotonic() - started) * 1000,
        )
        self.carry_out(core.created(slot, client))
        self.nudge()

    def _serve_alone(self, client: Client, index: int) -> None:
        thread = threading.Thread(target=self._serve, args=(client,), name=f"wd_di-{self.name}-{index}", daemon=True)
        with suppress(RuntimeError):  # no more threads: the pool's poller serves it
            thread.start()

    def _connect(self, plan: SlotPlan, *, patient: bool = False) -> Client:
        client: Client
        if plan.deliver:
            statistics = partial(self._statistics, plan.index) if self.observer.wants(StatisticsEmitted) else None
            trouble = partial(self._trouble, plan.index)
            cluster = str(plan.kafka.get("bootstrap.servers"))
            client = KafkaClient(
                plan.kafka,
                plan.transactional_id,
                statistics=statistics,
                trouble=trouble,
                siblings=self._siblings.setdefault(cluster, Siblings()),
                lines=self._lines.setdefault(cluster, Lines(self.name)),
                patient=patient,
            )
        else:
            client = self.memory.connect(plan.transactional_id)
        client.outbox = Outbox(
            self.name,
            plan.index,
            observer=self.observer,
            callbacks=self._callbacks,
            translate=client.verdict,
            hurry=self.nudge,
            topics=client.topics,
            trouble=getattr(client, "next_trouble", None),
            last_error_since=client.last_error_since,
        )
        return client

    def _initialise(self, core: Core, slot: Slot, client: Client) -> None:
        """Get the transactional id, in slices on the same handle, for as long as somebody could want it.

        No other handle may be tried meanwhile: what this one has asked can wait in a frozen broker's socket, also when
        the handle is gone, and would fence its replacement later.
        """
        while True:
            try:
                client.init(SLICE)
            except Fault as fault:
                client.poll(BREATH)
                if client.fault not in (None, fault):
                    raise client.fault from fault
                if fault.kind is not Kind.RETRIABLE or core.closing or slot.generation != core.generation:
                    raise
            else:
                return

    def _not_created(self, core: Core, slot: Slot, client: Client | None, raised: BaseException) -> None:
        kind = raised.kind if isinstance(raised, Fault) else Kind.OTHER
        cause = client.last_error if client is not None and kind is Kind.RETRIABLE else None
        error = PoolOpenError(f"producer {slot.index}: {cause or raised}")
        error.__cause__ = raised
        self.observer.emit(ErrorOccurred, pool=self.name, index=slot.index, where="producer.create", error=error)
        self.carry_out(core.creation_failed(slot, error, permanent=kind in PERMANENT))
        self._reaper.submit(partial(self._discard, core, slot, client))

    def _discard(self, core: Core, slot: Slot, client: Client | None) -> None:
        try:
            if client is not None:
                client.close()
        finally:
            self.carry_out(core.retired(slot))

    # -- closing -----------------------------------------------------------------------------------

    def _retire(self, core: Core, slot: Slot, *, late: bool = False) -> None:
        """Close a producer; one that comes back late, after the pool's close, still has time to send what it owes."""
        if not core.begin(slot, State.RETIRING):
            return
        client, retirement = slot.client, slot.retirement or Retirement("close")
        if retirement.reason not in ORDINARY:
            self._tell_retired(slot, client, retirement)
        until = None if late else self._closing_until
        deadline = until or Deadline(self.settings.close_timeout_ms / 1000)
        try:
            lost = dispose(client, deadline, self.rules.abort_timeout, given_up=self._note_purged)
        except BaseException as error:  # noqa: BLE001  (one client that can't be closed must not keep its slot)
            log_error(f"{self.name}.close", f"{self.name}: producer {slot.index} could not be closed", error)
            lost = 0
        self.observer.emit(
            ProducerClosed, pool=self.name, index=slot.index, transactional_id=client.transactional_id, purged=lost
        )
        self.carry_out(core.retired(slot))

    def _note_purged(self, lost: int) -> None:
        with self._mutex:
            self.purged += lost

    def _tell_retired(self, slot: Slot, client: Client, retirement: Retirement) -> None:
        self.observer.emit(
            ProducerRetired,
            pool=self.name,
            index=slot.index,
            transactional_id=client.transactional_id,
            reason=retirement.reason,
            error=retirement.error,
        )

    # -- polling -----------------------------------------------------------------------------------

    def _serve(self, client: Client) -> None:
        """The poller of one shared producer: blocking, so that a waiting borrower is answered at once.

        Whatever ends it, the pool's poller takes over.
        """
        with suppress(Fault):  # closed
            while client.fault is None and not self.forgotten:
                client.outbox.served_until = time.monotonic() + SLICE
                client.poll(SLICE)

    def nudge(self) -> None:
        """Something came up: end the poller's long nap."""
        if self._poller.napping:
            self._poller.wake()
        elif self._poller.refused:
            self._poller.start()

    def _round(self) -> float:
        owing, living = False, self.core.living()
        if self.core.closing and not living:
            self._poller.stop(0)
        for slot, client in living:
            owing = self._poll(slot, client) or owing
        self._finish_interrupted()
        self._look_for_brokers()
        self.carry_out(self.core.tick())
        if owing:
            return ROUND_OWING
        often = self.core.restless or self.observer.wants(StatisticsEmitted)
        often = often or any(client.topics.watched for _, client in living)
        return ROUND_WAITING if often else ROUND_IDLE

    def _finish_interrupted(self) -> None:
        """Do what an exception of a signal's handler has kept a borrower from doing; none is called on this thread."""
        if self.core.disturbed:
            self.core.disturbed = False
            self.carry_out(self.core.mend())
        now = time.monotonic()
        if now < self._looked_at + LOOK_EVERY:
            return
        self._looked_at = now
        hold: Any
        for hold in self.core.leases():
            for seen in (hold.watch, hold.unit and hold.unit.watch):
                if seen is not None and seen.overdue():
                    self.terms.jobs.submit(seen.end)

    def _poll(self, slot: Slot, client: Client) -> bool:
        """Serve one client; whether it owes anything. Who waits inside the client serves it itself."""
        served = time.monotonic() < client.outbox.served_until
        if not served:
            try:
                client.poll(0)
            except Fault:  # closed meanwhile
                return False
        if client.fault is not None:
            self.carry_out(self.core.doom(slot, client, broken(client.fault)))
        for topic in client.topics.due():
            client.topics.asking.add(topic)
            self._askers.submit(partial(self._ask, slot.index, client, topic))
        return client.owes() > 0 and not (served and self.terms.shared)

    def _ask(self, index: int, client: Client, topic: str) -> None:
        """Ask the brokers for a topic whose records have no answer, and tell of it if they don't know it."""
        topics = client.topics
        try:
            answered = client.ask(topic, topics.slice)
            if answered and topics.missing(topic):
                self._tell_missing(index, topic, topics.hint(topic))
            topics.asked(topic, answered=answered or client.last_error is not None)
        finally:
            topics.asking.discard(topic)

    def _look_for_brokers(self) -> None:
        """Have a producer ask which brokers there are, where one is away: nothing else tells of its return."""
        for lines in tuple(self._lines.values()):
            client = self._connected(lines) if lines.away else None
            if client is not None and (seconds := lines.due()) is not None:
                self._askers.submit(partial(_look, lines, client, seconds))

    def _connected(self, lines: Lines) -> KafkaClient | None:
        """A producer of their cluster, and better one that reaches a broker."""
        clients = (*(client for _, client in self.core.living()), *tuple(self._making.values()))
        fitting = [each for each in clients if isinstance(each, KafkaClient) and each.lines is lines]
        return min(fitting, key=lambda each: each.cut_off, default=None)

    # -- telling -----------------------------------------------------------------------------------

    def _tell_missing(self, index: int, topic: str, hint: str) -> None:
        now = time.monotonic()
        with self._mutex:
            if now - self._told.get(topic, -TOLD_EVERY) < TOLD_EVERY:
                return
            self._told = {each: at for each, at in self._told.items() if now - at < TOLD_EVERY} | {topic: now}
        error = DeliveryError(f"records for {topic!r} have no answer{hint}")
        log_error(f"{self.name}.topic.{topic}", f"{self.name}: a topic may be misspelt", error)
        self.observer.emit(ErrorOccurred, pool=self.name, index=index, where="topic", error=error)

    def _trouble(self, index: int, error: Exception) -> None:
        self.observer.emit(ErrorOccurred, pool=self.name, index=index, where="client", error=error)

    def _statistics(self, index: int, json: str) -> None:
        self.observer.emit(StatisticsEmitted, pool=self.name, index=index, json=json)

    def _report_leak(self, lease: Any) -> None:
        held = self.settings.leak_after_ms
        error = PoolOpenError(
            f"{self.name}: producer {lease.slot.index} is held for more than {held} ms, from {lease.place}"
        )
        log_error(f"{self.name}.leak.{lease.place}", f"{self.name}: a producer may have leaked", error)
        self.observer.emit(ErrorOccurred, pool=self.name, index=lease.slot.index, where="leak", error=error)


def _look(lines: Lines, client: KafkaClient, seconds: float) -> None:
    brokers = None
    try:
        brokers = client.brokers(seconds)
    finally:
        lines.looked(brokers)


def _limits(plan: Plan, backoff: float) -> Limits:
    settings = plan.settings
    return Limits(
        size=settings.size,
        share=settings.share,
        order=plan.order,
        warm=plan.warm,
        max_waiting=settings.max_waiting,
        max_lifetime=_seconds(settings.max_lifetime_ms),
        idle_timeout=_seconds(settings.idle_timeout_ms),
        leak_after=_seconds(settings.leak_after_ms),
        fenced_retries=settings.fenced_retries,
        id_lifetime=settings.transactional_id_expiry_ms / 1000 * EXPIRY_SHARE if plan.transactional else None,
        backoff=backoff,
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
