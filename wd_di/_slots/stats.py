"""What a look at a pool shows."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from wd_di._slots.slots import Claim

C = TypeVar("C")


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


@dataclass(slots=True)
class Counts:
    """What is counted for :class:`Totals`."""

    requests: int = 0
    queued: int = 0
    timeouts: int = 0
    created: int = 0
    create_errors: int = 0
    retired: int = 0

    def totals(self) -> Totals:
        """Return them as they are now."""
        return Totals(self.requests, self.queued, self.timeouts, self.created, self.create_errors, self.retired)


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
        place: Where it was borrowed, as ``file:line``; of an injected function's ``None``, unless ``leak_after_ms`` is
            set.
    """

    index: int
    owner: str
    held_ms: float
    place: str | None = None


def holders_of(claims: list[Claim[C]], now: float) -> tuple[Holder, ...]:
    """Return who holds what, the longest first."""
    claims.sort(key=lambda claim: claim.since)
    return tuple(
        Holder(claim.slot.index, name_of(claim.owner), (now - claim.since) * 1000, claim.place) for claim in claims
    )


def listed(holders: tuple[Holder, ...]) -> str:
    """Return who holds what, in words."""
    return ", ".join(f"{h.index} held {h.held_ms / 1000:.1f} s by {h.owner}" for h in holders) or "nobody holds them"


def name_of(owner: object) -> str:
    """Return the name of a thread, a task or a greenlet, and which of these it is."""
    if isinstance(owner, threading.Thread):
        return f"thread {owner.name!r}"
    if hasattr(owner, "gr_frame"):
        return f"greenlet {getattr(owner, 'name', owner)!r}"
    task = owner() if isinstance(owner, weakref.ref) else owner
    if task is None:
        return "a task that is gone"
    return f"task {getattr(task, 'get_name', task.__repr__)()!r}"
