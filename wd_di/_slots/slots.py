"""What a slot is, what a claim on it, and what is to be done once somebody has decided about them."""

from __future__ import annotations

import enum
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from wd_di._records.delivery import another

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di._concurrency.deadline import Deadline
    from wd_di._records.connection import Retirement
    from wd_di.events import RetirementReason

C = TypeVar("C")


class State(enum.Enum):
    """Where a slot is: EMPTY → CREATING → IDLE ⇄ LEASED → RETIRING → EMPTY."""

    EMPTY = "empty"
    CREATING = "creating"
    IDLE = "idle"
    LEASED = "leased"
    RETIRING = "retiring"


class ClaimState(enum.Enum):
    """What became of a claim. Asked under the lock, so there is no moment at which a slot has no owner on record."""

    NEW = "new"
    WAITING = "waiting"
    GRANTED = "granted"
    DONE = "done"


NEW, WAITING, GRANTED, DONE = ClaimState
IDLE, LEASED = State.IDLE, State.LEASED
"""For the paths of every checkout: as an attribute of its class, a member costs five times as much."""


class Waiter(Protocol):
    """How a waiting borrower is woken: a lock for a thread, a future for a task."""

    def wake(self) -> bool:
        """Let the borrower look at its claim; false if it can't any more."""


class Slot(Generic[C]):
    """One place of the pool; its index is fixed for life, what it lends comes and goes."""

    __slots__ = (
        "at_work",
        "began_at",
        "claims",
        "connection",
        "created_at",
        "failures",
        "gate",
        "generation",
        "heard_at",
        "idle_since",
        "index",
        "not_before",
        "retirement",
        "state",
    )

    def __init__(self, index: int) -> None:
        self.index: int = index
        self.state: State = State.EMPTY
        self.connection: C | None = None
        self.generation: int = 0
        self.claims: list[Claim[C]] = []
        self.gate: threading.RLock = threading.RLock()  # between a borrower's begin and its end in another thread
        self.retirement: Retirement | None = None
        self.began_at: float = 0.0  # its creation
        self.created_at: float = 0.0
        self.heard_at: float = 0.0
        self.idle_since: float = 0.0
        self.not_before: float = 0.0
        self.failures: int = 0
        self.at_work: bool = False

    def forgotten(self, now: float, lifetime: float | None) -> bool:
        """Whether the coordinator may have forgotten the id, of which it last heard so long ago."""
        return lifetime is not None and now - self.heard_at >= lifetime

    def aged(self, now: float, policy: SlotPolicy) -> bool:
        """Whether the producer has lived for long enough."""
        return policy.max_lifetime is not None and now - self.created_at >= policy.max_lifetime

    def expiry(self, now: float, policy: SlotPolicy) -> RetirementReason | None:
        """Why the idle producer has lived for long enough, if it has."""
        if self.aged(now, policy):
            return "max_lifetime_ms"
        if self.forgotten(now, policy.id_lifetime):
            return "transactional_id_expiry_ms"
        idle = policy.idle_timeout is not None and now - self.idle_since >= policy.idle_timeout
        return "idle_timeout_ms" if idle else None

    def __repr__(self) -> str:
        return f"<Slot {self.index} {self.state.value}>"


NOWHERE: Slot[Any] = Slot(-1)
"""The slot of a claim that none was granted to."""


class Claim(Generic[C]):
    """One borrower's claim on a slot, from the request to the return."""

    __slots__ = (
        "deadline",
        "error",
        "heard_after",
        "owner",
        "reported",
        "since",
        "slot",
        "state",
        "waiter",
    )

    def __init__(self, owner: object) -> None:
        self.owner: object = owner
        self.state: ClaimState = NEW
        self.slot: Slot[C] = NOWHERE
        self.since: float = 0.0
        self.heard_after: float = 0.0  # older producers won't do: it has met one that was forgotten
        self.waiter: Waiter | None = None
        self.deadline: Deadline | None = None  # of its wait
        self.error: BaseException | None = None
        self.reported: bool = False

    @property
    def place(self) -> str | None:
        """The line that made the claim, if that is known."""
        return None

    def leave_to_parent(self) -> None:
        """In a forked child: it is somebody else's."""

    def overdue(self) -> Callable[[], object] | None:
        """Return what ends the claim, if it was to be ended and wasn't."""
        return None


@dataclass(slots=True)
class Effects(Generic[C]):
    """What the caller of the table must do now that the lock is free."""

    wake: list[Claim[C]] = field(default_factory=list)
    create: list[Slot[C]] = field(default_factory=list)
    retire: list[Slot[C]] = field(default_factory=list)
    leaks: list[Claim[C]] = field(default_factory=list)
    refresh: list[Slot[C]] = field(default_factory=list)

    def add(self, more: Effects[C] | None) -> None:
        """Take on what another decision demands."""
        if more is not None:
            self.wake += more.wake
            self.create += more.create
            self.retire += more.retire
            self.leaks += more.leaks
            self.refresh += more.refresh


@dataclass(frozen=True, slots=True)
class SlotPolicy:
    """What of the settings decides who gets which slot, and how long its producer lives. Durations in seconds."""

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


FENCED_WINDOW = 600.0
FENCED_BACKOFF_MAX = 60.0


class Fencings:
    """When producers of one pool were fenced lately.

    Attributes:
        last: What the last one has met.
    """

    def __init__(self) -> None:
        self.last: BaseException | None = None
        self._at: deque[float] = deque()

    def note(self, now: float, error: BaseException | None) -> float:
        """Take note of one; seconds until its id should be taken back, which double."""
        self.last = error if error is None else another(error)  # its frames are the borrower's
        while self._at and self._at[0] <= now - FENCED_WINDOW:
            self._at.popleft()
        self._at.append(now)
        return min(FENCED_BACKOFF_MAX, 2.0 ** (len(self._at) - 1))

    def within(self, now: float) -> int:
        """How many there were within the last ten minutes."""
        return sum(at > now - FENCED_WINDOW for at in self._at)

    def clear(self) -> None:
        """Forget them."""
        self.last = None
        self._at.clear()

    def __len__(self) -> int:
        return len(self._at)
