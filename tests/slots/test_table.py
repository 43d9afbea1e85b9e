from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest

from tests.slots.bench import FENCED, REFUSED, Bench
from wd_di._concurrency.deadline import Deadline
from wd_di._records.connection import Retirement
from wd_di._slots.slots import Claim, ClaimState, Effects, Fencings, Slot, State
from wd_di._slots.stats import PoolStats, Totals
from wd_di.errors import PoolClosedError, PoolExhaustedError, PoolOpenError, PoolUnhealthyError

# -- ids that the coordinator forgets --------------------------------------------------------------


def aged(*ages: float, lifetime: float | None = None) -> Bench:
    """A warm pool whose ids the coordinator heard of that long ago."""
    bench = Bench(size=len(ages), warm=True, order="fifo", id_lifetime=lifetime).warm()
    bench.now += max(ages)
    for slot, age in zip(bench.slots, ages, strict=True):
        slot.heard_at = bench.now - age
    return bench


def test_an_id_that_was_forgotten_takes_its_idle_siblings_along() -> None:
    """Those that rested half as long or longer are made anew with it, all at once; a fresher one stays."""
    bench = aged(10, 9, 6, 4)
    lease = bench.borrow()
    effects = bench.table.release(lease, Retirement("expired", expired=True))

    assert effects is not None
    assert [0, 1, 2] == [slot.index for slot in effects.retire]
    assert "rrri" == bench.states()


def test_a_producer_that_is_held_outlives_its_siblings_expiry() -> None:
    """Whoever works with one goes on, and learns it from the broker."""
    bench = aged(10, 10)
    lease, held = bench.borrow(), bench.borrow()
    bench.table.release(lease, Retirement("expired", expired=True))

    assert "rl" == bench.states()
    assert bench.table.release(held) is None


def test_a_sibling_that_goes_along_is_handed_to_nobody() -> None:
    """It goes for the same reason, though it rested but half as long."""
    bench = aged(10, 5)
    expired = Retirement("expired", expired=True)
    bench.table.release(bench.borrow(), expired)

    assert not bench.table.take(Claim("next"))
    assert [expired, expired] == [slot.retirement for slot in bench.slots]


def test_siblings_go_while_the_forgotten_one_is_still_shared() -> None:
    """It follows when its other borrower has returned, too."""
    bench = Bench(share=2, order="fifo").warm()
    bench.now += 10
    first, second = bench.borrow(), bench.borrow()
    effects = bench.table.release(first, Retirement("expired", expired=True))

    assert first.slot is second.slot is bench.slots[0]
    assert Effects(retire=[bench.slots[1]]) == effects
    assert Effects(retire=[bench.slots[0]]) == bench.table.release(second)


@pytest.mark.parametrize("known", [Retirement("broken"), None])
def test_another_retirement_takes_nobody_along(known: Retirement | None) -> None:
    """A broken producer says nothing about its siblings, also if the broker has forgotten its id since."""
    bench = aged(10, 10)
    lease = bench.borrow()
    if known is not None:
        bench.table.mark_broken(lease.slot, lease.slot.connection, known)
    effects = bench.table.release(lease, Retirement("broken", expired=known is not None))

    assert effects is not None
    assert [0] == [slot.index for slot in effects.retire]


def test_idle_ids_are_made_anew_before_the_coordinator_forgets_them() -> None:
    """One after another, in the background; without a lifetime never."""
    bench = aged(10, 10, 1, lifetime=8)
    first = bench.advance(0)
    assert [0] == [slot.index for slot in first.retire]
    assert "transactional_id_expiry_ms" == getattr(bench.slots[0].retirement, "reason", None)
    bench.create(bench.table.retired(bench.slots[0]))

    assert [1] == [slot.index for slot in bench.advance(0).retire]
    assert [] == aged(10, 10).advance(0).retire


def test_who_is_granted_an_old_one_can_tell() -> None:
    """The age counts from what the coordinator heard, not from the last return."""
    bench = aged(7, 7, lifetime=8)
    bench.table.release(bench.borrow())
    bench.now += 1
    second, first = bench.borrow(), bench.borrow()
    bench.table.heard_of(first.slot)
    bench.table.release(first)

    assert bench.table.expired(second)
    assert not bench.table.expired(bench.borrow())


def test_who_held_one_for_too_long_can_tell() -> None:
    """By the clock of now; a pool that is closing has no other one to give."""
    bench = aged(7, lifetime=8)
    lease = bench.borrow()
    before = bench.table.outlived(lease)
    bench.now += 1
    held_too_long = bench.table.outlived(lease)
    bench.table.close()

    assert [False, True, False] == [before, held_too_long, bench.table.outlived(lease)]


# -- going on with another one ---------------------------------------------------------------------

AGED = Retirement("transactional_id_expiry_ms")


def test_an_exchange_gives_what_is_idle() -> None:
    """The holder goes on at once, and the slot it had is retired."""
    bench = Bench(warm=True).warm()
    lease = bench.borrow()
    first = lease.slot
    effects = bench.table.exchange(lease, AGED)

    assert [lease] == effects.wake
    assert [first] == effects.retire
    assert (ClaimState.GRANTED, True) == (lease.state, lease.slot is not first)
    assert bench.table.release(lease) is None


def test_an_exchange_comes_before_all_who_wait() -> None:
    """What comes free first is the holder's, who brought a slot along; the others keep their order."""
    bench = Bench(size=1, warm=True).warm()
    lease = bench.borrow()
    waiting = [bench.queue("first"), bench.queue("second")]
    bench.table.exchange(lease, AGED)
    before = lease.state
    bench.create(bench.table.retired(bench.slots[0]))

    assert [ClaimState.WAITING, ClaimState.GRANTED] == [before, lease.state]
    assert 2 * [ClaimState.WAITING] == [each.state for each in waiting]
    effects = bench.table.release(lease)
    assert effects is not None
    assert waiting[:1] == effects.wake


def test_an_exchange_for_a_forgotten_id_trusts_no_older_one() -> None:
    """Only what the coordinator has heard of since, and all that follow from the first retirement."""
    bench = aged(10, 4)
    lease = bench.borrow()
    bench.table.exchange(lease, Retirement("expired", expired=True))
    older = bench.table.expired(lease)
    bench.table.exchange(lease, Retirement("expired", expired=True))
    bench.now += 1
    bench.create(bench.table.retired(bench.slots[0]))

    assert older
    assert "lr" == bench.states()
    assert not bench.table.expired(lease)


def test_an_exchange_for_another_reason_trusts_who_is_older() -> None:
    """A producer that is too old says nothing of the others."""
    bench = aged(10, 4)
    lease = bench.borrow()
    bench.table.exchange(lease, AGED)

    assert not bench.table.expired(lease)


def test_an_exchange_that_is_asked_for_again() -> None:
    """What was made in between will do, or what is made in the same moment."""
    expired = Retirement("expired", expired=True)
    bench = aged(10)
    lease = bench.borrow()
    bench.table.exchange(lease, expired)
    bench.table.withdraw(lease)
    bench.create(bench.table.retired(bench.slots[0]))
    bench.now += 1

    assert [lease] == bench.table.exchange(lease, expired).wake
    assert not bench.table.expired(lease)


def test_an_exchange_that_is_given_up() -> None:
    """Who waits no longer holds nothing, and a late slot is the next one's."""
    bench = Bench(size=1, warm=True).warm()
    lease = bench.borrow()
    bench.table.exchange(lease, AGED)

    assert bench.table.withdraw(lease, timed_out=True)
    assert bench.table.release(lease) is None
    bench.create(bench.table.retired(bench.slots[0]))
    assert "i" == bench.states()


def test_no_exchange_in_a_closing_pool() -> None:
    """It is refused, and the lease still stands."""
    bench = Bench(size=1, warm=True).warm()
    lease = bench.borrow()
    bench.table.close()
    with pytest.raises(PoolClosedError):
        bench.table.exchange(lease, AGED)

    assert "l" == bench.states()


def test_a_close_fails_who_waits_for_another_one() -> None:
    """As all who wait."""
    bench = Bench(size=1, warm=True).warm()
    lease = bench.borrow()
    bench.table.exchange(lease, AGED)
    effects = bench.table.close()

    assert [lease] == effects.wake
    assert isinstance(lease.error, PoolClosedError)


def test_an_exchange_that_is_in_vain() -> None:
    """Whoever is fenced once too often is told at once, and doesn't wait for what nobody makes."""
    bench = Bench(size=1, warm=True, fenced_retries=0).warm()
    lease = bench.borrow()
    effects = bench.table.exchange(lease, FENCED)

    assert [lease] == effects.wake
    assert isinstance(lease.error, PoolUnhealthyError)


# -- borrowing and giving back ---------------------------------------------------------------------


def test_an_empty_pool_has_nothing_at_once_but_makes_one_for_whoever_waits() -> None:
    """A lazy pool starts one creation for each waiter, as long as there are empty slots."""
    bench = Bench()
    lease = Claim("first")

    assert not bench.table.take(lease)
    assert [bench.slots[0]] == bench.table.wait(lease).create
    assert [bench.slots[1]] == bench.table.wait(Claim("second")).create
    assert Effects() == bench.table.wait(Claim("third"))
    assert "cc" == bench.states()


def test_the_longest_waiter_gets_the_first_producer_that_is_ready() -> None:
    """A waiter isn't bound to the creation that was started for it."""
    bench = Bench()
    first, second = bench.queue("first"), bench.queue("second")

    assert [first] == bench.table.created(bench.slots[1], object()).wake
    assert bench.slots[1] is first.slot
    assert ClaimState.WAITING is second.state


def test_a_return_goes_straight_to_the_longest_waiter() -> None:
    """A slot that comes back is leased again before anybody else can see it."""
    bench = Bench(size=1).warm()
    lease = bench.borrow()
    first, second = bench.queue("first"), bench.queue("second")
    effects = bench.table.release(lease)

    assert effects is not None
    assert [first] == effects.wake
    assert "l" == bench.states()
    assert not bench.table.take(Claim("newcomer"))
    assert ClaimState.WAITING is second.state


def test_who_asks_to_wait_is_served_at_once_if_something_came_free_meanwhile() -> None:
    """Between asking and queueing a slot may come back; then there is nothing to wait for."""
    bench = Bench(size=1).warm()
    lease = Claim("late")

    assert Effects(wake=[lease]) == bench.table.wait(lease)
    assert ClaimState.GRANTED is lease.state


@pytest.mark.parametrize(("order", "index"), [("fifo", 0), ("lifo", 1)])
def test_the_order_holds_for_who_asks_to_wait(order: str, index: int) -> None:
    """Also in between a slot is the one that is next."""
    bench = Bench(order=order).warm()
    lease = Claim("late")
    bench.table.wait(lease)

    assert index == lease.slot.index


def test_giving_back_what_was_never_granted() -> None:
    """It changes nothing, as after an interrupt before the grant."""
    bench = Bench().warm()

    assert bench.table.release(Claim("nobody")) is None
    assert "ii" == bench.states()


def test_patience_is_half_of_what_the_most_hurried_has_left() -> None:
    """It counts from then; nobody who waits, or without a deadline, is in a hurry."""
    bench = Bench(size=1)
    nobody = bench.table.patience(0.0)
    bench.queue()
    forever = bench.table.patience(0.0)
    for seconds in (60, 20, 40):
        bench.queue().deadline = Deadline(seconds)
    soon = bench.table.patience(time.monotonic())

    assert (math.inf, math.inf) == (nobody, forever)
    assert 9 < soon <= 10


def test_who_left_the_queue_is_never_served() -> None:
    """A withdrawn waiter is passed over."""
    bench = Bench(size=1).warm()
    lease = bench.borrow()
    gone, next_ = bench.queue("gone"), bench.queue("next")

    assert bench.table.withdraw(gone, timed_out=True)
    assert [next_] == bench.table.release(lease).wake  # type: ignore[union-attr]
    assert ClaimState.DONE is gone.state


def test_who_left_and_who_ran_out_of_time() -> None:
    """Both waited; only the one is counted as a time-out."""
    bench = Bench(size=1)
    left, late = bench.queue(), bench.queue()

    assert bench.table.withdraw(left)
    assert bench.table.withdraw(late, timed_out=True)
    totals = bench.table.stats().totals
    assert (2, 1) == (totals.queued, totals.timeouts)


def test_a_waiter_that_was_served_cannot_leave_the_queue() -> None:
    """A time-out that comes after the grant finds the slot in its hands."""
    bench = Bench(size=1)
    lease = bench.queue()
    bench.table.created(bench.slots[0], object())

    assert not bench.table.withdraw(lease, timed_out=True)
    assert 0 == bench.table.stats().totals.timeouts


def test_giving_back_twice_changes_nothing() -> None:
    """The second return can't take the slot from its next borrower."""
    bench = Bench(size=1).warm()
    lease = bench.borrow()
    bench.table.release(lease)
    bench.borrow()

    assert bench.table.release(lease, Retirement("broken")) is None
    assert "l" == bench.states()


def test_giving_back_with_nobody_waiting_asks_nothing_of_the_caller() -> None:
    """The common case builds no effects."""
    bench = Bench().warm()

    assert bench.table.release(bench.borrow()) is None


@pytest.mark.parametrize(("order", "expected"), [("fifo", [0, 1, 2, 0]), ("lifo", [2, 2, 2, 2])])
def test_the_order_among_idle_slots_is_rotation_or_the_latest(order: str, expected: list[int]) -> None:
    """FIFO gives every producer its rest; LIFO keeps few of them busy."""
    bench = Bench(size=3, order=order).warm()
    used = []
    for _ in expected:
        lease = bench.borrow()
        used.append(lease.slot.index)
        bench.table.release(lease)

    assert expected == used


def test_the_queue_is_no_longer_than_max_waiting() -> None:
    """Whoever comes later is told at once, and isn't queued."""
    bench = Bench(size=1, max_waiting=1)
    bench.queue()

    with pytest.raises(PoolExhaustedError, match=r"^orders: 1 borrowers wait already \(max_waiting\)$"):
        bench.table.wait(Claim("second"))

    assert 1 == bench.table.stats().waiting


# -- sharing ---------------------------------------------------------------------------------------


def test_a_shared_slot_serves_as_many_as_it_may() -> None:
    """The fullest slot with room is next; with all full the borrower waits."""
    bench = Bench(share=2).warm()
    indices = [bench.borrow().slot.index for _ in range(4)]

    assert [1, 1, 0, 0] == indices
    assert not bench.table.take(Claim("fifth"))
    assert 2 == bench.table.stats().in_use


def test_the_fullest_shared_slot_is_next() -> None:
    """Few busy producers make larger batches than many."""
    bench = Bench(share=3).warm()
    first, *_ = [bench.borrow() for _ in range(4)]
    bench.table.release(first)

    assert first.slot is bench.borrow().slot


def test_a_shared_slot_rests_when_its_last_borrower_returns() -> None:
    """One return leaves it leased, and takes a waiter in."""
    bench = Bench(size=1, share=2).warm()
    first, second = bench.borrow("first"), bench.borrow("second")
    third = bench.queue("third")

    assert [third] == bench.table.release(first).wake  # type: ignore[union-attr]
    assert bench.table.release(second) is None
    assert "l" == bench.states()
    assert bench.table.release(third) is None
    assert "i" == bench.states()


def test_one_creation_serves_as_many_waiters_as_may_share_it() -> None:
    """Three waiters of a pool that shares by two need two producers, not three."""
    bench = Bench(size=3, share=2)
    for owner in "abc":
        bench.queue(owner)

    assert "cce" == bench.states()
    assert 2 == len(bench.table.created(bench.slots[0], object()).wake)


def test_who_returns_first_of_a_shared_slot() -> None:
    """It holds nothing any more, and whoever came later still does."""
    bench = Bench(size=1, share=2).warm()
    first, second = bench.borrow(), bench.borrow()
    bench.table.release(first)

    assert [second] == bench.table.claims()


def test_a_broken_shared_slot_takes_nobody_in_and_goes_with_its_last_borrower() -> None:
    """A fatal error retires it for all, though not under their hands."""
    bench = Bench(size=1, share=3).warm()
    first, second = bench.borrow("first"), bench.borrow("second")
    broken = Retirement("broken", REFUSED)

    assert bench.table.mark_broken(bench.slots[0], bench.slots[0].connection, broken) is None
    assert not bench.table.take(Claim("third"))
    assert bench.table.release(first) is None
    assert [bench.slots[0]] == bench.table.release(second).retire  # type: ignore[union-attr]
    assert broken is bench.slots[0].retirement


# -- creating --------------------------------------------------------------------------------------


def test_warming_starts_every_empty_slot_once() -> None:
    """A second call finds nothing left to start."""
    bench = Bench(size=3)

    assert [*bench.slots] == bench.table.warm().create
    assert Effects() == bench.table.warm()


def test_one_is_started_only_if_none_lives() -> None:
    """Opening a lazy pool makes one producer, and no second one."""
    bench = Bench()

    assert [bench.slots[0]] == bench.table.start_one().create
    assert Effects() == bench.table.start_one()


def test_the_index_is_free_again_only_when_the_old_handle_is_gone() -> None:
    """A failed creation keeps its slot RETIRING, so that its handle can't fence its own replacement."""
    bench = Bench(size=1)
    bench.queue()
    bench.table.creation_failed(bench.slots[0], REFUSED, permanent=False)

    assert "r" == bench.states()
    assert Effects() == bench.advance(60)
    assert [bench.slots[0]] == bench.table.retired(bench.slots[0]).create


def test_a_failed_creation_is_tried_again_after_a_growing_pause() -> None:
    """0.25 s, then twice as long each time, at most 5 s, for as long as somebody waits."""
    bench = Bench(size=1)
    bench.queue()
    pauses = []
    for _ in range(7):
        bench.fail(bench.slots[0])
        began = bench.now
        while not bench.advance(0.125).create:
            pass
        pauses.append(bench.now - began)

    assert [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0] == pauses


def test_a_success_makes_the_next_pause_a_short_one() -> None:
    """What went wrong before it no longer counts."""
    bench = Bench(size=1, warm=True)
    bench.table.warm()
    for seconds in (0.25, 0.5):
        bench.fail(bench.slots[0])
        effects = bench.advance(seconds)
    bench.create(effects)
    bench.table.mark_broken(bench.slots[0], bench.slots[0].connection, Retirement("broken"))
    bench.table.retired(bench.slots[0])
    bench.fail(bench.slots[0])

    assert [bench.slots[0]] == bench.advance(0.25).create


def test_a_failure_that_waiting_cures_leaves_the_waiters_in_the_queue() -> None:
    """They are told by their own deadline, with this as the cause."""
    bench = Bench()
    lease = bench.queue()

    assert Effects() == bench.fail(bench.slots[0])
    assert ClaimState.WAITING is lease.state
    assert REFUSED is bench.table.last_error
    assert not bench.table.hopeless


def test_who_comes_while_a_failure_backs_off() -> None:
    """It waits, if waiting may cure that, or another producer lives that may come back; nobody is hopeless at first."""
    cured, alive = Bench(size=1), Bench()
    cured.queue()
    cured.fail(cured.slots[0])
    alive.create(alive.table.start_one())
    alive.borrow()
    alive.queue()
    alive.fail(alive.slots[1], permanent=True)

    assert ClaimState.WAITING is cured.queue().state
    assert ClaimState.WAITING is alive.queue().state
    assert not Bench().table.hopeless


def test_a_pause_of_a_pool_in_a_hurry_is_shorter() -> None:
    """Also the one after a fencing."""
    bench = Bench(size=1, warm=True, backoff=0.5)
    bench.table.warm()
    bench.fail(bench.slots[0])

    assert Effects() == bench.advance(0.12)
    bench.create(bench.advance(0.01))
    bench.fence(bench.slots[0])
    assert Effects() == bench.advance(0.49)
    assert [bench.slots[0]] == bench.advance(0.02).create


def test_one_thread_makes_or_closes_a_producer() -> None:
    """Whoever comes second, or when it is done, has nothing to do."""
    bench = Bench(size=1)
    [slot] = bench.table.warm().create

    assert [False, True, False] == [
        bench.table.begin(slot, State.RETIRING),
        bench.table.begin(slot, State.CREATING),
        bench.table.begin(slot, State.CREATING),
    ]
    bench.table.created(slot, object())
    assert not bench.table.begin(slot, State.CREATING)
    bench.table.close()
    assert [True, False] == [bench.table.begin(slot, State.RETIRING) for _ in range(2)]
    bench.table.retired(slot)
    assert not bench.table.begin(slot, State.RETIRING)


def test_a_machine_that_was_just_started() -> None:
    """Its clock has run for a moment only: that is no failure a moment ago, nor an id that was forgotten."""
    bench = Bench(size=1)
    bench.now = 0.25

    assert bench.table.last_error is None
    assert not bench.table.disturbed
    assert not bench.warm().table.expired(bench.borrow())


def test_a_permanent_failure_fails_every_waiter_at_once() -> None:
    """Wrong settings don't get better by waiting."""
    bench = Bench(size=1)
    first, second = bench.queue("first"), bench.queue("second")
    effects = bench.fail(bench.slots[0], permanent=True)

    assert [first, second] == effects.wake
    assert (REFUSED, REFUSED) == (first.error, second.error)
    assert bench.table.hopeless


def test_a_permanent_failure_is_no_end_while_another_producer_is_being_made() -> None:
    """That one may come; when it has failed, too, there is nothing to wait for."""
    bench = Bench()
    bench.table.warm()
    before = bench.table.hopeless
    bench.fail(bench.slots[0], permanent=True)
    amid = bench.table.hopeless
    bench.fail(bench.slots[1], permanent=True)

    assert (False, False, True) == (before, amid, bench.table.hopeless)


def test_a_permanent_failure_fails_nobody_while_another_producer_lives() -> None:
    """The one that works will serve the queue."""
    bench = Bench()
    bench.create(bench.table.start_one())
    bench.borrow()
    lease = bench.queue()

    assert Effects() == bench.fail(bench.slots[1], permanent=True)
    assert ClaimState.WAITING is lease.state


def test_a_success_clears_what_went_wrong_before() -> None:
    """A time-out must not name a cause that is over."""
    bench = Bench(size=1)
    bench.queue()
    bench.fail(bench.slots[0], permanent=True)
    bench.now += 1
    bench.create(bench.table.start_one())

    assert bench.table.last_error is None
    assert not bench.table.hopeless


def test_an_old_failure_explains_nothing() -> None:
    """What went wrong long ago is no cause of what goes wrong today."""
    bench = Bench(size=1)
    bench.queue()
    bench.fail(bench.slots[0])
    bench.now += 59.5
    recent = bench.table.last_error
    bench.now += 0.5

    assert (REFUSED, None) == (recent, bench.table.last_error)


def test_what_no_waiting_cures_is_said_at_once_while_it_backs_off() -> None:
    """Whoever comes right after a permanent failure doesn't wait for the next try; who comes later starts it."""
    bench = Bench(size=1)
    bench.queue()
    bench.fail(bench.slots[0], permanent=True)

    with pytest.raises(PoolOpenError, match="no producer can be connected: no broker"):
        bench.table.wait(Claim("hasty"))

    bench.now += 1

    assert [bench.slots[0]] == bench.table.wait(Claim("patient")).create


def test_a_warm_pool_replaces_what_it_retired() -> None:
    """It doesn't wait for a borrower; a lazy one does."""
    warm, lazy = Bench(warm=True).warm(), Bench().warm()
    for bench in (warm, lazy):
        bench.table.mark_broken(bench.slots[0], bench.slots[0].connection, Retirement("broken"))
        bench.table.retired(bench.slots[0])

    assert "ci" == warm.states()
    assert "ei" == lazy.states()


def test_a_warm_pool_tries_a_failed_slot_again_with_nobody_waiting() -> None:
    """All its slots are wanted; one that was never started isn't."""
    bench = Bench(warm=True)
    assert Effects() == bench.advance(60)
    for slot in bench.table.warm().create:
        bench.fail(slot)

    assert bench.table.restless
    assert [*bench.slots] == bench.advance(0.3).create


def test_a_warm_pool_is_whole_again_after_it_was_unhealthy() -> None:
    """What was retired for another reason meanwhile is replaced, too."""
    bench = Bench(warm=True, fenced_retries=0).warm()
    bench.fence(bench.slots[0])
    bench.table.mark_broken(bench.slots[1], bench.slots[1].connection, Retirement("broken"))
    assert Effects() == bench.table.retired(bench.slots[1])

    assert [*bench.slots] == bench.advance(600).create


def test_a_producer_that_must_be_there_again_is_made_though_nobody_waits() -> None:
    """In a lazy pool as well; that one alone, and unless the pool is closing."""
    lazy, closing = Bench(size=3).warm(), Bench().warm()
    for bench in (lazy, closing):
        for slot in bench.slots:
            bench.table.mark_broken(slot, slot.connection, Retirement("broken"))
    closing.table.close()
    lazy.table.retired(lazy.slots[0])

    assert [lazy.slots[1]] == lazy.table.retired(lazy.slots[1], again=True).create
    assert Effects() == closing.table.retired(closing.slots[1], again=True)


def test_the_clock_is_looked_at_often_while_a_slot_backs_off_that_is_wanted() -> None:
    """By those who wait, or by a warm pool until it closes."""
    warm, lazy = Bench(warm=True).warm(), Bench()
    whole = (warm.table.restless, lazy.table.restless)
    warm.fence(warm.slots[0])
    lazy.queue()
    wanting = (warm.table.restless, lazy.table.restless)
    warm.table.close()
    lazy.create(lazy.table.warm())

    assert ((False, False), (True, True)) == (whole, wanting)
    assert (False, False) == (warm.table.restless, lazy.table.restless)


def test_whoever_waits_for_a_held_producer_needs_no_clock() -> None:
    """It is served when that one comes back."""
    bench = Bench(size=1).warm()
    bench.borrow()
    bench.queue()

    assert not bench.table.restless


# -- retiring --------------------------------------------------------------------------------------


def test_a_retired_producer_is_handed_to_nobody() -> None:
    """A return with a retirement passes the waiter by; it gets the replacement."""
    bench = Bench(size=1).warm()
    lease, waiter = bench.borrow(), bench.queue()
    effects = bench.table.release(lease, Retirement("commit failed"))

    assert effects == Effects(retire=[bench.slots[0]])
    assert bench.create(bench.table.retired(bench.slots[0])).wake == [waiter]


def test_a_broken_idle_producer_is_retired_where_it_rests() -> None:
    """Nobody gets it, though its slot is next."""
    bench = Bench(size=1).warm()
    slot = bench.slots[0]

    assert [slot] == bench.table.mark_broken(slot, slot.connection, Retirement("broken")).retire  # type: ignore[union-attr]
    assert not bench.table.take(Claim("next"))


def test_the_first_reason_to_retire_is_kept() -> None:
    """What broke the producer isn't hidden by what followed from it."""
    bench = Bench(size=1).warm()
    lease, slot = bench.borrow(), bench.slots[0]
    first = Retirement("broken")
    bench.table.mark_broken(slot, slot.connection, first)
    bench.table.mark_broken(slot, slot.connection, Retirement("again"))
    bench.table.release(lease, Retirement("commit failed"))

    assert first is slot.retirement


def test_news_of_a_producer_that_is_gone_says_nothing_of_its_successor() -> None:
    """The poller may have looked at a client that was replaced meanwhile."""
    bench = Bench(size=1).warm()

    assert bench.table.mark_broken(bench.slots[0], object(), Retirement("broken")) is None
    assert bench.borrow()


@pytest.mark.parametrize(
    ("limit", "reason"), [("max_lifetime", "max_lifetime_ms"), ("idle_timeout", "idle_timeout_ms")]
)
def test_an_old_or_unused_producer_is_retired(limit: str, reason: str) -> None:
    """On time, not before, and with the setting as the reason."""
    bench = Bench(size=1, **{limit: 10.0}).warm()

    assert Effects() == bench.advance(9.9)
    assert [bench.slots[0]] == bench.advance(0.1).retire
    assert Retirement(reason) == bench.slots[0].retirement


def test_use_makes_a_producer_no_younger() -> None:
    """The lifetime counts from its creation, the idle time from its last return."""
    bench = Bench(max_lifetime=15.0, idle_timeout=10.0).warm()
    bench.now += 9
    bench.table.release(bench.borrow())

    assert [bench.slots[0]] == bench.advance(1).retire

    bench.table.retired(bench.slots[0])

    assert [] == bench.advance(4).retire
    assert [bench.slots[1]] == bench.advance(1).retire


def test_expired_producers_go_one_at_a_time() -> None:
    """Producers that were made together would else all be gone at once."""
    bench = Bench(warm=True, max_lifetime=15.0).warm()

    assert [bench.slots[0]] == bench.advance(20).retire
    assert [] == bench.advance(1).retire

    bench.create(bench.table.retired(bench.slots[0]))

    assert [bench.slots[1]] == bench.advance(1).retire


def hanging(*, max_lifetime: float) -> Bench:
    """Three slots, and the first one's brokers don't answer."""
    bench = Bench(size=3, warm=True, max_lifetime=max_lifetime)
    for slot in bench.table.warm().create[1:]:
        bench.table.created(slot, object())
    return bench


def test_a_hanging_creation_makes_no_idle_producer_older() -> None:
    """Its brokers may be gone for good; the others are replaced in time, and one after another as ever."""
    bench = hanging(max_lifetime=15.0)

    assert [bench.slots[1]] == bench.advance(15).retire
    assert [] == bench.advance(0.5).retire
    assert [bench.slots[1]] == bench.table.retired(bench.slots[1]).create
    assert [] == bench.advance(0.5).retire
    bench.table.created(bench.slots[1], object())
    assert [bench.slots[2]] == bench.advance(0.5).retire


def test_a_hanging_creation_makes_no_held_producer_older() -> None:
    """Under load as well."""
    bench = hanging(max_lifetime=15.0)
    first, second = bench.borrow(), bench.borrow()
    bench.advance(15)

    assert Effects(retire=[first.slot]) == bench.table.release(first)
    assert bench.table.release(second) is None


def test_a_creation_that_has_just_begun_is_waited_for() -> None:
    """For a second it may well come, and then the next one goes."""
    bench = hanging(max_lifetime=0.875)

    assert [] == bench.advance(0.875).retire
    assert [bench.slots[1]] == bench.advance(0.125).retire


def test_a_creation_that_hangs_is_waited_for_during_one_lifetime() -> None:
    """In an outage the idle producers, with what they owe, would else go one by one for others that never come."""
    bench = Bench(warm=True, max_lifetime=15.0).warm()
    bench.fence(bench.slots[0])
    assert [bench.slots[0]] == bench.advance(10).create

    assert [] == bench.advance(14.5).retire
    assert [bench.slots[1]] == bench.advance(0.5).retire


def test_a_creation_that_hangs_keeps_no_idle_producer_from_a_sign_of_life() -> None:
    """Nor does one that has just begun: a question costs no slot."""
    bench = Bench(warm=True, idle_timeout=10.0).warm()
    bench.fence(bench.slots[0])
    bench.now += 9.5

    assert [bench.slots[0]] == bench.advance(0).create
    assert Effects(refresh=[bench.slots[1]]) == bench.advance(0.5)
    assert Effects(refresh=[bench.slots[1]]) == bench.advance(10)


def test_a_held_producer_does_not_expire_under_its_holder() -> None:
    """It goes on its return, not some time after that: under load it might never be found idle."""
    bench = Bench(size=1, max_lifetime=10.0).warm()
    lease = bench.borrow()

    assert Effects() == bench.advance(60)
    assert Effects(retire=[lease.slot]) == bench.table.release(lease)
    assert Retirement("max_lifetime_ms") == lease.slot.retirement


def test_a_producer_that_is_too_old_goes_although_somebody_waits() -> None:
    """Whoever waits gets its successor."""
    bench = Bench(size=1, max_lifetime=10.0).warm()
    lease = bench.borrow()
    waiter = bench.queue()
    bench.advance(10)

    assert Effects(retire=[lease.slot]) == bench.table.release(lease)
    bench.create(bench.table.retired(lease.slot))
    assert ClaimState.GRANTED is waiter.state


def test_a_shared_producer_that_is_too_old_is_lent_no_more() -> None:
    """It goes when its last borrower has returned, however many come meanwhile."""
    bench = Bench(size=1, share=3, max_lifetime=10.0).warm()
    first, second = bench.borrow(), bench.borrow()
    bench.advance(10)
    assert bench.table.release(first) is None
    waiter = bench.queue()

    assert Effects(retire=[second.slot]) == bench.table.release(second)
    bench.create(bench.table.retired(second.slot))
    assert ClaimState.GRANTED is waiter.state


def test_a_warm_pool_asks_an_idle_producer_for_a_sign_of_life() -> None:
    """It would make a closed one again at once. Once per idle_timeout each, and none is retired."""
    bench = Bench(size=2, warm=True, idle_timeout=10.0).warm()
    bench.advance(5)
    lease = bench.borrow()
    bench.table.release(lease)

    assert Effects(refresh=[bench.slots[0]]) == bench.advance(5)
    assert Effects(refresh=[bench.slots[1]]) == bench.advance(5)
    assert Effects(refresh=[bench.slots[0]]) == bench.advance(5)
    assert "ii" == bench.states()


def test_a_hanging_creation_keeps_nobody_from_another() -> None:
    """Who waits for one that takes too long has the next empty slot tried, too; each for a while."""
    bench = Bench(size=3)
    waiter = bench.queue()
    assert "cee" == bench.states()
    assert Effects() == bench.advance(0.875)
    assert [bench.slots[1]] == bench.advance(0.125).create
    assert Effects() == bench.advance(0.875)
    assert [bench.slots[2]] == bench.advance(0.25).create

    assert [waiter] == bench.table.created(bench.slots[1], object()).wake


def test_under_load_too_producers_that_are_too_old_go_one_at_a_time() -> None:
    """The second serves those who wait until the first is replaced."""
    bench = Bench(max_lifetime=10.0).warm()
    first, second = bench.borrow(), bench.borrow()
    waiter = bench.queue()
    bench.advance(10)
    bench.table.release(first)

    assert Effects(wake=[waiter]) == bench.table.release(second)
    assert (State.RETIRING, State.LEASED) == (first.slot.state, second.slot.state)


def test_a_lease_that_is_held_too_long_is_reported_once() -> None:
    """And only after leak_after."""
    bench = Bench(leak_after=10.0).warm()
    lease = bench.borrow()

    assert [] == bench.advance(9.9).leaks
    assert [lease] == bench.advance(0.1).leaks
    assert [] == bench.advance(60).leaks


# -- fencing ---------------------------------------------------------------------------------------


def test_a_fenced_id_is_taken_back_after_a_pause_that_doubles() -> None:
    """1 s, 2 s, 4 s: two owners of one id must not fence each other in a circle at full speed."""
    bench = Bench(size=1, warm=True).warm()
    pauses = []
    for _ in range(3):
        assert Effects() == bench.fence(bench.slots[0])
        began = bench.now
        while not (effects := bench.advance(0.5)).create:
            pass
        pauses.append(bench.now - began)
        bench.create(effects)

    assert [1.0, 2.0, 4.0] == pauses


def test_a_pool_that_is_fenced_too_often_gives_up_for_a_while() -> None:
    """More than fenced_retries in 10 minutes: no creation, no waiting, until that time is over."""
    bench = Bench(warm=True, fenced_retries=1).warm()
    for slot in bench.slots:
        bench.fence(slot)

    assert Effects() == bench.advance(61)
    with pytest.raises(PoolUnhealthyError, match=r"orders: fenced 2 times within 10 minutes \(fenced_retries=1\)"):
        bench.table.wait(Claim("somebody"))
    assert [*bench.slots] == bench.advance(600).create


def test_an_unhealthy_pool_says_the_way_out() -> None:
    """Where to look, in which setting, and what to do then."""
    bench = Bench(size=1, fenced_retries=0).warm()
    bench.fence(bench.slots[0])

    with pytest.raises(
        PoolUnhealthyError, match=r"end it, or .* \{pid\}, in transactional_id; then reload the pool or restart$"
    ):
        bench.table.wait(Claim("somebody"))


def test_a_fenced_pool_serves_on_with_what_is_idle() -> None:
    """Who would have to wait is told why that is in vain, while another slot is still held, too."""
    bench = Bench(fenced_retries=0).warm()
    bench.fence(bench.slots[0])
    held = bench.borrow()

    with pytest.raises(PoolUnhealthyError, match="fenced 1 times"):
        bench.table.wait(Claim("somebody"))
    bench.table.release(held)
    bench.borrow()


def test_who_waits_is_told_when_the_pool_turns_unhealthy() -> None:
    """At once, with what the last one was fenced by as the cause; whether other slots are held or not."""
    bench = Bench(fenced_retries=0).warm()
    first, _ = bench.borrow(), bench.borrow()
    waiting = bench.queue()
    effects = bench.table.release(first, FENCED)

    assert effects is not None
    assert [waiting] == effects.wake
    assert isinstance(waiting.error, PoolUnhealthyError)
    assert "fenced" == str(waiting.error.__cause__)


def test_who_waits_for_a_creation_is_told_after_it() -> None:
    """What is being made serves one of them; then the others are told."""
    bench = Bench(fenced_retries=0)
    first, second, third = bench.queue(), bench.queue(), Claim("somebody")
    bench.table.created(bench.slots[0], object())
    bench.table.wait(third)
    effects = bench.table.release(first, FENCED)

    assert effects is not None
    assert [] == effects.wake
    assert [second, third] == bench.table.created(bench.slots[1], object()).wake
    assert (None, PoolUnhealthyError) == (second.error, type(third.error))


def test_the_pause_after_a_fencing_is_a_minute_at_most() -> None:
    """And starts again from a second, ten minutes after the first one."""
    fencings = Fencings()

    assert [1, 2, 4, 8, 16, 32, 60, 60] == [fencings.note(0.0, None) for _ in range(8)]
    assert [8, 8, 0] == [fencings.within(now) for now in (1.0, 599.0, 600.0)]
    assert [1, 2] == [fencings.note(600.0, None), fencings.note(1199.0, None)]
    assert [2, 1] == [fencings.within(1199.0), fencings.within(1200.0)]
    assert 2 == fencings.note(1200.0, None)


def test_what_is_known_of_a_fencing() -> None:
    """Its error without the frames that it came through, until it is forgotten."""
    fencings = Fencings()
    assert fencings.last is None
    try:
        raise ValueError("fenced")  # noqa: TRY301  (with a frame of its own)
    except ValueError as error:
        fencings.note(0.0, error)
    last = fencings.last
    fencings.clear()

    assert "fenced" == str(last)
    assert last.__traceback__ is None
    assert (None, 0, 0) == (fencings.last, len(fencings), fencings.within(0.0))


@pytest.mark.parametrize(("retirement", "expected"), [(None, FENCED), (AGED, AGED)])
def test_what_the_holder_knows_of_a_fenced_producer(retirement: Retirement | None, expected: Retirement) -> None:
    """If it knows nothing, it was fenced."""
    bench = Bench(size=1).warm()
    held = bench.borrow()
    bench.table.mark_broken(held.slot, held.slot.connection, FENCED)
    bench.table.release(held, retirement)

    assert expected is held.slot.retirement


def test_who_waits_for_a_creation_that_fails_is_told() -> None:
    """It was the last one: no id is taken back any more."""
    bench = Bench(fenced_retries=0)
    first, second = bench.queue(), bench.queue()
    bench.table.created(bench.slots[0], object())
    bench.table.release(first, FENCED)

    assert [second] == bench.table.creation_failed(bench.slots[1], REFUSED, permanent=False).wake
    assert isinstance(second.error, PoolUnhealthyError)


def test_too_late_is_no_fencing_for_whoever_knew() -> None:
    """The poller sees a producer fenced; its holder knows that its transaction was too old."""
    bench = Bench(size=1, warm=True, fenced_retries=0).warm()
    held = bench.borrow()
    slot = held.slot
    bench.table.mark_broken(slot, slot.connection, FENCED)
    bench.table.release(held, Retirement("abort failed", ValueError("too late")))

    assert [slot] == bench.table.retired(slot).create


def test_a_reload_forgets_the_fencings() -> None:
    """The owner may have changed the ids; so the pool tries again."""
    bench = Bench(size=1, warm=True, fenced_retries=0).warm()
    bench.fence(bench.slots[0])
    bench.table.reload()

    assert [bench.slots[0]] == bench.advance(1).create


# -- reloading -------------------------------------------------------------------------------------


def test_a_reload_replaces_idle_producers_one_at_a_time() -> None:
    """The next one goes when its predecessor's replacement is ready, so some are always there."""
    bench = Bench(size=3, warm=True).warm()
    seen = []
    effects = bench.table.reload()
    while effects.retire:
        seen.append((bench.states(), [slot.index for slot in effects.retire], bench.table.outdated()))
        effects = bench.create(bench.table.retired(effects.retire[0]))

    assert [("rii", [0], (0, 1, 2)), ("iri", [1], (1, 2)), ("iir", [2], (2,))] == seen
    assert () == bench.table.outdated()


def test_a_reload_goes_on_while_old_producers_are_held() -> None:
    """Those that rest are replaced one after the other; the held one follows."""
    bench = Bench(size=3, warm=True).warm()
    held = bench.borrow()
    first = bench.table.reload().retire
    second = bench.create(bench.table.retired(bench.slots[0])).retire

    assert ([bench.slots[0]], [bench.slots[1]]) == (first, second)
    assert Effects() == bench.create(bench.table.retired(bench.slots[1]))
    assert [held.slot] == bench.table.release(held).retire  # type: ignore[union-attr]


def test_a_reload_keeps_nobody_waiting() -> None:
    """A new producer is handed on while an old one is still held."""
    bench = Bench(warm=True).warm()
    bench.borrow()
    bench.table.reload()
    bench.create(bench.table.retired(bench.slots[0]))
    renewed, waiter = bench.borrow(), bench.queue()
    effects = bench.table.release(renewed)

    assert Effects(wake=[waiter]) == effects


def test_a_held_producer_is_replaced_when_it_comes_back() -> None:
    """Its holder doesn't notice; its slot isn't handed on."""
    bench = Bench(size=1, warm=True).warm()
    lease, waiter = bench.borrow(), bench.queue()

    assert Effects() == bench.table.reload()
    assert (0,) == bench.table.outdated()
    assert Effects(retire=[bench.slots[0]]) == bench.table.release(lease)
    assert Retirement("reload") == bench.slots[0].retirement
    assert [waiter] == bench.create(bench.table.retired(bench.slots[0])).wake


def test_a_producer_that_was_being_made_during_a_reload_is_replaced_too() -> None:
    """It may have been made of the old settings."""
    bench = Bench(size=1)
    waiter = bench.queue()
    bench.table.reload()

    assert Effects(retire=[bench.slots[0]]) == bench.table.created(bench.slots[0], object())
    assert [waiter] == bench.create(bench.table.retired(bench.slots[0])).wake
    assert bench.slots[0].generation == bench.table.generation


def test_a_lazy_pool_is_reloaded_when_the_old_producers_are_gone() -> None:
    """Nobody asked for new ones."""
    bench = Bench().warm()
    effects = bench.table.reload()
    while effects.retire:
        effects = bench.table.retired(effects.retire[0])

    assert "ee" == bench.states()
    assert () == bench.table.outdated()


def test_a_shared_slot_of_the_old_generation_takes_nobody_in() -> None:
    """Or it would never come to its end."""
    bench = Bench(size=1, share=2).warm()
    bench.borrow()
    bench.table.reload()

    assert not bench.table.take(Claim("second"))


def reloading(*, fenced_retries: int = 3, warm: bool = True) -> Bench:
    """Two producers, the first of which is gone for a reload."""
    bench = Bench(warm=warm, fenced_retries=fenced_retries).warm()
    assert [bench.slots[0]] == bench.table.reload().retire
    bench.table.retired(bench.slots[0])
    return bench


def test_a_reload_by_what_fails_for_good_is_in_vain() -> None:
    """It is said as soon as nothing is on its way, with the cause; what waiting may cure is waited for."""
    curable, bench = reloading(), reloading()
    curable.fail(curable.slots[0])
    before = bench.table.irreplaceable()
    bench.fail(bench.slots[0], permanent=True)
    error = bench.table.irreplaceable()

    assert (None, None) == (curable.table.irreplaceable(), before)
    assert isinstance(error, PoolOpenError)
    assert str(error).startswith("orders: producers [0, 1] can't be replaced: no broker; they are tried again")
    assert REFUSED is error.__cause__
    assert bench.advance(0.25).create
    assert bench.table.irreplaceable() is None


def test_a_reload_whose_producers_are_fenced_is_in_vain() -> None:
    """When no id is taken back any more."""
    bench = reloading(fenced_retries=0)
    bench.table.created(bench.slots[0], object())
    bench.fence(bench.slots[0])

    assert isinstance(bench.table.irreplaceable(), PoolUnhealthyError)


def test_a_reload_may_mend_what_has_failed_for_good() -> None:
    """What was so before it counts no more, nor does a creation that had begun by then."""
    bench = reloading()
    bench.fail(bench.slots[0], permanent=True)
    bench.table.reload()
    before = bench.table.irreplaceable()
    assert [bench.slots[0]] == bench.advance(0.25).create
    bench.table.reload()
    bench.fail(bench.slots[0], permanent=True)

    assert (None, None) == (before, bench.table.irreplaceable())
    assert not bench.table.hopeless
    assert [bench.slots[0]] == bench.advance(5).create


def test_who_waits_is_not_told_of_settings_that_are_gone() -> None:
    """It is served by those that a reload has brought."""
    bench = Bench(size=1)
    waiter = bench.queue()
    bench.table.reload()
    bench.fail(bench.slots[0], permanent=True)
    bench.create(bench.advance(0.25))

    assert ClaimState.GRANTED is waiter.state


def test_a_lazy_pools_reload_waits_for_no_creation() -> None:
    """That somebody's producer can't be made says nothing of those that are to go."""
    bench = Bench(size=3).warm()
    first, _ = bench.borrow(), bench.borrow()
    held = bench.borrow()
    bench.table.reload()
    bench.queue()
    bench.table.release(first)
    bench.table.retired(first.slot)
    bench.fail(first.slot, permanent=True)

    assert held.slot.index in bench.table.outdated()
    assert bench.table.irreplaceable() is None


# -- closing ---------------------------------------------------------------------------------------


def test_closing_fails_the_waiters_and_retires_what_rests() -> None:
    """What is held goes when it comes back."""
    bench = Bench().warm()
    lease = bench.borrow()
    idle, held = bench.slots[0], bench.slots[1]

    assert Effects(retire=[idle]) == bench.table.close()
    assert Retirement("close") == idle.retirement
    assert Effects() == bench.table.retired(idle)
    assert Effects(retire=[held]) == bench.table.release(lease)
    assert Effects() == bench.table.retired(held)
    assert "ee" == bench.states()


def test_closing_wakes_the_waiters_with_an_error_each() -> None:
    """In their order, and at once."""
    bench = Bench(size=1).warm()
    bench.borrow()
    first, second = bench.queue("first"), bench.queue("second")

    assert [first, second] == bench.table.close().wake
    assert isinstance(first.error, PoolClosedError)
    assert isinstance(second.error, PoolClosedError)


def test_a_closed_pool_refuses_everybody_and_starts_nothing() -> None:
    """Neither borrowers nor reloads, nor the clock, bring it back to life."""
    bench = Bench(warm=True)
    bench.table.close()

    for ask in (lambda: bench.table.take(Claim("a")), lambda: bench.table.wait(Claim("b")), bench.table.reload):
        with pytest.raises(PoolClosedError, match="orders: the pool is closed"):
            ask()
    assert [Effects()] * 3 == [bench.table.warm(), bench.table.start_one(), bench.advance(60)]
    assert 0 == bench.table.stats().available


def test_a_producer_that_was_ready_too_late_is_closed() -> None:
    """The pool closed while it was being made."""
    bench = Bench(size=1)
    effects = bench.table.start_one()
    bench.table.close()

    assert [bench.slots[0]] == bench.create(effects).retire


def test_seizing_takes_every_held_slot_from_all_its_holders() -> None:
    """Their leases end there, and their returns find nothing to do."""
    bench = Bench(share=2).warm()
    leases = [bench.borrow() for _ in range(3)]
    bench.table.close()

    assert [*bench.slots] == bench.table.seize()
    assert [None] * 3 == [bench.table.release(lease) for lease in leases]
    assert () == bench.table.holders()
    assert [] == bench.table.seize()
    assert 2 == bench.table.stats().totals.retired


def test_who_is_seized_goes_for_the_first_reason() -> None:
    """The close's own, if there was none before."""
    bench, broken = Bench().warm(), Retirement("broken")
    lease, other = bench.borrow(), bench.borrow()
    bench.table.mark_broken(lease.slot, lease.slot.connection, broken)
    bench.table.close()
    bench.table.seize()

    assert (broken, Retirement("close(force=True)")) == (lease.slot.retirement, other.slot.retirement)


# -- looking ---------------------------------------------------------------------------------------


def test_the_stats_are_one_picture_of_everything() -> None:
    """Each slot is counted once, each total once."""
    bench = Bench(size=5, share=2)
    effects = Effects(create=[*bench.slots])
    bench.table.warm()
    effects.create = effects.create[:3]
    bench.create(effects)
    bench.borrow()
    bench.table.mark_broken(bench.slots[0], bench.slots[0].connection, Retirement("broken"))
    bench.fail(bench.slots[4])

    expected = PoolStats(
        size=5,
        available=3,
        idle=1,
        in_use=1,
        creating=1,
        retiring=1,
        waiting=0,
        generation=0,
        totals=Totals(requests=1, created=3, create_errors=1, retired=1),
    )
    assert expected == bench.table.stats()


def test_a_held_slot_without_room_is_not_available() -> None:
    """One that may be shared is, until it is full."""
    alone, shared = Bench().warm(), Bench(share=2).warm()
    for bench in (alone, shared):
        bench.borrow()
    before = (alone.table.stats().available, shared.table.stats().available)
    shared.borrow()

    assert ((1, 2), 1) == (before, shared.table.stats().available)


def test_nobody_waits_to_see_the_slots_of_a_pool_that_was_inherited() -> None:
    """The thread that was inside of a decision stays with the parent, and never comes out."""
    bench, found = Bench().warm(), []

    def look() -> None:
        found.extend([bench.table.inherited(), bench.table.inhabited])

    with bench.table._lock:
        child = threading.Thread(target=look, daemon=True)
        child.start()
        child.join(5)

    assert [tuple(bench.slots), True] == found
    assert not Bench().table.inhabited


def test_the_holders_are_named_the_longest_first() -> None:
    """A thread by its name, a task by its own."""
    bench = Bench(share=2).warm()

    async def somebody() -> object:
        return asyncio.current_task()

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(loop.create_task(somebody(), name="checkout-7"))
    loop.close()
    bench.borrow(threading.Thread(name="worker-2"))
    bench.now += 2.5
    bench.borrow(task)

    assert [("thread 'worker-2'", 2500.0), ("task 'checkout-7'", 0.0)] == [
        (holder.owner, holder.held_ms) for holder in bench.table.holders()
    ]


def test_the_living_are_those_with_a_client_to_poll() -> None:
    """Neither what is being made nor what is being closed."""
    bench = Bench(size=3)
    bench.create(bench.table.start_one())
    bench.borrow()
    bench.queue()
    bench.queue()
    bench.table.creation_failed(bench.slots[2], REFUSED, permanent=False)

    assert "lcr" == bench.states()
    assert [(bench.slots[0], bench.slots[0].connection)] == bench.table.living()
    assert bench.table.inhabited


def test_release_within_another_decision() -> None:
    """The garbage collector may end an abandoned generator on a thread that is inside: it waits for the next tick."""
    bench = Bench(size=1).warm()
    lease = bench.borrow()
    waiting = bench.queue()
    with bench.table._lock:
        assert Effects() == bench.table.release(lease)
    before = waiting.state
    effects = bench.table.tick()

    assert (ClaimState.WAITING, ClaimState.GRANTED) == (before, waiting.state)
    assert [waiting] == effects.wake


def test_releases_within_another_decision_keep_their_order() -> None:
    """Who came back first is next."""
    bench = Bench(order="fifo").warm()
    first, second = bench.borrow(), bench.borrow()
    with bench.table._lock:
        bench.table.release(second)
        bench.table.release(first)
    bench.table.tick()

    assert second.slot is bench.borrow().slot


def test_release_within_another_decision_while_closing() -> None:
    """Such a return is also seen by a table that closes."""
    bench = Bench(size=1).warm()
    lease = bench.borrow()
    bench.table.close()
    with bench.table._lock:
        bench.table.release(lease)

    assert list(bench.slots) == bench.table.tick().retire


def test_stats_within_another_decision() -> None:
    """A signal handler may ask for them wherever it interrupts."""
    bench = Bench(size=1).warm()
    with bench.table._lock:
        assert 1 == bench.table.stats().idle


def test_all_that_two_decisions_demand() -> None:
    """Whoever carries out one of them carries out the other, too."""
    first, second = [
        Effects([claim], [slot], [slot], [claim], [slot])
        for claim, slot in ((Claim("a"), Slot(0)), (Claim("b"), Slot(1)))
    ]
    claims, slots = [first.wake[0], second.wake[0]], [first.create[0], second.create[0]]
    first.add(second)
    first.add(None)

    assert Effects(claims, slots, slots, claims, slots) == first


def test_a_slot_in_a_message() -> None:
    """It says which one, and where it is."""
    assert "<Slot 1 idle>" == repr(Bench().warm().slots[1])
