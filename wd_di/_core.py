"""Who holds which slot, who waits, and what must be created or closed next.

Nothing here blocks, does I/O or calls foreign code. Every method takes one short lock, decides, and returns
:class:`Effects`: what the caller must carry out once the lock is free. So threads and any number of event loops can be
served by one core, and a state machine can test it whole.
"""

from __future__ import annotations

import enum
import math
import threading
import time
import weakref
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from wd_di.errors import PoolClosedError, PoolExhaustedError, PoolOpenError, PoolUnhealthyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wd_di._threads import Deadline

FENCED_WINDOW = 600.0
FENCED_BACKOFF_MAX = 60.0
CREATE_BACKOFF = 0.25
CREATE_BACKOFF_MAX = 5.0
FRESH = 60.0
"""Seconds after which a failed creation explains nothing any more; whoever needs a producer has had it tried again."""


class State(enum.Enum):
    """Where a slot is: EMPTY → CREATING → IDLE ⇄ LEASED → RETIRING → EMPTY."""

    EMPTY = "empty"
    CREATING = "creating"
    IDLE = "idle"
    LEASED = "leased"
    RETIRING = "retiring"


class LeaseState(enum.Enum):
    """What became of a request. Asked under the lock, so there is no moment at which a slot has no owner on record."""

    NEW = "new"
    WAITING = "waiting"
    GRANTED = "granted"
    DONE = "done"


class Waiter(Protocol):
    """How a waiting borrower is woken: a lock for a thread, a future for a task."""

    def wake(self) -> bool:
        """Let the borrower look at its lease; false if it can't any more."""


class Retirement(NamedTuple):
    """Why a producer must not be handed out again."""

    reason: str
    error: BaseException | None = None
    fenced: bool = False
    expired: bool = False


class Lease:
    """One borrower's claim on a slot, from the request to the return."""

    __slots__ = (
        "deadline",
        "error",
        "heard_after",
        "outer",
        "owner",
        "place",
        "reported",
        "since",
        "slot",
        "state",
        "waiter",
    )

    slot: Slot

    def __init__(self, owner: object, place: str | None = None) -> None:
        self.owner: object = owner
        self.place: str | None = place
        self.state: LeaseState = LeaseState.NEW
        self.since: float = 0.0
        self.heard_after: float = 0.0  # older producers won't do: it has met one that was forgotten
        self.waiter: Waiter | None = None
        self.deadline: Deadline | None = None  # of its wait
        self.error: BaseException | None = None
        self.reported: bool = False
        self.outer: Lease | None = None


class Slot:
    """One place of the pool; its index is fixed for life, its client comes and goes."""

    __slots__ = (
        "at_work",
        "client",
        "created_at",
        "failures",
        "generation",
        "heard_at",
        "idle_since",
        "index",
        "leases",
        "not_before",
        "retirement",
        "state",
    )

    def __init__(self, index: int) -> None:
        self.index: int = index
        self.state: State = State.EMPTY
        self.client: Any = None
        self.generation: int = 0
        self.leases: list[Lease] = []
        self.retirement: Retirement | None = None
        self.created_at: float = 0.0
        self.heard_at: float = 0.0
        self.idle_since: float = 0.0
        self.not_before: float = 0.0
        self.failures: int = 0
        self.at_work: bool = False

    def __repr__(self) -> str:
        return f"<Slot {self.index} {self.state.value}>"


@dataclass(slots=True)
class Effects:
    """What the caller of the core must do now that the lock is free."""

    wake: list[Lease] = field(default_factory=list)
    create: list[Slot] = field(default_factory=list)
    retire: list[Slot] = field(default_factory=list)
    leaks: list[Lease] = field(default_factory=list)

    def add(self, more: Effects | None) -> None:
        """Take on what another decision demands."""
        if more is not None:
            self.wake += more.wake
            self.create += more.create
            self.retire += more.retire
            self.leaks += more.leaks


@dataclass(frozen=True, slots=True)
class Totals:
    """What happened since the pool was made.

    Attributes:
        requests: Checkouts that were asked for.
        queued: Those of them that had to wait for a producer.
        timeouts: Those that waited in vain.
        created: Producers that were connected.
        create_errors: Failed tries to connect one.
        retired: Producers that were given up: gone bad, expired, or ended by a reload or the close.
    """

    requests: int = 0
    queued: int = 0
    timeouts: int = 0
    created: int = 0
    create_errors: int = 0
    retired: int = 0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """One consistent picture of a pool, taken under its lock.

    Attributes:
        size: Slots of the pool.
        available: Slots that a borrower could get without waiting for another to give back: idle, not made yet, or
            shared with room left.
        idle: Slots with a producer that nobody holds.
        in_use: Slots held by at least one borrower.
        creating: Slots whose producer is being connected.
        retiring: Slots whose old producer is being closed.
        waiting: Borrowers in the queue.
        generation: How often the pool was reloaded.
        totals: Counters since the pool was made.
    """

    size: int
    available: int
    idle: int
    in_use: int
    creating: int
    retiring: int
    waiting: int
    generation: int
    totals: Totals


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a slot: part of time-out messages and of the report of ``close``.

    Attributes:
        index: The slot's index.
        owner: What holds it, a thread, a task or a greenlet, by its name.
        held_ms: For how long.
        place: Where it was borrowed, as ``file:line``; ``None`` unless ``leak_after_ms`` is set.
    """

    index: int
    owner: str
    held_ms: float
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What of the settings the core decides by. Durations in seconds."""

    size: int
    share: int = 1
    order: Literal["fifo", "lifo"] = "lifo"
    warm: bool = False
    max_waiting: int | None = None
    max_lifetime: float | None = None
    idle_timeout: float | None = None
    leak_after: float | None = None
    fenced_retries: int = 3
    id_lifetime: float | None = None  # of a transactional.id of which the coordinator hears nothing
    backoff: float = 1.0  # the share that is waited; fakes are in a hurry


class Core:
    """The slot table, the queue of waiters and the generations of one pool."""

    def __init__(self, name: str, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.limits = limits
        self.generation: int = 0
        self.closing: bool = False
        self._last_error: BaseException | None = None
        self._failed_at = 0.0
        self._clock = clock
        self._permanent = False
        # Re-entrant: a signal handler or the garbage collector may come here on the thread that is inside already.
        self._lock = threading.RLock()
        self._late: deque[tuple[Lease, Retirement | None]] = deque()
        self.disturbed: bool = False  # a signal's exception came between two steps
        self._slots = tuple(Slot(index) for index in range(limits.size))
        self._idle: deque[Slot] = deque()
        self._waiters: OrderedDict[Lease, None] = OrderedDict()
        self._fenced: deque[float] = deque()
        self._requests = self._queued = self._timeouts = 0
        self._created = self._create_errors = self._retired = 0

    # -- borrowing -----------------------------------------------------------------------------

    def take(self, lease: Lease) -> bool:
        """Grant a ready slot at once; false if there is none."""
        with self._lock:
            self._refuse_if_closing()
            self._requests += 1
            return self._grant_ready(lease)

    def wait(self, lease: Lease) -> Effects:
        """Queue the lease behind all others, and start a creation for it if a slot is empty.

        Raises:
            PoolClosedError: The pool is closing.
            PoolExhaustedError: ``max_waiting`` borrowers wait already.
            PoolOpenError: No producer lives, and the last creation failed for good a moment ago.
            PoolUnhealthyError: No producer lives and the last ones were fenced too often.
        """
        with self._lock:
            self._refuse_if_closing()
            if self._grant_ready(lease):
                return Effects(wake=[lease])
            self._refuse_if_hopeless()
            lease.state = LeaseState.WAITING
            self._waiters[lease] = None
            self._queued += 1
            return self._grow(Effects())

    def withdraw(self, lease: Lease, *, timed_out: bool = False) -> bool:
        """Leave the queue; false if the lease was granted or failed meanwhile, and so is still the caller's to end."""
        with self._lock:
            if lease.state is not LeaseState.WAITING:
                return False
            self._waiters.pop(lease, None)
            lease.state = LeaseState.DONE
            self._timeouts += timed_out
            return True

    def release(self, lease: Lease, retirement: Retirement | None = None) -> Effects | None:
        """Give back; with a retirement the producer is never handed out again. Giving back twice is harmless.

        From within another decision, as when the garbage collector ends an abandoned generator, it waits for the next
        :meth:`tick`.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  (as Condition asks it)
            self._late.append((lease, retirement))
            return None
        with self._lock:
            return self._take_back(lease, retirement)

    def exchange(self, lease: Lease, retirement: Retirement) -> Effects:
        """Take back a producer that is no good any more; its holder gets the next one that is ready.

        Before all who wait: it brought a slot along, and gets no more than one.

        Raises:
            PoolClosedError: The pool is closing; the lease still stands.
        """
        with self._lock:
            self._refuse_if_closing()
            if retirement.expired and lease.state is LeaseState.GRANTED:  # else it asks again, and knows since when
                lease.heard_after = self._clock()
            effects = self._take_back(lease, retirement) or Effects()
            if self._grant_ready(lease):
                effects.wake.append(lease)
                return effects
            lease.state = LeaseState.WAITING
            self._waiters[lease] = None
            self._waiters.move_to_end(lease, last=False)
            return self._grow(effects)

    def mend(self) -> Effects | None:
        """What is left to do when an exception of a signal's handler has come between two steps, here or of a caller.

        From within another decision there is nothing to be done now; whoever sees ``disturbed`` asks again.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  (as above)
            return None
        with self._lock:
            effects = Effects()
            self._mend(effects)
            return effects

    def patience(self, since: float) -> float:
        """Seconds until one of those who wait has waited for half of what it had left then; inf if nobody waits."""
        with self._lock:
            waiting = [lease.deadline for lease in self._waiters if lease.deadline]
        return min((deadline.to_half_since(since) for deadline in waiting), default=math.inf)

    # -- producers come and go -----------------------------------------------------------------

    @property
    def last_error(self) -> BaseException | None:
        """Why a producer couldn't be made lately, if none could since."""
        return self._last_error if self._clock() - self._failed_at < FRESH else None

    def warm(self) -> Effects:
        """Start creating every empty slot that isn't backing off."""
        with self._lock:
            effects = Effects()
            if not self.closing:
                self._create(self._due(), effects)
            return effects

    def start_one(self) -> Effects:
        """Start one creation, if no producer lives or is on its way."""
        with self._lock:
            effects = Effects()
            if not self.closing and not self._alive():
                self._create(self._due()[:1], effects)
            return effects

    def begin(self, slot: Slot, state: State) -> bool:
        """Whether the slot's creation or retirement is to be done now; false if another thread is at it, or was."""
        with self._lock:
            if slot.at_work or slot.state is not state:
                return False
            slot.at_work = True
            return True

    def created(self, slot: Slot, client: object) -> Effects:
        """The slot's producer is ready: hand it to the longest waiter, or let it rest."""
        with self._lock:
            slot.at_work = False
            slot.client = client
            slot.created_at = slot.heard_at = self._clock()
            slot.failures = 0
            self._last_error = None
            self._permanent = False
            self._created += 1
            return self._settle(slot) or Effects()

    def creation_failed(self, slot: Slot, error: BaseException, *, permanent: bool) -> Effects:
        """The slot couldn't be connected; it stays RETIRING until :meth:`retired` says that its handle is gone.

        A permanent failure (settings, authentication, rights) fails every waiter at once, unless another producer
        lives that will serve them.
        """
        with self._lock:
            slot.state = State.RETIRING
            slot.failures += 1
            doubled = CREATE_BACKOFF * 2.0 ** min(slot.failures - 1, 60)  # a float overflows at 1024
            slot.not_before = self._clock() + min(CREATE_BACKOFF_MAX, doubled) * self.limits.backoff
            self._last_error, self._failed_at = error, self._clock()
            self._permanent = permanent
            self._create_errors += 1
            return self._fail_waiters(error) if permanent and not self._alive() else Effects()

    def heard_of(self, slot: Slot) -> None:
        """A transaction of the slot was committed just now, so the coordinator keeps its id for another while."""
        slot.heard_at = self._clock()

    def expired(self, lease: Lease) -> bool:
        """Whether the coordinator may have forgotten the id of the slot that was granted just now."""
        return lease.slot.heard_at < lease.heard_after or self._forgotten(lease.slot, lease.since)

    def outlived(self, lease: Lease) -> bool:
        """Whether it may have by now, while the slot was held; a closing pool has no other one to give."""
        return not self.closing and self._forgotten(lease.slot, self._clock())

    def doom(self, slot: Slot, client: object, retirement: Retirement) -> Effects | None:
        """A producer was found broken while idle or shared: retire it now, or when its last holder returns."""
        with self._lock:
            if slot.client is not client or slot.retirement is not None:
                return None
            slot.retirement = retirement
            if slot.state is not State.IDLE:
                return None
            self._idle.remove(slot)
            return self._settle(slot)

    def retired(self, slot: Slot) -> Effects:
        """The old handle's destroy has returned, so the same index may be created again.

        Not a moment earlier: a handle whose init timed out goes on in the background and would fence its replacement.
        """
        with self._lock:
            slot.client = slot.retirement = None
            slot.at_work = False
            slot.state = State.EMPTY
            effects = Effects()
            if not self.closing:
                if self.limits.warm:
                    self._create(self._due(), effects)
                self._grow(effects)
                self._roll(effects)
            return effects

    def tick(self) -> Effects:
        """What is due by now: late returns, postponed creations, expired producers, leaks."""
        with self._lock:
            effects = Effects()
            while self._late:
                effects.add(self._take_back(*self._late.popleft()))
            if self.closing:
                return effects
            if self.limits.warm:
                self._create([slot for slot in self._due() if slot.failures or slot.not_before], effects)
            self._grow(effects)
            self._expire(effects)
            effects.leaks.extend(self._leaks())
            return effects

    def reload(self) -> Effects:
        """Begin a new generation: idle producers are replaced one at a time, held ones when they come back."""
        with self._lock:
            self._refuse_if_closing()
            self.generation += 1
            self._fenced.clear()
            effects = Effects()
            self._roll(effects)
            return effects

    def close(self) -> Effects:
        """Refuse newcomers, fail the waiters, and retire what is idle; what is held retires on its return."""
        with self._lock:
            self.closing = True
            effects = self._fail_waiters(PoolClosedError(f"{self.name}: the pool is closing"))
            while self._idle:
                self._retire(self._idle.popleft(), effects)
            return effects

    def seize(self) -> list[Slot]:
        """Take every held slot from its holders, whose leases end here; they are RETIRING from now on."""
        with self._lock:
            seized = [slot for slot in self._slots if slot.state is State.LEASED]
            for slot in seized:
                for lease in slot.leases:
                    lease.state = LeaseState.DONE
                slot.leases.clear()
                slot.state = State.RETIRING
                slot.retirement = slot.retirement or Retirement("close(force=True)")
                self._retired += 1
            return seized

    # -- looking -------------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """Return one consistent picture."""
        with self._lock:
            count = dict.fromkeys(State, 0)
            roomy = 0
            for slot in self._slots:
                count[slot.state] += 1
                roomy += slot.state is State.LEASED and self._has_room(slot)
            return PoolStats(
                size=self.limits.size,
                available=0 if self.closing else count[State.IDLE] + count[State.EMPTY] + roomy,
                idle=count[State.IDLE],
                in_use=count[State.LEASED],
                creating=count[State.CREATING],
                retiring=count[State.RETIRING],
                waiting=len(self._waiters),
                generation=self.generation,
                totals=self._totals(),
            )

    def holders(self) -> tuple[Holder, ...]:
        """Who holds what, the longest first."""
        with self._lock:
            now = self._clock()
            leases = [lease for slot in self._slots for lease in slot.leases]
        leases.sort(key=lambda lease: lease.since)
        return tuple(
            Holder(lease.slot.index, _name(lease.owner), (now - lease.since) * 1000, lease.place) for lease in leases
        )

    def living(self) -> list[tuple[Slot, Any]]:
        """Slots that have a client which isn't being closed."""
        with self._lock:
            return [(slot, slot.client) for slot in self._slots if slot.state in (State.IDLE, State.LEASED)]

    def leases(self) -> list[Lease]:
        """Every lease that holds a slot."""
        with self._lock:
            return [lease for slot in self._slots for lease in slot.leases]

    @property
    def inhabited(self) -> bool:
        """Whether any slot has a client; asked without the lock, which a finalizer's own thread may hold."""
        return any(slot.client is not None for slot in self._slots)

    @property
    def hopeless(self) -> bool:
        """Whether the last creation failed for good and nothing is on its way that might work."""
        with self._lock:
            return self._permanent and not any(slot.state is State.CREATING for slot in self._slots)

    @property
    def restless(self) -> bool:
        """Whether an empty slot is wanted, but backs off: the clock must be looked at often."""
        with self._lock:
            wanted = self._waiters or (self.limits.warm and not self.closing)
            return bool(wanted) and any(slot.state is State.EMPTY for slot in self._slots)

    def in_state(self, *states: State) -> tuple[int, ...]:
        """Indices of the slots in one of ``states``."""
        with self._lock:
            return tuple(slot.index for slot in self._slots if slot.state in states)

    def outdated(self) -> tuple[int, ...]:
        """Indices that a reload hasn't reached yet."""
        with self._lock:
            return tuple(slot.index for slot in self._slots if self._outdated(slot))

    def _outdated(self, slot: Slot) -> bool:
        """A warm pool's slot is up to date once its new producer is ready, a lazy one's when the old is gone."""
        if self.limits.warm and slot.state in (State.EMPTY, State.CREATING, State.RETIRING):
            return True
        return slot.state is not State.EMPTY and slot.generation != self.generation

    # -- decisions; the lock is held -------------------------------------------------------------

    def _refuse_if_closing(self) -> None:
        if self.closing:
            raise PoolClosedError(f"{self.name}: the pool is closed")

    def _refuse_if_hopeless(self) -> None:
        waiting = len(self._waiters)
        if self.limits.max_waiting is not None and waiting >= self.limits.max_waiting:
            raise PoolExhaustedError(f"{self.name}: {waiting} borrowers wait already (max_waiting)")
        if self._alive():
            return
        if self._permanent and not self._due():
            raise PoolOpenError(f"{self.name}: no producer can be connected: {self._last_error}") from self._last_error
        if self._fenced_too_often():
            raise PoolUnhealthyError(
                f"{self.name}: fenced {len(self._fenced)} times within 10 minutes (fenced_retries="
                f"{self.limits.fenced_retries}): another process uses the same transactional ids"
            )

    def _grant_ready(self, lease: Lease) -> bool:
        """A newcomer gets a slot only if nobody waits: nobody is ever overtaken."""
        if self._waiters:
            return False
        slot = self._shared_slot() if self.limits.share > 1 else None
        if slot is None:
            if not self._idle:
                return False
            slot = self._idle.popleft() if self.limits.order == "fifo" else self._idle.pop()
        self._grant(lease, slot)
        return True

    def _grant(self, lease: Lease, slot: Slot) -> None:
        lease.since = self._clock()
        lease.slot = slot
        lease.state = LeaseState.GRANTED
        slot.state = State.LEASED
        slot.leases.append(lease)

    def _has_room(self, slot: Slot) -> bool:
        return len(slot.leases) < self.limits.share and slot.retirement is None and slot.generation == self.generation

    def _shared_slot(self) -> Slot | None:
        """The fullest slot first: few busy producers make larger batches than many."""
        roomy = [slot for slot in self._slots if slot.state is State.LEASED and self._has_room(slot)]
        return max(roomy, key=lambda slot: len(slot.leases), default=None)

    def _take_back(self, lease: Lease, retirement: Retirement | None) -> Effects | None:
        if lease.state is not LeaseState.GRANTED:
            return None
        slot = lease.slot
        slot.retirement, known = slot.retirement or retirement, slot.retirement
        lease.state = LeaseState.DONE
        if lease in slot.leases:  # it isn't, if a signal came when it was granted
            slot.leases.remove(lease)
        if known is None and retirement is not None and retirement.expired:
            return self._retire_expired(slot)
        return self._settle(slot)

    def _retire_expired(self, found: Slot) -> Effects | None:
        """Retire with this slot all idle ones that may share its fate: one that rested half as long, or longer.

        How long the coordinator keeps an id isn't known, only that it was no longer than this one rested. A new
        producer costs less than another failed transaction.
        """
        effects = self._settle(found) or Effects()
        resting = (found.heard_at + self._clock()) / 2
        for slot in [slot for slot in self._idle if slot.heard_at <= resting]:
            self._idle.remove(slot)
            slot.retirement = found.retirement
            self._retire(slot, effects)
        return effects

    def _settle(self, slot: Slot) -> Effects | None:
        """Decide what becomes of a slot that was returned or created: on to a waiter, to rest, or to be closed."""
        if slot.retirement is None and not self.closing and slot.generation == self.generation:
            return self._offer(slot)
        if slot.leases:
            return None
        effects = Effects()
        self._retire(slot, effects)
        return effects

    def _offer(self, slot: Slot) -> Effects | None:
        effects = Effects() if self._waiters else None
        while effects and self._waiters and self._has_room(slot):
            lease = next(iter(self._waiters))
            self._grant(lease, slot)
            del self._waiters[lease]
            effects.wake.append(lease)
        if not slot.leases:
            slot.state = State.IDLE
            slot.idle_since = self._clock()
            self._idle.append(slot)
        if self._rolling():
            effects = effects or Effects()
            self._roll(effects)
        return effects

    def _mend(self, effects: Effects) -> None:
        """Put every slot in order, and repeat what may not have been carried out; whoever does it asks :meth:`begin`.

        Only after an interruption: it costs a look at each slot.
        """
        for lease in [lease for lease in self._waiters if lease.state is not LeaseState.WAITING]:
            del self._waiters[lease]
            if lease.error is not None:
                effects.wake.append(lease)
            elif lease not in lease.slot.leases:
                lease.slot.leases.append(lease)
        for slot in self._slots:
            astray = slot.state is State.LEASED or (slot.state is State.IDLE and slot not in self._idle)
            effects.wake += [lease for lease in slot.leases if lease.waiter is not None]
            if slot.state is State.CREATING and not slot.at_work:
                effects.create.append(slot)
            elif slot.state is State.RETIRING and not slot.at_work:
                effects.retire.append(slot)
            elif astray and not slot.leases:
                effects.add(self._settle(slot))

    def _retire(self, slot: Slot, effects: Effects) -> None:
        slot.state = State.RETIRING
        slot.retirement = slot.retirement or Retirement("close" if self.closing else "reload")
        if slot.retirement.fenced:
            self._note_fencing(slot)
        self._retired += 1
        effects.retire.append(slot)

    def _due(self) -> list[Slot]:
        now = self._clock()
        if self._fenced_too_often():
            return []
        return [slot for slot in self._slots if slot.state is State.EMPTY and slot.not_before <= now]

    def _create(self, slots: Iterable[Slot], effects: Effects) -> None:
        for slot in slots:
            slot.state = State.CREATING
            slot.generation = self.generation
            effects.create.append(slot)

    def _grow(self, effects: Effects) -> Effects:
        """Start as many creations as there are waiters that no creation under way will serve."""
        if self._waiters:
            creating = sum(slot.state is State.CREATING for slot in self._slots)
            wanted = -(-len(self._waiters) // self.limits.share) - creating
            self._create(self._due()[: max(0, wanted)], effects)
        return effects

    def _alive(self) -> bool:
        return any(slot.state in (State.CREATING, State.IDLE, State.LEASED) for slot in self._slots)

    def _fail_waiters(self, error: BaseException) -> Effects:
        effects = Effects()
        for lease in self._waiters:
            lease.error = error
            lease.state = LeaseState.DONE
            effects.wake.append(lease)
        self._waiters.clear()
        return effects

    def _rolling(self) -> bool:
        """Whether an idle producer of an older generation waits for its replacement."""
        return self.generation > 0 and any(slot.generation != self.generation for slot in self._idle)

    def _roll(self, effects: Effects) -> None:
        """Replace one idle producer of an older generation, if all others are up: capacity never falls to zero."""
        moving = (State.RETIRING, State.CREATING, State.EMPTY) if self.limits.warm else (State.RETIRING, State.CREATING)
        if any(slot.state in moving for slot in self._slots):
            return
        old = next((slot for slot in self._idle if slot.generation != self.generation), None)
        if old is not None:
            self._idle.remove(old)
            self._retire(old, effects)

    def _expire(self, effects: Effects) -> None:
        """Retire one expired idle producer; producers made together would else all be gone at once."""
        if any(slot.state in (State.RETIRING, State.CREATING) for slot in self._slots):
            return
        for slot in self._idle:
            reason = self._expiry(slot)
            if reason is not None:
                slot.retirement = Retirement(reason)
                self._idle.remove(slot)
                self._retire(slot, effects)
                return

    def _expiry(self, slot: Slot) -> str | None:
        now, limits = self._clock(), self.limits
        if limits.max_lifetime is not None and now - slot.created_at >= limits.max_lifetime:
            return "max_lifetime_ms"
        if limits.idle_timeout is not None and now - slot.idle_since >= limits.idle_timeout:
            return "idle_timeout_ms"
        if self._forgotten(slot, now):
            return "transactional_id_expiry_ms"
        return None

    def _forgotten(self, slot: Slot, now: float) -> bool:
        lifetime = self.limits.id_lifetime
        return lifetime is not None and now - slot.heard_at >= lifetime

    def _leaks(self) -> Iterable[Lease]:
        if self.limits.leak_after is None:
            return
        limit = self._clock() - self.limits.leak_after
        for slot in self._slots:
            for lease in slot.leases:
                if lease.since <= limit and not lease.reported:
                    lease.reported = True
                    yield lease

    def _note_fencing(self, slot: Slot) -> None:
        now = self._clock()
        while self._fenced and self._fenced[0] <= now - FENCED_WINDOW:
            self._fenced.popleft()
        self._fenced.append(now)
        slot.not_before = now + min(FENCED_BACKOFF_MAX, 2.0 ** (len(self._fenced) - 1)) * self.limits.backoff

    def _fenced_too_often(self) -> bool:
        limit = self._clock() - FENCED_WINDOW
        return sum(at > limit for at in self._fenced) > self.limits.fenced_retries

    def _totals(self) -> Totals:
        return Totals(
            requests=self._requests,
            queued=self._queued,
            timeouts=self._timeouts,
            created=self._created,
            create_errors=self._create_errors,
            retired=self._retired,
        )


def _name(owner: object) -> str:
    if isinstance(owner, threading.Thread):
        return f"thread {owner.name!r}"
    if hasattr(owner, "gr_frame"):
        return f"greenlet {getattr(owner, 'name', owner)!r}"
    task = owner() if isinstance(owner, weakref.ref) else owner
    return f"task {getattr(task, 'get_name', task.__repr__)()!r}"
