"""Checkouts that nobody gives back: told once, with the line that took them, and their slots are filled again."""

from __future__ import annotations

import _thread
import asyncio
import gc
import inspect
import logging
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests import internals
from tests.pools import until
from tests.scripted import PATIENCE, committed, make_pool, plain_pool, watch
from wd_di.events import CheckoutLost, ErrorOccurred, ProducerRetired, TransactionFinished

if TYPE_CHECKING:
    from collections.abc import Callable

    from wd_di.pool import ProducerPool

Keep = Callable[["ProducerPool"], "ProducerPool"] if TYPE_CHECKING else Any


def opened(kept: Keep, **options: Any) -> ProducerPool:
    """An open plain pool of one producer, but for the options."""
    pool = kept(plain_pool(**options))
    pool.open()
    return pool


def lost(events: list[Any]) -> Any:
    """The one event, as soon as it is told."""
    until(lambda: events)
    [event] = events
    return event


def test_a_dropped_frame(kept: Keep, caplog: pytest.LogCaptureFixture) -> None:
    """Who enters by hand and drops it loses the checkout: an event and a line say who, for how long, and where."""
    caplog.set_level(logging.ERROR, "wd_di")
    pool = opened(kept)
    events, retired, errors = watch(pool, CheckoutLost), watch(pool, ProducerRetired), watch(pool, ErrorOccurred)

    def forget() -> int:
        pool.producer().__enter__()
        return inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]

    line = forget()
    gc.collect()
    event = lost(events)

    assert (0, f"{__file__}:{line}", "thread 'MainThread'") == (event.index, event.place, event.owner)
    assert 0 <= event.held_ms < PATIENCE * 1000
    assert ["checkout lost"] == [event.reason for event in retired]
    assert [] == errors
    [message] = caplog.messages
    assert f"taken by thread 'MainThread' 0.0 s ago at {__file__}:{line}, was never given back" in message


def test_its_slot_is_filled_again(kept: Keep) -> None:
    """Whoever waits for a producer gets another one than that which somebody may still be using."""
    pool = opened(kept)
    first = pool.producer().__enter__()
    client = internals.client(first)
    del first
    with pool.producer(timeout_ms=int(PATIENCE * 1000)) as second:
        assert internals.client(second) is not client


def test_a_thread_that_ends_with_it(kept: Keep) -> None:
    """A thread that dies inside of its block loses what it held; its name is told."""
    pool = opened(kept)
    events = watch(pool, CheckoutLost)
    scopes: list[Any] = []

    def die() -> None:
        scopes.append(pool.producer())
        scopes[0].__enter__()

    thread = threading.Thread(target=die, name="worker-7")
    thread.start()
    thread.join(PATIENCE)
    scopes.clear()

    assert "thread 'worker-7'" == lost(events).owner


def test_a_transaction(kept: Keep) -> None:
    """It is aborted, and its slot is filled again; once."""
    pool = kept(make_pool())
    pool.open()
    events, finished = watch(pool, CheckoutLost), watch(pool, TransactionFinished)

    def forget() -> None:
        pool.transaction().__enter__().produce_async("orders", "lost")

    forget()
    gc.collect()
    with pool.transaction(timeout_ms=int(PATIENCE * 1000)) as tx:
        tx.produce_async("orders", "next")

    assert lost(events).place.startswith(__file__)
    assert ["aborted", "committed"] == [event.outcome for event in finished]
    assert ["next"] == committed(pool)


def test_a_task(kept: Keep) -> None:
    """A task that is gone without leaving its block is told, too."""
    pool = opened(kept)
    events = watch(pool, CheckoutLost)

    async def forget() -> None:
        await pool.producer().__aenter__()

    asyncio.run(forget())
    gc.collect()

    assert lost(events).place.startswith(__file__)


def test_what_is_given_back_is_not_lost(kept: Keep) -> None:
    """Neither leaving the block nor an exception in it is told."""
    pool = opened(kept)
    events = watch(pool, CheckoutLost)
    for error in (None, ZeroDivisionError):
        with pytest.raises(ZeroDivisionError) if error else pool.producer():
            if error:
                with pool.producer():
                    raise error
    gc.collect()
    with pool.producer():
        pass

    assert [] == events
    assert 1 == pool.stats().totals.created


def test_the_place_of_what_a_stack_holds(kept: Keep) -> None:
    """It is that of the program, not of contextlib."""
    pool = opened(kept)
    with ExitStack() as stack:
        stack.enter_context(pool.producer())
        report = pool.close(timeout_ms=0)

    assert report.held[0].place is not None
    assert report.held[0].place.startswith(f"{__file__}:")


def test_a_holder_is_shown_with_its_place(kept: Keep) -> None:
    """The report of a close says where what is still held was taken, without leak_after_ms."""
    pool = opened(kept)
    with pool.producer():
        report = pool.close(timeout_ms=0)

    assert report.held[0].place is not None
    assert report.held[0].place.startswith(f"{__file__}:")


def test_a_thread_that_only_enters(kept: Keep) -> None:
    """Where no line of the program took a producer, it is lent all the same, and no place is told."""
    pool = opened(kept)
    events = watch(pool, CheckoutLost)
    _thread.start_new_thread(pool.producer().__enter__, ())  # without a frame of Python around it

    assert lost(events).place is None
