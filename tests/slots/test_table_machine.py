from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wd_di._records.connection import Retirement
from wd_di._slots.decisions import HANGING
from wd_di._slots.slots import Claim, ClaimState, Effects, Slot, SlotPolicy, State
from wd_di._slots.table import SlotTable
from wd_di.errors import PoolClosedError, PoolError

T = TypeVar("T")

ANY = strategies.integers(0, 7)
RETIREMENTS = strategies.sampled_from(
    [None, None, Retirement("commit failed"), Retirement("fenced", ValueError("fenced"), fenced=True)]
)


class Client:
    """What a creation makes."""

    def __init__(self, generation: int) -> None:
        self.generation = generation


class Waiter:
    """Is woken at most once."""

    woken = False

    def wake(self) -> None:
        assert not self.woken
        self.woken = True


class Machine(RuleBasedStateMachine):
    """Stands for a pool's borrowers and threads: it asks the table anything at any time, and keeps its own books."""

    @initialize(
        size=strategies.integers(1, 4),
        share=strategies.sampled_from([1, 1, 3]),
        order=strategies.sampled_from(["fifo", "lifo"]),
        warm=strategies.booleans(),
        max_waiting=strategies.sampled_from([None, None, 2]),
        expire=strategies.booleans(),
    )
    def build(self, *, size: int, share: int, order: Any, warm: bool, max_waiting: int | None, expire: bool) -> None:
        self.now = 1000.0
        self.policy = SlotPolicy(
            size=size,
            share=share,
            order=order,
            warm=warm,
            max_waiting=max_waiting,
            max_lifetime=60.0 if expire else None,
            idle_timeout=20.0 if expire else None,
            leak_after=30.0,
        )
        self.table = SlotTable("orders", self.policy, clock=lambda: self.now)
        self.queue: list[Claim] = []
        self.held: list[Claim] = []
        self.creating: list[Slot] = []
        self.retiring: list[Slot] = []
        self.banned: set[Client] = set()
        self.born: dict[Client, float] = {}
        self.reported: set[Claim] = set()
        self.names = itertools.count()

    # -- carrying out -----------------------------------------------------------------------------

    def carry_out(self, effects: Effects | None) -> None:
        if effects is None:
            return
        for lease in effects.wake:
            self.woken(lease)
        for slot in effects.create:
            assert slot not in self.creating + self.retiring
            assert slot.connection is None
            self.creating.append(slot)
        for slot in effects.retire:
            assert slot not in self.creating + self.retiring
            self.banned.add(slot.connection)
            self.retiring.append(slot)
        for lease in effects.leaks:
            assert lease in self.held
            assert lease not in self.reported
            self.reported.add(lease)

    def replace(self, effects: Effects) -> None:
        """A producer is replaced only while all others are up."""
        assert not effects.retire or not (self.creating + self.retiring + effects.retire[1:])
        self.carry_out(effects)

    def woken(self, lease: Claim) -> None:
        assert lease is self.queue.pop(0), "overtaken"
        assert lease.waiter is not None
        lease.waiter.wake()
        if lease.state is ClaimState.GRANTED:
            self.granted(lease)
        else:
            assert (ClaimState.DONE, True) == (lease.state, lease.error is not None)

    def granted(self, lease: Claim) -> None:
        assert State.LEASED is lease.slot.state
        assert lease.slot.connection not in self.banned
        self.held.append(lease)

    @staticmethod
    def one(of: list[T], number: int) -> T:
        return of[number % len(of)]

    # -- borrowers --------------------------------------------------------------------------------

    @rule(asks_first=strategies.booleans())
    def borrow(self, *, asks_first: bool) -> None:
        lease = Claim(f"borrower {next(self.names)}")
        lease.waiter = Waiter()
        refused: list[PoolError] = []
        try:
            if asks_first and self.table.take(lease):
                assert not self.queue, "a newcomer overtook a waiter"
                self.granted(lease)
            else:
                effects = self.table.wait(lease) or Effects()
                self.queue.append(lease)
                self.carry_out(effects)
                wanted = -(-len(self.queue) // self.policy.share)
                soon = [slot for slot in self.creating if slot.began_at > self.now - HANGING]
                assert not effects.create or len(soon) <= wanted
        except PoolError as error:
            refused.append(error)

        assert (lease.state is ClaimState.NEW) == bool(refused)
        assert self.table.closing == any(isinstance(error, PoolClosedError) for error in refused)

    @precondition(lambda self: self.queue)
    @rule(number=ANY, timed_out=strategies.booleans())
    def give_up(self, number: int, *, timed_out: bool) -> None:
        lease = self.one(self.queue, number)
        self.queue.remove(lease)

        assert self.table.withdraw(lease, timed_out=timed_out)
        assert not self.table.withdraw(lease)

    @precondition(lambda self: self.held)
    @rule(number=ANY, retirement=RETIREMENTS)
    def give_back(self, number: int, retirement: Retirement | None) -> None:
        lease = self.one(self.held, number)
        client = lease.slot.connection
        assert not self.table.withdraw(lease)
        self.held.remove(lease)
        if retirement is not None or client.generation != self.table.generation:
            self.banned.add(client)
        self.carry_out(self.table.release(lease, retirement))
        if lease.slot.retirement is not None and self.too_old(client):
            self.banned.add(client)  # a shared one is lent no more, though others have it still

        assert self.table.release(lease, retirement) is None
        assert lease.slot.retirement is None or client in self.banned

    @precondition(lambda self: self.held and not self.table.closing)
    @rule(number=ANY, expired=strategies.booleans())
    def exchange(self, number: int, *, expired: bool) -> None:
        lease = self.one(self.held, number)
        self.held.remove(lease)
        self.banned.add(lease.slot.connection)
        lease.waiter = Waiter()
        effects = self.table.exchange(lease, Retirement("expired", expired=expired))
        self.queue.insert(0, lease)
        self.carry_out(effects)

        assert lease.state in (ClaimState.WAITING, ClaimState.GRANTED)

    # -- the pool's threads -----------------------------------------------------------------------

    @precondition(lambda self: self.creating)
    @rule(number=ANY)
    def created(self, number: int) -> None:
        slot = self.one(self.creating, number)
        self.creating.remove(slot)
        client = Client(slot.generation)
        self.born[client] = self.now
        self.carry_out(self.table.created(slot, client))
        wanted = not self.table.closing and slot.generation == self.table.generation

        assert wanted == (slot.state is not State.RETIRING)

    @precondition(lambda self: self.creating)
    @rule(number=ANY, permanent=strategies.booleans())
    def creation_failed(self, number: int, *, permanent: bool) -> None:
        slot = self.one(self.creating, number)
        self.creating.remove(slot)
        self.retiring.append(slot)
        self.carry_out(self.table.creation_failed(slot, OSError("no broker"), permanent=permanent))

    @precondition(lambda self: self.retiring)
    @rule(number=ANY)
    def retired(self, number: int) -> None:
        slot = self.one(self.retiring, number)
        self.retiring.remove(slot)
        self.replace(self.table.retired(slot))

    @rule(seconds=strategies.sampled_from([0.01, 0.3, 6.0, 25.0, 61.0, 601.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.table.tick())

    @rule(number=ANY, stale=strategies.booleans(), fenced=strategies.booleans())
    def mark_broken(self, number: int, *, stale: bool, fenced: bool) -> None:
        slot = self.one(self.table._slots, number)
        client = Client(-1) if stale or slot.connection is None else slot.connection
        self.banned.add(client)
        self.carry_out(self.table.mark_broken(slot, client, Retirement("broken", fenced=fenced)))

    # -- the pool's owner -------------------------------------------------------------------------

    @rule(everything=strategies.booleans())
    def start(self, *, everything: bool) -> None:
        self.carry_out(self.table.warm() if everything else self.table.start_one())

    @precondition(lambda self: not self.table.closing)
    @rule()
    def reload(self) -> None:
        generation = self.table.generation
        self.replace(self.table.reload())

        assert generation + 1 == self.table.generation
        self.tick(0.0)

    @precondition(lambda self: self.now > 1100)  # a pool lives a while before it closes
    @rule(force=strategies.booleans())
    def close(self, *, force: bool) -> None:
        self.carry_out(self.table.close())
        if not force:
            return
        seized = self.table.seize()
        self.retiring += seized
        self.held.clear()

        assert not self.table.stats().in_use

    # -- what always holds ------------------------------------------------------------------------

    def too_old(self, client: Client) -> bool:
        lifetime = self.policy.max_lifetime
        return lifetime is not None and self.now - self.born[client] >= lifetime

    def slots(self, holds: Callable[[Slot], object]) -> list[Slot]:
        return [slot for slot in self.table._slots if holds(slot)]

    @invariant()
    def the_counts_add_up_to_the_size(self) -> None:
        stats = self.table.stats()
        empty = len(self.slots(lambda slot: slot.state is State.EMPTY))

        assert self.policy.size == empty + stats.creating + stats.idle + stats.in_use + stats.retiring
        assert len(self.queue) == stats.waiting
        assert self.table._away == empty + stats.creating + stats.retiring

    @invariant()
    def every_transition_was_told_once(self) -> None:
        assert {*self.creating} == {*self.slots(lambda slot: slot.state is State.CREATING)}
        assert {*self.retiring} == {*self.slots(lambda slot: slot.state is State.RETIRING)}

    @invariant()
    def who_holds_what_is_on_record(self) -> None:
        leased = self.slots(lambda slot: slot.state is State.LEASED)
        leases = [lease for slot in self.table._slots for lease in slot.claims]

        assert {*leased} == {*self.slots(lambda slot: slot.claims)}
        assert len(self.held) == len(leases)
        assert {*self.held} == {*leases}
        assert all(lease.state is ClaimState.GRANTED for lease in leases)
        assert all(len(slot.claims) <= self.policy.share for slot in leased)

    @invariant()
    def clients_live_where_the_state_says(self) -> None:
        assert all(slot.connection is None for slot in self.slots(lambda slot: slot.state is State.EMPTY))
        assert all(slot.connection is None for slot in self.slots(lambda slot: slot.state is State.CREATING))
        assert all(slot.connection not in self.banned for slot in self.slots(lambda slot: slot.state is State.IDLE))

    @invariant()
    def nobody_waits_beside_a_slot_that_could_serve(self) -> None:
        if not self.queue:
            return
        assert not self.slots(lambda slot: slot.state is State.IDLE)
        assert not self.slots(
            lambda slot: (
                slot.state is State.LEASED
                and len(slot.claims) < self.policy.share
                and slot.connection.generation == self.table.generation
                and slot.connection not in self.banned
            )
        )

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        coming = len(self.creating) * self.policy.share >= len(self.queue)

        assert coming or self.retiring or not self.table._due()

    @invariant()
    def a_closing_pool_rests_on_its_holders_alone(self) -> None:
        if self.table.closing:
            assert not self.queue
            assert not self.slots(lambda slot: slot.state is State.IDLE)

    @invariant()
    def a_reload_goes_on_until_it_is_done(self) -> None:
        old = self.slots(lambda slot: slot.state is State.IDLE and slot.connection.generation != self.table.generation)
        stuck = self.policy.warm and self.slots(lambda slot: slot.state is State.EMPTY)

        assert not old or self.creating or self.retiring or stuck

    def teardown(self) -> None:
        if not hasattr(self, "table"):
            return
        self.carry_out(self.table.close())
        while self.held or self.creating or self.retiring:
            for work in (self.give_back_one, self.create_one, self.retire_one):
                work()

        assert [State.EMPTY] * self.policy.size == [slot.state for slot in self.table._slots]

    def give_back_one(self) -> None:
        if self.held:
            self.give_back(0, None)

    def create_one(self) -> None:
        if self.creating:
            self.created(0)

    def retire_one(self) -> None:
        if self.retiring:
            self.retired(0)


TestCore = Machine.TestCase
TestCore.settings = settings(max_examples=250, stateful_step_count=40, deadline=None, derandomize="CI" in os.environ)
