"""How it is decided who gets which slot; the table's lock is held.

The cases, in the order in which they are decided:

- A borrower asks (`take`, `wait`). The pool is closing: refused. Somebody waits: it waits behind them. A shared slot
  has room, the fullest first: granted. A slot is idle: granted. ``max_waiting`` wait already: refused. The pool is
  unhealthy and none is being made: refused. No producer lives, and none can be made: refused. Else it waits, and an
  empty slot is created for it.
- A slot comes free or was made (`release`, `created`). Its producer is no good any more or too old, the pool is closing
  or was reloaded: it retires when its last borrower is gone. Somebody waits: granted to the longest. Else it rests, and
  if that makes all slots available after a reload, the next old one is replaced.
- A producer retires or couldn't be made (`mark_broken`, `creation_failed`). If that makes the pool unhealthy, or leaves
  nothing to serve them, those who wait are told. Its handle is destroyed first (`retired`); then the slot is empty, and
  created again if somebody waits or the pool is kept warm, after its back-off.
- Time passes (`tick`). What came back late is taken back, empty slots are created, one expired producer retires.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Generic, TypeVar

from wd_di._records.connection import Retirement
from wd_di._slots.slots import (
    DONE,
    GRANTED,
    IDLE,
    LEASED,
    Claim,
    ClaimState,
    Effects,
    Fencings,
    Slot,
    SlotPolicy,
    State,
)
from wd_di._slots.stats import Counts
from wd_di.errors import PoolClosedError, PoolExhaustedError, PoolOpenError, PoolUnhealthyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

C = TypeVar("C")

HANGING = 1.0
"""Seconds after which a creation may hang; whoever waits for it may be served sooner by another one."""


class Decisions(Generic[C]):
    """The state of a table, and what is decided about it."""

    def __init__(self, name: str, policy: SlotPolicy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.policy = policy
        self.generation: int = 0
        self.closing: bool = False
        self.disturbed: bool = False  # a signal's exception came between two steps
        self._last_error: BaseException | None = None
        self._failed_at = 0.0
        self._clock = clock
        self._permanent = False
        self._reloading = False  # since a reload, until every slot is of the new generation
        # Re-entrant: a signal handler or the garbage collector may come here on the thread that is inside already.
        self._lock = threading.RLock()
        self._inside: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001  (as Condition asks it)
        self._late: deque[tuple[Claim[C], Retirement | None]] = deque()
        self._slots: tuple[Slot[C], ...] = tuple(Slot(index) for index in range(policy.size))
        self._idle: deque[Slot[C]] = deque()
        self._away: int = policy.size  # slots that are neither idle nor leased: none need be looked for if it is 0
        self._waiters: OrderedDict[Claim[C], None] = OrderedDict()
        self._failed: list[Claim[C]] = []  # whoever waited in vain, until it is certainly awake
        self._fencings = Fencings()
        self._counts = Counts()

    def _closed(self) -> PoolClosedError:
        return PoolClosedError(f"{self.name}: the pool is closed")

    def _fit(self, slot: Slot[C]) -> bool:
        """Whether the slot's producer may be handed out again."""
        return slot.retirement is None and not self.closing and slot.generation == self.generation

    def _refuse_if_hopeless(self) -> None:
        waiting = len(self._waiters)
        if self.policy.max_waiting is not None and waiting >= self.policy.max_waiting:
            raise PoolExhaustedError(f"{self.name}: {waiting} borrowers wait already (max_waiting)")
        if self._forsaken():
            raise self._unhealthy()
        if self._away and not self._alive() and self._permanent and not self._due():
            raise PoolOpenError(f"{self.name}: no producer can be connected: {self._last_error}") from self._last_error

    def _forsaken(self) -> bool:
        """Whether waiting is in vain: no id is taken back any more, and what is still held goes on the same way."""
        return self._fenced_too_often() and not any(slot.state is State.CREATING for slot in self._slots)

    def _unhealthy(self) -> PoolUnhealthyError:
        error = PoolUnhealthyError(
            f"{self.name}: fenced {len(self._fencings)} times within 10 minutes (fenced_retries="
            f"{self.policy.fenced_retries}): another process uses the same transactional ids; end it, or tell the two "
            "apart by {instance}, or {host} and {pid}, in transactional_id; then reload the pool or restart"
        )
        error.__cause__ = self._fencings.last
        return error

    def _grant_ready(self, claim: Claim[C]) -> bool:
        """A newcomer gets a slot only if nobody waits: nobody is ever overtaken."""
        if self._waiters:
            return False
        slot = self._shared_slot() if self.policy.share > 1 else None
        if slot is None:
            if not self._idle:
                return False
            slot = self._idle.popleft() if self.policy.order == "fifo" else self._idle.pop()
        self._grant(claim, slot)
        return True

    def _grant(self, claim: Claim[C], slot: Slot[C]) -> None:
        claim.since = self._clock()
        claim.slot = slot
        claim.state = GRANTED
        slot.state = LEASED
        slot.claims.append(claim)

    def _has_room(self, slot: Slot[C]) -> bool:
        return len(slot.claims) < self.policy.share and slot.retirement is None and slot.generation == self.generation

    def _shared_slot(self) -> Slot[C] | None:
        """The fullest slot first: few busy producers make larger batches than many."""
        roomy = [slot for slot in self._slots if slot.state is State.LEASED and self._has_room(slot)]
        return max(roomy, key=lambda slot: len(slot.claims), default=None)

    def _take_back(self, claim: Claim[C], retirement: Retirement | None) -> Effects[C] | None:
        if claim.state is not GRANTED:
            return None
        slot = claim.slot
        known = slot.retirement
        # The first reason counts. But who held it knows when it was too late, where the poller saw it fenced meanwhile.
        if known is None or (known.fenced and retirement is not None):
            slot.retirement = retirement
        claim.state = DONE
        if claim in slot.claims:  # it isn't, if a signal came when it was granted
            slot.claims.remove(claim)
        if known is None and retirement is not None and retirement.expired:
            return self._retire_expired(slot)
        return self._place(slot)

    def _retire_expired(self, found: Slot[C]) -> Effects[C] | None:
        """Retire with this slot all idle ones that may share its fate: one that rested half as long, or longer.

        How long the coordinator keeps an id isn't known, only that it was no longer than this one rested. A new
        producer costs less than another failed transaction.
        """
        effects = self._place(found) or Effects()
        resting = (found.heard_at + self._clock()) / 2
        for slot in [slot for slot in self._idle if slot.heard_at <= resting]:
            self._idle.remove(slot)
            slot.retirement = found.retirement
            self._retire(slot, effects)
        return effects

    def _place(self, slot: Slot[C]) -> Effects[C] | None:
        """Decide what becomes of a slot that was returned or created: on to a waiter, to rest, or to be closed."""
        if self._fit(slot) and not self._too_old(slot):
            return self._offer(slot)
        if slot.claims:
            return None
        effects: Effects[C] = Effects()
        self._retire(slot, effects)
        return effects

    def _offer(self, slot: Slot[C]) -> Effects[C] | None:
        effects: Effects[C] | None = Effects() if self._waiters else None
        while effects and self._waiters and self._has_room(slot):
            claim = next(iter(self._waiters))
            self._grant(claim, slot)
            del self._waiters[claim]
            effects.wake.append(claim)
        if not slot.claims:
            slot.state = IDLE
            slot.idle_since = self._clock()
            self._idle.append(slot)
        if self._reloading:
            effects = effects or Effects()
            self._roll(effects)
        return effects

    def _mend(self, effects: Effects[C]) -> None:
        """Put every slot in order, and repeat what may not have been carried out; whoever does it asks :meth:`begin`.

        Only after an interruption: it costs a look at each slot.
        """
        for claim in [claim for claim in self._waiters if claim.state is not ClaimState.WAITING]:
            del self._waiters[claim]
            if claim.error is None and claim not in claim.slot.claims:
                claim.slot.claims.append(claim)
        effects.wake += self._still_asleep()
        self._away = sum(slot.state not in (IDLE, LEASED) for slot in self._slots)
        for slot in self._slots:
            astray = slot.state is State.LEASED or (slot.state is State.IDLE and slot not in self._idle)
            effects.wake += [claim for claim in slot.claims if claim.waiter is not None]
            if slot.state is State.CREATING and not slot.at_work:
                effects.create.append(slot)
            elif slot.state is State.RETIRING and not slot.at_work:
                effects.retire.append(slot)
            elif astray:
                effects.add(self._place(slot))

    def _retire(self, slot: Slot[C], effects: Effects[C]) -> None:
        self._away += 1
        slot.state = State.RETIRING
        slot.retirement = slot.retirement or Retirement("close" if self.closing else "reload")
        if slot.retirement.fenced:
            now = self._clock()
            slot.not_before = now + self._fencings.note(now, slot.retirement.error) * self.policy.backoff
        self._counts.retired += 1
        effects.retire.append(slot)
        self._tell_forsaken(effects)

    def _tell_forsaken(self, effects: Effects[C]) -> None:
        if self._waiters and self._forsaken():
            effects.add(self._fail_waiters(self._unhealthy()))

    def _due(self) -> list[Slot[C]]:
        now = self._clock()
        if self._fenced_too_often():
            return []
        return [slot for slot in self._slots if slot.state is State.EMPTY and slot.not_before <= now]

    def _create(self, slots: Iterable[Slot[C]], effects: Effects[C]) -> None:
        for slot in slots:
            slot.state = State.CREATING
            slot.began_at = self._clock()
            slot.generation = self.generation
            effects.create.append(slot)

    def _grow(self, effects: Effects[C]) -> Effects[C]:
        """Start as many creations as there are waiters that no creation under way will serve soon."""
        self._tell_forsaken(effects)
        if self._waiters:
            creating = sum(self._comes(slot) for slot in self._slots)
            wanted = -(-len(self._waiters) // self.policy.share) - creating
            self._create(self._due()[: max(0, wanted)], effects)
        return effects

    def _comes(self, slot: Slot[C], patience: float = HANGING) -> bool:
        """Whether the slot's producer is being made, and likely to be ready soon."""
        return slot.state is State.CREATING and slot.began_at > self._clock() - patience

    def _alive(self) -> bool:
        return any(slot.state in (State.CREATING, State.IDLE, State.LEASED) for slot in self._slots)

    def _fail_waiters(self, error: BaseException) -> Effects[C]:
        effects: Effects[C] = Effects()
        self._failed = [*self._still_asleep(), *self._waiters]
        for claim in self._waiters:
            claim.error = error
            claim.state = ClaimState.DONE
            effects.wake.append(claim)
        self._waiters.clear()
        return effects

    def _still_asleep(self) -> list[Claim[C]]:
        return [claim for claim in self._failed if claim.error is not None and claim.waiter is not None]

    def _begin_generation(self) -> None:
        self._reloading = True  # first: while it is, whoever gives back looks at the generation
        self.generation += 1
        self._permanent = False  # what failed for good may be what the reload mends
        self._fencings.clear()

    def _roll(self, effects: Effects[C]) -> None:
        """Replace one idle producer of an older generation, if all others are up: capacity never falls to zero."""
        self._reloading = any(
            slot.generation != self.generation and slot.state is not State.EMPTY for slot in self._slots
        )
        moving = (State.RETIRING, State.CREATING, State.EMPTY) if self.policy.warm else (State.RETIRING, State.CREATING)
        if any(slot.state in moving for slot in self._slots):
            return
        old = next((slot for slot in self._idle if slot.generation != self.generation), None)
        if old is not None:
            self._idle.remove(old)
            self._retire(old, effects)

    def _too_old(self, slot: Slot[C]) -> bool:
        """Whether a returned producer goes: under load it might never be found idle. A shared one is lent no more."""
        if not slot.aged(self._clock(), self.policy) or self._one_moves():
            return False
        slot.retirement = Retirement("max_lifetime_ms")
        return True

    def _one_moves(self) -> bool:
        """Whether a producer is being replaced; those that were made together would else all be gone at once.

        One that hangs may never come, as from brokers of its own that are gone: so it is waited for during one
        lifetime. Not for less, or in an outage of all brokers the idle ones would go one by one, with what they owe.
        """
        patience = max(HANGING, self.policy.max_lifetime or HANGING)
        return any(slot.state is State.RETIRING or self._comes(slot, patience) for slot in self._slots)

    def _expire(self, effects: Effects[C]) -> None:
        """Retire one expired idle producer. In a warm pool one that was only idle is asked for a sign of life instead.

        It would be made again at once.
        """
        now, moving = self._clock(), self._one_moves()
        for slot in self._idle:
            reason = slot.expiry(now, self.policy)
            if reason == "idle_timeout_ms" and self.policy.warm:
                slot.idle_since = now
                effects.refresh.append(slot)
            elif reason is not None and not moving:
                slot.retirement = Retirement(reason)
                self._idle.remove(slot)
                self._retire(slot, effects)
                return

    def _leaks(self) -> Iterable[Claim[C]]:
        if self.policy.leak_after is None:
            return
        limit = self._clock() - self.policy.leak_after
        for slot in self._slots:
            for claim in slot.claims:
                if claim.since <= limit and not claim.reported:
                    claim.reported = True
                    yield claim

    def _fenced_too_often(self) -> bool:
        fencings, most = self._fencings, self.policy.fenced_retries
        return len(fencings) > most and fencings.within(self._clock()) > most
