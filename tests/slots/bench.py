"""A slot table, and somebody who carries out what it decides."""

from __future__ import annotations

from typing import Any

from wd_di._records.connection import Retirement
from wd_di._slots.slots import Claim, ClaimState, Effects, Slot, SlotPolicy
from wd_di._slots.table import SlotTable

REFUSED = OSError("no broker")
FENCED = Retirement("commit failed", ValueError("fenced"), fenced=True)


class Bench:
    """A table with a clock that only moves when told, and somebody who carries out what it decides."""

    def __init__(self, **limits: Any) -> None:
        self.now = 1000.0
        self.policy = SlotPolicy(**{"size": 2, **limits})
        self.table = SlotTable("orders", self.policy, clock=lambda: self.now)
        self.slots = self.table._slots

    def states(self) -> str:
        """The states in order of index: e, c, i, l, r."""
        return "".join(slot.state.value[0] for slot in self.slots)

    def create(self, effects: Effects | None) -> Effects:
        """Make all the producers that are wanted; what the last one brought."""
        assert effects is not None
        assert effects.create
        for slot in effects.create:
            done = self.table.created(slot, object())
        return done

    def warm(self) -> Bench:
        """Make all producers."""
        self.create(self.table.warm())
        return self

    def borrow(self, owner: object = "somebody") -> Claim:
        """A lease on a slot that is ready."""
        lease = Claim(owner)
        assert self.table.take(lease)
        return lease

    def queue(self, owner: object = "somebody") -> Claim:
        """A lease in the queue."""
        lease = Claim(owner)
        self.table.wait(lease)
        assert lease.state is ClaimState.WAITING
        return lease

    def fail(self, slot: Slot, *, permanent: bool = False) -> Effects:
        """A creation that failed and whose handle is gone; what the failure brought."""
        effects = self.table.creation_failed(slot, REFUSED, permanent=permanent)
        self.table.retired(slot)
        return effects

    def advance(self, seconds: float) -> Effects:
        """Let the time pass and the poller come round."""
        self.now += seconds
        return self.table.tick()

    def fence(self, slot: Slot) -> Effects:
        """Lose the slot's producer to another process."""
        effects = self.table.mark_broken(slot, slot.connection, FENCED)
        assert effects is not None
        assert [slot] == effects.retire
        return self.table.retired(slot)
