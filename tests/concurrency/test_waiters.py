from __future__ import annotations

import threading

from wd_di._concurrency.waiters import ThreadWaiter

PATIENCE = 10.0
"""Seconds after which a test gives up; what it waits for comes in milliseconds."""


def test_a_wake_up_before_the_wait_is_not_lost() -> None:
    """The lock keeps it."""
    waiter = ThreadWaiter()
    waiter.wake()

    assert waiter.wait(0)


def test_a_waiter_that_nobody_wakes_gives_up() -> None:
    """At its deadline, also when that is over already."""
    assert not ThreadWaiter().wait(0)
    assert not ThreadWaiter().wait(-1)


def test_a_wake_up_ends_the_wait_of_another_thread() -> None:
    """Long before its deadline."""
    waiter, woken = ThreadWaiter(), threading.Event()
    thread = threading.Thread(target=lambda: waiter.wait(PATIENCE) and woken.set())
    thread.start()
    waiter.wake()

    assert woken.wait(PATIENCE)
    thread.join(PATIENCE)


def test_a_wait_may_be_longer_than_the_platform_can_count() -> None:
    """A deadline of some centuries is none, and no OverflowError."""
    waiter = ThreadWaiter()
    waiter.wake()

    assert waiter.wait(1e15)
