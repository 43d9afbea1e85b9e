"""Who gets which slot, and what must be made or closed next.

Nothing here blocks, does I/O or calls foreign code. Every method takes one short lock, decides, and returns
:class:`Effects`: what the caller must carry out once the lock is free. So threads and any number of event loops can be
served by one table, and a state machine can test it whole.
"""

from __future__ import annotations

import math
from typing import TypeVar

from wd_di._records.connection import Retirement
from wd_di._slots.decisions import Decisions
from wd_di._slots.slots import DONE, GRANTED, IDLE, LEASED, Claim, ClaimState, Effects, Slot, State
from wd_di._slots.stats import Holder, PoolStats, holders_of
from wd_di.errors import PoolClosedError, PoolError, PoolOpenError

C = TypeVar("C")

CREATE_BACKOFF = 0.25
CREATE_BACKOFF_MAX = 5.0
FRESH = 60.0
"""Seconds after which a failed creation explains nothing any more; whoever needs a producer has had it tried again."""


class SlotTable(Decisions[C]):
    """The slots, the queue of waiters and the generations of one pool, whose slots lend a ``C`` each."""

    # -- borrowing -----------------------------------------------------------------------------

    def take(self, claim: Claim[C]) -> bool:
        """Grant a ready slot at once; false if there is none."""
        with self._lock:
            if self.closing:
                raise self._closed()
            self._counts.requests += 1
            if self._waiters or not self._idle or self.policy.share > 1:
                return self._grant_ready(claim)
            # The most frequent case, in place: as _grant_ready.
            slot = self._idle.popleft() if self.policy.order == "fifo" else self._idle.pop()
            claim.since = self._clock()
            claim.slot = slot
            claim.state = GRANTED
            slot.state = LEASED
            slot.claims.append(claim)
            return True

    def wait(self, claim: Claim[C]) -> Effects[C] | None:
        """Queue the claim behind all others, and start a creation for it if a slot is empty.

        Returns:
            What is to be carried out; ``None`` if it can only wait for somebody's return.

        Raises:
            PoolClosedError: The pool is closing.
            PoolExhaustedError: ``max_waiting`` borrowers wait already.
            PoolOpenError: No producer lives, and the last creation failed for good a moment ago.
            PoolUnhealthyError: The last producers were fenced too often, and none is being made.
        """
        with self._lock:
            if self.closing:
                raise self._closed()
            if self._grant_ready(claim):
                return Effects(wake=[claim])
            self._refuse_if_hopeless()
            claim.state = ClaimState.WAITING
            self._waiters[claim] = None
            self._counts.queued += 1
            return self._grow(Effects()) if self._away else None

    def withdraw(self, claim: Claim[C], *, timed_out: bool = False) -> bool:
        """Leave the queue; false if the claim was granted or failed meanwhile, and so is still the caller's to end."""
        with self._lock:
            if claim.state is not ClaimState.WAITING:
                return False
            self._waiters.pop(claim, None)
            claim.state = ClaimState.DONE
            self._counts.timeouts += timed_out
            return True

    def release(self, claim: Claim[C], retirement: Retirement | None = None) -> Effects[C] | None:
        """Give back; with a retirement the producer is never handed out again. Giving back twice is harmless.

        From within another decision, as when the garbage collector ends an abandoned generator, it waits for the next
        :meth:`tick`.

        Returns:
            What is to be carried out, nothing being a :meth:`tick`; ``None`` if that isn't, either: the slot rests, or
            it was back.
        """
        if self._inside():
            self._late.append((claim, retirement))
            return Effects()
        with self._lock:
            slot, claims = claim.slot, claim.slot.claims
            if (
                retirement is not None
                or claim.state is not GRANTED
                or not (claims and claims[-1] is claim)
                or self._reloading
                or slot.retirement is not None
                or self.closing
                or self.policy.max_lifetime is not None
            ):
                return self._take_back(claim, retirement)
            # The most frequent cases, in place, as _take_back: on to whoever waits, or to rest.
            claim.state = DONE
            claims.pop()
            if self._waiters:
                following = next(iter(self._waiters))
                self._grant(following, slot)
                del self._waiters[following]
                return Effects(wake=[following])
            if not claims:
                slot.state = IDLE
                slot.idle_since = self._clock()
                self._idle.append(slot)
            return None

    def exchange(self, claim: Claim[C], retirement: Retirement) -> Effects[C]:
        """Take back a producer that is no good any more; its holder gets the next one that is ready.

        Before all who wait: it brought a slot along, and gets no more than one.

        Raises:
            PoolClosedError: The pool is closing; the claim still stands.
        """
        with self._lock:
            if self.closing:
                raise self._closed()
            if retirement.expired and claim.state is ClaimState.GRANTED:  # else it asks again, and knows since when
                claim.heard_after = self._clock()
            effects = self._take_back(claim, retirement) or Effects()
            if self._grant_ready(claim):
                effects.wake.append(claim)
                return effects
            claim.state = ClaimState.WAITING
            self._waiters[claim] = None
            self._waiters.move_to_end(claim, last=False)
            return self._grow(effects)

    def mend(self) -> Effects[C] | None:
        """What is left to do when an exception of a signal's handler has come between two steps, here or of a caller.

        From within another decision there is nothing to be done now; whoever sees ``disturbed`` asks again.
        """
        if self._inside():
            return None
        with self._lock:
            effects: Effects[C] = Effects()
            self._mend(effects)
            return effects

    def patience(self, since: float) -> float:
        """Seconds until one of those who wait has waited for half of what it had left then; inf if nobody waits."""
        with self._lock:
            waiting = [claim.deadline for claim in self._waiters if claim.deadline]
        return min((deadline.to_half_since(since) for deadline in waiting), default=math.inf)

    # -- producers come and go -----------------------------------------------------------------

    @property
    def last_error(self) -> BaseException | None:
        """Why a producer couldn't be made lately, if none could since."""
        return self._last_error if self._clock() - self._failed_at < FRESH else None

    def warm(self) -> Effects[C]:
        """Start creating every empty slot that isn't backing off."""
        with self._lock:
            effects: Effects[C] = Effects()
            if not self.closing:
                self._create(self._due(), effects)
            return effects

    def start_one(self) -> Effects[C]:
        """Start one creation, if no producer lives or is on its way."""
        with self._lock:
            effects: Effects[C] = Effects()
            if not self.closing and not self._alive():
                self._create(self._due()[:1], effects)
            return effects

    def begin(self, slot: Slot[C], state: State) -> bool:
        """Whether the slot's creation or retirement is to be done now; false if another thread is at it, or was."""
        with self._lock:
            if slot.at_work or slot.state is not state:
                return False
            slot.at_work = True
            return True

    def created(self, slot: Slot[C], connection: C) -> Effects[C]:
        """The slot's producer is ready: hand it to the longest waiter, or let it rest."""
        with self._lock:
            slot.at_work = False
            self._away -= 1
            slot.connection = connection
            slot.created_at = slot.heard_at = self._clock()
            slot.failures = 0
            self._last_error = None
            self._permanent = False
            self._counts.created += 1
            effects = self._place(slot) or Effects()
            self._tell_forsaken(effects)
            return effects

    def creation_failed(self, slot: Slot[C], error: BaseException, *, permanent: bool) -> Effects[C]:
        """The slot couldn't be connected; it stays RETIRING until :meth:`retired` says that its handle is gone.

        A permanent failure (settings, authentication, rights) fails every waiter at once, unless another producer
        lives that will serve them.
        """
        with self._lock:
            permanent = permanent and slot.generation == self.generation  # else by settings that are gone
            slot.state = State.RETIRING
            slot.failures += 1
            doubled = CREATE_BACKOFF * 2.0 ** min(slot.failures - 1, 60)  # a float overflows at 1024
            slot.not_before = self._clock() + min(CREATE_BACKOFF_MAX, doubled) * self.policy.backoff
            self._last_error, self._failed_at = error, self._clock()
            self._permanent = permanent
            self._counts.create_errors += 1
            if permanent and not self._alive():
                return self._fail_waiters(error)
            effects: Effects[C] = Effects()
            self._tell_forsaken(effects)
            return effects

    def heard_of(self, slot: Slot[C]) -> None:
        """A transaction of the slot was committed just now, so the coordinator keeps its id for another while."""
        slot.heard_at = self._clock()

    def expired(self, claim: Claim[C]) -> bool:
        """Whether the coordinator may have forgotten the id of the slot that was granted just now."""
        return claim.slot.heard_at < claim.heard_after or claim.slot.forgotten(claim.since, self.policy.id_lifetime)

    def outlived(self, claim: Claim[C]) -> bool:
        """Whether it may have by now, while the slot was held; a closing pool has no other one to give."""
        return not self.closing and claim.slot.forgotten(self._clock(), self.policy.id_lifetime)

    def mark_broken(self, slot: Slot[C], connection: C, retirement: Retirement) -> Effects[C] | None:
        """A producer was found broken while idle or shared: retire it now, or when its last holder returns."""
        with self._lock:
            if slot.connection is not connection or slot.retirement is not None:
                return None
            slot.retirement = retirement
            if slot.state is not State.IDLE:
                return None
            self._idle.remove(slot)
            return self._place(slot)

    def retired(self, slot: Slot[C], *, again: bool = False) -> Effects[C]:
        """The old handle's destroy has returned, so the same index may be created again; or must be, if ``again``.

        Not a moment earlier: a handle whose init timed out goes on in the background and would fence its replacement.
        """
        with self._lock:
            slot.connection = slot.retirement = None
            slot.at_work = False
            slot.state = State.EMPTY
            effects: Effects[C] = Effects()
            if not self.closing:
                if (self.policy.warm or again) and slot in self._due():
                    self._create([slot], effects)
                self._grow(effects)
                self._roll(effects)
            return effects

    def tick(self) -> Effects[C]:
        """What is due by now: late returns, postponed creations, expired producers, leaks."""
        with self._lock:
            effects: Effects[C] = Effects()
            while self._late:
                effects.add(self._take_back(*self._late.popleft()))
            self._failed = self._still_asleep()
            if self.closing:
                return effects
            if self.policy.warm:
                self._create([slot for slot in self._due() if slot.began_at], effects)
            self._grow(effects)
            self._expire(effects)
            effects.leaks.extend(self._leaks())
            return effects

    def reload(self) -> Effects[C]:
        """Begin a new generation: idle producers are replaced one at a time, held ones when they come back."""
        with self._lock:
            if self.closing:
                raise self._closed()
            self._begin_generation()
            effects: Effects[C] = Effects()
            self._roll(effects)
            return effects

    def close(self) -> Effects[C]:
        """Refuse newcomers, fail the waiters, and retire what is idle; what is held retires on its return."""
        with self._lock:
            self.closing = True
            effects = self._fail_waiters(PoolClosedError(f"{self.name}: the pool is closing"))
            while self._idle:
                self._retire(self._idle.popleft(), effects)
            return effects

    def seize(self) -> list[Slot[C]]:
        """Take every held slot from its holders, whose claims end here; they are RETIRING from now on."""
        with self._lock:
            seized = [slot for slot in self._slots if slot.state is State.LEASED]
            self._away += len(seized)
            for slot in seized:
                for claim in slot.claims:
                    claim.state = ClaimState.DONE
                slot.claims.clear()
                slot.state = State.RETIRING
                slot.retirement = slot.retirement or Retirement("close(force=True)")
                self._counts.retired += 1
            return seized

    # -- looking -------------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """Return one consistent picture."""
        with self._lock:
            states = [slot.state for slot in self._slots]
            roomy = sum(slot.state is State.LEASED and self._has_room(slot) for slot in self._slots)
            return PoolStats(
                size=self.policy.size,
                available=0 if self.closing else states.count(State.IDLE) + states.count(State.EMPTY) + roomy,
                idle=states.count(State.IDLE),
                in_use=states.count(State.LEASED),
                creating=states.count(State.CREATING),
                retiring=states.count(State.RETIRING),
                waiting=len(self._waiters),
                generation=self.generation,
                totals=self._counts.totals(),
            )

    def holders(self) -> tuple[Holder, ...]:
        """Who holds what, the longest first."""
        with self._lock:
            now, claims = self._clock(), [claim for slot in self._slots for claim in slot.claims]
        return holders_of(claims, now)

    def living(self) -> list[tuple[Slot[C], C]]:
        """Slots that have a connection which isn't being closed."""
        with self._lock:
            at_hand = [(slot, slot.connection) for slot in self._slots if slot.state in (State.IDLE, State.LEASED)]
        return [(slot, connection) for slot, connection in at_hand if connection is not None]

    def connections(self) -> list[C]:
        """Every connection there is, also those that are being closed."""
        with self._lock:
            return [slot.connection for slot in self._slots if slot.connection is not None]

    def inherited(self) -> tuple[Slot[C], ...]:
        """Return all slots, in a forked child: another thread of the parent's may have held the lock."""
        return self._slots

    def claims(self) -> list[Claim[C]]:
        """Every claim that holds a slot."""
        with self._lock:
            return [claim for slot in self._slots for claim in slot.claims]

    @property
    def inhabited(self) -> bool:
        """Whether any slot has a connection; asked without the lock, which a finalizer's own thread may hold."""
        return any(slot.connection is not None for slot in self._slots)

    @property
    def hopeless(self) -> bool:
        """Whether the last creation failed for good and nothing is on its way that might work."""
        with self._lock:
            return self._permanent and not any(slot.state is State.CREATING for slot in self._slots)

    @property
    def restless(self) -> bool:
        """Whether an empty slot is wanted, but backs off: the clock must be looked at often."""
        with self._lock:
            wanted = self._waiters or (self.policy.warm and not self.closing)
            return bool(wanted) and any(slot.state is State.EMPTY for slot in self._slots)

    def in_state(self, *states: State) -> tuple[int, ...]:
        """Indices of the slots in one of ``states``."""
        with self._lock:
            return tuple(slot.index for slot in self._slots if slot.state in states)

    def outdated(self) -> tuple[int, ...]:
        """Indices that a reload hasn't reached yet."""
        with self._lock:
            return tuple(slot.index for slot in self._slots if self._outdated(slot))

    def irreplaceable(self) -> PoolError | None:
        """Why the producers that a reload hasn't reached wait in vain, if they do: it goes by what can't be made.

        A lazy pool's reload waits for none to be made.
        """
        with self._lock:
            if not self.policy.warm or any(slot.state is State.CREATING for slot in self._slots):
                return None
            if self._fenced_too_often():
                return self._unhealthy()
            if not self._permanent:
                return None
            old = [slot.index for slot in self._slots if self._outdated(slot)]
            error = PoolOpenError(
                f"{self.name}: producers {old} can't be replaced: {self._last_error}; they are tried again, for it may "
                "be mended where Kafka is, or by a reload with other settings"
            )
            error.__cause__ = self._last_error
            return error

    def _outdated(self, slot: Slot[C]) -> bool:
        """A warm pool's slot is up to date once its new producer is ready, a lazy one's when the old is gone."""
        if self.policy.warm and slot.state in (State.EMPTY, State.CREATING, State.RETIRING):
            return True
        return slot.state is not State.EMPTY and slot.generation != self.generation
